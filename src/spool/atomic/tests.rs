use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::symlink;

use super::*;

fn tree(durability: Durability) -> (tempfile::TempDir, Tree) {
    let dir = tempfile::tempdir().unwrap();
    let tree = Tree::open(&dir.path().join("out"), true, durability).unwrap();
    (dir, tree)
}

fn names(path: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(path)
        .unwrap()
        .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

fn time(text: &str) -> Option<Timestamp> {
    Some(text.parse().unwrap())
}

async fn put(tree: &Tree, safety: &Safety, path: &[u8], bytes: &[u8], at: Option<Timestamp>) -> Placed {
    let mut draft = tree.create(path).unwrap();
    draft.write_all(bytes).unwrap();
    safety.place(draft, at).await.unwrap()
}

#[tokio::test]
async fn a_file_appears_whole_with_its_directories_and_time() {
    for durability in [Durability::Power, Durability::Crash] {
        let (_dir, tree) = tree(durability);
        let safety = Safety::new(durability).unwrap();
        let _job = safety.enter();
        let at = time("2026-11-21T21:03:37.617Z");
        assert_eq!(put(&tree, &safety, b"a//b/c.grib", b"1234", at).await, Placed::New);
        assert_eq!(fs::read(tree.root().join("a/b/c.grib")).unwrap(), b"1234");
        assert_eq!(tree.mtime(b"a/b/c.grib").unwrap(), at);
        assert_eq!(names(&tree.root().join("a/b")), ["c.grib"]);
    }
}

#[tokio::test]
async fn an_older_announcement_never_replaces_a_newer_file() {
    let (_dir, tree) = tree(Durability::Crash);
    let safety = Safety::Crash;
    let (old, new) = (time("2026-11-21T00:00:00Z"), time("2026-11-21T00:00:00.001Z"));
    assert_eq!(put(&tree, &safety, b"x", b"new", new).await, Placed::New);
    assert_eq!(put(&tree, &safety, b"x", b"old", old).await, Placed::KeptNewer);
    assert_eq!(fs::read(tree.root().join("x")).unwrap(), b"new");
    assert_eq!(names(tree.root()), ["x"], "the draft is gone");
    assert_eq!(put(&tree, &safety, b"x", b"again", new).await, Placed::Replaced);
    assert_eq!(fs::read(tree.root().join("x")).unwrap(), b"again");
}

#[test]
fn before_1970_and_far_ahead_are_times_too() {
    assert_eq!(timespec("1969-12-31T23:59:59.25Z".parse().unwrap()).tv_sec, -1);
    assert_eq!(
        timespec("1969-12-31T23:59:59.25Z".parse().unwrap()).tv_nsec,
        250_000_000
    );
    assert_eq!(timespec("2500-01-01T00:00:00Z".parse().unwrap()).tv_nsec, 0);
}

#[test]
fn hostile_paths_are_the_messages_fault_and_leave_nothing_behind() {
    let (_dir, tree) = tree(Durability::Crash);
    let long = [b'n'; 300];
    let deep = b"d/".repeat(3000);
    let deep = [deep.as_slice(), b"x"].concat();
    let bad: [&[u8]; 14] = [
        b"",
        b"/",
        b"/etc/passwd",
        b"..",
        b"../x",
        b"a/../../x",
        b"a/..",
        b"./x",
        b"a/",
        b"a\0b",
        b"a/\0",
        &long,
        &deep,
        b".px-0123456789abcdef-1f.tmp",
    ];
    for path in bad {
        let err = tree.create(path).unwrap_err();
        assert_eq!(err.fault, Fault::Message, "{err}");
        assert!(err.what.len() < 1000);
        assert_eq!(tree.mtime(path).unwrap_err().fault, Fault::Message);
    }
    assert!(names(tree.root()).is_empty());
}

#[tokio::test]
async fn a_name_of_255_bytes_fits() {
    let (_dir, tree) = tree(Durability::Crash);
    let name = [b'n'; 255];
    assert_eq!(put(&tree, &Safety::Crash, &name, b"x", None).await, Placed::New);
}

#[tokio::test]
async fn symbolic_links_and_files_in_the_way_are_not_followed() {
    let (dir, tree) = tree(Durability::Crash);
    let outside = dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("victim"), "untouched").unwrap();
    symlink(&outside, tree.root().join("link")).unwrap();
    symlink("/proc/self/cwd", tree.root().join("magic")).unwrap();
    fs::create_dir(tree.root().join("in")).unwrap();
    symlink("in", tree.root().join("inner")).unwrap();
    fs::write(tree.root().join("file"), "x").unwrap();
    for path in [
        &b"link/x"[..],
        b"link/new/x",
        b"magic/x",
        b"inner/x",
        b"file/x",
        b"file/y/x",
    ] {
        let err = tree.create(path).unwrap_err();
        assert_eq!(err.fault, Fault::Message, "{err}");
    }
    assert_eq!(names(&outside), ["victim"]);
    // A link under the final name is replaced itself, not written through.
    symlink(outside.join("victim"), tree.root().join("final")).unwrap();
    put(&tree, &Safety::Crash, b"final", b"bytes", time("1999-01-01T00:00:00Z")).await;
    assert_eq!(fs::read(outside.join("victim")).unwrap(), b"untouched");
    assert!(tree.root().join("final").symlink_metadata().unwrap().is_file());
    // A directory under the final name stays.
    let draft = tree.create(b"in").unwrap();
    assert_eq!(
        Safety::Crash.place(draft, None).await.unwrap_err().fault,
        Fault::Message
    );
    assert!(tree.root().join("in").is_dir());
}

