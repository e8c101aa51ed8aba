//! The queue a unit consumes.

use super::{is_short, positive_duration};
use crate::config::unit::is_native;
use crate::config::{Broker, Scheme, Table};
use crate::message::Queue;

/// Leaves room for what px appends to name the queues it makes for itself.
const QUEUE: &str = "a name of at most 200 bytes that does not start with amq.; \"\" with durable = false";

/// The unit's own queue: `queue` (required), `durable` (default true), `auto_delete`, `expires`, `queue_type`. `""` is
/// a queue that the broker names, for as long as the connection stands. Without a broker nothing is said of what that
/// one lacks.
pub fn queue(table: &mut Table, broker: Option<&Broker>) -> Option<Queue> {
    let durable = table.boolean("durable");
    let auto_delete = table.boolean("auto_delete");
    let expires = positive_duration(table, "expires");
    let kind = table.choice("queue_type", &[("classic", false), ("quorum", true)]);
    let name = table.string("queue");
    if !table.has("queue") {
        table.reject("queue", QUEUE);
    }
    let name = name?;
    let quorum = kind.unwrap_or(false);
    if quorum && let Some(why) = no_quorum(&name, durable, auto_delete, broker) {
        table.refuse("queue_type", why);
        return None;
    }
    if name.is_empty() {
        return nameless(table, durable, auto_delete);
    }
    if name.len() > 200 || !is_short(&name) || name.starts_with("amq.") {
        table.reject("queue", QUEUE);
        return None;
    }
    Some(Queue {
        name,
        durable: durable.unwrap_or(true),
        auto_delete: auto_delete.unwrap_or(false),
        expires,
        quorum,
        ..Queue::default()
    })
}

/// Why a queue like this cannot be a quorum queue.
fn no_quorum(
    name: &str,
    durable: Option<bool>,
    auto_delete: Option<bool>,
    broker: Option<&Broker>,
) -> Option<&'static str> {
    let is_embedded = |broker: &Broker| broker.urls.iter().any(|url| url.scheme == Scheme::Embedded);
    if name.is_empty() {
        Some("a quorum queue needs a name; accepted: \"classic\", or a name")
    } else if durable == Some(false) {
        Some("a quorum queue is always durable; accepted: \"classic\", or durable = true")
    } else if auto_delete == Some(true) {
        Some("a quorum queue never goes with its last consumer; accepted: \"classic\", or auto_delete = false")
    } else if broker.is_some_and(is_embedded) {
        Some("the embedded broker has one host and replicates nothing; accepted: \"classic\"")
    } else {
        None
    }
}

/// A queue of one connection: exclusive, so that it lives exactly as long, and that no broker refuses it.
fn nameless(table: &mut Table, durable: Option<bool>, auto_delete: Option<bool>) -> Option<Queue> {
    if durable != Some(false) {
        table.refuse(
            "queue",
            "a durable queue needs a name; accepted: a name, or durable = false",
        );
        return None;
    }
    for (key, is_good) in [
        ("auto_delete", auto_delete != Some(false)),
        ("expires", !table.has("expires")),
    ] {
        if !is_good {
            table.refuse(key, "a queue without a name is gone with its connection");
            return None;
        }
    }
    if is_native(table.file()) {
        // A .conf has no choice, and its reader says how to change that.
        table.warn(
            "queue",
            "gone with its connection: what is published while the unit is down is lost to it",
        );
    }
    Some(Queue {
        exclusive: true,
        ..Queue::default()
    })
}
