//! The decision on each announcement: the first of its product goes on, its copies wait for the verdict on it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::sync::watch;

use super::remember::Remembered;
use super::sources::Sources;
use super::{Config, Rekey};
use crate::flow::consume::{Handle, Input, Step};
use crate::flow::product::Product;
use crate::flow::standby::Election;
use crate::flow::{Cause, Outcome, Output, Unit, chain, since};
use crate::message::{Announcement, Decoded, Envelope, SeenKey, decode, seen_key, topic};
use crate::metrics::Count;
use crate::spool::seen::{Verdict, Winner};

/// A forward under way: `Some(true)` once it is safe, `Some(false)` when it was not done.
type Verdicts = HashMap<SeenKey, watch::Sender<Option<bool>>>;

/// What the dispatcher does with its deliveries.
pub(super) struct Dispatch {
    unit: Unit,
    config: Config,
    remembered: Arc<Remembered>,
    election: Option<Election>,
    in_flight: Mutex<Verdicts>,
    sources: Sources,
    /// Duplicates since the last forward.
    ignored: AtomicU64,
}

/// What is remembered of an announcement on its way.
pub struct Note {
    announcement: Option<Arc<Announcement>>,
    key: Option<SeenKey>,
    time: Option<Timestamp>,
    /// This one holds the place in `in_flight`, not a copy that waits for it.
    leads: AtomicBool,
}

/// What to do with an announcement now.
enum Look {
    Forward,
    Wait(watch::Receiver<Option<bool>>),
    /// A copy of what this one announced.
    Ignore(Winner),
    /// The winner's own source says it anew, and the unit drops that.
    DropReissue,
}

impl Dispatch {
    pub fn new(unit: &Unit, config: Config, remembered: Arc<Remembered>, election: Option<Election>) -> Dispatch {
        Dispatch {
            unit: unit.clone(),
            sources: Sources::new(&unit.metrics),
            config,
            remembered,
            election,
            in_flight: Mutex::default(),
            ignored: AtomicU64::new(0),
        }
    }

    /// Decides, and takes the place of whoever leads when it is the first.
    fn look(&self, note: &Note, announcement: &Announcement) -> Look {
        let Some(key) = note.key else {
            self.unit.metrics.count(Count::NoKey);
            return Look::Forward;
        };
        let mut in_flight = self.in_flight();
        if let Some(leader) = in_flight.get(&key) {
            return Look::Wait(leader.subscribe());
        }
        match self.remembered.verdict(key, announcement, note.time) {
            Verdict::Duplicate(winner) => return Look::Ignore(winner),
            Verdict::Reissue if self.config.drops_reissues => return Look::DropReissue,
            Verdict::Reissue | Verdict::First => {}
        }
        in_flight.insert(key, watch::Sender::new(None));
        note.leads.store(true, Ordering::Relaxed);
        Look::Forward
    }

    fn in_flight(&self) -> MutexGuard<'_, Verdicts> {
        self.in_flight.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forward(&self, envelope: &Envelope) -> Outcome {
        let key = match &self.config.rekey {
            Rekey::Fixed(key) => key.clone(),
            Rekey::Prefix { from, to } => match topic::rekey(&envelope.key, from, to) {
                Some(key) => key.text,
                None => {
                    let what = format!("the key {:?} does not begin with {from:?} (rekey.from)", envelope.key);
                    return Outcome::Fail(Cause::hopeless(what));
                }
            },
        };
        Outcome::Done(vec![Output {
            exchange: self.config.publish_exchange.name.clone(),
            envelope: Envelope {
                key,
                ..envelope.clone()
            },
        }])
    }

    fn ignore(&self, of_source: &str) -> Outcome {
        self.unit.metrics.count(Count::Ignored);
        self.ignored.fetch_add(1, Ordering::Relaxed);
        Outcome::Skip(format!("a duplicate of what {of_source} announced"))
    }

    /// Frees the place of a leader and tells the copies that wait for it.
    fn resolve(&self, note: &Note, is_safe: bool) {
        if note.leads.swap(false, Ordering::Relaxed)
            && let Some(leader) = note.key.and_then(|key| self.in_flight().remove(&key))
        {
            leader.send_replace(Some(is_safe));
        }
    }

    fn read(&self, input: &Input) -> Result<Announcement, Outcome> {
        match decode(&input.envelope, &self.config.decoding) {
            Ok(Decoded::Product(announcement)) if self.config.masks.accepts(&announcement.path.0) => Ok(announcement),
            Ok(Decoded::Product(_)) => {
                self.unit.metrics.count(Count::Skipped);
                Err(Outcome::Skip("rejected by a mask".into()))
            }
            Ok(Decoded::NotForFetching(reason)) => {
                self.unit.metrics.count(Count::Skipped);
                Err(Outcome::Skip(reason.to_string()))
            }
            Err(error) => Err(Outcome::Fail(Cause::rubbish(chain(&error)))),
        }
    }
}

#[async_trait]
impl Handle for Dispatch {
    type Note = Note;

    async fn begin(&self, input: &Arc<Input>) -> (Step, Note) {
        let announcement = match self.read(input) {
            Ok(announcement) => Arc::new(announcement),
            Err(outcome) => {
                let note = Note {
                    announcement: None,
                    key: None,
                    time: None,
                    leads: AtomicBool::new(false),
                };
                return (Step::Now(outcome), note);
            }
        };
        let note = Note {
            key: seen_key(&announcement, self.config.by),
            time: announcement.announced_at(&input.envelope),
            announcement: Some(Arc::clone(&announcement)),
            leads: AtomicBool::new(false),
        };
        let step = match self.look(&note, &announcement) {
            Look::Forward => Step::Now(self.forward(&input.envelope)),
            Look::Ignore(winner) => {
                self.sources.note(input, &announcement, &winner);
                Step::Now(self.ignore(&winner.source))
            }
            Look::DropReissue => Step::Now(self.ignore(&announcement.source())),
            Look::Wait(verdict) => Step::Again(Box::pin(async move {
                let mut verdict = verdict;
                // A leader that vanished without a word was not done either: look again.
                drop(verdict.wait_for(Option::is_some).await);
            })),
        };
        (step, note)
    }

    async fn chosen(&self) {
        if let Some(election) = &self.election {
            election.chosen().await;
        }
    }

    fn unchosen(&self) {
        if let Some(election) = &self.election {
            election.unchosen();
        }
    }

    async fn outputs_safe(&self, input: &Input, note: &Note) -> Result<(), Cause> {
        let Some(announcement) = &note.announcement else {
            return Ok(());
        };
        if let Some(key) = note.key {
            let remembered = self.remembered.remember(key, announcement, note.time, input.first_seen);
            remembered.await?;
        }
        self.resolve(note, true);
        let took = note.time.map(since).unwrap_or_default();
        self.unit.metrics.count(Count::Forwarded);
        self.unit.metrics.latency(took);
        Product::Handled {
            verb: "Forwarded",
            name: &String::from_utf8_lossy(announcement.path.file_name()),
            bytes: announcement.size.unwrap_or(0),
            from: &announcement.source(),
            latency: took,
            ignored: Some(self.ignored.swap(0, Ordering::Relaxed)),
        }
        .log();
        Ok(())
    }

    fn undone(&self, _: &Input, note: &Note) {
        self.resolve(note, false);
    }
}
