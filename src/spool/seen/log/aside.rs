//! A new log that is written beside the old one, slice by slice, and takes its place when it is whole.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::{Batch, MAGIC_LENGTH, SeenLog, Version, refused};
use crate::spool::SpoolError;
use crate::spool::db::Durability;

/// A new log is synced so often, or its end would take a second and hold up every other sync of the disk.
const SYNC_EVERY: u64 = 256 << 10;

/// A new log beside the old one, not yet in its place.
#[derive(Debug)]
pub struct Aside {
    log: SeenLog,
    unsynced: u64,
}

impl Aside {
    /// Adds a slice. After an error nothing of the new log is left. Blocks, not for long: what is written is synced as it
    /// grows.
    pub fn with(mut self, slice: &Batch) -> Result<Aside, SpoolError> {
        match self.try_add(slice) {
            Ok(()) => Ok(self),
            Err(err) => {
                let error = refused("rewrite", &self.log.path, err);
                self.discard();
                Err(error)
            }
        }
    }

    /// Gives it up.
    pub fn discard(self) {
        // On a full disk others need what it has taken. One that stays is overwritten by the next.
        drop(std::fs::remove_file(aside_of(&self.log.path)));
    }

    pub(super) fn try_add(&mut self, slice: &Batch) -> io::Result<()> {
        self.log.file.write_all(&slice.bytes)?;
        self.log.records += slice.records;
        self.log.end += slice.bytes.len() as u64;
        self.unsynced += slice.bytes.len() as u64;
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
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o644)
        .open(aside_of(path))?;
    file.write_all(Version::Two.magic())?;
    let log = SeenLog {
        file,
        path: path.to_owned(),
        durability,
        records: 0,
        end: MAGIC_LENGTH as u64,
        is_unsure: false,
        owes_directory: false,
    };
    Ok(Aside { log, unsynced: 0 })
}

/// After an error nothing of the new log is left.
pub(super) fn put_in_place(aside: Aside) -> io::Result<SeenLog> {
    let log = &aside.log;
    let is_power = log.durability == Durability::Power;
    let synced = if is_power { log.file.sync_data() } else { Ok(()) };
    match synced.and_then(|()| std::fs::rename(aside_of(&log.path), &log.path)) {
        Ok(()) => Ok(SeenLog {
            owes_directory: is_power,
            ..aside.log
        }),
        Err(err) => {
            aside.discard();
            Err(err)
        }
    }
}

fn aside_of(path: &Path) -> PathBuf {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".new");
    aside.into()
}
