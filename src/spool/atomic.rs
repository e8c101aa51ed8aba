//! Files that appear whole or not at all, inside one tree and nowhere else.
//!
//! A product is written under a temporary name in its own directory and renamed when it is complete. Every path is
//! resolved by the kernel beneath the root and through no symbolic link, so a name that came in a message cannot leave
//! the tree. In `power` mode the file is synced before the rename and its directory after it.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use jiff::Timestamp;
use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags, RenameFlags, ResolveFlags, Timespec, Timestamps};
use rustix::io::Errno;

use super::Durability;
use super::dirsync::{DirSyncer, Directory, InFlight};
use super::{SpoolError, make_directory, off_thread};
use crate::message::Fault;

mod link;
mod temporary;

pub use link::{FileId, Linked, Source};
pub(super) use temporary::is_temporary;
use temporary::{read_only, temporary_file};

/// The longest file name on Linux.
const NAME_MAX: usize = 255;
/// A directory younger than this may have been made by another process that has not synced its parent yet.
const YOUNG_S: i64 = 60;
/// Another program may hold a directory's lock for this long.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
const BENEATH: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS);
pub(super) const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// A destination tree. The root is opened anew for every file, so that a root that was moved away or mounted later is
/// noticed; everything beneath it is confined.
#[derive(Debug, Clone)]
pub struct Tree {
    root: PathBuf,
    durability: Durability,
    /// Of the directories it makes, whatever the umask; else as the umask has it.
    directory_mode: Option<Mode>,
}

/// A file in the making. Dropping it unfinished removes it.
#[derive(Debug)]
pub struct Draft {
    file: File,
    temporary: String,
    name: Vec<u8>,
    directory: Directory,
    /// What has to be synced after the rename; empty in `crash` mode.
    to_sync: Vec<Directory>,
    shown: String,
    is_placed: bool,
}

/// What became of a finished draft.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placed {
    /// There was no such file.
    New,
    /// An older file, or one of the same age, gave way.
    Replaced,
    /// What is there is newer than this announcement, and stays.
    KeptNewer,
}

/// How a unit's files become safe. One per unit; clones share one syncing thread.
#[derive(Debug, Clone)]
pub enum Safety {
    /// Survives a power cut.
    Power(DirSyncer),
    /// Survives `kill -9`.
    Crash,
}

impl Safety {
    /// Starts what the mode needs.
    pub fn new(durability: Durability) -> Result<Safety, SpoolError> {
        Ok(match durability {
            Durability::Power => Safety::Power(DirSyncer::start()?),
            Durability::Crash => Safety::Crash,
        })
    }

    /// Call it when work on a product begins and hold the guard until it is settled; see [`DirSyncer::enter`].
    pub fn enter(&self) -> Option<InFlight> {
        match self {
            Safety::Power(syncer) => Some(syncer.enter()),
            Safety::Crash => None,
        }
    }

    /// Puts a complete draft under its final name. On `Ok` it is safe in the unit's mode. `time` becomes its mtime, and
    /// a file that is newer stays. Blocks no async thread.
    pub async fn place(&self, draft: Draft, time: Option<Timestamp>) -> Result<Placed, SpoolError> {
        let durability = match self {
            Safety::Power(_) => Durability::Power,
            Safety::Crash => Durability::Crash,
        };
        let (placed, to_sync) = off_thread(move || draft.finish(durability, time)).await?;
        match self {
            Safety::Power(syncer) if placed != Placed::KeptNewer => syncer.sync(to_sync).await?,
            _ => {}
        }
        Ok(placed)
    }
}

impl Tree {
    /// The tree at `root`, which is made when `create` says so. A root that is missing later is an own fault.
    pub fn open(root: &Path, create: bool, durability: Durability) -> Result<Tree, SpoolError> {
        if create {
            make_directory(root)?;
        }
        let tree = Tree {
            root: root.to_owned(),
            durability,
            directory_mode: None,
        };
        tree.root_fd()?;
        Ok(tree)
    }

