//! The very first start, and every other one.

use std::fs::{self, FileTimes};
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime};

use px::spool::inventory::{Baseline, Marker};
use px::spool::tree::CatchUp;

use crate::support::{Site, Watcher, write};

#[test]
fn what_was_there_before_the_first_start_is_recorded_and_not_announced() {
    let site = Site::new();
    for n in 0..50 {
        site.write(&format!("d{}/old{n}", n % 3), "x");
    }
    let mut watcher = site.watch();
    assert_eq!(site.rows().baseline().unwrap(), Baseline::Done);
    site.write("d1/new", "y");
    site.write("d1/old1", "changed");
    watcher.until_quiet();
    assert_eq!(watcher.paths(), ["d1/new", "d1/old1"]);
    drop(watcher);
    let mut watcher = site.watch();
    watcher.until_quiet();
    assert_eq!(watcher.paths(), Vec::<&str>::new());
}

#[test]
fn with_catch_up_all_everything_is_announced_the_oldest_first() {
    let site = Site::new();
    for (age, path) in [(30, "b"), (50, "z/oldest"), (10, "a/youngest"), (40, "m")] {
        site.write(path, "x");
        set_age(&site, path, age);
    }
    let mut options = site.options();
    options.catch_up = CatchUp::All;
    let mut watcher = Watcher::start(options, &site.inventory);
    watcher.until_announced(4);
    assert_eq!(watcher.paths(), ["z/oldest", "m", "b", "a/youngest"]);
}

fn set_age(site: &Site, path: &str, seconds: u64) {
    let modified = SystemTime::now() - Duration::from_secs(seconds);
    let file = fs::File::options().append(true).open(site.root.join(path)).unwrap();
    file.set_times(FileTimes::new().set_modified(modified)).unwrap();
}

/// While a first start is under way, the tree lives on: whatever is made after the marker is announced, in whatever
/// directory, and nothing else is.
#[test]
fn the_first_start_tells_old_files_from_new_ones_while_both_are_written() {
    for _ in 0..10 {
        let site = Site::new();
        for n in 0..300 {
            site.write(&format!("live{}/old{n}", n % 10), "x");
        }
        let mut watcher = Watcher::begin(site.options(), &site.inventory);
        let mut written = Vec::new();
        for n in 0..300 {
            let path = format!("live{}/x{n}", n % 10);
            site.write(&path, "y");
            written.push((path.clone(), fs::metadata(site.root.join(&path)).unwrap()));
        }
        watcher.until_ready(); // what is written before that may be older than the marker
        watcher.until_quiet();
        let marker: i64 = marker_ns(&site);
        let counts = watcher.counts();
        let mut closed_meanwhile = Vec::new();
        for (path, status) in written {
            let ctime_ns = status.ctime() * 1_000_000_000 + status.ctime_nsec();
            match counts.get(&path) {
                count if ctime_ns > marker => assert_eq!(count, Some(&1), "{path}"),
                Some(1) => closed_meanwhile.push(path),
                count => assert_eq!(count, None, "{path}"),
            }
        }
        // One writer has one file open: it may have written before the marker and closed after the watch.
        assert!(closed_meanwhile.len() <= 1, "{closed_meanwhile:?}");
    }
}

fn marker_ns(site: &Site) -> i64 {
    let db = rusqlite::Connection::open(&site.inventory).unwrap();
    db.query_row("SELECT marker_ns FROM tree", [], |row| row.get(0))
        .unwrap()
}

/// The unit died after it had kept its marker. What came since is new, also what was renamed in with old stamps; a
/// directory that has merely gained an entry is not.
#[test]
fn a_first_start_that_was_killed_goes_on_from_its_own_marker() {
    let site = Site::new();
    let outside = site.beside("outside");
    for n in 0..10 {
        site.write(&format!("sub/d/old{n}"), "x");
        site.write(&format!("d/old{n}"), "x"); // the last to be written: its ctime is the latest
        write(&outside.join(format!("e/f{n}")), "x");
    }
    let status = fs::metadata(&site.root).unwrap();
    let marker = Marker {
        ctime_ns: latest_ctime_ns(&site),
        root_inode: Some(status.ino()),
    };
    site.rows().begin_baseline(marker).unwrap();
    // The clock of the files has to go on first: the marker itself waits for that.
    while latest_ctime_ns(&site) <= marker.ctime_ns {
        site.write("d/new", "y");
    }
    fs::rename(&outside, site.root.join("sub/in")).unwrap();
    let mut watcher = site.watch();
    watcher.until_quiet();
    let paths = watcher.paths();
    assert_eq!(paths.len(), 11, "{paths:?}");
    assert!(paths.contains(&"d/new") && paths.iter().filter(|path| path.starts_with("sub/in/e/f")).count() == 10);
}

fn latest_ctime_ns(site: &Site) -> i64 {
    let files = fs::read_dir(site.root.join("d")).unwrap();
    let ctimes = files.map(|file| {
        let status = file.unwrap().metadata().unwrap();
        status.ctime() * 1_000_000_000 + status.ctime_nsec()
    });
    ctimes.max().unwrap()
}

#[test]
fn what_happened_while_nobody_watched_is_announced_the_oldest_first_and_once() {
    let site = Site::new();
    let mut watcher = site.watch();
    for n in 0..100 {
        site.write(&format!("d/f{n}"), "x");
    }
    watcher.until_announced(100);
    drop(watcher);
    fs::remove_file(site.root.join("d/f1")).unwrap();
    fs::remove_file(site.root.join("d/f2")).unwrap();
    site.write("d/f3", "changed");
    set_age(&site, "d/f3", 10);
    site.write("new/g", "y");
    set_age(&site, "new/g", 20);
    let mut watcher = site.watch();
    watcher.until_quiet();
    assert_eq!(watcher.paths(), ["new/g", "d/f3"]);
    assert!(site.row("d/f1").is_none() && site.row("d/f4").is_some());
}

#[test]
fn what_was_found_and_not_recorded_is_found_again() {
    let site = Site::new();
    let mut watcher = site.watch();
    watcher.loses_everything = true;
    for n in 0..10 {
        site.write(&format!("f{n}"), "x");
    }
    let until = std::time::Instant::now() + Duration::from_millis(300);
    watcher.during(until);
    assert_eq!(watcher.paths(), Vec::<&str>::new());
    watcher.loses_everything = false;
    watcher.compare();
    watcher.until_announced(10);
    watcher.until_quiet();
    assert_eq!(watcher.announced.len(), 10);
}
