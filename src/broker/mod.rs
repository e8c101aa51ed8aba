//! Moving envelopes: one small trait, spoken by every transport.
//!
//! A [`Connection`] is one generation: it is made once, and when it breaks it stays broken. Reconnecting is `flow`'s.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use serde::Serialize;

use crate::config::{Broker, Scheme};
use crate::message::{Envelope, Fault, Headers, Topology};

pub mod administration;
pub mod amqp;
pub mod embedded;
pub mod management;

/// A broker's refusal or silence, classified where it was born.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct BrokerError {
    /// Whose fault it is.
    pub fault: Fault,
    /// What was being done, to what, and what the operator can do. Never holds a password.
    pub what: String,
    /// The foreign error, if there is one.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// What a transport can do beyond the trait. A unit that asks for more does not start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// [`Settlement::RequeueAfter`] works.
    pub delayed_redelivery: bool,
    /// Queue arguments (`x-message-ttl`, dead-letter exchange) work, so parking rungs can be built.
    pub dead_lettering: bool,
}

/// What a broker did otherwise than it was asked, when something was declared that a unit can work with all the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Warning {
    #[allow(missing_docs)]
    pub refusal: Refusal,
    /// One line.
    pub what: String,
}

/// In which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// It is there, and we may not make it: as it is for a user with few rights.
    Foreign,
    /// It is there with other options.
    Differs,
    /// We may not bind a queue: it gets what somebody else has bound.
    Unbound,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

/// What the caller must learn about routing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Returns {
    /// [`Confirmed::Returned`] is right in sum over many publishes, not for a single one. Fast.
    Counted,
    /// [`Confirmed::Returned`] is right for this very publish. It goes alone.
    Known,
}

/// The broker has the message safe; was there a queue for it?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confirmed {
    /// In at least one queue.
    Routed,
    /// No binding matched: nobody will see it.
    Returned,
}

/// Resolves when the broker has answered for one publish.
pub type Confirm = BoxFuture<'static, Result<Confirmed, BrokerError>>;

/// How a delivery is answered.
#[derive(Debug, Clone, PartialEq)]
pub enum Settlement {
    /// Done with; the broker forgets it.
    Ack,
    /// Dropped, or dead-lettered where the queue says so; never redelivered here.
    Reject,
    /// Back to the queue, to be delivered again soon, marked redelivered.
    Requeue,
    /// Back to the queue after a delay, with these headers in place of its own. Needs
    /// [`Capabilities::delayed_redelivery`].
    RequeueAfter(Duration, Headers),
}

/// What became of a queue that was to be deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// It is gone, with all that was in it.
    Deleted,
    /// It has consumers, and stays.
    InUse,
    /// It holds messages, and stays.
    NotEmpty,
    /// There is no such queue.
    Missing,
}

/// Why a connection is made: publishing and consuming never share one, for a blocked publisher must not hold back acks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Purpose {
    Publish,
    Consume,
    /// Reading along on a private queue.
    Follow,
    /// Publishing what only helps others.
    Tell,
}

/// One live connection to a broker. Every call may fail with an endpoint fault once it is broken; nothing hangs for
/// longer than the broker's configured time-outs.
#[async_trait]
pub trait Connection: Send + Sync {
    /// What this transport can do.
    fn capabilities(&self) -> Capabilities;

    /// Asserts exchanges, queues and bindings, in that order. Repeatable. An exchange or queue that exists with other
    /// arguments (406), or that we may not configure (403), is accepted as it stands after a passive declare; the
    /// returned warnings say so. Anything missing is an own fault.
    ///
    /// An exclusive queue whose name is empty gets one for as long as this connection stands; in the bindings, and in later calls,
    /// the empty name is that queue.
    async fn declare(&self, topology: &Topology) -> Result<Vec<Warning>, BrokerError>;

    /// Hands one message to the broker. Returns as soon as it is on its way, in the order of the calls; the `Confirm`
    /// resolves when the broker has it durable. The caller bounds how many confirms are open. A publish whose confirm
    /// is dropped or fails may or may not have happened.
    async fn publish(&self, exchange: &str, envelope: &Envelope, returns: Returns) -> Result<Confirm, BrokerError>;

