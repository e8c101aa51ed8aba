//! `.lock` of a queue's directory: the pid of who runs it, for Sundew's own programs and for the watchdogs of a site.
//!
//! Who runs a unit of px is decided by its own lock ([`super::lock`]); only its holder comes here. So this file keeps
//! px and Sundew from working on one queue, and the programs of a site find a pid where they have always looked.
//!
//! It holds the bare pid: `4711`, no newline. It is removed at a clean end only: "the file is there and the process is
//! not" is how a watchdog knows of a crash. Anything but a pid counts as no lock.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};

use crate::config::{Places, UnitDir, UnitName};

const FILE: &str = ".lock";
/// Sundew truncates first and writes then.
const WRITER: Duration = Duration::from_millis(100);
/// Of the directories of queues: a site's programs may run under other accounts of one group.
const DIRECTORY_MODE: u32 = 0o1775;

/// What `.lock` says of a unit that px does not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// There is none, or it is no pid.
    Nobody,
    /// This process, which is not px's, works on the queue.
    Runs(u32),
    /// This process did, and ended without a word.
    Died(u32),
}

/// `.lock` in the unit's queue; `None` for units that have none.
pub fn path(places: &Places, unit: &UnitName) -> Option<PathBuf> {
    let queues = match unit.dir {
        UnitDir::Tx => "txq",
        UnitDir::Rx => "rxq",
        UnitDir::Watch | UnitDir::Dispatch | UnitDir::Process => return None,
    };
    Some(places.spool.join(queues).join(&unit.name).join(FILE))
}

/// Who holds it. Ask only when px does not run the unit.
pub fn holder(places: &Places, unit: &UnitName) -> anyhow::Result<Holder> {
    match path(places, unit) {
        Some(path) => look(&path, &unit.name),
        None => Ok(Holder::Nobody),
    }
}

/// Removes it where the process that it names has died. `false` where it was not so.
pub fn remove_dead(places: &Places, unit: &UnitName) -> anyhow::Result<bool> {
    let Some(path) = path(places, unit) else {
        return Ok(false);
    };
    match look(&path, &unit.name)? {
        Holder::Died(_) => remove(&path).map(|()| true),
        Holder::Nobody | Holder::Runs(_) => Ok(false),
    }
}

/// Ours, while the unit runs.
#[derive(Debug)]
pub struct SundewLock {
    /// `None` where the unit has no queue.
    path: Option<PathBuf>,
}

impl SundewLock {
    /// Writes our pid, unless a foreign process works on the queue. The caller holds the unit's own lock.
    pub fn take(places: &Places, unit: &UnitName, has_queue: bool) -> anyhow::Result<SundewLock> {
        let Some(path) = path(places, unit).filter(|_| has_queue) else {
            return Ok(SundewLock { path: None });
        };
        let ours = written_aside(&path)?;
        let taken = loop {
            // A link and not a rename: who was faster is never overwritten.
            match std::fs::hard_link(&ours, &path) {
                Ok(()) => break Ok(()),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => break Err(error).with_context(|| format!("cannot write {}", path.display())),
            }
            match look(&path, &unit.name) {
                Ok(Holder::Runs(pid)) => {
                    break Err(anyhow::anyhow!(
                        "{unit} is run by process {pid}, which is not px's (so says {}): stop it there first",
                        path.display()
                    ));
                }
                Ok(Holder::Died(_) | Holder::Nobody) => {}
                Err(error) => break Err(error),
            }
            if let Err(error) = remove(&path) {
                break Err(error);
            }
        };
        let aside = remove(&ours);
        taken?;
        aside?;
        Ok(SundewLock { path: Some(path) })
    }

    /// Removes it at a clean end. Where somebody else has it by now, it is left.
    pub fn release(self) -> anyhow::Result<()> {
        match self.path {
            Some(path) if pid_in(&path)? == Some(std::process::id()) => remove(&path),
            _ => Ok(()),
        }
    }
}

/// Our pid in a file beside, with its directory.
fn written_aside(path: &Path) -> anyhow::Result<PathBuf> {
    let aside = path.with_extension("px.tmp");
    let write = || {
        if let Some(directory) = path.parent() {
            make_queue(directory)?;
        }
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .open(&aside)?;
        file.set_permissions(Permissions::from_mode(0o666))?;
        write!(file, "{}", std::process::id())
    };
    write().with_context(|| format!("cannot write {}", aside.display()))?;
    Ok(aside)
}

