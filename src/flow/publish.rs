//! The one place that publishes: in order, confirmed, in a window, across reconnects.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::warn;

use super::link::{self, Link};
use super::{Unit, chain};
use crate::backoff::Backoff;
use crate::broker::{BrokerError, Confirmed, Connection, Purpose, Returns};
use crate::config::Broker;
use crate::message::{Envelope, Fault, Topology};
use crate::metrics::Count;

/// How many publishes may wait for their confirm. Measured: beyond 256 lapin gains little.
pub const WINDOW: usize = 256;
/// How long consumers of a transient exchange get to bind again after a reconnect.
const GRACE: Duration = Duration::from_secs(60);
/// Between two tries of a publish that was returned and must not be lost.
const RETURNED_AGAIN: Duration = Duration::from_secs(1);
/// For the answers of a connection that has ended.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// A stopping unit waits no longer for a broker that is away.
const LAST_CONNECT: Duration = Duration::from_secs(3);
const WARN_EVERY: Duration = Duration::from_secs(60);
/// Exchanges that are remembered to be there, or not.
const EXCHANGES_MAX: usize = 1000;

/// What to do with a message that no binding matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Unroutable {
    /// Nobody subscribes: normal. Counted, and its input settled.
    #[default]
    Count,
    /// Wait until somebody does.
    Hold,
}

/// How a unit publishes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// What to do with returned messages.
    pub unroutable: Unroutable,
    /// The exchange and its bindings vanish when the broker restarts.
    pub transient_exchange: bool,
    /// What goes to an exchange that is not there goes to the first of the topology instead. For messages that may have
    /// been stored under another configuration; else a missing exchange holds up everything.
    pub reroutes: bool,
}

/// Why a publish will not happen.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PublishError {
    /// The broker refuses this very message.
    #[error("{0}")]
    Refused(String),
    /// The unit is ending. The message may or may not be out; its input is not settled.
    #[error("the unit is stopping")]
    Stopping,
}

struct Job {
    exchange: Arc<str>,
    envelope: Envelope,
    returns: Returns,
    /// It was returned once, and is tried again.
    was_returned: bool,
    /// Not worth publishing again, nor when nobody waits for it any more.
    is_soft: bool,
    answer: oneshot::Sender<Result<Confirmed, PublishError>>,
}

/// Resolves when the broker has the message safe, however many reconnects that takes.
pub struct Pending(oneshot::Receiver<Result<Confirmed, PublishError>>);

impl Future for Pending {
    type Output = Result<Confirmed, PublishError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0)
            .poll(context)
            .map(|answer| answer.unwrap_or(Err(PublishError::Stopping)))
    }
}

/// A handle to the unit's publishing task. The task ends when every handle is gone and everything is confirmed, or
/// when the unit is abandoned.
#[derive(Clone)]
pub struct Publisher {
    jobs: mpsc::Sender<Job>,
    generation: watch::Receiver<u64>,
}

impl Publisher {
    /// Starts the task; it connects on its own connection and asserts `topology` at each connect.
    pub fn start(unit: &Unit, broker: Broker, topology: Topology, options: Options) -> Self {
        Publisher::start_for(Purpose::Publish, unit, broker, topology, options)
    }

    /// One for soft messages alone, on a connection of its own: whatever becomes of it holds up and pauses nothing.
    pub fn start_soft(unit: &Unit, broker: Broker, topology: Topology) -> Self {
        Publisher::start_for(Purpose::Tell, unit, broker, topology, Options::default())
    }

    fn start_for(purpose: Purpose, unit: &Unit, broker: Broker, topology: Topology, options: Options) -> Self {
        let (jobs, queue) = mpsc::channel(WINDOW);
        let (generation_tx, generation) = watch::channel(0);
        let task = Task {
            unit: unit.clone(),
            link: Link::new(unit, broker, purpose),
            purpose,
            topology,
            options,
            queue,
            is_drained: false,
            again: VecDeque::new(),
            not_before: None,
            waiting: VecDeque::new(),
            unconfirmed: BTreeMap::new(),
            published: 0,
            refusals: link::reconnect_backoff(),
            generation: generation_tx,
            returned: Returned::default(),
        };
        tokio::spawn(task.run());
        Publisher { jobs, generation }
    }

