//! The programs that have a say in what is ingested: `lx_script` of a list, then `fx_script` of each file.
//!
//! What an `fx_script` replaces is removed once its replacement is ingested. A kill before that finds both in the
//! queue, and asks the program about both; one after it finds what was there at first, and ingests its replacement once
//! more.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::time::{Duration, Instant};

use tracing::{error, info, warn};

use super::{Ready, Receiver, look};
use crate::backoff::Backoff;
use crate::config::{Secret, Table, options};
use crate::flow::attempts::{Attempts, wait_after};
use crate::flow::script::{FxAnswer, Hook, Script, ScriptError};
use crate::flow::{Unit, chain};
use crate::message::Fault;
use crate::metrics::Count;
use crate::spool::inventory::Version;
use crate::spool::off_thread;
use crate::spool::queue::{Queue, Queued, Removed};

/// Before a program is asked again that cannot now.
const REST: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Before files are shown again, all together, of which an `lx_script` has left one where it was for the first time.
const LEFT_PAUSE: Duration = Duration::from_secs(1);
/// And the longest time after which it is shown again.
const LEFT_LONGEST: Duration = Duration::from_secs(600);
/// Files that are known to be left.
const LEFT_MAX: usize = 20_000;

/// `fx_script`, `lx_script`, and what all programs share.
#[derive(Debug, Clone)]
pub(super) struct Config {
    fx: Option<Vec<String>>,
    lx: Option<Vec<String>>,
    pub(super) timeout: Duration,
    pub(super) options: Option<Secret>,
}

impl Config {
    pub(super) fn read(table: &mut Table) -> Config {
        let config = Config {
            fx: options::script(table, "fx_script"),
            lx: options::script(table, "lx_script"),
            timeout: options::script_timeout(table),
            options: options::script_options(table),
        };
        let has_program = ["fx_script", "lx_script", "pull_script"]
            .iter()
            .any(|key| table.has(key));
        for key in ["script_timeout", "script_options"] {
            if table.has(key) && !has_program {
                table.refuse(key, "the unit has no fx_script, lx_script or pull_script");
            }
        }
        config
    }
}

/// The programs of a running unit, and what they have not been able to do.
pub(super) struct Hooks {
    fx: Option<Script>,
    lx: Option<Script>,
    tried: Attempts,
    /// What the `lx_script` has left in the queue, by path.
    left: HashMap<Vec<u8>, Left>,
    /// Replacements that are not ingested yet, by their paths in the queue.
    replacements: HashMap<Vec<u8>, Original>,
    /// No program is asked before.
    rest: Option<Instant>,
    backoff: Backoff,
}

/// How often a program has left this version of a file where it was, with nothing new beside it.
struct Left {
    file: Queued,
    version: Version,
    times: u32,
}

/// What goes once its replacement is ingested.
#[derive(Debug, Clone)]
pub(super) struct Original {
    pub(super) file: Queued,
    pub(super) version: Version,
}

impl Hooks {
    pub(super) fn new(config: &Config, unit: &Unit) -> Hooks {
        let script = |words: &Option<Vec<String>>, hook| {
            let script = Script::new(words.clone()?, hook, config.timeout, unit);
            Some(script.with_options(config.options.clone()))
        };
        Hooks {
            fx: script(&config.fx, Hook::Fx),
            lx: script(&config.lx, Hook::Lx),
            tried: Attempts::default(),
            left: HashMap::new(),
            replacements: HashMap::new(),
            rest: None,
            backoff: Backoff::new(REST.0, REST.1),
        }
    }

    /// A program cannot now, and nothing is ingested without it.
    pub(super) fn is_resting(&self) -> bool {
        self.rest.is_some_and(|until| until > Instant::now())
    }

    fn apart(&self, files: Vec<Ready>) -> Vec<Vec<Ready>> {
        self.tried
            .apart(files, |ready| (&ready.file, Some(ready.whole.version)))
    }

    /// These were left where they are: they are shown again, later and later. Where one of them is new, it may be what
    /// the program waits for to take the others: then all are shown again soon, together.
    fn left(&mut self, queue: &Queue, files: Vec<Ready>) {
        let (now, is_there) = (Instant::now(), |file: &Queued| {
            at(queue, file.path()).symlink_metadata().is_ok()
        });
        let mut has_new = false;
        for Ready { file, whole, .. } in files {
            // Most are seen to by the program, and are gone.
            if !is_there(&file) {
                self.left.remove(file.path());
                continue;
            }
            let (path, version) = (file.path().to_vec(), whole.version);
            match self.left.get_mut(&path).filter(|left| left.version == version) {
                Some(left) => {
                    left.times += 1;
                    let wait = wait_after(left.times).unwrap_or(LEFT_LONGEST);
                    queue.hold(&left.file, now + wait);
                }
                None => {
                    has_new = true;
                    if self.left.len() >= LEFT_MAX {
                        self.left.clear(); // they are shown by themselves, at the time that was set
                    }
                    self.left.insert(
                        path,
                        Left {
                            file,
                            version,
                            times: 0,
                        },
                    );
                }
            }
        }
        if has_new {
            self.left.retain(|_, left| is_there(&left.file));
            for left in self.left.values_mut() {
                left.times = 0;
                queue.hold(&left.file, now + LEFT_PAUSE);
            }
        }
    }

