//! The receiver of files: what other programs drop into its queue goes into the database and into the queues of its
//! clients.
//!
//! | option | default | meaning |
//! | --- | --- | --- |
//! | `type` | | `"single-file"` |
//! | `masks` | accept all | on the name of the file; first match wins, what matches none is accepted; **what is rejected is removed** |
//! | `batch` | 100 | files that are ingested together |
//! | `min_age` | `"0s"` | younger files wait |
//! | `order` | `"mtime"` | by modification time; `"priority"`: by the priority and stamp in the name |
//! | `validation` | `false` | `true`: **files are removed** whose names have no priority and no stamp |
//! | `duplicates` | none | `{ entries = 125000, keep = "8h" }`: **a file is removed** whose content came before |
//! | `extension` | `"MISSING:MISSING:MISSING:MISSING:"` | the fields that a name lacks; `-NAME` is the unit's name |
//! | `route` | `"masks"` | who gets a product: every client whose own masks accept it; `"table"`: those of the routing table |
//! | `routing_table` | `pxRouting.conf` | with `route = "table"`: the absolute path of the table |
//! | `feeds` | none | receivers that get each queued product too: `single-file` or Sundew's, not in a circle |
//! | `sync` | `"power"` | `"crash"`: linked, not synced |
//! | `fx_script` | none | a program that says of each file whether it is ingested, **removed**, or replaced |
//! | `lx_script` | none | a program that says which files of a list are ingested, and sees to the others |
//! | `pull_script` | none | a program that fetches files into the queue |
//! | `pull_every` | `"10m"` | how long after its end it is run again |
//! | `vip` | none | an address: a `pull_script` is told to sleep where it is not on this host |
//! | `script_timeout` | `"5m"` | how long each run of a program may take |
//! | `script_options` | none | a table of whatever the programs want to know |
//! | `log` | the site's | `{ keep = 5 }`: days for which old logs of this unit are kept |
//!
//! ```toml
//! type = "single-file"
//! extension = "-NAME:XSS:RADAR:3:GIF"
//! masks = [{ reject = '.*\.part$' }]
//! ```
//!
//! The queue of the unit `rx/NAME` is `rxq/NAME` in the spool, with all directories below. Names that begin with a dot
//! or end in `.tmp` are not seen, so write under such a name and rename, or link. A file that its writer still has open
//! is left alone until it is closed; where the kernel does not tell of writers, as with files of another user, until it
//! has stood still for 2 s. One that is not closed for ten minutes is named in a warning. Symbolic links are not
//! followed.
//!
//! A file is linked into the database and into the queues of its clients, all of that is synced, then it is removed
//! from `rxq`: a crash in between is finished at the next start, and nothing is linked twice. What becomes of its name,
//! and who its clients are, is in px-receiver(5). With `route = "table"` the groups of the mask that accepts the name
//! in the database are the routing key.
//!
//! Duplicates are known by the md5 of the content, once the first was ingested. The memory is lost when the unit ends
//! or is reloaded; nothing leaves it until it is full, then what is older than `keep`, then the older half.
//!
//! Programs are given as `["/path/to/program", "argument"]`, and are spoken to as docs/scripts.md says. Complete files
//! that the masks accept go to the `lx_script`, up to `batch` at once; then, but for duplicates, to the `fx_script`;
//! what that lets pass is ingested under the name it has then. A file that has no answer is asked about again after 5
//! s, 1 min and 10 min, and alone, then it stays as one that can never be ingested. While a program cannot be run, or
//! asks for patience, nothing is ingested, and the unit is paused and says so. What replaces a file lies in the queue
//! too, and is ingested before that is removed; after a crash the program may be asked about either. The `pull_script`
//! is run between two looks at the queue, so that nothing is ingested before its end. It is told to sleep where the
//! queue has a file `.sleep`, too.
//!
//! A file that can never be ingested, for its name would be too long, stays where it is, is told of as an error and
//! counted as failed. While there is one that px may not remove, the unit is paused and says so; the others go on.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use jiff::Timestamp;
use tracing::{error, info, warn};

use hooks::Hooks;
use pull::Pull;

