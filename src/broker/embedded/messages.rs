//! Messages in queues: put in, claimed, settled, due. All inside the caller's transaction.

use rusqlite::{Connection, OptionalExtension, params};

use super::codec::Content;
use super::reason::{Answered, Reason};
use super::routes::{QueueRow, Routes};
use super::schema::{CLAIMED, DELAYED, READY};
use crate::broker::{Confirmed, Settlement};
use crate::message::{Envelope, Headers};

/// Due and expired messages moved in one transaction, so that it stays short.
const MOVED_MAX: i64 = 1000;

/// A message that now belongs to a consumer.
#[derive(Debug)]
pub(super) struct Claimed {
    pub id: i64,
    pub redelivered: bool,
    pub content: Content,
}

/// Which of the consumers of a queue could take a message now, and how many there are to take.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Demand {
    /// Consumers with room, the one that was served longest ago first.
    pub hungry: Vec<i64>,
    /// Ready messages, counted as far as this matters.
    pub ready: usize,
}

impl Demand {
    /// Messages for one consumer if they were dealt out in turns. When it has waited for its turn long enough, all.
    pub fn share(&self, consumer: i64, is_impatient: bool) -> usize {
        let hungry = self.hungry.len();
        match self.hungry.iter().position(|id| *id == consumer) {
            None => 0,
            Some(_) if is_impatient => self.ready,
            Some(place) => (self.ready + hungry - 1 - place) / hungry,
        }
    }
}

/// Puts one content into every queue that the exchange routes it to; `filled` collects the queues.
pub(super) fn publish(
    db: &Connection,
    routes: &Routes,
    exchange: &str,
    content: &Content,
    now_ms: i64,
    filled: &mut Vec<i64>,
) -> Answered<Confirmed> {
    let Some(queues) = routes.route(exchange, &content.key) else {
        return Ok(Err(Reason::own(format!(
            "cannot publish: there is no exchange {exchange}; declare it, or correct the name"
        ))));
    };
    if queues.is_empty() {
        return Ok(Ok(Confirmed::Returned));
    }
    db.prepare_cached("INSERT INTO contents (key, properties, body) VALUES (?1, ?2, ?3)")?
        .execute(params![content.key, content.properties, content.body])?;
    let id = db.last_insert_rowid();
    for queue in queues {
        enqueue(db, queue, id, now_ms)?;
        filled.push(queue.id);
    }
    Ok(Ok(Confirmed::Routed))
}

fn enqueue(db: &Connection, queue: &QueueRow, content: i64, now_ms: i64) -> rusqlite::Result<()> {
    let expires_ms = queue.message_ttl_ms.map(|ttl| now_ms.saturating_add(ttl));
    db.prepare_cached("INSERT INTO messages (queue, content, expires_ms) VALUES (?1, ?2, ?3)")?
        .execute(params![queue.id, content, expires_ms])
        .map(|_| ())
}

/// Ready messages.
pub(super) fn depth(db: &Connection, queue: i64) -> rusqlite::Result<u64> {
    db.prepare_cached("SELECT count(*) FROM messages WHERE queue = ?1 AND state = 0")?
        .query_row([queue], |row| row.get::<_, i64>(0))
        .map(|count| u64::try_from(count).unwrap_or(0))
}

/// Looks at a queue for a consumer that has room for `room` messages.
pub(super) fn demand(db: &Connection, queue: i64, room: usize, now_ms: i64) -> rusqlite::Result<Demand> {
    let hungry: Vec<i64> = db
        .prepare_cached(
            "SELECT id FROM consumers WHERE queue = ?1 AND active = 1 AND unsettled < prefetch ORDER BY turn, id",
        )?
        .query_map([queue], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    let enough = room.saturating_mul(hungry.len());
    let ready: i64 = db
        .prepare_cached(
            "SELECT count(*) FROM (SELECT 1 FROM messages WHERE queue = ?1 AND state = 0
                 AND (expires_ms IS NULL OR expires_ms > ?2) LIMIT ?3)",
        )?
        .query_row(params![queue, now_ms, super::count(enough)], |row| row.get(0))?;
    let ready = usize::try_from(ready).unwrap_or(0);
    Ok(Demand { hungry, ready })
}

