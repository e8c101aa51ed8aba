//! Products of the database that are put into a client's queue once more.
//!
//! A product is chosen by the stamp that ends its name, which is when it was received, and is linked into
//! `txq/CLIENT/PRIORITY/YYYYMMDDHH` under the name that it has. What is in the queue already stays as it is, so this
//! may be broken off at any moment and repeated.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};
use rustix::fs::{AtFlags, FileType};

use super::atomic::{FileId, Linked, Tree};
use super::database::DIRECTORY_MODE;
use super::dirsync::Directory;
use super::tree::root::is_skipped;
use super::{Durability, SpoolError};
use crate::message::{ingest_name, product_name};

/// More than anybody resends at once; each takes some 300 bytes of memory.
const PRODUCTS_MAX: usize = 1_000_000;
/// Directories between a date and its products.
const LEVELS: usize = 3;
/// Hours of a client's queue that are searched for a link of an earlier run.
const HOURS_MAX: usize = 10_000;
const DAY: SignedDuration = SignedDuration::from_hours(24);

/// From when until when, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The first stamp.
    pub since: Timestamp,
    /// The last.
    pub until: Timestamp,
}

/// A product of the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Product {
    /// When it was received.
    pub at: Timestamp,
    /// Its path below the database.
    pub path: Vec<u8>,
    /// Its size.
    pub bytes: u64,
}

impl Product {
    /// Its ingest name.
    pub fn name(&self) -> &[u8] {
        self.path.rsplit(|byte| *byte == b'/').next().unwrap_or_default()
    }
}

/// What was found, and what could not be read.
#[derive(Debug, Default)]
pub struct Found {
    /// In the order in which they were received; ties by path.
    pub products: Vec<Product>,
    /// Directories and files of which nothing is known.
    pub unread: Vec<SpoolError>,
}

/// The products of the span that `wants` wants by their names. Temporary and dot names are not looked at. An error
/// where the database cannot be read at all, or there are too many. Blocks.
pub fn products(db: &Path, span: Span, wants: impl Fn(&[u8]) -> bool) -> Result<Found, SpoolError> {
    let mut search = Search {
        tree: Tree::open(db, false, Durability::Crash)?,
        span,
        wants,
        found: Found::default(),
    };
    for date in search.dates()? {
        search.walk(date, 0)?;
    }
    let mut found = search.found;
    found
        .products
        .sort_unstable_by(|one, other| (one.at, &one.path).cmp(&(other.at, &other.path)));
    Ok(found)
}

struct Search<W> {
    tree: Tree,
    span: Span,
    wants: W,
    found: Found,
}

impl<W: Fn(&[u8]) -> bool> Search<W> {
    /// The dates that are there and may hold such stamps: beside midnight some put a product under the day before.
    fn dates(&self) -> Result<Vec<Vec<u8>>, SpoolError> {
        let first = ingest_name::date(self.span.since.checked_sub(DAY).unwrap_or(self.span.since)).into_bytes();
        let last = ingest_name::date(self.span.until.checked_add(DAY).unwrap_or(self.span.until)).into_bytes();
        let mut dates = Vec::new();
        if let Some(root) = self.tree.find_directory(&[])? {
            self.tree.each_name(&root, |name, _| {
                let is_date = name.len() == 8 && name.iter().all(u8::is_ascii_digit);
                if is_date && (first.as_slice()..=last.as_slice()).contains(&name) {
                    dates.push(name.to_vec());
                }
                Ok(true)
            })?;
        }
        dates.sort_unstable();
        Ok(dates)
    }

    /// Everything in and below one directory. What cannot be read is noted, and the rest goes on.
    fn walk(&mut self, path: Vec<u8>, level: usize) -> Result<(), SpoolError> {
        let parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
        let directory = match self.tree.find_directory(&parts) {
            Ok(Some(directory)) => directory,
            Ok(None) => return Ok(()),
            Err(error) => {
                self.found.unread.push(error);
                return Ok(());
            }
        };
        let (mut files, mut below) = (Vec::new(), Vec::new());
        let listed = self.tree.each_name(&directory, |name, kind| {
            if is_skipped(name) {
                return Ok(true);
            }
            match known(kind, &directory, name) {
                FileType::Directory if level < LEVELS => below.push([path.as_slice(), name].join(&b'/')),
                FileType::RegularFile => files.extend(self.chosen(name).map(|at| (at, name.to_vec()))),
                _ => {}
            }
            Ok(true)
        });
        self.found.unread.extend(listed.err());
        for (at, name) in files {
            self.take(&directory, &path, at, &name)?;
        }
        for path in below {
            self.walk(path, level + 1)?;
        }
        Ok(())
    }

    fn chosen(&self, name: &[u8]) -> Option<Timestamp> {
        let at = product_name::reception_time(name)?;
        let is_within = self.span.since <= at && at <= self.span.until;
        (is_within && (self.wants)(name)).then_some(at)
    }

