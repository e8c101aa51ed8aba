//! Which directory each of the kernel's watches is on, and which directories have none.
//!
//! A watch belongs to an inode, not to a name: a directory that is renamed keeps its watch, and adding one under the
//! new name gives the same number again. So whatever is added is mapped to its present name, old names are forgotten,
//! and a watch whose directory is not at its name any more is dropped.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::inotify::{self, WatchFlags};
use rustix::io::Errno;

/// Directories without a watch whose names are kept; with more, the whole tree is compared instead.
const UNWATCHED_MAX: usize = 20_000;

/// Deletions are not asked for: they would fill the kernel's queue, and rows of vanished files harm nothing.
fn mask() -> WatchFlags {
    WatchFlags::CLOSE_WRITE
        | WatchFlags::MOVED_TO
        | WatchFlags::CREATE
        | WatchFlags::MOVE_SELF
        | WatchFlags::ONLYDIR
        | WatchFlags::EXCL_UNLINK
}

/// What became of a wish to watch a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Added {
    /// Watched from now on.
    New,
    /// Watched before, under this name.
    Same,
    /// The kernel grants no more watches: the directory must be polled.
    Refused,
    /// The tree has none: it is read as a whole, again and again.
    Unwanted,
}

struct Watched {
    path: Arc<[u8]>,
    inode: u64,
    walk: u64,
}

/// The watches of one tree.
#[derive(Default)]
pub(super) struct Watches {
    /// None where the kernel gave no inotify instance.
    inotify: Option<Arc<OwnedFd>>,
    by_wd: HashMap<i32, Watched>,
    by_path: BTreeMap<Arc<[u8]>, i32>,
    unwatched: BTreeSet<Vec<u8>>,
    too_many_unwatched: bool,
    walk: u64,
    has_warned: bool,
    are_unwanted: bool,
}

impl Watches {
    pub(super) fn new(inotify: Option<Arc<OwnedFd>>) -> Self {
        Watches {
            inotify,
            ..Watches::default()
        }
    }

    /// No watches at all, and no directory that stands out.
    pub(super) fn unwanted() -> Self {
        Watches {
            are_unwanted: true,
            ..Watches::default()
        }
    }

    /// Starts a walk through the whole tree; what it does not meet is forgotten when it ends.
    pub(super) fn begin_walk(&mut self) {
        self.walk += 1;
        self.too_many_unwatched = false;
    }

    /// Watches an open directory under its present name.
    pub(super) fn add(&mut self, directory: BorrowedFd<'_>, inode: u64, path: &[u8]) -> Result<Added, Errno> {
        if self.are_unwanted {
            return Ok(Added::Unwanted);
        }
        let Some(inotify) = &self.inotify else {
            return Ok(self.refused(path));
        };
        // By descriptor, so that the watch is on the very directory that will be listed.
        let name = format!("/proc/self/fd/{}", directory.as_raw_fd());
        let wd = match inotify::add_watch(inotify, name, mask()) {
            Ok(wd) => wd,
            Err(Errno::NOSPC | Errno::NOMEM) => return Ok(self.refused(path)),
            Err(err) => return Err(err),
        };
        self.unwatched.remove(path);
        Ok(self.map(wd, inode, path))
    }

    fn map(&mut self, wd: i32, inode: u64, path: &[u8]) -> Added {
        if let Some(watched) = self.by_wd.get_mut(&wd) {
            watched.walk = self.walk;
            if *watched.path == *path {
                return Added::Same;
            }
            let old = watched.path.clone();
            if self.by_path.get(&old) == Some(&wd) {
                self.by_path.remove(&old);
            }
        }
        if self.by_path.get(path).is_some_and(|other| *other != wd) {
            self.drop_beneath(path); // another directory had this name
        }
        let (path, walk): (Arc<[u8]>, u64) = (path.into(), self.walk);
        self.by_path.insert(path.clone(), wd);
        self.by_wd.insert(wd, Watched { path, inode, walk });
        Added::New
    }

    /// A directory that cannot be watched or read is polled.
    pub(super) fn poll(&mut self, path: &[u8]) {
        if self.are_unwanted {
            return;
        }
        if self.unwatched.len() < UNWATCHED_MAX {
            self.unwatched.insert(path.to_vec());
        } else {
            self.too_many_unwatched |= !self.unwatched.contains(path);
        }
    }

    fn refused(&mut self, path: &[u8]) -> Added {
        self.poll(path);
        if !self.has_warned {
            self.has_warned = true;
            tracing::warn!(
                "the kernel grants no more watches: raise fs.inotify.max_user_watches (or max_user_instances); \
                 until then directories without one are polled"
            );
        }
        Added::Refused
    }

