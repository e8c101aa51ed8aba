//! The memory of what was forwarded, and its log: on a thread of its own, for it syncs.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot};
use tracing::warn;

use crate::flow::{Cause, Unit, chain};
use crate::message::{Announcement, Fault, Fingerprint, SeenKey};
use crate::metrics::{Count, Metrics};
use crate::spool::seen::{Batch, Facts, Memory, Seen, SeenLog, Verdict};
use crate::spool::{Durability, SpoolError, off_thread};

/// Forwards that wait for one write.
const BATCH: usize = 512;
/// Many times what a dispatcher has in hand.
const UNSURE_MAX: usize = 20_000;

/// What was forwarded, shared with the thread that writes it down.
pub(super) struct Remembered {
    seen: Arc<Mutex<Seen>>,
    keeper: mpsc::Sender<Record>,
    unsure: Mutex<Unsure>,
    metrics: Arc<Metrics>,
}

/// What is to be written down.
enum Record {
    Forward(Forward),
    /// Remembered already; nobody waits.
    Learned(Batch),
}

/// A product that somebody else has forwarded.
pub(super) struct Learned {
    pub key: SeenKey,
    pub announcement: Announcement,
    pub time: Option<Timestamp>,
}

/// The last that were learned from others: who follows a key gets a message at once, when it is not safe everywhere yet.
/// Nobody knows whether it was confirmed.
#[derive(Default)]
struct Unsure {
    keys: HashSet<SeenKey>,
    order: VecDeque<SeenKey>,
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
    /// Reads the unit's log. The thread ends with the last handle.
    pub async fn open(unit: &Unit, memory: Memory, durability: Durability) -> Result<Remembered, SpoolError> {
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
            .spawn(move || keep_log(log, &shared, &metrics, asked))
            .map_err(|error| SpoolError::own("cannot start the seen log's thread", error))?;
        Ok(Remembered {
            seen,
            keeper,
            unsure: Mutex::default(),
            metrics: Arc::clone(&unit.metrics),
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
            Ok(Ok(())) => {
                self.unsure().keys.remove(&key);
                Ok(())
            }
            Ok(Err(error)) => Err(Cause::new(Fault::Own, error)),
            Err(_) => Err(Cause::new(Fault::Own, "the seen log's thread has ended")),
        }
    }
}

impl Remembered {
    /// Remembers what another dispatcher has forwarded, as that one does. It is known when this returns; it is in the
    /// log soon after, in the mode `crash`, for to forget it costs a repeat.
    pub async fn learn(&self, learned: &[Learned]) {
        let now = Timestamp::now();
        let mut batch = Batch::default();
        {
            let (mut memory, mut unsure) = (lock(&self.seen), self.unsure());
            let evicted_before = memory.evicted_early();
            for Learned {
                key,
                announcement,
                time,
            } in learned
            {
                let source = announcement.source();
                let facts = facts(announcement, &source, *time);
                // A repeat: who was first stays first.
                if let Verdict::Duplicate { .. } = memory.verdict(&key.0, &facts, now) {
                    continue;
                }
                // When the other one first had it is not known; its forward is heard of at once.
                memory.remember(key.0, &facts, Duration::ZERO, now, &mut batch);
                unsure.add(*key);
                self.metrics.count(Count::Learned);
            }
            self.metrics
                .add(Count::EvictedEarly, memory.evicted_early() - evicted_before);
        }
        if !batch.is_empty() {
            // A thread that has ended is told to who forwards; this is known all the same.
            drop(self.keeper.send(Record::Learned(batch)).await);
        }
    }

    /// Whether this was learned from another dispatcher lately, which perhaps died before it was confirmed.
    pub fn is_unsure(&self, key: &SeenKey) -> bool {
        self.unsure().keys.contains(key)
    }

    fn unsure(&self) -> MutexGuard<'_, Unsure> {
        self.unsure.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Unsure {
    fn add(&mut self, key: SeenKey) {
        if self.keys.insert(key) {
            self.order.push_back(key);
        }
        while self.order.len() > UNSURE_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.keys.remove(&oldest);
        }
    }
}

/// Writes what has gathered as one batch, then answers everybody in it.
fn keep_log(mut log: SeenLog, seen: &Mutex<Seen>, metrics: &Metrics, mut asked: mpsc::Receiver<Record>) {
    let mut gathered = Vec::with_capacity(BATCH);
    let mut is_well = true;
    while asked.blocking_recv_many(&mut gathered, BATCH) > 0 {
        let mut batch = Batch::default();
        let now = Timestamp::now();
        let mut memory = lock(seen);
        let evicted_before = memory.evicted_early();
        let mut is_awaited = false;
        for record in &gathered {
            let forward = match record {
                Record::Forward(forward) => forward,
                Record::Learned(learned) => {
                    batch.append(learned);
                    continue;
                }
            };
            is_awaited = true;
            let source = forward.announcement.source();
            let facts = facts(&forward.announcement, &source, forward.time);
            let held = Duration::try_from(now.duration_since(forward.came)).unwrap_or_default();
            memory.remember(forward.key.0, &facts, held, now, &mut batch);
        }
        metrics.add(Count::EvictedEarly, memory.evicted_early() - evicted_before);
        // What is new is in the memory, so a rewritten log has it.
        let aside = log.wants_rewrite(memory.len()).then(|| log.write_aside(&memory, now));
        drop(memory);
        let written = match aside {
            Some(aside) => aside.and_then(|aside| log.replace(aside)),
            None if is_awaited => log.append_batch(&batch),
            None => log.append_soft(&batch),
        };
        let written = written.map_err(|error| chain(&error));
        if let Err(error) = &written
            && is_well
            && !is_awaited
        {
            warn!("what another dispatcher forwards is remembered, but not over a restart: {error}");
        }
        is_well = written.is_ok();
        for record in gathered.drain(..) {
            if let Record::Forward(forward) = record {
                // Whoever waited may have been abandoned.
                drop(forward.safe.send(written.clone()));
            }
        }
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
mod tests {
    use super::*;

    #[test]
    fn what_was_learned_long_ago_is_sure() {
        let mut unsure = Unsure::default();
        let key = |n: usize| SeenKey(std::array::from_fn(|i| (n >> (8 * i.min(7))) as u8));
        for n in 0..UNSURE_MAX + 10 {
            unsure.add(key(n));
            unsure.add(key(n));
        }
        assert_eq!((unsure.keys.len(), unsure.order.len()), (UNSURE_MAX, UNSURE_MAX));
        assert!(!unsure.keys.contains(&key(9)) && unsure.keys.contains(&key(10)));
    }
}
