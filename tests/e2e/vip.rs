//! Dispatchers on two hosts and an address that moves between them.

use std::collections::HashMap;
use std::process::Command;
use std::time::{Duration, Instant};

use px::config::BrokerUrl;
use px::message::Envelope;

use crate::dispatcher::{SOURCES, UNIT, dispatcher, from_both, urp};
use crate::support::{Feed, Process, RabbitServer, SOON, TestBroker, TestSite, broker_of, wait_until};

/// A switch takes a fraction of a second, and up to two more where it waits for a marker that does not come; what is
/// held up lasts longer than this, and a machine that is busy does not.
const HELD_UP: Duration = Duration::from_secs(10);

/// An address on the loopback interface, gone when dropped.
struct Address(String);

impl Address {
    /// Two of them, which no other test process uses.
    fn pair() -> [Address; 2] {
        let pid = std::process::id();
        let (high, low) = ((pid >> 8) & 0xff, pid & 0xff);
        ["77", "78"].map(|second| Address(format!("127.{second}.{high}.{low}")))
    }

    fn set(&self, what: &str) -> bool {
        let address = format!("{}/32", self.0);
        let mut command = Command::new("ip");
        let output = command.args(["address", what, &address, "dev", "lo"]).output();
        output.expect("ip").status.success()
    }

    fn come(&self) {
        assert!(
            self.set("add"),
            "cannot add an address to lo: this test needs CAP_NET_ADMIN"
        );
    }

    fn go(&self) {
        assert!(self.set("delete"));
    }
}

impl Drop for Address {
    fn drop(&mut self) {
        self.set("delete");
    }
}

/// Two hosts with a dispatcher each. One address that moves between two hosts is, for the processes on them, an address
/// that comes and one that goes: here both are on this host's loopback, one for each unit.
struct Hosts {
    addresses: [Address; 2],
    feed: Feed,
    sites: [TestSite; 2],
    units: [Process; 2],
}

impl Hosts {
    /// The first of them has the address.
    fn new(broker: &TestBroker, more: &str) -> Hosts {
        let addresses = Address::pair();
        let feed = Feed::new(&broker.config());
        let sites = [TestSite::new(broker), TestSite::new(broker)];
        for (site, address) in sites.iter().zip(&addresses) {
            dispatcher(site, &feed, &format!("vip = \"{}\"\n{more}", address.0));
        }
        addresses[0].come();
        let units = sites.each_ref().map(|site| site.run_ready(UNIT));
        sites[0].wait_state(UNIT, "running");
        let hosts = Hosts {
            addresses,
            feed,
            sites,
            units,
        };
        hosts.wait_follows(1);
        hosts
    }

    fn wait_follows(&self, host: usize) {
        self.sites[host].wait_state(UNIT, "standby");
        self.sites[host].wait(UNIT, "follows", |status| status["links"]["follow"]["connected"] == true);
    }

    /// From the address to the first word of the dispatcher there.
    fn switch(&self, from: usize, to: usize) -> Instant {
        self.addresses[from].go();
        self.sites[from].wait_state(UNIT, "standby");
        self.addresses[to].come();
        Instant::now()
    }
}

fn firsts(products: std::ops::Range<usize>) -> impl Iterator<Item = Envelope> {
    products.map(|n| urp(SOURCES[0], n))
}

fn copies(products: std::ops::Range<usize>) -> impl Iterator<Item = Envelope> {
    products.map(|n| urp(SOURCES[1], n))
}

/// How often each came.
fn counted(envelopes: impl IntoIterator<Item = Envelope>) -> HashMap<String, usize> {
    let mut counts = HashMap::new();
    for envelope in envelopes {
        *counts.entry(envelope.key).or_default() += 1;
    }
    counts
}

