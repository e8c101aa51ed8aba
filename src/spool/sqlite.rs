//! Opening a SQLite file the way every px store does: WAL, synced commits, several processes, little memory.
//!
//! A `Connection` blocks: it belongs on a thread of its own or in `spawn_blocking`, never on an async worker.

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior};

use super::{SpoolError, make_directory};

/// How long a writer waits for another process's transaction.
pub const BUSY_TIMEOUT: Duration = Duration::from_secs(30);
/// Page cache of one connection, in KiB. The stores are written, rarely read: a large one only costs memory.
const CACHE_KIB: i64 = 512;
/// Pages in the write-ahead log before it is copied back.
const CHECKPOINT_PAGES: i64 = 256;
/// The write-ahead log is cut back to this after a burst.
const WAL_BYTES: i64 = 4 << 20;

/// When a commit returns, what it survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// A power cut: every commit is synced.
    Power,
    /// `kill -9`: written, not synced.
    Crash,
}

/// The tables of one kind of store, and how older ones are brought up to date.
#[derive(Debug, Clone, Copy)]
pub struct Schema {
    /// For messages: "failed store", "inventory".
    pub name: &'static str,
    /// Marks the file as this kind of store (`PRAGMA application_id`); not zero.
    pub application_id: i32,
    /// SQL that leads from version n to n + 1. A step that was released never changes; new ones are appended.
    pub steps: &'static [&'static str],
}

/// Opens or makes the store at `path`. Refuses a file of another kind or of a newer px, and says so. Blocks for up to
/// [`BUSY_TIMEOUT`] while another process makes the same file.
pub fn open(path: &Path, schema: &Schema, durability: Durability) -> Result<Connection, SpoolError> {
    if let Some(parent) = path.parent() {
        make_directory(parent)?;
    }
    let refused = |err| classify(err, &format!("cannot open the {} {}", schema.name, path.display()));
    let mut db = Connection::open(path).map_err(refused)?;
    db.busy_timeout(BUSY_TIMEOUT).map_err(refused)?;
    set_wal(&db).map_err(refused)?;
    db.pragma_update(None, "synchronous", synchronous(durability))
        .map_err(refused)?;
    db.pragma_update(None, "cache_size", -CACHE_KIB).map_err(refused)?;
    db.pragma_update(None, "temp_store", "MEMORY").map_err(refused)?;
    db.pragma_update_and_check(None, "wal_autocheckpoint", CHECKPOINT_PAGES, |_| Ok(()))
        .map_err(refused)?;
    db.pragma_update_and_check(None, "journal_size_limit", WAL_BYTES, |_| Ok(()))
        .map_err(refused)?;
    migrate(&mut db, path, schema)?;
    Ok(db)
}

/// Begins a transaction that holds the write lock from its start: one that reads first and writes later can be refused
/// without waiting for the other writer.
pub fn begin<'db>(db: &'db mut Connection, doing: &str) -> Result<Transaction<'db>, SpoolError> {
    db.transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(|err| classify(err, doing))
}

/// Every SQLite error is this host's: disk full, read-only, damaged file, a lock held for too long.
pub fn classify(err: rusqlite::Error, doing: &str) -> SpoolError {
    let hint = match err.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => ": the disk is full",
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => ": the file is damaged; move it away to go on",
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => ": another process holds it",
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::CannotOpen) => {
            ": check the rights of the file and its directory"
        }
        _ => "",
    };
    SpoolError::own(format!("{doing}{hint}"), err)
}

fn synchronous(durability: Durability) -> &'static str {
    match durability {
        Durability::Power => "FULL",
        Durability::Crash => "NORMAL",
    }
}

/// The switch to WAL needs the file alone, and SQLite does not always wait for that by itself.
fn set_wal(db: &Connection) -> Result<(), rusqlite::Error> {
    let deadline = Instant::now() + BUSY_TIMEOUT;
    loop {
        match db.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(())) {
            Err(err) if is_busy(&err) && Instant::now() < deadline => std::thread::sleep(Duration::from_millis(5)),
            other => return other,
        }
    }
}

fn is_busy(err: &rusqlite::Error) -> bool {
    matches!(
        err.sqlite_error_code(),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)
    )
}

