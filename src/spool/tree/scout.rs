//! The thread that decides which files of a tree are to be announced: it reads the kernel's notices, scans what came,
//! waits where a file is not ready, and asks the inventory what is known.

use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::AtFlags;
use rustix::fs::inotify::ReadFlags;
use rustix::io::Errno;
use tokio::sync::mpsc::UnboundedSender;
use tracing::{info, warn};

use super::capture::{YOUNG, is_young, now_ns};
use super::decide::{MADE_FIRST, Next, STILL, next_polled, next_step};
use super::inbox::{Inbox, Notice, Work};
use super::lease;
use super::oldest::Oldest;
use super::root::{self, join, shown};
use super::waiting::{Look, Waiting};
use super::walk::{Scope, Step, Walk};
use super::watches::Watches;
use super::{Found, Options, Sight};
use crate::backoff::Backoff;
use crate::metrics::{Count, Metrics};
use crate::spool::SpoolError;
use crate::spool::inventory::{Rows, Version};

/// How often the root is looked for: the kernel does not tell that something was mounted over it.
const ROOT_EVERY: Duration = Duration::from_secs(1);
/// Before a root that vanished in the middle of a piece of work is looked for.
const ROOT_PAUSE: Duration = Duration::from_millis(100);
/// How often directories without a watch are read, at most.
const POLL_EVERY: Duration = Duration::from_secs(2);
/// Reading them takes at most this part of the time.
const POLL_SHARE: u32 = 20;
/// A larger file is not read while its stamps are young: its row would have to keep a digest.
const LARGE: u64 = 1 << 20;
/// Found files that are handed over together.
const FOUND_BATCH: usize = 64;

/// Why a piece of work was broken off.
pub(super) enum Halt {
    Stopped,
    RootLost,
    Store(SpoolError),
}

impl From<SpoolError> for Halt {
    fn from(err: SpoolError) -> Self {
        Halt::Store(err)
    }
}

pub(super) struct Scout {
    pub(super) options: Options,
    pub(super) rows: Rows,
    pub(super) inbox: Arc<Inbox>,
    pub(super) watches: Watches,
    pub(super) metrics: Arc<Metrics>,
    sights: UnboundedSender<Sight>,
    pub(super) waiting: Waiting,
    /// Device and inode of the root that is watched.
    pub(super) root: Option<(u64, u64)>,
    paused: Option<String>,
    found: Vec<Found>,
    pub(super) compare_due: bool,
    /// Where the next comparison goes on, when there was too much for one.
    pub(super) compared_to: Option<(i64, Vec<u8>)>,
    pub(super) next_rescan: Option<Instant>,
    next_poll: Instant,
    /// When the notices in hand were read.
    seen: Instant,
    is_ready: bool,
    has_warned_of_leases: bool,
    pub(super) has_warned_of_unread: bool,
}

impl Scout {
    pub(super) fn new(
        options: Options,
        rows: Rows,
        inbox: Arc<Inbox>,
        watches: Watches,
        metrics: Arc<Metrics>,
        sights: UnboundedSender<Sight>,
    ) -> Self {
        let now = Instant::now();
        Scout {
            options,
            rows,
            inbox,
            watches,
            metrics,
            sights,
            waiting: Waiting::default(),
            root: None,
            paused: None,
            found: Vec::new(),
            compare_due: false,
            compared_to: None,
            next_rescan: None,
            next_poll: now,
            seen: now,
            is_ready: false,
            has_warned_of_leases: false,
            has_warned_of_unread: false,
        }
    }

    pub(super) fn run(mut self) {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
        let mut work = Work::default();
        while !work.stop {
            match self.turn(work) {
                Ok(()) => backoff.reset(),
                Err(Halt::Stopped) => return,
                Err(Halt::RootLost) => {
                    self.compare_anew();
                    self.inbox.rest(ROOT_PAUSE);
                }
                Err(Halt::Store(err)) => {
                    self.pause(err.line());
                    self.compare_anew();
                    self.inbox.rest(backoff.next_wait());
                }
            }
            self.hand_over();
            work = self.inbox.wait(self.next_time());
        }
    }

