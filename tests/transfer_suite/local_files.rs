use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;

use px::message::Fault;
use px::transfer::policy::Policy;
use px::transfer::{Fetched, Fetcher, Kind, Options, TransferError, Wanted};
use rustix::fs::{CWD, FileType, Mode, mknodat};

fn fetcher(root: &Path) -> Fetcher {
    let policy = Policy {
        file_roots: vec![root.to_owned()],
        ..Policy::default()
    };
    Fetcher::new(Options {
        policy,
        ..Options::default()
    })
    .unwrap()
}

async fn fetch(
    fetcher: &Fetcher,
    root: &Path,
    path: &str,
    size: Option<u64>,
) -> Result<Fetched<Vec<u8>>, TransferError> {
    let wanted = Wanted {
        url: format!("file://{}/{path}", root.display()),
        size,
        identity: None,
    };
    fetcher.fetch(&wanted, || Ok(Vec::new())).await
}

#[tokio::test]
async fn regular_files_beneath_the_root_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    std::fs::create_dir_all(root.join("a")).unwrap();
    std::fs::write(root.join("a/x y"), "content").unwrap();
    std::fs::write(dir.path().join("secret"), "secret").unwrap();
    symlink("a/x y", root.join("inside")).unwrap();
    symlink("../secret", root.join("outside")).unwrap();
    symlink("/etc/hostname", root.join("absolute")).unwrap();
    symlink("/proc/self/root", root.join("magic")).unwrap();
    mknodat(CWD, root.join("pipe"), FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    let _listener = UnixListener::bind(root.join("socket")).unwrap();
    let fetcher = fetcher(&root);
    for path in ["a/x%20y", "inside"] {
        match fetch(&fetcher, &root, path, Some(7)).await.unwrap() {
            Fetched::AsAnnounced(body, facts) => {
                assert_eq!(body, b"content");
                assert!(facts.last_modified.is_some());
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(matches!(
        fetch(&fetcher, &root, "inside", Some(6)).await,
        Ok(Fetched::Differs(..))
    ));
    let table = [
        ("missing", Kind::Gone),
        ("a/x%20y/z", Kind::Gone),
        ("outside", Kind::NotAllowed),
        ("absolute", Kind::NotAllowed),
        ("magic/etc/hostname", Kind::NotAllowed),
        ("pipe", Kind::Rejected),
        ("socket", Kind::Rejected),
        ("a", Kind::Rejected),
        ("../secret", Kind::NotAllowed),
        ("%2e%2e/secret", Kind::NotAllowed),
        ("x%00", Kind::NotAllowed),
    ];
    for (path, kind) in table {
        let err = fetch(&fetcher, &root, path, None).await.unwrap_err();
        assert_eq!((err.fault, err.kind), (Fault::Message, kind), "{path}: {err}");
    }
    let long = "n".repeat(300);
    assert_eq!(
        fetch(&fetcher, &root, &long, None).await.unwrap_err().kind,
        Kind::Rejected
    );
}

#[tokio::test]
async fn a_root_that_is_not_mounted_is_the_endpoints_fault() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    let err = fetch(&fetcher(&root), &root, "x", None).await.unwrap_err();
    assert_eq!((err.fault, err.kind), (Fault::Endpoint, Kind::Unreachable));
}
