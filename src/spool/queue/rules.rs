//! Which queued files are not to be handled at all, as decided by their names.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;

use crate::message::{ingest_name, product_name};

/// Files of these priorities that were received so long ago are removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Purge {
    /// As in the name's fifth field.
    pub priorities: Vec<u8>,
    /// Since the stamp that ends the name.
    pub after: Duration,
}

/// `(18000, [3, 4])`: seconds and priorities, as Sundew's logs have them.
impl fmt::Display for Purge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let priorities: Vec<String> = self.priorities.iter().map(u8::to_string).collect();
        write!(f, "({}, [{}])", self.after.as_secs(), priorities.join(", "))
    }
}

/// The rules of a unit.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rules {
    /// Names must be ingest names: a priority, and a stamp at the end.
    pub validation: bool,
    /// In order; the first that fits decides.
    pub purge: Vec<Purge>,
}

/// Why a file is removed unhandled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unwanted<'a> {
    /// Its name is no ingest name.
    Incorrect,
    /// It is too old.
    Purged(&'a Purge),
}

impl Rules {
    /// Whether a file of this name must go, and why.
    pub fn unwanted(&self, name: &[u8], now: Timestamp) -> Option<Unwanted<'_>> {
        if self.validation && !ingest_name::is_valid(name) {
            return Some(Unwanted::Incorrect);
        }
        let priority = ingest_name::priority(name)?;
        let received = product_name::reception_time(name)?;
        let age = Duration::try_from(now.duration_since(received)).unwrap_or_default();
        self.purge
            .iter()
            .find(|rule| rule.priorities.contains(&priority) && age > rule.after)
            .map(Unwanted::Purged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2026-11-21T12:00:00Z";

    fn rules(validation: bool) -> Rules {
        let purge = |priorities: &[u8], hours: u64| Purge {
            priorities: priorities.to_vec(),
            after: Duration::from_secs(hours * 3600),
        };
        Rules {
            validation,
            purge: vec![purge(&[3], 5), purge(&[4, 5], 10)],
        }
    }

    #[test]
    fn old_files_of_a_priority_are_purged_and_others_stay() {
        let rules = rules(false);
        let (three, rest) = (&rules.purge[0], &rules.purge[1]);
        let table: &[(&str, Option<Unwanted<'_>>)] = &[
            ("a:ncp1:CWAO:SA:3:Direct:20261121065959", Some(Unwanted::Purged(three))),
            ("a:ncp1:CWAO:SA:3:Direct:20261121070000", None),
            ("a:ncp1:CWAO:SA:3.A.I.E::20261121065959", Some(Unwanted::Purged(three))),
            ("a:ncp1:CWAO:SA:5:Direct:20261121015959", Some(Unwanted::Purged(rest))),
            ("a:ncp1:CWAO:SA:5:Direct:20261121065959", None),
            ("a:ncp1:CWAO:SA:2:Direct:20200101000000", None),
            // No priority, no time, or a time to come: nothing to go by.
            ("a:URP:XSS:RADAR:GIF::20200101000000", None),
            ("a:ncp1:CWAO:SA:3:Direct", None),
            ("a:ncp1:CWAO:SA:3:Direct:20270101000000", None),
            ("plain", None),
        ];
        for (name, wanted) in table {
            let unwanted = rules.unwanted(name.as_bytes(), NOW.parse().unwrap());
            assert_eq!(unwanted, *wanted, "{name}");
        }
        assert_eq!(
            (three.to_string(), rest.to_string()),
            ("(18000, [3])".into(), "(36000, [4, 5])".into())
        );
    }

    #[test]
    fn validation_goes_first_and_only_where_it_is_asked_for() {
        let now = NOW.parse().unwrap();
        for name in ["plain", "a:URP:XSS:RADAR:GIF::20130606144709"] {
            assert_eq!(
                rules(true).unwanted(name.as_bytes(), now),
                Some(Unwanted::Incorrect),
                "{name}"
            );
            assert_eq!(rules(false).unwanted(name.as_bytes(), now), None, "{name}");
        }
        let purged = rules(true);
        let unwanted = purged.unwanted(b"a:ncp1:CWAO:SA:3:Direct:20200101000000", now);
        assert_eq!(unwanted, Some(Unwanted::Purged(&purged.purge[0])));
    }
}