fn make_queue(directory: &Path) -> std::io::Result<()> {
    let is_new = !directory.exists();
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(DIRECTORY_MODE)
        .create(directory)?;
    if is_new {
        // Whatever the umask.
        std::fs::set_permissions(directory, Permissions::from_mode(DIRECTORY_MODE))?;
    }
    Ok(())
}

fn look(path: &Path, unit: &str) -> anyhow::Result<Holder> {
    Ok(match pid_in(path)? {
        None => Holder::Nobody,
        Some(pid) if runs(pid, unit) => Holder::Runs(pid),
        Some(pid) => Holder::Died(pid),
    })
}

fn pid_in(path: &Path) -> anyhow::Result<Option<u32>> {
    const LENGTH_MAX: u64 = 64;
    let doing = || format!("cannot read {}", path.display());
    let read = || match File::open(path) {
        Ok(file) => {
            let mut bytes = Vec::new();
            file.take(LENGTH_MAX).read_to_end(&mut bytes)?;
            Ok(Some(bytes))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    };
    let mut bytes = read().with_context(doing)?;
    if bytes.as_ref().is_some_and(Vec::is_empty) {
        std::thread::sleep(WRITER);
        bytes = read().with_context(doing)?;
    }
    let text = bytes.as_deref().and_then(|bytes| std::str::from_utf8(bytes).ok());
    let pid: Option<u32> = text.and_then(|text| text.trim().parse().ok());
    Ok(pid.filter(|pid| i32::try_from(*pid).is_ok_and(|pid| pid > 0)))
}

/// Whether this process lives and is one that works on the unit: a pid may have become another program's. What may not
/// be looked at counts as one.
fn runs(pid: u32, unit: &str) -> bool {
    let Some(target) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
        return false;
    };
    if test_kill_process(target) == Err(Errno::SRCH) {
        return false;
    }
    match std::fs::read(format!("/proc/{pid}/cmdline")) {
        Ok(arguments) => speaks_of(&arguments, unit) && !is_ours(&arguments),
        Err(_) => true,
    }
}

/// Whether the unit's name is a whole word of the command line after the program's: `pxSender NAME start`. A part of a
/// path is none, for a unit may be named `bin`.
fn speaks_of(arguments: &[u8], unit: &str) -> bool {
    let words = arguments.split(|b| *b == 0 || b.is_ascii_whitespace());
    words.skip(1).any(|word| word == unit.as_bytes())
}

/// A unit of px: were it this one, it would hold the unit's own lock.
fn is_ours(arguments: &[u8]) -> bool {
    let mut arguments = arguments.split(|b| *b == 0);
    let program = arguments.next().unwrap_or_default();
    let program = program.rsplit(|b| *b == b'/').next().unwrap_or_default();
    program == b"px" && arguments.next() == Some(b"run")
}

