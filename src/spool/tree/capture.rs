//! Reading one version of a file: its digests belong to the very bytes that its size and time are of, or there are
//! none.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::Found;
use super::root;
use crate::message::{ContentHasher, Method};
use crate::spool::inventory::{Row, Version};

/// Stamps younger than this may be borne by the next version too: clocks of file systems go in steps.
pub(super) const YOUNG: Duration = Duration::from_millis(20);
/// How long a file that changed while it was read is left alone.
const CHANGED_PAUSE: Duration = Duration::from_millis(50);
const BUFFER: usize = 64 << 10;

/// The digests that a tree's formats need.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs)]
pub struct Needs {
    pub md5: bool,
    pub sha512: bool,
}

/// Digests of a file's content, in hex.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[allow(missing_docs)]
pub struct Digests {
    pub md5: Option<String>,
    pub sha512: Option<String>,
}

/// What became of a found file.
pub enum Captured {
    /// It is to be announced, and recorded as this row.
    Product(Digests, Row),
    /// It was announced already; the row needs to be renewed only where there is one.
    Known(Option<Row>),
    /// It is gone, or no longer the version that was found; the file will be looked at again if it is there.
    Gone,
    /// It cannot be read.
    Unread(Errno),
}

/// Reads found files of one tree, one after the other.
pub struct Reader {
    root: OwnedFd,
    needs: Needs,
    buffer: Vec<u8>,
}

impl Reader {
    /// Opens the tree. Not to be kept: it holds the tree's file system.
    pub fn open(path: &std::path::Path, needs: Needs) -> Result<Self, Errno> {
        Ok(Reader {
            root: root::open(path)?,
            needs,
            buffer: Vec::new(),
        })
    }

    /// Reads what the formats need of one file. Its content is read where a digest is needed, or where its stamps are
    /// so young that only the content can tell it from the next version. Blocks.
    pub fn capture(&mut self, found: &mut Found) -> Captured {
        use std::os::fd::AsFd;
        let version = found.version;
        let recorded_at_ns = now_ns();
        let is_young = is_young(version.mtime_ns, recorded_at_ns);
        let needs = with_known(self.needs, is_young, found.known.as_deref());
        let read = if needs == Needs::default() {
            is_still(self.root.as_fd(), &found.flight.path, version).map(|is_still| is_still.then(Digests::default))
        } else {
            read(self.root.as_fd(), &found.flight.path, version, needs, &mut self.buffer)
        };
        let digests = match read {
            Ok(Some(digests)) => digests,
            Ok(None) => {
                found.look_again(CHANGED_PAUSE);
                return Captured::Gone;
            }
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Captured::Gone,
            Err(cause) => return Captured::Unread(cause),
        };
        let row = Row {
            version,
            digest: is_young
                .then(|| digests.md5.clone().or(digests.sha512.clone()))
                .flatten(),
            recorded_at_ns,
        };
        match &found.known {
            Some(known) if [&digests.md5, &digests.sha512].contains(&&Some(known.clone())) => {
                Captured::Known(row.digest.is_none().then_some(row))
            }
            _ => Captured::Product(digests, row),
        }
    }
}

/// What must be computed: what the formats need, what the known digest is compared with, and one for young stamps.
fn with_known(mut needs: Needs, is_young: bool, known: Option<&str>) -> Needs {
    const MD5_HEX: usize = 32;
    match known {
        Some(known) if known.len() == MD5_HEX => needs.md5 = true,
        Some(_) => needs.sha512 = true,
        None => needs.md5 |= is_young && !needs.sha512,
    }
    needs
}

/// Whether a later version may bear this stamp too.
pub(super) fn is_young(mtime_ns: i64, now_ns: i64) -> bool {
    now_ns.saturating_sub(mtime_ns) < YOUNG.as_nanos() as i64
}

/// The system's clock.
pub(super) fn now_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

fn is_still(root: BorrowedFd<'_>, path: &[u8], version: Version) -> Result<bool, Errno> {
    let stat = root::regular_file(root, path)?.ok_or(Errno::NOENT)?;
    Ok(Version::of(&stat) == version)
}

/// The digests of exactly this version; `None` where the file is another one by now.
fn read(
    root: BorrowedFd<'_>,
    path: &[u8],
    version: Version,
    needs: Needs,
    buffer: &mut Vec<u8>,
) -> Result<Option<Digests>, Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = root::open_beneath(root, path, flags, Mode::empty())?;
    let hasher = |is_needed: bool, method| is_needed.then(|| ContentHasher::new(&method)).flatten();
    let mut md5 = hasher(needs.md5, Method::Md5);
    let mut sha512 = hasher(needs.sha512, Method::Sha512);
    let mut total = 0;
    while total < version.size {
        buffer.clear();
        buffer.reserve(BUFFER);
        match rustix::io::read(&file, rustix::buffer::spare_capacity(buffer)) {
            Ok(0) => return Ok(None),
            Ok(count) => total += count as u64,
            Err(Errno::INTR) => continue,
            Err(err) => return Err(err),
        }
        md5.iter_mut()
            .chain(sha512.iter_mut())
            .for_each(|hasher| hasher.update(buffer));
    }
    let stat = rustix::fs::fstat(&file)?;
    if total != version.size || !root::is_regular(&stat) || Version::of(&stat) != version {
        return Ok(None);
    }
    Ok(Some(Digests {
        md5: md5.map(ContentHasher::finish),
        sha512: sha512.map(ContentHasher::finish),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_content_is_read_only_where_something_needs_it() {
        let needs = |md5, sha512| Needs { md5, sha512 };
        let hex = |digits: usize| "a".repeat(digits);
        let table = [
            (needs(false, false), false, None, needs(false, false)),
            (needs(false, false), true, None, needs(true, false)),
            (needs(false, true), true, None, needs(false, true)),
            (needs(true, false), true, None, needs(true, false)),
            (needs(true, false), false, Some(hex(128)), needs(true, true)),
            (needs(false, true), true, Some(hex(32)), needs(true, true)),
        ];
        for (formats, is_young, known, wanted) in table {
            assert_eq!(with_known(formats, is_young, known.as_deref()), wanted);
        }
    }

    #[test]
    fn digests_belong_to_the_version_or_there_are_none() {
        use std::os::fd::AsFd;
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a"), "abc").unwrap();
        let root = root::open(dir.path()).unwrap();
        let stat = root::regular_file(root.as_fd(), b"a").unwrap().unwrap();
        let version = Version::of(&stat);
        let needs = Needs {
            md5: true,
            sha512: true,
        };
        let read = |version| read(root.as_fd(), b"a", version, needs, &mut Vec::new()).unwrap();
        let digests = read(version).unwrap();
        assert_eq!(digests.md5.as_deref(), Some("900150983cd24fb0d6963f7d28e17f72"));
        assert!(digests.sha512.unwrap().starts_with("ddaf35a193617aba"));
        assert_eq!(read(Version { size: 2, ..version }), None);
        assert_eq!(read(Version { size: 4, ..version }), None);
        assert_eq!(read(Version { mtime_ns: 0, ..version }), None);
    }
}
