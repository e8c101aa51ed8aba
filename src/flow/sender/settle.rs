//! What follows a publish: wait for its confirm, remember the content, tell of it, remove the file. In order, and a
//! handful at a time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tracing::{debug, error, info};

use super::decide::Why;
use crate::broker::Confirmed;
use crate::flow::duplicates::{Digest, Memory};
use crate::flow::product::Product;
use crate::flow::publish::{Pending, PublishError};
use crate::flow::sample::Sampler;
use crate::flow::{Unit, chain};
use crate::metrics::Count;
use crate::spool::inventory::Version;
use crate::spool::queue::{Queue, Queued, Removed};
use crate::spool::{SpoolError, off_thread};

/// Confirmed files that are removed together.
const HANDFUL: usize = 64;
/// Between two tries to remove a file.
const AGAIN: Duration = Duration::from_secs(60);
/// While more files than this are sent and cannot be removed, nothing is sent: each would be sent again by the next
/// process.
const UNREMOVED_MAX: usize = 1000;

/// A published file.
pub(super) struct Outgoing {
    pub(super) file: Queued,
    pub(super) version: Version,
    /// When it was taken up.
    pub(super) begun: Instant,
    /// To be remembered.
    pub(super) digest: Option<Digest>,
    /// None before it is published.
    pub(super) pending: Option<Pending>,
    /// Its place in memory.
    pub(super) _room: Option<OwnedSemaphorePermit>,
}

/// What the settling task is told, in order.
pub(super) enum Note {
    Sent(Outgoing),
    /// To be answered when everything before it is settled.
    Barrier(oneshot::Sender<()>),
}

/// A file that should be gone.
struct Unremoved {
    file: Queued,
    version: Option<Version>,
    due: Instant,
}

/// Removes files: sent, suppressed, rejected, hopeless ones.
pub(super) struct Settler {
    unit: Unit,
    queue: Arc<Queue>,
    memory: Option<Arc<Mutex<Memory>>>,
    unremoved: Mutex<HashMap<Vec<u8>, Unremoved>>,
    /// Files that can never be sent and could not be set aside, and when that was tried last.
    stuck: Mutex<HashMap<Vec<u8>, Instant>>,
    sampler: Sampler,
}

type Answer = Result<Confirmed, PublishError>;

impl Settler {
    pub(super) fn new(unit: &Unit, queue: Arc<Queue>, memory: Option<Arc<Mutex<Memory>>>) -> Self {
        Settler {
            unit: unit.clone(),
            queue,
            memory,
            unremoved: Mutex::default(),
            stuck: Mutex::default(),
            sampler: Sampler::default(),
        }
    }

    /// Settles in the order of the notes, until no more can come or the unit lets go.
    pub(super) async fn run(self: Arc<Self>, mut notes: UnboundedReceiver<Note>) {
        let mut next = None;
        loop {
            let note = match next.take() {
                Some(note) => note,
                None => match notes.recv().await {
                    Some(note) => note,
                    None => return,
                },
            };
            match note {
                Note::Barrier(done) => drop(done.send(())), // who asked may have stopped meanwhile
                Note::Sent(mut outgoing) => {
                    let Some(answer) = answer(&mut outgoing).await else {
                        return;
                    };
                    let mut handful = vec![(outgoing, answer)];
                    let ended;
                    (next, ended) = gather(&mut handful, &mut notes);
                    self.settle(handful).await;
                    if ended {
                        return;
                    }
                }
            }
        }
    }

    async fn settle(&self, handful: Vec<(Outgoing, Answer)>) {
        let (mut sent, mut hopeless) = (Vec::new(), Vec::new());
        for (outgoing, answer) in handful {
            match answer {
                Ok(_) => {
                    self.delivered(&outgoing);
                    sent.push((outgoing.file, Some(outgoing.version)));
                }
                Err(PublishError::Refused(why)) => hopeless.push((outgoing.file, Some(outgoing.version), why)),
                Err(PublishError::Stopping) => {}
            }
        }
        let names = sent.iter().map(|(file, _)| file.name().to_vec()).collect::<Vec<_>>();
        let removed = self.remove(sent).await;
        for (name, removed) in names.iter().zip(removed) {
            if removed == Removed::Gone {
                debug!("{} has been erased", String::from_utf8_lossy(name));
            }
        }
        self.put_aside(hopeless).await;
    }

