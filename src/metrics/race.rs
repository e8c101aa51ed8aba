//! Redundant sources race: which of them announces first, by how much, and where they disagree about a product.
//!
//! Each copy of a product that another source has announced before is a race of two; a product of three sources is two
//! races. At most [`SOURCES_MAX`] sources are told apart, those that come later are one. Counting allocates nothing
//! once both sources are known.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Histogram;

/// Sources that are told apart.
pub const SOURCES_MAX: usize = 32;
/// What all others are called; no source has such a name.
pub const OTHERS: &str = "(others)";
/// Longest name of a source or a product that is kept.
const NAME_MAX: usize = 300;

/// What two sources say differently of one product.
#[derive(Debug, Clone, Copy)]
pub struct Difference<'a> {
    /// The product's name.
    pub name: &'a str,
    /// Bytes, as far as announced; the winner's first.
    pub sizes: [Option<u64>; 2],
    /// Digests, where they are comparable; the winner's first.
    pub digests: Option<[u64; 2]>,
}

/// The races of one unit.
#[derive(Debug, Default)]
pub struct Race(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    runners: Vec<Runner>,
    /// By the places of both in `runners`, the lower one first.
    disagreements: BTreeMap<(usize, usize), Disagreement>,
}

#[derive(Debug, Default)]
struct Runner {
    source: String,
    first: u64,
    contested: u64,
    /// By how much it was first.
    leads: Histogram,
}

#[derive(Debug, Default)]
struct Disagreement {
    count: u64,
    name: String,
    sizes: [Option<u64>; 2],
    digests: Option<[u64; 2]>,
}

/// One source in `status.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Standing {
    /// `host:port`.
    pub source: String,
    /// Races that it won.
    pub first: u64,
    /// Races that it ran.
    pub contested: u64,
    /// `first` of `contested`, 0 to 1.
    pub share: f64,
    /// By how much it was first.
    pub lead_s: Lead,
}

/// Quantiles of leads in seconds; absent before the first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[allow(missing_docs)]
pub struct Lead {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p50: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p99: Option<f64>,
}

/// Two sources that disagree, in `status.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disagreeing {
    /// Both.
    pub sources: [String; 2],
    /// Products of which they said something different.
    pub count: u64,
    /// The latest of these.
    pub last: Last,
}

/// What two sources said of one product, in the order in which they are named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Last {
    /// The product's name.
    pub name: String,
    /// Bytes, as far as announced.
    pub sizes: [Option<u64>; 2],
    /// The first sixteen hex digits of each digest, where they are comparable.
    pub digests: [Option<String>; 2],
}

impl Race {
    /// `first` announced a product `lead` before `other` did. What they say differently of it, if anything.
    pub fn note(&self, first: &str, other: &str, lead: Duration, difference: Option<&Difference<'_>>) {
        let mut table = self.table();
        let (winner, loser) = (table.place(first), table.place(other));
        if winner == loser {
            return; // two of the others
        }
        let runner = &mut table.runners[winner];
        runner.first += 1;
        runner.contested += 1;
        runner.leads.note(lead);
        table.runners[loser].contested += 1;
        if let Some(difference) = difference {
            table.disagree(winner, loser, difference);
        }
    }

    /// Every source, by name; none before the first race.
    pub fn standings(&self) -> Vec<Standing> {
        let table = self.table();
        let standing = |runner: &Runner| Standing {
            source: runner.source.clone(),
            first: runner.first,
            contested: runner.contested,
            share: runner.first as f64 / runner.contested.max(1) as f64,
            lead_s: Lead {
                p50: runner.leads.quantile(0.5).map(|lead| lead.as_secs_f64()),
                p99: runner.leads.quantile(0.99).map(|lead| lead.as_secs_f64()),
            },
        };
        // A source whose only races were not counted has nothing to tell.
        let ran = table.runners.iter().filter(|runner| runner.contested > 0);
        let mut standings: Vec<Standing> = ran.map(standing).collect();
        standings.sort_by(|a, b| a.source.cmp(&b.source));
        standings
    }

