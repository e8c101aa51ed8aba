//! What of each watched tree is announced: path, inode, mtime in nanoseconds and size of every such file.
//!
//! One SQLite file per unit. A row is a settled input: it is written once the announcements of that very version are
//! confirmed, and a file whose version has no row is announced. Rows are committed in batches and need no sync, for a
//! row that a power cut takes only repeats an announcement; the record of what was there before the very first start
//! is synced, for nothing could tell that again.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rusqlite::{CachedStatement, Connection, OptionalExtension, Row as SqlRow, params};
use rustix::fs::Stat;

use super::SpoolError;
use super::sqlite::{self, Durability, Schema};

mod recorder;

pub use recorder::{Record, Recorder};

const SCHEMA: Schema = Schema {
    name: "inventory",
    application_id: 0x7078_1001,
    steps: &["CREATE TABLE tree(
            id INTEGER PRIMARY KEY, path BLOB NOT NULL UNIQUE, root_inode INTEGER,
            marker_ns INTEGER, marker_inode INTEGER, baseline_done INTEGER NOT NULL DEFAULT 0);
        CREATE TABLE file(
            tree INTEGER NOT NULL, path BLOB NOT NULL, inode INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
            size INTEGER NOT NULL, digest TEXT, recorded_at_ns INTEGER NOT NULL,
            PRIMARY KEY(tree, path)) WITHOUT ROWID;"],
};

const PUT: &str = "INSERT OR REPLACE INTO file VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";

/// One state of a file at one path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Version {
    pub inode: u64,
    pub mtime_ns: i64,
    pub size: u64,
}

impl Version {
    /// The version that this status shows.
    pub fn of(stat: &Stat) -> Self {
        Version {
            inode: stat.st_ino,
            mtime_ns: nanoseconds(stat.st_mtime, stat.st_mtime_nsec),
            size: u64::try_from(stat.st_size).unwrap_or(0),
        }
    }
}

/// Nanoseconds since 1970, good until 2262.
pub(super) fn nanoseconds(seconds: i64, fraction: impl TryInto<i64>) -> i64 {
    let fraction = fraction.try_into().unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(fraction)
}

/// What is known of an announced file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// What was announced.
    pub version: Version,
    /// Digest of its content in hex, kept only where the stamps were so young that other content may bear the same.
    pub digest: Option<String>,
    /// When its content was read.
    pub recorded_at_ns: i64,
}

/// The moment before a tree's first start. Files that were last changed not later than that are not announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marker {
    /// By the clock that stamps the tree's files.
    pub ctime_ns: i64,
    /// The root at that moment; none where it was missing.
    pub root_inode: Option<u64>,
}

/// How far the record of what was there before the first start has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Baseline {
    /// The tree was never watched.
    None,
    /// Begun, perhaps in an earlier life of the unit.
    Begun(Marker),
    /// Complete.
    Done,
}

/// One tree's rows, on a connection of their own. Everything here blocks.
pub struct Rows {
    db: Connection,
    tree: i64,
    root: PathBuf,
}

impl Rows {
    /// Opens or makes the inventory and the tree's place in it.
    pub fn open(inventory: &Path, root: &Path) -> Result<Self, SpoolError> {
        let db = sqlite::open(inventory, &SCHEMA, Durability::Crash)?;
        let doing = format!("cannot read the inventory of {}", root.display());
        let name = root.as_os_str().as_bytes();
        db.execute("INSERT OR IGNORE INTO tree(path) VALUES (?1)", [name])
            .map_err(|err| sqlite::classify(err, &doing))?;
        let tree = db
            .query_row("SELECT id FROM tree WHERE path = ?1", [name], |row| row.get(0))
            .map_err(|err| sqlite::classify(err, &doing))?;
        Ok(Rows {
            db,
            tree,
            root: root.to_owned(),
        })
    }

    /// The tree's number, for [`Recorder::record`].
    pub fn tree(&self) -> i64 {
        self.tree
    }

    /// The row of one file.
    pub fn get(&self, path: &[u8]) -> Result<Option<Row>, SpoolError> {
        let sql = "SELECT inode, mtime_ns, size, digest, recorded_at_ns FROM file WHERE tree = ?1 AND path = ?2";
        self.prepared(sql)
            .and_then(|mut get| {
                get.query_row(params![self.tree, path], |row| read_row(row, 0))
                    .optional()
            })
            .map_err(|err| self.refused(err))
    }

