//! Who has a message, until when, and what becomes of it.

use std::time::Duration;

use px::broker::{Confirmed, Settlement};
use px::message::{ExchangeKind, Fault, Headers, Queue, Topology, Value};

use crate::child::start_holder;
use crate::fixture::*;
use crate::support::{eventually, within};

pub async fn deliveries_come_in_order(fixture: &dyn Fixture) {
    let connection = publisher(fixture).await;
    declare(&*connection, &only_queue("q")).await;
    let bodies: Vec<String> = (0..300).map(|number| number.to_string()).collect();
    fill(
        &*connection,
        "q",
        &bodies.iter().map(String::as_str).collect::<Vec<_>>(),
    )
    .await;
    let mut subscription = connection.subscribe("q", 7).await.expect("subscribe");
    for body in bodies {
        assert_eq!(take_text(&mut subscription).await, body);
    }
}

pub async fn prefetch_bounds_what_is_unsettled(fixture: &dyn Fixture) {
    let connection = publisher(fixture).await;
    declare(&*connection, &only_queue("q")).await;
    fill(&*connection, "q", &["1", "2", "3", "4", "5"]).await;
    let mut subscription = connection.subscribe("q", 2).await.expect("subscribe");
    let first = take(&mut subscription).await;
    let _second = take(&mut subscription).await;
    let moment = Duration::from_millis(300);
    assert!(
        tokio::time::timeout(moment, subscription.next()).await.is_err(),
        "a third came"
    );
    assert_eq!(depth(&*connection, "q").await, Some(3));
    settle(first, Settlement::Ack).await;
    assert_eq!(take(&mut subscription).await.envelope.body, b"3");
}

pub async fn two_consumers_share_a_queue(fixture: &dyn Fixture) {
    let connection = publisher(fixture).await;
    declare(&*connection, &only_queue("q")).await;
    let other = consumer(fixture).await;
    let mut one = connection.subscribe("q", 1).await.expect("subscribe");
    let mut two = other.subscribe("q", 1).await.expect("subscribe");
    fill(&*connection, "q", &["a", "b"]).await;
    let mut got = [
        settle(take(&mut one).await, Settlement::Ack).await,
        take_text(&mut two).await,
    ];
    got.sort();
    assert_eq!(got, ["a", "b"]);
}

pub async fn what_is_acked_or_rejected_is_gone(fixture: &dyn Fixture) {
    let connection = publisher(fixture).await;
    declare(&*connection, &only_queue("q")).await;
    fill(&*connection, "q", &["acked", "rejected", "last"]).await;
    let consuming = consumer(fixture).await;
    let mut subscription = consuming.subscribe("q", 1).await.expect("subscribe");
    assert_eq!(settle(take(&mut subscription).await, Settlement::Ack).await, "acked");
    assert_eq!(
        settle(take(&mut subscription).await, Settlement::Reject).await,
        "rejected"
    );
    let last = take(&mut subscription).await;
    assert_eq!(last.envelope.body, b"last");
    // Only the last one comes back.
    drop((last, subscription));
    consuming.close().await;
    eventually(SOON, "one ready", async || depth(&*connection, "q").await == Some(1)).await;
    let mut subscription = connection.subscribe("q", 1).await.expect("subscribe");
    assert_eq!(take_text(&mut subscription).await, "last");
    eventually(SOON, "none ready", async || depth(&*connection, "q").await == Some(0)).await;
}

pub async fn a_requeued_delivery_comes_again_and_says_so(fixture: &dyn Fixture) {
    let connection = publisher(fixture).await;
    declare(&*connection, &only_queue("q")).await;
    fill(&*connection, "q", &["again"]).await;
    let mut subscription = connection.subscribe("q", 1).await.expect("subscribe");
    for round in 0..3 {
        let received = take(&mut subscription).await;
        assert_eq!(received.redelivered, round > 0);
        assert_eq!(settle(received, Settlement::Requeue).await, "again");
    }
    let received = take(&mut subscription).await;
    assert!(received.redelivered);
    settle(received, Settlement::Ack).await;
}

