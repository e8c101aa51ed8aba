//! Messages of a queue in a compressed file, so that the queue can go.
//!
//! `QUEUE.YYYYMMDDTHHMMSS.jsonl.gz` (UTC) is read by `zcat`: one line of JSON about the queue, then one for each message
//! with all its properties, the types of its headers, and its body in base64. In QUEUE every byte that is not a letter,
//! a digit or one of `._-` is `%XX`; a long name is cut and gets a digest. A file is never written over, and only its
//! owner may read it.
//!
//! Each batch is a gzip member of its own, on disk before the batch may leave the broker. After a crash the last member
//! may be torn: its messages were not taken from the queue yet. So a queue and its file together hold every message,
//! and a batch that was on disk when the crash came is in both. The last line, a member too, is the file's end, `{"end":N}`
//! with the number of messages: without it the file was cut, or px was killed.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::bufread::GzDecoder;
use flate2::write::GzEncoder;
use jiff::Timestamp;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

pub use super::line::Message;
use super::{SpoolError, line, make_directory};
use crate::message::identity;

#[cfg(test)]
mod tests;

/// Of this form; another one gets another number.
const FORM: u32 = 1;
/// Files of one queue and second.
const SAME_NAME_MAX: u32 = 1000;
/// The longest QUEUE in a file's name; the longest file name is 255 bytes.
const QUEUE_MAX: usize = 180;
/// One member, unpacked. A batch is far smaller; only a single message of a gigabyte is not.
const MEMBER_MAX: u64 = 2 << 30;
/// The end of a file, where its last line is.
const TAIL: u64 = 512;
/// How each begins: gzip, deflate, no flags, no time. Its first byte is no other one's.
const MEMBER: [u8; 8] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0];

/// Where the messages come from: the first line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Source {
    /// As `px.toml` names it.
    pub broker: String,
    pub vhost: String,
    pub queue: String,
    /// As the queue was declared with.
    pub arguments: serde_json::Map<String, serde_json::Value>,
}

#[derive(Serialize, Deserialize)]
struct Head {
    px_spill: u32,
    version: String,
    /// RFC 3339, UTC.
    time: String,
    #[serde(flatten)]
    source: Source,
}

/// The last line.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct End {
    end: u64,
}

/// A file in the making.
#[derive(Debug)]
pub struct SpillFile {
    file: File,
    path: PathBuf,
    /// Up to here it is whole and on disk.
    length: u64,
    messages: u64,
}

impl SpillFile {
    /// Makes the file and writes its first line. The directory is made where it is missing; all of it is on disk.
    pub fn create(directory: &Path, source: &Source, now: Timestamp) -> Result<SpillFile, SpoolError> {
        make_directory(directory)?;
        let (file, path) = create_new(directory, &source.queue, now)?;
        let mut made = SpillFile {
            file,
            path,
            length: 0,
            messages: 0,
        };
        let head = Head {
            px_spill: FORM,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            time: now.to_string(),
            source: source.clone(),
        };
        let written = line::json(&head).and_then(|head| made.add_member(&[head]));
        match written.and_then(|()| sync_directory(directory)) {
            Ok(()) => Ok(made),
            Err(error) => {
                made.discard();
                Err(error)
            }
        }
    }

    /// Adds messages. They are on disk when it returns; on an error none of them is in the file.
    pub fn append(&mut self, batch: &[Message]) -> Result<(), SpoolError> {
        let lines = batch.iter().map(line::of).collect::<Result<Vec<_>, _>>()?;
        self.add_member(&lines)?;
        self.messages += batch.len() as u64;
        Ok(())
    }

    /// Adds the last line.
    pub fn end(mut self) -> Result<(), SpoolError> {
        let end = line::json(&End { end: self.messages })?;
        self.add_member(&[end])
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Messages in it.
    pub fn messages(&self) -> u64 {
        self.messages
    }

    /// Removes a file that is of no use.
    pub fn discard(self) {
        // What stays is a file with at most its first line; whoever reads it finds no message.
        drop(std::fs::remove_file(&self.path));
    }

    fn add_member(&mut self, lines: &[String]) -> Result<(), SpoolError> {
        let packed = pack(lines).map_err(|error| self.failed(error))?;
        let written = self.file.write_all(&packed).and_then(|()| self.file.sync_all());
        if let Err(error) = written {
            let whole = self.file.set_len(self.length);
            // A torn end is tolerated by readers, and this file is not written on.
            drop(whole.and_then(|()| self.file.seek(SeekFrom::Start(self.length))));
            return Err(self.failed(error));
        }
        self.length += packed.len() as u64;
        Ok(())
    }

    fn failed(&self, error: std::io::Error) -> SpoolError {
        SpoolError::own(format!("cannot write {}", self.path.display()), error)
    }
}

fn pack(lines: &[String]) -> std::io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    for line in lines {
        encoder.write_all(line.as_bytes())?;
        encoder.write_all(b"\n")?;
    }
    encoder.finish()
}

