//! The outbox: messages that are promised, kept until a broker has confirmed them.
//!
//! Whoever does something that has to be announced commits the announcement here, in order, and is done; it is
//! published when the broker is there. The table is this, and a program other than px may insert into it:
//!
//! ```sql
//! CREATE TABLE outbox(
//!     id INTEGER PRIMARY KEY AUTOINCREMENT,    -- the order in which messages go out
//!     exchange TEXT NOT NULL,
//!     routing_key TEXT NOT NULL,
//!     properties TEXT NOT NULL DEFAULT '{}',   -- JSON
//!     body BLOB NOT NULL)
//! ```
//!
//! `properties` are `content_type`, `timestamp` and the like, and `headers`, whose texts, numbers and truth values are
//! JSON's own: `{"content_type": "text/plain", "headers": {"filename": "a.b++c:URP:XSS:RADAR:GIF:"}}`. Header types
//! that JSON does not know are spelled out, `{"I32": 5}`. Not valid: `{"Headers": {}}`, for no other property is known.
//!
//! What others insert goes out within seconds. A row that cannot be read goes to the failed store.
//!
//! Every commit is synced. One thread owns the connection; what several callers ask for at once is one commit. Nothing
//! is ever dropped: a full outbox refuses. The file shrinks when a backlog is gone.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;

use rusqlite::{Connection, Transaction, params};
use serde_json::{Map, Value as Json};
use tokio::sync::oneshot;

use super::sqlite::{self, Durability, Schema};
use super::{SpoolError, with_plain_headers};
use crate::message::{Envelope, Headers, Value};

const SCHEMA: Schema = Schema {
    name: "outbox",
    application_id: 0x7078_6f62, // "pxob"
    steps: &["
        CREATE TABLE outbox(
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            exchange TEXT NOT NULL,
            routing_key TEXT NOT NULL,
            properties TEXT NOT NULL DEFAULT '{}',
            body BLOB NOT NULL);
        CREATE TABLE totals(one INTEGER PRIMARY KEY CHECK (one = 1), messages INTEGER NOT NULL, bytes INTEGER NOT NULL);
        INSERT INTO totals VALUES (1, 0, 0);
        CREATE TRIGGER posted AFTER INSERT ON outbox BEGIN
            UPDATE totals SET messages = messages + 1,
                bytes = bytes + length(new.routing_key) + length(new.properties) + length(new.body);
        END;
        CREATE TRIGGER removed AFTER DELETE ON outbox BEGIN
            UPDATE totals SET messages = messages - 1,
                bytes = bytes - length(old.routing_key) - length(old.properties) - length(old.body);
        END;
    "],
};

/// Requests in one commit.
const GROUP_MAX: usize = 512;
/// Bytes of messages that one [`Outbox::take`] gives, or one larger message.
const TAKEN_BYTES_MAX: usize = 4 << 20;
/// Characters of properties that are shown where they cannot be read.
const SHOWN_MAX: usize = 500;
/// The file is made smaller when so many pages of it are free, and so few messages would have to be copied.
const FREE_PAGES_MAX: i64 = 1024;
const COPIED_MAX: u64 = 100;

/// How much an outbox holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Messages.
    pub messages: u64,
    /// About so many bytes of them.
    pub bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            messages: 1_000_000,
            bytes: 1 << 30,
        }
    }
}

/// A message that waits.
#[derive(Debug, Clone, PartialEq)]
pub struct Posted {
    /// Its number; later ones have greater ones, and none is used twice.
    pub id: i64,
    /// Where it goes.
    pub exchange: String,
    /// The message, or why its row cannot be read.
    pub envelope: Result<Envelope, Unreadable>,
}

/// A row that another program has written and that is no message.
#[derive(Debug, Clone, PartialEq)]
pub struct Unreadable {
    /// Why, with the beginning of its properties.
    pub why: String,
    /// Its key and its body.
    pub rest: Box<Envelope>,
}

/// The outbox of a unit. Clones share one thread, which ends with the last of them.
#[derive(Debug, Clone)]
pub struct Outbox {
    requests: mpsc::Sender<Request>,
    messages: Arc<AtomicU64>,
}

type Answer<T> = oneshot::Sender<Result<T, SpoolError>>;

enum Request {
    Write(Change, Answer<()>),
    Take(i64, usize, Answer<Vec<Posted>>),
    /// Whether so many messages of so many bytes find room.
    Room(u64, u64, Answer<()>),
}

enum Change {
    Append(Vec<Row>),
    Remove(Vec<i64>),
}

struct Row {
    exchange: String,
    key: String,
    properties: String,
    body: Vec<u8>,
}

