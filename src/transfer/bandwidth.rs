//! So many bytes a second, of all connections of a unit together.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A wait that lasted longer than asked for is made good by up to this much.
const CREDIT: Duration = Duration::from_millis(50);
/// Parts of a second that a share is for: what waits for its turn is small, so that no server finds px silent.
const SHARES: u64 = 8;

/// What a unit may send. Lanes share one.
#[derive(Debug)]
pub(super) struct Bandwidth {
    /// Bytes a second; not zero.
    rate: u64,
    paid: Mutex<Paid>,
}

/// Until when the line is taken by what was sent. Pure: the time comes in.
#[derive(Debug, Clone, Copy)]
struct Paid {
    until: Instant,
}

impl Bandwidth {
    /// Zero bytes a second count as one.
    pub(super) fn new(rate: u64) -> Bandwidth {
        Bandwidth {
            rate: rate.max(1),
            paid: Mutex::new(Paid { until: Instant::now() }),
        }
    }

    /// The most that should be sent at once.
    pub(super) fn share(&self) -> usize {
        usize::try_from(self.rate / SHARES).unwrap_or(usize::MAX).max(1)
    }

    /// Waits until so many bytes may be sent. Dropping the future does not take them back.
    pub(super) async fn pay(&self, bytes: usize) {
        let now = Instant::now();
        // A plain instant is whole after every call, so a panic elsewhere does not spoil it.
        let wait = self
            .paid
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pay(self.rate, bytes, now);
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }
}

impl Paid {
    fn pay(&mut self, rate: u64, bytes: usize, now: Instant) -> Duration {
        let begin = now
            .checked_sub(CREDIT)
            .map_or(self.until, |earliest| self.until.max(earliest));
        self.until = begin + Duration::from_secs_f64(bytes as f64 / rate as f64);
        self.until.saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn bytes_are_spread_over_time() {
        let now = Instant::now();
        let mut paid = Paid { until: now };
        assert_eq!(paid.pay(1000, 100, now), 100 * MS);
        assert_eq!(
            paid.pay(1000, 100, now),
            200 * MS,
            "two lanes at once wait for one another"
        );
        assert_eq!(paid.pay(1000, 100, now + 200 * MS), 100 * MS);
        // 20 ms late: made good.
        assert_eq!(paid.pay(1000, 100, now + 320 * MS), 80 * MS);
        // Long idle: no more than the credit.
        assert_eq!(paid.pay(1000, 100, now + 9000 * MS), 50 * MS);
        assert_eq!(paid.pay(1000, 0, now + 9000 * MS), 50 * MS);
    }

    #[test]
    fn shares_are_small_and_never_nothing() {
        assert_eq!(Bandwidth::new(8000).share(), 1000);
        assert_eq!(Bandwidth::new(0).share(), 1);
    }
}
