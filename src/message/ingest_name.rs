//! Names under which products stand in the spool: made from what was received, and read back.
//!
//! `what:system:site:type:priority:flags:YYYYMMDDhhmmss`, fields 0 to 6. Systems that know no priority put a format in
//! field 4 (`GIF`); `3` and `3.A.I.E` are both priority 3.
//! Valid: `SACN31_CWAO_300651___0006:file:CWAO:SA:3:Direct:20061008042436`; nothing is invalid here, but a name with
//! fewer than five fields has no place in the database.

use jiff::Timestamp;

use super::mask::{Masks, Undecided};
use super::product_name::fields;
use super::stamp;

/// What an `extension` looks like, for error messages and manuals.
pub const EXTENSION: &str = "five fields with colons between them, as in MISSING:MISSING:MISSING:MISSING:";

/// Fields of a name before its stamp.
const FIELDS: usize = 6;

/// Why a text is no extension.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExtensionError {
    /// Not five fields.
    #[error("{0} fields")]
    Fields(usize),
    /// A field that can be no part of a path.
    #[error("the field {0:?} can be no directory")]
    Unfit(String),
}

/// What fills the fields 1 to 5 that a received name has not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extension([Vec<u8>; FIELDS - 1]);

impl Default for Extension {
    fn default() -> Self {
        let missing = || b"MISSING".to_vec();
        Extension([missing(), missing(), missing(), missing(), Vec::new()])
    }
}

/// A name without its stamp.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stem {
    /// Six fields.
    pub name: Vec<u8>,
    /// Whether what was received had more, which are gone.
    pub is_truncated: bool,
}

impl Extension {
    /// Reads five fields; `-NAME` in them becomes the receiver's name.
    pub fn parse(text: &str, receiver: &str) -> Result<Self, ExtensionError> {
        let read: Vec<String> = text.split(':').map(|field| field.replace("-NAME", receiver)).collect();
        if let Some(unfit) = read.iter().find(|field| !is_fit(field.as_bytes())) {
            return Err(ExtensionError::Unfit(unfit.clone()));
        }
        let count = read.len();
        let fields: Vec<Vec<u8>> = read.into_iter().map(String::into_bytes).collect();
        fields
            .try_into()
            .map(Extension)
            .map_err(|_| ExtensionError::Fields(count))
    }

    /// The name to be stamped: the first six fields of what was received, the empty ones of 1 to 5 filled.
    pub fn stem(&self, reception_name: &[u8]) -> Stem {
        let received: Vec<&[u8]> = fields(reception_name).collect();
        let mut name = received.first().copied().unwrap_or_default().to_vec();
        for (index, filling) in self.0.iter().enumerate() {
            let own = received.get(index + 1).filter(|field| !field.is_empty());
            name.push(b':');
            name.extend_from_slice(own.copied().unwrap_or(filling));
        }
        Stem {
            name,
            is_truncated: received.len() > FIELDS,
        }
    }
}

/// The ingest name: a stem, and when it was received.
pub fn stamped(stem: &[u8], at: Timestamp) -> Vec<u8> {
    [stem, b":", stamp::to_seconds(at).as_bytes()].concat()
}

/// `YYYYMMDD` of the database's directory, UTC.
pub fn date(at: Timestamp) -> String {
    stamp::to_seconds(at).chars().take(8).collect()
}

/// `YYYYMMDDHH` of a queue's directory, UTC.
pub fn hour(at: Timestamp) -> String {
    stamp::to_seconds(at).chars().take(10).collect()
}

/// Where the name stands below the database's date: fields 3, 1 and 2. Empty fields make no directory.
///
/// `None` for a name with fewer than five fields, and for one that would leave the database.
pub fn db_directory(ingest_name: &[u8]) -> Option<Vec<u8>> {
    let fields: Vec<&[u8]> = fields(ingest_name).take(5).collect();
    let [_, system, site, kind, _] = fields[..] else {
        return None;
    };
    let levels: Vec<&[u8]> = [kind, system, site]
        .into_iter()
        .filter(|level| !level.is_empty())
        .collect();
    levels.iter().all(|level| is_fit(level)).then(|| levels.join(&b'/'))
}

/// Whether a field may be a directory.
fn is_fit(field: &[u8]) -> bool {
    !matches!(field, b"." | b"..") && !field.iter().any(|byte| matches!(byte, b'/' | 0))
}

/// The text that names the queue's directory where nothing else gives a priority: field 4 up to its first dot. `GIF`
/// is such a text, and so is the empty one; only those of [`priority`] are ever read by a sender.
pub fn priority_field(name: &[u8]) -> Option<&[u8]> {
    fields(name).nth(4)?.split(|byte| *byte == b'.').next()
}

/// The priority that the name itself tells, 0 to 5.
pub fn priority(name: &[u8]) -> Option<u8> {
    match priority_field(name)? {
        [digit @ b'0'..=b'5'] => Some(digit - b'0'),
        _ => None,
    }
}

/// What names are sorted by, bytewise, before a queue is sent: the priority, then the stamp; ties by the whole path.
///
/// A name without priority sorts by its stamp alone, that is after priority 1 and before priority 2 as long as years
/// begin with 20. A name without stamp comes before its like, and one with neither just before the stamps.
pub fn sort_key(name: &[u8]) -> Vec<u8> {
    let mut key: Vec<u8> = priority(name).map(|priority| b'0' + priority).into_iter().collect();
    key.extend_from_slice(fields(name).nth(6).unwrap_or_default());
    if key.is_empty() {
        key.push(b'2');
    }
    key
}

/// Whether it is a name as bulletins have it: a field from the fifth on starts with a digit, another follows it, and
/// fourteen digits end it. `validation` erases what is not.
pub fn is_valid(name: &[u8]) -> bool {
    let name = name.strip_suffix(b"\n").unwrap_or(name);
    let fields: Vec<&[u8]> = fields(name).collect();
    let Some((stamp, front)) = fields.split_last() else {
        return false;
    };
    let is_stamp = stamp.len() == 14 && stamp.iter().all(u8::is_ascii_digit);
    let candidates = front.split_last().map_or(&[][..], |(_, candidates)| candidates);
    let has_digit = candidates
        .iter()
        .skip(4)
        .any(|field| field.first().is_some_and(u8::is_ascii_digit));
    is_stamp && has_digit && !name.contains(&b'\n')
}

/// The name without its last field if that begins with `20`: what the `filename` header carries. The colon of an empty
/// sixth field stays, and so does a name of one field: an empty header would lose the product at its receiver.
pub fn filename_header(name: &[u8]) -> Vec<u8> {
    let last_colon = name.iter().rposition(|byte| *byte == b':');
    let has_stamp = |colon: &usize| name[colon + 1..].starts_with(b"20");
    name[..last_colon.filter(has_stamp).unwrap_or(name.len())].to_vec()
}

/// What the routing table is asked with: the groups of the masks with `_` between them; the name without its stamp
/// where no mask is a regular expression. `None` where a mask rejects the name or none gives groups: the product goes
/// into the database and to nobody.
pub fn routing_key(masks: &Masks, ingest_name: &[u8]) -> Result<Option<Vec<u8>>, Undecided> {
    if !masks.has_regex() {
        return Ok(Some(filename_header(ingest_name)));
    }
    Ok(masks.groups(ingest_name)?.map(|groups| groups.join(&b'_')))
}

#[cfg(test)]
mod tests;
