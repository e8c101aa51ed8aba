//! The duplicate memory: which products have been forwarded, from which source, and when.
//!
//! [`Seen`] is the memory and decides; [`SeenLog`] is its trace on disk, from which a restart learns it again. The
//! order is: forward, confirm, [`Seen::remember`], [`SeenLog::append_batch`], ack. A crash repeats at most what was in
//! flight; a torn end of the log is cut off. A log of an older px is read and written anew.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use md5::{Digest, Md5};

use crate::message::Fingerprint;

mod entries;
mod log;
mod sources;

pub use log::{Aside, Batch, Loaded, SeenLog};

use entries::Entries;
use log::{Record, records_of};
use sources::{SourceId, Sources};

/// A product's key: a digest of what makes it the same product.
pub type Key = [u8; 16];

/// Longest source name: a host and a port.
const SOURCE_MAX: usize = 300;

/// What an announcement says about itself, beside its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts<'a> {
    /// Authority (host:port) of the announced base URL.
    pub source: &'a str,
    /// The announced path.
    pub path: &'a [u8],
    /// Bytes, if announced.
    pub size: Option<u64>,
    /// Time, if announced.
    pub time: Option<Timestamp>,
    /// What it says of the content, if anything.
    pub content: Option<Fingerprint>,
}

/// What the memory says of an announcement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Not seen within `keep`.
    First,
    /// Forwarded already.
    Duplicate(Winner),
    /// The winner's own source announces it anew, with another path, size or time.
    Reissue,
}

/// The announcement that was forwarded, as a copy of it sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Winner {
    /// Its source.
    pub source: Arc<str>,
    /// The copy is of the same source.
    pub is_own: bool,
    /// When px first had it: before its forward, by what that took (65 s at most).
    pub came: Timestamp,
    /// What the two say differently, where their sources are two.
    pub disagreement: Option<Disagreement>,
}

/// Sizes or contents that differ for one product; the winner's stand first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disagreement {
    /// Bytes, as far as announced.
    pub sizes: [Option<u64>; 2],
    /// What they say of the content; `None` where that cannot be compared.
    pub contents: Option<[Fingerprint; 2]>,
}

/// How much is remembered and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Products; the one forwarded longest ago makes room.
    pub entries: NonZeroUsize,
    /// Counted from the forward; a repeat does not extend it.
    pub keep: Duration,
}

/// Not announced.
const NO_SIZE: u64 = u64::MAX;
const NO_TIME: i64 = i64::MIN;
const NO_METHOD: u16 = 0;

/// There may be a million of these: 48 bytes, and no allocation of their own.
#[derive(Debug, Clone, Copy)]
struct Forwarded {
    at_ms: i64,
    path: u64,
    size: u64,
    time_ms: i64,
    digest: u64,
    source: SourceId,
    method: u16,
    held_ms: u16,
}

/// The memory. Pure: it knows no clock and no disk.
#[derive(Debug)]
pub struct Seen {
    entries: Entries,
    keep_ms: i64,
    evicted_early: u64,
    sources: Sources,
}

impl Seen {
    /// An empty memory; it grows as it is used.
    pub fn new(memory: Memory) -> Seen {
        Seen {
            entries: Entries::new(memory.entries),
            keep_ms: i64::try_from(memory.keep.as_millis()).unwrap_or(i64::MAX),
            evicted_early: 0,
            sources: Sources::default(),
        }
    }

    /// Decides, and changes nothing. What one of the two does not carry is no difference.
    pub fn verdict(&self, key: &Key, facts: &Facts<'_>, now: Timestamp) -> Verdict {
        let Some(winner) = self.entries.get(key).filter(|winner| self.is_alive(winner, now)) else {
            return Verdict::First;
        };
        let source = self.sources.name(winner.source);
        let is_own = **source == *cut_source(facts.source);
        if is_own && winner.is_another_issue(facts) {
            return Verdict::Reissue;
        }
        let came = winner.at_ms.saturating_sub(winner.held_ms.into());
        Verdict::Duplicate(Winner {
            source: Arc::clone(source),
            is_own,
            came: Timestamp::from_millisecond(came).unwrap_or(now),
            disagreement: winner.disagreement(facts).filter(|_| !is_own),
        })
    }

    /// Notes a confirmed forward, `held` after px first had the announcement, and adds its record to `batch`.
    pub fn remember(&mut self, key: Key, facts: &Facts<'_>, held: Duration, now: Timestamp, batch: &mut Batch) {
        let record = Record {
            key,
            at_ms: now.as_millisecond(),
            path: path_digest(facts.path),
            size: facts.size.unwrap_or(NO_SIZE),
            time_ms: facts.time.map_or(NO_TIME, Timestamp::as_millisecond),
            digest: facts.content.map_or(0, |content| content.value),
            method: facts.content.map_or(NO_METHOD, |content| content.method),
            held_ms: u16::try_from(held.as_millis()).unwrap_or(u16::MAX),
            source: cut_source(facts.source),
        };
        batch.add(&record);
        self.put(&record, now);
    }

