//! The sender: publishes the content of every file that is put into its queue, and removes the file.
//!
//! | option | default | meaning |
//! | --- | --- | --- |
//! | `type` | | `"amqp"` |
//! | `broker` | | a broker of `px.toml` |
//! | `exchange` | the broker's | where messages go |
//! | `key` | | the routing key; `${0}` and its kin stand for parts of the file's name, see below |
//! | `content_type` | `"text/plain"` | the property of that name |
//! | `masks` | accept all | on the whole file name; first match wins; what they reject **is removed** |
//! | `batch` | 100 | files between two looks at what is more urgent |
//! | `duplicates` | none | `{ entries = 125000, keep = "8h" }`: the same content is not sent twice |
//! | `validation` | `false` | `true`: files whose names have no priority or no stamp **are removed** |
//! | `purge` | none | `[{ priority = [3], after = "5h" }]`: files that were received so long ago **are removed** |
//! | `min_age` | `"0s"` | younger files wait |
//! | `order` | `"priority"` | by the priority and stamp in the name, then by path; `"mtime"`: by modification time |
//! | `unroutable` | `"count"` | `"hold"`: wait while no queue is bound for what is sent |
//! | `log` | the site's | `{ keep = 30, level = "info" }`: days for which old logs are kept, and what is written |
//!
//! ```toml
//! type     = "amqp"
//! broker   = "bunny"
//! exchange = { name = "cmc", type = "topic" }
//! key      = "exp.dd.notify.${0}"
//! masks    = [{ reject = '^ensemble\.naefs\.grib2\.raw.*' }, { accept = '^(.*)\+\+.*' }, { reject = ".*" }]
//! ```
//!
//! The queue of the unit `tx/NAME` is `txq/NAME` in the spool: the directories `0` to `5`, the most urgent first, and in
//! them directories that Sundew names by hour, `2026112117`. Names that begin with a dot or end in `.tmp` are not seen,
//! so write under such a name and rename, or link. A file that its writer still has open is left alone until it is
//! closed; where the kernel does not tell of writers, as with files of another user, until it has stood still for 2 s.
//! One that is not closed for ten minutes is named in a warning. Symbolic links are not followed.
//!
//! In `key`, `${0}`, `${1}`… are the groups that the masks take from the name: of the first accepting pattern that is
//! found at exactly one place, and of one without groups the text that it found. `${T1}` `${T2}` `${A1}` `${A2}` `${ii}`,
//! `${CCCC}`, `${YY}` `${GG}` `${Gg}` and `${BBB}` are of the first, second, third and fourth part, between `_`, of a
//! bulletin's name; `${RYYYY}` `${RMM}` `${RDD}` `${RHH}` `${RMN}` `${RSS}` are of its reception stamp. Dots at the end of
//! a key are cut.
//!
//! A message is the bytes of the file as they are, empty ones too, with one header, `filename`: the file's name without
//! its last colon field where that begins with 20, the reception stamp. It is persistent.
//!
//! A file is published, confirmed by the broker, then removed: a crash repeats at most what was in flight, and loses
//! nothing. Without a crash no file is sent twice; one that was sent and cannot be removed is told of and left out. While
//! the broker is away files stay. At most 20000 files of the queue are in memory, and 16 MiB of their content, or one
//! larger file. After every `batch` files the sender looks whether something more urgent has come in. `queued_files` in
//! `px status` is how many files wait, counted every 10 s up to 20000. A directory that cannot be read pauses the unit,
//! which says so; the others go on.
//!
//! Duplicates are known by the md5 of the content, once the first was confirmed. Files in `0` are retransmissions: they
//! are always sent. The memory is lost when the unit ends or is reloaded; nothing leaves it until it is full, then what
//! is older than `keep`, then the older half.
//!
//! What can never be sent goes to `txq/NAME/PROBLEM` under its own name, is told of as an error and counted as failed:
//! a name from which no key can be made, a message that the broker refuses, a file over 512 MiB. Where it cannot go
//! there, it stays and holds up nobody: that is an error, shown as `not_set_aside`, and tried again after a minute. To
//! send them again, correct the cause and move them to `txq/NAME/3/HOUR`, as in `txq/NAME/3/2026112117`; px failed does
//! not know them.
//!
//! With `level = "debug"` the log also has the key of every message, the name of every file that was sent and removed, and
//! each time that one is left to its writer.

