//! The broker's patience with unsettled deliveries: a fetch that outlasts it is taken over in time.

use std::time::Duration;

use crate::support::{Answer, Feed, ProductServer, RabbitServer, SOON, TestBroker, TestSite, rabbitmq_version, v02};
use crate::{UNIT, World};

/// A fetch goes on while the broker's consumer_timeout passes: the delivery has been taken over, nothing is delivered
/// twice, and the connection stays. A delivery that the test holds beside it shows that the time-out works.
fn outlast(timeout_ms: u64, tick_ms: u64, adopt_after: &str) {
    let node = RabbitServer::start_with(
        &format!("consumer_timeout = {timeout_ms}"),
        &format!("[{{rabbit, [{{channel_tick_interval, {tick_ms}}}]}}]."),
    );
    let broker = TestBroker::on(&node, "patience");
    let feed = Feed::new(&broker.config());
    // From 4.3 on only quorum queues have that patience.
    let quorum = rabbitmq_version() >= (4, 3);
    feed.queue_of("pull", &["v02.post.#"], quorum);
    feed.queue_of("held", &["v02.post.#"], quorum);
    let server = ProductServer::start();
    let site = TestSite::new(&broker);
    let kind = if quorum { "quorum" } else { "classic" };
    let options = format!("adopt_after = \"{adopt_after}\"\nread_timeout = \"10m\"\nqueue_type = \"{kind}\"\n");
    site.puller(UNIT, &options);
    let _unit = site.run_ready(UNIT);
    let bytes = vec![b'x'; 400_000];
    server.answer("a/slow", Answer::Held(bytes.clone()));
    feed.announce(v02(&server.url(), "a/slow", &bytes));
    // Three times the time-out: it would have struck, and struck again.
    for _ in 0..3 {
        let patience = Duration::from_millis(2 * timeout_ms + 2 * tick_ms) + SOON;
        let why = feed.hold_one("held", patience);
        assert!(why.contains("consumer_timeout"), "{why}");
    }
    assert_eq!(site.count(UNIT, "adopted"), 1, "{}", site.logs());
    assert_eq!(feed.depth("pull"), Some(0));
    server.release();
    site.wait_that("it has arrived", || site.arrived("slow").as_deref() == Some(&bytes[..]));
    site.wait_count(UNIT, "fetched", 1);
    assert_eq!(site.count(UNIT, "received"), 1, "delivered once");
    assert_eq!(site.count(UNIT, "reconnects"), 0);
    assert_eq!(server.hits("a/slow").len(), 1);
}

#[test]
fn a_fetch_longer_than_the_consumer_timeout_is_taken_over() {
    outlast(3000, 1000, "1s");
}

/// The same with a minute, as an operator might set it. Three minutes.
#[test]
fn a_fetch_of_three_minutes_outlasts_a_consumer_timeout_of_one() {
    outlast(60_000, 1000, "20s");
}

#[test]
fn what_was_taken_over_is_resumed_after_a_kill() {
    let world = World::new("adopted", "adopt_after = \"300ms\"\nread_timeout = \"10m\"\n");
    let mut unit = world.site.run_ready(UNIT);
    let bytes = vec![b'x'; 400_000];
    world.server.answer("a/slow", Answer::Held(bytes.clone()));
    world.announce_only("a/slow", &bytes);
    world.site.wait_count(UNIT, "adopted", 1);
    world.assert_broker_empty();
    unit.kill();
    world.server.release();
    let _unit = world.site.run_ready(UNIT);
    world.wait_arrived("slow", &bytes);
    world.site.wait("rx/pull", "has nothing left in its spool", |status| {
        status["gauges"]["parked_here"] == 0
    });
}
