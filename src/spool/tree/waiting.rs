//! Files that are looked at again when their time has come: still changing, just made, or not yet quiet.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

use crate::spool::inventory::Version;

/// Files that may wait. With more, the tree is compared with its inventory later.
pub(super) const WAITING_MAX: usize = 20_000;

/// What a file is looked at for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// It was closed after writing, renamed in or linked in.
    Closed,
    /// A scan has met it, or an earlier look found it changing: a writer may hold it.
    Met,
    /// It was closed in this version, and is ready if nothing happened since.
    Quiet(Version),
    /// It was met in this version where no lease can tell whether a writer holds it.
    Still(Version),
    /// It was made, and not yet closed; how often that was looked at.
    Made(u32),
}

/// When a file's time comes; the number tells equal times apart.
type Turn = (Instant, u64);

/// The waiting files by time and by path.
#[derive(Default)]
pub(super) struct Waiting {
    by_time: BTreeMap<Turn, Arc<[u8]>>,
    by_path: HashMap<Arc<[u8]>, (Turn, Look)>,
    number: u64,
}

impl Waiting {
    /// Lets a file wait, instead of its earlier waiting. `false` when there are too many.
    pub(super) fn put(&mut self, path: &[u8], until: Instant, look: Look) -> bool {
        self.remove(path);
        if self.by_path.len() >= WAITING_MAX {
            return false;
        }
        self.number += 1;
        let (path, at): (Arc<[u8]>, _) = (path.into(), (until, self.number));
        self.by_time.insert(at, path.clone());
        self.by_path.insert(path, (at, look));
        true
    }

    /// The file waits no longer.
    pub(super) fn remove(&mut self, path: &[u8]) {
        if let Some((at, _)) = self.by_path.remove(path) {
            self.by_time.remove(&at);
        }
    }

    /// Whether the file waits already to stay as it is in this version.
    pub(super) fn is_ripening(&self, path: &[u8], version: Version) -> bool {
        let look = self.by_path.get(path).map(|(_, look)| *look);
        look == Some(Look::Quiet(version)) || look == Some(Look::Still(version))
    }

    /// When the next one's time comes.
    pub(super) fn next_time(&self) -> Option<Instant> {
        self.by_time.keys().next().map(|(at, _)| *at)
    }

    /// One whose time has come.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<(Arc<[u8]>, Look)> {
        let first = self.by_time.first_entry()?;
        if first.key().0 > now {
            return None;
        }
        let path = first.remove();
        self.by_path.remove(&path).map(|(_, look)| (path, look))
    }

    /// Whether many more could wait.
    pub(super) fn has_room(&self) -> bool {
        self.by_path.len() <= WAITING_MAX / 2
    }

    /// Nothing waits any more.
    pub(super) fn clear(&mut self) {
        self.by_time.clear();
        self.by_path.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn files_come_in_the_order_of_their_times_and_a_later_wish_replaces_an_earlier_one() {
        let mut waiting = Waiting::default();
        let now = Instant::now();
        let later = now + Duration::from_secs(5);
        waiting.put(b"a", later, Look::Met);
        waiting.put(b"b", now, Look::Met);
        waiting.put(b"c", now, Look::Closed);
        waiting.put(b"b", later, Look::Made(0));
        assert_eq!(waiting.next_time(), Some(now));
        let due = |waiting: &mut Waiting, at| waiting.take_due(at).map(|(path, look)| (path.to_vec(), look));
        assert_eq!(due(&mut waiting, now), Some((b"c".to_vec(), Look::Closed)));
        assert_eq!(due(&mut waiting, now), None);
        waiting.remove(b"a");
        assert_eq!(due(&mut waiting, later), Some((b"b".to_vec(), Look::Made(0))));
        assert_eq!(waiting.next_time(), None);
    }

    #[test]
    fn only_so_many_may_wait() {
        let mut waiting = Waiting::default();
        let now = Instant::now();
        for n in 0..WAITING_MAX {
            assert!(waiting.put(n.to_string().as_bytes(), now, Look::Met));
        }
        assert!(!waiting.put(b"one more", now, Look::Met));
        assert!(waiting.put(b"7", now, Look::Closed) && !waiting.has_room());
    }
}
