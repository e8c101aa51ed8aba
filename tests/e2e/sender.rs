//! The sender as a process: what it sends and what becomes of the queue; cut off, killed, told to stop.

use std::collections::HashMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use px::message::{Envelope, Value};
use rustix::process::Signal;

use crate::support::{Feed, RabbitServer, TestBroker, TestSite, wait_until};

mod trouble;

const UNIT: &str = "tx/s";
const LONG: Duration = Duration::from_secs(120);
const RADAR: &str = "radar.24_HR.XSS++2013_XSS.gif:URP:XSS:RADAR:GIF::20130606144709";

struct World {
    feed: Feed,
    site: TestSite,
    broker: TestBroker,
}

/// A sender of `tx/s` to the exchange `xp`, and the queue `all` that has everything.
fn world(name: &str, more: &str) -> World {
    on(TestBroker::new(name), more)
}

fn on(broker: TestBroker, more: &str) -> World {
    let feed = Feed::new(&broker.config());
    feed.queue("all", &["#"]);
    let site = TestSite::new(&broker);
    site.unit(UNIT, &format!("type = \"amqp\"\nbroker = \"main\"\n{more}"));
    World { feed, site, broker }
}

const PLAIN: &str = "key = \"k\"\n";

impl World {
    fn queued(&self, below: &str) -> PathBuf {
        self.site.path("txq/s").join(below)
    }

    /// Puts a file into the queue as Sundew does: whole, by a link.
    fn drop(&self, below: &str, bytes: impl AsRef<[u8]>) {
        let path = self.queued(below);
        self.site.write("txq/s/new.tmp", bytes);
        std::fs::create_dir_all(path.parent().expect("an hour")).expect("hour");
        std::fs::rename(self.queued("new.tmp"), path).expect("rename");
    }

    /// Everything in the queue of files, by path.
    fn left(&self) -> Vec<String> {
        let (mut left, mut directories) = (Vec::new(), vec![self.queued("")]);
        while let Some(directory) = directories.pop() {
            for entry in std::fs::read_dir(directory).expect("directory").flatten() {
                match entry.file_type().expect("type").is_dir() {
                    true => directories.push(entry.path()),
                    false if entry.file_name() == ".lock" => {}
                    false => {
                        let path = entry.path();
                        let below = path.strip_prefix(self.queued("")).expect("below");
                        left.push(below.to_string_lossy().into_owned());
                    }
                }
            }
        }
        left.sort();
        left
    }

    #[track_caller]
    fn wait_left(&self, left: &[&str]) {
        self.site
            .wait_that_for(LONG, &format!("{left:?} is left"), || self.left() == left);
    }

    /// Everything that was sent.
    fn sent(&self) -> Vec<Envelope> {
        let depth = self.feed.depth("all").expect("queue") as usize;
        self.feed.reader("all").take(depth)
    }

    fn count(&self, name: &str) -> u64 {
        self.site.count(UNIT, name)
    }

    /// How many messages the log has promised so far.
    fn promised(&self) -> usize {
        let said = self.site.said(UNIT);
        let promises = said.lines().filter_map(|line| {
            let before = line.strip_suffix(" new messages will be sent")?;
            before.rsplit(' ').next()?.parse::<usize>().ok()
        });
        promises.sum()
    }
}

fn filename(envelope: &Envelope) -> &str {
    envelope.headers["filename"].as_str().expect("text")
}

fn bulletin(name: &str, priority: u8, second: usize) -> String {
    format!("{name}:ncp1:CWAO:SA:{priority}:Direct:2026112112{:04}", second)
}

