//! One tree: read what was found, announce it, and record it when it is confirmed. All in the order of the finding.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use futures_util::stream::{FuturesOrdered, StreamExt};
use jiff::Timestamp;
use rustix::io::Errno;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tracing::{error, warn};

use super::{Shared, Watched};
use crate::broker::Returns;
use crate::flow::product::Product;
use crate::flow::publish::{Pending, PublishError};
use crate::flow::tell::tell;
use crate::message::ProductPath;
use crate::metrics::Count;
use crate::spool::inventory::{Record, Row};
use crate::spool::off_thread;
use crate::spool::tree::{Captured, Found, Needs, Reader, Sight, Tree};

/// Handfuls of files that are read at the same time.
const READING_MAX: usize = 2;
/// Before a file that cannot be read is looked at again.
const UNREAD_PAUSE: Duration = Duration::from_secs(60);
/// The same where this host is at fault.
const OWN_PAUSE: Duration = Duration::from_secs(1);

/// Announced, and not yet confirmed in every format.
struct Outgoing {
    found: Found,
    row: Row,
    path: ProductPath,
    pending: Vec<Pending>,
}

/// Follows a tree until the unit stops and what was published is confirmed and recorded.
pub(super) async fn follow(shared: Arc<Shared>, watched: Watched) -> anyhow::Result<()> {
    let (how, inventory, metrics) = (
        watched.how.clone(),
        shared.inventory.clone(),
        shared.unit.metrics.clone(),
    );
    let (tree, sights) = off_thread(move || Tree::watch(how, &inventory, metrics))
        .await
        .with_context(|| format!("cannot watch {}", watched.how.path.display()))?;
    let (outgoing, published) = unbounded_channel(); // bounded by the tree: so many files may be on their way
    let host = url::Url::parse(&watched.base).ok();
    let host = host
        .as_ref()
        .and_then(url::Url::host_str)
        .unwrap_or("localhost")
        .to_owned();
    let confirming = tokio::spawn(confirm(Arc::clone(&shared), tree.number(), host, published));
    let follower = Follower {
        needs: shared.how(&watched.announce).needs(),
        shared,
        watched,
        outgoing,
        has_warned_of_cut_keys: false,
    };
    let followed = follower.run(&tree, sights).await;
    confirming.await.context("the confirming task broke")?;
    // Its threads may be in the middle of a piece of work.
    off_thread(move || {
        drop(tree);
        Ok(())
    })
    .await?;
    followed
}

struct Follower {
    shared: Arc<Shared>,
    watched: Watched,
    needs: Needs,
    outgoing: UnboundedSender<Outgoing>,
    has_warned_of_cut_keys: bool,
}

