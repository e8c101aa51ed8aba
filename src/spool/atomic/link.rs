//! Hard links: one complete file under several names, in several trees.
//!
//! A link never replaces what is there. The file that is linked is held open with a lock on it, so that nobody else
//! who asks for the lock works on it at the same time, in this process or another.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::time::Instant;

use rustix::fs::{Access, AtFlags, CWD, Dir, FileType, FlockOperation, Mode, OFlags, RenameFlags, Stat};
use rustix::io::Errno;

use super::{
    DIRECTORY, Draft, Durability, Failed, LOCK_PATIENCE, NAME_MAX, Tree, classify, is_file, open_beneath, split,
};
use crate::spool::SpoolError;
use crate::spool::dirsync::Directory;

/// How often a directory is made anew that is removed, empty, before the link is in it.
const REMAKES_MAX: usize = 100;

/// Device and inode: what a file is, whatever its names are.
pub type FileId = (u64, u64);

/// A complete file that is to be linked elsewhere, open and locked.
#[derive(Debug)]
pub struct Source {
    file: File,
    directory: Directory,
    name: Vec<u8>,
    shown: String,
    id: FileId,
    owner: u32,
    bytes: u64,
    links: u64,
}

/// What became of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Linked {
    /// It is there now.
    New,
    /// It was there.
    There,
    /// Another file has that name, and keeps it.
    Taken,
}

impl Source {
    /// Its last name.
    pub fn name(&self) -> &[u8] {
        &self.name
    }

    /// Which file it is.
    pub fn id(&self) -> FileId {
        self.id
    }

    /// Its size.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many names it had when it was opened.
    pub fn links(&self) -> u64 {
        self.links
    }

    /// The open file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Whether this process may take the name away, for work that ends with it and must not be done twice. Blocks.
    pub fn check_removable(&self) -> Result<(), SpoolError> {
        let refused = |err| classify(err, &format!("cannot remove {}", self.shown));
        let (fd, wanted) = (self.directory.fd(), Access::WRITE_OK | Access::EXEC_OK);
        rustix::fs::accessat(fd, c".", wanted, AtFlags::EACCESS).map_err(refused)?;
        let directory = rustix::fs::fstat(fd).map_err(refused)?;
        let is_sticky = Mode::from_raw_mode(directory.st_mode).contains(Mode::SVTX);
        let us = rustix::process::geteuid();
        let is_ours = us.is_root() || [self.owner, directory.st_uid].contains(&us.as_raw());
        match is_sticky && !is_ours {
            true => Err(refused(Errno::PERM).of_one_file()),
            false => Ok(()),
        }
    }

    /// Takes this name away, unless somebody has put another file there meanwhile. Blocks.
    pub fn remove(self) -> Result<(), SpoolError> {
        let refused = |err| classify(err, &format!("cannot remove {}", self.shown));
        let (fd, name) = (self.directory.fd(), self.name.as_slice());
        match rustix::fs::statat(fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(there) if id_of(&there) == self.id => match rustix::fs::unlinkat(fd, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => Ok(()),
                Err(err) => Err(refused(err)),
            },
            Ok(_) | Err(Errno::NOENT) => Ok(()),
            Err(err) => Err(refused(err)),
        }
    }
}

impl Tree {
    /// Directories made from now on have exactly this mode, whatever the umask.
    #[must_use]
    pub fn with_directory_mode(mut self, mode: u32) -> Tree {
        self.directory_mode = Some(Mode::from_raw_mode(mode));
        self
    }

