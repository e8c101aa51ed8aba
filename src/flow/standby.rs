//! Warm standby: whoever stands by reads along what the active one forwards, and so knows what it knows.
//!
//! While it stands by, a process follows the keys of the output on a queue of its own, exclusive to one connection.
//! When it is to work it publishes a marker that only this queue gets. What the broker had taken from others before has
//! come when the marker does, and then the work begins: after [`CATCH_UP_MAX`] at most, and at once where there is no
//! such queue. So a broker that is away, or a queue that was deleted, costs repeats and holds up nothing.
//!
//! What was forwarded while the queue was not there (before the process began, or between two connections) is not
//! learned.

use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::link::Link;
use super::publish::Publisher;
use super::{Unit, chain, consume};
use crate::broker::{Confirmed, Purpose};
use crate::config::Broker;
use crate::message::{Binding, Envelope, Exchange, Queue, Topology};

/// The longest that work waits for the marker.
pub const CATCH_UP_MAX: Duration = Duration::from_secs(2);

/// What is done with what others have forwarded: it is known when the future ends.
pub type Learn = Arc<dyn Fn(Vec<Envelope>) -> BoxFuture<'static, ()> + Send + Sync>;

/// What to follow.
#[derive(Debug, Clone)]
pub struct Output {
    /// The broker.
    pub broker: Broker,
    /// Where it is published.
    pub exchange: Exchange,
    /// Its keys.
    pub keys: Vec<String>,
    /// The unit's own queue, whose name the following one begins with, so that one permission is for both.
    pub queue: String,
}

/// Follows while the unit stands by.
pub struct Standby {
    unit: Unit,
    output: Output,
    publisher: Publisher,
    learn: Learn,
    /// The time of standing by that lasts, if one does.
    period: Mutex<Option<Arc<Period>>>,
}

/// One time of standing by.
struct Period {
    end: CancellationToken,
    /// The queue that is followed now.
    queue: watch::Sender<Option<String>>,
    /// The last marker that came back.
    marker: watch::Sender<Option<String>>,
}

impl Standby {
    /// Nothing is followed yet.
    pub fn new(unit: &Unit, output: Output, publisher: Publisher, learn: Learn) -> Arc<Standby> {
        Arc::new(Standby {
            unit: unit.clone(),
            output,
            publisher,
            learn,
            period: Mutex::default(),
        })
    }

    /// Follows from now on, until it is told to rest or the unit stops.
    pub fn follow(self: &Arc<Self>) {
        let mut current = self.period();
        if current.is_some() {
            return;
        }
        let period = Arc::new(Period {
            end: self.unit.stop.child_token(),
            queue: watch::Sender::default(),
            marker: watch::Sender::default(),
        });
        *current = Some(Arc::clone(&period));
        drop(current);
        tokio::spawn(Arc::clone(self).keep_following(period));
    }

    /// Follows no more: the queue goes.
    pub fn rest(&self) {
        if let Some(period) = self.period().take() {
            period.end.cancel();
        }
    }

    /// Returns when everything is known that others had forwarded before, as far as it can be. Takes no longer than
    /// [`CATCH_UP_MAX`]. Safe to drop while waiting.
    pub async fn catch_up(&self) {
        let Some(period) = self.period().clone() else {
            return;
        };
        let Some(queue) = period.queue.borrow().clone() else {
            info!("nothing was followed just now: what others have forwarded since is not known");
            return;
        };
        match tokio::time::timeout(CATCH_UP_MAX, self.round(&period, &queue)).await {
            Ok(Ok(())) => debug!("everything that others have forwarded is known"),
            Ok(Err(why)) => warn!("what others have forwarded just now may not be known: {why}"),
            Err(_) => warn!("what others have forwarded just now may not be known: no answer within {CATCH_UP_MAX:?}"),
        }
    }

