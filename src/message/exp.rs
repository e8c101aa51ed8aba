//! `exp`: the body is the URL, nothing else.
//!
//! Valid: `http://dd1.weather.gc.ca/radar/24_HR/a.gif`; invalid: `dd1.weather.gc.ca/a.gif`, `http://h/a b.gif`.

use super::decoded::place;
use super::{Announcement, BaseError, DecodeError, Decoded, Envelope, Format, base, escape};

const FORMAT: Format = Format::Exp;

pub(super) fn decode(envelope: &Envelope) -> Result<Decoded, DecodeError> {
    let url = envelope.body.trim_ascii();
    let words = url
        .split(u8::is_ascii_whitespace)
        .filter(|word| !word.is_empty())
        .count();
    if words != 1 {
        return Err(DecodeError::Words {
            format: FORMAT,
            found: words,
            wanted: 1,
        });
    }
    // Peers may write the path in any encoding; what comes before it is ASCII up to the third slash.
    let ascii = url.iter().position(|byte| !byte.is_ascii()).unwrap_or(url.len());
    let start = std::str::from_utf8(&url[..ascii]).ok().and_then(base::root_len);
    let (root, path) = match start {
        Some(length) => url.split_at(length),
        None => {
            return Err(DecodeError::Base {
                format: FORMAT,
                cause: BaseError::NotAbsolute,
            });
        }
    };
    let mut announcement = place(FORMAT, root, &escape::undo(path))?;
    announcement.headers = envelope.headers.clone();
    Ok(Decoded::Product(announcement))
}

pub(super) fn body(announcement: &Announcement) -> Vec<u8> {
    format!(
        "{}{}",
        with_slash(&announcement.base),
        escape::path(&announcement.path.0)
    )
    .into_bytes()
}

/// A base as bodies write it.
pub(super) fn with_slash(base: &str) -> String {
    if base.ends_with('/') {
        base.to_owned()
    } else {
        format!("{base}/")
    }
}
