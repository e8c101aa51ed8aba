//! Warm standby: whoever stands by is told what the active one forwards, and so knows what it knows.
//!
//! Of several processes on one queue, QUEUE, one works. What it has remembered of forwards that are confirmed it publishes
//! to the exchange `QUEUE.follow`, by handfuls and softly: that holds up nothing. Each process, the working one too, follows
//! this exchange on a durable queue of its host, `QUEUE.follow.HOST.ID`, which gathers what is told while the process is
//! away. The output itself is not followed: a queue that is bound to its keys would make routable what no consumer has
//! bound, and would bring what is not confirmed yet.
//!
//! The key under which they tell is a digest of what their forwards are, and so is the ID. Processes whose output or idea of
//! a product is another one, as while a new configuration goes from host to host, learn nothing from each other.
//!
//! When a process is to work it publishes a marker that only its own queue gets. What others had told before has come when
//! the marker does, and then the work begins: after [`CATCH_UP_MAX`] at most. So a broker that is away, or a queue that was
//! deleted, costs repeats and holds up nothing.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tracing::{debug, info, warn};

use super::link::Link;
use super::publish::{PublishError, Publisher};
use super::sample::Sampler;
use super::{Unit, chain, consume};
use crate::broker::{BrokerError, Confirmed, Connection, Purpose, Returns};
use crate::config::Broker;
use crate::message::{Binding, Envelope, Exchange, ExchangeKind, Fault, Queue, Topology};
use crate::spool::seen::{self, Batch};

/// The longest that work waits for the marker.
pub const CATCH_UP_MAX: Duration = Duration::from_secs(2);

/// Handfuls that wait to be told; what has no room is not told.
const UNTOLD_MAX: usize = 256;
/// Handfuls in one message.
const TOLD_AT_ONCE: usize = 16;
/// How long a process that ends tells what is untold.
const LAST_WORDS: Duration = Duration::from_secs(1);
const CONTENT_TYPE: &str = "application/x-px-seen";
/// What may gather for a host that is away: some 600 000 forwards. The oldest go first.
const GATHERED_BYTES_MAX: u64 = 64 << 20;
/// The longest life of the queue of a host that does not come back; RabbitMQ takes less than 50 days.
const GATHERED_FOR_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// What is done with what others have told: it is known when the future ends.
pub type Learn = Arc<dyn Fn(Vec<Envelope>) -> BoxFuture<'static, ()> + Send + Sync>;

