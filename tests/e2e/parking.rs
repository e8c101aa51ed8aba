//! Parking: rungs on the broker, any worker takes the next attempt; where rungs cannot be, the unit's own spool.

use px::message::Envelope;
use serde_json::Value;

use crate::support::{Answer, Feed, ProductServer, TestBroker, TestSite, v02};

const UNIT: &str = "rx/pull";
const ROOM: [(&str, u64); 3] = [("5s", 5_000), ("1m", 60_000), ("10m", 600_000)];

struct World {
    broker: TestBroker,
    feed: Feed,
    server: ProductServer,
    site: TestSite,
}

fn world(name: &str) -> World {
    let broker = TestBroker::new(name);
    let feed = Feed::new(&broker.config());
    feed.queue("pull", &["v02.post.#"]);
    let site = TestSite::new(&broker);
    site.puller(UNIT, "");
    World {
        server: ProductServer::start(),
        feed,
        site,
        broker,
    }
}

impl World {
    fn announcement(&self, path: &str) -> Envelope {
        v02(&self.server.url(), path, path.as_bytes())
    }

    fn look(&self, path: &str) -> Value {
        self.broker.api("GET", path, None).json()
    }
}

#[test]
fn the_rungs_stand_as_they_should() {
    let world = world("rungs");
    let _unit = world.site.run_ready(UNIT);
    let vhost = &world.broker.vhost;
    for (name, ttl_ms) in ROOM {
        let rung = format!("pull.retry.{name}");
        let queue = world.look(&format!("/api/queues/{vhost}/{rung}"));
        let arguments = &queue["arguments"];
        assert_eq!(arguments["x-message-ttl"], ttl_ms, "{queue:#}");
        assert_eq!(arguments["x-dead-letter-exchange"], "pull.again", "{queue:#}");
        assert!(arguments.get("x-dead-letter-routing-key").is_none(), "{queue:#}");
        assert_eq!(arguments["x-px-role"], "retry", "{queue:#}");
        assert_eq!(queue["durable"], true, "{queue:#}");
        let exchange = world.look(&format!("/api/exchanges/{vhost}/{rung}"));
        assert_eq!(
            (&exchange["type"], &exchange["durable"]),
            (&"fanout".into(), &true.into())
        );
        let bindings = world.look(&format!("/api/bindings/{vhost}/e/{rung}/q/{rung}"));
        assert_eq!(bindings.as_array().map(Vec::len), Some(1), "{bindings:#}");
    }
    let again = world.look(&format!("/api/exchanges/{vhost}/pull.again"));
    assert_eq!(again["type"], "fanout", "{again:#}");
    let bindings = world.look(&format!("/api/bindings/{vhost}/e/pull.again/q/pull"));
    assert_eq!(bindings.as_array().map(Vec::len), Some(1), "{bindings:#}");
}

/// One worker makes the first attempt and ends; another, elsewhere, makes the second and the third.
#[test]
fn attempts_travel_and_any_worker_takes_the_next() {
    let world = world("travel");
    let mut announced = world.announcement("a/gone");
    announced.key = "v02.post.some.key-of.its-own".into();
    announced.headers.insert("own".into(), "header".into());
    let mut first = world.site.run_ready(UNIT);
    world.feed.announce(announced.clone());
    world.site.wait_count(UNIT, "parked", 1);
    world
        .site
        .wait_that("it stands on the rung", || world.feed.depth("pull.retry.5s") == Some(1));
    // Killed between the confirm and the ack it would be there twice.
    first.terminate();
    let other = TestSite::new(&world.broker);
    other.puller(UNIT, "");
    let _second = other.run_ready(UNIT);
    other.wait_count(UNIT, "failed", 1);
    let failed = other.failed(UNIT);
    assert_eq!(failed[0]["attempts"], 3, "{failed:#?}");
    assert_eq!(failed[0]["key"], announced.key);
    assert_eq!(other.count(UNIT, "received"), 2);
    let id = failed[0]["id"].to_string();
    let shown = other.px_ends(0, &["failed", "show", UNIT, &id, "--json"]);
    let shown: Value = serde_json::from_str(&shown.out).expect("JSON");
    // As it was announced: neither our marks nor the broker's.
    let headers: Vec<&String> = shown["headers"].as_object().expect("headers").keys().collect();
    assert_eq!(headers, ["own", "parts", "sum"], "{shown:#}");
    assert!(world.site.failed(UNIT).is_empty());
}

/// What comes back from a rung is, to everybody else on the exchange, not announced again.
#[test]
fn a_parked_announcement_comes_back_to_its_own_queue_only() {
    let world = world("private");
    world.feed.queue("others", &["#"]);
    let _unit = world.site.run_ready(UNIT);
    world.feed.announce(world.announcement("a/late"));
    world.site.wait_count(UNIT, "parked", 1);
    world.server.serve("a/late", b"a/late");
    world.site.wait_count(UNIT, "fetched", 1);
    assert_eq!(world.feed.depth("others"), Some(1));
}

/// What is parked survives what the queue survives, and no count of deliveries drops it.
#[test]
fn the_rungs_of_a_quorum_queue_are_quorum_queues() {
    let world = world("quorum-rungs");
    world.site.unit(
        UNIT,
        "type = \"pull\"\nbroker = \"main\"\nqueue = \"safe\"\nqueue_type = \"quorum\"\n\
         bind = [\"v02.post.#\"]\ndirectory = \"{root}/data\"\n",
    );
    let _unit = world.site.run_ready(UNIT);
    let vhost = &world.broker.vhost;
    let rung = world.look(&format!("/api/queues/{vhost}/safe.retry.5s"));
    let arguments = &rung["arguments"];
    assert_eq!(arguments["x-queue-type"], "quorum", "{rung:#}");
    assert_eq!(arguments["x-dead-letter-strategy"], "at-least-once", "{rung:#}");
    assert!(arguments["x-delivery-limit"].as_u64() > Some(1_000_000), "{rung:#}");
    world.feed.announce(world.announcement("a/late"));
    world.site.wait_count(UNIT, "parked", 1);
    world.server.serve("a/late", b"a/late");
    world.site.wait_count(UNIT, "fetched", 1);
    assert_eq!(world.site.count(UNIT, "received"), 2);
    assert!(!world.site.said(UNIT).contains("local spool"), "{}", world.site.logs());
}

