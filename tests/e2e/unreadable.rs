//! Messages that the AMQP library cannot read, between others: units survive them, and lose nothing of them.

use std::path::Path;

use px::config::Places;
use px::flow::spill::{Ending, Figures, spill};
use px::message::{Envelope, UNREADABLE, Value};
use px::spool::failed::{FailedStore, Limits};
use px::spool::spill::SpillReader;
use tokio_util::sync::CancellationToken;

use super::dispatcher::{SOURCES, UNIT as DISPATCHER, dispatcher, urp};
use crate::support::{
    Feed, ProductServer, RawPublisher, TestBroker, TestSite, raw_headers, raw_nested, raw_property, raw_text,
    spoiling_proxy, v02,
};

const PULLER: &str = "rx/pull";

/// A message that cannot be read, on a broker behind a proxy that spoils `@@`.
struct Poison {
    exchange: &'static [u8],
    key: Vec<u8>,
    properties: Vec<u8>,
    /// How px says so.
    why: &'static str,
}

/// One of each kind, under this key, which `xp` brings to a queue; `fan@@` must be bound to it too.
fn poisons(key: &str) -> Vec<Poison> {
    let key = key.as_bytes();
    let latin = [key, b".donn@@es"].concat();
    let message = |properties, why| Poison {
        exchange: b"xp",
        key: key.to_vec(),
        properties,
        why,
    };
    vec![
        Poison {
            key: latin.clone(),
            ..message(vec![0, 0], "its routing key is not UTF-8")
        },
        Poison {
            exchange: b"fan@@",
            ..message(vec![0, 0], "the name of its exchange is not UTF-8")
        },
        Poison {
            key: latin,
            ..message(
                raw_property(8, b"\xff"),
                "its routing key is not UTF-8, and its message_id is not UTF-8",
            )
        },
        message(raw_property(0, b"caf\xe9"), "its content_type is not UTF-8"),
        message(raw_property(5, b"\xff"), "its correlation_id is not UTF-8"),
        message(raw_property(6, b"\xff"), "its reply_to is not UTF-8"),
        message(raw_property(10, b"\xff"), "its type is not UTF-8"),
        message(
            raw_headers(&[(b"good", raw_text(b"text")), (b"na\xefve", raw_text(b"text"))]),
            "the name of one of its headers is not UTF-8",
        ),
        message(
            raw_headers(&[(b"deep", raw_nested(5000))]),
            "its headers are nested more than 64 deep",
        ),
        message(
            raw_headers(&[(b"\xff", raw_text(&[b'v'; 100_000]))]),
            "the name of one of its headers is not UTF-8",
        ),
        message(
            raw_headers(&[(UNREADABLE.as_bytes(), raw_text(b"forged"))]),
            "it has a header x-px-unreadable",
        ),
    ]
}

/// Good messages with a poison after each.
fn feed_with_poison(broker: &TestBroker, feed: &Feed, queue: &str, good: &[Envelope]) -> Vec<Poison> {
    let poisons = poisons(&good[0].key);
    let mut raw = RawPublisher::new(&broker.config());
    raw.fanout(b"fan@@", queue);
    for (good, poison) in good.iter().zip(&poisons) {
        feed.announce(good.clone());
        raw.publish(poison.exchange, &poison.key, &poison.properties, &good.body);
    }
    feed.announce_all(good[poisons.len()..].iter().cloned());
    poisons
}

/// As a site would write it.
fn url(broker: &px::config::Broker) -> String {
    let url = &broker.urls[0];
    format!(
        "amqp://{}:{}@{}:{}/{}",
        url.user,
        url.password.expose(),
        url.host,
        url.port,
        url.vhost
    )
}

fn shown(site: &TestSite, unit: &str, id: &str) -> serde_json::Value {
    let told = site.px_ends(0, &["failed", "show", unit, id, "--json"]);
    serde_json::from_str(&told.out).expect("JSON")
}

/// Each poison is in the failed store with its reason, whole, and is not replayed.
fn assert_kept(site: &TestSite, unit: &str, poisons: &[Poison], good: &[Envelope]) {
    let mut failed = site.failed(unit);
    failed.sort_by_key(|entry| entry["id"].as_i64());
    assert_eq!(failed.len(), poisons.len(), "{failed:#?}");
    for ((entry, poison), good) in failed.iter().zip(poisons).zip(good) {
        let reason = entry["reason"].as_str().expect("a reason");
        assert!(
            reason.starts_with(&format!("the message cannot be read: {}", poison.why)),
            "{reason}"
        );
        assert_eq!(entry["fault"], "message");
        let id = entry["id"].to_string();
        let shown = shown(site, unit, &id);
        let original = &shown["original"];
        assert_eq!(
            original["properties"],
            poison.properties.escape_ascii().to_string(),
            "{reason}"
        );
        assert_eq!(original["body"], good.body.escape_ascii().to_string());
        if reason.contains("routing key") {
            let key = poison.key.escape_ascii().to_string().replace("@@", "\\xe9\\xff");
            assert_eq!(original["key"], key);
            assert_eq!(entry["key"], "");
        } else {
            assert_eq!(entry["key"].as_str().map(str::as_bytes), Some(&*poison.key));
        }
        let told = site.px_ends(1, &["failed", "replay", unit, &id]);
        assert!(
            told.err.contains("cannot be replayed: the message cannot be read"),
            "{told:?}"
        );
    }
    site.px_ends(0, &["failed", "replay", unit, "--all"]);
    site.wait_that("it refuses each", || {
        let failed = site.failed(unit);
        failed.len() == poisons.len()
            && failed.iter().all(|entry| {
                entry["reason"]
                    .as_str()
                    .is_some_and(|reason| reason.ends_with("cannot be replayed"))
            })
    });
}

