//! Queues that are spilled into files and replayed, on a real broker.

mod meanwhile;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use px::broker::{Confirmed, Connection, Purpose, Returns, connect};
use px::config::{Broker, BrokerUrl, Places};
use px::flow::spill::{Ending, Figures, Spilled, spill};
use px::message::{Binding, Envelope, Exchange, ExchangeKind, Headers, Queue, Topology, Value};
use px::spool::spill::SpillReader;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use crate::support::{Feed, SOON, TestBroker, TestSite, spawn_kept, wait_until};

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("runtime")
}

/// Named as px.toml names it.
fn main_broker(broker: &TestBroker) -> Broker {
    Broker {
        name: "main".into(),
        ..broker.config()
    }
}

fn spill_now(broker: &Broker, queue: &str, directory: &Path) -> Spilled {
    spill_with(broker, queue, &serde_json::Map::new(), directory)
}

/// With figures that are always new, and say that nobody has a message in hand.
fn spill_with(
    broker: &Broker,
    queue: &str,
    arguments: &serde_json::Map<String, serde_json::Value>,
    directory: &Path,
) -> Spilled {
    let looks = AtomicU64::new(0);
    let look = async |_: &str| Ok(figures(0, &looks));
    runtime().block_on(spill(
        broker,
        queue,
        arguments,
        directory,
        look,
        &CancellationToken::new(),
    ))
}

/// New ones.
fn figures(unacknowledged: u64, looks: &AtomicU64) -> Option<Figures> {
    Some(Figures {
        unacknowledged: Some(unacknowledged),
        reductions: Some(looks.fetch_add(1, Ordering::Relaxed)),
    })
}

fn every_kind() -> Headers {
    let mut headers = Headers::from([
        ("bool".into(), Value::Bool(true)),
        ("i8".into(), Value::I8(-8)),
        ("u8".into(), Value::U8(200)),
        ("i16".into(), Value::I16(-1600)),
        ("u16".into(), Value::U16(60000)),
        ("i32".into(), Value::I32(-320000)),
        ("u32".into(), Value::U32(4_000_000_000)),
        ("i64".into(), Value::I64(i64::MIN)),
        ("f32".into(), Value::F32(0.1)),
        ("f64".into(), Value::F64(-2.25)),
        ("decimal".into(), Value::Decimal(2, 31415)),
        ("text \"\r\n".into(), Value::from("été")),
        ("not utf-8".into(), Value::Str(vec![0xff, 0, 0x80])),
        ("bytes".into(), Value::Bytes(vec![0, 1, 0xfe])),
        ("time".into(), Value::Timestamp(1_700_000_000)),
        ("void".into(), Value::Void),
    ]);
    let all = headers.values().cloned().collect();
    headers.insert("table".into(), Value::Table(headers.clone()));
    headers.insert("array".into(), Value::Array(all));
    headers
}

/// Bodies of every byte, keys with every oddity, all properties there are and none.
fn message(number: usize) -> Envelope {
    let text = |name: &str| (!number.is_multiple_of(3)).then(|| format!("{name} \"é {number}"));
    let body: Vec<u8> = (0..number % 700).map(|at| (at * 7 + number) as u8).collect();
    Envelope {
        key: format!("a.{}.é \"#*", number),
        headers: if number.is_multiple_of(2) {
            every_kind()
        } else {
            Headers::new()
        },
        content_type: text("content type"),
        content_encoding: text("encoding"),
        priority: number.is_multiple_of(4).then_some(number as u8),
        message_id: text("id"),
        correlation_id: text("correlation"),
        reply_to: text("reply"),
        expiration: number.is_multiple_of(5).then(|| "86400000".to_owned()),
        timestamp: (!number.is_multiple_of(7)).then_some(1_700_000_000 + number as u64),
        kind: text("kind"),
        app_id: text("app"),
        body,
    }
}

