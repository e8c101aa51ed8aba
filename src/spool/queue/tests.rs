use super::*;

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;

use crate::spool::inventory::Version;

const BATCH: usize = 3;

struct World {
    dir: tempfile::TempDir,
    queue: Queue,
}

fn world_with(shape: Shape, change: impl FnOnce(&mut Options)) -> World {
    let dir = tempfile::tempdir().unwrap();
    let mut options = Options {
        shape,
        order: Order::Priority,
        batch: BATCH,
        min_age: Duration::ZERO,
    };
    change(&mut options);
    let queue = Queue::open(&dir.path().join("q"), options).unwrap();
    World { dir, queue }
}

fn world() -> World {
    world_with(Shape::Priorities, |_| {})
}

impl World {
    fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join("q").join(below)
    }

    fn drop(&self, below: &str) {
        let path = self.path(below);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, below).unwrap();
    }

    fn age(&self, below: &str, seconds: u64) {
        let file = fs::File::options().write(true).open(self.path(below)).unwrap();
        let time = std::time::SystemTime::now() - Duration::from_secs(seconds);
        file.set_modified(time).unwrap();
    }

    fn pass(&self) -> Pass {
        self.queue.pass(Timestamp::now()).unwrap()
    }

    fn listed(&self) -> Vec<String> {
        shown(self.pass().files)
    }

    fn file(&self, below: &str) -> Queued {
        Queued::new(below.into(), self.queue.options.shape)
    }
}

fn shown(files: impl IntoIterator<Item = Queued>) -> Vec<String> {
    let files = files.into_iter();
    files
        .map(|file| String::from_utf8_lossy(file.path()).into_owned())
        .collect()
}

/// A px-style name of this priority and second.
fn name(priority: &str, second: u32) -> String {
    format!("a:ncp1:CWAO:SA:{priority}:Direct:202611211200{second:02}")
}

#[test]
fn files_leave_by_the_priority_and_stamp_in_their_names_then_by_path() {
    let world = world_with(Shape::Priorities, |options| options.batch = 100);
    let pds = "r.gif:URP:XSS:RADAR:GIF::20130606144709";
    let paths = [
        format!("3/2026112112/{}", name("3", 5)),
        format!("1/2026112112/{}", name("3", 5)),
        format!("3/2026112111/{}", name("1.A.I.E", 9)),
        format!("0/2026112111/{}", name("5", 0)),
        format!("5/2026112111/{pds}"),
        format!("3/2026112111/{}", name("3", 4)),
    ];
    for path in &paths {
        world.drop(path);
    }
    let order: Vec<&str> = [2, 4, 5, 1, 0, 3].map(|n: usize| paths[n].as_str()).to_vec();
    assert_eq!(world.listed(), order);
    assert_eq!(world.pass().files[5].priority(), Some(0));
}

#[test]
fn hours_are_read_in_order_until_there_is_a_batch_and_each_whole() {
    let world = world();
    for hour in ["0/2026112101", "1/2026112102", "1/2026112101", "3/2026112101", "5/x"] {
        for second in 0..2 {
            world.drop(&format!("{hour}/{}", name("3", second)));
        }
    }
    let listed = world.listed();
    assert_eq!(listed.len(), 4, "{listed:?}");
    assert!(
        listed
            .iter()
            .all(|path| path.starts_with("0/2026112101/") || path.starts_with("1/2026112101/")),
        "{listed:?}"
    );
}

#[test]
fn what_is_no_queued_file_is_never_read() {
    let world = world();
    for path in [
        "3/h/.dot",
        "3/h/half.tmp",
        "3/h/dir.tmp/a",
        "3/h/.dir/a",
        "3/beside-the-hours",
        "beside",
        ".lock",
        "6/h/a",
        "33/h/a",
        "GIF/h/a",
        "PROBLEM/a",
        "PROBLEM/h/a",
        "elsewhere",
    ] {
        world.drop(path);
    }
    std::os::unix::fs::symlink(world.path("elsewhere"), world.path("3/h/link")).unwrap();
    std::os::unix::fs::symlink(world.path("GIF"), world.path("4")).unwrap();
    world.drop("3/h/below/and/further");
    world.drop("3/h/plain");
    assert_eq!(world.listed(), ["3/h/below/and/further", "3/h/plain"]);
}

