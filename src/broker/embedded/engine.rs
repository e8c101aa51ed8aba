//! The one thread that owns the file's connection. Each round drains the calls that have come in, applies them and the
//! claims they make possible in one transaction, commits, and only then answers, delivers and wakes others.
//!
//! An error of the file ends the connection: the transaction is rolled back, and what was claimed goes back as soon
//! as another process sees the lock freed.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use rustix::event::{PollFd, PollFlags, Timespec};
use tokio::sync::{mpsc, oneshot};

use super::consumers::{Consumers, Delivery};
use super::messages;
use super::presence::{self, DeadLock, Presence};
use super::reason::Reason;
use super::request::{Bell, Channel, Left, Reply, Request, Subscribed};
use super::routes::Routes;
use super::{schema, topology};
use crate::broker::Removal;

/// The net under the wake-ups, and how soon a dead process is noticed.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Between two rounds of moving what is overdue.
const OVERDUE_PAUSE: Duration = Duration::from_millis(10);
/// Calls in one transaction.
const BATCH_MAX: usize = 512;

/// What a transaction leads to once it is committed.
#[derive(Default)]
struct Effects {
    answers: Vec<Box<dyn FnOnce()>>,
    deliveries: Vec<(i64, Delivery)>,
    /// Queues that have more to claim than before.
    filled: Vec<i64>,
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
    consumers: Consumers,
    /// Dropped things that are not put away yet.
    left: Vec<Left>,
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
            consumers: Consumers::default(),
            left: Vec::new(),
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
        let until = self
            .consumers
            .patient_until()
            .map_or(until, |patience| until.min(patience));
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
        // Before the calls: what was called before something was dropped is applied before it is put away.
        self.left.extend(self.bell.take_left());
        let (batch, is_disconnected) = self.take_requests();
        let has_changed = self.read_if_changed()?;
        let dead = self.find_dead();
        let is_due = self.due_ms().is_some_and(|due_ms| due_ms <= super::now_ms());
        let must_write = is_disconnected || is_due || !(batch.is_empty() && self.left.is_empty() && dead.is_empty());
        let is_impatient = self
            .consumers
            .patient_until()
            .is_some_and(|until| until <= Instant::now());
        let must_look = is_rung || is_poked || has_changed || is_impatient;
        if must_write || (must_look && self.consumers.could_claim(&self.db, super::now_ms())?) {
            return self.write(batch, is_disconnected, dead, is_due);
        }
        Ok(Next::Wait)
    }

    /// One transaction and what follows from it.
    fn write(
        &mut self,
        batch: Vec<Request>,
        is_disconnected: bool,
        dead: Vec<String>,
        is_due: bool,
    ) -> Result<Next, Reason> {
        let is_full_batch = batch.len() == BATCH_MAX;
        // Only a promise to a publisher or declarer must survive a power cut; a lost claim or ack is a redelivery.
        let is_promise = |request: &Request| matches!(request, Request::Publish { .. } | Request::Declare { .. });
        self.set_syncing(batch.iter().any(is_promise))?;
        self.db.execute_batch("BEGIN IMMEDIATE")?;
        let mut effects = Effects::default();
        if Routes::version(&self.db)? != self.routes.version {
            self.read_routes()?;
        }
        self.bury(dead, &mut effects)?;
        let mut closing = None;
        for request in batch {
            if let Some(reply) = self.apply(request, &mut effects)? {
                closing = Some(reply);
                break; // what comes after a close is not answered: its callers hear that the connection is closed
            }
        }
        let is_dropped = !is_full_batch && self.put_away(&mut effects)?;
        let is_end = is_disconnected || is_dropped || closing.is_some();
        let mut is_again = is_full_batch;
        if is_end {
            let refilled = topology::remove_owner(&self.db, &self.presence.name, super::now_ms())?;
            effects.filled.extend(refilled);
        } else {
            self.move_due(is_due, &mut effects)?;
            is_again |= self
                .consumers
                .claim(&self.db, super::now_ms(), &mut effects.deliveries)?;
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
        self.consumers.end_missing(&self.routes, &self.place);
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

    /// Does what dropped subscriptions and receipts would have asked for; true when the connection itself was dropped.
    fn put_away(&mut self, effects: &mut Effects) -> Result<bool, Reason> {
        let mut is_dropped = false;
        for left in std::mem::take(&mut self.left) {
            match left {
                Left::Subscription { consumer, unread } => self.cancel(consumer, &unread, effects)?,
                Left::Channel { consumer } => {
                    let refilled = topology::remove_consumer(&self.db, consumer, super::now_ms())?;
                    effects.filled.extend(refilled);
                    self.consumers.remove(consumer);
                    self.read_routes()?;
                }
                Left::Connection => is_dropped = true,
            }
        }
        Ok(is_dropped)
    }

    fn cancel(&mut self, consumer: i64, unread: &[i64], effects: &mut Effects) -> Result<(), Reason> {
        self.consumers.stop(consumer);
        for message in unread {
            effects.filled.extend(messages::put_back(&self.db, *message, consumer)?);
            self.consumers.note_settled(consumer);
        }
        topology::cancel_consumer(&self.db, consumer, super::now_ms())?;
        self.read_routes()
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
                self.consumers.note_settled(consumer);
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
                let row = self.routes.queue_named(&queue);
                let answer = row.map(|row| messages::depth(&self.db, row.id)).transpose()?;
                self.answer(effects, reply, Ok(answer));
            }
            Request::Consumers { queue, reply } => {
                self.answer(effects, reply, Ok(topology::consumers(&self.db, &queue)?));
            }
            Request::DeleteQueue { queue, guards, reply } => {
                let answer = self.remove_queue(&queue, guards)?;
                self.answer(effects, reply, answer);
            }
            Request::DeleteExchange { exchange, reply } => {
                topology::remove_exchange(&self.db, &exchange)?;
                self.read_routes()?;
                self.answer(effects, reply, Ok(()));
            }
            Request::HasExchange { exchange, reply } => {
                self.answer(effects, reply, Ok(self.routes.has_exchange(&exchange)));
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

    fn remove_queue(&mut self, queue: &str, guards: (bool, bool)) -> Result<Result<Removal, Reason>, Reason> {
        let answer = topology::remove_queue(&self.db, queue, guards, &self.presence.name)?;
        self.read_routes()?;
        Ok(answer)
    }

    fn subscribe(&mut self, queue: &str, prefetch: usize) -> Result<Result<Subscribed, Reason>, Reason> {
        let Some(row) = self.routes.queue_named(queue) else {
            let why = format!("cannot consume: there is no queue {queue}; declare it, or correct the name");
            return Ok(Err(Reason::own(why)));
        };
        if let Some(refusal) = topology::locked(row, &self.presence.name) {
            return Ok(Err(refusal));
        }
        let consumer = topology::add_consumer(&self.db, row.id, &self.presence.name, prefetch)?;
        let stream = self.consumers.add(consumer, row, prefetch);
        self.read_routes()?;
        let bell = self.bell.clone();
        let channel = Arc::new(Channel { consumer, bell });
        Ok(Ok(Subscribed { stream, channel }))
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

    /// Answers, delivers, wakes others: it is committed. True when there is something left to put back.
    fn finish(&mut self, effects: Effects) -> bool {
        for answer in effects.answers {
            answer();
        }
        for (consumer, delivery) in effects.deliveries {
            if let Err(message) = self.consumers.deliver(consumer, delivery) {
                let unread = vec![message];
                self.left.push(Left::Subscription { consumer, unread });
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
        !self.left.is_empty()
    }
}
