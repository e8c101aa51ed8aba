//! Several processes on one file, and SIGKILL at random instants. The helper processes are this test binary again.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use rustix::process::{Pid, Signal};

use super::*;

const ROLE: &str = "PX_EMBEDDED_ROLE";
const QUEUE: &str = "q";
/// Open confirms of a publishing helper; prefetch of a consuming one unless its name is a number.
const WINDOW: usize = 50;
const KILLS: usize = 30;

/// A process that publishes or consumes until it is killed, or `LIMIT` messages long. Every step is a line of the log,
/// written with one call, so that the lines of all processes stand in the order in which they happened.
struct Helper(Child);

impl Helper {
    fn start(site: &Site, role: &str, name: &str, limit: usize) -> Helper {
        Helper::start_by(Command::new("env"), site, role, name, limit)
    }

    /// `program` gets the helper's command line as its last arguments and runs it in its own place.
    fn start_by(mut program: Command, site: &Site, role: &str, name: &str, limit: usize) -> Helper {
        let child = program
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "broker::embedded::tests::processes::helper", "--nocapture"])
            .env(ROLE, role)
            .env("PX_EMBEDDED_ROOT", site.0.path())
            .env("PX_EMBEDDED_NAME", name)
            .env("PX_EMBEDDED_LIMIT", limit.to_string())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Helper(child)
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.0.id().try_into().unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn open_log(root: &Path) -> File {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(root.join("log"))
        .unwrap()
}

fn read_log(site: &Site) -> Vec<Vec<String>> {
    let text = std::fs::read_to_string(site.0.path().join("log")).unwrap_or_default();
    text.lines()
        .map(|line| line.split(' ').map(str::to_string).collect())
        .collect()
}

fn lines_of<'a>(log: &'a [Vec<String>], verb: &str) -> Vec<&'a str> {
    log.iter()
        .filter(|line| line[0] == verb)
        .map(|line| line[1].as_str())
        .collect()
}

/// Not a test: what a helper process runs.
#[tokio::test]
async fn helper() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let root = PathBuf::from(std::env::var("PX_EMBEDDED_ROOT").unwrap());
    let name = std::env::var("PX_EMBEDDED_NAME").unwrap();
    let limit: usize = std::env::var("PX_EMBEDDED_LIMIT").unwrap().parse().unwrap();
    let broker = open(root.join("broker.db")).await.unwrap();
    let log = open_log(&root);
    match role.as_str() {
        "publish" => publish_all(&*broker, &name, limit, log).await,
        "consume" => consume_all(&*broker, name.parse().unwrap_or(WINDOW), limit, log).await,
        "hold" => hold_all(&*broker, limit, log).await,
        "fill" => fill_up(&*broker, &name, log).await,
        "idle" => {
            let _subscription = broker.subscribe(QUEUE, 10).await.unwrap();
            note(&log, "idle -");
            std::future::pending::<()>().await;
        }
        other => panic!("no role {other}"),
    }
    broker.close().await;
}

fn note(mut log: &File, line: &str) {
    log.write_all(format!("{line}\n").as_bytes()).unwrap();
}

async fn publish_all(broker: &dyn Connection, name: &str, limit: usize, log: File) {
    let mut open = FuturesUnordered::new();
    for number in 0..limit {
        let envelope = Envelope {
            key: QUEUE.into(),
            body: format!("{name}-{number}").into_bytes(),
            ..Envelope::default()
        };
        let confirm = broker.publish("", &envelope, Returns::Counted).await.unwrap();
        open.push(async move { (number, confirm.await.unwrap()) });
        if open.len() >= WINDOW || number + 1 == limit {
            while open.len() > if number + 1 == limit { 0 } else { WINDOW / 2 } {
                let (number, confirmed) = open.next().await.unwrap();
                assert_eq!(confirmed, Confirmed::Routed);
                note(&log, &format!("confirmed {name}-{number}"));
            }
        }
    }
}

async fn consume_all(broker: &dyn Connection, prefetch: usize, limit: usize, log: File) {
    let mut subscription = broker.subscribe(QUEUE, prefetch.try_into().unwrap()).await.unwrap();
    let mut settling = FuturesUnordered::new();
    for _ in 0..limit {
        let received = subscription.next().await.unwrap();
        let body = String::from_utf8(received.envelope.body).unwrap();
        note(&log, &format!("received {body} {}", received.redelivered));
        settling.push(async move {
            received.receipt.settle(Settlement::Ack).await.unwrap();
            body
        });
        if settling.len() >= prefetch.div_ceil(2) {
            note(&log, &format!("acked {}", settling.next().await.unwrap()));
        }
    }
    while let Some(body) = settling.next().await {
        note(&log, &format!("acked {body}"));
    }
}

/// Takes `limit` deliveries and settles none.
async fn hold_all(broker: &dyn Connection, limit: usize, log: File) {
    let mut subscription = broker.subscribe(QUEUE, limit.try_into().unwrap()).await.unwrap();
    let mut held = Vec::new();
    for _ in 0..limit {
        held.push(subscription.next().await.unwrap());
    }
    note(&log, "holding -");
    std::future::pending::<()>().await;
}

