//! `--spill`: what was in a queue is in a file before the queue goes.

use std::process::Command;

use jiff::Timestamp;
use px::message::Envelope;
use px::spool::spill::{Message, Source, SpillFile};
use serde_json::json;

use crate::support::wait_until;
use crate::world::{STATISTICS, World, of, with_outcome};

#[test]
fn queues_are_spilled_and_those_that_go_with_their_reader_stay() {
    let world = World::new("reaper-spill", "max_messages = 3\ngrace = \"1s\"\nidle_for = \"1s\"");
    for queue in ["full", "held", "a b/é", "empty"] {
        world.make(queue, json!({}));
    }
    world.make_as("auto", &json!({"durable": true, "auto_delete": true}));
    for queue in ["full", "held", "a b/é", "auto"] {
        world.fill(queue, [10; 4]);
    }
    // It has cancelled, and has a message in hand all the same.
    let consumer = world.consumer("held");
    let held = consumer.hold_and_cancel();
    world.wait_figures([
        ("full", 4, 0),
        ("held", 4, 0),
        ("a b/é", 4, 0),
        ("auto", 4, 0),
        ("empty", 0, 0),
    ]);
    world.reap(0, &["--dry-run"]);
    let missing = world.site.px_ends(1, &["reap", "--spill", "/no/such/directory"]);
    assert!(
        missing
            .err
            .contains("nothing is deleted: /no/such/directory is no directory"),
        "{missing:?}"
    );
    let directory = world.site.path("spilled");
    std::fs::create_dir(&directory).expect("a directory");
    let report = world.reap(0, &["--spill", directory.to_str().expect("UTF-8")]);
    assert_eq!(with_outcome(&report, "deleted"), ["a b/é", "full"]);
    let file = of(&report, "full")["file"].as_str().expect("a file");
    let text = Command::new("zcat").arg(file).output().expect("zcat");
    assert_eq!(
        String::from_utf8(text.stdout).expect("UTF-8").lines().count(),
        6,
        "a header, four messages and an end"
    );
    assert_eq!(
        (&of(&report, "full")["spilled"], world.depth("full")),
        (&json!(4), None)
    );
    let reason = of(&report, "held")["reason"].as_str().expect("a reason");
    assert!(reason.ends_with("somebody has messages of it in hand"), "{reason}");
    assert_eq!(world.depth("auto"), Some(4), "it would go with its reader");
    let reason = of(&report, "auto")["reason"].as_str().expect("a reason");
    assert!(reason.contains("auto_delete"), "{reason}");
    drop(held);
}

/// What is given back could be dropped by its delivery limit: nothing of it is touched.
#[test]
fn a_quorum_queue_is_left_alone_when_its_grace_is_over_and_that_is_said() {
    let world = World::new("reaper-spill-quorum", "max_messages = 3\ngrace = \"1s\"");
    world.make("quorum", json!({"x-queue-type": "quorum", "x-delivery-limit": 0}));
    world.fill("quorum", [10; 4]);
    world.wait_figures([("quorum", 4, 0)]);
    let directory = world.site.path("spilled");
    let spill = ["--spill", directory.to_str().expect("UTF-8")];
    std::fs::create_dir(&directory).expect("a directory");
    wait_until(STATISTICS, "its grace is over", || {
        let report = world.reap(0, &spill);
        assert_eq!(with_outcome(&report, "kept"), ["quorum"]);
        let reason = of(&report, "quorum")["reason"].as_str().expect("a reason");
        reason.ends_with("may drop what is given back, and dead-lettered messages cannot be taken out")
    });
    let report = world.reap(0, &[&spill[..], &["--dry-run"]].concat());
    assert_eq!(with_outcome(&report, "kept"), ["quorum"]);
    assert_eq!(world.depth("quorum"), Some(4));
    assert_eq!(std::fs::read_dir(&directory).expect("the directory").count(), 0);
}

#[test]
fn what_an_interrupted_run_has_left_is_named() {
    let world = World::new("reaper-spill-killed", "max_messages = 3\ngrace = \"1s\"");
    world.make("q", json!({}));
    world.fill("q", [10; 4]);
    world.wait_figures([("q", 4, 0)]);
    let directory = world.site.path("spilled");
    std::fs::create_dir(&directory).expect("a directory");
    let source = Source {
        broker: "main".into(),
        vhost: world.broker.vhost.clone(),
        queue: "q".into(),
        arguments: serde_json::Map::new(),
    };
    let mut killed = SpillFile::create(&directory, &source, Timestamp::UNIX_EPOCH).expect("a file");
    let message = Message {
        exchange: None,
        redelivered: false,
        envelope: Envelope::default(),
    };
    killed.append(&[message]).expect("room");
    let report = world.reap(0, &["--spill", directory.to_str().expect("UTF-8")]);
    assert_eq!(with_outcome(&report, "deleted"), ["q"]);
    assert_eq!(of(&report, "q")["unfinished"], json!([killed.path()]));
}
