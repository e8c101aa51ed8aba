//! What waits for a tree's scout: notices from the kernel, files to look at again, wishes of the unit. Everything here
//! is bounded: when too many notices wait they are forgotten, and the tree is compared with its inventory instead.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::fs::inotify::{ReadFlags, Reader};
use rustix::io::Errno;

use super::root;

/// Notices that may wait. Some four times what the kernel itself keeps.
const NOTICES_MAX: usize = 65_536;
/// Files that may be on their way: found, not yet recorded.
pub(super) const FLIGHTS_MAX: usize = 4096;
const BUFFER: usize = 64 << 10;
/// In a burst, notices are gathered for so long: waking every thread on the way for each file alone costs more than
/// the file does. The kernel keeps far more than what comes in that time.
const GATHER: Duration = Duration::from_millis(1);
/// Notices that follow within so long are a burst; the first is never held back.
const BURST: Duration = Duration::from_millis(3);

/// One notice of the kernel.
#[derive(Debug)]
pub(super) struct Notice {
    pub(super) wd: i32,
    pub(super) what: ReadFlags,
    pub(super) name: Vec<u8>,
}

/// A file that is to be looked at again: after a pause, or because it was closed again while it was on its way.
#[derive(Debug)]
pub(super) struct Again {
    pub(super) path: Arc<[u8]>,
    pub(super) after: Option<Duration>,
}

/// What the scout has to do.
#[derive(Debug, Default)]
pub(super) struct Work {
    pub(super) notices: Vec<Notice>,
    /// When the first of the notices was read.
    pub(super) since: Option<Instant>,
    /// Notices were lost, in the kernel or here.
    pub(super) overflowed: bool,
    /// The tree is to be compared with its inventory.
    pub(super) compare: bool,
    pub(super) again: Vec<Again>,
    pub(super) stop: bool,
}

impl Work {
    fn is_empty(&self) -> bool {
        self.notices.is_empty() && self.again.is_empty() && !(self.overflowed || self.compare || self.stop)
    }
}

#[derive(Default)]
struct Inner {
    work: Work,
    /// Files on their way, and whether they were seen again since.
    flights: HashMap<Arc<[u8]>, bool>,
    /// The scout waits for a place among them.
    needs_room: bool,
}

/// Shared by the thread that reads notices, the scout, and the files on their way.
#[derive(Default)]
pub(super) struct Inbox {
    inner: Mutex<Inner>,
    wake: Condvar,
}

impl Inbox {
    /// Waits until there is something to do or the time has come.
    pub(super) fn wait(&self, until: Instant) -> Work {
        let mut inner = self.lock();
        while inner.work.is_empty() {
            let rest = until.saturating_duration_since(Instant::now());
            if rest.is_zero() {
                break;
            }
            let (woken, _) = self
                .wake
                .wait_timeout(inner, rest)
                .unwrap_or_else(PoisonError::into_inner);
            inner = woken;
        }
        let stop = inner.work.stop;
        let work = std::mem::take(&mut inner.work);
        inner.work.stop = stop;
        work
    }

