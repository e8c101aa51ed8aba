//! Announcing what has been delivered, once it is safe where it was delivered to.
//!
//! A unit that delivers may have a table `[announcements]`, lists of `[[url_files]]`, or both.
//!
//! ## `[announcements]`
//!
//! | option of `[announcements]` | default | meaning |
//! | --- | --- | --- |
//! | `broker` | | a broker of `px.toml` |
//! | `exchange` | the broker's | where announcements go |
//! | `announce` | | formats, in this order: `"exp"`, `"v00"`, `"v02"`, `"v03"`, or `{ format, key, digest }` |
//! | `url` | | the URL of the directory `root`; it may not hold a password |
//! | `root` | `""` | what directories at the destination begin with and URLs do not; `""`: nothing |
//! | `key` | `"directory"` | what follows the prefix in keys: the directory with dots; `"file"`: the file name too |
//! | `identity` | `"md5"` | the digest in v02 and v03: `"md5"` or `"sha512"`; v00 has md5 |
//! | `source`, `cluster` | none | headers `source` and `from_cluster` of v02 and v03 |
//! | `filename` | see below | header `filename` of exp, v00 and v02, for example `"msg_${FILE}:WXO:LOCAL:FILE:XML"` |
//! | `unroutable` | `"count"` | `"hold"`: wait while no queue is bound for what is announced |
//!
//! ```toml
//! [announcements]
//! broker   = "bunny"
//! exchange = { name = "cmc", type = "topic" }
//! announce = ["exp"]
//! url      = "http://dd1.weather.gc.ca/"
//! ```
//!
//! ## `[[url_files]]`
//!
//! | option of `[[url_files]]` | default | meaning |
//! | --- | --- | --- |
//! | `queue` | | the unit of `tx/` into whose queue a file with the URL of each product is put |
//! | `url` | | the URL of the directory `root`; it may not hold a password |
//! | `root` | `""` | as of `[announcements]` |
//!
//! ```toml
//! [[url_files]]
//! queue = "dd-notify-wxo-b1"
//! url   = "http://dd1.weather.gc.ca/"
//! ```
//!
//! ## What is announced
//!
//! A product that is delivered as `radar/24_HR_ACCUM/GIF/XSS/NAME` is announced there as
//! `http://dd1.weather.gc.ca/radar/24_HR_ACCUM/GIF/XSS/NAME`, under the key
//! `exp.dd.notify.radar.24_HR_ACCUM.GIF.XSS`. Its header `filename` is
//! `radar.24_HR_ACCUM.GIF.XSS++NAME:URP:XSS:RADAR:GIF:`, with fields 1 to 4 of the name under which it was ingested. The
//! file with its URL would have that name and the stamp, and be `txq/QUEUE/PRIORITY/HOUR/…`, of the product's own
//! priority. A `+` that would make a second `++` is written `%2B`.
//!
//! Announcements are committed to the unit's outbox, `state/tx_NAME/outbox.db`, and files with URLs are synced, before
//! the product leaves the queue of the unit. So while the broker is away delivery goes on, and after a crash nothing
//! that was delivered stays unannounced. They go out in order; what the broker refuses for good goes to the failed
//! store. What waits for an exchange that is not there any more goes to the one of today. `outbox` in `px status` is how many wait; a million or 1 GiB is the most, then the unit pauses.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use jiff::Timestamp;
use tokio::sync::{Mutex, Notify};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::warn;

use super::publish::Unroutable;
use super::sample::Sampler;
use super::tell::{self, How, Ready, Told};
use super::{Unit, publish};
use crate::config::{Broker, Site, Table, UnitDir, UnitName, is_there, options};
use crate::message::{
    AnnounceAs, ContentHasher, Envelope, Exchange, Keyed, Method, ProductPath, Topology, UnitHeaders, product_name,
    url_file,
};
use crate::spool::failed::{self, FailedStore};
use crate::spool::outbox::{self, Outbox};
use crate::spool::tree::{Digests, Needs};
use crate::spool::{SpoolError, off_thread};

