//! Who gets which message.

use px::broker::{Confirmed, Removal, Settlement};
use px::message::{ExchangeKind, Fault, Queue, Topology};

use crate::fixture::*;
use crate::support::{eventually, within};

/// Pattern, key, does it match. A key is words between dots; the empty key has no words; a word may be empty.
const TOPICS: &[(&str, &str, bool)] = &[
    ("a.b", "a.b", true),
    ("a.b", "a.B", false),
    ("a.b", "a.b.c", false),
    ("a.*", "a.b", true),
    ("a.*", "a", false),
    ("a.*", "a.b.c", false),
    ("a.*", "a.", true),
    ("*", "a", true),
    ("*", "", false),
    ("", "", true),
    ("", "a", false),
    ("#", "", true),
    ("#", "a.b.c", true),
    ("a.#", "a", true),
    ("a.#", "a.b.c", true),
    ("a.#", "b", false),
    ("a.#", "ab", false),
    ("#.c", "c", true),
    ("#.c", "a.b.c", true),
    ("#.c", "a.c.b", false),
    ("a.#.c", "a.c", true),
    ("a.#.c", "a.b.b.c", true),
    ("a.#.c", "a.c.c", true),
    ("a.#.c", "a.b", false),
    ("a.#.c", "a..c", true),
    ("a.*.c", "a..c", true),
    ("a.*.c", "a.c", false),
    ("*.#", "a", true),
    ("*.#", "", false),
    ("#.#", "", true),
    ("a.*.#", "a", false),
    ("a.*.#", "a.b.c", true),
    ("#.b.#", "a.b.c", true),
    ("#.b.#", "a.c", false),
    ("*.b.#.d", "a.b.d", true),
    ("*.b.#.d", "a.b.c.c.d", true),
    ("*.b.#.d", "b.d", false),
    ("a#", "ab", false),
    ("a#", "a#", true),
];

pub async fn topic_wildcards_match_whole_words(fixture: &dyn Fixture) {
    let connection = publisher(fixture).await;
    let mut topology = Topology::default();
    for (row, (pattern, ..)) in TOPICS.iter().enumerate() {
        topology
            .exchanges
            .push(exchange(&format!("x{row}"), ExchangeKind::Topic));
        topology.queues.push(queue(&format!("q{row}")));
        topology
            .bindings
            .push(binding(&format!("x{row}"), &format!("q{row}"), pattern));
    }
    declare(&*connection, &topology).await;
    for (row, (pattern, key, matches)) in TOPICS.iter().enumerate() {
        let routed = publish(&*connection, &format!("x{row}"), &message(key, "")).await == Confirmed::Routed;
        assert_eq!(routed, *matches, "{pattern:?} {key:?}");
    }
}

pub async fn a_queue_bound_twice_gets_a_message_once(fixture: &dyn Fixture) {
    let connection = publisher(fixture).await;
    let topology = Topology {
        exchanges: vec![exchange("x", ExchangeKind::Topic)],
        queues: vec![queue("q")],
        bindings: vec![binding("x", "q", "a.#"), binding("x", "q", "#.b")],
    };
    declare(&*connection, &topology).await;
    assert_eq!(publish(&*connection, "x", &message("a.b", "")).await, Confirmed::Routed);
    assert_eq!(depth(&*connection, "q").await, Some(1));
}

pub async fn direct_routes_by_equal_key(fixture: &dyn Fixture) {
    let connection = publisher(fixture).await;
    let topology = Topology {
        exchanges: vec![exchange("x", ExchangeKind::Direct)],
        queues: vec![queue("one"), queue("two"), queue("pattern")],
        bindings: vec![
            binding("x", "one", "k.1"),
            binding("x", "two", "k.2"),
            binding("x", "two", "k.1"),
            binding("x", "pattern", "#"),
        ],
    };
    declare(&*connection, &topology).await;
    assert_eq!(publish(&*connection, "x", &message("k.1", "")).await, Confirmed::Routed);
    assert_eq!(publish(&*connection, "x", &message("k.2", "")).await, Confirmed::Routed);
    assert_eq!(
        publish(&*connection, "x", &message("k.3", "")).await,
        Confirmed::Returned
    );
    assert_eq!(depth(&*connection, "one").await, Some(1));
    assert_eq!(depth(&*connection, "two").await, Some(2));
    assert_eq!(depth(&*connection, "pattern").await, Some(0));
}

