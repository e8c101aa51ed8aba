//! Starting and ending units. There is no supervisor: `px start` detaches the unit and waits for its word.

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::{NOT_RUNNING, REFUSED, say};
use crate::config::{Places, UnitName};
use crate::daemon::process::STOP_DEADLINE;
use crate::daemon::{lock, status};

type Unit = (UnitName, PathBuf);

/// How long a starter waits for a unit's word.
const READY_WITHIN: Duration = Duration::from_secs(5);
/// After the unit's own deadline it is killed; what it had in hand is delivered again.
const KILL_AFTER: Duration = STOP_DEADLINE.saturating_add(Duration::from_secs(5));
/// The account a unit of the system root runs as.
const ACCOUNT: &str = "px";

/// Starts units that do not run. 1 when any could not be started.
pub fn start(places: &Places, units: &[Unit]) -> anyhow::Result<ExitCode> {
    let mut code = ExitCode::SUCCESS;
    for (name, _) in units {
        if let Some(pid) = lock::holder(&places.lock_file(name))? {
            say(format_args!("{name} is already running (pid {pid})"));
            continue;
        }
        if let Err(error) = start_one(places, name) {
            eprintln!("px: cannot start {name}: {error:#}");
            code = ExitCode::from(REFUSED);
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
    stop_one(places, name)
}

/// Ends what runs and starts everything.
pub fn restart(places: &Places, units: &[Unit]) -> anyhow::Result<ExitCode> {
    for (name, _) in units {
        stop_one(places, name)?;
    }
    start(places, units)
}

/// Sends SIGHUP. 3 when a unit that was named does not run.
pub fn reload(places: &Places, units: &[Unit], were_named: bool) -> anyhow::Result<ExitCode> {
    let mut code = ExitCode::SUCCESS;
    for (name, file) in units {
        if let Err(errors) = crate::flow::load(places, name, file) {
            for error in errors {
                eprintln!("{error}");
            }
            eprintln!("px: {name} is not reloaded: the configuration in force stays");
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
    let mut died = Vec::new();
    for unit in units {
        let (name, _) = unit;
        if started_file(places, name).exists() && lock::holder(&places.lock_file(name))?.is_none() {
            say(format_args!("{name} has died and is started again"));
            died.push(unit.clone());
        }
    }
    start(places, &died)
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

fn start_one(places: &Places, name: &UnitName) -> anyhow::Result<()> {
    if let Some(service) = service(places, name) {
        systemctl("start", &service)?;
        say(format_args!("{name} has been started by systemd as {service}"));
        return Ok(());
    }
    let mut command = command(places, name)?;
    // Before the unit runs: should this process be killed in between, the unit is revived all the same.
    let started = started_file(places, name);
    let was_meant_to_run = started.exists();
    OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .open(&started)
        .with_context(|| format!("cannot write {}", started.display()))?;
    let mut child = command.spawn().context("cannot run px itself")?;
    let (said, pid) = (word(&mut child), child.id());
    match said {
        Word::Ready => say(format_args!("{name} has been started (pid {pid})")),
        Word::NotYet => {
            let state = status::read(&places.status_file(name)).filter(|status| status.pid == pid);
            let why = state.map_or_else(String::new, |status| {
                let mut why = status.state;
                for (_, link) in status.links.as_object().into_iter().flatten() {
                    // A pause names the error already, and connections fail alike.
                    if let Some(error) = link["error"].as_str().filter(|error| !why.contains(error)) {
                        why = format!("{why}; {error}");
                    }
                }
                why
            });
            say(format_args!(
                "{name} has been started (pid {pid}) and is not ready yet: {why}; it goes on trying"
            ));
        }
        Word::Ended(text) => {
            // One that died is revived until it runs: what keeps it from that, a full disk, may pass. And another
            // starter may have been faster.
            if !was_meant_to_run {
                forget_started(places, name)?;
            }
            anyhow::bail!(
                "{}",
                if text.is_empty() {
                    "it ended without a word"
                } else {
                    &text
                }
            );
        }
    }
    Ok(())
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

fn command(places: &Places, name: &UnitName) -> anyhow::Result<Command> {
    for directory in [&places.run, &places.log, &places.state] {
        std::fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    }
    let mut command = Command::new(std::env::current_exe().context("cannot find px itself")?);
    command
        .args(["run", "--detached", &name.to_string()])
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if let Some(root) = places.root() {
        // The starter's root may be relative to its working directory, or not be the environment's at all.
        command.env("PX_ROOT", root);
    }
    if places.is_system_root() && rustix::process::geteuid().is_root() {
        drop_privileges(places, &mut command)?;
    }
    // SAFETY: between fork and exec only setsid(2) is called, which is async-signal-safe.
    #[allow(unsafe_code)]
    unsafe {
        command.pre_exec(|| {
            rustix::process::setsid()?;
            Ok(())
        });
    }
    Ok(command)
}

/// Units of the system root run as user px, which must own what they write.
fn drop_privileges(places: &Places, command: &mut Command) -> anyhow::Result<()> {
    let accounts = std::fs::read_to_string("/etc/passwd").context("cannot read /etc/passwd")?;
    let account = accounts.lines().find_map(|line| {
        let mut fields = line.split(':');
        let is_ours = fields.next() == Some(ACCOUNT);
        let mut ids = fields.skip(1).map(str::parse::<u32>);
        match (is_ours, ids.next(), ids.next()) {
            (true, Some(Ok(user)), Some(Ok(group))) => Some((user, group)),
            _ => None,
        }
    });
    let Some((user, group)) = account else {
        anyhow::bail!("there is no user {ACCOUNT} to run as: make it (adduser --system --group {ACCOUNT})");
    };
    for directory in [&places.run, &places.log, &places.state] {
        std::os::unix::fs::chown(directory, Some(user), Some(group))
            .with_context(|| format!("cannot give {} to {ACCOUNT}", directory.display()))?;
    }
    command.uid(user).gid(group);
    Ok(())
}

enum Word {
    Ready,
    NotYet,
    Ended(String),
}

/// What the unit says within its time: ready, nothing yet, or its last words.
fn word(child: &mut Child) -> Word {
    let (Some(out), Some(err)) = (child.stdout.take(), child.stderr.take()) else {
        return Word::NotYet;
    };
    let (tell, told) = mpsc::channel();
    let tell_ready = tell.clone();
    std::thread::spawn(move || {
        let ready = BufReader::new(out)
            .lines()
            .map_while(Result::ok)
            .any(|line| line == "ready");
        // The starter may have stopped waiting.
        drop(tell_ready.send(ready.then_some(Word::Ready)));
    });
    std::thread::spawn(move || {
        let lines: Vec<String> = BufReader::new(err).lines().map_while(Result::ok).collect();
        drop(tell.send(Some(Word::Ended(lines.join("\n")))));
    });
    let deadline = Instant::now() + READY_WITHIN;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match told.recv_timeout(left) {
            Ok(Some(word)) => return word,
            Ok(None) => {} // its output ended; its last words are to come
            Err(_) => return Word::NotYet,
        }
    }
}

/// Sends a signal to the process that runs the unit; `None` when none does.
fn signal(places: &Places, name: &UnitName, signal: Signal) -> anyhow::Result<Option<u32>> {
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

/// Ends one unit and waits until it has. `false` when it does not run.
fn stop_one(places: &Places, name: &UnitName) -> anyhow::Result<bool> {
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
