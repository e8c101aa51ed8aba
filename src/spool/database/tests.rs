use std::fs;

use super::*;

const STEM: &[u8] = b"a.gif:URP:XSS:RADAR:GIF:";

struct World {
    dir: tempfile::TempDir,
    rxq: Tree,
    database: Database,
}

fn world() -> World {
    let dir = tempfile::tempdir().unwrap();
    World {
        rxq: Tree::open(&dir.path().join("rxq"), true, Durability::Crash).unwrap(),
        database: Database::open(&dir.path().join("db"), Durability::Power).unwrap(),
        dir,
    }
}

impl World {
    fn source(&self, name: &str, bytes: &str) -> Source {
        fs::write(self.rxq.root().join(name), bytes).unwrap();
        self.rxq.source(name.as_bytes()).unwrap().unwrap()
    }

    fn add(&self, name: &str, at: &str) -> Entry {
        let source = self.source(name, name);
        self.database.add(&source, STEM, time(at)).unwrap()
    }

    /// A path below `db`.
    fn below(&self, path: &Path) -> String {
        let below = path.strip_prefix(self.dir.path().join("db")).unwrap();
        below.to_string_lossy().into_owned()
    }
}

fn time(text: &str) -> Timestamp {
    format!("{text}Z").parse().unwrap()
}

#[test]
fn a_product_stands_under_its_date_and_three_fields() {
    let world = world();
    let entry = world.add("one", "2026-11-21T21:03:37");
    assert_eq!(entry.name, b"a.gif:URP:XSS:RADAR:GIF::20261121210337");
    let below = world.below(&entry.path);
    assert_eq!(below, "20261121/RADAR/URP/XSS/a.gif:URP:XSS:RADAR:GIF::20261121210337");
    assert_eq!(fs::read(&entry.path).unwrap(), b"one");
    assert_eq!(
        (entry.taken, entry.to_sync.len()),
        (None, 5),
        "the directory and all that are new above it"
    );
}

#[test]
fn a_taken_stamp_goes_on_to_the_next_second_minute_and_day() {
    let world = world();
    let begun = world.add("0", "2026-11-21T23:58:58");
    let mut last = begun.clone();
    for n in 1..=65 {
        last = world.add(&n.to_string(), "2026-11-21T23:58:58");
        assert_eq!(last.taken.as_ref(), Some(&begun.path));
        assert_eq!(fs::read(&last.path).unwrap(), n.to_string().as_bytes());
    }
    assert!(last.name.ends_with(b":20261122000003") && world.below(&last.path).starts_with("20261122/RADAR/"));
    // What is free is taken again, whatever was crowded before.
    let later = world.add("later", "2026-11-22T00:00:04");
    assert!(later.name.ends_with(b":20261122000004") && later.taken.is_none());
    let other = world.source("other", "other");
    let other = world
        .database
        .add(&other, b"b.gif:URP:XSS:RADAR:GIF:", begun.at)
        .unwrap();
    assert_eq!(other.taken, None, "another name");
}

#[test]
fn a_burst_of_one_name_is_counted_on() {
    let world = world();
    let begun = std::time::Instant::now();
    let names: std::collections::HashSet<Vec<u8>> = (0..2000)
        .map(|n| world.add(&n.to_string(), "2026-11-21T12:00:00").name)
        .collect();
    assert_eq!(names.len(), 2000);
    assert!(
        begun.elapsed() < std::time::Duration::from_secs(20),
        "{:?}",
        begun.elapsed()
    );
}

