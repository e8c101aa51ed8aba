//! Roots that are missing, replaced or unmounted.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::support::{Site, Watcher, options, spawn_test, write};

#[test]
fn a_missing_root_pauses_and_its_return_announces_only_what_is_new() {
    let site = Site::new();
    let mut watcher = site.watch();
    for n in 0..20 {
        site.write(&format!("d/f{n}"), "x");
    }
    watcher.until_announced(20);
    site.until_recorded("d/f19");
    let away = site.beside("away");
    fs::rename(&site.root, &away).unwrap();
    write(&away.join("d/unseen"), "y");
    watcher.until("paused", |watcher| watcher.paused.is_some());
    assert!(watcher.paused.as_ref().unwrap().contains("cannot open the tree"));
    assert!(site.row("d/f1").is_some());
    fs::rename(&away, &site.root).unwrap();
    watcher.until("resumed", |watcher| watcher.paused.is_none());
    watcher.until_quiet();
    assert_eq!(watcher.paths()[20..], ["d/unseen"]);
}

#[test]
fn an_empty_directory_in_the_root_s_place_is_not_the_root_until_it_is_filled() {
    let site = Site::new();
    let mut watcher = site.watch();
    site.write("d/f", "x");
    watcher.until_announced(1);
    drop(watcher);
    fs::rename(&site.root, site.beside("away")).unwrap();
    fs::create_dir(&site.root).unwrap();
    let mut watcher = site.watch();
    watcher.until("paused", |watcher| watcher.paused.is_some());
    assert!(watcher.paused.as_ref().unwrap().contains("is its file system mounted?"));
    assert!(site.row("d/f").is_some());
    site.write("g", "y");
    watcher.until_announced(1);
    watcher.until_quiet();
    assert_eq!((watcher.paths(), watcher.paused.clone()), (vec!["g"], None));
}

#[test]
fn a_root_that_is_missing_at_the_first_start_is_new_with_everything_in_it() {
    let site = Site::new();
    fs::remove_dir(&site.root).unwrap();
    let mut watcher = site.watch();
    watcher.until("paused", |watcher| watcher.paused.is_some());
    for n in 0..10 {
        site.write(&format!("d/f{n}"), "x");
    }
    watcher.until_announced(10);
}

#[test]
fn a_root_replaced_by_another_directory_is_compared_with_the_inventory() {
    let site = Site::new();
    let mut watcher = site.watch();
    site.write("same", "x");
    site.write("other", "x");
    watcher.until_announced(2);
    let next = site.beside("next");
    fs::create_dir(&next).unwrap();
    fs::hard_link(site.root.join("same"), next.join("same")).unwrap();
    write(&next.join("other"), "y");
    fs::rename(&site.root, site.beside("away")).unwrap();
    fs::rename(&next, &site.root).unwrap();
    watcher.until_announced(3);
    site.write("later", "z");
    watcher.until_quiet();
    assert_eq!(watcher.paths()[2..], ["other", "later"]);
}

/// In a mount namespace of its own, see `in_a_namespace`.
#[test]
fn an_unmounted_root_pauses_and_the_mounted_one_goes_on() {
    let done = spawn_test(
        &["unshare", "-Urm"],
        "roots::in_a_namespace",
        &[("PX_TEST_INNER", &PathBuf::from("1"))],
    )
    .wait_with_output()
    .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stdout));
}

#[test]
#[ignore = "run by an_unmounted_root_pauses_and_the_mounted_one_goes_on"]
fn in_a_namespace() {
    if std::env::var_os("PX_TEST_INNER").is_none() {
        return;
    }
    let site = Site::new();
    let disk = site.beside("disk");
    fs::create_dir(&disk).unwrap();
    mount(&["-t", "tmpfs", "none", disk.to_str().unwrap()]);
    fs::create_dir(disk.join("site")).unwrap();
    let root = site.root.to_str().unwrap();
    mount(&["--bind", disk.join("site").to_str().unwrap(), root]);
    let mut watcher = Watcher::start(options(&site.root), &site.inventory);
    site.write("d/f", "x");
    watcher.until_announced(1);
    site.until_recorded("d/f");
    let done = Command::new("umount").arg(root).status().unwrap();
    assert!(done.success(), "the watcher keeps the file system busy");
    watcher.until("paused", |watcher| watcher.paused.is_some());
    assert!(site.row("d/f").is_some());
    write(&disk.join("site/d/g"), "y");
    mount(&["--bind", disk.join("site").to_str().unwrap(), root]);
    watcher.until_announced(2);
    watcher.until_quiet();
    assert_eq!(watcher.paths(), ["d/f", "d/g"]);
}

fn mount(arguments: &[&str]) {
    assert!(Command::new("mount").args(arguments).status().unwrap().success());
}
