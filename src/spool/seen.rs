//! The duplicate memory: which products have been forwarded, from which source, and when.
//!
//! [`Seen`] is the memory and decides; [`SeenLog`] is its trace on disk, from which a restart learns it again. The
//! order is: forward, confirm, [`Seen::remember`], [`SeenLog::append_batch`], ack. A crash repeats at most what was in
//! flight; a torn end of the log is cut off.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::num::NonZeroUsize;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use lru::LruCache;
use md5::{Digest, Md5};

use super::db::Durability;
use super::{SpoolError, make_directory};

/// A product's key: a digest of what makes it the same product.
pub type Key = [u8; 16];

/// The log is rewritten when it holds more than twice the living entries, and never below this many records.
const COMPACT_MIN: usize = 10_000;
/// First bytes of the file; the digit is the version.
const MAGIC: &[u8; 8] = b"pxseen1\n";
/// Names of sources kept once each before the unused ones are let go.
const SOURCES_KEPT: usize = 1024;
/// Longest source name: a host and a port.
const SOURCE_MAX: usize = 300;
/// Key, time of the forward, path digest, size, announcement time.
const FIXED: usize = 16 + 8 + 8 + 8 + 8;

/// What an announcement says about itself, beside its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts<'a> {
    /// Authority (host:port) of the announced base URL.
    pub source: &'a str,
    /// The announced path.
    pub path: &'a [u8],
    /// Bytes, if announced.
    pub size: Option<u64>,
    /// Time, if announced.
    pub time: Option<Timestamp>,
}

/// What the memory says of an announcement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Not seen within `keep`.
    First,
    /// Forwarded already.
    Duplicate {
        /// The source that won.
        of_source: Arc<str>,
    },
    /// The winner's own source announces it anew, with another path, size or time.
    Reissue,
}

/// How much is remembered and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Products; the one forwarded longest ago makes room.
    pub entries: NonZeroUsize,
    /// Counted from the forward; a repeat does not extend it.
    pub keep: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Forwarded {
    source: Arc<str>,
    path: u64,
    size: Option<u64>,
    time_ms: Option<i64>,
    at_ms: i64,
}

/// The memory. Pure: it knows no clock and no disk.
#[derive(Debug)]
pub struct Seen {
    entries: LruCache<Key, Forwarded>,
    keep_ms: i64,
    evicted_early: u64,
    sources: HashSet<Arc<str>>,
}

/// Records for the log, in the order in which they were remembered.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Batch {
    bytes: Vec<u8>,
    records: usize,
}

impl Seen {
    /// An empty memory; it grows as it is used.
    pub fn new(memory: Memory) -> Seen {
        Seen {
            entries: LruCache::sparse(memory.entries),
            keep_ms: i64::try_from(memory.keep.as_millis()).unwrap_or(i64::MAX),
            evicted_early: 0,
            sources: HashSet::new(),
        }
    }

    /// Decides, and changes nothing. A size or time that one of the two does not carry is no difference.
    pub fn verdict(&self, key: &Key, facts: &Facts<'_>, now: Timestamp) -> Verdict {
        let Some(winner) = self.entries.peek(key).filter(|winner| self.is_alive(winner, now)) else {
            return Verdict::First;
        };
        let differs = |a: Option<i64>, b: Option<i64>| matches!((a, b), (Some(a), Some(b)) if a != b);
        let is_new = winner.path != path_digest(facts.path)
            || matches!((winner.size, facts.size), (Some(a), Some(b)) if a != b)
            || differs(winner.time_ms, facts.time.map(|time| time.as_millisecond()));
        if is_new && *winner.source == *cut_source(facts.source) {
            return Verdict::Reissue;
        }
        Verdict::Duplicate {
            of_source: winner.source.clone(),
        }
    }

    /// Notes a confirmed forward, and adds its record to `batch`.
    pub fn remember(&mut self, key: Key, facts: &Facts<'_>, now: Timestamp, batch: &mut Batch) {
        let forwarded = Forwarded {
            source: self.source(cut_source(facts.source)),
            path: path_digest(facts.path),
            size: facts.size,
            time_ms: facts.time.map(|time| time.as_millisecond()),
            at_ms: now.as_millisecond(),
        };
        batch.add(&key, &forwarded);
        self.put(key, forwarded, now);
    }

    /// How many made room before `keep` was over: `entries` is too small then.
    pub fn evicted_early(&self) -> u64 {
        self.evicted_early
    }

    /// How many are remembered, the expired ones that nothing has pushed out included.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Everything that is alive, oldest forward first, for [`SeenLog::rewrite`].
    pub fn snapshot(&self, now: Timestamp) -> Batch {
        let mut batch = Batch::default();
        for (key, forwarded) in self
            .entries
            .iter()
            .rev()
            .filter(|(_, forwarded)| self.is_alive(forwarded, now))
        {
            batch.add(key, forwarded);
        }
        batch
    }