#[test]
fn a_message_is_the_file_with_one_header_and_nothing_else() {
    let key = "key = \"exp.dd.notify.${0}\"\nmasks = [{ accept = '^(.*)\\+\\+.*' }, { reject = \".*\" }]\n";
    let world = world("message", key);
    let queue = format!("/api/queues/{}/all/get", world.broker.vhost);
    let _unit = world.site.run_ready(UNIT);
    let bytes: Vec<u8> = (0..=255).collect();
    for (name, body) in [
        (RADAR, &b"http://dd1/a.gif"[..]),
        ("a.b++empty", b""),
        ("c++bytes", &bytes),
    ] {
        world.drop(&format!("3/2013060614/{name}"), body);
        world.wait_left(&[]);
        let ask = r#"{"count": 5, "ackmode": "ack_requeue_false", "encoding": "base64"}"#;
        let got = world.broker.api("POST", &queue, Some(ask)).json();
        assert_eq!(got.as_array().map(Vec::len), Some(1), "{got}");
        let header = name
            .strip_suffix("20130606144709")
            .map_or(name, |name| &name[..name.len() - 1]);
        let properties = serde_json::json!({
            "content_type": "text/plain", "delivery_mode": 2, "headers": { "filename": header },
        });
        assert_eq!(got[0]["properties"], properties);
        let key = format!("exp.dd.notify.{}", name.split_once("++").expect("++").0);
        assert_eq!(
            (&got[0]["routing_key"], &got[0]["exchange"]),
            (&key.into(), &"xp".into())
        );
        use base64::Engine;
        let payload = got[0]["payload"].as_str().expect("payload");
        let payload = base64::engine::general_purpose::STANDARD
            .decode(payload)
            .expect("base64");
        assert_eq!(payload, body, "{name}");
    }
    assert!(
        RADAR.ends_with("::20130606144709"),
        "the header keeps the colon of the empty field"
    );
    world.site.wait_count(UNIT, "delivered", 3);
    assert_eq!(world.count("delivered_bytes"), 16 + 256);
    let said = world.site.said(UNIT);
    let port = world.broker.config().urls[0].port;
    for line in [
        "[INFO] Initialisation of client s".to_owned(),
        format!("[INFO] AMQP Sender is now connected to: 127.0.0.1:{port}"),
        "[INFO] 1 new messages will be sent".to_owned(),
    ] {
        assert!(said.lines().any(|said| said.ends_with(&line)), "{line}\n{said}");
    }
    let product = format!("[INFO] (16 Bytes) Message {RADAR}  delivered (lat=");
    assert!(said.contains(&product), "{said}");
}

#[test]
fn files_leave_in_the_order_of_their_names_and_directories_decide_who_may_go() {
    let world = world("order", &format!("{PLAIN}batch = 3\n"));
    // The first batch: all of 0, of 1 and of the first hour of 3; the rest has to wait, whatever its names say.
    let first = [
        format!("3/2026112110/{}", bulletin("a", 1, 9)),
        "3/2026112110/pds:URP:XSS:RADAR:GIF::20130606144709".to_owned(),
        format!("0/2026112111/{}", bulletin("a", 3, 1)),
        format!("1/2026112111/{}", bulletin("b", 3, 1)),
        format!("3/2026112110/{}", bulletin("a", 3, 2)),
        format!("3/2026112110/{}", bulletin("a", 5, 0)),
    ];
    let later = [
        format!("3/2026112111/{}", bulletin("c", 0, 0)),
        format!("3/2026112111/{}", bulletin("c", 1, 0)),
        format!("5/2026112101/{}", bulletin("c", 2, 0)),
    ];
    for path in later.iter().chain(&first).rev() {
        world.drop(path, path);
    }
    for path in [
        "3/2026112110/.dot",
        "3/2026112110/half.tmp",
        "GIF/2026112110/a",
        "PROBLEM/a",
        "3/a",
    ] {
        world.drop(path, "never");
    }
    let _unit = world.site.run_ready(UNIT);
    let never = [
        "3/2026112110/.dot",
        "3/2026112110/half.tmp",
        "3/a",
        "GIF/2026112110/a",
        "PROBLEM/a",
    ];
    world.wait_left(&never);
    let sent: Vec<Vec<u8>> = world.sent().into_iter().map(|envelope| envelope.body).collect();
    let wanted: Vec<&[u8]> = first.iter().chain(&later).map(|path| path.as_bytes()).collect();
    assert_eq!(sent, wanted);
}

