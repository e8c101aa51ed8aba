//! Starting and ending units. There is no supervisor: `px start` detaches the unit and waits for its word.

use std::fmt;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::{LogLevel, NOT_RUNNING, REFUSED, say};
use crate::config::{Places, UnitName, units};
use crate::daemon::process::STOP_DEADLINE;
use crate::daemon::{lock, status, sundew_lock};

mod launch;

use launch::Word;
pub use launch::become_unit_account;

type Unit = (UnitName, PathBuf);

/// Between two units that are restarted gracefully.
const BETWEEN: Duration = Duration::from_secs(1);
/// After the unit's own deadline it is killed; what it had in hand is delivered again.
const KILL_AFTER: Duration = STOP_DEADLINE.saturating_add(Duration::from_secs(5));

/// Starts units that do not run. 1 when any could not be started.
pub fn start(places: &Places, units: &[Unit]) -> anyhow::Result<ExitCode> {
    let mut code = ExitCode::SUCCESS;
    for (name, _) in units {
        if let Some(pid) = lock::holder(&places.lock_file(name))? {
            say(format_args!("{name} is already running (pid {pid})"));
            continue;
        }
        match start_one(places, name, None) {
            Ok(started) => say(format_args!("{name} has been started {started}")),
            Err(error) => {
                eprintln!("px: cannot start {name}: {error:#}");
                code = ExitCode::from(REFUSED);
            }
        }
    }
    Ok(code)
}

/// Ends units. 3 when a unit that was named does not run.
pub fn stop(places: &Places, units: &[Unit], were_named: bool) -> anyhow::Result<ExitCode> {
    let mut code = ExitCode::SUCCESS;
    for (name, _) in units {
        if !end(places, name)? {
            if were_named {
                say(format_args!("{name} is not running"));
                code = ExitCode::from(NOT_RUNNING);
            }
        } else {
            say(format_args!("{name} has been stopped"));
        }
    }
    Ok(code)
}

/// Ends one unit for good and waits until it has. `false` when it does not run.
pub fn end(places: &Places, name: &UnitName) -> anyhow::Result<bool> {
    forget_started(places, name)?;
    let did_run = stop_one(places, name)?;
    // Of a unit that has crashed or was killed: to a watchdog it would tell that the unit is to run, and `px status`
    // would tell that it has died.
    sundew_lock::remove_dead(places, name)?;
    status::settle(&places.status_file(name))?;
    Ok(did_run)
}

/// Ends what runs and starts everything. What runs and could not be started again goes on: 1.
pub fn restart(places: &Places, units: &[Unit]) -> anyhow::Result<ExitCode> {
    let (mut code, mut ended) = (ExitCode::SUCCESS, Vec::new());
    for unit in units {
        let (name, file) = unit;
        if lock::holder(&places.lock_file(name))?.is_some() && !may_restart(places, name, file) {
            code = ExitCode::from(REFUSED);
            continue;
        }
        stop_one(places, name)?;
        ended.push(unit.clone());
    }
    let started = start(places, &ended)?;
    Ok(if started == ExitCode::SUCCESS { code } else { started })
}

/// Whether the configuration of a unit that runs lets it be started again; says why not. Asked before it is ended: at
/// night a unit with yesterday's configuration is better than none.
pub fn may_restart(places: &Places, name: &UnitName, file: &Path) -> bool {
    is_good(
        places,
        name,
        file,
        "restarted: it goes on with the configuration in force",
    )
}

/// The same for a reload.
pub fn may_reload(places: &Places, name: &UnitName, file: &Path) -> bool {
    is_good(places, name, file, "reloaded: the configuration in force stays")
}

fn is_good(places: &Places, name: &UnitName, file: &Path, what_is_not: &str) -> bool {
    let Err(errors) = crate::flow::load(places, name, file) else {
        return true;
    };
    for error in errors {
        eprintln!("{error}");
    }
    eprintln!("px: {name} is not {what_is_not}");
    false
}

/// Ends and starts what runs, one unit after the other, with a pause between them so that never all are away. 3 when a
/// unit that was named does not run.
pub fn graceful(places: &Places, units: &[Unit], were_named: bool) -> anyhow::Result<ExitCode> {
    let (mut code, mut is_first) = (ExitCode::SUCCESS, true);
    for unit in units {
        let (name, _) = unit;
        if lock::holder(&places.lock_file(name))?.is_none() {
            if were_named {
                say(format_args!("{name} is not running"));
                code = ExitCode::from(NOT_RUNNING);
            }
            continue;
        }
        if !std::mem::take(&mut is_first) {
            std::thread::sleep(BETWEEN);
        }
        let restarted = restart(places, std::slice::from_ref(unit))?;
        if restarted != ExitCode::SUCCESS {
            code = restarted;
        }
    }
    Ok(code)
}

