//! The one thread that owns the file's connection. Each round drains the calls that have come in, applies them and the
//! claims they make possible in one transaction, commits, and only then answers, delivers and wakes others.
//!
//! An error of the file ends the connection: the transaction is rolled back, and what was claimed goes back as soon
//! as another process sees the lock freed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use rustix::event::{PollFd, PollFlags, Timespec};
use tokio::sync::{mpsc, oneshot};

use super::messages::{self, Claimed};
use super::presence::{self, DeadLock, Presence};
use super::reason::Reason;
use super::request::{Bell, Channel, Delivery, Left, Reply, Request, Subscribed};
use super::routes::Routes;
use super::{schema, topology};

/// The net under the wake-ups, and how soon a dead process is noticed.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long a consumer leaves messages to those whose turn it is.
const GRACE: Duration = Duration::from_millis(10);
/// Between two rounds of moving what is overdue.
const OVERDUE_PAUSE: Duration = Duration::from_millis(10);
/// Calls in one transaction.
const BATCH_MAX: usize = 512;
/// Messages one consumer claims in one transaction.
const CLAIM_MAX: usize = 256;
/// Bytes of bodies that wait in one subscription; one message may go over it.
const BACKLOG_MAX: usize = 16 << 20;

/// A consumer of this connection.
struct Consumer {
    queue: i64,
    queue_name: String,
    prefetch: usize,
    unsettled: usize,
    is_active: bool,
    /// Has room for `prefetch` deliveries and the last word.
    deliveries: mpsc::Sender<Result<Delivery, Reason>>,
    backlog: Arc<AtomicUsize>,
    /// Leave what is ready to the others until then.
    patient_until: Option<Instant>,
}

impl Consumer {
    fn room(&self) -> usize {
        if !self.is_active || self.backlog.load(Ordering::Acquire) >= BACKLOG_MAX {
            return 0;
        }
        self.prefetch.saturating_sub(self.unsettled)
    }

    fn is_impatient(&self) -> bool {
        self.patient_until.is_some_and(|until| until <= Instant::now())
    }
}

/// What a transaction leads to once it is committed.
#[derive(Default)]
struct Effects {
    answers: Vec<Box<dyn FnOnce()>>,
    deliveries: Vec<(i64, Delivery)>,
    /// Queues that have more to claim than before.
    filled: Vec<i64>,
    /// Consumers that have settled something.
    relieved: BTreeSet<i64>,
    buried: Vec<(String, DeadLock)>,
}

enum Next {
    Wait,
    Again,
    End(Option<oneshot::Sender<()>>),
}

/// The thread's state.
pub(super) struct Engine {
    db: Connection,
    presence: Presence,
    place: String,
    bell: Arc<Bell>,
    requests: mpsc::Receiver<Request>,
    routes: Routes,
    consumers: BTreeMap<i64, Consumer>,
    /// Claims that could not be delivered because the subscription was being cancelled.
    undelivered: Vec<(i64, i64)>,
    data_version: i64,
    next_due_ms: Option<i64>,
    look_at: Instant,
    is_syncing: bool,
}

impl Engine {
    /// Opens the file and joins the others. Blocks, at most `patience` for each thing it waits for.
    pub fn open(
        path: &Path,
        label: &str,
        place: &str,
        bell: Arc<Bell>,
        requests: mpsc::Receiver<Request>,
        patience: Duration,
    ) -> Result<Engine, Reason> {
        let db = schema::open(path, patience)?;
        let presence = Presence::join(path)?;
        let now_ms = super::now_ms();
        db.execute_batch("BEGIN IMMEDIATE")?;
        topology::add_owner(&db, &presence.name, label, now_ms)?;
        topology::renew_leases_after_boot(&db, &presence::boot_id(), now_ms)?;
        let routes = Routes::read(&db)?;
        db.execute_batch("COMMIT")?;
        presence.sweep(&routes.owners);
        Ok(Engine {
            db,
            presence,
            place: place.to_string(),
            bell,
            requests,
            routes,
            consumers: BTreeMap::new(),
            undelivered: Vec::new(),
            data_version: 0,
            next_due_ms: None,
            look_at: Instant::now(),
            is_syncing: true,
        })
    }

