//! One product to be delivered: its bytes, its place, and whether that can be a place at all.

use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};

use jiff::Timestamp;

use crate::message::{Fault, ProductPath};
use crate::transfer::{Kind, TransferError};

/// The longest name of a file or directory on what servers run on.
pub(super) const NAME_MAX: usize = 255;
/// A path has no more than 4096 bytes on Linux, its name included.
const DIRECTORY_MAX: usize = 3800;
/// Bytes of a directory, and of a name, that messages show.
const SHOWN_MAX: usize = 512;

/// One product to be delivered.
#[derive(Debug)]
pub struct Parcel {
    /// Its bytes; read by position, so that a second try begins anew.
    pub content: File,
    /// So many bytes; a file that has fewer by now is a failure.
    pub size: u64,
    /// `a/b` from where the login or the URL begins, `/a/b` from the root of the server, empty: where it begins.
    pub directory: Vec<u8>,
    /// The final name.
    pub name: Vec<u8>,
    /// The time that the delivered file should have, where the protocol can say it.
    pub modified: Option<Timestamp>,
}

impl Parcel {
    /// The directories on the way, one after the other.
    pub(in crate::transfer) fn parts(&self) -> impl Iterator<Item = &[u8]> {
        let parts = self.directory.split(|byte| *byte == b'/');
        parts.filter(|part| !part.is_empty() && *part != b".")
    }

    /// Whether the way begins at the root of the server.
    pub(in crate::transfer) fn is_absolute(&self) -> bool {
        self.directory.starts_with(b"/")
    }

    /// For messages: `a/b/name`, bounded, without control characters.
    pub(in crate::transfer) fn shown(&self) -> String {
        let mut path = self.directory[..self.directory.len().min(SHOWN_MAX)].to_vec();
        if !path.is_empty() && !path.ends_with(b"/") {
            path.push(b'/');
        }
        path.extend(&self.name[..self.name.len().min(SHOWN_MAX)]);
        ProductPath(path).to_string()
    }

    /// A number of its own, or nearly.
    pub(super) fn hash(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (&self.directory, &self.name).hash(&mut hasher);
        hasher.finish()
    }

    /// Names that would lead elsewhere, that nothing can have, or that end a command of the protocol, are the message's
    /// fault.
    pub(super) fn check(&self) -> Result<(), TransferError> {
        let has_control = |bytes: &[u8]| bytes.iter().any(|byte| byte.is_ascii_control());
        let name = self.name.as_slice();
        let why = if matches!(name, b"" | b"." | b"..") {
            "no such name can be"
        } else if name.contains(&b'/') {
            "its name holds a slash"
        } else if has_control(name) {
            "its name holds control characters"
        } else if name.len() > NAME_MAX {
            "its name is longer than 255 bytes"
        } else if has_control(&self.directory) {
            "its directory holds control characters"
        } else if self.parts().any(|part| part == b"..") {
            "its directory leads upwards"
        } else if self.directory.len() > DIRECTORY_MAX || self.parts().any(|part| part.len() > NAME_MAX) {
            "its directory has too long a name"
        } else {
            return Ok(());
        };
        let what = format!("cannot deliver {}: {why}", self.shown());
        Err(TransferError::new(Fault::Message, Kind::Rejected, what))
    }
}
