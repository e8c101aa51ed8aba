//! The memory's trace on disk: records behind each other, each with its length and a check.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use md5::{Digest, Md5};

use super::{Key, SOURCE_MAX, Seen};
use crate::spool::Durability;
use crate::spool::{SpoolError, make_directory};

mod aside;

pub use aside::Aside;
use aside::{all_aside, begin_aside, put_in_place};

/// The log is rewritten when it holds more than twice the living entries, and never below this many records.
pub(super) const COMPACT_MIN: usize = 10_000;
/// Bytes of a log that are read or written at a time: some 2000 records, some milliseconds.
const SLICE: usize = 256 << 10;
/// Bytes that begin every log; the digit is the version.
const MAGIC_LENGTH: usize = 8;
/// Length and check before each record.
const HEAD: usize = 8;

/// How records are laid out. All of them are read, the newest is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    /// Without what tells of the content, and without how long the forward took.
    One,
    Two,
}

impl Version {
    fn magic(self) -> &'static [u8; MAGIC_LENGTH] {
        match self {
            Version::One => b"pxseen1\n",
            Version::Two => b"pxseen2\n",
        }
    }

    /// Bytes before the source's name: key, time of the forward, path digest, size, announcement time; then digest,
    /// its method, how long the forward took.
    fn fixed(self) -> usize {
        match self {
            Version::One => 16 + 8 + 8 + 8 + 8,
            Version::Two => Version::One.fixed() + 8 + 2 + 2,
        }
    }
}

/// One forward, as it stands in the log. The least or greatest numbers stand for what was not announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record<'a> {
    pub key: Key,
    pub at_ms: i64,
    pub path: u64,
    pub size: u64,
    pub time_ms: i64,
    pub digest: u64,
    pub method: u16,
    pub held_ms: u16,
    pub source: &'a str,
}

impl<'a> Record<'a> {
    /// Length of the payload, its check, the payload.
    fn write_to(&self, bytes: &mut Vec<u8>) {
        let head = bytes.len();
        bytes.extend_from_slice(&[0; HEAD]);
        bytes.extend_from_slice(&self.key);
        bytes.extend_from_slice(&self.at_ms.to_le_bytes());
        bytes.extend_from_slice(&self.path.to_le_bytes());
        bytes.extend_from_slice(&self.size.to_le_bytes());
        bytes.extend_from_slice(&self.time_ms.to_le_bytes());
        bytes.extend_from_slice(&self.digest.to_le_bytes());
        bytes.extend_from_slice(&self.method.to_le_bytes());
        bytes.extend_from_slice(&self.held_ms.to_le_bytes());
        bytes.extend_from_slice(self.source.as_bytes());
        let payload = head + HEAD;
        let (length, check) = ((bytes.len() - payload) as u32, check(&bytes[payload..]));
        bytes[head..head + 4].copy_from_slice(&length.to_le_bytes());
        bytes[head + 4..payload].copy_from_slice(&check);
    }

    fn read(payload: &'a [u8], version: Version) -> Option<Self> {
        let (key, rest) = payload.split_first_chunk::<16>()?;
        let (at, rest) = rest.split_first_chunk::<8>()?;
        let (path, rest) = rest.split_first_chunk::<8>()?;
        let (size, rest) = rest.split_first_chunk::<8>()?;
        let (time, rest) = rest.split_first_chunk::<8>()?;
        let (digest, method, held, source) = match version {
            Version::One => (&[0; 8], &[0; 2], &[0; 2], rest),
            Version::Two => {
                let (digest, rest) = rest.split_first_chunk::<8>()?;
                let (method, rest) = rest.split_first_chunk::<2>()?;
                let (held, source) = rest.split_first_chunk::<2>()?;
                (digest, method, held, source)
            }
        };
        Some(Record {
            key: *key,
            at_ms: i64::from_le_bytes(*at),
            path: u64::from_le_bytes(*path),
            size: u64::from_le_bytes(*size),
            time_ms: i64::from_le_bytes(*time),
            digest: u64::from_le_bytes(*digest),
            method: u16::from_le_bytes(*method),
            held_ms: u16::from_le_bytes(*held),
            source: std::str::from_utf8(source).ok()?,
        })
    }
}