#[test]
fn the_dispatcher_with_the_address_works_and_no_other() {
    let broker = TestBroker::new("vip");
    let hosts = Hosts::new(&broker, "");
    let (feed, sites, [here, there]) = (&hosts.feed, &hosts.sites, &hosts.addresses);
    feed.announce_all(firsts(0..100));
    sites[0].wait_count(UNIT, "forwarded", 100);

    // Nobody has it: the queue fills and nothing is lost.
    here.go();
    sites[0].wait_state(UNIT, "standby");
    feed.announce_all(firsts(100..200));
    assert_eq!(feed.depth("in"), Some(100));

    there.come();
    let mut out = feed.reader("out");
    assert_eq!(out.take(101).len(), 101, "the first after the switch");
    sites[1].wait_count(UNIT, "forwarded", 100);

    // And back, in the middle of the work.
    feed.announce_all(firsts(200..1200));
    sites[1].wait_count(UNIT, "forwarded", 101);
    there.go();
    here.come();
    let keys = counted(out.take(1099));
    assert_eq!(keys.len(), 1099, "each once");
    sites[0].wait(UNIT, "counts what the other does not", |_| {
        sites.iter().map(|site| site.count(UNIT, "forwarded")).sum::<u64>() == 1200
    });
    let forwarded = sites.each_ref().map(|site| site.count(UNIT, "forwarded"));
    assert!(forwarded[0] > 0 && forwarded[1] > 0, "{forwarded:?}");
}

/// The fastest of some, for the machine may be busy.
#[test]
fn a_switch_takes_less_than_a_second() {
    let broker = TestBroker::new("vip-fast");
    let hosts = Hosts::new(&broker, "");
    let mut out = hosts.feed.reader("out");
    let switches = [(0, 1), (1, 0), (0, 1), (1, 0), (0, 1)];
    let times = (0..).zip(switches).map(|(n, (from, to))| {
        hosts.wait_follows(to);
        let begun = Instant::now();
        hosts.switch(from, to);
        hosts.feed.announce_all(firsts(n..n + 1));
        out.take(1);
        begun.elapsed()
    });
    let times: Vec<Duration> = times.collect();
    println!("{times:?} from the address that goes to the first forward of the other host");
    assert!(times.iter().min() < Some(&Duration::from_secs(1)), "{times:?}");
}

/// The copies of what one host has forwarded are ignored by the other, whose dispatcher was killed and away for a
/// while: nothing is forwarded twice when nothing is in hand. And what each does, since when and why is said.
#[test]
fn who_stood_by_knows_what_the_other_has_forwarded() {
    let broker = TestBroker::new("vip-warm");
    let mut hosts = Hosts::new(&broker, "");
    hosts.feed.announce_all(firsts(0..300));
    hosts.sites[1].wait_count(UNIT, "learned", 300);
    hosts.units[1].kill();
    hosts.feed.announce_all(firsts(300..450));
    hosts.sites[0].wait_count(UNIT, "forwarded", 450);
    hosts.units[1] = hosts.sites[1].run_ready(UNIT);
    hosts.wait_follows(1);
    hosts.feed.announce_all(firsts(450..600));
    hosts.sites[1].wait_count(UNIT, "learned", 300);
    hosts.sites[0].wait_that("all is settled", || hosts.feed.depth("in") == Some(0));
    let said = hosts.sites.each_ref().map(|site| site.px(&["status"]).out);
    let [here, there] = hosts.addresses.each_ref().map(|address| &address.0);
    assert!(
        said[0].contains(&format!("UTC: {here} is on this host")) && said[0].contains(" active since 2"),
        "{said:?}"
    );
    assert!(
        said[1].contains(&format!("UTC: {there} is not on this host")),
        "{said:?}"
    );
    assert!(
        said[1].contains("  standby (pid ") && said[1].contains(") since 2"),
        "{said:?}"
    );
    let role = hosts.sites[1].status(UNIT).unwrap()["role"].clone();
    assert_eq!(role["active"], false, "{role}");

    let moved = hosts.switch(0, 1);
    hosts.feed.announce_all(firsts(600..601));
    hosts.feed.announce_all(copies(0..601));
    let mut out = hosts.feed.reader("out");
    let forwarded = counted(out.take(601));
    let took = moved.elapsed();
    assert!(took < HELD_UP, "{took:?}");
    println!("{took:?} from the address to the last forward");
    hosts.sites[1].wait_count(UNIT, "ignored", 601);
    assert_eq!(forwarded.len(), 601);
    assert!(out.next(Duration::from_millis(200)).is_none(), "nothing is repeated");
    // And back: who worked is followed by who worked before.
    hosts.wait_follows(0);
    hosts.feed.announce_all(firsts(601..700));
    hosts.sites[0].wait_count(UNIT, "learned", 99);
    hosts.switch(1, 0);
    hosts.feed.announce_all(copies(601..700));
    hosts.sites[0].wait_count(UNIT, "ignored", 99);
    assert_eq!(counted(out.take(99)).len(), 99);
    assert!(out.next(Duration::from_millis(200)).is_none(), "nothing is repeated");
}