use std::sync::{Arc, Mutex};

use anyhow::Context;
use jiff::Timestamp;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{Semaphore, oneshot};
use tracing::{debug, info};

use super::Unit;
use super::duplicates::{Duplicates, Look, Memory};
use super::publish::{Options, Publisher, Unroutable};
use super::queued::{self, Passes};
use super::removal::Remover;
use crate::broker::Returns;
use crate::config::{Broker, Site, Table, options};
use crate::message::{Envelope, Exchange, KeyTemplate, Masks, Topology};
use crate::spool::off_thread;
use crate::spool::queue::{Queue, Queued};

mod connection;
mod decide;
mod handful;
mod settle;

use decide::Decision;
use handful::{Handful, ROOM, Taken};
use settle::{Note, Outgoing, Settler};

/// A unit of `tx/` with `type = "amqp"`.
#[derive(Debug, Clone)]
pub struct Config {
    broker: Broker,
    exchange: Exchange,
    key: KeyTemplate,
    content_type: String,
    masks: Masks,
    queued: queued::Options,
    unroutable: Unroutable,
}

impl Config {
    /// The broker it works on.
    pub fn broker(&self) -> &Broker {
        &self.broker
    }

    /// The exchanges that it declares there.
    pub fn exchanges(&self) -> Vec<&Exchange> {
        vec![&self.exchange]
    }

    /// Reads the unit's table; what is wrong is noted in it.
    pub fn read(table: &mut Table, site: &Site) -> Option<Config> {
        let broker = options::broker(table, site);
        let exchange = match &broker {
            Some(broker) => options::exchange(table, broker),
            None => options::exchange_at(table, "exchange"),
        };
        let key = read_key(table);
        let content_type = read_content_type(table);
        let masks = options::masks(table);
        let queued = queued::Options::read(table);
        let unroutable = super::read_unroutable(table);
        Some(Config {
            broker: broker?,
            exchange: exchange?,
            key: key?,
            content_type: content_type?,
            masks: masks?,
            queued: queued?,
            unroutable,
        })
    }
}

fn read_key(table: &mut Table) -> Option<KeyTemplate> {
    const KEY: &str = "a routing key of at most 255 bytes, with templates like ${0} or ${CCCC}";
    if !table.has("key") {
        table.reject("key", KEY);
    }
    table.parsed(
        "key",
        |text| KeyTemplate::parse(text).map_err(|error| error.to_string()),
        KEY,
    )
}

fn read_content_type(table: &mut Table) -> Option<String> {
    let short = |text: &str| match text.len() <= 255 && !text.chars().any(char::is_control) {
        true => Ok(text.to_string()),
        false => Err(String::new()),
    };
    let own = table.parsed("content_type", short, "a MIME type of at most 255 bytes");
    match table.has("content_type") {
        true => own,
        false => Some("text/plain".to_string()),
    }
}

