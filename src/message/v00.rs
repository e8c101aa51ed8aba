//! `v00`: `digest size base-url rel-path`, read as tokens 0, 1, −2 and −1.
//!
//! Valid: `a985c32cbdee8af2ab5d7b8f6022e781 498081 http://urp-1/ db/a:URP`; invalid: `a985c3 big http://urp-1/ a`.
//! The path is raw, and escaped under `v00.dd`. No header is needed.

use super::decoded::{parse_size, place};
use super::exp::with_slash;
use super::format::escapes_paths;
use super::{
    AnnounceAs, Announcement, DecodeError, Decoded, DigestOf, EncodeError, Envelope, Format, Identity, Method,
};
use super::{escape, identity};

const FORMAT: Format = Format::V00;
/// No digest of any method has more digits.
const TOKEN_BYTES_MAX: usize = 128;

pub(super) fn decode(envelope: &Envelope, option: Option<DigestOf>) -> Result<Decoded, DecodeError> {
    let bad = |field, problem| DecodeError::Field {
        format: FORMAT,
        field,
        problem,
    };
    let tokens = envelope
        .body
        .split(u8::is_ascii_whitespace)
        .filter(|token| !token.is_empty());
    let tokens: Vec<&[u8]> = tokens.collect();
    let [digest, size, .., base, path] = tokens.as_slice() else {
        return Err(DecodeError::Words {
            format: FORMAT,
            found: tokens.len(),
            wanted: 4,
        });
    };
    let size = parse_size(size).ok_or_else(|| bad("size", "is no number"))?;
    let digest = std::str::from_utf8(digest)
        .ok()
        .filter(|digest| digest.len() <= TOKEN_BYTES_MAX);
    let digest = digest.ok_or_else(|| bad("digest", "is no digest"))?;
    let mut announcement = if escapes_paths(FORMAT, &envelope.key) {
        place(FORMAT, base, &escape::undo(path))?
    } else {
        place(FORMAT, base, path)?
    };
    announcement.size = Some(size);
    announcement.identity = Some(identity_of(digest, &announcement, &envelope.key, option));
    announcement.headers = envelope.headers.clone();
    Ok(Decoded::Product(announcement))
}

/// A token that is no known digest still tells duplicates apart.
fn identity_of(token: &str, announcement: &Announcement, key: &str, option: Option<DigestOf>) -> Identity {
    for method in [Method::Md5, Method::Sha512] {
        if let Some(value) = identity::valid_hex(&method, token) {
            let of = identity::digest_of(&value, &announcement.path, key, option);
            return Identity { method, value, of };
        }
    }
    Identity {
        method: Method::Arbitrary,
        value: token.to_owned(),
        of: DigestOf::Unknown,
    }
}

pub(super) fn body(announcement: &Announcement, how: &AnnounceAs) -> Result<Vec<u8>, EncodeError> {
    let path = if escapes_paths(FORMAT, &how.key) {
        escape::path(&announcement.path.0).into_bytes()
    } else if announcement.path.0.iter().any(|byte| *byte <= b' ' || *byte == 0x7f) {
        return Err(EncodeError::Unnameable {
            format: FORMAT,
            problem: "has a blank or a control character in it",
        });
    } else {
        announcement.path.0.clone()
    };
    let size = announcement.size.ok_or(EncodeError::Lacks {
        format: FORMAT,
        what: "the size",
    })?;
    let digest = digest_token(announcement, how.digest)?;
    let mut body = format!("{digest} {size} {} ", with_slash(&announcement.base)).into_bytes();
    body.extend(path);
    Ok(body)
}

fn digest_token(announcement: &Announcement, wanted: DigestOf) -> Result<String, EncodeError> {
    let held = announcement.identity.as_ref();
    let digest = held.filter(|identity| identity::valid_hex(&identity.method, &identity.value).is_some());
    let is_of_wanted = |identity: &&Identity| identity.of == wanted;
    match wanted {
        DigestOf::Content => match digest.filter(is_of_wanted) {
            Some(identity) => Ok(identity.value.clone()),
            None => Err(EncodeError::Lacks {
                format: FORMAT,
                what: "an md5 or sha512 of the content",
            }),
        },
        DigestOf::Name => Ok(match digest.filter(is_of_wanted) {
            Some(identity) => identity.value.clone(),
            None => identity::name_digest(announcement.path.file_name()),
        }),
        DigestOf::Unknown => Ok(match digest.or(held.filter(|identity| is_token(identity))) {
            Some(identity) => identity.value.clone(),
            None => identity::name_digest(announcement.path.file_name()),
        }),
    }
}

fn is_token(identity: &Identity) -> bool {
    let value = identity.value.as_bytes();
    identity.method == Method::Arbitrary
        && (1..=TOKEN_BYTES_MAX).contains(&value.len())
        && value.iter().all(u8::is_ascii_graphic)
}