    fn take(&mut self, directory: &Directory, path: &[u8], at: Timestamp, name: &[u8]) -> Result<(), SpoolError> {
        let path = [path, name].join(&b'/');
        match rustix::fs::statat(directory.fd(), name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => {
                if self.found.products.len() >= PRODUCTS_MAX {
                    return Err(SpoolError::unusable(format!(
                        "more than {PRODUCTS_MAX} products: choose a shorter span"
                    )));
                }
                let bytes = u64::try_from(stat.st_size).unwrap_or(0);
                self.found.products.push(Product { at, path, bytes });
            }
            Ok(_) | Err(rustix::io::Errno::NOENT) => {}
            Err(cause) => {
                let shown = self.tree.root().join(String::from_utf8_lossy(&path).as_ref());
                let what = format!("cannot look at {}", shown.display());
                self.found.unread.push(SpoolError::own(what, cause));
            }
        }
        Ok(())
    }
}

/// Some file systems list names without kinds.
fn known(kind: FileType, directory: &Directory, name: &[u8]) -> FileType {
    if kind != FileType::Unknown {
        return kind;
    }
    let stat = rustix::fs::statat(directory.fd(), name, AtFlags::SYMLINK_NOFOLLOW);
    stat.map_or(FileType::Unknown, |stat| FileType::from_raw_mode(stat.st_mode))
}

/// What became of one product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queued {
    /// It is in the queue now.
    New,
    /// It was there.
    There,
    /// It is in the database no more.
    Gone,
}

/// Links products into one client's queue.
pub struct Resender {
    db: Tree,
    txq: Tree,
    client: Vec<u8>,
    priority: Vec<u8>,
    /// Hours that were there before, for links of an earlier run.
    hours: Vec<(Vec<u8>, Directory)>,
    to_sync: BTreeMap<FileId, Directory>,
}

impl Resender {
    /// Prepares; makes nothing in the queue. Blocks.
    pub fn open(spool: &Path, client: &str, priority: u8) -> Result<Resender, SpoolError> {
        let durability = Durability::Power;
        let txq = Tree::open(&spool.join("txq"), true, durability)?.with_directory_mode(DIRECTORY_MODE);
        let mut resender = Resender {
            db: Tree::open(&spool.join("db"), false, durability)?,
            txq,
            client: client.as_bytes().to_vec(),
            priority: priority.to_string().into_bytes(),
            hours: Vec::new(),
            to_sync: BTreeMap::new(),
        };
        resender.find_hours()?;
        Ok(resender)
    }

    fn find_hours(&mut self) -> Result<(), SpoolError> {
        let parents = [self.client.as_slice(), self.priority.as_slice()];
        let Some(directory) = self.txq.find_directory(&parents)? else {
            return Ok(());
        };
        let mut names = Vec::new();
        self.txq.each_name(&directory, |name, kind| {
            if matches!(kind, FileType::Directory | FileType::Unknown) && !is_skipped(name) {
                names.push(name.to_vec());
            }
            Ok(names.len() < HOURS_MAX)
        })?;
        for name in names {
            let found = self
                .txq
                .find_directory(&[self.client.as_slice(), self.priority.as_slice(), &name]);
            // What is no directory is nobody's hour.
            if let Ok(Some(hour)) = found {
                self.hours.push((name, hour));
            }
        }
        Ok(())
    }

    /// The directory that a product goes into now.
    pub fn directory(&self, now: Timestamp) -> PathBuf {
        let hour = ingest_name::hour(now);
        let parts = [&self.client, &self.priority, hour.as_bytes()];
        parts.iter().fold(self.txq.root().to_owned(), |path, part| {
            path.join(String::from_utf8_lossy(part).as_ref())
        })
    }

    /// Links one product. It is safe from a power cut after [`Resender::sync`]. Blocks.
    pub fn resend(&mut self, product: &Product, now: Timestamp) -> Result<Queued, SpoolError> {
        let Some(source) = self.db.source(&product.path)? else {
            return Ok(Queued::Gone);
        };
        for (_, hour) in &self.hours {
            if self.txq.id_at(hour, product.name())? == Some(source.id()) {
                return Ok(Queued::There);
            }
        }
        let hour = ingest_name::hour(now).into_bytes();
        let parents = [self.client.as_slice(), &self.priority, &hour];
        let (linked, to_sync) = self.txq.link(&source, &parents, product.name())?;
        for directory in to_sync {
            self.to_sync.insert(directory.id(), directory);
        }
        match linked {
            Linked::New => Ok(Queued::New),
            Linked::There => Ok(Queued::There),
            Linked::Taken => Err(SpoolError::message(format!(
                "cannot link {} into {}: another file has that name there",
                String::from_utf8_lossy(product.name()),
                self.directory(now).display()
            ))),
        }
    }

