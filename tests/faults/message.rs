//! Message faults: the product itself is at fault, so attempts count, and then it is kept aside.

use crate::support::Answer;
use crate::{UNIT, World};

/// Three attempts within a minute, then the failed store; the worker goes on.
fn gone(name: &str, status: u16) {
    let world = World::new(name, "");
    let _unit = world.site.run_ready(UNIT);
    world.server.answer("a/gone", Answer::status(status));
    world.announce_only("a/gone", b"gone");
    world.site.wait_count(UNIT, "parked", 1);
    world.announce("a/here", b"here");
    world.wait_arrived("here", b"here");
    world.site.wait_count(UNIT, "failed", 1);
    let (reason, fault, attempts) = world.only_failure();
    assert!(
        reason.contains(&status.to_string()) && reason.contains("a/gone"),
        "{reason}"
    );
    assert_eq!((fault.as_str(), attempts), ("message", 3));
    let hits = world.server.hits("a/gone");
    assert_eq!(hits.len(), 3);
    assert!((hits[2] - hits[0]).as_secs() < 60);
    assert_eq!(world.site.count(UNIT, "parked"), 2);
    assert_eq!(world.site.count(UNIT, "fetched"), 1);
    assert_eq!(world.site.state(UNIT), "running");
    world.assert_broker_empty();
}

#[test]
fn a_404_is_tried_three_times_and_kept_aside() {
    gone("gone404", 404);
}

#[test]
fn a_410_is_tried_three_times_and_kept_aside() {
    gone("gone410", 410);
}

#[test]
fn a_404_that_passes_is_fetched_at_the_next_attempt() {
    let world = World::new("late", "");
    let _unit = world.site.run_ready(UNIT);
    world.announce_only("a/late", b"late");
    world.site.wait_count(UNIT, "parked", 1);
    world.server.serve("a/late", b"late");
    world.wait_arrived("late", b"late");
    world.site.wait_count(UNIT, "retried", 1);
    assert!(world.site.failed(UNIT).is_empty());
    world.assert_broker_empty();
}

#[test]
fn wrong_bytes_are_fetched_once_more_and_quarantined() {
    let world = World::new("wrong", "");
    let _unit = world.site.run_ready(UNIT);
    world.server.serve("a/wrong", b"other bytes");
    world.announce_only("a/wrong", b"those bytes");
    world.site.wait_count(UNIT, "quarantined", 1);
    world.site.wait_count(UNIT, "parked", 1);
    assert_eq!(world.server.hits("a/wrong").len(), 2);
    assert_eq!(
        world.site.names(),
        [""; 0],
        "nothing wrong may stand in the destination"
    );
    let kept = std::fs::read_dir(world.site.path("state/rx_pull/quarantine")).expect("quarantine");
    assert!(kept.count() > 0);
    // The next attempt finds the right ones.
    world.server.serve("a/wrong", b"those bytes");
    world.wait_arrived("wrong", b"those bytes");
    world.site.wait_count(UNIT, "fetched", 1);
    world.assert_broker_empty();
}
