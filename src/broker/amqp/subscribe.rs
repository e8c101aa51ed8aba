//! Consuming: each subscription has its own channel, which lives as long as one of its deliveries may be settled.

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::StreamExt;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions, BasicRejectOptions,
    QueueDeclareOptions,
};
use lapin::types::{FieldTable, ShortString};
use lapin::{Channel, Consumer};

use super::Link;
use super::classify::{fault, reason, refused, reply_code};
use super::convert::{short, to_envelope};
use crate::broker::{BrokerError, Receipt, Received, Settlement, Subscription};
use crate::message::Fault;

/// Starts consuming.
pub(super) async fn subscribe(link: Arc<Link>, queue: &str, prefetch: u16) -> Result<Deliveries, BrokerError> {
    let queue = &*link.queue_name(queue).to_owned();
    let name = short(queue, "queue name").map_err(|error| fault(Fault::Own, error.what))?;
    let channel = link.channel().await?;
    // On the wire 0 means without bound, which nobody wants here.
    let qos = channel.basic_qos(prefetch.max(1), BasicQosOptions::default());
    link.life.ask("set the prefetch", qos).await?;
    // An empty tag: the broker invents one.
    let tag = ShortString::default();
    let consume = channel.basic_consume(name, tag, BasicConsumeOptions::default(), FieldTable::default());
    match link.life.wait("consume", consume).await? {
        Ok(consumer) => Ok(Deliveries {
            link,
            channel,
            consumer,
            queue: queue.to_owned(),
            is_cancelled: false,
        }),
        Err(error) => Err(consume_refusal(&link, queue, &error)),
    }
}

fn consume_refusal(link: &Link, queue: &str, error: &lapin::Error) -> BrokerError {
    let advice = match reply_code(error) {
        Some(403) if reason(error).contains("exclusive use") => "another consumer has it for itself",
        Some(403) => "the user lacks the permission to read it",
        Some(404) => "it does not exist; has it expired or been deleted?",
        Some(405) => "it belongs to another connection",
        _ => return refused(format!("cannot consume queue {queue} on {}", link.life.url), error),
    };
    refused(
        format!("cannot consume queue {queue} on {}: {advice}", link.life.url),
        error,
    )
}

/// The deliveries of one consumer.
pub(super) struct Deliveries {
    link: Arc<Link>,
    channel: Channel,
    consumer: Consumer,
    queue: String,
    is_cancelled: bool,
}

impl Deliveries {
    fn received(&self, delivery: Delivery) -> Received {
        let receipt = DeliveryReceipt {
            link: self.link.clone(),
            channel: self.channel.clone(),
            tag: delivery.delivery_tag,
        };
        let redelivered = delivery.redelivered;
        let (exchange, envelope) = to_envelope(delivery);
        Received {
            envelope,
            exchange,
            redelivered,
            receipt: Box::new(receipt),
        }
    }

    fn broken(&self, error: &lapin::Error) -> BrokerError {
        if let Some(over) = self.link.life.over() {
            return over;
        }
        let what = format!("consuming queue {} on {} ended", self.queue, self.link.life.url);
        if reply_code(error) == Some(406) && reason(error).contains("timed out") {
            let advice = "a delivery was not settled within the broker's consumer_timeout and will be redelivered";
            return refused(format!("{what}: {advice}"), error);
        }
        refused(what, error)
    }

    /// The stream has ended without an error.
    fn gone(&self) -> BrokerError {
        if let Some(over) = self.link.life.over() {
            return over;
        }
        let what = format!("consuming queue {} on {} ended", self.queue, self.link.life.url);
        let why = if self.is_cancelled {
            "it was cancelled"
        } else if self.channel.status().connected() {
            "the queue was deleted, its node went down, or a delivery was not settled within the broker's \
             consumer_timeout"
        } else {
            "its channel is closed"
        };
        fault(Fault::Endpoint, format!("{what}: {why}"))
    }
}

#[async_trait]
impl Subscription for Deliveries {
    async fn next(&mut self) -> Result<Received, BrokerError> {
        if self.is_cancelled {
            return Err(self.gone());
        }
        loop {
            let next = tokio::select! {
                biased;
                next = self.consumer.next() => next,
                over = self.link.life.ended() => return Err(over),
            };
            match next {
                Some(Ok(delivery)) if self.channel.status().connected() => return Ok(self.received(delivery)),
                // Its channel is gone, so the broker has it back already.
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(self.broken(&error)),
                None => return Err(self.gone()),
            }
        }
    }

    async fn cancel(&mut self) {
        if std::mem::replace(&mut self.is_cancelled, true) {
            return;
        }
        let cancel = self
            .channel
            .basic_cancel(self.consumer.tag(), BasicCancelOptions::default());
        let what = format!("cancel the consumer of queue {}", self.queue);
        if self.link.life.ask(&what, cancel).await.is_err() {
            // The channel or the connection is gone, and with it the consumer; everything is back in the queue.
            return;
        }
        let (consumer, channel, queue) = (&mut self.consumer, &self.channel, &self.queue);
        let give_back = async {
            let mut is_given_back = false;
            while let Some(Ok(prefetched)) = consumer.next().await {
                let options = BasicNackOptions {
                    multiple: false,
                    requeue: true,
                };
                channel.basic_nack(prefetched.delivery_tag, options).await?;
                is_given_back = true;
            }
            if is_given_back && let Ok(name) = ShortString::try_new(queue.as_str()) {
                // A nack has no answer. When this one comes, the nacks are with the queue: it does not put them off behind
                // a delete, as it does behind a question for its depth.
                let options = QueueDeclareOptions {
                    passive: true,
                    ..QueueDeclareOptions::default()
                };
                channel.queue_declare(name, options, FieldTable::default()).await?;
            }
            Ok(())
        };
        // Nothing lost: when this fails the channel is gone, and everything is back in the queue.
        let _ = self.link.life.ask(&what, give_back).await;
    }
}

/// Holds the channel: a delivery can be settled after its subscription is cancelled and dropped.
struct DeliveryReceipt {
    link: Arc<Link>,
    channel: Channel,
    tag: u64,
}

#[async_trait]
impl Receipt for DeliveryReceipt {
    async fn settle(self: Box<Self>, how: Settlement) -> Result<(), BrokerError> {
        let (life, channel, tag) = (&self.link.life, &self.channel, self.tag);
        match how {
            Settlement::Ack => {
                life.ask("ack", channel.basic_ack(tag, BasicAckOptions::default()))
                    .await
            }
            Settlement::Reject => {
                let options = BasicRejectOptions { requeue: false };
                life.ask("reject", channel.basic_reject(tag, options)).await
            }
            Settlement::Requeue => {
                // Not a reject: from RabbitMQ 4.3 on a quorum queue counts that as a failed delivery, and has a limit.
                let options = BasicNackOptions {
                    multiple: false,
                    requeue: true,
                };
                life.ask("requeue", channel.basic_nack(tag, options)).await
            }
            Settlement::RequeueAfter(..) => Err(fault(
                Fault::Own,
                "AMQP 0-9-1 cannot requeue after a delay; park through queues with a time to live",
            )),
        }
    }
}