/// Some thousand files are being sent when one is put into 0: it does not wait for them.
#[test]
fn a_retransmission_overtakes_a_long_queue() {
    const COUNT: usize = 10_000;
    let world = world("overtake", &format!("{PLAIN}batch = 50\n"));
    for n in 0..COUNT {
        world.drop(
            &format!("3/2026112112/{}", bulletin(&format!("f{n}"), 3, n % 10_000)),
            "x",
        );
    }
    let _unit = world.site.run_ready(UNIT);
    world
        .site
        .wait_that("some are sent", || world.feed.depth("all") > Some(0));
    // By its name it comes last.
    world.drop(&format!("0/2026112112/{}", bulletin("urgent", 5, 9999)), "urgent");
    world.wait_left(&[]);
    let sent = world.sent();
    let place = sent
        .iter()
        .position(|envelope| envelope.body == b"urgent")
        .expect("sent");
    assert!(
        sent.len() == COUNT + 1 && place < COUNT / 2,
        "{place} of {}",
        sent.len()
    );
}

#[test]
fn the_same_content_is_sent_once_but_retransmissions_always() {
    let world = world("duplicates", &format!("{PLAIN}duplicates = {{}}\n"));
    // While the first is in flight, the second waits for its verdict.
    for name in ["a", "b"] {
        world.drop(&format!("3/2026112112/{name}"), "same");
    }
    let mut unit = world.site.run_ready(UNIT);
    world.wait_left(&[]);
    for path in ["0/2026112112/c", "4/2026112112/d", "0/2026112112/e"] {
        world.drop(path, "same");
        world.wait_left(&[]);
    }
    world.drop("3/2026112112/f", "other");
    world.wait_left(&[]);
    let names: Vec<String> = world.sent().iter().map(|sent| filename(sent).to_owned()).collect();
    assert_eq!(names, ["a", "c", "e", "f"]);
    world.site.wait_count(UNIT, "suppressed", 2);
    assert_eq!(world.promised(), names.len(), "{}", world.site.logs());
    let said = world.site.said(UNIT);
    for name in ["b", "d"] {
        let line = format!("[INFO] suppressed duplicate send {name}");
        assert!(said.lines().any(|said| said.ends_with(&line)), "{said}");
    }
    // What was sent as a retransmission only is not known; and nothing is after a restart.
    world.drop("0/2026112112/g", "retransmitted");
    world.wait_left(&[]);
    world.drop("3/2026112112/h", "retransmitted");
    world.wait_left(&[]);
    assert!(unit.terminate().success());
    let _unit = world.site.run_ready(UNIT);
    world.drop("3/2026112112/i", "same");
    world.wait_left(&[]);
    let names: Vec<String> = world.sent().iter().map(|sent| filename(sent).to_owned()).collect();
    assert_eq!(names, ["g", "h", "i"]);
}

/// What a broker took with it unconfirmed was not sent: the files stay, and are no duplicates of themselves.
#[test]
fn a_publish_that_failed_does_not_count_as_sent() {
    const COUNT: usize = 50;
    let mut server = RabbitServer::start();
    let world = on(
        TestBroker::on(&server, "failed"),
        &format!("{PLAIN}duplicates = {{}}\n"),
    );
    server.flush_definitions();
    let _unit = world.site.run_ready(UNIT);
    world.drop("3/2026112112/first", "first");
    world.wait_left(&[]);
    server.freeze();
    for n in 0..COUNT {
        world.drop(&format!("3/2026112112/f{n}"), format!("content {n}"));
    }
    world.site.wait_that("they are published into the void", || {
        world.site.said(UNIT).contains(" new messages will be sent")
    });
    server.kill();
    world.site.wait(UNIT, "shows that it is cut off", |status| {
        status["links"]["publish"]["connected"] == false
    });
    assert_eq!(world.left().len(), COUNT);
    let port = server.amqp_port();
    let lost = format!("[ERROR] AMQP Sender cannot connected to: 127.0.0.1:{port}");
    world
        .site
        .wait_that("the log says so", || world.site.said(UNIT).contains(&lost));
    server.start_again();
    world
        .site
        .wait_that_for(LONG, "nothing is left", || world.left().is_empty());
    let after = Feed::new(&world.broker.config());
    let depth = after.depth("all").expect("the queue") as usize;
    let sent = after.reader("all").take(depth);
    for n in 0..COUNT {
        let body = format!("content {n}").into_bytes();
        assert!(sent.iter().any(|sent| sent.body == body), "{n}\n{}", world.site.logs());
    }
    assert_eq!(world.count("suppressed"), 0);
}