use super::duplicates::{self, Digest, Memory};
use super::sample::Sampler;
use super::written::Written;
use super::{Unit, chain, ingest};
use crate::config::{Site, Table, options};
use crate::message::{Fault, Masks, Verdict};
use crate::metrics::Count;
use crate::spool::ingest::{Ingested, Ingester, Turn};
use crate::spool::inventory::Version;
use crate::spool::queue::{self, Look, Order, PASS_MAX, Queue, Queued, Removed, Rules, Shape, Whole};
use crate::spool::{SpoolError, off_thread};

mod hooks;
mod pull;

const BATCH: usize = 100;
/// Files that are linked at once.
const AT_ONCE: usize = 64;
/// A net below the kernel's notices, and how soon a file may be old enough.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// How long a file that a writer has is left alone, unless the kernel tells of something.
const WRITTEN_PAUSE: Duration = Duration::from_secs(1);
/// Before a file that this host could not handle is looked at again.
const TROUBLE_PAUSE: Duration = Duration::from_secs(10);
/// The part of the unit that says why it cannot go on.
const PART: &str = "ingest";

/// A unit of `rx/` with `type = "single-file"`.
#[derive(Debug, Clone)]
pub struct Config {
    masks: Masks,
    batch: usize,
    min_age: Duration,
    order: Order,
    rules: Rules,
    duplicates: Option<duplicates::Options>,
    ingest: ingest::Config,
    hooks: hooks::Config,
    pull: Option<pull::Config>,
}

impl Config {
    /// Reads the table of the unit `rx/NAME`; what is wrong is noted in it.
    pub fn read(table: &mut Table, site: &Site, name: &str) -> Option<Config> {
        let masks = options::masks(table);
        let batch = table.integer("batch", 1..=PASS_MAX as i64);
        let min_age = table.duration("min_age");
        let order = table.choice("order", &[("mtime", Order::Mtime), ("priority", Order::Priority)]);
        let validation = table.boolean("validation");
        let has_duplicates = table.has("duplicates");
        let duplicates = duplicates::Options::read(table);
        let ingest = ingest::Config::read(table, site, name, masks.clone());
        let (hooks, pull) = (hooks::Config::read(table), pull::Config::read(table));
        if has_duplicates && duplicates.is_none() {
            return None;
        }
        Some(Config {
            masks: masks?,
            batch: batch.unwrap_or(BATCH),
            min_age: min_age.unwrap_or_default(),
            order: order.unwrap_or(Order::Mtime),
            rules: Rules {
                validation: validation.unwrap_or(false),
                purge: Vec::new(),
            },
            duplicates,
            ingest: ingest?,
            hooks,
            pull,
        })
    }
}

/// Runs the unit until it is told to stop.
pub async fn run(config: Config, unit: Unit) -> anyhow::Result<()> {
    let ingester = ingest::prepare(&unit, &config.ingest).await?;
    let path = unit.places.spool.join("rxq").join(&unit.name.name);
    let how = queue::Options {
        shape: Shape::Flat,
        order: config.order,
        batch: config.batch,
        min_age: config.min_age,
    };
    let queue = Arc::new(off_thread(move || Queue::open(&path, how)).await?);
    unit.state.set_ready();
    let pull = config.pull.as_ref();
    let receiver = Receiver {
        hooks: Hooks::new(&config.hooks, &unit),
        pull: pull.map(|pull| Pull::new(pull, &config.hooks, &unit, queue.path())),
        memory: config.duplicates.map(Memory::new),
        unit: unit.clone(),
        config: Arc::new(config),
        queue: Arc::clone(&queue),
        ingester,
        written: Written::default(),
        sampler: Sampler::default(),
    };
    receiver.run(&queue.waker()).await;
    Ok(())
}

struct Receiver {
    unit: Unit,
    config: Arc<Config>,
    queue: Arc<Queue>,
    ingester: Ingester,
    memory: Option<Memory>,
    hooks: Hooks,
    pull: Option<Pull>,
    written: Written,
    sampler: Sampler,
}

/// What is done with a file, as far as its name tells.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Decision {
    Ingest,
    /// As Sundew's logs have it, before the path.
    Erase(&'static str, Count),
    /// The masks cannot tell.
    Leave(String),
}