    /// Without the files that go once their replacements are ingested, as long as there are these.
    pub(super) fn without_originals(&mut self, queue: &Queue, files: Vec<Queued>) -> Vec<Queued> {
        if self.replacements.is_empty() {
            return files;
        }
        self.replacements.retain(|path, _| {
            let there = at(queue, path).symlink_metadata();
            !there.is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
        });
        let originals: HashSet<&[u8]> = self
            .replacements
            .values()
            .map(|original| original.file.path())
            .collect();
        files
            .into_iter()
            .filter(|file| !originals.contains(file.path()))
            .collect()
    }

    /// What is to go now that this replacement is ingested.
    pub(super) fn ingested(&mut self, file: &Queued) -> Option<Original> {
        self.tried.forget(file);
        self.replacements.remove(file.path())
    }

    /// What a file is the replacement of.
    pub(super) fn original_of(&self, file: &Queued) -> Option<&Original> {
        self.replacements.get(file.path())
    }
}

fn at(queue: &Queue, path: &[u8]) -> std::path::PathBuf {
    use std::os::unix::ffi::OsStrExt;
    queue.path().join(std::ffi::OsStr::from_bytes(path))
}

fn shown(file: &Queued) -> String {
    String::from_utf8_lossy(file.name()).into_owned()
}

impl Receiver {
    /// What the `lx_script` leaves of a list, and what it adds.
    pub(super) async fn lx(&mut self, files: Vec<Ready>) -> Vec<Ready> {
        let Some(script) = self.hooks.lx.clone() else {
            return files;
        };
        let (mut ready, files): (Vec<Ready>, Vec<Ready>) = files
            .into_iter()
            .partition(|ready| self.hooks.original_of(&ready.file).is_some());
        for list in self.hooks.apart(files) {
            if self.hooks.is_resting() {
                continue;
            }
            let paths: Vec<_> = list.iter().map(|ready| at(&self.queue, ready.file.path())).collect();
            let Some(answers) = self.unit.abandon.run_until_cancelled(script.lx(&paths)).await else {
                return Vec::new();
            };
            info!("{} files process with lx_script", list.len());
            let (mut faults, mut left) = (Faults::default(), Vec::new());
            for (one, answer) in list.into_iter().zip(answers.files) {
                match answer {
                    Ok(true) => {
                        self.hooks.left.remove(one.file.path());
                        ready.push(one);
                    }
                    Ok(false) => left.push(one),
                    Err(error) => self.failed(&one, error, &mut faults),
                }
            }
            self.hooks.left(&self.queue, left);
            self.settle(Hook::Lx, faults);
            ready.extend(self.more(&answers.more).await);
        }
        ready
    }

    /// Files of the queue that the `lx_script` has named by itself.
    async fn more(&self, paths: &[std::path::PathBuf]) -> Vec<Ready> {
        let named = paths.iter().map(|path| (path, self.named(path)));
        let (files, strange): (Vec<_>, Vec<_>) = named.partition(|(_, file)| file.is_some());
        for (path, _) in strange {
            self.warn(
                "lx_script names a file that is not in the queue",
                &path.to_string_lossy(),
            );
        }
        let files: Vec<Queued> = files.into_iter().filter_map(|(_, file)| file).collect();
        let (queue, needs_digest) = (self.queue.clone(), self.memory.is_some());
        match off_thread(move || look(&queue, files, needs_digest)).await {
            // One that is not complete is shown by a later pass.
            Ok(looked) => looked.ready,
            Err(error) => {
                self.unit.state.pause("queue", chain(&error));
                Vec::new()
            }
        }
    }

    /// A path as a file of the queue.
    fn named(&self, path: &Path) -> Option<Queued> {
        use std::os::unix::ffi::OsStrExt;
        let below = path.strip_prefix(self.queue.path()).ok()?;
        let is_plain = below
            .components()
            .all(|part| matches!(part, std::path::Component::Normal(_)));
        (is_plain && below.file_name().is_some()).then(|| self.queue.file(below.as_os_str().as_bytes()))
    }

