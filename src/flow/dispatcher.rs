//! The dispatcher: lets the first of redundant announcements through, under another key.
//!
//! Redundant producers announce every product twice. The dispatcher forwards the first announcement of each, body and
//! headers untouched, and ignores the others. It declares and binds its queue always, so that nothing is missed, and
//! consumes only where its `vip` lives.
//!
//! | option | default | meaning |
//! | --- | --- | --- |
//! | `broker` | | a broker of `px.toml` |
//! | `exchange` | the broker's | where the announcements come in |
//! | `queue` | | a queue, durable unless `durable = false`; `auto_delete`, `expires` |
//! | `bind` | | patterns, or `{ exchange, key }` |
//! | `rekey` | | `{ from = "v00.urp.input", to = "v00.urp.notify" }` or `{ key = "v00.urp.notify" }` |
//! | `publish_exchange` | the input's | where the first announcements go |
//! | `seen` | | `{ by = "auto", entries = 125000, keep = "24h" }`; by: auto, identity, name, path |
//! | `reissue` | `"forward"` | `"drop"`: another path, size or time from the winner's own source is a duplicate too |
//! | `vip` | none | consume only while this host has the address |
//! | `prefetch` | 256 | announcements in hand |
//! | `masks` | accept all | on the announced path; what they reject is skipped |
//! | `format`, `digest` | | what a message is whose key and content type do not tell; what a v00 digest is of |
//! | `unroutable` | `"count"` | `"hold"`: wait until somebody has bound a queue |
//! | `sync` | `"power"` | `"crash"`: the seen log is written, not synced |
//! | `log` | the site's | `{ keep = 30, level = "info" }`: days for which old logs are kept, and what is written |
//!
//! ```toml
//! broker = "bunny"
//! queue  = "cmc.dd_dispatcher.urp"
//! bind   = ["v00.urp.input.#"]
//! rekey  = { from = "v00.urp.input", to = "v00.urp.notify" }
//! seen   = { by = "identity", entries = 125000 }
//! vip    = "142.135.12.59"
//! ```
//!
//! Order is kept. A product is forwarded, confirmed, noted in the seen log, then acked: a crash repeats at most what
//! was in flight, and loses nothing. A second copy that comes in between waits for the verdict on the first.

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot, watch};

use super::consume::{self, Handle, Input, Intake, Step};
use super::product::Product;
use super::publish::{Options, Publisher, Unroutable};
use super::{Cause, Outcome, Output, Unit, chain, since, vip};
use crate::config::options::{self, Inputs};
use crate::config::{Broker, Site, Table};
use crate::message::{
    Announcement, Binding, By, DecodeOptions, Decoded, Envelope, Exchange, Fault, Masks, SeenKey, Topology, decode,
    seen_key, stamp, topic,
};
use crate::metrics::{Count, Metrics};
use crate::spool::seen::{Batch, Facts, Memory, Seen, SeenLog, Verdict};
use crate::spool::{Durability, SpoolError, off_thread};

const ENTRIES: i64 = 125_000;
const KEEP: Duration = Duration::from_secs(24 * 3600);
const PREFETCH: u16 = 256;

/// The key a forwarded announcement gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rekey {
    /// The first words are replaced, the rest stays.
    Prefix {
        /// What the key begins with.
        from: String,
        /// What it begins with then.
        to: String,
    },
    /// One key for all.
    Fixed(String),
}

/// A unit of `dispatch/`.
#[derive(Debug, Clone)]
pub struct Config {
    inputs: Inputs,
    rekey: Rekey,
    publish_exchange: Exchange,
    by: By,
    memory: Memory,
    drops_reissues: bool,
    vip: Option<IpAddr>,
    prefetch: u16,
    masks: Masks,
    decoding: DecodeOptions,
    unroutable: Unroutable,
    durability: Durability,
}

impl Config {
    /// The broker it works on.
    pub fn broker(&self) -> &Broker {
        &self.inputs.broker
    }

