//! The two hosts, each with its node of the cluster, its keepalived and its dispatcher.

use std::collections::HashMap;
use std::process::Command;
use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde_json::Value;

use crate::client::Client;
use crate::hosts::{self, BUNNIES, VIP};
use crate::keepalived::Keepalived;
use crate::node::Node;
use crate::support::{Process, TestSite, rabbitmq_mirrors, recipe, recipe_with};

pub const UNIT: &str = "dispatch/urp";
/// The unit's, in the document.
pub const QUEUE: &str = "cmc.dd_dispatcher.urp";
/// Where the record of all forwards gathers; read at the end only, so that nothing of our own is taken for a repeat.
pub const RECORD: &str = "cmc.out";
/// Where the subscriber sees them come.
pub const LIVE: &str = "cmc.live";
/// For what includes two nodes and elections.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// One of the two.
pub struct Bunny {
    pub host: &'static str,
    pub node: Node,
    pub keepalived: Keepalived,
    pub site: TestSite,
    unit: Process,
}

/// Both, and who talks to them.
pub struct Pair {
    pub bunnies: [Bunny; 2],
    /// Where nothing mirrors: quorum queues want a third node, which has no dispatcher and never the address.
    _third: Option<Node>,
    pub client: Client,
}

impl Pair {
    /// The network, the cluster (these lines in each `rabbitmq.conf`), the dispatchers, and at last the address.
    pub fn up(conf: &str) -> Pair {
        hosts::hosts_up();
        let mut nodes = BUNNIES.map(|host| Node::new(host, conf));
        for node in &mut nodes {
            node.start();
        }
        let third = match rabbitmq_mirrors() {
            true => {
                let policy = r#"{"pattern": "^cmc\\.", "apply-to": "queues",
                    "definition": {"ha-mode": "all", "ha-sync-mode": "automatic"}}"#;
                let reply = nodes[0].api("PUT", "/api/policies/%2F/ha-all", Some(policy));
                assert!(reply.is_some(), "the policy");
                None
            }
            false => {
                let mut third = Node::new(hosts::CLIENT, conf);
                third.start();
                Some(third)
            }
        };
        let client = Client::new();
        for queue in [RECORD, LIVE] {
            client.queue(queue, "v00.urp.notify.#");
        }
        let mut hosts = BUNNIES.into_iter();
        let bunnies = nodes.map(|node| Bunny::new(hosts.next().expect("a host for each"), node));
        let mut pair = Pair {
            bunnies,
            _third: third,
            client,
        };
        // One after the other: of two that begin at once both may take the address for a moment.
        pair.bunnies[0].keepalived.start();
        pair.wait("the first has the address, and works", |pair| {
            pair.holders() == [0] && pair.bunnies[0].site.state(UNIT) == "running"
        });
        pair.bunnies[1].keepalived.start();
        pair
    }

    /// Who has the address.
    pub fn holders(&self) -> Vec<usize> {
        (0..2)
            .filter(|&index| hosts::has_vip(self.bunnies[index].host))
            .collect()
    }

    #[track_caller]
    pub fn holder(&self) -> usize {
        let holders = self.holders();
        assert_eq!(holders.len(), 1, "{holders:?}");
        holders[0]
    }

    /// Waits for a condition; says what everybody has said when it does not come.
    #[track_caller]
    pub fn wait(&self, what: &str, condition: impl Fn(&Pair) -> bool) {
        let end = std::time::Instant::now() + PATIENCE;
        while !condition(self) {
            assert!(
                std::time::Instant::now() < end,
                "not within {PATIENCE:?}: {what}\n{}",
                self.said()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The cluster is one again, and each queue is on both nodes.
    pub fn is_whole(&self) -> bool {
        self.bunnies.iter().all(|bunny| bunny.is_member() == Some(true))
    }

    /// When a forward was done, on either host, in order.
    pub fn forwards(&self) -> Vec<Timestamp> {
        let mut times: Vec<Timestamp> = self.bunnies.iter().flat_map(Bunny::forwards).collect();
        times.sort();
        times
    }

    /// Ends the dispatchers when the queue is empty, and empties the record: how often each key was forwarded.
    pub fn record(&mut self) -> HashMap<String, usize> {
        self.wait("the dispatcher's queue is empty", |pair| pair.client.depth(QUEUE) == 0);
        for bunny in &mut self.bunnies {
            assert!(bunny.unit.terminate().success(), "{}", bunny.site.logs());
        }
        // An orderly stop gives back what was not settled: nothing.
        assert_eq!(self.client.depth(QUEUE), 0);
        self.client.empty(RECORD)
    }

    /// What units and keepalived have said, without product lines.
    pub fn said(&self) -> String {
        let texts = self.bunnies.iter().map(|bunny| {
            let state = bunny.site.state(UNIT);
            let vip = hosts::has_vip(bunny.host);
            let keepalived = bunny.keepalived.said();
            let logs = bunny.site.said(UNIT);
            let lines: Vec<&str> = logs.lines().filter(|line| !line.contains(" Forwarded ")).collect();
            format!(
                "=== {}: {state}, address {vip}\n{}\n{keepalived}",
                bunny.host,
                lines.join("\n")
            )
        });
        texts.collect()
    }
}

impl Bunny {
    fn new(host: &'static str, node: Node) -> Bunny {
        let site = TestSite::with_site_file(&recipe_with(
            "/etc/px/px.toml: on each of the two brokers",
            &[("feeder@", "admin:admin@")],
        ));
        let mut unit = recipe("/etc/px/dispatch/urp.toml: by the address");
        if !rabbitmq_mirrors() {
            unit += "queue_type = \"quorum\"\n";
        }
        assert!(unit.contains(VIP) && unit.contains(QUEUE), "{unit}");
        site.unit(UNIT, &unit);
        let unit = site.run_as(UNIT, &hosts::on(host), &[]);
        site.wait_ready(UNIT, unit.pid());
        let keepalived = Keepalived::new(host, site.root());
        Bunny {
            host,
            node,
            keepalived,
            site,
            unit,
        }
    }

    /// `None` while its node does not answer.
    fn is_member(&self) -> Option<bool> {
        let nodes = self.node.api("GET", "/api/nodes", None)?.json();
        let is_one = nodes.as_array()?.iter().all(|node| {
            let partitions = node["partitions"].as_array().is_none_or(Vec::is_empty);
            node["running"] == Value::Bool(true) && partitions
        });
        let queues = self.node.api("GET", "/api/queues/%2F", None)?.json();
        // Not what one process holds for itself alone: that lives with its connection.
        let is_on_all = [QUEUE, RECORD, LIVE].iter().all(|name| {
            let queue = queues
                .as_array()
                .and_then(|all| all.iter().find(|queue| queue["name"] == *name));
            let (others, count) = match rabbitmq_mirrors() {
                true => ("synchronised_slave_nodes", 1),
                false => ("online", 3),
            };
            let others = queue.and_then(|queue| queue[others].as_array());
            others.is_some_and(|others| others.len() == count)
        });
        Some(is_one && is_on_all)
    }

    /// The times of its unit's product lines.
    fn forwards(&self) -> Vec<Timestamp> {
        let said = self.site.said(UNIT);
        let lines = said.lines().filter(|line| line.contains(" Forwarded "));
        let times = lines.map(|line| {
            let time = DateTime::strptime("%Y-%m-%d %H:%M:%S,%f", &line[..23]).expect(line);
            time.to_zoned(TimeZone::system()).expect(line).timestamp()
        });
        times.collect()
    }
}

/// Fails, with the word that helps, where this machine cannot run these tests.
pub fn assert_can_run() {
    let mut unshare = Command::new("unshare");
    let output = unshare
        .args(["-nm", "--fork", "--pid", "--mount-proc", "true"])
        .output()
        .expect("util-linux");
    assert!(
        output.status.success(),
        "the cluster's hosts are network namespaces: this test needs root (CAP_SYS_ADMIN, CAP_NET_ADMIN): {}",
        String::from_utf8_lossy(&output.stderr)
    );
    for (program, package) in [
        ("/usr/sbin/keepalived", "keepalived"),
        ("/usr/lib/rabbitmq/bin/rabbitmq-server", "rabbitmq-server"),
    ] {
        assert!(
            std::path::Path::new(program).exists(),
            "{program} is missing: run scripts/test, or apt-get install --no-install-recommends {package}"
        );
    }
}