/// Sends SIGHUP. 3 when a unit that was named does not run.
pub fn reload(places: &Places, units: &[Unit], were_named: bool) -> anyhow::Result<ExitCode> {
    let mut code = ExitCode::SUCCESS;
    for (name, file) in units {
        if !may_reload(places, name, file) {
            code = ExitCode::from(REFUSED);
        } else if signal(places, name, Signal::HUP)?.is_some() {
            say(format_args!("{name} reads its configuration anew"));
        } else if were_named {
            say(format_args!("{name} is not running"));
            code = ExitCode::from(NOT_RUNNING);
        }
    }
    Ok(code)
}

/// Starts what was started, was not stopped, and does not run. Silent when there is nothing to do, for cron.
pub fn revive(places: &Places, units: &[Unit]) -> anyhow::Result<ExitCode> {
    let died = died(places, units)?;
    for (name, _) in &died {
        say(format_args!("{name} has died and is started again"));
    }
    start(places, &died)
}

/// The units that were started, were not stopped, and do not run.
pub fn died(places: &Places, units: &[Unit]) -> anyhow::Result<Vec<Unit>> {
    let mut died = Vec::new();
    for unit in units {
        let (name, _) = unit;
        if is_meant_to_run(places, name) && lock::holder(&places.lock_file(name))?.is_none() {
            died.push(unit.clone());
        }
    }
    Ok(died)
}

/// The units that run although their files have gone, as one that was renamed to `x.toml.off`; each with the path where
/// its file would be.
pub fn without_file(places: &Places) -> anyhow::Result<Vec<Unit>> {
    let doing = || format!("cannot list {}", places.run.display());
    let entries = match std::fs::read_dir(&places.run) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(doing)?,
    };
    let (known, mut running) = (units(places).0, Vec::new());
    for entry in entries {
        let file = entry.with_context(doing)?.file_name();
        let lock_file = file.to_str().and_then(|file| file.strip_suffix(".lock"));
        let Some(name) = lock_file.and_then(UnitName::from_on_disk) else {
            continue;
        };
        if known.iter().all(|(other, _)| *other != name) && lock::holder(&places.lock_file(&name))?.is_some() {
            let file = places.etc.join(format!("{name}.toml"));
            running.push((name, file));
        }
    }
    running.sort();
    Ok(running)
}

/// Whether the unit was started and was not stopped: where it does not run, it has died.
pub fn is_meant_to_run(places: &Places, name: &UnitName) -> bool {
    started_file(places, name).exists()
}

/// There while a unit is meant to run.
fn started_file(places: &Places, name: &UnitName) -> PathBuf {
    places.run.join(format!("{}.started", name.on_disk()))
}

fn forget_started(places: &Places, name: &UnitName) -> anyhow::Result<()> {
    let path = started_file(places, name);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// A unit that has been started.
pub enum Started {
    /// By systemd, as this service.
    BySystemd(String),
    /// The process, which works.
    Ready(u32),
    /// The process, and why it does not work yet.
    NotYet(u32, String),
}

/// What stands after "UNIT has been started".
impl fmt::Display for Started {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Started::BySystemd(service) => write!(f, "by systemd as {service}"),
            Started::Ready(pid) => write!(f, "(pid {pid})"),
            Started::NotYet(pid, why) => write!(f, "(pid {pid}) and is not ready yet: {why}; it goes on trying"),
        }
    }
}

/// Starts one unit, at this level of its log where one is given, and waits a moment until it works.
pub fn start_one(places: &Places, name: &UnitName, level: Option<LogLevel>) -> anyhow::Result<Started> {
    if let Some(service) = service(places, name) {
        anyhow::ensure!(
            level.is_none(),
            "systemd runs it, which takes no level of the log: set level in [log] of px.toml"
        );
        systemctl("start", &service)?;
        return Ok(Started::BySystemd(service));
    }
    let mut command = launch::command(places, name, level)?;
    // Before the unit runs: should this process be killed in between, the unit is revived all the same.
    let started = started_file(places, name);
    let was_meant_to_run = is_meant_to_run(places, name);
    OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .open(&started)
        .with_context(|| format!("cannot write {}", started.display()))?;
    let mut child = command.spawn().context("cannot run px itself")?;
    let (said, pid) = (launch::word(&mut child), child.id());
    match said {
        Word::Ready => Ok(Started::Ready(pid)),
        Word::NotYet => Ok(Started::NotYet(pid, why_not_yet(places, name, pid))),
        Word::Ended(text) => {
            // One that died is revived until it runs: what keeps it from that, a full disk, may pass. And another
            // starter may have been faster.
            if !was_meant_to_run {
                forget_started(places, name)?;
            }
            let text = if text.is_empty() {
                "it ended without a word"
            } else {
                &text
            };
            anyhow::bail!("{text}")
        }
    }
}

