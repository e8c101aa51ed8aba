//! From the outbox to the broker: in order, and out of the outbox when it is confirmed.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::stream::{FuturesUnordered, StreamExt};
use jiff::Timestamp;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error};

use crate::backoff::Backoff;
use crate::broker::Returns;
use crate::flow::publish::{Pending, PublishError, Publisher, WINDOW};
use crate::flow::{Unit, chain};
use crate::message::{Envelope, Fault};
use crate::metrics::Count;
use crate::spool::failed::{FailedStore, Failure, Which};
use crate::spool::outbox::{Outbox, Posted, Unreadable};
use crate::spool::{SpoolError, off_thread};

/// How many messages wait.
pub(super) const GAUGE: &str = "outbox";
/// The part of the unit that says why the outbox cannot be used.
const PART: &str = "outbox";
/// How long a confirmed message waits for others to be removed with: a commit less for the next that is added.
const REMOVED_WITHIN: Duration = Duration::from_millis(20);
/// Between two looks at what an operator wants tried again, and at what others have put into the outbox.
const LOOK_EVERY: Duration = Duration::from_secs(2);
const REPLAYED_AT_ONCE: u32 = 64;

/// Publishes what is in the outbox of a unit.
pub(super) struct Posting {
    pub(super) unit: Unit,
    pub(super) outbox: Outbox,
    pub(super) failed: FailedStore,
    pub(super) publisher: Publisher,
    /// Something has been added.
    pub(super) wake: Arc<Notify>,
    /// Nothing will be added any more.
    pub(super) closing: CancellationToken,
}

/// Messages on their way, and those that have arrived.
#[derive(Default)]
struct Flight {
    pending: FuturesUnordered<InFlight>,
    settled: Vec<i64>,
    /// When the settled ones are to leave the outbox.
    remove_at: Option<Instant>,
    /// The unit is ending: nothing more is confirmed.
    is_over: bool,
}

impl Flight {
    /// This one may leave the outbox.
    fn is_settled(&mut self, id: i64) {
        self.settled.push(id);
        self.remove_at.get_or_insert_with(|| Instant::now() + REMOVED_WITHIN);
    }
}

type InFlight = futures_util::future::BoxFuture<'static, (i64, Result<(), PublishError>)>;

impl Posting {
    /// Until everything is published after the end of adding, or the unit is abandoned.
    pub(super) async fn run(self) {
        let (abandon, mut flight) = (self.unit.abandon.clone(), Flight::default());
        // Messages that are let go of are in the outbox still.
        abandon.run_until_cancelled(self.publish(&mut flight)).await;
    }

    async fn publish(&self, flight: &mut Flight) {
        let (mut after, mut may_be_more) = (0, true);
        let mut looks = tokio::time::interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            self.unit.state.set_gauge(GAUGE, self.outbox.len());
            let room = WINDOW - flight.pending.len().min(WINDOW);
            if may_be_more && room > 0 && !flight.is_over {
                let taken = self.patiently(|| self.outbox.take(after, room)).await;
                may_be_more = !taken.is_empty();
                for posted in taken {
                    after = posted.id;
                    self.submit(posted, flight).await;
                }
            }
            let is_idle = !may_be_more || flight.is_over;
            let remove_at = flight.remove_at;
            tokio::select! {
                biased;
                Some((id, answer)) = flight.pending.next() => {
                    self.settle(id, answer, flight).await;
                    while let Some(Some((id, answer))) = flight.pending.next().now_or_never() {
                        self.settle(id, answer, flight).await;
                    }
                    if flight.settled.len() >= WINDOW {
                        self.remove(flight).await;
                    }
                }
                () = self.wake.notified(), if !may_be_more => may_be_more = true,
                () = self.closing.cancelled(), if is_idle && flight.pending.is_empty() => {
                    self.remove(flight).await;
                    return;
                }
                () = at(remove_at) => self.remove(flight).await,
                _ = looks.tick(), if is_idle => {
                    self.replay().await;
                    may_be_more = true;
                }
                // Nothing of it is reached while there is more to take.
                () = std::future::ready(()), if may_be_more && !flight.is_over && flight.pending.len() < WINDOW => {}
            }
        }
    }

    async fn submit(&self, posted: Posted, flight: &mut Flight) {
        let id = posted.id;
        match posted.envelope {
            Ok(envelope) => {
                debug!(key = envelope.key, exchange = posted.exchange, "announcing");
                let pending: Pending = self
                    .publisher
                    .submit(&posted.exchange, envelope, Returns::Counted)
                    .await;
                flight
                    .pending
                    .push(Box::pin(async move { (id, pending.await.map(drop)) }));
            }
            Err(Unreadable { why, rest }) => {
                error!(
                    id,
                    key = rest.key,
                    "a row of the outbox is no message: {why}; it is in the failed store"
                );
                let reason = format!("it was no message in the outbox: {why}");
                self.keep(posted.exchange, *rest, reason).await;
                flight.is_settled(id);
            }
        }
    }

    async fn settle(&self, id: i64, answer: Result<(), PublishError>, flight: &mut Flight) {
        match answer {
            Ok(()) => self.unit.metrics.count(Count::Announced),
            Err(PublishError::Refused(why)) => self.set_aside(id, &why).await,
            Err(PublishError::Stopping) => {
                flight.is_over = true;
                return;
            }
        }
        flight.is_settled(id);
    }

    async fn remove(&self, flight: &mut Flight) {
        flight.remove_at = None;
        let settled = std::mem::take(&mut flight.settled);
        if !settled.is_empty() {
            self.patiently(|| self.outbox.remove(settled.clone())).await;
        }
    }

    /// To the failed store, with its reason.
    async fn set_aside(&self, id: i64, why: &str) {
        let posted = self.patiently(|| self.outbox.take(id - 1, 1)).await.into_iter().next();
        let Some((posted, Ok(envelope))) = posted.map(|posted| (posted.exchange, posted.envelope)) else {
            return; // somebody has removed it
        };
        error!(
            key = envelope.key,
            "the broker refuses an announcement: {why}; it is in the failed store"
        );
        self.keep(posted, envelope, format!("the broker refuses it: {why}"))
            .await;
    }

    async fn keep(&self, exchange: String, envelope: Envelope, reason: String) {
        self.unit.metrics.count(Count::Failed);
        let now = Timestamp::now();
        let failure = Failure {
            envelope,
            queue: exchange,
            reason,
            fault: Fault::Message,
            attempts: 1,
            first: now,
            last: now,
            is_rubbish: false,
        };
        self.patiently(|| {
            let (failed, failure) = (self.failed.clone(), failure.clone());
            off_thread(move || failed.keep(&failure))
        })
        .await;
    }

    /// Puts what an operator wants tried again back into the outbox.
    async fn replay(&self) {
        let failed = self.failed.clone();
        let back = async {
            let asked = off_thread(move || failed.replays(REPLAYED_AT_ONCE)).await?;
            let ids: Vec<i64> = asked.iter().map(|(id, _)| *id).collect();
            let messages = asked.into_iter().map(|(_, failure)| (failure.queue, failure.envelope));
            if ids.is_empty() {
                return Ok(());
            }
            self.outbox.append(messages.collect()).await?;
            let failed = self.failed.clone();
            off_thread(move || {
                ids.into_iter()
                    .try_for_each(|id| failed.drop_entries(Which::One(id)).map(drop))
            })
            .await
        };
        let back: Result<(), SpoolError> = back.await;
        if let Err(error) = back {
            debug!("nothing is replayed: {}", chain(&error));
        }
    }

    /// Does it until this host lets us; the unit says why it waits.
    async fn patiently<T, F: Future<Output = Result<T, SpoolError>>>(&self, mut work: impl FnMut() -> F) -> T {
        let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(30));
        loop {
            match work().await {
                Ok(done) => {
                    self.unit.state.resume(PART);
                    return done;
                }
                Err(error) => {
                    self.unit.state.pause(PART, chain(&error));
                    tokio::time::sleep(backoff.next_wait()).await;
                }
            }
        }
    }
}

