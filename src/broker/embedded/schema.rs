//! The file: opening it, telling a foreign one, making the tables.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags};
use rustix::fs::FlockOperation;

use super::reason::Reason;

/// Tells our files from other SQLite files: "pxbr".
const APPLICATION_ID: i32 = 0x7078_6272;
/// The layout below.
const VERSION: i32 = 1;
/// Prepared statements kept; all of ours fit.
const STATEMENTS_MAX: usize = 64;
/// The first pause when another process is writing, and the longest.
const PAUSE_FIRST: Duration = Duration::from_micros(100);
const PAUSE_LONGEST: Duration = Duration::from_millis(1);
/// The file in the companion directory that is locked while a process opens the broker.
pub(super) const OPENING: &str = "opening";

/// `messages.state`: may be claimed.
pub(super) const READY: i64 = 0;
/// `messages.state`: belongs to a consumer.
pub(super) const CLAIMED: i64 = 1;
/// `messages.state`: ready again when `due_ms` has come.
pub(super) const DELAYED: i64 = 2;

const TABLES: &str = "
    CREATE TABLE meta (name TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID;
    INSERT INTO meta VALUES ('topology', 1), ('boot', '');

    -- Every live connection. Its NAME.lock is locked as long as it lives.
    CREATE TABLE owners (name TEXT PRIMARY KEY, label TEXT NOT NULL, since_ms INTEGER NOT NULL) WITHOUT ROWID;

    CREATE TABLE exchanges (
        name TEXT PRIMARY KEY, kind TEXT NOT NULL, durable INTEGER NOT NULL, auto_delete INTEGER NOT NULL
    ) WITHOUT ROWID;
    INSERT INTO exchanges VALUES
        ('amq.direct', 'direct', 1, 0), ('amq.fanout', 'fanout', 1, 0), ('amq.topic', 'topic', 1, 0);

    -- Ids are never used twice, so that nobody takes a queue that was made again for the one it knew.
    CREATE TABLE queues (
        id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, durable INTEGER NOT NULL,
        exclusive TEXT, auto_delete INTEGER NOT NULL, expires_ms INTEGER, message_ttl_ms INTEGER,
        dead_letter_exchange TEXT, role TEXT, used_ms INTEGER NOT NULL
    );
    CREATE TABLE bindings (
        exchange TEXT NOT NULL, key TEXT NOT NULL, queue INTEGER NOT NULL, PRIMARY KEY (exchange, key, queue)
    ) WITHOUT ROWID;
    CREATE INDEX bindings_of_queue ON bindings (queue);

    -- An inactive consumer gets nothing more but may still settle what it has.
    CREATE TABLE consumers (
        id INTEGER PRIMARY KEY AUTOINCREMENT, queue INTEGER NOT NULL, owner TEXT NOT NULL,
        prefetch INTEGER NOT NULL, unsettled INTEGER NOT NULL DEFAULT 0, turn INTEGER NOT NULL DEFAULT 0,
        active INTEGER NOT NULL DEFAULT 1
    );

    -- One content may lie in several queues; it goes with its last message.
    CREATE TABLE contents (id INTEGER PRIMARY KEY, key TEXT NOT NULL, properties BLOB NOT NULL, body BLOB NOT NULL);
    CREATE TABLE messages (
        id INTEGER PRIMARY KEY AUTOINCREMENT, queue INTEGER NOT NULL, content INTEGER NOT NULL,
        state INTEGER NOT NULL DEFAULT 0, redelivered INTEGER NOT NULL DEFAULT 0,
        consumer INTEGER, due_ms INTEGER, expires_ms INTEGER
    );
    CREATE INDEX messages_of_queue ON messages (queue, state);
    CREATE INDEX messages_of_content ON messages (content);
    CREATE INDEX messages_of_consumer ON messages (consumer) WHERE consumer IS NOT NULL;
    CREATE INDEX messages_delayed ON messages (due_ms) WHERE state = 2;
    CREATE INDEX messages_mortal ON messages (expires_ms) WHERE state = 0 AND expires_ms IS NOT NULL;
";

/// `PATH.d`, the directory of locks and sockets beside the file.
pub(super) fn companion(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_os_string();
    name.push(".d");
    PathBuf::from(name)
}

/// Opens the file, or makes it. Waits at most `patience` for other processes, here and in every later statement.
pub(super) fn open(path: &Path, patience: Duration) -> Result<Connection, Reason> {
    let file = |error: rusqlite::Error| Reason::file("open the file", &error);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut db = Connection::open_with_flags(path, flags).map_err(file)?;
    db.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    db.busy_handler(Some(patient(patience))).map_err(file)?;
    if db.is_readonly("main").map_err(file)? {
        return Err(Reason::own(
            "cannot write the file; it and its directory must be writable for px",
        ));
    }
    refuse_foreign(&db)?;
    let directory = companion(path);
    match std::fs::create_dir(&directory) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(Reason::os(&format!("make {}", directory.display()), error));
        }
        _ => {}
    }
    // Turning WAL on does not wait for others as statements do: one process at a time.
    let opening = lock_patiently(&directory.join(OPENING), patience)?;
    prepare(&db).map_err(file)?;
    refuse_foreign(&db)?;
    drop(opening);
    Ok(db)
}