    /// Takes what another process has remembered, a [`Batch::to_message`], and adds to `batch` what is new. Answers how
    /// many were.
    pub fn learn(&mut self, message: &[u8], now: Timestamp, batch: &mut Batch) -> u64 {
        let mut learned = 0;
        records_of(message, |told| {
            // The other clock may be ahead.
            let record = Record {
                at_ms: told.at_ms.min(now.as_millisecond()),
                ..*told
            };
            let known = self.entries.get(&record.key).filter(|known| self.is_alive(known, now));
            // Another record of the same product is a new issue of it, and remembered as who forwarded it does.
            let is_known = known.is_some_and(|known| {
                (known.path, known.size, known.time_ms) == (record.path, record.size, record.time_ms)
                    && **self.sources.name(known.source) == *record.source
            });
            if is_known || !self.is_fresh(record.at_ms, now) {
                return;
            }
            batch.add(&record);
            self.put(&record, now);
            learned += 1;
        });
        learned
    }

    /// How many made room before `keep` was over: `entries` is too small then.
    pub fn evicted_early(&self) -> u64 {
        self.evicted_early
    }

    /// How many are remembered, the expired ones that nothing has pushed out included.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.entries.len() == 0
    }

    /// The next [`Seen::slice`] begins with the oldest forward.
    pub fn begin_slices(&mut self) {
        self.entries.begin_walk();
    }

    /// Adds to `batch` the next `count` of what is remembered, without what has expired, and answers whether anything is
    /// left. The slices up to the last are everything: what is remembered meanwhile comes at their end.
    pub fn slice(&mut self, count: usize, now: Timestamp, batch: &mut Batch) -> bool {
        for _ in 0..count {
            let Some((key, forwarded)) = self.entries.walk() else {
                return false;
            };
            if !is_fresh(forwarded.at_ms, self.keep_ms, now) {
                continue;
            }
            batch.add(&Record {
                key: *key,
                at_ms: forwarded.at_ms,
                path: forwarded.path,
                size: forwarded.size,
                time_ms: forwarded.time_ms,
                digest: forwarded.digest,
                method: forwarded.method,
                held_ms: forwarded.held_ms,
                source: self.sources.name(forwarded.source),
            });
        }
        true
    }

    /// Takes a record of the log. What `entries` has no room for now is no news from the broker.
    fn learn_again(&mut self, record: &Record<'_>, now: Timestamp) {
        let evicted_early = self.evicted_early;
        if self.is_fresh(record.at_ms, now) {
            self.put(record, now);
        }
        self.evicted_early = evicted_early;
    }

    fn put(&mut self, record: &Record<'_>, now: Timestamp) {
        // The expired are at the end, for hits do not move entries.
        while let Some(oldest) = self.entries.oldest()
            && !self.is_alive(oldest, now)
        {
            if let Some(expired) = self.entries.pop_oldest() {
                self.sources.release(expired.source);
            }
        }
        let forwarded = Forwarded {
            at_ms: record.at_ms,
            path: record.path,
            size: record.size,
            time_ms: record.time_ms,
            digest: record.digest,
            source: self.sources.take(record.source),
            method: record.method,
            held_ms: record.held_ms,
        };
        if let Some((key, gone)) = self.entries.push(record.key, forwarded) {
            self.evicted_early += u64::from(key != record.key);
            self.sources.release(gone.source);
        }
    }

    fn is_alive(&self, forwarded: &Forwarded, now: Timestamp) -> bool {
        self.is_fresh(forwarded.at_ms, now)
    }

    fn is_fresh(&self, at_ms: i64, now: Timestamp) -> bool {
        is_fresh(at_ms, self.keep_ms, now)
    }
}

fn is_fresh(at_ms: i64, keep_ms: i64, now: Timestamp) -> bool {
    now.as_millisecond().saturating_sub(at_ms) < keep_ms
}

impl Forwarded {
    fn size(&self) -> Option<u64> {
        Some(self.size).filter(|size| *size != NO_SIZE)
    }

    fn is_another_issue(&self, facts: &Facts<'_>) -> bool {
        let time_ms = facts.time.map_or(NO_TIME, Timestamp::as_millisecond);
        self.path != path_digest(facts.path)
            || differ(self.size(), facts.size)
            || self.time_ms != time_ms && self.time_ms != NO_TIME && time_ms != NO_TIME
    }

    fn disagreement(&self, facts: &Facts<'_>) -> Option<Disagreement> {
        let contents = facts.content.filter(|theirs| theirs.method == self.method);
        let contents = contents.map(|theirs| {
            let own = Fingerprint {
                method: self.method,
                value: self.digest,
            };
            [own, theirs]
        });
        let sizes = [self.size(), facts.size];
        let is_other = contents.is_some_and(|[own, theirs]| own != theirs) || differ(sizes[0], sizes[1]);
        is_other.then_some(Disagreement { sizes, contents })
    }
}

fn differ(one: Option<u64>, other: Option<u64>) -> bool {
    matches!((one, other), (Some(one), Some(other)) if one != other)
}

/// Of a text, in hexadecimal: the same in every run and on every host.
pub fn digest(text: &str) -> String {
    format!("{:032x}", u128::from_be_bytes(Md5::digest(text).into()))
}

/// The same in every run, unlike the standard library's hashes: it is stored.
fn path_digest(path: &[u8]) -> u64 {
    let digest = Md5::digest(path);
    u64::from_le_bytes([
        digest[0], digest[1], digest[2], digest[3], digest[4], digest[5], digest[6], digest[7],
    ])
}

fn cut_source(source: &str) -> &str {
    let mut end = source.len().min(SOURCE_MAX);
    while !source.is_char_boundary(end) {
        end -= 1;
    }
    &source[..end]
}

#[cfg(test)]
mod tests;
