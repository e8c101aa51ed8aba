//! From a delivery to its settlement: the component decides, its outputs are made safe, then the delivery is answered.

use std::collections::HashSet;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt};
use jiff::Timestamp;
use tokio::sync::{OnceCell, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, error, info, warn};

use super::choice::{self, Choice};
use super::{Handle, Input, Intake, Step};
use crate::broker::{BrokerError, Confirmed, Connection, Receipt, Received, Returns, Settlement, Subscription};
use crate::flow::park::{self, Next, Rung};
use crate::flow::publish::{Options, Pending, PublishError, Publisher};
use crate::flow::sample::Sampler;
use crate::flow::{Cause, Outcome, Output, Unit, chain};
use crate::message::Fault;
use crate::metrics::Count;
use crate::spool::failed::{FailedStore, Failure, Kept, Limits, Which};
use crate::spool::parked::{Held, Lot};
use crate::spool::{SpoolError, off_thread};

/// Deliveries of the spool in hand at once, beyond which no more are taken over from the broker.
const ADOPTED_MAX: usize = 64;

/// The part of the unit that says why work is paused.
pub(super) const WORK: &str = "work";
const BROKE: &str = "a fault of px itself broke off the work on a delivery: the log says where; please report it";

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

/// Where a delivery lives until it is settled.
pub(super) enum Source {
    Broker(Box<dyn Receipt>),
    Lot(Held),
    /// The failed store, because an operator asked for a replay.
    Failed(i64),
}

/// What settling needs.
pub(super) struct Desk<H> {
    pub unit: Unit,
    pub intake: Intake,
    handler: Arc<H>,
    publisher: OnceCell<Publisher>,
    pub lot: Lot,
    pub failed: FailedStore,
    parking: AtomicU8,
    pub troubles: mpsc::Sender<Cause>,
    pub in_hand: TaskTracker,
    pub replaying: Mutex<HashSet<i64>>,
    pub samples: Sampler,
}

impl<H: Handle> Desk<H> {
    /// Opens the unit's stores.
    pub async fn open(
        unit: &Unit,
        intake: Intake,
        handler: Arc<H>,
        publisher: Option<Publisher>,
        troubles: mpsc::Sender<Cause>,
    ) -> Result<Self, SpoolError> {
        let state = unit.places.unit_state(&unit.name);
        let failed = state.join("failed.db");
        Ok(Desk {
            lot: Lot::open(&state.join("parked.db")).await?,
            failed: off_thread(move || FailedStore::open(&failed, Limits::default())).await?,
            publisher: OnceCell::new_with(publisher),
            parking: AtomicU8::new(Parking::Local as u8),
            troubles,
            in_hand: TaskTracker::new(),
            replaying: Mutex::default(),
            samples: Sampler::default(),
            unit: unit.clone(),
            intake,
            handler,
        })
    }

