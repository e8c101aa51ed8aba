//! Deliveries of one consumer, and the receipts to settle them with.

use std::sync::Arc;

use async_trait::async_trait;

use super::Line;
use super::reason::Reason;
use super::request::{Channel, Left, Request, Subscribed};
use crate::broker::{BrokerError, Receipt, Received, Settlement, Subscription};

/// Wraps what the thread gave for a new consumer.
pub(super) fn new(line: Arc<Line>, subscribed: Subscribed) -> Box<dyn Subscription> {
    Box::new(EmbeddedSubscription {
        line,
        subscribed,
        end: None,
        is_told: false,
    })
}

struct EmbeddedSubscription {
    line: Arc<Line>,
    subscribed: Subscribed,
    /// Why there are no more deliveries.
    end: Option<Reason>,
    /// The thread knows that it was cancelled.
    is_told: bool,
}

#[async_trait]
impl Subscription for EmbeddedSubscription {
    async fn next(&mut self) -> Result<Received, BrokerError> {
        if let Some(end) = &self.end {
            return Err(end.clone().into());
        }
        // What a dead connection had claimed could not be settled: it is not handed out.
        let delivery = match self.subscribed.stream.deliveries.recv().await {
            _ if self.line.is_dead() => Err(self.line.death().await),
            Some(delivery) => delivery,
            None => Err(self.line.death().await),
        };
        let delivery = delivery.map_err(|end| self.end.insert(end).clone())?;
        if self.subscribed.stream.note_taken(delivery.envelope.body.len()) {
            self.line.bell.ring();
        }
        Ok(Received {
            envelope: delivery.envelope,
            exchange: None,
            redelivered: delivery.redelivered,
            receipt: Box::new(EmbeddedReceipt {
                line: self.line.clone(),
                channel: self.subscribed.channel.clone(),
                message: delivery.message,
            }),
        })
    }

    async fn cancel(&mut self) {
        if self.end.is_some() {
            return;
        }
        let place = &self.line.place;
        self.end = Some(Reason::endpoint("the subscription was cancelled").at(place));
        let deliveries = &mut self.subscribed.stream.deliveries;
        deliveries.close();
        let mut unread = Vec::new();
        while let Some(delivery) = deliveries.recv().await {
            // An error in here says that the queue is gone, and then nothing can go back to it.
            unread.extend(delivery.map(|delivery| delivery.message));
        }
        let consumer = self.subscribed.channel.consumer;
        let cancel = |reply| Request::Cancel {
            consumer,
            unread,
            reply,
        };
        // On an error the connection is dead or stuck, and everything goes back at its end.
        self.is_told = self.line.ask("cancel", cancel).await.is_ok();
    }
}

impl Drop for EmbeddedSubscription {
    fn drop(&mut self) {
        if self.is_told {
            return;
        }
        let deliveries = &mut self.subscribed.stream.deliveries;
        deliveries.close();
        let mut unread = Vec::new();
        while let Ok(delivery) = deliveries.try_recv() {
            unread.extend(delivery.map(|delivery| delivery.message));
        }
        let consumer = self.subscribed.channel.consumer;
        self.line.bell.leave(Left::Subscription { consumer, unread });
    }
}

struct EmbeddedReceipt {
    line: Arc<Line>,
    /// Keeps the claim: when the subscription and all receipts are gone, what is unsettled goes back.
    channel: Arc<Channel>,
    message: i64,
}

#[async_trait]
impl Receipt for EmbeddedReceipt {
    async fn settle(self: Box<Self>, how: Settlement) -> Result<(), BrokerError> {
        let (message, consumer) = (self.message, self.channel.consumer);
        let settle = |reply| Request::Settle {
            message,
            consumer,
            how,
            reply,
        };
        Ok(self.line.ask("settle", settle).await?)
    }
}