/// SIGKILL lands between publish, confirm and unlink again and again.
#[test]
fn a_sender_that_is_killed_at_any_instant_loses_nothing() {
    const COUNT: usize = 5000;
    const KILLS: usize = 25;
    let world = world("kills", PLAIN);
    let hour = world.queued("3/2026112112");
    std::fs::create_dir_all(&hour).expect("hour");
    for n in 0..COUNT {
        std::fs::write(hour.join(bulletin(&format!("f{n}"), 3, n)), format!("{n}")).expect("write");
    }
    let mut random = fastrand::Rng::with_seed(7);
    let mut kills = 0;
    while kills < KILLS && world.left().len() > 200 {
        let depth = world.feed.depth("all").expect("queue");
        let mut unit = world.site.run(UNIT);
        let more = depth + random.u64(1..150);
        world
            .site
            .wait_that_for(LONG, "some more are sent", || world.feed.depth("all") >= Some(more));
        unit.kill();
        kills += 1;
    }
    let mut unit = world.site.run_ready(UNIT);
    world.wait_left(&[]);
    assert!(unit.terminate().success());
    let mut times: HashMap<String, usize> = HashMap::new();
    for envelope in world.sent() {
        let name = filename(&envelope).to_owned();
        let number = name[1..].split(':').next().expect("a number");
        assert_eq!(envelope.body, number.as_bytes(), "{name}");
        *times.entry(name).or_default() += 1;
    }
    let repeats: usize = times.values().map(|times| times - 1).sum();
    eprintln!("{COUNT} files, {repeats} repeats after {kills} kills");
    assert_eq!(times.len(), COUNT);
    assert!(kills > 5);
}

#[test]
fn a_stop_confirms_what_is_in_flight_and_leaves_the_rest() {
    const COUNT: usize = 10_000;
    let world = world("stop", PLAIN);
    for n in 0..COUNT {
        world.drop(&format!("3/2026112112/{}", bulletin(&format!("f{n}"), 3, n)), "x");
    }
    let mut unit = world.site.run_ready(UNIT);
    world
        .site
        .wait_that("some are sent", || world.feed.depth("all") > Some(100));
    assert!(unit.terminate().success(), "{}", world.site.logs());
    let (sent, left) = (world.feed.depth("all").expect("queue"), world.left().len());
    assert!(left > 0, "too quick to be stopped in the middle");
    assert_eq!(sent as usize + left, COUNT, "nothing twice, nothing lost");
    assert_eq!(world.count("delivered"), sent);
    assert_eq!(world.site.state(UNIT), "stopped");
}

#[test]
fn what_can_never_be_sent_is_set_aside_and_holds_up_nobody() {
    let server = RabbitServer::start_with("max_message_size = 1000000", "[].");
    let world = on(TestBroker::on(&server, "problem"), "key = \"x.${CCCC}\"\n");
    let big = vec![b'x'; 1_000_001];
    for (path, bytes) in [
        ("3/2026112112/SA_CWAO_1", &b"one"[..]),
        ("3/2026112112/SA_BIG_1", &big),
        ("3/2026112112/nokey", b"no key"),
        ("4/2026112112/nokey", b"no key either"),
        ("4/2026112112/SA_CYUL_1", b"two"),
    ] {
        world.drop(path, bytes);
    }
    let _unit = world.site.run_ready(UNIT);
    world.wait_left(&["PROBLEM/SA_BIG_1", "PROBLEM/nokey", "PROBLEM/nokey.1"]);
    assert_eq!(std::fs::read(world.queued("PROBLEM/SA_BIG_1")).expect("kept"), big);
    assert_eq!(
        std::fs::read(world.queued("PROBLEM/nokey.1")).expect("kept"),
        b"no key either"
    );
    let mut sent: Vec<Vec<u8>> = world.sent().into_iter().map(|envelope| envelope.body).collect();
    sent.sort();
    sent.dedup(); // the refusal has cost the connection
    assert_eq!(sent, [b"one", b"two"]);
    world.site.wait_count(UNIT, "failed", 3);
    let said = world.site.said(UNIT);
    let errors = said
        .lines()
        .filter(|line| line.contains("[ERROR]") && line.contains("can never be sent"));
    assert_eq!(errors.count(), 3, "{said}");
    // It goes on.
    world.drop("3/2026112112/SA_CWAO_2", "three");
    world.wait_left(&["PROBLEM/SA_BIG_1", "PROBLEM/nokey", "PROBLEM/nokey.1"]);
}

