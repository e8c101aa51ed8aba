//! What copies tell of their sources: who was first, by how much, and whether they say the same of a product.

use std::sync::Arc;
use std::time::Duration;

use tracing::warn;

use crate::flow::consume::Input;
use crate::flow::sample::Sampler;
use crate::message::{Announcement, Fingerprint};
use crate::metrics::Metrics;
use crate::metrics::race::Difference;
use crate::spool::seen::{Disagreement, Winner};

/// Counts races and disagreements, and says the latter.
pub(super) struct Sources {
    metrics: Arc<Metrics>,
    samples: Sampler,
}

impl Sources {
    pub fn new(metrics: &Arc<Metrics>) -> Sources {
        Sources {
            metrics: Arc::clone(metrics),
            samples: Sampler::default(),
        }
    }

    /// A copy of what `winner` announced. One that was delivered before has been counted, or is too late to tell.
    pub fn note(&self, input: &Input, copy: &Announcement, winner: &Winner) {
        if winner.is_own || input.redelivered {
            return;
        }
        let lead = Duration::try_from(input.first_seen.duration_since(winner.came)).unwrap_or_default();
        let source = copy.source();
        let Some(found) = &winner.disagreement else {
            self.metrics.race.note(&winner.source, &source, lead, None);
            return;
        };
        let name = String::from_utf8_lossy(copy.path.file_name());
        let difference = Difference {
            name: &name,
            sizes: found.sizes,
            digests: found.contents.map(|both| both.map(|content| content.value)),
        };
        self.metrics.race.note(&winner.source, &source, lead, Some(&difference));
        let (one, other) = (&*winner.source, source.as_str());
        if let Some(unsaid) = self.samples.rarely((one.min(other), one.max(other))) {
            let (sizes, digests) = words(found);
            warn!(%name, first = one, then = other, sizes, digests, unsaid, "two sources disagree about a product");
        }
    }
}

/// The winner's and the copy's; `-` for what one does not have, or what cannot be compared.
fn words(found: &Disagreement) -> (String, String) {
    let size = |size: Option<u64>| size.map_or("-".to_owned(), |size| size.to_string());
    let digest = |content: Option<Fingerprint>| content.map_or("-".to_owned(), |content| content.to_string());
    let [one, other] = found.sizes;
    let digests = found.contents.map_or([None, None], |both| both.map(Some));
    (
        format!("{} {}", size(one), size(other)),
        format!("{} {}", digest(digests[0]), digest(digests[1])),
    )
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::message::Envelope;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millisecond(1_800_000_000_000 + ms).unwrap()
    }

    #[test]
    fn only_copies_of_another_source_that_come_for_the_first_time_are_races() {
        let metrics = Arc::default();
        let sources = Sources::new(&metrics);
        let copy = Announcement::new("http://urp-2/", "a/b".into()).unwrap();
        let winner = Winner {
            source: "urp-1:80".into(),
            is_own: false,
            came: at(0),
            disagreement: None,
        };
        let came = |ms: i64| Input {
            envelope: Envelope::default(),
            redelivered: false,
            attempts: 0,
            first_seen: at(ms),
        };
        let own = Winner {
            is_own: true,
            ..winner.clone()
        };
        let redelivered = Input {
            redelivered: true,
            ..came(50)
        };
        sources.note(&came(50), &copy, &own);
        sources.note(&redelivered, &copy, &winner);
        assert_eq!(metrics.race.standings(), []);
        // One that came before the winner had been delayed; it was not first all the same.
        for ms in [50, 50, -10] {
            sources.note(&came(ms), &copy, &winner);
        }
        let [winner, copy] = &metrics.race.standings()[..] else {
            panic!()
        };
        assert_eq!(
            (winner.first, winner.contested, copy.first, copy.contested),
            (3, 3, 0, 3)
        );
        let lead = winner.lead_s.p50.unwrap();
        assert!((0.05..0.055).contains(&lead), "{lead}");
    }
}