/// That moment; never where there is none.
async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Broker, BrokerUrl, Places, UnitDir, UnitName};
    use crate::flow::{State, publish};
    use crate::message::Topology;
    use crate::spool::{failed, outbox};

    fn kept_envelope() -> Envelope {
        Envelope {
            key: "exp.x".into(),
            body: b"http://h/x".to_vec(),
            ..Envelope::default()
        }
    }

    #[tokio::test]
    async fn what_the_broker_refuses_is_in_the_failed_store_before_it_leaves_the_outbox() {
        let root = tempfile::tempdir().unwrap();
        let places = Places::under(root.path());
        let unit = Unit {
            name: UnitName::new(UnitDir::Tx, "dd").unwrap(),
            places: places.clone(),
            metrics: Arc::default(),
            state: State::default(),
            stop: CancellationToken::new(),
            abandon: CancellationToken::new(),
        };
        let broker = Broker::new("own", BrokerUrl::parse("embedded:px.db", &places).unwrap());
        let outbox = Outbox::open(&root.path().join("outbox.db"), outbox::Limits::default()).unwrap();
        let failed = FailedStore::open(&root.path().join("failed.db"), failed::Limits::default()).unwrap();
        let posting = Posting {
            publisher: Publisher::start(&unit, broker, Topology::default(), publish::Options::default()),
            unit,
            outbox: outbox.clone(),
            failed: failed.clone(),
            wake: Arc::default(),
            closing: CancellationToken::new(),
        };
        let envelope = kept_envelope();
        outbox.append(vec![("cmc".into(), envelope.clone())]).await.unwrap();
        let (mut flight, id) = (Flight::default(), outbox.take(0, 1).await.unwrap()[0].id);
        let refused = Err(PublishError::Refused("too large".into()));
        posting.settle(id, refused, &mut flight).await;
        let kept = failed.show(failed.list(9).unwrap()[0].id).unwrap().unwrap();
        assert_eq!((kept.envelope, kept.queue.as_str()), (envelope, "cmc"));
        assert_eq!(kept.reason, "the broker refuses it: too large");
        assert_eq!(outbox.len(), 1);
        posting.remove(&mut flight).await;
        assert!(outbox.is_empty());
        let rubbish = Posted {
            id: 9,
            exchange: "cmc".into(),
            envelope: Err(Unreadable {
                why: "its properties are odd".into(),
                rest: Box::new(kept_envelope()),
            }),
        };
        posting.submit(rubbish, &mut flight).await;
        let all = failed.list(9).unwrap();
        let reasons: Vec<&str> = all.iter().map(|one| &*one.reason).collect();
        assert!(
            all.len() == 2 && reasons.contains(&"it was no message in the outbox: its properties are odd"),
            "{reasons:?}"
        );
        assert_eq!(std::mem::take(&mut flight.settled), [9]);
        posting.settle(id, Err(PublishError::Stopping), &mut flight).await;
        assert!(flight.is_over && flight.settled.is_empty());
    }
}
