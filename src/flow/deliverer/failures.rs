//! What follows a failure: whose fault it is decides, whether a server or a script has failed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::warn;

use crate::backoff::Backoff;
use crate::flow::removal::Remover;
use crate::flow::sample::Sampler;
use crate::flow::{ATTEMPTS, Unit, chain};
use crate::message::Fault;
use crate::metrics::Count;
use crate::spool::inventory::Version;
use crate::spool::queue::{Queue, Queued};
use crate::transfer::{Kind, TransferError};

/// Before the second attempt, the third and the fourth.
const RUNGS: [Duration; ATTEMPTS as usize - 1] = [
    Duration::from_secs(5),
    Duration::from_secs(60),
    Duration::from_secs(600),
];
/// Files whose attempts are counted.
const COUNTED_MAX: usize = 10_000;
/// An attempt that was followed by none for so long was the last: the file has gone by itself.
const FORGOTTEN: Duration = Duration::from_secs(1800);
/// Directories that are remembered as refused.
const REFUSED_MAX: usize = 1000;
/// The rest of a unit, or of a directory, where nobody else says how long.
const REST_FIRST: Duration = Duration::from_secs(1);
const REST_LONGEST: Duration = Duration::from_secs(60);

/// Why a product was not delivered.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) fault: Fault,
    /// The whole chain on one line.
    pub(super) what: String,
    pub(super) scope: Scope,
    pub(super) retry_after: Option<Duration>,
}

/// What an endpoint fault concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// The destination.
    Destination,
    /// One directory of it.
    Directory,
    /// It was not tried.
    Resting,
    /// A program of the site.
    Script,
}

impl From<&TransferError> for Failure {
    fn from(error: &TransferError) -> Self {
        Failure {
            fault: error.fault,
            what: chain(error),
            scope: match error.kind {
                Kind::Forbidden => Scope::Directory,
                Kind::Resting => Scope::Resting,
                _ => Scope::Destination,
            },
            retry_after: error.retry_after,
        }
    }
}

/// Without the product that has met with it: one cause is one reason, and one line of the log, whichever product is next.
fn cause_of(what: &str) -> &str {
    let is_of_product = ["cannot put ", "cannot deliver "]
        .iter()
        .any(|doing| what.starts_with(doing));
    match what.split_once(": ") {
        Some((_, cause)) if is_of_product => cause,
        _ => what,
    }
}

/// What is done with a product whose fault it is, after so many attempts.
fn rung(attempts: u32) -> Option<Duration> {
    RUNGS.get(attempts.checked_sub(1)? as usize).copied()
}

struct Attempts {
    count: u32,
    version: Option<Version>,
    last: Instant,
}

struct Refused {
    until: Instant,
    waits: Backoff,
    why: String,
}

struct Inner {
    attempts: HashMap<Vec<u8>, Attempts>,
    refused: HashMap<Vec<u8>, Refused>,
    /// Until when the unit rests, for a reason of its own or of a script.
    until: Option<Instant>,
    waits: Backoff,
}

/// Remembers failures of a unit, and shows them.
pub(super) struct Failures {
    unit: Unit,
    queue: Arc<Queue>,
    remover: Arc<Remover>,
    /// Where to, for people.
    to: String,
    inner: Mutex<Inner>,
    sampler: Sampler,
}

impl Failures {
    pub(super) fn new(unit: &Unit, queue: Arc<Queue>, remover: Arc<Remover>, to: String) -> Failures {
        Failures {
            unit: unit.clone(),
            queue,
            remover,
            to,
            inner: Mutex::new(Inner {
                attempts: HashMap::new(),
                refused: HashMap::new(),
                until: None,
                waits: Backoff::new(REST_FIRST, REST_LONGEST),
            }),
            sampler: Sampler::default(),
        }
    }

