//! Everything declared, held in memory: where a message goes, who consumes, who is connected. It is read anew whenever
//! the file's topology number has changed, inside the transaction that uses it.

use std::collections::{HashMap, HashSet};

use rusqlite::{Connection, Row};

use crate::message::topic;

/// A queue as declared.
#[derive(Debug, Clone)]
pub(super) struct QueueRow {
    pub id: i64,
    pub name: String,
    pub durable: bool,
    /// The owner that alone may use it.
    pub exclusive: Option<String>,
    pub auto_delete: bool,
    pub expires_ms: Option<i64>,
    pub message_ttl_ms: Option<i64>,
    pub dead_letter_exchange: Option<String>,
    pub used_ms: i64,
}

impl QueueRow {
    /// Reads `SELECT` [`QueueRow::COLUMNS`].
    pub fn read(row: &Row<'_>) -> rusqlite::Result<QueueRow> {
        Ok(QueueRow {
            id: row.get(0)?,
            name: row.get(1)?,
            durable: row.get(2)?,
            exclusive: row.get(3)?,
            auto_delete: row.get(4)?,
            expires_ms: row.get(5)?,
            message_ttl_ms: row.get(6)?,
            dead_letter_exchange: row.get(7)?,
            used_ms: row.get(8)?,
        })
    }

    pub const COLUMNS: &str = "id, name, durable, exclusive, auto_delete, expires_ms, message_ttl_ms, \
                               dead_letter_exchange, used_ms";
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Topic,
    Direct,
    Fanout,
}

#[derive(Debug)]
struct ExchangeRow {
    kind: Kind,
    bindings: Vec<(String, i64)>,
}

/// The cache.
#[derive(Debug, Default)]
pub(super) struct Routes {
    /// The topology number this is of; 0 when nothing was read yet.
    pub version: i64,
    /// All live connections, and the dead that nobody has found yet.
    pub owners: Vec<String>,
    exchanges: HashMap<String, ExchangeRow>,
    queues: HashMap<i64, QueueRow>,
    by_name: HashMap<String, i64>,
    /// The owners of the active consumers of each queue.
    consumers: HashMap<i64, HashSet<String>>,
}

impl Routes {
    /// The topology number of the file.
    pub fn version(db: &Connection) -> rusqlite::Result<i64> {
        db.prepare_cached("SELECT value FROM meta WHERE name = 'topology'")?
            .query_row([], |row| row.get(0))
    }

    /// Reads everything.
    pub fn read(db: &Connection) -> rusqlite::Result<Routes> {
        let mut routes = Routes {
            version: Routes::version(db)?,
            ..Routes::default()
        };
        each(db, "SELECT name, kind FROM exchanges", |row| {
            let (name, kind): (String, String) = (row.get(0)?, row.get(1)?);
            let kind = match kind.as_str() {
                "topic" => Kind::Topic,
                "direct" => Kind::Direct,
                _ => Kind::Fanout,
            };
            let bindings = Vec::new();
            routes.exchanges.insert(name, ExchangeRow { kind, bindings });
            Ok(())
        })?;
        each(db, &format!("SELECT {} FROM queues", QueueRow::COLUMNS), |row| {
            let queue = QueueRow::read(row)?;
            routes.by_name.insert(queue.name.clone(), queue.id);
            routes.queues.insert(queue.id, queue);
            Ok(())
        })?;
        each(db, "SELECT exchange, key, queue FROM bindings", |row| {
            if let Some(exchange) = routes.exchanges.get_mut(row.get_ref(0)?.as_str()?) {
                exchange.bindings.push((row.get(1)?, row.get(2)?));
            }
            Ok(())
        })?;
        each(db, "SELECT queue, owner FROM consumers WHERE active = 1", |row| {
            routes.consumers.entry(row.get(0)?).or_default().insert(row.get(1)?);
            Ok(())
        })?;
        each(db, "SELECT name FROM owners", |row| {
            routes.owners.push(row.get(0)?);
            Ok(())
        })?;
        Ok(routes)
    }

    /// Whether there is such an exchange; the default one is always there.
    pub fn has_exchange(&self, exchange: &str) -> bool {
        exchange.is_empty() || self.exchanges.contains_key(exchange)
    }

    /// The queues a message goes to, each once; `None` when there is no such exchange.
    pub fn route(&self, exchange: &str, key: &str) -> Option<Vec<&QueueRow>> {
        if exchange.is_empty() {
            return Some(self.queue_named(key).into_iter().collect());
        }
        let ExchangeRow { kind, bindings } = self.exchanges.get(exchange)?;
        let mut ids: Vec<i64> = bindings
            .iter()
            .filter(|(pattern, _)| match kind {
                Kind::Fanout => true,
                Kind::Direct => pattern == key,
                Kind::Topic => topic::matches(pattern, key),
            })
            .map(|(_, queue)| *queue)
            .collect();
        ids.sort_unstable();
        ids.dedup();
        Some(ids.iter().filter_map(|id| self.queues.get(id)).collect())
    }

    pub fn queue(&self, id: i64) -> Option<&QueueRow> {
        self.queues.get(&id)
    }

    pub fn queue_named(&self, name: &str) -> Option<&QueueRow> {
        self.queues.get(self.by_name.get(name)?)
    }

    /// Everybody who consumes from the queue.
    pub fn consumers(&self, queue: i64) -> impl Iterator<Item = &String> {
        self.consumers.get(&queue).into_iter().flatten()
    }

    /// When the next unused queue is due to go, in milliseconds since 1970.
    pub fn next_expiry_ms(&self) -> Option<i64> {
        let unused = self
            .queues
            .values()
            .filter(|queue| !self.consumers.contains_key(&queue.id));
        unused
            .filter_map(|queue| Some(queue.used_ms.saturating_add(queue.expires_ms?)))
            .min()
    }
}

fn each(db: &Connection, sql: &str, mut read: impl FnMut(&Row<'_>) -> rusqlite::Result<()>) -> rusqlite::Result<()> {
    let mut statement = db.prepare_cached(sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        read(row)?;
    }
    Ok(())
}