/// Puts messages into one queue, keys and all.
fn fill(broker: &Broker, queue: &str, messages: &[Envelope]) {
    runtime().block_on(async {
        let connection = connect(broker, Purpose::Publish, "fill").await.expect("connect");
        let topology = Topology {
            exchanges: vec![Exchange {
                name: "in".into(),
                kind: ExchangeKind::Fanout,
                durable: false,
                auto_delete: true,
            }],
            queues: vec![Queue {
                name: queue.into(),
                durable: true,
                ..Queue::default()
            }],
            bindings: vec![Binding {
                exchange: "in".into(),
                queue: queue.into(),
                key: String::new(),
            }],
        };
        connection.declare(&topology).await.expect("declare");
        let mut confirms = Vec::new();
        for message in messages {
            confirms.push(
                connection
                    .publish("in", message, Returns::Counted)
                    .await
                    .expect("publish"),
            );
            if confirms.len() == 250 {
                for confirm in confirms.drain(..) {
                    confirm.await.expect("confirm");
                }
            }
        }
        for confirm in confirms {
            confirm.await.expect("confirm");
        }
        connection.delete_exchange("in").await.expect("deleted");
        connection.close().await;
    });
}

fn declare(broker: &Broker, queue: &str) {
    fill(broker, queue, &[]);
}

fn depth(broker: &Broker, queue: &str) -> Option<u64> {
    runtime().block_on(async {
        let connection = connect(broker, Purpose::Publish, "depth").await.expect("connect");
        connection.depth(queue).await.expect("depth")
    })
}

/// Everything in a spill file.
fn read(path: &Path) -> Vec<Envelope> {
    let mut reader = SpillReader::open(path).expect("a spill file");
    let mut messages = Vec::new();
    while let Some(message) = reader.next().expect("a message") {
        messages.push(message.envelope);
    }
    messages
}

fn spilled_into(site: &TestSite) -> PathBuf {
    site.path("spilled")
}

fn shown(path: &Path) -> &str {
    path.to_str().expect("text")
}

/// The messages that come back are those that went in, in their order, and no other queue gets any of them.
#[test]
fn what_is_spilled_and_replayed_is_what_was_there() {
    let broker = TestBroker::new("spill-replay");
    let (site, config) = (TestSite::new(&broker), main_broker(&broker));
    let feed = Feed::new(&broker.config());
    feed.queue("other", &["#"]);
    let messages: Vec<Envelope> = (0..5000).map(message).collect();
    for queue in ["cmc.q", "a b/é\"%2F\0~"] {
        fill(&config, queue, &messages);
        let spilled = spill_now(&config, queue, &spilled_into(&site));
        assert_eq!((&spilled.ending, spilled.messages), (&Ending::Deleted, 5000));
        let bodies: usize = messages.iter().map(|message| message.body.len()).sum();
        assert_eq!(spilled.bytes, bodies as u64);
        assert_eq!(depth(&config, queue), None);
        let file = spilled.file.expect("a file");

        let told = site.px_ends(0, &["replay", shown(&file), "--dry-run"]);
        assert!(told.out.contains("5000 would be published to queue "), "{told:?}");
        let told = site.px_ends(1, &["replay", shown(&file)]);
        assert!(
            told.err.contains("is not on amqp://") && told.err.contains("nothing was published"),
            "{told:?}"
        );

        declare(&config, queue);
        let told = site.px_ends(0, &["replay", shown(&file)]);
        assert!(told.out.contains("5000 messages published to queue "), "{told:?}");
        assert_eq!(told.err, "");
        assert!(
            feed.reader(queue).take(5000) == messages,
            "{queue:?}: others, or in another order"
        );
        assert_eq!(depth(&config, queue), Some(0));
        let exchanges = broker.api("GET", &format!("/api/exchanges/{}?columns=name", broker.vhost), None);
        let exchanges = exchanges.json().to_string();
        assert!(
            !exchanges.contains(".replay"),
            "what it passed through is gone: {exchanges}"
        );
    }
    assert_eq!(depth(&config, "other"), Some(0));
}

