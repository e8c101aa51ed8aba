//! Every counter px keeps, by name, in one place.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

pub mod race;

pub use race::Race;

/// A thing that is counted. The names are part of `status.json` and stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
#[allow(missing_docs)] // NAMES and the manual say what each is
pub enum Count {
    Announced,
    Received,
    Forwarded,
    Fetched,
    FetchedBytes,
    Delivered,
    DeliveredBytes,
    Suppressed,
    Rejected,
    Invalid,
    Purged,
    FromAlternates,
    Ignored,
    Skipped,
    Superseded,
    Parked,
    Failed,
    Retried,
    Unroutable,
    NoKey,
    EvictedEarly,
    Unnameable,
    Overflows,
    Rescans,
    Reconnects,
    Quarantined,
    Adopted,
    Ingested,
    IngestedBytes,
    Queued,
    Learned,
}

const NAMES: [&str; 31] = [
    "announced",
    "received",
    "forwarded",
    "fetched",
    "fetched_bytes",
    "delivered",
    "delivered_bytes",
    "suppressed",
    "rejected",
    "invalid",
    "purged",
    "from_alternates",
    "ignored",
    "skipped",
    "superseded",
    "parked",
    "failed",
    "retried",
    "unroutable",
    "no_key",
    "evicted_early",
    "unnameable",
    "overflows",
    "rescans",
    "reconnects",
    "quarantined",
    "adopted",
    "ingested",
    "ingested_bytes",
    "queued",
    "learned",
];

/// Steps per doubling of the latency histogram: a quantile is right to about 9 %.
const STEPS_PER_OCTAVE: u32 = 8;
const BUCKETS: usize = 40 * STEPS_PER_OCTAVE as usize;

/// The counters of one unit. Shared by reference; every call is one atomic addition, but those of `race`.
#[derive(Debug, Default)]
pub struct Metrics {
    counts: [AtomicU64; NAMES.len()],
    latency: Histogram,
    /// Which of redundant sources is first, and where they disagree.
    pub race: Race,
}

impl Metrics {
    /// Counts one.
    pub fn count(&self, what: Count) {
        self.add(what, 1);
    }

    /// Counts many.
    pub fn add(&self, what: Count, how_many: u64) {
        self.counts[what as usize].fetch_add(how_many, Ordering::Relaxed);
    }

    /// The count so far.
    pub fn get(&self, what: Count) -> u64 {
        self.counts[what as usize].load(Ordering::Relaxed)
    }

    /// Every counter with its name, in a fixed order.
    pub fn all(&self) -> impl Iterator<Item = (&'static str, u64)> {
        NAMES
            .into_iter()
            .zip(self.counts.iter().map(|count| count.load(Ordering::Relaxed)))
    }

    /// Notes how long one product took from its announcement (or its close) to its being safe here.
    pub fn latency(&self, took: Duration) {
        self.latency.note(took);
    }

    /// The latency below which `share` (0..=1) of the products stayed; `None` before the first.
    pub fn latency_quantile(&self, share: f64) -> Option<Duration> {
        self.latency.quantile(share)
    }
}

/// How long things took, right to about 9 %.
#[derive(Debug)]
struct Histogram(Box<[AtomicU64]>);

impl Default for Histogram {
    fn default() -> Self {
        Histogram((0..BUCKETS).map(|_| AtomicU64::new(0)).collect())
    }
}

impl Histogram {
    fn note(&self, took: Duration) {
        self.0[bucket(took)].fetch_add(1, Ordering::Relaxed);
    }

    /// That below which `share` (0..=1) of them stayed; `None` before the first.
    fn quantile(&self, share: f64) -> Option<Duration> {
        let counts: Vec<u64> = self.0.iter().map(|c| c.load(Ordering::Relaxed)).collect();
        let total: u64 = counts.iter().sum();
        let rank = (total as f64 * share).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (index, count) in counts.into_iter().enumerate() {
            seen += count;
            if count > 0 && seen >= rank {
                return Some(upper_edge(index));
            }
        }
        None
    }
}

fn bucket(took: Duration) -> usize {
    let micros = took.as_micros().clamp(1, u128::from(u64::MAX)) as f64;
    let index = (micros.log2() * f64::from(STEPS_PER_OCTAVE)) as usize;
    index.min(BUCKETS - 1)
}

fn upper_edge(index: usize) -> Duration {
    let micros = 2f64.powf((index as f64 + 1.0) / f64::from(STEPS_PER_OCTAVE));
    Duration::from_micros(micros as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_right_to_a_tenth() {
        let metrics = Metrics::default();
        assert_eq!(metrics.latency_quantile(0.5), None);
        for ms in 1..=1000 {
            metrics.latency(Duration::from_millis(ms));
        }
        let half = metrics.latency_quantile(0.5).unwrap().as_secs_f64();
        assert!((0.45..=0.55).contains(&half), "{half}");
    }

    #[test]
    fn every_counter_has_a_name() {
        let metrics = Metrics::default();
        metrics.count(Count::Queued);
        assert_eq!(metrics.all().last(), Some(("learned", 0)));
    }
}
