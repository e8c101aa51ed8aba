//! Connections that are kept for the next use: a log-in costs several round trips.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Sessions that nobody uses now, by place: whatever tells servers and users apart, for example `ftp://user@host:21`.
#[derive(Debug)]
pub(super) struct Idle<S> {
    keep: Duration,
    per_place: usize,
    kept: Mutex<HashMap<String, Vec<(Instant, S)>>>,
}

impl<S> Idle<S> {
    /// Keeps up to `per_place` sessions of a place, each for as long as `keep`.
    pub(super) fn new(keep: Duration, per_place: usize) -> Idle<S> {
        Idle {
            keep,
            per_place,
            kept: Mutex::new(HashMap::new()),
        }
    }

    /// The session of this place that was used last. The server may have ended it meanwhile.
    pub(super) fn take(&self, place: &str, now: Instant) -> Option<S> {
        let mut kept = self.fresh(now);
        let sessions = kept.get_mut(place)?;
        let session = sessions.pop().map(|(_, session)| session);
        if sessions.is_empty() {
            kept.remove(place);
        }
        session
    }

    /// Keeps a session that works. One too many is dropped: the one that was not used for longest.
    pub(super) fn give(&self, place: &str, session: S, now: Instant) {
        let mut kept = self.fresh(now);
        let sessions = kept.entry(place.to_owned()).or_default();
        sessions.push((now, session));
        if sessions.len() > self.per_place {
            sessions.remove(0);
        }
    }

    /// What is not too old. The map is whole after every call, so a panic elsewhere does not spoil it.
    fn fresh(&self, now: Instant) -> MutexGuard<'_, HashMap<String, Vec<(Instant, S)>>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|_, sessions| {
            sessions.retain(|(since, _)| now.saturating_duration_since(*since) < self.keep);
            !sessions.is_empty()
        });
        kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_kept_for_its_place_and_for_a_while() {
        let (idle, begun) = (Idle::new(Duration::from_secs(10), 2), Instant::now());
        let at = |seconds| begun + Duration::from_secs(seconds);
        assert_eq!(idle.take("a", at(0)), None);
        for (second, session) in [(0, 1), (1, 2), (2, 3)] {
            idle.give("a", session, at(second));
        }
        assert_eq!(idle.take("b", at(3)), None);
        assert_eq!(idle.take("a", at(3)), Some(3));
        assert_eq!(idle.take("a", at(11)), None, "2 is too old, 1 was one too many");
        assert!(idle.kept.lock().unwrap().is_empty());
    }
}
