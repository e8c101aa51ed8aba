//! The watcher as a process: bursts, stops, kills, a broker that goes away. Announcements are compared with the tree.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use px::message::Envelope;
use px::message::identity::md5_hex;
use px::spool::inventory::Rows;
use rustix::process::Signal;

use crate::support::{Feed, Process, RabbitServer, SOON, TestBroker, TestSite, spawn_kept, wait_until};

const UNIT: &str = "watch/w";
const LONG: Duration = Duration::from_secs(120);
const KILLS: usize = 120;

/// A site with one tree, announced to the queue `all`.
fn watched(broker: &TestBroker, formats: &str) -> (TestSite, PathBuf) {
    let site = TestSite::new(broker);
    let text = "broker = \"main\"\nannounce = FORMATS\n[[tree]]\npath = \"{root}/tree\"\nurl = \"http://h/x/\"\n";
    site.unit(UNIT, &text.replace("FORMATS", formats));
    let tree = site.path("tree");
    std::fs::create_dir(&tree).unwrap();
    (site, tree)
}

fn feed(broker: &TestBroker) -> Feed {
    let feed = Feed::new(&broker.config());
    feed.queue("all", &["#"]);
    feed
}

/// What was announced in v02: path in the tree, and the md5 of the content.
fn announced(envelope: &Envelope) -> (String, String) {
    let body = std::str::from_utf8(&envelope.body).unwrap();
    let path = body.rsplit(' ').next().unwrap();
    let sum = envelope.headers["sum"].as_str().unwrap();
    let path = path.strip_prefix("x/").unwrap();
    (path.to_string(), sum.strip_prefix("d,").unwrap().to_string())
}

#[track_caller]
fn wait_depth(site: &TestSite, feed: &Feed, depth: u64) {
    site.wait_that_for(LONG, &format!("{depth} announced"), || feed.depth("all") >= Some(depth));
}

/// How often each path was announced, in all that is in the queue.
fn counts(feed: &Feed) -> HashMap<String, usize> {
    let depth = feed.depth("all").unwrap() as usize;
    let mut counts = HashMap::new();
    for envelope in feed.reader("all").take(depth) {
        *counts.entry(announced(&envelope).0).or_default() += 1;
    }
    counts
}

#[track_caller]
fn assert_each_once(counts: &HashMap<String, usize>, count: usize) {
    let repeated: Vec<&String> = counts
        .iter()
        .filter(|(_, times)| **times > 1)
        .map(|(path, _)| path)
        .collect();
    assert_eq!((counts.len(), repeated.len()), (count, 0), "{repeated:?}");
}

#[test]
fn bursts_are_announced_completely_and_once_also_to_a_watcher_that_was_stopped() {
    let broker = TestBroker::new("bursts");
    let (site, tree) = watched(&broker, "[\"v02\"]");
    let feed = feed(&broker);
    let unit = site.run_ready(UNIT);
    for n in 0..10_000 {
        std::fs::write(tree.join(format!("f{n}")), "x").unwrap();
    }
    wait_depth(&site, &feed, 10_000);
    assert_each_once(&counts(&feed), 10_000);

    unit.signal(Signal::STOP);
    for n in 0..15_000 {
        let directory = tree.join(format!("d{}/e{}", n % 100, n % 7));
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join(format!("f{n}")), "x").unwrap();
    }
    unit.signal(Signal::CONT);
    wait_depth(&site, &feed, 15_000);
    assert_each_once(&counts(&feed), 15_000);
    site.wait_count(UNIT, "announced", 25_000);
}

#[test]
fn what_is_written_while_the_broker_is_down_is_announced_when_it_returns() {
    let mut node = RabbitServer::start();
    let broker = TestBroker::on(&node, "down");
    let (site, tree) = watched(&broker, "[\"v02\"]");
    let before = feed(&broker);
    let _unit = site.run_ready(UNIT);
    std::fs::write(tree.join("before"), "x").unwrap();
    wait_depth(&site, &before, 1);
    drop(before);
    node.flush_definitions();
    node.kill();
    site.wait(UNIT, "shows that it is cut off", |status| {
        status["links"]["publish"]["connected"] == false && !status["links"]["publish"]["error"].is_null()
    });
    for n in 0..10_000 {
        std::fs::write(tree.join(format!("f{n}")), "x").unwrap();
    }
    node.start_again();
    let after = feed(&broker);
    wait_depth(&site, &after, 10_001);
    site.wait_that("all is recorded", || rows(&site) == 10_001);
    assert_each_once(&counts(&after), 10_001);
}

fn rows(site: &TestSite) -> usize {
    let rows = Rows::open(&site.path("state/watch_w/inventory.db"), &site.path("tree")).unwrap();
    rows.page(None, 1_000_000).unwrap().len()
}

