//! Faults of our own: the delivery goes back, the unit pauses and says why, and goes on by itself once it can.

use std::process::Command;

use px::message::Envelope;

use crate::support::{TestSite, fill_disk, run_with_small_disk};
use crate::{UNIT, World};

#[test]
fn a_full_disk_pauses_the_unit_and_loses_nothing() {
    let world = World::new("enospc", "");
    let mut unit = run_with_small_disk(&world.site, UNIT, "data");
    let data = world.site.path("data");
    let ballast = fill_disk(&unit, &data);
    let bytes = vec![b'x'; 500_000];
    for name in ["a/one", "a/two"] {
        world.announce(name, &bytes);
    }
    world.site.wait_state(UNIT, "paused: ");
    let state = world.site.state(UNIT);
    assert!(state.contains("No space left"), "{state}");
    // Both are with the broker: nothing is parked, nothing failed.
    world
        .site
        .wait_that("both deliveries are back", || world.feed.depth("pull") == Some(2));
    assert_eq!(world.site.count(UNIT, "parked"), 0);
    unit.assert_runs();
    std::fs::remove_file(ballast).expect("remove");
    world.site.wait_count(UNIT, "fetched", 2);
    world.site.wait_state(UNIT, "running");
    for name in ["one", "two"] {
        assert_eq!(std::fs::read(unit.sees(&data).join(name)).expect(name), bytes);
    }
    assert_eq!(world.site.count(UNIT, "failed"), 0);
    assert!(world.site.failed(UNIT).is_empty());
    world.assert_broker_empty();
}

#[test]
fn a_full_disk_under_the_failed_store_pauses_and_loses_nothing() {
    let world = World::new("enospc-state", "");
    let unit = run_with_small_disk(&world.site, UNIT, "state");
    let ballast = fill_disk(&unit, &world.site.path("state"));
    world.feed.announce(Envelope {
        key: "v02.post.rubbish".into(),
        body: vec![b'x'; 100_000],
        ..Envelope::default()
    });
    world.site.wait_state(UNIT, "paused: ");
    world
        .site
        .wait_that("the delivery is back", || world.feed.depth("pull") == Some(1));
    assert_eq!(world.site.count(UNIT, "failed"), 0);
    std::fs::remove_file(ballast).expect("remove");
    world.site.wait_count(UNIT, "failed", 1);
    world.site.wait_state(UNIT, "running");
    world.assert_broker_empty();
}

fn set_descriptor_limit(pid: u32, limit: u64) {
    let (pid, limit) = (pid.to_string(), format!("{limit}:"));
    let mut set = Command::new("prlimit");
    let set = set
        .args(["--pid", &pid])
        .arg(format!("--nofile={limit}"))
        .status()
        .expect("prlimit");
    assert!(set.success());
}

/// A limit that leaves this process one more descriptor.
fn one_more_descriptor(pid: u32) -> u64 {
    let open: Vec<u64> = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .expect("descriptors")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    let mut free = (0..).filter(|number| !open.contains(number));
    free.next();
    free.next().unwrap_or(u64::MAX)
}

#[test]
fn running_out_of_descriptors_pauses_the_unit_and_loses_nothing() {
    let world = World::new("emfile", "");
    let mut unit = world.site.run_ready(UNIT);
    // A descriptor that was in use when the limit was set may have been given back since: then the next product.
    let mut last = 0;
    while !world.site.state(UNIT).starts_with("paused: ") {
        last += 1;
        assert!(last < 50, "every product finds a descriptor");
        set_descriptor_limit(unit.pid(), one_more_descriptor(unit.pid()));
        world.announce(&format!("a/file{last}"), b"file");
        world.site.wait_that("it has arrived, or the unit pauses", || {
            world.site.arrived(&format!("file{last}")).is_some() || world.site.state(UNIT).starts_with("paused: ")
        });
    }
    let state = world.site.state(UNIT);
    assert!(
        state.contains("no descriptors") || state.contains("Too many open files"),
        "{state}"
    );
    world
        .site
        .wait_that("the delivery is back", || world.feed.depth("pull") == Some(1));
    unit.assert_runs();
    assert_eq!(world.site.count(UNIT, "parked"), 0);
    set_descriptor_limit(unit.pid(), 1024);
    world.wait_arrived(&format!("file{last}"), b"file");
    world.site.wait_state(UNIT, "running");
    assert_eq!(world.site.count(UNIT, "failed"), 0);
    world.assert_broker_empty();
}