pub async fn what_a_killed_consumer_held_is_redelivered(fixture: &dyn Fixture) {
    let connection = publisher(fixture).await;
    declare(&*connection, &only_queue("q")).await;
    fill(&*connection, "q", &["held", "ready"]).await;
    let mut holder = start_holder(&fixture.broker(), "q");
    assert_eq!(depth(&*connection, "q").await, Some(1));
    holder.kill().expect("kill -9");
    holder.wait().expect("wait");
    let mut subscription = connection.subscribe("q", 2).await.expect("subscribe");
    let mut got = Vec::new();
    for _ in 0..2 {
        let received = take(&mut subscription).await;
        got.push((received.redelivered, settle(received, Settlement::Ack).await));
    }
    got.sort();
    assert_eq!(got, [(false, "ready".to_owned()), (true, "held".to_owned())]);
}

pub async fn what_a_dropped_connection_held_is_redelivered(fixture: &dyn Fixture) {
    let connection = publisher(fixture).await;
    declare(&*connection, &only_queue("q")).await;
    fill(&*connection, "q", &["held"]).await;
    let consuming = consumer(fixture).await;
    let mut subscription = consuming.subscribe("q", 1).await.expect("subscribe");
    let held = take(&mut subscription).await;
    drop((consuming, subscription));
    let mut subscription = connection.subscribe("q", 1).await.expect("subscribe");
    let received = take(&mut subscription).await;
    assert!(received.redelivered);
    // The old receipt is stale: it fails or does nothing, and settles nobody else's delivery.
    let stale = within(SOON, "a stale settle", held.receipt.settle(Settlement::Ack)).await;
    assert!(stale.is_err(), "stale");
    settle(received, Settlement::Requeue).await;
    assert_eq!(take_text(&mut subscription).await, "held");
}

pub async fn after_a_cancel_deliveries_can_still_be_settled(fixture: &dyn Fixture) {
    let connection = publisher(fixture).await;
    declare(&*connection, &only_queue("q")).await;
    fill(&*connection, "q", &["held", "prefetched", "ready"]).await;
    let consuming = consumer(fixture).await;
    let mut subscription = consuming.subscribe("q", 2).await.expect("subscribe");
    let held = take(&mut subscription).await;
    within(SOON, "cancelled", subscription.cancel()).await;
    eventually(SOON, "the prefetched one is back", async || {
        depth(&*connection, "q").await == Some(2)
    })
    .await;
    assert!(
        within(SOON, "an end", subscription.next()).await.is_err(),
        "no more deliveries"
    );
    drop(subscription);
    settle(held, Settlement::Ack).await;
    consuming.close().await;
    let mut subscription = connection.subscribe("q", 1).await.expect("subscribe");
    assert_eq!(take_text(&mut subscription).await, "prefetched");
    assert_eq!(take_text(&mut subscription).await, "ready");
    assert_eq!(depth(&*connection, "q").await, Some(0));
}

pub async fn consuming_a_missing_queue_is_our_own_fault(fixture: &dyn Fixture) {
    let connection = consumer(fixture).await;
    let error = connection
        .subscribe("missing", 1)
        .await
        .err()
        .expect("there is no such queue");
    assert_eq!(error.fault, Fault::Own, "{error}");
    assert!(error.to_string().contains("missing"), "{error}");
    declare(&*connection, &only_queue("missing")).await;
    connection.subscribe("missing", 1).await.expect("there is one now");
}