    fn delivered(&self, outgoing: &Outgoing) {
        if let (Some(memory), Some(digest)) = (&self.memory, outgoing.digest) {
            let mut memory = memory.lock().unwrap_or_else(PoisonError::into_inner);
            memory.remember(digest, Instant::now());
        }
        let (bytes, took_s) = (outgoing.version.size, outgoing.begun.elapsed().as_secs_f64());
        let now_ns = jiff::Timestamp::now().as_nanosecond();
        let latency_s = (now_ns - i128::from(outgoing.version.mtime_ns)) as f64 / 1e9;
        self.unit.metrics.count(Count::Delivered);
        self.unit.metrics.add(Count::DeliveredBytes, bytes);
        self.unit
            .metrics
            .latency(Duration::try_from_secs_f64(latency_s).unwrap_or_default());
        Product::Delivered {
            name: &String::from_utf8_lossy(outgoing.file.name()),
            bytes,
            latency_s,
            speed: if took_s > 0.0 { bytes as f64 / took_s } else { 0.0 },
        }
        .log();
    }

    /// Removes what must not be sent.
    pub(super) async fn erase(&self, files: Vec<(Queued, Why)>) {
        let removed = self
            .remove(files.iter().map(|(file, _)| (file.clone(), None)).collect())
            .await;
        for ((file, why), removed) in files.into_iter().zip(removed) {
            if removed == Removed::Gone {
                self.unit.metrics.count(why.count());
                info!("{why}: {} has been unlinked!", self.queue.shown(&file));
            }
        }
    }

    /// Removes duplicates of what was sent.
    pub(super) async fn suppress(&self, files: Vec<(Queued, Version)>) {
        let removed = self
            .remove(
                files
                    .iter()
                    .map(|(file, version)| (file.clone(), Some(*version)))
                    .collect(),
            )
            .await;
        for ((file, _), removed) in files.into_iter().zip(removed) {
            if removed == Removed::Gone {
                self.unit.metrics.count(Count::Suppressed);
                info!("suppressed duplicate send {}", String::from_utf8_lossy(file.name()));
            }
        }
    }

    /// Puts aside what can never be sent, each for its reason. Whether all of it is there now.
    pub(super) async fn set_aside(&self, files: Vec<(Queued, String)>) -> bool {
        self.put_aside(files.into_iter().map(|(file, why)| (file, None, why)).collect())
            .await
    }

    /// Removes files, and keeps in mind those that cannot be. The answers are in the order of the files; none where
    /// the queue itself cannot be opened.
    async fn remove(&self, files: Vec<(Queued, Option<Version>)>) -> Vec<Removed> {
        if files.is_empty() {
            return Vec::new();
        }
        let queue = Arc::clone(&self.queue);
        let worked = off_thread(move || {
            let removed = queue.reader().map(|mut reader| {
                let removed = files.iter().map(|(file, version)| reader.remove(file, *version));
                removed.collect::<Vec<Removed>>()
            });
            Ok((files, removed))
        });
        let (files, removed) = match worked.await {
            Ok((files, Ok(removed))) => (files, removed),
            Ok((files, Err(error))) => {
                error!("Unable to unlink {} files: {}", files.len(), chain(&error));
                for (file, version) in files {
                    self.keep_in_mind(file, version);
                }
                return Vec::new();
            }
            Err(error) => {
                error!("Unable to unlink: {}", chain(&error));
                return Vec::new();
            }
        };
        for ((file, version), removed) in files.into_iter().zip(&removed) {
            match removed {
                Removed::Gone => {}
                Removed::Changed => debug!(path = self.queue.shown(&file), "another file has its name by now"),
                Removed::Refused(cause) => {
                    error!("Unable to unlink {}: {cause}", self.queue.shown(&file));
                    self.keep_in_mind(file, version);
                }
            }
        }
        removed
    }

    fn keep_in_mind(&self, file: Queued, version: Option<Version>) {
        self.queue.hold_for_good(&file, version);
        let due = Instant::now() + AGAIN;
        let mut unremoved = self.unremoved();
        unremoved.insert(file.path().to_vec(), Unremoved { file, version, due });
        self.unit.state.set_gauge("unremoved", unremoved.len() as u64);
    }

