//! The failed store: what nobody can go on with, kept with its reason until an operator decides.
//!
//! One SQLite file per unit, used by the running unit and by `px failed` in other processes at once. A product is never
//! dropped: a full store is an own fault, which pauses the unit. A message that could not be read is a product like any
//! other. Rubbish, which was read and is no announcement, is sampled: the first of it is kept, the rest is counted by
//! reason.
//!
//! Every call blocks; from async code use [`off_thread`](super::off_thread).

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, named_params};

use super::sqlite::{self, Durability, Schema};
use super::{SpoolError, line};
use crate::message::{Envelope, Fault, UNREADABLE, Value};

const SCHEMA: Schema = Schema {
    name: "failed store",
    application_id: 0x7078_6661, // "pxfa"
    steps: &["
        CREATE TABLE failed(
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            queue TEXT NOT NULL,
            routing_key TEXT NOT NULL,
            reason TEXT NOT NULL,
            fault TEXT NOT NULL,
            attempts INTEGER NOT NULL,
            first_ms INTEGER NOT NULL,
            last_ms INTEGER NOT NULL,
            rubbish INTEGER NOT NULL,
            replay INTEGER NOT NULL DEFAULT 0,
            bytes INTEGER NOT NULL,
            envelope TEXT NOT NULL,
            body BLOB NOT NULL);
        CREATE INDEX failed_replay ON failed(id) WHERE replay = 1;
        CREATE TABLE totals(rubbish INTEGER PRIMARY KEY, entries INTEGER NOT NULL, bytes INTEGER NOT NULL);
        INSERT INTO totals VALUES (0, 0, 0), (1, 0, 0);
        CREATE TRIGGER failed_kept AFTER INSERT ON failed BEGIN
            UPDATE totals SET entries = entries + 1, bytes = bytes + new.bytes WHERE rubbish = new.rubbish;
        END;
        CREATE TRIGGER failed_dropped AFTER DELETE ON failed BEGIN
            UPDATE totals SET entries = entries - 1, bytes = bytes - old.bytes WHERE rubbish = old.rubbish;
        END;
        CREATE TABLE counted(
            reason TEXT PRIMARY KEY,
            count INTEGER NOT NULL,
            first_ms INTEGER NOT NULL,
            last_ms INTEGER NOT NULL);
    "],
};

/// Longest reason kept, in bytes.
const REASON_MAX: usize = 1000;
/// Longest reason rubbish is counted by; many messages differ only in what follows.
const COUNTED_REASON_MAX: usize = 120;
/// Distinct reasons rubbish is counted by; the others share one row.
const COUNTED_REASONS_MAX: i64 = 100;
const OTHER_REASONS: &str = "other reasons";

/// How much the store holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Products; reaching it is an own fault.
    pub products: u64,
    /// Bytes of products; reaching it is an own fault.
    pub product_bytes: u64,
    /// Pieces of rubbish kept as samples; more are counted only.
    pub rubbish: u64,
    /// Bytes of rubbish kept as samples.
    pub rubbish_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            products: 100_000,
            product_bytes: 1 << 30,
            rubbish: 1000,
            rubbish_bytes: 32 << 20,
        }
    }
}

/// A message that failed, and why.
#[derive(Debug, Clone, PartialEq)]
pub struct Failure {
    /// The message as it was received.
    pub envelope: Envelope,
    /// The queue or directory it came from.
    pub queue: String,
    /// What went wrong, with its causes.
    pub reason: String,
    /// Whose fault it was.
    pub fault: Fault,
    /// How often it was tried.
    pub attempts: u32,
    /// When it was first received.
    pub first: Timestamp,
    /// When it failed for the last time.
    pub last: Timestamp,
    /// It could not be decoded: one of many, sampled.
    pub is_rubbish: bool,
}

/// What [`FailedStore::keep`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// Stored under this number.
    Stored(i64),
    /// Rubbish beyond the sample: counted by its reason.
    Counted,
}

/// One line of a listing.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[allow(missing_docs)]
pub struct Listed {
    pub id: i64,
    pub queue: String,
    pub key: String,
    pub reason: String,
    pub fault: String,
    pub attempts: u32,
    #[serde(serialize_with = "as_text")]
    pub first: Timestamp,
    #[serde(serialize_with = "as_text")]
    pub last: Timestamp,
    pub rubbish: bool,
    /// A replay has been asked for.
    pub replay: bool,
    /// Bytes of the body, and of properties that could not be read.
    pub bytes: u64,
}

