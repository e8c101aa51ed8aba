//! Removing the temporary files that killed processes have left.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::SystemTime;

use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags};

use super::SpoolError;
use super::atomic::{DIRECTORY, Tree, classify, is_temporary, open_beneath};

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