fn migrate(db: &mut Connection, path: &Path, schema: &Schema) -> Result<(), SpoolError> {
    let doing = format!("cannot prepare the {} {}", schema.name, path.display());
    let refused = |err| classify(err, &doing);
    if (kind_of(db).map_err(refused)?, version_of(db).map_err(refused)?) == (schema.application_id, schema.steps.len())
    {
        return Ok(()); // the usual case takes no write lock
    }
    let tx = begin(db, &doing)?;
    let (kind, version) = (kind_of(&tx).map_err(refused)?, version_of(&tx).map_err(refused)?);
    let is_new = kind == 0 && version == 0;
    if !is_new && kind != schema.application_id {
        return Err(SpoolError::unusable(format!(
            "{} is not a px {}",
            path.display(),
            schema.name
        )));
    }
    let Some(missing) = schema.steps.get(version..) else {
        return Err(SpoolError::unusable(format!(
            "{} was written by a newer px (version {version}, this px knows {}): install that px or move the file away",
            path.display(),
            schema.steps.len()
        )));
    };
    for step in missing {
        tx.execute_batch(step).map_err(refused)?;
    }
    tx.pragma_update(None, "application_id", schema.application_id)
        .map_err(refused)?;
    tx.pragma_update(None, "user_version", schema.steps.len() as i64)
        .map_err(refused)?;
    tx.commit().map_err(refused)
}

fn kind_of(db: &Connection) -> Result<i32, rusqlite::Error> {
    db.pragma_query_value(None, "application_id", |row| row.get(0))
}

fn version_of(db: &Connection) -> Result<usize, rusqlite::Error> {
    let version: i64 = db.pragma_query_value(None, "user_version", |row| row.get(0))?;
    Ok(usize::try_from(version).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Schema = Schema {
        name: "test store",
        application_id: 0x7078_0001,
        steps: &["CREATE TABLE a(x INTEGER)"],
    };
    const TWO: Schema = Schema {
        steps: &["CREATE TABLE a(x INTEGER)", "CREATE TABLE b(y INTEGER)"],
        ..ONE
    };

    #[test]
    fn a_store_is_made_with_its_directories_and_brought_up_to_date() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state/unit/test.db");
        open(&path, &ONE, Durability::Power)
            .unwrap()
            .execute("INSERT INTO a VALUES (7)", [])
            .unwrap();
        let db = open(&path, &TWO, Durability::Power).unwrap();
        let kept: i64 = db.query_row("SELECT x FROM a", [], |row| row.get(0)).unwrap();
        assert_eq!(kept, 7);
        db.execute("INSERT INTO b VALUES (1)", []).unwrap();
        let mode: String = db.pragma_query_value(None, "journal_mode", |row| row.get(0)).unwrap();
        assert_eq!(mode, "wal");
    }

    #[test]
    fn a_file_of_a_newer_px_or_of_another_kind_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("test.db");
        open(&path, &TWO, Durability::Power).unwrap();
        let err = open(&path, &ONE, Durability::Power).unwrap_err();
        assert!(err.what.contains("newer px"), "{}", err.what);
        let other = Schema {
            application_id: 5,
            ..TWO
        };
        assert!(
            open(&path, &other, Durability::Power)
                .unwrap_err()
                .what
                .contains("is not a px test store")
        );
        std::fs::write(
            dir.path().join("text"),
            "not a database, but long enough to be looked at".repeat(20),
        )
        .unwrap();
        let err = open(&dir.path().join("text"), &ONE, Durability::Power).unwrap_err();
        assert!(err.what.contains("damaged"), "{}", err.what);
    }

    #[test]
    fn many_openers_of_a_new_file_all_succeed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("test.db");
        std::thread::scope(|scope| {
            let openers: Vec<_> = (0..8)
                .map(|n| {
                    let path = &path;
                    scope.spawn(move || {
                        let mut db = open(path, &TWO, Durability::Power).unwrap();
                        let tx = begin(&mut db, "insert").unwrap();
                        tx.execute("INSERT INTO a VALUES (?1)", [n]).unwrap();
                        tx.commit().unwrap();
                    })
                })
                .collect();
            for opener in openers {
                opener.join().unwrap();
            }
        });
        let db = open(&path, &TWO, Durability::Power).unwrap();
        let rows: i64 = db.query_row("SELECT count(*) FROM a", [], |row| row.get(0)).unwrap();
        assert_eq!(rows, 8);
    }
}
