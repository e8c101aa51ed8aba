//! What the units of `tx/` that empty a queue have in common: the options of a queue, and looking into it.

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustix::io::Errno;
use tracing::{debug, warn};

use super::duplicates;
use super::sample::Sampler;
use super::written::Written;
use super::{State, Unit, chain};
use crate::config::{Table, options};
use crate::metrics::Count;
use crate::spool::queue::{self, Order, PASS_MAX, Pass, Purge, Queue, Queued, Rules, Shape, Unwanted, Waker};
use crate::spool::{SpoolError, off_thread};

const BATCH: usize = 100;
/// A net below the kernel's notices.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// How long a file that a writer has is left alone, unless the kernel tells of something.
const WRITTEN_PAUSE: Duration = Duration::from_secs(1);
/// Between two counts of the files that wait.
const COUNT_AGAIN: Duration = Duration::from_secs(10);
/// Before a file that cannot be read is looked at again.
const UNREAD_PAUSE: Duration = Duration::from_secs(60);

/// How a queue is emptied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Which files are removed unhandled.
    pub rules: Rules,
    /// Files between two looks at what is more urgent.
    pub batch: usize,
    /// The memory of contents, where there is to be one.
    pub duplicates: Option<duplicates::Options>,
    /// Younger files wait.
    pub min_age: Duration,
    /// In which order files leave.
    pub order: Order,
}

impl Options {
    /// `batch`, `duplicates`, `validation`, `purge`, `min_age` and `order`.
    pub fn read(table: &mut Table) -> Option<Options> {
        let batch = table.integer("batch", 1..=PASS_MAX as i64);
        let has_duplicates = table.has("duplicates");
        let duplicates = duplicates::Options::read(table);
        let validation = table.boolean("validation");
        let purge = read_purge(table);
        let min_age = table.duration("min_age");
        let order = table.choice("order", &[("priority", Order::Priority), ("mtime", Order::Mtime)]);
        if has_duplicates && duplicates.is_none() {
            return None;
        }
        Some(Options {
            rules: Rules {
                validation: validation.unwrap_or(false),
                purge: purge?,
            },
            batch: batch.unwrap_or(BATCH),
            duplicates,
            min_age: min_age.unwrap_or_default(),
            order: order.unwrap_or_default(),
        })
    }

    /// Why a file of this name must go unhandled, if it must.
    pub fn unwanted(&self, name: &[u8], now: Timestamp) -> Option<Why> {
        self.rules.unwanted(name, now).map(|unwanted| match unwanted {
            Unwanted::Incorrect => Why::Incorrect,
            Unwanted::Purged(rule) => Why::Purged(rule.to_string()),
        })
    }
}

fn read_purge(table: &mut Table) -> Option<Vec<Purge>> {
    const PRIORITY: &str = "a list of priorities from 0 to 5, at least one";
    let mut rules = Vec::new();
    let mut are_good = true;
    for mut element in table.tables("purge") {
        let priorities = element.integers("priority", 0..=5, PRIORITY);
        let after = options::positive_duration(&mut element, "after");
        for (key, accepted) in [("priority", PRIORITY), ("after", "a duration: \"5h\"")] {
            if !element.has(key) {
                element.reject(key, accepted);
            }
        }
        element.finish();
        match (priorities, after) {
            (Some(priorities), Some(after)) => rules.push(Purge { priorities, after }),
            _ => are_good = false,
        }
    }
    are_good.then_some(rules)
}

/// Why a file is removed unhandled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// Its name is no ingest name.
    Incorrect,
    /// It is too old, by this rule.
    Purged(String),
    /// The masks reject it.
    NoPattern,
    /// The masks give it no destination.
    NoDestination,
    /// A script does not want it.
    Dropped,
}

impl Why {
    /// The counter of such files.
    pub fn count(&self) -> Count {
        match self {
            Why::Incorrect => Count::Invalid,
            Why::Purged(_) => Count::Purged,
            Why::NoPattern | Why::NoDestination | Why::Dropped => Count::Rejected,
        }
    }

    /// The line about the file at this path, in the words of Sundew's logs.
    pub fn line(&self, path: &str) -> String {
        match self {
            Why::Incorrect | Why::Purged(_) | Why::NoPattern => format!("{self}: {path} has been unlinked!"),
            Why::NoDestination => format!("{self}: {path} has been erased"),
            Why::Dropped => format!("{self} : {}", path.rsplit('/').next().unwrap_or(path)),
        }
    }
}

/// As Sundew's logs have it, before the path.
impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::Incorrect => f.write_str("Filename incorrect"),
            Why::Purged(rule) => write!(f, "Purged ({rule})"),
            Why::NoPattern => f.write_str("No pattern (TX) matching"),
            Why::NoDestination => f.write_str("No destination name"),
            Why::Dropped => f.write_str("FX script ignored the file"),
        }
    }
}

/// Whether a file cannot be read for a reason of this host.
pub fn is_own(cause: Errno) -> bool {
    matches!(cause, Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::IO)
}

