//! Files that other programs drop into a receiver's queue, and products that a pull worker ingests.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use serde_json::Value;

use crate::support::{Feed, ProductServer, TestBroker, TestSite, files_below, v00_urp};

const UNIT: &str = "rx/drop";

/// A receiver `drop` and a client `sink` that Sundew serves.
fn site(more: &str) -> TestSite {
    let site = TestSite::with_site_file("");
    site.write(
        "etc/tx/sink.conf",
        "type single-file\nprotocol ftp\nhost h\nuser u\naccept .*\n",
    );
    let text = "type = \"single-file\"\nextension = \"-NAME:XSS:RADAR:3:GIF\"\n";
    site.unit(UNIT, &format!("{text}{more}"));
    site
}

/// The names below a directory, without their reception stamps.
fn stems(site: &TestSite, below: &str) -> Vec<String> {
    let mut stems: Vec<String> = files_below(&site.path(below))
        .iter()
        .map(|path| {
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            name.rsplit_once(':').map_or(name.clone(), |(stem, _)| stem.to_owned())
        })
        .collect();
    stems.sort();
    stems
}

#[test]
fn what_is_dropped_goes_to_the_database_and_to_clients_and_what_is_rejected_goes() {
    let site = site("masks = [{ reject = '.*part$' }]\n");
    site.write("rxq/drop/early", "1");
    let mut unit = site.run_ready(UNIT);
    assert_eq!(
        fs::read_to_string(site.path("rxq/drop/.lock")).expect(".lock"),
        unit.pid().to_string()
    );
    site.write("rxq/drop/.hidden", "x");
    site.write("rxq/drop/late.tmp", "x");
    site.write("rxq/drop/b.part", "x");
    site.write("rxq/drop/sub/deep/c:URP", "22");
    fs::rename(site.path("rxq/drop/late.tmp"), site.path("rxq/drop/late")).expect("rename");
    let wanted = [
        "c:URP:XSS:RADAR:3:GIF",
        "early:drop:XSS:RADAR:3:GIF",
        "late:drop:XSS:RADAR:3:GIF",
    ];
    site.wait_that("all are in the database", || stems(&site, "db") == wanted);
    site.wait_that("all are out of the queue", || {
        let left = files_below(&site.path("rxq/drop"));
        left == [site.path("rxq/drop/.hidden"), site.path("rxq/drop/.lock")]
    });
    assert_eq!(stems(&site, "txq/sink/3"), wanted);
    for path in files_below(&site.path("db")) {
        assert!(fs::metadata(&path).expect("product").nlink() == 2, "{}", path.display());
    }
    site.wait_count(UNIT, "rejected", 1);
    assert!(unit.terminate().success());
    assert!(!site.path("rxq/drop/.lock").exists());
    let said = site.said(UNIT);
    let path = site.path("rxq/drop/b.part").display().to_string();
    for text in [
        "[INFO] Receiver drop has been started".to_owned(),
        " files will be ingested".to_owned(),
        format!("[INFO] (2 Bytes) Ingested in DB as {}/db/", site.root().display()),
        "[INFO] Queued for: sink ".to_owned(),
        format!("[INFO] No pattern (RX) matching: {path} has been unlinked!"),
        "[INFO] Receiver drop (type: single-file) has been stopped".to_owned(),
    ] {
        assert!(said.lines().any(|line| line.contains(&text)), "{text}\n{said}");
    }
}

#[test]
fn a_file_is_left_alone_until_its_writer_has_closed_it() {
    let site = site("");
    let _unit = site.run_ready(UNIT);
    let mut writer = File::create(site.path("rxq/drop/slow")).expect("file");
    writer.write_all(b"half").expect("write");
    site.write("rxq/drop/quick", "whole");
    site.wait_that("the other one is ingested", || {
        stems(&site, "db") == ["quick:drop:XSS:RADAR:3:GIF"]
    });
    assert!(site.path("rxq/drop/slow").exists());
    writer.write_all(b" and half").expect("write");
    drop(writer);
    site.wait_that("it is ingested", || files_below(&site.path("db")).len() == 2);
    let slow = files_below(&site.path("db"))
        .into_iter()
        .find(|path| path.to_string_lossy().contains("slow"));
    assert_eq!(
        fs::read_to_string(slow.expect("slow")).expect("product"),
        "half and half"
    );
}

#[test]
fn a_content_that_came_before_is_suppressed() {
    let site = site("duplicates = {}\nbatch = 1\n");
    let _unit = site.run_ready(UNIT);
    site.write("rxq/drop/one", "same");
    site.wait_that("the first is ingested", || files_below(&site.path("db")).len() == 1);
    site.write("rxq/drop/two", "same");
    site.write("rxq/drop/three", "other");
    site.wait_count(UNIT, "suppressed", 1);
    site.wait_count(UNIT, "ingested", 2);
    assert!(site.said(UNIT).contains("[INFO] suppressed duplicate file two\n"));
    assert_eq!(
        stems(&site, "db"),
        ["one:drop:XSS:RADAR:3:GIF", "three:drop:XSS:RADAR:3:GIF"]
    );
}

