//! Who runs a unit: the truth is a `flock` on `run/UNIT.lock`. The file is never unlinked; its text is the holder's
//! pid.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;

/// `px status` holds the lock for a moment to look at it; a starter waits that long.
const LOOKERS: Duration = Duration::from_secs(1);

/// Held for as long as the unit runs. The kernel frees it however the process ends.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// Takes the lock and writes our pid. `Ok(None)`: another process has it.
pub fn take(path: &Path) -> anyhow::Result<Option<Lock>> {
    let mut file = open(path)?;
    let deadline = Instant::now() + LOOKERS;
    loop {
        match file.try_lock() {
            Ok(()) => break,
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock {}", path.display()));
            }
        }
    }
    let written = file
        .set_len(0)
        .and_then(|()| file.seek(SeekFrom::Start(0)))
        .and_then(|_| write!(file, "{}", std::process::id()));
    written.with_context(|| format!("cannot write {}", path.display()))?;
    Ok(Some(Lock { _file: file }))
}

/// The pid of the process that runs the unit; `None` when none does.
pub fn holder(path: &Path) -> anyhow::Result<Option<u32>> {
    let mut file = match OpenOptions::new().read(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot open {}", path.display())),
    };
    let deadline = Instant::now() + LOOKERS;
    loop {
        match file.try_lock_shared() {
            Ok(()) => return Ok(None),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot look at {}", path.display()));
            }
        }
        let mut text = String::new();
        file.seek(SeekFrom::Start(0))?;
        file.read_to_string(&mut text)?;
        if let Ok(pid) = text.trim().parse() {
            return Ok(Some(pid));
        }
        // The holder is between taking the lock and writing its pid.
        if Instant::now() >= deadline {
            anyhow::bail!("{} is locked, but holds no pid", path.display());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn open(path: &Path) -> anyhow::Result<File> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    }
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .with_context(|| format!("cannot open {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_tells_who_runs_and_outlives_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/rx_a.lock");
        assert_eq!(holder(&path).unwrap(), None);
        let lock = take(&path).unwrap().unwrap();
        assert_eq!(holder(&path).unwrap(), Some(std::process::id()));
        assert!(take(&path).unwrap().is_none());
        drop(lock);
        assert_eq!(holder(&path).unwrap(), None);
        assert!(path.exists());
        assert!(take(&path).unwrap().is_some());
    }
}
