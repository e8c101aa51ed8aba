//! Files that a writer never closes: told of once each, for nobody else would notice that they wait.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// A writer that takes longer has probably forgotten its file.
const LONG: Duration = Duration::from_secs(600);
/// A file that was not seen for so long is closed, or gone.
const UNSEEN: Duration = Duration::from_secs(120);
/// Files that are remembered.
const FILES_MAX: usize = 10_000;

struct Seen {
    first: Instant,
    last: Instant,
    is_told: bool,
}

/// Remembers since when files are being written.
#[derive(Default)]
pub(super) struct Written(HashMap<Vec<u8>, Seen>);

impl Written {
    /// A file is being written now. Whether that is worth a word.
    pub(super) fn is_overdue(&mut self, path: &[u8], now: Instant) -> bool {
        if !self.0.contains_key(path) {
            self.0.retain(|_, seen| now.duration_since(seen.last) < UNSEEN);
            if self.0.len() >= FILES_MAX {
                return false;
            }
        }
        let seen = self.0.entry(path.to_vec()).or_insert(Seen {
            first: now,
            last: now,
            is_told: false,
        });
        if now.duration_since(seen.last) >= UNSEEN {
            seen.first = now;
            seen.is_told = false;
        }
        seen.last = now;
        let is_overdue = !seen.is_told && now.duration_since(seen.first) >= LONG;
        seen.is_told |= is_overdue;
        is_overdue
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_never_closed_is_told_of_once_after_ten_minutes() {
        let (mut written, begun) = (Written::default(), Instant::now());
        let mut told_at = |path: &[u8], seconds: std::ops::Range<u64>| -> Vec<u64> {
            let overdue = |second: &u64| written.is_overdue(path, begun + Duration::from_secs(*second));
            seconds.filter(overdue).collect()
        };
        assert_eq!(told_at(b"a", 0..1500), [600]);
        // Closed, and written once more under its old name.
        assert_eq!(told_at(b"a", 2000..2700), [2600]);
        assert!(told_at(b"b", 2700..2800).is_empty());
    }
}
