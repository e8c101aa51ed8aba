//! Warm standby: whoever stands by is told what the active one forwards, and so knows what it knows.
//!
//! Of several processes on one queue, QUEUE, one works. What it has remembered of forwards that are confirmed it publishes
//! to the exchange `QUEUE.follow`, by handfuls and softly: that holds up nothing. While a process stands by, it follows
//! this exchange on a queue of its own, exclusive to one connection. The output itself is not followed: a queue that is
//! bound to its keys would make routable what no consumer has bound, and would bring what is not confirmed yet.
//!
//! When a process is to work it publishes a marker that only its own queue gets. What others had told before has come when
//! the marker does, and then the work begins: after [`CATCH_UP_MAX`] at most, and at once where there is no such queue. So
//! a broker that is away, or a queue that was deleted, costs repeats and holds up nothing.
//!
//! What was told while the queue was not there (before the process began, or between two connections) is not learned, nor
//! what a queue has no room for: it is bounded, or one that does not get on would fill the broker of all.
//!
//! The key under which they tell is a digest of what their forwards are. Processes whose output or idea of a product is
//! another one, as while a new configuration goes from host to host, learn nothing from each other.

use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::link::Link;
use super::publish::{PublishError, Publisher};
use super::sample::Sampler;
use super::{Unit, chain, consume};
use crate::broker::{Confirmed, Purpose, Returns};
use crate::config::Broker;
use crate::message::{Binding, Envelope, Exchange, ExchangeKind, Queue, Topology};
use crate::spool::seen::{self, Batch};

/// The longest that work waits for the marker.
pub const CATCH_UP_MAX: Duration = Duration::from_secs(2);

/// Handfuls that wait to be told; what has no room is not told.
const UNTOLD_MAX: usize = 256;
/// Handfuls in one message.
const TOLD_AT_ONCE: usize = 16;
/// Of a queue that is followed; some 700 000 products. To forget the oldest costs repeats.
const FOLLOWED_BYTES_MAX: u64 = 64 << 20;
/// How long a process that ends tells what is untold.
const LAST_WORDS: Duration = Duration::from_secs(1);
const CONTENT_TYPE: &str = "application/x-px-seen";

/// What is done with what others have told: it is known when the future ends.
pub type Learn = Arc<dyn Fn(Vec<Envelope>) -> BoxFuture<'static, ()> + Send + Sync>;

/// The processes on one queue, of which one works.
#[derive(Clone)]
pub struct Peers {
    unit: Unit,
    broker: Broker,
    /// What the names of their exchange and queues begin with, so that one permission is for all.
    name: String,
    /// The key of what they tell.
    told: String,
    publisher: Publisher,
}

/// What is untold still.
pub struct Telling(JoinHandle<()>);

impl Telling {
    /// Waits for it, once every sender is gone, for a moment at most.
    pub async fn end(self) {
        if tokio::time::timeout(LAST_WORDS, self.0).await.is_err() {
            info!("those that stand by are not told all that was forwarded last");
        }
    }
}

impl Peers {
    /// Those that consume `queue`; where the broker names it, those of the same unit. `forwards` is what makes them equal.
    pub fn of(unit: &Unit, broker: &Broker, queue: &str, forwards: &str) -> Peers {
        let name = match queue {
            "" => format!("px.{}.follow", unit.name.name),
            queue => format!("{queue}.follow"),
        };
        let topology = Topology {
            exchanges: vec![exchange(&name)],
            ..Topology::default()
        };
        Peers {
            unit: unit.clone(),
            broker: broker.clone(),
            publisher: Publisher::start_soft(unit, broker.clone(), topology),
            told: format!("forwarded.{}", seen::digest(forwards)),
            name,
        }
    }

    /// Takes what the others are to know. It ends with the last sender.
    pub fn tell(&self) -> (mpsc::Sender<Batch>, Telling) {
        let (tell, told) = mpsc::channel(UNTOLD_MAX);
        (tell, Telling(tokio::spawn(self.clone().keep_telling(told))))
    }

