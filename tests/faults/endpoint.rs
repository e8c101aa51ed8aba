//! Endpoint faults: the server is unwell, so announcements wait without being counted against, and nothing is lost.

use std::time::Duration;

use crate::support::{Answer, ProductServer};
use crate::{UNIT, World};

#[test]
fn a_429_is_asked_again_when_its_retry_after_is_over() {
    let world = World::new("busy", "");
    let _unit = world.site.run_ready(UNIT);
    let after = |seconds: &str| Answer::Status(429, vec![("Retry-After", seconds.to_owned())]);
    world.server.answer("a/soon", after("3"));
    world.announce_only("a/soon", b"soon");
    world.site.wait_count(UNIT, "parked", 1);
    // Another product of a server that wants to be left alone is not asked for.
    world.announce("a/other", b"other");
    world.site.wait_count(UNIT, "parked", 2);
    assert_eq!(world.server.hits("a/other").len(), 0);
    world.server.serve("a/soon", b"soon");
    world.wait_arrived("soon", b"soon");
    world.wait_arrived("other", b"other");
    let hits = world.server.hits("a/soon");
    assert!(hits[1] - hits[0] >= Duration::from_secs(3), "{hits:?}");

    // A longer wait than the shortest rung goes onto a longer one.
    let later = ProductServer::start();
    later.answer("a/later", after("30"));
    world
        .feed
        .announce(crate::support::v02(&later.url(), "a/later", b"later"));
    world.site.wait_that("it waits on the rung of a minute", || {
        world.feed.depth("pull.retry.1m") == Some(1)
    });
    assert_eq!(world.site.count(UNIT, "failed"), 0);
    assert_eq!(world.site.state(UNIT), "running");
}

#[test]
fn a_503_is_waited_for_without_counting() {
    let world = World::new("unwell", "");
    let _unit = world.site.run_ready(UNIT);
    world.server.answer("a/file", Answer::status(503));
    world.announce_only("a/file", b"file");
    world.site.wait_count(UNIT, "parked", 2);
    world.server.serve("a/file", b"file");
    world.wait_arrived("file", b"file");
    assert!(world.site.failed(UNIT).is_empty());
    world.assert_broker_empty();
}

#[test]
fn an_unwell_server_is_given_up_when_its_time_is_over() {
    let world = World::new("giveup", "give_up_after = \"4s\"\n");
    let _unit = world.site.run_ready(UNIT);
    world.server.answer("a/file", Answer::status(500));
    world.announce_only("a/file", b"file");
    world.site.wait_count(UNIT, "failed", 1);
    let (reason, fault, attempts) = world.only_failure();
    assert!(reason.contains("500"), "{reason}");
    assert_eq!((fault.as_str(), attempts), ("endpoint", 0));
    assert_eq!(world.site.count(UNIT, "parked"), 1);
    world.assert_broker_empty();
}

#[test]
fn a_refused_connection_is_waited_for() {
    let mut world = World::new("refused", "");
    world.server.close();
    let _unit = world.site.run_ready(UNIT);
    world.announce("a/file", b"file");
    world.site.wait_count(UNIT, "parked", 1);
    assert!(world.site.said(UNIT).contains("no connection"), "{}", world.site.logs());
    world.server.open();
    world.wait_arrived("file", b"file");
    assert_eq!(world.site.count(UNIT, "failed"), 0);
    world.assert_broker_empty();
}

#[test]
fn silence_in_the_middle_ends_at_the_read_time_out() {
    let world = World::new("silent", "read_timeout = \"1s\"\n");
    let _unit = world.site.run_ready(UNIT);
    let bytes = vec![b'x'; 300_000];
    world.server.answer("a/file", Answer::Held(bytes.clone()));
    world.announce_only("a/file", &bytes);
    world.site.wait_count(UNIT, "parked", 1);
    assert!(
        world.site.said(UNIT).contains("no answer in time"),
        "{}",
        world.site.logs()
    );
    // Neither half a product nor its temporary name stays.
    world
        .site
        .wait_that("the half is removed", || world.site.names().is_empty());
    world.server.serve("a/file", &bytes);
    world.wait_arrived("file", &bytes);
    assert_eq!(world.site.count(UNIT, "failed"), 0);
    world.assert_broker_empty();
}

#[test]
fn an_answer_that_breaks_off_is_waited_for() {
    let world = World::new("broken", "");
    let _unit = world.site.run_ready(UNIT);
    world.server.answer("a/file", Answer::Cut(b"0123456789".to_vec()));
    world.announce_only("a/file", b"0123456789");
    world.site.wait_count(UNIT, "parked", 1);
    assert_eq!(world.site.names(), [""; 0]);
    world.server.serve("a/file", b"0123456789");
    world.wait_arrived("file", b"0123456789");
    world.assert_broker_empty();
}

#[test]
fn a_403_of_a_url_prefix_rests_that_prefix_only() {
    let world = World::new("forbidden", "");
    let _unit = world.site.run_ready(UNIT);
    world.server.answer("private/file", Answer::status(403));
    world.announce_only("private/file", b"file");
    world.site.wait_count(UNIT, "parked", 1);
    world.announce("public/other", b"other");
    world.wait_arrived("other", b"other");
    world.server.serve("private/file", b"file");
    world.wait_arrived("file", b"file");
    assert_eq!(world.site.count(UNIT, "failed"), 0);
    world.assert_broker_empty();
}