/// Runs the unit until it is told to stop.
pub async fn run(config: Config, unit: Unit) -> anyhow::Result<()> {
    info!("Initialisation of client {}", unit.name.name);
    let queue = queued::open(&unit, &config.queued).await?;
    let topology = Topology {
        exchanges: vec![config.exchange.clone()],
        ..Topology::default()
    };
    let how = Options {
        unroutable: config.unroutable,
        transient_exchange: !config.exchange.durable,
        ..Options::default()
    };
    let publisher = Publisher::start(&unit, config.broker.clone(), topology, how);
    let duplicates = config.queued.duplicates;
    let memory = duplicates.map(|options| Arc::new(Mutex::new(Memory::new(options))));
    let remover = Arc::new(Remover::new(&unit, Arc::clone(&queue)));
    let settler = Settler::new(&unit, Arc::clone(&remover), memory.clone());
    let (notes, published) = tokio::sync::mpsc::unbounded_channel(); // bounded by the publisher's window
    let settling = tokio::spawn(settler.run(published));
    let counting = queued::count(unit.state.clone(), Arc::clone(&queue));
    let telling = connection::tell(unit.state.subscribe(), connection::host(&config.broker));
    let sender = Sender {
        passes: Passes::new(&unit, Arc::clone(&queue)),
        unit,
        config: Arc::new(config),
        queue,
        publisher,
        remover,
        notes,
        duplicates: Duplicates::new(memory),
        room: Arc::new(Semaphore::new(ROOM)),
    };
    let work = async {
        sender.run().await;
        settling.await.context("the settling task broke")
    };
    tokio::select! {
        ended = work => ended,
        never = telling => match never {},
        never = counting => match never {},
    }
}

/// The unit is to stop.
struct Stopped;

struct Sender {
    unit: Unit,
    config: Arc<Config>,
    queue: Arc<Queue>,
    passes: Passes,
    publisher: Publisher,
    remover: Arc<Remover>,
    notes: UnboundedSender<Note>,
    duplicates: Duplicates,
    /// Bytes that may be in memory.
    room: Arc<Semaphore>,
}

impl Sender {
    async fn run(mut self) {
        let mut generation = self.publisher.generation();
        let stop = self.unit.stop.clone();
        let connected = generation.wait_for(|generation| *generation > 0);
        match stop.run_until_cancelled(connected).await {
            Some(Ok(_)) => self.unit.state.set_ready(),
            Some(Err(_)) | None => return,
        }
        while !stop.is_cancelled() {
            let sent = self.pass().await;
            let is_idle = match sent {
                Ok(is_idle) => is_idle,
                Err(Stopped) => return,
            };
            if is_idle && !self.passes.wait().await {
                return;
            }
        }
    }

    /// One look at the queue, and everything that it finds; whether there was nothing to do.
    async fn pass(&mut self) -> Result<bool, Stopped> {
        if !self.remover.remove_again().await {
            return Ok(true);
        }
        let Some(mut pass) = self.passes.pass().await else {
            return Ok(true);
        };
        let mut is_idle = pass.files.is_empty();
        while !pass.files.is_empty() {
            let count = pass.files.len().min(self.config.queued.batch);
            let batch: Vec<Queued> = pass.files.drain(..count).collect();
            // What this host does not let us do is not tried again at once.
            is_idle |= !self.batch(batch).await?;
            self.passes.overtake(&mut pass).await;
        }
        self.settled().await?;
        Ok(is_idle)
    }