/// A standby is no subscriber: what no consumer has bound is held until one has.
#[test]
fn who_stands_by_makes_nothing_routable() {
    let broker = TestBroker::new("vip-hold");
    let hosts = Hosts::new(&broker, "unroutable = \"hold\"\n");
    let (feed, [active, standby]) = (&hosts.feed, &hosts.sites);
    broker
        .api("DELETE", &format!("/api/queues/{}/out", broker.vhost), None)
        .ok();
    feed.announce_all(firsts(0..10));
    active.wait_count(UNIT, "unroutable", 1);
    assert_eq!(
        (active.count(UNIT, "forwarded"), standby.count(UNIT, "learned")),
        (0, 0)
    );
    feed.queue("out", &["v00.urp.notify.#"]);
    active.wait_count(UNIT, "forwarded", 10);
    assert_eq!(feed.depth("out"), Some(10));
    standby.wait_count(UNIT, "learned", 10);
}

/// Nobody consumes where all stand by, so nobody is told that the queue is gone: it is looked for.
#[test]
fn who_stands_by_declares_a_queue_that_is_gone() {
    let broker = TestBroker::new("vip-queue-gone");
    let hosts = Hosts::new(&broker, "");
    hosts.addresses[0].go();
    hosts.sites[0].wait_state(UNIT, "standby");
    broker
        .api("DELETE", &format!("/api/queues/{}/in", broker.vhost), None)
        .ok();
    wait_until(SOON, "the queue is back", || hosts.feed.depth("in").is_some());
    wait_until(SOON, "it is bound, and that is said", || {
        let said = hosts.sites.each_ref().map(|site| site.said(UNIT)).concat();
        said.contains("queue in was gone while this unit stands by")
    });
    hosts.feed.announce_all(firsts(0..20));
    hosts.addresses[1].come();
    hosts.sites[1].wait_count(UNIT, "forwarded", 20);
}

/// A switch by hand: whoever ends has told the other one everything before.
#[test]
fn who_is_stopped_has_told_everything() {
    let broker = TestBroker::new("vip-stopped");
    let mut hosts = Hosts::new(&broker, "");
    hosts.feed.announce_all(firsts(0..3000));
    hosts.sites[0].wait_count(UNIT, "forwarded", 500);
    assert!(hosts.units[0].terminate().success());
    // What it gives back at its end is in the queue when the broker has noticed it.
    let told = |status: &serde_json::Value| {
        status["counts"]["learned"].as_u64() == hosts.feed.depth("in").map(|left| 3000 - left)
    };
    hosts.sites[1].wait(UNIT, "has learned all that is done", told);
}

/// One whose output is another, as while a new configuration goes from host to host, or in another installation with
/// the same names, has forwarded nothing that the others forward.
#[test]
fn who_forwards_to_elsewhere_is_not_learned_from() {
    let broker = TestBroker::new("vip-elsewhere");
    let hosts = Hosts::new(&broker, "");
    let other = std::fs::read_to_string(hosts.sites[1].path("etc/dispatch/urp.toml")).expect("the unit");
    let other = other.replace("v00.urp.notify", "v00.urp.elsewhere");
    hosts.sites[1].write("etc/dispatch/urp.toml", other);
    hosts.feed.queue("elsewhere", &["v00.urp.elsewhere.#"]);
    hosts.units[1].signal(rustix::process::Signal::HUP);
    hosts.sites[1].wait_that("reloaded", || hosts.sites[1].said(UNIT).contains("has been reloaded"));
    hosts.wait_follows(1);
    hosts.feed.announce_all(firsts(0..20));
    hosts.sites[0].wait_count(UNIT, "forwarded", 20);
    hosts.switch(0, 1);
    hosts.feed.announce_all(copies(0..20));
    hosts.sites[1].wait_count(UNIT, "forwarded", 20);
    assert_eq!(hosts.feed.depth("elsewhere"), Some(20));
}