    /// Serves until it is told to close, nobody is left to serve, or the file fails. Gives the reason, and who to
    /// tell when everything is put away.
    pub fn run(&mut self) -> (Reason, Option<oneshot::Sender<()>>) {
        loop {
            match self.round() {
                Ok(Next::Again) => {}
                Ok(Next::Wait) => self.wait(),
                Ok(Next::End(reply)) => {
                    let closed = Reason::endpoint("the connection was closed").at(&self.place);
                    return (closed, reply);
                }
                Err(reason) => return (reason.at(&self.place), None),
            }
        }
    }

    fn wait(&self) {
        let now = Instant::now();
        let mut until = self.look_at;
        if let Some(due_ms) = self.due_ms() {
            let left = u64::try_from(due_ms - super::now_ms()).unwrap_or(0);
            let pause = match left {
                0 => OVERDUE_PAUSE,
                left => Duration::from_millis(left),
            };
            until = until.min(now.checked_add(pause).unwrap_or(until));
        }
        let patience = self.consumers.values().filter_map(|consumer| consumer.patient_until);
        let until = patience.min().map_or(until, |patience| until.min(patience));
        let pause = until.saturating_duration_since(now);
        let timeout = Timespec {
            tv_sec: pause.as_secs().try_into().unwrap_or(1),
            tv_nsec: pause.subsec_nanos().into(),
        };
        let bell = self.bell.event();
        let socket = self.presence.socket();
        let mut fds = [PollFd::new(&bell, PollFlags::IN), PollFd::new(&socket, PollFlags::IN)];
        // An interrupted wait is a short one.
        let _ = rustix::event::poll(&mut fds, Some(&timeout));
    }

    fn due_ms(&self) -> Option<i64> {
        self.next_due_ms.into_iter().chain(self.routes.next_expiry_ms()).min()
    }

    fn round(&mut self) -> Result<Next, Reason> {
        let is_rung = self.bell.silence();
        let is_poked = self.presence.take_pokes();
        let (batch, is_disconnected) = self.take_requests();
        let left = self.bell.take_left();
        let has_changed = self.read_if_changed()?;
        let dead = self.find_dead();
        let is_due = self.due_ms().is_some_and(|due_ms| due_ms <= super::now_ms());
        let must_write = !batch.is_empty()
            || !left.is_empty()
            || !self.undelivered.is_empty()
            || !dead.is_empty()
            || is_due
            || is_disconnected;
        let is_impatient = self.consumers.values().any(Consumer::is_impatient);
        let must_look = is_rung || is_poked || has_changed || is_impatient;
        if !(must_write || must_look && self.could_claim()?) {
            return Ok(Next::Wait);
        }
        let is_full_batch = batch.len() == BATCH_MAX;

        // Only a promise to a publisher or declarer must survive a power cut; a lost claim or ack is a redelivery.
        self.set_syncing(
            batch
                .iter()
                .any(|request| matches!(request, Request::Publish { .. } | Request::Declare { .. })),
        )?;
        self.db.execute_batch("BEGIN IMMEDIATE")?;
        let mut effects = Effects::default();
        if Routes::version(&self.db)? != self.routes.version {
            self.read_routes()?;
        }
        self.bury(dead, &mut effects)?;
        self.put_away(left, &mut effects)?;
        let mut closing = None;
        for request in batch {
            if let Some(reply) = self.apply(request, &mut effects)? {
                closing = Some(reply);
                break; // what comes after a close is not answered: its callers hear that the connection is closed
            }
        }
        let is_end = is_disconnected || closing.is_some();
        let mut is_again = is_full_batch;
        if is_end {
            let refilled = topology::remove_owner(&self.db, &self.presence.name, super::now_ms())?;
            effects.filled.extend(refilled);
        } else {
            self.move_due(is_due, &mut effects)?;
            is_again |= self.claim(&mut effects)?;
            self.next_due_ms = messages::next_due_ms(&self.db)?;
        }
        self.db.execute_batch("COMMIT")?;
        is_again |= self.finish(effects);
        Ok(match (is_end, is_again) {
            (true, _) => Next::End(closing),
            (false, true) => Next::Again,
            (false, false) => Next::Wait,
        })
    }