#[tokio::test]
async fn the_places_own_faults_are_own() {
    let (_dir, tree) = tree(Durability::Crash);
    let draft = tree.create(b"a/x").unwrap();
    fs::remove_dir_all(tree.root()).unwrap();
    assert_eq!(Safety::Crash.place(draft, None).await.unwrap_err().fault, Fault::Own);
    let err = tree.create(b"a/x").unwrap_err();
    assert_eq!(err.fault, Fault::Own, "{err}");
    assert!(!tree.root().exists(), "a root that vanished is not made again");
    for errno in [
        Errno::NOSPC,
        Errno::DQUOT,
        Errno::ROFS,
        Errno::ACCESS,
        Errno::MFILE,
        Errno::NFILE,
        Errno::IO,
    ] {
        assert_eq!(classify(errno, "x").fault, Fault::Own);
    }
}

#[test]
fn a_sweep_removes_what_the_dead_left_and_nothing_else() {
    let (_dir, tree) = tree(Durability::Crash);
    let old = SystemTime::now() - Duration::from_secs(3600);
    let age = |path: &Path| File::open(path).unwrap().set_modified(old).unwrap();
    fs::create_dir_all(tree.root().join("a/b")).unwrap();
    let dead = tree.root().join("a/b/.px-0123456789abcdef-1f.tmp");
    for name in [
        "a/b/.px-0123456789abcdef-1f.tmp",
        "a/b/.px-notes.tmp",
        "a/.hidden",
        "a/real",
    ] {
        fs::write(tree.root().join(name), "x").unwrap();
        age(&tree.root().join(name));
    }
    symlink(&dead, tree.root().join(".px-0123456789abcdef-2.tmp")).unwrap();
    let alive = tree.create(b"a/b/mine").unwrap();
    age(&tree.root().join("a/b").join(&alive.temporary));
    let young = tree.root().join("a/.px-0123456789abcdef-3.tmp");
    fs::write(&young, "x").unwrap();

    let before = SystemTime::now() - Duration::from_secs(60);
    assert!(tree.sweep(before, 1).unwrap().is_partial);
    let swept = tree.sweep(before, 1000).unwrap();
    assert_eq!((swept.removed, swept.is_partial), (1, false));
    assert!(!dead.exists());
    assert!(young.exists());
    assert_eq!(
        names(&tree.root().join("a/b")).len(),
        2,
        "the living draft and the file of another naming"
    );
}

/// Else a directory in the way would look like a newer product, and the announced one would be let go of in silence.
#[test]
fn what_is_no_file_has_no_age() {
    let (_dir, tree) = tree(Durability::Crash);
    fs::create_dir_all(tree.root().join("a/product")).unwrap();
    fs::write(tree.root().join("a/file"), "x").unwrap();
    assert_eq!(tree.mtime(b"a/product").unwrap(), None);
    assert!(tree.mtime(b"a/file").unwrap().is_some());
}

#[test]
fn a_dropped_draft_is_removed() {
    let (_dir, tree) = tree(Durability::Power);
    drop(tree.create(b"x").unwrap());
    assert!(names(tree.root()).is_empty());
}

/// Else whoever follows the directory meets the file, finds a writer, and waits.
#[test]
fn nobody_writes_to_a_file_that_has_its_name() {
    use crate::spool::tree::lease::{Writers, writers_of};
    for durability in [Durability::Power, Durability::Crash] {
        let (_dir, tree) = tree(durability);
        let mut draft = tree.create(b"x").unwrap();
        draft.write_all(b"x").unwrap();
        let placed = draft.try_finish(durability, time("2026-11-21T00:00:00Z"));
        assert_eq!(placed, Ok(Placed::New));
        assert_eq!(fs::read(tree.root().join("x")).unwrap(), b"x");
        assert_eq!(writers_of(draft.file.as_fd()), Writers::None, "{durability:?}");
    }
}