/// A file that was not there, for its owner alone.
fn create_new(directory: &Path, queue: &str, now: Timestamp) -> Result<(File, PathBuf), SpoolError> {
    let stem = format!("{}.{}", safe_name(queue), now.strftime("%Y%m%dT%H%M%S"));
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let mut path = directory.join(format!("{stem}.jsonl.gz"));
    for number in 1..SAME_NAME_MAX {
        match rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR) {
            Ok(file) => return Ok((file.into(), path)),
            Err(Errno::EXIST) => path = directory.join(format!("{stem}.{number}.jsonl.gz")),
            Err(error) => return Err(SpoolError::own(format!("cannot make {}", path.display()), error)),
        }
    }
    let why = format!(
        "cannot make {}: {SAME_NAME_MAX} files of this name are there",
        path.display()
    );
    Err(SpoolError::unusable(why))
}

fn sync_directory(directory: &Path) -> Result<(), SpoolError> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    rustix::fs::open(directory, flags, Mode::empty())
        .and_then(rustix::fs::fsync)
        .map_err(|error| SpoolError::own(format!("cannot sync directory {}", directory.display()), error))
}

/// Another name for every queue, and one that no shell and no directory stumbles over: `a/b` is `a%2Fb`.
fn safe_name(queue: &str) -> String {
    let mut safe = String::new();
    for (at, byte) in queue.bytes().enumerate() {
        let is_plain = byte.is_ascii_alphanumeric() || byte == b'_' || (at > 0 && matches!(byte, b'.' | b'-'));
        match is_plain {
            true => safe.push(byte.into()),
            false => safe += &format!("%{byte:02X}"),
        }
    }
    if safe.len() > QUEUE_MAX {
        safe.truncate(QUEUE_MAX - 33);
        safe += &format!("~{}", identity::md5_hex(queue.as_bytes()));
    }
    safe
}

/// Files of this queue, other than `except`, that hold messages and have no end: they are of runs that were interrupted.
/// What cannot be read is none.
pub fn unfinished(directory: &Path, source: &Source, except: Option<&Path>) -> Vec<PathBuf> {
    let begin = format!("{}.", safe_name(&source.queue));
    let is_of_queue = |path: &PathBuf| {
        let name = path.file_name().map(|name| name.to_string_lossy());
        name.is_some_and(|name| name.starts_with(&begin) && name.ends_with(".jsonl.gz"))
    };
    let is_left = |path: &PathBuf| {
        let Ok(mut found) = SpillReader::open(path) else {
            return false;
        };
        let of = |source: &Source| (source.broker.clone(), source.vhost.clone(), source.queue.clone());
        of(found.source()) == of(source) && !has_end(path).unwrap_or(true) && !matches!(found.next(), Ok(None))
    };
    let Ok(entries) = std::fs::read_dir(directory) else {
        return Vec::new();
    };
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut left: Vec<PathBuf> = paths
        .filter(|path| Some(path.as_path()) != except && is_of_queue(path) && is_left(path))
        .collect();
    left.sort();
    left
}

/// Whether the last member is the end.
fn has_end(path: &Path) -> std::io::Result<bool> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
    let mut tail = Vec::new();
    file.take(TAIL).read_to_end(&mut tail)?;
    let mut members = tail.windows(MEMBER.len()).enumerate().rev();
    let last = members.find(|(_, bytes)| *bytes == MEMBER).map(|(at, _)| at);
    let mut text = String::new();
    let unpacked = last.map(|at| GzDecoder::new(&tail[at..]).take(TAIL).read_to_string(&mut text));
    Ok(matches!(unpacked, Some(Ok(_))) && serde_json::from_str::<End>(&text).is_ok())
}

/// A place where a file is damaged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// After so many messages that were read.
    pub after: u64,
    /// What is wrong.
    pub why: String,
}

/// A file read from its beginning, batch by batch. What is damaged is left out.
pub struct SpillReader {
    input: BufReader<File>,
    path: PathBuf,
    source: Source,
    time: String,
    batch: std::vec::IntoIter<String>,
    messages: u64,
    damage: Vec<Damage>,
    end: Option<u64>,
}

