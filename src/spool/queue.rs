//! Queues of files, as Sundew lays them out: `txq/NAME` of a sender, `rxq/NAME` of a receiver.
//!
//! A sender's queue is `PRIORITY/HOUR/FILE`: the directories `0` to `5`, in that order, and in each the directories in
//! the order of their names. Whatever else lies there (`PROBLEM`, `GIF`, a file beside the directories) is nobody's
//! business. A receiver's queue is flat. Directories below are searched too, and symbolic links are not followed.
//!
//! Not shown: names that begin with a dot or end in `.tmp`, what this process may not read, what is younger than the
//! queue's least age. Whoever opens a file finds out whether a writer still holds it; then it waits for a later pass.
//!
//! A pass keeps the first so many in order, however many there are, so that a queue of a million files takes no more
//! memory than one of twenty thousand.

use std::collections::{HashMap, HashSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustix::io::Errno;

use super::inventory::Version;
use super::tree::root;
use super::{SpoolError, make_directory};

mod first;
mod reader;
mod rules;
mod scan;
mod waker;

pub use reader::{Content, Look, Opening, Read, Reader, Removed, Whole};
pub use rules::{Purge, Rules, Unwanted};
pub use waker::Waker;

/// Files that one pass keeps.
pub const PASS_MAX: usize = 20_000;
/// Where a sender puts aside what can never be sent; no pass reads it.
pub const PROBLEM: &str = "PROBLEM";
/// Files that can be held back at a time.
const HELD_MAX: usize = 20_000;

/// How a queue is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// `PRIORITY/HOUR/FILE`: a sender's.
    Priorities,
    /// `FILE`: a receiver's.
    Flat,
}

/// In which order files leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    /// By the priority and the reception stamp in the name, then by path.
    #[default]
    Priority,
    /// By modification time, then by path.
    Mtime,
}

/// How a queue is read.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// How it is laid out.
    pub shape: Shape,
    /// In which order files leave.
    pub order: Order,
    /// A pass begins no further directory once it has so many files. Without meaning where the queue is flat.
    pub batch: usize,
    /// Younger files are not shown.
    pub min_age: Duration,
}

/// A file in a queue, as it was listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queued {
    path: Vec<u8>,
    priority: Option<u8>,
}

impl Queued {
    fn new(path: Vec<u8>, shape: Shape) -> Self {
        let digit = path.first().map(|byte| byte.wrapping_sub(b'0'));
        Queued {
            priority: digit.filter(|digit| shape == Shape::Priorities && *digit <= 5),
            path,
        }
    }

    /// Its path in the queue.
    pub fn path(&self) -> &[u8] {
        &self.path
    }

    /// Its name: the last part of the path.
    pub fn name(&self) -> &[u8] {
        self.path.rsplit(|byte| *byte == b'/').next().unwrap_or(&self.path)
    }

    /// The priority of the directory it lies in; `None` in a flat queue. That in its name may be another.
    pub fn priority(&self) -> Option<u8> {
        self.priority
    }

    fn directory(&self) -> &[u8] {
        let end = self.path.len() - self.name().len();
        self.path[..end].strip_suffix(b"/").unwrap_or_default()
    }
}

/// What one look at a queue has found.
#[derive(Debug, Default)]
pub struct Pass {
    /// In the order in which they leave.
    pub files: VecDeque<Queued>,
    /// Directories that could not be read, and why.
    pub unread: Vec<(Vec<u8>, Errno)>,
    /// No directory was left for a later pass.
    pub is_whole: bool,
    /// The last priority that was looked into.
    reached: u8,
    /// What was found in more urgent directories than that, and may be in flight.
    known: HashSet<Vec<u8>>,
}

impl Pass {
    /// What cannot be read, and why, on one line; `None` where everything can.
    pub fn unread_text(&self) -> Option<String> {
        let (path, cause) = self.unread.iter().min_by(|one, other| one.0.cmp(&other.0))?;
        let path = String::from_utf8_lossy(path);
        Some(match self.unread.len() {
            1 => format!("cannot read {path} in the queue: {cause}"),
            count => format!("cannot read {path} and {} more in the queue: {cause}", count - 1),
        })
    }
}

/// A queue. All calls block; none holds its file system between two calls.
#[derive(Debug)]
pub struct Queue {
    path: PathBuf,
    options: Options,
    waker: waker::Source,
    held: Mutex<HashMap<Vec<u8>, Held>>,
}

#[derive(Debug, Clone, Copy)]
struct Held {
    /// For good where there is none.
    until: Option<Instant>,
    /// A notice of the kernel may mean that the wait is over.
    is_soon: bool,
    /// Where it is held for good, only this version of it is; the next one that is seen where there is none.
    version: Option<Version>,
}

