//! AMQP 0-9-1 by lapin: RabbitMQ and its clusters. No name of lapin's leaves this folder.
//!
//! lapin's own recovery stays off: a connection that breaks stays broken, and `flow` makes the next one.

mod classify;
mod convert;
mod declare;
mod dial;
mod filtered;
mod frames;
mod life;
mod publish;
mod remove;
mod subscribe;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use lapin::Channel;
use tokio::time::timeout;

use super::{BrokerError, Capabilities, Confirm, Connection, Purpose, Removal, Returns, Subscription, Warning};
use crate::config::{Broker, BrokerUrl};
use crate::message::{Envelope, Fault, Topology};
use classify::fault;
use dial::{Dialled, dial};
use life::{Ending, Life};
use publish::Publisher;

/// An orderly close takes one round trip; beyond this the broker finds out by itself.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Connects to the first candidate that answers. When none does, the error names each with its reason; it is our own
/// fault if one of them answered and refused us.
pub(super) async fn connect(broker: &Broker, purpose: Purpose, name: &str) -> Result<Amqp, BrokerError> {
    let shown_name = match purpose {
        Purpose::Publish | Purpose::Tell => format!("{name} (publish)"),
        Purpose::Consume | Purpose::Follow => format!("{name} (consume)"),
    };
    let mut candidates: Vec<&BrokerUrl> = broker.urls.iter().collect();
    if broker.random_order {
        fastrand::shuffle(&mut candidates);
    }
    let mut worst = Fault::Endpoint;
    let mut reasons = Vec::new();
    for url in candidates {
        match dial(url, broker, &shown_name).await {
            Ok(dialled) => return Ok(Amqp::new(dialled, url, broker.reply_timeout)),
            Err(error) => {
                if error.fault == Fault::Own {
                    worst = Fault::Own;
                }
                reasons.push(format!("{url}: {}", error.what));
            }
        }
    }
    let what = format!("cannot connect to broker {}: {}", broker.name, reasons.join("; "));
    Err(fault(worst, what))
}

/// What every part of a connection shares.
struct Link {
    connection: lapin::Connection,
    life: Arc<Life>,
    /// What the broker has named the queue that was declared without a name.
    nameless: OnceLock<String>,
}

impl Link {
    fn queue_name<'a>(&'a self, name: &'a str) -> &'a str {
        match self.nameless.get() {
            Some(own) if name.is_empty() => own,
            _ => name,
        }
    }

    async fn channel(&self) -> Result<Channel, BrokerError> {
        self.life.ask("open a channel", self.connection.create_channel()).await
    }

    /// Closes a channel that has served its turn.
    async fn close(&self, channel: Channel) {
        // Nothing lost: a channel that cannot be closed is gone already.
        let _ = self.life.ask("close a channel", channel.close(200, "OK".into())).await;
    }
}

/// One live AMQP connection.
pub(super) struct Amqp {
    link: Arc<Link>,
    publisher: Publisher,
}

impl Amqp {
    fn new(dialled: Dialled, url: &BrokerUrl, reply_timeout: Duration) -> Self {
        let Dialled { connection, socket } = dialled;
        let life = Arc::new(Life::new(socket, url.to_string(), reply_timeout));
        let events = Box::pin(connection.events_listener());
        tokio::spawn(life::watch_over(life.clone(), connection.status().clone(), events));
        let link = Arc::new(Link {
            connection,
            life,
            nameless: OnceLock::new(),
        });
        Amqp {
            publisher: Publisher::new(link.clone()),
            link,
        }
    }

    fn end(&self) {
        let what = format!("connection to {} was closed by us", self.link.life.url);
        self.link.life.end(Ending::new(Fault::Endpoint, what));
    }
}

/// Without `close` first, the broker sees the connection break off.
impl Drop for Amqp {
    fn drop(&mut self) {
        self.end();
    }
}

#[async_trait]
impl Connection for Amqp {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            delayed_redelivery: false,
            dead_lettering: true,
        }
    }

    async fn declare(&self, topology: &Topology) -> Result<Vec<Warning>, BrokerError> {
        declare::declare(&self.link, topology).await
    }

    async fn publish(&self, exchange: &str, envelope: &Envelope, returns: Returns) -> Result<Confirm, BrokerError> {
        self.publisher.publish(exchange, envelope, returns).await
    }

    async fn subscribe(&self, queue: &str, prefetch: u16) -> Result<Box<dyn Subscription>, BrokerError> {
        Ok(Box::new(
            subscribe::subscribe(self.link.clone(), queue, prefetch).await?,
        ))
    }

    async fn depth(&self, queue: &str) -> Result<Option<u64>, BrokerError> {
        Ok(declare::look(&self.link, queue).await?.map(|(ready, _)| ready))
    }

    async fn consumers(&self, queue: &str) -> Result<Option<u64>, BrokerError> {
        Ok(declare::look(&self.link, queue).await?.map(|(_, consumers)| consumers))
    }

    async fn delete_queue(&self, queue: &str, if_unused: bool, if_empty: bool) -> Result<Removal, BrokerError> {
        remove::delete_queue(&self.link, queue, if_unused, if_empty).await
    }

    async fn delete_exchange(&self, exchange: &str) -> Result<(), BrokerError> {
        remove::delete_exchange(&self.link, exchange).await
    }

    async fn has_exchange(&self, exchange: &str) -> Result<bool, BrokerError> {
        declare::has_exchange(&self.link, exchange).await
    }

    async fn closed(&self) -> BrokerError {
        self.link.life.ended().await
    }

    async fn close(&self) {
        // Nothing lost when this fails: the socket is shut right after, and the broker takes everything back.
        let _ = timeout(CLOSE_TIMEOUT, self.link.connection.close(200, "OK".into())).await;
        self.end();
    }
}