pub async fn an_unused_queue_expires(fixture: &dyn Fixture) {
    // Long enough that the one that is used is so in time, on a machine that is busy.
    const EXPIRES: Duration = Duration::from_secs(4);
    let connection = publisher(fixture).await;
    let topology = Topology {
        queues: vec![
            Queue {
                expires: Some(EXPIRES),
                ..queue("brief")
            },
            Queue {
                expires: Some(EXPIRES),
                ..queue("used")
            },
            queue("lasting"),
        ],
        ..Topology::default()
    };
    declare(&*connection, &topology).await;
    let _using = connection.subscribe("used", 1).await.expect("subscribe");
    // Not by its depth: to ask for that is to use it.
    let brief = message("brief", "");
    let is_gone = async || publish_to_fleeting(&*connection, "", &brief).await == Some(Confirmed::Returned);
    eventually(SOON, "expired", is_gone).await;
    assert_eq!(depth(&*connection, "brief").await, None);
    assert_eq!(depth(&*connection, "used").await, Some(0));
    assert_eq!(depth(&*connection, "lasting").await, Some(0));
}

/// A delivery comes back after a delay: by the transport's own means, or through a queue with a time to live that
/// dead-letters through a fanout exchange. Either way under its own key.
pub async fn a_delivery_can_be_parked(fixture: &dyn Fixture) {
    const DELAY: Duration = Duration::from_millis(700);
    let connection = publisher(fixture).await;
    let rung = Queue {
        message_ttl: Some(DELAY),
        dead_letter_exchange: Some("again".into()),
        role: Some("retry"),
        ..queue("q.retry")
    };
    let mut topology = Topology {
        exchanges: vec![exchange("x", ExchangeKind::Topic)],
        queues: vec![queue("q")],
        bindings: vec![binding("x", "q", "#")],
    };
    let capabilities = connection.capabilities();
    if capabilities.dead_lettering {
        topology.exchanges.push(exchange("again", ExchangeKind::Fanout));
        topology.exchanges.push(exchange("retry", ExchangeKind::Fanout));
        topology.queues.push(rung);
        topology.bindings.push(binding("again", "q", ""));
        topology.bindings.push(binding("retry", "q.retry", ""));
    }
    declare(&*connection, &topology).await;
    publish(&*connection, "x", &message("its.own.key", "parked")).await;
    let mut subscription = connection.subscribe("q", 1).await.expect("subscribe");
    let received = take(&mut subscription).await;
    let parked = std::time::Instant::now();
    if capabilities.delayed_redelivery {
        let headers = Headers::from([("x-attempts".into(), Value::I64(1))]);
        settle(received, Settlement::RequeueAfter(DELAY, headers)).await;
    } else {
        assert!(capabilities.dead_lettering, "a transport can do one or the other");
        assert_eq!(
            publish(&*connection, "retry", &received.envelope).await,
            Confirmed::Routed
        );
        settle(received, Settlement::Ack).await;
    }
    let again = take(&mut subscription).await;
    assert!(
        parked.elapsed() >= DELAY - Duration::from_millis(50),
        "after {:?}",
        parked.elapsed()
    );
    assert_eq!(again.envelope.key, "its.own.key");
    if capabilities.delayed_redelivery {
        assert_eq!(again.envelope.headers.get("x-attempts"), Some(&Value::I64(1)));
    }
    assert_eq!(settle(again, Settlement::Ack).await, "parked");
}

pub async fn a_rejected_delivery_is_dead_lettered_where_the_queue_says_so(fixture: &dyn Fixture) {
    let connection = publisher(fixture).await;
    assert!(
        connection.capabilities().dead_lettering,
        "not a promise of this transport"
    );
    let topology = Topology {
        exchanges: vec![exchange("dead", ExchangeKind::Fanout)],
        queues: vec![
            Queue {
                dead_letter_exchange: Some("dead".into()),
                ..queue("q")
            },
            queue("graves"),
        ],
        bindings: vec![binding("dead", "graves", "")],
    };
    declare(&*connection, &topology).await;
    fill(&*connection, "q", &["rejected"]).await;
    let mut subscription = connection.subscribe("q", 1).await.expect("subscribe");
    settle(take(&mut subscription).await, Settlement::Reject).await;
    let mut graves = connection.subscribe("graves", 1).await.expect("subscribe");
    assert_eq!(take_text(&mut graves).await, "rejected");
}
