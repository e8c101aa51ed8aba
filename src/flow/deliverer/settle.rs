//! What follows a delivery: announce it, remember the content, tell of it, remove the file. A handful at a time, so
//! that one sync serves many.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedReceiver;
use tracing::debug;

use super::failures::{Failure, Failures};
use super::ready::{Leftovers, Made, Ready};
use crate::backoff::Backoff;
use crate::flow::announcer::{Announcer, Delivered};
use crate::flow::duplicates::Shared;
use crate::flow::product::Product;
use crate::flow::removal::Remover;
use crate::flow::{Unit, chain};
use crate::message::Fault;
use crate::metrics::Count;
use crate::spool::SpoolError;
use crate::spool::queue::Removed;
use crate::spool::tree::Digests;
use crate::transfer::deliver::Deliverer;

/// Delivered files that are settled together.
const HANDFUL: usize = 64;

/// Between two tries to announce.
const WAIT_FIRST: Duration = Duration::from_secs(1);
const WAIT_LONGEST: Duration = Duration::from_secs(60);
/// Of a file that lies in no directory of a priority.
const LEAST_URGENT: u8 = 5;

/// What became of a product, and how long it took.
pub(super) type Note = (Ready, Result<Duration, Failure>);

/// Settles what was delivered, and what was not.
pub(super) struct Settler {
    pub(super) unit: Unit,
    pub(super) remover: Arc<Remover>,
    pub(super) leftovers: Leftovers,
    pub(super) failures: Arc<Failures>,
    pub(super) memory: Shared,
    /// `None` where a script delivers.
    pub(super) deliverer: Option<Deliverer>,
    pub(super) announcer: Option<Arc<Announcer>>,
    /// Where to, for people.
    pub(super) to: String,
}

impl Settler {
    /// Settles until no more can come.
    pub(super) async fn run(self, mut notes: UnboundedReceiver<Note>) {
        let mut handful = Vec::with_capacity(HANDFUL);
        while notes.recv_many(&mut handful, HANDFUL).await > 0 {
            let mut delivered = Vec::with_capacity(handful.len());
            for (ready, result) in handful.drain(..) {
                match result {
                    Ok(took) => delivered.push((ready, took)),
                    Err(failure) => self.failed(ready, failure).await,
                }
            }
            if !delivered.is_empty() {
                let announced = self.announce(delivered).await;
                self.settle(announced).await;
            }
            self.leftovers.sweep(&self.remover).await;
        }
    }

    async fn failed(&self, ready: Ready, failure: Failure) {
        let is_resting = self
            .deliverer
            .as_ref()
            .is_some_and(|deliverer| deliverer.rests().is_some());
        let file = (&ready.file, Some(ready.version));
        let directory = &ready.parcel.directory;
        self.failures.failed(file, directory, failure, is_resting).await;
    }

    /// Those that are announced for good, or need not be.
    async fn announce(&self, mut delivered: Vec<(Ready, Duration)>) -> Vec<(Ready, Duration)> {
        let Some(announcer) = &self.announcer else {
            return delivered;
        };
        let mut announced = Vec::with_capacity(delivered.len());
        let mut waits = Backoff::new(WAIT_FIRST, WAIT_LONGEST);
        // All at once where nothing is wrong, else one by one.
        let mut count = delivered.len();
        while !delivered.is_empty() {
            let some = &delivered[..count.min(delivered.len())];
            match self.add(announcer, some).await {
                Ok(()) => {
                    let rest = delivered.split_off(some.len());
                    announced.extend(std::mem::replace(&mut delivered, rest));
                    self.unit.state.resume("announcing");
                }
                Err(error) if (error.fault == Fault::Message || error.one_file) && some.len() > 1 => count = 1,
                Err(error) if error.fault == Fault::Message => {
                    let (ready, _) = delivered.remove(0);
                    self.set_aside(ready, chain(&error)).await;
                }
                // It would hold up all others. Back in its queue it is delivered again, but not for ever.
                Err(error) if error.one_file => {
                    let (ready, _) = delivered.remove(0);
                    let what = format!("it is delivered and cannot be announced: {}", chain(&error));
                    self.failed(ready, Failure::of_product(what)).await;
                }
                Err(error) => {
                    let reason = format!("cannot announce what was delivered: {}", chain(&error));
                    self.unit.state.pause("announcing", reason);
                    let waiting = tokio::time::sleep(waits.next_wait());
                    if self.unit.stop.run_until_cancelled(waiting).await.is_none() {
                        // What is left stays in the queue, and is delivered and announced by the next process.
                        return announced;
                    }
                }
            }
        }
        announced
    }

