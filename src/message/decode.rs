//! From an envelope to an announcement, whatever the format.

use super::{DecodeError, Decoded, DigestOf, Envelope, Format, exp, v00, v02, v03};

/// Base, path, a time and a digest fit many times.
const TEXT_BYTES_MAX: usize = 64 << 10;
/// v03 may carry a small product in its body.
const JSON_BYTES_MAX: usize = 1 << 20;

/// What a unit knows that a message does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DecodeOptions {
    /// `format`: that of messages whose content type and key name none.
    pub default_format: Option<Format>,
    /// `digest`: what a v00 digest is of, where it is not plainly one of the name.
    pub digest: Option<DigestOf>,
}

/// Reads an announcement. Never panics, and takes time and memory in proportion to a body within its limit.
pub fn decode(envelope: &Envelope, options: &DecodeOptions) -> Result<Decoded, DecodeError> {
    let format = Format::of(envelope, options.default_format).ok_or(DecodeError::UnknownFormat)?;
    let limit = if format == Format::V03 {
        JSON_BYTES_MAX
    } else {
        TEXT_BYTES_MAX
    };
    let bytes = envelope.body.len();
    if bytes > limit {
        return Err(DecodeError::TooLong { format, bytes, limit });
    }
    match format {
        Format::Exp => exp::decode(envelope),
        Format::V00 => v00::decode(envelope, options.digest),
        Format::V02 => v02::decode(envelope),
        Format::V03 => v03::decode(envelope),
    }
}
