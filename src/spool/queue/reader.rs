//! Reading queued files, removing them, setting them aside.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use md5::{Digest, Md5};
use rustix::fs::{AtFlags, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::{PROBLEM, Queue, Queued};
use crate::spool::SpoolError;
use crate::spool::inventory::Version;
use crate::spool::tree::lease::{self, Writers};
use crate::spool::tree::root;

/// Where the kernel does not tell of writers, a file must have stood still for so long.
const STILL: Duration = Duration::from_secs(2);
/// The longest file name on Linux.
const NAME_MAX: usize = 255;
/// Of a file whose digest is wanted.
const BUFFER: usize = 256 << 10;
/// Names that are tried for a file that is set aside.
const ASIDE_MAX: usize = 100_000;

/// A whole file, and which version of it.
#[derive(Debug)]
#[allow(missing_docs)]
pub struct Content {
    pub bytes: Vec<u8>,
    pub version: Version,
}

/// What became of reading a file.
#[derive(Debug)]
pub enum Read {
    /// Here it is.
    Content(Content),
    /// A writer has it, or had it meanwhile.
    Written,
    /// It is there no more.
    Gone,
    /// The caller had no room for so many bytes: nothing was read.
    NoRoom(u64),
    /// It cannot be read.
    Unread(Errno),
}

/// A file that nobody writes.
#[derive(Debug, Clone, Copy)]
pub struct Whole {
    /// Which version of it.
    pub version: Version,
    /// The md5 of its content, where it was asked for.
    pub md5: Option<[u8; 16]>,
}

impl Whole {
    /// Since it was written; nothing when that lies ahead.
    pub fn age(&self, now: Timestamp) -> Duration {
        let age_ns = now.as_nanosecond() - i128::from(self.version.mtime_ns);
        Duration::from_nanos(u64::try_from(age_ns).unwrap_or(0))
    }
}

/// What a look at a file has found.
#[derive(Debug)]
pub enum Look {
    /// Here it is, all of it.
    Whole(Whole),
    /// A writer has it, or had it meanwhile.
    Written,
    /// It is there no more.
    Gone,
    /// It cannot be read.
    Unread(Errno),
}

/// What became of opening a file.
#[derive(Debug)]
pub enum Opening {
    /// Here it is, all of it.
    Whole(File, Whole),
    /// A writer has it, or had it meanwhile.
    Written,
    /// It is there no more.
    Gone,
    /// It cannot be read.
    Unread(Errno),
}

/// What became of removing a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removed {
    /// It is gone, by us or by somebody else.
    Gone,
    /// Another version has its name by now, and stays.
    Changed,
    /// It cannot be removed.
    Refused(Errno),
}

enum Opened {
    Whole(File, Version),
    Written,
    Gone,
}

/// An open queue.
pub struct Reader<'q> {
    queue: &'q Queue,
    root: OwnedFd,
    /// The directory that was used last: most files have it in common with the one before.
    directory: Option<(Vec<u8>, OwnedFd)>,
}

impl<'q> Reader<'q> {
    pub(super) fn new(queue: &'q Queue, root: OwnedFd) -> Self {
        Reader {
            queue,
            root,
            directory: None,
        }
    }

    /// Reads a file whole, if `has_room` for its size. What comes back stood under this very name, and is all of it.
    pub fn read(&mut self, file: &Queued, has_room: impl FnOnce(u64) -> bool) -> Read {
        match self.try_read(file, has_room) {
            Ok(read) => read,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Read::Gone,
            Err(Errno::AGAIN) => Read::Written, // its writer has a lease
            Err(cause) => Read::Unread(cause),
        }
    }

    /// Whether a file is complete, and which one it is. However large it is, no more than a buffer of it is in memory.
    pub fn look(&mut self, file: &Queued, needs_md5: bool) -> Look {
        match self.open_whole(file, needs_md5) {
            Opening::Whole(_, whole) => Look::Whole(whole),
            Opening::Written => Look::Written,
            Opening::Gone => Look::Gone,
            Opening::Unread(cause) => Look::Unread(cause),
        }
    }