#[test]
fn a_user_without_the_right_to_read_pauses_until_it_is_given() {
    let world = World::new("norights", "");
    let user = world.broker.user("puller", "^$", "^$", "^$");
    let site = TestSite::at(&format!(
        "amqp://{}:canary-password@127.0.0.1:{}/{}",
        user.urls[0].user, user.urls[0].port, user.urls[0].vhost
    ));
    site.puller(UNIT, "");
    world.announce("a/file", b"file");
    let mut unit = site.run(UNIT);
    site.wait_state(UNIT, "paused: ");
    let state = site.state(UNIT);
    assert!(state.contains("403") || state.contains("permission"), "{state}");
    assert_eq!(world.feed.depth("pull"), Some(1));
    unit.assert_runs();
    let said = site.px_ends(0, &["status", UNIT]);
    assert!(said.out.contains("paused: "), "{said:?}");
    world.broker.permit(&user.urls[0].user, "^$", "^$", ".*");
    site.wait_that("it has arrived", || site.arrived("file").as_deref() == Some(b"file"));
    site.wait_state(UNIT, "impaired: may not bind"); // which somebody else has done
    assert_eq!(site.count(UNIT, "failed"), 0);
}

#[test]
fn a_user_that_may_not_make_the_queue_pauses_and_says_what_is_missing() {
    let world = World::new("nomake", "");
    let user = world.broker.user("puller", "^$", "^$", ".*");
    let site = TestSite::at(&format!(
        "amqp://{}:canary-password@127.0.0.1:{}/{}",
        user.urls[0].user, user.urls[0].port, user.urls[0].vhost
    ));
    site.puller(UNIT, "");
    world.broker.delete_queue("pull");
    let _unit = site.run(UNIT);
    site.wait_state(UNIT, "paused: ");
    let state = site.state(UNIT);
    assert!(state.contains("queue pull is missing"), "{state}");
    // Somebody makes it: the unit goes on by itself, though nothing comes yet.
    world.feed.queue("pull", &["v02.post.#"]);
    site.wait_state(UNIT, "impaired: may not bind"); // which somebody else has done
    world.announce("a/file", b"file");
    site.wait_that("it has arrived", || site.arrived("file").as_deref() == Some(b"file"));
}

#[test]
fn a_wrong_password_pauses_until_it_is_right() {
    let world = World::new("password", "");
    let user = world.broker.user("puller", ".*", ".*", ".*");
    let (name, port, vhost) = (&user.urls[0].user, user.urls[0].port, &user.urls[0].vhost);
    let site = TestSite::at(&format!("amqp://{name}:canary-wrong@127.0.0.1:{port}/{vhost}"));
    site.puller(UNIT, "");
    world.announce("a/file", b"file");
    let mut unit = site.run(UNIT);
    site.wait_state(UNIT, "paused: ");
    let state = site.state(UNIT);
    assert!(state.contains("check the password"), "{state}");
    assert!(!state.contains("canary"), "{state}");
    unit.assert_runs();
    let body = r#"{"password": "canary-wrong", "tags": ""}"#;
    world.broker.api("PUT", &format!("/api/users/{name}"), Some(body)).ok();
    site.wait_that("it has arrived", || site.arrived("file").as_deref() == Some(b"file"));
    site.wait_state(UNIT, "running");
}

/// A dispatcher that may not publish: what it has in hand stays unsettled, and goes out when it may.
#[test]
fn a_user_without_the_right_to_write_pauses_until_it_is_given() {
    let world = World::new("nowrite", "");
    let user = world.broker.user("dispatcher", "^$", "^$", ".*");
    let url = &user.urls[0];
    let site = TestSite::at(&format!(
        "amqp://{}:canary-password@127.0.0.1:{}/{}",
        url.user, url.port, url.vhost
    ));
    let unit = "dispatch/urp";
    site.unit(
        unit,
        "broker = \"main\"\nqueue = \"in\"\nbind = [\"v02.post.#\"]\nrekey = { key = \"first\" }\n\
         seen = { by = \"path\" }\n",
    );
    world.feed.queue("in", &["v02.post.#"]);
    world.feed.queue("out", &["first"]);
    for n in 0..10 {
        world.announce_only(&format!("a/{n}"), b"file");
    }
    let mut process = site.run(unit);
    site.wait_state(unit, "paused: ");
    let state = site.state(unit);
    assert!(state.contains("403"), "{state}");
    assert_eq!(site.count(unit, "forwarded"), 0);
    process.assert_runs();
    world.broker.permit(&url.user, "^$", ".*", ".*");
    site.wait_count(unit, "forwarded", 10);
    site.wait_state(unit, "running");
    assert_eq!(world.feed.depth("out"), Some(10));
    assert!(site.failed(unit).is_empty());
}