    async fn keep_telling(self, mut told: mpsc::Receiver<Batch>) {
        let (samples, mut gathered) = (Sampler::default(), Vec::new());
        while told.recv_many(&mut gathered, TOLD_AT_ONCE).await > 0 {
            let mut all = Batch::default();
            for batch in gathered.drain(..) {
                all.append(&batch);
            }
            let envelope = Envelope {
                key: self.told.clone(),
                content_type: Some(CONTENT_TYPE.to_owned()),
                body: all.to_message(),
                ..Envelope::default()
            };
            let publish = async {
                self.publisher
                    .submit_soft(&self.name, envelope, Returns::Counted)
                    .await
                    .await
            };
            let why = match tokio::time::timeout(CATCH_UP_MAX, publish).await {
                Ok(Ok(_) | Err(PublishError::Stopping)) => continue,
                Ok(Err(PublishError::Refused(why))) => why,
                Err(_) => format!("no answer within {CATCH_UP_MAX:?}"),
            };
            let said = format!("those that stand by are not told what is forwarded: {why}");
            if let Some(unsaid) = samples.take(&said) {
                warn!(unsaid, "{said}");
            }
        }
    }
}

fn exchange(name: &str) -> Exchange {
    Exchange {
        name: name.to_owned(),
        kind: ExchangeKind::Direct,
        durable: true,
        auto_delete: false,
    }
}

/// Follows while the unit stands by.
pub struct Standby {
    peers: Peers,
    learn: Learn,
    /// The time of standing by that lasts, if one does.
    period: Mutex<Option<Arc<Period>>>,
    /// Who follows: a new period begins when the last one has said its last word.
    following: tokio::sync::Mutex<()>,
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
    pub fn new(peers: Peers, learn: Learn) -> Arc<Standby> {
        Arc::new(Standby {
            peers,
            learn,
            period: Mutex::default(),
            following: tokio::sync::Mutex::default(),
        })
    }

    /// Follows from now on, until it is told to rest or the unit stops.
    pub fn follow(self: &Arc<Self>) {
        let mut current = self.period();
        if current.is_some() {
            return;
        }
        let period = Arc::new(Period {
            end: self.peers.unit.stop.child_token(),
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

    /// Returns when everything is known that others had told before, as far as it can be. Takes no longer than
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
            let Peers { publisher, name, .. } = &self.peers;
            match publisher.submit_soft(name, envelope, Returns::Known).await.await {
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
        let one = self.following.lock().await;
        let mut link = Link::new(&self.peers.unit, self.peers.broker.clone(), Purpose::Follow);
        loop {
            // A new name each time: the broker may not have noticed yet that the last connection is gone.
            let name = format!("{}.{:016x}", self.peers.name, fastrand::u64(..));
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
                    drop(one);
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
        Topology {
            exchanges: vec![exchange(&self.peers.name)],
            queues: vec![Queue {
                name: name.to_owned(),
                exclusive: true,
                auto_delete: true,
                max_bytes: Some(FOLLOWED_BYTES_MAX),
                role: Some("follow"),
                ..Queue::default()
            }],
            bindings: [self.peers.told.as_str(), name]
                .map(|key| Binding {
                    exchange: self.peers.name.clone(),
                    queue: name.to_owned(),
                    key: key.to_owned(),
                })
                .into(),
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
        let state = &self.standby.peers.unit.state;
        state.set_role(false, format!("{CHOSEN}: {CATCHING_UP}"));
        self.standby.catch_up().await;
        self.standby.rest();
        state.set_role(true, CHOSEN);
        info!("chosen: working");
    }

    /// The subscription has ended; the broker chooses another one.
    pub fn unchosen(&self) {
        let Unit { state, stop, .. } = &self.standby.peers.unit;
        if !stop.is_cancelled() {
            if state.snapshot().role.is_some_and(|role| role.active) {
                info!("chosen no more: standing by");
            }
            self.stand_by();
        }
    }

    fn stand_by(&self) {
        self.standby.follow();
        self.standby.peers.unit.state.set_role(false, UNCHOSEN);
    }
}

/// Why one that is to work stands by still.
pub(super) const CATCHING_UP: &str = "it learns what others have forwarded just before";
