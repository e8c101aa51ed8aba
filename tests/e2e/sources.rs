//! Redundant sources: who is first and by how much, and what they say differently of one product.

use std::time::{Duration, Instant};

use px::message::Envelope;
use serde_json::{Value, json};

use crate::dispatcher::{SOURCES, UNIT, dispatcher, urp};
use crate::support::{Feed, TestBroker, TestSite, v02};

/// What the second copies are behind, at least.
const LAG: Duration = Duration::from_millis(300);
const ESCAPE: char = '\u{1b}';

fn source(status: &Value, name: &str) -> Value {
    let sources = status["sources"].as_array().expect("sources");
    let found = sources.iter().find(|standing| standing["source"] == name);
    found.unwrap_or_else(|| panic!("{name} in {sources:?}")).clone()
}

/// The first of each product, announced by the second source for each of which `is_second`; then, after a while, the
/// copies. The least and the greatest lead that the measured times allow, in seconds.
fn race(site: &TestSite, feed: &Feed, products: usize, is_second: impl Fn(usize) -> bool) -> (f64, f64) {
    let from = |n: usize, is_copy: bool| urp(SOURCES[usize::from(is_second(n) != is_copy)], n);
    let mut out = feed.reader("out");
    let begun = Instant::now();
    feed.announce_all((0..products).map(|n| from(n, false)));
    out.take(products);
    let forwarded = Instant::now();
    site.wait_that("the lag is over", || forwarded.elapsed() >= LAG);
    let least = forwarded.elapsed();
    // What follows the copies is forwarded after all of them were looked at.
    feed.announce_all((0..products).map(|n| from(n, true)).chain([urp(SOURCES[0], products)]));
    out.take(1);
    (least.as_secs_f64(), begun.elapsed().as_secs_f64())
}

#[test]
fn each_source_has_its_share_and_its_median_lead() {
    let broker = TestBroker::new("race");
    let feed = Feed::new(&broker.config());
    let site = TestSite::new(&broker);
    dispatcher(&site, &feed, "");
    let _unit = site.run_ready(UNIT);
    // One source is no race.
    assert_eq!(site.status(UNIT).unwrap_or_default()["sources"], json!([]));
    assert_eq!(site.px_ends(0, &["status", UNIT]).out.lines().count(), 1);
    let (least, most) = race(&site, &feed, 100, |n| n % 100 >= 63);
    site.wait(UNIT, "has seen all copies", |status| {
        status["sources"][0]["contested"] == 100
    });
    let status = site.status(UNIT).unwrap_or_default();
    println!("between {least:.3} s and {most:.3} s: {}", status["sources"]);
    for (name, first, share) in [("urp-1:80", 63, 0.63), ("urp-2:80", 37, 0.37)] {
        let standing = source(&status, name);
        assert_eq!(
            (&standing["first"], &standing["contested"]),
            (&json!(first), &json!(100))
        );
        assert_eq!(standing["share"], share);
        let lead = standing["lead_s"]["p50"].as_f64().expect("p50");
        // The histogram's steps are of 9 %; the memory's of a millisecond.
        assert!(
            (least - 0.002..=most * 1.1).contains(&lead),
            "{lead} not in {least}..{most}"
        );
        assert!(standing["lead_s"]["p99"].as_f64() >= Some(lead));
    }
    let said = site.px_ends(0, &["status", UNIT]).out;
    assert!(said.contains("\n  urp-1:80 first 63 % of 100, median lead "), "{said}");
    assert!(said.contains("\n  urp-2:80 first 37 % of 100, median lead "), "{said}");
    let rows: Value = serde_json::from_str(&site.px_ends(0, &["status", UNIT, "--json"]).out).expect("JSON");
    assert_eq!(rows[0]["status"]["sources"], status["sources"]);
    assert_eq!(rows[0]["status"]["disagreements"], json!([]));
    // A repeat and a re-issue by the winner itself are no races.
    let mut reissue = urp(SOURCES[0], 0);
    reissue.body = String::from_utf8_lossy(&reissue.body)
        .replacen(" 1000 ", " 999 ", 1)
        .into_bytes();
    feed.announce_all([urp(SOURCES[0], 1), reissue]);
    site.wait(UNIT, "has judged both", |status| {
        status["counts"]["ignored"] == 101 && status["counts"]["forwarded"] == 102
    });
    assert_eq!(site.status(UNIT).unwrap_or_default()["sources"], status["sources"]);
    assert!(!site.said(UNIT).contains("disagree"));
}

/// A product as one source announces it, with these bytes.
fn product(source: usize, n: usize, bytes: &[u8]) -> Envelope {
    // A name that would paint a terminal red.
    let name = format!("x{n}%1B[31m:URP:XAM:RADAR:META");
    let mut announced = v02(SOURCES[source], &format!("{source}/{name}::2026112{source}"), bytes);
    announced.key = "v02.post.x".to_owned();
    announced
}

#[test]
fn sources_that_say_different_things_of_one_name_are_counted_and_told_of_once() {
    let broker = TestBroker::new("disagree");
    let feed = Feed::new(&broker.config());
    let site = TestSite::new(&broker);
    site.unit(
        UNIT,
        "broker = \"main\"\nqueue = \"in\"\nbind = [\"v02.post.#\"]\nrekey = { key = \"v02.first\" }\n\
         seen = { by = \"name\" }\n",
    );
    let _unit = site.run_ready(UNIT);
    let begun = Instant::now();
    // Every other product is longer from the second source, and the last as long but another.
    for n in 0..20 {
        let theirs: &[u8] = if n % 2 == 0 { b"four" } else { b"fivefive" };
        feed.announce_all([product(0, n, b"four"), product(1, n, theirs)]);
    }
    site.wait(UNIT, "has judged 20", |status| status["counts"]["ignored"] == 20);
    feed.announce_all([product(1, 20, b"hour"), product(0, 20, b"four")]);
    site.wait(UNIT, "has judged all", |status| status["counts"]["ignored"] == 21);
    let status = site.status(UNIT).unwrap_or_default();
    let name = format!("x20{ESCAPE}[31m:URP:XAM:RADAR:META::20261120");
    let found = &status["disagreements"];
    assert_eq!(found.as_array().map(Vec::len), Some(1), "{found}");
    assert_eq!(
        (&found[0]["sources"], &found[0]["count"]),
        (&json!(["urp-1:80", "urp-2:80"]), &json!(11))
    );
    // md5 of four and of hour.
    let last = json!({"name": name, "sizes": [4, 4], "digests": ["8cbad96aced40b38", "896c55cc5e46fab3"]});
    assert_eq!(found[0]["last"], last);
    assert_eq!(source(&status, "urp-2:80")["first"], 1);
    let told: Vec<String> = site
        .said(UNIT)
        .lines()
        .filter(|line| line.contains("disagree"))
        .map(str::to_owned)
        .collect();
    let minutes = begun.elapsed().as_secs() as usize / 60;
    assert!((1..=1 + minutes).contains(&told.len()), "{told:?}");
    let line = &told[0];
    // Which is told of first depends on the order of the broker's confirms.
    assert!(
        line.contains("[WARNING] two sources disagree about a product name=x") && line.contains("\\u{1b}[31m:URP"),
        "{line}"
    );
    assert!(
        line.contains("first=urp-1:80 then=urp-2:80 sizes=4 8 digests="),
        "{line}"
    );
    let said = site.px_ends(0, &["status", UNIT]).out;
    assert!(
        said.contains("\n  urp-1:80 and urp-2:80 disagree: 11, last x20\u{fffd}[31m"),
        "{said}"
    );
    assert!(!said.contains(ESCAPE));
}
