//! Two hosts, a cluster of two nodes, an address that keepalived moves, a dispatcher on each: what the document for
//! brokers recommends, for real, and the faults it is made for. The hosts are network namespaces, all inside namespaces
//! of one process: whatever ends it ends everything. `scripts/test` runs these tests alone, after all others.

mod client;
mod hosts;
mod keepalived;
mod moves;
mod node;
mod pair;
mod pauses;
#[allow(dead_code)]
#[path = "../transfer_suite/private.rs"]
mod private;
mod products;
mod split;
#[path = "../support/mod.rs"]
mod support;

/// A test starts itself again below this. It dies with the test, and all its processes die with it.
const ALONE: [&str; 9] = [
    "setpriv",
    "--pdeathsig",
    "KILL",
    "unshare",
    "-nm",
    "--fork",
    "--pid",
    "--mount-proc",
    "--kill-child",
];