    /// The same, and leaves the file open. Where it stands in it is nobody's promise.
    pub fn open_whole(&mut self, file: &Queued, needs_md5: bool) -> Opening {
        match self.try_open_whole(file, needs_md5) {
            Ok(opening) => opening,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Opening::Gone,
            Err(Errno::AGAIN) => Opening::Written,
            Err(cause) => Opening::Unread(cause),
        }
    }

    fn try_open_whole(&mut self, file: &Queued, needs_md5: bool) -> Result<Opening, Errno> {
        let (mut opened, version) = match self.open(file)? {
            Opened::Whole(opened, version) => (opened, version),
            Opened::Written => return Ok(Opening::Written),
            Opened::Gone => return Ok(Opening::Gone),
        };
        let mut md5 = None;
        if needs_md5 {
            let digest = md5_of(&mut opened);
            md5 = Some(digest.map_err(|err| Errno::from_io_error(&err).unwrap_or(Errno::IO))?);
            if Version::of(&rustix::fs::fstat(&opened)?) != version {
                return Ok(Opening::Written);
            }
        }
        Ok(Opening::Whole(opened, Whole { version, md5 }))
    }

    fn open(&mut self, file: &Queued) -> Result<Opened, Errno> {
        // Without NONBLOCK, opening would wait for somebody else's write lease.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(self.directory(file)?, file.name(), flags, Mode::empty())?;
        let stat = rustix::fs::fstat(&opened)?;
        if !root::is_regular(&stat) {
            return Ok(Opened::Gone);
        }
        let version = Version::of(&stat);
        Ok(match is_written(opened.as_fd(), version) {
            true => Opened::Written,
            false => Opened::Whole(File::from(opened), version),
        })
    }

    fn try_read(&mut self, file: &Queued, has_room: impl FnOnce(u64) -> bool) -> Result<Read, Errno> {
        let (mut opened, version) = match self.open(file)? {
            Opened::Whole(opened, version) => (opened, version),
            Opened::Written => return Ok(Read::Written),
            Opened::Gone => return Ok(Read::Gone),
        };
        if !has_room(version.size) {
            return Ok(Read::NoRoom(version.size));
        }
        let size = usize::try_from(version.size).map_err(|_| Errno::FBIG)?;
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(size).map_err(|_| Errno::NOMEM)?;
        // One byte more, to see whether it grew.
        let limit = version.size.saturating_add(1);
        let read = (&mut opened).take(limit).read_to_end(&mut bytes);
        read.map_err(|err| Errno::from_io_error(&err).unwrap_or(Errno::IO))?;
        let is_still = bytes.len() == size && Version::of(&rustix::fs::fstat(&opened)?) == version;
        Ok(match is_still {
            true => Read::Content(Content { bytes, version }),
            false => Read::Written,
        })
    }

    /// Removes a file from the queue: only this version of it, where one is named.
    pub fn remove(&mut self, file: &Queued, version: Option<Version>) -> Removed {
        let removed = (|| {
            let stat = self.status(file)?;
            if version.is_some_and(|version| Version::of(&stat) != version) {
                return Ok(Removed::Changed);
            }
            rustix::fs::unlinkat(self.directory(file)?, file.name(), AtFlags::empty())?;
            Ok(Removed::Gone)
        })();
        removed.unwrap_or_else(|cause| match cause {
            Errno::NOENT | Errno::NOTDIR | Errno::LOOP => Removed::Gone,
            cause => Removed::Refused(cause),
        })
    }