mod posting;
mod urls;

use posting::Posting;
use urls::UrlWriter;

/// What a unit announces of what it has delivered, and how.
#[derive(Debug, Clone)]
pub struct Config {
    messages: Option<Messages>,
    urls: Vec<UrlFiles>,
}

/// `[announcements]`.
#[derive(Debug, Clone)]
struct Messages {
    broker: Broker,
    exchange: Exchange,
    announce: Vec<AnnounceAs>,
    headers: UnitHeaders,
    identity: Method,
    unroutable: Unroutable,
    place: Place,
}

/// One of `[[url_files]]`.
#[derive(Debug, Clone)]
struct UrlFiles {
    queue: String,
    place: Place,
}

/// Which URL a delivered product has.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    /// `scheme://authority/`.
    base: String,
    /// What every path below it begins with.
    prefix: Vec<u8>,
    /// The segments that directories begin with.
    root: Vec<Vec<u8>>,
}

impl Config {
    /// Reads `[announcements]` and `[[url_files]]` of the unit `tx/UNIT`; what is wrong is noted in the table, and gives
    /// `None`. `Some(None)` where there is neither.
    pub fn read(table: &mut Table, site: &Site, unit: &str) -> Option<Option<Config>> {
        let has_messages = table.has("announcements");
        let messages = table.within("announcements", |table| read_messages(table, site));
        table.know("announcements");
        let mut urls = Vec::new();
        let mut are_good = !has_messages || messages.is_some();
        for mut element in table.tables("url_files") {
            match read_url_files(&mut element, site, unit) {
                Some(files) => urls.push(files),
                None => are_good = false,
            }
            element.finish();
        }
        let is_empty = messages.is_none() && urls.is_empty();
        are_good.then(|| (!is_empty).then_some(Config { messages, urls }))
    }

    /// The broker that it announces on, where it announces itself.
    pub fn broker(&self) -> Option<&Broker> {
        self.messages.as_ref().map(|messages| &messages.broker)
    }

    /// The exchange that messages go to, if there are any.
    pub fn exchange(&self) -> Option<&Exchange> {
        self.messages.as_ref().map(|messages| &messages.exchange)
    }
}

fn read_messages(table: &mut Table, site: &Site) -> Option<Messages> {
    let broker = options::broker(table, site);
    let exchange = match &broker {
        Some(broker) => options::exchange(table, broker),
        None => options::exchange_at(table, "exchange"),
    };
    let announce = options::announce(table);
    if !table.has("announce") {
        table.reject("announce", options::ANNOUNCE);
    }
    let keyed = table.choice("key", &[("directory", Keyed::Directory), ("file", Keyed::File)]);
    let identity = tell::read_identity(table);
    let headers = tell::read_headers(table);
    let unroutable = super::read_unroutable(table);
    let place = Place::read(table);
    let mut announce = announce?;
    for how in &mut announce {
        how.keyed = keyed.unwrap_or(Keyed::Directory);
    }
    Some(Messages {
        broker: broker?,
        exchange: exchange?,
        announce,
        headers,
        identity,
        unroutable,
        place: place?,
    })
}

fn read_url_files(table: &mut Table, site: &Site, unit: &str) -> Option<UrlFiles> {
    let queue = table.required_string("queue");
    let place = Place::read(table);
    let queue = queue?;
    let why = match UnitName::new(UnitDir::Tx, &queue) {
        Ok(_) if queue == unit => "the unit would deliver what it announces, for ever".to_owned(),
        Ok(name) => {
            if !is_there(&site.places, &name) {
                table.warn(
                    "queue",
                    &format!("there is no unit {name}: nobody announces what waits there"),
                );
            }
            return Some(UrlFiles { queue, place: place? });
        }
        Err(why) => why,
    };
    table.refuse("queue", &why);
    None
}

