//! Being told that a queue has changed: by the kernel, and without it by looking now and then.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::fs::inotify::{self as notices, CreateFlags, WatchFlags};
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tracing::warn;

const BUFFER: usize = 16 << 10;

/// Files and directories that were written, renamed or linked in. What leaves a queue is nobody's business.
fn mask() -> WatchFlags {
    WatchFlags::CLOSE_WRITE | WatchFlags::MOVED_TO | WatchFlags::CREATE | WatchFlags::ONLYDIR | WatchFlags::EXCL_UNLINK
}

/// Where the kernel's notices about a queue arrive. Which directory they are about does not matter, so nobody keeps
/// account of the watches: setting one again changes nothing, and the kernel removes those of removed directories.
#[derive(Debug)]
pub(super) struct Source {
    /// None where the kernel gave no inotify instance.
    inotify: Option<Arc<OwnedFd>>,
    has_warned: AtomicBool,
}

impl Source {
    pub(super) fn new() -> Self {
        let inotify = match notices::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK) {
            Ok(inotify) => Some(Arc::new(inotify)),
            Err(err) => {
                warn!("cannot use inotify: {err}; the queue is looked at every second");
                None
            }
        };
        Source {
            inotify,
            has_warned: AtomicBool::new(false),
        }
    }

    /// Without the kernel's help.
    #[cfg(test)]
    pub(super) fn none() -> Self {
        Source {
            inotify: None,
            has_warned: AtomicBool::new(false),
        }
    }

    /// Watches an open directory from now on.
    pub(super) fn watch(&self, directory: BorrowedFd<'_>) {
        let Some(inotify) = &self.inotify else { return };
        // By descriptor, so that the watch is on the very directory that will be listed.
        let name = format!("/proc/self/fd/{}", directory.as_raw_fd());
        match notices::add_watch(inotify, name, mask()) {
            Ok(_) => {}
            Err(err @ (Errno::NOSPC | Errno::NOMEM)) if !self.has_warned.swap(true, Ordering::Relaxed) => warn!(
                "the kernel grants no more watches ({err}): raise fs.inotify.max_user_watches; until then the queue is \
                 looked at every second"
            ),
            // What is not watched is found by looking.
            Err(_) => {}
        }
    }

    pub(super) fn waker(&self) -> Waker {
        let Some(inotify) = self.inotify.clone() else {
            return Waker(None);
        };
        // SAFETY: an Arc of an OwnedFd is open, and the same descriptor, for as long as it is held.
        let inotify = unsafe { AsyncFd::register_with_interest(inotify, Interest::READABLE) };
        if let Err(err) = &inotify {
            warn!("cannot wait for the kernel's notices: {err}; the queue is looked at every second");
        }
        Waker(inotify.ok())
    }
}

/// Waits for something to happen in a queue.
pub struct Waker(Option<AsyncFd<Arc<OwnedFd>>>);

impl Waker {
    /// Returns when something was put into a directory that a pass has seen, or when so much time is over; whether the
    /// kernel told. To be followed by a pass: what comes in after it has begun ends the next wait at once.
    pub async fn wait(&self, at_most: Duration) -> bool {
        let Some(inotify) = &self.0 else {
            tokio::time::sleep(at_most).await;
            return false;
        };
        match tokio::time::timeout(at_most, inotify.readable()).await {
            Ok(Ok(mut ready)) => {
                forget(ready.get_inner());
                ready.clear_ready();
                true
            }
            Ok(Err(_)) => {
                tokio::time::sleep(at_most).await;
                false
            }
            Err(_) => false,
        }
    }
}

/// Reads what has been told so far: the pass that follows sees it all.
fn forget(inotify: &OwnedFd) {
    let mut buffer = [0; BUFFER];
    loop {
        match rustix::io::read(inotify, &mut buffer) {
            Ok(0) => return,
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return,
            Err(err) => {
                warn!("cannot read the kernel's notices: {}", io::Error::from(err));
                return;
            }
        }
    }
}