    /// Makes everything that was linked safe from a power cut. Blocks.
    pub fn sync(&mut self) -> Result<(), SpoolError> {
        for directory in std::mem::take(&mut self.to_sync).into_values() {
            rustix::fs::fsync(directory.fd())
                .map_err(|cause| SpoolError::own("cannot sync a directory of the queue: check the disk", cause))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    const RADAR: &str = "a.gif:URP:XSS:RADAR:GIF::";

    fn spool() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_owned();
        (dir, path)
    }

    fn put(spool: &Path, below: &str, bytes: &str) {
        let path = spool.join("db").join(below);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    fn span(since: &str, until: &str) -> Span {
        Span {
            since: since.parse().unwrap(),
            until: until.parse().unwrap(),
        }
    }

    fn names(found: &Found) -> Vec<String> {
        let names = found.products.iter().map(|product| product.name());
        names.map(|name| String::from_utf8_lossy(name).into_owned()).collect()
    }

    #[test]
    fn products_are_chosen_by_the_stamp_of_their_names() {
        let (_dir, spool) = spool();
        for (day, stamp) in [
            ("20261120", "20261120235959"),
            ("20261120", "20261121000001"), // another program's day
            ("20261121", "20261121015959"),
            ("20261121", "20261121020000"),
            ("20261121", "20261121031000"),
            ("20261121", "20261121031001"),
            ("20261119", "20261121020000"),
        ] {
            put(&spool, &format!("{day}/RADAR/URP/XSS/{RADAR}{stamp}"), "bytes");
        }
        put(&spool, "20261121/flat:::::20261121020001", "x");
        put(&spool, "20261121/RADAR/URP/XSS/.hidden:20261121020000", "x");
        put(&spool, "20261121/RADAR/URP/XSS/b.tmp", "x");
        put(&spool, "20261121/RADAR/URP/XSS/short", "x");
        put(&spool, "20261121/A/B/C/D/deep:20261121020000", "x");
        put(&spool, "today/RADAR/URP/XSS/a:20261121020000", "x");
        symlink(&spool, spool.join("db/20261121/RADAR/link:20261121020000")).unwrap();
        let find = |span, wants: fn(&[u8]) -> bool| products(&spool.join("db"), span, wants).unwrap();

        let found = find(span("2026-11-21T02:00:00Z", "2026-11-21T03:10:00Z"), |_| true);
        let radar = |stamp: &str| format!("{RADAR}{stamp}");
        let expected = [
            radar("20261121020000"),
            "flat:::::20261121020001".to_string(),
            radar("20261121031000"),
        ];
        assert_eq!(names(&found), expected);
        assert!(found.unread.is_empty(), "{:?}", found.unread);
        assert_eq!((found.products[0].bytes, found.products[1].bytes), (5, 1));
        let wanted = find(span("2026-11-21T02:00:00Z", "2026-11-21T03:10:00Z"), |name| {
            name.starts_with(b"flat")
        });
        assert_eq!(names(&wanted), ["flat:::::20261121020001"]);
        let night = find(span("2026-11-20T23:59:59Z", "2026-11-21T00:00:01Z"), |_| true);
        assert_eq!(names(&night), [radar("20261120235959"), radar("20261121000001")]);
        assert!(
            products(
                &spool.join("none"),
                span("2026-11-21T02:00:00Z", "2026-11-21T03:10:00Z"),
                |_| true
            )
            .is_err()
        );
    }

    #[test]
    fn a_product_is_linked_once_whichever_hour_it_is() {
        let (_dir, spool) = spool();
        let below = format!("20261121/RADAR/URP/XSS/{RADAR}20261121020000");
        put(&spool, &below, "bytes");
        let product = Product {
            at: "2026-11-21T02:00:00Z".parse().unwrap(),
            path: below.clone().into_bytes(),
            bytes: 5,
        };
        let (now, later) = (
            "2026-11-21T20:59:59Z".parse().unwrap(),
            "2026-11-21T21:00:00Z".parse().unwrap(),
        );
        let mut first = Resender::open(&spool, "dd", 0).unwrap();
        assert_eq!(first.resend(&product, now).unwrap(), Queued::New);
        assert_eq!(first.resend(&product, now).unwrap(), Queued::There);
        first.sync().unwrap();
        let mut second = Resender::open(&spool, "dd", 0).unwrap();
        assert_eq!(second.resend(&product, later).unwrap(), Queued::There);
        let link = spool.join(format!("txq/dd/0/2026112120/{RADAR}20261121020000"));
        assert_eq!(fs::metadata(&link).unwrap().nlink(), 2);
        assert_eq!(second.directory(later), spool.join("txq/dd/0/2026112121"));
        // Another file of that name is left alone.
        fs::remove_file(&link).unwrap();
        fs::write(&link, "other").unwrap();
        let error = second.resend(&product, now).unwrap_err();
        assert!(error.what.ends_with("another file has that name there"), "{error}");
        assert_eq!(fs::read(&link).unwrap(), b"other");
        fs::remove_file(spool.join("db").join(below)).unwrap();
        assert_eq!(second.resend(&product, later).unwrap(), Queued::Gone);
    }
}
