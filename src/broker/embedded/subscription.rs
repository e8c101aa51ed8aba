//! Deliveries of one consumer, and the receipts to settle them with.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;

use super::Line;
use super::request::{Channel, Left, Request, Subscribed};
use crate::broker::{BrokerError, Receipt, Received, Settlement, Subscription};

/// Wraps what the thread gave for a new consumer.
pub(super) fn new(line: Arc<Line>, subscribed: Subscribed) -> Box<dyn Subscription> {
    Box::new(EmbeddedSubscription {
        line,
        subscribed,
        is_cancelled: false,
    })
}

struct EmbeddedSubscription {
    line: Arc<Line>,
    subscribed: Subscribed,
    is_cancelled: bool,
}

impl EmbeddedSubscription {
    fn note_taken(&self, size: usize) {
        self.subscribed.backlog.fetch_sub(size, Ordering::AcqRel);
    }

    /// Ends the stream and takes out what was not handed out.
    fn take_unread(&mut self) -> Vec<i64> {
        self.is_cancelled = true;
        self.subscribed.deliveries.close();
        let mut unread = Vec::new();
        while let Ok(delivery) = self.subscribed.deliveries.try_recv() {
            // An error in here says that the queue is gone, and then nothing can go back to it.
            unread.extend(delivery.map(|delivery| delivery.message));
        }
        unread
    }
}

#[async_trait]
impl Subscription for EmbeddedSubscription {
    async fn next(&mut self) -> Result<Received, BrokerError> {
        let delivery = match self.subscribed.deliveries.recv().await {
            Some(Ok(delivery)) => delivery,
            Some(Err(reason)) => return Err(reason.into()),
            None if self.is_cancelled => {
                return Err(super::Reason::endpoint("the subscription was cancelled")
                    .at(&self.line.place)
                    .into());
            }
            None => return Err(self.line.death().into()),
        };
        self.note_taken(delivery.envelope.body.len());
        Ok(Received {
            envelope: delivery.envelope,
            redelivered: delivery.redelivered,
            receipt: Box::new(EmbeddedReceipt {
                line: self.line.clone(),
                channel: self.subscribed.channel.clone(),
                message: delivery.message,
            }),
        })
    }

    async fn cancel(&mut self) {
        if self.is_cancelled {
            return;
        }
        let unread = self.take_unread();
        let consumer = self.subscribed.consumer;
        let cancel = |reply| Request::Cancel {
            consumer,
            unread,
            reply,
        };
        // On an error the connection is dead or stuck, and everything goes back at its end.
        let _ = self.line.ask("cancel", cancel).await;
    }
}

impl Drop for EmbeddedSubscription {
    fn drop(&mut self) {
        if !self.is_cancelled {
            let unread = self.take_unread();
            let consumer = self.subscribed.consumer;
            self.line.bell.leave(Left::Subscription { consumer, unread });
        }
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
