//! Dispatchers on one queue of which the broker chooses one.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::dispatcher::{PREFETCH, SOURCES, UNIT, dispatcher, from_both, urp};
use crate::support::{Feed, Process, SOON, TestBroker, TestSite};

/// Dispatchers that follow, on hosts of their own.
fn elected<const N: usize>(broker: &TestBroker) -> (Feed, [TestSite; N], [Process; N]) {
    let feed = Feed::new(&broker.config());
    feed.queue("out", &["v00.urp.notify.#"]);
    let sites = [(); N].map(|()| TestSite::new(broker));
    for site in &sites {
        dispatcher_unit(site, "");
    }
    let units = sites.each_ref().map(|site| site.run_ready(UNIT));
    sites.iter().for_each(wait_follows);
    (feed, sites, units)
}

fn dispatcher_unit(site: &TestSite, more: &str) {
    let unit = format!(
        "broker = \"main\"\nqueue = \"in\"\nbind = [\"v00.urp.input.#\"]\nseen = {{ by = \"identity\" }}\n\
         rekey = {{ from = \"v00.urp.input\", to = \"v00.urp.notify\" }}\nelection = \"broker\"\n{more}"
    );
    site.unit(UNIT, &unit);
}

fn wait_follows(site: &TestSite) {
    site.wait(UNIT, "follows", |status| status["links"]["follow"]["connected"] == true);
}

fn is_active(site: &TestSite) -> bool {
    site.status(UNIT).is_some_and(|status| status["role"]["active"] == true)
}

/// Without any message: one that has the queue to itself works, the second stands by, and works when the first has
/// gone.
#[test]
fn who_has_the_queue_to_itself_is_the_chosen_one() {
    let broker = TestBroker::new("election-alone");
    let (_feed, sites, [mut first, _second]) = elected::<2>(&broker);
    sites[0].wait(UNIT, "works", |status| status["role"]["active"] == true);
    let said = sites[0].px(&["status"]).out;
    assert!(
        said.contains("running (pid ") && said.contains("active since"),
        "{said}"
    );
    let said = sites[1].px(&["status"]).out;
    assert!(
        said.contains("standby (pid ") && said.contains("or the queue is empty"),
        "{said}"
    );
    assert!(first.terminate().success());
    sites[1].wait(UNIT, "works now", |status| status["role"]["active"] == true);
}

/// RabbitMQ counts only one consumer of a quorum queue, whoever waits: nobody takes itself for chosen without a delivery.
#[test]
fn the_second_on_a_quorum_queue_stands_by() {
    let broker = TestBroker::new("election-quorum");
    let feed = Feed::new(&broker.config());
    feed.queue("out", &["v00.urp.notify.#"]);
    let sites = [TestSite::new(&broker), TestSite::new(&broker)];
    for site in &sites {
        dispatcher_unit(site, "queue_type = \"quorum\"\n");
    }
    let [mut first, _second] = sites.each_ref().map(|site| {
        let unit = site.run_ready(UNIT);
        wait_follows(site);
        unit
    });
    assert!(!sites.iter().any(is_active), "nothing has come yet");
    feed.announce_all((0..50).map(|n| urp(SOURCES[0], n)));
    sites[0].wait(UNIT, "works", |status| status["role"]["active"] == true);
    sites[1].wait_count(UNIT, "learned", 50);
    assert!(!is_active(&sites[1]));
    assert!(first.terminate().success());
    feed.announce_all((0..60).map(|n| urp(SOURCES[1], n)));
    sites[1].wait(UNIT, "works now", |status| status["role"]["active"] == true);
    sites[1].wait_count(UNIT, "forwarded", 10);
    assert_eq!(feed.depth("out"), Some(60), "nothing is forwarded twice");
}