    /// Reads the unit's table; what is wrong is noted in it.
    pub fn read(table: &mut Table, site: &Site) -> Option<Config> {
        let inputs = options::inputs(table, site);
        let publish_exchange = options::exchange_at(table, "publish_exchange");
        let rekey = table.within("rekey", read_rekey);
        if !table.has("rekey") {
            table.reject("rekey", REKEY);
        }
        let seen = table.within("seen", |table| Some(read_seen(table)));
        if !table.has("seen") {
            table.reject("seen", r#"{ by = "auto", entries = 125000, keep = "24h" }"#);
        }
        let drops_reissues = table.choice("reissue", &[("forward", false), ("drop", true)]);
        let vip = table.parsed("vip", |text| text.parse().map_err(|_| String::new()), "an IP address");
        let prefetch = table.integer("prefetch", 1..=10_000);
        let masks = options::masks(table);
        let decoding = super::read_decoding(table);
        let unroutable = super::read_unroutable(table);
        let durability = options::sync(table, Durability::Power, Durability::Crash);
        let (inputs, rekey, (by, memory)) = (inputs?, rekey?, seen?);
        let publish_exchange = publish_exchange.unwrap_or_else(|| inputs.exchange.clone());
        if let Some(pattern) = loops(&inputs.topology.bindings, &publish_exchange.name, &rekey) {
            table.refuse(
                "rekey",
                &format!("the unit's own binding {pattern:?} matches what it publishes"),
            );
            return None;
        }
        Some(Config {
            inputs,
            rekey,
            publish_exchange,
            by,
            memory,
            drops_reissues: drops_reissues.unwrap_or(false),
            vip,
            prefetch: prefetch.unwrap_or(PREFETCH),
            masks: masks?,
            decoding,
            unroutable,
            durability,
        })
    }
}

const REKEY: &str = r#"{ from = "PREFIX", to = "PREFIX" } or { key = "KEY" }"#;

fn read_rekey(table: &mut Table) -> Option<Rekey> {
    let (from, to, key) = (table.string("from"), table.string("to"), table.string("key"));
    match (from, to, key) {
        (Some(from), Some(to), None) => Some(Rekey::Prefix { from, to }),
        (None, None, Some(key)) if key.len() <= topic::KEY_BYTES_MAX => Some(Rekey::Fixed(key)),
        _ => {
            let present = ["from", "to", "key"].into_iter().find(|key| table.has(key));
            table.reject(present.unwrap_or("from"), REKEY);
            None
        }
    }
}

fn read_seen(table: &mut Table) -> (By, Memory) {
    let names = [By::Auto, By::Identity, By::Name, By::Path].map(|by| (by.name(), by));
    let by = table.choice("by", &names).unwrap_or_default();
    let entries = table.integer("entries", 1..=100_000_000).unwrap_or(ENTRIES);
    let keep = options::positive_duration(table, "keep").unwrap_or(KEEP);
    (by, memory(entries, keep))
}

fn memory(entries: i64, keep: Duration) -> Memory {
    let entries = usize::try_from(entries).ok().and_then(NonZeroUsize::new);
    Memory {
        entries: entries.unwrap_or(NonZeroUsize::MIN),
        keep,
    }
}

/// The unit's own binding that matches what it publishes, if there is one.
fn loops<'a>(bindings: &'a [Binding], publish_exchange: &str, rekey: &Rekey) -> Option<&'a str> {
    let own = bindings.iter().filter(|binding| binding.exchange == publish_exchange);
    own.map(|binding| binding.key.as_str()).find(|pattern| match rekey {
        Rekey::Prefix { to, .. } => topic::matches_below(pattern, to),
        Rekey::Fixed(key) => topic::matches(pattern, key),
    })
}

/// Runs the unit until it is told to stop.
pub async fn run(config: Config, unit: Unit) -> anyhow::Result<()> {
    let (seen, keeper) = open_seen(&unit, config.memory, config.durability).await?;
    let publishing = Topology {
        exchanges: vec![config.publish_exchange.clone()],
        ..Topology::default()
    };
    let how = Options {
        unroutable: config.unroutable,
        transient_exchange: !config.publish_exchange.durable,
        ..Options::default()
    };
    let publisher = Publisher::start(&unit, config.inputs.broker.clone(), publishing, how);
    let gate = vip::gate(&unit, config.vip);
    let intake = Intake {
        broker: config.inputs.broker.clone(),
        topology: config.inputs.topology.clone(),
        queue: config.inputs.queue.clone(),
        prefetch: config.prefetch,
        channels: 1, // one channel keeps the order
        adopt_after: Duration::from_secs(600),
        give_up_after: Duration::from_secs(12 * 3600),
    };
    let dispatch = Dispatch {
        unit: unit.clone(),
        config,
        seen,
        keeper,
        in_flight: Mutex::default(),
        ignored: AtomicU64::new(0),
    };
    consume::run(&unit, intake, Arc::new(dispatch), Some(publisher), gate).await
}

