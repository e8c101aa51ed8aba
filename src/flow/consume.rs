//! The one place that settles: takes deliveries, lets the component decide, makes the outputs safe, then answers.
//!
//! Deliveries come from the unit's queue and from its own spool (parked here, or adopted because they took long); both
//! are treated alike. Each is settled exactly once, and only after what it led to is safe.

use std::collections::HashSet;
use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use jiff::Timestamp;
use tokio::sync::{Notify, OnceCell, Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, error, info, warn};

use super::link::Link;
use super::park::{self, Next, Rung};
use super::publish::{Options, Pending, PublishError, Publisher};
use super::sample::Sampler;
use super::{Cause, Outcome, Output, Unit, chain};
use crate::backoff::Backoff;
use crate::broker::{BrokerError, Confirmed, Connection, Purpose, Receipt, Received, Returns, Settlement};
use crate::config::Broker;
use crate::message::{Envelope, Fault, Queue, Topology};
use crate::metrics::Count;
use crate::spool::failed::{FailedStore, Failure, Limits, Which};
use crate::spool::parked::Lot;
use crate::spool::{SpoolError, off_thread};

/// One delivery as a component sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Input {
    /// The message, without the marks of parking.
    pub envelope: Envelope,
    /// Somebody may have worked on it before.
    pub redelivered: bool,
    /// Attempts that counted before this one.
    pub attempts: u32,
    /// When px first had it, UTC; kept when parked.
    pub first_seen: Timestamp,
}