/// Hosts that cannot be told apart, as clones are, would each get a part of what is meant for both.
#[test]
fn a_follow_queue_that_somebody_else_consumes_is_not_shared_and_that_is_said() {
    let broker = TestBroker::new("election-clone");
    let (feed, [site], [mut unit]) = elected::<1>(&broker);
    let queues = broker.api("GET", &format!("/api/queues/{}", broker.vhost), None).json();
    let names = queues
        .as_array()
        .expect("queues")
        .iter()
        .filter_map(|queue| queue["name"].as_str());
    let follow: Vec<&str> = names.filter(|name| name.starts_with("in.follow.")).collect();
    assert_eq!(follow.len(), 1, "{follow:?}");
    assert!(unit.terminate().success());

    let clone = feed.reader(follow[0]);
    let _unit = site.run_ready(UNIT);
    site.wait(UNIT, "says why it does not follow", |status| {
        let error = status["links"]["follow"]["error"].as_str().unwrap_or_default();
        error.contains(follow[0]) && error.contains("has another consumer") && error.contains("/etc/machine-id")
    });
    // It works all the same.
    feed.announce_all((0..50).map(|n| urp(SOURCES[0], n)));
    site.wait_count(UNIT, "forwarded", 50);
    let follow_link = || site.status(UNIT).unwrap_or_default()["links"]["follow"].clone();
    let said = follow_link();
    assert_eq!(said["connected"], false, "{said}");
    // With new connections it would be gone at times, longer than this.
    let until = Instant::now() + Duration::from_secs(5);
    while Instant::now() < until {
        assert_eq!(follow_link(), said);
        std::thread::sleep(Duration::from_millis(100));
    }
    drop(clone);
    site.wait_that("it reads what has gathered", || {
        let status = site.status(UNIT).unwrap_or_default();
        status["links"]["follow"]["connected"] == true && feed.depth(follow[0]) == Some(0)
    });
}

/// The first message tells who of several is chosen; one that is reloaded or stopped makes room.
#[test]
fn whom_the_broker_has_chosen_is_told_by_the_first_message() {
    let broker = TestBroker::new("election");
    let (feed, sites, mut units) = elected::<2>(&broker);
    feed.announce_all((0..50).map(|n| urp(SOURCES[0], n)));
    sites[0].wait_that("one is chosen", || sites.iter().any(is_active));
    let first = usize::from(is_active(&sites[1]));
    let other = 1 - first;
    sites[first].wait_count(UNIT, "forwarded", 50);
    sites[other].wait_count(UNIT, "learned", 50);
    assert!(!is_active(&sites[other]));

    // A reload is a new subscription, the last in the line.
    units[first].signal(Signal::HUP);
    sites[first].wait(UNIT, "stands by", |status| status["role"]["active"] == false);
    feed.announce_all((0..60).map(|n| urp(SOURCES[1], n)));
    sites[other].wait(UNIT, "works now", |status| status["role"]["active"] == true);
    sites[other].wait_count(UNIT, "ignored", 50);
    sites[other].wait_count(UNIT, "forwarded", 10);
    sites[first].wait_count(UNIT, "learned", 10);
    assert_eq!(feed.depth("out"), Some(60), "nothing is forwarded twice");

    assert!(units[other].terminate().success());
    feed.announce_all((0..70).map(|n| urp(SOURCES[0], n)));
    sites[first].wait_count(UNIT, "ignored", 60);
    sites[first].wait_count(UNIT, "forwarded", 60);
    assert_eq!(feed.depth("out"), Some(70));
}

/// SIGKILL for whoever works, again and again: the next one goes on, and no more than was in hand is forwarded twice.
#[test]
fn of_three_the_active_one_is_killed_again_and_again_and_nothing_is_lost() {
    const KILLS: usize = 8;
    const PRODUCTS: usize = 3000;
    let broker = TestBroker::new("election-kill");
    let (feed, sites, mut units) = elected::<3>(&broker);
    let mut out = feed.reader("out");
    let mut copies: HashMap<String, usize> = HashMap::new();
    let announced = from_both(0..PRODUCTS);
    for part in announced.chunks(announced.len() / KILLS + 1) {
        feed.announce_all(part.iter().cloned());
        for _ in 0..fastrand::usize(1..part.len() / 4) {
            let envelope = out.next(SOON).expect("a forward");
            *copies.entry(envelope.key).or_default() += 1;
        }
        sites[0].wait_that("one is chosen", || sites.iter().any(is_active));
        let active = sites.iter().position(is_active).expect("the active one");
        units[active].kill();
        units[active] = sites[active].run(UNIT);
    }
    sites[0].wait_that("the queue is empty", || feed.depth("in") == Some(0));
    let copies = out.count_keys(copies, PRODUCTS);
    assert_eq!(copies.len(), PRODUCTS);
    let repeats: usize = copies.values().map(|count| count - 1).sum();
    assert!(repeats <= KILLS * PREFETCH as usize, "{repeats} repeats");
    println!("{repeats} repeats after {KILLS} kills");
}

/// A queue that was made without it cannot get it: the unit says what to do.
#[test]
fn a_queue_that_exists_for_many_consumers_is_refused() {
    let broker = TestBroker::new("election-old");
    let feed = Feed::new(&broker.config());
    let site = TestSite::new(&broker);
    dispatcher(&site, &feed, "election = \"broker\"\n");
    let _unit = site.run(UNIT);
    site.wait_state(UNIT, "paused");
    let state = site.state(UNIT);
    assert!(
        state.contains("queue in on ") && state.contains("without x-single-active-consumer"),
        "{state}"
    );
}