#[test]
fn a_replay_goes_where_it_is_told_and_tells_what_found_nobody() {
    let broker = TestBroker::new("replay-to");
    let (site, config) = (TestSite::new(&broker), main_broker(&broker));
    let feed = Feed::new(&broker.config());
    let messages: Vec<Envelope> = (0..300)
        .map(|number| Envelope {
            key: if number < 100 { "good.a" } else { "bad.a" }.into(),
            body: number.to_string().into_bytes(),
            ..Envelope::default()
        })
        .collect();
    fill(&config, "q", &messages);
    let file = spill_now(&config, "q", &spilled_into(&site)).file.expect("a file");
    declare(&config, "another");
    site.px_ends(0, &["replay", shown(&file), "--queue", "another", "--skip", "290"]);
    assert_eq!(feed.reader("another").take(10), messages[290..]);
    feed.queue("bound", &["good.#"]);
    let told = site.px_ends(1, &["replay", shown(&file), "--exchange", "xp"]);
    assert!(told.err.contains("200 messages found no queue"), "{told:?}");
    assert_eq!(feed.reader("bound").take(100), messages[..100]);
    assert!(told.err.contains("--skip 0 publishes all"), "{told:?}");
    let told = site.px_ends(1, &["replay", shown(&file), "--exchange", "nowhere"]);
    assert!(told.err.contains("exchange nowhere is not on"), "{told:?}");
    let told = site.px_ends(1, &["replay", shown(&file), "--broker", "unknown"]);
    assert!(told.err.contains("no broker \"unknown\""), "{told:?}");
    site.px_ends(2, &["replay", shown(&file), "--queue", "q", "--exchange", "xp"]);

    // A queue that confirms and drops.
    let policy = r#"{"pattern": "^small$", "definition": {"max-length": 10}}"#;
    broker
        .api("PUT", &format!("/api/policies/{}/small", broker.vhost), Some(policy))
        .ok();
    declare(&config, "small");
    let told = site.px_ends(1, &["replay", shown(&file), "--queue", "small"]);
    assert!(told.err.contains("queue small holds 10 messages"), "{told:?}");

    // A broker that takes nothing: the queue refuses, and what is safe is said.
    let policy = r#"{"pattern": "^full$", "definition": {"max-length": 40, "overflow": "reject-publish"}}"#;
    broker
        .api("PUT", &format!("/api/policies/{}/full", broker.vhost), Some(policy))
        .ok();
    declare(&config, "full");
    let told = site.px_ends(1, &["replay", shown(&file), "--queue", "full", "--timeout", "2"]);
    assert!(told.err.contains("nothing was confirmed for 2 s"), "{told:?}");
    let (_, skip) = told.err.split_once("go on with --skip ").expect("how many are safe");
    let (skip, there) = (skip.trim().parse::<u64>().expect("a number"), depth(&config, "full"));
    assert!(0 < skip && Some(skip) <= there, "{told:?}, {there:?} there");
}

#[test]
fn a_cut_file_is_replayed_as_far_as_it_is_whole() {
    let broker = TestBroker::new("replay-cut");
    let (site, config) = (TestSite::new(&broker), main_broker(&broker));
    let feed = Feed::new(&broker.config());
    let messages: Vec<Envelope> = (0..1000).map(message).collect();
    fill(&config, "q", &messages);
    let file = spill_now(&config, "q", &spilled_into(&site)).file.expect("a file");
    let bytes = std::fs::read(&file).expect("the file");
    let replayed = |bytes: &[u8]| {
        std::fs::write(&file, bytes).expect("written");
        declare(&config, "q");
        let told = site.px_ends(1, &["replay", shown(&file)]);
        let whole = depth(&config, "q").expect("the queue") as usize;
        (told, feed.reader("q").take(whole))
    };
    let (told, got) = replayed(&bytes[..bytes.len() - 10]);
    assert!(told.err.contains("has no end after message 1000"), "{told:?}");
    assert!(got == messages);
    let (told, got) = replayed(&bytes[..bytes.len() * 9 / 10]);
    assert!(told.err.contains("is damaged after the "), "{told:?}");
    assert!((500..1000).contains(&got.len()) && got == messages[..got.len()]);
    let mut spoilt = bytes.clone();
    spoilt[bytes.len() / 2] ^= 1;
    let (told, got) = replayed(&spoilt);
    assert!(
        told.err.contains("px: 128 of the 1000 messages of ") && told.err.contains("look for a better copy"),
        "{told:?}"
    );
    assert!(got.len() == 1000 - 128 && got.last() == messages.last());
    std::fs::write(&file, b"no spill").expect("rubbish");
    let told = site.px_ends(1, &["replay", shown(&file)]);
    assert!(told.err.contains("was not spilled by px"), "{told:?}");
}

