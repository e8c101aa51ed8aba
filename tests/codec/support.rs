//! Sample messages from `tests/data/codec`, and short cuts.

use std::path::Path;

use jiff::Timestamp;
use px::message::{Announcement, DecodeError, DecodeOptions, Decoded, Envelope, Value, decode};

/// Reads a sample: lines `key K`, `content-type T`, `content-encoding E`, `header NAME TEXT` (a long string) and
/// `bytes NAME TEXT` (a byte array), an empty line, then the body to the end of the file.
pub fn sample(name: &str) -> Envelope {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data/codec")
        .join(format!("{name}.msg"));
    let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let end = bytes
        .windows(2)
        .position(|two| two == b"\n\n")
        .expect("an empty line before the body");
    let mut envelope = Envelope {
        body: bytes[end + 2..].to_vec(),
        ..Envelope::default()
    };
    for line in std::str::from_utf8(&bytes[..end]).unwrap().lines() {
        let (word, rest) = line.split_once(' ').unwrap();
        match word {
            "key" => envelope.key = rest.into(),
            "content-type" => envelope.content_type = Some(rest.into()),
            "content-encoding" => envelope.content_encoding = Some(rest.into()),
            _ => {
                let (name, text) = rest.split_once(' ').unwrap();
                let text = text.as_bytes().to_vec();
                let value = if word == "bytes" {
                    Value::Bytes(text)
                } else {
                    Value::Str(text)
                };
                envelope.headers.insert(name.into(), value);
            }
        }
    }
    envelope
}

/// A message with nothing but a key and a body.
pub fn message(key: &str, body: impl Into<Vec<u8>>) -> Envelope {
    Envelope {
        key: key.into(),
        body: body.into(),
        ..Envelope::default()
    }
}

/// Decodes what must be a product.
pub fn product(envelope: &Envelope) -> Announcement {
    match decode(envelope, &DecodeOptions::default()) {
        Ok(Decoded::Product(announcement)) => announcement,
        other => panic!("{}: {other:?}", envelope.key),
    }
}

/// Decodes what must not be an announcement.
pub fn refused(envelope: &Envelope) -> DecodeError {
    match decode(envelope, &DecodeOptions::default()) {
        Err(error) => error,
        Ok(decoded) => panic!("{}: {decoded:?}", envelope.key),
    }
}

pub fn utc(text: &str) -> Timestamp {
    text.parse().unwrap()
}