/// A complete file.
struct Ready {
    file: Queued,
    whole: Whole,
    digest: Option<Digest>,
}

/// What the files of a batch are.
#[derive(Default)]
struct Looked {
    ready: Vec<Ready>,
    written: Vec<Queued>,
    unread: Vec<(Queued, rustix::io::Errno)>,
}

impl Receiver {
    async fn run(mut self, waker: &queue::Waker) {
        let stop = self.unit.stop.clone();
        while !stop.is_cancelled() {
            if let Some(pull) = &mut self.pull {
                pull.when_due(&self.unit).await;
            }
            if !self.hooks.is_resting() && self.pass().await {
                continue;
            }
            match stop.run_until_cancelled(waker.wait(LOOK_AGAIN)).await {
                Some(true) => self.queue.look_at_written(),
                Some(false) => {}
                None => return,
            }
        }
    }

    /// One look at the queue, and everything that it finds; whether anything has left it.
    async fn pass(&mut self) -> bool {
        let queue = Arc::clone(&self.queue);
        let mut pass = match off_thread(move || queue.pass(Timestamp::now())).await {
            Ok(pass) => pass,
            Err(error) => {
                self.unit.state.pause("queue", chain(&error));
                return false;
            }
        };
        self.unit.state.resume("queue");
        match pass.unread_text() {
            Some(why) => self.unit.state.pause("reading", why),
            None => self.unit.state.resume("reading"),
        }
        let mut has_left = false;
        while !pass.files.is_empty() && !self.unit.stop.is_cancelled() && !self.hooks.is_resting() {
            let count = pass.files.len().min(self.config.batch);
            has_left |= self.batch(pass.files.drain(..count).collect()).await;
        }
        has_left
    }

    /// Whether anything has left the queue.
    async fn batch(&mut self, files: Vec<Queued>) -> bool {
        let (config, now, stop) = (Arc::clone(&self.config), Timestamp::now(), self.unit.stop.clone());
        // Masks may take long, and there may be many files.
        let decided = off_thread(move || {
            let decided = files.into_iter().take_while(|_| !stop.is_cancelled()).map(|file| {
                let decision = decide(&config, file.name(), now);
                (file, decision)
            });
            Ok(decided.collect::<Vec<_>>())
        });
        let (mut wanted, mut erased) = (Vec::new(), Vec::new());
        let decided = match decided.await {
            Ok(decided) => decided,
            Err(error) => {
                self.unit.state.pause("queue", chain(&error));
                return false;
            }
        };
        for (file, decision) in decided {
            match decision {
                Decision::Ingest => wanted.push(file),
                Decision::Erase(why, count) => erased.push((file, why, count)),
                Decision::Leave(why) => self.leave(&file, None, &why),
            }
        }
        let mut has_left = self.erase(erased).await;
        let wanted = self.hooks.without_originals(&self.queue, wanted);
        let (queue, needs_digest) = (Arc::clone(&self.queue), self.memory.is_some());
        let looked = match off_thread(move || look(&queue, wanted, needs_digest)).await {
            Ok(looked) => looked,
            Err(error) => {
                self.unit.state.pause("queue", chain(&error));
                return has_left;
            }
        };
        self.hold(looked.written, looked.unread);
        let ready = self.lx(looked.ready).await;
        let (ready, suppressed) = self.first_of_each(ready);
        has_left |= self.suppress(suppressed).await;
        let (ready, has_dropped) = self.fx(ready).await;
        has_left |= has_dropped;
        if !ready.is_empty() {
            info!("{} files will be ingested", ready.len());
            has_left |= self.ingest(ready).await;
        }
        has_left
    }

    /// What is not complete, and what cannot be read.
    fn hold(&mut self, written: Vec<Queued>, unread: Vec<(Queued, rustix::io::Errno)>) {
        for file in written {
            let now = Instant::now();
            self.queue.hold_while_written(&file, now + WRITTEN_PAUSE);
            if self.written.is_overdue(file.path(), now) {
                let text = "a writer has not closed a file for ten minutes; it is not ingested";
                self.warn(text, &self.queue.shown(&file));
            }
        }
        for (file, cause) in unread {
            self.queue.hold(&file, Instant::now() + TROUBLE_PAUSE);
            self.warn(&format!("cannot read a file: {cause}"), &self.queue.shown(&file));
        }
    }

