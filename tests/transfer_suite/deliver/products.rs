//! Products arrive, whole and under their names.

use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use px::message::Fault;
use px::transfer::Kind;
use px::transfer::deliver::{Lock, Options};

use super::row::lane;
use super::rows;

fn bytes(size: usize) -> Vec<u8> {
    (0..size).map(|n| (n % 251) as u8).collect()
}

#[tokio::test]
async fn a_product_arrives_whole() {
    for row in rows() {
        for lock in row.locks() {
            let mut lane = lane(Options { lock, ..row.options() });
            for (name, size) in [("empty", 0), ("one", 1), ("small", 5000), ("large", 3_000_001)] {
                let put = lane.put(&row.parcel("", name.as_bytes(), &bytes(size))).await;
                let put = put.unwrap_or_else(|err| panic!("{}: {name}: {err} {err:?}", row.name()));
                assert_eq!(put.bytes, size as u64);
                let there = row.read(name.as_bytes());
                assert!(there == Some(bytes(size)), "{}: {name}", row.name());
            }
            lane.close().await;
        }
        let mut left = std::fs::read_dir(row.root()).unwrap();
        let odd = left.find(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().contains("tmp"));
        assert!(odd.is_none(), "{}: {odd:?} is left", row.name());
    }
}

#[tokio::test]
async fn a_file_of_another_size_is_not_delivered() {
    for row in rows() {
        let mut lane = row.lane();
        for size in [999, 1001] {
            let mut parcel = row.parcel("", b"changed", &bytes(1000));
            parcel.size = size;
            let err = lane.put(&parcel).await.unwrap_err();
            assert_eq!(err.fault, Fault::Message, "{}: {err} {err:?}", row.name());
            assert_eq!(row.read(b"changed"), None, "{}", row.name());
        }
        let put = lane.put(&row.parcel("", b"changed", &bytes(1000))).await;
        assert!(put.is_ok(), "{}: {put:?}", row.name());
    }
}

/// Ends a watcher, also when the work has failed.
struct Ended<'a>(&'a AtomicBool);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Looks at the final name again and again, and counts in how often it was there, and away after that.
fn watch(path: &Path, versions: [&[u8]; 2], done: &AtomicBool, seen: &AtomicUsize) -> usize {
    let (mut has_been, mut away) = (false, 0);
    while !done.load(Ordering::Relaxed) {
        let Ok(mut file) = std::fs::File::open(path) else {
            away += usize::from(has_been);
            continue;
        };
        // Root reads what nobody may: the mode counts.
        if file.metadata().unwrap().mode() & 0o444 == 0 {
            away += usize::from(has_been);
            continue;
        }
        let mut there = Vec::new();
        file.read_to_end(&mut there).unwrap();
        assert!(
            versions.iter().any(|whole| **whole == there),
            "{} bytes are seen",
            there.len()
        );
        has_been = true;
        seen.fetch_add(1, Ordering::Relaxed);
    }
    away
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_sees_half_a_product_and_the_older_one_gives_way() {
    let (first, second) = (vec![b'1'; 400_000], vec![b'2'; 500_000]);
    for row in rows() {
        for lock in row.locks() {
            if let Some(why) = row.shows_half(&lock) {
                row.leaves_out("hiding half a product", why);
                continue;
            }
            let name = format!("{lock:?}").replace(|c: char| !c.is_alphanumeric(), "-");
            let (path, done, seen) = (row.at(name.as_bytes()), AtomicBool::new(false), AtomicUsize::new(0));
            let mut lane = lane(Options {
                lock: lock.clone(),
                bandwidth: Some(2_000_000),
                ..row.options()
            });
            let away = std::thread::scope(|scope| {
                let watcher = scope.spawn(|| watch(&path, [&first, &second], &done, &seen));
                let work = async {
                    for bytes in [&first, &second, &first] {
                        let put = lane.put(&row.parcel("", name.as_bytes(), bytes)).await;
                        assert!(put.is_ok(), "{} {lock:?}: {put:?}", row.name());
                        let before = seen.load(Ordering::Relaxed);
                        super::super::support::wait_until(super::row::SOON, "it is seen", || {
                            seen.load(Ordering::Relaxed) > before || watcher.is_finished()
                        });
                    }
                };
                let ended = Ended(&done);
                tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(work));
                drop(ended);
                watcher
                    .join()
                    .unwrap_or_else(|_| panic!("{} {lock:?}: half a product", row.name()))
            });
            assert_eq!(row.read(name.as_bytes()).unwrap(), first);
            match row.replaces_in_two_steps(&lock) {
                Some(why) => row.leaves_out("replacing in one step", why),
                None => assert_eq!(away, 0, "{} {lock:?}: it was away for a moment", row.name()),
            }
        }
    }
}