/// Nothing is erased that could not be ingested, and nothing waits for it.
#[test]
fn a_name_that_cannot_be_ingested_stays_and_holds_up_nothing() {
    let site = site("");
    let long = "n".repeat(250);
    site.write(&format!("rxq/drop/{long}"), "x");
    let _unit = site.run_ready(UNIT);
    site.wait_count(UNIT, "failed", 1);
    site.write("rxq/drop/good", "x");
    site.wait_count(UNIT, "ingested", 1);
    assert!(site.path(&format!("rxq/drop/{long}")).exists());
    let status = site.status(UNIT).unwrap_or_default();
    assert_eq!(
        (&status["state"], &status["counts"]["failed"]),
        (&Value::from("running"), &Value::from(1))
    );
}

#[test]
fn dropped_files_are_each_linked_once_whenever_the_receiver_is_killed() {
    const COUNT: usize = 1500;
    let site = site("");
    for n in 0..COUNT {
        site.write(&format!("rxq/drop/p{n}"), format!("content {n}"));
    }
    let linked = || files_below(&site.path("db")).len();
    let mut unit = site.run(UNIT);
    for share in 1..4 {
        site.wait_that("some more are linked", || linked() >= COUNT * share / 5);
        unit.kill();
        unit = site.run(UNIT);
    }
    site.wait_that("the queue is empty", || {
        files_below(&site.path("rxq/drop")) == [site.path("rxq/drop/.lock")]
    });
    let mut wanted: Vec<String> = (0..COUNT).map(|n| format!("p{n}:drop:XSS:RADAR:3:GIF")).collect();
    wanted.sort();
    for below in ["db", "txq/sink"] {
        assert!(stems(&site, below) == wanted, "{below}: {}", stems(&site, below).len());
    }
    assert!(unit.terminate().success());
}

/// Killed between the link and the ack, a worker gets the announcement again.
#[test]
fn what_a_pull_worker_fetches_is_ingested_once_whenever_it_is_killed() {
    const COUNT: usize = 300;
    const UNIT: &str = "rx/pull";
    let broker = TestBroker::new("pull-ingest");
    let feed = Feed::new(&broker.config());
    feed.queue("pull", &["v00.urp.notify.#"]);
    let site = TestSite::new(&broker);
    site.write(
        "etc/tx/sink.conf",
        "type single-file\nprotocol ftp\nhost h\nuser u\naccept .*:URP:.*\n",
    );
    site.unit(
        UNIT,
        "type = \"pull\"\nbroker = \"main\"\nqueue = \"pull\"\nbind = [\"v00.urp.notify.#\"]\nprefetch = 20\n\
         extension = \"-NAME:XSS:RADAR:3:GIF\"\n",
    );
    let server = ProductServer::start();
    let path = |n: usize| format!("db/20261121/p{n}:URP:XAM:RADAR:META::20261121210337");
    for n in 0..COUNT {
        server.serve(&path(n), format!("product {n}").as_bytes());
    }
    feed.announce_all((0..COUNT).map(|n| {
        let mut announcement = v00_urp(&server.url(), &path(n), format!("product {n}").len());
        announcement.key = announcement.key.replace("v00.urp.input", "v00.urp.notify");
        announcement
    }));
    let linked = || files_below(&site.path("db")).len();
    let mut unit = site.run(UNIT);
    for share in 1..4 {
        site.wait_that("some more are linked", || linked() >= COUNT * share / 5);
        unit.kill();
        unit = site.run(UNIT);
    }
    site.wait_that("all are linked", || linked() >= COUNT);
    site.wait_that("the queue is empty", || feed.depth("pull") == Some(0));
    assert!(unit.terminate().success(), "{}", site.logs());
    let mut wanted: Vec<String> = (0..COUNT).map(|n| format!("p{n}:URP:XAM:RADAR:META:GIF")).collect();
    wanted.sort();
    for below in ["db", "txq/sink"] {
        let stems = stems(&site, below);
        assert!(stems == wanted, "{below}: {}", stems.len());
    }
    assert_eq!(files_below(&site.path("rxq/pull")), Vec::<PathBuf>::new());
    let said = site.said(UNIT);
    let fetched = said.lines().position(|line| line.contains(" Bytes) Fetched p"));
    let ingested = said
        .lines()
        .position(|line| line.contains(" Bytes) Ingested in DB as "));
    assert!(fetched.is_some() && fetched < ingested, "{said}");
    assert!(said.contains("[INFO] Queued for: sink \n"), "{said}");
}