    fn turn(&mut self, work: Work) -> Result<(), Halt> {
        if work.compare || work.overflowed {
            self.compare_anew();
        }
        if work.overflowed {
            self.metrics.count(Count::Overflows);
            info!(path = %self.options.path.display(), "too many changes at once; the tree will be compared");
        }
        let now = Instant::now();
        for again in work.again {
            let look = again.after.map_or(Look::Closed, |_| Look::Met);
            self.wait(&again.path, again.after.unwrap_or_default(), look);
        }
        let Some(root) = self.open_root()? else {
            return Ok(());
        };
        self.seen = work.since.unwrap_or(now);
        self.read_notices(root.as_fd(), &work.notices)?;
        self.seen = now;
        while let Some((path, look)) = self.waiting.take_due(now) {
            self.look(root.as_fd(), &path, look)?;
        }
        if self.watches.has_unwatched() && self.next_poll <= now {
            self.poll(root.as_fd())?;
        }
        self.compare_due |= self.next_rescan.is_some_and(|at| at <= now);
        if self.compare_due && self.waiting.has_room() {
            self.compare(root.as_fd())?;
        }
        self.resume();
        Ok(())
    }

    fn next_time(&self) -> Instant {
        let now = Instant::now();
        let mut next = now + ROOT_EVERY;
        if self.root.is_none() {
            return next;
        }
        if self.compare_due && self.waiting.has_room() {
            return now;
        }
        if self.watches.has_unwatched() {
            next = next.min(self.next_poll);
        }
        [self.waiting.next_time(), self.next_rescan]
            .into_iter()
            .flatten()
            .fold(next, Instant::min)
    }

    /// Something may have been missed: the next comparison begins with the oldest file, even where the one before was
    /// to be gone on with.
    pub(super) fn compare_anew(&mut self) {
        self.compare_due = true;
        self.compared_to = None;
    }

    pub(super) fn check_stop(&self) -> Result<(), Halt> {
        if self.inbox.is_stopped() {
            Err(Halt::Stopped)
        } else {
            Ok(())
        }
    }

    fn read_notices(&mut self, root: BorrowedFd<'_>, notices: &[Notice]) -> Result<(), Halt> {
        let of_files = |notice: &&Notice| !notice.what.contains(ReadFlags::ISDIR);
        let closed: HashSet<(i32, &[u8])> = notices
            .iter()
            .filter(of_files)
            .filter(|notice| notice.what.contains(ReadFlags::CLOSE_WRITE))
            .map(|notice| (notice.wd, notice.name.as_slice()))
            .collect();
        for notice in notices {
            self.check_stop()?;
            let is_made = of_files(&notice) && notice.what.contains(ReadFlags::CREATE);
            // Its close is among these notices too.
            if !(is_made && closed.contains(&(notice.wd, notice.name.as_slice()))) {
                self.read_notice(root, notice)?;
            }
        }
        Ok(())
    }

    fn read_notice(&mut self, root: BorrowedFd<'_>, notice: &Notice) -> Result<(), Halt> {
        let what = notice.what;
        if what.contains(ReadFlags::IGNORED) {
            self.watches.removed(notice.wd);
            return Ok(());
        }
        if what.contains(ReadFlags::MOVE_SELF) {
            self.check_place(root, notice.wd);
            return Ok(());
        }
        let Some(directory) = self.watches.path(notice.wd) else {
            return Ok(());
        };
        if notice.name.is_empty() {
            return Ok(());
        }
        let path = join(directory, &notice.name);
        if what.contains(ReadFlags::ISDIR) {
            // What is beneath a directory that was renamed is mapped to its old name: everything is watched anew.
            let scope = if what.contains(ReadFlags::MOVED_TO) {
                Scope::All
            } else {
                Scope::New
            };
            return self.scan(root, [path], scope);
        }
        if what.intersects(ReadFlags::CLOSE_WRITE | ReadFlags::MOVED_TO) {
            return self.look(root, &path, Look::Closed);
        }
        match root::regular_file(root, &path) {
            Ok(Some(stat)) if stat.st_nlink > 1 => self.look(root, &path, Look::Closed),
            Ok(Some(_)) => {
                // Usually its close follows. It does not where a nameless file was linked in, or the other name is
                // gone.
                self.wait(&path, MADE_FIRST, Look::Made(0));
                Ok(())
            }
            Ok(None) => Ok(()),
            Err(cause) => {
                self.warn_of_unread(&path, cause);
                Ok(())
            }
        }
    }

