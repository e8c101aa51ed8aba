//! What the promises need to know of a transport, and short words for what they do with it.

use std::time::Duration;

use px::broker::{Confirmed, Connection, Purpose, Received, Returns, Settlement, Subscription, Warning, connect};
use px::config::Broker;
use px::message::{Binding, Envelope, Exchange, ExchangeKind, Queue, Topology};

use crate::support::within;

/// For what happens at once on a machine that may be busy.
pub const SOON: Duration = Duration::from_secs(30);

/// A transport with a broker of its own.
pub trait Fixture: Send + Sync {
    /// How to reach it.
    fn broker(&self) -> Broker;

    /// Oddity: RabbitMQ puts declared exchanges and queues on disk a moment after it has answered. Waits for that.
    fn flush_definitions(&self) {}

    /// Kills the broker without warning and brings it back with what it has on disk.
    fn crash(&mut self);
}

pub async fn publisher(fixture: &dyn Fixture) -> Box<dyn Connection> {
    open(&fixture.broker(), Purpose::Publish).await
}

pub async fn consumer(fixture: &dyn Fixture) -> Box<dyn Connection> {
    open(&fixture.broker(), Purpose::Consume).await
}

pub async fn open(broker: &Broker, purpose: Purpose) -> Box<dyn Connection> {
    match connect(broker, purpose, "broker_suite").await {
        Ok(connection) => connection,
        Err(error) => panic!("{error}: {:?}", error.source),
    }
}

pub fn exchange(name: &str, kind: ExchangeKind) -> Exchange {
    Exchange {
        name: name.to_owned(),
        kind,
        durable: true,
        auto_delete: false,
    }
}

pub fn queue(name: &str) -> Queue {
    Queue {
        name: name.to_owned(),
        durable: true,
        ..Queue::default()
    }
}

pub fn binding(exchange: &str, queue: &str, key: &str) -> Binding {
    Binding {
        exchange: exchange.to_owned(),
        queue: queue.to_owned(),
        key: key.to_owned(),
    }
}

/// A durable queue and nothing else.
pub fn only_queue(name: &str) -> Topology {
    Topology {
        queues: vec![queue(name)],
        ..Topology::default()
    }
}

pub fn message(key: &str, body: &str) -> Envelope {
    Envelope {
        key: key.to_owned(),
        body: body.as_bytes().to_vec(),
        ..Envelope::default()
    }
}

/// Asserts a topology that must go without a warning.
pub async fn declare(connection: &dyn Connection, topology: &Topology) {
    let warnings = within(SOON, "declared", connection.declare(topology)).await;
    assert_eq!(warnings.expect("declare"), Vec::<Warning>::new());
}

/// Publishes and waits for the confirm.
pub async fn publish(connection: &dyn Connection, exchange: &str, envelope: &Envelope) -> Confirmed {
    let confirm = connection
        .publish(exchange, envelope, Returns::Known)
        .await
        .expect("publish");
    within(SOON, "confirmed", confirm).await.expect("confirm")
}

/// The same where the queue may go at that very moment: from 4.3 on RabbitMQ may not take what was routed to it.
pub async fn publish_to_fleeting(
    connection: &dyn Connection,
    exchange: &str,
    envelope: &Envelope,
) -> Option<Confirmed> {
    let confirm = connection.publish(exchange, envelope, Returns::Known).await.ok()?;
    within(SOON, "confirmed", confirm).await.ok()
}

/// Puts texts into a queue, in order, safely.
pub async fn fill(connection: &dyn Connection, queue: &str, bodies: &[&str]) {
    for body in bodies {
        assert_eq!(publish(connection, "", &message(queue, body)).await, Confirmed::Routed);
    }
}

/// The next delivery.
pub async fn take(subscription: &mut Box<dyn Subscription>) -> Received {
    within(SOON, "a delivery", subscription.next()).await.expect("next")
}

/// The next delivery's body, acked.
pub async fn take_text(subscription: &mut Box<dyn Subscription>) -> String {
    let received = take(subscription).await;
    settle(received, Settlement::Ack).await
}

/// Settles, and answers with the body.
pub async fn settle(received: Received, how: Settlement) -> String {
    within(SOON, "settled", received.receipt.settle(how))
        .await
        .expect("settle");
    String::from_utf8(received.envelope.body).expect("text")
}

pub async fn depth(connection: &dyn Connection, queue: &str) -> Option<u64> {
    within(SOON, "the depth", connection.depth(queue)).await.expect("depth")
}