/// A component's answer to one delivery.
pub enum Step {
    /// Decided. Its outputs are published in the queue's order.
    Now(Outcome),
    /// Work that takes time; other deliveries go on meanwhile, within the prefetch.
    Later(BoxFuture<'static, Outcome>),
    /// Look again once this has come about: it hangs on another delivery.
    Again(BoxFuture<'static, ()>),
}

/// What a component does with its deliveries.
#[async_trait]
pub trait Handle: Send + Sync + 'static {
    /// What the component remembers of a delivery until it is settled.
    type Note: Send + Sync + 'static;

    /// Looks at one delivery. Called one at a time per channel, in the queue's order.
    async fn begin(&self, input: &Arc<Input>) -> (Step, Self::Note);

    /// The outputs of this input are confirmed and it is about to be settled. An error keeps it from that.
    async fn outputs_safe(&self, input: &Input, note: &Self::Note) -> Result<(), Cause>;

    /// This input was not done: it is parked, failed, released or left for the broker to deliver again.
    fn undone(&self, input: &Input, note: &Self::Note);
}

/// Where a unit's deliveries come from.
#[derive(Debug, Clone)]
pub struct Intake {
    /// The broker.
    pub broker: Broker,
    /// Exchanges, the queue and its bindings, asserted at every connect.
    pub topology: Topology,
    /// The queue.
    pub queue: Queue,
    /// Unsettled deliveries per channel.
    pub prefetch: u16,
    /// Channels, each with its own prefetch.
    pub channels: usize,
    /// Work that takes longer is taken over from the broker.
    pub adopt_after: Duration,
    /// An endpoint is waited for no longer than this.
    pub give_up_after: Duration,
}

/// Takes deliveries until the unit stops, while `gate` is open. Reconnects for ever. Returns when everything in hand is
/// settled, or when the unit is abandoned; `Err` only when the unit's own stores cannot be opened.
pub async fn run<H: Handle>(
    unit: &Unit,
    intake: Intake,
    handler: Arc<H>,
    publisher: Option<Publisher>,
    gate: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let state = unit.places.unit_state(&unit.name);
    let (troubles_tx, troubles) = mpsc::channel(64);
    let desk = Arc::new(Desk {
        lot: Lot::open(&state.join("parked.db")).await?,
        failed: open_failed(&state).await?,
        publisher: OnceCell::new_with(publisher),
        parking: AtomicU8::new(Parking::Local as u8),
        troubles: troubles_tx,
        lot_changed: Notify::new(),
        in_hand: TaskTracker::new(),
        replaying: Mutex::default(),
        samples: Sampler::default(),
        unit: unit.clone(),
        intake,
        handler,
    });
    let open = Gate {
        wanted: gate,
        held: watch::Sender::new(false),
    };
    let open = Arc::new(open);
    let local = tokio::spawn(Arc::clone(&desk).take_from_lot(Arc::clone(&open)));
    let replays = tokio::spawn(Arc::clone(&desk).take_replays(Arc::clone(&open)));
    Taker {
        link: Link::new(unit, desk.intake.broker.clone(), Purpose::Consume),
        desk: Arc::clone(&desk),
        gate: open,
        troubles,
        probe: Backoff::new(Duration::from_secs(1), Duration::from_secs(60)),
    }
    .run()
    .await;
    local.abort();
    replays.abort();
    desk.in_hand.close();
    // After the deadline nothing more is waited for: the brokers will redeliver.
    let finished = unit.abandon.run_until_cancelled(desk.in_hand.wait()).await;
    if finished.is_none() {
        warn!(
            count = desk.in_hand.len(),
            "left in hand; the broker will deliver these again"
        );
    }
    Ok(())
}

async fn open_failed(state: &Path) -> Result<FailedStore, SpoolError> {
    let path = state.join("failed.db");
    off_thread(move || FailedStore::open(&path, Limits::default())).await
}

/// Reads a queue that only this unit sees and settles each delivery at once: what it tells is soft.
pub async fn follow(
    unit: &Unit,
    broker: Broker,
    topology: Topology,
    queue: String,
    note: impl Fn(&Envelope) + Send + Sync,
) {
    const PREFETCH: u16 = 500;
    let mut link = Link::new(unit, broker, Purpose::Follow);
    while let Some(connection) = link.connect(&topology, &unit.stop).await {
        let read = async {
            let mut subscription = connection.subscribe(&queue, PREFETCH).await?;
            link.worked();
            loop {
                let received = subscription.next().await?;
                note(&received.envelope);
                received.receipt.settle(Settlement::Ack).await?;
            }
        };
        let end: Option<Result<(), BrokerError>> = unit.stop.run_until_cancelled(read).await;
        match end {
            Some(Err(error)) => link.broken(&error),
            Some(Ok(())) | None => break,
        }
    }
}

/// Whether to take anything: the caller wants it, and nothing of our own keeps us from it.
struct Gate {
    wanted: watch::Receiver<bool>,
    held: watch::Sender<bool>,
}

impl Gate {
    fn is_open(&self) -> bool {
        *self.wanted.borrow() && !*self.held.borrow()
    }

    /// Returns when the gate may have changed. A caller that has gone away leaves it as it is.
    async fn changed(&self) {
        let (mut wanted, mut held) = (self.wanted.clone(), self.held.subscribe());
        tokio::select! {
            Ok(()) = wanted.changed() => {}
            Ok(()) = held.changed() => {}
            else => std::future::pending().await,
        }
    }

    async fn until(&self, open: bool) {
        while self.is_open() != open {
            self.changed().await;
        }
    }
}

/// Where this unit parks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Parking {
    /// In the unit's own spool.
    Local,
    /// On the broker's rungs.
    Rungs,
    /// The broker redelivers later by itself.
    Delayed,
}

/// Why deliveries stopped coming.
enum End {
    Stopped,
    Shut,
    Broken(BrokerError),
}

/// The loop around connections and channels.
struct Taker<H> {
    desk: Arc<Desk<H>>,
    link: Link,
    gate: Arc<Gate>,
    troubles: mpsc::Receiver<Cause>,
    probe: Backoff,
}

impl<H: Handle> Taker<H> {
    async fn run(&mut self) {
        let stop = self.desk.unit.stop.clone();
        while let Some(connection) = self.link.connect(&self.desk.intake.topology, &stop).await {
            match self.generation(&connection, &stop).await {
                Ok(()) => return,
                Err(error) => self.link.broken(&error),
            }
        }
    }

