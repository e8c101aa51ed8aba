//! The watcher: announces files of directory trees the moment they are ready.
//!
//! | option | default | meaning |
//! | --- | --- | --- |
//! | `broker` | | a broker of `px.toml` |
//! | `exchange` | the broker's | where announcements go |
//! | `announce` | | formats, published in this order: `"exp"`, `"v00"`, `"v02"`, `"v03"`, or `{ format, key, digest }` |
//! | `identity` | `"md5"` | the digest in v02 and v03: `"md5"` or `"sha512"`; v00 has md5 |
//! | `masks` | accept all | on the path in the tree; first match wins |
//! | `source`, `cluster` | none | headers `source` and `from_cluster` of v02 and v03 |
//! | `filename` | none | header `filename` of exp, v00 and v02, for example `"msg_${FILE}:WXO:LOCAL:FILE:XML"` |
//! | `unroutable` | `"count"` | `"hold"`: wait while no queue is bound for what is announced |
//! | `log` | the site's | `{ keep = 30, level = "info" }`: days for which old logs are kept, and what is written |
//!
//! and of each `[[tree]]`:
//!
//! | option | default | meaning |
//! | --- | --- | --- |
//! | `path` | | the root of the tree; in `tx/` the database of products, `SPOOL/db` |
//! | `url` | | the URL of that root; it may not hold a password |
//! | `settle` | `"0s"` | how long a file must be left alone after its close |
//! | `catch_up` | `"since"` | `"all"`: the very first start announces what is there already |
//! | `rescan` | `"1h"` | how often the whole tree is read although nothing calls for it; `"0s"`: never |
//! | `poll` | none | `"5s"`: read the whole tree so often, in place of the kernel's notices; see below |
//! | `announce`, `masks` | the unit's | this tree's own |
//!
//! ```toml
//! broker = "bunny"
//! exchange = "xpublic"
//! announce = ["v02", "exp", "v00"]
//!
//! [[tree]]
//! path = "/data/cache/xml/public/site"
//! url  = "http://dd1.weather.gc.ca/citypage_weather/xml/"
//! ```
//!
//! In `tx/` the same unit has `type = "announce"`: it tells of products that were linked into the database.
//!
//! ```toml
//! type   = "announce"
//! broker = "bunny"
//! announce = [{ format = "v00", key = "v00.urp.input", digest = "name" }]
//!
//! [[tree]]
//! url = "http://urp-1.cmc.ec.gc.ca/db/"
//! ```
//!
//! A file is ready when it is closed after writing, renamed in or hard-linked in, in whatever directory, made whenever.
//! Names that end in `.tmp` or begin with a dot are skipped, directories too; symbolic links are not followed.
//!
//! Each version of a file (path, inode, modification time, size) that is still there when it can be announced is
//! announced at least once, and exactly once when nothing was interrupted. Its row in the unit's inventory is written
//! when the broker has confirmed it. At a start, when the kernel lost notices, when the broker returns and every
//! `rescan`, the tree is compared with the inventory, and what differs is announced, the oldest first. A file that is
//! met that way is announced when no writer holds it; where the kernel does not tell (files of another owner, network
//! file systems), when it stood still for `settle`, and two seconds at least.
//!
//! What was there before the very first start, by the clock of the tree's own file system, is recorded and not
//! announced. A missing root pauses the unit and empties nothing.
//!
//! Writes by other hosts on a network file system raise no notices here. With `poll` a tree takes no watches: it is read
//! as a whole every so often, and a file that is new or has changed is announced when its size and modification time
//! stood still from one reading until `poll` later, or `settle` where that is longer. Who writes on another host cannot
//! be seen: a writer that rests for longer than that, with half a file in place, has half of it announced, and the whole
//! as a further version. So let writers use a name that ends in `.tmp` or begins with a dot, and rename. A file of which
//! a version comes and goes between two readings is not announced. The file system must keep the inode numbers of its
//! files, as NFS does; `rescan` makes no sense here. Reading takes at most half of the time.
//!
//! Not promised: without `poll`, writes by other hosts are found by `rescan` only. A directory that is mounted twice
//! within a tree is watched under one of its names.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use jiff::Timestamp;
use tokio::task::JoinSet;