#[test]
fn a_flat_queue_is_read_whole_with_what_is_below() {
    let world = world_with(Shape::Flat, |options| options.order = Order::Mtime);
    for (path, age) in [
        ("b", 10),
        ("a", 30),
        ("sub/dir/c", 20),
        ("3/d", 40),
        (".lock", 50),
        ("x.tmp", 60),
    ] {
        world.drop(path);
        world.age(path, age);
    }
    assert_eq!(world.listed(), ["3/d", "a", "sub/dir/c", "b"]);
    let mut pass = world.pass();
    assert_eq!(pass.files[0].priority(), None);
    assert!(world.queue.overtaking(&mut pass, Timestamp::now()).unwrap().is_empty());
}

#[test]
fn files_from_before_1970_are_the_oldest() {
    let world = world_with(Shape::Flat, |options| options.order = Order::Mtime);
    for path in ["new", "old"] {
        world.drop(path);
    }
    let file = fs::File::options().write(true).open(world.path("old")).unwrap();
    file.set_modified(std::time::UNIX_EPOCH - Duration::from_secs(1))
        .unwrap();
    assert_eq!(world.listed(), ["old", "new"]);
}

#[test]
fn young_files_wait_and_do_not_count_towards_a_batch() {
    let world = world_with(Shape::Priorities, |options| options.min_age = Duration::from_secs(60));
    for second in 0..5 {
        world.drop(&format!("0/h/{}", name("3", second)));
    }
    world.drop("4/h/old");
    world.age("4/h/old", 100);
    assert_eq!(world.listed(), ["4/h/old"]);
    let later = Timestamp::now() + jiff::SignedDuration::from_secs(61);
    assert_eq!(world.queue.pass(later).unwrap().files.len(), 5);
}

#[test]
fn what_may_not_be_read_is_not_shown() {
    if rustix::process::geteuid().is_root() {
        // Root may read everything; tests/e2e/sender.rs runs as another user.
        return;
    }
    let world = world();
    world.drop("3/h/a");
    world.drop("3/locked/a");
    fs::set_permissions(world.path("3/h/a"), fs::Permissions::from_mode(0o000)).unwrap();
    fs::set_permissions(world.path("3/locked"), fs::Permissions::from_mode(0o000)).unwrap();
    let pass = world.pass();
    fs::set_permissions(world.path("3/locked"), fs::Permissions::from_mode(0o755)).unwrap();
    assert!(pass.files.is_empty());
    assert_eq!(pass.unread, [(b"3/locked".to_vec(), Errno::ACCESS)]);
}

#[test]
fn held_files_are_left_out_until_then() {
    let world = world();
    for path in ["0/h/a", "0/h/b", "0/h/c", "0/h/d", "3/h/e"] {
        world.drop(path);
    }
    let soon = Instant::now() + Duration::from_secs(60);
    world.queue.hold(&world.file("0/h/a"), soon);
    world.queue.hold(&world.file("0/h/d"), Instant::now());
    world.queue.hold_while_written(&world.file("0/h/b"), soon);
    world.queue.hold_for_good(&world.file("0/h/c"), None);
    // Held files do not count towards a batch either.
    assert_eq!(world.listed(), ["0/h/d", "3/h/e"]);
    world.queue.look_at_written();
    assert_eq!(world.listed(), ["0/h/b", "0/h/d", "3/h/e"]);
    world.queue.release(&world.file("0/h/c"));
    assert_eq!(world.listed(), ["0/h/b", "0/h/c", "0/h/d"]);
}

#[test]
fn what_comes_into_more_urgent_directories_overtakes_once() {
    let world = world();
    world.drop("1/h/known");
    for n in 0..5 {
        world.drop(&format!("3/h/{n}"));
    }
    let mut pass = world.pass();
    assert_eq!(pass.files.len(), 6);
    let mut overtaking = |world: &World| shown(world.queue.overtaking(&mut pass, Timestamp::now()).unwrap());
    assert!(overtaking(&world).is_empty());
    for path in ["0/new/b", "0/new/a", "1/h/late", "3/h/late", "4/h/late", "0/new/.x"] {
        world.drop(path);
    }
    assert_eq!(overtaking(&world), ["0/new/a", "0/new/b", "1/h/late"]);
    assert!(overtaking(&world).is_empty());
    // Sent and put there once more.
    fs::remove_file(world.path("0/new/a")).unwrap();
    assert!(overtaking(&world).is_empty());
    world.drop("0/new/a");
    assert_eq!(overtaking(&world), ["0/new/a"]);
}

