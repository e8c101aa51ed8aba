//! `run/UNIT.status.json`: what a unit is doing, for `px status`, monitors and people.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::sync::watch;

use crate::flow::Unit;
use crate::flow::state::Role;
use crate::metrics::race::{Disagreeing, Standing};

/// Written at most this often, and only when something changed.
const EVERY: Duration = Duration::from_secs(1);
const STOPPED: &str = "stopped";

/// The file's content. Names are a contract with monitors: they stay.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// `rx/pull_urp`.
    pub unit: String,
    /// px's version.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// When the process began, RFC 3339 UTC.
    pub started: String,
    /// When this was written, RFC 3339 UTC.
    pub updated: String,
    /// `starting`, `running`, `standby`, `waiting for broker NAME since TIME: REASON`, `impaired: REASON`, `paused: REASON`
    /// or `stopped`.
    pub state: String,
    /// Of a unit that works only where its address is, or when it is chosen: whether it does, since when, and why.
    #[serde(default)]
    pub role: Option<Role>,
    /// It has begun its work at least once.
    pub ready: bool,
    /// Its broker connections.
    pub links: Value,
    /// Present amounts.
    pub gauges: Map<String, Value>,
    /// Counts since the process began.
    pub counts: Map<String, Value>,
    /// Latency of products in seconds: `p50`, `p99`.
    pub latency_s: Map<String, Value>,
    /// Of a dispatcher: which of redundant sources announces first.
    #[serde(default)]
    pub sources: Vec<Standing>,
    /// Of a dispatcher: sources that say different things of one product.
    #[serde(default)]
    pub disagreements: Vec<Disagreeing>,
}

impl Status {
    /// Whether the last word is that of a clean end.
    pub fn is_stopped(&self) -> bool {
        self.state == STOPPED
    }
}

/// Reads a status file; `None` when there is none or it is half a file of an older px.
pub fn read(path: &Path) -> Option<Status> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

/// Says `stopped` for a unit that could not say it itself and was stopped. The caller knows that it does not run.
pub fn settle(path: &Path) -> anyhow::Result<()> {
    match read(path) {
        Some(mut last) if !last.is_stopped() => {
            last.state = STOPPED.into();
            write(path, last)
        }
        _ => Ok(()),
    }
}

/// The picture of a unit now.
pub fn of(unit: &Unit, started: Timestamp) -> Status {
    let snapshot = unit.state.snapshot();
    let mut latency_s = Map::new();
    for (name, share) in [("p50", 0.5), ("p99", 0.99)] {
        if let Some(took) = unit.metrics.latency_quantile(share) {
            latency_s.insert(name.into(), took.as_secs_f64().into());
        }
    }
    Status {
        unit: unit.name.to_string(),
        version: env!("CARGO_PKG_VERSION").into(),
        pid: std::process::id(),
        started: started.to_string(),
        updated: String::new(),
        state: snapshot.word(),
        role: snapshot.role,
        ready: snapshot.ready,
        links: serde_json::to_value(&snapshot.links).unwrap_or_default(),
        gauges: snapshot
            .gauges
            .iter()
            .map(|(name, n)| ((*name).into(), (*n).into()))
            .collect(),
        counts: unit.metrics.all().map(|(name, n)| (name.into(), n.into())).collect(),
        latency_s,
        sources: unit.metrics.race.standings(),
        disagreements: unit.metrics.race.disagreements(),
    }
}

/// Keeps the unit's status file true. The last write, when this is dropped, says `stopped`.
pub struct Writer {
    path: PathBuf,
    unit: Unit,
    started: Timestamp,
    task: tokio::task::JoinHandle<()>,
    ready: watch::Receiver<bool>,
}

impl Writer {
    /// Writes now, then whenever something has changed.
    pub fn start(unit: &Unit, started: Timestamp) -> anyhow::Result<Writer> {
        let path = unit.places.status_file(&unit.name);
        write(&path, of(unit, started))?;
        let (tell_ready, ready) = watch::channel(false);
        let task = tokio::spawn(keep_true(path.clone(), unit.clone(), started, tell_ready));
        Ok(Writer {
            path,
            unit: unit.clone(),
            started,
            task,
            ready,
        })
    }

    /// Becomes true when the unit is ready and its file says so: whoever is told then finds what he was told.
    pub fn ready(&self) -> watch::Receiver<bool> {
        self.ready.clone()
    }

    /// The unit has ended.
    pub fn stopped(self) -> anyhow::Result<()> {
        self.task.abort();
        let mut last = of(&self.unit, self.started);
        last.state = STOPPED.into();
        write(&self.path, last)
    }
}

async fn keep_true(path: PathBuf, unit: Unit, started: Timestamp, tell_ready: watch::Sender<bool>) {
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut changes = unit.state.subscribe();
    let mut before = None;
    let mut said = false;
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            Ok(()) = changes.changed() => {} // a pause shows at once
        }
        let now = of(&unit, started);
        if before.as_ref() == Some(&now) {
            continue;
        }
        let is_ready = now.ready;
        match write(&path, now.clone()) {
            Ok(()) => {
                before = Some(now);
                said = false;
            }
            Err(error) if !said => {
                tracing::warn!("{error:#}");
                said = true;
            }
            Err(_) => {} // said once until it works again
        }
        // Written or not: a full disk keeps nobody waiting.
        tell_ready.send_if_modified(|told| is_ready && !std::mem::replace(told, is_ready));
    }
}

fn write(path: &Path, mut status: Status) -> anyhow::Result<()> {
    status.updated = Timestamp::now().to_string();
    let doing = || format!("cannot write {}", path.display());
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).with_context(doing)?;
    }
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let mut text = serde_json::to_vec_pretty(&status)?;
    text.push(b'\n');
    let mut file = std::fs::File::create(&temporary).with_context(doing)?;
    file.write_all(&text).with_context(doing)?;
    std::fs::rename(&temporary, path).with_context(doing)
}
