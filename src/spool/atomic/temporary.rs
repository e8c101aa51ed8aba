//! Temporary files: how px names them, and how it is known that their writer lives.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

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

/// Whether px has given this name to a temporary file.
pub(in crate::spool) fn is_temporary(name: &[u8]) -> bool {
    let is_hex = |part: &[u8]| !part.is_empty() && part.iter().all(u8::is_ascii_hexdigit);
    let Some(middle) = name.strip_prefix(b".px-").and_then(|rest| rest.strip_suffix(b".tmp")) else {
        return false;
    };
    match middle.split_at_checked(16) {
        Some((process, [b'-', next @ ..])) => is_hex(process) && is_hex(next),
        _ => false,
    }
}