#[test]
fn what_the_rules_and_masks_reject_is_removed_and_told_of() {
    let more = "masks = [{ reject = 'no' }, { reject_glob = '*.bak:*' }]\nvalidation = true\n\
                purge = [{ priority = [4], after = \"5h\" }]\n";
    let world = world("rules", &format!("{PLAIN}{more}"));
    let names = [
        ("No pattern (TX) matching", bulletin("no", 3, 0)),
        ("No pattern (TX) matching", bulletin("a.bak", 3, 0)),
        ("Filename incorrect", RADAR.to_owned()),
        (
            "Purged ((18000, [4]))",
            "old:ncp1:CWAO:SA:4:Direct:20200101000000".to_owned(),
        ),
    ];
    for (_, name) in &names {
        world.drop(&format!("3/2026112112/{name}"), "x");
    }
    world.drop(&format!("3/2026112112/{}", bulletin("yes", 3, 0)), "yes");
    let _unit = world.site.run_ready(UNIT);
    world.wait_left(&[]);
    world.site.wait_count(UNIT, "delivered", 1);
    assert_eq!(world.sent().len(), 1);
    let said = world.site.said(UNIT);
    for (why, name) in &names {
        let path = world.queued("3/2026112112").join(name);
        let line = format!("[INFO] {why}: {} has been unlinked!", path.display());
        assert!(said.lines().any(|said| said.ends_with(&line)), "{line}\n{said}");
    }
    let counts = ["rejected", "invalid", "purged"].map(|name| world.count(name));
    assert_eq!(counts, [2, 1, 1]);
}

/// A sender removes its own name of a file; the database's and a foreign queue's stay.
#[test]
fn foreign_links_and_open_files_and_large_ones() {
    let world = world("links", &format!("{PLAIN}log = {{ level = \"debug\" }}\n"));
    let _unit = world.site.run_ready(UNIT);
    let (hour, large) = (world.queued("3/2026112112"), vec![b'l'; 20 << 20]);
    std::fs::create_dir_all(&hour).expect("hour");
    world.site.write("db/a", "linked");
    std::fs::hard_link(world.site.path("db/a"), hour.join("a")).expect("link");
    world.wait_left(&[]);
    let kept = std::fs::metadata(world.site.path("db/a")).expect("db");
    assert_eq!(kept.nlink(), 1);
    // Larger than what may be in flight, between small ones.
    world.site.write("db/large", &large);
    for name in ["b", "large", "m"] {
        let from = if name == "large" { "db/large" } else { "db/a" };
        std::fs::hard_link(world.site.path(from), hour.join(name)).expect("link");
    }
    world.wait_left(&[]);
    let sent: Vec<(String, usize)> = world
        .sent()
        .iter()
        .map(|sent| (filename(sent).to_owned(), sent.body.len()))
        .collect();
    let mut names: Vec<&str> = sent.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["a", "b", "large", "m"]);
    assert!(
        sent.iter()
            .all(|(name, size)| *size == if name == "large" { 20 << 20 } else { 6 })
    );

    // Half of it is no message.
    use std::io::Write;
    let mut writer = std::fs::File::create(hour.join("slow")).expect("create");
    writer.write_all(b"first half, ").expect("write");
    world.drop("3/2026112112/quick", "quick");
    world.wait_left(&["3/2026112112/slow"]);
    world
        .site
        .wait_that("the other one is sent", || world.feed.depth("all") == Some(1));
    // It is looked at again and again, and not promised.
    world.site.wait_that("it is left to its writer three times", || {
        world.site.said(UNIT).matches("/slow is left to its writer").count() >= 3
    });
    writer.write_all(b"second half").expect("write");
    drop(writer);
    world.wait_left(&[]);
    assert_eq!(world.promised(), 6, "{}", world.site.logs());
    let sent = world.sent();
    assert_eq!(sent[1].body, b"first half, second half");
}

