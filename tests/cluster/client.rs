//! The client host: producers that send again until they are confirmed, and a subscriber, all by the address that moves.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use px::broker::{Connection, Purpose, Returns, Settlement, connect};
use px::config::{Broker, BrokerUrl, Scheme, Secret};
use px::message::{Binding, Envelope, Exchange, ExchangeKind, Queue, Topology};
use tokio::runtime::Runtime;
use tokio::sync::watch;

use crate::hosts::{BUNNIES, VIP, address_of};
use crate::support::{broker_of, rabbitmq_mirrors, wait_until};

/// 250 announcements a second.
const TICK: Duration = Duration::from_millis(40);
const PER_TICK: usize = 10;
/// Between two attempts to connect.
const AGAIN: Duration = Duration::from_millis(100);
/// A client by an address that moves must ask often whether somebody is there: the old host cannot say goodbye.
const HEARTBEAT_S: u16 = 2;

/// What runs on the client host.
pub struct Client {
    runtime: Runtime,
}

/// Announces a list in order, as far as it may.
pub struct Producer {
    allowed: watch::Sender<usize>,
    confirmed: watch::Receiver<usize>,
}

/// What a subscriber has seen.
pub struct Subscriber {
    arrivals: Arc<Mutex<Arrivals>>,
}

#[derive(Default)]
struct Arrivals {
    times: Vec<Timestamp>,
    keys: HashSet<String>,
}

impl Client {
    /// On the host of this thread.
    pub fn new() -> Client {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build();
        Client {
            runtime: runtime.expect("runtime"),
        }
    }

    /// A durable queue on exchange `cmc` under this key.
    pub fn queue(&self, name: &str, key: &str) {
        let exchange = Exchange {
            name: "cmc".into(),
            kind: ExchangeKind::Topic,
            durable: true,
            auto_delete: false,
        };
        let queue = Queue {
            name: name.into(),
            durable: true,
            quorum: !rabbitmq_mirrors(),
            ..Queue::default()
        };
        let binding = Binding {
            exchange: "cmc".into(),
            queue: name.into(),
            key: key.into(),
        };
        let topology = Topology {
            exchanges: vec![exchange],
            queues: vec![queue],
            bindings: vec![binding],
        };
        self.runtime.block_on(async {
            let connection = steady().await;
            connection.declare(&topology).await.expect("declare");
            connection.close().await;
        });
    }

    /// Ready messages.
    pub fn depth(&self, queue: &str) -> u64 {
        self.runtime.block_on(async {
            let connection = steady().await;
            let depth = connection
                .depth(queue)
                .await
                .expect("depth")
                .expect("there is such a queue");
            connection.close().await;
            depth
        })
    }

    /// Empties a queue that nobody fills: how often each key was in it.
    pub fn empty(&self, queue: &str) -> HashMap<String, usize> {
        let count = self.depth(queue);
        self.runtime.block_on(async {
            let connection = steady().await;
            let mut subscription = connection.subscribe(queue, 500).await.expect("subscribe");
            let mut copies = HashMap::new();
            for _ in 0..count {
                let received = subscription.next().await.expect("a delivery");
                *copies.entry(received.envelope.key).or_default() += 1;
                received.receipt.settle(Settlement::Ack).await.expect("ack");
            }
            copies
        })
    }

    /// Begins when it is allowed to.
    pub fn producer(&self, announcements: Vec<Envelope>) -> Producer {
        let allowed = watch::Sender::new(0);
        let (progress, confirmed) = watch::channel(0);
        self.runtime
            .spawn(announce(announcements, allowed.subscribe(), progress));
        Producer { allowed, confirmed }
    }

    /// Reads and acks a queue for as long as the client lives.
    pub fn subscriber(&self, queue: &'static str) -> Subscriber {
        let arrivals = Arc::default();
        self.runtime.spawn(subscribe(queue, Arc::clone(&arrivals)));
        Subscriber { arrivals }
    }
}

impl Producer {
    /// It may announce the first so many of its list.
    pub fn allow(&self, count: usize) {
        self.allowed.send_replace(count);
    }