/// The processes on one queue, of which one works.
#[derive(Clone)]
pub struct Peers {
    unit: Unit,
    broker: Broker,
    /// Their exchange.
    name: String,
    /// The key of what they tell.
    told: String,
    /// The queue of this host.
    own: Queue,
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
    /// Those that consume `queue`, which has a name. `forwards` is what makes theirs equal. What one has told is worth
    /// something for so long as `keep`.
    pub fn of(unit: &Unit, broker: &Broker, queue: &Queue, forwards: &str, keep: Duration) -> Peers {
        // Theirs begin with its name, so that one permission, and one policy, is for all.
        let name = format!("{}.follow", queue.name);
        let keep = keep.min(GATHERED_FOR_MAX);
        let own = Queue {
            name: format!("{name}.{}", host_and_id(unit, forwards)),
            durable: true,
            quorum: queue.quorum,
            expires: Some(keep),
            message_ttl: Some(keep),
            max_bytes: Some(GATHERED_BYTES_MAX),
            role: Some("follow"),
            ..Queue::default()
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
            own,
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

/// The queue of this host, as nobody else may consume it.
const SHARED: &str = "has another consumer: either the broker has not noticed yet that an older connection of this \
                      unit is gone, or another host has the name, the /etc/machine-id and the root of this one: give \
                      it a name of its own; until then what others forward is not learned here";

/// The same after every start, and another one for each host, and for each root, unit and kind of forwards on it.
/// Hosts may share a name; then the machine id, which an installation makes for itself, tells them apart.
fn host_and_id(unit: &Unit, forwards: &str) -> String {
    let read = |file| std::fs::read_to_string(file).unwrap_or_default();
    let place = unit.places.unit_state(&unit.name);
    let (host, machine) = (read("/proc/sys/kernel/hostname"), read("/etc/machine-id"));
    identity(&host, &machine, &format!("{} {forwards}", place.display()))
}

/// The name, as far as it may stand in a queue's, and a digest of the rest: a machine id is not to be shown to others.
fn identity(host: &str, machine: &str, place: &str) -> String {
    let legal = |c: &char| c.is_ascii_alphanumeric() || "-_".contains(*c);
    let host: String = host.chars().filter(legal).take(32).collect();
    let mut id = seen::digest(&format!("{} {place}", machine.trim()));
    id.truncate(8);
    format!("{host}.{id}")
}

fn exchange(name: &str) -> Exchange {
    Exchange {
        name: name.to_owned(),
        kind: ExchangeKind::Direct,
        durable: true,
        auto_delete: false,
    }
}

/// Follows what the others tell, for as long as the unit runs.
pub struct Standby {
    peers: Peers,
    learn: Learn,
    /// The queue is followed now.
    follows: watch::Sender<bool>,
    /// The last marker that came back.
    marker: watch::Sender<Option<String>>,
}

impl Standby {
    /// Follows from now on.
    pub fn start(peers: Peers, learn: Learn) -> Arc<Standby> {
        let standby = Arc::new(Standby {
            peers,
            learn,
            follows: watch::Sender::new(false),
            marker: watch::Sender::default(),
        });
        tokio::spawn(Arc::clone(&standby).keep_following());
        standby
    }

    /// Returns when everything is known that others had told before, as far as it can be. Takes no longer than
    /// [`CATCH_UP_MAX`]. Safe to drop while waiting.
    pub async fn catch_up(&self) {
        match tokio::time::timeout(CATCH_UP_MAX, self.round()).await {
            Ok(Ok(())) => debug!("everything that others have forwarded is known"),
            Ok(Err(why)) => warn!("what others have forwarded just now may not be known: {why}"),
            Err(_) => warn!("what others have forwarded just now may not be known: no answer within {CATCH_UP_MAX:?}"),
        }
    }

    /// From the marker's publication to its return. `Err` says why it will not come.
    async fn round(&self) -> Result<(), String> {
        let mut follows = self.follows.subscribe();
        // The sender is this one's own: it is there.
        drop(follows.wait_for(|follows| *follows).await);
        let marker = format!("{:016x}", fastrand::u64(..));
        let mut returned = self.marker.subscribe();
        let Peers {
            publisher, name, own, ..
        } = &self.peers;
        let publish = async {
            let envelope = Envelope {
                key: own.name.clone(),
                message_id: Some(marker.clone()),
                ..Envelope::default()
            };
            match publisher.submit_soft(name, envelope, Returns::Known).await.await {
                Ok(Confirmed::Routed) => std::future::pending().await,
                Ok(Confirmed::Returned) => format!("queue {} is gone", own.name),
                Err(error) => format!("no marker could be published: {error}"),
            }
        };
        let mut publish = pin!(publish);
        tokio::select! {
            biased;
            Ok(_) = returned.wait_for(|found| found.as_ref() == Some(&marker)) => Ok(()),
            Ok(_) = follows.wait_for(|follows| !follows) => Err(format!("queue {} is not followed any more", own.name)),
            why = &mut publish => Err(why),
        }
    }

    async fn keep_following(self: Arc<Self>) {
        let Peers { unit, broker, own, .. } = &self.peers;
        let mut link = Link::new(unit, broker.clone(), Purpose::Follow);
        let topology = self.topology();
        while let Some(connection) = link.connect(&topology, &unit.stop).await {
            let read = self.follow(connection.as_ref()).await;
            self.follows.send_replace(false);
            match read {
                Ok(()) => {
                    connection.close().await;
                    return;
                }
                Err(error) => {
                    debug!("{}", chain(&error));
                    link.broken(&error);
                    // With every new connection it would look as if it followed. A broken one says so at once.
                    let others = consume::wait_until_unused(connection.as_ref(), &own.name);
                    if let Some(Ok(())) = unit.stop.run_until_cancelled(others).await {
                        connection.close().await;
                    }
                }
            }
        }
    }

    async fn follow(&self, connection: &dyn Connection) -> Result<(), BrokerError> {
        let Peers { unit, own, .. } = &self.peers;
        let Some(subscription) = consume::subscribe_alone(connection, &own.name).await? else {
            return Err(BrokerError {
                fault: Fault::Own,
                what: format!("queue {} {SHARED}", own.name),
                source: None,
            });
        };
        self.follows.send_replace(true);
        consume::read_along(subscription, &unit.stop, |told| self.note(told)).await
    }

    /// Learns; and says so when a marker has come, for what was before it is known then.
    async fn note(&self, mut told: Vec<Envelope>) {
        let mut marker = None;
        told.retain(|envelope| {
            let is_marker = envelope.key == self.peers.own.name;
            if is_marker {
                marker = envelope.message_id.clone();
            }
            !is_marker
        });
        if !told.is_empty() {
            (self.learn)(told).await;
        }
        if marker.is_some() {
            self.marker.send_replace(marker);
        }
    }

    fn topology(&self) -> Topology {
        let Peers { name, told, own, .. } = &self.peers;
        Topology {
            exchanges: vec![exchange(name)],
            queues: vec![own.clone()],
            bindings: [told, &own.name]
                .map(|key| Binding {
                    exchange: name.clone(),
                    queue: own.name.clone(),
                    key: key.clone(),
                })
                .into(),
        }
    }
}

const UNCHOSEN: &str = "the broker gives its deliveries to another one, or the queue is empty: who of several is \
                        chosen learns it by the first";
const CHOSEN: &str = "the broker gives its deliveries to this one";

/// The broker chooses: of all consumers of a queue with one active consumer, one gets deliveries. There is no other sign
/// of it than the first, or that there is nobody else.
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

    /// The first delivery of a subscription has come, or will come to this one. Returns when work may begin.
    pub async fn chosen(&self) {
        let state = &self.standby.peers.unit.state;
        state.set_role(false, format!("{CHOSEN}: {CATCHING_UP}"));
        self.standby.catch_up().await;
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
        self.standby.peers.unit.state.set_role(false, UNCHOSEN);
    }
}

/// Why one that is to work stands by still.
pub(super) const CATCHING_UP: &str = "it learns what others have forwarded just before";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_of_one_name_differ_by_their_machine_id() {
        let of = |host, machine| identity(host, machine, "/var/spool/px/state/dispatch/urp {}");
        let one = of("bunny1.op\n", "5f0c\n");
        assert!(
            one.starts_with("bunny1op.") && one.len() == "bunny1op.".len() + 8,
            "{one}"
        );
        assert_eq!(one, of("bunny1.op\n", "5f0c"), "the same after every start");
        for other in [
            of("bunny1.op\n", "5f0d\n"),
            of("bunny2.op\n", "5f0c\n"),
            of("bunny1.op\n", ""),
        ] {
            assert_ne!(one, other);
        }
        assert!(!one.contains("5f0c"), "{one}");
    }
}