/// Opens the unit's queue, `txq/NAME`.
pub async fn open(unit: &Unit, options: &Options) -> Result<Arc<Queue>, SpoolError> {
    let path = unit.places.spool.join("txq").join(&unit.name.name);
    let how = queue::Options {
        shape: Shape::Priorities,
        order: options.order,
        batch: options.batch,
        min_age: options.min_age,
    };
    Ok(Arc::new(off_thread(move || Queue::open(&path, how)).await?))
}

/// Shows how many files wait, for ever: whatever the unit itself is waiting for, a backlog is seen.
pub async fn count(state: State, queue: Arc<Queue>) -> Infallible {
    loop {
        let queue = Arc::clone(&queue);
        // What the queue refuses is told of by who reads it.
        if let Ok(count) = off_thread(move || queue.count(PASS_MAX)).await {
            state.set_gauge("queued_files", count as u64);
        }
        tokio::time::sleep(COUNT_AGAIN).await;
    }
}

/// Looks into a queue again and again, and says what cannot be read.
pub struct Passes {
    unit: Unit,
    queue: Arc<Queue>,
    waker: Waker,
    /// Directories that cannot be read.
    unlisted: Option<String>,
    /// Why this host could not read the last files.
    unread: Option<String>,
    written: Written,
    sampler: Sampler,
}

impl Passes {
    /// To be called on an async thread.
    pub fn new(unit: &Unit, queue: Arc<Queue>) -> Passes {
        Passes {
            unit: unit.clone(),
            waker: queue.waker(),
            queue,
            unlisted: None,
            unread: None,
            written: Written::default(),
            sampler: Sampler::default(),
        }
    }

    /// One look at the queue; `None`, and the unit paused, where it cannot be read.
    pub async fn pass(&mut self) -> Option<Pass> {
        let queue = Arc::clone(&self.queue);
        let pass = match off_thread(move || queue.pass(Timestamp::now())).await {
            Ok(pass) => pass,
            Err(error) => {
                self.refused(&error);
                return None;
            }
        };
        self.unit.state.resume("queue");
        let unlisted = pass.unread_text();
        if unlisted.is_some() || pass.is_whole {
            self.unlisted = unlisted;
            self.show_reading();
        }
        Some(pass)
    }

    /// Puts what has come into more urgent directories meanwhile before what is left.
    pub async fn overtake(&self, pass: &mut Pass) {
        let (queue, mut taken) = (Arc::clone(&self.queue), std::mem::take(pass));
        let looked = off_thread(move || {
            let urgent = queue.overtaking(&mut taken, Timestamp::now());
            Ok((taken, urgent))
        });
        // Only a task that broke loses the pass, and then the next one finds all that is left.
        let Ok((taken, urgent)) = looked.await else { return };
        *pass = taken;
        match urgent {
            Ok(urgent) => {
                for file in urgent.into_iter().rev() {
                    pass.files.push_front(file);
                }
            }
            Err(error) => self.refused(&error),
        }
    }

    /// The queue itself does not let us work.
    pub fn refused(&self, error: &SpoolError) {
        self.unit.state.pause("queue", chain(error));
    }

    /// Waits until it is worth looking again. `false` when the unit is to stop.
    pub async fn wait(&self) -> bool {
        match self.unit.stop.run_until_cancelled(self.waker.wait(LOOK_AGAIN)).await {
            Some(true) => self.queue.look_at_written(),
            Some(false) => {}
            None => return false,
        }
        true
    }

    /// A writer has this file.
    pub fn leave_to_its_writer(&mut self, file: &Queued) {
        let now = Instant::now();
        self.queue.hold_while_written(file, now + WRITTEN_PAUSE);
        debug!("{} is left to its writer", self.queue.shown(file));
        if self.written.is_overdue(file.path(), now) {
            self.warn(
                "a writer has not closed a file for ten minutes; it is not sent",
                file.path(),
            );
        }
    }

    /// This file could not be read. The cause, where it is this host's.
    pub fn leave_unread(&self, file: &Queued, cause: Errno) -> Option<Errno> {
        let pause = if is_own(cause) { LOOK_AGAIN } else { UNREAD_PAUSE };
        self.queue.hold(file, Instant::now() + pause);
        if is_own(cause) {
            return Some(cause);
        }
        self.warn(&format!("cannot read a file to send: {cause}"), file.path());
        None
    }

    /// Some files were read; why this host could not read one of them, if so.
    pub fn note_read(&mut self, own_fault: Option<Errno>) {
        self.unread = own_fault.map(|cause| format!("cannot read files to send: {cause}"));
        self.show_reading();
    }

    fn show_reading(&self) {
        let reasons: Vec<&str> = [&self.unlisted, &self.unread]
            .into_iter()
            .filter_map(Option::as_deref)
            .collect();
        match reasons.is_empty() {
            true => self.unit.state.resume("reading"),
            false => self.unit.state.pause("reading", reasons.join("; ")),
        }
    }

    fn warn(&self, text: &str, path: &[u8]) {
        if let Some(unsaid) = self.sampler.take(text) {
            let path = self.queue.path().join(String::from_utf8_lossy(path).as_ref());
            warn!(path = %path.display(), unsaid, "{text}");
        }
    }
}