impl Outbox {
    /// Opens or makes it, and starts its thread. A damaged file and one of another kind are refused and left as they
    /// are. Blocks.
    pub fn open(path: &Path, limits: Limits) -> Result<Outbox, SpoolError> {
        let db = sqlite::open(path, &SCHEMA, Durability::Power)?;
        let (messages, _) = totals(&db).map_err(|err| {
            let doing = format!("cannot read the outbox {}", path.display());
            sqlite::classify(err, &doing)
        })?;
        let messages = Arc::new(AtomicU64::new(messages));
        let (requests, queue) = mpsc::channel();
        let keeper = Keeper {
            db,
            path: path.to_owned(),
            limits,
            messages: Arc::clone(&messages),
        };
        std::thread::Builder::new()
            .name("outbox".into())
            .spawn(move || keeper.serve(&queue))
            .map_err(|err| SpoolError::own("cannot start the outbox's thread", err))?;
        Ok(Outbox { requests, messages })
    }

    /// Appends messages, all of them or none, in this order. On `Ok` they are synced. A full outbox answers with
    /// `store_full`. Dropping the future takes nothing back.
    pub async fn append(&self, messages: Vec<(String, Envelope)>) -> Result<(), SpoolError> {
        let rows = messages
            .into_iter()
            .map(|(exchange, envelope)| row(exchange, envelope))
            .collect();
        self.ask(|done| Request::Write(Change::Append(rows), done)).await
    }

    /// Whether these would find room now; the answer to a full outbox is the one of [`Outbox::append`].
    pub async fn find_room(&self, messages: &[(String, Envelope)]) -> Result<(), SpoolError> {
        let rows = messages.iter().cloned();
        let bytes = rows.map(|(exchange, envelope)| row(exchange, envelope).bytes()).sum();
        self.ask(|done| Request::Room(messages.len() as u64, bytes, done)).await
    }

    /// The first `count` messages after that number, in order; fewer where they are large.
    pub async fn take(&self, after: i64, count: usize) -> Result<Vec<Posted>, SpoolError> {
        self.ask(|done| Request::Take(after, count, done)).await
    }

    /// Forgets messages, whose fate is settled. On `Ok` that is synced. Numbers that are not there do no harm.
    pub async fn remove(&self, ids: Vec<i64>) -> Result<(), SpoolError> {
        self.ask(|done| Request::Write(Change::Remove(ids), done)).await
    }

    /// How many messages wait, as of the last commit or [`Outbox::take`] of this process.
    pub fn len(&self) -> u64 {
        self.messages.load(Ordering::Acquire)
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    async fn ask<T>(&self, request: impl FnOnce(Answer<T>) -> Request) -> Result<T, SpoolError> {
        let dead = || SpoolError::unusable("the outbox's thread has died: restart the unit");
        let (done, answer) = oneshot::channel();
        self.requests.send(request(done)).map_err(|_| dead())?;
        answer.await.unwrap_or_else(|_| Err(dead()))
    }
}

/// What the thread owns.
struct Keeper {
    db: Connection,
    path: PathBuf,
    limits: Limits,
    messages: Arc<AtomicU64>,
}

impl Keeper {
    fn serve(mut self, queue: &mpsc::Receiver<Request>) {
        while let Ok(first) = queue.recv() {
            let group = std::iter::once(first).chain(queue.try_iter()).take(GROUP_MAX);
            let (mut writes, mut takes, mut rooms) = (Vec::new(), Vec::new(), Vec::new());
            for request in group {
                match request {
                    Request::Write(change, done) => writes.push((change, done)),
                    Request::Take(after, count, done) => takes.push((after, count, done)),
                    Request::Room(messages, bytes, done) => rooms.push((messages, bytes, done)),
                }
            }
            if !writes.is_empty() {
                self.write(writes);
            }
            for (after, count, done) in takes {
                // Nobody listens when the asking future was dropped; here and below the work is done all the same.
                let _ = done.send(self.take(after, count));
            }
            for (messages, bytes, done) in rooms {
                let _ = done.send(self.room(messages, bytes));
            }
        }
    }

    fn write(&mut self, writes: Vec<(Change, Answer<()>)>) {
        let has_removed = writes.iter().any(|(change, _)| matches!(change, Change::Remove(_)));
        let (changes, answers): (Vec<Change>, Vec<Answer<()>>) = writes.into_iter().unzip();
        match self.commit(changes) {
            Ok(results) => {
                for (done, result) in answers.into_iter().zip(results) {
                    let _ = done.send(result);
                }
                if has_removed {
                    self.shrink();
                }
            }
            Err(error) => {
                for done in answers {
                    let _ = done.send(Err(SpoolError::unusable(error.line())));
                }
            }
        }
    }