    /// Waits out a pause, unless the scout is to stop.
    pub(super) fn rest(&self, pause: Duration) {
        let inner = self.lock();
        let waited = self.wake.wait_timeout_while(inner, pause, |inner| !inner.work.stop);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    /// Asks the scout to end.
    pub(super) fn stop(&self) {
        self.lock().work.stop = true;
        self.wake.notify_all();
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.lock().work.stop
    }

    /// Asks for a comparison of the tree with its inventory.
    pub(super) fn compare(&self) {
        self.lock().work.compare = true;
        self.wake.notify_all();
    }

    /// Waits until another file may go on its way; `false` when the scout is to stop.
    pub(super) fn wait_for_room(&self) -> bool {
        let mut inner = self.lock();
        while inner.flights.len() >= FLIGHTS_MAX && !inner.work.stop {
            inner.needs_room = true;
            inner = self.wake.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
        inner.needs_room = false;
        !inner.work.stop
    }

    /// Whether a file is on its way; then it will be looked at again when it has arrived. To be asked before the
    /// inventory is: a file that arrives in between would be found neither here nor there.
    pub(super) fn is_flying(&self, path: &[u8]) -> bool {
        match self.lock().flights.get_mut(path) {
            Some(seen_again) => {
                *seen_again = true;
                true
            }
            None => false,
        }
    }

    /// Sends a file on its way, unless too many are.
    pub(super) fn take_off(self: &Arc<Self>, path: &[u8]) -> Option<Flight> {
        let mut inner = self.lock();
        if inner.flights.len() >= FLIGHTS_MAX {
            return None;
        }
        let path: Arc<[u8]> = path.into();
        inner.flights.insert(path.clone(), false);
        Some(Flight {
            inbox: self.clone(),
            path,
            again: None,
        })
    }

    fn land(&self, path: &Arc<[u8]>, pause: Option<Duration>) {
        let mut inner = self.lock();
        let seen_again = inner.flights.remove(path) == Some(true);
        let looks_again = seen_again || pause.is_some();
        if looks_again {
            inner.work.again.push(Again {
                path: path.clone(),
                after: pause.filter(|_| !seen_again),
            });
        }
        let has_room = inner.needs_room && inner.flights.len() <= FLIGHTS_MAX - FLIGHTS_MAX / 8;
        drop(inner);
        if looks_again || has_room {
            self.wake.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every change under the lock is complete in itself, so a panic elsewhere leaves nothing half done.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn deliver(&self, notices: &mut Vec<Notice>, overflowed: bool) {
        let mut inner = self.lock();
        let work = &mut inner.work;
        work.overflowed |= overflowed || work.notices.len() + notices.len() > NOTICES_MAX;
        if work.overflowed {
            // What is compared as a whole needs no single notices; those that come after the scout has begun count.
            work.notices = Vec::new();
            notices.clear();
        } else {
            work.since.get_or_insert_with(Instant::now);
            work.notices.append(notices);
        }
        drop(inner);
        self.wake.notify_all();
    }
}

/// Holds a file's place among those on their way. Dropped when the file is recorded, or will not be.
pub(super) struct Flight {
    inbox: Arc<Inbox>,
    pub(super) path: Arc<[u8]>,
    again: Option<Duration>,
}

impl Flight {
    /// Not done: to be looked at again, after a pause.
    pub(super) fn look_again(&mut self, after: Duration) {
        self.again = Some(after);
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.inbox.land(&self.path, self.again);
    }
}

/// Reads notices until `stop` is signalled, and does nothing else: the kernel forgets what is not read in time.
pub(super) fn drain(inotify: &OwnedFd, stop: &OwnedFd, inbox: &Inbox) {
    let mut buffer = Vec::with_capacity(BUFFER);
    let mut notices = Vec::new();
    let mut delivered: Option<Instant> = None;
    loop {
        let mut fds = [PollFd::new(inotify, PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
        match rustix::event::poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(err) => tracing::error!("cannot wait for the kernel's notices: {err}"),
        }
        if fds[1].revents().contains(PollFlags::IN) {
            return;
        }
        if delivered.is_some_and(|at| at.elapsed() < BURST) {
            std::thread::sleep(GATHER);
        }
        let overflowed = read_notices(inotify, &mut buffer, &mut notices);
        if overflowed || !notices.is_empty() {
            inbox.deliver(&mut notices, overflowed);
            delivered = Some(Instant::now());
        }
    }
}

/// One buffer full; whether the kernel has lost notices.
fn read_notices(inotify: &OwnedFd, buffer: &mut Vec<u8>, notices: &mut Vec<Notice>) -> bool {
    let mut overflowed = false;
    let mut reader = Reader::new(inotify.as_fd(), buffer.spare_capacity_mut());
    loop {
        let event = match reader.next() {
            Ok(event) => event,
            Err(Errno::AGAIN) => return overflowed,
            Err(Errno::INTR) => continue,
            Err(err) => {
                tracing::error!("cannot read the kernel's notices: {err}");
                return true;
            }
        };
        overflowed |= event.events().contains(ReadFlags::QUEUE_OVERFLOW);
        let name = event.file_name().map(|name| name.to_bytes()).unwrap_or_default();
        if event.wd() >= 0 && !root::is_skipped(name) {
            notices.push(Notice {
                wd: event.wd(),
                what: event.events(),
                name: name.to_vec(),
            });
        }
        if reader.is_buffer_empty() {
            return overflowed;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notice(wd: i32) -> Notice {
        Notice {
            wd,
            what: ReadFlags::CLOSE_WRITE,
            name: b"a".to_vec(),
        }
    }

    #[test]
    fn too_many_notices_are_forgotten_and_said_to_be_lost() {
        let inbox = Inbox::default();
        for n in 0..NOTICES_MAX as i32 {
            inbox.deliver(&mut vec![notice(n)], false);
        }
        inbox.deliver(&mut vec![notice(0)], false);
        inbox.deliver(&mut vec![notice(0)], false);
        let work = inbox.wait(Instant::now());
        assert!(work.overflowed && work.notices.is_empty());
        inbox.deliver(&mut vec![notice(1)], false);
        let work = inbox.wait(Instant::now());
        assert!(!work.overflowed && work.notices.len() == 1);
    }

    #[test]
    fn a_file_on_its_way_is_looked_at_again_only_when_it_was_seen_again() {
        let inbox = Arc::new(Inbox::default());
        let one = inbox.take_off(b"one").unwrap();
        let two = inbox.take_off(b"two").unwrap();
        assert!(inbox.is_flying(b"two") && !inbox.is_flying(b"three"));
        drop((one, two));
        let again = inbox.wait(Instant::now()).again;
        assert_eq!(again.len(), 1);
        assert_eq!((&*again[0].path, again[0].after), (&b"two"[..], None));
        let mut three = inbox.take_off(b"three").unwrap();
        three.look_again(Duration::from_secs(1));
        drop(three);
        assert_eq!(inbox.wait(Instant::now()).again[0].after, Some(Duration::from_secs(1)));
    }

    #[test]
    fn when_too_many_fly_the_scout_waits_until_some_have_landed() {
        let inbox = Arc::new(Inbox::default());
        let mut flights: Vec<Flight> = (0..FLIGHTS_MAX)
            .map(|n| inbox.take_off(n.to_string().as_bytes()).unwrap())
            .collect();
        assert!(inbox.take_off(b"one more").is_none());
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| inbox.wait_for_room());
            flights.truncate(10);
            assert!(waiting.join().unwrap());
        });
        inbox.stop();
        assert!(inbox.wait(Instant::now()).stop && inbox.is_stopped());
    }
}
