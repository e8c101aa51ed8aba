//! What a message says, or why it is no announcement; and what every format has in common when it is read.

use std::fmt;

use super::{Announcement, BaseError, Format, ProductPath};

/// Longer paths than the system's own limit name no file.
const PATH_BYTES_MAX: usize = 4096;

/// What a message says.
#[derive(Debug, Clone, PartialEq)]
#[allow(clippy::large_enum_variant)] // the large one is the rule
pub enum Decoded {
    /// There is a product to fetch.
    Product(Announcement),
    /// It is well-formed and there is nothing to fetch whole.
    NotForFetching(Reason),
}

/// Why there is nothing to fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// A file is gone.
    Removal,
    /// A directory was made.
    DirectoryMade,
    /// A directory is gone.
    DirectoryRemoved,
    /// A symbolic or hard link.
    Link,
    /// Something has a new name.
    Rename,
    /// One part of a file that is announced in parts.
    Part,
    /// Something else was done to a file than writing it.
    OtherOperation,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reason::Removal => "announces a removal",
            Reason::DirectoryMade => "announces a new directory",
            Reason::DirectoryRemoved => "announces the removal of a directory",
            Reason::Link => "announces a link",
            Reason::Rename => "announces a new name",
            Reason::Part => "announces a part of a file",
            Reason::OtherOperation => "announces an unknown file operation",
        })
    }
}

/// Why a message is no announcement. A message fault always. Short, and never quotes the message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Nothing says what it is.
    #[error("cannot tell the format: neither content type nor key names one, and the unit sets no `format`")]
    UnknownFormat,
    /// No announcement is that long.
    #[error("{format} body of {bytes} bytes; at most {limit} are read")]
    TooLong {
        /// What it claims to be.
        format: Format,
        /// Its length.
        bytes: usize,
        /// The most that is read.
        limit: usize,
    },
    /// Too few words in the body.
    #[error("{format} body of {found} words; wanted {wanted}")]
    Words {
        /// What it claims to be.
        format: Format,
        /// How many there are.
        found: usize,
        /// How many there should be.
        wanted: usize,
    },
    /// Not JSON, or no object.
    #[error("v03 body is no JSON object (line {line}, column {column})")]
    NotJson {
        /// Where reading stopped, from 1; 0 when it is JSON of another kind.
        line: usize,
        /// Where reading stopped.
        column: usize,
    },
    /// One field is missing or makes no sense.
    #[error("{format} {field} {problem}")]
    Field {
        /// What it claims to be.
        format: Format,
        /// Which field.
        field: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The announced base is no base.
    #[error("{format}: {cause}")]
    Base {
        /// What it claims to be.
        format: Format,
        /// What is wrong with it.
        cause: BaseError,
    },
}

/// The place that a body names: base, and path as it is on the announcing host.
pub(super) fn place(format: Format, base: &[u8], path: &[u8]) -> Result<Announcement, DecodeError> {
    let text = std::str::from_utf8(base).map_err(|_| DecodeError::Base {
        format,
        cause: BaseError::NotAbsolute,
    })?;
    let leading = path.iter().take_while(|byte| **byte == b'/').count();
    let path = ProductPath(path[leading..].to_vec());
    if let Some(problem) = path_problem(&path) {
        return Err(DecodeError::Field {
            format,
            field: "path",
            problem,
        });
    }
    Announcement::new(text, path).map_err(|cause| DecodeError::Base { format, cause })
}

/// What keeps a path from naming a file, in any format.
pub(super) fn path_problem(path: &ProductPath) -> Option<&'static str> {
    if path.file_name().is_empty() {
        Some("names no file")
    } else if path.0.starts_with(b"/") {
        Some("begins with a slash")
    } else if path.0.len() > PATH_BYTES_MAX {
        Some("is longer than 4096 bytes")
    } else if path.0.contains(&0) {
        Some("has a NUL in it")
    } else {
        None
    }
}

/// A size in bytes: digits and nothing else.
pub(super) fn parse_size(text: &[u8]) -> Option<u64> {
    let digits = text.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(text).ok().filter(|_| digits)?.parse().ok()
}