    fn put(&mut self, key: Key, forwarded: Forwarded, now: Timestamp) {
        // The expired are at the end, for hits do not move entries.
        while self
            .entries
            .peek_lru()
            .is_some_and(|(_, oldest)| !self.is_alive(oldest, now))
        {
            self.entries.pop_lru();
        }
        let is_full = self.entries.len() == self.entries.cap().get();
        if is_full && !self.entries.contains(&key) {
            self.evicted_early += 1;
        }
        self.entries.put(key, forwarded);
    }

    fn is_alive(&self, forwarded: &Forwarded, now: Timestamp) -> bool {
        now.as_millisecond().saturating_sub(forwarded.at_ms) < self.keep_ms
    }

    /// One allocation per source, not per product.
    fn source(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.sources.get(name) {
            return known.clone();
        }
        if self.sources.len() >= SOURCES_KEPT {
            self.sources.retain(|source| Arc::strong_count(source) > 1);
        }
        let new: Arc<str> = name.into();
        if self.sources.len() < SOURCES_KEPT {
            self.sources.insert(new.clone());
        }
        new
    }
}

impl Batch {
    /// Nothing to write.
    pub fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// The records of another one behind its own.
    pub fn append(&mut self, other: &Batch) {
        self.bytes.extend_from_slice(&other.bytes);
        self.records += other.records;
    }

    /// Length of the payload, its check, the payload.
    fn add(&mut self, key: &Key, forwarded: &Forwarded) {
        let mut payload = Vec::with_capacity(FIXED + forwarded.source.len());
        payload.extend_from_slice(key);
        payload.extend_from_slice(&forwarded.at_ms.to_le_bytes());
        payload.extend_from_slice(&forwarded.path.to_le_bytes());
        payload.extend_from_slice(&forwarded.size.unwrap_or(u64::MAX).to_le_bytes());
        payload.extend_from_slice(&forwarded.time_ms.unwrap_or(i64::MIN).to_le_bytes());
        payload.extend_from_slice(forwarded.source.as_bytes());
        self.bytes.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        self.bytes.extend_from_slice(&check(&payload));
        self.bytes.extend_from_slice(&payload);
        self.records += 1;
    }
}

/// What a start found in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loaded {
    /// Whole records.
    pub records: usize,
    /// Bytes behind the last whole record, cut off.
    pub torn_bytes: u64,
}

/// The log on disk. One process writes it: the one that holds the unit's lock.
#[derive(Debug)]
pub struct SeenLog {
    file: File,
    path: PathBuf,
    durability: Durability,
    records: usize,
    /// Where the last whole record ends.
    end: u64,
    /// A write failed half-way; what follows `end` has to go before the next one.
    is_unsure: bool,
}

impl SeenLog {
    /// Opens or makes the log and reads it into `seen`. Blocks.
    pub fn open(
        path: &Path,
        durability: Durability,
        seen: &mut Seen,
        now: Timestamp,
    ) -> Result<(SeenLog, Loaded), SpoolError> {
        if let Some(parent) = path.parent() {
            make_directory(parent)?;
        }
        // Nothing in it: in `crash` mode a power cut leaves such a file.
        if std::fs::metadata(path).map_or(true, |found| found.len() == 0) {
            let log = create(path, &Batch::default(), durability).map_err(|err| refused("make", path, err))?;
            return Ok((
                log,
                Loaded {
                    records: 0,
                    torn_bytes: 0,
                },
            ));
        }
        let options = File::options().read(true).write(true).open(path);
        let mut file = options.map_err(|err| refused("open", path, err))?;
        let (loaded, end) = load(&file, seen, now).map_err(|err| refused("read", path, err))?;
        if loaded.torn_bytes > 0 {
            file.set_len(end).map_err(|err| refused("cut", path, err))?;
        }
        file.seek(SeekFrom::Start(end))
            .map_err(|err| refused("read", path, err))?;
        let log = SeenLog {
            file,
            path: path.to_owned(),
            durability,
            records: loaded.records,
            end,
            is_unsure: false,
        };
        Ok((log, loaded))
    }

    /// Writes a batch; on `Ok` it is safe in the unit's mode. After an error it may be written again. Blocks.
    pub fn append_batch(&mut self, batch: &Batch) -> Result<(), SpoolError> {
        self.append(batch, self.durability)
    }

    /// Writes a batch that survives `kill -9`, and a power cut once another batch is safe or the kernel has written it.
    pub fn append_soft(&mut self, batch: &Batch) -> Result<(), SpoolError> {
        self.append(batch, Durability::Crash)
    }

    fn append(&mut self, batch: &Batch, durability: Durability) -> Result<(), SpoolError> {
        if batch.is_empty() {
            return Ok(());
        }
        self.try_append(batch, durability)
            .map_err(|err| refused("write to", &self.path, err))?;
        self.records += batch.records;
        Ok(())
    }

    fn try_append(&mut self, batch: &Batch, durability: Durability) -> io::Result<()> {
        if self.is_unsure {
            self.file.set_len(self.end)?;
            self.file.seek(SeekFrom::Start(self.end))?;
        }
        self.is_unsure = true;
        self.file.write_all(&batch.bytes)?;
        if durability == Durability::Power {
            self.file.sync_data()?;
        }
        self.is_unsure = false;
        self.end += batch.bytes.len() as u64;
        Ok(())
    }

