//! Declaring, and taking away: exchanges, queues, bindings, consumers, owners.
//!
//! The outer result of these functions is the file's: an error ends the connection and rolls the transaction back.
//! The inner one is the answer to the caller.

use rusqlite::{Connection, OptionalExtension, params};

use super::reason::{Answered, Reason};
use super::routes::QueueRow;
use crate::broker::Removal;
use crate::message::{Binding, Exchange, ExchangeKind, Queue, Topology};

/// The longest name or binding key, as on AMQP.
const NAME_MAX: usize = 255;

/// Asserts a topology for `owner`; the strings are warnings.
pub(super) fn declare(db: &Connection, topology: &Topology, owner: &str, now_ms: i64) -> Answered<Vec<String>> {
    let mut warnings = Vec::new();
    let steps = topology
        .exchanges
        .iter()
        .map(Step::Exchange)
        .chain(topology.queues.iter().map(Step::Queue))
        .chain(topology.bindings.iter().map(Step::Binding));
    for step in steps {
        let answer = match step {
            Step::Exchange(exchange) => declare_exchange(db, exchange)?,
            Step::Queue(queue) => declare_queue(db, queue, owner, now_ms)?,
            Step::Binding(binding) => bind(db, binding, owner)?,
        };
        match answer {
            Ok(warning) => warnings.extend(warning),
            Err(refusal) => return Ok(Err(refusal)),
        }
    }
    bump(db)?;
    Ok(Ok(warnings))
}