/// Claims the oldest ready messages: at most `count`, and no more once they have reached `bytes_max`.
pub(super) fn claim(
    db: &Connection,
    queue: i64,
    consumer: i64,
    count: usize,
    bytes_max: usize,
    now_ms: i64,
) -> rusqlite::Result<Vec<Claimed>> {
    let ready: Vec<(i64, i64, bool)> = db
        .prepare_cached(
            "SELECT id, content, redelivered FROM messages WHERE queue = ?1 AND state = 0
                 AND (expires_ms IS NULL OR expires_ms > ?2) ORDER BY id LIMIT ?3",
        )?
        .query_map(params![queue, now_ms, super::count(count)], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })?
        .collect::<rusqlite::Result<_>>()?;
    let mut take = db.prepare_cached("UPDATE messages SET state = ?2, consumer = ?3 WHERE id = ?1")?;
    let mut read = db.prepare_cached("SELECT key, properties, body FROM contents WHERE id = ?1")?;
    let mut claimed = Vec::new();
    let mut bytes = 0;
    for (id, content, redelivered) in ready {
        if bytes >= bytes_max {
            break;
        }
        take.execute(params![id, CLAIMED, consumer])?;
        let content = read.query_row([content], |row| {
            Ok(Content {
                key: row.get(0)?,
                properties: row.get(1)?,
                body: row.get(2)?,
            })
        })?;
        bytes += content.body.len();
        claimed.push(Claimed {
            id,
            redelivered,
            content,
        });
    }
    Ok(claimed)
}

/// Notes how busy a consumer is, and if it was just served that the others come first now.
pub(super) fn note_consumer(db: &Connection, consumer: i64, unsettled: usize, served: bool) -> rusqlite::Result<()> {
    db.prepare_cached(
        "UPDATE consumers SET unsettled = ?2,
             turn = iif(?3, (SELECT max(turn) + 1 FROM consumers c WHERE c.queue = consumers.queue), turn)
         WHERE id = ?1",
    )?
    .execute(params![consumer, super::count(unsettled), served])
    .map(|_| ())
}