    /// The file at `path`, to be linked elsewhere; `None` where there is none. Waits a moment for who works on it.
    /// Blocks.
    pub fn source(&self, path: &[u8]) -> Result<Option<Source>, SpoolError> {
        let shown = self.show(path);
        let (parents, name) = split(path).map_err(|why| SpoolError::message(format!("cannot take {shown}: {why}")))?;
        let refused = |err| classify(err, &format!("cannot take {shown}"));
        let Some(directory) = self.find_directory(&parents)? else {
            return Ok(None);
        };
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file: File = match rustix::fs::openat(directory.fd(), name, flags, Mode::empty()) {
            Ok(fd) => fd.into(),
            Err(Errno::NOENT) => return Ok(None),
            Err(err @ (Errno::ACCESS | Errno::PERM)) if may_search(&directory) => {
                return Err(refused(err).of_one_file());
            }
            Err(err) => return Err(refused(err)),
        };
        if !lock_file(&file).map_err(refused)? {
            return Err(SpoolError::unusable(format!(
                "cannot take {shown}: somebody else is at work on it"
            )));
        }
        let source = Source::new(file, directory, name, shown.clone()).map_err(refused)?;
        // It may have been finished, and taken away, by whoever held the lock.
        let is_there = self.id_at(&source.directory, name)? == Some(source.id);
        Ok(is_there.then_some(source))
    }

    /// Another name for `source`: `name` in the directory `parents`, which is made. The directories that are returned
    /// must be synced before the link is safe. Blocks.
    pub fn link(
        &self,
        source: &Source,
        parents: &[&[u8]],
        name: &[u8],
    ) -> Result<(Linked, Vec<Directory>), SpoolError> {
        let path = [parents.join(&b'/').as_slice(), name].join(&b'/');
        let shown = self.show(&path);
        let doing = format!("cannot link {} to {shown}", source.shown);
        for part in parents.iter().chain([&name]) {
            check(part).map_err(|why| SpoolError::message(format!("{doing}: {why}")))?;
        }
        let mut remakes = 0;
        loop {
            match self.try_link(source, parents, name) {
                Ok((true, _, to_sync)) => return Ok((Linked::New, to_sync)),
                Ok((false, directory, to_sync)) => {
                    let is_same = self.id_at(&directory, name)? == Some(source.id);
                    return Ok((if is_same { Linked::There } else { Linked::Taken }, to_sync));
                }
                // Empty directories are cleaned away.
                Err(Failed::Beneath(Errno::NOENT)) if remakes < REMAKES_MAX => remakes += 1,
                Err(Failed::Beneath(err)) => return Err(refused_link(err, &doing)),
                Err(Failed::Root(err)) => return Err(err),
            }
        }
    }

    /// Whether the name was free, the directory, and what is to be synced.
    fn try_link(
        &self,
        source: &Source,
        parents: &[&[u8]],
        name: &[u8],
    ) -> Result<(bool, Directory, Vec<Directory>), Failed> {
        let (directory, to_sync) = self.directory(parents)?;
        // By descriptor: another file may have the source's name by now.
        let from = format!("/proc/self/fd/{}", source.file.as_raw_fd());
        match rustix::fs::linkat(CWD, from, directory.fd(), name, AtFlags::SYMLINK_FOLLOW) {
            Ok(()) => Ok((true, directory, to_sync)),
            Err(Errno::EXIST) => Ok((false, directory, to_sync)),
            Err(err) => Err(Failed::Beneath(err)),
        }
    }

    /// A directory of the tree; `None` where there is none. Blocks.
    pub fn find_directory(&self, parents: &[&[u8]]) -> Result<Option<Directory>, SpoolError> {
        let root = self.root_fd()?;
        let path = parents.join(&b'/');
        let refused = |err| classify(err, &format!("cannot look at {}", self.show(&path)));
        let fd = if parents.is_empty() {
            root
        } else {
            match open_beneath(&root, OsStr::from_bytes(&path), DIRECTORY) {
                Ok(fd) => fd,
                Err(Errno::NOENT) => return Ok(None),
                Err(err) => return Err(refused(err)),
            }
        };
        Directory::new(fd).map(Some).map_err(refused)
    }

    /// Which regular file has this name in a directory. Blocks.
    pub fn id_at(&self, directory: &Directory, name: &[u8]) -> Result<Option<FileId>, SpoolError> {
        match rustix::fs::statat(directory.fd(), name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(is_file(&stat).then(|| id_of(&stat))),
            Err(Errno::NOENT) => Ok(None),
            Err(err) => Err(classify(err, &format!("cannot look at {}", self.show(name)))),
        }
    }

