//! Times as announcements and names write them.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::Offset;

/// Digits of a fraction that are read; a nanosecond is the least that a time holds.
const FRACTION_DIGITS_MAX: usize = 9;

/// Reads `YYYYMMDDhhmmss[.fraction]`, with or without a `T` in the middle, or RFC 3339. Always UTC.
///
/// Valid: `20261121201234.5`, `20261121T201234`, `2026-11-21T20:12:34Z`; invalid: `2026112120`, `20261321000000`.
pub fn parse(text: &str) -> Option<Timestamp> {
    if text.get(4..5) == Some("-") {
        return if text.len() <= 40 { text.parse().ok() } else { None };
    }
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let nanoseconds = parse_fraction(fraction)?;
    match whole.split_once('T') {
        Some((date, time)) if date.len() == 8 => fourteen_digits(format!("{date}{time}").as_bytes(), nanoseconds),
        Some(_) => None,
        None => fourteen_digits(whole.as_bytes(), nanoseconds),
    }
}

fn parse_fraction(fraction: &str) -> Option<i32> {
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let digits = fraction.get(..FRACTION_DIGITS_MAX).unwrap_or(fraction);
    format!("{digits:0<FRACTION_DIGITS_MAX$}").parse().ok()
}

/// The time of exactly 14 digits and a fraction of a second.
pub(super) fn fourteen_digits(digits: &[u8], nanoseconds: i32) -> Option<Timestamp> {
    if digits.len() != 14 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = |from: usize, to: usize| {
        digits[from..to]
            .iter()
            .fold(0i16, |value, digit| value * 10 + i16::from(digit - b'0'))
    };
    let small = |from: usize| i8::try_from(number(from, from + 2)).ok();
    // A leap second is the last one of its minute for everybody who counts seconds since 1970.
    let second = small(12)?;
    let second = if second == 60 { 59 } else { second };
    let civil = DateTime::new(
        number(0, 4),
        small(4)?,
        small(6)?,
        small(8)?,
        small(10)?,
        second,
        nanoseconds,
    )
    .ok()?;
    Offset::UTC.to_timestamp(civil).ok()
}

/// `YYYYMMDDhhmmss.mmm`: v02's way, three digits whatever the time holds.
pub fn to_milliseconds(time: Timestamp) -> String {
    let civil = in_utc(time);
    format!("{}.{:03}", seconds(civil, ""), civil.subsec_nanosecond() / 1_000_000)
}

/// `YYYYMMDD{separator}hhmmss.fraction`: three digits where they say all, else nine.
pub fn to_nanoseconds(time: Timestamp, separator: &str) -> String {
    let civil = in_utc(time);
    let fraction = civil.subsec_nanosecond();
    if fraction % 1_000_000 == 0 {
        format!("{}.{:03}", seconds(civil, separator), fraction / 1_000_000)
    } else {
        format!("{}.{fraction:09}", seconds(civil, separator))
    }
}

/// `YYYYMMDDhhmmss`: the stamp of names.
pub fn to_seconds(time: Timestamp) -> String {
    seconds(in_utc(time), "")
}

fn seconds(civil: DateTime, separator: &str) -> String {
    let (year, month, day) = (civil.year().max(0), civil.month(), civil.day());
    let (hour, minute, second) = (civil.hour(), civil.minute(), civil.second());
    format!("{year:04}{month:02}{day:02}{separator}{hour:02}{minute:02}{second:02}")
}

pub(super) fn in_utc(time: Timestamp) -> DateTime {
    Offset::UTC.to_datetime(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn utc(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn every_way_of_writing_a_time_is_read() {
        let table = [
            ("20261121201234", "2026-11-21T20:12:34Z"),
            ("20261121201234.", "2026-11-21T20:12:34Z"),
            ("20261121201234.7", "2026-11-21T20:12:34.7Z"),
            ("20261121201234.567890123", "2026-11-21T20:12:34.567890123Z"),
            ("20261121201234.5678901239999", "2026-11-21T20:12:34.567890123Z"),
            ("20261121T201234.5", "2026-11-21T20:12:34.5Z"),
            ("2026-11-21T20:12:34.5+00:00", "2026-11-21T20:12:34.5Z"),
            ("20161231235960", "2016-12-31T23:59:59Z"),
        ];
        for (text, wanted) in table {
            assert_eq!(parse(text), Some(utc(wanted)), "{text}");
        }
        let bad = [
            "",
            "x",
            "2026112120123",
            "202611212012345",
            "20261321000000",
            "20261121T",
            "2026T1121201234",
            "20261121201234.x",
            "20261121201234.-1",
            "2026-11-21",
            "2026-11-21T20:12:34",
            "٢٠٢٦١١٢١٢٠١٢٣٤",
            "2026\u{e9}1121201234",
        ];
        for text in bad {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn times_are_written_with_three_digits_or_all() {
        let time = utc("2026-11-21T20:12:34.007Z");
        assert_eq!(to_milliseconds(time), "20261121201234.007");
        assert_eq!(to_nanoseconds(time, "T"), "20261121T201234.007");
        let finer = utc("2026-11-21T20:12:34.0070001Z");
        assert_eq!(to_milliseconds(finer), "20261121201234.007");
        assert_eq!(to_nanoseconds(finer, ""), "20261121201234.007000100");
        assert_eq!(parse(&to_nanoseconds(finer, "T")), Some(finer));
        assert_eq!(to_milliseconds(Timestamp::MIN).len(), 18);
        assert_eq!(to_milliseconds(Timestamp::MAX).len(), 18);
    }
}