fn why_not_yet(places: &Places, name: &UnitName, pid: u32) -> String {
    let Some(status) = status::read(&places.status_file(name)).filter(|status| status.pid == pid) else {
        return String::new();
    };
    let mut why = status.state;
    for (_, link) in status.links.as_object().into_iter().flatten() {
        // A pause names the error already, and connections fail alike.
        if let Some(error) = link["error"].as_str().filter(|error| !why.contains(error)) {
            why = format!("{why}; {error}");
        }
    }
    why
}

/// The service of a unit where systemd runs the units of the system root: px@.service is installed there.
fn service(places: &Places, name: &UnitName) -> Option<String> {
    const BOOTED: &str = "/run/systemd/system";
    const INSTALLED: [&str; 3] = [
        "/etc/systemd/system/px@.service",
        "/usr/lib/systemd/system/px@.service",
        "/lib/systemd/system/px@.service",
    ];
    let is_theirs = places.is_system_root()
        && Path::new(BOOTED).is_dir()
        && INSTALLED.iter().any(|template| Path::new(template).exists());
    is_theirs.then(|| format!("px@{}-{}.service", name.dir.name(), name.name))
}

/// Asks systemd. A start is not waited for: ready means connected, and that may take as long as the broker likes.
fn systemctl(verb: &str, service: &str) -> anyhow::Result<()> {
    let mut command = Command::new("systemctl");
    command.arg(verb);
    if verb == "start" {
        command.arg("--no-block");
    }
    let ended = command.arg(service).status().context("cannot run systemctl")?;
    anyhow::ensure!(ended.success(), "systemctl {verb} {service}: {ended}");
    Ok(())
}

/// Sends a signal to the process that runs the unit; `None` when none does.
pub fn signal(places: &Places, name: &UnitName, signal: Signal) -> anyhow::Result<Option<u32>> {
    let lock_file = places.lock_file(name);
    let Some(pid) = lock::holder(&lock_file)? else {
        return Ok(None);
    };
    let doing = || format!("cannot signal {name} (pid {pid})");
    let Some(target) = Pid::from_raw(pid as i32) else {
        anyhow::bail!("{} holds {pid}, which is no pid", lock_file.display());
    };
    let handle = match pidfd_open(target, PidfdFlags::empty()) {
        Err(rustix::io::Errno::SRCH) => return Ok(None),
        handle => handle.with_context(doing)?,
    };
    // The number may have become another process's between the two looks.
    if lock::holder(&lock_file)? != Some(pid) {
        return Ok(None);
    }
    match pidfd_send_signal(&handle, signal) {
        Err(rustix::io::Errno::SRCH) => Ok(None),
        sent => sent.with_context(doing).map(|()| Some(pid)),
    }
}

/// Ends one unit, which stays meant to run, and waits until it has. `false` when it does not run.
pub fn stop_one(places: &Places, name: &UnitName) -> anyhow::Result<bool> {
    if let Some(service) = service(places, name) {
        let did_run = lock::holder(&places.lock_file(name))?.is_some();
        systemctl("stop", &service)?; // also ends the wait for a restart
        if lock::holder(&places.lock_file(name))?.is_none() {
            return Ok(did_run);
        }
        // It was not systemd's: ended as any other.
    }
    let Some(pid) = signal(places, name, Signal::TERM)? else {
        return Ok(false);
    };
    let lock_file = places.lock_file(name);
    let deadline = Instant::now() + KILL_AFTER;
    let mut is_killed = false;
    while lock::holder(&lock_file)? == Some(pid) {
        if !is_killed && Instant::now() > deadline {
            eprintln!("px: {name} (pid {pid}) did not end in time and is killed");
            signal(places, name, Signal::KILL)?;
            is_killed = true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(true)
}