enum Step<'a> {
    Exchange(&'a Exchange),
    Queue(&'a Queue),
    Binding(&'a Binding),
}

/// Notes that something declared has changed, so that every process reads it anew.
pub(super) fn bump(db: &Connection) -> rusqlite::Result<()> {
    db.prepare_cached("UPDATE meta SET value = value + 1 WHERE name = 'topology'")?
        .execute([])
        .map(|_| ())
}

fn name_refused(what: &str, name: &str) -> Option<Reason> {
    if name.is_empty() {
        return Some(Reason::own(format!(
            "cannot declare {what} without a name; give it one"
        )));
    }
    (name.len() > NAME_MAX).then(|| {
        Reason::own(format!(
            "cannot declare {what} with a name of {} bytes; {NAME_MAX} are allowed",
            name.len()
        ))
    })
}

fn declare_exchange(db: &Connection, exchange: &Exchange) -> Answered<Option<String>> {
    if exchange.name.is_empty() {
        return Ok(Ok(None)); // the default exchange is always there
    }
    if let Some(refusal) = name_refused("an exchange", &exchange.name) {
        return Ok(Err(refusal));
    }
    if exchange.kind == ExchangeKind::Headers {
        return Ok(Err(Reason::own(format!(
            "cannot declare exchange {}: the embedded broker has topic, direct and fanout exchanges only",
            exchange.name
        ))));
    }
    let found: Option<(String, bool, bool)> = db
        .prepare_cached("SELECT kind, durable, auto_delete FROM exchanges WHERE name = ?1")?
        .query_row([&exchange.name], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .optional()?;
    let Some((kind, durable, auto_delete)) = found else {
        db.prepare_cached("INSERT INTO exchanges VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![
                exchange.name,
                exchange.kind.name(),
                exchange.durable,
                exchange.auto_delete
            ])?;
        return Ok(Ok(None));
    };
    let same = kind == exchange.kind.name() && durable == exchange.durable && auto_delete == exchange.auto_delete;
    Ok(Ok((!same).then(|| {
        format!(
            "exchange {} exists as {kind}, durable = {durable}, auto_delete = {auto_delete}, and is used as it stands",
            exchange.name
        )
    })))
}

fn find_queue(db: &Connection, name: &str) -> rusqlite::Result<Option<QueueRow>> {
    db.prepare_cached(&format!("SELECT {} FROM queues WHERE name = ?1", QueueRow::COLUMNS))?
        .query_row([name], QueueRow::read)
        .optional()
}

/// The refusal when another connection alone may use the queue. It passes when that one closes.
pub(super) fn locked(queue: &QueueRow, owner: &str) -> Option<Reason> {
    let other = queue.exclusive.as_ref().is_some_and(|exclusive| exclusive != owner);
    other.then(|| {
        Reason::endpoint(format!(
            "queue {} is exclusive to another connection; use another name, or stop the other one",
            queue.name
        ))
    })
}

fn declare_queue(db: &Connection, queue: &Queue, owner: &str, now_ms: i64) -> Answered<Option<String>> {
    if let Some(refusal) = name_refused("a queue", &queue.name) {
        return Ok(Err(refusal));
    }
    for (wanted, what) in [
        (queue.single_active, "have one active consumer at a time"),
        (queue.quorum, "be a quorum queue"),
    ] {
        if wanted {
            return Ok(Err(Reason::own(format!(
                "cannot declare queue {}: on the embedded broker no queue can {what}",
                queue.name
            ))));
        }
    }
    let expires_ms = queue.expires.map(super::millis);
    let message_ttl_ms = queue.message_ttl.map(super::millis);
    let Some(found) = find_queue(db, &queue.name)? else {
        db.prepare_cached(
            "INSERT INTO queues (name, durable, exclusive, auto_delete, expires_ms, message_ttl_ms,
                 dead_letter_exchange, role, used_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        )?
        .execute(params![
            queue.name,
            queue.durable,
            queue.exclusive.then_some(owner),
            queue.auto_delete,
            expires_ms,
            message_ttl_ms,
            queue.dead_letter_exchange,
            queue.role,
            now_ms
        ])?;
        return Ok(Ok(None));
    };
    if let Some(refusal) = locked(&found, owner) {
        return Ok(Err(refusal));
    }
    db.prepare_cached("UPDATE queues SET used_ms = ?2 WHERE id = ?1")?
        .execute(params![found.id, now_ms])?;
    let mut others = Vec::new();
    let mut compare = |name: &str, same: bool, stands: String| {
        if !same {
            others.push(format!("{name} = {stands}"));
        }
    };
    compare("durable", found.durable == queue.durable, found.durable.to_string());
    let exclusive = found.exclusive.is_some();
    compare("exclusive", exclusive == queue.exclusive, exclusive.to_string());
    let auto_delete = found.auto_delete;
    compare("auto_delete", auto_delete == queue.auto_delete, auto_delete.to_string());
    compare("expires", found.expires_ms == expires_ms, show_ms(found.expires_ms));
    let ttl_ms = found.message_ttl_ms;
    compare("message_ttl", ttl_ms == message_ttl_ms, show_ms(ttl_ms));
    let same = found.dead_letter_exchange == queue.dead_letter_exchange;
    let stands = found.dead_letter_exchange.unwrap_or_else(|| "none".to_string());
    compare("dead_letter_exchange", same, stands);
    Ok(Ok((!others.is_empty()).then(|| {
        format!(
            "queue {} exists with {}, and is used as it stands",
            queue.name,
            others.join(", ")
        )
    })))
}

fn show_ms(millis: Option<i64>) -> String {
    millis.map_or_else(|| "none".to_string(), |millis| format!("{millis} ms"))
}

fn bind(db: &Connection, binding: &Binding, owner: &str) -> Answered<Option<String>> {
    let Binding { exchange, queue, key } = binding;
    let refuse = |why: &str| Reason::own(format!("cannot bind queue {queue} to exchange {exchange}: {why}"));
    if exchange.is_empty() {
        return Ok(Ok(None)); // every queue is bound to the default exchange by its name
    }
    if key.len() > NAME_MAX {
        return Ok(Err(refuse(&format!(
            "the key has {} bytes, {NAME_MAX} are allowed",
            key.len()
        ))));
    }
    let exchange_exists: bool = db
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM exchanges WHERE name = ?1)")?
        .query_row([exchange], |row| row.get(0))?;
    if !exchange_exists {
        return Ok(Err(refuse("there is no such exchange, declare it first")));
    }
    let Some(found) = find_queue(db, queue)? else {
        return Ok(Err(refuse("there is no such queue, declare it first")));
    };
    if let Some(refusal) = locked(&found, owner) {
        return Ok(Err(refusal));
    }
    db.prepare_cached("INSERT OR IGNORE INTO bindings VALUES (?1, ?2, ?3)")?
        .execute(params![exchange, key, found.id])?;
    Ok(Ok(None))
}

/// Deletes a queue with all that is in it, and the auto-delete exchanges it was the last one bound to.
fn delete_queue(db: &Connection, queue: i64) -> rusqlite::Result<()> {
    db.prepare_cached(
        "DELETE FROM contents WHERE id IN (SELECT content FROM messages WHERE queue = ?1) AND NOT EXISTS
             (SELECT 1 FROM messages WHERE content = contents.id AND queue <> ?1)",
    )?
    .execute([queue])?;
    db.prepare_cached("DELETE FROM messages WHERE queue = ?1")?
        .execute([queue])?;
    db.prepare_cached(
        "DELETE FROM exchanges WHERE auto_delete = 1
             AND name IN (SELECT exchange FROM bindings WHERE queue = ?1)
             AND NOT EXISTS (SELECT 1 FROM bindings WHERE exchange = exchanges.name AND queue <> ?1)",
    )?
    .execute([queue])?;
    db.prepare_cached("DELETE FROM bindings WHERE queue = ?1")?
        .execute([queue])?;
    db.prepare_cached("DELETE FROM consumers WHERE queue = ?1")?
        .execute([queue])?;
    db.prepare_cached("DELETE FROM queues WHERE id = ?1")?
        .execute([queue])?;
    bump(db)
}

/// Everybody who consumes from a queue; `None` when there is none of that name.
pub(super) fn consumers(db: &Connection, queue: &str) -> rusqlite::Result<Option<u64>> {
    db.prepare_cached(
        "SELECT (SELECT count(*) FROM consumers WHERE queue = queues.id AND active = 1) FROM queues WHERE name = ?1",
    )?
    .query_row([queue], |row| row.get::<_, i64>(0))
    .optional()
    .map(|count| count.map(|count| u64::try_from(count).unwrap_or(0)))
}

/// Deletes a queue for `owner`, unless its guards, unused and empty, keep it.
pub(super) fn remove_queue(db: &Connection, name: &str, guards: (bool, bool), owner: &str) -> Answered<Removal> {
    let (if_unused, if_empty) = guards;
    let Some(queue) = find_queue(db, name)? else {
        return Ok(Ok(Removal::Missing));
    };
    if let Some(refusal) = locked(&queue, owner) {
        return Ok(Err(refusal));
    }
    if if_unused && consumers(db, name)?.is_some_and(|count| count > 0) {
        return Ok(Ok(Removal::InUse));
    }
    if if_empty && super::messages::depth(db, queue.id)? > 0 {
        return Ok(Ok(Removal::NotEmpty));
    }
    delete_queue(db, queue.id)?;
    Ok(Ok(Removal::Deleted))
}

/// Deletes an exchange with its bindings.
pub(super) fn remove_exchange(db: &Connection, name: &str) -> rusqlite::Result<()> {
    db.prepare_cached("DELETE FROM bindings WHERE exchange = ?1")?
        .execute([name])?;
    db.prepare_cached("DELETE FROM exchanges WHERE name = ?1")?
        .execute([name])?;
    bump(db)
}

/// Deletes the queues that have been unused for too long; true if there were any.
pub(super) fn delete_expired_queues(db: &Connection, now_ms: i64) -> rusqlite::Result<bool> {
    let unused: Vec<i64> = db
        .prepare_cached(
            "SELECT id FROM queues WHERE used_ms + expires_ms <= ?1
                 AND NOT EXISTS (SELECT 1 FROM consumers WHERE queue = queues.id AND active = 1)",
        )?
        .query_map([now_ms], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    for queue in &unused {
        delete_queue(db, *queue)?;
    }
    Ok(!unused.is_empty())
}

/// Starts the leases of all expiring queues anew when the machine has been booted since: nobody could use them.
pub(super) fn renew_leases_after_boot(db: &Connection, boot: &str, now_ms: i64) -> rusqlite::Result<()> {
    let booted = db.execute("UPDATE meta SET value = ?1 WHERE name = 'boot' AND value <> ?1", [boot])?;
    if booted > 0 {
        db.execute("UPDATE queues SET used_ms = ?1", [now_ms])?;
        bump(db)?;
    }
    Ok(())
}

/// Adds a consumer and gives its id.
pub(super) fn add_consumer(db: &Connection, queue: i64, owner: &str, prefetch: usize) -> rusqlite::Result<i64> {
    db.prepare_cached("INSERT INTO consumers (queue, owner, prefetch) VALUES (?1, ?2, ?3)")?
        .execute(params![queue, owner, super::count(prefetch)])?;
    let consumer = db.last_insert_rowid();
    bump(db)?;
    Ok(consumer)
}

/// The consumer gets nothing more; what it has it may still settle. An auto-delete queue goes with its last consumer.
pub(super) fn cancel_consumer(db: &Connection, consumer: i64, now_ms: i64) -> rusqlite::Result<()> {
    let queue: Option<i64> = db
        .prepare_cached("UPDATE consumers SET active = 0 WHERE id = ?1 AND active = 1 RETURNING queue")?
        .query_row([consumer], |row| row.get(0))
        .optional()?;
    let Some(queue) = queue else { return Ok(()) };
    let others: bool = db
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM consumers WHERE queue = ?1 AND active = 1)")?
        .query_row([queue], |row| row.get(0))?;
    if !others {
        let auto_delete: bool = db
            .prepare_cached("UPDATE queues SET used_ms = ?2 WHERE id = ?1 RETURNING auto_delete")?
            .query_row(params![queue, now_ms], |row| row.get(0))?;
        if auto_delete {
            delete_queue(db, queue)?;
        }
    }
    bump(db)
}

/// Forgets a consumer. What it has not settled goes back, marked redelivered. Gives its queue if something went back.
pub(super) fn remove_consumer(db: &Connection, consumer: i64, now_ms: i64) -> rusqlite::Result<Option<i64>> {
    let returned = super::messages::release_all(db, consumer)?;
    let queue: Option<i64> = db
        .prepare_cached("SELECT queue FROM consumers WHERE id = ?1")?
        .query_row([consumer], |row| row.get(0))
        .optional()?;
    cancel_consumer(db, consumer, now_ms)?;
    db.prepare_cached("DELETE FROM consumers WHERE id = ?1")?
        .execute([consumer])?;
    Ok(queue.filter(|_| returned > 0))
}

/// Notes a live connection.
pub(super) fn add_owner(db: &Connection, name: &str, label: &str, now_ms: i64) -> rusqlite::Result<()> {
    db.execute("INSERT INTO owners VALUES (?1, ?2, ?3)", params![name, label, now_ms])?;
    bump(db)
}

/// Forgets a connection, with its consumers, claims and exclusive queues. Gives the queues that got something back.
pub(super) fn remove_owner(db: &Connection, name: &str, now_ms: i64) -> rusqlite::Result<Vec<i64>> {
    let ids = |sql: &str| -> rusqlite::Result<Vec<i64>> {
        db.prepare_cached(sql)?.query_map([name], |row| row.get(0))?.collect()
    };
    let mut refilled = Vec::new();
    for consumer in ids("SELECT id FROM consumers WHERE owner = ?1")? {
        refilled.extend(remove_consumer(db, consumer, now_ms)?);
    }
    for queue in ids("SELECT id FROM queues WHERE exclusive = ?1")? {
        delete_queue(db, queue)?;
    }
    db.prepare_cached("DELETE FROM owners WHERE name = ?1")?
        .execute([name])?;
    bump(db)?;
    Ok(refilled)
}
