//! What only RabbitMQ does: permissions, entities made otherwise, queues deleted from outside.

use px::broker::{Purpose, Returns, connect};
use px::message::{Exchange, ExchangeKind, Fault, Queue, Topology};

use crate::fixture::*;
use crate::support::{TestBroker, within};

fn bound_queue() -> Topology {
    Topology {
        exchanges: vec![exchange("x", ExchangeKind::Topic)],
        queues: vec![queue("q")],
        bindings: vec![binding("x", "q", "#")],
    }
}

/// Oddity of RabbitMQ: an entity keeps the options it was made with, and says 406 to others.
#[tokio::test]
async fn what_exists_with_other_options_is_used_as_it_is() {
    let broker = TestBroker::new("mismatch");
    let connection = open(&broker.config(), Purpose::Publish).await;
    let mut other = bound_queue();
    other.exchanges[0].durable = false;
    other.queues[0].expires = Some(SOON);
    declare(&*connection, &other).await;

    let warnings = connection.declare(&bound_queue()).await.expect("declare");
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[0].what.contains("exchange x is transient"), "{warnings:?}");
    assert!(warnings[1].what.contains("queue q is used as it is"), "{warnings:?}");
    fill(&*connection, "q", &["through"]).await;

    let direct = Topology {
        exchanges: vec![Exchange {
            kind: ExchangeKind::Direct,
            ..other.exchanges[0].clone()
        }],
        ..Topology::default()
    };
    // It would route otherwise than the configuration believes: nothing is published on it.
    let error = connection.declare(&direct).await.expect_err("another type");
    assert_eq!(error.fault, Fault::Own);
    assert!(
        error.to_string().contains("is of another type than type = \"direct\""),
        "{error}"
    );
}

/// Oddity of RabbitMQ: permissions. A user who may not configure uses what is there.
#[tokio::test]
async fn without_the_right_to_configure_what_is_there_is_used() {
    let broker = TestBroker::new("rights");
    let admin = open(&broker.config(), Purpose::Publish).await;
    declare(&*admin, &bound_queue()).await;
    let user = open(&broker.user("user", "^$", "^x$", ".*"), Purpose::Consume).await;
    let warnings = within(SOON, "declared", user.declare(&bound_queue()))
        .await
        .expect("declare");
    assert_eq!(warnings.len(), 3, "{warnings:?}");
    assert!(
        warnings[2].what.contains("may not bind queue q to exchange x"),
        "{warnings:?}"
    );
    fill(&*admin, "q", &["through"]).await;
    let mut subscription = user.subscribe("q", 1).await.expect("subscribe");
    assert_eq!(take_text(&mut subscription).await, "through");

    let error = user.declare(&only_queue("new")).await.expect_err("may not be made");
    assert_eq!(error.fault, Fault::Own);
    assert!(error.to_string().contains("queue new is missing"), "{error}");
    assert!(error.to_string().contains("permission to configure"), "{error}");
}

/// With all consumers active at once the election that such a queue is for would choose everybody.
#[tokio::test]
async fn a_queue_that_lets_all_consumers_be_active_is_not_used_for_an_election() {
    let broker = TestBroker::new("single-active");
    let connection = open(&broker.config(), Purpose::Consume).await;
    let elected = |name: &str, expires| Topology {
        queues: vec![Queue {
            single_active: true,
            expires,
            ..queue(name)
        }],
        ..Topology::default()
    };
    declare(&*connection, &elected("new", None)).await;
    declare(&*connection, &elected("new", None)).await;
    declare(&*connection, &only_queue("old")).await;

    let error = connection.declare(&elected("old", None)).await.expect_err("without it");
    assert_eq!(error.fault, Fault::Own);
    let text = error.to_string();
    assert!(text.starts_with("queue old on amqp://"), "{text}");
    assert!(text.contains("exists without x-single-active-consumer"), "{text}");
    // Another difference is named first: of this one nothing is known.
    let error = connection
        .declare(&elected("new", Some(SOON)))
        .await
        .expect_err("other options");
    assert_eq!(error.fault, Fault::Own);
    assert!(error.to_string().contains("it cannot be told"), "{error}");

    // Who may not configure gets no answer to it.
    let user = open(&broker.user("user", "^$", "^$", ".*"), Purpose::Consume).await;
    let error = user.declare(&elected("old", None)).await.expect_err("not used");
    assert_eq!(error.fault, Fault::Own);
    let text = error.to_string();
    assert!(
        text.contains("it cannot be told whether") && text.contains("permission"),
        "{text}"
    );
}

