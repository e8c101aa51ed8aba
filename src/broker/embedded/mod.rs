//! `embedded:PATH`: a durable topic broker in one SQLite file, for one host and several processes at once.
//!
//! Each connection is one thread that owns one handle of the file (`engine`); the calls of the trait are sent to it and
//! answered when their transaction is committed. A confirm means that the message survives a power cut. Beside the
//! file, in `PATH.d`, every connection holds a lock and listens on a socket (`presence`): a claim belongs to its
//! consumer as long as the lock is held, so a frozen process keeps what it has and a killed one gives it back within a
//! second. Messages are delivered in the order in which they were confirmed, and put back where they were.
//!
//! Exchanges and queues that are not durable stay as long as durable ones, for there is no server to stop. Every
//! return is known exactly. `expiration` and `priority` of a message travel and have no effect. There are no policies.
//! The file must be on a local file system. Only px may open it while px runs in the same process, and nobody should
//! touch what is in `PATH.d`.

mod codec;
mod consumers;
mod engine;
mod messages;
mod presence;
mod reason;
mod request;
mod routes;
mod schema;
mod subscription;
#[cfg(test)]
mod tests;
mod topology;

use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::Instant;

use self::codec::Content;
use self::engine::Engine;
use self::reason::Reason;
use self::request::{Bell, Left, Reply, Request, RingOnDrop};
use super::{
    BrokerError, Capabilities, Confirm, Confirmed, Connection, Purpose, Refusal, Removal, Returns, Subscription,
    Warning,
};
use crate::config::BrokerUrl;
use crate::message::{Envelope, Topology};

/// Calls under way per connection; more wait.
const REQUESTS_MAX: usize = 1024;
/// Bytes of bodies under way per connection. A larger message goes alone.
const PUBLISHING_BYTES_MAX: u32 = 32 << 20;

/// Opens the broker's file, or makes it, and joins the processes that use it. Its directory must exist.
///
/// Waits at most `reply_timeout` for other processes; no call of the connection waits longer either. `name` and the
/// purpose are shown in the file's table `owners`.
pub async fn connect(
    url: &BrokerUrl,
    purpose: Purpose,
    name: &str,
    reply_timeout: Duration,
) -> Result<Box<dyn Connection>, BrokerError> {
    let place = url.to_string();
    let bell = Arc::new(Bell::new().map_err(|reason| reason.at(&place))?);
    let (sender, requests) = mpsc::channel(REQUESTS_MAX);
    let (death_sender, death) = watch::channel(None);
    let (ready_sender, ready) = oneshot::channel();
    let line = Arc::new(Line {
        requests: sender,
        _ring: RingOnDrop(bell.clone()),
        bell: bell.clone(),
        death,
        place: place.clone(),
        reply_timeout,
        memory: Arc::new(Semaphore::new(PUBLISHING_BYTES_MAX as usize)),
    });
    let label = match purpose {
        Purpose::Publish | Purpose::Tell => format!("{name} publishes"),
        Purpose::Consume | Purpose::Follow => format!("{name} consumes"),
    };
    let path = url.path.clone();
    let open = move || Engine::open(&path, &label, &place, bell, requests, reply_timeout).map_err(|why| why.at(&place));
    std::thread::Builder::new()
        .name("px-embedded".to_string())
        .spawn(move || serve(open, ready_sender, &death_sender))
        .map_err(|error| Reason::os("start a thread", error).at(&line.place))?;
    match tokio::time::timeout(reply_timeout, ready).await {
        Ok(Ok(opened)) => opened?,
        Ok(Err(_)) => return Err(line.death().await.into()),
        Err(_) => return Err(line.too_late("open the file").into()),
    }
    let nameless = OnceLock::new();
    Ok(Box::new(Embedded { line, nameless }))
}

/// The life of the thread.
fn serve(
    open: impl FnOnce() -> Result<Engine, Reason>,
    ready: oneshot::Sender<Result<(), Reason>>,
    death: &watch::Sender<Option<Reason>>,
) {
    let (engine, answer) = match open() {
        Ok(engine) => (Some(engine), Ok(())),
        Err(reason) => (None, Err(reason)),
    };
    // Where nobody waits any more nobody holds the line either, and the first round ends it.
    let _ = ready.send(answer);
    let Some(mut engine) = engine else { return };
    let (reason, reply) = engine.run();
    death.send_replace(Some(reason));
    drop(engine);
    if let Some(reply) = reply {
        // The caller of close may have given up; it is closed all the same.
        let _ = reply.send(());
    }
}

/// The async side's end of the line to the thread.
struct Line {
    requests: mpsc::Sender<Request>,
    // After the sender: it tells the thread to look whether anybody is left, for a connect may be given up half-way.
    _ring: RingOnDrop,
    bell: Arc<Bell>,
    death: watch::Receiver<Option<Reason>>,
    place: String,
    reply_timeout: Duration,
    memory: Arc<Semaphore>,
}

impl Line {
    fn is_dead(&self) -> bool {
        self.death.borrow().is_some()
    }

    /// Waits until the connection has died. Answers that are dropped come a moment before their reason.
    async fn death(&self) -> Reason {
        match self.death.clone().wait_for(Option::is_some).await.as_deref() {
            Ok(Some(reason)) => reason.clone(),
            Ok(None) | Err(_) => Reason::endpoint("the broker's thread died").at(&self.place),
        }
    }

    fn too_late(&self, doing: &str) -> Reason {
        let waited = self.reply_timeout.as_secs_f32();
        Reason::endpoint(format!(
            "cannot {doing}: no answer for {waited} s; another process may hold the file, or the disk is slow"
        ))
        .at(&self.place)
    }

