//! From a receiver's queue into the database and to its clients: all of it or, after a crash, the rest of it.
//!
//! ```text
//! rxq/NAME/FILE   written under a temporary name, synced, renamed
//!   -> db/YYYYMMDD/F3/F1/F2/INGESTNAME          a hard link, and so are all that follow
//!   -> txq/CLIENT/PRIORITY/YYYYMMDDHH/INGESTNAME, fxq/FILTER/INGESTNAME, rxq/FED/INGESTNAME
//!   -> the directories synced
//!   -> rxq/NAME/FILE unlinked, and only then the input is settled
//! ```
//!
//! A file in `rxq` with one name is fresh. One with more was under way when a process ended: its entry in the database
//! is the one with its inode, and only the links that are missing are made. So the links of one product are made once,
//! but for a client that had taken its link away already, which gets it again. A redelivered message whose name and
//! bytes are those of one of the last products in the database, with nothing left in `rxq`, was ingested before.

use std::collections::HashSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::future::join_all;
use jiff::Timestamp;
use rustix::fs::FileType;

use super::atomic::{Draft, Safety, Source, Tree};
use super::database::{self, DIRECTORY_MODE, Database, have_equal_bytes};
use super::dirsync::Directory;
use super::{Durability, SpoolError, off_thread};
use crate::config::{Client, Places, UnitDir, UnitName};
use crate::message::{Fault, Masks, ingest_name};

mod queues;
mod recent;
mod route;
mod shared;
mod turn;

use queues::Queues;
use recent::Recent;
use route::Router;
pub use route::Routing;
use shared::Shared;
pub use turn::Turn;

/// The longest file name on Linux.
const NAME_MAX: usize = 255;
/// A colon and 14 digits.
const STAMP_BYTES: usize = 15;
/// Files of an earlier run that are worked on at once.
const RECOVERED_AT_ONCE: usize = 64;
/// Names in `rxq` that are looked at for temporary files of a killed process.
const SWEPT_MAX: usize = 100_000;
/// Ages are compared in whole seconds.
const SWEPT_AGE: Duration = Duration::from_secs(2);

/// How a receiver ingests.
#[derive(Debug, Clone)]
pub struct Options {
    /// What fills the fields that a reception name lacks.
    pub extension: ingest_name::Extension,
    /// The receiver's masks, for the routing key. They filter nothing here.
    pub masks: Masks,
    /// Who gets a product.
    pub routing: Routing,
    /// Receivers that every queued product is linked to as well.
    pub feeds: Vec<String>,
    /// What a settled product survives.
    pub durability: Durability,
    /// Messages that may be unsettled at once.
    pub unsettled: usize,
}

/// A product that is ingested, for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ingested {
    /// Its path in the database.
    pub path: PathBuf,
    /// Its ingest name.
    pub name: Vec<u8>,
    /// Its size.
    pub bytes: u64,
    /// The clients it is queued for; `None` where products of its kind are kept only.
    pub clients: Option<Vec<String>>,
    /// The receivers it is fed to.
    pub feeds: Vec<String>,
    /// What was odd, in the order in which it was found.
    pub warnings: Vec<String>,
}

/// What became of a product that was received.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Taken {
    /// What was ingested on the way: this product, and what lay in `rxq` under its name.
    pub ingested: Vec<Ingested>,
    /// It stands here since an earlier delivery.
    pub known: Option<PathBuf>,
}

/// Ingests the products of one receiver. Clones share everything; any number of products at once.
#[derive(Debug, Clone)]
pub struct Ingester {
    inner: Arc<Inner>,
    safety: Safety,
}

#[derive(Debug)]
struct Inner {
    rxq: Tree,
    database: Database,
    queues: Queues,
    router: Router,
    recent: Recent,
    options: Options,
    shared: Arc<Shared>,
}

/// A file with all its links, before they are safe.
struct LinkedUp {
    source: Option<Source>,
    ingested: Ingested,
    to_sync: Vec<Directory>,
}

/// What came of putting a draft in place.
enum Step {
    Ours(LinkedUp),
    /// A file that was there under its name. The draft is what is still to be done.
    Theirs(LinkedUp, Option<Draft>),
    Known(PathBuf),
}