    /// One connection. `Ok` when the unit stops.
    async fn generation(
        &mut self,
        connection: &Arc<dyn Connection>,
        stop: &CancellationToken,
    ) -> Result<(), BrokerError> {
        self.desk.choose_parking(connection.as_ref()).await?;
        loop {
            self.desk.unit.state.set_ready();
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = self.gate.until(true) => {}
                error = connection.closed() => return Err(error),
            }
            match self.channels(connection, stop).await {
                End::Stopped => return Ok(()),
                End::Broken(error) if error.fault == Fault::Own => self.rest(Cause::from((error.fault, &error))).await,
                End::Broken(error) => return Err(error),
                End::Shut => {}
            }
        }
    }

    /// All channels, until the gate shuts, trouble of our own comes up, or the connection breaks.
    async fn channels(&mut self, connection: &Arc<dyn Connection>, stop: &CancellationToken) -> End {
        let halt = CancellationToken::new();
        let mut channels = tokio::task::JoinSet::new();
        for _ in 0..self.desk.intake.channels {
            let desk = Arc::clone(&self.desk);
            channels.spawn(desk.channel(Arc::clone(connection), halt.clone()));
        }
        self.link.worked();
        let mut trouble = None;
        let mut end = tokio::select! {
            biased;
            () = stop.cancelled() => End::Stopped,
            Some(cause) = self.troubles.recv() => {
                trouble = Some(cause);
                End::Shut
            }
            () = self.gate.until(false) => End::Shut,
            Some(ended) = channels.join_next() => broken(ended),
            error = connection.closed() => End::Broken(error),
        };
        halt.cancel();
        while let Some(ended) = channels.join_next().await {
            if let (End::Shut, broken @ End::Broken(_)) = (&end, broken(ended)) {
                end = broken;
            }
        }
        if let Some(cause) = trouble {
            self.rest(cause).await;
        }
        end
    }

    /// Takes nothing for a while, shows why, then lets the next delivery be the probe.
    async fn rest(&mut self, cause: Cause) {
        self.gate.held.send_replace(true);
        if !self.desk.unit.state.is_paused() {
            self.probe.reset();
        }
        self.desk.unit.state.pause(WORK, cause.what);
        let wait = self.probe.next_wait();
        self.desk.unit.stop.run_until_cancelled(tokio::time::sleep(wait)).await;
        while self.troubles.try_recv().is_ok() {} // said while resting: the same trouble
        self.gate.held.send_replace(false);
    }
}

const WORK: &str = "work";

fn broken(ended: Result<Result<(), BrokerError>, tokio::task::JoinError>) -> End {
    match ended {
        Ok(Ok(())) => End::Shut,
        Ok(Err(error)) => End::Broken(error),
        Err(error) => End::Broken(BrokerError {
            fault: Fault::Endpoint,
            what: "a channel's task ended".into(),
            source: Some(Box::new(error)),
        }),
    }
}

/// Where a delivery lives until it is settled.
enum Source {
    Broker(Box<dyn Receipt>),
    Lot(i64),
    /// The failed store, because an operator asked for a replay.
    Failed(i64),
}

/// What settling needs.
struct Desk<H> {
    unit: Unit,
    intake: Intake,
    handler: Arc<H>,
    publisher: OnceCell<Publisher>,
    lot: Lot,
    failed: FailedStore,
    parking: AtomicU8,
    troubles: mpsc::Sender<Cause>,
    lot_changed: Notify,
    in_hand: TaskTracker,
    replaying: Mutex<HashSet<i64>>,
    samples: Sampler,
}

impl<H: Handle> Desk<H> {
    /// Rungs where the queue and the broker can keep them, else the broker's own delay, else the local spool.
    async fn choose_parking(&self, connection: &dyn Connection) -> Result<(), BrokerError> {
        let able = connection.capabilities();
        let queue = &self.intake.queue;
        let parking = if able.delayed_redelivery {
            Parking::Delayed
        } else if !able.dead_lettering || !queue.durable || queue.auto_delete || queue.exclusive {
            Parking::Local
        } else {
            match self.declare_rungs(connection).await {
                Ok(()) => Parking::Rungs,
                Err(error) if error.fault == Fault::Own => {
                    warn!("parking in the local spool: {}", chain(&error));
                    Parking::Local
                }
                Err(error) => return Err(error),
            }
        };
        self.parking.store(parking as u8, Ordering::Relaxed);
        Ok(())
    }