    async fn add(&self, announcer: &Announcer, delivered: &[(Ready, Duration)]) -> Result<(), SpoolError> {
        let mut products = Vec::with_capacity(delivered.len());
        for (ready, _) in delivered {
            let content = ready.parcel.content.try_clone();
            let content = content.map_err(|error| SpoolError::own("cannot keep a delivered file open", error))?;
            products.push(Delivered {
                ingest_name: ready.ingest_name().to_vec(),
                priority: ready.file.priority().unwrap_or(LEAST_URGENT),
                directory: ready.parcel.directory.clone(),
                name: ready.parcel.name.clone(),
                content,
                size: ready.parcel.size,
                modified: jiff::Timestamp::from_nanosecond(i128::from(ready.version.mtime_ns)).ok(),
                digests: Digests {
                    md5: ready.digest.map(|digest| digest.hex()),
                    sha512: None,
                },
            });
        }
        announcer.add(products.into()).await
    }

    async fn set_aside(&self, ready: Ready, why: String) {
        let why = format!("it is delivered and cannot be announced: {why}");
        let aside = vec![(ready.file.clone(), Some(ready.version), why)];
        // Where it stays all the same, that is told of.
        self.remover.set_aside(aside).await;
    }

    async fn settle(&self, mut delivered: Vec<(Ready, Duration)>) {
        let (mut gone, mut all_made) = (Vec::with_capacity(delivered.len()), Vec::new());
        for (ready, took) in &mut delivered {
            self.failures.succeeded(&ready.file, &ready.parcel.directory);
            self.tell(ready, *took);
            // Before the file itself: left alone it would be another product.
            if let Some(made) = ready.made.take() {
                gone.push((made.file().clone(), None));
                all_made.push(made);
            }
            gone.push((ready.file.clone(), Some(ready.version)));
        }
        let names: Vec<Vec<u8>> = gone.iter().map(|(file, _)| file.name().to_vec()).collect();
        let removed = self.remover.remove(gone).await;
        all_made.into_iter().for_each(Made::forget);
        for (name, removed) in names.iter().zip(removed) {
            if removed == Removed::Gone {
                debug!("{} has been erased", String::from_utf8_lossy(name));
            }
        }
    }

    fn tell(&self, ready: &Ready, took: Duration) {
        if let (Some(memory), Some(digest)) = (&self.memory, ready.digest) {
            let mut memory = memory.lock().unwrap_or_else(PoisonError::into_inner);
            memory.remember(digest, Instant::now());
        }
        let (bytes, took_s) = (ready.parcel.size, took.as_secs_f64());
        let now_ns = jiff::Timestamp::now().as_nanosecond();
        let latency_s = (now_ns - i128::from(ready.version.mtime_ns)) as f64 / 1e9;
        self.unit.metrics.count(Count::Delivered);
        self.unit.metrics.add(Count::DeliveredBytes, bytes);
        self.unit
            .metrics
            .latency(Duration::try_from_secs_f64(latency_s).unwrap_or_default());
        Product::Put {
            path: &ready.shown,
            to: &shown(&self.to, &ready.parcel.directory, &ready.parcel.name),
            bytes,
            latency_s,
            speed: if took_s > 0.0 { bytes as f64 / took_s } else { 0.0 },
        }
        .log();
    }
}

/// `ftp://user@host/directory/name`.
pub(super) fn shown(to: &str, directory: &[u8], name: &[u8]) -> String {
    let part = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (to, directory) = (to.trim_end_matches('/'), part(directory));
    let directory = directory.trim_matches('/');
    let separator = if directory.is_empty() { "" } else { "/" };
    let to = if to == "file:" { "file://" } else { to };
    format!("{to}{separator}{directory}/{}", part(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delivered_product_is_shown_as_a_url() {
        let table = [
            ("ftp://u@h", "a/b", "ftp://u@h/a/b/n"),
            ("ftp://u@h", "/a/b/", "ftp://u@h/a/b/n"),
            ("sftp://u@h", "", "sftp://u@h/n"),
            ("file://", "/data/x", "file:///data/x/n"),
            ("http://h/dav/", "a", "http://h/dav/a/n"),
        ];
        for (to, directory, wanted) in table {
            assert_eq!(shown(to, directory.as_bytes(), b"n"), wanted);
        }
    }
}