    /// What the `fx_script` lets pass, and whether anything has left the queue. A file with which it has failed is
    /// asked about alone, so that no other suffers from it.
    pub(super) async fn fx(&mut self, files: Vec<Ready>) -> (Vec<Ready>, bool) {
        let Some(script) = self.hooks.fx.clone() else {
            return (files, false);
        };
        let (mut ready, files): (Vec<Ready>, Vec<Ready>) = files
            .into_iter()
            .partition(|ready| self.hooks.original_of(&ready.file).is_some());
        let mut dropped = Vec::new();
        for list in self.hooks.apart(files) {
            if self.hooks.is_resting() {
                continue;
            }
            let paths: Vec<_> = list.iter().map(|ready| at(&self.queue, ready.file.path())).collect();
            let Some(answers) = self.unit.abandon.run_until_cancelled(script.fx(&paths)).await else {
                break;
            };
            let mut faults = Faults::default();
            for (one, answer) in list.into_iter().zip(answers) {
                match answer {
                    Ok(FxAnswer::Keep) => {
                        warn!("FX script kept the file as is : {}", shown(&one.file));
                        ready.push(one);
                    }
                    Ok(FxAnswer::Drop) => dropped.push(one),
                    Ok(FxAnswer::Replace(with)) => ready.extend(self.replaced(one, &with)),
                    Err(error) => self.failed(&one, error, &mut faults),
                }
            }
            self.settle(Hook::Fx, faults);
        }
        let has_left = self.drop_files(dropped).await;
        (ready, has_left)
    }

    fn replaced(&mut self, one: Ready, with: &Path) -> Option<Ready> {
        let new = self.named(with)?;
        info!("FX script modified {} to {} ", shown(&one.file), shown(&new));
        let original = Original {
            file: one.file,
            version: one.whole.version,
        };
        self.hooks.replacements.insert(new.path().to_vec(), original);
        Some(Ready { file: new, ..one })
    }

    async fn drop_files(&mut self, files: Vec<Ready>) -> bool {
        let removed = files
            .iter()
            .map(|ready| (ready.file.clone(), Some(ready.whole.version)));
        let removed = self.remove(removed.collect()).await;
        let mut has_left = false;
        for (ready, removed) in files.into_iter().zip(removed) {
            self.hooks.tried.forget(&ready.file);
            if removed == Removed::Gone {
                has_left = true;
                self.unit.metrics.count(Count::Rejected);
                warn!("FX script ignored the file : {}", shown(&ready.file));
            }
        }
        has_left
    }

    /// Removes what was replaced.
    pub(super) async fn remove_originals(&self, originals: Vec<Original>) {
        let files = originals
            .iter()
            .map(|original| (original.file.clone(), Some(original.version)));
        let removed = self.remove(files.collect()).await;
        for (original, removed) in originals.iter().zip(removed) {
            if let Removed::Refused(_) = removed {
                // Asked about once more, it would be ingested once more.
                self.queue.hold_for_good(&original.file, Some(original.version));
            }
        }
    }

    /// A program has no answer for a file.
    fn failed(&mut self, ready: &Ready, error: ScriptError, faults: &mut Faults) {
        let file = &ready.file;
        if error.fault != Fault::Message {
            faults.trouble = Some(error.what);
            return;
        }
        let (version, now) = (Some(ready.whole.version), Instant::now());
        let Some(attempts) = self.hooks.tried.note(file, version, now) else {
            // Too many to be counted: none is left for that.
            return self.queue.hold(file, now + REST.1);
        };
        match wait_after(attempts) {
            Some(wait) => {
                self.queue.hold(file, now + wait);
                self.warn(&error.what, &self.queue.shown(file));
            }
            None => {
                self.hooks.tried.forget(file);
                self.leave(file, Some(ready.whole.version), &error.what);
            }
        }
    }

    /// Whether the program can go on.
    fn settle(&mut self, hook: Hook, faults: Faults) {
        match faults.trouble {
            Some(what) => {
                self.unit.state.pause(hook.name(), what);
                self.hooks.rest = Some(Instant::now() + self.hooks.backoff.next_wait());
            }
            None => {
                self.unit.state.resume(hook.name());
                self.hooks.rest = None;
                self.hooks.backoff.reset();
            }
        }
    }

    /// A replacement can never be ingested: it stays, and so does what it replaces.
    pub(super) fn leave_replacement(&self, file: &Queued, why: &str) {
        self.leave(file, None, why);
        if let Some(original) = self.hooks.original_of(file) {
            error!("{} stays with it", self.queue.shown(&original.file));
        }
    }
}

/// What has kept a program from answering, but for the files.
#[derive(Default)]
struct Faults {
    trouble: Option<String>,
}