use super::Unit;
use super::publish::{Options, Publisher, Unroutable};
use super::sample::Sampler;
use super::tell;
use crate::config::{Broker, Site, Table, options};
use crate::message::{AnnounceAs, Exchange, Masks, Method, ProductPath, Topology, UnitHeaders};
use crate::spool::inventory::{Recorder, Version};
use crate::spool::off_thread;
use crate::spool::tree::{self, CatchUp, Digests};

mod follow;

const RESCAN: Duration = Duration::from_secs(3600);

/// A unit of `watch/`.
#[derive(Debug, Clone)]
pub struct Config {
    broker: Broker,
    exchange: Exchange,
    headers: UnitHeaders,
    identity: Method,
    unroutable: Unroutable,
    trees: Vec<Watched>,
}

/// One `[[tree]]`.
#[derive(Debug, Clone)]
struct Watched {
    how: tree::Options,
    /// What is announced as the base: `scheme://authority/`.
    base: String,
    /// What the path of each announcement begins with.
    prefix: Vec<u8>,
    announce: Vec<AnnounceAs>,
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
        Config::read_with(table, site, None)
    }

    /// The same for a unit of `tx/` with `type = "announce"`: a tree without `path` is the database of products.
    pub fn read_announcer(table: &mut Table, site: &Site) -> Option<Config> {
        Config::read_with(table, site, Some(&site.places.spool.join("db")))
    }

    fn read_with(table: &mut Table, site: &Site, usual_path: Option<&Path>) -> Option<Config> {
        let broker = options::broker(table, site);
        let exchange = match &broker {
            Some(broker) => options::exchange(table, broker),
            None => options::exchange_at(table, "exchange"),
        };
        let announce = options::announce(table);
        let masks = options::masks(table);
        let identity = tell::read_identity(table);
        let unroutable = super::read_unroutable(table);
        let headers = tell::read_headers(table);
        let trees = read_trees(table, (announce.as_deref(), masks.as_ref()), usual_path);
        masks?;
        Some(Config {
            broker: broker?,
            exchange: exchange?,
            headers,
            identity,
            unroutable,
            trees: trees?,
        })
    }
}

impl Watched {
    /// What is told of a version of the file at this path in the tree.
    fn ready<'a>(&'a self, path: &[u8], version: Version, digests: &'a Digests) -> tell::Ready<'a> {
        tell::Ready {
            base: &self.base,
            path: ProductPath([self.prefix.as_slice(), path].concat()),
            size: version.size,
            mtime: Timestamp::from_nanosecond(i128::from(version.mtime_ns)).ok(),
            digests,
        }
    }
}

/// What a tree takes from its unit where it says nothing itself.
type OfUnit<'a> = (Option<&'a [AnnounceAs]>, Option<&'a Masks>);

/// `None` where a tree is wrong, or a unit has none.
fn read_trees(table: &mut Table, of_unit: OfUnit<'_>, usual_path: Option<&Path>) -> Option<Vec<Watched>> {
    let mut trees: Vec<Watched> = Vec::new();
    let mut are_good = true;
    let tables = table.tables("tree");
    if tables.is_empty() {
        table.reject("tree", "[[tree]] with path and url, at least one");
    }
    let has_announce = table.has("announce");
    for mut table in tables {
        let tree = read_tree(&mut table, of_unit, usual_path);
        match tree {
            Some(tree) if trees.iter().any(|other| other.how.path == tree.how.path) => {
                table.refuse("path", "another tree of this unit has this path");
                are_good = false;
            }
            Some(tree) => trees.push(tree),
            None => are_good = false,
        }
        if !has_announce && !table.has("announce") {
            table.reject("announce", options::ANNOUNCE);
        }
        table.finish();
    }
    (are_good && !trees.is_empty()).then_some(trees)
}