    /// The root.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Begins a file at `path` beneath the root; missing directories are made. Blocks.
    pub fn create(&self, path: &[u8]) -> Result<Draft, SpoolError> {
        let shown = self.show(path);
        let (parents, name) = split(path).map_err(|why| SpoolError::message(format!("cannot write {shown}: {why}")))?;
        let refused = |err| classify(err, &format!("cannot write {shown}"));
        let (directory, to_sync) = self.directory(&parents).map_err(|err| match err {
            Failed::Root(err) => err,
            Failed::Beneath(err) => refused(err),
        })?;
        let (file, temporary) = temporary_file(directory.fd()).map_err(refused)?;
        Ok(Draft {
            file,
            temporary,
            name: name.to_vec(),
            directory,
            to_sync,
            shown,
            is_placed: false,
        })
    }

    /// The modification time of the file at `path`, if there is one; what is no regular file has no age. Blocks.
    pub fn mtime(&self, path: &[u8]) -> Result<Option<Timestamp>, SpoolError> {
        let shown = self.show(path);
        let (mut at, name) =
            split(path).map_err(|why| SpoolError::message(format!("cannot look at {shown}: {why}")))?;
        at.push(name);
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match open_beneath(&self.root_fd()?, OsStr::from_bytes(&at.join(&b'/')), flags) {
            Ok(fd) => {
                let stat = rustix::fs::fstat(&fd).map_err(|err| classify(err, &format!("cannot look at {shown}")))?;
                Ok(mtime_of(&stat).filter(|_| is_file(&stat)))
            }
            // A symbolic link is no product of ours: the rename replaces it, whatever its age.
            Err(Errno::NOENT | Errno::LOOP) => Ok(None),
            Err(err) => Err(classify(err, &format!("cannot look at {shown}"))),
        }
    }

    fn show(&self, path: &[u8]) -> String {
        let product = crate::message::ProductPath(path[..path.len().min(512)].to_vec());
        format!("{product} in {}", self.root.display())
    }

    pub(super) fn root_fd(&self) -> Result<OwnedFd, SpoolError> {
        rustix::fs::open(&self.root, DIRECTORY, Mode::empty()).map_err(|err| {
            SpoolError::own(
                format!("cannot open {}: is it there, and may px read it?", self.root.display()),
                err,
            )
        })
    }

    /// The directory of a file, and what must be synced once the file is in it. A young directory's ancestors are
    /// synced as well, for whoever made it may not have come to that yet.
    fn directory(&self, parents: &[&[u8]]) -> Result<(Directory, Vec<Directory>), Failed> {
        let root = self.root_fd().map_err(Failed::Root)?;
        if parents.is_empty() {
            let root = Directory::new(root).map_err(Failed::Beneath)?;
            return Ok((root.clone(), self.if_power(vec![root])));
        }
        match open_beneath(&root, OsStr::from_bytes(&parents.join(&b'/')), DIRECTORY) {
            Ok(fd) => {
                let found = Directory::new(fd).map_err(Failed::Beneath)?;
                if self.durability == Durability::Crash || !is_young(&found) {
                    return Ok((found.clone(), self.if_power(vec![found])));
                }
            }
            Err(Errno::NOENT) => {}
            Err(err) => return Err(Failed::Beneath(err)),
        }
        let mut way = vec![Directory::new(root).map_err(Failed::Beneath)?];
        for parent in parents {
            let above = &way[way.len() - 1];
            let next = descend(above, OsStr::from_bytes(parent), self.directory_mode);
            way.push(next.map_err(Failed::Beneath)?);
        }
        Ok((way[way.len() - 1].clone(), self.if_power(way)))
    }

    fn if_power(&self, directories: Vec<Directory>) -> Vec<Directory> {
        match self.durability {
            Durability::Power => directories,
            Durability::Crash => Vec::new(),
        }
    }
}

/// The root is the operator's, what is beneath it the message's.
enum Failed {
    Root(SpoolError),
    Beneath(Errno),
}