#[test]
fn a_dispatcher_forwards_what_stands_behind_a_message_that_cannot_be_read() {
    let broker = TestBroker::new("unreadable-dispatch");
    let feed = Feed::new(&broker.config());
    let site = TestSite::at(&url(&spoiling_proxy(&broker.config())));
    dispatcher(&site, &feed, "");
    let _unit = site.run_ready(DISPATCHER);
    let good: Vec<Envelope> = (0..20).map(|n| urp(SOURCES[0], n)).collect();
    let poisons = feed_with_poison(&broker, &feed, "in", &good);
    site.wait(DISPATCHER, "has judged all", |status| {
        status["counts"]["forwarded"] == good.len() && status["counts"]["failed"] == poisons.len()
    });
    let forwarded = feed.reader("out").take(good.len());
    assert!(forwarded.iter().zip(&good).all(|(out, good)| out.body == good.body));
    assert_eq!((feed.depth("in"), feed.depth("out")), (Some(0), Some(0)));
    assert_eq!(site.count(DISPATCHER, "reconnects"), 0);
    assert_kept(&site, DISPATCHER, &poisons, &good);
    assert_eq!(feed.depth("out"), Some(0), "nothing of it goes out");
}

/// It has a body, and nobody else knows whether that matters. Rubbish is what px has read.
#[test]
fn a_full_failed_store_pauses_a_dispatcher_rather_than_lose_a_message_that_cannot_be_read() {
    let broker = TestBroker::new("unreadable-full");
    let feed = Feed::new(&broker.config());
    let site = TestSite::at(&url(&spoiling_proxy(&broker.config())));
    dispatcher(&site, &feed, "");
    let unit = DISPATCHER.parse().expect("a unit");
    let path = Places::under(site.root()).unit_state(&unit).join("failed.db");
    FailedStore::open(&path, Limits::default()).expect("a failed store");
    let store = rusqlite::Connection::open(&path).expect("a database");
    let full = Limits::default();
    let pretend = |products: u64, rubbish: u64| {
        let update = "UPDATE totals SET entries = CASE rubbish WHEN 0 THEN ?1 ELSE ?2 END";
        store
            .execute(update, (products as i64, rubbish as i64))
            .expect("totals");
    };
    pretend(full.products, full.rubbish);
    let good = urp(SOURCES[0], 0);
    let poisons = poisons(&good.key);
    let mut raw = RawPublisher::new(&broker.config());
    raw.publish(b"xp", &poisons[0].key, &poisons[0].properties, &good.body);
    let _unit = site.run_ready(DISPATCHER);
    site.wait_state(DISPATCHER, "paused: ");
    assert!(site.state(DISPATCHER).contains("the failed store is full"));
    site.wait_that("the delivery is back", || feed.depth("in") == Some(1));
    assert_eq!(site.count(DISPATCHER, "failed"), 0);
    pretend(0, full.rubbish);
    site.wait_count(DISPATCHER, "failed", 1);
    feed.announce(Envelope {
        body: b"no announcement".to_vec(),
        ..good.clone()
    });
    site.wait_count(DISPATCHER, "failed", 2);
    site.wait_state(DISPATCHER, "running");
    site.wait_that("both are settled", || feed.depth("in") == Some(0));
    assert_kept(&site, DISPATCHER, &poisons[..1], &[good]);
    let said = site.said(DISPATCHER);
    assert!(said.contains("failed: counted only: "), "{said}");
}

#[test]
fn a_pull_worker_fetches_what_stands_behind_a_message_that_cannot_be_read() {
    let broker = TestBroker::new("unreadable-pull");
    let feed = Feed::new(&broker.config());
    feed.queue("pull", &["v02.post.#"]);
    let site = TestSite::at(&url(&spoiling_proxy(&broker.config())));
    let server = ProductServer::start();
    site.puller(PULLER, "");
    let good: Vec<Envelope> = (0..12)
        .map(|n| {
            let path = format!("p{n}");
            server.serve(&path, path.as_bytes());
            v02(&server.url(), &path, path.as_bytes())
        })
        .collect();
    let poisons = feed_with_poison(&broker, &feed, "pull", &good);
    let _unit = site.run_ready(PULLER);
    site.wait_that("all have arrived", || {
        (0..12).all(|n| site.arrived(&format!("p{n}")) == Some(format!("p{n}").into_bytes()))
    });
    site.wait_count(PULLER, "failed", poisons.len() as u64);
    assert_eq!(feed.depth("pull"), Some(0));
    assert_eq!(site.count(PULLER, "reconnects"), 0);
    for n in 0..12 {
        assert_eq!(server.hits(&format!("p{n}")).len(), 1, "once, for the readable one");
    }
    assert_kept(&site, PULLER, &poisons, &good);
}