    /// Whether anything at all has this name in a directory. Blocks.
    pub fn has_name(&self, directory: &Directory, name: &[u8]) -> Result<bool, SpoolError> {
        match rustix::fs::statat(directory.fd(), name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(err) => Err(classify(err, &format!("cannot look at {}", self.show(name)))),
        }
    }

    /// The regular file of this name in a directory, where it can be read. Blocks.
    pub fn open_file(&self, directory: &Directory, name: &[u8]) -> Option<File> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(directory.fd(), name, flags, Mode::empty()).ok()?;
        rustix::fs::fstat(&fd)
            .is_ok_and(|stat| is_file(&stat))
            .then(|| fd.into())
    }

    /// Shows every name of a directory but `.` and `..` to `visit`, until that says no. Blocks.
    pub fn each_name(
        &self,
        directory: &Directory,
        mut visit: impl FnMut(&[u8], FileType) -> Result<bool, SpoolError>,
    ) -> Result<(), SpoolError> {
        let refused = |err| classify(err, &format!("cannot list a directory in {}", self.root.display()));
        let mut entries = Dir::read_from(directory.fd()).map_err(refused)?;
        while let Some(entry) = entries.read() {
            let entry = entry.map_err(refused)?;
            let name = entry.file_name().to_bytes();
            if !matches!(name, b"." | b"..") && !visit(name, entry.file_type())? {
                break;
            }
        }
        Ok(())
    }
}

impl Draft {
    /// The name it will have.
    pub fn name(&self) -> &[u8] {
        &self.name
    }

    /// Puts a complete draft under its name if that is free, synced in `power` mode, and keeps it locked. Else the
    /// draft comes back. Nobody holds it open for writing then. The directory is not synced: the links that follow are
    /// what must be safe. Blocks.
    pub fn place_new(mut self, durability: Durability) -> Result<Result<Source, Draft>, SpoolError> {
        let doing = format!("cannot put {} in place", self.shown);
        let refused = |err| classify(err, &doing);
        self.complete(durability).map_err(refused)?;
        let (fd, from, to) = (self.directory.fd(), self.temporary.as_str(), self.name.as_slice());
        match rustix::fs::renameat_with(fd, from, fd, to, RenameFlags::NOREPLACE) {
            Ok(()) => {}
            Err(Errno::EXIST) => return Ok(Err(self)),
            // A file system without this flag. A crash between the two leaves both names, which is one file.
            Err(Errno::INVAL | Errno::NOSYS) => match rustix::fs::linkat(fd, from, fd, to, AtFlags::empty()) {
                Ok(()) => rustix::fs::unlinkat(fd, from, AtFlags::empty()).map_err(refused)?,
                Err(Errno::EXIST) => return Ok(Err(self)),
                Err(err) => return Err(refused(err)),
            },
            Err(err) => return Err(refused(err)),
        }
        self.is_placed = true;
        // A duplicate is the same open file: the lock stays when the draft goes.
        let file = self.file.try_clone();
        let file = file.map_err(|err| SpoolError::own(format!("{doing}: no file descriptors left"), err))?;
        let (directory, shown) = (self.directory.clone(), self.shown.clone());
        Source::new(file, directory, &self.name, shown).map(Ok).map_err(refused)
    }
}

impl Draft {
    /// The same for a file that goes no further: what is returned must be synced before the file is safe. Blocks.
    pub fn place_free(self, durability: Durability) -> Result<Result<Vec<Directory>, Draft>, SpoolError> {
        let to_sync = self.to_sync.clone();
        Ok(self.place_new(durability)?.map(|_| to_sync))
    }
}

