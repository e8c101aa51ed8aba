//! Trees that are read again and again, as network file systems that other hosts write.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use px::message::identity::md5_hex as md5;
use px::metrics::Count;
use px::spool::tree::Options;

use crate::support::{Site, Watcher};

const POLL: Duration = Duration::from_millis(250);

fn polled(site: &Site, poll: Duration) -> Watcher {
    let options = Options {
        poll: Some(poll),
        ..site.options()
    };
    Watcher::start(options, &site.inventory)
}

/// Another host writes: nobody here has the file open in between.
fn append(site: &Site, path: &str, text: &str) {
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(site.root.join(path))
        .unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

#[test]
fn files_are_found_without_any_notice_of_the_kernel() {
    let site = Site::new();
    site.write("before", "x");
    let mut watcher = polled(&site, POLL);
    site.write("a", "1");
    site.write("new/deep/b", "2");
    site.write("c.tmp", "3");
    watcher.until_announced(2);
    fs::rename(site.root.join("c.tmp"), site.root.join("c")).unwrap();
    watcher.until_announced(3);
    watcher.until_quiet();
    let mut paths = watcher.paths();
    paths.sort_unstable();
    assert_eq!(paths, ["a", "c", "new/deep/b"]);
    for fd in fs::read_dir("/proc/self/fd").unwrap() {
        let kind = fs::read_link(fd.unwrap().path()).unwrap_or_default();
        assert!(!kind.to_string_lossy().contains("inotify"), "{kind:?}");
    }
}

#[test]
fn a_file_that_grows_from_walk_to_walk_is_announced_when_it_stands_still() {
    const SLOW: Duration = Duration::from_secs(1);
    let site = Site::new();
    let mut watcher = polled(&site, SLOW);
    let first = watcher.metrics.get(Count::Rescans);
    let (stop, stopped) = mpsc::channel::<()>();
    let (written, longest) = std::thread::scope(|scope| {
        let to_grow = &site;
        let writer = scope.spawn(move || {
            let (mut written, mut longest, mut last) = (String::new(), Duration::ZERO, Instant::now());
            while stopped.recv_timeout(Duration::from_millis(20)).is_err() {
                append(to_grow, "growing", "more");
                written.push_str("more");
                longest = longest.max(last.elapsed());
                last = Instant::now();
            }
            (written, longest)
        });
        while watcher.metrics.get(Count::Rescans) < first + 4 {
            watcher.during(Instant::now() + Duration::from_millis(20));
        }
        let early = watcher.announced.len();
        stop.send(()).unwrap();
        let (written, longest) = writer.join().unwrap();
        // A writer that this machine kept from writing for so long did stand still.
        assert!(early == 0 || longest >= SLOW, "{early} announced while it grew");
        (written, longest)
    });
    let whole = md5(written.as_bytes());
    watcher.until("whole", |watcher| {
        watcher.announced.iter().any(|(_, md5)| *md5 == whole)
    });
    assert!(
        watcher.announced.len() == 1 || longest >= SLOW,
        "{:?}",
        watcher.announced
    );
}

#[test]
fn a_writer_of_this_host_is_waited_for() {
    let site = Site::new();
    let mut watcher = polled(&site, POLL);
    let mut open = fs::File::create(site.root.join("open")).unwrap();
    open.write_all(b"half").unwrap();
    site.write("other", "x");
    watcher.until_announced(1);
    watcher.until_quiet();
    assert_eq!(watcher.paths(), ["other"]);
    open.write_all(b" and whole").unwrap();
    drop(open);
    watcher.until_announced(2);
    assert_eq!(watcher.announced[1], ("open".to_string(), md5(b"half and whole")));
}

#[test]
fn a_file_that_is_replaced_is_another_version_and_one_that_is_deleted_is_none() {
    let site = Site::new();
    let mut watcher = polled(&site, POLL);
    site.write("a", "one");
    watcher.until_announced(1);
    site.until_recorded("a");
    site.write("a.tmp", "two");
    fs::rename(site.root.join("a.tmp"), site.root.join("a")).unwrap();
    watcher.until_announced(2);
    let expected = [md5(b"one"), md5(b"two")].map(|md5| ("a".to_string(), md5));
    assert_eq!(watcher.announced, expected);

    // Met by a walk, and gone before it could stand still.
    drop(watcher);
    let mut watcher = polled(&site, Duration::from_secs(2));
    site.write("gone", "x");
    let before = watcher.metrics.get(Count::Rescans);
    watcher.until_rescans(before + 1);
    fs::remove_file(site.root.join("gone")).unwrap();
    watcher.until_rescans(before + 3);
    assert_eq!(watcher.paths(), [] as [&str; 0]);
    assert!(site.row("gone").is_none());
    fs::remove_file(site.root.join("a")).unwrap();
    drop(watcher);
    let watcher = polled(&site, POLL);
    assert!(watcher.announced.is_empty() && site.row("a").is_none());
}

#[test]
fn what_came_while_it_was_down_is_announced_and_nothing_twice() {
    let site = Site::new();
    let mut watcher = polled(&site, POLL);
    site.write("a", "1");
    watcher.until_announced(1);
    site.until_recorded("a");
    drop(watcher);
    site.write("b", "2");
    let mut watcher = polled(&site, POLL);
    watcher.until_announced(1);
    watcher.until_quiet();
    assert_eq!(watcher.paths(), ["b"]);
}

#[test]
fn a_root_that_goes_and_returns_loses_nothing_and_repeats_nothing() {
    let site = Site::new();
    let mut watcher = polled(&site, POLL);
    site.write("d/f", "x");
    watcher.until_announced(1);
    site.until_recorded("d/f");
    let away = site.beside("away");
    fs::rename(&site.root, &away).unwrap();
    fs::write(away.join("d/unseen"), "y").unwrap();
    watcher.until("paused", |watcher| watcher.paused.is_some());
    assert!(site.row("d/f").is_some());
    fs::rename(&away, &site.root).unwrap();
    watcher.until("resumed", |watcher| watcher.paused.is_none());
    watcher.until_quiet();
    assert_eq!(watcher.paths(), ["d/f", "d/unseen"]);
}