impl Place {
    fn read(table: &mut Table) -> Option<Place> {
        const ROOT: &str = "a directory at the destination, without . and ..";
        let url = tell::read_url(table, "the directory `root`");
        let has_root = table.has("root");
        let segments = |text: &str| match segments(text.as_bytes()) {
            Some(segments) => Ok(segments.map(<[u8]>::to_vec).collect()),
            None => Err(String::new()),
        };
        let root: Option<Vec<Vec<u8>>> = table.parsed("root", segments, ROOT);
        let (base, prefix) = url?;
        Some(Place {
            base,
            prefix,
            root: if has_root { root? } else { Vec::new() },
        })
    }

    /// The path of the URL of a product.
    fn path(&self, directory: &[u8], name: &[u8]) -> Result<ProductPath, String> {
        let shown = || format!("{}", ProductPath(directory[..directory.len().min(512)].to_vec()));
        let mut parts = segments(directory).ok_or_else(|| format!("its directory {} leads upwards", shown()))?;
        for wanted in &self.root {
            if parts.next() != Some(wanted.as_slice()) {
                let root = ProductPath(self.root.join(&b'/'));
                return Err(format!(
                    "its directory {:?} is not below the root {:?}, whose URL is known",
                    shown(),
                    root.to_string()
                ));
            }
        }
        let mut path = self.prefix.clone();
        for part in parts {
            path.extend_from_slice(part);
            path.push(b'/');
        }
        path.extend_from_slice(name);
        Ok(ProductPath(path))
    }
}

/// The names that a directory is made of; `None` where it leads upwards.
fn segments(directory: &[u8]) -> Option<impl Iterator<Item = &[u8]>> {
    let parts = || directory.split(|byte| *byte == b'/');
    let is_good = !parts().any(|part| part == b"..");
    is_good.then(|| parts().filter(|part| !matches!(*part, b"" | b".")))
}

/// A product that is safe where it was delivered to.
#[derive(Debug)]
pub struct Delivered {
    /// The name that it has in the queue.
    pub ingest_name: Vec<u8>,
    /// The priority that it has there.
    pub priority: u8,
    /// Its directory at the destination.
    pub directory: Vec<u8>,
    /// Its name there.
    pub name: Vec<u8>,
    /// Its bytes, read where a digest is needed.
    pub content: File,
    /// So many were delivered.
    pub size: u64,
    /// When it was last changed.
    pub modified: Option<Timestamp>,
    /// Digests of its content that are known; others that are needed are made.
    pub digests: Digests,
}

/// Announces for one unit. Dropped, it goes on in the background with what it has until the unit is abandoned; see
/// [`Announcer::finish`].
pub struct Announcer {
    shared: Arc<Shared>,
    urls: Option<Arc<UrlWriter>>,
    outbox: Option<Outbox>,
    wake: Arc<Notify>,
    closing: CancellationToken,
    posting: Mutex<Option<JoinHandle<()>>>,
    _close: DropGuard,
}

struct Shared {
    unit: Unit,
    config: Config,
    sampler: Sampler,
    has_warned_of_cut_keys: AtomicBool,
}

impl Announcer {
    /// Opens the outbox and begins to publish what is in it.
    pub async fn start(unit: &Unit, config: Config) -> Result<Announcer, SpoolError> {
        let state = unit.places.unit_state(&unit.name);
        let closing = CancellationToken::new();
        let wake = Arc::new(Notify::new());
        let (mut outbox, mut posting) = (None, None);
        let file = state.join("outbox.db");
        match &config.messages {
            Some(messages) => {
                let failed = state.join("failed.db");
                let (opened, failed) = off_thread(move || {
                    let outbox = Outbox::open(&file, outbox::Limits::default())?;
                    Ok((outbox, FailedStore::open(&failed, failed::Limits::default())?))
                })
                .await?;
                let publishing = Posting {
                    unit: unit.clone(),
                    outbox: opened.clone(),
                    failed,
                    publisher: publisher(unit, messages),
                    wake: Arc::clone(&wake),
                    closing: closing.clone(),
                };
                posting = Some(tokio::spawn(publishing.run()));
                outbox = Some(opened);
            }
            None => off_thread(move || warn_of_rest(&file)).await?,
        }
        let urls = match config.urls.is_empty() {
            true => None,
            false => {
                let (places, files) = (unit.places.clone(), config.urls.clone());
                Some(Arc::new(off_thread(move || UrlWriter::open(&places, files)).await?))
            }
        };
        let shared = Shared {
            unit: unit.clone(),
            config,
            sampler: Sampler::default(),
            has_warned_of_cut_keys: AtomicBool::new(false),
        };
        Ok(Announcer {
            shared: Arc::new(shared),
            urls,
            outbox,
            wake,
            _close: closing.clone().drop_guard(),
            closing,
            posting: Mutex::new(posting),
        })
    }

