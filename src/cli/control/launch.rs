//! Detaching a unit's process, and its first word.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::ValueEnum;

use crate::cli::LogLevel;
use crate::config::{Places, UnitName};

/// How long a starter waits for a unit's word.
const READY_WITHIN: Duration = Duration::from_secs(5);
/// The account a unit of the system root runs as.
const ACCOUNT: &str = "px";

/// `px run --detached`, in a session of its own.
pub fn command(places: &Places, name: &UnitName, level: Option<LogLevel>) -> anyhow::Result<Command> {
    for directory in [&places.run, &places.log, &places.state] {
        std::fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    }
    let mut command = Command::new(std::env::current_exe().context("cannot find px itself")?);
    command
        .arg0("px") // it may have been called by one of its old names
        .args(["run", "--detached", &name.to_string()])
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if let Some(level) = level.and_then(|level| level.to_possible_value()) {
        command.args(["--level", level.get_name()]);
    }
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
    // A spool that belongs to somebody stays theirs: Sundew may work in it under another account.
    let spool = std::fs::metadata(&places.spool).is_ok_and(|spool| spool.uid() == 0);
    let spool = spool.then_some(&places.spool);
    for directory in [&places.run, &places.log, &places.state].into_iter().chain(spool) {
        std::os::unix::fs::chown(directory, Some(user), Some(group))
            .with_context(|| format!("cannot give {} to {ACCOUNT}", directory.display()))?;
    }
    command.uid(user).gid(group);
    Ok(())
}

/// What a unit said of its start.
pub enum Word {
    /// It works.
    Ready,
    /// Nothing so far.
    NotYet,
    /// Its last words.
    Ended(String),
}

/// What the unit says within its time: ready, nothing yet, or its last words.
pub fn word(child: &mut Child) -> Word {
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
