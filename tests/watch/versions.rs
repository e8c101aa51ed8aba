//! What is another version of a file, and when a file is ready.

use std::fs::{self, File, FileTimes, OpenOptions};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use px::message::{Masks, Verdict};

use crate::support::{DEADLINE, Site, Watcher};

#[test]
fn each_version_is_announced_once_and_a_close_that_changes_nothing_is_no_news() {
    let site = Site::new();
    let mut watcher = site.watch();
    for n in 1..=5 {
        site.write("a", &"x".repeat(n));
        watcher.until_announced(n);
    }
    for _ in 0..5 {
        drop(OpenOptions::new().append(true).open(site.root.join("a")).unwrap());
        watcher.until_quiet();
    }
    watcher.compare();
    watcher.until_quiet();
    assert_eq!(watcher.announced.len(), 5);
    let times = FileTimes::new().set_modified(std::time::UNIX_EPOCH);
    let file = OpenOptions::new().append(true).open(site.root.join("a")).unwrap();
    file.set_times(times).unwrap();
    drop(file);
    watcher.until_announced(6);
}

#[test]
fn other_content_under_equal_young_stamps_is_another_version() {
    let site = Site::new();
    let mut watcher = site.watch();
    let path = site.root.join("a");
    // Now and then the machine is too busy to read the file while its stamps are young: then it is tried again.
    let deadline = Instant::now() + DEADLINE;
    let row = loop {
        let count = watcher.announced.len();
        fs::write(&path, "one").unwrap();
        watcher.until_announced(count + 1);
        watcher.until_quiet();
        let mtime_ns = mtime_ns(&path);
        let row = loop {
            match site.row("a") {
                Some(row) if row.version.mtime_ns == mtime_ns => break row,
                _ => assert!(Instant::now() < deadline, "never recorded"),
            }
        };
        if row.digest.is_some() {
            break row;
        }
        assert!(Instant::now() < deadline, "never young");
    };
    let count = watcher.announced.len();
    let modified = fs::metadata(&path).unwrap().modified().unwrap();
    let rewrite = |content: &[u8]| {
        let mut file = OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all(content).unwrap();
        file.set_times(FileTimes::new().set_modified(modified)).unwrap();
    };
    // What is read again when the stamps are old needs its digest no longer; a young row is restored for the rest.
    while site.row("a").unwrap().digest.is_some() {
        rewrite(b"one");
        watcher.until_quiet();
        assert!(Instant::now() < deadline, "always young");
    }
    assert_eq!(watcher.announced.len(), count);
    site.rows().put(&[(b"a".to_vec(), row.clone())]).unwrap();
    rewrite(b"two");
    watcher.until_quiet();
    assert_eq!(watcher.announced.len(), count + 1);
    assert_eq!(site.row("a").unwrap().version, row.version);
    drop(watcher);

    site.rows().put(&[(b"a".to_vec(), row)]).unwrap();
    let mut watcher = site.watch();
    watcher.until_announced(1);
    assert_eq!(watcher.paths(), ["a"]);
}

fn mtime_ns(path: &Path) -> i64 {
    let status = fs::metadata(path).unwrap();
    status.mtime() * 1_000_000_000 + status.mtime_nsec()
}

#[test]
fn a_file_that_is_still_written_waits_for_its_close() {
    let site = Site::new();
    let mut watcher = site.watch();
    let mut file = File::create(site.root.join("slow")).unwrap();
    file.write_all(b"one").unwrap();
    watcher.until_quiet();
    watcher.compare();
    watcher.until_quiet();
    assert_eq!(watcher.paths(), Vec::<&str>::new());
    file.write_all(b"two").unwrap();
    drop(file);
    watcher.until_announced(1);
    watcher.until_quiet();
    assert_eq!(watcher.announced.len(), 1);
}

#[test]
fn a_file_settles_after_its_last_close() {
    let site = Site::new();
    let settle = Duration::from_secs(3); // long, for a machine that is busy between two writes
    let mut options = site.options();
    options.settle = settle;
    let mut watcher = Watcher::start(options, &site.inventory);
    let mut last = Instant::now();
    for n in 0..4 {
        last = Instant::now();
        site.write("a", &"x".repeat(n));
        let wait = watcher_pause(&mut watcher, Duration::from_millis(100));
        assert_eq!(wait, 0, "announced before it settled");
    }
    watcher.until_announced(1);
    assert!(last.elapsed() >= settle);
    assert_eq!(watcher.announced.len(), 1);
}

/// Lets time pass; how many files are announced then.
fn watcher_pause(watcher: &mut Watcher, pause: Duration) -> usize {
    let until = Instant::now() + pause;
    watcher.during(until);
    watcher.announced.len()
}

#[test]
fn masks_are_on_the_path_in_the_tree() {
    let site = Site::new();
    let mut options = site.options();
    options.masks = Masks::new([
        (Verdict::Accept, "site/.*_e"),
        (Verdict::Reject, "site/"),
        (Verdict::Reject, r".*\.bak$"),
    ])
    .unwrap();
    let mut watcher = Watcher::start(options, &site.inventory);
    for path in ["site/a_e", "site/a_f", "site/d/b_e", "x.bak", "other/site/a_f"] {
        site.write(path, "x");
    }
    watcher.until_quiet();
    watcher.until_announced(3);
    let mut paths = watcher.paths();
    paths.sort_unstable();
    assert_eq!(paths, ["other/site/a_f", "site/a_e", "site/d/b_e"]);
}

#[test]
fn a_file_that_changes_all_the_time_is_announced_whole_or_not_at_all() {
    let site = Site::new();
    let mut watcher = site.watch();
    for n in 0..300 {
        let byte = format!("{}", n % 10);
        site.write("busy", &byte.repeat(200_000 + n));
    }
    watcher.until_quiet();
    let whole: std::collections::HashSet<String> = (0..300)
        .map(|n| px::message::identity::md5_hex(format!("{}", n % 10).repeat(200_000 + n).as_bytes()))
        .collect();
    assert!(watcher.announced.iter().all(|(_, md5)| whole.contains(md5)));
    let last = px::message::identity::md5_hex("9".repeat(200_299).as_bytes());
    watcher.until("last", |watcher| {
        watcher.announced.last().is_some_and(|(_, md5)| *md5 == last)
    });
}
