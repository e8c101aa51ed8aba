//! What one run leaves for the next: quorum queues and idle ones go only after a time without consumers.

use serde_json::json;

use crate::support::wait_until;
use crate::world::{STATISTICS, World, of, with_outcome};

fn would_be_deleted(world: &World) -> Vec<String> {
    with_outcome(&world.reap(0, &["--dry-run"]), "would be deleted")
}

#[test]
fn a_consumer_between_two_sightings_makes_the_next_the_first() {
    let world = World::new("reaper-grace", "max_messages = 3\nmax_bytes = \"1GB\"\ngrace = \"2s\"");
    for queue in ["visited", "left"] {
        world.make(queue, json!({"x-queue-type": "quorum"}));
        world.fill(queue, [10; 4]);
    }
    world.wait_figures([("visited", 4, 0), ("left", 4, 0)]);
    let report = world.reap(0, &[]);
    let reason = of(&report, "left")["reason"].as_str().expect("a reason");
    assert!(
        reason.starts_with("4 messages, more than 3; a quorum queue, not before "),
        "{reason}"
    );
    let consumer = world.consumer("visited");
    world.wait_figures([("visited", 4, 1)]);
    wait_until(STATISTICS, "the grace is over", || would_be_deleted(&world) == ["left"]);
    // It sees the consumer, and deletes the other one.
    assert_eq!(with_outcome(&world.reap(0, &[]), "deleted"), ["left"]);
    consumer.leave();
    world.wait_figures([("visited", 4, 0)]);
    let report = world.reap(0, &[]);
    assert_eq!(of(&report, "visited")["outcome"], "kept");
    wait_until(STATISTICS, "the new grace is over", || {
        would_be_deleted(&world) == ["visited"]
    });
    let report = world.reap(0, &[]);
    assert_eq!(with_outcome(&report, "deleted"), ["visited"]);
    assert_eq!(of(&report, "visited")["guarded"], false);
    // One that is made again under its name is seen for the first time.
    world.make("visited", json!({"x-queue-type": "quorum"}));
    world.fill("visited", [10; 4]);
    world.wait_figures([("visited", 4, 0)]);
    assert_eq!(with_outcome(&world.reap(0, &[]), "deleted"), [""; 0]);
}

#[test]
fn an_idle_queue_goes_though_it_is_empty_or_fed() {
    let world = World::new(
        "reaper-idle",
        "idle_for = \"2s\"\nrules = [{ queue = \"^not\", idle_for = \"7d\" }]",
    );
    for queue in ["empty", "fed", "not yet", "used"] {
        world.make(queue, json!({}));
    }
    let _consumer = world.consumer("used");
    world.wait_figures([("empty", 0, 0), ("used", 0, 1)]);
    assert_eq!(with_outcome(&world.reap(0, &[]), "deleted"), [""; 0]);
    wait_until(STATISTICS, "they are idle for long enough", || {
        world.fill("fed", [10]);
        would_be_deleted(&world) == ["empty", "fed"]
    });
    let report = world.reap(0, &[]);
    assert_eq!(with_outcome(&report, "deleted"), ["empty", "fed"]);
    let reason = of(&report, "empty")["reason"].as_str().expect("a reason");
    assert!(
        reason.starts_with("no consumer since 20") && reason.ends_with(", for more than 2s"),
        "{reason}"
    );
}
