//! What a spool no longer needs: empty hours of queues, old days of the database.
//!
//! Nothing here follows a symbolic link, and nothing is in the way of who links products meanwhile: an hour is removed
//! only while it is empty, by the kernel's own judgement, and who links into one makes it again.

use std::ffi::{CStr, OsStr};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use jiff::Zoned;
use jiff::tz::TimeZone;
use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags};
use rustix::io::Errno;

use super::SpoolError;

/// One thing that was removed, would be, or could not be.
#[derive(Debug)]
pub struct Finding {
    /// The directory.
    pub path: PathBuf,
    /// Why it is still there.
    pub error: Option<SpoolError>,
}

impl Finding {
    fn new<E: std::error::Error + Send + Sync + 'static>(path: PathBuf, result: Result<(), E>) -> Finding {
        let what = || format!("cannot remove {}", path.display());
        let error = result.err().map(|error| SpoolError::own(what(), error));
        Finding { path, error }
    }
}

/// Removes empty hours, `PRIO/YYYYMMDDHH`, from a sender's queue, but for the current hour: in UTC, as px and Sundew
/// name them, and in local time, as retransmissions are named. Blocks.
pub fn empty_hours(queue: &Path, now: &Zoned, is_dry: bool) -> Vec<Finding> {
    let now = [now.with_time_zone(TimeZone::UTC), now.clone()].map(|now| now.strftime("%Y%m%d%H").to_string());
    let mut found = Vec::new();
    let priorities = match directory(CWD, queue.as_os_str()) {
        Ok(queue) => queue,
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return found,
        Err(error) => return vec![unreadable(queue, error)],
    };
    for priority in names(&priorities, queue, &mut found) {
        let path = queue.join(OsStr::from_bytes(&priority));
        let hours = match directory(&priorities, OsStr::from_bytes(&priority)) {
            Ok(hours) => hours,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
            Err(error) => {
                found.push(unreadable(&path, error));
                continue;
            }
        };
        for hour in names(&hours, &path, &mut found) {
            let is_current = now.iter().any(|now| now.as_bytes() == hour);
            if is_digits(&hour, 10) && !is_current {
                let name = OsStr::from_bytes(&hour);
                match remove_empty(&hours, name, is_dry) {
                    Ok(false) => {}
                    Ok(true) => found.push(Finding::new(path.join(name), Ok::<(), Errno>(()))),
                    Err(error) => found.push(Finding::new(path.join(name), Err(error))),
                }
            }
        }
    }
    found
}

