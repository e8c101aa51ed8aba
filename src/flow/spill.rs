//! Empties an abandoned queue into a file and deletes it, without losing a message that comes meanwhile.
//!
//! [`spill`] takes what is ready, batch by batch: a batch is in the file and synced, then it is acked. Then it cancels and
//! deletes the queue, if unused and if empty. What has come meanwhile is taken in a second and a third round; a queue
//! that is fed faster stays. So does one that gets a consumer: the next batches are left to it. Killed at any moment,
//! the queue and the file together hold every message, some of them both.
//!
//! For classic queues: RabbitMQ deletes others unguarded only. Who has cancelled and not settled yet is no consumer: the
//! caller sees to it that nobody has messages of the queue in hand. And what is published in the moment in which the queue
//! goes was in no queue, though RabbitMQ confirms it: it is as lost as if it had come a moment later.
//!
//! `px replay` brings the messages back as persistent ones, without a `user_id`.

use std::fmt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::Cause;
use super::consume::Drain;
use crate::broker::{BrokerError, Connection, Purpose, Removal, connect};
use crate::config::Broker;
use crate::message::Fault;
use crate::spool::spill::{Message, Source, SpillFile};
use crate::spool::{SpoolError, off_thread};

const ROUNDS: u32 = 3;

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
    /// Somebody else has deleted it, or it has expired.
    Missing,
    /// It stays; what is not in the file is in the queue.
    Failed(Cause),
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ending::Deleted => f.write_str("deleted"),
            Ending::FedFaster => f.write_str("kept: fed faster than spilled"),
            Ending::InUse => f.write_str("kept: it has a consumer now"),
            Ending::Missing => f.write_str("gone already"),
            Ending::Failed(cause) => write!(f, "kept: {}", cause.what),
        }
    }
}

/// Spills a queue into a new file in `directory`, and deletes it. `broker`'s URLs name the virtual host, see
/// [`Broker::in_vhost`]; `arguments` are those of the queue. Dropped half-way, it leaves everything as a crash does.
pub async fn spill(
    broker: &Broker,
    queue: &str,
    arguments: &serde_json::Map<String, serde_json::Value>,
    directory: &Path,
) -> Spilled {
    let mut spilling = Spilling {
        source: Source {
            broker: broker.name.clone(),
            vhost: broker.urls.first().map(|url| url.vhost.clone()).unwrap_or_default(),
            queue: queue.to_owned(),
            arguments: arguments.clone(),
        },
        directory: directory.to_owned(),
        file: None,
        path: None,
        messages: 0,
        bytes: 0,
    };
    let ending = match spilling.run(broker).await {
        Ok(ending) => ending,
        Err(cause) => Ending::Failed(cause),
    };
    Spilled {
        file: spilling.path.filter(|_| spilling.messages > 0),
        messages: spilling.messages,
        bytes: spilling.bytes,
        ending,
    }
}

struct Spilling {
    source: Source,
    directory: PathBuf,
    /// Not while it is written, and no more after an error.
    file: Option<SpillFile>,
    path: Option<PathBuf>,
    messages: u64,
    bytes: u64,
}

impl Spilling {
    async fn run(&mut self, broker: &Broker) -> Result<Ending, Cause> {
        if let Some(kind) = self
            .source
            .arguments
            .get("x-queue-type")
            .filter(|kind| *kind != "classic")
        {
            let what = format!(
                "queue {} is not spilled: its type is {kind}, and only classic ones are",
                self.source.queue
            );
            return Err(Cause::new(Fault::Own, what));
        }
        let connection = connect(broker, Purpose::Consume, "px spill").await.map_err(refused)?;
        let ending = self.rounds(connection.as_ref()).await;
        connection.close().await;
        ending
    }

    async fn rounds(&mut self, connection: &dyn Connection) -> Result<Ending, Cause> {
        let queue = self.source.queue.clone();
        for _ in 0..ROUNDS {
            match connection.consumers(&queue).await.map_err(refused)? {
                None => return Ok(Ending::Missing),
                Some(0) => {}
                Some(_) => return Ok(Ending::InUse),
            }
            if self.round(connection).await? == Round::Interrupted {
                return Ok(Ending::InUse);
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
                return Ok(Round::Interrupted);
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
}

#[derive(PartialEq)]
enum Round {
    Drained,
    /// Somebody else consumes.
    Interrupted,
}

fn refused(error: BrokerError) -> Cause {
    Cause::from((error.fault, &error))
}