/// Publishes large messages until the file cannot grow.
async fn fill_up(broker: &dyn Connection, name: &str, log: File) {
    for number in 0.. {
        let mut body = format!("{name}-{number} ").into_bytes();
        body.resize(20_000, b'x');
        let envelope = Envelope {
            key: QUEUE.into(),
            body,
            ..Envelope::default()
        };
        let confirm = broker.publish("", &envelope, Returns::Counted).await.unwrap();
        match confirm.await {
            Ok(_) => note(&log, &format!("confirmed {name}-{number}")),
            Err(error) => {
                note(&log, &format!("refused {:?} {}", error.fault, error.what));
                break;
            }
        }
    }
    note(&log, &format!("closed {:?}", broker.closed().await.fault));
}

/// No message that was confirmed is lost, none that was acked comes back, and whatever comes twice says so.
#[tokio::test]
async fn sums_are_equal_whatever_is_killed_whenever() {
    let site = Site::new();
    let broker = site.connect().await;
    declare(&*broker, queue(QUEUE)).await;
    let start = |role: &'static str, generation: usize| {
        (role, Helper::start(&site, role, &format!("p{generation}"), usize::MAX))
    };
    let roles = ["publish", "publish", "consume", "consume", "consume"];
    let mut helpers: Vec<_> = roles
        .into_iter()
        .zip(0..)
        .map(|(role, number)| start(role, number))
        .collect();
    for kill in 0..KILLS {
        let before = read_log(&site).len();
        wait_until("the helpers go on", || async { read_log(&site).len() > before + 200 }).await;
        // A random instant in whatever the victim is doing.
        tokio::time::sleep(Duration::from_micros(fastrand::u64(0..40_000))).await;
        let victim = fastrand::usize(0..helpers.len());
        let (role, helper) = &mut helpers[victim];
        helper.kill();
        helpers[victim] = start(role, roles.len() + kill);
    }
    drop(helpers); // kills them all at once
    drain(&site, &*broker).await;
    assert_sums_are_equal(&read_log(&site));
    let left: i64 = rusqlite::Connection::open(site.path())
        .unwrap()
        .query_row("SELECT count(*) FROM contents", [], |row| row.get(0))
        .unwrap();
    assert_eq!(left, 0);
}

/// Consumes what the killed have left.
async fn drain(site: &Site, broker: &dyn Connection) {
    let log = open_log(site.0.path());
    let mut subscription = broker.subscribe(QUEUE, 100).await.unwrap();
    let file = rusqlite::Connection::open(site.path()).unwrap();
    let is_empty = || {
        let sql = "SELECT count(*) = 0 FROM messages";
        file.query_row(sql, [], |row| row.get::<_, bool>(0)).unwrap()
    };
    while !is_empty() {
        let received = next(&mut subscription).await;
        let body = String::from_utf8(received.envelope.body).unwrap();
        note(&log, &format!("received {body} {}", received.redelivered));
        received.receipt.settle(Settlement::Ack).await.unwrap();
        note(&log, &format!("acked {body}"));
    }
}

fn assert_sums_are_equal(log: &[Vec<String>]) {
    let confirmed: BTreeSet<&str> = lines_of(log, "confirmed").into_iter().collect();
    let received: BTreeSet<&str> = lines_of(log, "received").into_iter().collect();
    assert!(confirmed.len() > KILLS * 20, "{} confirmed", confirmed.len());
    let lost: Vec<_> = confirmed.difference(&received).collect();
    assert!(lost.is_empty(), "lost {lost:?}");
    let mut times: BTreeMap<&str, usize> = BTreeMap::new();
    let mut acked = BTreeSet::new();
    for line in log {
        let body = line[1].as_str();
        match line[0].as_str() {
            "received" => {
                assert!(!acked.contains(body), "{body} came back after its ack");
                let times = times.entry(body).or_default();
                *times += 1;
                assert!(*times == 1 || line[2] == "true", "{body} came again unmarked");
            }
            "acked" => assert!(acked.insert(body), "{body} acked twice"),
            _ => {}
        }
    }
    let again = times.values().filter(|times| **times > 1).count();
    println!(
        "{} confirmed, {} received, {again} more than once",
        confirmed.len(),
        received.len()
    );
}

/// A frozen consumer keeps its claims; a killed one gives them back in order, marked.
#[tokio::test]
async fn a_frozen_consumer_keeps_its_claims_and_a_killed_one_does_not() {
    let site = Site::new();
    let broker = site.connect().await;
    declare(&*broker, queue(QUEUE)).await;
    fill(&*broker, QUEUE, &["1", "2", "3", "4"]).await;
    let mut helper = Helper::start(&site, "hold", "h", 3);
    wait_until("it holds three", || async {
        !lines_of(&read_log(&site), "holding").is_empty()
    })
    .await;
    helper.signal(Signal::STOP);
    let mut subscription = broker.subscribe(QUEUE, 10).await.unwrap();
    assert_eq!(next_body(&mut subscription, Settlement::Ack).await, ("4".into(), false));
    // Longer than two looks for the dead.
    let looks = timeout(Duration::from_millis(2500), subscription.next());
    assert!(looks.await.is_err());
    helper.kill();
    let mut seen = Vec::new();
    for _ in 0..3 {
        seen.push(next_body(&mut subscription, Settlement::Ack).await);
    }
    assert_eq!(seen, ["1", "2", "3"].map(|body| (body.to_string(), true)));
}