    /// How long nothing is to be tried, as far as is known here.
    pub(super) fn rests(&self) -> Option<Duration> {
        let left = self.inner().until?.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left)
    }

    /// Until when nothing may be put into this directory.
    pub(super) fn refused_until(&self, directory: &[u8]) -> Option<Instant> {
        let until = self.inner().refused.get(directory)?.until;
        (until > Instant::now()).then_some(until)
    }

    /// A product is delivered.
    pub(super) fn succeeded(&self, file: &Queued, directory: &[u8]) {
        let mut inner = self.inner();
        inner.attempts.remove(file.path());
        inner.until = None;
        inner.waits.reset();
        if inner.refused.remove(directory).is_some() {
            self.show_refused(&inner);
        }
        drop(inner);
        self.unit.state.resume("destination");
        self.unit.state.resume("delivering");
    }

    /// A program has answered.
    pub(super) fn script_works(&self) {
        self.unit.state.resume("script");
    }

    /// Nothing waits: there is nothing that could not be delivered.
    pub(super) fn nothing_waits(&self) {
        let mut inner = self.inner();
        inner.refused.clear();
        self.show_refused(&inner);
        drop(inner);
        for part in ["destination", "delivering", "script"] {
            self.unit.state.resume(part);
        }
    }

    /// A product was not delivered. `is_resting`: the transport itself keeps the destination's rest.
    pub(super) async fn failed(
        &self,
        (file, version): (&Queued, Option<Version>),
        directory: &[u8],
        failure: Failure,
        is_resting: bool,
    ) {
        match (failure.fault, failure.scope) {
            (Fault::Message, _) => self.count(file, version, &failure.what).await,
            (Fault::Own, Scope::Script) => self.rest("script", failure.what),
            (Fault::Own, _) => {
                let reason = format!("cannot deliver to {}: {}", self.to, cause_of(&failure.what));
                self.rest("delivering", reason);
            }
            (Fault::Endpoint, Scope::Script) => self.rest("script", failure.what),
            (Fault::Endpoint, Scope::Resting) => {
                if let (false, Some(left)) = (is_resting, failure.retry_after) {
                    self.queue.hold(file, Instant::now() + left);
                }
            }
            (Fault::Endpoint, Scope::Directory) if !is_resting => self.refuse(file, directory, failure),
            (Fault::Endpoint, _) => {
                let reason = format!("cannot deliver to {}: {}", self.to, cause_of(&failure.what));
                if is_resting {
                    self.unit.state.pause("destination", reason);
                } else {
                    self.rest("destination", reason);
                }
            }
        }
    }

    /// Nothing is tried for a while.
    fn rest(&self, part: &'static str, reason: String) {
        let mut inner = self.inner();
        let now = Instant::now();
        // What was in hand when the rest began does not prolong it.
        if inner.until.is_none_or(|until| until <= now) {
            let wait = inner.waits.next_wait();
            inner.until = Some(now + wait);
        }
        drop(inner);
        self.unit.state.pause(part, reason);
    }

    /// The destination does not let us into one directory: its files wait, others do not.
    fn refuse(&self, file: &Queued, directory: &[u8], failure: Failure) {
        let mut inner = self.inner();
        let now = Instant::now();
        if !inner.refused.contains_key(directory) && inner.refused.len() >= REFUSED_MAX {
            inner.refused.retain(|_, refused| refused.until > now);
        }
        if inner.refused.len() < REFUSED_MAX || inner.refused.contains_key(directory) {
            let refused = inner.refused.entry(directory.to_vec()).or_insert_with(|| Refused {
                until: now,
                waits: Backoff::new(REST_FIRST, REST_LONGEST),
                why: String::new(),
            });
            if refused.until <= now {
                let wait = refused.waits.next_wait();
                refused.until = now + failure.retry_after.unwrap_or_default().max(wait);
            }
            refused.why = failure.what;
            self.queue.hold(file, refused.until);
        } else {
            self.queue.hold(file, now + REST_LONGEST);
        }
        self.show_refused(&inner);
    }

    fn show_refused(&self, inner: &Inner) {
        let first = inner.refused.iter().min_by(|one, other| one.0.cmp(other.0));
        let Some((directory, refused)) = first else {
            return self.unit.state.resume("directory");
        };
        let more = match inner.refused.len() {
            1 => String::new(),
            count => format!(" and {} more directories", count - 1),
        };
        let directory = String::from_utf8_lossy(directory);
        let reason = format!(
            "cannot deliver into {directory:?}{more} of {}: {}",
            self.to,
            cause_of(&refused.why)
        );
        self.unit.state.pause("directory", reason);
    }

    /// It is the product's fault: it may be tried again, but not for ever.
    async fn count(&self, file: &Queued, version: Option<Version>, what: &str) {
        let count = self.note_attempt(file, version);
        let path = self.queue.shown(file);
        let Some(count) = count else {
            // Too many to be counted: none is set aside for that.
            self.queue.hold(file, Instant::now() + REST_LONGEST);
            return;
        };
        match rung(count) {
            Some(wait) => {
                self.queue.hold(file, Instant::now() + wait);
                self.unit.metrics.count(Count::Parked);
                if let Some(unsaid) = self.sampler.take(&format!("attempt {what}")) {
                    warn!(
                        unsaid,
                        "Unable to deliver {path} to {}: {what}; attempt {count} of {ATTEMPTS}, again in {} s",
                        self.to,
                        wait.as_secs()
                    );
                }
            }
            None => {
                let aside = vec![(file.clone(), version, what.to_string())];
                if self.remover.set_aside(aside).await {
                    self.inner().attempts.remove(file.path());
                }
            }
        }
    }

    /// How many attempts this version of a file has had by now; `None` where too many files are counted.
    fn note_attempt(&self, file: &Queued, version: Option<Version>) -> Option<u32> {
        let (mut inner, now) = (self.inner(), Instant::now());
        let attempts = &mut inner.attempts;
        if !attempts.contains_key(file.path()) && attempts.len() >= COUNTED_MAX {
            attempts.retain(|_, one| now.duration_since(one.last) < FORGOTTEN);
            if attempts.len() >= COUNTED_MAX {
                return None;
            }
        }
        let one = attempts.entry(file.path().to_vec()).or_insert(Attempts {
            count: 0,
            version,
            last: now,
        });
        if one.version != version {
            (one.count, one.version) = (0, version);
        }
        one.count += 1;
        one.last = now;
        Some(one.count)
    }

    /// Every change is complete in itself.
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_cause_is_one_reason_whichever_product_is_next() {
        let table = [
            (
                "cannot put a/b on sftp://u@h:22: no space left there",
                "no space left there",
            ),
            ("cannot put ftp://u@h:2121/a/b: 552 quota: full", "552 quota: full"),
            (
                "cannot deliver /a/b: no file descriptors left",
                "no file descriptors left",
            ),
            (
                "cannot connect to ftp://u@h: refused",
                "cannot connect to ftp://u@h: refused",
            ),
            (
                "cannot use the private key in /k: no such file",
                "cannot use the private key in /k: no such file",
            ),
            ("cannot put it", "cannot put it"),
        ];
        for (what, cause) in table {
            assert_eq!(cause_of(what), cause);
        }
    }

    #[test]
    fn a_product_has_four_attempts_further_and_further_apart() {
        let waits: Vec<Option<u64>> = (1..=5).map(|n| rung(n).map(|wait| wait.as_secs())).collect();
        assert_eq!(waits, [Some(5), Some(60), Some(600), None, None]);
    }
}
