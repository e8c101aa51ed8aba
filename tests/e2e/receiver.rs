//! The receiver: messages become products in the database and in the clients' queues, each once, whatever comes in and
//! whatever is killed.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use px::message::{Envelope, Value as Header};
use serde_json::Value;

use crate::support::{Feed, TestBroker, TestSite, files_below};

const UNIT: &str = "rx/ss";
const LONG: Duration = Duration::from_secs(120);
const PLAIN: &str = "type = \"amqp\"\nbroker = \"main\"\nqueue = \"in\"\nbind = [\"exp.#\"]\n";

struct World {
    broker: TestBroker,
    feed: Feed,
    site: TestSite,
}

/// A site with the client `sink`, which wants all, and `radar`; the receiver's queue is there.
fn world(name: &str, unit: &str) -> World {
    let broker = TestBroker::new(name);
    let feed = Feed::new(&broker.config());
    feed.queue("in", &["exp.#"]);
    let site = TestSite::new(&broker);
    let client = "type single-file\nprotocol ftp\nhost h\nuser u\naccept ";
    site.write("etc/tx/sink.conf", format!("{client}.*\n"));
    site.write("etc/tx/radar.conf", format!("{client}.*:RADAR:.*\n"));
    site.unit(UNIT, unit);
    World { broker, feed, site }
}

fn message(name: impl Into<Option<Header>>, body: &str) -> Envelope {
    let name: Option<Header> = name.into();
    Envelope {
        key: "exp.test".into(),
        headers: name.map(|name| ("filename".to_owned(), name)).into_iter().collect(),
        body: body.as_bytes().to_vec(),
        ..Envelope::default()
    }
}

fn named(name: &str, body: &str) -> Envelope {
    message(Header::from(name), body)
}

impl World {
    /// The products below a directory: name without stamp, and how often.
    fn products(&self, below: &str) -> BTreeMap<String, usize> {
        let mut products = BTreeMap::new();
        for path in files_below(&self.site.path(below)) {
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            let stem = name.rsplit_once(':').map_or(name.clone(), |(stem, _)| stem.to_owned());
            *products.entry(stem).or_default() += 1;
        }
        products
    }

    /// What lies in the receivers' queues, without the lock of a unit that runs.
    fn left(&self) -> Vec<PathBuf> {
        let mut left = files_below(&self.site.path("rxq"));
        left.retain(|path| !path.ends_with(".lock"));
        left
    }

    fn settled(&self) -> bool {
        self.feed.depth("in") == Some(0)
    }
}