impl Ingester {
    /// For the receiver `rx/NAME`; directories that are missing are made. Blocks.
    pub fn open(
        places: &Places,
        receiver: &str,
        options: Options,
        clients: Vec<Client>,
    ) -> Result<Ingester, SpoolError> {
        let (spool, durability) = (&places.spool, options.durability);
        let rxq = spool.join("rxq");
        let state = places.unit_state(&UnitName {
            dir: UnitDir::Rx,
            name: receiver.to_owned(),
        });
        let ours = rxq.join(receiver);
        let shared = shared::of(&ours);
        Ok(Ingester {
            safety: Safety::new(durability)?,
            inner: Arc::new(Inner {
                rxq: Tree::open(&ours, true, durability)?,
                database: Database::open(&spool.join("db"), durability)?,
                queues: Queues {
                    txq: queue_tree(&spool.join("txq"), durability)?,
                    fxq: queue_tree(&spool.join("fxq"), durability)?,
                    rxq: queue_tree(&rxq, durability)?,
                },
                router: Router {
                    masks: options.masks.clone(),
                    routing: options.routing.clone(),
                    clients,
                },
                recent: Recent::open(&state, options.unsettled, Arc::clone(&shared.recent))?,
                options,
                shared,
            }),
        })
    }

    /// Whether a file that was received under this name can be ingested; a message fault where it cannot.
    pub fn check(&self, name: &[u8]) -> Result<(), SpoolError> {
        self.inner.check(name)
    }

    /// A place in the line of this name, taken when the product comes and held until it is ingested. Products of one
    /// name that are received at once would be in each other's way. All ingesters of a receiver have one line.
    pub fn turn(&self, name: &[u8]) -> Turn {
        self.inner.shared.turns.take(name)
    }

    /// Begins a file in `rxq` under the name it was received by. Blocks.
    pub fn draft(&self, name: &[u8]) -> Result<Draft, SpoolError> {
        self.inner.draft(name)
    }

    /// Ingests what `fill` writes when its turn has come. On `Ok` it is safe in the unit's mode.
    pub async fn receive(
        &self,
        turn: Turn,
        is_redelivered: bool,
        fill: impl FnOnce(&mut Draft) -> io::Result<()> + Send + 'static,
    ) -> Result<Taken, SpoolError> {
        let name = turn.name().to_vec();
        let make = move |inner: &Inner| {
            let mut draft = inner.draft(&name)?;
            fill(&mut draft).map_err(|error| inner.cannot_write(error))?;
            Ok(draft)
        };
        self.take_made(turn, make, is_redelivered).await
    }

    /// Ingests a complete draft of [`Ingester::draft`] when its turn has come. On `Ok` it is safe in the unit's mode.
    pub async fn take(&self, turn: Turn, draft: Draft, is_redelivered: bool) -> Result<Taken, SpoolError> {
        self.take_made(turn, move |_| Ok(draft), is_redelivered).await
    }

    /// Ingests a complete file that lies in `rxq`, at `path` below the receiver's directory. `None` where there is no
    /// such file.
    pub async fn ingest(&self, path: &[u8]) -> Result<Option<Ingested>, SpoolError> {
        let _in_flight = self.safety.enter();
        let (inner, path) = (Arc::clone(&self.inner), path.to_vec());
        let linked = off_thread(move || {
            inner.check(path.rsplit(|byte| *byte == b'/').next().unwrap_or_default())?;
            let Some(source) = inner.rxq.source(&path)? else {
                return Ok(None);
            };
            // Whoever wrote it may not have synced it.
            inner.sync_content(&source)?;
            inner.link_up(source).map(Some)
        });
        match linked.await? {
            Some(linked) => Ok(Some(self.finish(linked).await?)),
            None => Ok(None),
        }
    }

    /// Ingests what an earlier run has left in `rxq`, and removes what it had not written to its end. What is ingested
    /// is told to `tell`; what cannot be ever, and what somebody has put there that px may not take, comes back with
    /// its reason, and stays where it is.
    pub async fn recover(&self, tell: impl Fn(&Ingested)) -> Result<Vec<SpoolError>, SpoolError> {
        let inner = Arc::clone(&self.inner);
        // Nobody else writes here while this unit runs, so whatever is unlocked is abandoned, however young.
        off_thread(move || inner.rxq.sweep(SystemTime::now() + SWEPT_AGE, SWEPT_MAX)).await?;
        let (mut left, mut reasons) = (HashSet::new(), Vec::new());
        loop {
            let inner = Arc::clone(&self.inner);
            let (names, left_now) = off_thread(move || Ok((inner.list(&left)?, left))).await?;
            left = left_now;
            if names.is_empty() {
                return Ok(reasons);
            }
            let works = names.into_iter().map(async |name| (self.ingest(&name).await, name));
            let mut trouble = Ok(());
            for (result, name) in join_all(works).await {
                match result {
                    Ok(Some(ingested)) => tell(&ingested),
                    Ok(None) => {}
                    Err(error) if error.fault == Fault::Message || error.one_file => {
                        left.insert(name);
                        reasons.push(error);
                    }
                    Err(error) => trouble = Err(error),
                }
            }
            trouble?;
        }
    }

