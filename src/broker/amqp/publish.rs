//! Publishing with confirms. Whatever kills a publishing channel ends the connection: what was in flight on it is
//! unknown, and order would be lost if later messages went ahead on another.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_util::future::BoxFuture;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{Channel, Confirmation, PublisherConfirm};
use tokio::sync::Mutex;

use super::classify::fault;
use super::convert::{short, to_properties};
use super::life::Ending;
use super::{Link, classify};
use crate::broker::{BrokerError, Confirm, Confirmed, Returns};
use crate::message::{Envelope, Fault};

/// The two publishing channels, opened when first used. A lock is held while a message is queued, so that messages
/// leave in the order of the calls; the library mixes up confirms when two tasks publish on one channel at once.
pub(super) struct Publisher {
    link: Arc<Link>,
    pipelined: Mutex<Option<Channel>>,
    /// The library hands a returned message to whatever publish is confirmed next. It is right only while there is
    /// one, so the lock is held until the confirm.
    alone: Arc<Mutex<Option<Channel>>>,
}

impl Publisher {
    pub(super) fn new(link: Arc<Link>) -> Self {
        Publisher {
            link,
            pipelined: Mutex::default(),
            alone: Arc::default(),
        }
    }

    pub(super) async fn publish(
        &self,
        exchange: &str,
        envelope: &Envelope,
        returns: Returns,
    ) -> Result<Confirm, BrokerError> {
        match returns {
            Returns::Counted => {
                let mut channel = self.pipelined.lock().await;
                let pending = send(&self.link, &mut channel, exchange, envelope).await?;
                let confirm = Sent::new(&self.link, exchange, envelope, pending);
                Ok(Box::pin(confirm.answer()))
            }
            Returns::Known => {
                let (link, alone) = (self.link.clone(), self.alone.clone());
                let (exchange, envelope) = (exchange.to_owned(), envelope.clone());
                // A task of its own: a caller that gives up must not leave an unanswered publish on the channel.
                let task = tokio::spawn(async move { publish_alone(&link, &alone, &exchange, &envelope).await });
                let broken_off = |error| fault(Fault::Endpoint, format!("publish broken off: {error}"));
                let confirmed = task.await.map_err(broken_off)??;
                Ok(Box::pin(std::future::ready(Ok(confirmed))))
            }
        }
    }
}

async fn publish_alone(
    link: &Arc<Link>,
    channel: &Mutex<Option<Channel>>,
    exchange: &str,
    envelope: &Envelope,
) -> Result<Confirmed, BrokerError> {
    let mut channel = channel.lock().await;
    let pending = send(link, &mut channel, exchange, envelope).await?;
    Sent::new(link, exchange, envelope, pending).answer().await
}

/// Larger bodies are waited for until they are written: what is queued takes memory, and the window counts messages.
const QUEUED_BYTES_MAX: usize = 64 << 10;

/// Queues one message, in the order of the calls.
async fn send(
    link: &Link,
    channel: &mut Option<Channel>,
    exchange: &str,
    envelope: &Envelope,
) -> Result<Awaited, BrokerError> {
    let properties = to_properties(envelope, link.connection.configuration().frame_max())?;
    let key = short(&envelope.key, "routing key")?;
    let exchange_name = short(exchange, "exchange name").map_err(|error| fault(Fault::Own, error.what))?;
    let blamed = |over| blamed(link, exchange, &envelope.key, envelope.body.len(), over);
    if let Some(over) = link.life.over() {
        return Err(blamed(over));
    }
    let channel = match channel {
        Some(channel) => channel,
        None => {
            let opened = link.channel().await?;
            link.life
                .ask(
                    "turn on confirms",
                    opened.confirm_select(ConfirmSelectOptions::default()),
                )
                .await?;
            channel.insert(opened)
        }
    };
    let options = BasicPublishOptions {
        mandatory: true,
        immediate: false,
    };
    let (channel, body) = (channel.clone(), envelope.body.clone());
    let mut publishing: Writing = Box::pin(async move {
        channel
            .basic_publish(exchange_name, key, options, &body, properties)
            .await
    });
    // The first poll queues the message. Its writing need not be waited for here: that would cost two changes of
    // threads for each.
    let queued = match std::future::poll_fn(|context| Poll::Ready(publishing.as_mut().poll(context))).await {
        Poll::Pending if envelope.body.len() <= QUEUED_BYTES_MAX => return Ok(Awaited(Stage::Writing(publishing))),
        Poll::Pending => link.life.wait("publish", publishing).await.map_err(blamed)?,
        Poll::Ready(queued) => queued,
    };
    match queued {
        Ok(pending) => Ok(Awaited(Stage::Confirming(pending))),
        Err(error) => Err(ended(link, exchange, &envelope.key, envelope.body.len(), &error)),
    }
}

