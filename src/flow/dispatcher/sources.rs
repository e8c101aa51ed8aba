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