/// What strangers publish where dispatchers tell each other, and under the keys of the output, is not learned.
#[test]
fn who_stands_by_learns_from_dispatchers_alone() {
    let broker = TestBroker::new("vip-strangers");
    let hosts = Hosts::new(&broker, "");
    let exchange = format!("/api/exchanges/{}/in.follow", broker.vhost);
    let bindings = broker.api("GET", &format!("{exchange}/bindings/source"), None).ok();
    let bindings = bindings.json();
    let mut keys = bindings
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|binding| binding["routing_key"].as_str());
    let key = keys.find(|key| key.starts_with("forwarded.")).expect("a key");
    let stranger = format!(
        r#"{{"routing_key": "{key}", "payload": "pxseen2\nnone", "payload_encoding": "string", "properties": {{}}}}"#
    );
    let publish = format!("{exchange}/publish");
    let said = broker.api("POST", &publish, Some(&stranger)).ok().json();
    assert_eq!(said["routed"], true, "{said}");
    hosts.feed.announce_all(firsts(5..10).map(|envelope| Envelope {
        key: envelope.key.replacen("input", "notify", 1),
        ..envelope
    }));
    hosts.feed.announce_all(firsts(0..5));
    hosts.sites[1].wait_count(UNIT, "learned", 5);
    hosts.switch(0, 1);
    hosts.feed.announce_all(copies(0..10));
    hosts.sites[1].wait_count(UNIT, "ignored", 5);
    hosts.sites[1].wait_count(UNIT, "forwarded", 5);
}

/// While the broker takes no publishes the marker does not come, and while it restarts there is nothing to follow: work
/// begins all the same, and loses nothing.
#[test]
fn a_broker_in_trouble_holds_up_no_switch() {
    let mut node = RabbitServer::start();
    let broker = TestBroker::on(&node, "vip-trouble");
    let hosts = Hosts::new(&broker, "");
    let sites = &hosts.sites;
    hosts.feed.announce_all(firsts(0..100));
    sites[1].wait_count(UNIT, "learned", 100);
    // A publisher is blocked after its first message: the next marker waits, and nobody waits for it.
    node.ctl(&["set_vm_memory_high_watermark", "0.00001"]);
    for (from, to) in [(0, 1), (1, 0), (0, 1)] {
        hosts.wait_follows(to);
        let moved = hosts.switch(from, to);
        sites[to].wait_state(UNIT, "running");
        let took = moved.elapsed();
        assert!(took < HELD_UP, "{took:?} from host {from} to {to}");
    }
    let said = sites[1].said(UNIT);
    assert!(said.contains("no answer within 2s"), "{said}");
    node.ctl(&["set_vm_memory_high_watermark", "0.8"]);
    hosts.feed.announce_all(firsts(100..200));
    sites[1].wait_count(UNIT, "forwarded", 100);
    assert_eq!(sites[1].count(UNIT, "unroutable"), 0, "an old marker is not counted");

    hosts.wait_follows(0);
    drop(hosts.feed);
    node.kill();
    hosts.addresses[1].go();
    sites[1].wait_state(UNIT, "standby");
    sites[0].wait(UNIT, "follows no more", |status| {
        status["links"]["follow"]["connected"] == false
    });
    hosts.addresses[0].come();
    sites[0].wait(UNIT, "is to work", |status| status["role"]["active"] == true);
    node.start_again();
    let feed = Feed::new(&broker.config());
    feed.announce_all(firsts(200..300));
    let mut out = feed.reader("out");
    assert_eq!(counted(out.take(300)).len(), 300);
}