/// What was received, its name in the database, and where it is queued.
#[test]
fn names_and_log_lines_are_those_of_sundew() {
    let world = world("rx-names", &format!("{PLAIN}extension = \"-NAME:CC:TT:3:FMT\"\n"));
    let _unit = world.site.run_ready(UNIT);
    let table = [
        ("plain", "plain:ss:CC:TT:3:FMT", "TT/ss/CC", 3),
        ("a::c", "a:ss:c:TT:3:FMT", "TT/ss/c", 3),
        ("a:b:c:d:e:f:g:h", "a:b:c:d:e:f", "d/b/c", 3),
        (
            "r.gif:URP:XSS:RADAR:GIF:",
            "r.gif:URP:XSS:RADAR:GIF:FMT",
            "RADAR/URP/XSS",
            3,
        ),
        (
            "t.gif:TVE:CMOI:CARTES:4:GIF",
            "t.gif:TVE:CMOI:CARTES:4:GIF",
            "CARTES/TVE/CMOI",
            4,
        ),
    ];
    world
        .feed
        .announce_all(table.iter().map(|(name, ..)| named(name, "twelve bytes")));
    world.site.wait_count(UNIT, "ingested", table.len() as u64);
    let said = world.site.said(UNIT);
    for (_, stem, directory, priority) in table {
        let in_db = files_below(&world.site.path("db"));
        let path = in_db
            .iter()
            .find(|path| path.to_string_lossy().contains(&format!("/{stem}:")));
        let path = path.unwrap_or_else(|| panic!("{stem}: {in_db:#?}"));
        assert!(
            path.parent().is_some_and(|parent| parent.ends_with(directory)),
            "{}",
            path.display()
        );
        let name = path.file_name().expect("a name").to_string_lossy();
        let stamp = name.rsplit_once(':').expect("a stamp").1;
        assert!(
            world
                .site
                .path(&format!("db/{}/{directory}/{name}", &stamp[..8]))
                .exists()
        );
        let queued = files_below(&world.site.path(&format!("txq/sink/{priority}")));
        assert!(
            queued.iter().any(|queued| queued.file_name() == path.file_name()),
            "{name}: {queued:#?}"
        );
        let line = said.lines().find(|line| line.ends_with(&*path.to_string_lossy()));
        let line = line.unwrap_or_else(|| panic!("{name}\n{said}"));
        assert!(line.contains("[INFO] (12 Bytes) Ingested in DB as /"), "{line}");
        assert_eq!(line.split(' ').nth(9), path.to_str(), "{line}");
    }
    for text in [
        "[INFO] Receiver ss has been started",
        "[INFO] Initialisation of source ss",
        "[INFO] Ingestor (source ss) can link files to clients: ['radar', 'sink']",
        "[INFO] Initialisation of client radar",
        "[INFO] Initialisation of client sink",
        "[INFO] Queued for: sink ",
        "[INFO] Queued for: radar sink ",
        "[WARNING] File name a:b:c:d:e:f:g:h truncated to a:b:c:d:e:f",
    ] {
        assert!(said.lines().any(|line| line.ends_with(text)), "{text}\n{said}");
    }
    assert_eq!(world.left(), Vec::<PathBuf>::new());
}

/// Nothing is written outside, nothing kills the unit, nothing is lost: what cannot be a file is kept as failed.
#[test]
fn hostile_names_go_to_the_failed_store_and_the_others_become_products() {
    let world = world("rx-hostile", PLAIN);
    let mut unit = world.site.run_ready(UNIT);
    let long = "n".repeat(300);
    let bad = [
        "",
        ".",
        "..",
        "../../x",
        "../x",
        "a/b",
        "/etc/x",
        "a\0b",
        ".hidden",
        ".lock",
        &long,
        "a:..:c:d:3:",
    ];
    let odd = [message(None, "no name"), message(Header::I32(7), "a number")];
    let good = ["quit", "a.tmp", "two words", "a\nb", "a", "caf\u{e9}"];
    world
        .feed
        .announce_all(bad.iter().map(|name| named(name, "bad")).chain(odd));
    world.feed.announce_all(good.iter().map(|name| named(name, "quit")));
    let latin = message(Header::Str(b"caf\xe9".to_vec()), "not UTF-8");
    world.feed.announce_all([latin, named("empty", "")]);
    world.site.wait_count(UNIT, "ingested", good.len() as u64 + 2);
    world.site.wait_count(UNIT, "failed", bad.len() as u64 + 2);
    let failed = world.site.failed(UNIT);
    assert_eq!(failed.len(), bad.len() + 2, "{failed:#?}");
    let reasons: Vec<&str> = failed.iter().filter_map(|entry| entry["reason"].as_str()).collect();
    for reason in [
        "has a slash",
        "begins with a dot",
        "NUL byte",
        "300",
        "no header filename",
        "is no text",
    ] {
        let is_told = reasons
            .iter()
            .any(|told| told.contains(reason) || reason == "300" && told.contains("longer"));
        assert!(is_told, "{reason}: {reasons:#?}");
    }
    assert_eq!(world.products("db").len(), good.len() + 2);
    assert_eq!(world.products("txq/sink"), world.products("db"));
    let strays = [world.site.path("x"), world.site.path("rxq/x"), world.site.path("etc/x")];
    assert!(strays.iter().all(|stray| !stray.exists()));
    assert_eq!(world.left(), Vec::<PathBuf>::new());
    assert!(world.settled());
    unit.assert_runs();
}