    /// The calls that have come in; true when nobody can make any more.
    fn take_requests(&mut self) -> (Vec<Request>, bool) {
        let mut batch = Vec::new();
        while batch.len() < BATCH_MAX {
            match self.requests.try_recv() {
                Ok(request) => batch.push(request),
                Err(mpsc::error::TryRecvError::Empty) => return (batch, false),
                Err(mpsc::error::TryRecvError::Disconnected) => return (batch, true),
            }
        }
        (batch, false)
    }

    /// Reads what is kept in memory anew when another process has written. One cheap statement when none has.
    fn read_if_changed(&mut self) -> Result<bool, Reason> {
        let version: i64 = self
            .db
            .prepare_cached("PRAGMA data_version")?
            .query_row([], |row| row.get(0))?;
        if version == self.data_version {
            return Ok(false);
        }
        self.data_version = version;
        if Routes::version(&self.db)? != self.routes.version {
            self.read_routes()?;
        }
        self.next_due_ms = messages::next_due_ms(&self.db)?;
        Ok(true)
    }

    /// Reads everything declared. Subscriptions to queues that are gone end.
    fn read_routes(&mut self) -> Result<(), Reason> {
        self.routes = Routes::read(&self.db)?;
        if !self.routes.owners.contains(&self.presence.name) {
            return Err(Reason::endpoint(
                "another process took this connection for dead; nobody should touch the files in PATH.d",
            ));
        }
        let routes = &self.routes;
        self.consumers.retain(|_, consumer| {
            if routes.queue(consumer.queue).is_some() {
                return true;
            }
            let gone = Reason::endpoint(format!("queue {} was deleted", consumer.queue_name));
            // There is room for this last word; a subscription that is being dropped does not want it.
            let _ = consumer.deliveries.try_send(Err(gone.at(&self.place)));
            false
        });
        Ok(())
    }

    fn set_syncing(&mut self, syncing: bool) -> Result<(), Reason> {
        if syncing != self.is_syncing {
            let mode = if syncing { "FULL" } else { "NORMAL" };
            self.db.pragma_update(None, "synchronous", mode)?;
            self.is_syncing = syncing;
        }
        Ok(())
    }

    /// Each second: the owners whose lock is free.
    fn find_dead(&mut self) -> Vec<String> {
        if Instant::now() < self.look_at {
            return Vec::new();
        }
        self.look_at = Instant::now() + LOOK_EVERY;
        let others = self.routes.owners.iter().filter(|name| **name != self.presence.name);
        others
            .filter(|name| self.presence.probe(name).is_some())
            .cloned()
            .collect()
    }

    /// Gives back what the dead had. Their locks are taken again inside the transaction and kept until it is
    /// committed; the file's own lock decides between two cleaners.
    fn bury(&mut self, dead: Vec<String>, effects: &mut Effects) -> Result<(), Reason> {
        for name in dead {
            if !self.routes.owners.contains(&name) {
                continue;
            }
            let Some(lock) = self.presence.probe(&name) else {
                continue;
            };
            let refilled = topology::remove_owner(&self.db, &name, super::now_ms())?;
            effects.filled.extend(refilled);
            effects.buried.push((name, lock));
        }
        if !effects.buried.is_empty() {
            self.read_routes()?;
        }
        Ok(())
    }

    /// Does what dropped subscriptions and receipts would have asked for.
    fn put_away(&mut self, left: Vec<Left>, effects: &mut Effects) -> Result<(), Reason> {
        for (consumer, message) in std::mem::take(&mut self.undelivered) {
            self.put_back(consumer, &[message], effects)?;
        }
        for left in left {
            match left {
                Left::Subscription { consumer, unread } => self.cancel(consumer, &unread, effects)?,
                Left::Channel { consumer } => {
                    let refilled = topology::remove_consumer(&self.db, consumer, super::now_ms())?;
                    effects.filled.extend(refilled);
                    self.consumers.remove(&consumer);
                    self.read_routes()?;
                }
            }
        }
        Ok(())
    }

    fn cancel(&mut self, consumer: i64, unread: &[i64], effects: &mut Effects) -> Result<(), Reason> {
        if let Some(consumer) = self.consumers.get_mut(&consumer) {
            consumer.is_active = false;
            consumer.patient_until = None;
        }
        self.put_back(consumer, unread, effects)?;
        topology::cancel_consumer(&self.db, consumer, super::now_ms())?;
        self.read_routes()
    }