    async fn take_made(
        &self,
        mut turn: Turn,
        make: impl FnOnce(&Inner) -> Result<Draft, SpoolError> + Send + 'static,
        is_redelivered: bool,
    ) -> Result<Taken, SpoolError> {
        turn.comes().await;
        let _in_flight = self.safety.enter();
        let mut taken = Taken::default();
        let inner = Arc::clone(&self.inner);
        // The turn goes along: what nobody waits for any more runs on, and is not over before.
        let work = move || Ok((inner.place(make(&inner)?, is_redelivered)?, turn));
        let (mut step, mut turn) = off_thread(work).await?;
        loop {
            match step {
                Step::Ours(linked) | Step::Theirs(linked, None) => {
                    taken.ingested.push(self.finish(linked).await?);
                    return Ok(taken);
                }
                Step::Known(path) => {
                    taken.known = Some(path);
                    return Ok(taken);
                }
                Step::Theirs(linked, Some(draft)) => {
                    taken.ingested.push(self.finish(linked).await?);
                    let inner = Arc::clone(&self.inner);
                    (step, turn) = off_thread(move || Ok((inner.place(draft, is_redelivered)?, turn))).await?;
                }
            }
        }
    }

    /// The links safe, then the file in `rxq` away.
    async fn finish(&self, linked: LinkedUp) -> Result<Ingested, SpoolError> {
        if let Safety::Power(syncer) = &self.safety {
            syncer.sync(linked.to_sync).await?;
        }
        if let Some(source) = linked.source {
            off_thread(move || source.remove()).await?;
        }
        Ok(linked.ingested)
    }
}

impl Inner {
    fn check(&self, name: &[u8]) -> Result<(), SpoolError> {
        let shown = || String::from_utf8_lossy(&name[..name.len().min(300)]).into_owned();
        let refuse = |why: &str| Err(SpoolError::message(format!("cannot ingest {:?}: {why}", shown())));
        match name {
            b"" => return refuse("the name is empty"),
            name if name.contains(&b'/') => return refuse("the name has a slash in it"),
            name if name.contains(&0) => return refuse("the name has a NUL byte in it"),
            name if name.starts_with(b".") => return refuse("no sender reads files whose name begins with a dot"),
            name if name.len() > NAME_MAX => return refuse("the name is longer than 255 bytes"),
            _ => {}
        }
        let stem = self.options.extension.stem(name).name;
        if stem.len() + STAMP_BYTES > NAME_MAX {
            return refuse("with its extension and its stamp the name is longer than 255 bytes");
        }
        // The name it was received by: no stamp has been given yet.
        let placed = database::directories(&ingest_name::stamped(&stem, Timestamp::UNIX_EPOCH));
        placed.map(drop).map_err(|_| database::bad_name(name))
    }

    fn draft(&self, name: &[u8]) -> Result<Draft, SpoolError> {
        self.check(name)?;
        self.rxq.create(name)
    }

    fn cannot_write(&self, error: io::Error) -> SpoolError {
        SpoolError::own(format!("cannot write to {}", self.rxq.root().display()), error)
    }

    /// Puts a draft into `rxq` and makes all its links, unless that was done before.
    fn place(&self, mut draft: Draft, is_redelivered: bool) -> Result<Step, SpoolError> {
        let name = draft.name().to_vec();
        if is_redelivered {
            if let Some(there) = self.rxq.source(&name)? {
                let is_ours = have_equal_bytes(draft.file(), there.file())?;
                return Ok(Step::Theirs(self.link_up(there)?, (!is_ours).then_some(draft)));
            }
            let stem = self.options.extension.stem(&name).name;
            let may_be = |name: &[u8], at| self.recent.may_come_again(name, at);
            if let Some(entry) = self.database.find_equal(&stem, draft.file(), may_be)? {
                self.recent.add(&entry.name);
                return Ok(Step::Known(entry.path));
            }
        }
        loop {
            match draft.place_new(self.options.durability)? {
                Ok(source) => return Ok(Step::Ours(self.link_up(source)?)),
                Err(back) => draft = back,
            }
            // Left by work that broke off, or dropped by somebody: a product as well, and the older one.
            if let Some(there) = self.rxq.source(&name)? {
                return Ok(Step::Theirs(self.link_up(there)?, Some(draft)));
            }
        }
    }

