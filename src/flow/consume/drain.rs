//! Takes what is in a queue, batch by batch, for somebody who makes each batch safe.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::broker::{BrokerError, Connection, Receipt, Settlement, Subscription};
use crate::spool::spill::Message;

/// A batch, at most.
const BATCH_MESSAGES: usize = 128;
/// Of bodies; a batch has one message at least.
const BATCH_BYTES: usize = 8 << 20;
/// While one batch is made safe, the next one is on its way.
const PREFETCH: u16 = 256;
/// When nothing comes for so long, the rest is in others' hands, or has expired.
const IDLE: Duration = Duration::from_secs(2);

/// What was ready in a queue when it began.
pub struct Drain {
    subscription: Box<dyn Subscription>,
    /// Messages that are still to come.
    left: u64,
    /// Of the batch that was handed out last.
    unsettled: Vec<Box<dyn Receipt>>,
}

impl Drain {
    /// Starts to consume, unless nothing is ready or the queue is missing.
    pub async fn start(connection: &dyn Connection, queue: &str) -> Result<Option<Drain>, BrokerError> {
        match connection.depth(queue).await? {
            None | Some(0) => Ok(None),
            Some(left) => Ok(Some(Drain {
                subscription: connection.subscribe(queue, PREFETCH).await?,
                left,
                unsettled: Vec::new(),
            })),
        }
    }

    /// The next messages, in the queue's order; none when the end is reached. The last batch must be settled.
    pub async fn batch(&mut self) -> Result<Vec<Message>, BrokerError> {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while self.left > 0 && batch.len() < BATCH_MESSAGES && bytes < BATCH_BYTES {
            let Ok(received) = timeout_at(Instant::now() + IDLE, self.subscription.next()).await else {
                self.left = 0;
                break;
            };
            let received = received?;
            self.left -= 1;
            bytes += received.envelope.body.len();
            self.unsettled.push(received.receipt);
            batch.push(Message {
                exchange: received.exchange,
                redelivered: received.redelivered,
                envelope: received.envelope,
            });
        }
        Ok(batch)
    }

    /// Takes the last batch from the broker for good. Call it when that is safe.
    pub async fn settle(&mut self) -> Result<(), BrokerError> {
        for receipt in std::mem::take(&mut self.unsettled) {
            receipt.settle(Settlement::Ack).await?;
        }
        Ok(())
    }

    /// Ends consuming. What was not settled is back in the queue, at the latest with the connection's end.
    pub async fn end(mut self) {
        self.subscription.cancel().await;
    }
}