impl Source {
    fn new(file: File, directory: Directory, name: &[u8], shown: String) -> Result<Source, Errno> {
        let stat = rustix::fs::fstat(&file)?;
        if !is_file(&stat) {
            return Err(Errno::ISDIR);
        }
        Ok(Source {
            file,
            directory,
            name: name.to_vec(),
            shown,
            id: id_of(&stat),
            owner: stat.st_uid,
            bytes: u64::try_from(stat.st_size).unwrap_or(0),
            links: stat.st_nlink,
        })
    }
}

fn id_of(stat: &Stat) -> FileId {
    (stat.st_dev, stat.st_ino)
}

/// One part of a path, exactly as it will be.
fn check(part: &[u8]) -> Result<(), &'static str> {
    match part {
        b"" => Err("a part of the path is empty"),
        b"." | b".." => Err("the path has a . or .. in it"),
        part if part.contains(&b'/') || part.contains(&0) => Err("a part of the path holds a slash or a NUL byte"),
        part if part.len() > NAME_MAX => Err("a name in the path is too long"),
        _ => Ok(()),
    }
}

/// Whether the lock was had. A file system without locks: best effort.
fn lock_file(file: &File) -> Result<bool, Errno> {
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOLCK) => return Ok(true),
            Err(Errno::AGAIN) if Instant::now() < deadline => {
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            Err(Errno::AGAIN) => return Ok(false),
            Err(err) => return Err(err),
        }
    }
}

fn may_search(directory: &Directory) -> bool {
    rustix::fs::accessat(directory.fd(), c".", Access::EXEC_OK, AtFlags::EACCESS).is_ok()
}