#[test]
fn a_product_is_found_by_what_it_is_and_by_its_bytes_on_any_date() {
    let world = world();
    for (name, day) in [("old", "01"), ("new", "21"), ("newest", "22")] {
        world.add(name, &format!("2026-11-{day}T12:00:00"));
    }
    let found = |name: &str, stem: &[u8]| {
        let source = world.rxq.source(name.as_bytes()).unwrap().unwrap();
        let same = world.database.find_same(stem, &source).unwrap();
        let equal = world.database.find_equal(stem, source.file(), |_, _| true).unwrap();
        [same, equal].map(|entry| entry.map(|entry| world.below(&entry.path)))
    };
    for (name, day) in [("old", "01"), ("new", "21"), ("newest", "22")] {
        let path = format!("202611{day}/RADAR/URP/XSS/a.gif:URP:XSS:RADAR:GIF::202611{day}120000");
        assert_eq!(found(name, STEM), [Some(path.clone()), Some(path)]);
    }
    assert_eq!(found("old", b"b.gif:URP:XSS:RADAR:GIF:"), [None, None], "another name");
    drop(world.source("copy", "old"));
    let [same, equal] = found("copy", STEM);
    assert!(same.is_none() && equal.is_some(), "other file, equal bytes");
    drop(world.source("as long", "odl"));
    assert_eq!(found("as long", STEM), [None, None]);
    // Fed from another receiver, a file comes under its name in the database.
    let fed = "a.gif:URP:XSS:RADAR:GIF::20261121120000";
    fs::hard_link(world.rxq.root().join("new"), world.rxq.root().join(fed)).unwrap();
    assert!(found(fed, STEM)[0].as_ref().unwrap().ends_with(fed));
}

/// A directory of a busy day holds more names than a search reads.
#[test]
fn a_product_of_just_now_is_found_without_reading_the_directory() {
    let mut world = world();
    world.database.looked_at_max = 0;
    let source = world.source("one", "bytes");
    let entry = world.database.add(&source, STEM, Timestamp::now()).unwrap();
    let ahead = Timestamp::now() + SignedDuration::from_secs(PROBED_S - 10);
    let other = world.source("two", "other bytes");
    let later = world.database.add(&other, STEM, ahead).unwrap();
    for (source, entry) in [(source, entry), (other, later)] {
        let found = world.database.find_same(STEM, &source).unwrap().unwrap();
        assert_eq!(
            (found.path, found.at.as_second()),
            (entry.path.clone(), entry.at.as_second())
        );
        let found = world.database.find_equal(STEM, source.file(), |_, _| true).unwrap();
        assert_eq!(found.unwrap().path, entry.path);
    }
}

#[test]
fn what_is_no_date_or_no_file_is_passed_over() {
    let world = world();
    world.add("one", "2026-11-21T12:00:00");
    let db = world.dir.path().join("db");
    std::os::unix::fs::symlink(db.join("20261121"), db.join("yesterday")).unwrap();
    std::os::unix::fs::symlink(db.join("20261121"), db.join("20261122")).unwrap();
    fs::create_dir_all(db.join("20261121/RADAR/URP/XSS/a.gif:URP:XSS:RADAR:GIF::20261121130000")).unwrap();
    let source = world.rxq.source(b"one").unwrap().unwrap();
    let found = world.database.find_same(STEM, &source).unwrap().unwrap();
    assert!(found.path.starts_with(db.join("20261121")));
}

#[test]
fn a_name_that_would_leave_its_place_is_the_messages_fault() {
    let world = world();
    let source = world.source("one", "1");
    let long = [b"a:b:c:", [b'x'; 300].as_slice(), b":e:"].concat();
    for stem in [&b"a:..:c:d:e:"[..], b"a:b:.:d:e:", b"a:b:c:..:e:", b"a:b:c", b"", &long] {
        let error = world
            .database
            .add(&source, stem, time("2026-11-21T12:00:00"))
            .unwrap_err();
        assert_eq!(error.fault, Fault::Message, "{error}");
    }
    assert_eq!(fs::read_dir(world.dir.path()).unwrap().count(), 2, "db and rxq");
    let empty = world
        .database
        .add(&source, b"a::::3:", time("2026-11-21T12:00:00"))
        .unwrap();
    assert_eq!(world.below(&empty.path), "20261121/a::::3::20261121120000");
}
