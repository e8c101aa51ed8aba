//! Reading a tree, directory by directory, in the byte order of the paths: watch first, then list.
//!
//! A directory is watched before it is listed, so that a file is seen by the listing or by the watch, whenever it is
//! made. Only one directory's entries per level are in memory.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::marker::ctime_ns;
use super::root::{self, join};
use super::watches::{Added, Watches};
use crate::spool::inventory::Version;

/// Which directories a walk lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// Every one.
    All,
    /// Those that were not watched under their name before: the others were listed when their watch began.
    New,
    /// The first, and those that have neither a watch nor a turn of their own.
    Polled,
}

/// What a walk meets.
#[derive(Debug)]
pub(super) enum Step {
    /// A regular file.
    File {
        path: Vec<u8>,
        version: Version,
        ctime_ns: i64,
        /// In a directory that came after the first start.
        is_new: bool,
    },
    /// A file or directory that is there and cannot be read now: nothing is known of it or what is beneath it.
    Unread {
        path: Vec<u8>,
        is_directory: bool,
        cause: Errno,
    },
}

enum Kind {
    Directory,
    File { version: Version, ctime_ns: i64 },
    Unread(Errno),
}

struct Entry {
    name: Vec<u8>,
    kind: Kind,
}

struct Level {
    path: Vec<u8>,
    entries: std::vec::IntoIter<Entry>,
    ctime_ns: i64,
    is_new: bool,
}

/// A walk from one directory downward.
pub(super) struct Walk<'root> {
    root: BorrowedFd<'root>,
    scope: Scope,
    /// The moment that tells new directories from old ones; `i64::MAX` makes none new.
    marker_ns: i64,
    start: Option<(Vec<u8>, bool)>,
    levels: Vec<Level>,
}

impl<'root> Walk<'root> {
    pub(super) fn new(root: BorrowedFd<'root>, from: &[u8], scope: Scope) -> Self {
        Walk {
            root,
            scope,
            marker_ns: i64::MAX,
            start: Some((from.to_vec(), false)),
            levels: Vec::new(),
        }
    }

    /// Tells directories that came later than this moment; the first directory where `is_new` says so.
    pub(super) fn since(mut self, marker_ns: i64, is_new: bool) -> Self {
        self.marker_ns = marker_ns;
        if let Some(start) = &mut self.start {
            start.1 = is_new;
        }
        self
    }

    /// The next file, or what could not be read; `None` at the end.
    pub(super) fn next(&mut self, watches: &mut Watches) -> Option<Step> {
        if let Some((path, is_new)) = self.start.take()
            && let Some(unread) = self.enter(path, i64::MIN, is_new, watches)
        {
            return Some(unread);
        }
        loop {
            let level = self.levels.last_mut()?;
            let Some(entry) = level.entries.next() else {
                self.levels.pop();
                continue;
            };
            let path = join(&level.path, &entry.name);
            let (is_new, parent_ctime_ns) = (level.is_new, level.ctime_ns);
            match entry.kind {
                Kind::File { version, ctime_ns } => {
                    return Some(Step::File {
                        path,
                        version,
                        ctime_ns,
                        is_new,
                    });
                }
                Kind::Unread(cause) => {
                    return Some(Step::Unread {
                        path,
                        is_directory: false,
                        cause,
                    });
                }
                Kind::Directory if self.scope == Scope::Polled && watches.is_unwatched(&path) => {}
                Kind::Directory => {
                    if let Some(unread) = self.enter(path, parent_ctime_ns, is_new, watches) {
                        return Some(unread);
                    }
                }
            }
        }
    }