    /// Up to `limit` rows after a path, in the order of their bytes; from the first without one.
    pub fn page(&self, after: Option<&[u8]>, limit: usize) -> Result<Vec<(Vec<u8>, Row)>, SpoolError> {
        let sql = "SELECT path, inode, mtime_ns, size, digest, recorded_at_ns FROM file
            WHERE tree = ?1 AND (?2 IS NULL OR path > ?2) ORDER BY path LIMIT ?3";
        let read = || {
            let mut page = self.prepared(sql)?;
            let rows = page.query_map(params![self.tree, after, limit as i64], |row| {
                Ok((row.get(0)?, read_row(row, 1)?))
            })?;
            rows.collect::<Result<Vec<_>, rusqlite::Error>>()
        };
        read().map_err(|err| self.refused(err))
    }

    /// Whether no file of the tree is known.
    pub fn is_empty(&self) -> Result<bool, SpoolError> {
        self.page(None, 1).map(|rows| rows.is_empty())
    }

    /// Writes many rows in one commit.
    pub fn put(&mut self, rows: &[(Vec<u8>, Row)]) -> Result<(), SpoolError> {
        let tree = self.tree;
        self.write(|db| {
            let mut put = db.prepare_cached(PUT)?;
            rows.iter()
                .try_for_each(|(path, row)| put_row(&mut put, tree, path, row))
        })
    }

    /// Removes files that are gone, unless they were recorded anew in the meantime.
    pub fn forget(&mut self, gone: &[(Vec<u8>, Version)]) -> Result<(), SpoolError> {
        let tree = self.tree;
        self.write(|db| {
            let sql = "DELETE FROM file WHERE tree = ?1 AND path = ?2 AND inode = ?3 AND mtime_ns = ?4 AND size = ?5";
            let mut forget = db.prepare_cached(sql)?;
            gone.iter().try_for_each(|(path, version)| {
                let Version { inode, mtime_ns, size } = *version;
                forget
                    .execute(params![tree, path, inode as i64, mtime_ns, size as i64])
                    .map(drop)
            })
        })
    }

    /// How far the record of what was there before has come.
    pub fn baseline(&self) -> Result<Baseline, SpoolError> {
        let sql = "SELECT baseline_done, marker_ns, marker_inode FROM tree WHERE id = ?1";
        let baseline = self.db.query_row(sql, [self.tree], |row| {
            let marker: Option<i64> = row.get(1)?;
            let inode: Option<i64> = row.get(2)?;
            Ok(match (row.get::<_, bool>(0)?, marker) {
                (true, _) => Baseline::Done,
                (false, None) => Baseline::None,
                (false, Some(ctime_ns)) => Baseline::Begun(Marker {
                    ctime_ns,
                    root_inode: inode.map(|inode| inode as u64),
                }),
            })
        });
        baseline.map_err(|err| self.refused(err))
    }

    /// Keeps the moment before the first start; safe from a power cut when it returns.
    pub fn begin_baseline(&mut self, marker: Marker) -> Result<(), SpoolError> {
        let inode = marker.root_inode.map(|inode| inode as i64);
        let tree = self.tree;
        self.write_synced(|db| {
            let sql = "UPDATE tree SET marker_ns = ?2, marker_inode = ?3 WHERE id = ?1";
            db.execute(sql, params![tree, marker.ctime_ns, inode]).map(drop)
        })
    }

    /// What was there before is completely recorded; safe from a power cut when it returns, with every row.
    pub fn finish_baseline(&mut self) -> Result<(), SpoolError> {
        let tree = self.tree;
        self.write_synced(|db| {
            db.execute("UPDATE tree SET baseline_done = 1 WHERE id = ?1", [tree])
                .map(drop)
        })
    }

    /// The inode of the tree's root when it was last seen.
    pub fn root_inode(&self) -> Result<Option<u64>, SpoolError> {
        let inode: Result<Option<i64>, _> =
            self.db
                .query_row("SELECT root_inode FROM tree WHERE id = ?1", [self.tree], |row| {
                    row.get(0)
                });
        inode
            .map(|inode| inode.map(|inode| inode as u64))
            .map_err(|err| self.refused(err))
    }

    /// Keeps the inode of the tree's root.
    pub fn set_root_inode(&mut self, inode: u64) -> Result<(), SpoolError> {
        let tree = self.tree;
        self.write(|db| {
            db.execute(
                "UPDATE tree SET root_inode = ?2 WHERE id = ?1",
                params![tree, inode as i64],
            )
            .map(drop)
        })
    }

    fn write(&mut self, work: impl FnOnce(&Connection) -> rusqlite::Result<()>) -> Result<(), SpoolError> {
        let doing = self.doing();
        let tx = sqlite::begin(&mut self.db, &doing)?;
        work(&tx)
            .and_then(|()| tx.commit())
            .map_err(|err| sqlite::classify(err, &doing))
    }

