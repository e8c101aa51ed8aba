use std::io::Write;
use std::path::Path;
use std::process::Command;

use px::message::{Envelope, Fault};
use px::spool::atomic::{Placed, Safety, Tree};
use px::spool::failed::{FailedStore, Failure, Limits};
use px::spool::{Durability, SpoolError};
use px::transfer::{Fetched, Fetcher, Kind, Options, Wanted};

use crate::private::{is_private, unshare};
use crate::server::Server;

fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(work)
}

/// A file system of `size` at `path`, gone with the process.
fn mount_tmpfs(path: &Path, options: &str) {
    std::fs::create_dir_all(path).unwrap();
    let status = Command::new("mount")
        .args(["-t", "tmpfs", "-o", options, "px-test"])
        .arg(path)
        .status()
        .unwrap();
    assert!(status.success());
}

async fn put(tree: &Tree, safety: &Safety, path: &[u8], bytes: &[u8]) -> Result<Placed, SpoolError> {
    let mut draft = tree.create(path)?;
    draft.write_all(bytes).map_err(|err| SpoolError::own("write", err))?;
    safety.place(draft, None).await
}

#[test]
fn a_full_disk_is_our_own_fault_leaves_nothing_behind_and_heals() {
    let test = "disk::a_full_disk_is_our_own_fault_leaves_nothing_behind_and_heals";
    if !is_private(test, &unshare(), &[]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("small");
    mount_tmpfs(&root, "size=1m");
    run(async {
        let server = Server::start().await;
        let fetcher = Fetcher::new(Options::default()).unwrap();
        let tree = Tree::open(&root, false, Durability::Power).unwrap();
        let wanted = Wanted {
            url: server.url("/large"),
            size: Some(3_000_000),
            identity: None,
        };
        let of_fetch = tree.clone();
        let err = fetcher
            .fetch(&wanted, move || of_fetch.create(b"a/large"))
            .await
            .unwrap_err();
        assert_eq!((err.fault, err.kind), (Fault::Own, Kind::Local));
        assert_eq!(std::fs::read_dir(root.join("a")).unwrap().count(), 0);
        mount_tmpfs(&root, "remount,size=8m");
        let of_fetch = tree.clone();
        let draft = match fetcher
            .fetch(&wanted, move || of_fetch.create(b"a/large"))
            .await
            .unwrap()
        {
            Fetched::AsAnnounced(draft, _) => draft,
            other => panic!("{other:?}"),
        };
        let safety = Safety::new(Durability::Power).unwrap();
        assert_eq!(safety.place(draft, None).await.unwrap(), Placed::New);
        assert_eq!(std::fs::metadata(root.join("a/large")).unwrap().len(), 3_000_000);
    });
}

#[test]
fn no_inodes_left_and_read_only_are_our_own_fault() {
    let test = "disk::no_inodes_left_and_read_only_are_our_own_fault";
    if !is_private(test, &unshare(), &[]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("small");
    mount_tmpfs(&root, "nr_inodes=2");
    run(async {
        let tree = Tree::open(&root, false, Durability::Power).unwrap();
        let safety = Safety::new(Durability::Power).unwrap();
        put(&tree, &safety, b"one", b"x").await.unwrap();
        for path in [&b"two"[..], b"d/three"] {
            let err = put(&tree, &safety, path, b"x").await.unwrap_err();
            assert_eq!(err.fault, Fault::Own);
            assert!(err.what.contains("disk is full"), "{err}");
        }
        mount_tmpfs(&root, "remount,ro");
        let err = put(&tree, &safety, b"one", b"x").await.unwrap_err();
        assert!(err.fault == Fault::Own && err.what.contains("read-only"), "{err}");
    });
}

#[test]
fn a_failed_store_on_a_full_disk_says_so_and_is_whole_afterwards() {
    let test = "disk::a_failed_store_on_a_full_disk_says_so_and_is_whole_afterwards";
    if !is_private(test, &unshare(), &[]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("small");
    mount_tmpfs(&root, "size=1m");
    let path = root.join("failed.db");
    let store = FailedStore::open(&path, Limits::default()).unwrap();
    let now = "2026-11-21T21:03:37Z".parse().unwrap();
    let failure = Failure {
        envelope: Envelope {
            body: vec![0; 100_000],
            ..Envelope::default()
        },
        queue: "q".into(),
        reason: "r".into(),
        fault: Fault::Message,
        attempts: 1,
        first: now,
        last: now,
        is_rubbish: false,
    };
    let mut kept = 0;
    let err = loop {
        match store.keep(&failure) {
            Ok(_) => kept += 1,
            Err(err) => break err,
        }
    };
    assert!(err.fault == Fault::Own && !err.store_full, "{err}");
    assert!(err.what.contains("the disk is full"), "{err}");
    mount_tmpfs(&root, "remount,size=8m");
    store.keep(&failure).unwrap();
    drop(store);
    let again = FailedStore::open(&path, Limits::default()).unwrap();
    assert_eq!(again.totals().unwrap().products, kept + 1);
}

/// What the kernel sees, in order, for the product `name`: calls on it, on its temporary file and its directory.
fn traced(trace: &str, directory: &str) -> Vec<&'static str> {
    let names = ["fdatasync", "renameat", "fsync"];
    let is_of_product = |line: &&str| line.contains(directory);
    trace
        .lines()
        .filter(is_of_product)
        .filter_map(|line| names.into_iter().find(|name| line.contains(&format!(" {name}"))))
        .collect()
}

#[test]
fn in_power_file_rename_directory_are_synced_in_this_order_and_in_crash_nothing() {
    let test = "disk::in_power_file_rename_directory_are_synced_in_this_order_and_in_crash_nothing";
    let dir = tempfile::tempdir().unwrap();
    let (out, root) = (dir.path().join("trace"), dir.path().join("tree"));
    let root_text = root.to_str().unwrap();
    let strace = [
        "strace",
        "-f",
        "-y",
        "-e",
        "trace=fdatasync,fsync,sync,syncfs,/^rename",
        "-o",
        out.to_str().unwrap(),
    ];
    if is_private(test, &strace, &[("PX_TEST_TREE", root_text)]) {
        let root = std::path::PathBuf::from(std::env::var_os("PX_TEST_TREE").unwrap());
        run(async {
            for (durability, path) in [(Durability::Power, &b"power/p"[..]), (Durability::Crash, b"crash/p")] {
                let tree = Tree::open(&root, true, durability).unwrap();
                let safety = Safety::new(durability).unwrap();
                let _job = safety.enter();
                put(&tree, &safety, path, b"bytes").await.unwrap();
            }
        });
        return;
    }
    let trace = std::fs::read_to_string(&out).unwrap();
    assert_eq!(
        traced(&trace, "/tree/power"),
        ["fdatasync", "renameat", "fsync"],
        "{trace}"
    );
    assert_eq!(traced(&trace, "/tree/crash"), ["renameat"], "{trace}");
    let root_synced = trace
        .lines()
        .filter(|line| line.contains("fsync") && line.contains("/tree>"))
        .count();
    assert_eq!(root_synced, 1, "the root has a new directory: {trace}");
}