pub async fn fanout_routes_to_every_queue(fixture: &dyn Fixture) {
    let connection = publisher(fixture).await;
    let topology = Topology {
        exchanges: vec![exchange("x", ExchangeKind::Fanout)],
        queues: vec![queue("one"), queue("two"), queue("unbound")],
        bindings: vec![binding("x", "one", ""), binding("x", "two", "ignored")],
    };
    declare(&*connection, &topology).await;
    assert_eq!(
        publish(&*connection, "x", &message("any.key", "")).await,
        Confirmed::Routed
    );
    assert_eq!(depth(&*connection, "one").await, Some(1));
    assert_eq!(depth(&*connection, "two").await, Some(1));
    assert_eq!(depth(&*connection, "unbound").await, Some(0));
}

pub async fn the_default_exchange_routes_by_queue_name(fixture: &dyn Fixture) {
    let connection = publisher(fixture).await;
    declare(&*connection, &only_queue("q.by.name")).await;
    assert_eq!(
        publish(&*connection, "", &message("q.by.name", "")).await,
        Confirmed::Routed
    );
    assert_eq!(
        publish(&*connection, "", &message("q.of.nobody", "")).await,
        Confirmed::Returned
    );
    assert_eq!(depth(&*connection, "q.by.name").await, Some(1));
}

/// The empty name in a topology is the default exchange, which is never declared and never bound.
pub async fn declaring_again_changes_nothing(fixture: &dyn Fixture) {
    let connection = publisher(fixture).await;
    let topology = Topology {
        exchanges: vec![exchange("", ExchangeKind::Direct), exchange("x", ExchangeKind::Topic)],
        queues: vec![Queue {
            expires: Some(SOON),
            ..queue("q")
        }],
        bindings: vec![binding("x", "q", "#"), binding("", "q", "q")],
    };
    declare(&*connection, &topology).await;
    fill(&*connection, "q", &["kept"]).await;
    declare(&*connection, &topology).await;
    declare(&*publisher(fixture).await, &topology).await;
    assert_eq!(depth(&*connection, "q").await, Some(1));
}

/// The empty name is the connection's own queue, in bindings and in every call; asserted again, it is the same one.
pub async fn a_queue_without_a_name_is_the_connections_own(fixture: &dyn Fixture) {
    let (publisher, first, second) = (
        publisher(fixture).await,
        consumer(fixture).await,
        consumer(fixture).await,
    );
    let own = Topology {
        exchanges: vec![exchange("x", ExchangeKind::Topic)],
        queues: vec![Queue {
            exclusive: true,
            ..Queue::default()
        }],
        bindings: vec![binding("x", "", "a"), binding("x", "", "b")],
    };
    for connection in [&first, &second, &first] {
        declare(&**connection, &own).await;
    }
    for key in ["a", "b"] {
        assert_eq!(publish(&*publisher, "x", &message(key, key)).await, Confirmed::Routed);
    }
    for connection in [&first, &second] {
        assert_eq!(depth(&**connection, "").await, Some(2));
        let mut subscription = connection.subscribe("", 10).await.expect("subscribe");
        for key in ["a", "b"] {
            assert_eq!(take_text(&mut subscription).await, key);
        }
        // It stays when nobody consumes for a while.
        subscription.cancel().await;
        drop(subscription);
    }
    assert_eq!(
        publish(&*publisher, "x", &message("a", "later")).await,
        Confirmed::Routed
    );
    let mut subscription = first.subscribe("", 10).await.expect("subscribe");
    assert_eq!(take_text(&mut subscription).await, "later");
    first.close().await;
    second.close().await;
    // Gone with their connections, soon.
    let end = std::time::Instant::now() + SOON;
    while publish_to_fleeting(&*publisher, "x", &message("a", "nobody")).await != Some(Confirmed::Returned) {
        assert!(std::time::Instant::now() < end, "the queues are there still");
    }
}

pub async fn binding_what_is_missing_is_our_own_fault(fixture: &dyn Fixture) {
    let connection = publisher(fixture).await;
    let there = Topology {
        exchanges: vec![exchange("x", ExchangeKind::Topic)],
        queues: vec![queue("q")],
        ..Topology::default()
    };
    declare(&*connection, &there).await;
    for binding in [binding("missing", "q", "#"), binding("x", "missing", "#")] {
        let topology = Topology {
            bindings: vec![binding],
            ..Topology::default()
        };
        let error = connection.declare(&topology).await.expect_err("something is missing");
        assert_eq!(error.fault, Fault::Own, "{error}");
        assert!(error.to_string().contains("missing"), "{error}");
    }
    // The connection is none the worse for it.
    assert_eq!(depth(&*connection, "q").await, Some(0));
}