#[tokio::test]
async fn missing_directories_are_made_or_named() {
    for row in rows() {
        let closed = Options {
            makes_directories: false,
            ..row.options()
        };
        let mut strict = lane(closed);
        let err = strict.put(&row.parcel("not/there", b"x", b"x")).await.unwrap_err();
        let kind = match row.names_no_missing_directory() {
            Some(why) => {
                row.leaves_out("naming a missing directory", why);
                Kind::Unavailable
            }
            None => Kind::Forbidden,
        };
        assert_eq!((err.fault, err.kind), (Fault::Endpoint, kind), "{}: {err}", row.name());
        assert!(err.what.contains("not/there"), "{}: {err}", row.name());
        let put = strict.put(&row.parcel("", b"x", b"x")).await;
        assert!(put.is_ok(), "{}: other directories go on: {put:?}", row.name());
        let mut lane = row.lane();
        let made = lane.put(&row.parcel("a b/20261121/%é", b"x", b"made")).await;
        match row.makes_no_directories() {
            Some(why) => {
                row.leaves_out("making directories", why);
                assert_eq!(made.unwrap_err().kind, kind);
            }
            None => {
                assert!(made.is_ok(), "{}: {made:?}", row.name());
                assert_eq!(
                    row.read("a b/20261121/%é/x".as_bytes()).unwrap(),
                    b"made",
                    "{}",
                    row.name()
                );
                lane.put(&row.parcel("a b/20261121/%é", b"y", b"again")).await.unwrap();
                lane.put(&row.parcel("a b/20261122", b"z", b"other")).await.unwrap();
            }
        }
    }
}

#[tokio::test]
async fn a_file_in_the_way_of_a_directory_is_said() {
    for row in rows() {
        if let Some(why) = row.makes_no_directories() {
            row.leaves_out("making directories", why);
            continue;
        }
        let mut lane = row.lane();
        lane.put(&row.parcel("", b"file", b"x")).await.unwrap();
        let err = lane.put(&row.parcel("file/below", b"x", b"x")).await.unwrap_err();
        assert_ne!(err.fault, Fault::Own, "{}: {err}", row.name());
        assert_eq!(row.read(b"file").unwrap(), b"x");
        lane.put(&row.parcel("", b"other", b"x")).await.unwrap();
    }
}

#[tokio::test]
async fn odd_names_arrive_as_they_are() {
    let long = "n".repeat(255);
    let umlauts = "ü".repeat(127);
    let names: [&[u8]; 16] = [
        b"a name",
        b" lead and trail ",
        b"100%25 %2e%2e %",
        b"a#b?c&d=e;f",
        b"~home",
        b"CWAO:SA:2026:11",
        "Grüße-気象".as_bytes(),
        b"*[x]{y}|z",
        b"-rf",
        b".hidden",
        b"a\\b",
        b"it's \"quoted\"",
        b"...",
        b"latin-\xe9",
        long.as_bytes(),
        umlauts.as_bytes(),
    ];
    for row in rows() {
        let mut lane = row.lane();
        for name in names {
            let shown = String::from_utf8_lossy(name);
            let put = lane.put(&row.parcel("", name, name)).await;
            match row.cannot_name(name) {
                Some(why) => {
                    row.leaves_out(&shown, why);
                    let fault = put.err().map(|err| err.fault);
                    assert!(matches!(fault, None | Some(Fault::Message)), "{}: {shown}", row.name());
                }
                None => {
                    assert!(put.is_ok(), "{}: {shown}: {put:?}", row.name());
                    assert_eq!(row.read(name).as_deref(), Some(name), "{}: {shown}", row.name());
                }
            }
        }
    }
}