    async fn declare_rungs(&self, connection: &dyn Connection) -> Result<(), BrokerError> {
        let queue = &self.intake.queue.name;
        for topology in [park::way_back(queue), park::rungs(queue)] {
            for warning in connection.declare(&topology).await? {
                warn!("{warning}");
            }
        }
        Ok(())
    }

    fn parking(&self) -> Parking {
        match self.parking.load(Ordering::Relaxed) {
            x if x == Parking::Rungs as u8 => Parking::Rungs,
            x if x == Parking::Delayed as u8 => Parking::Delayed,
            _ => Parking::Local,
        }
    }

    async fn channel(
        self: Arc<Self>,
        connection: Arc<dyn Connection>,
        halt: CancellationToken,
    ) -> Result<(), BrokerError> {
        let mut subscription = connection
            .subscribe(&self.intake.queue.name, self.intake.prefetch)
            .await?;
        while let Some(received) = halt.run_until_cancelled(subscription.next()).await {
            let Received {
                envelope,
                redelivered,
                receipt,
            } = received?;
            self.unit.metrics.count(Count::Received);
            let (attempts, first_seen) = park::history(&envelope);
            let input = Input {
                envelope: park::without_history(envelope),
                redelivered,
                attempts,
                first_seen: first_seen.unwrap_or_else(Timestamp::now),
            };
            if attempts > 0 || first_seen.is_some() {
                self.unit.metrics.count(Count::Retried);
            }
            self.take(Arc::new(input), Source::Broker(receipt)).await;
        }
        subscription.cancel().await;
        Ok(())
    }

    /// Deliveries that live in the unit's own spool, when they are due.
    async fn take_from_lot(self: Arc<Self>, gate: Arc<Gate>) {
        let places = Arc::new(Semaphore::new(
            self.intake.channels * usize::from(self.intake.prefetch).max(1),
        ));
        loop {
            gate.until(true).await;
            let Ok(place) = Arc::clone(&places).acquire_owned().await else {
                return;
            };
            match self.lot.take_due(Timestamp::now()).await {
                Ok(Some(parked)) => {
                    self.unit.metrics.count(Count::Retried);
                    let input = Arc::new(Input {
                        envelope: parked.envelope,
                        redelivered: true,
                        attempts: parked.attempts,
                        first_seen: parked.first_seen,
                    });
                    self.take_with(input, Source::Lot(parked.id), place).await;
                }
                Ok(None) => {
                    drop(place);
                    let wait = match self.lot.next_due(Timestamp::now()).await {
                        Ok(Some(wait)) => wait.max(Duration::from_millis(10)),
                        Ok(None) => Duration::from_secs(3600), // woken when something is parked
                        Err(error) => self.lot_trouble(&error).await,
                    };
                    tokio::select! {
                        () = tokio::time::sleep(wait) => {}
                        () = self.lot_changed.notified() => {}
                    }
                }
                Err(error) => tokio::time::sleep(self.lot_trouble(&error).await).await,
            }
        }
    }

    /// Failed messages an operator wants tried again. They stay in the failed store until they are done.
    async fn take_replays(self: Arc<Self>, gate: Arc<Gate>) {
        const EVERY: Duration = Duration::from_secs(2);
        const AT_ONCE: u32 = 16;
        loop {
            gate.until(true).await;
            let failed = self.failed.clone();
            let asked = off_thread(move || failed.replays(AT_ONCE)).await;
            for (id, failure) in asked.unwrap_or_else(|error| {
                warn!("{}", chain(&error));
                Vec::new()
            }) {
                if !self.replaying().insert(id) {
                    continue; // in hand
                }
                self.unit.metrics.count(Count::Retried);
                let input = Input {
                    envelope: failure.envelope,
                    redelivered: true,
                    attempts: failure.attempts,
                    first_seen: failure.first,
                };
                self.take(Arc::new(input), Source::Failed(id)).await;
            }
            tokio::time::sleep(EVERY).await;
        }
    }

