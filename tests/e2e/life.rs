//! The life of a unit: start, status, reload, stop, revive; who may run it, and what it finishes first.

use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{Answer, Feed, ProductServer, TestBroker, TestSite, v02};

const UNIT: &str = "rx/pull";

struct World {
    feed: Feed,
    server: ProductServer,
    site: TestSite,
    /// Its virtual host lasts as long as the test.
    _broker: TestBroker,
}

fn world(name: &str, options: &str) -> World {
    let broker = TestBroker::new(name);
    let feed = Feed::new(&broker.config());
    feed.queue("pull", &["v02.post.#"]);
    let site = TestSite::new(&broker);
    site.puller(UNIT, options);
    World {
        feed,
        server: ProductServer::start(),
        site,
        _broker: broker,
    }
}

impl World {
    fn announce(&self, path: &str, answer: Answer) {
        let bytes = match &answer {
            Answer::Bytes(bytes) | Answer::Held(bytes) | Answer::Cut(bytes) => bytes.clone(),
            Answer::Status(..) => Vec::new(),
        };
        self.server.answer(path, answer);
        self.feed.announce(v02(&self.server.url(), path, &bytes));
    }

    fn pid(&self) -> u32 {
        let status = self.site.status(UNIT).unwrap_or_default();
        status["pid"].as_u64().unwrap_or(0) as u32
    }
}

fn kill(pid: u32) {
    let pid = Pid::from_raw(pid as i32).expect("a pid");
    kill_process(pid, Signal::KILL).expect("kill");
}

#[test]
fn a_unit_is_started_shown_stopped_and_revived() {
    let World { site, server, feed, .. } = &world("life", "");
    // Nothing runs: 3, and a unit that does not exist: 1.
    site.px_ends(3, &["status"]);
    site.px_ends(3, &["stop", UNIT]);
    site.px_ends(3, &["reload", UNIT]);
    site.px_ends(1, &["start", "rx/unknown"]);
    site.px_ends(2, &["start", "--unknown"]);
    assert_eq!(
        site.px_ends(0, &["revive"]).out,
        "",
        "what was never started is not revived"
    );

    let said = site.px_ends(0, &["start", UNIT]);
    assert!(said.out.contains("rx/pull has been started (pid "), "{said:?}");
    let status = site.status(UNIT).expect("a status");
    assert_eq!(
        (&status["ready"], &status["state"]),
        (&true.into(), &"running".into()),
        "{status:#}"
    );
    let first = status["pid"].as_u64().expect("a pid") as u32;
    // By its short name too, and a second start is refused kindly; a second run is refused.
    let said = site.px_ends(0, &["start", "pull"]);
    assert!(said.out.contains("already running (pid "), "{said:?}");
    let said = site.px_ends(1, &["run", UNIT]);
    assert!(said.err.contains("already running"), "{said:?}");
    let said = site.px_ends(0, &["status"]);
    assert!(said.out.contains("rx/pull  running (pid "), "{said:?}");
    let said = site.px_ends(0, &["status", "--json"]);
    let rows: serde_json::Value = serde_json::from_str(&said.out).expect("JSON");
    assert_eq!(
        (&rows[0]["unit"], &rows[0]["running"], &rows[0]["pid"]),
        (&UNIT.into(), &true.into(), &first.into())
    );

    // Its log is a file, and it works.
    server.serve("a/file", b"file");
    feed.announce(v02(&server.url(), "a/file", b"file"));
    site.wait_count(UNIT, "fetched", 1);
    let log = std::fs::read_to_string(site.path("log/rx_pull.log")).expect("log");
    assert!(log.contains("(4 Bytes) Fetched file  from 127.0.0.1"), "{log}");

    // Killed, it is seen to have died, and revived once.
    kill(first);
    site.wait_that("it is seen to have died", || {
        site.px(&["status"]).out.contains("rx/pull  died")
    });
    site.px_ends(3, &["status"]);
    let said = site.px_ends(0, &["revive"]);
    assert!(said.out.contains("has died and is started again"), "{said:?}");
    assert_eq!(site.px_ends(0, &["revive"]).out, "");
    let second = site.status(UNIT).expect("a status")["pid"].as_u64().expect("a pid") as u32;
    assert_ne!(first, second);

    let said = site.px_ends(0, &["restart", UNIT]);
    assert!(said.out.contains("has been started"), "{said:?}");
    let said = site.px_ends(0, &["stop", UNIT]);
    assert!(said.out.contains("has been stopped"), "{said:?}");
    assert_eq!(site.state(UNIT), "stopped");
    // What was stopped is not revived.
    assert_eq!(site.px_ends(0, &["revive"]).out, "");
    site.px_ends(3, &["status", UNIT]);
}

