//! Whether a writer holds a file: a read lease is refused while one does.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Once;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::root;

/// What a lease tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::spool) enum Writers {
    /// Nobody has the file open for writing.
    None,
    /// Somebody has.
    Some,
    /// The file is gone.
    Gone,
    /// Leases are refused here: not our file, or a file system without leases.
    Unknown,
}

/// Takes a read lease and gives it back at once. A writer that opens the file in those microseconds is held up by the
/// kernel until the lease is gone.
pub(super) fn writers(root: BorrowedFd<'_>, path: &[u8]) -> Writers {
    // Without NONBLOCK, opening would wait for somebody else's write lease.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = match root::open_beneath(root, path, flags, Mode::empty()) {
        Ok(file) => file,
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Writers::Gone,
        Err(Errno::AGAIN) => return Writers::Some,
        Err(_) => return Writers::Unknown,
    };
    writers_of(file.as_fd())
}

/// The same for a file that is open for reading.
pub(in crate::spool) fn writers_of(file: BorrowedFd<'_>) -> Writers {
    match set_lease(file, libc::F_RDLCK) {
        Ok(()) => {}
        Err(Errno::AGAIN) => return Writers::Some,
        Err(_) => return Writers::Unknown,
    }
    match set_lease(file, libc::F_UNLCK) {
        Ok(()) => Writers::None,
        Err(_) => Writers::Unknown,
    }
}

/// rustix has no leases.
fn set_lease(file: BorrowedFd<'_>, kind: libc::c_int) -> Result<(), Errno> {
    static IGNORE_SIGIO: Once = Once::new();
    // SAFETY: SIG_IGN is a valid disposition for SIGIO and involves no handler; fcntl with F_SETLEASE takes an int and
    // touches no memory; the descriptor is borrowed and thus open.
    let result = unsafe {
        // A writer that waits for the lease makes the kernel send SIGIO, which would end the process.
        IGNORE_SIGIO.call_once(|| {
            libc::signal(libc::SIGIO, libc::SIG_IGN);
        });
        libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, kind)
    };
    if result == 0 {
        return Ok(());
    }
    Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_writer_is_seen_for_as_long_as_it_holds_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let root = root::open(dir.path()).unwrap();
        assert_eq!(writers(root.as_fd(), b"a"), Writers::Gone);
        let file = fs::File::create(dir.path().join("a")).unwrap();
        assert_eq!(writers(root.as_fd(), b"a"), Writers::Some);
        drop(file);
        assert_eq!(writers(root.as_fd(), b"a"), Writers::None);
        let reader = fs::File::open(dir.path().join("a")).unwrap();
        assert_eq!(writers(root.as_fd(), b"a"), Writers::None);
        drop(reader);
    }
}