    /// A watched directory was renamed. If it was within the tree, its new name is known already.
    fn check_place(&mut self, root: BorrowedFd<'_>, wd: i32) {
        let Some((path, inode)) = self.watches.place(wd).filter(|(path, _)| !path.is_empty()) else {
            return;
        };
        let is_there =
            rustix::fs::statat(root, &*path, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|stat| stat.st_ino == inode);
        if !is_there {
            self.watches.drop_beneath(&path);
        }
    }

    /// Watches and reads directories, and looks at the files in them, the oldest first.
    fn scan(
        &mut self,
        root: BorrowedFd<'_>,
        from: impl IntoIterator<Item = Vec<u8>>,
        scope: Scope,
    ) -> Result<(), Halt> {
        let mut oldest = Oldest::default();
        for from in from {
            let mut walk = Walk::new(root, &from, scope);
            while let Some(step) = walk.next(&mut self.watches) {
                self.check_stop()?;
                match step {
                    Step::File { path, version, .. } => {
                        let row = self.rows.get(&path)?;
                        if row.is_none_or(|row| row.version != version || row.digest.is_some()) {
                            oldest.push(version.mtime_ns, path);
                        }
                    }
                    Step::Unread { path, cause, .. } => self.warn_of_unread(&path, cause),
                }
            }
        }
        if oldest.has_more {
            self.compare_anew();
        }
        self.look_at_all(root, oldest)
    }

    pub(super) fn look_at_all(&mut self, root: BorrowedFd<'_>, oldest: Oldest) -> Result<(), Halt> {
        for (_, path) in oldest.into_sorted() {
            self.check_stop()?;
            self.look(root, &path, Look::Met)?;
        }
        Ok(())
    }

    fn poll(&mut self, root: BorrowedFd<'_>) -> Result<(), Halt> {
        let begun = Instant::now();
        match self.watches.unwatched() {
            Some(directories) => self.scan(root, directories, Scope::Polled)?,
            None => self.compare_due = true,
        }
        self.next_poll = Instant::now() + POLL_EVERY.max(begun.elapsed() * POLL_SHARE);
        Ok(())
    }

    /// Looks at one file, and announces it, lets it wait or leaves it.
    fn look(&mut self, root: BorrowedFd<'_>, path: &[u8], look: Look) -> Result<(), Halt> {
        if !self.options.masks.accepts(path) || self.inbox.is_flying(path) {
            return Ok(());
        }
        let version = match root::regular_file(root, path) {
            Ok(Some(stat)) => Version::of(&stat),
            Ok(None) => {
                self.waiting.remove(path);
                return Ok(());
            }
            Err(cause) => {
                self.warn_of_unread(path, cause);
                return Ok(());
            }
        };
        let known = match self.rows.get(path)? {
            Some(row) if row.version == version => match row.digest {
                Some(digest) => Some(digest),
                None => {
                    self.waiting.remove(path);
                    return Ok(());
                }
            },
            _ => None,
        };
        if look == Look::Met && self.waiting.is_ripening(path, version) {
            return Ok(());
        }
        match self.next(root, path, version, look) {
            Next::Announce => self.announce(path, version, known),
            Next::Wait(pause, look) => {
                self.wait(path, pause, look);
                Ok(())
            }
            Next::Leave => Ok(()),
        }
    }