impl Draft {
    /// The bytes written so far, for whoever wants to keep them elsewhere.
    pub fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Sync, mtime, rename. The directories that are returned must be synced before the product is safe.
    fn finish(
        mut self,
        durability: Durability,
        time: Option<Timestamp>,
    ) -> Result<(Placed, Vec<Directory>), SpoolError> {
        let placed = self.try_finish(durability, time).map_err(|err| match err {
            Errno::AGAIN => SpoolError::own(
                format!(
                    "cannot put {} in place: another program holds a lock on its directory",
                    self.shown
                ),
                err,
            ),
            err => classify(err, &format!("cannot put {} in place", self.shown)),
        })?;
        self.is_placed = placed != Placed::KeptNewer;
        Ok((placed, std::mem::take(&mut self.to_sync)))
    }

    /// Syncs the content in `power` mode and closes the descriptor that writes, before anybody can see the file: who
    /// finds one held by a writer waits for it to be closed, and another name of it tells no close.
    fn complete(&mut self, durability: Durability) -> Result<(), Errno> {
        if durability == Durability::Power {
            rustix::fs::fdatasync(&self.file)?;
        }
        self.file = read_only(&self.file)?;
        Ok(())
    }

    fn try_finish(&mut self, durability: Durability, time: Option<Timestamp>) -> Result<Placed, Errno> {
        if let Some(time) = time {
            let time = timespec(time);
            // Before the sync, so that the sync takes it along.
            rustix::fs::futimens(
                &self.file,
                &Timestamps {
                    last_access: time,
                    last_modification: time,
                },
            )?;
        }
        self.complete(durability)?;
        let (fd, from, to) = (self.directory.fd(), self.temporary.as_str(), self.name.as_slice());
        match rustix::fs::renameat_with(fd, from, fd, to, RenameFlags::NOREPLACE) {
            Ok(()) => return Ok(Placed::New),
            // EINVAL: a file system without this flag.
            Err(Errno::EXIST | Errno::INVAL | Errno::NOSYS) => {}
            Err(err) => return Err(err),
        }
        // Looking and replacing is one step for every px on this host.
        lock(fd)?;
        let result = self.replace_older(time);
        // Closing the directory would free the lock as well; the error changes nothing.
        let _ = rustix::fs::flock(fd, FlockOperation::Unlock);
        result
    }

    fn replace_older(&self, time: Option<Timestamp>) -> Result<Placed, Errno> {
        let (fd, from, to) = (self.directory.fd(), self.temporary.as_str(), self.name.as_slice());
        let there = match rustix::fs::statat(fd, to, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Some(stat),
            Err(Errno::NOENT) => None,
            Err(err) => return Err(err),
        };
        if let (Some(there), Some(time)) = (there.filter(is_file).as_ref().and_then(mtime_of), time)
            && there > time
        {
            return Ok(Placed::KeptNewer);
        }
        rustix::fs::renameat(fd, from, fd, to)?;
        Ok(if there.is_some() { Placed::Replaced } else { Placed::New })
    }
}

impl Write for Draft {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.is_placed {
            // What cannot be removed now is swept at the next start.
            let _ = rustix::fs::unlinkat(self.directory.fd(), self.temporary.as_str(), AtFlags::empty());
        }
    }
}

/// Whose fault a refusal beneath the root is: what a name can cause is the message's, all else is this host's.
pub(super) fn classify(err: Errno, doing: &str) -> SpoolError {
    let (fault, hint) = match err {
        Errno::NAMETOOLONG => (Fault::Message, "the name is too long"),
        Errno::LOOP | Errno::XDEV => (Fault::Message, "a symbolic link is in the way"),
        Errno::NOTDIR => (Fault::Message, "a file is in the way"),
        Errno::ISDIR | Errno::NOTEMPTY | Errno::EXIST => (Fault::Message, "a directory is in the way"),
        Errno::INVAL | Errno::ILSEQ => (Fault::Message, "the file system takes no such name"),
        Errno::NOSPC => (Fault::Own, "the disk is full"),
        Errno::DQUOT => (Fault::Own, "the quota is used up"),
        Errno::ROFS => (Fault::Own, "the file system is read-only"),
        Errno::ACCESS | Errno::PERM => (Fault::Own, "px has no right to it"),
        Errno::MFILE | Errno::NFILE => (Fault::Own, "no file descriptors left"),
        Errno::NOENT | Errno::STALE => (Fault::Own, "the directory has been removed"),
        Errno::IO => (Fault::Own, "check the disk"),
        _ => (Fault::Own, "the system refused"),
    };
    SpoolError {
        fault,
        what: format!("{doing}: {hint}"),
        store_full: false,
        one_file: false,
        source: Some(Box::new(err)),
    }
}