/// Three times in the middle of a thousand.
#[test]
fn a_killed_receiver_links_each_product_once() {
    const COUNT: usize = 1000;
    let world = world("rx-kill", PLAIN);
    let name = |n: usize| format!("p{n}:URP:XSS:RADAR:GIF:");
    world
        .feed
        .announce_all((0..COUNT).map(|n| named(&name(n), &format!("content {n}"))));
    let site = &world.site;
    let linked = || files_below(&site.path("db")).len();
    let mut unit = site.run(UNIT);
    for share in [1, 2, 3] {
        site.wait_that_for(LONG, "some more are linked", || linked() >= COUNT * share / 4);
        unit.kill();
        unit = site.run(UNIT);
    }
    site.wait_that_for(LONG, "every product is in the database", || linked() >= COUNT);
    site.wait_that_for(LONG, "the queue is empty", || world.settled());
    assert!(unit.terminate().success(), "{}", site.logs());
    assert!(world.settled(), "all are acked");
    let once: BTreeMap<String, usize> = (0..COUNT).map(|n| (name(n), 1)).collect();
    for below in ["db", "txq/sink", "txq/radar"] {
        assert!(
            world.products(below) == once,
            "{below}: {}\n{}",
            world.products(below).len(),
            site.logs()
        );
    }
    assert_eq!(world.left(), Vec::<PathBuf>::new());
}

/// Repeats of one name, published while others are in hand, are products each.
#[test]
fn a_burst_of_one_name_is_kept_whole_and_in_order() {
    const COUNT: usize = 300;
    let world = world("rx-burst", PLAIN);
    world
        .feed
        .announce_all((0..COUNT).map(|n| named("p:URP:XSS:RADAR:GIF:", &format!("{n:03}"))));
    let _unit = world.site.run_ready(UNIT);
    world.site.wait_count(UNIT, "ingested", COUNT as u64);
    let read = |path: &PathBuf| std::fs::read_to_string(path).expect("product");
    let kept: Vec<String> = files_below(&world.site.path("db")).iter().map(read).collect();
    assert_eq!(kept, (0..COUNT).map(|n| format!("{n:03}")).collect::<Vec<_>>());
    assert!(
        world
            .site
            .said(UNIT)
            .contains(" found in db, attempt to modify suffix ")
    );
}

/// The receiver has closed what it wrote when the links appear: the sender finds no writer that it would wait for.
#[test]
fn a_product_is_on_its_way_to_a_client_at_once() {
    const COUNT: usize = 20;
    let world = world("rx-latency", PLAIN);
    let (site, feed) = (&world.site, &world.feed);
    let accept = "masks = [{ accept = \"p.*\" }]\n";
    site.unit(
        "tx/out",
        &format!("type = \"amqp\"\nbroker = \"main\"\nkey = \"out\"\n{accept}"),
    );
    feed.queue("out", &["out"]);
    let _units = (site.run_ready(UNIT), site.run_ready("tx/out"));
    let mut reader = feed.reader("out");
    let mut times: Vec<Duration> = Vec::new();
    for n in 0..COUNT {
        let begun = Instant::now();
        feed.announce(named(&format!("p{n}:URP:XSS:RADAR:GIF:"), "content"));
        assert!(reader.next(LONG).is_some(), "{}", site.logs());
        times.push(begun.elapsed());
    }
    times.sort();
    // A sender that finds a writer looks again after a second.
    assert!(times[COUNT / 2] < Duration::from_secs(1), "{times:?}");
}

