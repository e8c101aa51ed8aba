//! A publisher and a reader of the test's own, beside the units.

use std::collections::HashMap;
use std::time::Duration;

use md5::{Digest, Md5};
use px::broker::{Connection, Purpose, Returns, Settlement, Subscription, connect};
use px::config::Broker;
use px::message::{Binding, Envelope, Exchange, ExchangeKind, Queue, Topology};
use tokio::runtime::Runtime;

/// Publishes in flight at once.
const WINDOW: usize = 200;
const SOON: Duration = Duration::from_secs(30);
/// After this nothing more comes, as far as can be told.
const LULL: Duration = Duration::from_millis(500);

/// One connection to publish, one to read. Blocking, so that tests read from top to bottom.
pub struct Feed {
    runtime: Runtime,
    publish: Box<dyn Connection>,
    consume: Box<dyn Connection>,
}

impl Feed {
    /// Connects, and makes the topic exchange `xp`.
    pub fn new(broker: &Broker) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("runtime");
        let open = |purpose| runtime.block_on(connect(broker, purpose, "feed")).expect("connect");
        let (publish, consume) = (open(Purpose::Publish), open(Purpose::Consume));
        let feed = Feed {
            runtime,
            publish,
            consume,
        };
        feed.declare(&Topology {
            exchanges: vec![xp()],
            ..Topology::default()
        });
        feed
    }

    pub fn declare(&self, topology: &Topology) {
        self.runtime.block_on(self.publish.declare(topology)).expect("declare");
    }

    /// A durable queue bound to `xp` under these keys.
    pub fn queue(&self, name: &str, keys: &[&str]) {
        self.queue_of(name, keys, false);
    }

    /// The same as a quorum queue, or not.
    pub fn queue_of(&self, name: &str, keys: &[&str], quorum: bool) {
        self.declare(&Topology {
            exchanges: vec![xp()],
            queues: vec![Queue {
                name: name.into(),
                durable: true,
                quorum,
                ..Queue::default()
            }],
            bindings: keys
                .iter()
                .map(|key| Binding {
                    exchange: "xp".into(),
                    queue: name.into(),
                    key: (*key).into(),
                })
                .collect(),
        });
    }

    /// Publishes one message to `xp`, confirmed.
    pub fn announce(&self, envelope: Envelope) {
        self.announce_all([envelope]);
    }

    /// Publishes to `xp` in order, all confirmed at the end.
    pub fn announce_all(&self, envelopes: impl IntoIterator<Item = Envelope>) {
        self.runtime.block_on(async {
            let mut confirms = Vec::new();
            for envelope in envelopes {
                let confirm = self.publish.publish("xp", &envelope, Returns::Counted).await;
                confirms.push(confirm.expect("publish"));
                if confirms.len() == WINDOW {
                    for confirm in confirms.drain(..) {
                        confirm.await.expect("confirm");
                    }
                }
            }
            for confirm in confirms {
                confirm.await.expect("confirm");
            }
        });
    }

    /// Ready messages in a queue; `None` when there is none of that name.
    pub fn depth(&self, queue: &str) -> Option<u64> {
        self.runtime.block_on(self.publish.depth(queue)).expect("depth")
    }

    /// Reads a queue; what is read is acked.
    pub fn reader(&self, queue: &str) -> Reader<'_> {
        let subscription = self.runtime.block_on(self.consume.subscribe(queue, 500));
        Reader {
            runtime: &self.runtime,
            subscription: subscription.expect("subscribe"),
        }
    }

    /// Takes one delivery and gives it back: the broker marks it as delivered before.
    pub fn give_back(&self, queue: &str) {
        self.runtime.block_on(async {
            let mut subscription = self.consume.subscribe(queue, 1).await.expect("subscribe");
            let received = subscription.next().await.expect("next");
            subscription.cancel().await;
            received.receipt.settle(Settlement::Requeue).await.expect("requeue");
        });
    }

    /// Takes one delivery and never answers; the answer is what the broker says when its patience ends.
    pub fn hold_one(&self, queue: &str, patience: Duration) -> String {
        self.runtime.block_on(async {
            let mut subscription = self.consume.subscribe(queue, 1).await.expect("subscribe");
            let _held = subscription.next().await.expect("next");
            let end = tokio::time::timeout(patience, subscription.next()).await;
            let error = end
                .expect("the broker's patience ends")
                .err()
                .expect("it ends the subscription");
            format!("{error}: {:?}", error.source)
        })
    }
}

/// A subscription of the test's own.
pub struct Reader<'a> {
    runtime: &'a Runtime,
    subscription: Box<dyn Subscription>,
}

impl Reader<'_> {
    /// The next message; `None` when none comes within the deadline.
    pub fn next(&mut self, deadline: Duration) -> Option<Envelope> {
        self.runtime.block_on(async {
            let next = tokio::time::timeout(deadline, self.subscription.next()).await;
            let received = next.ok()?.expect("a delivery");
            received.receipt.settle(Settlement::Ack).await.expect("ack");
            Some(received.envelope)
        })
    }

    /// How often each key came, once so many different ones have come: until nothing more comes for half a second.
    #[track_caller]
    pub fn count_keys(&mut self, mut counts: HashMap<String, usize>, different: usize) -> HashMap<String, usize> {
        while let Some(envelope) = self.next(if counts.len() < different { SOON } else { LULL }) {
            *counts.entry(envelope.key).or_default() += 1;
        }
        counts
    }

    /// The next so many.
    #[track_caller]
    pub fn take(&mut self, count: usize) -> Vec<Envelope> {
        let mut taken = Vec::with_capacity(count);
        while taken.len() < count {
            match self.next(SOON) {
                Some(envelope) => taken.push(envelope),
                None => panic!("{} messages of {count} came", taken.len()),
            }
        }
        taken
    }
}

fn xp() -> Exchange {
    Exchange {
        name: "xp".into(),
        kind: ExchangeKind::Topic,
        durable: true,
        auto_delete: false,
    }
}

/// A v02 announcement under `v02.post.…`, written out as a peer would, with the digest and the size of these bytes.
pub fn v02(base: &str, path: &str, bytes: &[u8]) -> Envelope {
    let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
    let now = jiff::Timestamp::now();
    let time = now.to_zoned(jiff::tz::TimeZone::UTC).strftime("%Y%m%d%H%M%S.%3f");
    let mut envelope = Envelope {
        key: format!("v02.post.{}", directory.replace('/', ".")),
        body: format!("{time} {base} {path}").into_bytes(),
        ..Envelope::default()
    };
    let sum = format!("d,{}", base16ct::lower::encode_string(&Md5::digest(bytes)));
    envelope.headers.insert("sum".into(), sum.as_str().into());
    let parts = format!("1,{},1,0,0", bytes.len());
    envelope.headers.insert("parts".into(), parts.as_str().into());
    envelope
}

/// A v00 announcement as radar sites send it, under `v00.urp.input.…`: the digest is of the name.
pub fn v00_urp(base: &str, path: &str, size: usize) -> Envelope {
    let name = path.rsplit('/').next().unwrap_or(path);
    let digest = base16ct::lower::encode_string(&Md5::digest(first_five(name).as_bytes()));
    Envelope {
        key: format!("v00.urp.input.{}", path.replace('/', ".")),
        body: format!("{digest} {size} {base} {path}").into_bytes(),
        ..Envelope::default()
    }
}

/// The first five colon fields of a name.
fn first_five(name: &str) -> String {
    name.split(':').take(5).collect::<Vec<_>>().join(":")
}
