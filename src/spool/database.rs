//! The database of products: `db/YYYYMMDD/F3/F1/F2/NAME`, a hard link per product, by the date (UTC) of its ingest.
//!
//! NAME is `what:F1:F2:F3:F4:F5:YYYYMMDDhhmmss`. Two products whose names differ in nothing are kept both: the stamp
//! of the later one goes on to the next second that is free, and its date with it.

use std::ffi::OsStr;
use std::fs::File;
use std::num::NonZeroUsize;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use jiff::{SignedDuration, Timestamp};
use lru::LruCache;
use rustix::fs::FileType;

use super::atomic::{Linked, Source, Tree};
use super::dirsync::Directory;
use super::{Durability, SpoolError};
use crate::message::{Fault, ingest_name, stamp};

/// `drwxrwxr-t`, as everything that makes these directories has it.
pub const DIRECTORY_MODE: u32 = 0o1775;
/// Names that one search looks at. A search that ends here has found nothing, and a repeat may be made.
const LOOKED_AT_MAX: usize = 200_000;
/// Seconds before and after a file's last change in which its entry is looked for by name, before any directory is
/// read.
const PROBED_S: i64 = 120;
/// Dates that one search looks at, the newest first.
const DATES_MAX: usize = 400;
/// Names that were taken, remembered so that a burst of one name does not try them all again.
const CROWDED_MAX: NonZeroUsize = NonZeroUsize::new(4096).unwrap();
/// Beyond this many products of one name within the same second something is wrong.
const STAMPS_MAX: i64 = 1_000_000;

/// The database of a site.
#[derive(Debug)]
pub struct Database {
    tree: Tree,
    /// By name without stamp: the last stamp given, where it ran ahead of the clock.
    crowded: Mutex<LruCache<Vec<u8>, Timestamp>>,
    looked_at_max: usize,
}

/// A product in the database.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its ingest name, with the stamp.
    pub name: Vec<u8>,
    /// The stamp.
    pub at: Timestamp,
    /// Its path.
    pub path: PathBuf,
    /// What must be synced before it is safe.
    pub to_sync: Vec<Directory>,
    /// The path it would have had, were that not taken.
    pub taken: Option<PathBuf>,
}

impl Database {
    /// The database below the spool; made where it is not there. Blocks.
    pub fn open(root: &Path, durability: Durability) -> Result<Database, SpoolError> {
        Ok(Database {
            tree: Tree::open(root, true, durability)?.with_directory_mode(DIRECTORY_MODE),
            crowded: Mutex::new(LruCache::new(CROWDED_MAX)),
            looked_at_max: LOOKED_AT_MAX,
        })
    }

    /// Links a file in under `stem` and the first free stamp from `at` on. Where it is there already, that is the
    /// entry. Blocks.
    pub fn add(&self, source: &Source, stem: &[u8], at: Timestamp) -> Result<Entry, SpoolError> {
        let from = self.crowd(stem, at);
        let linked = link_free(&self.tree, source, stem, from, |at, name| {
            let mut parts = vec![ingest_name::date(at).into_bytes()];
            parts.extend(directories(name)?);
            Ok(parts)
        })?;
        let taken = (linked.at != at).then(|| self.path(&place(stem, at)));
        if taken.is_some() {
            self.crowded().put(stem.to_vec(), linked.at);
        }
        Ok(Entry {
            path: self.path(&linked.path),
            name: linked.name,
            at: linked.at,
            to_sync: linked.to_sync,
            taken,
        })
    }

    /// The entry that is this very file, whatever its stamp. Blocks.
    pub fn find_same(&self, stem: &[u8], source: &Source) -> Result<Option<Entry>, SpoolError> {
        self.find(stem, source.name(), source.file(), |directory, name, _| {
            Ok(self.tree.id_at(directory, name)? == Some(source.id()))
        })
    }

    /// An entry of this name, with a whole name and a stamp that `may_be` it, and with these bytes. Blocks.
    pub fn find_equal(
        &self,
        stem: &[u8],
        file: &File,
        may_be: impl Fn(&[u8], Timestamp) -> bool,
    ) -> Result<Option<Entry>, SpoolError> {
        self.find(stem, b"", file, |directory, name, at| {
            match may_be(name, at).then(|| self.tree.open_file(directory, name)).flatten() {
                Some(other) => have_equal_bytes(file, &other),
                None => Ok(false),
            }
        })
    }