pub async fn depth_counts_what_is_ready(fixture: &dyn Fixture) {
    let connection = publisher(fixture).await;
    assert_eq!(depth(&*connection, "q").await, None);
    declare(&*connection, &only_queue("q")).await;
    assert_eq!(depth(&*connection, "q").await, Some(0));
    fill(&*connection, "q", &["a", "b", "c"]).await;
    assert_eq!(depth(&*connection, "q").await, Some(3));
    let consumer = consumer(fixture).await;
    let mut subscription = consumer.subscribe("q", 1).await.expect("subscribe");
    let _held = take(&mut subscription).await;
    assert_eq!(depth(&*connection, "q").await, Some(2));
}

/// Its guards keep a queue; what a cancelled subscription was given and had not handed out is guarded again.
pub async fn a_queue_is_deleted_unless_it_is_guarded(fixture: &dyn Fixture) {
    let (publisher, consumer) = (publisher(fixture).await, consumer(fixture).await);
    let delete = async |queue: &str, if_unused, if_empty| {
        let removal = publisher.delete_queue(queue, if_unused, if_empty);
        within(SOON, "an answer", removal).await.expect("an answer")
    };
    assert_eq!(delete("q", true, true).await, Removal::Missing);
    assert_eq!(publisher.consumers("q").await.expect("an answer"), None);
    declare(&*publisher, &only_queue("q")).await;
    let bodies: Vec<String> = (0..200).map(|number| number.to_string()).collect();
    let bodies: Vec<&str> = bodies.iter().map(String::as_str).collect();
    fill(&*publisher, "q", &bodies).await;
    assert_eq!(delete("q", false, true).await, Removal::NotEmpty);
    for _ in 0..5 {
        let mut subscription = consumer.subscribe("q", 200).await.expect("subscribe");
        assert_eq!(publisher.consumers("q").await.expect("an answer"), Some(1));
        let first = take(&mut subscription).await;
        assert_eq!(delete("q", true, false).await, Removal::InUse);
        subscription.cancel().await;
        assert_eq!(delete("q", true, true).await, Removal::NotEmpty);
        // All of them, while the subscription still stands.
        eventually(SOON, "what was given back is ready", async || {
            depth(&*publisher, "q").await == Some(199)
        })
        .await;
        settle(first, Settlement::Requeue).await;
    }
    let mut subscription = consumer.subscribe("q", 1).await.expect("subscribe");
    take(&mut subscription).await;
    assert_eq!(delete("q", false, false).await, Removal::Deleted);
    let end = within(SOON, "an end", subscription.next())
        .await
        .err()
        .expect("the queue is gone");
    assert_eq!(end.fault, Fault::Endpoint, "{end}");
    assert_eq!(depth(&*publisher, "q").await, None);
    declare(&*publisher, &only_queue("q")).await;
    assert_eq!(delete("q", true, true).await, Removal::Deleted);
}

pub async fn an_exchange_is_deleted_with_its_bindings(fixture: &dyn Fixture) {
    let connection = publisher(fixture).await;
    let topology = Topology {
        exchanges: vec![exchange("x", ExchangeKind::Fanout)],
        queues: vec![queue("q")],
        bindings: vec![binding("x", "q", "")],
    };
    declare(&*connection, &topology).await;
    for _ in 0..2 {
        connection.delete_exchange("x").await.expect("an answer");
        assert!(!connection.has_exchange("x").await.expect("an answer"));
    }
    assert_eq!(depth(&*connection, "q").await, Some(0));
}

pub async fn a_missing_exchange_is_known_before_it_is_published_to(fixture: &dyn Fixture) {
    let connection = publisher(fixture).await;
    assert!(!connection.has_exchange("x").await.expect("an answer"));
    let topology = Topology {
        exchanges: vec![exchange("x", ExchangeKind::Direct)],
        ..Topology::default()
    };
    declare(&*connection, &topology).await;
    for (name, is_there) in [("x", true), ("", true), ("y", false), (&*"z".repeat(300), false)] {
        assert_eq!(
            connection.has_exchange(name).await.expect("an answer"),
            is_there,
            "{name}"
        );
    }
    // The connection is none the worse for it.
    assert_eq!(depth(&*connection, "q").await, None);
}