    fn replaying(&self) -> std::sync::MutexGuard<'_, HashSet<i64>> {
        self.replaying.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn lot_trouble(&self, error: &SpoolError) -> Duration {
        self.trouble(Cause::from((Fault::Own, error))).await;
        Duration::from_secs(5)
    }

    async fn trouble(&self, cause: Cause) {
        // Ends with the unit; nobody is left to be told then.
        drop(self.troubles.send(cause).await);
    }

    async fn take(self: &Arc<Self>, input: Arc<Input>, source: Source) {
        self.take_with(input, source, ()).await;
    }

    /// Lets the component begin, publishes in order, and goes on in the background while it holds `place`.
    async fn take_with(self: &Arc<Self>, input: Arc<Input>, source: Source, place: impl Send + 'static) {
        let (begun, note) = self.begin(&input).await;
        let desk = Arc::clone(self);
        self.in_hand.spawn(async move {
            let (mut begun, mut note) = (begun, note);
            while let Begun::Waiting(wait) = begun {
                wait.await;
                (begun, note) = desk.begin(&input).await;
            }
            if let Err(cause) = desk.finish(&input, &note, source, begun).await {
                desk.trouble(cause).await;
            }
            drop(place);
        });
    }

    async fn begin(&self, input: &Arc<Input>) -> (Begun, H::Note) {
        let (step, note) = self.handler.begin(input).await;
        let begun = match step {
            Step::Now(Outcome::Done(outputs)) => Begun::Publishing(self.submit(outputs).await),
            Step::Now(outcome) => Begun::Decided(outcome),
            Step::Later(work) => Begun::Working(work),
            Step::Again(wait) => Begun::Waiting(wait),
        };
        (begun, note)
    }

    async fn submit(&self, outputs: Vec<Output>) -> Vec<Pending> {
        let mut pending = Vec::with_capacity(outputs.len());
        if outputs.is_empty() {
            return pending;
        }
        let publisher = self.publisher().await;
        for output in outputs {
            let returns = if output.exchange.is_empty() {
                Returns::Known
            } else {
                Returns::Counted
            };
            pending.push(publisher.submit(&output.exchange, output.envelope, returns).await);
        }
        pending
    }

    /// The unit's publisher; made when it is first needed, for most pull workers never park.
    async fn publisher(&self) -> &Publisher {
        let start = || async {
            let topology = park::rungs(&self.intake.queue.name);
            Publisher::start(&self.unit, self.intake.broker.clone(), topology, Options::default())
        };
        self.publisher.get_or_init(start).await
    }

    /// From the component's answer to the settled delivery. `Err`: trouble of our own; the delivery is released.
    async fn finish(&self, input: &Input, note: &H::Note, mut source: Source, step: Begun) -> Result<(), Cause> {
        let (outcome, pending) = match step {
            Begun::Publishing(pending) => (Outcome::Done(Vec::new()), pending),
            Begun::Decided(outcome) => (outcome, Vec::new()),
            Begun::Waiting(_) => unreachable!("waited for by the caller"),
            Begun::Working(work) => match self.work(input, &mut source, work).await {
                Outcome::Done(outputs) => (Outcome::Done(Vec::new()), self.submit(outputs).await),
                outcome => (outcome, Vec::new()),
            },
        };
        match outcome {
            Outcome::Done(_) => match self.outputs_safe(input, note, pending).await {
                Ok(true) => {
                    self.settle(source, Settlement::Ack).await;
                    self.unit.state.resume(WORK);
                    Ok(())
                }
                Ok(false) => {
                    self.handler.undone(input, note);
                    Ok(()) // stopping: unsettled, so it comes again
                }
                Err(cause) => self.not_done(input, note, source, cause, false).await,
            },
            Outcome::Skip(reason) => {
                debug!(key = %input.envelope.key, "skipped: {reason}");
                self.settle(source, Settlement::Ack).await;
                Ok(())
            }
            Outcome::Park(cause) => self.not_done(input, note, source, cause, false).await,
            Outcome::Fail(cause) => self.not_done(input, note, source, cause, true).await,
        }
    }