/// The default frame_max of px is 16 KiB, that of the broker 128.
#[test]
fn headers_longer_than_a_frame_are_read_and_are_too_long_only_to_be_published() {
    let broker = TestBroker::new("long-headers");
    let feed = Feed::new(&broker.config());
    feed.queue("pull", &["v02.post.#"]);
    let (site, server) = (TestSite::new(&broker), ProductServer::start());
    site.puller(PULLER, "");
    dispatcher(&site, &feed, "");
    let _units = [site.run_ready(PULLER), site.run_ready(DISPATCHER)];
    server.serve("long", b"long");
    let (pulled, forwarded) = (v02(&server.url(), "long", b"long"), urp(SOURCES[0], 1));
    let mut raw = RawPublisher::new(&broker.config());
    for envelope in [&pulled, &forwarded] {
        let mut fields = vec![(&b"long"[..], raw_text(&[b'v'; 100_000]))];
        for (name, value) in &envelope.headers {
            if let Value::Str(text) = value {
                fields.push((name.as_bytes(), raw_text(text)));
            }
        }
        raw.publish(b"xp", envelope.key.as_bytes(), &raw_headers(&fields), &envelope.body);
    }
    site.wait_that("it has arrived", || site.arrived("long").as_deref() == Some(b"long"));
    site.wait_count(DISPATCHER, "parked", 1);
    let said = site.said(DISPATCHER);
    assert!(
        said.contains("do not fit into one frame of 16384; raise ?frame_max= in the URL"),
        "{said}"
    );
    site.wait_that("both are settled", || {
        (feed.depth("pull"), feed.depth("in")) == (Some(0), Some(0))
    });
    for unit in [PULLER, DISPATCHER] {
        assert_eq!(site.count(unit, "reconnects"), 0);
    }
}

#[test]
fn a_spilled_queue_keeps_what_cannot_be_read_and_a_replay_passes_it_over() {
    let broker = TestBroker::new("unreadable-spill");
    let feed = Feed::new(&broker.config());
    feed.queue("q", &["v02.post.#"]);
    let site = TestSite::new(&broker);
    let good: Vec<Envelope> = (0..20).map(|n| v02("http://h/", &format!("d/p{n}"), b"x")).collect();
    let poisons = feed_with_poison(&broker, &feed, "q", &good);
    let config = px::config::Broker {
        name: "main".into(),
        ..spoiling_proxy(&broker.config())
    };
    let file = spill_all(&config, "q", &site.path("spilled"));
    let told = site.px_ends(0, &["failed", "list"]);
    assert_eq!(told.out, "", "nothing has failed: it is in the file");

    let mut reader = SpillReader::open(&file).expect("a spill file");
    let mut kept = Vec::new();
    while let Some(message) = reader.next().expect("a message") {
        if let Some(Value::Table(mark)) = message.envelope.headers.get(UNREADABLE) {
            kept.push((mark["properties"].clone(), message.envelope.body));
        }
    }
    let wanted = poisons.iter().zip(&good);
    let wanted: Vec<_> = wanted
        .map(|(poison, good)| (Value::Bytes(poison.properties.clone()), good.body.clone()))
        .collect();
    assert_eq!(kept, wanted);

    let told = site.px_ends(1, &["replay", file.to_str().expect("text"), "--dry-run"]);
    assert!(told.out.contains("20 would be published"), "{told:?}");
    feed.queue("q", &[]);
    let told = site.px_ends(1, &["replay", file.to_str().expect("text")]);
    assert_eq!(feed.reader("q").take(good.len()), good);
    assert_eq!(feed.depth("q"), Some(0));
    let refusals = told.err.matches("so it cannot be published").count();
    assert_eq!(refusals, poisons.len(), "{told:?}");
    assert!(told.out.contains("20 messages published to queue q"), "{told:?}");
}

/// The file of a queue that is deleted then.
fn spill_all(broker: &px::config::Broker, queue: &str, directory: &Path) -> std::path::PathBuf {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let looks = std::sync::atomic::AtomicU64::new(0);
    // Always new, and nobody has a message in hand.
    let look = async |_: &str| {
        Ok(Some(Figures {
            unacknowledged: Some(0),
            reductions: Some(looks.fetch_add(1, std::sync::atomic::Ordering::Relaxed)),
        }))
    };
    let stop = CancellationToken::new();
    let arguments = serde_json::Map::new();
    let spilling = spill(broker, queue, &arguments, directory, look, &stop);
    let spilled = runtime.expect("runtime").block_on(spilling);
    assert_eq!((spilled.ending, spilled.messages), (Ending::Deleted, 31));
    spilled.file.expect("a file")
}