    /// Sends some files; whether all of them are dealt with.
    async fn batch(&mut self, files: Vec<Queued>) -> Result<bool, Stopped> {
        let (config, now, stop) = (Arc::clone(&self.config), Timestamp::now(), self.unit.stop.clone());
        // Masks may take long, and there may be many files.
        let decided = off_thread(move || {
            let decided = files.into_iter().take_while(|_| !stop.is_cancelled()).map(|file| {
                let decision = decide::decide(&config, file.name(), now);
                (file, decision)
            });
            Ok(decided.collect::<Vec<_>>())
        });
        let (mut letters, mut erased, mut hopeless) = (Vec::new(), Vec::new(), Vec::new());
        let decided = match decided.await {
            Ok(decided) => decided,
            Err(error) => {
                self.passes.refused(&error);
                return Ok(false);
            }
        };
        for (file, decision) in decided {
            match decision {
                Decision::Send(letter) => letters.push((file, letter)),
                Decision::Erase(why) => erased.push((file, None, why)),
                Decision::SetAside(why) => hopeless.push((file, None, why)),
            }
        }
        self.remover.erase(erased).await;
        let mut is_done = self.remover.set_aside(hopeless).await;
        let mut rest = letters;
        rest.reverse();
        let mut place = None;
        while !rest.is_empty() {
            let (queue, room, place_taken) = (Arc::clone(&self.queue), Arc::clone(&self.room), place.take());
            let needs_digest = self.duplicates.is_wanted();
            let read = off_thread(move || handful::take(&queue, rest, &room, place_taken, needs_digest)).await;
            let Handful {
                taken,
                rest: left,
                needs,
            } = match read {
                Ok(handful) => handful,
                Err(error) => {
                    self.passes.refused(&error);
                    return Ok(false);
                }
            };
            rest = left;
            is_done &= self.send(taken).await?;
            if let Some(needs) = needs {
                let acquired = Arc::clone(&self.room).acquire_many_owned(needs);
                // Nobody closes it.
                place = self.unit.stop.run_until_cancelled(acquired).await.ok_or(Stopped)?.ok();
            }
        }
        Ok(is_done)
    }

    async fn send(&mut self, handful: Vec<Taken>) -> Result<bool, Stopped> {
        let (mut suppressed, mut hopeless, mut own_fault) = (Vec::new(), Vec::new(), None);
        let mut new = Vec::new();
        for taken in handful {
            match taken {
                Taken::Content(outgoing, envelope) => {
                    if let Some(digest) = outgoing.digest {
                        let mut look = self.duplicates.look(digest);
                        if look == Look::AfterOthers {
                            self.publish_all(std::mem::take(&mut new)).await?;
                            self.settled().await?;
                            look = self.duplicates.look(digest);
                        }
                        if look == Look::Repeat {
                            suppressed.push((outgoing.file, outgoing.version));
                            continue;
                        }
                    }
                    new.push((outgoing, envelope));
                }
                Taken::Written(file) => self.passes.leave_to_its_writer(&file),
                Taken::TooLarge(file, why) => hopeless.push((file, None, why)),
                Taken::Unread(file, cause) => {
                    let own = self.passes.leave_unread(&file, cause);
                    own_fault = own.or(own_fault);
                }
            }
        }
        self.publish_all(new).await?;
        self.passes.note_read(own_fault);
        self.remover.suppress(suppressed).await;
        Ok(self.remover.set_aside(hopeless).await)
    }

    /// Says how many go out, and publishes them.
    async fn publish_all(&self, new: Vec<(Outgoing, Box<Envelope>)>) -> Result<(), Stopped> {
        if !new.is_empty() {
            info!("{} new messages will be sent", new.len());
        }
        for (mut outgoing, envelope) in new {
            debug!("exchange key = {}", envelope.key);
            outgoing.pending = Some(self.publish(*envelope).await?);
            self.note(Note::Sent(outgoing));
        }
        Ok(())
    }

    async fn publish(&self, envelope: Envelope) -> Result<super::publish::Pending, Stopped> {
        let submitted = self
            .publisher
            .submit(&self.config.exchange.name, envelope, Returns::Counted);
        self.unit.stop.run_until_cancelled(submitted).await.ok_or(Stopped)
    }

    /// Waits until everything that was published is settled.
    async fn settled(&mut self) -> Result<(), Stopped> {
        let (done, all_done) = oneshot::channel();
        self.note(Note::Barrier(done));
        match self.unit.stop.run_until_cancelled(all_done).await {
            Some(Ok(())) => {
                self.duplicates.all_settled();
                Ok(())
            }
            // The settling task ends early only when the unit does.
            Some(Err(_)) | None => Err(Stopped),
        }
    }

    fn note(&self, note: Note) {
        // The settling task ends early only when the unit does; the file stays.
        drop(self.notes.send(note));
    }
}

#[cfg(test)]
mod tests;