/// Rubbish that was counted and not kept.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[allow(missing_docs)]
pub struct Counted {
    pub reason: String,
    pub count: u64,
    #[serde(serialize_with = "as_text")]
    pub first: Timestamp,
    #[serde(serialize_with = "as_text")]
    pub last: Timestamp,
}

/// How much is in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
#[allow(missing_docs)]
pub struct Totals {
    pub products: u64,
    pub product_bytes: u64,
    pub rubbish: u64,
    pub rubbish_bytes: u64,
}

/// Which entries an operation is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Which {
    One(i64),
    All,
}

/// The failed store of one unit. Clones share one connection.
#[derive(Debug, Clone)]
pub struct FailedStore {
    db: Arc<Mutex<Connection>>,
    limits: Limits,
}

impl FailedStore {
    /// Opens or makes the store.
    pub fn open(path: &Path, limits: Limits) -> Result<FailedStore, SpoolError> {
        Ok(FailedStore {
            db: Arc::new(Mutex::new(sqlite::open(path, &SCHEMA, Durability::Power)?)),
            limits,
        })
    }

    /// Opens the store only if it is there, so that an operator's look at a unit leaves no file of the wrong owner.
    pub fn open_existing(path: &Path, limits: Limits) -> Result<Option<FailedStore>, SpoolError> {
        if path.exists() {
            FailedStore::open(path, limits).map(Some)
        } else {
            Ok(None)
        }
    }

    /// Keeps a failure. On `Ok` it is synced, and the delivery may be settled. A store that is full of products
    /// answers with `store_full` and keeps nothing.
    pub fn keep(&self, failure: &Failure) -> Result<Kept, SpoolError> {
        const DOING: &str = "cannot keep a failed message";
        let refused = |err| sqlite::classify(err, DOING);
        let text = line::without_body(&failure.envelope)?;
        let mut db = self.lock();
        let tx = sqlite::begin(&mut db, DOING)?;
        let totals = totals(&tx).map_err(refused)?;
        let bytes = bytes(&failure.envelope);
        let kept = if failure.is_rubbish
            && (totals.rubbish >= self.limits.rubbish || totals.rubbish_bytes + bytes > self.limits.rubbish_bytes)
        {
            count_rubbish(&tx, failure).map_err(refused)?;
            Kept::Counted
        } else if !failure.is_rubbish
            && (totals.products >= self.limits.products || totals.product_bytes + bytes > self.limits.product_bytes)
        {
            return Err(SpoolError::full(format!(
                "the failed store is full ({} products, {} bytes): px failed replay or drop makes room",
                totals.products, totals.product_bytes
            )));
        } else {
            Kept::Stored(insert(&tx, failure, &text).map_err(refused)?)
        };
        tx.commit().map_err(refused)?;
        Ok(kept)
    }

    /// The newest `limit` entries, newest first.
    pub fn list(&self, limit: u32) -> Result<Vec<Listed>, SpoolError> {
        self.read("cannot list the failed store", |db| {
            let mut statement = db.prepare_cached(&format!("{COLUMNS} ORDER BY id DESC LIMIT ?1"))?;
            statement.query_map([limit], listed)?.collect()
        })
    }

