//! Rests: a host that failed is left alone for a while, so that one dead server does not hold up the work for others.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use lru::LruCache;

/// Hosts remembered; a message may name any.
const PLACES: NonZeroUsize = NonZeroUsize::new(1024).unwrap();
/// A host may ask for this long a rest at most.
const ASKED_MAX: Duration = Duration::from_secs(3600);

/// URLs remembered as tried at a place that is unwell.
const TRIED_MAX: usize = 64;

/// Which places rest, and until when. Pure: the time comes in.
#[derive(Debug)]
pub struct CoolDown {
    first: Duration,
    longest: Duration,
    places: LruCache<String, Rest>,
}

#[derive(Debug, Clone)]
struct Rest {
    until: Instant,
    wait: Duration,
    /// URLs that failed since the place last worked, and when each last stood back for others.
    tried: HashMap<u64, Option<Instant>>,
    /// When a URL that was not tried yet was last turned away.
    turned_away: Option<Instant>,
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

    /// Whether the URL with this hash may be tried at the place; else how long it should wait at least. After a rest,
    /// what has failed stands back once for what was turned away meanwhile: one bad product, always first to come
    /// back, must not keep the others of its host from being tried.
    pub fn turn(&mut self, place: &str, url: u64, now: Instant) -> Result<(), Duration> {
        let Some(rest) = self.places.peek_mut(place) else {
            return Ok(());
        };
        let has_failed = rest.tried.contains_key(&url);
        if rest.until > now {
            if !has_failed {
                rest.turned_away = Some(now);
            }
            return Err(rest.until - now);
        }
        match rest.tried.get_mut(&url) {
            Some(stood_back) if rest.turned_away.is_some() && *stood_back < rest.turned_away => {
                *stood_back = Some(now);
                Err(Duration::ZERO)
            }
            _ => Ok(()),
        }
    }

    /// The place failed this URL. Failures of what was in flight when the rest began do not prolong it; what the place
    /// itself `asked` for counts always.
    pub fn note_fault(&mut self, place: &str, url: u64, asked: Option<Duration>, now: Instant) {
        let (first, longest) = (self.first, self.longest);
        let rest = self.places.get_or_insert_mut(place.to_owned(), || Rest {
            until: now,
            wait: Duration::ZERO,
            tried: HashMap::new(),
            turned_away: None,
        });
        if rest.until <= now {
            rest.wait = (rest.wait * 2).clamp(first, longest);
            rest.until = now + rest.wait;
        }
        let asked_until = asked.map_or(now, |asked| now + asked.min(ASKED_MAX));
        rest.until = rest.until.max(asked_until);
        if rest.tried.len() < TRIED_MAX {
            rest.tried.entry(url).or_default();
        }
    }

    /// The place works.
    pub fn note_success(&mut self, place: &str) {
        self.places.pop(place);
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
            cool.note_fault("a", 1, None, now);
            cool.note_fault("a", 1, None, now + S / 2);
            assert_eq!(cool.left("a", now), Some(wait * S));
            assert_eq!(cool.left("b", now), None, "others go on");
            now += wait * S;
        }
        cool.note_success("a");
        cool.note_fault("a", 1, None, now);
        assert_eq!(cool.left("a", now), Some(S));
    }

    #[test]
    fn bad_urls_stand_back_for_one_that_was_turned_away() {
        let mut cool = CoolDown::new(S, 60 * S);
        let mut now = Instant::now();
        let (bad, worse, good) = (1, 2, 3);
        cool.note_fault("a", bad, None, now);
        let mut is_tried = false;
        // They come back together, the bad ones first each time.
        for _ in 0..3 {
            for url in [bad, worse, good] {
                now += S / 1000;
                match cool.turn("a", url, now) {
                    Ok(()) if url == good => is_tried = true,
                    Ok(()) => cool.note_fault("a", url, None, now),
                    Err(_) => {}
                }
            }
            now += 60 * S;
        }
        assert!(is_tried);
    }

    #[test]
    fn what_failed_stands_back_once_only() {
        let mut cool = CoolDown::new(S, S);
        let now = Instant::now();
        cool.note_fault("a", 1, None, now);
        assert_eq!(cool.turn("a", 2, now), Err(S));
        let later = now + 5 * S;
        assert_eq!(cool.turn("a", 1, later), Err(Duration::ZERO));
        assert_eq!(cool.turn("a", 1, later), Ok(()), "nobody else has come");
        assert_eq!(cool.turn("b", 1, later), Ok(()));
    }

    #[test]
    fn what_the_host_asks_for_counts_within_an_hour() {
        let mut cool = CoolDown::new(S, 5 * S);
        let now = Instant::now();
        cool.note_fault("a", 1, None, now);
        cool.note_fault("a", 1, Some(120 * S), now);
        assert_eq!(cool.left("a", now), Some(120 * S));
        cool.note_fault("b", 1, Some(Duration::from_secs(u64::MAX)), now);
        assert_eq!(cool.left("b", now), Some(ASKED_MAX));
    }

    #[test]
    fn hosts_without_number_take_bounded_room() {
        let mut cool = CoolDown::new(S, S);
        let now = Instant::now();
        for n in 0..5000 {
            cool.note_fault(&format!("host-{n}"), 1, None, now);
        }
        assert_eq!(cool.places.len(), PLACES.get());
    }
}