    /// Whether a product that is delivered there can be announced, by everything that announces it and in one format at
    /// least; or why not. To be asked before it is delivered.
    pub fn check(&self, ingest_name: &[u8], directory: &[u8], name: &[u8]) -> Result<(), String> {
        let cannot = |why: String| format!("it cannot be announced: {why}");
        if let Some(messages) = &self.shared.config.messages {
            let path = messages.place.path(directory, name).map_err(cannot)?;
            let any = Digests {
                md5: Some("0".repeat(32)),
                sha512: Some("0".repeat(128)),
            };
            let told = messages.tell(path, ingest_name, 0, None, &any);
            if let (true, Some(problem)) = (told.envelopes.is_empty(), told.unnameable.first()) {
                return Err(cannot(problem.to_string()));
            }
        }
        for files in &self.shared.config.urls {
            let path = files.place.path(directory, name).map_err(cannot)?;
            if let Some(problem) = url_file::problem(&url_file::stem(&path, ingest_name)) {
                return Err(cannot(format!("the name of the file for {} {problem}", files.queue)));
            }
        }
        Ok(())
    }

    /// Announces products, in this order. On `Ok` that is promised for good: files with URLs are synced and in their
    /// queues, announcements are in the outbox. After an error some may be announced, and all may be added again.
    pub async fn add(&self, delivered: Arc<[Delivered]>) -> Result<(), SpoolError> {
        let (shared, urls) = (Arc::clone(&self.shared), self.urls.clone());
        let products = Arc::clone(&delivered);
        let messages = off_thread(move || shared.messages(&products)).await?;
        if let Some(urls) = urls {
            // Tried again for want of room, a file would be written each time, and be announced again.
            if let Some(outbox) = &self.outbox {
                outbox.find_room(&messages).await?;
            }
            let (in_flight, of_thread) = (urls.enter(), Arc::clone(&urls));
            let written = off_thread(move || of_thread.write(&delivered, Timestamp::now())).await?;
            urls.sync(written).await?;
            drop(in_flight);
        }
        if let Some(outbox) = &self.outbox
            && !messages.is_empty()
        {
            outbox.append(messages).await?;
            self.shared.unit.state.set_gauge(posting::GAUGE, outbox.len());
            self.wake.notify_one();
        }
        Ok(())
    }

    /// Publishes what is in the outbox, and ends when it is empty, when the broker is away from a unit that stops, or
    /// when the unit is abandoned. What is left goes out after the next start.
    pub async fn finish(&self) {
        self.closing.cancel();
        if let Some(posting) = self.posting.lock().await.take()
            && posting.await.is_err()
        {
            tracing::error!("the task that publishes announcements has died; they are in the outbox");
        }
    }
}

fn publisher(unit: &Unit, messages: &Messages) -> publish::Publisher {
    let topology = Topology {
        exchanges: vec![messages.exchange.clone()],
        ..Topology::default()
    };
    let how = publish::Options {
        unroutable: messages.unroutable,
        transient_exchange: !messages.exchange.durable,
        reroutes: true,
    };
    publish::Publisher::start(unit, messages.broker.clone(), topology, how)
}