/// A message that is on its way.
struct Sent {
    link: Arc<Link>,
    exchange: String,
    key: String,
    bytes: usize,
    pending: Awaited,
}

impl Sent {
    fn new(link: &Arc<Link>, exchange: &str, envelope: &Envelope, pending: Awaited) -> Self {
        Sent {
            link: link.clone(),
            exchange: exchange.to_owned(),
            key: envelope.key.clone(),
            bytes: envelope.body.len(),
            pending,
        }
    }

    async fn answer(mut self) -> Result<Confirmed, BrokerError> {
        let answer = self.link.life.wait("publish", &mut self.pending).await;
        match answer.map_err(|over| blamed(&self.link, &self.exchange, &self.key, self.bytes, over))? {
            Ok(Confirmation::Ack(None)) => Ok(Confirmed::Routed),
            Ok(Confirmation::Ack(Some(_))) => Ok(Confirmed::Returned),
            Ok(Confirmation::Nack(_)) => Err(fault(
                Fault::Endpoint,
                format!(
                    "{} does not take {}: a queue is full or was just deleted, or the broker could not store it",
                    self.url(),
                    self.key
                ),
            )),
            Ok(Confirmation::NotRequested) => unreachable!("every publishing channel is in confirm mode"),
            Err(error) => Err(ended(&self.link, &self.exchange, &self.key, self.bytes, &error)),
        }
    }

    fn url(&self) -> &str {
        &self.link.life.url
    }
}

type Writing = BoxFuture<'static, lapin::Result<PublisherConfirm>>;

/// How far a publish has come.
enum Stage {
    Writing(Writing),
    Confirming(PublisherConfirm),
    Answered,
}

/// The library remembers a confirm that is dropped unanswered, for ever: see it through.
struct Awaited(Stage);

impl Future for Awaited {
    type Output = lapin::Result<Confirmation>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let answer = match &mut self.0 {
                Stage::Writing(writing) => match ready!(writing.as_mut().poll(context)) {
                    Ok(pending) => {
                        self.0 = Stage::Confirming(pending);
                        continue;
                    }
                    Err(error) => Err(error),
                },
                Stage::Confirming(pending) => ready!(Pin::new(pending).poll(context)),
                Stage::Answered => unreachable!("polled after it was answered"),
            };
            self.0 = Stage::Answered;
            return Poll::Ready(answer);
        }
    }
}

impl Drop for Awaited {
    fn drop(&mut self) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        // The verdict is lost by the choice of the caller, who counts the publish as unknown.
        match std::mem::replace(&mut self.0, Stage::Answered) {
            Stage::Answered => {}
            Stage::Confirming(pending) => drop(runtime.spawn(async move { drop(pending.await) })),
            Stage::Writing(writing) => drop(runtime.spawn(async move {
                if let Ok(pending) = writing.await {
                    drop(pending.await);
                }
            })),
        }
    }
}

/// A publish that failed has ended its channel and, by that, this connection.
fn ended(link: &Link, exchange: &str, key: &str, bytes: usize, error: &lapin::Error) -> BrokerError {
    let what = format!("cannot publish {key} to exchange {exchange} on {}", link.life.url);
    let mut own = Ending::of(what, error);
    if is_too_large(error, bytes) {
        own.fault = Fault::Message;
    }
    let everybody = Ending {
        // The others on the channel are not to blame for one bad message.
        fault: match own.fault {
            Fault::Message => Fault::Endpoint,
            other => other,
        },
        ..own.clone()
    };
    link.life.end(everybody);
    own.into()
}

/// Why the connection is over, for one of the messages that were in flight. Whichever learns of a refusal first ends the
/// connection; the message that was refused is told by its size, for any of that size would be refused.
fn blamed(link: &Link, exchange: &str, key: &str, bytes: usize, over: BrokerError) -> BrokerError {
    let reason = over.source.as_ref().map(ToString::to_string).unwrap_or_default();
    if !says_too_large(&reason, bytes) {
        return over;
    }
    BrokerError {
        fault: Fault::Message,
        what: format!("cannot publish {key} to exchange {exchange} on {}", link.life.url),
        source: Some(reason.into()),
    }
}

fn is_too_large(error: &lapin::Error, bytes: usize) -> bool {
    classify::reply_code(error) == Some(406) && says_too_large(&classify::reason(error), bytes)
}

/// RabbitMQ: "406 PRECONDITION_FAILED - message size N is larger than configured max size M".
fn says_too_large(reason: &str, bytes: usize) -> bool {
    reason.contains(&format!("message size {bytes} is larger"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_that_is_too_large_is_known_by_its_size() {
        let reason = "406 PRECONDITION_FAILED - message size 1000001 is larger than configured max size 1000000";
        for (bytes, is_it) in [(1_000_001, true), (1_000_000, false), (100_000, false), (1, false)] {
            assert_eq!(says_too_large(reason, bytes), is_it, "{bytes}");
        }
    }
}