/// Records for the log, in the order in which they were remembered.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Batch {
    bytes: Vec<u8>,
    records: usize,
}

impl Batch {
    /// Nothing to write.
    pub fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// Bytes in it.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// As a message to another process: a version, then the records.
    pub fn to_message(&self) -> Vec<u8> {
        [Version::Two.magic().as_slice(), &self.bytes].concat()
    }

    /// The records of another one behind its own.
    pub fn append(&mut self, other: &Batch) {
        self.bytes.extend_from_slice(&other.bytes);
        self.records += other.records;
    }

    pub(super) fn add(&mut self, record: &Record<'_>) {
        record.write_to(&mut self.bytes);
        self.records += 1;
    }

    pub(super) fn each(&self, each: impl FnMut(&Record<'_>)) {
        each_record(&self.bytes, each);
    }
}

/// What a start found in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Loaded {
    /// Whole records.
    pub records: usize,
    /// Bytes behind the last whole record, cut off.
    pub torn_bytes: u64,
    /// An older px wrote it; it has been written anew.
    pub is_older: bool,
}

/// The log on disk. One process writes it: the one that holds the unit's lock.
#[derive(Debug)]
pub struct SeenLog {
    file: File,
    path: PathBuf,
    durability: Durability,
    records: usize,
    /// So many when it was written anew.
    anew: usize,
    /// Where the last whole record ends.
    end: u64,
    /// A write failed half-way; what follows `end` has to go before the next one.
    is_unsure: bool,
    /// It has taken the old log's name, and nobody knows yet whether that is on disk.
    owes_directory: bool,
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
            let log = create(path, seen, durability, now).map_err(|err| refused("make", path, err))?;
            return Ok((log, Loaded::default()));
        }
        let options = File::options().read(true).write(true).open(path);
        let mut file = options.map_err(|err| refused("open", path, err))?;
        let (loaded, end) = load(&file, seen, now).map_err(|err| refused("read", path, err))?;
        if loaded.is_older {
            // The old one stays whole until the new one takes its name.
            let log = create(path, seen, durability, now).map_err(|err| refused("rewrite", path, err))?;
            return Ok((log, loaded));
        }
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
            anew: 0,
            end,
            is_unsure: false,
            owes_directory: false,
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
            self.settle_directory()?;
        }
        self.is_unsure = false;
        self.end += batch.bytes.len() as u64;
        Ok(())
    }

    /// More than half of the log is history: time to [`SeenLog::begin_aside`]. A record may stand in it twice, and then
    /// stays twice: what is as short as it gets is not written anew again and again.
    pub fn wants_rewrite(&self, alive: usize) -> bool {
        self.records > 2 * alive.max(self.anew).max(COMPACT_MIN / 2)
    }

    /// Begins a new log. What [`Aside::next`] reads of the old one, and is [`Seen::still_known`], is [`Aside::add`]ed until it
    /// [`Aside::is_complete`]; then [`SeenLog::replace`]. To write the memory at once would hold up who waits for it. Meanwhile the old
    /// log goes on, and is whole. Blocks.
    pub fn begin_aside(&self) -> Result<Aside, SpoolError> {
        begin_aside(&self.path, self.durability).map_err(|err| refused("rewrite", &self.path, err))
    }

    /// Makes the new log safe and puts it in the place of the old one, which goes on after an error. Blocks.
    pub fn replace(&mut self, aside: Aside) -> Result<(), SpoolError> {
        let path = self.path.clone();
        let new = put_in_place(aside).map_err(|err| refused("rewrite", &path, err))?;
        let old = std::mem::replace(self, new).file;
        // The kernel frees what was in it when it is closed, for up to 100 ms. Without a thread it is closed at once.
        drop(std::thread::Builder::new().spawn(move || drop(old)));
        // Until that is known, nothing that is appended is safe.
        self.settle_directory().map_err(|err| refused("rewrite", &path, err))
    }

    /// Writes all that is remembered in the place of a log that cannot be read any more. Blocks.
    pub fn renew(&mut self, seen: &Seen, now: Timestamp) -> Result<(), SpoolError> {
        let aside = all_aside(&self.path, seen, self.durability, now);
        self.replace(aside.map_err(|err| refused("rewrite", &self.path, err))?)
    }

    fn settle_directory(&mut self) -> io::Result<()> {
        if self.owes_directory
            && let Some(parent) = self.path.parent()
        {
            File::open(parent)?.sync_all()?;
        }
        self.owes_directory = false;
        Ok(())
    }
}