/// However many there are, a pass has the first.
#[test]
fn a_pass_keeps_the_first_in_order_and_all_that_is_urgent() {
    let world = world_with(Shape::Priorities, |options| options.batch = 100);
    let hour = world.path("3/h");
    fs::create_dir_all(&hour).unwrap();
    for n in 0..PASS_MAX + 50 {
        // Listed in no order.
        let n = n * 7919 % (PASS_MAX + 50);
        let name = format!("f:a:b:c:3::2026{n:010}");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            hour.join(name),
            rustix::fs::FileType::RegularFile,
            rustix::fs::Mode::from_raw_mode(0o644),
            0,
        )
        .unwrap();
    }
    // By its name it would come last.
    world.drop(&format!("0/h/{}", name("5", 0)));
    let pass = world.pass();
    assert_eq!(pass.files.len(), PASS_MAX);
    assert_eq!(pass.files[0].name(), b"f:a:b:c:3::20260000000000");
    assert_eq!(pass.files[PASS_MAX - 1].priority(), Some(0));
    let second_last = format!("f:a:b:c:3::2026{:010}", PASS_MAX - 2);
    assert_eq!(pass.files[PASS_MAX - 2].name(), second_last.as_bytes());
}

fn read(world: &World, below: &str) -> Read {
    world.queue.reader().unwrap().read(&world.file(below), |_| true)
}

#[test]
fn a_file_is_read_whole_and_as_it_is() {
    let world = world();
    for (path, bytes) in [
        ("3/h/empty", &b""[..]),
        ("3/h/bytes", b"\0\xff\n"),
        ("3/h/a/b", b"deep"),
    ] {
        world.drop(path);
        fs::write(world.path(path), bytes).unwrap();
        match read(&world, path) {
            Read::Content(content) => {
                assert_eq!((&content.bytes[..], content.version.size), (bytes, bytes.len() as u64));
            }
            other => panic!("{path}: {other:?}"),
        }
    }
    let refused = world
        .queue
        .reader()
        .unwrap()
        .read(&world.file("3/h/bytes"), |size| size < 3);
    assert!(matches!(refused, Read::NoRoom(3)), "{refused:?}");
}

#[test]
fn a_file_that_a_writer_has_and_one_that_is_gone_are_told_apart() {
    let world = world();
    world.drop("3/h/a");
    let writer = fs::File::options().append(true).open(world.path("3/h/a")).unwrap();
    assert!(matches!(read(&world, "3/h/a"), Read::Written));
    drop(writer);
    assert!(matches!(read(&world, "3/h/a"), Read::Content(_)));
    fs::remove_file(world.path("3/h/a")).unwrap();
    assert!(matches!(read(&world, "3/h/a"), Read::Gone));
    assert!(matches!(read(&world, "3/gone/a"), Read::Gone));
    world.drop("elsewhere");
    std::os::unix::fs::symlink(world.path("elsewhere"), world.path("3/h/a")).unwrap();
    assert!(matches!(read(&world, "3/h/a"), Read::Gone));
    fs::create_dir(world.path("3/h/b")).unwrap();
    assert!(matches!(read(&world, "3/h/b"), Read::Gone));
}

#[test]
fn only_the_version_that_was_read_is_removed() {
    let world = world();
    world.drop("3/h/a");
    let Read::Content(content) = read(&world, "3/h/a") else {
        panic!("not read")
    };
    fs::write(world.path("new"), "another").unwrap();
    fs::rename(world.path("new"), world.path("3/h/a")).unwrap();
    let mut reader = world.queue.reader().unwrap();
    let file = world.file("3/h/a");
    assert_eq!(reader.remove(&file, Some(content.version)), Removed::Changed);
    assert!(world.path("3/h/a").exists());
    assert_eq!(reader.set_aside(&file, Some(content.version)).unwrap(), None);
    assert_eq!(reader.remove(&file, None), Removed::Gone);
    assert_eq!(reader.remove(&file, None), Removed::Gone);
    assert_eq!(reader.remove(&world.file("3/gone/a"), None), Removed::Gone);
}