fn remove(path: &Path) -> anyhow::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// A queue `txq/dd` in a directory of its own.
    struct Queue(tempfile::TempDir, Places, UnitName);

    impl Queue {
        fn new() -> Queue {
            let root = tempfile::tempdir().unwrap();
            let places = Places::under(root.path());
            Queue(root, places, "tx/dd".parse().unwrap())
        }

        fn lock(&self) -> PathBuf {
            self.0.path().join("txq/dd/.lock")
        }

        fn write(&self, text: &str) {
            std::fs::create_dir_all(self.lock().parent().unwrap()).unwrap();
            std::fs::write(self.lock(), text).unwrap();
        }

        fn take(&self) -> anyhow::Result<SundewLock> {
            SundewLock::take(&self.1, &self.2, true)
        }

        fn holder(&self) -> Holder {
            holder(&self.1, &self.2).unwrap()
        }
    }

    /// A process that has these words in its arguments; ended when dropped.
    struct Foreign(Child);

    impl Foreign {
        fn new(words: &str) -> Foreign {
            let mut command = Command::new("sh");
            command.args(["-c", "echo; read line", words]);
            command.stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut child = command.spawn().unwrap();
            // While it is being executed it has no arguments yet.
            child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
            Foreign(child)
        }
    }

    impl Drop for Foreign {
        fn drop(&mut self) {
            self.0.kill().unwrap();
            self.0.wait().unwrap();
        }
    }

    /// The pid of a process that has ended.
    fn dead() -> u32 {
        let mut child = Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        child.id()
    }

    #[test]
    fn it_is_a_bare_pid_for_everybody_and_goes_at_a_clean_end() {
        let queue = Queue::new();
        let lock = queue.take().unwrap();
        let text = std::fs::read_to_string(queue.lock()).unwrap();
        assert_eq!(text, std::process::id().to_string());
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&queue.lock()) & 0o7777, 0o666);
        assert_eq!(mode(queue.lock().parent().unwrap()) & 0o7777, 0o1775);
        let names = || std::fs::read_dir(queue.lock().parent().unwrap()).unwrap().count();
        assert_eq!(names(), 1);
        lock.release().unwrap();
        assert_eq!(names(), 0);
    }

    #[test]
    fn it_stays_when_the_process_crashes_or_another_has_it() {
        let queue = Queue::new();
        drop(queue.take().unwrap());
        assert!(queue.lock().exists());
        let lock = queue.take().unwrap();
        queue.write("1");
        lock.release().unwrap();
        assert!(queue.lock().exists());
    }

    #[test]
    fn a_foreign_process_keeps_its_queue() {
        let queue = Queue::new();
        let foreign = Foreign::new("pxSender dd start");
        queue.write(&foreign.0.id().to_string());
        assert_eq!(queue.holder(), Holder::Runs(foreign.0.id()));
        let error = queue.take().unwrap_err().to_string();
        assert!(error.contains(&format!("process {}", foreign.0.id())), "{error}");
        assert!(!remove_dead(&queue.1, &queue.2).unwrap());
        let names = std::fs::read_dir(queue.lock().parent().unwrap()).unwrap().count();
        assert_eq!(names, 1);
    }

    #[test]
    fn what_is_stale_or_no_pid_is_replaced() {
        let queue = Queue::new();
        let other = Foreign::new("pxSender dd2 start");
        for (text, holder) in [
            (dead().to_string(), None),
            (other.0.id().to_string(), None),
            (format!("{}\n", other.0.id()), None),
            ("".into(), Some(Holder::Nobody)),
            ("no pid".into(), Some(Holder::Nobody)),
            ("0".into(), Some(Holder::Nobody)),
            ("-1".into(), Some(Holder::Nobody)),
            ("99999999999999999999".into(), Some(Holder::Nobody)),
        ] {
            queue.write(&text);
            match holder {
                Some(holder) => assert_eq!(queue.holder(), holder, "{text:?}"),
                None => assert!(matches!(queue.holder(), Holder::Died(_)), "{text:?}"),
            }
            queue.take().unwrap();
            let now = std::fs::read_to_string(queue.lock()).unwrap();
            assert_eq!(now, std::process::id().to_string(), "{text:?}");
        }
        queue.write(&dead().to_string());
        assert!(remove_dead(&queue.1, &queue.2).unwrap() && !queue.lock().exists());
    }

    #[test]
    fn a_name_is_a_whole_word_and_a_unit_of_px_is_not_foreign() {
        for (arguments, is_it) in [
            (&b"python\0/usr/bin/pxSender\0dd\0start\0"[..], true),
            (b"sh\0-c\0exec pxSender dd start\0", true),
            (b"tail\0-f\0log/tx_dd.log\0", false),
            (b"vi\0etc/tx/dd.conf\0", false),
            (b"pxSender\0dd-2\0start\0", false),
            (b"/srv/dd/x\0", false),
            (b"/bin/dd\0if=/dev/zero\0", false),
            (b"dd\0of=x\0", false),
            (b"sh\0/opt/dd\0", false),
            (b"/usr/bin/px\0run\0--detached\0rx/dd\0", false),
            (b"", false),
        ] {
            let told = speaks_of(arguments, "dd") && !is_ours(arguments);
            assert_eq!(told, is_it, "{}", String::from_utf8_lossy(arguments));
        }
    }

    #[test]
    fn only_queues_have_one() {
        let places = Places::under(Path::new("/r"));
        let path = |unit: &str| path(&places, &unit.parse().unwrap());
        assert_eq!(path("rx/a"), Some("/r/rxq/a/.lock".into()));
        assert_eq!(path("tx/a"), Some("/r/txq/a/.lock".into()));
        assert_eq!((path("watch/a"), path("dispatch/a")), (None, None));
    }
}
