//! The whole chain: two producers watch their trees, a dispatcher lets the first of each through, two workers fetch.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::support::{Feed, Process, ProductServer, RabbitServer, TestBroker, TestSite};

const PRODUCTS: usize = 1000;
const PRODUCERS: [&str; 2] = ["watch/urp1", "watch/urp2"];
const DISPATCHER: &str = "dispatch/urp";
const WORKERS: [&str; 2] = ["rx/pull1", "rx/pull2"];
const LONG: Duration = Duration::from_secs(120);

struct Chain {
    site: TestSite,
    servers: [ProductServer; 2],
}

impl Chain {
    fn new(broker: &TestBroker) -> Chain {
        let site = TestSite::new(broker);
        let servers = [ProductServer::start(), ProductServer::start()];
        for (n, unit) in PRODUCERS.iter().enumerate() {
            std::fs::create_dir_all(site.path(&format!("tree{n}"))).expect("tree");
            site.unit(
                unit,
                &format!(
                    "broker = \"main\"\nannounce = [{{ format = \"v00\", key = \"v00.urp.input\", digest = \"name\" }}]\n\
                     [[tree]]\npath = \"{{root}}/tree{n}\"\nurl = \"{}\"\n",
                    servers[n].url()
                ),
            );
        }
        site.unit(
            DISPATCHER,
            "broker = \"main\"\nqueue = \"in\"\nbind = [\"v00.urp.input.#\"]\n\
             rekey = { from = \"v00.urp.input\", to = \"v00.urp.notify\" }\nseen = { by = \"identity\" }\n",
        );
        for unit in WORKERS {
            site.unit(
                unit,
                "type = \"pull\"\nbroker = \"main\"\nqueue = \"pull\"\nbind = [\"v00.urp.notify.#\"]\n\
                 directory = \"{root}/data\"\nalternates = { bind = [\"v00.urp.input.#\"] }\n",
            );
        }
        Chain { site, servers }
    }

    fn units() -> impl Iterator<Item = &'static str> {
        WORKERS.into_iter().chain([DISPATCHER]).chain(PRODUCERS)
    }

    /// Starts everything, whoever reads before whoever writes, so that no announcement finds no queue.
    fn run(&self) -> BTreeMap<&'static str, Process> {
        let running = Self::units().map(|unit| (unit, self.site.run_ready(unit))).collect();
        for unit in WORKERS {
            self.site.wait(unit, "reads along", |status| {
                status["links"]["follow"]["connected"] == true
            });
        }
        running
    }

    /// One product in both trees, and on both servers first.
    fn write(&self, n: usize) {
        let (name, body) = (name(n), body(n));
        for (tree, server) in self.servers.iter().enumerate() {
            server.serve(&name, &body);
            self.site.write(&format!("tree{tree}/{name}"), &body);
        }
    }

    fn sum(&self, units: &[&str], count: &str) -> u64 {
        units.iter().map(|unit| self.site.count(unit, count)).sum()
    }

    #[track_caller]
    fn assert_all_arrived(&self) {
        self.site.wait_that_for(LONG, "every product has arrived", || {
            let names = self.site.names();
            names.iter().filter(|name| !name.ends_with(".tmp")).count() >= PRODUCTS
        });
        for n in 0..PRODUCTS {
            assert_eq!(self.site.arrived(&name(n)), Some(body(n)), "{}", name(n));
        }
        for unit in WORKERS.iter().chain(&[DISPATCHER]) {
            assert!(self.site.failed(unit).is_empty(), "{:#?}", self.site.failed(unit));
        }
    }
}

fn name(n: usize) -> String {
    format!("20261121{n:06}~~X,60,10,PRECIPET,MM_HR,MM:URP:XAM:RADAR:META::20261121")
}

/// From nothing to some kilobytes.
fn body(n: usize) -> Vec<u8> {
    format!("product {n}\n").into_bytes().repeat(n % 300)
}

#[test]
fn two_producers_a_dispatcher_and_two_workers_bring_each_product_once() {
    let broker = TestBroker::new("chain");
    let chain = Chain::new(&broker);
    let running = chain.run();
    for n in 0..PRODUCTS {
        chain.write(n);
    }
    chain.assert_all_arrived();
    let site = &chain.site;
    site.wait(DISPATCHER, "has judged all", |status| {
        status["counts"]["forwarded"].as_u64().unwrap_or(0) + status["counts"]["ignored"].as_u64().unwrap_or(0)
            >= 2 * PRODUCTS as u64
    });
    site.wait_that("the counts are told", || {
        chain.sum(&WORKERS, "fetched") >= PRODUCTS as u64
    });
    for unit in PRODUCERS {
        assert_eq!(site.count(unit, "announced"), PRODUCTS as u64, "{unit}");
    }
    assert_eq!(site.count(DISPATCHER, "forwarded"), PRODUCTS as u64);
    assert_eq!(site.count(DISPATCHER, "ignored"), PRODUCTS as u64);
    assert_eq!(chain.sum(&WORKERS, "fetched"), PRODUCTS as u64);
    // They take turns.
    for unit in WORKERS {
        assert!(site.count(unit, "fetched") > 0, "{unit}");
    }
    assert_eq!(site.names().len(), PRODUCTS);
    drop(running);
}

/// Every component is killed in turn, twice, and the broker in the middle, while products are written.
#[test]
fn with_every_component_killed_in_turn_and_the_broker_too_nothing_is_lost() {
    let mut node = RabbitServer::start();
    let broker = TestBroker::on(&node, "chain-kill");
    let chain = Chain::new(&broker);
    let site = &chain.site;
    let mut running = chain.run();
    node.flush_definitions();
    let turns: Vec<&str> = Chain::units().chain(Chain::units()).collect();
    let batch = PRODUCTS / (turns.len() + 1);
    let mut written = 0;
    let mut write = |until: usize| {
        while written < until {
            chain.write(written);
            written += 1;
        }
    };
    for (turn, unit) in turns.iter().enumerate() {
        write((turn + 1) * batch);
        // In the middle of the work: at least as many as were written two turns ago are through.
        let through = turn.saturating_sub(1) * batch;
        site.wait_that_for(LONG, "products come through", || site.names().len() >= through);
        if turn == turns.len() / 2 {
            node.kill();
            write((turn + 1) * batch + batch / 2);
            node.start_again();
        }
        let process = running.get_mut(unit).expect("it runs");
        process.kill();
        *process = site.run(unit);
    }
    write(PRODUCTS);
    chain.assert_all_arrived();
    let feed = Feed::new(&broker.config());
    site.wait_that("nothing is left on the way", || {
        ["in", "pull", "pull.retry.5s", "pull.retry.1m"]
            .iter()
            .all(|queue| feed.depth(queue).unwrap_or(0) == 0)
    });
    for (unit, process) in &mut running {
        process.assert_runs();
        site.wait_state(unit, "running");
    }
}

/// Of every unit, connected and with nothing to do: what it keeps in memory for itself.
#[test]
fn an_idle_unit_is_small() {
    const LIMIT_KIB: u64 = 15 << 10;
    let broker = TestBroker::new("idle");
    let chain = Chain::new(&broker);
    for (unit, process) in chain.run() {
        let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid())).expect("status");
        let line = status
            .lines()
            .find(|line| line.starts_with("RssAnon:"))
            .expect("RssAnon");
        let kib: u64 = line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("kB");
        assert!((100..LIMIT_KIB).contains(&kib), "{unit}: {line}");
    }
}
