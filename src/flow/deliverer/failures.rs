//! What follows a failure: whose fault it is decides, whether a server or a script has failed.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::warn;

use super::destination::{REST_FIRST, REST_LONGEST};
use super::refused::Refusals;
use crate::backoff::Backoff;
use crate::flow::attempts::{Attempts, wait_after};
use crate::flow::removal::Remover;
use crate::flow::sample::Sampler;
use crate::flow::{ATTEMPTS, Unit, chain};
use crate::message::Fault;
use crate::metrics::Count;
use crate::spool::inventory::Version;
use crate::spool::queue::{Queue, Queued};
use crate::transfer::{Kind, TransferError};

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

impl Failure {
    /// This product cannot be dealt with.
    pub(super) fn of_product(what: String) -> Failure {
        Failure {
            fault: Fault::Message,
            what,
            scope: Scope::Destination,
            retry_after: None,
        }
    }
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

/// Without the product that has met with it: one cause is one reason, and one line of the log, whichever product is
/// next.
fn cause_of(what: &str) -> &str {
    let is_of_product = ["cannot put ", "cannot deliver "]
        .iter()
        .any(|doing| what.starts_with(doing));
    match what.split_once(": ") {
        Some((_, cause)) if is_of_product => cause,
        _ => what,
    }
}

struct Inner {
    attempts: Attempts,
    refused: Refusals,
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
                attempts: Attempts::default(),
                refused: Refusals::default(),
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
        self.inner().refused.until(directory, Instant::now())
    }

    /// A product is delivered.
    pub(super) fn succeeded(&self, file: &Queued, directory: &[u8]) {
        let mut inner = self.inner();
        inner.attempts.forget(file);
        inner.until = None;
        inner.waits.reset();
        if inner.refused.forget(directory) {
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
        let (why, asked) = (cause_of(&failure.what).to_owned(), failure.retry_after);
        let until = inner.refused.note(directory, why, asked, Instant::now());
        self.queue.hold(file, until);
        self.show_refused(&inner);
    }

    fn show_refused(&self, inner: &Inner) {
        match inner.refused.reason(&self.to) {
            Some(reason) => self.unit.state.pause("directory", reason),
            None => self.unit.state.resume("directory"),
        }
    }

    /// What was refused long ago, and no product waits for, is shown no more.
    pub(super) fn forget_old(&self) {
        let mut inner = self.inner();
        if inner.refused.forget_old(Instant::now()) {
            self.show_refused(&inner);
        }
    }

    /// Lists for a program; see [`Attempts::apart`].
    pub(super) fn apart<T>(&self, files: Vec<T>, key: impl Fn(&T) -> (&Queued, Option<Version>)) -> Vec<Vec<T>> {
        self.inner().attempts.apart(files, key)
    }

    /// It is the product's fault: it may be tried again, but not for ever.
    async fn count(&self, file: &Queued, version: Option<Version>, what: &str) {
        let count = self.inner().attempts.note(file, version, Instant::now());
        let path = self.queue.shown(file);
        let Some(count) = count else {
            // Too many to be counted: none is set aside for that.
            self.queue.hold(file, Instant::now() + REST_LONGEST);
            return;
        };
        match wait_after(count) {
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
                    self.inner().attempts.forget(file);
                }
            }
        }
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
}
