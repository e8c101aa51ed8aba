//! Since when queues have been seen without a consumer: what one run of the reaper leaves for the next.
//!
//! One JSON file, replaced as a whole and synced. A sighting lasts as long as every run sees the queue without a
//! consumer; what cannot be read counts as never seen, which deletes later and never earlier.
//!
//! How much time passes from run to run is told by a clock that nobody sets, the one that counts since the boot. So a
//! wall clock that is wrong for a while makes no queue older; nor does the time between two runs with a boot between
//! them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use super::{SpoolError, make_directory};

/// Bytes of a file that are read: some hundred thousand queues.
const FILE_MAX: u64 = 64 << 20;

/// By so much the wall clock may go wrong from one run to the next without anything being put right.
const ADJUSTED: SignedDuration = SignedDuration::from_secs(5);

/// First sightings, by virtual host and queue.
#[derive(Debug)]
pub struct Sightings {
    path: PathBuf,
    kept: Kept,
}

/// The file.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Kept {
    /// Whose queues they are: those of another broker are strangers.
    broker: String,
    /// When the last run was.
    #[serde(default)]
    looked: Option<Moment>,
    without_consumer_since: BTreeMap<String, BTreeMap<String, At>>,
}

/// When a run is, by two clocks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Moment {
    at: At,
    /// Which boot of the machine the other clock counts from.
    boot: String,
    since_boot_ms: u64,
}

impl Moment {
    /// Now.
    pub fn now() -> Moment {
        let up = clock_gettime(ClockId::Boottime);
        // Where it is not told, all runs count as of one boot.
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Moment {
            at: At(Timestamp::now()),
            boot: boot.trim().to_owned(),
            since_boot_ms: (up.tv_sec as u64).saturating_mul(1000) + up.tv_nsec as u64 / 1_000_000,
        }
    }

    /// By the wall clock.
    pub fn at(&self) -> Timestamp {
        self.at.0
    }

    /// How much the wall clock has gone wrong since then.
    fn jump_since(&self, before: &Moment) -> SignedDuration {
        let passed_ms = match self.boot == before.boot {
            true => self.since_boot_ms.saturating_sub(before.since_boot_ms),
            false => 0,
        };
        let passed = SignedDuration::from_millis(i64::try_from(passed_ms).unwrap_or(i64::MAX));
        let gap = self.at().duration_since(before.at());
        gap.saturating_sub(passed)
    }
}

/// A time, as text.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
struct At(Timestamp);

impl From<At> for String {
    fn from(at: At) -> String {
        at.0.to_string()
    }
}

impl TryFrom<String> for At {
    type Error = jiff::Error;

    fn try_from(text: String) -> Result<At, jiff::Error> {
        text.parse().map(At)
    }
}

impl Sightings {
    /// What earlier runs have seen at this broker; nothing where there is no file. The text tells why a file that is
    /// there does not count.
    pub fn load(path: &Path, broker: &str) -> Result<(Sightings, Option<String>), SpoolError> {
        let none = || Kept {
            broker: broker.to_owned(),
            ..Kept::default()
        };
        let (kept, problem) = match read(path) {
            Ok(text) => match serde_json::from_slice::<Kept>(&text) {
                Ok(kept) if kept.broker == broker => (kept, None),
                Ok(_) => (none(), None),
                Err(error) => (none(), Some(error.to_string())),
            },
            Err(error) if error.kind() == ErrorKind::NotFound => (none(), None),
            Err(error) => return Err(SpoolError::own(format!("cannot read {}", path.display()), error)),
        };
        let said = problem.map(|why| format!("{}: {why}: every queue counts as never seen", path.display()));
        let path = path.to_owned();
        Ok((Sightings { path, kept }, said))
    }

    /// A run begins. Where the wall clock has been set since the last one, or the machine was booted, all sightings
    /// move along: a queue stays as old as it was, and the time that has passed for certain is added.
    pub fn go_on(&mut self, now: &Moment) {
        let before = self.kept.looked.replace(now.clone());
        let jump = before.map_or(SignedDuration::ZERO, |before| now.jump_since(&before));
        if jump.abs() <= ADJUSTED {
            return;
        }
        for first in self
            .kept
            .without_consumer_since
            .values_mut()
            .flat_map(BTreeMap::values_mut)
        {
            first.0 = first.0.checked_add(jump).unwrap_or(now.at());
        }
    }