    /// Hands over one message; waits for a place in the window. Messages go out in the order of the calls, and again
    /// in that order after a reconnect.
    pub async fn submit(&self, exchange: &str, envelope: Envelope, returns: Returns) -> Pending {
        self.send(exchange, envelope, returns, false).await
    }

    /// The same for a message that is worth something only now: it is given up with its connection, when the broker
    /// refuses it, and when the answer is dropped before it went out. It holds up and pauses nothing.
    pub async fn submit_soft(&self, exchange: &str, envelope: Envelope, returns: Returns) -> Pending {
        self.send(exchange, envelope, returns, true).await
    }

    async fn send(&self, exchange: &str, envelope: Envelope, returns: Returns, is_soft: bool) -> Pending {
        let (answer, pending) = oneshot::channel();
        if let Some(why) = envelope.unreadable() {
            // It would go out as something else than it was.
            drop(answer.send(Err(PublishError::Refused(format!("{why}; so it cannot be published")))));
            return Pending(pending);
        }
        let job = Job {
            exchange: exchange.into(),
            envelope,
            returns,
            was_returned: false,
            is_soft,
            answer,
        };
        // A closed queue drops the job, and with it the answer: the pending publish then says Stopping.
        drop(self.jobs.send(job).await);
        Pending(pending)
    }

    /// Changes at every connect: 0 before the first.
    pub fn generation(&self) -> watch::Receiver<u64> {
        self.generation.clone()
    }
}

/// Publishes in flight, by number.
type Confirms = FuturesUnordered<BoxFuture<'static, (u64, Result<Confirmed, BrokerError>)>>;

/// Why one generation ended.
enum End {
    Broken(BrokerError),
    Finished,
}

struct Task {
    unit: Unit,
    link: Link,
    purpose: Purpose,
    topology: Topology,
    options: Options,
    queue: mpsc::Receiver<Job>,
    /// Every handle is gone.
    is_drained: bool,
    /// Goes out before anything from the queue: what a broken generation left, in its old order.
    again: VecDeque<Job>,
    /// A returned message that is held, and everything behind it, rests until then.
    not_before: Option<Instant>,
    /// Returned during the grace, and tried again from then on, the first that is due first. Others overtake them, but
    /// none of the same key.
    waiting: VecDeque<(Instant, Job)>,
    /// Published and not yet confirmed, in publishing order.
    unconfirmed: BTreeMap<u64, Job>,
    published: u64,
    /// Waits after refusals by the broker, which connecting does not cure.
    refusals: Backoff,
    generation: watch::Sender<u64>,
    returned: Returned,
}

impl Task {
    async fn run(mut self) {
        let abandon = self.unit.abandon.clone();
        while let Some(connection) = self.connect().await {
            self.generation.send_replace(self.link.generation());
            let end = abandon.run_until_cancelled(self.serve(connection.as_ref())).await;
            let Some(End::Broken(error)) = end else {
                connection.close().await;
                return;
            };
            self.link.broken(&error);
            let unconfirmed = std::mem::take(&mut self.unconfirmed);
            for job in unconfirmed.into_values().rev() {
                self.again.push_front(job);
            }
            for (_, job) in std::mem::take(&mut self.waiting).into_iter().rev() {
                self.again.push_front(job);
            }
            let (soft, again) = self.again.drain(..).partition(|job| job.is_soft);
            self.again = again;
            for soft in soft as VecDeque<Job> {
                // Whoever waited may be gone.
                drop(soft.answer.send(Err(PublishError::Refused(chain(&error)))));
            }
            if error.fault == Fault::Own {
                if self.purpose == Purpose::Publish {
                    self.unit.state.pause("publishing", chain(&error));
                }
                let wait = self.refusals.next_wait();
                abandon.run_until_cancelled(tokio::time::sleep(wait)).await;
            }
        }
    }

    /// One generation, until its connection breaks or everything is confirmed and every handle gone.
    async fn serve(&mut self, connection: &dyn Connection) -> End {
        let mut confirms = FuturesUnordered::new();
        let end = self.publish_all(connection, &mut confirms).await;
        if let End::Broken(_) = end {
            self.hear_out(confirms).await;
        }
        end
    }

