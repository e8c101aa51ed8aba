//! What follows a publish: wait for its confirm, remember the content, tell of it, remove the file. In order, and a
//! handful at a time.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tracing::debug;

use crate::broker::Confirmed;
use crate::flow::Unit;
use crate::flow::duplicates::{Digest, Shared};
use crate::flow::product::Product;
use crate::flow::publish::{Pending, PublishError};
use crate::flow::removal::Remover;
use crate::metrics::Count;
use crate::spool::inventory::Version;
use crate::spool::queue::{Queued, Removed};

/// Confirmed files that are removed together.
const HANDFUL: usize = 64;

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

/// Settles what was published.
pub(super) struct Settler {
    unit: Unit,
    remover: Arc<Remover>,
    memory: Shared,
}

type Answer = Result<Confirmed, PublishError>;

impl Settler {
    pub(super) fn new(unit: &Unit, remover: Arc<Remover>, memory: Shared) -> Self {
        Settler {
            unit: unit.clone(),
            remover,
            memory,
        }
    }

    /// Settles in the order of the notes, until no more can come or the unit lets go.
    pub(super) async fn run(self, mut notes: UnboundedReceiver<Note>) {
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
        let removed = self.remover.remove(sent).await;
        for (name, removed) in names.iter().zip(removed) {
            if removed == Removed::Gone {
                debug!("{} has been erased", String::from_utf8_lossy(name));
            }
        }
        self.remover.set_aside(hopeless).await;
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