    /// Since when the queue has been seen without a consumer.
    pub fn first(&self, vhost: &str, queue: &str) -> Option<Timestamp> {
        self.kept.without_consumer_since.get(vhost)?.get(queue).map(|at| at.0)
    }

    /// A look at a whole virtual host: these queues have no consumer, and every other one has, or is gone. A sighting
    /// after `now` is of a clock that has been set back, and counts from now on.
    pub fn look<'a>(&mut self, vhost: &str, without_consumer: impl IntoIterator<Item = &'a str>, now: Timestamp) {
        let before = self.kept.without_consumer_since.remove(vhost).unwrap_or_default();
        let since = |queue: &str| {
            before
                .get(queue)
                .copied()
                .filter(|first| first.0 <= now)
                .unwrap_or(At(now))
        };
        let after: BTreeMap<String, At> = without_consumer
            .into_iter()
            .map(|queue| (queue.to_owned(), since(queue)))
            .collect();
        if !after.is_empty() {
            self.kept.without_consumer_since.insert(vhost.to_owned(), after);
        }
    }

    /// Forgets the virtual hosts that are none of these.
    pub fn keep_vhosts(&mut self, is_kept: impl Fn(&str) -> bool) {
        self.kept.without_consumer_since.retain(|vhost, _| is_kept(vhost));
    }

    /// Forgets a queue; since when it had been seen.
    pub fn forget(&mut self, vhost: &str, queue: &str) -> Option<Timestamp> {
        self.kept
            .without_consumer_since
            .get_mut(vhost)?
            .remove(queue)
            .map(|at| at.0)
    }

    /// Takes back that a queue was forgotten.
    pub fn remember(&mut self, vhost: &str, queue: &str, first: Timestamp) {
        let queues = self.kept.without_consumer_since.entry(vhost.to_owned()).or_default();
        queues.insert(queue.to_owned(), At(first));
    }

    /// Replaces the file, synced. One process at a time: the caller has the reaper's lock.
    pub fn save(&self) -> Result<(), SpoolError> {
        let refused = |error: std::io::Error| SpoolError::own(format!("cannot write {}", self.path.display()), error);
        let directory = self.path.parent().unwrap_or(Path::new("."));
        make_directory(directory)?;
        let draft = self.path.with_extension("new");
        let text = serde_json::to_vec(&self.kept).map_err(|error| refused(error.into()))?;
        let mut file = File::create(&draft).map_err(refused)?;
        file.write_all(&text).and_then(|()| file.sync_all()).map_err(refused)?;
        std::fs::rename(&draft, &self.path).map_err(refused)?;
        File::open(directory)
            .and_then(|directory| directory.sync_all())
            .map_err(refused)
    }
}

fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut text = Vec::new();
    File::open(path)?.take(FILE_MAX).read_to_end(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn empty(directory: &tempfile::TempDir) -> Sightings {
        let (sightings, said) = Sightings::load(&directory.path().join("reaper/s.json"), "b").unwrap();
        assert_eq!(said, None);
        sightings
    }

    #[test]
    fn a_sighting_lasts_while_every_look_sees_it() {
        let directory = tempfile::tempdir().unwrap();
        let mut seen = empty(&directory);
        seen.look("/", ["a", "b \"é\"\n"], at(100));
        seen.look("v", ["a"], at(110));
        seen.look("/", ["a", "c"], at(200));
        seen.look("/", ["a", "b \"é\"\n", "c"], at(300));
        seen.save().unwrap();
        let seen = empty(&directory);
        let found = ["a", "b \"é\"\n", "c", "d"].map(|queue| seen.first("/", queue));
        assert_eq!(found, [Some(at(100)), Some(at(300)), Some(at(200)), None]);
        assert_eq!(seen.first("v", "a"), Some(at(110)));
    }

    #[test]
    fn what_was_seen_in_the_future_is_seen_now() {
        let directory = tempfile::tempdir().unwrap();
        let mut seen = empty(&directory);
        seen.look("/", ["a"], at(1000));
        seen.look("/", ["a"], at(500));
        assert_eq!(seen.first("/", "a"), Some(at(500)));
    }

    fn moment(second: i64, boot: &str, up_s: u64) -> Moment {
        Moment {
            at: At(at(second)),
            boot: boot.into(),
            since_boot_ms: up_s * 1000,
        }
    }

    /// How long it has been seen without a consumer after each of these runs.
    fn ages(runs: &[Moment]) -> Vec<i64> {
        let directory = tempfile::tempdir().unwrap();
        let age = |run: &Moment| {
            let mut seen = empty(&directory);
            seen.go_on(run);
            seen.look("/", ["a"], run.at());
            seen.save().unwrap();
            run.at().as_second() - seen.first("/", "a").unwrap().as_second()
        };
        runs.iter().map(age).collect()
    }

    #[test]
    fn a_clock_that_is_wrong_makes_no_queue_older() {
        let (day, year) = (86_400, 31_536_000);
        let now = 50 * year;
        // A boot with a flat clock battery, put right five minutes later.
        let flat = [
            moment(now, "x", 100),
            moment(now + 300, "x", 400),
            moment(9, "y", 20),
            moment(now + 900, "y", 320),
        ];
        assert_eq!(ages(&flat), [0, 300, 300, 600]);
        // Far ahead for one run.
        let ahead = [
            moment(now, "x", 100),
            moment(now + 80 * year, "x", 400),
            moment(now + 600, "x", 700),
        ];
        assert_eq!(ages(&ahead), [0, 300, 600]);
        // What passes between two runs of one boot counts, however long it is; a small adjustment is none.
        let calm = [
            moment(now, "x", 100),
            moment(now + 30 * day + 3, "x", 100 + 30 * day as u64),
        ];
        assert_eq!(ages(&calm), [0, 30 * day + 3]);
    }

    #[test]
    fn vhosts_and_queues_are_forgotten_and_taken_back() {
        let directory = tempfile::tempdir().unwrap();
        let mut seen = empty(&directory);
        for vhost in ["/", "v", "w"] {
            seen.look(vhost, ["a"], at(1));
        }
        seen.keep_vhosts(|vhost| vhost != "w");
        assert_eq!(seen.first("w", "a"), None);
        assert_eq!(seen.forget("v", "a"), Some(at(1)));
        assert_eq!((seen.forget("v", "a"), seen.forget("x", "a")), (None, None));
        seen.remember("v", "a", at(1));
        assert_eq!(seen.first("v", "a"), Some(at(1)));
    }

    #[test]
    fn a_file_that_is_none_or_of_another_broker_counts_as_nothing_seen() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("reaper/s.json");
        let mut seen = empty(&directory);
        seen.look("/", ["a"], at(1));
        seen.save().unwrap();
        let (other, said) = Sightings::load(&path, "c").unwrap();
        assert_eq!((other.first("/", "a"), said), (None, None));
        for text in [
            "",
            "{",
            "[]",
            "{\"broker\":\"b\",\"without_consumer_since\":{\"/\":{\"a\":\"soon\"}}}",
        ] {
            std::fs::write(&path, text).unwrap();
            let (seen, said) = Sightings::load(&path, "b").unwrap();
            assert_eq!(seen.first("/", "a"), None);
            assert!(said.unwrap().ends_with("every queue counts as never seen"), "{text}");
        }
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert!(Sightings::load(&path, "b").is_err());
    }

    proptest! {
        /// Whatever the looks and the clock: a sighting is the begin of the queue's last unbroken series, never in the
        /// future, and the file brings back what was saved.
        #[test]
        fn a_sighting_is_never_older_than_its_series(
            looks in prop::collection::vec((0i64..1000, prop::collection::btree_set(0u8..4, 0..4)), 1..20),
        ) {
            let directory = tempfile::tempdir().unwrap();
            let mut seen = empty(&directory);
            let mut series: BTreeMap<u8, Vec<i64>> = BTreeMap::new();
            for (now, without) in &looks {
                series.retain(|queue, _| without.contains(queue));
                for queue in without {
                    series.entry(*queue).or_default().push(*now);
                }
                let names: Vec<String> = without.iter().map(u8::to_string).collect();
                seen.look("/", names.iter().map(String::as_str), at(*now));
                for queue in 0..4 {
                    let first = seen.first("/", &queue.to_string());
                    let looks = series.get(&queue);
                    prop_assert_eq!(first.is_some(), looks.is_some());
                    if let (Some(first), Some(looks)) = (first, looks) {
                        prop_assert!(first <= at(*now));
                        prop_assert!(looks.iter().any(|look| at(*look) == first));
                    }
                }
            }
            seen.save().unwrap();
            let (back, _) = Sightings::load(&directory.path().join("reaper/s.json"), "b").unwrap();
            prop_assert_eq!(back.kept, seen.kept);
        }
    }
}
