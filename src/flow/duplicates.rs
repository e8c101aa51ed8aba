//! A memory of contents, so that the same bytes are not handled twice: Sundew's, with its odd way of forgetting.
//!
//! Nothing is forgotten by time alone. Only when the memory is full, what is older than `keep` goes; if nothing is, the
//! older half. What is found again counts as new. It lives as long as the process, or until a reload.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::config::{Table, options};
use crate::message::identity;
use crate::spool::queue::PASS_MAX;

const ENTRIES: i64 = 125_000;
const KEEP: Duration = Duration::from_secs(8 * 3600);

/// How much is remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Contents, at most.
    pub entries: usize,
    /// How long one is worth keeping when there is no room.
    pub keep: Duration,
}

impl Options {
    /// `duplicates = { entries = 125000, keep = "8h" }`; `None` where there is none, or where it is wrong.
    pub fn read(table: &mut Table) -> Option<Options> {
        table.within("duplicates", |table| {
            let entries = table.integer("entries", 1..=10_000_000);
            let keep = options::positive_duration(table, "keep");
            let is_good = entries.is_some() == table.has("entries") && keep.is_some() == table.has("keep");
            is_good.then_some(Options {
                entries: entries.unwrap_or(ENTRIES as usize),
                keep: keep.unwrap_or(KEEP),
            })
        })
    }
}

/// What a content is remembered by: its md5.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest([u8; 16]);

impl Digest {
    /// The digest of these bytes.
    pub fn of(bytes: &[u8]) -> Digest {
        Digest(identity::md5(bytes))
    }

    /// In lower case.
    pub fn hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// An md5.
impl From<[u8; 16]> for Digest {
    fn from(md5: [u8; 16]) -> Digest {
        Digest(md5)
    }
}

/// The memory.
#[derive(Debug)]
pub struct Memory {
    options: Options,
    seen: HashMap<Digest, Instant>,
}

impl Memory {
    /// Nothing is remembered yet.
    pub fn new(options: Options) -> Memory {
        Memory {
            options,
            seen: HashMap::new(),
        }
    }

    /// Whether this content was handled; if so, it counts as handled now.
    pub fn knows(&mut self, digest: Digest, now: Instant) -> bool {
        match self.seen.get_mut(&digest) {
            Some(last) => {
                *last = now;
                true
            }
            None => false,
        }
    }

    /// This content has been handled.
    pub fn remember(&mut self, digest: Digest, now: Instant) {
        if self.seen.len() >= self.options.entries && !self.seen.contains_key(&digest) {
            let keep = self.options.keep;
            self.seen.retain(|_, last| now.saturating_duration_since(*last) <= keep);
            if self.seen.len() >= self.options.entries {
                self.forget_older_half();
            }
        }
        self.seen.insert(digest, now);
    }

    fn forget_older_half(&mut self) {
        let mut times: Vec<Instant> = self.seen.values().copied().collect();
        let middle = times.len().saturating_sub(1) / 2;
        if times.is_empty() {
            return;
        }
        let (_, median, _) = times.select_nth_unstable(middle);
        let median = *median;
        self.seen.retain(|_, last| *last > median);
    }
}

/// The memory, shared with who settles; `None` where everything is handled.
pub type Shared = Option<Arc<Mutex<Memory>>>;

/// What to do with a content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// It is on its way from now on.
    New,
    /// It was handled.
    Repeat,
    /// The same is on its way, or very many are: settle them, then look again.
    AfterOthers,
}

/// Decides for who hands contents on, whose verdicts come later.
#[derive(Debug)]
pub struct Duplicates {
    memory: Shared,
    /// Contents that were handed on since everything was last settled.
    in_flight: HashSet<Digest>,
}

impl Duplicates {
    /// Nothing is on its way.
    pub fn new(memory: Shared) -> Duplicates {
        Duplicates {
            memory,
            in_flight: HashSet::new(),
        }
    }

    /// Whether digests are needed.
    pub fn is_wanted(&self) -> bool {
        self.memory.is_some()
    }