    fn write_synced(&mut self, work: impl FnOnce(&Connection) -> rusqlite::Result<()>) -> Result<(), SpoolError> {
        let sync = |db: &Connection, how: &str| db.pragma_update(None, "synchronous", how);
        sync(&self.db, "FULL").map_err(|err| self.refused(err))?;
        let written = self.write(work);
        sync(&self.db, "NORMAL").map_err(|err| self.refused(err))?;
        written
    }

    fn prepared(&self, sql: &str) -> rusqlite::Result<CachedStatement<'_>> {
        self.db.prepare_cached(sql)
    }

    fn refused(&self, err: rusqlite::Error) -> SpoolError {
        sqlite::classify(err, &self.doing())
    }

    fn doing(&self) -> String {
        format!("cannot use the inventory of {}", self.root.display())
    }
}

fn read_row(row: &SqlRow<'_>, first: usize) -> rusqlite::Result<Row> {
    Ok(Row {
        version: Version {
            inode: row.get::<_, i64>(first)? as u64,
            mtime_ns: row.get(first + 1)?,
            size: row.get::<_, i64>(first + 2)? as u64,
        },
        digest: row.get(first + 3)?,
        recorded_at_ns: row.get(first + 4)?,
    })
}

fn put_row(put: &mut CachedStatement<'_>, tree: i64, path: &[u8], row: &Row) -> rusqlite::Result<()> {
    let Version { inode, mtime_ns, size } = row.version;
    let inode = inode as i64;
    put.execute(params![
        tree,
        path,
        inode,
        mtime_ns,
        size as i64,
        row.digest,
        row.recorded_at_ns
    ])
    .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(mtime_ns: i64) -> Row {
        let version = Version {
            inode: u64::MAX,
            mtime_ns,
            size: 3,
        };
        Row {
            version,
            digest: None,
            recorded_at_ns: 1,
        }
    }

    fn rows(dir: &tempfile::TempDir, root: &str) -> Rows {
        Rows::open(&dir.path().join("inventory.db"), Path::new(root)).unwrap()
    }

    #[test]
    fn each_tree_has_its_own_rows_in_the_order_of_their_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let (mut one, mut two) = (rows(&dir, "/one"), rows(&dir, "/two"));
        let paths: [&[u8]; 4] = [b"a.b", b"a/b", b"\xff", b"a"];
        one.put(&paths.map(|path| (path.to_vec(), row(7)))).unwrap();
        two.put(&[(b"a".to_vec(), row(8))]).unwrap();
        assert_eq!(one.get(b"a").unwrap(), Some(row(7)));
        assert_eq!(two.get(b"a").unwrap(), Some(row(8)));
        let first = one.page(None, 3).unwrap();
        let order: Vec<&[u8]> = first.iter().map(|(path, _)| path.as_slice()).collect();
        assert_eq!(order, [&b"a"[..], b"a.b", b"a/b"]);
        assert_eq!(one.page(Some(b"a/b"), 3).unwrap(), [(b"\xff".to_vec(), row(7))]);
        assert!(rows(&dir, "/three").is_empty().unwrap() && !rows(&dir, "/two").is_empty().unwrap());
    }

    #[test]
    fn a_row_that_was_renewed_is_not_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let mut tree = rows(&dir, "/t");
        tree.put(&[(b"a".to_vec(), row(2)), (b"b".to_vec(), row(1))]).unwrap();
        let gone = [(b"a".to_vec(), row(1).version), (b"b".to_vec(), row(1).version)];
        tree.forget(&gone).unwrap();
        assert!(tree.get(b"a").unwrap().is_some() && tree.get(b"b").unwrap().is_none());
    }

    #[test]
    fn the_baseline_keeps_its_first_marker_until_it_is_done() {
        let dir = tempfile::tempdir().unwrap();
        let marker = Marker {
            ctime_ns: 5,
            root_inode: Some(9),
        };
        assert_eq!(rows(&dir, "/t").baseline().unwrap(), Baseline::None);
        rows(&dir, "/t").begin_baseline(marker).unwrap();
        assert_eq!(rows(&dir, "/t").baseline().unwrap(), Baseline::Begun(marker));
        rows(&dir, "/t").finish_baseline().unwrap();
        assert_eq!(rows(&dir, "/t").baseline().unwrap(), Baseline::Done);
        rows(&dir, "/t").set_root_inode(9).unwrap();
        assert_eq!(rows(&dir, "/t").root_inode().unwrap(), Some(9));
    }
}
