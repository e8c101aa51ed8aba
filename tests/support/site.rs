//! A site of one's own: a root, configuration files, and units that run as real processes of the built program.

use std::fs::{File, OpenOptions};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::{TestBroker, spawn_kept, wait_until};

/// The program under test.
pub const PX: &str = env!("CARGO_BIN_EXE_px");
/// For what happens at once on a machine that may be busy.
pub const SOON: Duration = Duration::from_secs(30);

/// A root in a temporary directory; it goes with everything that runs in it.
pub struct TestSite {
    root: tempfile::TempDir,
}

/// What a command said.
#[derive(Debug)]
pub struct Said {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl TestSite {
    /// One broker `main` with the topic exchange `xp`.
    pub fn new(broker: &TestBroker) -> Self {
        Self::at(&broker.amqp_url())
    }

    /// The broker `main` at this URL, with the topic exchange `xp`.
    pub fn at(url: &str) -> Self {
        Self::with_site_file(&format!(
            "[brokers.main]\nurls = [{url:?}]\nexchange = {{ name = \"xp\", type = \"topic\" }}\n"
        ))
    }

    /// Any `px.toml`.
    pub fn with_site_file(text: &str) -> Self {
        let root = tempfile::Builder::new()
            .prefix("px-test-site-")
            .tempdir()
            .expect("temporary directory");
        let site = TestSite { root };
        site.write("etc/px.toml", text);
        site
    }

    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// A path below the root.
    pub fn path(&self, below: &str) -> PathBuf {
        self.root.path().join(below)
    }

    /// Writes a file below the root, with its directories.
    pub fn write(&self, below: &str, text: impl AsRef<[u8]>) {
        let path = self.path(below);
        std::fs::create_dir_all(path.parent().expect("below the root")).expect("directories");
        std::fs::write(&path, text).expect("write");
    }

    /// `etc/UNIT.toml`; `{root}` in the text is the site's root.
    pub fn unit(&self, unit: &str, text: &str) {
        let text = text.replace("{root}", &self.root.path().display().to_string());
        self.write(&format!("etc/{unit}.toml"), text);
    }

    /// A pull worker of queue `pull`, bound to `v02.post.#`, into `data/`; `more` are further options.
    pub fn puller(&self, unit: &str, more: &str) {
        let text = "type = \"pull\"\nbroker = \"main\"\nqueue = \"pull\"\nbind = [\"v02.post.#\"]\n\
                    directory = \"{root}/data\"\n";
        self.unit(unit, &format!("{text}{more}"));
    }

    /// `px run UNIT` as a child that dies with this process; its log is appended to `said/UNIT`.
    pub fn run(&self, unit: &str) -> Process {
        self.run_as(unit, &[], &[])
    }