async fn open_seen(
    unit: &Unit,
    memory: Memory,
    durability: Durability,
) -> Result<(Arc<Mutex<Seen>>, mpsc::Sender<Remember>), SpoolError> {
    const BATCH: usize = 512;
    let path = unit.places.unit_state(&unit.name).join("seen.log");
    let (seen, log) = off_thread(move || {
        let mut seen = Seen::new(memory);
        let (log, loaded) = SeenLog::open(&path, durability, &mut seen, Timestamp::now())?;
        tracing::info!(
            products = loaded.records,
            torn_bytes = loaded.torn_bytes,
            "the seen log has been read"
        );
        Ok((seen, log))
    })
    .await?;
    let seen = Arc::new(Mutex::new(seen));
    let (keeper, asked) = mpsc::channel(BATCH);
    let (shared, metrics) = (Arc::clone(&seen), Arc::clone(&unit.metrics));
    // Its own thread: it syncs. It ends when the last handle to it is gone.
    std::thread::Builder::new()
        .name("seen".into())
        .spawn(move || keep_log(log, &shared, &metrics, asked, BATCH))
        .map_err(|error| SpoolError::own("cannot start the seen log's thread", error))?;
    Ok((seen, keeper))
}

/// One forward to be remembered, and who waits for it.
struct Remember {
    key: SeenKey,
    announcement: Arc<Announcement>,
    time: Option<Timestamp>,
    safe: oneshot::Sender<Result<(), String>>,
}

/// Writes what has gathered as one batch, then answers everybody in it.
fn keep_log(
    mut log: SeenLog,
    seen: &Mutex<Seen>,
    metrics: &Metrics,
    mut asked: mpsc::Receiver<Remember>,
    batch_max: usize,
) {
    let mut gathered = Vec::with_capacity(batch_max);
    while asked.blocking_recv_many(&mut gathered, batch_max) > 0 {
        let mut batch = Batch::default();
        let now = Timestamp::now();
        let mut memory = seen.lock().unwrap_or_else(PoisonError::into_inner);
        let evicted_before = memory.evicted_early();
        for forward in &gathered {
            let source = forward.announcement.source();
            let facts = facts(&forward.announcement, &source, forward.time);
            memory.remember(forward.key.0, &facts, now, &mut batch);
        }
        metrics.add(Count::EvictedEarly, memory.evicted_early() - evicted_before);
        let snapshot = log.wants_rewrite(memory.len()).then(|| memory.snapshot(now));
        drop(memory);
        let written = match snapshot {
            Some(snapshot) => log.rewrite(&snapshot),
            None => log.append_batch(&batch),
        };
        let written = written.map_err(|error| chain(&error));
        for forward in gathered.drain(..) {
            // Whoever waited may have been abandoned.
            drop(forward.safe.send(written.clone()));
        }
    }
}

fn facts<'a>(announcement: &'a Announcement, source: &'a str, time: Option<Timestamp>) -> Facts<'a> {
    Facts {
        source,
        path: &announcement.path.0,
        size: announcement.size,
        time,
    }
}

/// A forward under way: `Some(true)` once it is safe, `Some(false)` when it was not done.
type Verdicts = HashMap<SeenKey, watch::Sender<Option<bool>>>;

struct Dispatch {
    unit: Unit,
    config: Config,
    seen: Arc<Mutex<Seen>>,
    keeper: mpsc::Sender<Remember>,
    in_flight: Mutex<Verdicts>,
    /// Duplicates since the last forward.
    ignored: AtomicU64,
}

/// What is remembered of an announcement on its way.
pub struct Note {
    announcement: Option<Arc<Announcement>>,
    key: Option<SeenKey>,
    time: Option<Timestamp>,
    /// This one holds the place in `in_flight`, not a copy that waits for it.
    leads: AtomicBool,
}

/// What to do with an announcement now.
enum Look {
    Forward,
    Wait(watch::Receiver<Option<bool>>),
    Ignore(Arc<str>),
}

impl Dispatch {
    /// Decides, and takes the place of whoever leads when it is the first.
    fn look(&self, note: &Note, announcement: &Announcement) -> Look {
        let Some(key) = note.key else {
            self.unit.metrics.count(Count::NoKey);
            return Look::Forward;
        };
        let mut in_flight = self.in_flight();
        if let Some(leader) = in_flight.get(&key) {
            return Look::Wait(leader.subscribe());
        }
        let source = announcement.source();
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        match seen.verdict(&key.0, &facts(announcement, &source, note.time), Timestamp::now()) {
            Verdict::Duplicate { of_source } => return Look::Ignore(of_source),
            Verdict::Reissue if self.config.drops_reissues => return Look::Ignore(source.into()),
            Verdict::Reissue | Verdict::First => {}
        }
        in_flight.insert(key, watch::Sender::new(None));
        note.leads.store(true, Ordering::Relaxed);
        Look::Forward
    }