#[tokio::test]
async fn hostile_names_go_nowhere() {
    let long = "n".repeat(300);
    let table = [
        ("", ".."),
        ("", "../x"),
        ("", "a\r\nDELE x"),
        ("", "a\0b"),
        ("", long.as_str()),
        ("../..", "x"),
        ("a/../../..", "x"),
        ("a\nb", "x"),
    ];
    for row in rows() {
        let mut lane = row.lane();
        let before = std::fs::read_dir(row.root()).unwrap().count();
        for (below, name) in table {
            let err = lane.put(&row.parcel(below, name.as_bytes(), b"x")).await.unwrap_err();
            assert_eq!(err.fault, Fault::Message, "{}: {below} {name}: {err}", row.name());
            assert!(!err.what.contains(|c: char| c.is_control()), "{}", err.what);
        }
        assert_eq!(std::fs::read_dir(row.root()).unwrap().count(), before, "{}", row.name());
    }
}

#[tokio::test]
async fn mode_and_time_are_as_asked_for() {
    for row in rows() {
        for lock in row.locks() {
            let mode = row.has_no_modes().is_none().then_some(0o640);
            let mut lane = lane(Options {
                lock,
                mode,
                ..row.options()
            });
            let time = "2026-11-21T12:00:00Z".parse().unwrap();
            let mut parcel = row.parcel("", b"timed", b"x");
            parcel.modified = Some(time);
            lane.put(&parcel).await.unwrap();
            let there = std::fs::metadata(row.at(b"timed")).unwrap();
            match row.has_no_modes() {
                Some(why) => row.leaves_out("modes", why),
                None => assert_eq!(there.permissions().mode() & 0o777, 0o640, "{}", row.name()),
            }
            match row.has_no_times() {
                Some(why) => row.leaves_out("times", why),
                None => assert_eq!(there.mtime(), time.as_second(), "{}", row.name()),
            }
        }
    }
}

#[tokio::test]
async fn no_more_is_sent_than_the_bandwidth_allows() {
    for row in rows() {
        let deliverer = px::transfer::deliver::Deliverer::new(Options {
            bandwidth: Some(100_000),
            ..row.options()
        })
        .unwrap();
        let (mut one, mut other) = (deliverer.lane(), deliverer.lane());
        let (first, second) = (
            row.parcel("", b"1", &bytes(30_000)),
            row.parcel("", b"2", &bytes(30_000)),
        );
        let begun = std::time::Instant::now();
        let puts = tokio::join!(one.put(&first), other.put(&second));
        let took = begun.elapsed();
        assert!(puts.0.is_ok() && puts.1.is_ok(), "{}: {puts:?}", row.name());
        // 60 kB at 100 kB a second, less what is lent at the beginning.
        assert!(took >= Duration::from_millis(500), "{}: {took:?}", row.name());
        assert_eq!(row.read(b"1").unwrap(), bytes(30_000));
    }
}

#[test]
fn every_way_of_hiding_is_taken_by_some_destination() {
    let locks: Vec<Lock> = rows().iter().flat_map(|row| row.locks()).collect();
    for lock in [Lock::Suffix(".tmp".into()), Lock::Umask, Lock::None] {
        assert!(locks.contains(&lock), "{lock:?}");
    }
}