    /// Decides about one that is to be handed on now. Never [`Look::AfterOthers`] right after
    /// [`Duplicates::all_settled`].
    pub fn look(&mut self, digest: Digest) -> Look {
        let Some(memory) = &self.memory else {
            return Look::New;
        };
        let mut memory = memory.lock().unwrap_or_else(PoisonError::into_inner);
        if memory.knows(digest, Instant::now()) {
            return Look::Repeat;
        }
        if self.in_flight.contains(&digest) || self.in_flight.len() >= PASS_MAX {
            return Look::AfterOthers;
        }
        self.in_flight.insert(digest);
        Look::New
    }

    /// Nothing is on its way any more.
    pub fn all_settled(&mut self) {
        self.in_flight.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(n: u32) -> Digest {
        Digest::of(&n.to_be_bytes())
    }

    fn memory(entries: usize) -> (Memory, Instant) {
        let keep = Duration::from_secs(100);
        (Memory::new(Options { entries, keep }), Instant::now())
    }

    fn known(memory: &mut Memory, of: std::ops::Range<u32>, now: Instant) -> Vec<u32> {
        of.filter(|n| memory.knows(digest(*n), now)).collect()
    }

    #[test]
    fn nothing_is_forgotten_while_there_is_room() {
        let (mut memory, start) = memory(10);
        memory.remember(digest(1), start);
        let later = start + Duration::from_secs(1_000_000);
        assert!(memory.knows(digest(1), later) && !memory.knows(digest(2), later));
    }

    #[test]
    fn when_it_is_full_what_is_too_old_goes_and_what_was_found_again_stays() {
        let (mut memory, start) = memory(4);
        let at = |s| start + Duration::from_secs(s);
        for n in 0..4 {
            memory.remember(digest(n), at(0));
        }
        assert!(memory.knows(digest(2), at(50)));
        memory.remember(digest(9), at(120));
        assert_eq!(known(&mut memory, 0..10, at(120)), [2, 9]);
    }

    #[test]
    fn when_nothing_is_too_old_the_older_half_goes() {
        let (mut memory, start) = memory(6);
        let at = |s| start + Duration::from_secs(s);
        for n in 0..6 {
            memory.remember(digest(n), at(u64::from(n)));
        }
        memory.remember(digest(3), at(7)); // known: nothing has to go
        memory.remember(digest(9), at(8));
        assert_eq!(known(&mut memory, 0..10, at(8)), [3, 4, 5, 9]);
    }

    #[test]
    fn it_stays_bounded_when_all_came_at_once() {
        let (mut memory, start) = memory(2);
        for n in 0..100 {
            memory.remember(digest(n), start);
            assert!(memory.seen.len() <= 2 && memory.knows(digest(n), start));
        }
        let (mut one, start) = self::memory(1);
        one.remember(digest(1), start);
        one.remember(digest(2), start);
        assert_eq!(known(&mut one, 0..3, start), [2]);
    }

    #[test]
    fn what_is_on_its_way_is_decided_when_it_is_settled() {
        let (memory, now) = memory(10);
        let memory = Arc::new(Mutex::new(memory));
        let mut duplicates = Duplicates::new(Some(Arc::clone(&memory)));
        let looks = |duplicates: &mut Duplicates| [1, 2].map(|n| duplicates.look(digest(n)));
        assert_eq!(looks(&mut duplicates), [Look::New; 2]);
        assert_eq!(looks(&mut duplicates), [Look::AfterOthers; 2]);
        memory.lock().unwrap().remember(digest(1), now);
        assert_eq!(looks(&mut duplicates), [Look::Repeat, Look::AfterOthers]);
        duplicates.all_settled(); // the second went wrong
        assert_eq!(looks(&mut duplicates), [Look::Repeat, Look::New]);
    }

    #[test]
    fn without_a_memory_everything_is_new() {
        let mut duplicates = Duplicates::new(None);
        assert_eq!([(); 3].map(|()| duplicates.look(digest(1))), [Look::New; 3]);
    }

    #[test]
    fn a_content_is_known_by_its_md5() {
        let hex = Digest::of(b"ceci est un test").hex();
        assert_eq!(hex, "11b35a0201513381dcdd130831f702d0");
    }
}
