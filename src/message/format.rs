//! The wire formats by name, and how a unit announces in one of them.

use std::fmt;

use super::{DigestOf, Envelope, Template, identity, topic};

/// A wire format of announcements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// The URL alone.
    Exp,
    /// `digest size base-url rel-path`.
    V00,
    /// `time base-url rel-path`, the rest in headers.
    V02,
    /// JSON.
    V03,
}

impl Format {
    /// All of them, oldest first.
    pub const ALL: [Format; 4] = [Format::Exp, Format::V00, Format::V02, Format::V03];

    /// The name in TOML, and the first word of its keys.
    pub fn name(self) -> &'static str {
        match self {
            Format::Exp => "exp",
            Format::V00 => "v00",
            Format::V02 => "v02",
            Format::V03 => "v03",
        }
    }

    /// By its name.
    pub fn from_name(name: &str) -> Option<Self> {
        Format::ALL.into_iter().find(|format| format.name() == name)
    }

    /// The key prefix that peers expect of a watcher.
    pub fn usual_key(self) -> &'static str {
        match self {
            Format::Exp => "exp.dd.notify",
            Format::V00 => "v00.dd.notify",
            Format::V02 => "v02.post",
            Format::V03 => "v03",
        }
    }

    /// MIME type of the body.
    pub fn content_type(self) -> &'static str {
        match self {
            Format::Exp | Format::V00 | Format::V02 => "text/plain",
            Format::V03 => "application/json",
        }
    }

    /// The format of a message: its content type's (only v03 has one of its own), else the first word of the key, else
    /// the unit's.
    pub fn of(envelope: &Envelope, unit_default: Option<Format>) -> Option<Format> {
        let content_type = envelope.content_type.as_deref().unwrap_or_default();
        let essence = content_type.split(';').next().unwrap_or_default().trim();
        if essence.eq_ignore_ascii_case(Format::V03.content_type()) {
            return Some(Format::V03);
        }
        let first_word = envelope.key.split('.').next().unwrap_or_default();
        Format::from_name(first_word).or(unit_default)
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl DigestOf {
    /// By its name in TOML.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "name" => Some(DigestOf::Name),
            "content" => Some(DigestOf::Content),
            _ => None,
        }
    }
}

/// Why a format cannot be used as the unit spells it out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnnounceAsError {
    /// Only v00 leaves open what its digest is of.
    #[error("`digest` is for v00 alone: {0} says itself what its digest is of")]
    DigestNotOpen(Format),
    /// Not words joined by dots, or no room left for a path.
    #[error("`key` is a prefix of words joined by dots, without `*`, `#` or blanks, up to {PREFIX_BYTES_MAX} bytes")]
    BadKey,
}

/// Leaves room in a key for the first directories.
const PREFIX_BYTES_MAX: usize = 127;

/// What of a product's path its key has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Keyed {
    /// All of it, as watchers write it.
    #[default]
    File,
    /// The directory without the file name, as senders write it.
    Directory,
}

/// One format in which a unit announces: `"v02"`, or spelled out
/// `{ format = "v00", key = "v00.urp.input", digest = "name" }`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnnounceAs {
    /// How the body is written.
    pub format: Format,
    /// What keys begin with, without a dot at the end.
    pub key: String,
    /// What a v00 digest is to be of; `Unknown` takes whatever identity there is.
    pub digest: DigestOf,
    /// What follows the prefix in keys.
    pub keyed: Keyed,
}

impl AnnounceAs {
    /// What is left out is the format's usual key, and what is usual under the key.
    pub fn new(format: Format, key: Option<&str>, digest: Option<DigestOf>) -> Result<Self, AnnounceAsError> {
        if digest.is_some() && format != Format::V00 {
            return Err(AnnounceAsError::DigestNotOpen(format));
        }
        let key = key.unwrap_or(format.usual_key());
        let is_word = |word: &str| !word.is_empty() && !word.contains(|c: char| "*#".contains(c) || c <= ' ');
        if key.len() > PREFIX_BYTES_MAX || !key.split('.').all(is_word) {
            return Err(AnnounceAsError::BadKey);
        }
        let digest = digest.unwrap_or_else(|| identity::usual_digest_of(key));
        Ok(AnnounceAs {
            format,
            key: key.to_owned(),
            digest,
            keyed: Keyed::File,
        })
    }
}

impl From<Format> for AnnounceAs {
    fn from(format: Format) -> Self {
        let key = format.usual_key();
        AnnounceAs {
            format,
            key: key.to_owned(),
            digest: identity::usual_digest_of(key),
            keyed: Keyed::File,
        }
    }
}

/// What a unit adds to its announcements, each only where it is configured and the announcement has none yet.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UnitHeaders {
    /// `source` (v02, v03): who the product is from.
    pub source: Option<String>,
    /// `from_cluster` (v02, v03): which cluster announces it.
    pub cluster: Option<String>,
    /// `filename` (exp, v00, v02): a Sundew name made from the file name.
    pub filename: Option<Template>,
}

/// Whether bodies under this key have their paths escaped: all but v00 outside `v00.dd`, which are raw both ways.
pub(super) fn escapes_paths(format: Format, key: &str) -> bool {
    match format {
        Format::Exp | Format::V02 => true,
        Format::V00 => topic::begins_with(key, "v00.dd"),
        Format::V03 => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_the_content_types_then_the_keys_then_the_units() {
        let table = [
            (Some("application/json"), "v02.post.x", None, Some(Format::V03)),
            (Some("Application/JSON; charset=utf-8"), "x", None, Some(Format::V03)),
            (Some("text/plain"), "v02.post.x", Some(Format::V00), Some(Format::V02)),
            (None, "exp.dd.notify.x", None, Some(Format::Exp)),
            (None, "v00", None, Some(Format::V00)),
            (None, "v03.post.x", None, Some(Format::V03)),
            (None, "v01.post.x", None, None),
            (None, "v002.x", Some(Format::V00), Some(Format::V00)),
            (Some("text/plain"), "", None, None),
        ];
        for (content_type, key, default, wanted) in table {
            let content_type = content_type.map(str::to_owned);
            let envelope = Envelope {
                key: key.into(),
                content_type,
                ..Envelope::default()
            };
            assert_eq!(Format::of(&envelope, default), wanted, "{key}");
        }
    }

    #[test]
    fn a_format_may_be_spelled_out() {
        let urp = AnnounceAs::new(Format::V00, Some("v00.urp.input"), None).unwrap();
        assert_eq!((urp.key.as_str(), urp.digest), ("v00.urp.input", DigestOf::Name));
        assert_eq!(
            AnnounceAs::new(Format::V00, None, None).unwrap(),
            AnnounceAs::from(Format::V00)
        );
        assert_eq!(AnnounceAs::from(Format::V00).digest, DigestOf::Content);
        let refused = AnnounceAs::new(Format::V02, None, Some(DigestOf::Name));
        assert_eq!(refused, Err(AnnounceAsError::DigestNotOpen(Format::V02)));
        for key in [
            "",
            "v00.",
            ".v00",
            "v00..x",
            "v00.#",
            "v00.*",
            "v00 x",
            &"x".repeat(128),
        ] {
            assert_eq!(
                AnnounceAs::new(Format::V00, Some(key), None),
                Err(AnnounceAsError::BadKey),
                "{key}"
            );
        }
        for format in Format::ALL {
            assert_eq!(Format::from_name(format.name()), Some(format));
        }
        assert_eq!(
            (DigestOf::from_name("name"), DigestOf::from_name("x")),
            (Some(DigestOf::Name), None)
        );
    }
}
