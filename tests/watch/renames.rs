//! Files and directories that come, go and change their names.

use std::collections::BTreeSet;
use std::fs;

use crate::support::Site;

/// The race that recursive watchers lose: a directory is made, and a file in it, before anyone can watch it.
#[test]
fn no_file_in_freshly_made_nested_directories_is_missed() {
    let site = Site::new();
    let mut watcher = site.watch();
    for n in 0..5000 {
        site.write(&format!("{}/d{n}/e/f", n % 7), "x");
    }
    watcher.until_quiet();
    watcher.until_announced(5000);
    assert_eq!(watcher.counts().len(), 5000);
    assert!(watcher.counts().values().all(|count| *count == 1));
}

#[test]
fn a_burst_in_one_directory_is_announced_completely_and_in_order() {
    let site = Site::new();
    let mut watcher = site.watch();
    for n in 0..10_000 {
        site.write(&format!("f{n:05}"), "x");
    }
    watcher.until_announced(10_000);
    watcher.until_quiet();
    let in_order: Vec<String> = (0..10_000).map(|n| format!("f{n:05}")).collect();
    assert_eq!(watcher.paths(), in_order);
}

#[test]
fn a_directory_renamed_in_announces_each_file_once_and_is_watched() {
    let site = Site::new();
    let outside = site.beside("outside");
    for n in 0..100 {
        crate::support::write(&outside.join(format!("a/b{}/f{n}", n % 5)), "x");
    }
    let mut watcher = site.watch();
    fs::rename(&outside, site.root.join("in")).unwrap();
    watcher.until_announced(100);
    site.write("in/a/b3/later", "y");
    watcher.until_quiet();
    assert_eq!(watcher.counts().len(), 101);
    assert_eq!(watcher.announced.len(), 101);
}

#[test]
fn a_directory_renamed_within_the_tree_is_known_by_its_new_name_only() {
    let site = Site::new();
    site.make_dir("old/deep/deeper");
    let mut watcher = site.watch();
    site.write("old/deep/deeper/one", "1");
    watcher.until_announced(1);
    fs::rename(site.root.join("old"), site.root.join("new")).unwrap();
    site.write("new/deep/deeper/two", "2");
    watcher.until_announced(3);
    // The name is taken again by another directory, at once.
    site.make_dir("old/deep/deeper");
    site.write("old/deep/deeper/three", "3");
    site.write("new/deep/deeper/four", "4");
    watcher.until_quiet();
    let wanted = [
        "old/deep/deeper/one",
        "new/deep/deeper/one",
        "new/deep/deeper/two",
        "old/deep/deeper/three",
        "new/deep/deeper/four",
    ];
    let found: BTreeSet<&str> = watcher.paths().into_iter().collect();
    assert_eq!(found, BTreeSet::from(wanted));
    assert_eq!(watcher.announced.len(), 5);
}

#[test]
fn a_directory_renamed_out_is_left_alone_and_what_returns_unchanged_is_no_news() {
    let site = Site::new();
    let outside = site.beside("outside");
    let mut watcher = site.watch();
    site.write("d/e/one", "1");
    watcher.until_announced(1);
    fs::rename(site.root.join("d"), &outside).unwrap();
    fs::write(outside.join("e/two"), "2").unwrap();
    watcher.until_quiet();
    assert_eq!(watcher.paths(), ["d/e/one"]);
    fs::rename(&outside, site.root.join("d")).unwrap();
    watcher.until_announced(2);
    site.write("d/e/three", "3");
    watcher.until_quiet();
    assert_eq!(watcher.paths(), ["d/e/one", "d/e/two", "d/e/three"]);
}

#[test]
fn a_directory_that_was_hidden_is_announced_when_it_gets_its_name() {
    let site = Site::new();
    let mut watcher = site.watch();
    site.write("in.tmp/a/f", "1");
    site.write(".hidden/g", "2");
    watcher.until_quiet();
    assert_eq!(watcher.paths(), Vec::<&str>::new());
    fs::rename(site.root.join("in.tmp"), site.root.join("in")).unwrap();
    fs::rename(site.root.join(".hidden"), site.root.join("seen")).unwrap();
    watcher.until_announced(2);
    fs::rename(site.root.join("in"), site.root.join("in.tmp")).unwrap();
    site.write("in.tmp/a/h", "3");
    watcher.until_quiet();
    assert_eq!(watcher.paths(), ["in/a/f", "seen/g"]);
}

#[test]
fn files_come_by_rename_and_by_link_and_only_under_names_that_count() {
    let site = Site::new();
    let outside = site.beside("outside");
    crate::support::write(&outside.join("linked"), "1");
    crate::support::write(&outside.join("moved"), "2");
    let mut watcher = site.watch();
    fs::hard_link(outside.join("linked"), site.root.join("linked")).unwrap();
    watcher.until_announced(1);
    fs::rename(outside.join("moved"), site.root.join("moved")).unwrap();
    watcher.until_announced(2);
    site.write("x.tmp", "3");
    site.write(".x", "4");
    fs::rename(site.root.join("x.tmp"), site.root.join("x")).unwrap();
    std::os::unix::fs::symlink("x", site.root.join("symlink")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, site.root.join("pipe"), rustix::fs::Mode::RUSR).unwrap();
    fs::write(
        site.root
            .join(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"n\xffn")),
        "5",
    )
    .unwrap();
    watcher.until_quiet();
    watcher.compare();
    watcher.until_quiet();
    assert_eq!(watcher.paths(), ["linked", "moved", "x", "n\u{fffd}n"]);
}

/// It looks like a file that was just made and will be closed.
#[test]
fn a_file_that_is_linked_in_and_loses_its_other_name_is_announced() {
    let site = Site::new();
    let mut watcher = site.watch();
    for n in 0..50 {
        let hidden = format!(".{n}");
        site.write(&hidden, "1");
        fs::hard_link(site.root.join(&hidden), site.root.join(format!("f{n}"))).unwrap();
        fs::remove_file(site.root.join(&hidden)).unwrap();
    }
    watcher.until_announced(50);
    watcher.until_quiet();
    assert_eq!(watcher.paths().len(), 50);
}

/// Such a file has one name only, and its close is told to nobody.
#[test]
fn a_nameless_file_that_is_linked_in_is_announced_when_its_writer_is_done() {
    use rustix::fs::{AtFlags, CWD, Mode, OFlags};
    let site = Site::new();
    let mut watcher = site.watch();
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let file = rustix::fs::open(&site.root, flags, Mode::from_raw_mode(0o644)).unwrap();
    rustix::io::write(&file, b"1").unwrap();
    let name = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
    rustix::fs::linkat(CWD, name, CWD, site.root.join("named"), AtFlags::SYMLINK_FOLLOW).unwrap();
    watcher.until_quiet();
    assert_eq!(watcher.paths(), Vec::<&str>::new());
    drop(file);
    watcher.until_announced(1);
    assert_eq!(watcher.paths(), ["named"]);
}