impl SpillReader {
    /// Opens a file and reads its first line.
    pub fn open(path: &Path) -> Result<SpillReader, SpoolError> {
        let no_spill = |why: &str| SpoolError::unusable(format!("{} was not spilled by px: {why}", path.display()));
        let file =
            File::open(path).map_err(|error| SpoolError::own(format!("cannot open {}", path.display()), error))?;
        let mut input = BufReader::new(file);
        let lines = match read_member(&mut input) {
            Ok(Some(lines)) => lines,
            Ok(None) => return Err(no_spill("it is empty")),
            Err(error) => return Err(no_spill(&error.to_string())),
        };
        let mut batch = lines.into_iter();
        let head = batch.next().unwrap_or_default();
        let head: Head = serde_json::from_str(&head).map_err(|error| no_spill(&error.to_string()))?;
        if head.px_spill != FORM {
            let version = &head.version;
            return Err(no_spill(&format!("its form is another one, that of px {version}")));
        }
        Ok(SpillReader {
            input,
            path: path.to_owned(),
            source: head.source,
            time: head.time,
            batch,
            messages: 0,
            damage: Vec::new(),
            end: None,
        })
    }

    /// Where the messages come from.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// When the file was made: RFC 3339, UTC.
    pub fn time(&self) -> &str {
        &self.time
    }

    /// The next message, in the order of the queue; `None` at the end. Batches that are damaged are left out.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<Message>, SpoolError> {
        loop {
            if let Some(line) = self.batch.next() {
                if let Ok(End { end }) = serde_json::from_str(&line) {
                    self.end = Some(end);
                    continue;
                }
                let message = line::read(&line).map_err(|error| {
                    let (path, number) = (self.path.display(), self.messages + 1);
                    SpoolError::own(format!("{path}: message {number} cannot be read"), error)
                })?;
                self.messages += 1;
                return Ok(Some(message));
            }
            match self.next_member() {
                Ok(Some(lines)) => self.batch = lines.into_iter(),
                Ok(None) => return Ok(None),
                Err(error) => {
                    let what = format!("cannot read {}", self.path.display());
                    return Err(SpoolError::own(what, error));
                }
            }
        }
    }

    /// The next one that is good.
    fn next_member(&mut self) -> std::io::Result<Option<Vec<String>>> {
        let mut at = self.input.stream_position()?;
        let mut is_known = false;
        loop {
            match read_member(&mut self.input) {
                Ok(lines) => return Ok(lines),
                Err(_) if is_known => {}
                Err(error) => {
                    is_known = true;
                    self.damage.push(Damage {
                        after: self.messages,
                        why: error.to_string(),
                    });
                }
            }
            at += 1;
            self.input.seek(SeekFrom::Start(at))?;
            match to_member(&mut self.input)? {
                true => at = self.input.stream_position()?,
                false => return Ok(None),
            }
        }
    }

    /// Where messages are missing, once [`SpillReader::next`] has ended.
    pub fn damage(&self) -> &[Damage] {
        &self.damage
    }

    /// How many messages were written, once [`SpillReader::next`] has ended; `None`: the file has no end.
    pub fn end(&self) -> Option<u64> {
        self.end
    }
}

/// Goes to the next place where a member begins, as px writes them; false: there is none.
fn to_member(input: &mut BufReader<File>) -> std::io::Result<bool> {
    use std::io::BufRead;
    let mut matched = 0;
    loop {
        let chunk = input.fill_buf()?;
        if chunk.is_empty() {
            return Ok(false);
        }
        let length = chunk.len();
        let mut found = None;
        for (index, byte) in chunk.iter().enumerate() {
            matched = match *byte {
                byte if byte == MEMBER[matched] => matched + 1,
                byte if byte == MEMBER[0] => 1,
                _ => 0,
            };
            if matched == MEMBER.len() {
                found = Some(index + 1);
                break;
            }
        }
        input.consume(found.unwrap_or(length));
        if found.is_some() {
            input.seek_relative(-(MEMBER.len() as i64))?;
            return Ok(true);
        }
    }
}

/// The lines of the next member, once all of it has proved good.
fn read_member(input: &mut BufReader<File>) -> std::io::Result<Option<Vec<String>>> {
    use std::io::BufRead;
    if input.fill_buf()?.is_empty() {
        return Ok(None);
    }
    let mut text = String::new();
    let mut decoder = GzDecoder::new(input).take(MEMBER_MAX);
    decoder.read_to_string(&mut text)?;
    if decoder.limit() == 0 {
        return Err(std::io::Error::other("a batch is larger than px makes them"));
    }
    Ok(Some(text.lines().map(str::to_owned).collect()))
}