/// Another name of the file, in the database or in another queue, is somebody else's.
#[test]
fn removing_a_hard_link_leaves_the_others() {
    let world = world();
    world.drop("3/h/a");
    let other = world.dir.path().join("db");
    fs::hard_link(world.path("3/h/a"), &other).unwrap();
    let mut reader = world.queue.reader().unwrap();
    assert_eq!(reader.remove(&world.file("3/h/a"), None), Removed::Gone);
    assert_eq!(fs::read_to_string(other).unwrap(), "3/h/a");
}

#[test]
fn what_is_set_aside_replaces_nothing() {
    let world = world();
    let long = "x".repeat(255);
    for name in ["a", long.as_str()] {
        let mut places = Vec::new();
        for hour in ["1/h", "2/h", "3/h"] {
            let path = format!("{hour}/{name}");
            world.drop(&path);
            let mut reader = world.queue.reader().unwrap();
            let place = reader.set_aside(&world.file(&path), None).unwrap().unwrap();
            assert!(!world.path(&path).exists());
            assert_eq!(fs::read_to_string(&place).unwrap(), path);
            places.push(place.file_name().unwrap().as_bytes().to_vec());
        }
        places.dedup();
        assert_eq!(places.len(), 3);
        assert_eq!(places[0], name.as_bytes());
    }
    assert!(world.listed().is_empty());
}

#[test]
fn without_a_place_for_it_a_file_stays_and_that_is_an_error() {
    let world = world();
    world.drop(PROBLEM);
    world.drop("3/h/a");
    let mut reader = world.queue.reader().unwrap();
    let error = reader.set_aside(&world.file("3/h/a"), None).unwrap_err();
    assert!(error.line().contains("PROBLEM: Not a directory"), "{}", error.line());
    assert!(world.path("3/h/a").exists());
    fs::remove_file(world.path("3/h/a")).unwrap();
    assert_eq!(reader.set_aside(&world.file("3/h/a"), None).unwrap(), None);
}

/// Killed between the link and the unlink.
#[test]
fn what_was_set_aside_by_half_is_set_aside_once() {
    let world = world();
    world.drop("3/h/a");
    fs::create_dir(world.path(PROBLEM)).unwrap();
    fs::hard_link(world.path("3/h/a"), world.path("PROBLEM/a")).unwrap();
    let mut reader = world.queue.reader().unwrap();
    let place = reader.set_aside(&world.file("3/h/a"), None).unwrap().unwrap();
    assert_eq!(place, world.path("PROBLEM/a"));
    assert!(!world.path("3/h/a").exists());
    assert_eq!(fs::read_dir(world.path(PROBLEM)).unwrap().count(), 1);
}

#[test]
fn a_queue_that_has_gone_is_this_hosts_fault() {
    let world = world();
    fs::remove_dir(world.path("")).unwrap();
    let error = world.queue.pass(Timestamp::now()).unwrap_err();
    assert!(error.line().contains("cannot read the queue"), "{}", error.line());
    assert!(world.queue.reader().is_err());
}

#[test]
fn versions_differ_by_inode_size_and_time() {
    let world = world();
    world.drop("3/h/a");
    let version = |world: &World| match read(world, "3/h/a") {
        Read::Content(content) => content.version,
        other => panic!("{other:?}"),
    };
    let first: Version = version(&world);
    world.age("3/h/a", 100);
    assert_ne!(version(&world), first);
}

