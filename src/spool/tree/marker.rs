//! The moment before a tree's first start, by the clock that stamps the tree's files.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, Mode, OFlags, Stat, Timestamps, UTIME_NOW};
use rustix::io::Errno;
use rustix::time::{ClockId, Timespec, clock_gettime};

use crate::spool::inventory::{Marker, nanoseconds};

/// No file system's clock stands still for longer: FAT counts in steps of 2 s.
const STEP_MAX: Duration = Duration::from_secs(3);

/// Makes a marker file in the tree, and returns when the clock that stamped it has gone on: whatever is made from then
/// on is later than the marker. The file never has a name, or loses it before it is used. Where none can be made, the
/// system's clock stands in, which is the same one for local file systems.
pub(super) fn make(root: BorrowedFd<'_>, path: &Path) -> Marker {
    let root_inode = rustix::fs::fstat(root).ok().map(|stat| stat.st_ino);
    let ctime_ns = match by_file(root) {
        Ok(ctime_ns) => ctime_ns,
        Err(err) => {
            tracing::warn!(
                path = %path.display(),
                "cannot make a file to mark the first start: {err}; the system's clock tells what was there before"
            );
            by_clock()
        }
    };
    Marker { ctime_ns, root_inode }
}

/// For a root that is missing: the system's clock.
pub(super) fn without_root() -> Marker {
    Marker {
        ctime_ns: by_clock(),
        root_inode: None,
    }
}

fn by_file(root: BorrowedFd<'_>) -> Result<i64, Errno> {
    let file = nameless_file(root)?;
    let marker = ctime_ns(&rustix::fs::fstat(&file)?);
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: UTIME_NOW,
    };
    let touch = Timestamps {
        last_access: now,
        last_modification: now,
    };
    wait_until(|| {
        rustix::fs::futimens(&file, &touch)?;
        Ok(ctime_ns(&rustix::fs::fstat(&file)?) > marker)
    })?;
    Ok(marker)
}

fn nameless_file(root: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let mode = Mode::RUSR | Mode::WUSR;
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    match rustix::fs::openat(root, ".", flags | OFlags::TMPFILE, mode) {
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {}
        other => return other,
    }
    let name = format!(".px-marker-{:016x}", fastrand::u64(..));
    let file = rustix::fs::openat(root, &name, flags | OFlags::CREATE | OFlags::EXCL, mode)?;
    rustix::fs::unlinkat(root, &name, AtFlags::empty())?;
    Ok(file)
}

fn by_clock() -> i64 {
    let now = || {
        let now = clock_gettime(ClockId::RealtimeCoarse);
        nanoseconds(now.tv_sec, now.tv_nsec)
    };
    let marker = now();
    // Reading a clock cannot fail, and where it stands still the marker is as good as it gets.
    wait_until(|| Ok(now() > marker)).ok();
    marker
}

fn wait_until(mut is_later: impl FnMut() -> Result<bool, Errno>) -> Result<(), Errno> {
    let deadline = Instant::now() + STEP_MAX;
    while !is_later()? && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// When the file or its names were last changed; nobody can set it back.
pub(super) fn ctime_ns(stat: &Stat) -> i64 {
    nanoseconds(stat.st_ctime, stat.st_ctime_nsec)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::tree::root;
    use std::os::fd::AsFd;

    #[test]
    fn files_are_told_apart_by_the_marker_and_it_leaves_no_trace() {
        for _ in 0..50 {
            let dir = tempfile::tempdir().unwrap();
            std::fs::write(dir.path().join("before"), "x").unwrap();
            let root = root::open(dir.path()).unwrap();
            let marker = make(root.as_fd(), dir.path());
            std::fs::write(dir.path().join("after"), "x").unwrap();
            let ctime = |name: &str| ctime_ns(&root::regular_file(root.as_fd(), name.as_bytes()).unwrap().unwrap());
            assert!(ctime("before") <= marker.ctime_ns && marker.ctime_ns < ctime("after"));
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
        }
    }
}