    /// Starts consuming on a channel of its own. At most `prefetch` deliveries are unsettled at any time.
    async fn subscribe(&self, queue: &str, prefetch: u16) -> Result<Box<dyn Subscription>, BrokerError>;

    /// Ready messages in a queue; `None` when there is no such queue.
    async fn depth(&self, queue: &str) -> Result<Option<u64>, BrokerError>;

    /// Everybody who consumes from a queue, ourselves included; `None` when there is no such queue.
    async fn consumers(&self, queue: &str) -> Result<Option<u64>, BrokerError>;

    /// Deletes a queue, unless it is guarded: with `if_unused` while it has consumers, with `if_empty` while it holds
    /// messages that nobody has in hand. What a consumer was given, and has not settled when it cancelled, guards
    /// nothing. One that is exclusive to another connection is an endpoint fault. RabbitMQ knows guards for classic
    /// queues only: for others they are an own fault, and end the connection.
    async fn delete_queue(&self, queue: &str, if_unused: bool, if_empty: bool) -> Result<Removal, BrokerError>;

    /// Deletes an exchange with its bindings; one that is not there is no error.
    async fn delete_exchange(&self, exchange: &str) -> Result<(), BrokerError>;

    /// Whether there is such an exchange: publishing to one that is missing ends the connection. A name that none can
    /// have is missing.
    async fn has_exchange(&self, exchange: &str) -> Result<bool, BrokerError>;

    /// Resolves when the connection has died, with the reason.
    async fn closed(&self) -> BrokerError;

    /// Closes in good order. Unsettled deliveries go back to their queues.
    async fn close(&self);
}

/// Deliveries of one consumer, in queue order.
#[async_trait]
pub trait Subscription: Send {
    /// The next delivery. `Err` ends the subscription: queue deleted, channel closed (the reason says which), or
    /// connection lost. Safe to drop while waiting.
    async fn next(&mut self) -> Result<Received, BrokerError>;

    /// Asks for no more deliveries; those already handed out can still be settled. Prefetched ones go back: a guarded
    /// delete that is asked after this finds them, though a depth may not count them at once.
    async fn cancel(&mut self);
}

/// A delivery as the transport hands it over. Dropping it settles nothing: the broker redelivers when the
/// subscription's channel is gone.
pub struct Received {
    /// The message; see [`Envelope::unreadable`].
    pub envelope: Envelope,
    /// Where it was published; `""` is the default exchange. None where the transport does not tell, or the name cannot
    /// be read.
    pub exchange: Option<String>,
    /// Somebody may have seen it before.
    pub redelivered: bool,
    /// How to answer.
    pub receipt: Box<dyn Receipt>,
}

/// The means to settle one delivery, once.
#[async_trait]
pub trait Receipt: Send + Sync {
    /// Settles. An error means the broker will redeliver, nothing else.
    async fn settle(self: Box<Self>, how: Settlement) -> Result<(), BrokerError>;
}

/// Connects to the first of the broker's URLs that answers, each with its own time-out. Does not retry.
/// `name` is shown in the broker's own listings.
pub async fn connect(broker: &Broker, purpose: Purpose, name: &str) -> Result<Box<dyn Connection>, BrokerError> {
    let Some(first) = broker.urls.first() else {
        return Err(BrokerError {
            fault: Fault::Own,
            what: format!("broker {} has no URL", broker.name),
            source: None,
        });
    };
    match first.scheme {
        Scheme::Amqp | Scheme::Amqps => Ok(Box::new(amqp::connect(broker, purpose, name).await?)),
        Scheme::Embedded => embedded::connect(first, purpose, name, broker.reply_timeout).await,
        Scheme::Stomp | Scheme::StompTls | Scheme::Amqp10 | Scheme::Amqps10 => Err(BrokerError {
            fault: Fault::Own,
            what: format!(
                "broker {}: this transport is not served by this version: {first}",
                broker.name
            ),
            source: None,
        }),
    }
}