    /// One commit for all of them; those that find no room are left out of it.
    fn commit(&mut self, changes: Vec<Change>) -> Result<Vec<Result<(), SpoolError>>, SpoolError> {
        let doing = format!("cannot write the outbox {}", self.path.display());
        let refused = |err| sqlite::classify(err, &doing);
        let tx = sqlite::begin(&mut self.db, &doing)?;
        let mut results = Vec::with_capacity(changes.len());
        for change in changes {
            results.push(match change {
                Change::Append(rows) => {
                    let bytes = rows.iter().map(Row::bytes).sum();
                    match find_room(&tx, self.limits, (rows.len() as u64, bytes)).map_err(refused)? {
                        None => {
                            insert(&tx, rows).map_err(refused)?;
                            Ok(())
                        }
                        Some(full) => Err(SpoolError::full(full)),
                    }
                }
                Change::Remove(ids) => {
                    let mut delete = tx.prepare_cached("DELETE FROM outbox WHERE id = ?1").map_err(refused)?;
                    for id in ids {
                        delete.execute([id]).map_err(refused)?;
                    }
                    Ok(())
                }
            });
        }
        let (messages, _) = totals(&tx).map_err(refused)?;
        tx.commit().map_err(refused)?;
        self.messages.store(messages, Ordering::Release);
        Ok(results)
    }

    fn room(&self, messages: u64, bytes: u64) -> Result<(), SpoolError> {
        match find_room(&self.db, self.limits, (messages, bytes)) {
            Ok(None) => Ok(()),
            Ok(Some(full)) => Err(SpoolError::full(full)),
            Err(err) => Err(self.unreadable(err)),
        }
    }

    fn unreadable(&self, err: rusqlite::Error) -> SpoolError {
        sqlite::classify(err, &format!("cannot read the outbox {}", self.path.display()))
    }

    fn take(&self, after: i64, count: usize) -> Result<Vec<Posted>, SpoolError> {
        let read = || -> rusqlite::Result<Vec<Posted>> {
            // Others may have inserted some.
            self.messages.store(totals(&self.db)?.0, Ordering::Release);
            let mut select = self.db.prepare_cached(
                "SELECT id, exchange, routing_key, properties, body FROM outbox WHERE id > ?1 ORDER BY id LIMIT ?2",
            )?;
            let mut rows = select.query(params![after, i64::try_from(count).unwrap_or(i64::MAX)])?;
            let (mut taken, mut bytes) = (Vec::new(), 0);
            while let Some(row) = rows.next()? {
                let row = (row.get(0)?, text(row, 1)?, text(row, 2)?, text(row, 3)?, blob(row, 4)?);
                let (id, exchange, key, properties, body) = row;
                bytes += body.len() + properties.len();
                if bytes > TAKEN_BYTES_MAX && !taken.is_empty() {
                    break;
                }
                taken.push(Posted {
                    id,
                    exchange,
                    envelope: read_envelope(key, &properties, body),
                });
            }
            Ok(taken)
        };
        read().map_err(|err| self.unreadable(err))
    }

