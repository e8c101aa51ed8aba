//! What has been delivered is announced, and nothing else.

use px::message::ingest_name;

use super::{LONG, PLAIN, UNIT, World, world};
use crate::support::{Feed, TestBroker, TestSite};

const ANNOUNCED: &str = "[announcements]\nbroker = \"main\"\nannounce = [\"exp\", \"v02\"]\nurl = \"http://dd1/\"\n";

struct Announced {
    world: World,
    feed: Feed,
    _broker: TestBroker,
}

fn announced(name: &str, more: &str) -> Announced {
    let broker = TestBroker::new(name);
    let feed = Feed::new(&broker.config());
    feed.queue("all", &["exp.#"]);
    let site = TestSite::new(&broker);
    let text = format!(
        "type = \"deliver\"\ndestination = \"file:\"\ndirectory = \"{{root}}/data/radar/XSS\"\n{more}{ANNOUNCED}\
         root = \"{{root}}/data\"\n"
    );
    site.unit(UNIT, &text);
    Announced {
        world: World { site },
        feed,
        _broker: broker,
    }
}

/// The product is there at the moment at which its announcement is; killed in between, none is forgotten.
#[test]
fn each_product_is_announced_when_it_is_there_however_often_it_is_killed() {
    const COUNT: usize = 300;
    let Announced { world, feed, _broker } =
        announced("deliver-announce", "connections = 4\nmasks = [{ reject = 'no' }]\n");
    for n in 0..COUNT {
        world.drop(
            &format!("3/2026112112/p{n}.gif:URP:XSS:RADAR:GIF::20261121120000"),
            format!("{n}"),
        );
    }
    world.drop("3/2026112112/no", "never");
    for kill in 1..=3 {
        let mut unit = world.site.run_ready(UNIT);
        world.site.wait_that_for(LONG, "more is delivered", || {
            COUNT - world.left().len().min(COUNT) >= COUNT * kill / 5
        });
        unit.kill();
    }
    let _unit = world.site.run_ready(UNIT);
    world.wait_left(&[]);
    world.site.wait_for(LONG, UNIT, "has an empty outbox", |status| {
        status["gauges"]["outbox"] == 0
    });
    let depth = feed.depth("all").expect("queue") as usize;
    let mut seen = std::collections::BTreeSet::new();
    for envelope in feed.reader("all").take(depth) {
        let url = String::from_utf8(envelope.body).expect("text");
        let path = url.strip_prefix("http://dd1/").expect("below").to_owned();
        assert!(world.site.arrived(&path).is_some(), "{url} is not there");
        assert_eq!(envelope.key, "exp.dd.notify.radar.XSS");
        seen.insert(path);
    }
    assert_eq!(seen.len(), COUNT, "of {depth}");
}

/// What is below no announced root is known before it is delivered.
#[test]
fn what_cannot_be_announced_is_not_delivered() {
    let more = "masks = [{ accept = 'out', directory = \"{root}/data2\" }]\n";
    let Announced { world, .. } = announced("deliver-outside", more);
    let _unit = world.site.run_ready(UNIT);
    world.drop("3/2026112112/out:a", "x");
    world.drop("3/2026112112/in:a", "x");
    world.wait_left(&["PROBLEM/out:a"]);
    assert_eq!(world.site.names(), ["radar/XSS/in"]);
    world.site.wait_count(UNIT, "failed", 1);
}

#[test]
fn a_file_with_the_url_comes_into_the_queue_of_another_unit() {
    let files = "[[url_files]]\nqueue = \"dd-notify\"\nurl = \"http://dd1/\"\nroot = \"{root}/data\"\n";
    let world = world(&format!("{}{files}", PLAIN.replace("data\"", "data/a/b\"")));
    let _unit = world.site.run_ready(UNIT);
    world.drop("3/2026112112/p.gif:URP:XSS:RADAR:GIF::20261121120000", "x");
    world.wait_left(&[]);
    let files = crate::support::files_below(&world.site.path("txq/dd-notify"));
    let [file] = files.as_slice() else {
        panic!("{files:?}");
    };
    let name = file.file_name().expect("name").to_string_lossy().into_owned();
    assert_eq!(name, "a.b++p.gif:URP:XSS:RADAR:GIF::20261121120000");
    assert_eq!(std::fs::read_to_string(file).expect("url"), "http://dd1/a/b/p.gif");
}

/// All names for the file with its URL are taken, so it is tried again; the others go on meanwhile.
#[test]
fn a_product_that_cannot_be_announced_now_holds_up_no_other() {
    let files = "[[url_files]]\nqueue = \"dd-notify\"\nurl = \"http://dd1/\"\nroot = \"{root}/data\"\n";
    let world = world(&format!("{}{files}", PLAIN.replace("data\"", "data/a/b\"")));
    let (now, second) = (jiff::Timestamp::now(), jiff::SignedDuration::from_secs(1));
    let first: jiff::Timestamp = "2026-11-21T12:00:00Z".parse().expect("a time");
    for hour in [now, now + second * 3600] {
        for n in 0..1000 {
            let name = ingest_name::stamped(b"a.b++p.gif:URP:XSS:RADAR:GIF:", first + second * n);
            let (hour, name) = (ingest_name::hour(hour), String::from_utf8(name).expect("text"));
            world
                .site
                .write(&format!("txq/dd-notify/3/{hour}/{name}"), "http://dd1/other");
        }
    }
    let taken = "3/2026112112/p.gif:URP:XSS:RADAR:GIF::20261121120000";
    world.drop(taken, "x");
    for n in 0..300 {
        world.drop(&format!("3/2026112112/q{n}.gif:URP:XSS:RADAR:GIF::20261121120000"), "x");
    }
    let _unit = world.site.run_ready(UNIT);
    world.wait_left(&[taken]);
    let files = crate::support::files_below(&world.site.path("txq/dd-notify"));
    assert_eq!(files.len(), 2300);
}
