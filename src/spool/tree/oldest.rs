//! The oldest files of a scan, as many as may be in memory.

use std::collections::BinaryHeap;

/// Files that a scan holds in memory to find the oldest; the others have to wait for the next one.
const OLDEST_MAX: usize = 100_000;

/// Files by age, then by path.
#[derive(Default)]
pub(super) struct Oldest {
    files: BinaryHeap<(i64, Vec<u8>)>,
    /// There were more.
    pub(super) has_more: bool,
}

impl Oldest {
    pub(super) fn push(&mut self, mtime_ns: i64, path: Vec<u8>) {
        self.files.push((mtime_ns, path));
        if self.files.len() > OLDEST_MAX {
            self.files.pop();
            self.has_more = true;
        }
    }

    /// The youngest of them.
    pub(super) fn last(&self) -> Option<&(i64, Vec<u8>)> {
        self.files.peek()
    }

    /// The oldest first.
    pub(super) fn into_sorted(self) -> Vec<(i64, Vec<u8>)> {
        self.files.into_sorted_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_oldest_are_kept_and_they_come_in_order() {
        let mut oldest = Oldest::default();
        for n in (0..OLDEST_MAX as i64 + 10).rev() {
            oldest.push(n, n.to_string().into_bytes());
        }
        assert!(oldest.has_more);
        assert_eq!(oldest.last().map(|last| last.0), Some(OLDEST_MAX as i64 - 1));
        let sorted = oldest.into_sorted();
        assert!(sorted.len() == OLDEST_MAX && sorted.is_sorted());
    }
}