    /// Goes through the entries of this name, the newest date first. Before that it tries `hint`, a whole name, and the
    /// stamps around the time when `file` was linked or written last: a directory may hold more names than can be read.
    fn find(
        &self,
        stem: &[u8],
        hint: &[u8],
        file: &File,
        is_it: impl Fn(&Directory, &[u8], Timestamp) -> Result<bool, SpoolError>,
    ) -> Result<Option<Entry>, SpoolError> {
        let below = directories(&ingest_name::stamped(stem, Timestamp::UNIX_EPOCH))?;
        let open = |date: &[u8]| {
            let parts: Vec<&[u8]> = [date].into_iter().chain(below.iter().map(Vec::as_slice)).collect();
            self.tree.find_directory(&parts)
        };
        let mut opened: Option<(String, Option<Directory>)> = None;
        for (at, name) in likely(stem, hint, file) {
            let date = ingest_name::date(at);
            let directory = match &opened {
                Some((of, directory)) if *of == date => directory,
                _ => {
                    let directory = match open(date.as_bytes()) {
                        // Something else stands there, as a symbolic link: passed over, as below.
                        Err(error) if error.fault == Fault::Message => None,
                        opened => opened?,
                    };
                    &opened.insert((date.clone(), directory)).1
                }
            };
            if let Some(directory) = directory
                && is_it(directory, &name, at)?
            {
                return Ok(Some(self.entry(date.as_bytes(), at, &name, directory.clone())));
            }
        }
        let mut looked_at = 0;
        for date in self.dates()? {
            let Some(directory) = open(&date)? else { continue };
            let mut found = None;
            self.tree.each_name(&directory, |name, _| {
                looked_at += 1;
                if let Some(at) = stamp_of(stem, name)
                    && is_it(&directory, name, at)?
                {
                    found = Some((at, name.to_vec()));
                }
                Ok(found.is_none() && looked_at < self.looked_at_max)
            })?;
            if let Some((at, name)) = found {
                return Ok(Some(self.entry(&date, at, &name, directory)));
            }
            if looked_at >= self.looked_at_max {
                break;
            }
        }
        Ok(None)
    }

    /// Beside midnight another program may have put it under the date before its stamp's.
    fn entry(&self, date: &[u8], at: Timestamp, name: &[u8], directory: Directory) -> Entry {
        let below = ingest_name::db_directory(name).unwrap_or_default();
        Entry {
            name: name.to_vec(),
            at,
            path: self.path(&[date, &below, name].join(&b'/')),
            to_sync: vec![directory],
            taken: None,
        }
    }

    /// `YYYYMMDD`, the newest first.
    fn dates(&self) -> Result<Vec<Vec<u8>>, SpoolError> {
        let Some(root) = self.tree.find_directory(&[])? else {
            return Ok(Vec::new());
        };
        let mut dates = Vec::new();
        self.tree.each_name(&root, |name, kind| {
            let is_date = name.len() == 8 && name.iter().all(u8::is_ascii_digit);
            if is_date && matches!(kind, FileType::Directory | FileType::Unknown) {
                dates.push(name.to_vec());
            }
            Ok(true)
        })?;
        dates.sort_unstable_by(|a, b| b.cmp(a));
        dates.truncate(DATES_MAX);
        Ok(dates)
    }

    /// Where to begin: after what was taken a moment ago.
    fn crowd(&self, stem: &[u8], at: Timestamp) -> Timestamp {
        match self.crowded().get(stem) {
            Some(last) if *last >= at => later(*last, 1).unwrap_or(at),
            _ => at,
        }
    }

    fn crowded(&self) -> std::sync::MutexGuard<'_, LruCache<Vec<u8>, Timestamp>> {
        self.crowded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, below: &[u8]) -> PathBuf {
        self.tree.root().join(OsStr::from_bytes(below))
    }
}

/// A file under a free name.
pub(super) struct LinkedFree {
    pub name: Vec<u8>,
    pub at: Timestamp,
    pub path: Vec<u8>,
    pub to_sync: Vec<Directory>,
}

