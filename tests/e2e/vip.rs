//! Two dispatchers and an address that moves between them.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::dispatcher::{SOURCES, UNIT, dispatcher, urp};
use crate::support::{Feed, TestBroker, TestSite};

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
}

impl Drop for Address {
    fn drop(&mut self) {
        self.set("delete");
    }
}

/// One address that moves between two hosts is, for the processes on them, an address that comes and one that goes:
/// here both are on this host's loopback, one for each unit.
#[test]
fn the_dispatcher_with_the_address_works_and_the_switch_takes_less_than_a_second() {
    let [here, there] = Address::pair();
    let broker = TestBroker::new("vip");
    let feed = Feed::new(&broker.config());
    let sites = [TestSite::new(&broker), TestSite::new(&broker)];
    for (site, address) in sites.iter().zip([&here, &there]) {
        dispatcher(site, &feed, &format!("vip = \"{}\"\n", address.0));
    }
    assert!(
        here.set("add"),
        "cannot add an address to lo: this test needs CAP_NET_ADMIN"
    );
    let _units = sites.each_ref().map(|site| site.run_ready(UNIT));
    sites[0].wait_state(UNIT, "running");
    sites[1].wait_state(UNIT, "standby");
    let announce = |range: std::ops::Range<usize>| feed.announce_all(range.map(|n| urp(SOURCES[0], n)));
    announce(0..100);
    sites[0].wait_count(UNIT, "forwarded", 100);

    // Nobody has it: the queue fills and nothing is lost.
    assert!(here.set("delete"));
    let gone = Instant::now();
    sites[0].wait_state(UNIT, "standby");
    assert!(gone.elapsed() < Duration::from_secs(1), "{:?}", gone.elapsed());
    announce(100..200);
    assert_eq!(feed.depth("in"), Some(100));

    assert!(there.set("add"));
    let moved = Instant::now();
    sites[1].wait_state(UNIT, "running");
    let mut out = feed.reader("out");
    assert_eq!(out.take(101).len(), 101, "the first after the switch");
    assert!(moved.elapsed() < Duration::from_secs(1), "{:?}", moved.elapsed());
    sites[1].wait_count(UNIT, "forwarded", 100);

    // And back, in the middle of the work.
    announce(200..1200);
    sites[1].wait_count(UNIT, "forwarded", 101);
    assert!(there.set("delete") && here.set("add"));
    let mut keys: Vec<String> = out.take(1099).into_iter().map(|envelope| envelope.key).collect();
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), 1099, "each once");
    let forwarded = sites.each_ref().map(|site| {
        site.wait_that("all is settled", || feed.depth("in") == Some(0));
        site.count(UNIT, "forwarded")
    });
    sites[0].wait(UNIT, "counts what the other does not", |_| {
        sites.iter().map(|site| site.count(UNIT, "forwarded")).sum::<u64>() == 1200
    });
    assert!(forwarded[0] > 0 && forwarded[1] > 0, "{forwarded:?}");
}
