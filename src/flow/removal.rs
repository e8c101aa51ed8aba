//! Files of a queue that are to be gone: removed, suppressed, erased, set aside; and those that cannot be, remembered.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::{debug, error, info, warn};

use super::queued::Why;
use super::sample::Sampler;
use super::{Unit, chain};
use crate::metrics::Count;
use crate::spool::inventory::Version;
use crate::spool::queue::{Queue, Queued, Removed};
use crate::spool::{SpoolError, off_thread};

/// Between two tries to remove a file.
const AGAIN: Duration = Duration::from_secs(60);
/// While more files than this are sent and cannot be removed, nothing is sent: each would be sent again by the next
/// process.
const UNREMOVED_MAX: usize = 1000;

/// A file that should be gone.
struct Unremoved {
    file: Queued,
    version: Option<Version>,
    due: Instant,
}

/// Removes files of one queue: sent, suppressed, rejected, hopeless ones.
pub struct Remover {
    unit: Unit,
    queue: Arc<Queue>,
    unremoved: Mutex<HashMap<Vec<u8>, Unremoved>>,
    /// Files that can never be sent and could not be set aside, and when that was tried last.
    stuck: Mutex<HashMap<Vec<u8>, Instant>>,
    sampler: Sampler,
}

impl Remover {
    /// Of this queue; nothing is remembered yet.
    pub fn new(unit: &Unit, queue: Arc<Queue>) -> Self {
        Remover {
            unit: unit.clone(),
            queue,
            unremoved: Mutex::default(),
            stuck: Mutex::default(),
            sampler: Sampler::default(),
        }
    }

    /// Removes what must not be handled, each for its reason, and tells of it.
    pub async fn erase(&self, files: Vec<(Queued, Option<Version>, Why)>) {
        let removed = files.iter().map(|(file, version, _)| (file.clone(), *version));
        let removed = self.remove(removed.collect()).await;
        for ((file, _, why), removed) in files.into_iter().zip(removed) {
            if removed == Removed::Gone {
                self.unit.metrics.count(why.count());
                let line = why.line(&self.queue.shown(&file));
                match why {
                    Why::Dropped => warn!("{line}"),
                    _ => info!("{line}"),
                }
            }
        }
    }

    /// Removes duplicates of what was sent, and tells of them.
    pub async fn suppress(&self, files: Vec<(Queued, Version)>) {
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

    /// Removes files, and keeps in mind those that cannot be. The answers are in the order of the files; none where
    /// the queue itself cannot be opened.
    pub async fn remove(&self, files: Vec<(Queued, Option<Version>)>) -> Vec<Removed> {
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
    pub async fn remove_again(&self) -> bool {
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

    /// Puts aside what can never be sent, each for its reason. Whether all of it is there now.
    pub async fn set_aside(&self, files: Vec<(Queued, Option<Version>, String)>) -> bool {
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
