//! The memory of what was forwarded, and its log: on a thread of its own, for it syncs.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot};
use tracing::warn;

use crate::flow::sample::Sampler;
use crate::flow::{Cause, Unit, chain};
use crate::message::{Announcement, Envelope, Fault, Fingerprint, SeenKey};
use crate::metrics::{Count, Metrics};
use crate::spool::seen::{Aside, Batch, Facts, Memory, Seen, SeenLog, Verdict};
use crate::spool::{Durability, SpoolError, off_thread};

/// Forwards that wait for one write.
const BATCH: usize = 512;

/// What was forwarded, shared with the thread that writes it down.
pub(super) struct Remembered {
    seen: Arc<Mutex<Seen>>,
    keeper: mpsc::Sender<Record>,
    metrics: Arc<Metrics>,
    samples: Sampler,
}

/// What is to be written down.
enum Record {
    Forward(Forward),
    /// Remembered already; nobody waits.
    Learned(Batch),
}

/// One forward to be remembered, and who waits for it.
struct Forward {
    key: SeenKey,
    announcement: Arc<Announcement>,
    time: Option<Timestamp>,
    /// When px first had it.
    came: Timestamp,
    safe: oneshot::Sender<Result<(), String>>,
}

impl Remembered {
    /// Reads the unit's log. The thread ends with the last handle. What is remembered of forwards is told to `others`.
    pub async fn open(
        unit: &Unit,
        memory: Memory,
        durability: Durability,
        others: Option<mpsc::Sender<Batch>>,
    ) -> Result<Remembered, SpoolError> {
        let path = unit.places.unit_state(&unit.name).join("seen.log");
        let (seen, log) = off_thread(move || {
            let mut seen = Seen::new(memory);
            let (log, loaded) = SeenLog::open(&path, durability, &mut seen, Timestamp::now())?;
            tracing::info!(
                products = loaded.records,
                torn_bytes = loaded.torn_bytes,
                of_older_px = loaded.is_older,
                "the seen log has been read"
            );
            Ok((seen, log))
        })
        .await?;
        let seen = Arc::new(Mutex::new(seen));
        let (keeper, asked) = mpsc::channel(BATCH);
        let (shared, metrics) = (Arc::clone(&seen), Arc::clone(&unit.metrics));
        std::thread::Builder::new()
            .name("seen".into())
            .spawn(move || keep_log(&mut Keeper::new(log), &shared, &metrics, asked, others.as_ref()))
            .map_err(|error| SpoolError::own("cannot start the seen log's thread", error))?;
        Ok(Remembered {
            seen,
            keeper,
            metrics: Arc::clone(&unit.metrics),
            samples: Sampler::default(),
        })
    }

    /// What is known of an announcement now.
    pub fn verdict(&self, key: SeenKey, announcement: &Announcement, time: Option<Timestamp>) -> Verdict {
        let source = announcement.source();
        lock(&self.seen).verdict(&key.0, &facts(announcement, &source, time), Timestamp::now())
    }

    /// Remembers a confirmed forward; returns when it is written.
    pub async fn remember(
        &self,
        key: SeenKey,
        announcement: &Arc<Announcement>,
        time: Option<Timestamp>,
        came: Timestamp,
    ) -> Result<(), Cause> {
        let (safe, written) = oneshot::channel();
        let forward = Forward {
            key,
            announcement: Arc::clone(announcement),
            time,
            came,
            safe,
        };
        // A thread that has ended drops the answer, which is told below.
        drop(self.keeper.send(Record::Forward(forward)).await);
        match written.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(Cause::new(Fault::Own, error)),
            Err(_) => Err(Cause::new(Fault::Own, "the seen log's thread has ended")),
        }
    }
}

impl Remembered {
    /// Remembers what another dispatcher has told that it has forwarded. It is known when this returns; it is in the log
    /// soon after, in the mode `crash`, for to forget it costs a repeat. Nothing is waited for: a disk that hangs must not
    /// hold up who is to work next, nor fill the broker.
    pub fn learn(&self, told: &[Envelope]) {
        let now = Timestamp::now();
        let mut batch = Batch::default();
        {
            let mut memory = lock(&self.seen);
            let evicted_before = memory.evicted_early();
            for envelope in told.iter().filter(|envelope| envelope.unreadable().is_none()) {
                let learned = memory.learn(&envelope.body, now, &mut batch);
                self.metrics.add(Count::Learned, learned);
            }
            self.metrics
                .add(Count::EvictedEarly, memory.evicted_early() - evicted_before);
        }
        if !batch.is_empty() && self.keeper.try_send(Record::Learned(batch)).is_err() {
            let said = "the seen log is not written as fast as another dispatcher forwards: not all of that is remembered \
                        over a restart";
            if let Some(unsaid) = self.samples.take(said) {
                warn!(unsaid, "{said}");
            }
        }
    }
}