    /// Tries again to remove what could not be. Whether more may be sent.
    pub(super) async fn remove_again(&self) -> bool {
        let now = Instant::now();
        // What has not come again since it was due is gone.
        self.note_stuck(|stuck| stuck.retain(|_, tried| now.duration_since(*tried) < 2 * AGAIN));
        let due: Vec<(Queued, Option<Version>)> = {
            let unremoved = self.unremoved();
            let due = unremoved.values().filter(|one| one.due <= now);
            due.map(|one| (one.file.clone(), one.version)).collect()
        };
        if !due.is_empty() {
            let queue = Arc::clone(&self.queue);
            let worked = off_thread(move || {
                let mut reader = queue.reader()?;
                let removed = due.iter().map(|(file, version)| reader.remove(file, *version));
                let removed: Vec<Removed> = removed.collect();
                Ok::<_, SpoolError>((due, removed))
            });
            if let Ok((due, removed)) = worked.await {
                self.tried_again(&due, &removed, now);
            }
        }
        let count = self.unremoved().len();
        if count > UNREMOVED_MAX {
            let reason = format!(
                "{count} files were handled and cannot be removed from {}",
                self.queue.path().display()
            );
            self.unit.state.pause("removing", reason);
        } else {
            self.unit.state.resume("removing");
        }
        count <= UNREMOVED_MAX
    }

    fn tried_again(&self, files: &[(Queued, Option<Version>)], removed: &[Removed], now: Instant) {
        let mut unremoved = self.unremoved();
        for ((file, _), removed) in files.iter().zip(removed) {
            if let Removed::Refused(_) = removed {
                if let Some(one) = unremoved.get_mut(file.path()) {
                    one.due = now + AGAIN;
                }
            } else {
                unremoved.remove(file.path());
                self.queue.release(file);
            }
        }
        self.unit.state.set_gauge("unremoved", unremoved.len() as u64);
    }

    fn unremoved(&self) -> MutexGuard<'_, HashMap<Vec<u8>, Unremoved>> {
        self.unremoved.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_stuck(&self, change: impl FnOnce(&mut HashMap<Vec<u8>, Instant>)) {
        let mut stuck = self.stuck.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut stuck);
        self.unit.state.set_gauge("not_set_aside", stuck.len() as u64);
    }

    fn unstick(&self, file: &Queued) {
        self.note_stuck(|stuck| {
            stuck.remove(file.path());
        });
    }

    async fn put_aside(&self, files: Vec<(Queued, Option<Version>, String)>) -> bool {
        if files.is_empty() {
            return true;
        }
        let queue = Arc::clone(&self.queue);
        let worked = off_thread(move || {
            let mut reader = queue.reader()?;
            let moved = files.into_iter().map(|(file, version, why)| {
                let moved = reader.set_aside(&file, version);
                (file, why, moved)
            });
            Ok(moved.collect::<Vec<_>>())
        });
        let moved = match worked.await {
            Ok(moved) => moved,
            Err(error) => {
                self.unit.state.pause("queue", chain(&error));
                return false;
            }
        };
        let mut are_there = true;
        for (file, why, moved) in moved {
            let path = self.queue.shown(&file);
            match moved {
                Ok(Some(to)) => {
                    self.unstick(&file);
                    self.unit.metrics.count(Count::Failed);
                    error!("{path} can never be sent and is now {}: {why}", to.display());
                }
                Ok(None) => self.unstick(&file),
                Err(error) => {
                    are_there = false;
                    self.note_stuck(|stuck| {
                        stuck.insert(file.path().to_vec(), Instant::now());
                    });
                    self.queue.hold(&file, Instant::now() + AGAIN);
                    if let Some(unsaid) = self.sampler.take("a file can never be sent, and stays") {
                        error!(unsaid, "{path} can never be sent ({why}), and stays: {}", error.line());
                    }
                }
            }
        }
        are_there
    }
}

/// The broker's answer; `None` when the unit lets go.
async fn answer(outgoing: &mut Outgoing) -> Option<Answer> {
    match outgoing.pending.as_mut()?.await {
        Err(PublishError::Stopping) => None,
        answer => Some(answer),
    }
}

/// Adds those that follow and are answered already. What comes next, if it was looked at, and whether the unit lets go.
fn gather(handful: &mut Vec<(Outgoing, Answer)>, notes: &mut UnboundedReceiver<Note>) -> (Option<Note>, bool) {
    while handful.len() < HANDFUL {
        match notes.try_recv() {
            Ok(Note::Sent(mut outgoing)) => match answer(&mut outgoing).now_or_never() {
                Some(Some(answer)) => handful.push((outgoing, answer)),
                Some(None) => return (None, true),
                None => return (Some(Note::Sent(outgoing)), false),
            },
            Ok(barrier) => return (Some(barrier), false),
            Err(_) => break,
        }
    }
    (None, false)
}