    fn put_back(&mut self, consumer: i64, unread: &[i64], effects: &mut Effects) -> Result<(), Reason> {
        for message in unread {
            effects.filled.extend(messages::put_back(&self.db, *message, consumer)?);
            self.note_settled(consumer, effects);
        }
        Ok(())
    }

    fn note_settled(&mut self, consumer: i64, effects: &mut Effects) {
        if let Some(state) = self.consumers.get_mut(&consumer) {
            state.unsettled = state.unsettled.saturating_sub(1);
            effects.relieved.insert(consumer);
        }
    }

    /// Applies one call. Gives the reply of a close, which ends the round.
    fn apply(&mut self, request: Request, effects: &mut Effects) -> Result<Option<oneshot::Sender<()>>, Reason> {
        let now_ms = super::now_ms();
        match request {
            Request::Declare { topology, reply } => {
                let answer = topology::declare(&self.db, &topology, &self.presence.name, now_ms)?;
                self.read_routes()?;
                self.answer(effects, reply, answer);
            }
            Request::Publish {
                exchange,
                content,
                memory,
                reply,
            } => {
                let filled = &mut effects.filled;
                let answer = messages::publish(&self.db, &self.routes, &exchange, &content, now_ms, filled)?;
                drop((content, memory));
                self.answer(effects, reply, answer);
            }
            Request::Subscribe { queue, prefetch, reply } => {
                let answer = self.subscribe(&queue, prefetch)?;
                self.answer(effects, reply, answer);
            }
            Request::Settle {
                message,
                consumer,
                how,
                reply,
            } => {
                let claim = (message, consumer);
                let answer = messages::settle(&self.db, &self.routes, claim, how, now_ms, &mut effects.filled)?;
                self.note_settled(consumer, effects);
                self.answer(effects, reply, answer);
            }
            Request::Cancel {
                consumer,
                unread,
                reply,
            } => {
                self.cancel(consumer, &unread, effects)?;
                self.answer(effects, reply, Ok(()));
            }
            Request::Depth { queue, reply } => {
                let answer = match self.routes.queue_named(&queue) {
                    Some(row) => Some(messages::depth(&self.db, row.id)?),
                    None => None,
                };
                self.answer(effects, reply, Ok(answer));
            }
            Request::Close { reply } => return Ok(Some(reply)),
        }
        Ok(None)
    }

