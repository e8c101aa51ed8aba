//! Reading along: each delivery is settled when it is noted, for what it tells is soft.

use std::time::Duration;

use futures_util::future::{self, FutureExt};
use tokio_util::sync::CancellationToken;

use crate::broker::{BrokerError, Connection, Settlement, Subscription};
use crate::message::Envelope;

const PREFETCH: u16 = 500;
/// Noted and settled at once: what has come until then, and no more. Waiting for one ack after the other would be slower
/// than a dispatcher forwards.
const AT_ONCE: usize = 100;
/// How long somebody who is just going is waited for, and how often it is looked.
const OTHERS_GO: Duration = Duration::from_secs(2);
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// The same for somebody who stays.
const LOOK_RARELY: Duration = Duration::from_secs(5);

/// Subscribes to a queue of which this is to be the only consumer. `None` where there is another one, also after a
/// moment for one that is just going: it would get a part of what is meant for this one.
pub async fn subscribe_alone(
    connection: &dyn Connection,
    queue: &str,
) -> Result<Option<Box<dyn Subscription>>, BrokerError> {
    let others = async {
        while connection.consumers(queue).await?.is_some_and(|count| count > 0) {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        Ok::<(), BrokerError>(())
    };
    match tokio::time::timeout(OTHERS_GO, others).await {
        Ok(gone) => gone?,
        Err(_) => return Ok(None),
    }
    let mut subscription = subscribe(connection, queue).await?;
    // Two may have found it free at once. Both see it now.
    if connection.consumers(queue).await?.is_some_and(|count| count > 1) {
        subscription.cancel().await;
        return Ok(None);
    }
    Ok(Some(subscription))
}

/// Subscribes as it is good for reading along.
pub(super) async fn subscribe(connection: &dyn Connection, queue: &str) -> Result<Box<dyn Subscription>, BrokerError> {
    connection.subscribe(queue, PREFETCH).await
}

/// Returns when nobody consumes from the queue, or when that cannot be told.
pub async fn wait_until_unused(connection: &dyn Connection, queue: &str) -> Result<(), BrokerError> {
    while connection.consumers(queue).await?.is_some_and(|count| count > 0) {
        tokio::time::sleep(LOOK_RARELY).await;
    }
    Ok(())
}

/// Reads in the queue's order, and settles what is noted. `Ok` when `until` is cancelled: the consumer is cancelled
/// then.
pub async fn read_along<F: Future<Output = ()> + Send>(
    mut subscription: Box<dyn Subscription>,
    until: &CancellationToken,
    note: impl Fn(Vec<Envelope>) -> F + Send + Sync,
) -> Result<(), BrokerError> {
    while let Some(first) = until.run_until_cancelled(subscription.next()).await {
        let (mut envelopes, mut receipts) = (Vec::new(), Vec::new());
        let mut next = Some(first);
        while let Some(received) = next {
            let received = received?;
            envelopes.push(received.envelope);
            receipts.push(received.receipt);
            next = match envelopes.len() < AT_ONCE {
                true => subscription.next().now_or_never(),
                false => None,
            };
        }
        note(envelopes).await;
        let acks = receipts.into_iter().map(|receipt| receipt.settle(Settlement::Ack));
        future::try_join_all(acks).await?;
    }
    subscription.cancel().await;
    Ok(())
}
