//! Empties an abandoned queue into a file and deletes it, without losing a message that comes meanwhile.
//!
//! [`spill`] takes what is ready, batch by batch: a batch is in the file and synced, then it is acked. Then it cancels,
//! waits until the broker's own figures say that nobody has a message of the queue in hand, takes what has come since, and
//! deletes the queue, if unused and if empty; it tries that three times. A queue that is fed faster stays. So does one that
//! gets a consumer: the next batches are left to it. Killed at any moment, the queue and the file together hold every
//! message, some of them both.
//!
//! AMQP does not tell what others have in hand, and RabbitMQ's guards do not count it. The broker's figures do, some
//! seconds late. They are younger than a moment when they have changed twice since: the first change may have been on
//! its way. A queue that is asked for its depth tells its figures anew.
//!
//! What is published in the moment in which the queue goes was in no queue, though RabbitMQ confirms it and returns
//! nothing: it is as lost as if it had come a moment later.
//!
//! For classic queues that do not go with their last consumer, which our own leaving would delete. Quorum queues have no
//! guards; what is given back to them may be dropped by a limit of deliveries, and what they keep for a dead-letter
//! target (`x-dead-letter-strategy` is `at-least-once`) can be taken out by nobody.
//!
//! `px replay` brings the messages back as persistent ones, without a `user_id`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::Cause;
use super::consume::Drain;
use crate::broker::{BrokerError, Connection, Purpose, Removal, connect};
use crate::config::Broker;
use crate::message::{Fault, Queue, Topology};
use crate::spool::spill::{Message, Source, SpillFile, unfinished};
use crate::spool::{SpoolError, off_thread};

const ROUNDS: u32 = 3;
/// Figures come every 5 s, and are collected every 5 s; there are brokers that are told to be slower, and busy ones.
const FIGURES_MAX: Duration = Duration::from_secs(60);
const FIGURES_EVERY: Duration = Duration::from_millis(500);
/// The longest name on AMQP.
const NAME_MAX: usize = 255;

/// What the broker's figures say of a queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    /// Messages that somebody was given and has not settled.
    pub unacknowledged: Option<u64>,
    /// The work that the queue has done: another number with each new set of figures.
    pub reductions: Option<u64>,
}

/// What is in the file, whatever came of the queue.
#[derive(Debug, Clone, PartialEq)]
pub struct Spilled {
    /// The file; none where there was no message.
    pub file: Option<PathBuf>,
    /// Messages in it. All of them are on disk.
    pub messages: u64,
    /// Of their bodies.
    pub bytes: u64,
    /// What came of the queue.
    pub ending: Ending,
    /// Files of earlier runs that were interrupted.
    pub unfinished: Vec<PathBuf>,
}

/// What came of the queue.
#[derive(Debug, Clone, PartialEq)]
pub enum Ending {
    /// It is deleted, and everything that was in it is in the file.
    Deleted,
    /// Messages still came after the third round: it stays.
    FedFaster,
    /// It has a consumer: it stays.
    InUse,
    /// Somebody has messages of it in hand, or no figures say that nobody has: it stays.
    InHand(&'static str),
    /// We were asked to stop: it stays.
    Interrupted,
    /// Somebody else has deleted it, or it has expired, perhaps with messages in it.
    Missing,
    /// It stays; what is not in the file is in the queue. So may be what was acked last, for nobody knows whether the
    /// broker has heard of it.
    Failed(Cause),
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ending::Deleted => f.write_str("deleted"),
            Ending::FedFaster => f.write_str("kept: fed faster than spilled"),
            Ending::InUse => f.write_str("kept: it has a consumer now"),
            Ending::InHand(why) => write!(f, "kept: {why}"),
            Ending::Interrupted => f.write_str("kept: interrupted"),
            Ending::Missing => f.write_str(
                "somebody else has deleted it meanwhile, or it has expired: what it still held went with it",
            ),
            Ending::Failed(cause) => write!(
                f,
                "kept: {}; the last messages of the file may be in the queue still",
                cause.what
            ),
        }
    }
}

/// Where random parts of names come from: nobody else has them by chance.
fn random() -> String {
    format!("{:016x}", fastrand::u64(..))
}

/// A name of our own beside a queue's, for what may be made by who may make the queue.
pub fn name_beside(queue: &str, purpose: &str) -> String {
    let random = random();
    let name = format!("{queue}.{purpose}.{random}");
    // The broker keeps the names that begin so for itself.
    match name.len() > NAME_MAX || queue.starts_with("amq.") {
        true => format!("px.{purpose}.{random}"),
        false => name,
    }
}