#[test]
fn without_the_right_to_make_rungs_the_local_spool_parks() {
    let world = world("local");
    let user = world.broker.user("puller", "^(pull|xp)$", "^$", ".*");
    let url = &user.urls[0];
    let site = TestSite::at(&format!(
        "amqp://{}:canary-password@127.0.0.1:{}/{}",
        url.user, url.port, url.vhost
    ));
    site.puller(UNIT, "");
    let mut unit = site.run_ready(UNIT);
    assert!(
        site.said(UNIT).contains("parking in the local spool"),
        "{}",
        site.logs()
    );
    world.server.answer("a/file", Answer::status(503));
    world.feed.announce(world.announcement("a/file"));
    site.wait_count(UNIT, "parked", 1);
    site.wait(UNIT, "has it in its spool", |status| {
        status["gauges"]["parked_here"] == 1
    });
    assert_eq!(world.feed.depth("pull"), Some(0));
    assert!(
        site.state(UNIT).starts_with("impaired: may not bind queue pull "),
        "{}",
        site.state(UNIT)
    );
    // It survives the process.
    unit.kill();
    world.server.serve("a/file", b"a/file");
    let _unit = site.run_ready(UNIT);
    site.wait_that("it has arrived", || site.arrived("file").as_deref() == Some(b"a/file"));
    site.wait(UNIT, "has an empty spool", |status| {
        status["gauges"]["parked_here"] == 0
    });
}

/// All rungs stand, but what expires there would be led nowhere.
#[test]
fn without_the_right_to_bind_the_way_back_the_local_spool_parks() {
    let world = world("wayback");
    let user = world
        .broker
        .user("puller", "^(pull|xp)", r"^pull\.(retry\.|again)", ".*");
    let url = &user.urls[0];
    let site = TestSite::at(&format!(
        "amqp://{}:canary-password@127.0.0.1:{}/{}",
        url.user, url.port, url.vhost
    ));
    site.puller(UNIT, "");
    let _unit = site.run_ready(UNIT);
    world.server.answer("a/file", Answer::status(503));
    world.feed.announce(world.announcement("a/file"));
    site.wait_count(UNIT, "parked", 1);
    world.server.serve("a/file", b"a/file");
    site.wait_that("it has arrived", || site.arrived("file").as_deref() == Some(b"a/file"));
}

#[test]
fn failed_messages_are_replayed_or_dropped_when_the_operator_says_so() {
    let world = world("replay");
    let _unit = world.site.run_ready(UNIT);
    let too_much = |path: &str| v02("ftp://127.0.0.1/", path, b"x");
    world.feed.announce_all([too_much("a/one"), too_much("a/two")]);
    world
        .feed
        .announce_all([world.announcement("a/gone"), world.announcement("a/back")]);
    world.site.wait_count(UNIT, "failed", 4);
    let id = |path: &str| {
        let failed = world.site.failed(UNIT);
        let of = |entry: &&Value| entry["reason"].as_str().is_some_and(|reason| reason.contains(path));
        failed.iter().find(of).map(|entry| entry["id"].to_string())
    };
    let (one, back, gone) = (id("a/one"), id("a/back"), id("a/gone"));
    let (one, back, gone) = (one.expect("one"), back.expect("back"), gone.expect("gone"));
    world.site.px_ends(0, &["failed", "drop", UNIT, &one]);
    assert_eq!(id("a/one"), None);
    world.site.px_ends(1, &["failed", "drop", UNIT, &one]);
    world.site.px_ends(1, &["failed", "replay", UNIT, &one]);

    world.server.serve("a/back", b"a/back");
    world.site.px_ends(0, &["failed", "replay", UNIT, &back, &gone]);
    world
        .site
        .wait_that("it has arrived", || world.site.arrived("back").is_some());
    world.site.wait_that("it is failed no more", || id("a/back").is_none());
    // The other stays, with its new reason, and is not tried again and again.
    world
        .site
        .wait_that("the replay has failed", || world.server.hits("a/gone").len() == 4);
    world.site.wait_that("it waits for the operator again", || {
        let failed = world.site.failed(UNIT);
        failed
            .iter()
            .any(|entry| entry["id"].as_i64() == gone.parse().ok() && entry["replay"] == false)
    });
    world.site.px_ends(0, &["failed", "drop", UNIT, "--all"]);
    assert!(world.site.failed(UNIT).is_empty());
    world.site.wait(UNIT, "shows that nothing is kept", |status| {
        status["gauges"]["failed_kept"] == 0
    });
}

/// One product that a server refuses must not keep its other products waiting.
#[test]
fn a_bad_product_does_not_starve_the_others_of_its_server() {
    let world = world("starve");
    world.server.answer("a/bad", Answer::status(503));
    let _unit = world.site.run_ready(UNIT);
    let names: Vec<String> = (0..5).map(|n| format!("a/good{n}")).collect();
    names.iter().for_each(|name| world.server.serve(name, name.as_bytes()));
    let all = std::iter::once("a/bad").chain(names.iter().map(String::as_str));
    world.feed.announce_all(all.map(|path| world.announcement(path)));
    world.site.wait_count(UNIT, "fetched", 5);
}