/// The follow queue is lost at the worst moment: its connection is closed by hand when the address comes. Nobody waits
/// for longer than the marker may take, and a user that may not publish there needs no marker.
#[test]
fn a_marker_that_does_not_come_holds_up_nothing() {
    let broker = TestBroker::new("vip-marker");
    let user = broker.user("narrow", ".*", "^(xp|in|in[.]follow[.].*)$", ".*");
    let hosts = Hosts::new(&broker, "");
    hosts.feed.announce_all(firsts(0..10));
    hosts.sites[1].wait_count(UNIT, "learned", 10);
    close_followers(&broker);
    let moved = hosts.switch(0, 1);
    hosts.feed.announce_all(firsts(10..20));
    hosts.sites[1].wait_count(UNIT, "forwarded", 10);
    assert!(moved.elapsed() < HELD_UP, "{:?}", moved.elapsed());

    let url = &user.urls[0];
    let url = format!(
        "amqp://{}:{}@{}:{}/{}",
        url.user, "canary-password", url.host, url.port, url.vhost
    );
    let site = TestSite::at(&url);
    hosts.sites[1].wait_that("all is settled", || hosts.feed.depth("in") == Some(0));
    hosts.addresses[1].go();
    hosts.sites[1].wait_state(UNIT, "standby");
    let third = Address(hosts.addresses[0].0.replacen("127.77.", "127.79.", 1));
    dispatcher(&site, &hosts.feed, &format!("vip = \"{}\"\n", third.0));
    let _unit = site.run_ready(UNIT);
    site.wait(UNIT, "follows", |status| status["links"]["follow"]["connected"] == true);
    third.come();
    let moved = Instant::now();
    hosts.feed.announce_all(firsts(20..30));
    site.wait_count(UNIT, "forwarded", 10);
    assert!(moved.elapsed() < HELD_UP, "{:?}", moved.elapsed());
    let said = site.said(UNIT);
    assert!(
        said.contains("no marker could be published") && !said.contains("paused"),
        "{said}"
    );
}

/// Closes the connections that follow.
fn close_followers(broker: &TestBroker) {
    let mut closed = 0;
    wait_until(SOON, "a connection that follows is listed", || {
        let all = broker
            .api("GET", &format!("/api/vhosts/{}/connections", broker.vhost), None)
            .ok()
            .json();
        for connection in all.as_array().expect("a list") {
            let shown = connection["client_properties"]["connection_name"]
                .as_str()
                .unwrap_or_default();
            if shown.contains(" follow ") {
                let name = connection["name"]
                    .as_str()
                    .expect("a name")
                    .replace(' ', "%20")
                    .replace('>', "%3E");
                broker.api("DELETE", &format!("/api/connections/{name}"), None).ok();
                closed += 1;
            }
        }
        closed > 0
    });
}

/// Two processes on an embedded broker follow each other as well.
#[test]
fn on_an_embedded_broker_who_stands_by_knows_too() {
    let home = tempfile::tempdir().expect("tempdir");
    let url = format!("embedded:{}", home.path().join("own.db").display());
    let places = px::config::Places::under(home.path());
    let broker = broker_of(vec![BrokerUrl::parse(&url, &places).expect("url")]);
    let [here, there] = Address::pair();
    let feed = Feed::new(&broker);
    let sites = [TestSite::at(&url), TestSite::at(&url)];
    for (site, address) in sites.iter().zip([&here, &there]) {
        dispatcher(site, &feed, &format!("vip = \"{}\"\n", address.0));
    }
    here.come();
    let _units = sites.each_ref().map(|site| site.run_ready(UNIT));
    sites[0].wait_state(UNIT, "running");
    sites[1].wait(UNIT, "follows", |status| status["links"]["follow"]["connected"] == true);
    feed.announce_all(firsts(0..50));
    sites[1].wait_count(UNIT, "learned", 50);
    sites[0].wait_that("all is settled", || feed.depth("in") == Some(0));
    here.go();
    there.come();
    feed.announce_all(copies(0..60));
    sites[1].wait_count(UNIT, "ignored", 50);
    sites[1].wait_count(UNIT, "forwarded", 10);
    assert!(
        !sites[1].said(UNIT).contains("may not be known"),
        "{}",
        sites[1].said(UNIT)
    );
}

/// Both hosts have the address, as when they do not see each other: what comes is shared, nothing is lost, and when one
/// is without it again the other goes on.
#[test]
fn two_hosts_with_the_address_lose_nothing() {
    let broker = TestBroker::new("vip-split");
    let hosts = Hosts::new(&broker, "");
    hosts.addresses[1].come();
    hosts.sites[1].wait_state(UNIT, "running");
    hosts.feed.announce_all(from_both(0..500));
    let mut out = hosts.feed.reader("out");
    let all = counted(out.take(500));
    hosts.addresses[0].go();
    hosts.sites[0].wait_state(UNIT, "standby");
    hosts.feed.announce_all(from_both(500..1000));
    hosts.sites[1].wait_that("all is settled", || hosts.feed.depth("in") == Some(0));
    let all = out.count_keys(all, 1000);
    assert_eq!(all.len(), 1000);
    assert!(all.values().all(|count| *count <= 2), "once by each at most");
}