fn patient(patience: Duration) -> impl FnMut(i32) -> bool + Send + 'static {
    let mut since = Instant::now();
    move |tries| {
        if tries == 0 {
            since = Instant::now();
        }
        let factor = u32::try_from(tries.clamp(1, 10)).unwrap_or(1);
        let pause = (PAUSE_FIRST * factor).min(PAUSE_LONGEST);
        // Uneven pauses keep two processes from missing the same gaps.
        std::thread::sleep(pause.mul_f64(0.5 + fastrand::f64()));
        since.elapsed() < patience
    }
}

fn refuse_foreign(db: &Connection) -> Result<(), Reason> {
    // One reading transaction: another process may be making the tables right now.
    let read = || -> rusqlite::Result<(i32, i32, i32)> {
        let number = |sql: &str| db.query_row(sql, [], |row| row.get(0));
        db.execute_batch("BEGIN")?;
        let tables = number("SELECT count(*) FROM sqlite_master")?;
        let found = (number("PRAGMA application_id")?, number("PRAGMA user_version")?, tables);
        db.execute_batch("COMMIT")?;
        Ok(found)
    };
    match read().map_err(|error| Reason::file("read the file", &error))? {
        (APPLICATION_ID, VERSION, _) | (0, 0, 0) => Ok(()),
        (APPLICATION_ID, other, _) => Err(Reason::own(format!(
            "the file has layout {other} and this px knows {VERSION}; use the px that wrote it or another file"
        ))),
        _ => Err(Reason::own(
            "this is an SQLite file of another program; name another file",
        )),
    }
}

fn lock_patiently(path: &Path, patience: Duration) -> Result<File, Reason> {
    let doing = || format!("lock {}", path.display());
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o644)
        .open(path)
        .map_err(|error| Reason::os(&doing(), error))?;
    let until = Instant::now() + patience;
    loop {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < until => {
                std::thread::sleep(PAUSE_LONGEST);
            }
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(Reason::endpoint(format!(
                    "cannot {}: another process has been opening the broker for {} s, it may be stopped",
                    doing(),
                    patience.as_secs()
                )));
            }
            Err(error) => return Err(Reason::os(&doing(), error)),
        }
    }
}

fn prepare(db: &Connection) -> rusqlite::Result<()> {
    let mode: String = db.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    if mode != "wal" {
        // Memory-mapped sharing is refused where the file system cannot do it.
        let protocol = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_PROTOCOL);
        return Err(rusqlite::Error::SqliteFailure(protocol, None));
    }
    db.execute_batch(
        "PRAGMA synchronous = FULL; PRAGMA cache_size = -2048; PRAGMA temp_store = MEMORY;
         PRAGMA journal_size_limit = 67108864;",
    )?;
    db.execute_batch("BEGIN IMMEDIATE")?;
    let id: i32 = db.query_row("PRAGMA application_id", [], |row| row.get(0))?;
    let made = id == APPLICATION_ID;
    if !made {
        db.execute_batch(TABLES)?;
        db.pragma_update(None, "application_id", APPLICATION_ID)?;
        db.pragma_update(None, "user_version", VERSION)?;
    }
    db.execute_batch("COMMIT")
}