#[test]
fn a_unit_that_cannot_start_says_why_and_is_not_revived() {
    let World { site, .. } = &world("nostart", "");
    site.puller(UNIT, "prefetch = 0\nworkes = 2\n");
    let said = site.px_ends(1, &["start", UNIT]);
    assert!(
        said.err.contains("prefetch = 0") && said.err.contains("did you mean"),
        "{said:?}"
    );
    assert!(said.err.contains("rx/pull.toml:"), "{said:?}");
    assert_eq!(site.px_ends(0, &["revive"]).out, "");
    site.px_ends(1, &["check"]);
}

#[test]
fn a_unit_whose_broker_is_away_starts_and_says_that_it_waits() {
    let site = TestSite::at(&format!("amqp://u:p@127.0.0.1:{}/", crate::support::free_port()));
    site.puller(UNIT, "");
    let said = site.px_ends(0, &["start", UNIT]);
    assert!(
        said.out.contains("is not ready yet") && said.out.contains("refused"),
        "{said:?}"
    );
    let said = site.px_ends(0, &["status"]);
    assert!(said.out.contains("  waiting for broker main since 2"), "{said:?}");
    assert!(site.state(UNIT).starts_with("waiting for broker main since 2"));
    site.px_ends(0, &["stop", UNIT]);
}

#[test]
fn a_stop_finishes_what_is_in_hand() {
    let World { site, server, feed, .. } = &world("finish", "");
    let bytes = vec![b'x'; 300_000];
    let mut unit = site.run_ready(UNIT);
    server.answer("a/slow", Answer::Held(bytes.clone()));
    feed.announce(v02(&server.url(), "a/slow", &bytes));
    site.wait_that("it is asked for", || server.hits("a/slow").len() == 1);
    unit.signal(Signal::TERM);
    site.wait_that("it is stopping", || {
        site.said(UNIT).contains("stopping: what is in hand")
    });
    // It takes nothing new meanwhile.
    feed.announce(v02(&server.url(), "a/next", b"next"));
    server.release();
    assert!(unit.wait_end().success(), "{}", site.logs());
    assert_eq!(site.arrived("slow"), Some(bytes));
    assert_eq!(site.state(UNIT), "stopped");
    site.wait_that("it waits for another one", || feed.depth("pull") == Some(1));
    assert!(server.hits("a/next").is_empty());
}

/// A second SIGTERM does not wait for the deadline: the delivery goes back and is done by the next process.
#[test]
fn a_second_sigterm_lets_go_and_nothing_is_lost() {
    let world = world("letgo", "");
    let mut unit = world.site.run_ready(UNIT);
    let bytes = vec![b'x'; 300_000];
    world.announce("a/slow", Answer::Held(bytes.clone()));
    world
        .site
        .wait_that("it is asked for", || world.server.hits("a/slow").len() == 1);
    unit.signal(Signal::TERM);
    world.site.wait_that("it is stopping", || {
        world.site.said(UNIT).contains("stopping: what is in hand")
    });
    unit.signal(Signal::TERM);
    assert!(unit.wait_end().success());
    assert!(world.site.arrived("slow").is_none());
    world
        .site
        .wait_that("the delivery is back", || world.feed.depth("pull") == Some(1));
    world.server.release();
    let _unit = world.site.run_ready(UNIT);
    world.site.wait_that("it has arrived", || {
        world.site.arrived("slow").as_deref() == Some(&bytes[..])
    });
    // What the first one had written is swept.
    assert_eq!(world.site.names(), ["slow"]);
}