fn refused_link(err: Errno, doing: &str) -> SpoolError {
    let hint = match err {
        Errno::XDEV => "they are on different file systems; rxq, db, txq and fxq have to be on one",
        Errno::PERM => "the system lets px link no file of another user (fs.protected_hardlinks)",
        Errno::MLINK => "the file has as many names as the file system allows",
        Errno::NOENT => "somebody has taken the file or the directory away",
        err => return classify(err, doing),
    };
    SpoolError {
        one_file: matches!(err, Errno::PERM | Errno::MLINK),
        ..SpoolError::own(format!("{doing}: {hint}"), err)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;
    use crate::message::Fault;
    use crate::spool::tree::lease;

    fn trees() -> (tempfile::TempDir, Tree, Tree) {
        let dir = tempfile::tempdir().unwrap();
        let open = |name: &str| Tree::open(&dir.path().join(name), true, Durability::Power).unwrap();
        let (rxq, db) = (open("rxq"), open("db").with_directory_mode(0o1775));
        (dir, rxq, db)
    }

    fn dropped(rxq: &Tree, name: &str, bytes: &str) -> Source {
        fs::write(rxq.root().join(name), bytes).unwrap();
        rxq.source(name.as_bytes()).unwrap().unwrap()
    }

    #[test]
    fn a_link_never_replaces_what_is_there() {
        let (_dir, rxq, db) = trees();
        let (one, two) = (dropped(&rxq, "one", "1"), dropped(&rxq, "two", "22"));
        let link = |source: &Source| db.link(source, &[b"20261121", b"RADAR"], b"name").unwrap();
        let (linked, to_sync) = link(&one);
        assert_eq!((linked, to_sync.len()), (Linked::New, 3));
        assert_eq!(link(&one).0, Linked::There);
        assert_eq!(link(&two).0, Linked::Taken);
        assert_eq!((one.links(), two.bytes()), (1, 2));
        let name = db.root().join("20261121/RADAR/name");
        assert_eq!(fs::read(&name).unwrap(), b"1");
        assert_eq!(fs::metadata(&name).unwrap().nlink(), 2);
        one.remove().unwrap();
        assert!(!rxq.root().join("one").exists() && name.exists());
    }

    /// As `px clean` does, and every other cleaner.
    #[test]
    fn a_directory_that_is_removed_while_it_is_empty_is_made_again() {
        let (_dir, rxq, db) = trees();
        let source = dropped(&rxq, "one", "1");
        let directory = db.root().join("3/2026112117");
        let is_done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_done.load(std::sync::atomic::Ordering::Relaxed) {
                    drop(fs::remove_dir(&directory)); // mostly it is not there, or not empty
                }
            });
            for _ in 0..500 {
                let (linked, _) = db.link(&source, &[b"3", b"2026112117"], b"name").unwrap();
                assert_eq!(linked, Linked::New);
                fs::remove_file(directory.join("name")).unwrap();
            }
            is_done.store(true, std::sync::atomic::Ordering::Relaxed);
        });
    }

    #[test]
    fn its_directories_are_sticky_whatever_the_umask() {
        let (_dir, rxq, db) = trees();
        let source = dropped(&rxq, "one", "1");
        db.link(&source, &[b"a", b"b"], b"name").unwrap();
        for made in ["a", "a/b"] {
            let mode = fs::metadata(db.root().join(made)).unwrap().permissions().mode();
            assert_eq!(mode & 0o7777, 0o1775, "{made}");
        }
    }

    #[test]
    fn hostile_parts_are_the_messages_fault() {
        let (dir, rxq, db) = trees();
        let source = dropped(&rxq, "one", "1");
        symlink(dir.path(), db.root().join("out")).unwrap();
        let long = [b'n'; 256];
        let bad: [(&[&[u8]], &[u8]); 8] = [
            (&[b".."], b"x"),
            (&[b"."], b"x"),
            (&[b""], b"x"),
            (&[b"a/../.."], b"x"),
            (&[b"a\0"], b"x"),
            (&[&long], b"x"),
            (&[b"a"], &long),
            (&[b"out"], b"x"),
        ];
        for (parents, name) in bad {
            let error = db.link(&source, parents, name).unwrap_err();
            assert_eq!(error.fault, Fault::Message, "{error}");
        }
        assert!(!dir.path().join("x").exists());
    }

    #[test]
    fn a_draft_takes_a_free_name_only_and_stays_locked() {
        let (_dir, rxq, _) = trees();
        let draft = |bytes: &[u8]| {
            let mut draft = rxq.create(b"name").unwrap();
            draft.write_all(bytes).unwrap();
            draft
        };
        let first = draft(b"first").place_new(Durability::Power).unwrap().unwrap();
        let second = draft(b"second").place_new(Durability::Crash).unwrap().unwrap_err();
        assert_eq!(fs::read(rxq.root().join("name")).unwrap(), b"first");
        assert!(rxq.source(b"name").unwrap_err().what.contains("somebody else"));
        first.remove().unwrap();
        let second = second.place_new(Durability::Power).unwrap().unwrap();
        assert_eq!((second.bytes(), second.name()), (6, &b"name"[..]));
        assert_eq!(lease::writers_of(second.file().as_fd()), lease::Writers::None);
        drop(second);
        let again = rxq.source(b"name").unwrap().unwrap();
        assert_eq!(fs::read_dir(rxq.root()).unwrap().count(), 1);
        // Another file has come in its place: that one stays.
        fs::rename(rxq.root().join("name"), rxq.root().join("moved")).unwrap();
        fs::write(rxq.root().join("name"), "other").unwrap();
        again.remove().unwrap();
        assert!(rxq.root().join("name").exists());
        assert!(rxq.source(b"none").unwrap().is_none());
    }

    /// Its producer has renamed the next one over it: that is a product of its own.
    #[test]
    fn only_the_very_file_that_was_opened_is_linked() {
        let (dir, rxq, db) = trees();
        fs::write(dir.path().join("rxq/a"), "old").unwrap();
        let source = rxq.source(b"a").unwrap().unwrap();
        fs::write(dir.path().join("rxq/new"), "new").unwrap();
        fs::rename(dir.path().join("rxq/new"), dir.path().join("rxq/a")).unwrap();
        let error = db.link(&source, &[b"d"], b"a").unwrap_err();
        assert_eq!(error.fault, Fault::Own, "{error}");
        assert!(!dir.path().join("db/d/a").exists());
        source.remove().unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("rxq/a")).unwrap(), "new");
    }
}