/// Links a file under `stem` and the first stamp from `at` on that no other file has, in the directory that
/// `directory` names for a stamp.
pub(super) fn link_free(
    tree: &Tree,
    source: &Source,
    stem: &[u8],
    at: Timestamp,
    directory: impl Fn(Timestamp, &[u8]) -> Result<Vec<Vec<u8>>, SpoolError>,
) -> Result<LinkedFree, SpoolError> {
    for ahead in 0..STAMPS_MAX {
        let Some(at) = later(at, ahead) else { break };
        let name = ingest_name::stamped(stem, at);
        let parts = directory(at, &name)?;
        let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        let (linked, to_sync) = tree.link(source, &parts, &name)?;
        if linked != Linked::Taken {
            let path = [parts.join(&b'/'), name.clone()].join(&b'/');
            return Ok(LinkedFree {
                name,
                at,
                path,
                to_sync,
            });
        }
    }
    Err(SpoolError::unusable(format!(
        "cannot link {} in {}: {STAMPS_MAX} files have its name already",
        String::from_utf8_lossy(stem),
        tree.root().display()
    )))
}

pub(super) fn later(at: Timestamp, seconds: i64) -> Option<Timestamp> {
    at.checked_add(SignedDuration::from_secs(seconds)).ok()
}

/// F3, F1 and F2 of a name; an empty field makes no directory.
pub(super) fn directories(name: &[u8]) -> Result<Vec<Vec<u8>>, SpoolError> {
    let directory = ingest_name::db_directory(name).ok_or_else(|| bad_name(name))?;
    let parts = directory.split(|byte| *byte == b'/').filter(|part| !part.is_empty());
    let parts: Vec<Vec<u8>> = parts.map(<[u8]>::to_vec).collect();
    let is_good = |part: &Vec<u8>| !matches!(part.as_slice(), b"." | b"..") && !part.contains(&0);
    if parts.iter().all(is_good) {
        Ok(parts)
    } else {
        Err(bad_name(name))
    }
}

/// In Sundew's words.
pub(super) fn bad_name(name: &[u8]) -> SpoolError {
    let shown = String::from_utf8_lossy(&name[..name.len().min(300)]);
    SpoolError::message(format!("Bad ingest name ({shown}) => No dbName"))
}

/// The path of a name without stamp, were it ingested then.
fn place(stem: &[u8], at: Timestamp) -> Vec<u8> {
    let name = ingest_name::stamped(stem, at);
    let below = ingest_name::db_directory(&name).unwrap_or_default();
    [ingest_name::date(at).into_bytes(), below, name].join(&b'/')
}

/// Names that the entry of a file has most likely: a hint, then those around its last change, the nearest first.
fn likely(stem: &[u8], hint: &[u8], file: &File) -> Vec<(Timestamp, Vec<u8>)> {
    let mut names: Vec<_> = stamp_of(stem, hint).map(|at| (at, hint.to_vec())).into_iter().collect();
    let changed = rustix::fs::fstat(file).ok();
    if let Some(changed) = changed.and_then(|stat| Timestamp::from_second(stat.st_ctime).ok()) {
        let seconds = (0..=PROBED_S).flat_map(|off| [-off, off]).skip(1);
        let stamps = seconds.filter_map(|off| later(changed, off));
        names.extend(stamps.map(|at| (at, ingest_name::stamped(stem, at))));
    }
    names
}

/// The stamp of a name that is `stem` and a stamp.
fn stamp_of(stem: &[u8], name: &[u8]) -> Option<Timestamp> {
    let digits = name.strip_prefix(stem)?.strip_prefix(b":")?;
    if digits.len() != 14 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    stamp::parse(std::str::from_utf8(digits).ok()?)
}

/// Whether two open files have the same bytes. Blocks.
pub(super) fn have_equal_bytes(one: &File, other: &File) -> Result<bool, SpoolError> {
    const CHUNK: usize = 64 << 10;
    let failed = |err| SpoolError::own("cannot compare a product with another one: check the disk", err);
    let length = one.metadata().map_err(failed)?.len();
    if other.metadata().map_err(failed)?.len() != length {
        return Ok(false);
    }
    let (mut here, mut there) = (vec![0; CHUNK], vec![0; CHUNK]);
    let mut at = 0;
    while at < length {
        let want = CHUNK.min(usize::try_from(length - at).unwrap_or(CHUNK));
        one.read_exact_at(&mut here[..want], at).map_err(failed)?;
        other.read_exact_at(&mut there[..want], at).map_err(failed)?;
        if here[..want] != there[..want] {
            return Ok(false);
        }
        at += want as u64;
    }
    Ok(true)
}

#[cfg(test)]
mod tests;
