//! A cable dies without a word: for a while both hosts have the address, and each node believes that the other is gone.

use crate::pair::{LIVE, PATIENCE, Pair, UNIT};
use crate::private::is_private;
use crate::products::{announced_by, forwarded_key};
use crate::support::{rabbitmq_mirrors, recipe};
use crate::{ALONE, hosts, pair};

const PRODUCTS: usize = 4500;
const BEHIND: usize = 600;

/// With `autoheal`, for two nodes: `pause_minority` stops both, `ignore` waits for a person. The side with more clients
/// stays, and here that is where all but one dispatcher are; what it has confirmed is there afterwards, each of it. What
/// clients on the other side had confirmed in that time would be gone.
#[test]
fn when_both_hosts_hold_the_address_nothing_of_the_side_with_the_clients_is_lost() {
    pair::assert_can_run();
    let test = "split::when_both_hosts_hold_the_address_nothing_of_the_side_with_the_clients_is_lost";
    if !is_private(test, &ALONE, &[("TMPDIR", "/run")]) {
        return;
    }
    let mut pair = Pair::up(&recipe("/etc/rabbitmq/rabbitmq.conf: both nodes of a cluster of two"));
    let [first, second] = ["urp-1", "urp-2"].map(|source| announced_by(source, PRODUCTS));
    let wanted: Vec<String> = first.iter().map(forwarded_key).collect();
    let producers = [first, second].map(|announcements| pair.client.producer(announcements));
    let subscriber = pair.client.subscriber(LIVE);
    let allow = |count: usize| {
        producers[0].allow(count);
        producers[1].allow(count - BEHIND);
    };

    allow(PRODUCTS * 2 / 3);
    subscriber.wait_for(PRODUCTS / 3, PATIENCE);
    let old = pair.holder();
    hosts::cut(pair.bunnies[old].host);
    pair.wait("both hosts hold the address", |pair| pair.holders() == [0, 1]);
    // Where queues are mirrored; the quorum queues of a node alone stand still.
    if rabbitmq_mirrors() {
        pair.wait("both dispatchers work", |pair| {
            pair.bunnies.iter().all(|bunny| bunny.site.state(UNIT) == "running")
        });
    }
    // On the side of the clients it goes on, once its node has given up the other.
    subscriber.wait_for(PRODUCTS * 2 / 3, PATIENCE);

    hosts::heal(pair.bunnies[old].host);
    pair.wait("one host has the address, one dispatcher works", |pair| {
        let works = |index: usize| pair.bunnies[index].site.state(UNIT) == "running";
        matches!(pair.holders()[..], [holder] if works(holder) && !works(1 - holder))
    });
    pair.wait("the cluster is whole", Pair::is_whole);
    allow(PRODUCTS);
    subscriber.wait_for(PRODUCTS, PATIENCE);
    producers[1].allow(PRODUCTS);
    producers[1].wait_for(PRODUCTS, PATIENCE);

    let copies = pair.record();
    let missing = wanted.iter().filter(|key| !copies.contains_key(*key)).count();
    assert_eq!(missing, 0, "products that were announced and not forwarded");
    assert_eq!(copies.len(), PRODUCTS, "nothing else is forwarded");
    let repeats: usize = copies.values().map(|count| count - 1).sum();
    println!("{repeats} of {PRODUCTS} products forwarded again around a split");
}
