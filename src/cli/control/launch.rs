//! Detaching a unit's process, and its first word.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Once, mpsc};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::ValueEnum;

use crate::cli::{LogLevel, plain};
use crate::config::{Places, UnitName};

/// How long a starter waits for a unit's word.
const READY_WITHIN: Duration = Duration::from_secs(5);
/// The accounts a unit of the system root may run as, Sundew's first: the first that exists.
const ACCOUNTS: [&str; 2] = ["pds", "px"];

/// `px run --detached`, in a session of its own.
pub fn command(places: &Places, name: &UnitName, level: Option<LogLevel>) -> anyhow::Result<Command> {
    make(places)?;
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
    if rustix::process::geteuid().is_root() {
        match places.is_system_root() {
            true => drop(drop_privileges(places, &mut command)?),
            false => warn_of_root(places),
        }
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

fn make(places: &Places) -> anyhow::Result<()> {
    for directory in [&places.run, &places.log, &places.state] {
        std::fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    }
    Ok(())
}

/// Goes on as what units run as, where root has called px at the system's own places: what it writes is theirs then,
/// and so is the directory `kept` with its files, which root may have written before. Comes back where all is as it
/// should be.
pub fn become_unit_account(places: &Places, kept: &Path) -> anyhow::Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    if !places.is_system_root() {
        warn_of_root(places);
        return Ok(());
    }
    make(places)?;
    std::fs::create_dir_all(kept).with_context(|| format!("cannot make {}", kept.display()))?;
    let mut arguments = std::env::args_os();
    let mut command = Command::new(std::env::current_exe().context("cannot find px itself")?);
    command.arg0(arguments.next().unwrap_or_else(|| "px".into()));
    let (user, group) = drop_privileges(places, &mut command)?;
    if user == 0 {
        return Ok(());
    }
    let files = std::fs::read_dir(kept).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let files = files.with_context(|| format!("cannot list {}", kept.display()))?;
    for path in files.iter().map(std::fs::DirEntry::path).chain([kept.to_owned()]) {
        std::os::unix::fs::lchown(&path, Some(user), Some(group))
            .with_context(|| format!("cannot give {} to user {user}", path.display()))?;
    }
    Err(command.args(arguments).exec()).with_context(|| format!("cannot go on as user {user}"))
}

/// A line of /etc/passwd.
struct Account<'a> {
    name: &'a str,
    user: u32,
    group: u32,
}

impl Account<'_> {
    fn all(passwd: &str) -> impl Iterator<Item = Account<'_>> {
        passwd.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            let mut ids = fields.skip(1).map(|id| id.parse().ok());
            let (user, group) = (ids.next()??, ids.next()??);
            Some(Account { name, user, group })
        })
    }

    /// What units of the system root run as.
    fn of_units(passwd: &str) -> Option<Account<'_>> {
        ACCOUNTS
            .into_iter()
            .find_map(|name| Account::all(passwd).find(|account| account.name == name))
    }
}

/// Below a root of one's own a unit stays who starts it; what root writes there, the spool's owner cannot remove.
fn warn_of_root(places: &Places) {
    static SAID: Once = Once::new();
    let owner = std::fs::metadata(&places.spool).map_or(0, |spool| spool.uid());
    if owner != 0 {
        SAID.call_once(|| {
            let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
            let account = Account::all(&passwd).find(|account| account.user == owner);
            let user = account.map_or_else(|| format!("user {owner}"), |account| account.name.to_owned());
            let spool = places.spool.display();
            let warning = format!("px: runs as root, and the spool {spool} belongs to {user}: start it as {user}");
            eprintln!("{}", plain(&warning));
        });
    }
}

/// Units of the system root run as a user of their own, which must own what they write. User and group.
fn drop_privileges(places: &Places, command: &mut Command) -> anyhow::Result<(u32, u32)> {
    let passwd = std::fs::read_to_string("/etc/passwd").context("cannot read /etc/passwd")?;
    let Some(Account { name, user, group }) = Account::of_units(&passwd) else {
        anyhow::bail!("there is no user pds or px to run as: make one (adduser --system --group px)");
    };
    // A spool that belongs to somebody stays theirs: Sundew may work in it under another account.
    let spool = std::fs::metadata(&places.spool).is_ok_and(|spool| spool.uid() == 0);
    let spool = spool.then_some(&places.spool);
    for directory in [&places.run, &places.log, &places.state].into_iter().chain(spool) {
        std::os::unix::fs::chown(directory, Some(user), Some(group))
            .with_context(|| format!("cannot give {} to {name}", directory.display()))?;
    }
    command.uid(user).gid(group);
    Ok((user, group))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_of_the_system_run_as_pds_or_else_as_px() {
        let of = |passwd: &str| Account::of_units(passwd).map(|account| (account.user, account.group));
        let (root, px, pds) = ("root:x:0:0:r:/:/sh\n", "px:x:7:8:p:/:/sh\n", "pds:x:5:6:p:/:/sh\n");
        assert_eq!(of(&format!("{root}{px}{pds}")), Some((5, 6)));
        assert_eq!(of(&format!("{root}{px}")), Some((7, 8)));
        assert_eq!((of(root), of("px:x:a:8\npds:x\n")), (None, None));
    }
}