    /// Waits for work; what takes long is taken over from the broker, whose patience ends some time.
    async fn work(&self, input: &Input, source: &mut Source, mut work: BoxFuture<'static, Outcome>) -> Outcome {
        tokio::select! {
            outcome = &mut work => return outcome,
            () = tokio::time::sleep(self.intake.adopt_after) => {}
        }
        if let Source::Broker(_) = source {
            match self
                .lot
                .keep(&input.envelope, input.attempts, input.first_seen, None)
                .await
            {
                Ok(id) => {
                    let adopted = std::mem::replace(source, Source::Lot(id));
                    self.settle(adopted, Settlement::Ack).await;
                    self.unit.metrics.count(Count::Adopted);
                    info!(key = %input.envelope.key, "takes long: taken over from the broker");
                }
                Err(error) => warn!("cannot take over a delivery that takes long: {}", chain(&error)),
            }
        }
        work.await
    }

    /// Whether everything published is confirmed. `Ok(false)` when the unit stops first.
    async fn outputs_safe(&self, input: &Input, note: &H::Note, pending: Vec<Pending>) -> Result<bool, Cause> {
        for publish in pending {
            match publish.await {
                Ok(Confirmed::Routed | Confirmed::Returned) => {}
                Err(PublishError::Stopping) => return Ok(false),
                Err(error @ PublishError::Refused(_)) => return Err(Cause::from((Fault::Message, &error))),
            }
        }
        self.handler.outputs_safe(input, note).await?;
        Ok(true)
    }

    async fn not_done(
        &self,
        input: &Input,
        note: &H::Note,
        source: Source,
        cause: Cause,
        for_good: bool,
    ) -> Result<(), Cause> {
        self.handler.undone(input, note);
        if let Source::Failed(id) = source {
            return self.failed_again(id, &cause).await;
        }
        let attempts = input.attempts + u32::from(cause.fault == Fault::Message);
        let age = Timestamp::now().duration_since(input.first_seen);
        let age = Duration::try_from(age).unwrap_or_default();
        let next = match park::next_step(&cause, attempts, age, self.intake.give_up_after) {
            Next::Park(_) if for_good => Next::Fail,
            next => next,
        };
        let result = match next {
            Next::Park(rung) => self.park(input, source, attempts, rung, &cause).await,
            Next::Fail => self.fail(input, source, attempts, &cause).await,
            Next::Release => {
                self.settle(source, Settlement::Requeue).await;
                return Err(cause);
            }
        };
        if result.is_ok() && cause.fault != Fault::Own {
            self.unit.state.resume(WORK);
        }
        result
    }