    /// Those whose content has not come before, and those whose content has. One whose content is in this very batch is
    /// neither: the next pass has it.
    fn first_of_each(&mut self, files: Vec<Ready>) -> (Vec<Ready>, Vec<Ready>) {
        let Some(memory) = &mut self.memory else {
            return (files, Vec::new());
        };
        let (mut first, mut suppressed) = (Vec::new(), Vec::new());
        let (mut in_hand, now) = (HashSet::new(), Instant::now());
        for file in files {
            match file.digest {
                Some(digest) if memory.knows(digest, now) => suppressed.push(file),
                Some(digest) if !in_hand.insert(digest) => {}
                _ => first.push(file),
            }
        }
        (first, suppressed)
    }

    /// In order, for files of one name; the others at once. Whether anything has left the queue.
    async fn ingest(&mut self, files: Vec<Ready>) -> bool {
        let works = files.into_iter().map(|ready| {
            let turn = self.ingester.turn(ready.file.name());
            link(self.ingester.clone(), ready, turn)
        });
        let works: Vec<_> = works.collect();
        let mut done = stream::iter(works).buffered(AT_ONCE);
        let (mut has_left, mut trouble, mut originals) = (false, None, Vec::new());
        while let Some((ready, result)) = done.next().await {
            match result {
                Ok(Some(ingested)) => {
                    has_left = true;
                    ingest::tell(&self.unit, &ingested);
                    self.unit.metrics.latency(ready.whole.age(Timestamp::now()));
                    if let (Some(memory), Some(digest)) = (&mut self.memory, ready.digest) {
                        memory.remember(digest, Instant::now());
                    }
                    originals.extend(self.hooks.ingested(&ready.file));
                }
                Ok(None) => {}
                Err(error) if error.fault == Fault::Message && self.hooks.original_of(&ready.file).is_some() => {
                    self.leave_replacement(&ready.file, &chain(&error))
                }
                Err(error) if error.fault == Fault::Message => {
                    self.leave(&ready.file, Some(ready.whole.version), &chain(&error))
                }
                Err(error) => {
                    self.queue.hold(&ready.file, Instant::now() + TROUBLE_PAUSE);
                    trouble = Some(chain(&error));
                }
            }
        }
        self.remove_originals(originals).await;
        match trouble {
            Some(reason) => self.unit.state.pause(PART, reason),
            None => self.unit.state.resume(PART),
        }
        has_left
    }

