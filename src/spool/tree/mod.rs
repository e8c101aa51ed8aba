//! A watched directory tree: says which files are ready, the oldest first, each version once.
//!
//! Three parts: `inbox` takes the kernel's notices, on a thread that does nothing else; `scout`, on another, decides;
//! whoever owns the tree announces what was [`Found`] and has it recorded. What is found and not recorded, for whatever
//! reason, is found again by the next comparison with the inventory, so nothing in memory is ever needed to be kept.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::EventfdFlags;
use rustix::fs::inotify::CreateFlags;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::message::Masks;
use crate::metrics::Metrics;
use crate::spool::SpoolError;
use crate::spool::inventory::{Rows, Version};

mod capture;
mod compare;
mod decide;
mod inbox;
pub(super) mod lease;
mod marker;
mod oldest;
mod presence;
pub(super) mod root;
mod scout;
mod waiting;
mod walk;
mod watches;

pub use capture::{Captured, Digests, Needs, Reader};

/// What happens to files that were there before the very first start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CatchUp {
    /// They are recorded, and not announced.
    #[default]
    Since,
    /// They are announced.
    All,
}

/// How a tree is watched.
#[derive(Debug, Clone)]
pub struct Options {
    /// Its root.
    pub path: PathBuf,
    /// On the path in the tree.
    pub masks: Masks,
    /// How long a file must be left alone after its close.
    pub settle: Duration,
    /// What happens to files that were there before the very first start.
    pub catch_up: CatchUp,
    /// How often the whole tree is compared although nothing calls for it; zero for never.
    pub rescan: Duration,
    /// So often the whole tree is read in place of asking the kernel for notices, for file systems that others write.
    pub poll: Option<Duration>,
}

/// What a tree tells.
pub enum Sight {
    /// Files that are ready, in the order in which they are to be announced.
    Found(Vec<Found>),
    /// It is watched, and what was there before is recorded, or its root is missing. Told once.
    Ready,
    /// Nothing can be found now, for this reason.
    Paused(String),
    /// It goes on.
    Resumed,
}

/// A version of a file that is ready. While it is there, its file is not found a second time; drop it when the version
/// is recorded, or will not be.
pub struct Found {
    /// The version; another one by now is found again by its own close.
    pub version: Version,
    /// When it was seen to be ready.
    pub seen: Instant,
    /// The digest of a recorded version with the same stamps: only the content can tell whether this is another one.
    known: Option<String>,
    flight: inbox::Flight,
}

impl Found {
    /// Its path in the tree.
    pub fn path(&self) -> &Arc<[u8]> {
        &self.flight.path
    }

    /// Has the file looked at again, a while after this is dropped.
    pub fn look_again(&mut self, after: Duration) {
        self.flight.look_again(after);
    }
}

/// A watched tree. Dropping it ends its threads, and blocks until they have ended.
pub struct Tree {
    inbox: Arc<inbox::Inbox>,
    stop: Arc<rustix::fd::OwnedFd>,
    threads: Vec<JoinHandle<()>>,
    number: i64,
}

impl Tree {
    /// Starts to watch. A missing root is no error: it is told, and waited for.
    pub fn watch(
        options: Options,
        inventory: &Path,
        metrics: Arc<Metrics>,
    ) -> Result<(Tree, UnboundedReceiver<Sight>), SpoolError> {
        let rows = Rows::open(inventory, &options.path)?;
        let number = rows.tree();
        let stop = rustix::event::eventfd(0, EventfdFlags::CLOEXEC)
            .map_err(|err| SpoolError::own("cannot make an event descriptor", err))?;
        let mut tree = Tree {
            inbox: Arc::default(),
            stop: Arc::new(stop),
            threads: Vec::new(),
            number,
        };
        let inotify = match options.poll {
            Some(_) => None,
            None => notices(&options.path),
        };
        if let Some(inotify) = inotify.clone() {
            let (inbox, stop) = (tree.inbox.clone(), tree.stop.clone());
            tree.spawn("notices", move || inbox::drain(&inotify, &stop, &inbox))?;
        }
        let (sights, told) = unbounded_channel();
        let watches = match options.poll {
            Some(_) => watches::Watches::unwanted(),
            None => watches::Watches::new(inotify),
        };
        let scout = scout::Scout::new(options, rows, tree.inbox.clone(), watches, metrics, sights);
        tree.spawn("scout", move || scout.run())?;
        Ok((tree, told))
    }

    /// The tree's number in the inventory.
    pub fn number(&self) -> i64 {
        self.number
    }

    /// Compares the tree with its inventory, soon.
    pub fn compare(&self) {
        self.inbox.compare();
    }

    fn spawn(&mut self, name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), SpoolError> {
        let thread = std::thread::Builder::new().name(name.into()).spawn(work);
        self.threads
            .push(thread.map_err(|err| SpoolError::own("cannot start a thread for a tree", err))?);
        Ok(())
    }
}

/// Where the kernel's notices come from; `None` where it grants no instance.
fn notices(tree: &Path) -> Option<Arc<rustix::fd::OwnedFd>> {
    match rustix::fs::inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK) {
        Ok(inotify) => Some(Arc::new(inotify)),
        Err(err) => {
            tracing::warn!(path = %tree.display(), "cannot use inotify: {err}; the tree is polled");
            None
        }
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        self.inbox.stop();
        if let Err(err) = rustix::io::write(&*self.stop, &1u64.to_ne_bytes()) {
            tracing::error!("cannot stop the thread that reads notices: {err}");
            return;
        }
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of a watched tree has died");
            }
        }
    }
}