    /// The rubbish that was counted only, most frequent first.
    pub fn counted(&self) -> Result<Vec<Counted>, SpoolError> {
        self.read("cannot list the failed store", |db| {
            let mut statement =
                db.prepare_cached("SELECT reason, count, first_ms, last_ms FROM counted ORDER BY count DESC, reason")?;
            let row = |row: &Row<'_>| {
                Ok(Counted {
                    reason: row.get(0)?,
                    count: unsigned(row, 1)?,
                    first: time(row, 2)?,
                    last: time(row, 3)?,
                })
            };
            statement.query_map([], row)?.collect()
        })
    }

    /// One entry with its message; `None` when there is no such number.
    pub fn show(&self, id: i64) -> Result<Option<Failure>, SpoolError> {
        self.read("cannot read the failed store", |db| {
            db.query_row(&format!("{ENTRIES} WHERE id = ?1"), [id], entry)
                .optional()
        })
        .map(|found| found.map(|(_, failure)| failure))
    }

    /// Asks for a replay: the running unit takes these entries up again. Answers how many that are.
    pub fn ask_replay(&self, which: Which) -> Result<u64, SpoolError> {
        self.write("cannot ask for a replay", |tx| match which {
            Which::One(id) => tx.execute("UPDATE failed SET replay = 1 WHERE id = ?1", [id]),
            Which::All => tx.execute("UPDATE failed SET replay = 1 WHERE replay = 0", []),
        })
    }

    /// The oldest `limit` entries a replay was asked for. They stay until they are dropped: first the outputs, then
    /// [`FailedStore::drop_entries`]; or [`FailedStore::failed_again`].
    pub fn replays(&self, limit: u32) -> Result<Vec<(i64, Failure)>, SpoolError> {
        self.read("cannot read the failed store", |db| {
            let mut statement = db.prepare_cached(&format!("{ENTRIES} WHERE replay = 1 ORDER BY id LIMIT ?1"))?;
            statement.query_map([limit], entry)?.collect()
        })
    }

    /// A replay has failed: the entry stays, with its new reason and one attempt more.
    pub fn failed_again(&self, id: i64, reason: &str, fault: Fault, now: Timestamp) -> Result<(), SpoolError> {
        let reason = cut(reason, REASON_MAX);
        self.write("cannot keep a failed message", |tx| {
            tx.execute(
                "UPDATE failed SET replay = 0, attempts = attempts + 1, reason = ?2, fault = ?3, last_ms = ?4
                 WHERE id = ?1",
                (id, reason, fault_name(fault), now.as_millisecond()),
            )
        })
        .map(|_| ())
    }

    /// Drops entries for good, and with [`Which::All`] the counted rubbish too. Answers how many entries that were.
    pub fn drop_entries(&self, which: Which) -> Result<u64, SpoolError> {
        self.write("cannot drop from the failed store", |tx| match which {
            Which::One(id) => tx.execute("DELETE FROM failed WHERE id = ?1", [id]),
            Which::All => {
                tx.execute("DELETE FROM counted", [])?;
                // With a WHERE, so that the triggers run for every row.
                tx.execute("DELETE FROM failed WHERE id > 0", [])
            }
        })
    }

    /// How much is in the store.
    pub fn totals(&self) -> Result<Totals, SpoolError> {
        self.read("cannot read the failed store", totals)
    }

    /// A transaction that a panic broke off has been rolled back: the connection is usable.
    fn lock(&self) -> MutexGuard<'_, Connection> {
        self.db.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read<T>(
        &self,
        doing: &str,
        query: impl FnOnce(&Connection) -> Result<T, rusqlite::Error>,
    ) -> Result<T, SpoolError> {
        query(&self.lock()).map_err(|err| sqlite::classify(err, doing))
    }

    fn write(
        &self,
        doing: &str,
        change: impl FnOnce(&Connection) -> Result<usize, rusqlite::Error>,
    ) -> Result<u64, SpoolError> {
        let mut db = self.lock();
        let tx = sqlite::begin(&mut db, doing)?;
        let changed = change(&tx).map_err(|err| sqlite::classify(err, doing))?;
        tx.commit().map_err(|err| sqlite::classify(err, doing))?;
        Ok(changed as u64)
    }
}

const COLUMNS: &str =
    "SELECT id, queue, routing_key, reason, fault, attempts, first_ms, last_ms, rubbish, replay, bytes
    FROM failed";
const ENTRIES: &str =
    "SELECT id, queue, routing_key, reason, fault, attempts, first_ms, last_ms, rubbish, replay, bytes,
    envelope, body FROM failed";

/// `text`: the envelope, its body aside.
fn insert(tx: &Connection, failure: &Failure, text: &str) -> Result<i64, rusqlite::Error> {
    let mut statement = tx.prepare_cached(
        "INSERT INTO failed(queue, routing_key, reason, fault, attempts, first_ms, last_ms, rubbish, bytes, envelope,
             body)
         VALUES (:queue, :key, :reason, :fault, :attempts, :first, :last, :rubbish, :bytes, :envelope, :body)",
    )?;
    statement.insert(named_params! {
        ":queue": failure.queue,
        ":key": failure.envelope.key,
        ":reason": cut(&failure.reason, REASON_MAX),
        ":fault": fault_name(failure.fault),
        ":attempts": failure.attempts,
        ":first": failure.first.as_millisecond(),
        ":last": failure.last.as_millisecond(),
        ":rubbish": failure.is_rubbish,
        ":bytes": bytes(&failure.envelope) as i64,
        ":envelope": text,
        ":body": failure.envelope.body,
    })
}

