//! A watched tree with its inventory, and what it found.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use px::message::Masks;
use px::metrics::{Count, Metrics};
use px::spool::inventory::{Record, Recorder, Row, Rows};
use px::spool::tree::{Captured, CatchUp, Found, Needs, Options, Reader, Sight, Tree};
use tokio::sync::mpsc::UnboundedReceiver;

/// Until something that must happen has happened.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// A place with a tree and an inventory, that outlives the watchers of the tree.
pub struct Site {
    _dir: tempfile::TempDir,
    pub root: PathBuf,
    pub inventory: PathBuf,
}

impl Site {
    pub fn new() -> Site {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("tree");
        std::fs::create_dir(&root).unwrap();
        Site {
            root,
            inventory: dir.path().join("state/inventory.db"),
            _dir: dir,
        }
    }

    /// What is beside the tree, on the same file system.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.root.parent().unwrap().join(name)
    }

    pub fn options(&self) -> Options {
        options(&self.root)
    }

    pub fn watch(&self) -> Watcher {
        Watcher::start(self.options(), &self.inventory)
    }

    pub fn write(&self, path: &str, content: &str) {
        write(&self.root.join(path), content);
    }

    pub fn make_dir(&self, path: &str) {
        std::fs::create_dir_all(self.root.join(path)).unwrap();
    }

    pub fn rows(&self) -> Rows {
        Rows::open(&self.inventory, &self.root).unwrap()
    }

    /// Rows are written soon after the announcement.
    pub fn until_recorded(&self, path: &str) {
        let deadline = Instant::now() + DEADLINE;
        while self.row(path).is_none() {
            assert!(Instant::now() < deadline, "{path} is not recorded");
            std::thread::yield_now();
        }
    }

    pub fn row(&self, path: &str) -> Option<Row> {
        self.rows().get(path.as_bytes()).unwrap()
    }
}

pub fn options(root: &Path) -> Options {
    Options {
        path: root.to_owned(),
        masks: Masks::default(),
        settle: Duration::ZERO,
        catch_up: CatchUp::Since,
        rescan: Duration::ZERO,
        poll: None,
    }
}

pub fn write(path: &Path, content: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, content).unwrap();
}

/// Announces what is found, in memory, and records it.
pub struct Watcher {
    runtime: tokio::runtime::Runtime,
    tree: Option<Tree>,
    sights: UnboundedReceiver<Sight>,
    recorder: Option<Recorder>,
    root: PathBuf,
    pub metrics: Arc<Metrics>,
    /// Every announcement, in order: path and md5.
    pub announced: Vec<(String, String)>,
    pub paused: Option<String>,
    is_ready: bool,
    sentinels: u32,
    /// What is found is dropped, as when the unit dies before it is confirmed.
    pub loses_everything: bool,
}

impl Watcher {
    /// Watches, and waits until it does.
    pub fn start(options: Options, inventory: &Path) -> Watcher {
        let mut watcher = Watcher::begin(options, inventory);
        watcher.until_ready();
        watcher
    }

    pub fn until_ready(&mut self) {
        self.until("ready", |watcher| watcher.is_ready);
    }

    pub fn begin(options: Options, inventory: &Path) -> Watcher {
        let metrics = Arc::<Metrics>::default();
        let root = options.path.clone();
        let (tree, sights) = Tree::watch(options, inventory, metrics.clone()).unwrap();
        Watcher {
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .build()
                .unwrap(),
            tree: Some(tree),
            sights,
            recorder: Some(Recorder::open(inventory).unwrap()),
            root,
            metrics,
            announced: Vec::new(),
            paused: None,
            is_ready: false,
            sentinels: 0,
            loses_everything: false,
        }
    }

    /// Takes what the tree tells until the condition holds.
    pub fn until(&mut self, what: &str, holds: impl Fn(&Watcher) -> bool) {
        let deadline = Instant::now() + DEADLINE;
        while !holds(self) {
            let rest = deadline.saturating_duration_since(Instant::now());
            let told = self
                .runtime
                .block_on(async { tokio::time::timeout(rest, self.sights.recv()).await });
            let Ok(Some(sight)) = told else {
                panic!(
                    "not {what} in time; {} announced: {:?}",
                    self.announced.len(),
                    self.tail()
                );
            };
            self.take(sight);
        }
    }

