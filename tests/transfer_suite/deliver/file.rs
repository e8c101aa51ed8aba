//! Directories of this host; and what only they have.

use std::os::unix::fs::{MetadataExt, symlink};
use std::path::PathBuf;
use std::process::Command;

use px::message::Fault;
use px::spool::Durability;
use px::transfer::Kind;
use px::transfer::deliver::{Destination, Lock, Options};

use super::row::{Row, Server, lane};
use crate::private::{is_private, unshare};

pub struct Directory(tempfile::TempDir);

impl Directory {
    pub fn start() -> Directory {
        Directory(tempfile::tempdir().unwrap())
    }
}

impl Row for Directory {
    fn name(&self) -> &'static str {
        "file"
    }

    fn destination(&self) -> Destination {
        Destination::File
    }

    fn directory(&self) -> String {
        self.0.path().to_str().unwrap().to_owned()
    }

    fn root(&self) -> PathBuf {
        self.0.path().to_owned()
    }

    fn locks(&self) -> Vec<Lock> {
        vec![Lock::Suffix(".tmp".into()), Lock::Umask, Lock::None]
    }

    fn server(&mut self) -> Result<&mut dyn Server, &'static str> {
        Err("a directory has no server")
    }

    fn replaces_in_two_steps(&self, lock: &Lock) -> Option<&'static str> {
        (*lock != Lock::Suffix(".tmp".into())).then_some("another name of the older file keeps its bytes")
    }
}

#[tokio::test]
async fn links_are_replaced_and_never_written_through() {
    for durability in [Durability::Power, Durability::Crash] {
        let directory = Directory::start();
        let row = &directory as &dyn Row;
        std::fs::write(row.at(b"precious"), "precious").unwrap();
        for lock in row.locks() {
            symlink("precious", row.at(b"soft")).unwrap();
            std::fs::hard_link(row.at(b"precious"), row.at(b"hard")).unwrap();
            symlink("precious", row.at(b"soft.tmp")).unwrap();
            let mut lane = lane(Options {
                lock,
                durability,
                ..row.options()
            });
            for name in ["soft", "hard"] {
                lane.put(&row.parcel("", name.as_bytes(), b"new")).await.unwrap();
                let there = std::fs::symlink_metadata(row.at(name.as_bytes())).unwrap();
                assert!(there.is_file() && there.nlink() == 1, "{name}");
                assert_eq!(row.read(name.as_bytes()).unwrap(), b"new");
                std::fs::remove_file(row.at(name.as_bytes())).unwrap();
            }
            assert_eq!(row.read(b"precious").unwrap(), b"precious");
            // Without a temporary name nobody touches it.
            if row.at(b"soft.tmp").is_symlink() {
                std::fs::remove_file(row.at(b"soft.tmp")).unwrap();
            }
        }
    }
}

#[tokio::test]
async fn a_directory_may_be_a_link_and_must_be_absolute() {
    let directory = Directory::start();
    let row = &directory as &dyn Row;
    std::fs::create_dir(row.at(b"real")).unwrap();
    symlink("real", row.at(b"link")).unwrap();
    let mut lane = row.lane();
    lane.put(&row.parcel("link/made", b"x", b"x")).await.unwrap();
    assert_eq!(row.read(b"real/made/x").unwrap(), b"x");
    let mut parcel = row.parcel("", b"x", b"x");
    parcel.directory = b"relative".to_vec();
    let err = lane.put(&parcel).await.unwrap_err();
    assert_eq!((err.fault, err.kind), (Fault::Message, Kind::Rejected), "{err}");
}

#[tokio::test]
async fn a_directory_under_the_final_name_is_the_products_fault() {
    let directory = Directory::start();
    let row = &directory as &dyn Row;
    std::fs::create_dir(row.at(b"taken")).unwrap();
    for lock in row.locks() {
        let mut lane = lane(Options { lock, ..row.options() });
        let err = lane.put(&row.parcel("", b"taken", b"x")).await.unwrap_err();
        assert_eq!((err.fault, err.kind), (Fault::Message, Kind::Rejected), "{err}");
        assert!(!row.at(b"taken.tmp").exists());
    }
}

#[test]
fn a_full_destination_keeps_the_old_product_and_is_its_own_fault() {
    let test = "deliver::file::a_full_destination_keeps_the_old_product_and_is_its_own_fault";
    if !is_private(test, &unshare(), &[]) {
        return;
    }
    let directory = Directory::start();
    let row = &directory as &dyn Row;
    let mount = |options: &str| {
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", options, "px-test"]).arg(row.root());
        assert!(command.status().unwrap().success());
    };
    mount("size=1m");
    let work = async {
        for (durability, bandwidth) in [(Durability::Crash, None), (Durability::Power, Some(1 << 30))] {
            let mut lane = lane(Options {
                durability,
                bandwidth,
                ..row.options()
            });
            lane.put(&row.parcel("", b"x", b"old")).await.unwrap();
            let err = lane.put(&row.parcel("", b"x", &vec![1; 3_000_000])).await.unwrap_err();
            assert_eq!((err.fault, err.kind), (Fault::Endpoint, Kind::Full), "{err} {err:?}");
            assert_eq!(row.read(b"x").unwrap(), b"old");
            assert!(
                !row.at(b"x.tmp").exists(),
                "what is half is removed, for it takes the room"
            );
            lane.put(&row.parcel("", b"y", &vec![1; 300_000])).await.unwrap();
        }
        mount("remount,size=9m");
        row.lane()
            .put(&row.parcel("", b"x", &vec![1; 3_000_000]))
            .await
            .unwrap();
        mount("remount,ro");
        let err = row.lane().put(&row.parcel("", b"x", b"x")).await.unwrap_err();
        assert_eq!((err.fault, err.kind), (Fault::Endpoint, Kind::Forbidden), "{err}");
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(work);
}
