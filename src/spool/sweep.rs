//! Temporary files: how px names them, and how those of killed processes are removed.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::SpoolError;
use super::atomic::{DIRECTORY, Tree, classify, open_beneath};

/// What [`Tree::sweep`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Swept {
    /// Temporary files of dead processes that are gone now.
    pub removed: usize,
    /// Directory entries looked at.
    pub looked_at: usize,
    /// The limit came first; the rest of the tree was not looked at.
    pub is_partial: bool,
}

impl Tree {
    /// Removes what killed processes left half-written: files of px's own naming, older than `before` (when this
    /// process started) and locked by nobody. Looks at `entries_max` directory entries at most. Blocks.
    pub fn sweep(&self, before: SystemTime, entries_max: usize) -> Result<Swept, SpoolError> {
        let root = self.root_fd()?;
        let mut swept = Swept::default();
        let mut left: Vec<PathBuf> = vec![PathBuf::from(".")];
        while let Some(at) = left.pop() {
            let Ok(fd) = open_beneath(&root, at.as_os_str(), DIRECTORY) else {
                continue; // gone meanwhile, or not ours to read: nothing of ours is in it
            };
            let mut entries =
                rustix::fs::Dir::read_from(&fd).map_err(|err| classify(err, "cannot read a directory"))?;
            while let Some(Ok(entry)) = entries.read() {
                let name = entry.file_name().to_bytes();
                if swept.looked_at == entries_max {
                    swept.is_partial = true;
                    return Ok(swept);
                }
                swept.looked_at += 1;
                match entry.file_type() {
                    FileType::Directory if !matches!(name, b"." | b"..") => left.push(at.join(OsStr::from_bytes(name))),
                    FileType::RegularFile | FileType::Unknown if is_temporary(name) => {
                        swept.removed += usize::from(remove_abandoned(&fd, name, before));
                    }
                    _ => {}
                }
            }
        }
        Ok(swept)
    }
}

static PROCESS: LazyLock<u64> = LazyLock::new(|| fastrand::u64(..));
static NEXT: AtomicU64 = AtomicU64::new(0);

/// A new file that only its owner writes. The lock tells a sweep that the owner lives. It is shared, and everybody else
/// asks for an exclusive one: so [`read_only`] can hand it on and it is never free in between.
pub(super) fn temporary_file(directory: &OwnedFd) -> Result<(File, String), Errno> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    loop {
        let (process, next) = (*PROCESS, NEXT.fetch_add(1, Ordering::Relaxed));
        let name = format!(".px-{process:016x}-{next:x}.tmp");
        match rustix::fs::openat(directory, name.as_str(), flags, Mode::from_raw_mode(0o666)) {
            Ok(fd) => {
                // Without locks on this file system nothing is ever swept there, which is safe.
                let _ = rustix::fs::flock(&fd, FlockOperation::NonBlockingLockShared);
                return Ok((fd.into(), name));
            }
            Err(Errno::EXIST) => {}
            Err(err) => return Err(err),
        }
    }
}

/// The same file, locked as well, but open for reading only: whoever asks for its writers, as a sender does of what
/// appears in its queue, finds none once `file` is closed. The second lock is taken while the first is held.
pub(super) fn read_only(file: &File) -> Result<File, Errno> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let fd = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let _ = rustix::fs::flock(&fd, FlockOperation::NonBlockingLockShared); // as above
    Ok(fd.into())
}

pub(super) fn is_temporary(name: &[u8]) -> bool {
    let is_hex = |part: &[u8]| !part.is_empty() && part.iter().all(u8::is_ascii_hexdigit);
    let Some(middle) = name.strip_prefix(b".px-").and_then(|rest| rest.strip_suffix(b".tmp")) else {
        return false;
    };
    match middle.split_at_checked(16) {
        Some((process, [b'-', next @ ..])) => is_hex(process) && is_hex(next),
        _ => false,
    }
}

fn remove_abandoned(directory: &OwnedFd, name: &[u8], before: SystemTime) -> bool {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let Ok(fd) = rustix::fs::openat(directory, name, flags, Mode::empty()) else {
        return false;
    };
    let before = before
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs() as i64;
    let is_old = rustix::fs::fstat(&fd).is_ok_and(|stat| stat.st_mtime < before);
    is_old
        && rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive).is_ok()
        && rustix::fs::unlinkat(directory, name, AtFlags::empty()).is_ok()
}
