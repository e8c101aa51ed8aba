//! Whether a body that broke off can be gone on with, and whether an answer is its rest. Pure.

use reqwest::StatusCode;
use reqwest::header::{self, HeaderMap};

use super::client::http_date;

/// So often one fetch goes on, or begins anew, after a break.
pub(super) const RESUMES: u32 = 5;
/// Longest validator that is sent back.
const VALIDATOR_MAX: usize = 256;

/// A version of a product that the server can tell from all others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Version {
    /// For `If-Range`.
    pub(super) validator: String,
    /// Bytes of the whole, if the server said.
    pub(super) total: Option<u64>,
}

/// Where a fetch goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Point {
    pub(super) version: Version,
    /// Bytes that are here.
    pub(super) at: u64,
}

/// What an answer to the request for the rest is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Rest {
    /// The rest.
    Follows,
    /// The whole: the product has changed, or the server knows no ranges.
    BeginsAnew,
    /// Another range, or none: what is here is of no use.
    IsElsewhere,
}

impl Version {
    /// By a strong ETag. By a time only where the server's clock was past that second when it sent the bytes: two
    /// versions of one second could not be told apart.
    pub(super) fn of(headers: &HeaderMap, total: Option<u64>) -> Option<Version> {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let validator = match text(header::ETAG) {
            Some(etag) => Some(etag).filter(|etag| etag.starts_with('"')),
            None => text(header::LAST_MODIFIED).filter(|modified| {
                let dates = (http_date(modified), text(header::DATE).and_then(http_date));
                matches!(dates, (Some(modified), Some(sent)) if sent > modified)
            }),
        };
        let validator = validator.filter(|text| text.len() <= VALIDATOR_MAX)?.to_owned();
        Some(Version { validator, total })
    }
}

impl Point {
    /// What the answer to the request for the rest is.
    pub(super) fn judge(&self, status: StatusCode, headers: &HeaderMap) -> Rest {
        let range = headers.get(header::CONTENT_RANGE).and_then(|value| value.to_str().ok());
        match status {
            StatusCode::OK => Rest::BeginsAnew,
            StatusCode::PARTIAL_CONTENT if range.is_some_and(|range| self.is_rest(range)) => Rest::Follows,
            _ => Rest::IsElsewhere,
        }
    }

    /// `bytes FIRST-LAST/TOTAL`, from here to the end.
    fn is_rest(&self, range: &str) -> bool {
        let Some(((first, last), total)) = range
            .strip_prefix("bytes ")
            .and_then(|range| range.split_once('/'))
            .and_then(|(range, total)| Some((range.split_once('-')?, total)))
        else {
            return false;
        };
        let (first, last) = (first.trim().parse::<u64>(), last.trim().parse::<u64>());
        let ends = match (last, total.trim().parse::<u64>(), self.version.total) {
            (Ok(last), Ok(total), expected) => {
                last.checked_add(1) == Some(total) && expected.is_none_or(|all| all == total)
            }
            (Ok(last), Err(_), Some(all)) => total.trim() == "*" && last.checked_add(1) == Some(all),
            _ => false,
        };
        first == Ok(self.at) && ends
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.insert(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn a_version_is_known_by_what_no_other_version_has() {
        let (noon, later) = ("Sat, 21 Nov 2026 12:00:00 GMT", "Sat, 21 Nov 2026 12:00:01 GMT");
        type Headers = [(&'static str, &'static str)];
        let table: [(&Headers, Option<&str>); 8] = [
            (&[("etag", "\"v1\"")], Some("\"v1\"")),
            (&[("etag", "W/\"v1\"")], None),
            (&[("etag", "W/\"v1\""), ("last-modified", noon), ("date", later)], None),
            (&[("last-modified", noon), ("date", later)], Some(noon)),
            (&[("last-modified", noon), ("date", noon)], None),
            (&[("last-modified", noon)], None),
            (&[("last-modified", "x"), ("date", later)], None),
            (&[], None),
        ];
        for (pairs, validator) in table {
            let version = Version::of(&headers(pairs), Some(7));
            assert_eq!(
                version.map(|version| version.validator).as_deref(),
                validator,
                "{pairs:?}"
            );
        }
    }

    #[test]
    fn only_exactly_the_rest_is_the_rest() {
        let point = |total| Point {
            version: Version {
                validator: "\"v\"".into(),
                total,
            },
            at: 600,
        };
        let table = [
            (Some(1000), 206, Some("bytes 600-999/1000"), Rest::Follows),
            (Some(1000), 206, Some("bytes 600-999/*"), Rest::Follows),
            (None, 206, Some("bytes 600-999/1000"), Rest::Follows),
            (None, 206, Some("bytes 600-999/*"), Rest::IsElsewhere),
            (Some(1000), 206, Some("bytes 0-999/1000"), Rest::IsElsewhere),
            (Some(1000), 206, Some("bytes 600-800/1000"), Rest::IsElsewhere),
            (Some(1000), 206, Some("bytes 600-1999/2000"), Rest::IsElsewhere),
            (Some(1000), 206, Some("lines 600-999/1000"), Rest::IsElsewhere),
            (Some(1000), 206, Some("bytes 600"), Rest::IsElsewhere),
            (None, 206, Some("bytes 600-18446744073709551615/0"), Rest::IsElsewhere),
            (Some(1000), 206, None, Rest::IsElsewhere),
            (Some(1000), 416, Some("bytes */1000"), Rest::IsElsewhere),
            (Some(1000), 200, None, Rest::BeginsAnew),
        ];
        for (total, status, range, rest) in table {
            let pairs: Vec<_> = range.map(|range| ("content-range", range)).into_iter().collect();
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(point(total).judge(status, &headers(&pairs)), rest, "{status} {range:?}");
        }
    }
}
