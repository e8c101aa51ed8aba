//! `px demo` as an operator runs it: what it says, what it finds, and that nothing of it stays.

use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

#[path = "../support/mod.rs"]
mod support;

use support::wait_until;

const LONG: Duration = Duration::from_secs(100);

/// A demo under way, in a root of its own.
struct Demo {
    child: Child,
    root: PathBuf,
    _dir: tempfile::TempDir,
}

impl Demo {
    fn start(options: &[&str]) -> Demo {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        let mut command = Command::new(env!("CARGO_BIN_EXE_px"));
        command.arg("demo").args(options).arg("--root").arg(&root);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        Demo { child, root, _dir: dir }
    }

    /// Waits until a product is delivered.
    fn first_delivered(&self) -> PathBuf {
        let mut first = None;
        wait_until(LONG, "a product is delivered", || {
            first = delivered(&self.root).pop();
            first.is_some()
        });
        first.unwrap()
    }

    /// What it said on both streams, and how it ended.
    fn end(&mut self) -> (ExitStatus, String, String) {
        let mut ended = None;
        wait_until(LONG, "the demo ends", || {
            ended = self.child.try_wait().unwrap();
            ended.is_some()
        });
        let (mut out, mut err) = (String::new(), String::new());
        self.child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
        self.child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
        (ended.unwrap(), out, err)
    }

    #[track_caller]
    fn assert_no_process_is_left(&self) {
        let root = self.root.as_os_str().as_bytes();
        for process in std::fs::read_dir("/proc").unwrap() {
            let process = process.unwrap().path();
            for file in ["cmdline", "environ"] {
                // Not a process, or one that has ended since.
                let text = std::fs::read(process.join(file)).unwrap_or_default();
                let names_root = text.windows(root.len()).any(|part| part == root);
                assert!(!names_root, "{}: {}", process.display(), String::from_utf8_lossy(&text));
            }
        }
    }
}

/// Products that are there, whole: px's temporary names begin with a dot.
fn delivered(root: &Path) -> Vec<PathBuf> {
    let days = std::fs::read_dir(root.join("delivered"))
        .into_iter()
        .flatten()
        .flatten();
    let files = days.flat_map(|day| std::fs::read_dir(day.path()).into_iter().flatten().flatten());
    let files = files.filter(|file| file.file_type().is_ok_and(|kind| kind.is_file()));
    let paths = files.map(|file| file.path());
    paths
        .filter(|path| !path.file_name().unwrap().as_bytes().starts_with(b"."))
        .collect()
}

/// The number in a row of the table.
#[track_caller]
fn value(table: &str, row: &str) -> u64 {
    let line = table.lines().find_map(|line| line.strip_prefix(row));
    let words = line.unwrap_or_else(|| panic!("no {row} in {table}")).split_whitespace();
    words.map_while(|word| word.parse().ok()).next().unwrap()
}

#[test]
fn every_product_arrives_though_a_server_dies() {
    let mut demo = Demo::start(&["--products", "60"]);
    let (status, out, err) = demo.end();
    assert!(status.success(), "{out}{err}");
    assert_eq!(value(&out, "lost"), 0, "{out}");
    assert_eq!(value(&out, "announced"), 120, "{out}");
    assert_eq!(value(&out, "ignored as duplicates"), 60, "{out}");
    assert_eq!(value(&out, "fetched"), 60, "{out}");
    assert!(value(&out, "from alternates") > 0, "{out}");
    assert!(out.contains("urp-1: its file server is killed"), "{out}");
    demo.assert_no_process_is_left();
    assert!(!demo.root.exists());
}

#[test]
fn a_product_removed_behind_its_back_is_lost() {
    let mut demo = Demo::start(&["--products", "40", "--keep"]);
    std::fs::remove_file(demo.first_delivered()).unwrap();
    let (status, out, err) = demo.end();
    assert_eq!(status.code(), Some(1), "{out}{err}");
    assert_eq!(value(&out, "lost"), 1, "{out}");
    assert!(err.contains("px: lost: ") && err.contains("not delivered"), "{err}");
    demo.assert_no_process_is_left();
    assert_eq!(delivered(&demo.root).len(), 39);
    assert!(
        out.contains(&format!("PX_ROOT={} px status", demo.root.display())),
        "{out}"
    );
}

#[test]
fn ctrl_c_ends_everything_that_was_started() {
    let mut demo = Demo::start(&["--products", "1000"]);
    demo.first_delivered();
    kill_process(Pid::from_child(&demo.child), Signal::INT).unwrap();
    let (status, out, err) = demo.end();
    assert_eq!(status.code(), Some(1), "{out}{err}");
    assert!(err.contains("px: interrupted"), "{err}");
    demo.assert_no_process_is_left();
    assert!(!demo.root.exists());
}

#[test]
fn a_unit_that_dies_ends_the_demo() {
    let mut demo = Demo::start(&["--products", "1000"]);
    demo.first_delivered();
    let lock = std::fs::read_to_string(demo.root.join("run/dispatch_urp.lock")).unwrap();
    kill_process(Pid::from_raw(lock.trim().parse().unwrap()).unwrap(), Signal::KILL).unwrap();
    let (status, out, err) = demo.end();
    assert_eq!(status.code(), Some(1), "{out}{err}");
    assert!(err.contains("dispatch/urp has died"), "{err}");
    demo.assert_no_process_is_left();
    assert!(!demo.root.exists());
}

#[test]
fn what_cannot_be_run_leaves_nothing() {
    let table: [(&[&str], &str); 3] = [
        (
            &["--broker", "amqp://u:canary@h/"],
            "'amqp://user:${PX_DEMO_PASSWORD}@host/'",
        ),
        (&["--broker", "stomp://h/"], "stomp is not served by this version"),
        (&["--products", "0"], "2..=100000"),
    ];
    for (options, wanted) in table {
        let mut demo = Demo::start(options);
        let (status, out, err) = demo.end();
        assert!(!status.success(), "{out}{err}");
        assert!(
            err.contains(wanted) && !err.contains("canary"),
            "{options:?}: {out}{err}"
        );
        demo.assert_no_process_is_left();
        assert!(!demo.root.exists());
    }
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_px"));
    let output = command.arg("demo").arg("--root").arg(dir.path()).output().unwrap();
    assert!(!output.status.success() && dir.path().exists(), "{output:?}");
}
