//! Where the kernel does not play along: full queues, no watches, no leases.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, ChildStdout};
use std::time::{Duration, Instant};

use px::metrics::Count;
use px::spool::tree::CatchUp;

use crate::support::{DEADLINE, Site, Watcher, options, spawn_test};

/// A watcher in a process of its own, that prints what it announces.
struct Process {
    child: Child,
    lines: BufReader<ChildStdout>,
    has_overflowed: bool,
}

impl Process {
    fn start(prefix: &[&str], site: &Site) -> Process {
        let environment = [
            ("PX_TEST_TREE", site.root.as_path()),
            ("PX_TEST_INVENTORY", site.inventory.as_path()),
        ];
        let mut child = spawn_test(prefix, "limits::watch_and_print", &environment);
        let lines = BufReader::new(child.stdout.take().unwrap());
        let mut process = Process {
            child,
            lines,
            has_overflowed: false,
        };
        process.until_line("ready");
        process
    }

    fn until_line(&mut self, wanted: &str) {
        while self.line() != wanted {}
    }

    /// The next line that the watcher printed; its own deadline ends it, so this does not wait for ever.
    fn line(&mut self) -> String {
        let mut line = String::new();
        assert!(self.lines.read_line(&mut line).unwrap() > 0, "the watcher has ended");
        line.trim_end().to_string()
    }

    fn announced(&mut self, count: usize) -> Vec<String> {
        let mut announced = Vec::new();
        while announced.len() < count {
            let line = self.line();
            self.has_overflowed |= line == "overflowed";
            announced.extend(line.strip_prefix("announced ").map(str::to_string));
        }
        announced
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

#[test]
#[ignore = "the process of the other tests here"]
fn watch_and_print() {
    let (Some(tree), Some(inventory)) = (std::env::var_os("PX_TEST_TREE"), std::env::var_os("PX_TEST_INVENTORY"))
    else {
        return;
    };
    let mut options = options(Path::new(&tree));
    options.catch_up = CatchUp::All;
    let mut watcher = Watcher::start(options, Path::new(&inventory));
    println!("\nready");
    let deadline = Instant::now() + DEADLINE;
    let mut printed = 0;
    while Instant::now() < deadline {
        watcher.during(Instant::now() + Duration::from_millis(20));
        let mut out = std::io::stdout().lock();
        if watcher.metrics.get(Count::Overflows) > 0 {
            writeln!(out, "overflowed").unwrap();
        }
        for (path, _) in &watcher.announced[printed..] {
            writeln!(out, "announced {path}").unwrap();
        }
        printed = watcher.announced.len();
    }
}

/// The kernel keeps 16 384 notices, two for each file: there are more, and others of directories that nobody watched.
#[test]
fn an_overflow_loses_nothing() {
    let site = Site::new();
    site.make_dir("flat");
    let mut process = Process::start(&["env"], &site);
    process.signal(rustix::process::Signal::STOP);
    for n in 0..15_000 {
        let directory = match n % 3 {
            0 => format!("d{}/e{}", n % 50, n % 7),
            _ => "flat".into(),
        };
        site.write(&format!("{directory}/f{n}"), "x");
    }
    process.signal(rustix::process::Signal::CONT);
    let announced: BTreeSet<String> = process.announced(15_000).into_iter().collect();
    assert_eq!(announced.len(), 15_000);
    assert!(process.has_overflowed);
}

#[test]
fn directories_beyond_the_watch_limit_are_polled() {
    let site = Site::new();
    for n in 0..10 {
        site.make_dir(&format!("d{n}/e"));
    }
    let limit = "echo 4 > /proc/sys/user/max_inotify_watches && exec \"$@\"";
    let mut process = Process::start(&["unshare", "-Ur", "sh", "-c", limit, "sh"], &site);
    let mut wanted = BTreeSet::new();
    for n in 0..10 {
        let path = format!("d{n}/e/f{n}");
        site.write(&path, "x");
        wanted.insert(path);
    }
    site.write("d9/new/deep/f", "x");
    wanted.insert("d9/new/deep/f".into());
    let announced: BTreeSet<String> = process.announced(11).into_iter().collect();
    assert_eq!(announced, wanted);
    site.write("d9/e/second", "y");
    assert_eq!(process.announced(1), ["d9/e/second"]);
}

/// Files of another user: no lease can tell whether they are written, so they must have stood still for two seconds.
#[test]
fn without_leases_a_file_is_announced_when_it_stood_still() {
    assert!(
        rustix::process::geteuid().is_root(),
        "to become another user, this test is run as root"
    );
    let site = Site::new();
    for path in [&site.beside("state"), &site.beside(".")] {
        fs::create_dir_all(path).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
    }
    site.write("whole", "x");
    let mut growing = File::create(site.root.join("growing")).unwrap();
    let begun = Instant::now();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let writer = std::thread::spawn(move || {
        while stopped.recv_timeout(Duration::from_millis(200)).is_err() {
            growing.write_all(b"more").unwrap();
        }
    });
    let other = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    let mut process = Process::start(&other, &site);
    assert_eq!(process.announced(1), ["whole"]);
    assert!(begun.elapsed() >= Duration::from_secs(2));
    site.write("closed", "y");
    assert_eq!(process.announced(1), ["closed"]);
    stop.send(()).unwrap();
    writer.join().unwrap();
    assert_eq!(process.announced(1), ["growing"]);
}

#[test]
fn a_directory_that_cannot_be_read_keeps_its_rows_and_is_read_when_it_can_be() {
    // Root reads everything, so another process plays an ordinary user.
    let site = Site::new();
    for path in [&site.beside("state"), &site.beside("."), &site.root] {
        fs::create_dir_all(path).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
    }
    site.write("shut/a/f", "x");
    let mode = |mode| fs::set_permissions(site.root.join("shut"), fs::Permissions::from_mode(mode)).unwrap();
    let other = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    let mut process = Process::start(&other, &site);
    assert_eq!(process.announced(1), ["shut/a/f"]);
    site.until_recorded("shut/a/f");
    drop(process);
    mode(0o700);
    let mut process = Process::start(&other, &site);
    site.write("open", "y");
    assert_eq!(process.announced(1), ["open"]);
    assert!(site.row("shut/a/f").is_some());
    site.write("shut/a/g", "z");
    mode(0o755);
    assert_eq!(process.announced(1), ["shut/a/g"]);
}