/// Spills a queue into a new file in `directory`, and deletes it. `broker`'s URLs name the virtual host, see
/// [`Broker::in_vhost`]; `arguments` are those of the queue. `look` asks for the figures of a queue of that virtual host,
/// `None` where there is no such queue. `stop` ends it after the batch at hand. Dropped half-way, it leaves everything as
/// a crash does.
pub async fn spill(
    broker: &Broker,
    queue: &str,
    arguments: &serde_json::Map<String, serde_json::Value>,
    directory: &Path,
    look: impl AsyncFn(&str) -> Result<Option<Figures>, BrokerError>,
    stop: &CancellationToken,
) -> Spilled {
    let mut spilling = Spilling {
        source: Source {
            broker: broker.name.clone(),
            vhost: broker.urls.first().map(|url| url.vhost.clone()).unwrap_or_default(),
            queue: queue.to_owned(),
            arguments: arguments.clone(),
        },
        directory: directory.to_owned(),
        look,
        stop: stop.clone(),
        file: None,
        path: None,
        messages: 0,
        bytes: 0,
    };
    let ending = match spilling.run(broker).await {
        Ok(ending) => ending,
        Err(cause) => Ending::Failed(cause),
    };
    let unfinished = spilling.finish().await;
    Spilled {
        file: spilling.path.filter(|_| spilling.messages > 0),
        messages: spilling.messages,
        bytes: spilling.bytes,
        ending,
        unfinished,
    }
}

struct Spilling<L> {
    source: Source,
    directory: PathBuf,
    look: L,
    stop: CancellationToken,
    /// Not while it is written, and no more after an error.
    file: Option<SpillFile>,
    path: Option<PathBuf>,
    messages: u64,
    bytes: u64,
}

impl<L: AsyncFn(&str) -> Result<Option<Figures>, BrokerError>> Spilling<L> {
    async fn run(&mut self, broker: &Broker) -> Result<Ending, Cause> {
        let kind = self.source.arguments.get("x-queue-type");
        if let Some(kind) = kind.filter(|kind| *kind != "classic") {
            let what = format!(
                "queue {} is not spilled: its type is {kind}, and only classic ones are",
                self.source.queue
            );
            return Err(Cause::new(Fault::Own, what));
        }
        let connection = connect(broker, Purpose::Consume, "px spill").await.map_err(refused)?;
        let mut ending = match assert_same_broker(connection.as_ref(), &self.source.queue, &self.look).await {
            Ok(()) => self.rounds(connection.as_ref()).await,
            Err(cause) => Err(cause),
        };
        if ending.is_err() && matches!(connection.consumers(&self.source.queue).await, Ok(None)) {
            ending = Ok(Ending::Missing);
        }
        connection.close().await;
        ending
    }

    async fn rounds(&mut self, connection: &dyn Connection) -> Result<Ending, Cause> {
        let queue = self.source.queue.clone();
        for round in 0..ROUNDS {
            match connection.consumers(&queue).await.map_err(refused)? {
                None => return Ok(Ending::Missing),
                Some(0) => {}
                Some(_) => return Ok(Ending::InUse),
            }
            match self.round(connection).await? {
                Round::Drained => {}
                Round::Joined => return Ok(Ending::InUse),
                Round::Stopped => return Ok(Ending::Interrupted),
            }
            // What has come meanwhile is taken in the next round: it costs nothing to wait once.
            if round == 0
                && let Some(ending) = self.wait_for_others(connection).await?
            {
                return Ok(ending);
            }
            match connection.delete_queue(&queue, true, true).await.map_err(refused)? {
                Removal::Deleted => return Ok(Ending::Deleted),
                Removal::InUse => return Ok(Ending::InUse),
                Removal::Missing => return Ok(Ending::Missing),
                Removal::NotEmpty => {}
            }
        }
        Ok(Ending::FedFaster)
    }

    /// Until figures that are younger than this call say that nobody has a message in hand; else how it ends.
    async fn wait_for_others(&self, connection: &dyn Connection) -> Result<Option<Ending>, Cause> {
        let queue = &self.source.queue;
        let deadline = Instant::now() + FIGURES_MAX;
        let (mut last, mut changes) = (None, 0);
        loop {
            // To be asked makes the queue tell its figures anew.
            match connection.consumers(queue).await.map_err(refused)? {
                None => return Ok(Some(Ending::Missing)),
                Some(0) => {}
                Some(_) => return Ok(Some(Ending::InUse)),
            }
            let Some(figures) = (self.look)(queue).await.map_err(refused)? else {
                return Ok(Some(Ending::Missing));
            };
            if figures.reductions.is_some() && figures.reductions != last {
                changes += u32::from(last.is_some());
                last = figures.reductions;
            }
            if changes >= 2 && figures.unacknowledged == Some(0) {
                return Ok(None);
            }
            if Instant::now() >= deadline {
                return Ok(Some(Ending::InHand(match changes {
                    0 | 1 => "the broker has no new figures of it, and somebody may have messages of it in hand",
                    _ => "somebody has messages of it in hand",
                })));
            }
            tokio::select! {
                () = sleep(FIGURES_EVERY) => {}
                () = self.stop.cancelled() => return Ok(Some(Ending::Interrupted)),
            }
        }
    }

