//! Directory syncs in groups: many renames in one directory cost one fsync, and nobody waits for longer than 20 ms.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, StatxFlags};
use rustix::io::Errno;
use tokio::sync::oneshot;

use super::SpoolError;

/// A batch closes this long after its first request at the latest.
pub const BATCH: Duration = Duration::from_millis(20);

/// An open directory that has to be synced, known by device and inode.
#[derive(Debug, Clone)]
pub struct Directory {
    fd: Arc<OwnedFd>,
    id: (u64, u64),
    /// Seconds since 1970 when it was made; `None` where the file system does not say.
    pub(super) made_s: Option<i64>,
}

impl Directory {
    pub(crate) fn new(fd: OwnedFd) -> Result<Directory, Errno> {
        let stat = rustix::fs::statx(&fd, "", AtFlags::EMPTY_PATH, StatxFlags::INO | StatxFlags::BTIME)?;
        let knows_age = StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::BTIME);
        let device = (u64::from(stat.stx_dev_major) << 32) | u64::from(stat.stx_dev_minor);
        Ok(Directory {
            fd: Arc::new(fd),
            id: (device, stat.stx_ino),
            made_s: knows_age.then_some(stat.stx_btime.tv_sec),
        })
    }

    pub(crate) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    pub(crate) fn is_on_device_of(&self, other: &Directory) -> bool {
        self.id.0 == other.id.0
    }

    /// Device and inode.
    pub(crate) fn id(&self) -> (u64, u64) {
        self.id
    }
}

/// Syncs directories on a thread of its own. One per unit; clones share the thread, which ends with the last of them.
#[derive(Debug, Clone)]
pub struct DirSyncer {
    shared: Arc<Shared>,
    _open: Arc<Open>,
}

/// A piece of work that may still ask for a sync. While any is about, a batch waits for it up to [`BATCH`].
#[derive(Debug)]
pub struct InFlight(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    in_flight: usize,
    waiting: Vec<Request>,
    oldest: Option<Instant>,
    closed: bool,
}

#[derive(Debug)]
struct Request {
    directories: Vec<Directory>,
    done: oneshot::Sender<Result<(), Errno>>,
}

/// Tells the thread that nobody can ask any more.
#[derive(Debug)]
struct Open(Arc<Shared>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.changed.notify_one();
    }
}

impl Shared {
    /// A panic elsewhere leaves plain counters and a list behind: both are usable.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DirSyncer {
    /// Starts the thread.
    pub fn start() -> Result<DirSyncer, SpoolError> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let of_thread = shared.clone();
        std::thread::Builder::new()
            .name("dirsync".into())
            .stack_size(128 << 10)
            .spawn(move || serve(&of_thread))
            .map_err(|err| SpoolError::own("cannot start the thread that syncs directories", err))?;
        Ok(DirSyncer {
            _open: Arc::new(Open(shared.clone())),
            shared,
        })
    }

    /// Announces work that will want a sync. Hold the guard until the work is done, through [`DirSyncer::sync`]: a
    /// batch closes at once when everything in flight waits for it.
    pub fn enter(&self) -> InFlight {
        self.shared.lock().in_flight += 1;
        InFlight(self.shared.clone())
    }

    /// Returns when all `directories` are synced. Dropping the future does not take the sync back.
    pub async fn sync(&self, directories: Vec<Directory>) -> Result<(), SpoolError> {
        let (done, answer) = oneshot::channel();
        {
            let mut state = self.shared.lock();
            state.waiting.push(Request { directories, done });
            state.oldest.get_or_insert_with(Instant::now);
        }
        self.shared.changed.notify_one();
        match answer.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(err)) => Err(SpoolError::own("cannot sync a directory: check the disk", err)),
            Err(_) => Err(SpoolError::unusable(
                "the thread that syncs directories has died: restart the unit",
            )),
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.lock().in_flight -= 1;
        self.0.changed.notify_one();
    }
}

fn serve(shared: &Shared) {
    while let Some(batch) = next_batch(shared) {
        let mut synced: HashMap<(u64, u64), Result<(), Errno>> = HashMap::new();
        for request in batch {
            let mut answer = Ok(());
            for directory in request.directories {
                let result = *synced
                    .entry(directory.id)
                    .or_insert_with(|| rustix::fs::fsync(directory.fd()));
                answer = answer.and(result);
            }
            // Nobody listens when the asking future was dropped; the sync is done all the same.
            let _ = request.done.send(answer);
        }
    }
}

/// Waits for a batch to close; `None` when there is nobody left to ask.
fn next_batch(shared: &Shared) -> Option<Vec<Request>> {
    let mut state = shared.lock();
    loop {
        let now = Instant::now();
        match time_left(&state, now) {
            Some(Duration::ZERO) => {
                state.oldest = None;
                return Some(std::mem::take(&mut state.waiting));
            }
            None if state.closed => return None,
            None => state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            Some(left) => {
                let waited = shared.changed.wait_timeout(state, left);
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
        }
    }
}

/// How long the batch stays open; `None` while nobody waits.
fn time_left(state: &State, now: Instant) -> Option<Duration> {
    let oldest = state.oldest?;
    if state.closed || state.waiting.len() >= state.in_flight {
        return Some(Duration::ZERO);
    }
    Some((oldest + BATCH).saturating_duration_since(now))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(path: &std::path::Path) -> Directory {
        Directory::new(std::fs::File::open(path).unwrap().into()).unwrap()
    }

    fn state(waiting: usize, in_flight: usize, oldest: Option<Instant>) -> State {
        let request = || Request {
            directories: Vec::new(),
            done: oneshot::channel().0,
        };
        State {
            in_flight,
            waiting: (0..waiting).map(|_| request()).collect(),
            oldest,
            closed: false,
        }
    }

    #[test]
    fn a_batch_closes_when_all_wait_or_after_20_ms() {
        let start = Instant::now();
        assert_eq!(time_left(&state(0, 1, None), start), None);
        assert_eq!(time_left(&state(1, 1, Some(start)), start), Some(Duration::ZERO));
        assert_eq!(time_left(&state(1, 2, Some(start)), start), Some(BATCH));
        assert_eq!(
            time_left(&state(1, 2, Some(start)), start + BATCH),
            Some(Duration::ZERO)
        );
    }

    #[tokio::test]
    async fn a_lone_request_does_not_wait_for_the_batch_time() {
        let dir = tempfile::tempdir().unwrap();
        let syncer = DirSyncer::start().unwrap();
        let quickest = {
            let mut quickest = Duration::MAX;
            for _ in 0..5 {
                let _job = syncer.enter();
                let start = Instant::now();
                syncer.sync(vec![directory(dir.path())]).await.unwrap();
                quickest = quickest.min(start.elapsed());
            }
            quickest
        };
        assert!(quickest < BATCH, "{quickest:?}");
    }

    #[tokio::test]
    async fn one_that_stays_in_flight_delays_the_others_by_a_batch_only() {
        let dir = tempfile::tempdir().unwrap();
        let syncer = DirSyncer::start().unwrap();
        let (_slow, _fast) = (syncer.enter(), syncer.enter());
        let start = Instant::now();
        syncer
            .sync(vec![directory(dir.path()), directory(dir.path())])
            .await
            .unwrap();
        assert!(start.elapsed() >= BATCH);
    }

    #[tokio::test]
    async fn a_failed_sync_reaches_the_one_who_asked() {
        let syncer = DirSyncer::start().unwrap();
        let pipe = rustix::pipe::pipe().unwrap().0; // cannot be synced: EINVAL
        assert!(syncer.sync(vec![Directory::new(pipe).unwrap()]).await.is_err());
    }
}
