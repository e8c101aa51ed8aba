//! What holds up a delivering sender, and that it goes on by itself.

use super::{LONG, PLAIN, UNIT, World, bulletin, world};
use crate::support::{fill_disk, remount, run_with_small_disk};

#[test]
fn a_destination_that_is_full_or_read_only_is_waited_for() {
    let world = world(PLAIN);
    let mut unit = run_with_small_disk(&world.site, UNIT, "data");
    let data = world.site.path("data");
    let there = unit.sees(&data);
    world.drop("3/2026112112/zero", "0");
    world.wait_left(&[]);
    let ballast = fill_disk(&unit, &data);
    let body = vec![b'x'; 300_000];
    for name in ["one", "two"] {
        world.drop(&format!("3/2026112112/{name}"), &body);
    }
    let reason = "paused: cannot deliver to file://";
    world.site.wait_state(UNIT, reason);
    assert!(
        world.site.state(UNIT).contains("No space left"),
        "{}",
        world.site.state(UNIT)
    );
    assert_eq!(world.left().len(), 2);
    std::fs::remove_file(ballast).expect("remove");
    world.wait_left(&[]);
    world.site.wait_state(UNIT, "running");
    assert_eq!(std::fs::read(there.join("one")).expect("one"), body);
    remount(&unit, &data, "ro");
    world.drop("3/2026112112/three", "3");
    world.site.wait_state(UNIT, "paused: cannot deliver");
    unit.assert_runs();
    remount(&unit, &data, "rw");
    world.wait_left(&[]);
    world.site.wait_state(UNIT, "running");
    assert_eq!(std::fs::read(there.join("three")).expect("three"), b"3");
    let names: Vec<_> = std::fs::read_dir(&there).expect("directory").flatten().collect();
    assert_eq!(names.len(), 4, "{names:?}");
    assert_eq!(
        (world.site.count(UNIT, "failed"), world.site.count(UNIT, "delivered")),
        (0, 4)
    );
}

/// Where the destination has something else, which is nobody's fault but the product's, others pass it by.
#[test]
fn a_product_that_is_refused_holds_up_nobody_and_is_tried_again() {
    let world = world(PLAIN);
    world
        .site
        .write("data/bad/held", "a directory of this name is in the way");
    let _unit = world.site.run_ready(UNIT);
    world.drop(&format!("1/2026112112/{}", bulletin("bad", 1, 0)), "bad");
    world.drop(&format!("3/2026112112/{}", bulletin("good", 3, 0)), "good");
    world
        .site
        .wait_that("the other is delivered", || world.site.arrived("good").is_some());
    world.site.wait_that_for(LONG, "it was tried", || {
        world.site.count(UNIT, "parked") > 0 || world.site.state(UNIT).starts_with("paused: ")
    });
    std::fs::remove_dir_all(world.site.path("data/bad")).expect("remove");
    world.wait_left(&[]);
    assert_eq!(world.site.arrived("bad").expect("bad"), b"bad");
    assert_eq!(world.site.count(UNIT, "failed"), 0);
}

#[test]
fn a_destination_that_stops_to_wait_is_shown_as_running_when_nothing_waits() {
    let World { site } = world("directory = \"{root}/data\"\nmkdir = false\n");
    let world = World { site };
    let _unit = world.site.run_ready(UNIT);
    world.drop("3/2026112112/a", "a");
    world.site.wait_that("it cannot", || {
        world.site.count(UNIT, "parked") > 0 || world.site.state(UNIT).starts_with("paused: ")
    });
    std::fs::remove_file(world.queued("3/2026112112/a")).expect("remove");
    world
        .site
        .wait_for(LONG, UNIT, "is running", |status| status["state"] == "running");
    assert_eq!(world.site.count(UNIT, "delivered"), 0);
}