    fn in_flight(&self) -> MutexGuard<'_, Verdicts> {
        self.in_flight.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forward(&self, envelope: &Envelope) -> Outcome {
        let key = match &self.config.rekey {
            Rekey::Fixed(key) => key.clone(),
            Rekey::Prefix { from, to } => match topic::rekey(&envelope.key, from, to) {
                Some(key) => key.text,
                None => {
                    let what = format!("the key {:?} does not begin with {from:?} (rekey.from)", envelope.key);
                    return Outcome::Fail(Cause::hopeless(what));
                }
            },
        };
        Outcome::Done(vec![Output {
            exchange: self.config.publish_exchange.name.clone(),
            envelope: Envelope {
                key,
                ..envelope.clone()
            },
        }])
    }

    fn ignore(&self, of_source: &str) -> Outcome {
        self.unit.metrics.count(Count::Ignored);
        self.ignored.fetch_add(1, Ordering::Relaxed);
        Outcome::Skip(format!("a duplicate of what {of_source} announced"))
    }

    /// Frees the place of a leader and tells the copies that wait for it.
    fn resolve(&self, note: &Note, is_safe: bool) {
        if note.leads.swap(false, Ordering::Relaxed)
            && let Some(leader) = note.key.and_then(|key| self.in_flight().remove(&key))
        {
            leader.send_replace(Some(is_safe));
        }
    }

    fn read(&self, input: &Input) -> Result<Announcement, Outcome> {
        match decode(&input.envelope, &self.config.decoding) {
            Ok(Decoded::Product(announcement)) if self.config.masks.accepts(&announcement.path.0) => Ok(announcement),
            Ok(Decoded::Product(_)) => {
                self.unit.metrics.count(Count::Skipped);
                Err(Outcome::Skip("rejected by a mask".into()))
            }
            Ok(Decoded::NotForFetching(reason)) => {
                self.unit.metrics.count(Count::Skipped);
                Err(Outcome::Skip(reason.to_string()))
            }
            Err(error) => Err(Outcome::Fail(Cause::rubbish(chain(&error)))),
        }
    }
}

#[async_trait]
impl Handle for Dispatch {
    type Note = Note;

    async fn begin(&self, input: &Arc<Input>) -> (Step, Note) {
        let announcement = match self.read(input) {
            Ok(announcement) => Arc::new(announcement),
            Err(outcome) => {
                let note = Note {
                    announcement: None,
                    key: None,
                    time: None,
                    leads: AtomicBool::new(false),
                };
                return (Step::Now(outcome), note);
            }
        };
        let note = Note {
            key: seen_key(&announcement, self.config.by),
            time: stamp::announced_at(&announcement, &input.envelope),
            announcement: Some(Arc::clone(&announcement)),
            leads: AtomicBool::new(false),
        };
        let step = match self.look(&note, &announcement) {
            Look::Forward => Step::Now(self.forward(&input.envelope)),
            Look::Ignore(of_source) => Step::Now(self.ignore(&of_source)),
            Look::Wait(verdict) => Step::Again(Box::pin(async move {
                let mut verdict = verdict;
                // A leader that vanished without a word was not done either: look again.
                drop(verdict.wait_for(Option::is_some).await);
            })),
        };
        (step, note)
    }

    async fn outputs_safe(&self, _: &Input, note: &Note) -> Result<(), Cause> {
        let Some(announcement) = &note.announcement else {
            return Ok(());
        };
        if let Some(key) = note.key {
            let (safe, written) = oneshot::channel();
            let forward = Remember {
                key,
                announcement: Arc::clone(announcement),
                time: note.time,
                safe,
            };
            // A thread that has ended drops the answer, which is told below.
            drop(self.keeper.send(forward).await);
            match written.await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Err(Cause::new(Fault::Own, error)),
                Err(_) => return Err(Cause::new(Fault::Own, "the seen log's thread has ended")),
            }
        }
        self.resolve(note, true);
        let took = note.time.map(since).unwrap_or_default();
        self.unit.metrics.count(Count::Forwarded);
        self.unit.metrics.latency(took);
        Product::Handled {
            verb: "Forwarded",
            name: &String::from_utf8_lossy(announcement.path.file_name()),
            bytes: announcement.size.unwrap_or(0),
            from: &announcement.source(),
            latency: took,
            ignored: Some(self.ignored.swap(0, Ordering::Relaxed)),
        }
        .log();
        Ok(())
    }

    fn undone(&self, _: &Input, note: &Note) {
        self.resolve(note, false);
    }
}
