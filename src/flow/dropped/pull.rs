//! `pull_script`: a program that fetches files into the queue, again and again.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tracing::{info, warn};

use super::hooks;
use crate::config::{Table, options};
use crate::flow::script::{Hook, Script};
use crate::flow::{Unit, vip};
use crate::metrics::Count;

/// When nobody says how often.
const EVERY: Duration = Duration::from_secs(600);
/// In the queue, this file tells that the host is not to fetch.
const SLEEP_FILE: &str = ".sleep";

/// `pull_script`, `pull_every` and `vip`.
#[derive(Debug, Clone)]
pub(super) struct Config {
    words: Vec<String>,
    every: Duration,
    vip: Option<IpAddr>,
}

impl Config {
    pub(super) fn read(table: &mut Table) -> Option<Config> {
        let words = options::script(table, "pull_script");
        let every = options::positive_duration(table, "pull_every");
        let vip = table.parsed("vip", |text| text.parse().map_err(|_| String::new()), "an IP address");
        for key in ["pull_every", "vip"] {
            if table.has(key) && !table.has("pull_script") {
                table.refuse(key, "the unit has no pull_script");
            }
        }
        Some(Config {
            words: words?,
            every: every.unwrap_or(EVERY),
            vip,
        })
    }
}

/// The program, and when it runs next.
pub(super) struct Pull {
    script: Script,
    every: Duration,
    due: Instant,
    is_here: watch::Receiver<bool>,
    sleep_file: PathBuf,
}

impl Pull {
    /// Due at once.
    pub(super) fn new(config: &Config, shared: &hooks::Config, unit: &Unit, queue: &Path) -> Pull {
        let script = Script::new(config.words.clone(), Hook::Pull, shared.timeout, unit);
        Pull {
            script: script.with_options(shared.options.clone()),
            every: config.every,
            due: Instant::now(),
            is_here: vip::gate(unit, config.vip),
            sleep_file: queue.join(SLEEP_FILE),
        }
    }

    /// Runs the program where it is due. Ends it when the unit is told to stop.
    pub(super) async fn when_due(&mut self, unit: &Unit) {
        if self.due > Instant::now() {
            return;
        }
        let is_sleeping = !*self.is_here.borrow() || self.sleep_file.exists();
        if is_sleeping {
            info!("This pull is sleeping");
        }
        let pulled = unit.stop.run_until_cancelled(self.script.pull(is_sleeping)).await;
        self.due = Instant::now() + self.every;
        let Some((files, error)) = pulled else {
            return;
        };
        let queue = self.sleep_file.parent().unwrap_or(&self.sleep_file);
        for file in &files {
            // What is there is ingested, named or not; a name for nothing is a fault of the program.
            if !file.starts_with(queue) {
                warn!(path = %file.display(), "pull_script names a file that is not in the queue");
            }
        }
        unit.metrics.add(Count::Fetched, files.len() as u64);
        if !files.is_empty() {
            info!("{} files pulled", files.len());
        }
        match error {
            Some(error) => unit.state.pause(Hook::Pull.name(), error.what),
            None => unit.state.resume(Hook::Pull.name()),
        }
    }
}