    fn answer<T: Send + 'static>(&self, effects: &mut Effects, reply: Reply<T>, answer: Result<T, Reason>) {
        let answer = answer.map_err(|reason| reason.at(&self.place));
        effects.answers.push(Box::new(move || {
            // Nobody waits any more: for them it may or may not have happened.
            let _ = reply.send(answer);
        }));
    }

    fn subscribe(&mut self, queue: &str, prefetch: usize) -> Result<Result<Subscribed, Reason>, Reason> {
        let Some(row) = self.routes.queue_named(queue) else {
            let why = format!("cannot consume: there is no queue {queue}; declare it, or correct the name");
            return Ok(Err(Reason::own(why)));
        };
        if let Some(refusal) = topology::locked(row, &self.presence.name) {
            return Ok(Err(refusal));
        }
        let row_id = row.id;
        let consumer = topology::add_consumer(&self.db, row_id, &self.presence.name, prefetch)?;
        let (sender, deliveries) = mpsc::channel(prefetch + 1);
        let backlog = Arc::new(AtomicUsize::new(0));
        self.consumers.insert(
            consumer,
            Consumer {
                queue: row_id,
                queue_name: queue.to_string(),
                prefetch,
                unsettled: 0,
                is_active: true,
                deliveries: sender,
                backlog: backlog.clone(),
                patient_until: None,
            },
        );
        self.read_routes()?;
        let channel = Arc::new(Channel {
            consumer,
            bell: self.bell.clone(),
        });
        Ok(Ok(Subscribed {
            consumer,
            deliveries,
            backlog,
            channel,
        }))
    }

    fn move_due(&mut self, is_due: bool, effects: &mut Effects) -> Result<(), Reason> {
        if !is_due {
            return Ok(());
        }
        let now_ms = super::now_ms();
        messages::move_due(&self.db, &self.routes, now_ms, &mut effects.filled)?;
        if topology::delete_expired_queues(&self.db, now_ms)? {
            self.read_routes()?;
        }
        Ok(())
    }

    /// Is there anything to take for one of our consumers? Asked before a transaction, so that idle ones write nothing.
    fn could_claim(&mut self) -> Result<bool, Reason> {
        let now_ms = super::now_ms();
        for (id, consumer) in &mut self.consumers {
            let room = consumer.room().min(CLAIM_MAX);
            if room == 0 {
                consumer.patient_until = None;
                continue;
            }
            let demand = messages::demand(&self.db, consumer.queue, room, now_ms)?;
            if demand.share(*id, consumer.is_impatient()) > 0 {
                return Ok(true);
            }
            consumer.patient_until = match demand.ready {
                0 => None,
                _ => consumer.patient_until.or(Some(Instant::now() + GRACE)),
            };
        }
        Ok(false)
    }

    /// Claims what our consumers' turn is to take. True when one of them could take more at once.
    fn claim(&mut self, effects: &mut Effects) -> Result<bool, Reason> {
        for id in &effects.relieved {
            if let Some(consumer) = self.consumers.get(id) {
                messages::note_consumer(&self.db, *id, consumer.unsettled, false)?;
            }
        }
        let now_ms = super::now_ms();
        let mut is_again = false;
        for (id, consumer) in &mut self.consumers {
            let room = consumer.room().min(CLAIM_MAX);
            if room == 0 {
                consumer.patient_until = None;
                continue;
            }
            let demand = messages::demand(&self.db, consumer.queue, room, now_ms)?;
            let share = demand.share(*id, consumer.is_impatient()).min(room);
            let mut taken = 0;
            if share > 0 {
                let bytes_max = BACKLOG_MAX.saturating_sub(consumer.backlog.load(Ordering::Acquire));
                let claimed = messages::claim(&self.db, consumer.queue, *id, share, bytes_max, now_ms)?;
                taken = claimed.len();
                consumer.unsettled += taken;
                messages::note_consumer(&self.db, *id, consumer.unsettled, true)?;
                consumer.patient_until = None;
                for claimed in claimed {
                    effects.deliveries.push((*id, unpack(claimed)?));
                }
            }
            let is_more = demand.ready > taken && consumer.unsettled < consumer.prefetch;
            if !is_more {
                consumer.patient_until = None;
            } else if taken == CLAIM_MAX {
                is_again = true;
            } else {
                consumer.patient_until = consumer.patient_until.or(Some(Instant::now() + GRACE));
            }
        }
        Ok(is_again)
    }

    /// Answers, delivers, wakes others: it is committed. True when there is something left to put back.
    fn finish(&mut self, effects: Effects) -> bool {
        for answer in effects.answers {
            answer();
        }
        for (id, delivery) in effects.deliveries {
            let message = delivery.message;
            let size = delivery.envelope.body.len();
            let is_sent = self.consumers.get(&id).is_some_and(|consumer| {
                consumer.backlog.fetch_add(size, Ordering::AcqRel);
                consumer.deliveries.try_send(Ok(delivery)).is_ok()
            });
            if !is_sent {
                self.undelivered.push((id, message));
            }
        }
        let queues: BTreeSet<i64> = effects.filled.into_iter().collect();
        let owners: BTreeSet<&String> = queues.iter().flat_map(|queue| self.routes.consumers(*queue)).collect();
        for owner in owners.into_iter().filter(|owner| **owner != self.presence.name) {
            self.presence.poke(owner);
        }
        for (name, lock) in effects.buried {
            self.presence.remove(&name);
            drop(lock);
        }
        !self.undelivered.is_empty()
    }
}

fn unpack(claimed: Claimed) -> Result<Delivery, Reason> {
    let Claimed {
        id,
        redelivered,
        content,
    } = claimed;
    let envelope = content.unpack().ok_or_else(|| {
        Reason::own(format!(
            "the properties of message {id} are not what px writes; the file is damaged, move it away or restore it"
        ))
    })?;
    Ok(Delivery {
        message: id,
        redelivered,
        envelope,
    })
}
