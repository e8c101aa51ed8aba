//! Who is there. Every connection holds a lock on `PATH.d/NAME.lock` as long as its process lives, frozen or not, and
//! listens on the datagram socket `PATH.d/NAME.sock`, where one byte says "look at the file".
//!
//! NAME is in the file's table of owners from after the lock was taken until the connection has closed or has been
//! found dead. Names are never used twice, so a process id that is, does no harm.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::reason::Reason;
use super::schema;

/// What fits into a socket address, with its closing NUL.
const ADDRESS_MAX: usize = 107;
/// A cleaner can take a fresh lock file for a forgotten one; then the next name is tried.
const NAMES_TRIED_MAX: usize = 16;
const LOCK: &str = ".lock";
const SOCKET: &str = ".sock";

/// This connection among the others.
pub(super) struct Presence {
    /// What claims carry.
    pub name: String,
    directory: OwnedFd,
    path: PathBuf,
    socket: UnixDatagram,
    // Locked; freed by the kernel however the process ends.
    _lock: OwnedFd,
}

/// The lock of a dead connection, held so that only one cleaner takes its place.
pub(super) struct DeadLock {
    _lock: Option<OwnedFd>,
}

impl Presence {
    /// Takes a name in the companion directory of the broker's file.
    pub fn join(file: &Path) -> Result<Presence, Reason> {
        let path = schema::companion(file);
        let failed = |error: Errno| Reason::os(&format!("join {}", path.display()), error);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(&path, flags, Mode::empty()).map_err(failed)?;
        for _ in 0..NAMES_TRIED_MAX {
            let name = format!("{}-{:016x}", std::process::id(), fastrand::u64(..));
            let Some(lock) = take_lock(&directory, &name).map_err(failed)? else {
                continue;
            };
            let address = address(&path, directory.as_fd(), &name);
            let socket = UnixDatagram::bind(&address)
                .and_then(|socket| socket.set_nonblocking(true).map(|()| socket))
                .map_err(|error| Reason::os(&format!("listen in {}", path.display()), error))?;
            return Ok(Presence {
                name,
                directory,
                path,
                socket,
                _lock: lock,
            });
        }
        Err(Reason::endpoint(format!(
            "cannot find a free name in {}",
            path.display()
        )))
    }

    /// The lock of another connection, if it is free: its process is dead. Anything unclear counts as alive.
    pub fn probe(&self, name: &str) -> Option<DeadLock> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(&self.directory, format!("{name}{LOCK}"), flags, Mode::empty()) {
            Ok(lock) => {
                let free = rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok();
                free.then_some(DeadLock { _lock: Some(lock) })
            }
            // Somebody emptied the directory: what its owner had is delivered again, which is safe.
            Err(Errno::NOENT) => Some(DeadLock { _lock: None }),
            Err(_) => None,
        }
    }

    /// Removes the files of a connection that is no longer in the table of owners.
    pub fn remove(&self, name: &str) {
        for suffix in [SOCKET, LOCK] {
            // What stays behind is swept by the next connection that joins.
            let _ = rustix::fs::unlinkat(&self.directory, format!("{name}{suffix}"), AtFlags::empty());
        }
    }

    /// Removes the files of processes that died before or after they were in the table of owners.
    pub fn sweep(&self, owners: &[String]) {
        let Ok(entries) = std::fs::read_dir(&self.path) else {
            return; // only tidiness is lost
        };
        for entry in entries.flatten() {
            let file_name = entry.file_name();
            let Some(file_name) = file_name.to_str() else { continue };
            let Some(name) = file_name.strip_suffix(LOCK).or(file_name.strip_suffix(SOCKET)) else {
                continue;
            };
            if name == self.name || owners.iter().any(|owner| owner == name) {
                continue;
            }
            if let Some(dead) = self.probe(name) {
                self.remove(name);
                drop(dead);
            }
        }
    }

    /// Tells another connection to look at the file. One that does not listen, or has been told already, needs none.
    pub fn poke(&self, name: &str) {
        // Lost on a full or stale socket, and then the poll of each second finds what there is.
        let _ = self
            .socket
            .send_to(&[1], address(&self.path, self.directory.as_fd(), name));
    }

    /// Takes in all pokes so far; true if there was one.
    pub fn take_pokes(&self) -> bool {
        let mut poked = false;
        let mut byte = [0];
        while self.socket.recv(&mut byte).is_ok() {
            poked = true;
        }
        poked
    }

    /// Readable when there is a poke.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        // Before the lock is freed. If the owner is still in the table, a missing file says the same as a free lock.
        self.remove(&self.name);
    }
}