/// The end of a unit is not lost in its reload, and as ever the first SIGTERM lets it finish.
#[test]
fn told_to_end_while_it_reloads_a_unit_ends() {
    let World { site, server, feed, .. } = &world("reloadend", "");
    let bytes = vec![b'x'; 300_000];
    let mut unit = site.run_ready(UNIT);
    server.answer("a/slow", Answer::Held(bytes.clone()));
    feed.announce(v02(&server.url(), "a/slow", &bytes));
    site.wait_that("it is asked for", || server.hits("a/slow").len() == 1);
    unit.signal(Signal::HUP);
    feed.announce(v02(&server.url(), "a/next", b"next"));
    site.wait_that("the consumer is gone", || feed.depth("pull") == Some(1));
    unit.signal(Signal::TERM);
    server.release();
    assert!(unit.wait_end().success(), "{}", site.logs());
    assert_eq!(site.arrived("slow"), Some(bytes));
    assert_eq!(site.state(UNIT), "stopped");
}

#[test]
fn a_reload_takes_the_new_configuration_and_keeps_the_old_one_where_it_is_bad() {
    let world = world("reload", "");
    let (site, server, feed) = (&world.site, &world.server, &world.feed);
    site.px_ends(0, &["start", UNIT]);
    let pid = world.pid();
    world.announce("a/one", Answer::Bytes(b"one".to_vec()));
    site.wait_that("one has arrived", || site.arrived("one").is_some());

    site.puller(UNIT, "mirror = true\nprefetch = -1\n");
    let said = site.px_ends(1, &["reload", UNIT]);
    assert!(
        said.err.contains("prefetch") && said.err.contains("configuration in force stays"),
        "{said:?}"
    );
    // The signal itself, as systemd sends it, is refused in the log.
    kill_process(Pid::from_raw(pid as i32).expect("a pid"), Signal::HUP).expect("HUP");
    site.wait_that("the log says so", || site.logs().contains("not reloaded"));
    world.announce("a/two", Answer::Bytes(b"two".to_vec()));
    site.wait_that("two has arrived", || site.arrived("two").is_some());

    site.puller(UNIT, "mirror = true\nlog = { level = \"error\" }\n");
    site.px_ends(0, &["reload", UNIT]);
    site.wait_that("it is reloaded", || site.logs().contains("has been reloaded"));
    server.serve("a/three", b"three");
    feed.announce(v02(&server.url(), "a/three", b"three"));
    site.wait_that("three has arrived, mirrored", || site.arrived("a/three").is_some());
    assert_eq!(world.pid(), pid);
    site.wait_count(UNIT, "fetched", 3);
    assert!(
        site.logs().contains("Fetched two") && !site.logs().contains("Fetched three"),
        "the level is the new one"
    );
    site.px_ends(0, &["stop", UNIT]);
}

/// A unit that does not end in time is killed; its delivery comes again.
#[test]
fn a_frozen_unit_is_killed_by_stop() {
    let world = world("frozen", "");
    let site = &world.site;
    site.px_ends(0, &["start", UNIT]);
    let pid = Pid::from_raw(world.pid() as i32).expect("a pid");
    kill_process(pid, Signal::STOP).expect("STOP");
    let begun = std::time::Instant::now();
    let said = site.px_ends(0, &["stop", UNIT]);
    assert!(said.err.contains("is killed"), "{said:?}");
    assert!(begun.elapsed() < Duration::from_secs(40));
    let said = site.px_ends(3, &["status", UNIT]);
    assert!(said.out.ends_with("  stopped\n"), "{said:?}");
    // To a watchdog it would tell that the unit is to run.
    assert!(
        !site
            .path(&format!("rxq/{}/.lock", UNIT.trim_start_matches("rx/")))
            .exists()
    );
}