    /// What was answered by the end of the connection counts for the others in flight too: one of them may be the
    /// message that the broker refused, and it would be refused again.
    async fn hear_out(&mut self, mut confirms: Confirms) {
        let hear = async {
            while let Some((number, result)) = confirms.next().await {
                let is_final = result.as_ref().err().is_none_or(|error| error.fault == Fault::Message);
                if is_final && let Err(error) = self.confirmed(number, result, false) {
                    warn!("{}", chain(&error));
                }
            }
        };
        // An ended connection answers at once; what it does not answer goes out again.
        drop(tokio::time::timeout(LAST_WORDS, hear).await);
    }

    async fn publish_all(&mut self, connection: &dyn Connection, confirms: &mut Confirms) -> End {
        let since = Instant::now();
        let closed = connection.closed();
        tokio::pin!(closed);
        let mut exchanges = HashMap::new();
        loop {
            let has_more = !(self.is_drained && self.again.is_empty() && self.waiting.is_empty());
            if !has_more && confirms.is_empty() {
                return End::Finished;
            }
            let alone = self.goes_alone(since);
            let has_room = confirms.len() < if alone { 1 } else { WINDOW };
            tokio::select! {
                biased;
                Some((number, result)) = confirms.next() => {
                    if let Err(error) = self.confirmed(number, result, alone) {
                        return End::Broken(error);
                    }
                }
                error = &mut closed => return End::Broken(error),
                job = self.next_job(), if has_room && has_more => {
                    let Some(mut job) = job else {
                        self.is_drained = true;
                        continue;
                    };
                    if let Err(error) = self.reroute(connection, &mut exchanges, &mut job).await {
                        self.again.push_front(job);
                        return End::Broken(error);
                    }
                    let returns = if alone { Returns::Known } else { job.returns };
                    let sent = connection.publish(&job.exchange, &job.envelope, returns).await;
                    let number = self.published;
                    self.published += 1;
                    self.unconfirmed.insert(number, job);
                    match sent {
                        Ok(confirm) => confirms.push(Box::pin(async move { (number, confirm.await) })),
                        Err(error) => {
                            if let Err(error) = self.confirmed(number, Err(error), alone) {
                                return End::Broken(error);
                            }
                        }
                    }
                }
            }
        }
    }

    /// Has the message go where there is an exchange. What is known of exchanges holds for one generation.
    async fn reroute(
        &self,
        connection: &dyn Connection,
        exchanges: &mut HashMap<Arc<str>, bool>,
        job: &mut Job,
    ) -> Result<(), BrokerError> {
        let declared = &self.topology.exchanges;
        let Some(first) = declared.first().filter(|_| self.options.reroutes) else {
            return Ok(());
        };
        if declared.iter().any(|exchange| *exchange.name == *job.exchange) {
            return Ok(());
        }
        let is_there = match exchanges.get(&job.exchange) {
            Some(is_there) => *is_there,
            None => {
                let is_there = connection.has_exchange(&job.exchange).await?;
                if !is_there {
                    warn!(
                        "there is no exchange {}: what was to go there goes to {}",
                        job.exchange, first.name
                    );
                }
                if exchanges.len() < EXCHANGES_MAX {
                    exchanges.insert(Arc::clone(&job.exchange), is_there);
                }
                is_there
            }
        };
        if !is_there {
            job.exchange = first.name.as_str().into();
        }
        Ok(())
    }

    /// For as long as it takes; once the unit stops only for a moment more, for what is not confirmed comes again.
    async fn connect(&mut self) -> Option<Arc<dyn Connection>> {
        let (stop, abandon) = (self.unit.stop.clone(), self.unit.abandon.clone());
        tokio::select! {
            connection = self.link.connect(&self.topology, &abandon) => connection,
            () = async { stop.cancelled().await; tokio::time::sleep(LAST_CONNECT).await } => None,
        }
    }