    async fn park(&self, input: &Input, source: Source, attempts: u32, rung: Rung, cause: &Cause) -> Result<(), Cause> {
        self.unit.metrics.count(Count::Parked);
        if let Some(unsaid) = self.samples.take(&cause.what) {
            warn!(key = %input.envelope.key, unsaid, "parked for {}: {}", rung.name, cause.what);
        }
        let due = Timestamp::now() + rung.wait;
        if let Source::Lot(id) = source {
            let deferred = self.lot.defer(id, attempts, due).await;
            self.lot_changed.notify_one();
            return deferred.map_err(|error| Cause::from((Fault::Own, &error)));
        }
        let parked = park::with_history(&input.envelope, attempts, input.first_seen);
        match self.parking() {
            Parking::Delayed => {
                let how = Settlement::RequeueAfter(rung.wait, parked.headers);
                self.settle(source, how).await;
                return Ok(());
            }
            Parking::Rungs => {
                let exchange = park::rung_name(&self.intake.queue.name, rung);
                let publisher = self.publisher().await;
                match publisher.submit(&exchange, parked, Returns::Known).await.await {
                    Ok(Confirmed::Routed) => {
                        self.settle(source, Settlement::Ack).await;
                        return Ok(());
                    }
                    Err(PublishError::Stopping) => return Ok(()), // unsettled: it comes again
                    Ok(Confirmed::Returned) | Err(PublishError::Refused(_)) => {
                        warn!(exchange, "the rung took nothing; parked in the local spool");
                    }
                }
            }
            Parking::Local => {}
        }
        match self
            .lot
            .keep(&input.envelope, attempts, input.first_seen, Some(due))
            .await
        {
            Ok(_) => {
                self.lot_changed.notify_one();
                self.settle(source, Settlement::Ack).await;
                Ok(())
            }
            Err(error) => {
                self.settle(source, Settlement::Requeue).await;
                Err(Cause::from((Fault::Own, &error)))
            }
        }
    }

    /// To the failed store, synced; then the delivery is settled.
    async fn fail(&self, input: &Input, source: Source, attempts: u32, cause: &Cause) -> Result<(), Cause> {
        let failure = Failure {
            envelope: input.envelope.clone(),
            queue: self.intake.queue.name.clone(),
            reason: cause.what.clone(),
            fault: cause.fault,
            attempts,
            first: input.first_seen,
            last: Timestamp::now(),
            is_rubbish: cause.is_rubbish,
        };
        let failed = self.failed.clone();
        match off_thread(move || failed.keep(&failure)).await {
            Ok(_) => {
                self.unit.metrics.count(Count::Failed);
                if let Some(unsaid) = self.samples.take(&cause.what) {
                    error!(key = %input.envelope.key, attempts, unsaid, "failed, kept for `px failed`: {}", cause.what);
                }
                self.settle(source, Settlement::Ack).await;
                Ok(())
            }
            Err(error) => {
                self.settle(source, Settlement::Requeue).await;
                Err(Cause::from((Fault::Own, &error)))
            }
        }
    }

    /// A replay that did not go better: it stays failed, with its new reason.
    async fn failed_again(&self, id: i64, cause: &Cause) -> Result<(), Cause> {
        let (failed, reason, fault) = (self.failed.clone(), cause.what.clone(), cause.fault);
        let noted = off_thread(move || failed.failed_again(id, &reason, fault, Timestamp::now())).await;
        self.replaying().remove(&id);
        warn!(id, "the replay failed: {}", cause.what);
        match (noted, cause.fault) {
            (Ok(()), Fault::Own) => Err(cause.clone()),
            (Ok(()), _) => Ok(()),
            (Err(error), _) => Err(Cause::from((Fault::Own, &error))),
        }
    }

    /// Answers for one delivery. What cannot be answered comes again: repeats are allowed, losses are not.
    async fn settle(&self, source: Source, how: Settlement) {
        let answered = match source {
            Source::Broker(receipt) => receipt.settle(how).await.map_err(|error| chain(&error)),
            Source::Lot(id) => {
                let settled = match how {
                    Settlement::Requeue => self.lot.release(id).await,
                    Settlement::Ack | Settlement::Reject => self.lot.remove(id).await,
                    Settlement::RequeueAfter(..) => unreachable!("a delivery of the spool is deferred there"),
                };
                settled.map_err(|error| chain(&error))
            }
            Source::Failed(id) => {
                let failed = self.failed.clone();
                let dropped = off_thread(move || failed.drop_entries(Which::One(id))).await;
                self.replaying().remove(&id);
                dropped.map(drop).map_err(|error| chain(&error))
            }
        };
        if let Err(error) = answered {
            debug!("not settled, it will come again: {error}");
        }
    }
}

/// A delivery after the component's first look.
enum Begun {
    Publishing(Vec<Pending>),
    Decided(Outcome),
    Working(BoxFuture<'static, Outcome>),
    Waiting(BoxFuture<'static, ()>),
}
