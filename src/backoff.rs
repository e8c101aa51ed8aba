//! How long to wait before trying again: doubling, capped, with jitter, for ever.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};

/// An endless sequence of waits. Each is between the plain doubling value and twice that.
#[derive(Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    waits: backon::ExponentialBackoff,
}

impl Backoff {
    /// Waits that start at `first` and stay near `longest` once they have grown that far.
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self {
            first,
            longest,
            waits: waits(first, longest),
        }
    }

    /// The next wait, never longer than `longest`.
    pub fn next_wait(&mut self) -> Duration {
        match self.waits.next() {
            Some(wait) => wait.min(self.longest),
            None => self.longest,
        }
    }

    /// Starts over at `first`: call it once something has worked.
    pub fn reset(&mut self) {
        self.waits = waits(self.first, self.longest);
    }
}

fn waits(first: Duration, longest: Duration) -> backon::ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(first)
        .with_max_delay(longest)
        .without_max_times()
        .with_jitter()
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_cap_and_never_end() {
        let longest = Duration::from_secs(8);
        let mut backoff = Backoff::new(Duration::from_millis(100), longest);
        assert!(backoff.next_wait() <= Duration::from_millis(200));
        for _ in 0..10_000 {
            assert!(backoff.next_wait() <= longest);
        }
        assert!(backoff.next_wait() >= Duration::from_secs(4));
        backoff.reset();
        assert!(backoff.next_wait() <= Duration::from_millis(200));
    }
}
