//! What is never taken: the queues of this host's own units, and names that the management API cannot be asked for.

use serde_json::json;

use crate::world::{World, of, with_outcome};

const LIMITS: &str = "max_messages = 3\nmax_bytes = \"1GB\"\nidle_for = \"1ms\"\ngrace = \"1ms\"";
const UNIT: &str = "broker = \"main\"\nqueue = \"own\"\nbind = [\"v00.#\"]\nvip = \"192.0.2.1\"\n";

#[test]
fn the_queue_of_a_unit_that_stands_by_or_is_stopped_stays() {
    let world = World::new("reaper-own", LIMITS);
    world.site.unit("dispatch/urp", UNIT);
    world
        .site
        .unit("rx/q", "type = \"pull\"\nbroker = \"main\"\nqueue = \"quorum own\"\n");
    for queue in ["own", "other"] {
        world.make(queue, json!({}));
    }
    world.make("quorum own", json!({"x-queue-type": "quorum"}));
    world.make_durable("..");
    for queue in ["own", "other", "quorum own", ".."] {
        world.fill(queue, [10; 4]);
    }
    world.wait_figures([("own", 4, 0), ("other", 4, 0), ("quorum own", 4, 0), ("..", 4, 0)]);
    world.reap(0, &["--dry-run"]);

    // A file that may name any queue: whose they are is not known.
    let file = world.site.path("etc/rx/broken.toml");
    std::fs::write(&file, "type = \"pull\"\nqueue = \"oth").expect("a unit");
    for arguments in [&["reap"][..], &["reap", "--dry-run", "--json"], &["reap", "--quiet"]] {
        let said = world.site.px_ends(1, arguments);
        assert_eq!(said.out, "");
        assert!(said.err.contains("rx/broken.toml:2: not TOML"), "{said:?}");
        assert!(
            said.err.contains("px: nothing is deleted: which queues are those"),
            "{said:?}"
        );
    }
    std::fs::remove_file(&file).expect("no unit");

    let report = world.reap(0, &[]);
    assert_eq!(with_outcome(&report, "deleted"), ["other"]);
    for (queue, reason) in [
        ("own", "the queue of dispatch/urp; 4 messages, more than 3"),
        ("quorum own", "the queue of rx/q; 4 messages, more than 3"),
        (
            "..",
            "4 messages, more than 3; the management API has no address for this name",
        ),
    ] {
        let found = of(&report, queue);
        assert_eq!(found["outcome"], "kept");
        assert!(
            found["reason"].as_str().expect("a reason").starts_with(reason),
            "{found:#}"
        );
        assert_eq!(world.depth(queue), Some(4));
    }
    let said = world.site.px_ends(0, &["reap"]);
    assert!(said.out.contains("kept \"own\" in "), "{said:?}");
    let quiet = world.site.px_ends(0, &["reap", "--quiet"]);
    assert_eq!((quiet.out.as_str(), quiet.err.as_str()), ("", ""));
}