    fn next(&mut self, root: BorrowedFd<'_>, path: &[u8], version: Version, look: Look) -> Next {
        let writers = || lease::writers(root, path);
        if let Some(poll) = self.options.poll {
            return next_polled(look, version, poll.max(self.options.settle), writers());
        }
        let is_large_and_young = version.size > LARGE && is_young(version.mtime_ns, now_ns());
        let rest = if is_large_and_young { YOUNG } else { Duration::ZERO };
        let age = Duration::from_nanos(u64::try_from(now_ns().saturating_sub(version.mtime_ns)).unwrap_or(0));
        let next = next_step(look, version, age, self.options.settle.max(rest), writers);
        if let Next::Wait(_, Look::Still(_)) = next {
            self.warn_of_leases(path);
        }
        next
    }

    fn announce(&mut self, path: &[u8], version: Version, known: Option<String>) -> Result<(), Halt> {
        self.waiting.remove(path);
        let flight = loop {
            if let Some(flight) = self.inbox.take_off(path) {
                break flight;
            }
            self.hand_over();
            if !self.inbox.wait_for_room() {
                return Err(Halt::Stopped);
            }
        };
        self.found.push(Found {
            version,
            seen: self.seen,
            known,
            flight,
        });
        if self.found.len() >= FOUND_BATCH {
            self.hand_over();
        }
        Ok(())
    }

    fn hand_over(&mut self) {
        if !self.found.is_empty() {
            let found = std::mem::take(&mut self.found);
            self.tell(Sight::Found(found));
        }
    }

    fn wait(&mut self, path: &[u8], pause: Duration, look: Look) {
        if !self.waiting.put(path, Instant::now() + pause, look) {
            self.compare_anew();
        }
    }

    pub(super) fn report_ready(&mut self) {
        if !self.is_ready {
            self.is_ready = true;
            self.tell(Sight::Ready);
        }
    }

    pub(super) fn pause(&mut self, reason: String) {
        if self.paused.as_ref() != Some(&reason) {
            self.paused = Some(reason.clone());
            self.tell(Sight::Paused(reason));
        }
    }

    pub(super) fn resume(&mut self) {
        if self.paused.take().is_some() {
            self.tell(Sight::Resumed);
        }
    }

    fn tell(&self, sight: Sight) {
        // Nobody listens any more when the unit is ending; what was found is found again at the next start.
        drop(self.sights.send(sight));
    }

    pub(super) fn warn_of_unread(&mut self, path: &[u8], cause: Errno) {
        if !self.has_warned_of_unread {
            self.has_warned_of_unread = true;
            let tree = self.options.path.display();
            warn!(%tree, path = shown(path), "cannot be read: {cause}; tried again later, others like it unsaid");
        }
    }

    fn warn_of_leases(&mut self, path: &[u8]) {
        if !self.has_warned_of_leases {
            self.has_warned_of_leases = true;
            let (tree, still) = (self.options.path.display(), self.options.settle.max(STILL));
            warn!(
                %tree, path = shown(path),
                "no lease can tell here whether a writer holds a file (not ours, or no leases on this file system); \
                 files met by a scan are announced when they stood still for {still:?}"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Masks;
    use crate::spool::tree::CatchUp;
    use crate::spool::tree::waiting::WAITING_MAX;

    /// A comparison that looks at the oldest files only is gone on with. A file that found no place to wait in is older
    /// than where that would begin.
    #[test]
    fn a_file_that_finds_no_place_to_wait_is_met_by_the_next_comparison() {
        let dir = tempfile::tempdir().unwrap();
        let options = Options {
            path: dir.path().to_owned(),
            masks: Masks::default(),
            settle: Duration::ZERO,
            catch_up: CatchUp::All,
            rescan: Duration::ZERO,
            poll: None,
        };
        let rows = Rows::open(&dir.path().join("inventory.db"), dir.path()).unwrap();
        let (sights, _told) = tokio::sync::mpsc::unbounded_channel();
        let watches = Watches::new(None);
        let mut scout = Scout::new(options, rows, Arc::default(), watches, Arc::default(), sights);
        for n in 0..WAITING_MAX {
            scout.wait(n.to_string().as_bytes(), Duration::ZERO, Look::Met);
        }
        scout.compared_to = Some((7, b"younger".to_vec()));
        assert!(!scout.compare_due);
        scout.wait(b"one more", Duration::ZERO, Look::Met);
        assert!(scout.compare_due && scout.compared_to.is_none());
    }
}