impl Follower {
    async fn run(mut self, tree: &Tree, mut sights: UnboundedReceiver<Sight>) -> anyhow::Result<()> {
        let stop = self.shared.unit.stop.clone();
        let mut generation = self.shared.publisher.generation();
        let mut reading = FuturesOrdered::new();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                Ok(()) = generation.changed() => {
                    if *generation.borrow_and_update() > 1 {
                        tree.compare();
                    }
                }
                Some(read) = reading.next() => {
                    let read: Vec<(Found, Captured)> = read?;
                    let announced = stop.run_until_cancelled(self.announce_all(read)).await;
                    if announced.is_none() {
                        return Ok(());
                    }
                }
                sight = sights.recv(), if reading.len() < READING_MAX => match sight {
                    Some(Sight::Found(found)) => {
                        let (path, needs) = (self.watched.how.path.clone(), self.needs);
                        reading.push_back(off_thread(move || Ok(read(path, needs, found))));
                    }
                    Some(Sight::Ready) => self.shared.one_is_ready(),
                    Some(Sight::Paused(reason)) => self.shared.set_trouble(&self.watched.how.path, Some(reason)),
                    Some(Sight::Resumed) => self.shared.set_trouble(&self.watched.how.path, None),
                    None => bail!("nothing watches {} any more", self.watched.how.path.display()),
                },
            }
        }
    }

    async fn announce_all(&mut self, read: Vec<(Found, Captured)>) {
        let mut own_fault = None;
        for (mut found, captured) in read {
            match captured {
                Captured::Product(digests, row) => {
                    let ready = self.watched.ready(found.path(), row.version, &digests);
                    let told = tell(ready, self.shared.how(&self.watched.announce), Timestamp::now());
                    let (metrics, sampler) = (&self.shared.unit.metrics, &self.shared.sampler);
                    let tree = &self.watched.how.path;
                    told.warn(metrics, sampler, tree, &mut self.has_warned_of_cut_keys);
                    let mut pending = Vec::with_capacity(told.envelopes.len());
                    for envelope in told.envelopes {
                        let publisher = &self.shared.publisher;
                        pending.push(
                            publisher
                                .submit(&self.shared.exchange, envelope, Returns::Counted)
                                .await,
                        );
                    }
                    self.go_on(found, row, told.path, pending);
                }
                Captured::Known(Some(row)) => self.go_on(found, row, ProductPath(Vec::new()), Vec::new()),
                Captured::Known(None) | Captured::Gone => {}
                Captured::Unread(cause @ (Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::IO)) => {
                    own_fault = Some(cause);
                    found.look_again(OWN_PAUSE);
                }
                Captured::Unread(cause) => {
                    found.look_again(UNREAD_PAUSE);
                    self.warn(&format!("cannot read a file to announce: {cause}"), found.path());
                }
            }
        }
        let state = &self.shared.unit.state;
        match own_fault {
            Some(cause) => state.pause("reading", format!("cannot read files to announce: {cause}")),
            None => state.resume("reading"),
        }
    }

    /// What is announced waits for its confirms; with none to wait for, it is recorded next.
    fn go_on(&self, found: Found, row: Row, path: ProductPath, pending: Vec<Pending>) {
        let outgoing = Outgoing {
            found,
            row,
            path,
            pending,
        };
        // The confirming task ends early only when the unit does; the file is found again then.
        drop(self.outgoing.send(outgoing));
    }

    fn warn(&self, text: &str, path: &[u8]) {
        if let Some(unsaid) = self.shared.sampler.take(text) {
            warn!(path = %ProductPath(path.to_vec()), unsaid, "{text}");
        }
    }
}

/// Reads some files, one after the other. Blocks.
fn read(path: PathBuf, needs: Needs, found: Vec<Found>) -> Vec<(Found, Captured)> {
    match Reader::open(&path, needs) {
        Ok(mut reader) => found
            .into_iter()
            .map(|mut found| {
                let captured = reader.capture(&mut found);
                (found, captured)
            })
            .collect(),
        // A tree that is gone is told by itself, and compared when it returns.
        Err(Errno::NOENT | Errno::NOTDIR) => Vec::new(),
        Err(cause) => found
            .into_iter()
            .map(|found| (found, Captured::Unread(cause)))
            .collect(),
    }
}

/// Records what is confirmed in every format, until nothing more can come.
async fn confirm(shared: Arc<Shared>, tree: i64, host: String, mut published: UnboundedReceiver<Outgoing>) {
    while let Some(outgoing) = published.recv().await {
        let is_announced = !outgoing.pending.is_empty();
        let mut refused = None;
        for pending in outgoing.pending {
            match pending.await {
                Ok(_) => {}
                Err(PublishError::Refused(why)) => refused = Some(why),
                Err(PublishError::Stopping) => return,
            }
        }
        if let Some(why) = refused {
            shared.unit.metrics.count(Count::Failed);
            error!(path = %outgoing.path, "the broker refuses the announcement: {why}; tried again when the tree is compared");
            continue;
        }
        if is_announced {
            shared.unit.metrics.count(Count::Announced);
            let latency = outgoing.found.seen.elapsed();
            shared.unit.metrics.latency(latency);
            Product::Handled {
                verb: "Announced",
                name: &String::from_utf8_lossy(outgoing.path.file_name()),
                bytes: outgoing.row.version.size,
                from: &host,
                latency,
                ignored: None,
            }
            .log();
        }
        shared.recorder.record(Record {
            tree,
            path: outgoing.found.path().clone(),
            row: outgoing.row,
            receipt: Box::new(outgoing.found),
        });
    }
}