    /// Moves a file to the queue's directory `PROBLEM`, under its own name or one that nobody has; where it is then.
    /// `None` when it has gone by itself, or is another version by now.
    pub fn set_aside(&mut self, file: &Queued, version: Option<Version>) -> Result<Option<PathBuf>, SpoolError> {
        let directory = self.queue.path.join(PROBLEM);
        super::make_directory(&directory)?;
        match self.try_set_aside(file, version) {
            Ok(name) => Ok(name.map(|name| directory.join(std::ffi::OsStr::from_bytes(&name)))),
            // Its directory may be what is missing: only a file that is gone needs no place there.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) if self.is_gone(file) => Ok(None),
            Err(cause) => {
                let what = format!("cannot move {} to {}", self.queue.shown(file), directory.display());
                Err(SpoolError::own(what, cause))
            }
        }
    }

    fn try_set_aside(&mut self, file: &Queued, version: Option<Version>) -> Result<Option<Vec<u8>>, Errno> {
        let stat = self.status(file)?;
        if version.is_some_and(|version| Version::of(&stat) != version) {
            return Ok(None);
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let aside = root::open_beneath(self.root.as_fd(), PROBLEM.as_bytes(), flags, Mode::empty())?;
        // Linked, then unlinked: nothing that is there is ever replaced, and a kill in between loses nothing.
        for number in 0..ASIDE_MAX {
            let name = numbered(file.name(), number);
            let directory = self.directory(file)?;
            match rustix::fs::linkat(directory, file.name(), &aside, &*name, AtFlags::empty()) {
                Err(Errno::EXIST) if !is_inode(&aside, &name, &stat) => continue,
                Ok(()) | Err(Errno::EXIST) => {}
                Err(cause) => return Err(cause),
            }
            match rustix::fs::unlinkat(directory, file.name(), AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => return Ok(Some(name)),
                Err(cause) => return Err(cause),
            }
        }
        Err(Errno::EXIST)
    }

    fn is_gone(&mut self, file: &Queued) -> bool {
        matches!(self.status(file), Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP))
    }

    fn status(&mut self, file: &Queued) -> Result<Stat, Errno> {
        rustix::fs::statat(self.directory(file)?, file.name(), AtFlags::SYMLINK_NOFOLLOW)
    }

    /// The open directory of a file.
    fn directory(&mut self, file: &Queued) -> Result<BorrowedFd<'_>, Errno> {
        let path = file.directory();
        if self.directory.as_ref().is_none_or(|(last, _)| last != path) {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let opened = root::open_beneath(self.root.as_fd(), path, flags, Mode::empty())?;
            self.directory = Some((path.to_vec(), opened));
        }
        match &self.directory {
            Some((_, directory)) => Ok(directory.as_fd()),
            None => Err(Errno::NOENT),
        }
    }
}

fn md5_of(file: &mut File) -> std::io::Result<[u8; 16]> {
    let (mut md5, mut buffer) = (Md5::new(), vec![0; BUFFER]);
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(md5.finalize().into()),
            Ok(length) => md5.update(&buffer[..length]),
            Err(err) if err.kind() == std::io::ErrorKind::Interrupted => {}
            Err(err) => return Err(err),
        }
    }
}

/// Whether somebody writes to an open file, as far as the kernel tells; else by its age.
fn is_written(file: BorrowedFd<'_>, version: Version) -> bool {
    match lease::writers_of(file) {
        Writers::None => false,
        Writers::Some => true,
        Writers::Gone | Writers::Unknown => {
            let now = Timestamp::now().as_nanosecond();
            let age_ns = now - i128::from(version.mtime_ns);
            // A time to come tells nothing.
            (0..i128::try_from(STILL.as_nanos()).unwrap_or(i128::MAX)).contains(&age_ns)
        }
    }
}

fn is_inode(directory: &OwnedFd, name: &[u8], stat: &Stat) -> bool {
    let there = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW);
    there.is_ok_and(|there| (there.st_dev, there.st_ino) == (stat.st_dev, stat.st_ino))
}

/// `NAME`, then `NAME.1`, `NAME.2`, cut where that would be too long.
fn numbered(name: &[u8], number: usize) -> Vec<u8> {
    if number == 0 {
        return name.to_vec();
    }
    let tail = format!(".{number}");
    let kept = name.len().min(NAME_MAX - tail.len());
    [&name[..kept], tail.as_bytes()].concat()
}
