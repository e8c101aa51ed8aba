//! Repeated log lines, sampled: the first of each kind each minute, with how many went unsaid.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const EVERY: Duration = Duration::from_secs(60);
/// Lines of one kind before sampling begins.
const FREELY: u32 = 5;
const KINDS_MAX: usize = 256;

#[derive(Default)]
struct Kind {
    since: Option<Instant>,
    said: u32,
    unsaid: u64,
}

/// Remembers what was said lately, by a kind that the caller names.
#[derive(Default)]
pub struct Sampler(Mutex<HashMap<u64, Kind>>);

impl Sampler {
    /// Whether to say it: `Some(n)` yes, and n like it went unsaid before; `None` no. Digits do not make a new kind.
    pub fn take(&self, text: &str) -> Option<u64> {
        self.one_of(kind_of(text), FREELY)
    }

    /// As [`Sampler::take`], once a minute, of what these very values name.
    pub fn rarely(&self, kind: impl Hash) -> Option<u64> {
        let mut hasher = DefaultHasher::new();
        kind.hash(&mut hasher);
        self.one_of(hasher.finish(), 1)
    }

    fn one_of(&self, kind: u64, freely: u32) -> Option<u64> {
        let mut kinds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kinds.len() >= KINDS_MAX {
            kinds.clear();
        }
        let kind = kinds.entry(kind).or_default();
        let now = Instant::now();
        if kind.since.is_none_or(|since| now - since >= EVERY) {
            kind.since = Some(now);
            kind.said = 0;
        }
        kind.said += 1;
        if kind.said <= freely {
            Some(std::mem::take(&mut kind.unsaid))
        } else {
            kind.unsaid += 1;
            None
        }
    }
}

/// The first words of a text, which are the code's own; names and numbers come later.
fn kind_of(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    for word in text.split_whitespace().take(4) {
        if !word.contains(|c: char| c.is_ascii_digit() || c == '/') {
            word.hash(&mut hasher);
        }
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storm_of_one_kind_is_said_five_times_a_minute() {
        let sampler = Sampler::default();
        let said = (0..1000)
            .filter(|n| sampler.take(&format!("cannot fetch http://h/{n}: 404")).is_some())
            .count();
        assert_eq!(said, 5);
        assert_eq!(sampler.take("another thing entirely happened"), Some(0));
    }

    #[test]
    fn what_is_said_rarely_is_said_once_a_minute_for_each() {
        let sampler = Sampler::default();
        for pair in [("urp-1", "urp-2"), ("urp-1", "urp-3")] {
            let said: Vec<u64> = (0..1000).filter_map(|_| sampler.rarely(pair)).collect();
            assert_eq!(said, [0]);
        }
    }
}