/// Makes and locks `NAME.lock`; `None` when the name is taken or a cleaner was faster.
fn take_lock(directory: &OwnedFd, name: &str) -> Result<Option<OwnedFd>, Errno> {
    let file = format!("{name}{LOCK}");
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
    let lock = match rustix::fs::openat(directory, &file, flags, Mode::from_raw_mode(0o644)) {
        Ok(lock) => lock,
        Err(Errno::EXIST) => return Ok(None),
        Err(error) => return Err(error),
    };
    match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => return Ok(None),
        Err(error) => return Err(error),
    }
    // A cleaner may have unlinked it between the two calls; from here on none can.
    match rustix::fs::statat(directory, &file, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(found) if found.st_ino == rustix::fs::fstat(&lock)?.st_ino => Ok(Some(lock)),
        Ok(_) | Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A socket address is short: a long path goes through the open directory.
fn address(path: &Path, directory: BorrowedFd<'_>, name: &str) -> PathBuf {
    let file = format!("{name}{SOCKET}");
    let plain = path.join(&file);
    if plain.as_os_str().len() <= ADDRESS_MAX {
        return plain;
    }
    PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd())).join(file)
}

/// The id of this boot of the machine; empty where there is none.
pub(super) fn boot_id() -> String {
    let mut id = String::new();
    // Without it the leases of expiring queues just do not start anew after a reboot.
    let _ = File::open("/proc/sys/kernel/random/boot_id")
        .and_then(|mut file| std::io::Read::read_to_string(&mut file, &mut id));
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    fn presence(directory: &tempfile::TempDir) -> Presence {
        Presence::join(&directory.path().join("broker.db")).unwrap()
    }

    fn directory() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("broker.db.d")).unwrap();
        directory
    }

    #[test]
    fn a_lock_is_free_only_when_its_owner_is_gone() {
        let directory = directory();
        let (a, b) = (presence(&directory), presence(&directory));
        assert!(a.probe(&b.name).is_none());
        let name = b.name.clone();
        drop(b);
        assert!(a.probe(&name).is_some());
    }

    #[test]
    fn only_one_cleaner_has_the_lock_of_a_dead_owner() {
        let directory = directory();
        let (a, b) = (presence(&directory), presence(&directory));
        std::fs::write(directory.path().join("broker.db.d/1-dead.lock"), b"").unwrap();
        let held = a.probe("1-dead");
        assert!(held.is_some());
        assert!(b.probe("1-dead").is_none());
        drop(held);
        assert!(b.probe("1-dead").is_some());
    }

    #[test]
    fn the_sweep_removes_what_the_dead_left_and_nothing_else() {
        let directory = directory();
        let (a, b) = (presence(&directory), presence(&directory));
        let inside = directory.path().join("broker.db.d");
        for name in [
            "1-dead.lock",
            "1-dead.sock",
            "2-dead.sock",
            "notes.txt",
            schema::OPENING,
        ] {
            std::fs::write(inside.join(name), b"").unwrap();
        }
        a.sweep(&[]);
        let mut left: Vec<String> = std::fs::read_dir(&inside)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| !name.starts_with(&a.name) && !name.starts_with(&b.name))
            .collect();
        left.sort();
        assert_eq!(left, ["notes.txt", schema::OPENING]);
        assert!(a.probe(&b.name).is_none());
    }

    #[test]
    fn a_poke_arrives_even_below_a_very_long_path() {
        let root = tempfile::tempdir().unwrap();
        let deep = root.path().join("d".repeat(200));
        std::fs::create_dir_all(deep.join("broker.db.d")).unwrap();
        let a = Presence::join(&deep.join("broker.db")).unwrap();
        let b = Presence::join(&deep.join("broker.db")).unwrap();
        assert!(!b.take_pokes());
        a.poke(&b.name);
        a.poke("1-nobody");
        assert!(b.take_pokes());
        assert!(!b.take_pokes());
    }
}
