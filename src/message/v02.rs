//! `v02`: `time base-url rel-path`, and the rest in headers.
//!
//! Valid: `20261121201234.5 http://h/ a/60%20km.gif` with `sum = d,<md5>` and `parts = 1,<size>,1,0,0`, each of them
//! optional; C peers end the body with a blank and a newline. Invalid: `http://h/ a/b.gif`.

use jiff::Timestamp;

use super::decoded::{parse_size, place};
use super::exp::with_slash;
use super::{Announcement, DecodeError, Decoded, DigestOf, Envelope, Format, Headers, Identity, Method, Reason, Value};
use super::{escape, identity, stamp};

const FORMAT: Format = Format::V02;

pub(super) fn decode(envelope: &Envelope) -> Result<Decoded, DecodeError> {
    let bad = |field, problem| DecodeError::Field {
        format: FORMAT,
        field,
        problem,
    };
    let sum = text_header(&envelope.headers, "sum")?;
    let parts = text_header(&envelope.headers, "parts")?;
    if let Some(reason) = sum.and_then(reason_of_sum).or(parts.and_then(reason_of_parts)) {
        return Ok(Decoded::NotForFetching(reason));
    }
    let [time, base, path] = three_words(&envelope.body)?;
    let time = std::str::from_utf8(time).ok().and_then(stamp::parse);
    let time = time.ok_or_else(|| bad("time", "is no time"))?;
    let mut announcement = place(FORMAT, base, &escape::undo(path))?;
    announcement.time = Some(time);
    announcement.identity = sum.map(parse_sum).transpose()?;
    announcement.size = parts
        .map(|parts| parse_parts(parts).ok_or_else(|| bad("parts", "has no size")))
        .transpose()?;
    announcement.headers = envelope.headers.clone();
    announcement.headers.remove("sum");
    announcement.headers.remove("parts");
    if let Some(mtime) = envelope
        .headers
        .get("mtime")
        .and_then(Value::as_str)
        .and_then(stamp::parse)
    {
        announcement.mtime = Some(mtime);
        announcement.headers.remove("mtime");
    }
    Ok(Decoded::Product(announcement))
}

fn text_header<'a>(headers: &'a Headers, name: &'static str) -> Result<Option<&'a str>, DecodeError> {
    match headers.get(name) {
        None | Some(Value::Void) => Ok(None),
        Some(value) => match value.as_str() {
            Some(text) => Ok(Some(text)),
            None => Err(DecodeError::Field {
                format: FORMAT,
                field: name,
                problem: "is no text",
            }),
        },
    }
}

/// Everything after the second word is the path: some peers do not escape blanks.
fn three_words(body: &[u8]) -> Result<[&[u8]; 3], DecodeError> {
    let body = body.trim_ascii();
    let mut words = body.splitn(3, |byte| *byte == b' ').map(<[u8]>::trim_ascii);
    match (words.next(), words.next(), words.next()) {
        (Some(time), Some(base), Some(path)) => Ok([time, base, path]),
        _ => {
            let found = body
                .split(u8::is_ascii_whitespace)
                .filter(|word| !word.is_empty())
                .count();
            Err(DecodeError::Words {
                format: FORMAT,
                found,
                wanted: 3,
            })
        }
    }
}

/// C peers leave the digest of `m` and `r` empty.
fn reason_of_sum(sum: &str) -> Option<Reason> {
    match sum.split(',').next().unwrap_or_default() {
        "R" => Some(Reason::Removal),
        "m" => Some(Reason::DirectoryMade),
        "r" => Some(Reason::DirectoryRemoved),
        "L" => Some(Reason::Link),
        _ => None,
    }
}

pub(super) fn reason_of_parts(parts: &str) -> Option<Reason> {
    matches!(parts.split(',').next(), Some("i" | "p")).then_some(Reason::Part)
}

/// The size in `1,<size>,1,0,0`.
pub(super) fn parse_parts(parts: &str) -> Option<u64> {
    let mut fields = parts.split(',');
    (fields.next() == Some("1")).then(|| parse_size(fields.next()?.trim().as_bytes()))?
}

