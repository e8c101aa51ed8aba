//! "This file is ready, at this URL", whatever the wire format.

use std::fmt;

use jiff::Timestamp;

use super::{BaseError, Envelope, Headers, base, escape, product_name};

/// A path as announced: raw bytes without a leading slash, already unescaped. Not confined to any tree.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProductPath(pub Vec<u8>);

impl ProductPath {
    /// The last segment; empty when the path ends in a slash.
    pub fn file_name(&self) -> &[u8] {
        self.0.rsplit(|b| *b == b'/').next().unwrap_or_default()
    }

    /// What stands before the last segment, without the slash between.
    pub fn directory(&self) -> &[u8] {
        let end = self.0.len() - self.file_name().len();
        self.0[..end].strip_suffix(b"/").unwrap_or_default()
    }

    /// As a URL has it: each byte that is not legal in an RFC 3986 path, and `%`, as `%XX`.
    pub fn escaped(&self) -> String {
        escape::path(&self.0)
    }
}

impl From<&str> for ProductPath {
    fn from(text: &str) -> Self {
        ProductPath(text.as_bytes().to_vec())
    }
}

/// Lossy, control characters escaped: safe in a log line.
impl fmt::Display for ProductPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in String::from_utf8_lossy(&self.0).chars() {
            if c.is_control() {
                write!(f, "{}", c.escape_default())?;
            } else {
                write!(f, "{c}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for ProductPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// How an identity value was made.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Method {
    /// md5, 16 bytes.
    Md5,
    /// sha512, 64 bytes.
    Sha512,
    /// Random digits: never checked.
    Random,
    /// Free text: never checked.
    Arbitrary,
    /// To be computed while downloading by the method named in the value ("cod", v02 `z`).
    ComputeOnDownload,
    /// A method px does not know; kept, never checked.
    Other(String),
}

/// What a digest is a digest of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum DigestOf {
    Content,
    Name,
    Unknown,
}

/// The identity of a product: method, value, and what it is of.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Identity {
    /// How the value was made.
    pub method: Method,
    /// Digests as lower-case hex; other methods as they came.
    pub value: String,
    /// Only a digest of the content is ever checked against bytes.
    pub of: DigestOf,
}

/// One product that is ready to be fetched. Prints without user information.
#[derive(Clone, PartialEq)]
pub struct Announcement {
    /// `scheme://authority/…`, ends with a slash. May hold user information, as it came: see
    /// [`Announcement::has_user_info`].
    pub base: String,
    /// What follows the base.
    pub path: ProductPath,
    /// Who or what it is, for duplicate suppression and verification.
    pub identity: Option<Identity>,
    /// Bytes.
    pub size: Option<u64>,
    /// When it was announced, if the format carries it.
    pub time: Option<Timestamp>,
    /// Modification time of the source file, if carried.
    pub mtime: Option<Timestamp>,
    /// Everything else the message carried, for the format to write again (v02: headers, v03: JSON fields).
    pub headers: Headers,
}

impl Announcement {
    /// An announcement of nothing but a place. The base must be an absolute URL; it gets its last slash here.
    pub fn new(base: &str, path: ProductPath) -> Result<Self, BaseError> {
        Ok(Announcement {
            base: base::normalized(base)?,
            path,
            identity: None,
            size: None,
            time: None,
            mtime: None,
            headers: Headers::new(),
        })
    }

    /// When the product was announced, as far as the message says: the format's time, else the timestamp property, else
    /// the stamp that ends the name.
    pub fn announced_at(&self, envelope: &Envelope) -> Option<Timestamp> {
        let property = || Timestamp::from_second(i64::try_from(envelope.timestamp?).ok()?).ok();
        let name = || product_name::reception_time(self.path.file_name());
        self.time.or_else(property).or_else(name)
    }

    /// [`Announcement::announced_at`], else when it was first received, which the caller keeps when parking.
    pub fn time_or(&self, envelope: &Envelope, first_reception: Timestamp) -> Timestamp {
        self.announced_at(envelope).unwrap_or(first_reception)
    }
}

/// Base and path, for a log line.
impl fmt::Display for Announcement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", base::without_user_info(&self.base), self.path)
    }
}

impl fmt::Debug for Announcement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Announcement")
            .field("base", &base::without_user_info(&self.base))
            .field("path", &self.path)
            .field("identity", &self.identity)
            .field("size", &self.size)
            .field("time", &self.time)
            .field("mtime", &self.mtime)
            .field("headers", &self.headers)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn utc(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn the_time_of_an_announcement_is_the_first_that_is_there() {
        let first_reception = utc("2027-01-01T00:00:00Z");
        let mut announcement = Announcement::new("http://h/", ProductPath::from("a:b:c:d:e::20150120180902")).unwrap();
        let mut envelope = Envelope::default();
        assert_eq!(
            announcement.time_or(&envelope, first_reception),
            utc("2015-01-20T18:09:02Z")
        );
        envelope.timestamp = Some(1_000_000_000);
        assert_eq!(
            announcement.time_or(&envelope, first_reception),
            utc("2001-09-09T01:46:40Z")
        );
        announcement.time = Some(utc("2026-11-21T20:12:34Z"));
        assert_eq!(
            announcement.time_or(&envelope, first_reception),
            utc("2026-11-21T20:12:34Z")
        );
        announcement.time = None;
        envelope.timestamp = Some(u64::MAX);
        announcement.path = ProductPath::from("a.gif");
        assert_eq!(announcement.time_or(&envelope, first_reception), first_reception);
    }
}
