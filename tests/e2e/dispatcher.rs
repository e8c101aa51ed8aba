//! The dispatcher: the first of each announcement goes on, untouched, in order; kills lose nothing.

use std::collections::HashMap;
use std::ops::Range;
use std::time::Duration;

use px::message::{Envelope, Value};

use crate::support::{Feed, RabbitServer, TestBroker, TestSite, v00_urp};

pub const UNIT: &str = "dispatch/urp";
pub const SOURCES: [&str; 2] = ["http://urp-1/", "http://urp-2/"];
/// The dispatcher's default.
pub const PREFETCH: u64 = 256;

/// A dispatcher from `v00.urp.input` to `v00.urp.notify`, and the queue `out` behind it.
pub fn dispatcher(site: &TestSite, feed: &Feed, more: &str) {
    site.unit(
        UNIT,
        &format!(
            "broker = \"main\"\nqueue = \"in\"\nbind = [\"v00.urp.input.#\"]\n\
             rekey = {{ from = \"v00.urp.input\", to = \"v00.urp.notify\" }}\nseen = {{ by = \"identity\" }}\n{more}"
        ),
    );
    feed.queue("in", &["v00.urp.input.#"]);
    feed.queue("out", &["v00.urp.notify.#"]);
}

/// The n-th product as one source announces it.
pub fn urp(source: &str, n: usize) -> Envelope {
    let path =
        format!("db/20261121/RADAR/URP/XAM/20261121{n:06}~~X,60,10,PRECIPET,MM_HR,MM:URP:XAM:RADAR:META::20261121");
    let mut envelope = v00_urp(source, &path, 1000 + n);
    // Headers as other programs set them, of every kind that must not change.
    envelope
        .headers
        .insert("filename".into(), format!("msg_{n}").as_str().into());
    envelope.headers.insert("number".into(), Value::I32(n as i32));
    envelope.headers.insert("raw".into(), Value::Str(vec![0xff, n as u8]));
    envelope.content_type = Some("text/plain".into());
    envelope.message_id = Some(format!("{source}{n}"));
    envelope.timestamp = Some(1_780_000_000 + n as u64);
    envelope
}

/// Both sources' announcements of these products, the second up to 20 behind the first.
pub fn from_both(products: Range<usize>) -> Vec<Envelope> {
    let mut all = Vec::new();
    let mut late = Vec::new();
    for n in products {
        let (first, second) = if n % 3 == 0 { (1, 0) } else { (0, 1) };
        all.push(urp(SOURCES[first], n));
        late.push(urp(SOURCES[second], n));
        if late.len() > fastrand::usize(..20) {
            all.append(&mut late);
        }
    }
    all.append(&mut late);
    all
}

/// The first of each in this order, as it should be forwarded.
fn forwards(announced: &[Envelope]) -> Vec<Envelope> {
    let mut seen = HashMap::new();
    let mut firsts = Vec::new();
    for envelope in announced {
        let key = envelope.key.replacen("v00.urp.input", "v00.urp.notify", 1);
        if seen.insert(key.clone(), ()).is_none() {
            firsts.push(Envelope {
                key,
                ..envelope.clone()
            });
        }
    }
    firsts
}

#[test]
fn of_two_times_a_thousand_the_first_of_each_goes_on_in_order() {
    let broker = TestBroker::new("dispatch");
    let feed = Feed::new(&broker.config());
    let site = TestSite::new(&broker);
    dispatcher(&site, &feed, "");
    let _unit = site.run_ready(UNIT);
    let announced = from_both(0..1000);
    assert_eq!(announced.len(), 2000);
    feed.announce_all(announced.iter().cloned());
    site.wait(UNIT, "has judged all", |status| {
        status["counts"]["forwarded"] == 1000 && status["counts"]["ignored"] == 1000
    });
    assert_eq!(feed.depth("out"), Some(1000));
    let out = feed.reader("out").take(1000);
    for (found, wanted) in out.iter().zip(forwards(&announced)) {
        assert_eq!(*found, wanted);
    }
    assert_eq!(site.count(UNIT, "received"), 2000);
    assert!(site.failed(UNIT).is_empty());
    // Every forward has its line, the name in the seventh column.
    let said = site.said(UNIT);
    let lines: Vec<&str> = said.lines().filter(|line| line.contains(" Forwarded ")).collect();
    assert_eq!(lines.len(), 1000);
    let name = lines[0].split(' ').nth(6).unwrap_or_default();
    assert!(
        name.starts_with("20261121") && name.ends_with("META::20261121"),
        "{}",
        lines[0]
    );
}

