//! The address moves, and a node dies, while two producers announce: nothing is lost and little is repeated.

use jiff::Timestamp;

use crate::pair::{LIVE, PATIENCE, Pair};
use crate::pauses::{longest_pause, p50_and_max};
use crate::private::is_private;
use crate::products::{announced_by, forwarded_key};
use crate::{ALONE, pair};

/// 20 000 announcements.
const PRODUCTS: usize = 10_000;
/// The second producer is so many products behind the first all the time, over switches and dead nodes: what a new holder
/// does not know to be forwarded it forwards that often again.
const BEHIND: usize = 600;
/// Announced when the address has moved, however long that took: so the pause around the move has an end.
const LAST: usize = 500;
/// Announcements of one dispatcher that may be forwarded and not yet settled: its prefetch.
const IN_FLIGHT: usize = 256;
/// From the address on its new host to forwards by it: what is in hand of the old connections, TCP's patience with a
/// host that was away, the producers' own time-outs, and a machine that does all of this at once.
const AFTER_ADDRESS: f64 = 10.0;

/// What takes the address from its host.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Switch {
    KeepalivedStopped,
    ListenersClosed,
    NodeKilled,
    KeepalivedKilled,
    KeepalivedKilledWhole,
}

/// What one of them cost, in seconds.
struct Cost {
    address: f64,
    forwards: f64,
    subscriber: f64,
}

const SWITCHES: [Switch; 5] = [
    Switch::KeepalivedStopped,
    Switch::ListenersClosed,
    Switch::NodeKilled,
    Switch::KeepalivedKilled,
    Switch::KeepalivedKilledWhole,
];

#[test]
fn an_address_that_moves_and_a_node_that_dies_lose_nothing() {
    pair::assert_can_run();
    if !is_private(
        "moves::an_address_that_moves_and_a_node_that_dies_lose_nothing",
        &ALONE,
        &[("TMPDIR", "/run")],
    ) {
        return;
    }
    let mut pair = Pair::up("cluster_partition_handling = autoheal");
    let [first, second] = ["urp-1", "urp-2"].map(|source| announced_by(source, PRODUCTS));
    let wanted: Vec<String> = first.iter().map(forwarded_key).collect();
    let producers = [first, second].map(|announcements| pair.client.producer(announcements));
    let subscriber = pair.client.subscriber(LIVE);

    let share = PRODUCTS / SWITCHES.len();
    let mut costs = Vec::new();
    for (number, switch) in SWITCHES.into_iter().enumerate() {
        let (before, after) = (number * share + BEHIND, (number + 1) * share);
        producers[0].allow(after - LAST);
        producers[1].allow(after - LAST - BEHIND);
        subscriber.wait_for(before, PATIENCE);
        let old = pair.holder();
        // Else it is the check's patience (`rise`) that is measured.
        pair.wait("the other host is ready to take the address", |pair| {
            pair.bunnies[1 - old].keepalived.is_ready()
        });
        let from = Timestamp::now();
        switch.take_from(&mut pair, old);
        pair.wait("the other host has the address", |pair| pair.holders() == [1 - old]);
        let address = Timestamp::now().duration_since(from).as_secs_f64();
        producers[0].allow(after);
        producers[1].allow(after - BEHIND);
        switch.give_back(&mut pair, old);
        subscriber.wait_for(after, PATIENCE);
        let cost = Cost {
            address,
            forwards: longest_pause(&pair.forwards(), from),
            subscriber: longest_pause(&subscriber.times(), from),
        };
        println!("{switch:?}: {cost}");
        costs.push(cost);
        pair.wait("the cluster is whole", Pair::is_whole);
    }
    producers[1].allow(PRODUCTS);
    producers[1].wait_for(PRODUCTS, PATIENCE);

    let copies = pair.record();
    let missing = wanted.iter().filter(|key| !copies.contains_key(*key)).count();
    assert_eq!(missing, 0, "products that were announced and not forwarded");
    assert_eq!(copies.len(), PRODUCTS, "nothing else is forwarded");
    let mut repeats = [0; SWITCHES.len()];
    for (number, key) in wanted.iter().enumerate() {
        repeats[number / share] += copies[key] - 1;
    }
    println!("products forwarded again, of {PRODUCTS}, by switch: {repeats:?}");
    for (what, pause) in [
        (
            "address on no or the old host",
            (|cost| cost.address) as fn(&Cost) -> f64,
        ),
        ("pause between forwards", |cost| cost.forwards),
        ("pause at a subscriber by the address", |cost| cost.subscriber),
    ] {
        let (p50, max) = p50_and_max(costs.iter().map(pause).collect());
        println!("{what}: p50 {p50:.2} s, max {max:.2} s");
    }
    for (switch, cost) in SWITCHES.iter().zip(&costs) {
        assert!(cost.forwards < cost.address + AFTER_ADDRESS, "{switch:?}: {cost}");
    }
    for (switch, repeats) in SWITCHES.iter().zip(repeats) {
        assert!(repeats <= IN_FLIGHT, "{switch:?}: {repeats} repeats\n{}", pair.said());
    }
}

impl Switch {
    fn take_from(self, pair: &mut Pair, holder: usize) {
        let bunny = &mut pair.bunnies[holder];
        match self {
            Switch::KeepalivedStopped => bunny.keepalived.stop(),
            Switch::KeepalivedKilled => bunny.keepalived.kill(),
            Switch::KeepalivedKilledWhole => bunny.keepalived.kill_all_and_start(),
            // The check fails; the dispatcher's connections live on.
            Switch::ListenersClosed => drop(bunny.node.ctl(&["suspend_listeners"])),
            Switch::NodeKilled => bunny.node.kill(),
        }
    }

    /// Makes the old holder able again, while the other works.
    fn give_back(self, pair: &mut Pair, old: usize) {
        let bunny = &mut pair.bunnies[old];
        match self {
            Switch::KeepalivedStopped | Switch::KeepalivedKilled => bunny.keepalived.start(),
            Switch::KeepalivedKilledWhole => {}
            Switch::ListenersClosed => drop(bunny.node.ctl(&["resume_listeners"])),
            Switch::NodeKilled => bunny.node.start(),
        }
    }
}

impl std::fmt::Display for Cost {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Cost {
            address,
            forwards,
            subscriber,
        } = self;
        write!(
            out,
            "address over after {address:.2} s, no forward for {forwards:.2} s, nothing at the subscriber for {subscriber:.2} s"
        )
    }
}