    /// More than half of the log is history: time to [`SeenLog::rewrite`] it.
    pub fn wants_rewrite(&self, alive: usize) -> bool {
        self.records > 2 * alive.max(COMPACT_MIN / 2)
    }

    /// Puts a new log with just `snapshot` in the place of the old one. Blocks.
    pub fn rewrite(&mut self, snapshot: &Batch) -> Result<(), SpoolError> {
        *self = create(&self.path, snapshot, self.durability).map_err(|err| refused("rewrite", &self.path, err))?;
        Ok(())
    }
}

fn refused(doing: &str, path: &Path, err: io::Error) -> SpoolError {
    SpoolError::own(format!("cannot {doing} the seen log {}", path.display()), err)
}

/// Written aside, synced, renamed: whatever happens, one whole log is there.
fn create(path: &Path, batch: &Batch, durability: Durability) -> io::Result<SeenLog> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".new");
    let mut file = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o644)
        .open(&aside)?;
    file.write_all(MAGIC)?;
    file.write_all(&batch.bytes)?;
    if durability == Durability::Power {
        file.sync_data()?;
    }
    std::fs::rename(&aside, path)?;
    if durability == Durability::Power
        && let Some(parent) = path.parent()
    {
        File::open(parent)?.sync_all()?;
    }
    Ok(SeenLog {
        file,
        path: path.to_owned(),
        durability,
        records: batch.records,
        end: (MAGIC.len() + batch.bytes.len()) as u64,
        is_unsure: false,
    })
}

/// Reads whole records up to the first that is not; answers where that is.
fn load(file: &File, seen: &mut Seen, now: Timestamp) -> io::Result<(Loaded, u64)> {
    let length = file.metadata()?.len();
    let mut reader = BufReader::with_capacity(64 << 10, file);
    let mut magic = [0; MAGIC.len()];
    let is_ours = reader.read_exact(&mut magic).is_ok() && magic == *MAGIC;
    if !is_ours {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "not a seen log of this px: move it away to start with an empty memory",
        ));
    }
    let (mut end, mut records) = (MAGIC.len() as u64, 0);
    while let Some(payload) = next_record(&mut reader)? {
        let Some((key, mut forwarded)) = decode(&payload) else {
            break;
        };
        forwarded.source = seen.source(&forwarded.source);
        if seen.is_alive(&forwarded, now) {
            seen.put(key, forwarded, now);
        }
        end += 8 + payload.len() as u64;
        records += 1;
    }
    seen.evicted_early = 0; // a smaller `entries` than before is no news from the broker
    Ok((
        Loaded {
            records,
            torn_bytes: length.saturating_sub(end),
        },
        end,
    ))
}

fn next_record(reader: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut head = [0; 8];
    if !fill(reader, &mut head)? {
        return Ok(None);
    }
    let [a, b, c, d, sum @ ..] = head;
    let length = u32::from_le_bytes([a, b, c, d]) as usize;
    if !(FIXED..=FIXED + SOURCE_MAX).contains(&length) {
        return Ok(None);
    }
    let mut payload = vec![0; length];
    Ok((fill(reader, &mut payload)? && check(&payload) == sum).then_some(payload))
}

/// False at the end of the file. A disk that fails is no torn record.
fn fill(reader: &mut impl Read, bytes: &mut [u8]) -> io::Result<bool> {
    match reader.read_exact(bytes) {
        Ok(()) => Ok(true),
        Err(err) if err.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(err) => Err(err),
    }
}

fn decode(payload: &[u8]) -> Option<(Key, Forwarded)> {
    let (key, rest) = payload.split_first_chunk::<16>()?;
    let (at, rest) = rest.split_first_chunk::<8>()?;
    let (path, rest) = rest.split_first_chunk::<8>()?;
    let (size, rest) = rest.split_first_chunk::<8>()?;
    let (time, source) = rest.split_first_chunk::<8>()?;
    let forwarded = Forwarded {
        source: std::str::from_utf8(source).ok()?.into(),
        path: u64::from_le_bytes(*path),
        size: Some(u64::from_le_bytes(*size)).filter(|size| *size != u64::MAX),
        time_ms: Some(i64::from_le_bytes(*time)).filter(|time| *time != i64::MIN),
        at_ms: i64::from_le_bytes(*at),
    };
    Some((*key, forwarded))
}

/// Tells a torn record from a whole one; four bytes of md5, which is linked in anyway.
fn check(payload: &[u8]) -> [u8; 4] {
    let digest = Md5::digest(payload);
    [digest[0], digest[1], digest[2], digest[3]]
}

/// The same in every run, unlike the standard library's hashes: it is stored.
fn path_digest(path: &[u8]) -> u64 {
    let digest = Md5::digest(path);
    u64::from_le_bytes([
        digest[0], digest[1], digest[2], digest[3], digest[4], digest[5], digest[6], digest[7],
    ])
}

fn cut_source(source: &str) -> &str {
    let mut end = source.len().min(SOURCE_MAX);
    while !source.is_char_boundary(end) {
        end -= 1;
    }
    &source[..end]
}

#[cfg(test)]
mod tests;