    /// Gives the room of a backlog that is gone back to the disk. A refusal costs room only, and the next removal tries
    /// again.
    fn shrink(&self) {
        if self.messages.load(Ordering::Acquire) > COPIED_MAX {
            return;
        }
        let free: i64 = self
            .db
            .pragma_query_value(None, "freelist_count", |row| row.get(0))
            .unwrap_or(0);
        if free > FREE_PAGES_MAX
            && let Err(error) = self.db.execute_batch("VACUUM; PRAGMA wal_checkpoint(TRUNCATE)")
        {
            tracing::debug!(outbox = %self.path.display(), "cannot be made smaller now: {error}");
        }
    }
}

/// Other programs may have written numbers or blobs where text belongs.
fn text(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<String> {
    blob(row, column).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

fn blob(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<Vec<u8>> {
    use rusqlite::types::ValueRef;
    Ok(match row.get_ref(column)? {
        ValueRef::Null => Vec::new(),
        ValueRef::Integer(number) => number.to_string().into_bytes(),
        ValueRef::Real(number) => number.to_string().into_bytes(),
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => bytes.to_vec(),
    })
}

fn totals(db: &Connection) -> rusqlite::Result<(u64, u64)> {
    let unsigned = |number: i64| number.max(0).unsigned_abs();
    db.prepare_cached("SELECT messages, bytes FROM totals")?
        .query_row([], |row| Ok((unsigned(row.get(0)?), unsigned(row.get(1)?))))
}

impl Row {
    fn bytes(&self) -> u64 {
        (self.key.len() + self.properties.len() + self.body.len()) as u64
    }
}

/// Why there is no room for so many more messages of so many bytes, if there is none.
fn find_room(db: &Connection, limits: Limits, more: (u64, u64)) -> rusqlite::Result<Option<String>> {
    let (messages, bytes) = totals(db)?;
    let is_full = messages + more.0 > limits.messages || bytes + more.1 > limits.bytes;
    Ok(is_full.then(|| {
        format!("the outbox is full ({messages} messages, {bytes} bytes): it makes room when the broker takes them")
    }))
}

fn insert(tx: &Transaction<'_>, rows: Vec<Row>) -> rusqlite::Result<()> {
    let mut insert =
        tx.prepare_cached("INSERT INTO outbox(exchange, routing_key, properties, body) VALUES (?1, ?2, ?3, ?4)")?;
    for row in rows {
        insert.execute(params![row.exchange, row.key, row.properties, row.body])?;
    }
    Ok(())
}

fn row(exchange: String, mut envelope: Envelope) -> Row {
    let (key, body) = (std::mem::take(&mut envelope.key), std::mem::take(&mut envelope.body));
    let mut envelope = with_plain_headers(&envelope);
    let headers: Map<String, Json> = std::mem::take(&mut envelope.headers)
        .into_iter()
        .map(|(name, value)| (name, to_json(&value)))
        .collect();
    let mut properties = match serde_json::to_value(envelope) {
        Ok(Json::Object(properties)) => properties,
        _ => unreachable!("strings and numbers with names are a JSON object"),
    };
    properties.retain(|name, value| !value.is_null() && !matches!(name.as_str(), "key" | "body" | "headers"));
    if !headers.is_empty() {
        properties.insert("headers".into(), Json::Object(headers));
    }
    Row {
        exchange,
        key,
        properties: Json::Object(properties).to_string(),
        body,
    }
}

fn read_envelope(key: String, properties: &str, body: Vec<u8>) -> Result<Envelope, Unreadable> {
    match read_properties(properties) {
        Ok(rest) => Ok(Envelope { key, body, ..rest }),
        Err(why) => {
            let shown: String = properties.chars().take(SHOWN_MAX).collect();
            let rest = Box::new(Envelope {
                key,
                body,
                ..Envelope::default()
            });
            Err(Unreadable {
                why: format!("{why}: {shown:?}"),
                rest,
            })
        }
    }
}

/// A message without its key and its body.
fn read_properties(properties: &str) -> Result<Envelope, String> {
    let shown = |error: serde_json::Error| format!("its properties cannot be read: {error}");
    let given: Map<String, Json> = serde_json::from_str(properties).map_err(shown)?;
    let mut whole = match serde_json::to_value(Envelope::default()) {
        Ok(Json::Object(whole)) => whole,
        _ => unreachable!("strings and numbers with names are a JSON object"),
    };
    let mut headers = Headers::new();
    for (name, value) in given {
        match value {
            Json::Object(of_application) if name == "headers" => {
                for (name, value) in of_application {
                    headers.insert(name, from_json(value).map_err(shown)?);
                }
            }
            value if whole.contains_key(&name) && !matches!(name.as_str(), "key" | "body" | "headers") => {
                whole.insert(name, value);
            }
            _ => return Err(format!("its properties have an unknown or unfit {name:?}")),
        }
    }
    let rest: Envelope = serde_json::from_value(Json::Object(whole)).map_err(shown)?;
    Ok(Envelope { headers, ..rest })
}

fn to_json(value: &Value) -> Json {
    match value {
        Value::Bool(truth) => Json::from(*truth),
        Value::I64(number) => Json::from(*number),
        Value::F64(number) => Json::from(*number),
        Value::Void => Json::Null,
        Value::Str(bytes) if let Ok(text) = std::str::from_utf8(bytes) => Json::from(text),
        // Values that JSON cannot hold are words by now.
        other => serde_json::to_value(other).unwrap_or(Json::Null),
    }
}

fn from_json(json: Json) -> Result<Value, serde_json::Error> {
    Ok(match json {
        Json::Null => Value::Void,
        Json::Bool(truth) => Value::Bool(truth),
        Json::String(text) => Value::Str(text.into_bytes()),
        Json::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => Value::I64(whole),
            (None, broken) => Value::F64(broken.unwrap_or_default()),
        },
        spelled => serde_json::from_value(spelled)?,
    })
}

#[cfg(test)]
mod tests;