impl Queue {
    /// The queue in this directory, which is made where it is missing.
    pub fn open(path: &Path, options: Options) -> Result<Queue, SpoolError> {
        make_directory(path)?;
        Ok(Queue {
            path: path.to_owned(),
            options,
            waker: waker::Source::new(),
            held: Mutex::default(),
        })
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file at this path in the queue, whether passes show it or not.
    pub fn file(&self, path: &[u8]) -> Queued {
        Queued::new(path.to_vec(), self.options.shape)
    }

    /// Where a file lies, for people.
    pub fn shown(&self, file: &Queued) -> String {
        use std::os::unix::ffi::OsStrExt;
        let path = self.path.join(std::ffi::OsStr::from_bytes(file.path()));
        path.to_string_lossy().into_owned()
    }

    /// Looks at the queue: its first [`PASS_MAX`] files.
    pub fn pass(&self, now: Timestamp) -> Result<Pass, SpoolError> {
        self.opened(|root| scan::pass(self, root, now))
    }

    /// How many files wait in it, at most `max`. Costs no more than a listing of so many.
    pub fn count(&self, max: usize) -> Result<usize, SpoolError> {
        self.opened(|root| scan::count(self, root, max))
    }

    /// Files that came into more urgent directories than the pass has reached, since it was made or since this was
    /// last asked.
    pub fn overtaking(&self, pass: &mut Pass, now: Timestamp) -> Result<Vec<Queued>, SpoolError> {
        if self.options.shape == Shape::Flat || pass.reached == 0 {
            return Ok(Vec::new());
        }
        self.opened(|root| scan::overtaking(self, root, pass, now))
    }

    /// Opens the queue for reading and removing. Not to be kept.
    pub fn reader(&self) -> Result<Reader<'_>, SpoolError> {
        let root = root::open(&self.path).map_err(|err| self.refused(err))?;
        Ok(Reader::new(self, root))
    }

    /// Tells when it is worth looking again. To be called on an async thread.
    pub fn waker(&self) -> Waker {
        self.waker.waker()
    }

    /// Passes leave this file out until then.
    pub fn hold(&self, file: &Queued, until: Instant) {
        self.hold_for(file, until, false);
    }

    /// Passes leave this version of a file out until it is released; where none is named, the one that they see next.
    pub fn hold_for_good(&self, file: &Queued, version: Option<Version>) {
        let held = Held {
            until: None,
            is_soon: false,
            version,
        };
        self.held().insert(file.path.clone(), held);
    }

    /// Whether passes leave nothing out.
    pub fn holds_nothing(&self) -> bool {
        let now = Instant::now();
        let is_over = |held: &Held| held.until.is_some_and(|until| until <= now);
        self.held().values().all(is_over)
    }

    /// Passes show this file again.
    pub fn release(&self, file: &Queued) {
        self.held().remove(&file.path);
    }

    /// The same for a file that a writer has: until then, or until something happens in the queue.
    pub fn hold_while_written(&self, file: &Queued, until: Instant) {
        self.hold_for(file, until, true);
    }

    /// Something has happened in the queue: what writers had may be complete.
    pub fn look_at_written(&self) {
        self.held().retain(|_, held| !held.is_soon);
    }

    fn hold_for(&self, file: &Queued, until: Instant, is_soon: bool) {
        let mut held = self.held();
        if held.len() >= HELD_MAX {
            let now = Instant::now();
            held.retain(|_, held| held.until.is_none_or(|until| until > now));
        }
        // One that is not held is only looked at once too often.
        if held.len() < HELD_MAX {
            let one = Held {
                until: Some(until),
                is_soon,
                version: None,
            };
            held.insert(file.path.clone(), one);
        }
    }

    fn held(&self) -> MutexGuard<'_, HashMap<Vec<u8>, Held>> {
        // Every change is complete in itself.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_held(&self, path: &[u8], now: Instant, there: impl FnOnce() -> Option<Version>) -> bool {
        let mut held = self.held();
        let Some(one) = held.get_mut(path) else {
            return false;
        };
        let is_held = match one.until {
            Some(until) => until > now,
            None => {
                let there = there();
                one.version = one.version.or(there);
                one.version == there
            }
        };
        if !is_held {
            held.remove(path);
        }
        is_held
    }

    fn opened<T>(&self, work: impl FnOnce(rustix::fd::BorrowedFd<'_>) -> Result<T, Errno>) -> Result<T, SpoolError> {
        use std::os::fd::AsFd;
        let root = root::open(&self.path).map_err(|err| self.refused(err))?;
        work(root.as_fd()).map_err(|err| self.refused(err))
    }

    fn refused(&self, err: Errno) -> SpoolError {
        SpoolError::own(format!("cannot read the queue {}", self.path.display()), err)
    }
}

#[cfg(test)]
mod tests;