    async fn send(&self, request: Request, doing: &str, until: Instant) -> Result<(), Reason> {
        match tokio::time::timeout_at(until, self.requests.send(request)).await {
            Ok(Ok(())) => {
                self.bell.ring();
                Ok(())
            }
            Ok(Err(_)) => Err(self.death().await),
            Err(_) => Err(self.too_late(doing)),
        }
    }

    async fn receive<T>(
        &self,
        answer: oneshot::Receiver<Result<T, Reason>>,
        doing: &str,
        until: Instant,
    ) -> Result<T, Reason> {
        match tokio::time::timeout_at(until, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(self.death().await),
            Err(_) => Err(self.too_late(doing)),
        }
    }

    /// One call and its answer.
    async fn ask<T>(&self, doing: &str, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, Reason> {
        let until = Instant::now() + self.reply_timeout;
        let (reply, answer) = oneshot::channel();
        self.send(request(reply), doing, until).await?;
        self.receive(answer, doing, until).await
    }
}

/// A connection to the file.
struct Embedded {
    line: Arc<Line>,
    /// The name of the queue that was declared without one.
    nameless: OnceLock<String>,
}

impl Embedded {
    fn queue_name(&self, name: &str) -> String {
        match self.nameless.get() {
            Some(own) if name.is_empty() => own.clone(),
            _ => name.to_owned(),
        }
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.line.bell.leave(Left::Connection);
    }
}

#[async_trait]
impl Connection for Embedded {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            delayed_redelivery: true,
            dead_lettering: true,
        }
    }

    async fn declare(&self, topology: &Topology) -> Result<Vec<Warning>, BrokerError> {
        let topology = if topology.has_nameless() {
            let invent = || format!("px.gen-{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..));
            topology.named(self.nameless.get_or_init(invent))
        } else {
            topology.clone()
        };
        let declare = |reply| Request::Declare { topology, reply };
        let others: Vec<String> = self.line.ask("declare", declare).await?;
        let warning = |what| Warning {
            refusal: Refusal::Differs,
            what,
        };
        Ok(others.into_iter().map(warning).collect())
    }

    async fn publish(&self, exchange: &str, envelope: &Envelope, _: Returns) -> Result<Confirm, BrokerError> {
        let doing = "publish";
        let until = Instant::now() + self.line.reply_timeout;
        let content = Content::pack(envelope).map_err(|refusal| refusal.at(&self.line.place))?;
        let bytes = u32::try_from(content.body.len()).unwrap_or(u32::MAX);
        let share = self
            .line
            .memory
            .clone()
            .acquire_many_owned(bytes.min(PUBLISHING_BYTES_MAX));
        let memory = match tokio::time::timeout_at(until, share).await {
            Ok(Ok(memory)) => memory,
            Ok(Err(_)) => return Err(self.line.death().await.into()),
            Err(_) => return Err(self.line.too_late(doing).into()),
        };
        let (reply, answer) = oneshot::channel();
        let request = Request::Publish {
            exchange: exchange.to_string(),
            content,
            memory,
            reply,
        };
        self.line.send(request, doing, until).await?;
        let line = self.line.clone();
        Ok(Box::pin(async move {
            let confirmed: Confirmed = line.receive(answer, doing, until).await?;
            Ok(confirmed)
        }))
    }

    async fn subscribe(&self, queue: &str, prefetch: u16) -> Result<Box<dyn Subscription>, BrokerError> {
        let queue = self.queue_name(queue);
        // On AMQP 0 means no limit.
        let prefetch = if prefetch == 0 { u16::MAX } else { prefetch }.into();
        let subscribe = |reply| Request::Subscribe { queue, prefetch, reply };
        let subscribed = self.line.ask("consume", subscribe).await?;
        Ok(subscription::new(self.line.clone(), subscribed))
    }

    async fn depth(&self, queue: &str) -> Result<Option<u64>, BrokerError> {
        let queue = self.queue_name(queue);
        let depth = |reply| Request::Depth { queue, reply };
        Ok(self.line.ask("count the messages of a queue", depth).await?)
    }

    async fn consumers(&self, queue: &str) -> Result<Option<u64>, BrokerError> {
        let queue = self.queue_name(queue);
        let count = |reply| Request::Consumers { queue, reply };
        Ok(self.line.ask("count the consumers of a queue", count).await?)
    }

    async fn delete_queue(&self, queue: &str, if_unused: bool, if_empty: bool) -> Result<Removal, BrokerError> {
        let queue = self.queue_name(queue);
        let guards = (if_unused, if_empty);
        let delete = |reply| Request::DeleteQueue { queue, guards, reply };
        Ok(self.line.ask("delete a queue", delete).await?)
    }

    async fn delete_exchange(&self, exchange: &str) -> Result<(), BrokerError> {
        let exchange = exchange.to_owned();
        let delete = |reply| Request::DeleteExchange { exchange, reply };
        Ok(self.line.ask("delete an exchange", delete).await?)
    }

    async fn has_exchange(&self, exchange: &str) -> Result<bool, BrokerError> {
        let exchange = exchange.to_owned();
        let look = |reply| Request::HasExchange { exchange, reply };
        Ok(self.line.ask("look at an exchange", look).await?)
    }

    async fn closed(&self) -> BrokerError {
        self.line.death().await.into()
    }

    async fn close(&self) {
        let until = Instant::now() + self.line.reply_timeout;
        let (reply, answer) = oneshot::channel();
        let request = Request::Close { reply };
        if self.line.send(request, "close", until).await.is_ok() {
            // Closed, or dead, or stuck: then the end of the process frees what it holds.
            let _ = tokio::time::timeout_at(until, answer).await;
        }
    }
}

/// Milliseconds since 1970, as they lie in the file.
fn now_ms() -> i64 {
    millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// A count as SQLite has it.
fn count(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
