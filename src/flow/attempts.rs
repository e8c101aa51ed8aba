//! Attempts for files of a queue that fail by their own fault: counted by version, spaced, and not for ever.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::ATTEMPTS;
use crate::spool::inventory::Version;
use crate::spool::queue::Queued;

/// Before the second attempt, the third and the fourth.
const WAITS: [Duration; ATTEMPTS as usize - 1] = [
    Duration::from_secs(5),
    Duration::from_secs(60),
    Duration::from_secs(600),
];
/// Files whose attempts are counted.
const COUNTED_MAX: usize = 10_000;
/// An attempt that was followed by none for so long was the last: the file has gone by itself.
const FORGOTTEN: Duration = Duration::from_secs(1800);

/// Before the next attempt after so many; `None` after the last.
pub fn wait_after(attempts: u32) -> Option<Duration> {
    WAITS.get(attempts.checked_sub(1)? as usize).copied()
}

struct One {
    count: u32,
    version: Option<Version>,
    last: Instant,
}

/// How often each file has failed.
#[derive(Default)]
pub struct Attempts(HashMap<Vec<u8>, One>);

impl Attempts {
    /// How many attempts this version of a file has had by now; `None` where too many files are counted.
    pub fn note(&mut self, file: &Queued, version: Option<Version>, now: Instant) -> Option<u32> {
        if !self.0.contains_key(file.path()) && self.0.len() >= COUNTED_MAX {
            self.0.retain(|_, one| now.duration_since(one.last) < FORGOTTEN);
            if self.0.len() >= COUNTED_MAX {
                return None;
            }
        }
        let one = self.0.entry(file.path().to_vec()).or_insert(One {
            count: 0,
            version,
            last: now,
        });
        if one.version != version {
            (one.count, one.version) = (0, version);
        }
        one.count += 1;
        one.last = now;
        Some(one.count)
    }

    /// It has had its last attempt.
    pub fn forget(&mut self, file: &Queued) {
        self.0.remove(file.path());
    }

    /// Lists for a program: files with which nothing has failed together, each other one alone, so that none suffers
    /// from another more than once.
    pub fn apart<T>(&self, files: Vec<T>, key: impl Fn(&T) -> (&Queued, Option<Version>)) -> Vec<Vec<T>> {
        let has_failed = |one: &T| {
            let (file, version) = key(one);
            let known = self.0.get(file.path()).map(|one| one.version);
            known.is_some_and(|known| known.is_none() || version.is_none() || known == version)
        };
        let (again, fresh): (Vec<T>, Vec<T>) = files.into_iter().partition(has_failed);
        let fresh = std::iter::once(fresh).filter(|fresh| !fresh.is_empty());
        fresh.chain(again.into_iter().map(|one| vec![one])).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::queue::{Options, Order, Queue, Shape};

    #[test]
    fn a_file_has_four_attempts_further_and_further_apart() {
        let waits: Vec<Option<u64>> = (0..=5).map(|n| wait_after(n).map(|wait| wait.as_secs())).collect();
        assert_eq!(waits, [None, Some(5), Some(60), Some(600), None, None]);
    }

    #[test]
    fn a_file_that_has_failed_is_asked_about_alone() {
        let dir = tempfile::tempdir().unwrap();
        let options = Options {
            shape: Shape::Flat,
            order: Order::Priority,
            batch: 1,
            min_age: Duration::ZERO,
        };
        let queue = Queue::open(dir.path(), options).unwrap();
        let file = |name: &str| queue.file(name.as_bytes());
        let mut attempts = Attempts::default();
        let apart = |attempts: &Attempts| -> Vec<Vec<String>> {
            let files = ["a", "b", "c", "d"].map(file).to_vec();
            let lists = attempts.apart(files, |file| (file, None));
            let name = |file: &Queued| String::from_utf8_lossy(file.name()).into_owned();
            lists.iter().map(|list| list.iter().map(name).collect()).collect()
        };
        assert_eq!(apart(&attempts), [["a", "b", "c", "d"]]);
        assert_eq!(attempts.note(&file("b"), None, Instant::now()), Some(1));
        assert_eq!(attempts.note(&file("d"), None, Instant::now()), Some(1));
        assert_eq!(attempts.note(&file("d"), None, Instant::now()), Some(2));
        assert_eq!(apart(&attempts), [vec!["a", "c"], vec!["b"], vec!["d"]]);
        attempts.forget(&file("b"));
        assert_eq!(apart(&attempts), [vec!["a", "b", "c"], vec!["d"]]);
    }
}