    /// The present name of a watched directory.
    pub(super) fn path(&self, wd: i32) -> Option<&Arc<[u8]>> {
        self.by_wd.get(&wd).map(|watched| &watched.path)
    }

    /// The name and inode of a watched directory.
    pub(super) fn place(&self, wd: i32) -> Option<(Arc<[u8]>, u64)> {
        self.by_wd.get(&wd).map(|watched| (watched.path.clone(), watched.inode))
    }

    /// The kernel has removed this watch.
    pub(super) fn removed(&mut self, wd: i32) {
        if let Some(watched) = self.by_wd.remove(&wd)
            && self.by_path.get(&watched.path) == Some(&wd)
        {
            self.by_path.remove(&watched.path);
        }
    }

    /// Drops the watches on a directory that is not at its name any more, and on all beneath it.
    pub(super) fn drop_beneath(&mut self, path: &[u8]) {
        let mut dropped: Vec<i32> = self.by_path.get(path).copied().into_iter().collect();
        let first = super::root::join(path, b"");
        let beneath = self
            .by_path
            .range::<[u8], _>((Bound::Included(first.as_slice()), Bound::Unbounded));
        dropped.extend(
            beneath
                .take_while(|(name, _)| name.starts_with(&first))
                .map(|(_, wd)| *wd),
        );
        for wd in dropped {
            self.drop_watch(wd);
        }
        self.unwatched.retain(|name| name != path && !name.starts_with(&first));
    }

    /// Drops the watches that the walk through the whole tree has not met.
    pub(super) fn drop_unmet(&mut self) {
        let unmet = self.by_wd.iter().filter(|(_, watched)| watched.walk != self.walk);
        let unmet: Vec<i32> = unmet.map(|(wd, _)| *wd).collect();
        for wd in unmet {
            self.drop_watch(wd);
        }
    }

    fn drop_watch(&mut self, wd: i32) {
        self.removed(wd);
        if let Some(inotify) = &self.inotify {
            // Refused where the kernel has removed it already, which is as good.
            inotify::remove_watch(inotify, wd).ok();
        }
    }

    /// Whether any directory must be polled.
    pub(super) fn has_unwatched(&self) -> bool {
        !self.unwatched.is_empty() || self.too_many_unwatched
    }

    /// The directories without a watch; `None` where there are too many to name.
    pub(super) fn unwatched(&self) -> Option<Vec<Vec<u8>>> {
        (!self.too_many_unwatched).then(|| self.unwatched.iter().cloned().collect())
    }

    /// Whether this directory is polled.
    pub(super) fn is_unwatched(&self, path: &[u8]) -> bool {
        self.unwatched.contains(path)
    }

    /// A polled directory is gone.
    pub(super) fn forget_unwatched(&mut self, path: &[u8]) {
        self.unwatched.remove(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapped(watches: &Watches) -> Vec<(String, i32)> {
        let mapped = watches.by_path.iter();
        mapped
            .map(|(path, wd)| (String::from_utf8_lossy(path).into_owned(), *wd))
            .collect()
    }

    #[test]
    fn a_renamed_directory_keeps_its_watch_and_loses_its_old_name() {
        let mut watches = Watches::default();
        assert_eq!(watches.map(1, 11, b"a"), Added::New);
        assert_eq!(watches.map(1, 11, b"a"), Added::Same);
        assert_eq!(watches.map(1, 11, b"b"), Added::New);
        assert_eq!(mapped(&watches), [("b".to_string(), 1)]);
        assert_eq!(watches.path(1).map(|path| path.to_vec()), Some(b"b".to_vec()));
    }

    #[test]
    fn two_directories_that_change_places_are_both_mapped_anew() {
        let mut watches = Watches::default();
        for (wd, path) in [(1, "a"), (2, "a/x"), (3, "b"), (4, "ab")] {
            watches.map(wd, 0, path.as_bytes());
        }
        watches.map(3, 0, b"a");
        let left = [("a".to_string(), 3), ("ab".to_string(), 4)];
        assert_eq!(mapped(&watches), left);
        watches.map(5, 0, b"b");
        assert_eq!(watches.path(1), None);
        watches.removed(1);
        watches.drop_beneath(b"");
        assert_eq!(mapped(&watches), []);
    }

    #[test]
    fn what_a_walk_does_not_meet_is_dropped() {
        let mut watches = Watches::default();
        watches.map(1, 0, b"");
        watches.map(2, 0, b"gone");
        watches.begin_walk();
        watches.map(1, 0, b"");
        watches.drop_unmet();
        assert_eq!(mapped(&watches), [(String::new(), 1)]);
    }
}