    /// From the marker's publication to its return. `Err` says why it will not come.
    async fn round(&self, period: &Period, queue: &str) -> Result<(), String> {
        let marker = format!("{:016x}", fastrand::u64(..));
        let (mut followed, mut returned) = (period.queue.subscribe(), period.marker.subscribe());
        let publish = async {
            let envelope = Envelope {
                key: queue.to_owned(),
                message_id: Some(marker.clone()),
                ..Envelope::default()
            };
            match self.publisher.submit_soft("", envelope).await.await {
                Ok(Confirmed::Routed) => std::future::pending().await,
                Ok(Confirmed::Returned) => format!("queue {queue} is gone"),
                Err(error) => format!("no marker could be published: {error}"),
            }
        };
        let mut publish = pin!(publish);
        tokio::select! {
            biased;
            Ok(_) = returned.wait_for(|found| found.as_ref() == Some(&marker)) => Ok(()),
            Ok(_) = followed.wait_for(|now| now.as_deref() != Some(queue)) => Err(format!("queue {queue} is gone")),
            why = &mut publish => Err(why),
        }
    }

    async fn keep_following(self: Arc<Self>, period: Arc<Period>) {
        let mut link = Link::new(&self.unit, self.output.broker.clone(), Purpose::Follow);
        loop {
            // A new name each time: the broker may not have noticed yet that the last connection is gone.
            let own = match self.output.queue.as_str() {
                "" => "px",
                queue => queue,
            };
            let name = format!("{own}.follow.{:016x}", fastrand::u64(..));
            let Some(connection) = link.connect(&self.topology(&name), &period.end).await else {
                break;
            };
            period.queue.send_replace(Some(name.clone()));
            let note = |envelopes| self.note(&period, &name, envelopes);
            let read = consume::read_along(connection.as_ref(), &name, &period.end, note).await;
            period.queue.send_replace(None);
            match read {
                Ok(()) => {
                    link.end();
                    connection.close().await;
                    return;
                }
                Err(error) => {
                    debug!("{}", chain(&error));
                    link.broken(&error);
                }
            }
        }
        link.end();
    }

    /// Learns; and says so when a marker has come, for what was before it is known then.
    async fn note(&self, period: &Period, queue: &str, mut envelopes: Vec<Envelope>) {
        let mut marker = None;
        envelopes.retain(|envelope| {
            let is_marker = envelope.key == queue;
            if is_marker {
                marker = envelope.message_id.clone();
            }
            !is_marker
        });
        if !envelopes.is_empty() {
            (self.learn)(envelopes).await;
        }
        if marker.is_some() {
            period.marker.send_replace(marker);
        }
    }

    fn topology(&self, name: &str) -> Topology {
        let exchange = &self.output.exchange;
        Topology {
            exchanges: vec![exchange.clone()],
            queues: vec![Queue {
                name: name.to_owned(),
                exclusive: true,
                auto_delete: true,
                role: Some("follow"),
                ..Queue::default()
            }],
            bindings: (self.output.keys.iter())
                .map(|key| Binding {
                    exchange: exchange.name.clone(),
                    queue: name.to_owned(),
                    key: key.clone(),
                })
                .collect(),
        }
    }

    fn period(&self) -> MutexGuard<'_, Option<Arc<Period>>> {
        self.period.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const UNCHOSEN: &str = "the broker gives its deliveries to another one, or the queue is empty: who is chosen learns it by \
                        the first";
const CHOSEN: &str = "the broker gives its deliveries to this one";

/// The broker chooses: of all consumers of a queue with one active consumer, one gets deliveries. There is no other sign
/// of it than the first.
pub struct Election {
    standby: Arc<Standby>,
}

impl Election {
    /// Stands by.
    pub fn new(standby: Arc<Standby>) -> Election {
        let election = Election { standby };
        election.stand_by();
        election
    }

    /// The first delivery of a subscription has come. Returns when work may begin.
    pub async fn chosen(&self) {
        let state = &self.standby.unit.state;
        state.set_role(false, format!("{CHOSEN}: {CATCHING_UP}"));
        self.standby.catch_up().await;
        self.standby.rest();
        state.set_role(true, CHOSEN);
        info!("chosen: working");
    }

    /// The subscription has ended; the broker chooses another one.
    pub fn unchosen(&self) {
        if !self.standby.unit.stop.is_cancelled() {
            info!("chosen no more: standing by");
            self.stand_by();
        }
    }

    fn stand_by(&self) {
        self.standby.follow();
        self.standby.unit.state.set_role(false, UNCHOSEN);
    }
}

/// Why one that is to work stands by still.
pub(super) const CATCHING_UP: &str = "it learns what others have forwarded just before";