/// Between two tries of a rewrite.
const REWRITE_AGAIN: Duration = Duration::from_secs(60);

/// The log, and when it is rewritten.
struct Keeper {
    log: SeenLog,
    /// The new log, as far as it is written.
    aside: Option<Aside>,
    /// The last rewrite had no room: not before then.
    not_before: Option<Instant>,
}

impl Keeper {
    fn new(log: SeenLog) -> Keeper {
        Keeper {
            log,
            aside: None,
            not_before: None,
        }
    }

    fn append(&mut self, batch: &Batch, is_awaited: bool) -> Result<(), SpoolError> {
        match is_awaited {
            true => self.log.append_batch(batch),
            false => self.log.append_soft(batch),
        }
    }

    /// Writes the next slice of a new log where it is time for one, after so many bytes were appended to the old one; as
    /// many more, so that it ends. One that cannot be written, as on a full disk, costs nothing: the old one is whole, and
    /// goes on. Answers whether there is more to write.
    fn rewrite(&mut self, seen: &Mutex<Seen>, appended: usize) -> bool {
        if let Err(error) = self.try_rewrite(seen, 2 * appended) {
            warn!("the seen log grows until it can be rewritten: {}", chain(&error));
            self.not_before = Some(Instant::now() + REWRITE_AGAIN);
        }
        self.aside.is_some()
    }

    fn try_rewrite(&mut self, seen: &Mutex<Seen>, bytes: usize) -> Result<(), SpoolError> {
        let mut aside = match self.aside.take() {
            Some(aside) => aside,
            None if self.not_before.is_some_and(|time| time > Instant::now()) => return Ok(()),
            None if !self.log.wants_rewrite(lock(seen).len()) => return Ok(()),
            None => self.log.begin_aside()?,
        };
        let records = match aside.next(&self.log, bytes) {
            Ok(records) => records,
            Err(error) => {
                drop(aside); // it has the name of the new one
                warn!("all of it is written anew from memory: {}", chain(&error));
                self.log.renew(&lock(seen), Timestamp::now())?;
                self.not_before = None;
                return Ok(());
            }
        };
        let still_known = lock(seen).still_known(&records, Timestamp::now());
        aside.add(&still_known)?;
        if aside.is_complete(&self.log) {
            self.log.replace(aside)?;
            self.not_before = None;
        } else {
            self.aside = Some(aside);
        }
        Ok(())
    }
}

/// Writes what has gathered as one batch, then answers everybody in it.
fn keep_log(
    keeper: &mut Keeper,
    seen: &Mutex<Seen>,
    metrics: &Metrics,
    mut asked: mpsc::Receiver<Record>,
    others: Option<&mpsc::Sender<Batch>>,
) {
    let mut gathered = Vec::with_capacity(BATCH);
    let mut is_well = true;
    while asked.blocking_recv_many(&mut gathered, BATCH) > 0 {
        let (mut batch, mut forwarded) = (Batch::default(), Batch::default());
        let now = Timestamp::now();
        let mut memory = lock(seen);
        let evicted_before = memory.evicted_early();
        for record in &gathered {
            let forward = match record {
                Record::Forward(forward) => forward,
                Record::Learned(learned) => {
                    batch.append(learned);
                    continue;
                }
            };
            let source = forward.announcement.source();
            let facts = facts(&forward.announcement, &source, forward.time);
            let held = Duration::try_from(now.duration_since(forward.came)).unwrap_or_default();
            memory.remember(forward.key.0, &facts, held, now, &mut forwarded);
        }
        batch.append(&forwarded);
        let is_awaited = !forwarded.is_empty();
        metrics.add(Count::EvictedEarly, memory.evicted_early() - evicted_before);
        drop(memory);
        let written = keeper.append(&batch, is_awaited).map_err(|error| chain(&error));
        if let Err(error) = &written
            && is_well
            && !is_awaited
        {
            warn!("what another dispatcher forwards is remembered, but not over a restart: {error}");
        }
        is_well = written.is_ok();
        if let (Ok(()), true, Some(others)) = (&written, is_awaited, others) {
            // Before the acks: what is settled is told, or on its way. Who cannot be told repeats a little after a switch.
            drop(others.try_send(forwarded));
        }
        for record in gathered.drain(..) {
            if let Record::Forward(forward) = record {
                // Whoever waited may have been abandoned.
                drop(forward.safe.send(written.clone()));
            }
        }
        // Nobody waits for a new log, nor for more than one slice of it.
        let mut appended = batch.size();
        while keeper.rewrite(seen, std::mem::take(&mut appended)) && asked.is_empty() {}
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

fn facts<'a>(announcement: &'a Announcement, source: &'a str, time: Option<Timestamp>) -> Facts<'a> {
    Facts {
        source,
        path: &announcement.path.0,
        size: announcement.size,
        time,
        content: announcement.identity.as_ref().and_then(Fingerprint::of),
    }
}

#[cfg(test)]
mod tests;