    /// What comes next. Safe to drop while waiting.
    async fn next_job(&mut self) -> Option<Job> {
        if let Some(at) = self.not_before {
            tokio::time::sleep_until(at.into()).await;
            self.not_before = None;
        }
        loop {
            let due = self.waiting.front().map(|(due, _)| *due);
            if due.is_some_and(|due| due <= Instant::now()) {
                return self.waiting.pop_front().map(|(_, job)| job);
            }
            let is_drained = self.is_drained && self.again.is_empty();
            let may_take = self.waiting.len() < WINDOW && !(is_drained && due.is_some());
            let next = async {
                match self.again.pop_front() {
                    Some(job) => Some(job),
                    None => self.queue.recv().await,
                }
            };
            let job = tokio::select! {
                biased;
                job = next, if may_take => job,
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now).into()), if due.is_some() => continue,
            };
            match job {
                Some(job) if job.is_soft && job.answer.is_closed() => {}
                Some(job) if self.is_behind_a_waiting_one(&job) => self.wait(job),
                job => return job,
            }
        }
    }

    /// Whether the same key is tried again: what was published later must not come first.
    fn is_behind_a_waiting_one(&self, job: &Job) -> bool {
        let is_of_it = |other: &Job| other.exchange == job.exchange && other.envelope.key == job.envelope.key;
        job.returns == Returns::Counted && self.waiting.iter().any(|(_, other)| is_of_it(other))
    }

    fn wait(&mut self, job: Job) {
        self.waiting.push_back((Instant::now() + RETURNED_AGAIN, job));
    }

    /// Whether a returned message must be known and tried again, so that publishes go one at a time.
    fn goes_alone(&self, since: Instant) -> bool {
        self.options.unroutable == Unroutable::Hold
            || (self.options.transient_exchange && self.link.generation() > 1 && since.elapsed() < GRACE)
    }

    /// The broker has answered for one publish. An error ends the generation.
    fn confirmed(
        &mut self,
        number: u64,
        result: Result<Confirmed, BrokerError>,
        alone: bool,
    ) -> Result<(), BrokerError> {
        match result {
            Ok(Confirmed::Returned) if alone && self.is_for_anybody(number) => {
                if let Some(job) = self.unconfirmed.remove(&number) {
                    self.try_again(job);
                }
                Ok(())
            }
            Ok(confirmed) => {
                self.refusals.reset();
                if self.purpose == Purpose::Publish {
                    self.unit.state.resume("publishing");
                }
                let is_counted = self
                    .unconfirmed
                    .get(&number)
                    .is_some_and(|job| job.was_returned || job.is_soft);
                if confirmed == Confirmed::Returned && !is_counted {
                    self.returned.count(&self.unit);
                }
                self.answer(number, Ok(confirmed));
                Ok(())
            }
            Err(error) if error.fault == Fault::Message => {
                self.answer(number, Err(PublishError::Refused(chain(&error))));
                Ok(())
            }
            Err(error) if self.unconfirmed.get(&number).is_some_and(|job| job.is_soft) => {
                self.answer(number, Err(PublishError::Refused(chain(&error))));
                // What the broker thinks of it is no trouble of the unit's.
                let fault = Fault::Endpoint;
                Err(BrokerError { fault, ..error })
            }
            Err(error) => Err(error),
        }
    }

    /// Nobody is bound for it yet.
    fn try_again(&mut self, mut job: Job) {
        if !std::mem::replace(&mut job.was_returned, true) {
            self.returned.count(&self.unit);
        }
        if self.options.unroutable == Unroutable::Hold {
            let reason = "no queue is bound for what this unit publishes (unroutable = \"hold\")";
            self.unit.state.pause("publishing", reason);
            self.not_before = Some(Instant::now() + RETURNED_AGAIN);
            self.again.push_front(job);
        } else {
            self.wait(job);
        }
    }

    /// Whether a publish goes to whoever binds, not to one queue.
    fn is_for_anybody(&self, number: u64) -> bool {
        self.unconfirmed
            .get(&number)
            .is_some_and(|job| job.returns == Returns::Counted)
    }

    fn answer(&mut self, number: u64, answer: Result<Confirmed, PublishError>) {
        if let Some(job) = self.unconfirmed.remove(&number) {
            // Whoever waited may be gone; the message is safe all the same.
            drop(job.answer.send(answer));
        }
    }
}

/// Counts returned messages and warns once a minute.
#[derive(Default)]
struct Returned {
    since_warning: u64,
    warned: Option<Instant>,
}

impl Returned {
    fn count(&mut self, unit: &Unit) {
        unit.metrics.count(Count::Unroutable);
        self.since_warning += 1;
        if self.warned.is_none_or(|at| at.elapsed() >= WARN_EVERY) {
            warn!(
                count = self.since_warning,
                "published to nobody: no queue is bound for these keys"
            );
            self.since_warning = 0;
            self.warned = Some(Instant::now());
        }
    }
}