/// The configuration may have had announcements once.
fn warn_of_rest(file: &Path) -> Result<(), SpoolError> {
    if file.exists() {
        let count = Outbox::open(file, outbox::Limits::default())?.len();
        if count > 0 {
            warn!(outbox = %file.display(), count, "announcements wait in the outbox of a unit without [announcements]");
        }
    }
    Ok(())
}

impl Messages {
    fn how<'a>(&'a self, filename: &'a [u8]) -> How<'a> {
        How {
            announce: &self.announce,
            identity: &self.identity,
            headers: &self.headers,
            filename: Some(filename),
        }
    }

    fn tell(
        &self,
        path: ProductPath,
        ingest_name: &[u8],
        size: u64,
        mtime: Option<Timestamp>,
        digests: &Digests,
    ) -> Told {
        let filename = url_file::stem(&path, ingest_name);
        let ready = Ready {
            base: &self.place.base,
            path,
            size,
            mtime,
            digests,
        };
        tell::tell(ready, self.how(&filename), Timestamp::now())
    }
}

impl Shared {
    /// What is to be published of these products. Blocks.
    fn messages(&self, delivered: &[Delivered]) -> Result<Vec<(String, Envelope)>, SpoolError> {
        let Some(messages) = &self.config.messages else {
            return Ok(Vec::new());
        };
        let needs = messages.how(b"").needs();
        let mut all = Vec::new();
        for product in delivered {
            let path = messages.place.path(&product.directory, &product.name);
            let path = path.map_err(SpoolError::message)?;
            let digests = product.digests(needs)?;
            let told = messages.tell(path, &product.ingest_name, product.size, product.modified, &digests);
            let mut has_warned = self.has_warned_of_cut_keys.load(Ordering::Relaxed);
            let unit = self.unit.name.to_string();
            told.warn(&self.unit.metrics, &self.sampler, Path::new(&unit), &mut has_warned);
            self.has_warned_of_cut_keys.store(has_warned, Ordering::Relaxed);
            let exchange = &messages.exchange.name;
            all.extend(told.envelopes.into_iter().map(|envelope| (exchange.clone(), envelope)));
        }
        Ok(all)
    }
}

impl Delivered {
    /// The stamp of its name, or the time that is nearest to it.
    fn stamp(&self, now: Timestamp) -> Timestamp {
        product_name::reception_time(&self.ingest_name)
            .or(self.modified)
            .unwrap_or(now)
    }

    /// The digests that are needed. Blocks.
    fn digests(&self, needs: Needs) -> Result<Digests, SpoolError> {
        let mut known = self.digests.clone();
        let hasher = |is_needed: bool, method: Method| is_needed.then(|| ContentHasher::new(&method)).flatten();
        let mut md5 = hasher(needs.md5 && known.md5.is_none(), Method::Md5);
        let mut sha512 = hasher(needs.sha512 && known.sha512.is_none(), Method::Sha512);
        if md5.is_none() && sha512.is_none() {
            return Ok(known);
        }
        let shown = String::from_utf8_lossy(&self.ingest_name);
        let mut buffer = vec![0; 64 << 10];
        let mut at = 0;
        while at < self.size {
            let want = usize::try_from(self.size - at).map_or(buffer.len(), |left| left.min(buffer.len()));
            let count = match self.content.read_at(&mut buffer[..want], at) {
                Ok(0) => {
                    let what = format!("cannot announce {shown}: it has become shorter since it was delivered");
                    return Err(SpoolError::message(what));
                }
                Ok(count) => count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    let what = format!("cannot read {shown} to announce it");
                    return Err(SpoolError::own(what, error).of_one_file());
                }
            };
            let both = md5.iter_mut().chain(sha512.iter_mut());
            both.for_each(|hasher| hasher.update(&buffer[..count]));
            at += count as u64;
        }
        known.md5 = known.md5.or(md5.map(ContentHasher::finish));
        known.sha512 = known.sha512.or(sha512.map(ContentHasher::finish));
        Ok(known)
    }
}

#[cfg(test)]
mod tests;
