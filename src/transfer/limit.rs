//! Rests: a host that failed is left alone for a while, so that one dead server does not hold up the work for others.

use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use lru::LruCache;

/// Hosts remembered; a message may name any.
const PLACES: NonZeroUsize = NonZeroUsize::new(1024).unwrap();
/// A host may ask for this long a rest at most.
const ASKED_MAX: Duration = Duration::from_secs(3600);

/// Which places rest, and until when. Pure: the time comes in.
#[derive(Debug)]
pub struct CoolDown {
    first: Duration,
    longest: Duration,
    places: LruCache<String, Rest>,
}

#[derive(Debug, Clone, Copy)]
struct Rest {
    until: Instant,
    wait: Duration,
}

impl CoolDown {
    /// Rests start at `first` and double up to `longest`.
    pub fn new(first: Duration, longest: Duration) -> CoolDown {
        CoolDown {
            first,
            longest,
            places: LruCache::sparse(PLACES),
        }
    }

    /// How long the place still rests; `None` when it may be tried.
    pub fn left(&self, place: &str, now: Instant) -> Option<Duration> {
        let left = self.places.peek(place)?.until.saturating_duration_since(now);
        (!left.is_zero()).then_some(left)
    }

    /// The place failed. Failures of what was in flight when the rest began do not prolong it; what the place itself
    /// `asked` for counts always.
    pub fn note_fault(&mut self, place: &str, asked: Option<Duration>, now: Instant) {
        let rest = match self.places.peek(place) {
            Some(rest) if rest.until > now => *rest,
            Some(rest) => self.next_rest((rest.wait * 2).min(self.longest), now),
            None => self.next_rest(self.first, now),
        };
        let asked_until = asked.map_or(now, |asked| now + asked.min(ASKED_MAX));
        let until = rest.until.max(asked_until);
        self.places.put(place.to_owned(), Rest { until, ..rest });
    }

    /// The place works.
    pub fn note_success(&mut self, place: &str) {
        self.places.pop(place);
    }

    fn next_rest(&self, wait: Duration, now: Instant) -> Rest {
        Rest {
            until: now + wait,
            wait,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn rests_double_to_the_longest_and_end_with_a_success() {
        let mut cool = CoolDown::new(S, 5 * S);
        let mut now = Instant::now();
        for wait in [1, 2, 4, 5, 5] {
            assert_eq!(cool.left("a", now), None);
            cool.note_fault("a", None, now);
            cool.note_fault("a", None, now + S / 2);
            assert_eq!(cool.left("a", now), Some(wait * S));
            assert_eq!(cool.left("b", now), None, "others go on");
            now += wait * S;
        }
        cool.note_success("a");
        cool.note_fault("a", None, now);
        assert_eq!(cool.left("a", now), Some(S));
    }

    #[test]
    fn what_the_host_asks_for_counts_within_an_hour() {
        let mut cool = CoolDown::new(S, 5 * S);
        let now = Instant::now();
        cool.note_fault("a", None, now);
        cool.note_fault("a", Some(120 * S), now);
        assert_eq!(cool.left("a", now), Some(120 * S));
        cool.note_fault("b", Some(Duration::from_secs(u64::MAX)), now);
        assert_eq!(cool.left("b", now), Some(ASKED_MAX));
    }

    #[test]
    fn hosts_without_number_take_bounded_room() {
        let mut cool = CoolDown::new(S, S);
        let now = Instant::now();
        for n in 0..5000 {
            cool.note_fault(&format!("host-{n}"), None, now);
        }
        assert_eq!(cool.places.len(), PLACES.get());
    }
}