fn refused(doing: &str, path: &Path, err: io::Error) -> SpoolError {
    SpoolError::own(format!("cannot {doing} the seen log {}", path.display()), err)
}

/// Written aside, synced, renamed: whatever happens, one whole log is there.
fn create(path: &Path, seen: &Seen, durability: Durability, now: Timestamp) -> io::Result<SeenLog> {
    let mut log = put_in_place(all_aside(path, seen, durability, now)?)?;
    log.settle_directory()?;
    Ok(log)
}

/// Reads whole records up to the first that is not; answers where that is.
fn load(file: &File, seen: &mut Seen, now: Timestamp) -> io::Result<(Loaded, u64)> {
    let length = file.metadata()?.len();
    let mut reader = BufReader::with_capacity(64 << 10, file);
    let mut magic = [0; MAGIC_LENGTH];
    let is_whole = fill(&mut reader, &mut magic)?;
    let versions = [Version::One, Version::Two];
    let Some(version) = versions
        .into_iter()
        .find(|version| is_whole && magic == *version.magic())
    else {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "not a seen log of this px: move it away to start with an empty memory",
        ));
    };
    let (mut end, mut records, mut payload) = (MAGIC_LENGTH as u64, 0, Vec::new());
    while next_record(&mut reader, version, &mut payload)? {
        let Some(record) = Record::read(&payload, version) else {
            break;
        };
        seen.learn_again(&record, now);
        end += (HEAD + payload.len()) as u64;
        records += 1;
    }
    let loaded = Loaded {
        records,
        torn_bytes: length.saturating_sub(end),
        is_older: version != Version::Two,
    };
    Ok((loaded, end))
}

/// The whole records of a message, up to the first that is not. Nothing of another version.
pub(super) fn records_of(message: &[u8], each: impl FnMut(&Record<'_>)) {
    if let Some(records) = message.strip_prefix(Version::Two.magic()) {
        each_record(records, each);
    }
}

/// Records of the newest version, up to the first that is not whole; answers how many bytes they are.
fn each_record(bytes: &[u8], mut each: impl FnMut(&Record<'_>)) -> usize {
    let (mut rest, mut whole, mut payload) = (bytes, 0, Vec::new());
    while let Ok(true) = next_record(&mut rest, Version::Two, &mut payload)
        && let Some(record) = Record::read(&payload, Version::Two)
    {
        each(&record);
        whole = bytes.len() - rest.len();
    }
    whole
}

/// Whether there was one; it is in `payload` then.
fn next_record(reader: &mut impl Read, version: Version, payload: &mut Vec<u8>) -> io::Result<bool> {
    let mut head = [0; HEAD];
    if !fill(reader, &mut head)? {
        return Ok(false);
    }
    let [a, b, c, d, sum @ ..] = head;
    let length = u32::from_le_bytes([a, b, c, d]) as usize;
    if !(version.fixed()..=version.fixed() + SOURCE_MAX).contains(&length) {
        return Ok(false);
    }
    payload.resize(length, 0);
    Ok(fill(reader, payload)? && check(payload) == sum)
}

/// False at the end of the file. A disk that fails is no torn record.
fn fill(reader: &mut impl Read, bytes: &mut [u8]) -> io::Result<bool> {
    match reader.read_exact(bytes) {
        Ok(()) => Ok(true),
        Err(err) if err.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(err) => Err(err),
    }
}

/// Tells a torn record from a whole one; four bytes of md5, which is linked in anyway.
fn check(payload: &[u8]) -> [u8; 4] {
    let digest = Md5::digest(payload);
    [digest[0], digest[1], digest[2], digest[3]]
}