/// A file that cannot grow is our own fault, ends the connection, and loses nothing that was confirmed.
#[tokio::test]
async fn a_file_that_cannot_grow_is_our_own_fault() {
    let site = Site::new();
    let broker = site.connect().await;
    declare(&*broker, queue(QUEUE)).await;
    // The limit on file sizes stands in for a full disk; without the trap it would kill the process.
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' XFSZ; ulimit -f 2000; exec \"$0\" \"$@\""]);
    let _helper = Helper::start_by(command, &site, "fill", "f", 0);
    wait_until("it is full", || async {
        !lines_of(&read_log(&site), "closed").is_empty()
    })
    .await;
    let log = read_log(&site);
    assert_eq!(lines_of(&log, "refused"), ["Own"]);
    assert_eq!(lines_of(&log, "closed"), ["Own"]);
    let confirmed = lines_of(&log, "confirmed");
    assert!(confirmed.len() > 10);
    let mut subscription = broker.subscribe(QUEUE, 10).await.unwrap();
    for name in confirmed {
        let (body, _) = next_body(&mut subscription, Settlement::Ack).await;
        assert!(body.starts_with(&format!("{name} ")));
    }
}

/// The queue of a killed consumer is deleted when it was auto-delete, and its files are swept.
#[tokio::test]
async fn what_a_killed_process_leaves_is_put_away() {
    let site = Site::new();
    let broker = site.connect().await;
    declare(
        &*broker,
        Queue {
            auto_delete: true,
            ..queue(QUEUE)
        },
    )
    .await;
    let mut helper = Helper::start(&site, "idle", "i", 0);
    wait_until("it consumes", || async {
        !lines_of(&read_log(&site), "idle").is_empty()
    })
    .await;
    assert_eq!(broker.depth(QUEUE).await.unwrap(), Some(0));
    helper.kill();
    wait_until("its queue is gone", || async {
        broker.depth(QUEUE).await.unwrap().is_none()
    })
    .await;
    wait_until("its files are gone", || async {
        std::fs::read_dir(site.path().with_extension("db.d")).unwrap().count() == 3 // ours, and `opening`
    })
    .await;
}

/// `cargo test --lib embedded -- --ignored --nocapture the_throughput`
#[tokio::test]
#[ignore = "measures"]
async fn the_throughput_between_processes() {
    for (publishers, consumers, prefetch) in [(1, 1, 50_usize), (2, 2, 50), (2, 3, 50), (1, 1, 1), (1, 3, 1)] {
        let site = Site::new();
        let broker = site.connect().await;
        declare(&*broker, queue(QUEUE)).await;
        let count = 12_000;
        let begin = Instant::now();
        let helpers: Vec<_> = (0..publishers)
            .map(|number| Helper::start(&site, "publish", &format!("p{number}"), count / publishers))
            .chain((0..consumers).map(|_| Helper::start(&site, "consume", &prefetch.to_string(), usize::MAX)))
            .collect();
        // The last acks of a window are not in the log.
        let acked = || lines_of(&read_log(&site), "acked").len() + consumers * prefetch.div_ceil(2);
        while acked() < count {
            assert!(begin.elapsed() < Duration::from_secs(120));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let rate = count as f64 / begin.elapsed().as_secs_f64();
        println!("{publishers} publishing, {consumers} consuming with prefetch {prefetch}: {rate:.0} msg/s");
        drop(helpers);
    }
}

/// `cargo test --lib embedded -- --ignored --nocapture an_idle`
#[tokio::test]
#[ignore = "measures"]
async fn an_idle_process_costs_nothing() {
    let site = Site::new();
    let broker = site.connect().await;
    declare(&*broker, queue(QUEUE)).await;
    let helpers: Vec<_> = (0..4).map(|_| Helper::start(&site, "idle", "i", 0)).collect();
    wait_until("they consume", || async {
        lines_of(&read_log(&site), "idle").len() == 4
    })
    .await;
    let spent_ns = || -> u64 {
        let threads = std::fs::read_dir(format!("/proc/{}/task", helpers[0].0.id())).unwrap();
        threads
            .map(|thread| std::fs::read_to_string(thread.unwrap().path().join("schedstat")).unwrap())
            .map(|text| text.split(' ').next().unwrap().parse::<u64>().unwrap())
            .sum()
    };
    let (before, begin) = (spent_ns(), Instant::now());
    tokio::time::sleep(Duration::from_secs(20)).await;
    let share = (spent_ns() - before) as f64 / begin.elapsed().as_nanos() as f64;
    println!("idle: {:.4} % of a processor", share * 100.0);
}
