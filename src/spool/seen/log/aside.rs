//! A new log that is written beside the old one, slice by slice, and takes its place when it is whole.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::{Batch, MAGIC_LENGTH, SLICE, Seen, SeenLog, Version, each_record, refused};
use crate::spool::{Durability, SpoolError};

/// A new log is synced so often, or its end would take a second and hold up every other sync of the disk.
const SYNC_EVERY: u64 = 256 << 10;

/// A new log beside the old one, not yet in its place. Dropped, nothing of it is left.
#[derive(Debug)]
pub struct Aside {
    log: SeenLog,
    /// Where in the old log it goes on.
    next: u64,
    unsynced: u64,
    _file: Unfinished,
}

/// On a full disk others need what it has taken.
#[derive(Debug)]
struct Unfinished(PathBuf);

impl Drop for Unfinished {
    fn drop(&mut self) {
        // There is none once it has its place; and one that stays is overwritten by the next.
        drop(std::fs::remove_file(&self.0));
    }
}

impl Aside {
    /// The next records of the old log, so many bytes of them and a slice; none behind the last. Blocks.
    pub fn next(&mut self, old: &SeenLog, bytes: usize) -> Result<Batch, SpoolError> {
        self.try_next(old, bytes).map_err(|err| refused("read", &old.path, err))
    }

    fn try_next(&mut self, old: &SeenLog, bytes: usize) -> io::Result<Batch> {
        let left = usize::try_from(old.end - self.next).unwrap_or(usize::MAX);
        let mut batch = Batch {
            bytes: vec![0; left.min(SLICE.saturating_add(bytes))],
            records: 0,
        };
        old.file.read_exact_at(&mut batch.bytes, self.next)?;
        let whole = each_record(&batch.bytes, |_| batch.records += 1);
        if whole == 0 && left > 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a record is damaged"));
        }
        batch.bytes.truncate(whole);
        self.next += whole as u64;
        Ok(batch)
    }

    /// The old log has been read to its end, as it is now.
    pub fn is_complete(&self, old: &SeenLog) -> bool {
        self.next == old.end
    }

    /// Adds records. Blocks, not for long: what is written is synced as it grows.
    pub fn add(&mut self, records: &Batch) -> Result<(), SpoolError> {
        self.try_add(records)
            .map_err(|err| refused("rewrite", &self.log.path, err))
    }

    fn try_add(&mut self, records: &Batch) -> io::Result<()> {
        self.log.file.write_all(&records.bytes)?;
        self.log.records += records.records;
        self.log.end += records.bytes.len() as u64;
        self.unsynced += records.bytes.len() as u64;
        if self.log.durability == Durability::Power && self.unsynced >= SYNC_EVERY {
            self.log.file.sync_data()?;
            self.unsynced = 0;
        }
        Ok(())
    }
}

/// Nothing but a beginning.
pub(super) fn begin_aside(path: &Path, durability: Durability) -> io::Result<Aside> {
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o644)
        .open(aside_of(path))?;
    let unfinished = Unfinished(aside_of(path));
    file.write_all(Version::Two.magic())?;
    let log = SeenLog {
        file,
        path: path.to_owned(),
        durability,
        records: 0,
        anew: 0,
        end: MAGIC_LENGTH as u64,
        is_unsure: false,
        owes_directory: false,
    };
    Ok(Aside {
        log,
        next: MAGIC_LENGTH as u64,
        unsynced: 0,
        _file: unfinished,
    })
}

/// A new log of all that is remembered.
pub(super) fn all_aside(path: &Path, seen: &Seen, durability: Durability, now: Timestamp) -> io::Result<Aside> {
    let (mut aside, mut slice) = (begin_aside(path, durability)?, Batch::default());
    for record in seen.alive(now) {
        slice.add(&record);
        if slice.size() >= SLICE {
            aside.try_add(&std::mem::take(&mut slice))?;
        }
    }
    aside.try_add(&slice)?;
    Ok(aside)
}

/// It takes the old log's place.
pub(super) fn put_in_place(aside: Aside) -> io::Result<SeenLog> {
    let log = aside.log;
    let is_power = log.durability == Durability::Power;
    if is_power {
        log.file.sync_data()?;
    }
    std::fs::rename(aside_of(&log.path), &log.path)?;
    Ok(SeenLog {
        anew: log.records,
        owes_directory: is_power,
        ..log
    })
}

fn aside_of(path: &Path) -> PathBuf {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".new");
    aside.into()
}