#[test]
fn a_queue_that_is_fed_faster_than_it_is_spilled_stays() {
    let broker = TestBroker::new("spill-fed");
    let (site, config) = (TestSite::new(&broker), main_broker(&broker));
    let messages: Vec<Envelope> = (0..1000).map(message).collect();
    fill(&config, "q", &messages);
    let is_over = AtomicBool::new(false);
    let spilled = std::thread::scope(|scope| {
        scope.spawn(|| {
            runtime().block_on(async {
                let connection = connect(&config, Purpose::Publish, "feed").await.expect("connect");
                while !is_over.load(Ordering::Relaxed) {
                    let body = vec![b'x'; 10];
                    let envelope = Envelope {
                        key: "q".into(),
                        body,
                        ..Envelope::default()
                    };
                    let confirm = connection
                        .publish("", &envelope, Returns::Counted)
                        .await
                        .expect("publish");
                    confirm.await.expect("confirm");
                }
            });
        });
        let spilled = spill_now(&config, "q", &spilled_into(&site));
        is_over.store(true, Ordering::Relaxed);
        spilled
    });
    assert_eq!(spilled.ending, Ending::FedFaster);
    assert_eq!(spilled.ending.to_string(), "kept: fed faster than spilled");
    assert!(
        spilled.messages > 1000 && depth(&config, "q").is_some_and(|left| left > 0),
        "{spilled:?}"
    );
    let file = read(spilled.file.as_deref().expect("a file"));
    assert_eq!(file.len() as u64, spilled.messages);
    assert!(file[..1000] == messages);
}

/// Before it begins, and between two batches.
#[test]
fn a_consumer_that_comes_keeps_its_queue() {
    let broker = TestBroker::new("spill-consumer");
    let (site, config) = (TestSite::new(&broker), main_broker(&broker));
    let messages: Vec<Envelope> = (0..3000).map(message).collect();
    fill(&config, "q", &messages);
    let held = runtime();
    let consumer = held
        .block_on(connect(&config, Purpose::Consume, "late"))
        .expect("connect");
    let subscribe = |consumer: &dyn Connection| held.block_on(consumer.subscribe("q", 1)).expect("subscribe");
    let early = subscribe(consumer.as_ref());
    let spilled = spill_now(&config, "q", &spilled_into(&site));
    let nothing = Spilled {
        file: None,
        messages: 0,
        bytes: 0,
        ending: Ending::InUse,
        unfinished: Vec::new(),
    };
    assert_eq!(spilled, nothing);
    drop(early);
    wait_until(SOON, "nobody consumes", || {
        held.block_on(consumer.consumers("q")).expect("an answer") == Some(0)
    });

    let (spilled, _late) = std::thread::scope(|scope| {
        let spilling = scope.spawn(|| spill_now(&config, "q", &spilled_into(&site)));
        wait_until(SOON, "the first batch is in the file", || {
            !files(&spilled_into(&site)).is_empty()
        });
        let late = subscribe(consumer.as_ref());
        (spilling.join().expect("spilled"), late)
    });
    assert_eq!(spilled.ending, Ending::InUse);
    assert!(spilled.messages < 3000, "{spilled:?}");
    let in_file = read(spilled.file.as_deref().expect("a file"));
    assert_eq!(in_file.len() as u64, spilled.messages);
    wait_until(SOON, "the rest is in the queue, one in the consumer's hand", || {
        depth(&config, "q") == Some(3000 - 1 - spilled.messages)
    });
}