    /// Every two sources that have disagreed.
    pub fn disagreements(&self) -> Vec<Disagreeing> {
        let table = self.table();
        let told = table.disagreements.iter().map(|((one, other), found)| Disagreeing {
            sources: [*one, *other].map(|place| table.runners[place].source.clone()),
            count: found.count,
            last: Last {
                name: found.name.clone(),
                sizes: found.sizes,
                digests: match found.digests {
                    Some(digests) => digests.map(|digest| Some(format!("{digest:016x}"))),
                    None => [None, None],
                },
            },
        });
        told.collect()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn place(&mut self, source: &str) -> usize {
        let source = cut(source);
        let known = self.runners.iter().position(|runner| runner.source == source);
        known.unwrap_or_else(|| {
            if self.runners.len() > SOURCES_MAX {
                return SOURCES_MAX;
            }
            let is_one_of_many = self.runners.len() == SOURCES_MAX;
            self.runners.push(Runner {
                source: if is_one_of_many { OTHERS } else { source }.to_owned(),
                ..Runner::default()
            });
            self.runners.len() - 1
        })
    }

    fn disagree(&mut self, winner: usize, loser: usize, difference: &Difference<'_>) {
        let (mut sizes, mut digests) = (difference.sizes, difference.digests);
        let mut between = (winner, loser);
        if loser < winner {
            between = (loser, winner);
            sizes.reverse();
            if let Some(digests) = &mut digests {
                digests.reverse();
            }
        }
        let last = self.disagreements.entry(between).or_default();
        last.count += 1;
        last.name.clear();
        last.name.push_str(cut(difference.name));
        (last.sizes, last.digests) = (sizes, digests);
    }
}

fn cut(name: &str) -> &str {
    &name[..name.floor_char_boundary(NAME_MAX)]
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn sizes(name: &str) -> Difference<'_> {
        Difference {
            name,
            sizes: [Some(10), Some(11)],
            digests: None,
        }
    }

    #[test]
    fn each_source_has_its_share_and_its_lead() {
        let race = Race::default();
        assert_eq!(race.standings(), []);
        for n in 0..100 {
            match n % 4 {
                0 => race.note("two", "one", 10 * MS, None),
                _ => race.note("one", "two", 200 * MS, None),
            }
        }
        let [one, two] = &race.standings()[..] else { panic!() };
        assert_eq!(
            (&*one.source, one.first, one.contested, one.share),
            ("one", 75, 100, 0.75)
        );
        assert_eq!(
            (&*two.source, two.first, two.contested, two.share),
            ("two", 25, 100, 0.25)
        );
        let is_near = |found: Option<f64>, wanted: f64| (wanted * 0.99..wanted * 1.1).contains(&found.unwrap());
        assert!(
            is_near(one.lead_s.p50, 0.2) && is_near(two.lead_s.p50, 0.01),
            "{one:?} {two:?}"
        );
    }

    #[test]
    fn a_disagreement_is_counted_for_both_whoever_was_first() {
        let race = Race::default();
        race.note("b", "a", MS, Some(&sizes("x")));
        race.note("c", "a", MS, None);
        let digests = Some([0xaa, 0xbb]);
        race.note(
            "a",
            "b",
            MS,
            Some(&Difference {
                digests,
                ..sizes("y\0é")
            }),
        );
        let [found] = &race.disagreements()[..] else { panic!() };
        assert_eq!((&found.sources, found.count), (&["b".to_owned(), "a".to_owned()], 2));
        let last = &found.last;
        assert_eq!((&*last.name, last.sizes), ("y\0é", [Some(11), Some(10)]));
        assert_eq!(
            last.digests.clone().map(Option::unwrap),
            ["00000000000000bb", "00000000000000aa"]
        );
    }

    #[test]
    fn thousands_of_sources_are_bounded_and_no_race_among_the_others_counts() {
        let race = Race::default();
        let long = "é".repeat(1000);
        for n in 0..5000 {
            let name = format!("{n}{long}");
            race.note(&name, "known", MS, Some(&sizes(&long)));
            race.note(&name, &format!("x{n}"), MS, Some(&sizes(&long)));
        }
        let standings = race.standings();
        assert_eq!(standings.len(), SOURCES_MAX + 1);
        assert!(standings.iter().all(|standing| standing.source.len() <= NAME_MAX));
        let others = standings.iter().find(|standing| standing.source == OTHERS).unwrap();
        assert!(others.contested > 4900, "{others:?}");
        assert!(race.disagreements().len() <= SOURCES_MAX * (SOURCES_MAX + 1) / 2);
        assert!(
            race.disagreements()
                .iter()
                .all(|found| found.last.name.len() <= NAME_MAX)
        );
    }
}
