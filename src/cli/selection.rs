//! Which products of the database a command means: by the stamps of their names, UTC, and by their names.

use clap::Args;
use jiff::civil::{DateTime, Time};
use jiff::tz::Offset;
use jiff::{SignedDuration, Timestamp};

use crate::config::quantity;
use crate::message::{Masks, Pattern, Verdict, product_name, stamp};
use crate::spool::resend::Span;

/// What a time may be, for messages.
const TIME: &str = "accepted, in UTC: HH:MM[:SS], the last that has passed; \"YYYY-MM-DD HH:MM[:SS]\"; RFC 3339; or how \
                    long ago, as 2h";
const DAY: SignedDuration = SignedDuration::from_hours(24);

/// What is chosen by, beside `--since`.
#[derive(Debug, Clone, Args)]
pub struct Selection {
    /// Products received until then; now when absent. Times are as for --since
    #[arg(long, value_name = "TIME", value_parser = time)]
    until: Option<Timestamp>,
    /// Products whose ingest names match this regular expression from their start, as masks do
    #[arg(long = "match", value_name = "RE", value_parser = regex)]
    matching: Option<Named>,
    /// Products of this receiver: the second colon field of their names
    #[arg(long, value_name = "RECEIVER")]
    from: Option<String>,
}

/// A regular expression that a name must match.
#[derive(Debug, Clone)]
struct Named(Masks);

impl Selection {
    /// Whether anything is said.
    pub fn is_used(&self) -> bool {
        self.until.is_some() || self.matching.is_some() || self.from.is_some()
    }

    /// The span from `since` on. `Err`: it ends before it begins.
    pub fn span(&self, since: Timestamp, now: Timestamp) -> Result<Span, String> {
        let until = self.until.unwrap_or(now);
        match since <= until {
            true => Ok(Span { since, until }),
            false => Err(format!("--until {until} is before --since {since}")),
        }
    }

    /// Whether a product of this name is meant. One that the pattern gives up on is not: nobody has named it.
    pub fn wants(&self, name: &[u8]) -> bool {
        let is_from = |from: &String| product_name::fields(name).nth(1) == Some(from.as_bytes());
        let matches = |Named(masks): &Named| matches!(masks.first_match(name), Ok(Some((_, Verdict::Accept))));
        self.from.as_ref().is_none_or(is_from) && self.matching.as_ref().is_none_or(matches)
    }
}

fn regex(text: &str) -> Result<Named, String> {
    Masks::new([(Verdict::Accept, Pattern::Regex(text.to_string()))])
        .map(Named)
        .map_err(|errors| errors.first().map(ToString::to_string).unwrap_or_default())
}

/// A time as an operator types it.
pub fn time(text: &str) -> Result<Timestamp, String> {
    read_time(text, Timestamp::now()).ok_or_else(|| TIME.to_string())
}

fn read_time(text: &str, now: Timestamp) -> Option<Timestamp> {
    if let Some(ago) = quantity::duration(text) {
        return now.checked_sub(SignedDuration::try_from(ago).ok()?).ok();
    }
    if let Some(clock) = clock(text) {
        let today = Offset::UTC.to_datetime(now).date().to_datetime(clock);
        let today = Offset::UTC.to_timestamp(today).ok()?;
        return match today <= now {
            true => Some(today),
            false => today.checked_sub(DAY).ok(),
        };
    }
    if let Some((date, rest)) = text.split_once(' ') {
        let (date, clock) = (date.parse::<jiff::civil::Date>().ok()?, clock(rest)?);
        return Offset::UTC.to_timestamp(DateTime::from_parts(date, clock)).ok();
    }
    stamp::parse(text)
}

/// `HH:MM` or `HH:MM:SS`, two digits each.
fn clock(text: &str) -> Option<Time> {
    let parts: Vec<&str> = text.split(':').collect();
    let is_good = |part: &&str| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_digit());
    if !(2..=3).contains(&parts.len()) || !parts.iter().all(is_good) {
        return None;
    }
    let number = |index: usize| parts.get(index).map_or(Some(0), |part| part.parse::<i8>().ok());
    Time::new(number(0)?, number(1)?, number(2)?, 0).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_type_them() {
        let now: Timestamp = "2026-11-21T03:05:00Z".parse().unwrap();
        let table = [
            ("02:00", "2026-11-21T02:00:00Z"),
            ("03:05", "2026-11-21T03:05:00Z"),
            ("03:05:01", "2026-11-20T03:05:01Z"),
            ("23:59:59", "2026-11-20T23:59:59Z"),
            ("2026-11-19 01:02", "2026-11-19T01:02:00Z"),
            ("2026-11-19 01:02:03", "2026-11-19T01:02:03Z"),
            ("2026-11-19T01:02:03-03:00", "2026-11-19T04:02:03Z"),
            ("20261119010203", "2026-11-19T01:02:03Z"),
            ("2h", "2026-11-21T01:05:00Z"),
            ("90m", "2026-11-21T01:35:00Z"),
        ];
        for (text, wanted) in table {
            assert_eq!(read_time(text, now), Some(wanted.parse().unwrap()), "{text}");
        }
        for text in [
            "",
            "2",
            "2:00",
            "24:00",
            "02:60",
            "02:00:00:00",
            "yesterday",
            "2026-11-31 01:00",
            "-2h",
        ] {
            assert_eq!(read_time(text, now), None, "{text}");
        }
    }

    #[test]
    fn names_are_chosen_by_pattern_and_receiver() {
        let chosen = |matching: Option<&str>, from: Option<&str>, name: &[u8]| {
            let selection = Selection {
                until: None,
                matching: matching.map(|text| regex(text).unwrap()),
                from: from.map(str::to_string),
            };
            selection.wants(name)
        };
        let name = b"a.gif:URP:XSS:RADAR:GIF::20130606144709";
        assert!(chosen(None, None, name) && chosen(Some(r"a\.gif:(?!NOT)"), Some("URP"), name));
        assert!(!chosen(Some("gif"), None, name) && !chosen(None, Some("UR"), name) && !chosen(None, Some("x"), b"a"));
        assert!(regex("(").is_err());
    }
}
