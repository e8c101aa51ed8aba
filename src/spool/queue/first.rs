//! The first so many of any number of files.

use std::collections::BinaryHeap;

/// A file and its place in the order.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ranked {
    pub(super) key: Vec<u8>,
    /// Decides between equal keys.
    pub(super) path: Vec<u8>,
}

/// Keeps the first `max` of what it is offered.
pub(super) struct First {
    max: usize,
    files: BinaryHeap<Ranked>,
}

impl First {
    pub(super) fn new(max: usize) -> Self {
        First {
            max,
            files: BinaryHeap::new(),
        }
    }

    /// Whether a file of this rank would be kept, as it stands now.
    pub(super) fn wants(&self, ranked: &Ranked) -> bool {
        self.files.len() < self.max || self.files.peek().is_some_and(|last| ranked < last)
    }

    pub(super) fn take(&mut self, ranked: Ranked) {
        self.files.push(ranked);
        if self.files.len() > self.max {
            self.files.pop();
        }
    }

    /// In no order.
    pub(super) fn into_vec(self) -> Vec<Ranked> {
        self.files.into_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_are_kept_whatever_the_order_of_the_offers() {
        let mut first = First::new(3);
        for n in [5, 1, 4, 2, 9, 3, 0] {
            let ranked = Ranked {
                key: vec![n / 2],
                path: vec![n],
            };
            if first.wants(&ranked) {
                first.take(ranked);
            }
        }
        let mut kept: Vec<u8> = first.into_vec().into_iter().map(|ranked| ranked.path[0]).collect();
        kept.sort_unstable();
        assert_eq!(kept, [0, 1, 2]);
        assert!(!First::new(0).wants(&Ranked {
            key: vec![],
            path: vec![]
        }));
    }
}