/// SIGKILL lands between publish, confirm and row again and again; whatever is in the tree at the end was announced
/// with the content it has then.
#[test]
fn a_watcher_that_is_killed_at_any_instant_loses_nothing() {
    let broker = TestBroker::new("kills");
    let (site, tree) = watched(&broker, "[\"v02\"]");
    let feed = feed(&broker);
    site.run_ready(UNIT).kill();
    let stop = Arc::new(AtomicBool::new(false));
    let writer = std::thread::spawn({
        let (tree, stop) = (tree.clone(), Arc::clone(&stop));
        move || write_until(&tree, &stop)
    });
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..KILLS {
        let depth = feed.depth("all").unwrap();
        let mut unit = site.run(UNIT);
        // Early, in what was written meanwhile, or later, when files go out one by one.
        let longest = if random.bool() { 60 } else { 250 };
        wait_depth(&site, &feed, depth + random.u64(1..longest));
        unit.kill();
    }
    stop.store(true, Ordering::Relaxed);
    let files = writer.join().unwrap();
    let unit = site.run_ready(UNIT);
    site.wait_that_for(LONG, "all is recorded", || rows(&site) == files);
    let known = feed.depth("all").unwrap();
    std::fs::write(tree.join("last"), "x").unwrap();
    wait_depth(&site, &feed, known + 1);
    drop(unit);

    let depth = feed.depth("all").unwrap() as usize;
    let mut versions: HashMap<String, HashMap<String, usize>> = HashMap::new();
    for envelope in feed.reader("all").take(depth) {
        let (path, md5) = announced(&envelope);
        *versions.entry(path).or_default().entry(md5).or_default() += 1;
    }
    let distinct: usize = versions.values().map(HashMap::len).sum();
    eprintln!(
        "{files} files, {distinct} versions, {} repeats after {KILLS} kills",
        depth - distinct
    );
    assert_eq!(versions.len(), files + 1);
    for (path, versions) in &versions {
        let content = std::fs::read(tree.join(path)).unwrap();
        assert!(
            versions.contains_key(&md5_hex(&content)),
            "{path} was never announced as it is"
        );
    }
}

/// Writes files, some of them twice, and how many there are.
fn write_until(tree: &std::path::Path, stop: &AtomicBool) -> usize {
    let mut files = 0;
    while !stop.load(Ordering::Relaxed) {
        let directory = tree.join(format!("d{}/e{}", files % 13, files / 100));
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join(format!("f{files}"));
        std::fs::write(&path, format!("{files}")).unwrap();
        if files % 5 == 0 {
            std::fs::write(&path, format!("{files}, again")).unwrap();
        }
        files += 1;
        std::thread::sleep(Duration::from_millis(1)); // leaves the machine to the others
    }
    files
}

#[test]
fn each_format_is_published_in_the_configured_order() {
    let broker = TestBroker::new("formats");
    let formats = "[\"v02\", \"exp\", { format = \"v00\", key = \"v00.urp.input\", digest = \"name\" }, \"v03\"]";
    let (site, tree) = watched(&broker, formats);
    let feed = feed(&broker);
    let _unit = site.run_ready(UNIT);
    for name in ["a", "b"] {
        std::fs::write(tree.join(name), name).unwrap();
        wait_depth(&site, &feed, if name == "a" { 4 } else { 8 });
    }
    let keys: Vec<String> = feed
        .reader("all")
        .take(8)
        .into_iter()
        .map(|envelope| envelope.key)
        .collect();
    let wanted = ["a", "b"]
        .map(|name| ["v02.post", "exp.dd.notify", "v00.urp.input", "v03"].map(|prefix| format!("{prefix}.x.{name}")));
    let is_wanted =
        |(key, wanted): (&String, &String)| key == wanted || key.ends_with(&wanted[wanted.find('.').unwrap()..]);
    assert!(keys.iter().zip(wanted.as_flattened()).all(is_wanted), "{keys:?}");
    assert!(keys[3].starts_with("v03"), "{keys:?}");
}

/// Class 60 (basic), method 80 (ack).
const ACK: &str = r"\x00\x3c\x00\x50";

#[test]
fn a_file_is_published_then_confirmed_then_recorded() {
    let broker = TestBroker::new("order");
    let (site, tree) = watched(&broker, "[\"v02\"]");
    let feed = feed(&broker);
    let unit = site.run_ready(UNIT);
    let trace = site.path("trace");
    let mut strace = strace(&unit, &trace);
    std::fs::write(tree.join("traced-product"), "x").unwrap();
    wait_depth(&site, &feed, 1);
    site.wait_that("it is recorded", || rows(&site) == 1);
    drop(unit); // strace ends with it
    strace.wait().unwrap();
    let trace = std::fs::read_to_string(&trace).unwrap();
    let hex = |text: &str| text.bytes().map(|byte| format!("\\x{byte:02x}")).collect::<String>();
    let (name, log) = (hex("traced-product"), hex("inventory.db-wal"));
    let line = |what: &str, is_it: &dyn Fn(&str) -> bool| match trace.lines().position(is_it) {
        Some(line) => line,
        None => panic!("no {what} in the trace of {} lines", trace.lines().count()),
    };
    // Data shows where a write begins and where a read ends.
    let publish = line("publish", &|call| call.contains("TCP") && call.contains(&name));
    let confirm = line("confirm", &|call| call.contains(ACK));
    let row = line("row", &|call| call.contains(&log) && call.contains(&name));
    assert!(publish < confirm && confirm < row, "{publish} {confirm} {row}");
}

fn strace(unit: &Process, output: &std::path::Path) -> std::process::Child {
    let calls = "trace=write,writev,sendto,sendmsg,read,readv,recvfrom,recvmsg,pwrite64,pwritev";
    let mut strace = Command::new("setpriv");
    strace.args([
        "--pdeathsig",
        "KILL",
        "strace",
        "-f",
        "-yy",
        "-xx",
        "-s",
        "5000",
        "-e",
        calls,
        "-o",
    ]);
    strace.arg(output).args(["-p", &unit.pid().to_string()]);
    strace.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut strace = spawn_kept(strace).unwrap();
    let (said, hear) = mpsc::channel();
    let stderr = BufReader::new(strace.stderr.take().unwrap());
    std::thread::spawn(move || stderr.lines().map_while(Result::ok).all(|line| said.send(line).is_ok()));
    wait_until(SOON, "strace is attached", || {
        hear.try_iter().any(|line| line.contains("attached"))
    });
    strace
}