/// The disk refuses half-way: the unit waits for a person, and then every link is made once.
#[test]
fn what_is_in_the_way_pauses_the_unit_and_loses_nothing() {
    let world = world("rx-pause", PLAIN);
    world.site.write("txq/radar", "in the way");
    let _unit = world.site.run_ready(UNIT);
    let names: Vec<String> = (0..20).map(|n| format!("p{n}:URP:XSS:RADAR:GIF:")).collect();
    world.feed.announce_all(names.iter().map(|name| named(name, name)));
    world.site.wait_state(UNIT, "paused");
    assert!(
        world.site.state(UNIT).contains("a file is in the way"),
        "{}",
        world.site.state(UNIT)
    );
    std::fs::remove_file(world.site.path("txq/radar")).expect("remove");
    let once: BTreeMap<String, usize> = names.iter().map(|name| (name.clone(), 1)).collect();
    world
        .site
        .wait_that("all are queued", || world.products("txq/radar") == once);
    world.site.wait_that("all are acked", || world.settled());
    world.site.wait_state(UNIT, "running");
    for below in ["db", "txq/sink", "txq/radar"] {
        assert_eq!(world.products(below), once, "{below}");
    }
}

/// The old way: the broker names the queue, and it is gone with the connection.
#[test]
fn a_queue_of_the_brokers_naming_lives_as_long_as_its_connection() {
    let unit = "type = \"amqp\"\nbroker = \"main\"\nqueue = \"\"\ndurable = false\nbind = [\"exp.#\", \"other.key\"]\n";
    let world = world("rx-nameless", unit);
    let said = world.site.px_ends(0, &["check"]);
    let told = format!("{}{}", said.out, said.err);
    assert!(
        told.contains("what is published while the unit is down is lost"),
        "{told}"
    );
    let queues = || -> Vec<Value> {
        let path = format!("/api/queues/{}", world.broker.vhost);
        let all = world.broker.api("GET", &path, None).json();
        let all = all.as_array().cloned().unwrap_or_default();
        all.into_iter().filter(|queue| queue["name"] != "in").collect()
    };
    let mut process = world.site.run_ready(UNIT);
    world.site.wait_that("the queue is shown", || queues().len() == 1);
    let first = queues()[0].clone();
    let name = first["name"].as_str().expect("a name").to_owned();
    assert!(name.starts_with("amq.gen-") && first["durable"] == false, "{first:#}");
    let mut other = named("b:URP:XSS:RADAR:GIF:", "by the other binding");
    other.key = "other.key".into();
    world
        .feed
        .announce_all([named("a:URP:XSS:RADAR:GIF:", "one"), other, named("../bad", "no")]);
    world.site.wait_count(UNIT, "ingested", 2);
    world.site.wait_count(UNIT, "failed", 1);

    // Another connection, another queue.
    let cut_off = || {
        let connections = world.broker.api("GET", "/api/connections", None).json();
        for connection in connections.as_array().into_iter().flatten() {
            let is_here = connection["vhost"] == world.broker.vhost.as_str();
            let title = connection["client_properties"]["connection_name"].as_str();
            if let (true, Some(name)) = (
                is_here && title.is_some_and(|t| t.contains(UNIT)),
                connection["name"].as_str(),
            ) {
                let name = name.replace(' ', "%20").replace('>', "%3E").replace(':', "%3A");
                world.broker.api("DELETE", &format!("/api/connections/{name}"), None);
            }
        }
        world.site.count(UNIT, "reconnects") > 0
    };
    world.site.wait_that("it is cut off", cut_off);
    world.site.wait_that("another queue is shown", || {
        let queues = queues();
        queues.len() == 1 && queues[0]["name"] != name.as_str()
    });
    world.feed.announce(named("c:URP:XSS:RADAR:GIF:", "after"));
    world.site.wait_count(UNIT, "ingested", 3);
    process.kill();
    world.site.wait_that("it is gone", || queues().is_empty());
    assert_eq!(world.products("db").len(), 3);
}