fn read_tree(table: &mut Table, (announce, masks): OfUnit<'_>, usual_path: Option<&Path>) -> Option<Watched> {
    const PATH: &str = "an absolute path";
    let absolute = |text: &str| match Path::new(text) {
        path if path.is_absolute() => Ok(path.components().collect::<PathBuf>()),
        _ => Err(String::new()),
    };
    let path = table.parsed("path", absolute, PATH);
    let path = match usual_path {
        Some(usual) if !table.has("path") => Some(usual.to_owned()),
        _ => path,
    };
    let url = tell::read_url(table, "that directory");
    if !table.has("path") && usual_path.is_none() {
        table.reject("path", PATH);
    }
    let settle = table.duration("settle");
    let catch_up = table.choice("catch_up", &[("since", CatchUp::Since), ("all", CatchUp::All)]);
    let rescan = table.duration("rescan");
    let poll = options::positive_duration(table, "poll");
    if table.has("poll") && table.has("rescan") {
        table.refuse("rescan", "not with poll, which reads the whole tree more often");
    }
    let own_announce = options::announce(table);
    let own_masks = options::masks(table);
    let announce = if table.has("announce") {
        own_announce
    } else {
        announce.map(<[_]>::to_vec)
    };
    let masks = if table.has("masks") { own_masks } else { masks.cloned() };
    let (base, prefix) = url?;
    Some(Watched {
        how: tree::Options {
            path: path?,
            masks: masks?,
            settle: settle.unwrap_or_default(),
            catch_up: catch_up.unwrap_or_default(),
            rescan: rescan.unwrap_or(RESCAN),
            poll,
        },
        base,
        prefix,
        announce: announce?,
    })
}

/// What the trees of a unit share.
struct Shared {
    unit: Unit,
    publisher: Publisher,
    exchange: String,
    headers: UnitHeaders,
    identity: Method,
    inventory: PathBuf,
    recorder: Recorder,
    sampler: Sampler,
    /// Trees in which nothing can be found now, and why.
    troubles: Mutex<BTreeMap<PathBuf, String>>,
    /// Trees that are not watched yet.
    not_ready: AtomicUsize,
}

impl Shared {
    /// How it announces in these formats.
    fn how<'a>(&'a self, announce: &'a [AnnounceAs]) -> tell::How<'a> {
        tell::How {
            announce,
            identity: &self.identity,
            headers: &self.headers,
            filename: None,
        }
    }

    /// A tree cannot be watched for this reason, or can again.
    fn set_trouble(&self, tree: &Path, reason: Option<String>) {
        const PART: &str = "tree";
        let mut troubles = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        match reason {
            Some(reason) => troubles.insert(tree.to_owned(), reason),
            None => troubles.remove(tree),
        };
        if troubles.is_empty() {
            self.unit.state.resume(PART);
        } else {
            let reasons: Vec<&str> = troubles.values().map(String::as_str).collect();
            self.unit.state.pause(PART, reasons.join("; "));
        }
    }

    fn one_is_ready(&self) {
        if self.not_ready.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.unit.state.set_ready();
        }
    }
}

/// Runs the unit until it is told to stop.
pub async fn run(config: Config, unit: Unit) -> anyhow::Result<()> {
    let inventory = unit.places.unit_state(&unit.name).join("inventory.db");
    let file = inventory.clone();
    let recorder = off_thread(move || Recorder::open(&file)).await?;
    let topology = Topology {
        exchanges: vec![config.exchange.clone()],
        ..Topology::default()
    };
    let how = Options {
        unroutable: config.unroutable,
        transient_exchange: !config.exchange.durable,
        ..Options::default()
    };
    let mut fault = recorder.fault();
    let shared = Arc::new(Shared {
        publisher: Publisher::start(&unit, config.broker, topology, how),
        unit: unit.clone(),
        exchange: config.exchange.name,
        headers: config.headers,
        identity: config.identity,
        inventory,
        recorder,
        sampler: Sampler::default(),
        troubles: Mutex::default(),
        not_ready: AtomicUsize::new(config.trees.len()),
    });
    let mut trees = JoinSet::new();
    for tree in config.trees {
        trees.spawn(follow::follow(Arc::clone(&shared), tree));
    }
    let mut ended = Ok(());
    loop {
        tokio::select! {
            Ok(()) = fault.changed() => match fault.borrow_and_update().clone() {
                Some(reason) => unit.state.pause("inventory", reason),
                None => unit.state.resume("inventory"),
            },
            tree = trees.join_next() => match tree {
                None => break,
                Some(result) => {
                    // One tree's end is the end of all: a unit that does half of its work looks healthy.
                    let result = result.context("a tree's task broke").flatten();
                    if result.is_err() {
                        unit.stop.cancel();
                        ended = ended.and(result);
                    }
                }
            },
        }
    }
    if let Some(shared) = Arc::into_inner(shared) {
        let recorder = shared.recorder;
        off_thread(move || {
            recorder.close();
            Ok(())
        })
        .await?;
    }
    ended
}

#[cfg(test)]
mod tests;
