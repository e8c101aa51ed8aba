//! Text with `${…}` in it: parts of a UTC time, and the file name.
//!
//! | name | becomes |
//! | --- | --- |
//! | `YYYY` `MM` `DD` `HH` | year, month, day, hour |
//! | `JJJ` | day of the year, three digits |
//! | `YYYYMMDD` | the date |
//! | any of these with `-nD` | the same, n days earlier (1 to 366) |
//! | `FILE` | the file name |
//!
//! Valid: `/data/radar/${YYYYMMDD-1D}/${HH}`, `msg_${FILE}:WXO`; invalid: `${YY}`, `${FILE`. A `$` before anything
//! but `{` stands for itself.

use jiff::{SignedDuration, Timestamp};

use super::stamp;

/// The names that a template accepts, for error messages and manuals.
pub const ACCEPTED: &str =
    "${YYYY}, ${MM}, ${DD}, ${HH}, ${JJJ}, ${YYYYMMDD}, each also as of n days ago (${YYYYMMDD-1D}), and ${FILE}";

const DAYS_BACK_MAX: u16 = 366;

/// Why a text is no template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// The name between the braces means nothing.
    #[error("unknown ${{{0}}}; accepted are {ACCEPTED}")]
    Unknown(String),
    /// `${` without `}`.
    #[error("`${{` without `}}`; accepted are {ACCEPTED}")]
    Unclosed,
}

/// A part of a UTC time, of so many days ago.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TimePart {
    part: Part,
    days_back: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Year,
    Month,
    Day,
    Hour,
    DayOfYear,
    Date,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Time(TimePart),
    File,
}

/// A parsed template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(Vec<Piece>);

impl Template {
    /// Parses; the error lists what is accepted.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("${") {
            let (name, after) = after.split_once('}').ok_or(TemplateError::Unclosed)?;
            if !before.is_empty() {
                pieces.push(Piece::Text(before.to_owned()));
            }
            pieces.push(parse_name(name).ok_or_else(|| TemplateError::Unknown(name.chars().take(40).collect()))?);
            rest = after;
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest.to_owned()));
        }
        Ok(Template(pieces))
    }

    /// The text at this time and for this file. Bytes, because a file name need not be UTF-8.
    pub fn render(&self, at: Timestamp, file_name: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => out.extend_from_slice(text.as_bytes()),
                Piece::Time(time) => out.extend(time.render(at).into_bytes()),
                Piece::File => out.extend_from_slice(file_name),
            }
        }
        out
    }

    /// Whether `${FILE}` is in it: such a text is not fit for a directory.
    pub fn has_file(&self) -> bool {
        self.0.contains(&Piece::File)
    }

    /// The text before the first `${…}`.
    pub fn fixed_start(&self) -> &str {
        match self.0.first() {
            Some(Piece::Text(text)) => text,
            _ => "",
        }
    }
}

fn parse_name(name: &str) -> Option<Piece> {
    match name {
        "FILE" => Some(Piece::File),
        name => TimePart::parse(name).map(Piece::Time),
    }
}

impl TimePart {
    /// `YYYY`, `MM-3D`; `None` for what is neither.
    pub(super) fn parse(name: &str) -> Option<TimePart> {
        let (part, days_back) = match name.split_once('-') {
            Some((part, back)) => (part, parse_days_back(back)?),
            None => (name, 0),
        };
        let part = match part {
            "YYYY" => Part::Year,
            "MM" => Part::Month,
            "DD" => Part::Day,
            "HH" => Part::Hour,
            "JJJ" => Part::DayOfYear,
            "YYYYMMDD" => Part::Date,
            _ => return None,
        };
        Some(TimePart { part, days_back })
    }

    pub(super) fn render(self, at: Timestamp) -> String {
        // Only the first year of the calendar has no earlier days; there the time itself stands in.
        let earlier = at
            .checked_sub(SignedDuration::from_hours(24 * i64::from(self.days_back)))
            .unwrap_or(at);
        let civil = stamp::in_utc(earlier);
        let year = civil.year().max(0);
        match self.part {
            Part::Year => format!("{year:04}"),
            Part::Month => format!("{:02}", civil.month()),
            Part::Day => format!("{:02}", civil.day()),
            Part::Hour => format!("{:02}", civil.hour()),
            Part::DayOfYear => format!("{:03}", civil.day_of_year()),
            Part::Date => format!("{year:04}{:02}{:02}", civil.month(), civil.day()),
        }
    }
}

fn parse_days_back(text: &str) -> Option<u16> {
    let digits = text.strip_suffix('D')?;
    let is_plain = !digits.starts_with('0') && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits
        .parse()
        .ok()
        .filter(|days| is_plain && (1..=DAYS_BACK_MAX).contains(days))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_parts_of_the_utc_time() {
        let at: Timestamp = "2024-03-01T05:06:07Z".parse().unwrap();
        let table = [
            ("/data/radar/${YYYYMMDD}", "/data/radar/20240301"),
            ("${YYYY}/${MM}/${DD}/${HH}", "2024/03/01/05"),
            ("${JJJ}.${JJJ-1D}", "061.060"),
            ("${YYYYMMDD-1D}${YYYY-61D}", "202402292023"),
            ("${MM-1D}${DD-5D}", "0225"),
            ("msg_${FILE}:WXO:LOCAL:FILE:XML", "msg_a.xml:WXO:LOCAL:FILE:XML"),
            ("plain $HOME } $", "plain $HOME } $"),
            ("", ""),
        ];
        for (text, wanted) in table {
            let template = Template::parse(text).unwrap();
            assert_eq!(
                String::from_utf8(template.render(at, b"a.xml")).unwrap(),
                wanted,
                "{text}"
            );
        }
        assert!(Template::parse("x${FILE}").unwrap().has_file());
        assert_eq!(Template::parse("/data/${YYYY}").unwrap().fixed_start(), "/data/");
        assert_eq!(Template::parse("${FILE}").unwrap().render(at, b"\xff"), b"\xff");
        Template::parse("${YYYY-366D}").unwrap().render(Timestamp::MIN, b"");
    }

    #[test]
    fn what_it_does_not_know_it_refuses_with_a_list() {
        let bad = [
            "${YY}",
            "${yyyy}",
            "${}",
            "${YYYY-0D}",
            "${YYYY-367D}",
            "${YYYY-1}",
            "${MM-+1D}",
            "${FILE-1D}",
            "${ MM}",
        ];
        for text in bad {
            let error = Template::parse(text).unwrap_err().to_string();
            assert!(
                error.starts_with("unknown ${") && error.contains("${YYYYMMDD}"),
                "{text}: {error}"
            );
        }
        assert_eq!(Template::parse("a${FILE"), Err(TemplateError::Unclosed));
    }
}
