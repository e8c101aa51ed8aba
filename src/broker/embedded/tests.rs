//! What the embedded broker promises beyond the suite that every transport passes.

mod faults;
mod processes;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::task::Poll;
use std::time::Duration;

use tokio::time::timeout;

use super::connect;
use crate::broker::{Confirmed, Connection, Purpose, Received, Returns, Settlement, Subscription};
use crate::config::{BrokerUrl, Scheme, Secret};
use crate::message::{Binding, Envelope, Exchange, ExchangeKind, Fault, Headers, Queue, Topology};

/// For what must happen.
const SOON: Duration = Duration::from_secs(60);
/// For what must not happen.
const A_WHILE: Duration = Duration::from_millis(300);

fn url(path: PathBuf) -> BrokerUrl {
    BrokerUrl {
        scheme: Scheme::Embedded,
        user: String::new(),
        password: Secret::default(),
        host: String::new(),
        port: 0,
        vhost: "/".into(),
        path,
        heartbeat_s: 30,
        frame_max: 16384,
    }
}

/// A broker of the test's own.
struct Site(tempfile::TempDir);

impl Site {
    fn new() -> Site {
        Site(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("broker.db")
    }

    async fn connect(&self) -> Box<dyn Connection> {
        open(self.path()).await.unwrap()
    }
}

async fn open(path: PathBuf) -> Result<Box<dyn Connection>, crate::broker::BrokerError> {
    connect(&url(path), Purpose::Consume, "test", SOON).await
}

fn exchange(name: &str, kind: ExchangeKind) -> Exchange {
    Exchange {
        name: name.into(),
        kind,
        durable: true,
        auto_delete: false,
    }
}

fn queue(name: &str) -> Queue {
    Queue {
        name: name.into(),
        durable: true,
        ..Queue::default()
    }
}

fn binding(exchange: &str, queue: &str, key: &str) -> Binding {
    Binding {
        exchange: exchange.into(),
        queue: queue.into(),
        key: key.into(),
    }
}

fn only(queue: Queue) -> Topology {
    Topology {
        queues: vec![queue],
        ..Topology::default()
    }
}

async fn declare(broker: &dyn Connection, queue: Queue) {
    assert_eq!(broker.declare(&only(queue)).await.unwrap(), []);
}

/// There is one host, and every consumer is active.
#[tokio::test]
async fn what_only_a_cluster_has_is_refused() {
    let site = Site::new();
    let broker = site.connect().await;
    for (asked, why) in [
        (
            Queue {
                single_active: true,
                ..queue("q")
            },
            "one active consumer",
        ),
        (
            Queue {
                quorum: true,
                ..queue("q")
            },
            "be a quorum queue",
        ),
    ] {
        let error = broker.declare(&only(asked)).await.unwrap_err();
        assert_eq!(error.fault, Fault::Own);
        assert!(error.to_string().contains(why), "{error}");
    }
}

async fn publish(broker: &dyn Connection, exchange: &str, key: &str, body: &str) -> Confirmed {
    let envelope = Envelope {
        key: key.into(),
        body: body.into(),
        ..Envelope::default()
    };
    let confirm = broker.publish(exchange, &envelope, Returns::Known).await.unwrap();
    confirm.await.unwrap()
}

/// Puts bodies into one queue.
async fn fill(broker: &dyn Connection, queue: &str, bodies: &[&str]) {
    for body in bodies {
        assert_eq!(publish(broker, "", queue, body).await, Confirmed::Routed);
    }
}

async fn next(subscription: &mut Box<dyn Subscription>) -> Received {
    timeout(SOON, subscription.next()).await.expect("a delivery").unwrap()
}

async fn next_body(subscription: &mut Box<dyn Subscription>, how: Settlement) -> (String, bool) {
    let received = next(subscription).await;
    let body = String::from_utf8(received.envelope.body).unwrap();
    received.receipt.settle(how).await.unwrap();
    (body, received.redelivered)
}

async fn assert_nothing_comes(subscription: &mut Box<dyn Subscription>) {
    assert!(timeout(A_WHILE, subscription.next()).await.is_err());
}

async fn wait_until<F: Future<Output = bool>>(what: &str, condition: impl Fn() -> F) {
    let until = tokio::time::Instant::now() + SOON;
    while !condition().await {
        assert!(tokio::time::Instant::now() < until, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn every_kind_of_exchange_routes_and_returns_are_known() {
    let site = Site::new();
    let broker = site.connect().await;
    let topology = Topology {
        exchanges: vec![
            exchange("t", ExchangeKind::Topic),
            exchange("d", ExchangeKind::Direct),
            exchange("f", ExchangeKind::Fanout),
        ],
        queues: vec![queue("a"), queue("b")],
        bindings: vec![
            binding("t", "a", "v02.post.#"),
            binding("t", "a", "v02.#"),
            binding("t", "b", "*.post.x"),
            binding("d", "a", "k"),
            binding("f", "a", "any"),
            binding("f", "b", "any"),
        ],
    };
    assert!(broker.declare(&topology).await.unwrap().is_empty());
    assert!(broker.declare(&topology).await.unwrap().is_empty());
    let table = [
        ("t", "v02.post.x", 1, 1),
        ("t", "v02.post", 1, 0),
        ("t", "exp.post.x", 0, 1),
        ("t", "exp", 0, 0),
        ("d", "k", 1, 0),
        ("d", "K", 0, 0),
        ("f", "", 1, 1),
        ("amq.topic", "k", 0, 0),
        ("", "b", 0, 1),
        ("", "nobody", 0, 0),
    ];
    let (mut a, mut b) = (0, 0);
    for (exchange, key, in_a, in_b) in table {
        let expected = if in_a + in_b > 0 {
            Confirmed::Routed
        } else {
            Confirmed::Returned
        };
        assert_eq!(
            publish(&*broker, exchange, key, "x").await,
            expected,
            "{exchange} {key}"
        );
        (a, b) = (a + in_a, b + in_b);
        assert_eq!(broker.depth("a").await.unwrap(), Some(a), "{exchange} {key}");
        assert_eq!(broker.depth("b").await.unwrap(), Some(b), "{exchange} {key}");
    }
    assert_eq!(broker.depth("c").await.unwrap(), None);
}

#[tokio::test]
async fn deliveries_keep_the_order_and_the_prefetch() {
    let site = Site::new();
    let broker = site.connect().await;
    declare(&*broker, queue("q")).await;
    fill(&*broker, "q", &["1", "2", "3", "4"]).await;
    let mut subscription = broker.subscribe("q", 2).await.unwrap();
    let first = next(&mut subscription).await;
    let second = next(&mut subscription).await;
    assert_eq!(
        (&first.envelope.body[..], &second.envelope.body[..]),
        (&b"1"[..], &b"2"[..])
    );
    assert_nothing_comes(&mut subscription).await;
    assert_eq!(broker.depth("q").await.unwrap(), Some(2));
    first.receipt.settle(Settlement::Ack).await.unwrap();
    assert_eq!(next_body(&mut subscription, Settlement::Ack).await, ("3".into(), false));
    second.receipt.settle(Settlement::Ack).await.unwrap();
    assert_eq!(next_body(&mut subscription, Settlement::Ack).await, ("4".into(), false));
    assert_eq!(broker.depth("q").await.unwrap(), Some(0));
}

#[tokio::test]
async fn a_requeued_delivery_comes_back_in_its_place_and_a_rejected_one_does_not() {
    let site = Site::new();
    let broker = site.connect().await;
    declare(&*broker, queue("q")).await;
    fill(&*broker, "q", &["1", "2", "3"]).await;
    let mut subscription = broker.subscribe("q", 1).await.unwrap();
    assert_eq!(
        next_body(&mut subscription, Settlement::Requeue).await,
        ("1".into(), false)
    );
    assert_eq!(
        next_body(&mut subscription, Settlement::Reject).await,
        ("1".into(), true)
    );
    assert_eq!(next_body(&mut subscription, Settlement::Ack).await, ("2".into(), false));
    assert_eq!(next_body(&mut subscription, Settlement::Ack).await, ("3".into(), false));
    assert_nothing_comes(&mut subscription).await;
}

#[tokio::test]
async fn a_delayed_delivery_waits_and_does_not_hold_the_others() {
    let site = Site::new();
    let broker = site.connect().await;
    declare(&*broker, queue("q")).await;
    fill(&*broker, "q", &["1", "2"]).await;
    let mut subscription = broker.subscribe("q", 1).await.unwrap();
    let delay = Duration::from_millis(700);
    let start = std::time::Instant::now();
    let later = Settlement::RequeueAfter(delay, Headers::new());
    assert_eq!(next_body(&mut subscription, later).await, ("1".into(), false));
    assert_eq!(next_body(&mut subscription, Settlement::Ack).await, ("2".into(), false));
    assert_eq!(broker.depth("q").await.unwrap(), Some(0));
    assert_eq!(next_body(&mut subscription, Settlement::Ack).await, ("1".into(), true));
    assert!(start.elapsed() >= delay, "{:?}", start.elapsed());
}

#[tokio::test]
async fn rejected_and_expired_messages_are_dead_lettered_under_their_key() {
    let site = Site::new();
    let broker = site.connect().await;
    let topology = Topology {
        exchanges: vec![exchange("dead", ExchangeKind::Topic)],
        queues: vec![
            Queue {
                dead_letter_exchange: Some("dead".into()),
                message_ttl: Some(Duration::from_millis(400)),
                ..queue("q")
            },
            queue("graves"),
        ],
        bindings: vec![binding("dead", "graves", "q")],
    };
    broker.declare(&topology).await.unwrap();
    fill(&*broker, "q", &["rejected"]).await;
    let mut subscription = broker.subscribe("q", 1).await.unwrap();
    assert_eq!(next_body(&mut subscription, Settlement::Reject).await.0, "rejected");
    subscription.cancel().await;
    fill(&*broker, "q", &["expired"]).await;
    let mut graves = broker.subscribe("graves", 1).await.unwrap();
    for body in ["rejected", "expired"] {
        let received = next(&mut graves).await;
        assert_eq!(received.envelope.key, "q");
        assert_eq!(received.envelope.body, body.as_bytes());
        assert!(!received.redelivered);
        received.receipt.settle(Settlement::Ack).await.unwrap();
    }
    assert_eq!(broker.depth("q").await.unwrap(), Some(0));
}

#[tokio::test]
async fn a_cancelled_subscription_gives_back_what_it_has_not_handed_out() {
    let site = Site::new();
    let broker = site.connect().await;
    declare(&*broker, queue("q")).await;
    fill(&*broker, "q", &["1", "2", "3"]).await;
    let mut subscription = broker.subscribe("q", 3).await.unwrap();
    let first = next(&mut subscription).await;
    wait_until("all are claimed", || async {
        broker.depth("q").await.unwrap() == Some(0)
    })
    .await;
    subscription.cancel().await;
    assert!(subscription.next().await.is_err());
    assert_eq!(broker.depth("q").await.unwrap(), Some(2));
    first.receipt.settle(Settlement::Ack).await.unwrap();
    let mut subscription = broker.subscribe("q", 3).await.unwrap();
    assert_eq!(next_body(&mut subscription, Settlement::Ack).await.0, "2");
    assert_eq!(next_body(&mut subscription, Settlement::Ack).await.0, "3");
}

#[tokio::test]
async fn dropped_receipts_are_delivered_again_when_their_subscription_is_gone() {
    let site = Site::new();
    let broker = site.connect().await;
    declare(&*broker, queue("q")).await;
    fill(&*broker, "q", &["1", "2", "3"]).await;
    let mut subscription = broker.subscribe("q", 2).await.unwrap();
    drop(next(&mut subscription).await);
    let kept = next(&mut subscription).await;
    drop(subscription);
    // A receipt that is still held keeps the claims of its channel.
    let mut other = broker.subscribe("q", 9).await.unwrap();
    assert_eq!(next_body(&mut other, Settlement::Ack).await, ("3".into(), false));
    assert_nothing_comes(&mut other).await;
    kept.receipt.settle(Settlement::Ack).await.unwrap();
    assert_eq!(next_body(&mut other, Settlement::Ack).await, ("1".into(), true));
    assert_nothing_comes(&mut other).await;
}

#[tokio::test]
async fn closing_gives_everything_back_and_ends_the_connection() {
    let site = Site::new();
    let (a, b) = (site.connect().await, site.connect().await);
    declare(&*a, queue("q")).await;
    fill(&*a, "q", &["1", "2"]).await;
    let mut subscription = a.subscribe("q", 2).await.unwrap();
    let held = next(&mut subscription).await;
    a.close().await;
    assert_eq!(b.depth("q").await.unwrap(), Some(2));
    assert!(timeout(SOON, a.closed()).await.unwrap().what.contains("closed"));
    assert_eq!(a.depth("q").await.unwrap_err().fault, Fault::Endpoint);
    assert_eq!(
        held.receipt.settle(Settlement::Ack).await.unwrap_err().fault,
        Fault::Endpoint
    );
    // What was claimed and not handed out stays where it is.
    assert_eq!(subscription.next().await.err().unwrap().fault, Fault::Endpoint);
    let mut other = b.subscribe("q", 2).await.unwrap();
    assert_eq!(next_body(&mut other, Settlement::Ack).await, ("1".into(), true));
    assert_eq!(next_body(&mut other, Settlement::Ack).await, ("2".into(), true));
}

#[tokio::test]
async fn a_dropped_connection_closes_in_good_order() {
    let site = Site::new();
    let (a, b) = (site.connect().await, site.connect().await);
    declare(
        &*a,
        Queue {
            exclusive: true,
            ..queue("mine")
        },
    )
    .await;
    for refusal in [
        b.subscribe("mine", 1).await.err(),
        b.declare(&only(queue("mine"))).await.err(),
    ] {
        let refusal = refusal.unwrap();
        assert_eq!(refusal.fault, Fault::Endpoint);
        assert!(refusal.what.contains("exclusive"), "{refusal}");
    }
    drop(a);
    wait_until("the exclusive queue is gone", || async {
        b.depth("mine").await.unwrap().is_none()
    })
    .await;
    wait_until("its files are gone", || async {
        std::fs::read_dir(site.path().with_extension("db.d")).unwrap().count() == 3 // lock, socket, opening
    })
    .await;
}

#[tokio::test]
async fn an_auto_delete_queue_goes_with_its_last_consumer_and_its_exchange_with_it() {
    let site = Site::new();
    let broker = site.connect().await;
    let topology = Topology {
        exchanges: vec![Exchange {
            auto_delete: true,
            ..exchange("x", ExchangeKind::Fanout)
        }],
        queues: vec![Queue {
            auto_delete: true,
            ..queue("q")
        }],
        bindings: vec![binding("x", "q", "")],
    };
    broker.declare(&topology).await.unwrap();
    let mut a = broker.subscribe("q", 1).await.unwrap();
    let b = broker.subscribe("q", 1).await.unwrap();
    a.cancel().await;
    assert_eq!(publish(&*broker, "x", "k", "kept").await, Confirmed::Routed);
    drop(b);
    wait_until("the queue is gone", || async {
        broker.depth("q").await.unwrap().is_none()
    })
    .await;
    let confirm = broker.publish("x", &Envelope::default(), Returns::Known).await.unwrap();
    assert!(confirm.await.unwrap_err().what.contains("no exchange x"));
}

#[tokio::test]
async fn an_unused_queue_expires_and_a_used_one_does_not() {
    let site = Site::new();
    let broker = site.connect().await;
    let expires = Some(Duration::from_millis(500));
    declare(
        &*broker,
        Queue {
            expires,
            ..queue("unused")
        },
    )
    .await;
    declare(
        &*broker,
        Queue {
            expires,
            ..queue("used")
        },
    )
    .await;
    let mut used = broker.subscribe("used", 1).await.unwrap();
    wait_until("the unused one is gone", || async {
        broker.depth("unused").await.unwrap().is_none()
    })
    .await;
    fill(&*broker, "used", &["x"]).await;
    assert_eq!(next_body(&mut used, Settlement::Ack).await.0, "x");
    drop(used);
    wait_until("the used one is gone", || async {
        broker.depth("used").await.unwrap().is_none()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_consumers_take_turns() {
    let site = Site::new();
    let publisher = site.connect().await;
    declare(&*publisher, queue("q")).await;
    for prefetch in [1, 10] {
        let mut tasks = Vec::new();
        for _ in 0..4 {
            let broker = site.connect().await;
            let mut subscription = broker.subscribe("q", prefetch).await.unwrap();
            tasks.push(tokio::spawn(async move {
                let mut count = 0;
                while next_body(&mut subscription, Settlement::Ack).await.0 != "end" {
                    count += 1;
                }
                subscription.cancel().await;
                broker.close().await;
                count
            }));
        }
        fill(&*publisher, "q", &["x"; 80]).await;
        fill(&*publisher, "q", &["end"; 4]).await;
        let mut counts = Vec::new();
        for task in tasks {
            counts.push(task.await.unwrap());
        }
        assert_eq!(counts.iter().sum::<i32>(), 80);
        assert!(
            counts.iter().all(|count| *count >= 5),
            "prefetch {prefetch}: {counts:?}"
        );
    }
}

#[tokio::test]
async fn large_bodies_go_through_within_the_memory_bound() {
    let site = Site::new();
    let broker = site.connect().await;
    declare(&*broker, queue("q")).await;
    let envelope = |size: usize, byte| Envelope {
        key: "q".into(),
        body: vec![byte; size],
        ..Envelope::default()
    };
    let sizes = [40 << 20, 9 << 20, 9 << 20, 9 << 20, 1];
    let mut confirms = Vec::new();
    for (byte, size) in (0..).zip(sizes) {
        let confirm = broker
            .publish("", &envelope(size, byte), Returns::Counted)
            .await
            .unwrap();
        confirms.push(confirm);
    }
    for confirm in confirms {
        assert_eq!(confirm.await.unwrap(), Confirmed::Routed);
    }
    let mut subscription = broker.subscribe("q", 10).await.unwrap();
    for (byte, size) in (0..).zip(sizes) {
        let received = next(&mut subscription).await;
        assert!(received.envelope == envelope(size, byte), "{size}");
        received.receipt.settle(Settlement::Ack).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_can_open_a_new_file_at_the_same_time() {
    let site = Site::new();
    let tasks: Vec<_> = (0..8).map(|_| tokio::spawn(open(site.path()))).collect();
    let mut brokers = Vec::new();
    for task in tasks {
        brokers.push(task.await.unwrap().unwrap());
    }
    declare(&*brokers[0], queue("q")).await;
    for broker in &brokers {
        assert_eq!(publish(&**broker, "", "q", "x").await, Confirmed::Routed);
    }
    let mut names = BTreeSet::new();
    let mut subscription = brokers[7].subscribe("q", 8).await.unwrap();
    for _ in 0..8 {
        names.insert(next_body(&mut subscription, Settlement::Ack).await);
    }
    assert_eq!(names, [("x".to_string(), false)].into());
}

#[tokio::test]
async fn what_was_called_before_a_drop_is_done() {
    let site = Site::new();
    let (a, b) = (site.connect().await, site.connect().await);
    declare(&*a, queue("q")).await;
    for _ in 0..1000 {
        let envelope = Envelope {
            key: "q".into(),
            ..Envelope::default()
        };
        drop(a.publish("", &envelope, Returns::Counted).await.unwrap());
    }
    drop(a);
    wait_until("all are there", || async { b.depth("q").await.unwrap() == Some(1000) }).await;
}

#[tokio::test]
async fn a_cancel_that_is_given_up_still_counts() {
    let site = Site::new();
    let broker = site.connect().await;
    declare(&*broker, queue("q")).await;
    fill(&*broker, "q", &["1", "2"]).await;
    let mut subscription = broker.subscribe("q", 1).await.unwrap();
    let held = next(&mut subscription).await;
    // One poll: it has closed the stream and perhaps sent the call.
    {
        let mut cancel = subscription.cancel();
        let once = std::future::poll_fn(|context| Poll::Ready(cancel.as_mut().poll(context)));
        // It may even be done.
        let _: Poll<()> = once.await;
    }
    held.receipt.settle(Settlement::Ack).await.unwrap();
    wait_until("the other is back", || async {
        broker.depth("q").await.unwrap() == Some(1)
    })
    .await;
    drop(subscription);
    let mut other = broker.subscribe("q", 1).await.unwrap();
    assert_eq!(next_body(&mut other, Settlement::Ack).await.0, "2");
}
