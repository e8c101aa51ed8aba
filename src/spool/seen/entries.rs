//! What is remembered, by key and in the order of the forwards, so that it can be read in slices while it changes.

use std::collections::HashMap;
use std::num::NonZeroUsize;

use super::{Forwarded, Key};

/// No place.
const NONE: u32 = u32::MAX;

#[derive(Debug)]
struct Node {
    key: Key,
    forwarded: Forwarded,
    older: u32,
    newer: u32,
}

/// At most so many; the oldest makes room.
#[derive(Debug)]
pub(super) struct Entries {
    max: usize,
    nodes: Vec<Node>,
    /// Places in `nodes` that are empty.
    free: Vec<u32>,
    places: HashMap<Key, u32>,
    oldest: u32,
    newest: u32,
    /// The walk has read this one and all that are older; `NONE`: none yet.
    walked: u32,
}

impl Entries {
    /// Nothing; it grows as it is used.
    pub fn new(max: NonZeroUsize) -> Entries {
        Entries {
            max: max.get().min(NONE as usize),
            nodes: Vec::new(),
            free: Vec::new(),
            places: HashMap::new(),
            oldest: NONE,
            newest: NONE,
            walked: NONE,
        }
    }

    pub fn len(&self) -> usize {
        self.places.len()
    }

    pub fn get(&self, key: &Key) -> Option<&Forwarded> {
        self.places.get(key).map(|place| &self.nodes[*place as usize].forwarded)
    }

    pub fn oldest(&self) -> Option<&Forwarded> {
        self.node(self.oldest).map(|node| &node.forwarded)
    }

    pub fn pop_oldest(&mut self) -> Option<Forwarded> {
        let node = self.node(self.oldest)?;
        let (key, forwarded) = (node.key, node.forwarded);
        self.places.remove(&key);
        self.free.push(self.oldest);
        self.unlink(self.oldest);
        Some(forwarded)
    }

    /// The newest from now on; answers which one it takes the place of: the one with its key, or the oldest.
    pub fn push(&mut self, key: Key, forwarded: Forwarded) -> Option<(Key, Forwarded)> {
        if let Some(place) = self.places.get(&key).copied() {
            self.unlink(place);
            let before = std::mem::replace(&mut self.nodes[place as usize].forwarded, forwarded);
            self.link(place);
            return Some((key, before));
        }
        let gone = match self.len() >= self.max {
            true => self.node(self.oldest).map(|node| node.key),
            false => None,
        };
        let gone = gone.and_then(|key| Some((key, self.pop_oldest()?)));
        let node = Node {
            key,
            forwarded,
            older: NONE,
            newer: NONE,
        };
        let place = match self.free.pop() {
            Some(place) => {
                self.nodes[place as usize] = node;
                place
            }
            None => {
                self.nodes.push(node);
                (self.nodes.len() - 1) as u32
            }
        };
        self.places.insert(key, place);
        self.link(place);
        gone
    }

    /// The next [`Entries::walk`] reads the oldest.
    pub fn begin_walk(&mut self) {
        self.walked = NONE;
    }

    /// The next of the walk, the oldest first; `None` when all that are there now have been read. One that becomes the
    /// newest meanwhile is read again.
    pub fn walk(&mut self) -> Option<(&Key, &Forwarded)> {
        let next = match self.node(self.walked) {
            Some(node) => node.newer,
            None => self.oldest,
        };
        if next != NONE {
            self.walked = next;
        }
        self.node(next).map(|node| (&node.key, &node.forwarded))
    }

    fn node(&self, place: u32) -> Option<&Node> {
        match place {
            NONE => None,
            place => self.nodes.get(place as usize),
        }
    }

    fn unlink(&mut self, place: u32) {
        let Node { older, newer, .. } = self.nodes[place as usize];
        match older {
            NONE => self.oldest = newer,
            older => self.nodes[older as usize].newer = newer,
        }
        match newer {
            NONE => self.newest = older,
            newer => self.nodes[newer as usize].older = older,
        }
        if self.walked == place {
            self.walked = older;
        }
    }

    fn link(&mut self, place: u32) {
        let older = std::mem::replace(&mut self.newest, place);
        match older {
            NONE => self.oldest = place,
            older => self.nodes[older as usize].newer = place,
        }
        let node = &mut self.nodes[place as usize];
        (node.older, node.newer) = (older, NONE);
    }
}

#[cfg(test)]
mod tests {
    use super::super::sources::Sources;
    use super::*;

    fn entries(max: usize) -> Entries {
        Entries::new(NonZeroUsize::new(max).unwrap())
    }

    fn forwarded(at_ms: i64) -> Forwarded {
        Forwarded {
            at_ms,
            path: 0,
            size: 0,
            time_ms: 0,
            digest: 0,
            source: Sources::default().take(""),
            method: 0,
            held_ms: 0,
        }
    }

    fn push(entries: &mut Entries, key: u8, at_ms: i64) -> Option<u8> {
        entries.push([key; 16], forwarded(at_ms)).map(|(key, _)| key[0])
    }

    fn walk(entries: &mut Entries, count: usize) -> Vec<u8> {
        let mut keys = Vec::new();
        while keys.len() < count
            && let Some((key, _)) = entries.walk()
        {
            keys.push(key[0]);
        }
        keys
    }

    #[test]
    fn the_oldest_makes_room_and_what_comes_again_is_the_newest() {
        let mut entries = entries(3);
        for key in 1..=3 {
            assert_eq!(push(&mut entries, key, key.into()), None);
        }
        assert_eq!(push(&mut entries, 1, 4), Some(1));
        assert_eq!(push(&mut entries, 4, 5), Some(2));
        assert_eq!((entries.get(&[2; 16]).is_none(), entries.len()), (true, 3));
        assert_eq!(entries.get(&[1; 16]).map(|found| found.at_ms), Some(4));
        assert_eq!(entries.oldest().map(|found| found.at_ms), Some(3));
        assert_eq!(walk(&mut entries, 9), [3, 1, 4]);
        for at_ms in [3, 4, 5] {
            assert_eq!(entries.pop_oldest().map(|found| found.at_ms), Some(at_ms));
        }
        assert!(entries.pop_oldest().is_none() && entries.oldest().is_none());
        assert_eq!(push(&mut entries, 5, 6), None);
        assert_eq!((entries.nodes.len(), walk(&mut entries, 9)), (3, vec![5]));
    }

    /// Against a plain list, over all that can happen between two steps of a walk.
    #[test]
    fn a_walk_reads_whatever_stays_and_the_newest_last() {
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..300 {
            let mut entries = entries(8);
            let mut list: Vec<u8> = Vec::new();
            let mut read: Vec<u8> = Vec::new();
            entries.begin_walk();
            for _ in 0..60 {
                match random.u8(..3) {
                    0 => {
                        let key = random.u8(..12);
                        push(&mut entries, key, 0);
                        list.retain(|other| *other != key);
                        read.retain(|other| *other != key);
                        list.push(key);
                        if list.len() > 8 {
                            list.remove(0);
                        }
                    }
                    1 if random.bool() => {
                        entries.pop_oldest();
                        list.drain(..list.len().min(1));
                    }
                    _ => read.extend(walk(&mut entries, 2)),
                }
                read.retain(|key| list.contains(key));
                assert_eq!(read, list[..read.len()]);
            }
            read.extend(walk(&mut entries, 99));
            assert_eq!((&read, entries.walk().is_none()), (&list, true));
            push(&mut entries, 99, 0);
            assert_eq!(walk(&mut entries, 9), [99]);
        }
    }
}