    /// As `run`, under another program, with more arguments for `px run`.
    pub fn run_as(&self, unit: &str, under: &[&str], more: &[&str]) -> Process {
        let said = self.path(&format!("said/{}", unit.replace('/', "_")));
        std::fs::create_dir_all(said.parent().expect("below the root")).expect("directories");
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&said)
            .expect("log file");
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).args(under);
        command.arg(PX).args(["run", unit]).args(more);
        self.surround(&mut command);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        Process {
            child: spawn_kept(command).expect("setpriv"),
            status_file: self.status_file(unit),
        }
    }

    /// `px run UNIT`, ready.
    pub fn run_ready(&self, unit: &str) -> Process {
        let process = self.run(unit);
        self.wait_ready(unit, process.pid());
        process
    }

    /// Waits until this process of the unit has begun its work.
    #[track_caller]
    pub fn wait_ready(&self, unit: &str, pid: u32) {
        self.wait(unit, "ready", |status| {
            status["pid"] == pid && status["ready"] == Value::Bool(true)
        });
    }

    /// A px command, to its end.
    pub fn px(&self, arguments: &[&str]) -> Said {
        let mut command = Command::new(PX);
        command.args(arguments).stdin(Stdio::null());
        self.surround(&mut command);
        let output = command.output().expect("px");
        Said {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// A px command that must end with this code.
    #[track_caller]
    pub fn px_ends(&self, code: i32, arguments: &[&str]) -> Said {
        let said = self.px(arguments);
        assert_eq!(said.code, code, "px {arguments:?}: {said:?}\n{}", self.logs());
        said
    }

    fn surround(&self, command: &mut Command) {
        command.env_remove("PXROOT").env_remove("CREDENTIALS_DIRECTORY");
        command.env_remove("NOTIFY_SOCKET").env("PX_ROOT", self.root.path());
    }

    fn status_file(&self, unit: &str) -> PathBuf {
        self.path(&format!("run/{}.status.json", unit.replace('/', "_")))
    }

    /// The unit's status file.
    pub fn status(&self, unit: &str) -> Option<Value> {
        serde_json::from_slice(&std::fs::read(self.status_file(unit)).ok()?).ok()
    }

    /// One counter; 0 before there is a status.
    pub fn count(&self, unit: &str, name: &str) -> u64 {
        let status = self.status(unit).unwrap_or_default();
        status["counts"][name].as_u64().unwrap_or(0)
    }

    /// `running`, `paused: REASON`, …
    pub fn state(&self, unit: &str) -> String {
        let status = self.status(unit).unwrap_or_default();
        status["state"].as_str().unwrap_or_default().to_owned()
    }

    /// Waits for a status of the unit.
    #[track_caller]
    pub fn wait(&self, unit: &str, what: &str, condition: impl Fn(&Value) -> bool) {
        self.wait_for(SOON, unit, what, condition);
    }

    /// As `wait`, with a deadline of its own.
    #[track_caller]
    pub fn wait_for(&self, deadline: Duration, unit: &str, what: &str, condition: impl Fn(&Value) -> bool) {
        let end = Instant::now() + deadline;
        loop {
            let status = self.status(unit);
            if status.as_ref().is_some_and(&condition) {
                return;
            }
            assert!(
                Instant::now() < end,
                "not within {deadline:?}: {unit} {what}; its status: {status:#?}\n{}",
                self.logs()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until a counter has reached this.
    #[track_caller]
    pub fn wait_count(&self, unit: &str, name: &str, least: u64) {
        self.wait(unit, &format!("has {name} >= {least}"), |status| {
            status["counts"][name].as_u64() >= Some(least)
        });
    }

    /// Waits until the unit's state begins so.
    #[track_caller]
    pub fn wait_state(&self, unit: &str, beginning: &str) {
        self.wait(unit, &format!("is {beginning}"), |status| {
            status["state"]
                .as_str()
                .is_some_and(|state| state.starts_with(beginning))
        });
    }

    /// Waits until a condition of the test's own holds; the units' logs are shown when it does not.
    #[track_caller]
    pub fn wait_that(&self, what: &str, condition: impl Fn() -> bool) {
        self.wait_that_for(SOON, what, condition);
    }

    /// As `wait_that`, with a deadline of its own.
    #[track_caller]
    pub fn wait_that_for(&self, deadline: Duration, what: &str, condition: impl Fn() -> bool) {
        let end = Instant::now() + deadline;
        while !condition() {
            assert!(Instant::now() < end, "not within {deadline:?}: {what}\n{}", self.logs());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// What `px failed list` has of the unit.
    pub fn failed(&self, unit: &str) -> Vec<Value> {
        let said = self.px_ends(0, &["failed", "list", unit, "--limit", "100000", "--json"]);
        let document: Value = serde_json::from_str(&said.out).expect("JSON");
        document[0]["entries"].as_array().cloned().unwrap_or_default()
    }

    /// All that the units have said, the last 8 KiB of each.
    pub fn logs(&self) -> String {
        let mut text = String::new();
        for directory in ["said", "log"] {
            for entry in std::fs::read_dir(self.path(directory)).into_iter().flatten().flatten() {
                let said = std::fs::read(entry.path()).unwrap_or_default();
                let tail = &said[said.len().saturating_sub(8192)..];
                text += &format!("--- {}\n{}", entry.path().display(), String::from_utf8_lossy(tail));
            }
        }
        text
    }

    /// The whole log of a unit that was `run`.
    pub fn said(&self, unit: &str) -> String {
        let path = self.path(&format!("said/{}", unit.replace('/', "_")));
        String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
    }

    /// A product that has arrived in `data/`.
    pub fn arrived(&self, below: &str) -> Option<Vec<u8>> {
        std::fs::read(self.path("data").join(below)).ok()
    }

    /// Names below `data/`, temporary ones too.
    pub fn names(&self) -> Vec<String> {
        let mut names = Vec::new();
        let mut directories = vec![self.path("data")];
        while let Some(directory) = directories.pop() {
            for entry in std::fs::read_dir(&directory).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    directories.push(entry.path());
                } else {
                    let path = entry.path();
                    let below = path.strip_prefix(self.path("data")).expect("below");
                    names.push(below.to_string_lossy().into_owned());
                }
            }
        }
        names.sort();
        names
    }
}

impl Drop for TestSite {
    /// Ends what `px start` has detached. The lock files are the truth about who runs.
    fn drop(&mut self) {
        for entry in std::fs::read_dir(self.path("run")).into_iter().flatten().flatten() {
            let path = entry.path();
            let is_lock = path.extension().is_some_and(|extension| extension == "lock");
            let Some(file) = File::open(&path).ok().filter(|_| is_lock) else {
                continue;
            };
            if file.try_lock_shared().is_ok() {
                continue; // nobody runs it
            }
            let pid = std::fs::read_to_string(&path).unwrap_or_default();
            if let Some(pid) = pid.trim().parse().ok().and_then(Pid::from_raw) {
                // Nothing lost: it has ended meanwhile.
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    }
}

/// One unit's process; killed when dropped.
pub struct Process {
    child: Child,
    status_file: PathBuf,
}

impl Process {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL, now.
    pub fn kill(&mut self) {
        self.child.kill().expect("kill");
        self.child.wait().expect("wait");
    }

    /// Any signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("signal");
    }

    /// SIGTERM, and its end within the deadline.
    #[track_caller]
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait_end()
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait_end(&mut self) -> ExitStatus {
        let mut ended = None;
        wait_until(SOON, "the process ends", || {
            ended = self.child.try_wait().expect("wait");
            ended.is_some()
        });
        ended.unwrap_or_else(|| ExitStatus::from_raw(0))
    }

    #[track_caller]
    pub fn assert_runs(&mut self) {
        let ended = self.child.try_wait().expect("wait");
        assert!(ended.is_none(), "it has ended: {ended:?}, {:?}", self.status_file);
    }

    /// A path as this process sees it, whatever file systems it has mounted for itself.
    pub fn sees(&self, path: &Path) -> PathBuf {
        let below = path.strip_prefix("/").expect("absolute");
        PathBuf::from(format!("/proc/{}/root", self.pid())).join(below)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Nothing lost: it has ended already when this fails.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