    /// What is ready now.
    async fn round(&mut self, connection: &dyn Connection) -> Result<Round, Cause> {
        let Some(mut drain) = Drain::start(connection, &self.source.queue).await.map_err(refused)? else {
            return Ok(Round::Drained);
        };
        loop {
            let batch = drain.batch().await.map_err(refused)?;
            if batch.is_empty() {
                drain.end().await;
                return Ok(Round::Drained);
            }
            self.keep(batch).await?;
            drain.settle().await.map_err(refused)?;
            let consumers = connection.consumers(&self.source.queue).await.map_err(refused)?;
            if consumers.is_some_and(|count| count > 1) {
                drain.end().await;
                return Ok(Round::Joined);
            }
            if self.stop.is_cancelled() {
                drain.end().await;
                return Ok(Round::Stopped);
            }
        }
    }

    /// Has a batch on disk.
    async fn keep(&mut self, batch: Vec<Message>) -> Result<(), Cause> {
        let (count, bytes) = (
            batch.len(),
            batch.iter().map(|message| message.envelope.body.len()).sum::<usize>(),
        );
        let (file, source, directory) = (self.file.take(), self.source.clone(), self.directory.clone());
        let file = off_thread(move || {
            let mut file = match file {
                Some(file) => file,
                None => SpillFile::create(&directory, &source, Timestamp::now())?,
            };
            match file.append(&batch) {
                Ok(()) => Ok(file),
                Err(error) => {
                    if file.messages() == 0 {
                        file.discard();
                    }
                    Err(error)
                }
            }
        })
        .await
        .map_err(|error: SpoolError| Cause::from((error.fault, &error)))?;
        self.path = Some(file.path().to_owned());
        self.file = Some(file);
        self.messages += count as u64;
        self.bytes += bytes as u64;
        Ok(())
    }

    /// Writes the file's end; answers which other files of this queue have none.
    async fn finish(&mut self) -> Vec<PathBuf> {
        let (file, path) = (self.file.take(), self.path.clone());
        let (source, directory) = (self.source.clone(), self.directory.clone());
        let finished = off_thread(move || {
            if let Some(file) = file {
                // Where that fails, whoever reads it is told that it may have been cut. All that was spilled is in it.
                drop(file.end());
            }
            Ok(unfinished(&directory, &source, path.as_deref()))
        });
        // It fails only where it panics.
        finished.await.unwrap_or_default()
    }
}

/// That `look` looks at the broker of this connection: a queue that is made here must be seen there. Else a queue of this
/// name is perhaps another one.
pub(super) async fn assert_same_broker(
    connection: &dyn Connection,
    queue: &str,
    look: &impl AsyncFn(&str) -> Result<Option<Figures>, BrokerError>,
) -> Result<(), Cause> {
    let own = Queue {
        name: name_beside(queue, "spill"),
        exclusive: true,
        ..Queue::default()
    };
    let name = own.name.clone();
    let topology = Topology {
        queues: vec![own],
        ..Topology::default()
    };
    connection.declare(&topology).await.map_err(refused)?;
    let seen = look(&name).await.map_err(refused)?;
    // It goes with the connection, at the latest.
    drop(connection.delete_queue(&name, false, false).await);
    if seen.is_some() {
        return Ok(());
    }
    let what = "the broker that answers on AMQP is not the one whose management API was asked: one of its URLs leads \
                elsewhere, or its cluster is split";
    Err(Cause::new(Fault::Own, what))
}

#[derive(PartialEq)]
enum Round {
    Drained,
    /// Somebody else consumes.
    Joined,
    /// We were asked to.
    Stopped,
}

fn refused(error: BrokerError) -> Cause {
    Cause::from((error.fault, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_beside_a_queue_are_its_own_and_allowed() {
        let name = name_beside("cmc.q", "replay");
        assert!(name.starts_with("cmc.q.replay.") && name != name_beside("cmc.q", "replay"));
        let at_most = "é".repeat(115) + "q";
        assert_eq!(name_beside(&at_most, "replay").len(), NAME_MAX);
        for queue in ["amq.gen-x", &(at_most + "q")] {
            assert!(name_beside(queue, "replay").starts_with("px.replay."), "{queue}");
        }
    }
}
