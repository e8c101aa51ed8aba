//! Opening a tree's root and what lies beneath it, without following a symbolic link on the way.
//!
//! The root is opened anew for each piece of work: a descriptor that stays open would keep its file system from being
//! unmounted.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

/// Opens the root for paths beneath it. Its own name may be a symbolic link: the operator wrote it.
pub fn open(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
}

/// Opens what is at a path in the tree; an empty path is the root itself.
pub(in crate::spool) fn open_beneath(
    root: BorrowedFd<'_>,
    path: &[u8],
    flags: OFlags,
    mode: Mode,
) -> Result<OwnedFd, Errno> {
    let path = if path.is_empty() { &b"."[..] } else { path };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    loop {
        match rustix::fs::openat2(root, path, flags, mode, resolve) {
            // A rename somewhere made the kernel's check inconclusive.
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

/// The status of the regular file at a path; `None` where there is none.
pub(super) fn regular_file(root: BorrowedFd<'_>, path: &[u8]) -> Result<Option<Stat>, Errno> {
    match rustix::fs::statat(root, path, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(is_regular(&stat).then_some(stat)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        Err(err) => Err(err),
    }
}

/// Neither directory nor link, pipe, socket or device.
pub(in crate::spool) fn is_regular(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
}

/// Names that no tree shows: dot names and those that end in `.tmp`, files and directories.
pub(in crate::spool) fn is_skipped(name: &[u8]) -> bool {
    name.starts_with(b".") || name.ends_with(b".tmp")
}

/// A name in a directory of the tree.
pub(in crate::spool) fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    if directory.is_empty() {
        return name.to_vec();
    }
    let mut path = Vec::with_capacity(directory.len() + 1 + name.len());
    path.extend_from_slice(directory);
    path.push(b'/');
    path.extend_from_slice(name);
    path
}

/// A path in the tree, for messages.
pub(super) fn shown(path: &[u8]) -> String {
    if path.is_empty() {
        return ".".into();
    }
    path.escape_ascii().to_string()
}