/// What somebody has in hand comes back before the queue goes.
#[test]
fn a_queue_goes_when_nobody_has_a_message_of_it_in_hand() {
    let broker = TestBroker::new("spill-in-hand");
    let (site, config) = (TestSite::new(&broker), main_broker(&broker));
    let (directory, arguments) = (spilled_into(&site), serde_json::Map::new());
    fill(&config, "q", &(0..100).map(message).collect::<Vec<_>>());
    runtime().block_on(async {
        let (looks, stop) = (AtomicU64::new(0), CancellationToken::new());
        let getter = connect(&config, Purpose::Consume, "getter").await.expect("connect");
        let mut subscription = getter.subscribe("q", 1).await.expect("subscribe");
        let held = subscription.next().await.expect("a delivery");
        subscription.cancel().await;
        let look = async |queue: &str| {
            if looks.load(Ordering::Relaxed) < 5 {
                return Ok(figures(1, &looks));
            }
            getter.close().await;
            let other = connect(&config, Purpose::Publish, "look").await?;
            while queue == "q" && other.depth("q").await? == Some(0) {
                tokio::task::yield_now().await;
            }
            Ok(figures(0, &looks))
        };
        let spilled = spill(&config, "q", &arguments, &directory, look, &stop).await;
        drop(held);
        assert_eq!((spilled.ending, spilled.messages), (Ending::Deleted, 100));
    });
}

#[test]
fn a_spill_that_ends_early_says_why() {
    let broker = TestBroker::new("spill-ends");
    let (site, config) = (TestSite::new(&broker), main_broker(&broker));
    let (directory, arguments) = (spilled_into(&site), serde_json::Map::new());
    let messages: Vec<Envelope> = (0..300).map(message).collect();
    for queue in ["elsewhere", "stopped", "deleted"] {
        fill(&config, queue, &messages);
    }
    let (looks, stop) = (AtomicU64::new(0), CancellationToken::new());
    runtime().block_on(async {
        // It does not know a queue that was made a moment ago.
        let look = async |queue: &str| Ok((queue == "elsewhere").then(Figures::default));
        let spilled = spill(&config, "elsewhere", &arguments, &directory, look, &stop).await;
        assert_eq!(spilled.messages, 0);
        assert!(spilled.ending.to_string().contains("leads elsewhere"), "{spilled:?}");

        let look = async |queue: &str| {
            if queue == "deleted" {
                let other = connect(&config, Purpose::Publish, "other").await?;
                other.delete_queue("deleted", false, false).await?;
                return Ok(None);
            }
            Ok(figures(0, &looks))
        };
        let spilled = spill(&config, "deleted", &arguments, &directory, look, &stop).await;
        assert_eq!((spilled.ending, spilled.messages), (Ending::Missing, 300));

        stop.cancel();
        let look = async |_: &str| Ok(figures(0, &looks));
        let spilled = spill(&config, "stopped", &arguments, &directory, look, &stop).await;
        assert_eq!((spilled.ending, spilled.messages), (Ending::Interrupted, 128));
        assert_eq!(read(spilled.file.as_deref().expect("a file")), messages[..128]);
    });
    assert_eq!(
        (depth(&config, "elsewhere"), depth(&config, "stopped")),
        (Some(300), Some(300 - 128))
    );
}

#[test]
fn what_cannot_be_spilled_stays_where_it_is() {
    let broker = TestBroker::new("spill-refused");
    let (site, config) = (TestSite::new(&broker), main_broker(&broker));
    let spilled = spill_now(&config, "missing", &spilled_into(&site));
    assert_eq!((spilled.file, spilled.ending), (None, Ending::Missing));
    declare(&config, "empty");
    let spilled = spill_now(&config, "empty", &spilled_into(&site));
    assert_eq!((spilled.file, spilled.ending), (None, Ending::Deleted));
    fill(&config, "q", &[message(1), message(2)]);
    site.write("a-file", "");
    let spilled = spill_now(&config, "q", &site.path("a-file"));
    assert!(
        matches!(&spilled.ending, Ending::Failed(cause) if cause.what.contains("a-file")),
        "{spilled:?}"
    );
    // RabbitMQ leaves the line end out when it declares or deletes: this would be another queue.
    let spilled = spill_now(&config, "q\n", &spilled_into(&site));
    assert!(spilled.ending.to_string().contains("line end"), "{spilled:?}");
    let mut arguments = serde_json::Map::new();
    arguments.insert("x-queue-type".into(), "quorum".into());
    let spilled = spill_with(&config, "q", &arguments, &spilled_into(&site));
    assert!(
        spilled.ending.to_string().contains("only classic ones are"),
        "{spilled:?}"
    );
    assert_eq!(depth(&config, "q"), Some(2));
    assert_eq!(files(&spilled_into(&site)), [] as [PathBuf; 0]);
}