    async fn erase(&self, files: Vec<(Queued, &'static str, Count)>) -> bool {
        let removed = self
            .remove(files.iter().map(|(file, ..)| (file.clone(), None)).collect())
            .await;
        let mut has_left = false;
        for ((file, why, count), removed) in files.into_iter().zip(removed) {
            if removed == Removed::Gone {
                has_left = true;
                self.unit.metrics.count(count);
                info!("{why}: {} has been unlinked!", self.queue.shown(&file));
            }
        }
        has_left
    }

    async fn suppress(&self, files: Vec<Ready>) -> bool {
        let removed = files
            .iter()
            .map(|ready| (ready.file.clone(), Some(ready.whole.version)));
        let removed = self.remove(removed.collect()).await;
        let mut has_left = false;
        for (ready, removed) in files.into_iter().zip(removed) {
            if removed == Removed::Gone {
                has_left = true;
                self.unit.metrics.count(Count::Suppressed);
                info!(
                    "suppressed duplicate file {}",
                    String::from_utf8_lossy(ready.file.name())
                );
            }
        }
        has_left
    }

    /// The answers are in the order of the files; none where the queue itself cannot be opened.
    async fn remove(&self, files: Vec<(Queued, Option<Version>)>) -> Vec<Removed> {
        if files.is_empty() {
            return Vec::new();
        }
        let (queue, to_remove) = (Arc::clone(&self.queue), files.clone());
        let removed = off_thread(move || {
            let mut reader = queue.reader()?;
            let removed = to_remove.iter().map(|(file, version)| reader.remove(file, *version));
            Ok(removed.collect::<Vec<Removed>>())
        });
        let removed = match removed.await {
            Ok(removed) => removed,
            Err(error) => {
                self.unit.state.pause("queue", chain(&error));
                return Vec::new();
            }
        };
        for ((file, _), removed) in files.iter().zip(&removed) {
            if let Removed::Refused(cause) = removed {
                error!("Unable to unlink {}: {cause}", self.queue.shown(file));
                self.queue.hold(file, Instant::now() + TROUBLE_PAUSE);
            }
        }
        removed
    }

    /// It can never be ingested; another file of its name may.
    fn leave(&self, file: &Queued, version: Option<Version>, why: &str) {
        self.unit.metrics.count(Count::Failed);
        error!("{} can never be ingested, and stays: {why}", self.queue.shown(file));
        self.queue.hold_for_good(file, version);
    }

    fn warn(&self, text: &str, path: &str) {
        if let Some(unsaid) = self.sampler.take(text) {
            warn!(path, unsaid, "{text}");
        }
    }
}

fn decide(config: &Config, name: &[u8], now: Timestamp) -> Decision {
    if config.rules.unwanted(name, now).is_some() {
        return Decision::Erase("Filename incorrect", Count::Invalid);
    }
    match config.masks.first_match(name) {
        Ok(Some((_, Verdict::Reject))) => Decision::Erase("No pattern (RX) matching", Count::Rejected),
        Ok(_) => Decision::Ingest,
        Err(undecided) => Decision::Leave(undecided.to_string()),
    }
}

/// Which files are complete. Those that are gone are left out. Blocks.
fn look(queue: &Queue, files: Vec<Queued>, needs_digest: bool) -> Result<Looked, SpoolError> {
    let mut reader = queue.reader()?;
    let mut looked = Looked::default();
    for file in files {
        match reader.look(&file, needs_digest) {
            Look::Whole(whole) => {
                let digest = whole.md5.map(Digest::from);
                looked.ready.push(Ready { file, whole, digest });
            }
            Look::Written => looked.written.push(file),
            Look::Gone => {}
            Look::Unread(cause) => looked.unread.push((file, cause)),
        }
    }
    Ok(looked)
}

async fn link(ingester: Ingester, ready: Ready, mut turn: Turn) -> (Ready, Result<Option<Ingested>, SpoolError>) {
    turn.comes().await;
    let result = ingester.ingest(ready.file.path()).await;
    (ready, result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_judged_as_it_was_dropped_and_what_matches_nothing_is_accepted() {
        let config = |masks: &str, validation: bool| {
            let text = format!("type = \"single-file\"\nvalidation = {validation}\nmasks = {masks}\n");
            let directory = tempfile::tempdir().unwrap();
            let places = crate::config::Places::under(directory.path());
            let path = directory.path().join("drop.toml");
            std::fs::write(&path, text).unwrap();
            let unit: crate::config::UnitName = "rx/drop".parse().unwrap();
            let site = Site::of(&places, []);
            let (table, site) = crate::config::load_unit(&site, &unit, &path).unwrap();
            let (config, errors) = table.read_whole(|table| {
                table.string("type");
                Config::read(table, &site, "drop")
            });
            assert!(errors.is_empty(), "{errors:?}");
            config.unwrap()
        };
        let decide = |config: &Config, name: &[u8]| decide(config, name, Timestamp::now());
        let rejected = Decision::Erase("No pattern (RX) matching", Count::Rejected);
        let incorrect = Decision::Erase("Filename incorrect", Count::Invalid);
        let masks = config("[{ accept = 'a.*' }, { reject = '.*part' }]", false);
        for (name, wanted) in [
            ("a.part", Decision::Ingest),
            ("b.part", rejected),
            ("b.gif", Decision::Ingest),
        ] {
            assert_eq!(decide(&masks, name.as_bytes()), wanted, "{name}");
        }
        let strict = config("[]", true);
        assert_eq!(decide(&strict, b"a:b:c:d:3:f:20261121210337"), Decision::Ingest);
        assert_eq!(decide(&strict, b"plain"), incorrect);
    }
}