fn parse_sum(sum: &str) -> Result<Identity, DecodeError> {
    let (letter, value) = sum.split_once(',').unwrap_or((sum, ""));
    let digest = |method: Method, of| match identity::valid_hex(&method, value) {
        Some(value) => Ok(Identity { method, value, of }),
        None => Err(DecodeError::Field {
            format: FORMAT,
            field: "sum",
            problem: "is no digest of its method",
        }),
    };
    let other = |method| {
        Ok(Identity {
            method,
            value: value.to_owned(),
            of: DigestOf::Unknown,
        })
    };
    match letter {
        "d" => digest(Method::Md5, DigestOf::Content),
        "s" => digest(Method::Sha512, DigestOf::Content),
        "n" => digest(Method::Md5, DigestOf::Name).or_else(|_| other(Method::Other("n".to_owned()))),
        "0" => other(Method::Random),
        "a" => other(Method::Arbitrary),
        "z" => Ok(Identity {
            method: Method::ComputeOnDownload,
            value: algorithm(value).to_owned(),
            of: DigestOf::Unknown,
        }),
        letter => other(Method::Other(letter.to_owned())),
    }
}

fn algorithm(letter: &str) -> &str {
    match letter {
        "d" => "md5",
        "s" => "sha512",
        other => other,
    }
}

pub(super) fn body(announcement: &Announcement, time: Timestamp) -> Vec<u8> {
    let (base, path) = (with_slash(&announcement.base), escape::path(&announcement.path.0));
    format!("{} {base} {path}", stamp::to_milliseconds(time)).into_bytes()
}

/// `sum`, `parts` and `mtime`.
pub(super) fn own_headers(announcement: &Announcement, left_out: &mut Vec<String>) -> Headers {
    let mut headers = Headers::new();
    let mut add = |name: &str, text: String| headers.insert(name.to_owned(), Value::Str(text.into_bytes()));
    if let Some(identity) = &announcement.identity {
        match sum(identity).filter(|sum| sum.len() <= 255) {
            Some(sum) => drop(add("sum", sum)),
            None => left_out.push("sum".to_owned()),
        }
    }
    if let Some(size) = announcement.size {
        add("parts", format!("1,{size},1,0,0"));
    }
    if let Some(mtime) = announcement.mtime {
        add("mtime", stamp::to_nanoseconds(mtime, ""));
    }
    headers
}

fn sum(identity: &Identity) -> Option<String> {
    let value = identity.value.as_str();
    let is_digest = identity::valid_hex(&identity.method, value).is_some();
    let letter = match (&identity.method, identity.of) {
        (Method::Md5 | Method::Sha512, _) if !is_digest => return None,
        (Method::Md5, DigestOf::Content) => "d",
        (Method::Sha512, DigestOf::Content) => "s",
        (Method::Md5, DigestOf::Name) => "n",
        // Nobody may take it for a digest of the content.
        (Method::Md5 | Method::Sha512, _) | (Method::Arbitrary, _) => "a",
        (Method::Random, _) => "0",
        (Method::ComputeOnDownload, _) => {
            return Some(format!(
                "z,{}",
                match value {
                    "md5" => "d",
                    "sha512" => "s",
                    other => other,
                }
            ));
        }
        (Method::Other(letter), _) => {
            let is_free = letter.len() == 1 && !"ds0azRmrL,".contains(letter.as_str());
            return is_free.then(|| format!("{letter},{value}"));
        }
    };
    Some(format!("{letter},{value}"))
}

/// The other headers as v02 writes them: times have no `T`, and what only v02 gives a meaning to is not taken from
/// messages of other formats.
pub(super) fn peers_headers(mut others: Headers) -> Headers {
    others.remove("sum");
    others.remove("parts");
    if let Some(time) = others
        .get("atime")
        .and_then(Value::as_str)
        .filter(|time| time.get(8..9) == Some("T"))
    {
        let without = time.replacen('T', "", 1);
        others.insert("atime".to_owned(), Value::Str(without.into_bytes()));
    }
    others
}
