//! What every transport does with the bytes it receives: bound, hash, write, and judge at the end.

use std::fmt;
use std::io::Write;

use jiff::Timestamp;

use super::{Kind, TransferError, Wanted};
use crate::message::{ContentHasher, Fault};
use crate::spool::SpoolError;

/// Of a product that is longer than announced this much is taken all the same, to see what it is.
const EVIDENCE: u64 = 1 << 20;

/// What the source said of the bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Facts {
    /// Bytes received; of a product that is too long, those that were taken and one more.
    pub size: u64,
    /// When the source last changed it.
    pub last_modified: Option<Timestamp>,
    /// The source's own name of this version.
    pub etag: Option<String>,
}

/// Bytes have arrived.
#[derive(Debug)]
pub enum Fetched<W> {
    /// They are what was announced, as far as the announcement says.
    AsAnnounced(W, Facts),
    /// They are not: for quarantine, never for delivery.
    Differs(W, Facts, Mismatch),
}

/// How bytes differ from those announced.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Mismatch {
    /// Fewer bytes came.
    Short { announced: u64, got: u64 },
    /// More bytes came; how many is not known.
    Long { announced: u64 },
    /// The size is right or not announced, the content is not.
    Digest { announced: String, got: String },
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Mismatch::Short { announced, got } => write!(f, "{announced} bytes were announced, {got} came"),
            Mismatch::Long { announced } => write!(f, "{announced} bytes were announced, more came"),
            Mismatch::Digest { announced, got } => write!(f, "the digest is {got}, announced was {announced}"),
        }
    }
}

/// How many bytes are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bounds {
    announced: Option<u64>,
    most: u64,
}

impl Bounds {
    pub(super) fn new(announced: Option<u64>, max: u64) -> Bounds {
        Bounds {
            announced,
            most: announced.map_or(max, |size| size.max(EVIDENCE.min(max))),
        }
    }

    /// The most that is written.
    pub(super) fn most(self) -> u64 {
        self.most
    }

    /// Refuses a length that the source gives before any byte is taken.
    pub(super) fn check_length(self, length: Option<u64>, what: &dyn fmt::Display) -> Result<(), TransferError> {
        match length {
            Some(length) if self.announced.is_none() && length > self.most => Err(self.too_large(what)),
            _ => Ok(()),
        }
    }

    fn too_large(self, what: &dyn fmt::Display) -> TransferError {
        let what = format!("cannot fetch {what}: it has more than {} bytes", self.most);
        TransferError::new(Fault::Message, Kind::TooLarge, what)
    }
}

/// The content's digest, where the announcement promises one.
#[derive(Debug, Clone)]
pub(super) struct Expected(Option<(ContentHasher, String)>);

impl Expected {
    pub(super) fn new(wanted: &Wanted) -> Expected {
        let identity = wanted.identity.as_ref();
        Expected(identity.and_then(|identity| Some((identity.checker()?, identity.value.to_ascii_lowercase()))))
    }
}

/// A sink with its hash and count. All calls block.
pub(super) struct Intake<W> {
    sink: W,
    expected: Expected,
    bounds: Bounds,
    got: u64,
}

impl<W: Write> Intake<W> {
    pub(super) fn open(
        open: impl FnOnce() -> Result<W, SpoolError>,
        bounds: Bounds,
        expected: Expected,
    ) -> Result<Intake<W>, TransferError> {
        Ok(Intake {
            sink: open()?,
            expected,
            bounds,
            got: 0,
        })
    }

    /// Takes the next bytes; those beyond the bounds only count.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<(), TransferError> {
        let room = usize::try_from(self.bounds.most - self.got.min(self.bounds.most)).unwrap_or(usize::MAX);
        let inside = &bytes[..bytes.len().min(room)];
        self.got += bytes.len() as u64;
        // A sink is a local file: what it refuses is this host's.
        self.sink.write_all(inside).map_err(|err| {
            TransferError::new(Fault::Own, Kind::Local, "cannot write what is being fetched").caused_by(err)
        })?;
        if let Some((hasher, _)) = &mut self.expected.0 {
            hasher.update(inside);
        }
        Ok(())
    }

    /// No more bytes come: are they what was announced?
    pub(super) fn finish(self, mut facts: Facts, what: &dyn fmt::Display) -> Result<Fetched<W>, TransferError> {
        facts.size = self.got;
        if self.bounds.announced.is_none() && self.got > self.bounds.most {
            return Err(self.bounds.too_large(what));
        }
        let mismatch = match (self.bounds.announced, self.expected.0) {
            (Some(announced), _) if self.got < announced => Some(Mismatch::Short {
                announced,
                got: self.got,
            }),
            (Some(announced), _) if self.got > announced => Some(Mismatch::Long { announced }),
            (_, Some((hasher, announced))) => {
                let got = hasher.finish();
                (got != announced).then_some(Mismatch::Digest { announced, got })
            }
            _ => None,
        };
        Ok(match mismatch {
            None => Fetched::AsAnnounced(self.sink, facts),
            Some(mismatch) => Fetched::Differs(self.sink, facts, mismatch),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{DigestOf, Identity, Method};

    fn fetched(
        size: Option<u64>,
        digest: Option<&str>,
        of: DigestOf,
        max: u64,
        body: &[u8],
    ) -> Result<Fetched<Vec<u8>>, TransferError> {
        let identity = digest.map(|value| Identity {
            method: Method::Md5,
            value: value.into(),
            of,
        });
        let wanted = Wanted {
            url: String::new(),
            size,
            identity,
        };
        let mut intake = Intake::open(|| Ok(Vec::new()), Bounds::new(size, max), Expected::new(&wanted))?;
        for part in body.chunks(3) {
            intake.take(part)?;
        }
        intake.finish(Facts::default(), &"x")
    }

    #[test]
    fn size_and_digest_of_the_content_are_checked() {
        let (abc, other) = ("900150983cd24fb0d6963f7d28e17f72", "00000000000000000000000000000000");
        let table = [
            (None, None, DigestOf::Unknown, true),
            (Some(3), None, DigestOf::Unknown, true),
            (Some(4), None, DigestOf::Unknown, false),
            (Some(2), None, DigestOf::Unknown, false),
            (Some(0), None, DigestOf::Unknown, false),
            (Some(3), Some(abc), DigestOf::Content, true),
            (None, Some("900150983CD24FB0D6963F7D28E17F72"), DigestOf::Content, true),
            (Some(3), Some(other), DigestOf::Content, false),
            (Some(3), Some(other), DigestOf::Name, true),
            (Some(3), Some(other), DigestOf::Unknown, true),
        ];
        for (size, digest, of, is_right) in table {
            let result = fetched(size, digest, of, 1000, b"abc").unwrap();
            assert_eq!(
                matches!(result, Fetched::AsAnnounced(..)),
                is_right,
                "{size:?} {digest:?} {result:?}"
            );
        }
    }

    #[test]
    fn more_than_is_allowed_is_never_written() {
        assert_eq!(
            fetched(None, None, DigestOf::Unknown, 5, b"123456").unwrap_err().kind,
            Kind::TooLarge
        );
        assert!(matches!(
            fetched(None, None, DigestOf::Unknown, 6, b"123456"),
            Ok(Fetched::AsAnnounced(..))
        ));
        let long = vec![b'x'; EVIDENCE as usize + 10];
        match fetched(Some(4), None, DigestOf::Unknown, u64::MAX, &long).unwrap() {
            Fetched::Differs(kept, _, Mismatch::Long { announced: 4 }) => assert_eq!(kept.len() as u64, EVIDENCE),
            other => panic!("{other:?}"),
        }
    }
}
