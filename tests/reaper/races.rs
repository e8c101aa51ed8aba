//! What happens while the reaper is at work: consumers that come, a kill, a second reaper, requests that fail.

use serde_json::json;

use crate::proxy::{Fate, Proxy};
use crate::support::{TestBroker, wait_until};
use crate::world::{STATISTICS, World, ended, of, with_outcome};

const LIMITS: &str = "max_messages = 3\nmax_bytes = \"1GB\"\ngrace = \"1s\"";

/// A world whose requests this judge sees.
fn world(name: &str, judge: impl Fn(&str) -> Fate + Send + Sync + 'static) -> (World, Proxy) {
    let broker = TestBroker::new(name);
    let proxy = Proxy::start(broker.management().0, judge);
    (World::asking(broker, proxy.url(), LIMITS), proxy)
}

fn hold(beginning: &'static str, name: &'static str) -> impl Fn(&str) -> Fate + Send + Sync {
    move |request: &str| match request.starts_with(beginning) && request.contains(name) {
        true => Fate::Hold,
        false => Fate::Pass,
    }
}

/// Four messages each, and up-to-date statistics.
fn full(world: &World, queues: &[&str], arguments: &serde_json::Value) {
    for queue in queues {
        world.make(queue, arguments.clone());
        world.fill(queue, [10; 4]);
    }
    world.wait_figures(queues.iter().map(|queue| (*queue, 4, 0)));
}

/// The deletion is on its way, and no look of the reaper's can see it any more: only the broker can.
#[test]
fn a_consumer_that_comes_before_the_deletion_keeps_its_classic_queue() {
    let (world, proxy) = world("reaper-race", hold("DELETE /api/queues/", "/q2"));
    full(&world, &["q1", "q2", "q3"], &json!({}));
    let reaper = world.begin(&["--json"]);
    let held = proxy.wait_held();
    assert!(held.contains("if-unused=true"), "{held}");
    let consumer = world.consumer("q2");
    proxy.release();
    let said = ended(reaper);
    assert_eq!(said.code, 0, "{said:?}");
    let report = serde_json::from_str(&said.out).expect("JSON");
    assert_eq!(with_outcome(&report, "deleted"), ["q1", "q3"]);
    assert_eq!(
        of(&report, "q2")["reason"],
        "meanwhile it has a consumer, says the broker"
    );
    consumer.leave();
    wait_until(STATISTICS, "all messages are back", || world.depth("q2") == Some(4));
}

/// Where the broker guards nothing, the look just before must see it, however old the statistics are.
#[test]
fn a_consumer_that_comes_before_the_last_look_keeps_its_quorum_queue() {
    let (world, proxy) = world("reaper-quorum", hold("GET /api/queues/", "/q2?"));
    full(&world, &["q1", "q2"], &json!({"x-queue-type": "quorum"}));
    assert_eq!(with_outcome(&world.reap(0, &[]), "deleted"), [""; 0]);
    let file = world.site.path("state/reaper/sightings.json");
    let age = || std::fs::metadata(&file).ok()?.modified().ok()?.elapsed().ok();
    wait_until(STATISTICS, "the grace is over", || {
        age().is_some_and(|age| age.as_secs() >= 2)
    });
    let reaper = world.begin(&["--json"]);
    let held = proxy.wait_held();
    assert!(held.contains("/q2"), "{held}");
    let consumer = world.consumer("q2");
    proxy.release();
    let said = ended(reaper);
    assert_eq!(said.code, 0, "{said:?}");
    let report = serde_json::from_str(&said.out).expect("JSON");
    assert_eq!(with_outcome(&report, "deleted"), ["q1"]);
    assert_eq!(of(&report, "q1")["guarded"], false);
    assert_eq!(of(&report, "q2")["reason"], "meanwhile it has a consumer");
    consumer.leave();
    wait_until(STATISTICS, "all messages are back", || world.depth("q2") == Some(4));
}

#[test]
fn a_reaper_that_is_killed_leaves_the_rest_to_the_next() {
    let (world, proxy) = world("reaper-kill", hold("DELETE /api/queues/", "/q3"));
    full(&world, &["q1", "q2", "q3", "q4"], &json!({}));
    world.make("small", json!({}));
    let mut reaper = world.begin(&[]);
    proxy.wait_held();
    // Meanwhile another one is refused, and one that only looks is not.
    let second = world.site.px_ends(1, &["reap"]);
    assert_eq!(
        second.err,
        format!("px: another px reap runs with pid {}: nothing is done\n", reaper.id())
    );
    assert_eq!(second.out, "");
    assert_eq!(
        with_outcome(&world.reap(0, &["--dry-run"]), "would be deleted"),
        ["q3", "q4"]
    );
    reaper.kill().expect("kill");
    let said = ended(reaper);
    assert!(
        said.out.contains("deleted \"q1\"") && said.out.contains("deleted \"q2\""),
        "{said:?}"
    );
    proxy.release();
    let left = || world.listed().into_keys().collect::<Vec<String>>();
    // The held request may still have been forwarded: by whom it is deleted does not matter, only that it is.
    assert!(left().len() <= 3, "{:?}", left());
    world.reap(0, &[]);
    assert_eq!(left(), ["small"]);
}

#[test]
fn one_queue_that_fails_and_one_virtual_host_that_is_missing_stop_no_other() {
    let broker = TestBroker::new("reaper-fails");
    let options = format!("vhosts = [\"no such virtual host\", {:?}]\n{LIMITS}", broker.vhost);
    let judge = |request: &str| match request.starts_with("DELETE") && request.contains("/q1") {
        true => Fate::Refuse(500),
        false => Fate::Pass,
    };
    let proxy = Proxy::start(broker.management().0, judge);
    let world = World::asking(broker, proxy.url(), &options);
    full(&world, &["q1", "q2"], &json!({}));
    let report = world.reap(1, &[]);
    assert_eq!(with_outcome(&report, "deleted"), ["q2"]);
    assert_eq!(with_outcome(&report, "failed"), ["q1"]);
    let problem = report["problems"][0].as_str().expect("a problem");
    assert!(
        problem.starts_with("virtual host \"no such virtual host\": "),
        "{problem}"
    );
    let said = world.site.px_ends(1, &["reap", "--quiet"]);
    assert_eq!(said.out, "", "nothing more was deleted");
    assert!(said.err.contains("px: cannot delete \"q1\" in "), "{said:?}");
}