/// Another user's directory: files may be read there and not removed.
#[test]
fn a_file_that_cannot_be_removed_is_sent_once_and_told_of() {
    let world = world("unlink", PLAIN);
    for path in ["3/2026112112/fixed", "3/2026112113/secret", "3/2026112113/free"] {
        world.drop(path, path);
    }
    let private = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(world.queued("3/2026112113/secret"), private).expect("chmod");
    let open = std::fs::Permissions::from_mode(0o777);
    for path in ["", "run", "log", "txq", "txq/s", "txq/s/3/2026112113"] {
        let path = world.site.path(path);
        std::fs::create_dir_all(&path).expect("directory");
        std::fs::set_permissions(path, open.clone()).expect("chmod");
    }
    // The lease of a file is its owner's: without it, age tells whether it is written.
    for path in ["3/2026112112/fixed", "3/2026112113/free"] {
        let file = std::fs::File::options()
            .write(true)
            .open(world.queued(path))
            .expect("open");
        file.set_modified(SystemTime::now() - Duration::from_secs(60))
            .expect("mtime");
    }
    let nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"];
    let unit = world.site.run_as(UNIT, &nobody, &[]);
    world.site.wait_ready(UNIT, unit.pid());
    let left = ["3/2026112112/fixed", "3/2026112113/secret"];
    world.wait_left(&left);
    for n in 0..3 {
        world.drop(&format!("3/2026112113/more{n}"), "more");
        let path = world.queued(&format!("3/2026112113/more{n}"));
        let file = std::fs::File::options().write(true).open(&path);
        if let Ok(file) = file {
            // It may be gone by now only if leases work here.
            file.set_modified(SystemTime::now() - Duration::from_secs(60))
                .expect("mtime");
        }
        world.wait_left(&left);
    }
    let sent = world.sent();
    let fixed = sent.iter().filter(|sent| filename(sent) == "fixed").count();
    assert_eq!((fixed, sent.len()), (1, 5));
    assert!(
        sent.iter()
            .all(|sent| matches!(&sent.headers["filename"], Value::Str(name) if name != b"secret"))
    );
    let path = world.queued("3/2026112112/fixed");
    let line = format!("[ERROR] Unable to unlink {}", path.display());
    assert_eq!(world.site.said(UNIT).matches(&line).count(), 1, "{}", world.site.logs());
}

#[test]
fn a_reload_takes_the_new_key() {
    let world = world("reload", PLAIN);
    let unit = world.site.run_ready(UNIT);
    world.drop("3/2026112112/a", "a");
    world.wait_left(&[]);
    world
        .site
        .unit(UNIT, "type = \"amqp\"\nbroker = \"main\"\nkey = \"other\"\n");
    unit.signal(Signal::HUP);
    world.site.wait_that("it is reloaded", || {
        world.site.said(UNIT).contains("Sender AMQP has been reloaded")
    });
    world.drop("3/2026112112/b", "b");
    world.wait_left(&[]);
    wait_until(LONG, "both are there", || world.feed.depth("all") == Some(2));
    let keys: Vec<String> = world.sent().into_iter().map(|sent| sent.key).collect();
    assert_eq!(keys, ["k", "other"]);
}

/// What is in hand cannot be published: it stays where it is, and nobody waits for the broker.
#[test]
fn a_sender_told_to_end_while_its_broker_is_away_ends_within_seconds() {
    let mut server = RabbitServer::start();
    let world = on(TestBroker::on(&server, "sender-away"), PLAIN);
    let mut sender = world.site.run_ready(UNIT);
    server.kill();
    world.drop("3/2026112200/a", "one");
    world.site.wait_that("it is in hand", || {
        world.site.said(UNIT).contains("1 new messages will be sent")
    });
    world.drop("3/2026112200/b.tmp", "not yet in the queue");
    world.site.wait(UNIT, "counts what waits", |status| {
        status["gauges"]["queued_files"] == 1
    });
    let told = Instant::now();
    assert!(sender.terminate().success(), "{}", world.site.logs());
    assert!(told.elapsed() < Duration::from_secs(10), "{:?}", told.elapsed());
    assert_eq!(world.left(), ["3/2026112200/a", "3/2026112200/b.tmp"]);
}