    /// Rungs where the queue and the broker can keep them, else the broker's own delay, else the local spool.
    pub async fn choose_parking(&self, connection: &dyn Connection) -> Result<(), BrokerError> {
        let able = connection.capabilities();
        let queue = &self.intake.queue;
        let parking = if able.delayed_redelivery {
            Parking::Delayed
        } else if !able.dead_lettering || !queue.durable || queue.auto_delete || queue.exclusive {
            Parking::Local
        } else {
            match self.declare_rungs(connection).await {
                Ok(true) => Parking::Rungs,
                Ok(false) => Parking::Local,
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

    /// Whether the rungs are as px makes them. Others are not trusted: what expires on a rung without its way back is
    /// lost.
    async fn declare_rungs(&self, connection: &dyn Connection) -> Result<bool, BrokerError> {
        let queue = &self.intake.queue;
        let mut warnings = Vec::new();
        for topology in [park::way_back(&queue.name), park::rungs(queue)] {
            warnings.extend(connection.declare(&topology).await?);
        }
        for warning in &warnings {
            warn!("parking in the local spool: {warning}");
        }
        Ok(warnings.is_empty())
    }

    fn parking(&self) -> Parking {
        match self.parking.load(Ordering::Relaxed) {
            x if x == Parking::Rungs as u8 => Parking::Rungs,
            x if x == Parking::Delayed as u8 => Parking::Delayed,
            _ => Parking::Local,
        }
    }

    pub async fn channel(
        self: Arc<Self>,
        connection: Arc<dyn Connection>,
        halt: CancellationToken,
    ) -> Result<(), BrokerError> {
        let choice = Choice::of(connection.as_ref(), &self.intake.queue);
        let mut subscription = connection
            .subscribe(&self.intake.queue.name, self.intake.prefetch)
            .await?;
        let ended = self.deliveries(subscription.as_mut(), choice, &halt).await;
        self.handler.unchosen();
        if ended.is_ok() {
            subscription.cancel().await;
        }
        ended
    }

    /// Takes until `halt`, or until the subscription ends.
    async fn deliveries(
        self: &Arc<Self>,
        subscription: &mut dyn Subscription,
        mut choice: Choice<'_>,
        halt: &CancellationToken,
    ) -> Result<(), BrokerError> {
        while let Some(received) = halt.run_until_cancelled(self.next(subscription, &mut choice)).await {
            let Received {
                exchange: _,
                envelope,
                redelivered,
                receipt,
            } = received?;
            if !std::mem::replace(&mut choice.is_known, true)
                && halt.run_until_cancelled(self.handler.chosen()).await.is_none()
            {
                break; // unsettled: the broker delivers it again
            }
            self.unit.metrics.count(Count::Received);
            let (attempts, first_seen) = park::history(&envelope);
            let now = Timestamp::now();
            let input = Input {
                envelope: park::without_history(envelope),
                // What comes off a rung is fresh to the broker alone.
                redelivered: redelivered || first_seen.is_some(),
                attempts,
                // Nobody has seen it in the future, whatever its header says.
                first_seen: first_seen.map_or(now, |seen| seen.min(now)),
            };
            if attempts > 0 || first_seen.is_some() {
                self.unit.metrics.count(Count::Retried);
            }
            self.take(Arc::new(input), Source::Broker(receipt)).await;
        }
        Ok(())
    }

    /// The next delivery. Until the first has come it is looked whether the broker has anybody else to choose.
    async fn next(
        &self,
        subscription: &mut dyn Subscription,
        choice: &mut Choice<'_>,
    ) -> Result<Received, BrokerError> {
        while !choice.is_known {
            if choice.has_nobody_else().await {
                self.handler.chosen().await;
                choice.is_known = true;
            } else if let Ok(first) = tokio::time::timeout(choice::LOOK_EVERY, subscription.next()).await {
                return first;
            }
        }
        subscription.next().await
    }

    pub async fn trouble(&self, cause: Cause) {
        // Ends with the unit; nobody is left to be told then.
        drop(self.troubles.send(cause).await);
    }

    pub async fn take(self: &Arc<Self>, input: Arc<Input>, source: Source) {
        self.take_with(input, source, ()).await;
    }

    /// Lets the component begin, publishes in order, and goes on in the background while it holds `place`.
    pub async fn take_with(self: &Arc<Self>, input: Arc<Input>, source: Source, place: impl Send + 'static) {
        if let Some(why) = input.envelope.unreadable() {
            self.refuse(input, source, why, place);
            return;
        }
        let (mut begun, mut note) = self.begin(&input).await;
        let desk = Arc::clone(self);
        self.in_hand.spawn(async move {
            let work = async {
                while let Begun::Waiting(wait) = begun {
                    wait.await;
                    (begun, note) = desk.begin(&input).await;
                }
                desk.finish(&input, &note, source, begun).await
            };
            // After the deadline it is let go of: what runs on would meet the next configuration's work.
            let abandon = &desk.unit.abandon;
            let ended = abandon.run_until_cancelled(AssertUnwindSafe(work).catch_unwind()).await;
            match ended {
                Some(Ok(Ok(()))) | None => {}
                Some(Ok(Err(cause))) => desk.trouble(cause).await,
                // With new channels the broker delivers it again.
                Some(Err(_)) => desk.trouble(Cause::new(Fault::Own, BROKE)).await,
            }
            drop(place);
        });
    }

    /// To the failed store with what cannot be read: no component sees it. It may well be a product: as for every other
    /// one, a full store pauses the unit, and nothing is only counted.
    fn refuse(self: &Arc<Self>, input: Arc<Input>, source: Source, why: String, place: impl Send + 'static) {
        let desk = Arc::clone(self);
        self.in_hand.spawn(async move {
            let refused = match source {
                Source::Failed(id) => {
                    let cause = Cause::hopeless(format!("{why}; so it cannot be replayed"));
                    desk.failed_again(id, &cause).await
                }
                source => {
                    let attempts = input.attempts.saturating_add(1);
                    desk.fail(&input, source, attempts, &Cause::hopeless(why)).await
                }
            };
            match refused {
                Ok(()) => desk.unit.state.resume(WORK),
                Err(cause) => desk.trouble(cause).await,
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
            let topology = park::rungs(&self.intake.queue);
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
                    self.settle(source, Settlement::Ack).await?;
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
                self.settle(source, Settlement::Ack).await
            }
            Outcome::Park(cause) => self.not_done(input, note, source, cause, false).await,
            Outcome::Fail(cause) => self.not_done(input, note, source, cause, true).await,
        }
    }

    /// Waits for work; what takes long is taken over from the broker, whose patience ends some time. Not without bound:
    /// each that is taken over makes room for another one.
    async fn work(&self, input: &Input, source: &mut Source, mut work: BoxFuture<'static, Outcome>) -> Outcome {
        loop {
            tokio::select! {
                outcome = &mut work => return outcome,
                () = tokio::time::sleep(self.intake.adopt_after) => {}
            }
            if matches!(source, Source::Broker(_)) && self.lot.in_hand() < ADOPTED_MAX {
                self.adopt(input, source).await;
            }
        }
    }

    async fn adopt(&self, input: &Input, source: &mut Source) {
        match self.lot.adopt(&input.envelope, input.attempts, input.first_seen).await {
            Ok(held) => {
                if let Source::Broker(receipt) = std::mem::replace(source, Source::Lot(held)) {
                    answer(receipt, Settlement::Ack).await;
                }
                self.unit.metrics.count(Count::Adopted);
                info!(key = %input.envelope.key, "takes long: taken over from the broker");
            }
            Err(error) => warn!("cannot take over a delivery that takes long: {}", chain(&error)),
        }
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
        let attempts = input.attempts.saturating_add(u32::from(cause.fault == Fault::Message));
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
                self.settle(source, Settlement::Requeue).await?;
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
        if let Source::Lot(held) = source {
            let deferred = self.lot.defer(held, attempts, due).await;
            return deferred.map_err(|error| Cause::from((Fault::Own, &error)));
        }
        let parked = park::with_history(&input.envelope, attempts, input.first_seen);
        match self.parking() {
            Parking::Delayed => {
                let how = Settlement::RequeueAfter(rung.wait, parked.headers);
                return self.settle(source, how).await;
            }
            Parking::Rungs => {
                let exchange = park::rung_name(&self.intake.queue.name, rung);
                let publisher = self.publisher().await;
                match publisher.submit(&exchange, parked, Returns::Known).await.await {
                    Ok(Confirmed::Routed) => return self.settle(source, Settlement::Ack).await,
                    Err(PublishError::Stopping) => return Ok(()), // unsettled: it comes again
                    Ok(Confirmed::Returned) | Err(PublishError::Refused(_)) => {
                        warn!(exchange, "the rung took nothing; parked in the local spool");
                    }
                }
            }
            Parking::Local => {}
        }
        let kept = self.lot.keep(&input.envelope, attempts, input.first_seen, due).await;
        self.settle_kept(source, kept).await
    }

    /// Once it is kept here, or refused by our own disk.
    async fn settle_kept(&self, source: Source, kept: Result<(), SpoolError>) -> Result<(), Cause> {
        match kept {
            Ok(()) => self.settle(source, Settlement::Ack).await,
            Err(error) => {
                self.settle(source, Settlement::Requeue).await?;
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
        let kept = off_thread(move || failed.keep(&failure)).await;
        if let Ok(kept) = &kept {
            self.unit.metrics.count(Count::Failed);
            let (becomes, said) = match kept {
                Kept::Stored(_) => ("failed, kept for `px failed`", cause.what.clone()),
                Kept::Counted => ("failed", format!("counted only: {}", cause.what)),
            };
            if let Some(unsaid) = self.samples.take(&said) {
                error!(key = %input.envelope.key, attempts, unsaid, "{becomes}: {said}");
            }
        }
        self.settle_kept(source, kept.map(drop)).await
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

    /// Answers for one delivery. What cannot be answered comes again: repeats are allowed, losses are not. `Err` when
    /// our own disk is why, so that it does not come again at once for ever.
    async fn settle(&self, source: Source, how: Settlement) -> Result<(), Cause> {
        let settled = match source {
            Source::Broker(receipt) => {
                answer(receipt, how).await;
                Ok(())
            }
            Source::Lot(held) => match how {
                Settlement::Requeue => Ok(()), // to let go of it is enough
                Settlement::Ack | Settlement::Reject => self.lot.remove(held).await,
                Settlement::RequeueAfter(..) => unreachable!("a delivery of the spool is deferred there"),
            },
            Source::Failed(id) => {
                let failed = self.failed.clone();
                let dropped = off_thread(move || failed.drop_entries(Which::One(id))).await;
                self.replaying().remove(&id);
                dropped.map(drop)
            }
        };
        settled.map_err(|error| Cause::from((Fault::Own, &error)))
    }
}

/// Answers the broker. A connection that has broken in the meantime takes no answer; its deliveries come again.
async fn answer(receipt: Box<dyn Receipt>, how: Settlement) {
    if let Err(error) = receipt.settle(how).await {
        debug!("not settled, it will come again: {}", chain(&error));
    }
}

/// A delivery after the component's first look.
pub(super) enum Begun {
    Publishing(Vec<Pending>),
    Decided(Outcome),
    Working(BoxFuture<'static, Outcome>),
    Waiting(BoxFuture<'static, ()>),
}