    /// Waits until the broker has confirmed the first so many.
    #[track_caller]
    pub fn wait_for(&self, count: usize, deadline: Duration) {
        wait_until(deadline, format!("{count} announcements are confirmed"), || {
            *self.confirmed.borrow() >= count
        });
    }
}

impl Subscriber {
    /// Different keys so far.
    pub fn count(&self) -> usize {
        self.arrivals.lock().unwrap().keys.len()
    }

    /// When something came, in order.
    pub fn times(&self) -> Vec<Timestamp> {
        self.arrivals.lock().unwrap().times.clone()
    }

    #[track_caller]
    pub fn wait_for(&self, count: usize, deadline: Duration) {
        wait_until(deadline, format!("the subscriber has {count} products"), || {
            self.count() >= count
        });
    }
}

/// The brokers' own addresses, for what is not measured.
async fn steady() -> Box<dyn Connection> {
    let broker = broker_of(BUNNIES.map(|host| url(address_of(host))).into());
    connect(&broker, Purpose::Consume, "test").await.expect("connect")
}

fn by_vip() -> Broker {
    Broker {
        connect_timeout: Duration::from_secs(2),
        reply_timeout: Duration::from_secs(5),
        ..broker_of(vec![url(VIP)])
    }
}

fn url(host: &str) -> BrokerUrl {
    BrokerUrl {
        scheme: Scheme::Amqp,
        user: "admin".to_owned(),
        password: Secret::new("admin"),
        host: host.to_owned(),
        port: 5672,
        vhost: "/".to_owned(),
        path: PathBuf::new(),
        heartbeat_s: HEARTBEAT_S,
        frame_max: 16384,
    }
}

async fn announce(announcements: Vec<Envelope>, mut allowed: watch::Receiver<usize>, progress: watch::Sender<usize>) {
    let broker = by_vip();
    let (mut connection, mut done) = (None, 0);
    let mut tick = tokio::time::interval(TICK);
    while done < announcements.len() {
        tick.tick().await;
        let end = (done + PER_TICK).min(*allowed.borrow_and_update());
        if end <= done {
            if allowed.changed().await.is_err() {
                return;
            }
            // No hurry for the time that was spent waiting; only for what an outage has held up.
            tick.reset();
            continue;
        }
        // At least once: what is not confirmed, all of it, goes again.
        while !is_confirmed(&mut connection, &broker, &announcements[done..end]).await {
            connection = None;
            tokio::time::sleep(AGAIN).await;
        }
        done = end;
        progress.send_replace(done);
    }
}

/// Publishes these; false when not all are confirmed.
async fn is_confirmed(slot: &mut Option<Box<dyn Connection>>, broker: &Broker, announcements: &[Envelope]) -> bool {
    if slot.is_none() {
        *slot = connect(broker, Purpose::Publish, "producer").await.ok();
    }
    let Some(connection) = slot else { return false };
    let mut confirms = Vec::with_capacity(announcements.len());
    for announcement in announcements {
        match connection.publish("cmc", announcement, Returns::Counted).await {
            Ok(confirm) => confirms.push(confirm),
            Err(_) => return false,
        }
    }
    for confirm in confirms {
        if confirm.await.is_err() {
            return false;
        }
    }
    true
}

async fn subscribe(queue: &'static str, arrivals: Arc<Mutex<Arrivals>>) {
    let broker = by_vip();
    loop {
        if let Ok(connection) = connect(&broker, Purpose::Consume, "subscriber").await
            && let Ok(mut subscription) = connection.subscribe(queue, 500).await
        {
            while let Ok(received) = subscription.next().await {
                {
                    let mut arrivals = arrivals.lock().unwrap();
                    arrivals.times.push(Timestamp::now());
                    arrivals.keys.insert(received.envelope.key);
                }
                if received.receipt.settle(Settlement::Ack).await.is_err() {
                    break;
                }
            }
        }
        tokio::time::sleep(AGAIN).await;
    }
}