const URL: &str = "PX_TEST_SPILL_URL";
const DIRECTORY: &str = "PX_TEST_SPILL_DIRECTORY";

#[test]
#[ignore = "started by another test, as a process to be killed"]
fn spiller() {
    let url = std::env::var(URL).expect("the URL");
    let directory = PathBuf::from(std::env::var(DIRECTORY).expect("the directory"));
    let url = BrokerUrl::parse(&url, &Places::under(&directory)).expect("a URL");
    println!("{:?}", spill_now(&Broker::new("main", url), "q", &directory).ending);
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten();
    entries.map(|entry| entry.expect("an entry").path()).collect()
}

/// SIGKILL at many moments: after each, the queue and the files together hold every message.
#[test]
fn a_spill_that_is_killed_loses_nothing() {
    let broker = TestBroker::new("spill-killed");
    let (site, config) = (TestSite::new(&broker), main_broker(&broker));
    let feed = Feed::new(&broker.config());
    let directory = spilled_into(&site);
    let count = 5000;
    let mut random = fastrand::Rng::with_seed(1);
    let messages: Vec<Envelope> = (0..count)
        .map(|number| Envelope {
            key: "k".into(),
            message_id: Some(number.to_string()),
            // Nothing that gzip makes small.
            body: (0..1000).map(|_| random.u8(..)).collect(),
            ..Envelope::default()
        })
        .collect();
    fill(&config, "q", &messages);
    let mut kills = 0;
    let mut is_in_file = BTreeSet::new();
    // Ever later moments, from the file's creation on.
    for size in (0..8).map(|step| step * 80_000) {
        let before = files(&directory);
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL"])
            .arg(std::env::current_exe().expect("this program"));
        command.args(["--exact", "spill::spiller", "--ignored"]);
        command.env(URL, broker.amqp_url()).env(DIRECTORY, &directory);
        command.stdout(Stdio::null());
        let mut child = spawn_kept(command).expect("setpriv");
        wait_until(SOON, "it has written so much", || {
            let new = files(&directory).into_iter().find(|path| !before.contains(path));
            let written = new.is_some_and(|path| path.metadata().is_ok_and(|found| found.len() > size));
            written || child.try_wait().expect("wait").is_some()
        });
        kills += u32::from(child.try_wait().expect("wait").is_none());
        child.kill().expect("kill");
        child.wait().expect("wait");
        wait_until(SOON, "the broker has noticed", || {
            let consumers = runtime().block_on(async {
                let connection = connect(&config, Purpose::Publish, "look").await.expect("connect");
                connection.consumers("q").await.expect("an answer")
            });
            consumers.is_none_or(|consumers| consumers == 0)
        });
    }
    assert!(kills >= 4, "killed {kills} times");
    let left = feed.depth("q").unwrap_or(0) as usize;
    let ids = |messages: &[Envelope]| -> Vec<usize> {
        let id = |message: &Envelope| message.message_id.as_deref()?.parse().ok();
        messages.iter().map(|message| id(message).expect("an id")).collect()
    };
    let in_queue = match left {
        0 => Vec::new(),
        left => ids(&feed.reader("q").take(left)),
    };
    let mut repeated = 0;
    for file in files(&directory)
        .iter()
        .filter(|file| file.metadata().is_ok_and(|found| found.len() > 0))
    {
        for id in ids(&read(file)) {
            repeated += usize::from(!is_in_file.insert(id));
        }
    }
    let both = in_queue.iter().filter(|id| is_in_file.contains(id)).count();
    let all: BTreeSet<usize> = in_queue.iter().copied().chain(is_in_file.iter().copied()).collect();
    assert_eq!(all.len(), count, "{} in files, {left} in the queue", is_in_file.len());
    // A batch for each kill.
    assert!(
        repeated + both <= 128 * 8,
        "{repeated} twice in files, {both} in files and queue"
    );
}