/// SIGKILL in the middle of forwarding, 20 times during 20 000 pairs: every product is forwarded, and no more than was
/// in flight twice.
#[test]
fn a_killed_dispatcher_loses_nothing_and_repeats_only_what_was_in_flight() {
    const KILLS: usize = 20;
    const PRODUCTS: usize = 20_000;
    let broker = TestBroker::new("dispatch-kill");
    let feed = Feed::new(&broker.config());
    let site = TestSite::new(&broker);
    dispatcher(&site, &feed, "");
    feed.announce_all(from_both(0..PRODUCTS));
    let mut out = feed.reader("out");
    let mut copies: HashMap<String, usize> = HashMap::new();
    for kill in 0..KILLS {
        let mut unit = site.run(UNIT);
        // In the middle: after so many forwards of this life, and a moment more.
        for _ in 0..fastrand::usize(1..PRODUCTS / KILLS) {
            match out.next(crate::support::SOON) {
                Some(envelope) => *copies.entry(envelope.key).or_default() += 1,
                None => panic!("kill {kill}: nothing comes\n{}", site.logs()),
            }
        }
        std::thread::sleep(Duration::from_micros(fastrand::u64(..5000)));
        unit.kill();
    }
    // In the end all is forwarded and settled: after an orderly stop nothing is given back.
    let mut is_empty = false;
    while !is_empty {
        let mut unit = site.run_ready(UNIT);
        site.wait_that("the queue is empty", || feed.depth("in") == Some(0));
        assert!(unit.terminate().success());
        is_empty = feed.depth("in") == Some(0);
    }
    let copies = out.count_keys(copies, PRODUCTS);
    assert_eq!(copies.len(), PRODUCTS);
    let repeats: usize = copies.values().map(|count| count - 1).sum();
    assert!(repeats <= KILLS * PREFETCH as usize, "{repeats} repeats");
    println!("{repeats} repeats after {KILLS} kills");
}

/// A publisher that the broker blocks (memory alarm) holds everything back, and loses and reorders nothing.
#[test]
fn a_broker_out_of_memory_holds_forwards_back_and_loses_none() {
    let node = RabbitServer::start();
    let broker = TestBroker::on(&node, "alarm");
    let feed = Feed::new(&broker.config());
    let site = TestSite::new(&broker);
    dispatcher(&site, &feed, "");
    let announced = from_both(0..500);
    feed.announce_all(announced.iter().cloned());
    node.ctl(&["set_vm_memory_high_watermark", "0.00001"]);
    let unit = site.run_ready(UNIT);
    site.wait_count(UNIT, "received", PREFETCH);
    site.wait_that("the block is told", || {
        site.said(UNIT).contains("blocks publishing") || site.said(UNIT).contains("out of memory")
    });
    assert_eq!(site.count(UNIT, "forwarded"), 0);
    node.ctl(&["set_vm_memory_high_watermark", "0.8"]);
    site.wait_count(UNIT, "forwarded", 500);
    site.wait_count(UNIT, "ignored", 500);
    let out = feed.reader("out").take(500);
    for (found, wanted) in out.iter().zip(forwards(&announced)) {
        assert_eq!(found.key, wanted.key);
    }
    drop(unit);
}