    /// Takes what the tree tells until a moment.
    pub fn during(&mut self, until: Instant) {
        loop {
            let rest = until.saturating_duration_since(Instant::now());
            let told = self
                .runtime
                .block_on(async { tokio::time::timeout(rest, self.sights.recv()).await });
            match told {
                Ok(Some(sight)) => self.take(sight),
                Ok(None) | Err(_) => return,
            }
        }
    }

    /// Until so many files are announced.
    pub fn until_announced(&mut self, count: usize) {
        self.until(&format!("{count} announced"), |watcher| {
            watcher.announced.len() >= count
        });
    }

    /// Until everything that happened in the tree so far is dealt with: until a last file is announced.
    pub fn until_quiet(&mut self) {
        self.sentinels += 1;
        let name = format!("sentinel{}", self.sentinels);
        write(&self.root.join(&name), &name);
        self.until("quiet", |watcher| {
            watcher.announced.iter().any(|(path, _)| *path == name)
        });
        self.announced.retain(|(path, _)| *path != name);
    }

    /// How often each path was announced.
    pub fn counts(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for (path, _) in &self.announced {
            *counts.entry(path.clone()).or_default() += 1;
        }
        counts
    }

    pub fn paths(&self) -> Vec<&str> {
        self.announced.iter().map(|(path, _)| path.as_str()).collect()
    }

    pub fn compare(&mut self) {
        let before = self.metrics.get(Count::Rescans);
        self.tree.as_ref().unwrap().compare();
        let deadline = Instant::now() + DEADLINE;
        while self.metrics.get(Count::Rescans) == before {
            assert!(Instant::now() < deadline, "not compared");
            std::thread::yield_now();
        }
    }

    /// Takes what the tree tells until it was compared so often.
    pub fn until_rescans(&mut self, count: u64) {
        let deadline = Instant::now() + DEADLINE;
        while self.metrics.get(Count::Rescans) < count {
            assert!(Instant::now() < deadline, "not compared");
            self.during(Instant::now() + Duration::from_millis(20));
        }
    }

    fn take(&mut self, sight: Sight) {
        match sight {
            Sight::Found(found) if self.loses_everything => drop(found),
            Sight::Found(found) => self.announce(found),
            Sight::Ready => self.is_ready = true,
            Sight::Paused(reason) => self.paused = Some(reason),
            Sight::Resumed => self.paused = None,
        }
    }

    fn announce(&mut self, found: Vec<Found>) {
        let needs = Needs {
            md5: true,
            sha512: false,
        };
        let Ok(mut reader) = Reader::open(&self.root, needs) else {
            return;
        };
        for mut found in found {
            let row = match reader.capture(&mut found) {
                Captured::Product(digests, row) => {
                    let path = String::from_utf8_lossy(found.path()).into_owned();
                    self.announced.push((path, digests.md5.unwrap()));
                    row
                }
                Captured::Known(Some(row)) => row,
                Captured::Known(None) | Captured::Gone | Captured::Unread(_) => continue,
            };
            let (Some(tree), Some(recorder)) = (&self.tree, &self.recorder) else {
                return;
            };
            recorder.record(Record {
                tree: tree.number(),
                path: found.path().clone(),
                row,
                receipt: Box::new(found),
            });
        }
    }

    fn tail(&self) -> Vec<&str> {
        self.paths().into_iter().rev().take(5).collect()
    }
}

impl Drop for Watcher {
    /// Rows that were handed over are written: this is an end in good order.
    fn drop(&mut self) {
        drop(self.tree.take());
        if let Some(recorder) = self.recorder.take() {
            recorder.close();
        }
    }
}

/// Runs one of this program's ignored tests as a process of its own, behind `prefix`.
pub fn spawn_test(prefix: &[&str], name: &str, environment: &[(&str, &Path)]) -> Child {
    let this = std::env::current_exe().unwrap();
    let mut words: Vec<&std::ffi::OsStr> = prefix.iter().map(|word| std::ffi::OsStr::new(*word)).collect();
    words.push(this.as_os_str());
    let mut command = Command::new(words[0]);
    command
        .args(&words[1..])
        .args([name, "--exact", "--ignored", "--nocapture", "--test-threads=1"]);
    for (key, value) in environment {
        command.env(key, value);
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
}
