//! Reading along: each delivery is settled when it is noted, for what it tells is soft.

use futures_util::future::{self, FutureExt};
use tokio_util::sync::CancellationToken;

use crate::broker::{BrokerError, Connection, Settlement};
use crate::message::Envelope;

const PREFETCH: u16 = 500;
/// Noted and settled at once: what has come until then, and no more. Waiting for one ack after the other would be slower
/// than a dispatcher forwards.
const AT_ONCE: usize = 100;

/// Reads a queue that only this unit sees, in its order, and settles what is noted. `Ok` when `until` is cancelled: the
/// consumer is cancelled then.
pub async fn read_along<F: Future<Output = ()> + Send>(
    connection: &dyn Connection,
    queue: &str,
    until: &CancellationToken,
    note: impl Fn(Vec<Envelope>) -> F + Send + Sync,
) -> Result<(), BrokerError> {
    let mut subscription = connection.subscribe(queue, PREFETCH).await?;
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