/// `false` where it is in use, or no directory, or gone.
fn remove_empty(hours: &OwnedFd, name: &OsStr, is_dry: bool) -> Result<bool, Errno> {
    let removed = if is_dry {
        directory(hours, name).and_then(|hour| match entries(&hour)?.is_empty() {
            true => Ok(()),
            false => Err(Errno::NOTEMPTY),
        })
    } else {
        rustix::fs::unlinkat(hours, name, AtFlags::REMOVEDIR)
    };
    match removed {
        Ok(()) => Ok(true),
        Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes the days `YYYYMMDD` of the database that were changed last before this. Blocks.
///
/// A day is renamed first, so that one half of it never looks young: what a killed process left is removed by the next.
pub fn old_days(db: &Path, before: SystemTime, is_dry: bool) -> Vec<Finding> {
    let mut found = Vec::new();
    let days = match directory(CWD, db.as_os_str()) {
        Ok(days) => days,
        Err(Errno::NOENT) => return found,
        Err(error) => return vec![unreadable(db, error)],
    };
    let mut names = names(&days, db, &mut found);
    names.sort();
    for name in names {
        let path = db.join(OsStr::from_bytes(&name));
        let result = match std::fs::symlink_metadata(&path) {
            Ok(there) if !there.is_dir() => continue,
            Ok(_) if is_begun(&name) => remove_all(&path, &path, is_dry),
            Ok(there) if is_digits(&name, 8) => match there.modified() {
                Ok(at) if at < before => {
                    let aside = db.join(OsStr::from_bytes(&begun(&name)));
                    remove_all(&path, &aside, is_dry)
                }
                Ok(_) => continue,
                Err(error) => Err(error),
            },
            Ok(_) => continue,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => Err(error),
        };
        found.push(Finding::new(path, result));
    }
    found
}

const BEGUN: &[u8] = b".px-old";

/// `.20260131.px-old`: the removal of a day has begun.
fn begun(day: &[u8]) -> Vec<u8> {
    [b".", day, BEGUN].concat()
}

fn is_begun(name: &[u8]) -> bool {
    let day = name.strip_prefix(b".").and_then(|name| name.strip_suffix(BEGUN));
    day.is_some_and(|day| is_digits(day, 8))
}

fn remove_all(path: &Path, aside: &Path, is_dry: bool) -> std::io::Result<()> {
    if is_dry {
        return Ok(());
    }
    if path != aside {
        std::fs::rename(path, aside)?;
    }
    std::fs::remove_dir_all(aside)
}

fn is_digits(name: &[u8], count: usize) -> bool {
    name.len() == count && name.iter().all(u8::is_ascii_digit)
}

fn directory(at: impl std::os::fd::AsFd, name: &OsStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(at, name, flags, Mode::empty())
}

/// The names in a directory that may be directories; what keeps it from being read is a finding.
fn names(fd: &OwnedFd, path: &Path, found: &mut Vec<Finding>) -> Vec<Vec<u8>> {
    match entries(fd) {
        Ok(names) => names,
        Err(error) => {
            found.push(unreadable(path, error));
            Vec::new()
        }
    }
}

fn entries(fd: &OwnedFd) -> Result<Vec<Vec<u8>>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(fd)? {
        let entry = entry?;
        let name: &CStr = entry.file_name();
        if !matches!(name.to_bytes(), b"." | b"..") {
            names.push(name.to_bytes().to_owned());
        }
    }
    Ok(names)
}

fn unreadable(path: &Path, error: Errno) -> Finding {
    Finding {
        path: path.to_owned(),
        error: Some(SpoolError::own(format!("cannot read {}", path.display()), error)),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::symlink;
    use std::time::Duration;

    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn now() -> Zoned {
        "2026-11-21T21:03:37[-03:00]".parse().unwrap()
    }

    /// What was found, below the root.
    fn found(findings: &[Finding], root: &Path) -> Vec<String> {
        let mut paths: Vec<String> = findings
            .iter()
            .map(|finding| {
                assert!(finding.error.is_none(), "{finding:?}");
                finding.path.strip_prefix(root).unwrap().display().to_string()
            })
            .collect();
        paths.sort();
        paths
    }

    #[test]
    fn empty_hours_go_and_nothing_else() {
        let queue = tempfile::tempdir().unwrap();
        let root = queue.path();
        let keep = [
            "3/2026112121", // now, local
            "3/2026112200", // now, UTC
            "3/2026112119/sub",
            "3/20261121",
            "3/hour",
            "2026112100",
            "PROBLEM",
        ];
        let empty = ["0/2026112120", "3/2026112120", "3/2026112123", "GIF/2026010100"];
        for path in keep.iter().chain(&empty) {
            fs::create_dir_all(root.join(path)).unwrap();
        }
        fs::create_dir(root.join("3/2026112118")).unwrap();
        File::create(root.join("3/2026112118/product")).unwrap();
        File::create(root.join("3/2026112117")).unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        fs::create_dir(root.join("5")).unwrap();
        symlink(elsewhere.path(), root.join("5/2026112116")).unwrap();
        symlink(root.join("3"), root.join("4")).unwrap();

        assert_eq!(found(&empty_hours(root, &now(), true), root), empty);
        assert_eq!(found(&empty_hours(root, &now(), false), root), empty);
        assert_eq!(found(&empty_hours(root, &now(), false), root), [""; 0]);
        for path in keep.iter().chain(&["3/2026112118/product", "3/2026112117"]) {
            assert!(root.join(path).exists(), "{path}");
        }
        assert!(empty.iter().all(|path| !root.join(path).exists()));
        assert!(root.join("5/2026112116").symlink_metadata().is_ok());
        assert!(empty_hours(&root.join("none"), &now(), false).is_empty());
    }

    fn day(db: &Path, name: &str, age: Duration) {
        let path = db.join(name);
        fs::create_dir_all(path.join("RADAR/URP/XSS")).unwrap();
        File::create(path.join("RADAR/URP/XSS/product")).unwrap();
        touch(&path, age);
    }

    fn touch(path: &Path, age: Duration) {
        File::open(path).unwrap().set_modified(SystemTime::now() - age).unwrap();
    }

    #[test]
    fn days_that_are_old_go_whatever_their_name_says() {
        let root = tempfile::tempdir().unwrap();
        let db = root.path().join("db");
        let before = SystemTime::now() - DAY * 30;
        day(&db, "20260101", DAY * 31);
        day(&db, "20261231", DAY * 31);
        day(&db, ".20260102.px-old", Duration::ZERO); // a killed process left it
        let keep = ["20260103", "today", "yesterday", "202601", "2026010a", ".20260104"];
        day(&db, keep[0], DAY * 29);
        for name in &keep[1..] {
            day(&db, name, DAY * 300);
        }
        day(root.path(), "elsewhere", DAY * 300);
        symlink(root.path().join("elsewhere"), db.join("20260105")).unwrap();
        symlink(root.path().join("elsewhere"), db.join("20260101/RADAR/link")).unwrap();
        touch(&db.join("20260101"), DAY * 31);
        File::create(db.join("20260106")).unwrap();

        let old = [".20260102.px-old", "20260101", "20261231"];
        assert_eq!(found(&old_days(&db, before, true), &db), old);
        assert_eq!(found(&old_days(&db, before, false), &db), old);
        assert_eq!(found(&old_days(&db, before, false), &db), [""; 0]);
        let mut left: Vec<_> = fs::read_dir(&db)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        left.sort();
        let mut kept = [&keep[..], &["20260105", "20260106"]].concat();
        kept.sort();
        assert_eq!(left, kept);
        assert!(root.path().join("elsewhere/RADAR/URP/XSS/product").exists());
        assert!(old_days(&root.path().join("none"), before, false).is_empty());
    }

    #[test]
    fn one_that_cannot_be_removed_does_not_keep_the_others() {
        let root = tempfile::tempdir().unwrap();
        day(root.path(), "20260101", DAY * 31);
        day(root.path(), "20260102", DAY * 31);
        // Something that is no directory is in the way of the rename.
        File::create(root.path().join(".20260101.px-old")).unwrap();
        let findings = old_days(root.path(), SystemTime::now() - DAY, false);
        let errors: Vec<bool> = findings.iter().map(|finding| finding.error.is_some()).collect();
        assert_eq!(errors, [true, false]);
        assert!(root.path().join("20260101").exists() && !root.path().join("20260102").exists());
    }
}
