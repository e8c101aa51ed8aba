//! What an operator types, and what comes back: texts and exit codes of the built program.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

mod check;
mod clean;
mod convert;
mod life;
mod messages;
mod ping;
mod readme;
mod reap;
mod resend;
mod sundew;
#[path = "../support/mod.rs"]
mod support;
mod units;
mod usage;

/// For what happens at once on a machine that may be busy.
const SOON: Duration = Duration::from_secs(30);

const DISPATCH: &str = "broker = \"own\"\nqueue = \"q\"\nbind = [\"v02.post.#\"]\nrekey = { key = \"first\" }\n\
                        seen = { by = \"auto\" }\n";

/// What a command said.
#[derive(Debug)]
struct Said {
    code: i32,
    out: String,
    err: String,
}

/// Runs `px` with this root.
#[track_caller]
fn px(root: &Path, arguments: &[&str]) -> Said {
    let output = Command::new(env!("CARGO_BIN_EXE_px"))
        .args(arguments)
        .env("PX_ROOT", root)
        .env_remove("CREDENTIALS_DIRECTORY")
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Said {
        code: output.status.code().unwrap(),
        out: text(output.stdout),
        err: text(output.stderr),
    }
}

/// A root of one's own with an embedded broker named `own`. What runs there ends with it.
struct Site(tempfile::TempDir);

impl Site {
    fn new() -> Site {
        let site = Site(tempfile::tempdir().unwrap());
        site.write(
            "px.toml",
            "[brokers.own]\nurls = [\"embedded:own.db\"]\nexchange = \"x\"\n",
        );
        site
    }

    fn root(&self) -> &Path {
        self.0.path()
    }

    /// Writes a file below `etc`.
    fn write(&self, below: &str, text: &str) {
        let path = self.root().join("etc").join(below);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn run(&self, arguments: &[&str]) -> Said {
        px(self.root(), arguments)
    }

    #[track_caller]
    fn run_ok(&self, arguments: &[&str]) -> String {
        let said = self.run(arguments);
        assert_eq!((said.code, said.err.as_str()), (0, ""), "{arguments:?}: {said:?}");
        said.out
    }

    /// The pid in a unit's lock file.
    fn pid(&self, on_disk: &str) -> i32 {
        let text = std::fs::read_to_string(self.root().join(format!("run/{on_disk}.lock"))).unwrap();
        text.trim().parse().unwrap()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.run(&["stop"]);
    }
}

#[track_caller]
fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + SOON;
    while !condition() {
        assert!(Instant::now() < end, "not within {SOON:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A root under `tests/data/config`. Commands that only look write nothing there.
fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data/config")
        .join(name)
}