/// Directories and name of a path that came in a message. Doubled slashes count as one, as they do in the kernel.
fn split(path: &[u8]) -> Result<(Vec<&[u8]>, &[u8]), &'static str> {
    if path.starts_with(b"/") {
        return Err("the path is absolute");
    }
    if path.contains(&0) {
        return Err("the path holds a NUL byte");
    }
    let mut parents: Vec<&[u8]> = path.split(|b| *b == b'/').collect();
    let name = parents
        .pop()
        .filter(|name| !name.is_empty())
        .ok_or("the path has no file name")?;
    parents.retain(|part| !part.is_empty());
    for part in parents.iter().chain([&name]) {
        match *part {
            b"." | b".." => return Err("the path has a . or .. in it"),
            part if part.len() > NAME_MAX => return Err("a name in the path is too long"),
            part if is_temporary(part) => return Err("the name is one of px's own temporary names"),
            _ => {}
        }
    }
    Ok((parents, name))
}

pub(super) fn open_beneath(root: &OwnedFd, path: &OsStr, flags: OFlags) -> Result<OwnedFd, Errno> {
    rustix::fs::openat2(root, path, flags, Mode::empty(), BENEATH)
}

/// Opens a directory, making it if need be.
fn descend(above: &Directory, name: &OsStr, mode: Option<Mode>) -> Result<Directory, Errno> {
    let fd = match open_beneath(above.fd(), name, DIRECTORY) {
        Err(Errno::NOENT) => {
            let made = rustix::fs::mkdirat(above.fd(), name, mode.unwrap_or(Mode::from_raw_mode(0o777)));
            let is_made = match made {
                Ok(()) => true,
                Err(Errno::EXIST) => false,
                Err(err) => return Err(err),
            };
            let fd = open_beneath(above.fd(), name, DIRECTORY)?;
            if let Some(mode) = mode.filter(|_| is_made) {
                rustix::fs::fchmod(&fd, mode)?; // the umask has taken bits away
            }
            fd
        }
        other => other?,
    };
    Directory::new(fd)
}

/// Whether somebody may have made it just now and not synced it yet.
pub(crate) fn is_young(directory: &Directory) -> bool {
    let Some(made_s) = directory.made_s else {
        return true;
    };
    // The wall clock: another process's clock made the stamp, and a jump only costs a sync too many.
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    now.as_secs() as i64 - made_s < YOUNG_S
}

/// Every px that replaces a file in this directory holds this for the moment. Not for ever: others may lock too.
fn lock(directory: &OwnedFd) -> Result<(), Errno> {
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match rustix::fs::flock(directory, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::AGAIN) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(1)),
            Err(Errno::OPNOTSUPP | Errno::NOLCK) => return Ok(()), // a file system without locks: best effort
            other => return other,
        }
    }
}

fn is_file(stat: &rustix::fs::Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
}

fn mtime_of(stat: &rustix::fs::Stat) -> Option<Timestamp> {
    let nanoseconds = i32::try_from(stat.st_mtime_nsec).ok()?;
    Timestamp::new(stat.st_mtime, nanoseconds).ok()
}

fn timespec(time: Timestamp) -> Timespec {
    let (mut seconds, mut nanoseconds) = (time.as_second(), i64::from(time.subsec_nanosecond()));
    if nanoseconds < 0 {
        (seconds, nanoseconds) = (seconds - 1, nanoseconds + 1_000_000_000);
    }
    Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds,
    }
}

#[cfg(test)]
mod tests;
