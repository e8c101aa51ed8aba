//! Directories of the destination that it does not let px into.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::destination::{REST_FIRST, REST_LONGEST};
use crate::backoff::Backoff;

/// Directories that are remembered as refused.
const REFUSED_MAX: usize = 1000;

struct Refused {
    until: Instant,
    waits: Backoff,
    why: String,
}

/// Those that are refused, and until when each rests.
#[derive(Default)]
pub(super) struct Refusals(HashMap<Vec<u8>, Refused>);

impl Refusals {
    /// Until when nothing may be put into this directory.
    pub(super) fn until(&self, directory: &[u8], now: Instant) -> Option<Instant> {
        let until = self.0.get(directory)?.until;
        (until > now).then_some(until)
    }

    /// It is refused once more, and the server asked for at least so long a rest. Until when it rests.
    pub(super) fn note(&mut self, directory: &[u8], why: String, asked: Option<Duration>, now: Instant) -> Instant {
        if !self.0.contains_key(directory) && self.0.len() >= REFUSED_MAX {
            self.0.retain(|_, refused| refused.until > now);
            if self.0.len() >= REFUSED_MAX {
                return now + REST_LONGEST;
            }
        }
        let refused = self.0.entry(directory.to_vec()).or_insert_with(|| Refused {
            until: now,
            waits: Backoff::new(REST_FIRST, REST_LONGEST),
            why: String::new(),
        });
        if refused.until <= now {
            let wait = refused.waits.next_wait();
            refused.until = now + asked.unwrap_or_default().max(wait);
        }
        refused.why = why;
        refused.until
    }

    /// Products go into it. Whether it was refused before.
    pub(super) fn forget(&mut self, directory: &[u8]) -> bool {
        self.0.remove(directory).is_some()
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Forgets what nothing was tried for since its rest was over: no product waits for it any more. Whether there was
    /// any.
    pub(super) fn forget_old(&mut self, now: Instant) -> bool {
        let count = self.0.len();
        self.0.retain(|_, refused| refused.until + REST_LONGEST > now);
        self.0.len() < count
    }

    /// What is refused and why, on one line; `None` where nothing is.
    pub(super) fn reason(&self, to: &str) -> Option<String> {
        let (directory, refused) = self.0.iter().min_by(|one, other| one.0.cmp(other.0))?;
        let more = match self.0.len() {
            1 => String::new(),
            count => format!(" and {} more directories", count - 1),
        };
        let directory = String::from_utf8_lossy(directory);
        Some(format!(
            "cannot deliver into {directory:?}{more} of {to}: {}",
            refused.why
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_nothing_waits_for_is_shown_no_more() {
        let (mut refusals, now) = (Refusals::default(), Instant::now());
        let until = refusals.note(b"2026/09", "550".into(), None, now);
        assert_eq!(refusals.until(b"2026/09", now), Some(until));
        let later = now + Duration::from_secs(50);
        refusals.note(b"2026/10", "550 closed".into(), None, later);
        assert!(!refusals.forget_old(later));
        let reason = refusals.reason("ftp://u@h").unwrap();
        assert!(reason.contains("\"2026/09\" and 1 more"), "{reason}");
        // The products of the first were purged: it is not tried again.
        assert!(refusals.forget_old(until + REST_LONGEST));
        let reason = refusals.reason("ftp://u@h").unwrap();
        assert_eq!(reason, "cannot deliver into \"2026/10\" of ftp://u@h: 550 closed");
    }
}
