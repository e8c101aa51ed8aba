//! Every source of a product, softly: read along from the raw inputs, kept for a while, lost with the process.
//!
//! When the first source of a product fails, a pull worker asks here for the others. What is missed here costs
//! nothing but a choice.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::{Unit, consume};
use crate::config::{Broker, Table, options};
use crate::message::{
    Announcement, By, DecodeOptions, Decoded, Envelope, Exchange, Queue, SeenKey, Topology, decode, seen_key,
};

/// Announcements remembered; the oldest makes room.
const KEPT_MAX: usize = 50_000;
/// Sources remembered of one product.
const SOURCES_MAX: usize = 8;
const KEEP: Duration = Duration::from_secs(600);

/// `alternates = { bind = […], keep = "10m" }`.
#[derive(Debug, Clone)]
pub struct Config {
    binds: Vec<options::Bind>,
    keep: Duration,
}

impl Config {
    /// Reads the table.
    pub fn read(table: &mut Table) -> Option<Config> {
        let keep = options::positive_duration(table, "keep").unwrap_or(KEEP);
        Some(Config {
            binds: options::binds(table)?,
            keep,
        })
    }

    /// The exchanges that it binds to; `inputs` where it names none.
    pub fn exchanges<'a>(&'a self, inputs: &'a Exchange) -> impl Iterator<Item = &'a Exchange> {
        self.binds
            .iter()
            .map(move |bind| bind.exchange.as_ref().unwrap_or(inputs))
    }
}

/// Who announced what, lately.
#[derive(Default)]
pub struct Alternates {
    known: Mutex<Known>,
    noted: Notify,
}

#[derive(Default)]
struct Known {
    by_key: HashMap<SeenKey, Vec<Arc<Announcement>>>,
    /// In the order of their coming, for expiry.
    order: VecDeque<(Instant, SeenKey)>,
}

impl Alternates {
    /// Reads along from now on, on a queue of this process alone.
    pub fn follow(unit: &Unit, broker: Broker, exchange: &Exchange, queue: &str, config: Config) -> Arc<Alternates> {
        let alternates = Arc::new(Alternates::default());
        let name = format!("{queue}.alternates.{:016x}", fastrand::u64(..));
        let private = Queue {
            name: name.clone(),
            auto_delete: true,
            exclusive: true,
            role: Some("alternates"),
            ..Queue::default()
        };
        let topology: Topology = options::topology(private, exchange, &config.binds);
        let (unit, noted, decoding) = (unit.clone(), Arc::clone(&alternates), DecodeOptions::default());
        tokio::spawn(async move {
            let note = |envelope: &Envelope| {
                if let Ok(Decoded::Product(announcement)) = decode(envelope, &decoding) {
                    noted.note(announcement, Instant::now(), config.keep);
                }
            };
            consume::follow(&unit, broker, topology, name, note).await;
        });
        alternates
    }

    /// Remembers a source.
    fn note(&self, announcement: Announcement, now: Instant, keep: Duration) {
        let Some(key) = seen_key(&announcement, By::Auto) else {
            return;
        };
        let mut known = self.known();
        while known.order.len() >= KEPT_MAX || known.order.front().is_some_and(|(at, _)| now - *at > keep) {
            let Some((_, oldest)) = known.order.pop_front() else {
                break;
            };
            if let Some(sources) = known.by_key.get_mut(&oldest) {
                sources.remove(0);
                if sources.is_empty() {
                    known.by_key.remove(&oldest);
                }
            }
        }
        let sources = known.by_key.entry(key).or_default();
        let source = announcement.source();
        if sources.len() < SOURCES_MAX && !sources.iter().any(|other| other.source() == source) {
            sources.push(Arc::new(announcement));
            known.order.push_back((now, key));
        }
        drop(known);
        self.noted.notify_waiters();
    }

    /// The other sources of this product: at once where any is known, else those that are announced within `patience`.
    pub async fn soon_of(&self, announcement: &Announcement, patience: Duration) -> Vec<Arc<Announcement>> {
        let deadline = tokio::time::Instant::now() + patience;
        loop {
            let noted = self.noted.notified(); // before the look: nothing is missed in between
            let others = self.of(announcement);
            if !others.is_empty() || tokio::time::timeout_at(deadline, noted).await.is_err() {
                return others;
            }
        }
    }

    /// The other sources of this product.
    pub fn of(&self, announcement: &Announcement) -> Vec<Arc<Announcement>> {
        let Some(key) = seen_key(announcement, By::Auto) else {
            return Vec::new();
        };
        let own = announcement.source();
        let known = self.known();
        let sources = known.by_key.get(&key).into_iter().flatten();
        sources.filter(|other| other.source() != own).cloned().collect()
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{DigestOf, Identity, Method, ProductPath};

    fn announced_by(host: &str, digest: &str) -> Announcement {
        let mut announcement = Announcement::new(&format!("http://{host}/"), ProductPath::from("db/a")).unwrap();
        announcement.identity = Some(Identity {
            method: Method::Md5,
            value: digest.into(),
            of: DigestOf::Name,
        });
        announcement
    }

    #[tokio::test]
    async fn a_source_that_is_announced_just_now_is_waited_for() {
        let (alternates, first) = (Alternates::default(), announced_by("urp-1", "aa"));
        assert!(alternates.soon_of(&first, Duration::ZERO).await.is_empty());
        let (others, ()) = tokio::join!(alternates.soon_of(&first, Duration::from_secs(60)), async {
            for (host, digest) in [("urp-1", "aa"), ("urp-2", "bb"), ("urp-2", "aa")] {
                tokio::task::yield_now().await;
                alternates.note(announced_by(host, digest), Instant::now(), KEEP);
            }
        });
        assert_eq!(others.len(), 1);
        assert_eq!(others[0].source(), announced_by("urp-2", "aa").source());
    }

    #[test]
    fn the_other_sources_are_known_until_they_expire() {
        let (alternates, start, keep) = (Alternates::default(), Instant::now(), Duration::from_secs(10));
        for host in ["urp-1", "urp-2", "urp-1"] {
            alternates.note(announced_by(host, "aa"), start, keep);
        }
        let others = alternates.of(&announced_by("urp-1", "aa"));
        assert_eq!(others.iter().map(|a| a.source()).collect::<Vec<_>>(), ["urp-2:80"]);
        assert!(alternates.of(&announced_by("urp-1", "bb")).is_empty());
        alternates.note(announced_by("urp-3", "cc"), start + Duration::from_secs(11), keep);
        assert!(alternates.of(&announced_by("urp-1", "aa")).is_empty());
        assert_eq!(alternates.known().by_key.len(), 1);
    }
}