/// From RabbitMQ 4 on a virtual host may make quorum queues of those that name no type, and those drop what has come back
/// 20 times.
#[tokio::test]
async fn a_queue_is_classic_whatever_the_virtual_host_prefers() {
    let broker = TestBroker::new("default-type");
    let vhost = format!("/api/vhosts/{}", broker.vhost);
    broker
        .api("PUT", &vhost, Some(r#"{"default_queue_type": "quorum"}"#))
        .ok();
    let connection = open(&broker.config(), Purpose::Consume).await;
    declare(&*connection, &only_queue("q")).await;
    declare(&*connection, &only_queue("q")).await;
    let found = broker
        .api("GET", &format!("/api/queues/{}/q", broker.vhost), None)
        .json();
    assert_eq!(found["type"], "classic");
}

#[tokio::test]
async fn a_quorum_queue_is_one() {
    let broker = TestBroker::new("quorum");
    let connection = open(&broker.config(), Purpose::Consume).await;
    let quorum = Topology {
        queues: vec![Queue {
            quorum: true,
            single_active: true,
            ..queue("q")
        }],
        ..Topology::default()
    };
    declare(&*connection, &quorum).await;
    let found = broker
        .api("GET", &format!("/api/queues/{}/q", broker.vhost), None)
        .json();
    assert_eq!(found["arguments"]["x-queue-type"], "quorum");
    // One that is there with another type is used as it is.
    declare(&*connection, &only_queue("classic")).await;
    let other = Topology {
        queues: vec![Queue {
            quorum: true,
            ..queue("classic")
        }],
        ..Topology::default()
    };
    let warnings = connection.declare(&other).await.expect("declare");
    assert!(warnings[0].what.contains("'x-queue-type'"), "{warnings:?}");
    // RabbitMQ knows no guards for it.
    let error = connection.delete_queue("q", true, true).await.expect_err("no guards");
    assert_eq!(error.fault, Fault::Own, "{error}");
}

#[tokio::test]
async fn without_the_right_to_read_or_write_it_is_our_own_fault() {
    let broker = TestBroker::new("refused");
    let admin = open(&broker.config(), Purpose::Publish).await;
    declare(&*admin, &bound_queue()).await;
    let user = broker.user("user", "^$", "^$", "^$");

    let connection = open(&user, Purpose::Consume).await;
    let error = connection.subscribe("q", 1).await.err().expect("may not read");
    assert_eq!(error.fault, Fault::Own, "{error}");
    assert!(error.to_string().contains("permission to read"), "{error}");

    let publish = connection
        .publish("x", &message("k", ""), Returns::Counted)
        .await
        .expect("on its way");
    let error = within(SOON, "refused", publish).await.expect_err("may not write");
    assert_eq!(error.fault, Fault::Own, "{error}");
    let ending = within(SOON, "ended", connection.closed()).await;
    assert_eq!(ending.fault, Fault::Own, "{ending}");
}

#[tokio::test]
async fn a_queue_in_exclusive_use_is_worth_another_try() {
    let broker = TestBroker::new("exclusive");
    let one = open(&broker.config(), Purpose::Consume).await;
    let exclusive = Topology {
        queues: vec![Queue {
            exclusive: true,
            durable: false,
            ..queue("mine")
        }],
        ..Topology::default()
    };
    declare(&*one, &exclusive).await;
    let two = open(&broker.config(), Purpose::Consume).await;
    let error = two.subscribe("mine", 1).await.err().expect("not ours");
    assert_eq!(error.fault, Fault::Endpoint, "{error}");
    assert!(error.to_string().contains("belongs to another connection"), "{error}");
    let error = two.declare(&exclusive).await.expect_err("not ours");
    assert_eq!(error.fault, Fault::Endpoint, "{error}");
}

#[tokio::test]
async fn a_deleted_queue_ends_its_subscription_and_nothing_else() {
    let broker = TestBroker::new("deleted");
    let connection = open(&broker.config(), Purpose::Consume).await;
    declare(&*connection, &only_queue("q")).await;
    let mut subscription = connection.subscribe("q", 1).await.expect("subscribe");
    broker.delete_queue("q");
    let error = within(SOON, "an end", subscription.next())
        .await
        .err()
        .expect("cancelled");
    assert_eq!(error.fault, Fault::Endpoint);
    assert!(error.to_string().contains("queue was deleted"), "{error}");
    assert_eq!(depth(&*connection, "q").await, None);
}

#[tokio::test]
async fn a_full_queue_that_refuses_is_an_endpoint_fault() {
    let broker = TestBroker::new("overflow");
    let connection = open(&broker.config(), Purpose::Publish).await;
    declare(&*connection, &only_queue("q")).await;
    let policy =
        r#"{"pattern": "^q$", "apply-to": "queues", "definition": {"max-length": 1, "overflow": "reject-publish"}}"#;
    broker
        .api("PUT", &format!("/api/policies/{}/full", broker.vhost), Some(policy))
        .ok();
    // The policy arrives a moment later.
    let verdict = async || {
        let confirm = connection
            .publish("", &message("q", ""), Returns::Counted)
            .await
            .expect("publish");
        within(SOON, "answered", confirm).await
    };
    let mut refusal = None;
    crate::support::eventually(SOON, "the queue is full", async || {
        refusal = verdict().await.err();
        refusal.is_some()
    })
    .await;
    let refusal = refusal.expect("refused");
    assert_eq!(refusal.fault, Fault::Endpoint);
    assert!(refusal.to_string().contains("queue is full"), "{refusal}");
    // Not the end of the connection.
    assert!(depth(&*connection, "q").await.is_some());
}

#[tokio::test]
async fn the_connection_shows_its_name_and_product() {
    let broker = TestBroker::new("named");
    let _connection = connect(&broker.config(), Purpose::Consume, "rx_pull_urp")
        .await
        .expect("connect");
    let mut shown = String::new();
    // The statistics lag by seconds.
    crate::support::wait_until(SOON, "the connection is listed", || {
        shown = broker.api("GET", "/api/connections", None).ok().body;
        shown.contains("rx_pull_urp (consume)")
    });
    assert!(shown.contains(r#""product":"px""#), "{shown}");
}