    fn sync_content(&self, source: &Source) -> Result<(), SpoolError> {
        if self.options.durability == Durability::Power {
            let synced = source.file().sync_data();
            synced.map_err(|error| {
                SpoolError::own(format!("cannot sync a file in {}", self.rxq.root().display()), error)
            })?;
        }
        Ok(())
    }

    /// Makes all links of a file that are missing. The name is good, so whatever is in the way is this host's trouble.
    fn link_up(&self, source: Source) -> Result<LinkedUp, SpoolError> {
        // One that stays would be linked again whenever a client has taken its link away.
        let linked = source.check_removable().and_then(|()| self.link_all(&source));
        let (ingested, to_sync) = linked.map_err(|error| SpoolError {
            fault: Fault::Own,
            ..error
        })?;
        let source = match self.options.durability {
            Durability::Power => Some(source),
            Durability::Crash => {
                source.remove()?;
                None
            }
        };
        Ok(LinkedUp {
            source,
            ingested,
            to_sync,
        })
    }

    fn link_all(&self, source: &Source) -> Result<(Ingested, Vec<Directory>), SpoolError> {
        self.recent.mark()?;
        let now = Timestamp::now();
        let stem = self.options.extension.stem(source.name());
        let mut warnings = Vec::new();
        if stem.is_truncated {
            let shown = String::from_utf8_lossy(source.name());
            let kept: Vec<&str> = shown.split(':').take(6).collect();
            warnings.push(format!("File name {shown} truncated to {}", kept.join(":")));
        }
        let is_resumed = source.links() > 1;
        let found = if is_resumed {
            self.database.find_same(&stem.name, source)?
        } else {
            None
        };
        let entry = match found {
            Some(entry) => entry,
            None => self.database.add(source, &stem.name, now)?,
        };
        if let Some(taken) = &entry.taken {
            let taken = taken.display();
            warnings.push(format!("dbName {taken} found in db, attempt to modify suffix "));
        }
        self.recent.add(&entry.name);
        let mut routed = self.router.route(&entry.name);
        warnings.append(&mut routed.warnings);
        let mut to_sync = entry.to_sync;
        let queued = queues::Queued {
            source,
            stem: &stem.name,
            at: entry.at,
            now,
            is_resumed,
        };
        let mut clients = Vec::new();
        let feeds = if routed.is_kept_only {
            &[][..]
        } else {
            &self.options.feeds
        };
        if !routed.is_kept_only {
            for client in &routed.clients {
                to_sync.extend(self.queues.add(&queued, client, routed.priority)?);
                clients.push(client.name.clone());
            }
        }
        for feed in feeds {
            to_sync.extend(self.queues.feed(&queued, feed)?);
        }
        let ingested = Ingested {
            path: entry.path,
            name: entry.name,
            bytes: source.bytes(),
            clients: (!routed.is_kept_only).then_some(clients),
            feeds: feeds.to_vec(),
            warnings,
        };
        Ok((ingested, to_sync))
    }

    /// Some of the files that lie in `rxq`, without these.
    fn list(&self, without: &HashSet<Vec<u8>>) -> Result<Vec<Vec<u8>>, SpoolError> {
        let mut names = Vec::new();
        let Some(directory) = self.rxq.find_directory(&[])? else {
            return Ok(names);
        };
        self.rxq.each_name(&directory, |name, kind| {
            let is_file = matches!(kind, FileType::RegularFile | FileType::Unknown);
            if is_file && !name.starts_with(b".") && !without.contains(name) {
                names.push(name.to_vec());
            }
            Ok(names.len() < RECOVERED_AT_ONCE)
        })?;
        Ok(names)
    }
}

fn queue_tree(root: &std::path::Path, durability: Durability) -> Result<Tree, SpoolError> {
    Ok(Tree::open(root, true, durability)?.with_directory_mode(DIRECTORY_MODE))
}

#[cfg(test)]
mod tests;