/// Settles one claim; `filled` collects queues that got something. A claim that is no longer the consumer's is refused,
/// for the message will be delivered again; one whose message is gone with its queue is not.
pub(super) fn settle(
    db: &Connection,
    routes: &Routes,
    (message, consumer): (i64, i64),
    how: Settlement,
    now_ms: i64,
    filled: &mut Vec<i64>,
) -> Answered<()> {
    let found: Option<(Option<i64>, i64, i64)> = db
        .prepare_cached("SELECT consumer, queue, content FROM messages WHERE id = ?1")?
        .query_row([message], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .optional()?;
    let Some((holder, queue, content)) = found else {
        return Ok(Ok(()));
    };
    if holder != Some(consumer) {
        return Ok(Err(Reason::endpoint(
            "cannot settle: the delivery went back to its queue, it will be delivered again",
        )));
    }
    match how {
        Settlement::Ack => remove(db, message, content)?,
        Settlement::Reject => {
            dead_letter(db, routes, queue, content, now_ms, filled)?;
            remove(db, message, content)?;
        }
        Settlement::Requeue => filled.extend(put_back(db, message, consumer)?),
        Settlement::RequeueAfter(delay, headers) => {
            let content = with_headers(db, content, headers)?;
            let due_ms = now_ms.saturating_add(super::millis(delay));
            db.prepare_cached(
                "UPDATE messages SET state = ?2, consumer = NULL, redelivered = 1, due_ms = ?3, content = ?4
                     WHERE id = ?1",
            )?
            .execute(params![message, DELAYED, due_ms, content])?;
        }
    }
    Ok(Ok(()))
}

/// The content with other headers: itself, or a copy where other queues hold it too. Headers that cannot be packed
/// stay as they were.
fn with_headers(db: &Connection, content: i64, headers: Headers) -> rusqlite::Result<i64> {
    let (key, properties): (String, Vec<u8>) = db
        .prepare_cached("SELECT key, properties FROM contents WHERE id = ?1")?
        .query_row([content], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let plain = Content {
        key,
        properties,
        body: Vec::new(),
    };
    let changed = plain
        .unpack()
        .and_then(|envelope| Content::pack(&Envelope { headers, ..envelope }).ok());
    let Some(changed) = changed else {
        return Ok(content);
    };
    let holders: i64 = db
        .prepare_cached("SELECT count(*) FROM messages WHERE content = ?1")?
        .query_row([content], |row| row.get(0))?;
    if holders == 1 {
        db.prepare_cached("UPDATE contents SET properties = ?2 WHERE id = ?1")?
            .execute(params![content, changed.properties])?;
        return Ok(content);
    }
    db.prepare_cached("INSERT INTO contents (key, properties, body) SELECT key, ?2, body FROM contents WHERE id = ?1")?
        .execute(params![content, changed.properties])?;
    Ok(db.last_insert_rowid())
}

/// Gives one claimed message back, in its old place. Gives the queue, unless the claim was gone.
pub(super) fn put_back(db: &Connection, message: i64, consumer: i64) -> rusqlite::Result<Option<i64>> {
    db.prepare_cached(
        "UPDATE messages SET state = ?3, consumer = NULL, redelivered = 1 WHERE id = ?1 AND consumer = ?2
             RETURNING queue",
    )?
    .query_row(params![message, consumer, READY], |row| row.get(0))
    .optional()
}

/// Gives back what a consumer has not settled, in its old place; how many.
pub(super) fn release_all(db: &Connection, consumer: i64) -> rusqlite::Result<usize> {
    db.prepare_cached("UPDATE messages SET state = ?2, consumer = NULL, redelivered = 1 WHERE consumer = ?1")?
        .execute(params![consumer, READY])
}

fn remove(db: &Connection, message: i64, content: i64) -> rusqlite::Result<()> {
    db.prepare_cached("DELETE FROM messages WHERE id = ?1")?
        .execute([message])?;
    db.prepare_cached("DELETE FROM contents WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM messages WHERE content = ?1)")?
        .execute([content])
        .map(|_| ())
}

/// Routes a content that leaves a queue by reject or age, where the queue says so. The key stays.
fn dead_letter(
    db: &Connection,
    routes: &Routes,
    queue: i64,
    content: i64,
    now_ms: i64,
    filled: &mut Vec<i64>,
) -> rusqlite::Result<()> {
    let Some(exchange) = routes.queue(queue).and_then(|row| row.dead_letter_exchange.as_deref()) else {
        return Ok(());
    };
    let key: String = db
        .prepare_cached("SELECT key FROM contents WHERE id = ?1")?
        .query_row([content], |row| row.get(0))?;
    for target in routes.route(exchange, &key).unwrap_or_default() {
        enqueue(db, target, content, now_ms)?;
        filled.push(target.id);
    }
    Ok(())
}

/// When the next delayed message is ready, or the next ready one is too old, in milliseconds since 1970.
pub(super) fn next_due_ms(db: &Connection) -> rusqlite::Result<Option<i64>> {
    let first =
        |sql: &str| -> rusqlite::Result<Option<i64>> { db.prepare_cached(sql)?.query_row([], |row| row.get(0)) };
    let delayed = first("SELECT min(due_ms) FROM messages WHERE state = 2")?;
    let mortal = first("SELECT min(expires_ms) FROM messages WHERE state = 0 AND expires_ms IS NOT NULL")?;
    Ok(delayed.into_iter().chain(mortal).min())
}

/// Moves what is due: delayed messages become ready, those that are too old leave.
pub(super) fn move_due(db: &Connection, routes: &Routes, now_ms: i64, filled: &mut Vec<i64>) -> rusqlite::Result<()> {
    let ready: Vec<i64> = db
        .prepare_cached(
            "UPDATE messages SET state = 0, due_ms = NULL
                 WHERE id IN (SELECT id FROM messages WHERE state = 2 AND due_ms <= ?1 ORDER BY due_ms LIMIT ?2)
                 RETURNING queue",
        )?
        .query_map(params![now_ms, MOVED_MAX], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    filled.extend(ready);
    let expired: Vec<(i64, i64, i64)> = db
        .prepare_cached(
            "SELECT id, queue, content FROM messages
                 WHERE state = 0 AND expires_ms IS NOT NULL AND expires_ms <= ?1 ORDER BY expires_ms, id LIMIT ?2",
        )?
        .query_map(params![now_ms, MOVED_MAX], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })?
        .collect::<rusqlite::Result<_>>()?;
    for (message, queue, content) in expired {
        dead_letter(db, routes, queue, content, now_ms, filled)?;
        remove(db, message, content)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_dealt_out_in_turns() {
        let demand = |ready| Demand {
            hungry: vec![7, 8, 9],
            ready,
        };
        let table = [
            (0, [0, 0, 0]),
            (1, [1, 0, 0]),
            (2, [1, 1, 0]),
            (3, [1, 1, 1]),
            (7, [3, 2, 2]),
        ];
        for (ready, expected) in table {
            assert_eq!([7, 8, 9].map(|id| demand(ready).share(id, false)), expected, "{ready}");
        }
        assert_eq!(demand(2).share(9, true), 2);
        assert_eq!(demand(2).share(4, true), 0);
    }
}