#[tokio::test]
async fn the_kernel_tells_of_files_and_of_new_directories() {
    let world = world();
    let mut told = world.queue.waker();
    let long = Duration::from_secs(20);
    assert!(world.listed().is_empty());
    for path in ["3/h/a", "3/h/b", "3/new/a", "0/h/a"] {
        let begun = Instant::now();
        world.drop(path);
        // A directory is told of first, and watched by the pass that follows.
        while !world.listed().contains(&path.to_string()) {
            assert!(told.wait(long).await, "{path}");
        }
        assert!(begun.elapsed() < long);
        fs::remove_file(world.path(path)).unwrap();
    }
    fs::write(world.path("3/h/c.tmp"), "").unwrap();
    fs::rename(world.path("3/h/c.tmp"), world.path("3/h/c")).unwrap();
    assert!(told.wait(long).await);
    // Nothing happens: the time passes.
    while told.wait(Duration::from_millis(20)).await {}
    let world = World {
        queue: Queue {
            waker: waker::Source::none(),
            ..world.queue
        },
        dir: world.dir,
    };
    told = world.queue.waker();
    assert!(!told.wait(Duration::from_millis(1)).await);
    assert_eq!(world.listed(), ["3/h/c"]);
}

#[test]
fn all_that_waits_is_counted_up_to_a_bound() {
    let world = world();
    for path in ["0/h/a", "3/h/b", "3/h/deep/c", "5/i/d", "3/h/.e", "3/beside", "GIF/h/f"] {
        world.drop(path);
    }
    world.queue.hold_for_good(&world.file("3/h/b"), None);
    assert_eq!([2, 4, 9].map(|max| world.queue.count(max).unwrap()), [2, 4, 4]);
}

#[test]
fn a_pass_knows_whether_it_saw_all_and_tells_of_what_it_could_not() {
    let world = world();
    world.drop("3/h/a");
    let mut pass = world.pass();
    assert!(pass.is_whole && pass.unread_text().is_none());
    for path in ["3/h/b", "3/h/c", "4/h/d"] {
        world.drop(path);
    }
    assert!(!world.pass().is_whole);
    pass.unread = vec![(b"3/i".to_vec(), Errno::ACCESS), (b"3/h".to_vec(), Errno::IO)];
    let text = pass.unread_text().unwrap();
    assert!(text.starts_with("cannot read 3/h and 1 more in the queue: "), "{text}");
}

#[test]
fn another_file_of_a_name_that_is_held_for_good_is_shown() {
    let world = world();
    world.drop("3/h/a");
    world.queue.hold_for_good(&world.file("3/h/a"), None);
    assert!(world.listed().is_empty() && world.listed().is_empty());
    world.age("3/h/a", 100);
    assert_eq!(world.listed(), ["3/h/a"]);
    let Read::Content(content) = read(&world, "3/h/a") else {
        panic!("not read")
    };
    world.queue.hold_for_good(&world.file("3/h/a"), Some(content.version));
    assert!(world.listed().is_empty());
    world.age("3/h/a", 50);
    assert_eq!(world.listed(), ["3/h/a"]);
}

/// However many urgent files come, each is offered once, and while a batch of them leads they are not listed again.
#[test]
fn a_flood_of_urgent_files_is_offered_once_and_bounded() {
    let world = world_with(Shape::Priorities, |options| options.batch = 100);
    world.drop("3/h/last");
    let mut pass = world.pass();
    fs::create_dir_all(world.path("1/h")).unwrap();
    for n in 0..PASS_MAX + 500 {
        let path = world.path(&format!("1/h/{n:06}"));
        let mode = rustix::fs::Mode::from_raw_mode(0o644);
        rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::RegularFile, mode, 0).unwrap();
    }
    let mut seen = HashSet::new();
    let mut offered = Vec::new();
    // Nothing of what is taken is settled meanwhile.
    while seen.len() < PASS_MAX + 500 {
        let found = world.queue.overtaking(&mut pass, Timestamp::now()).unwrap();
        offered.push(found.len());
        for file in found.into_iter().rev() {
            pass.files.push_front(file);
        }
        assert!(pass.files.len() <= PASS_MAX);
        for file in pass.files.drain(..100.min(pass.files.len())) {
            assert!(seen.insert(file.path.clone()), "twice: {file:?}");
        }
    }
    offered.retain(|count| *count > 0);
    // The file of 3 counts, for its directory is not the last one either.
    assert_eq!(offered, [PASS_MAX - 1, 501]);
    world.drop("0/h/first");
    let found = world.queue.overtaking(&mut pass, Timestamp::now()).unwrap();
    assert_eq!(shown(found), ["0/h/first"]);
}