    /// Watches and lists one directory. Gone meanwhile: nothing to tell.
    fn enter(
        &mut self,
        path: Vec<u8>,
        parent_ctime_ns: i64,
        parent_is_new: bool,
        watches: &mut Watches,
    ) -> Option<Step> {
        let is_start = self.levels.is_empty();
        match self.list(&path, is_start, watches) {
            Ok(Some((entries, own_ctime_ns))) => {
                // Whatever is put into a directory changes that directory's ctime too. So one that is younger than
                // the marker was put there since only if the directory above has changed since as well; the others
                // have merely gained or lost an entry.
                let is_younger = own_ctime_ns > self.marker_ns && parent_ctime_ns > self.marker_ns;
                self.levels.push(Level {
                    path,
                    entries: entries.into_iter(),
                    ctime_ns: own_ctime_ns,
                    is_new: parent_is_new || is_younger,
                });
                None
            }
            Ok(None) | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
                watches.forget_unwatched(&path);
                None
            }
            Err(cause) => {
                watches.poll(&path);
                Some(Step::Unread {
                    path,
                    is_directory: true,
                    cause,
                })
            }
        }
    }

    /// The entries in path order, and the directory's ctime after they were read. `None` where there is no need.
    fn list(&self, path: &[u8], is_start: bool, watches: &mut Watches) -> Result<Option<(Vec<Entry>, i64)>, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = root::open_beneath(self.root, path, flags, Mode::empty())?;
        let inode = rustix::fs::fstat(&directory)?.st_ino;
        let added = watches.add(directory.as_fd(), inode, path)?;
        let is_polled = self.scope == Scope::Polled && is_start;
        if added == Added::Same && self.scope != Scope::All && !is_polled {
            return Ok(None);
        }
        let mut entries = read_entries(&directory)?;
        entries.sort_unstable_by(|one, two| sort_key(one).cmp(sort_key(two)));
        Ok(Some((entries, ctime_ns(&rustix::fs::fstat(&directory)?))))
    }
}

/// A directory's name ends in a slash where paths are compared: `a.b` comes before `a/b`.
fn sort_key(entry: &Entry) -> impl Iterator<Item = u8> + '_ {
    let slash = matches!(entry.kind, Kind::Directory).then_some(b'/');
    entry.name.iter().copied().chain(slash)
}

fn read_entries(directory: &OwnedFd) -> Result<Vec<Entry>, Errno> {
    let mut entries = Vec::new();
    for found in Dir::read_from(directory)? {
        let found = found?;
        let name = found.file_name().to_bytes();
        if root::is_skipped(name) {
            continue;
        }
        let kind = match found.file_type() {
            FileType::Directory => Kind::Directory,
            FileType::RegularFile | FileType::Unknown => {
                match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) if root::is_regular(&stat) => Kind::File {
                        version: Version::of(&stat),
                        ctime_ns: ctime_ns(&stat),
                    },
                    Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => Kind::Directory,
                    Ok(_) | Err(Errno::NOENT) => continue,
                    Err(cause) => Kind::Unread(cause),
                }
            }
            _ => continue,
        };
        entries.push(Entry {
            name: name.to_vec(),
            kind,
        });
    }
    Ok(entries)
}

/// Whether the directory holds anything that px would look at.
pub(super) fn has_entries(path: &Path) -> Result<bool, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(path, flags, Mode::empty())?;
    for found in Dir::read_from(&directory)? {
        if !root::is_skipped(found?.file_name().to_bytes()) {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn paths(dir: &Path, from: &str) -> Vec<String> {
        let root = root::open(dir).unwrap();
        let mut walk = Walk::new(root.as_fd(), from.as_bytes(), Scope::All);
        let mut watches = Watches::new(None);
        let mut paths = Vec::new();
        while let Some(step) = walk.next(&mut watches) {
            match step {
                Step::File { path, .. } => paths.push(String::from_utf8(path).unwrap()),
                Step::Unread { path, cause, .. } => panic!("{}: {cause}", path.escape_ascii()),
            }
        }
        paths
    }

    #[test]
    fn files_come_in_the_byte_order_of_their_paths_and_only_files() {
        let dir = tempfile::tempdir().unwrap();
        let files = ["a.b", "a/b", "a/c/d", "a0", "z", ".dot", "x.tmp", ".dir/f", "y.tmp/f"];
        for file in files {
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
        }
        std::os::unix::fs::symlink("z", dir.path().join("link")).unwrap();
        std::os::unix::fs::symlink("a", dir.path().join("dirlink")).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, dir.path().join("pipe"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        assert_eq!(paths(dir.path(), ""), ["a.b", "a/b", "a/c/d", "a0", "z"]);
        assert_eq!(paths(dir.path(), "a"), ["a/b", "a/c/d"]);
        assert_eq!(paths(dir.path(), "dirlink"), Vec::<String>::new());
        assert_eq!(paths(dir.path(), "gone"), Vec::<String>::new());
    }
}