fn count_rubbish(tx: &Connection, failure: &Failure) -> Result<(), rusqlite::Error> {
    let mut reason = cut(&failure.reason, COUNTED_REASON_MAX);
    let is_known: bool = tx.query_row("SELECT count(*) FROM counted WHERE reason = ?1", [reason], |row| {
        row.get(0)
    })?;
    let reasons: i64 = tx.query_row("SELECT count(*) FROM counted", [], |row| row.get(0))?;
    if !is_known && reasons >= COUNTED_REASONS_MAX {
        reason = OTHER_REASONS;
    }
    tx.execute(
        "INSERT INTO counted VALUES (?1, 1, ?2, ?2)
         ON CONFLICT(reason) DO UPDATE SET count = count + 1, last_ms = excluded.last_ms",
        (reason, failure.last.as_millisecond()),
    )?;
    Ok(())
}

fn totals(db: &Connection) -> Result<Totals, rusqlite::Error> {
    let mut statement = db.prepare_cached("SELECT entries, bytes FROM totals WHERE rubbish = ?1")?;
    let (products, product_bytes) = statement.query_row([0], |row| Ok((unsigned(row, 0)?, unsigned(row, 1)?)))?;
    let (rubbish, rubbish_bytes) = statement.query_row([1], |row| Ok((unsigned(row, 0)?, unsigned(row, 1)?)))?;
    Ok(Totals {
        products,
        product_bytes,
        rubbish,
        rubbish_bytes,
    })
}

fn listed(row: &Row<'_>) -> Result<Listed, rusqlite::Error> {
    Ok(Listed {
        id: row.get(0)?,
        queue: row.get(1)?,
        key: row.get(2)?,
        reason: row.get(3)?,
        fault: row.get(4)?,
        attempts: row.get(5)?,
        first: time(row, 6)?,
        last: time(row, 7)?,
        rubbish: row.get(8)?,
        replay: row.get(9)?,
        bytes: unsigned(row, 10)?,
    })
}

fn entry(row: &Row<'_>) -> Result<(i64, Failure), rusqlite::Error> {
    let listed = listed(row)?;
    let text: String = row.get(11)?;
    let mut envelope = line::read_envelope(&text).map_err(|err| unreadable(11, err))?;
    envelope.body = row.get(12)?;
    let failure = Failure {
        envelope,
        queue: listed.queue,
        reason: listed.reason,
        fault: fault_of(&listed.fault),
        attempts: listed.attempts,
        first: listed.first,
        last: listed.last,
        is_rubbish: listed.rubbish,
    };
    Ok((listed.id, failure))
}

/// What counts for the limits: properties that could not be read may be long.
fn bytes(envelope: &Envelope) -> u64 {
    let unread = match envelope.headers.get(UNREADABLE) {
        Some(Value::Table(mark)) => mark.values().map(|value| match value {
            Value::Bytes(bytes) => bytes.len(),
            _ => 0,
        }),
        _ => return envelope.body.len() as u64,
    };
    (envelope.body.len() + unread.sum::<usize>()) as u64
}

/// RFC 3339, as everywhere in px's JSON.
fn as_text<S: serde::Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(time)
}

fn fault_name(fault: Fault) -> &'static str {
    match fault {
        Fault::Message => "message",
        Fault::Endpoint => "endpoint",
        Fault::Own => "own",
    }
}

fn fault_of(name: &str) -> Fault {
    match name {
        "endpoint" => Fault::Endpoint,
        "own" => Fault::Own,
        _ => Fault::Message,
    }
}

fn cut(text: &str, bytes_max: usize) -> &str {
    let mut end = text.len().min(bytes_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

fn time(row: &Row<'_>, column: usize) -> Result<Timestamp, rusqlite::Error> {
    Timestamp::from_millisecond(row.get(column)?).map_err(|err| unreadable(column, err))
}

/// SQLite counts in i64; what is stored here is never negative.
fn unsigned(row: &Row<'_>, column: usize) -> Result<u64, rusqlite::Error> {
    Ok(row.get::<_, i64>(column)?.max(0).unsigned_abs())
}

fn unreadable(column: usize, err: impl std::error::Error + Send + Sync + 'static) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, Box::new(err))
}

#[cfg(test)]
mod tests;
