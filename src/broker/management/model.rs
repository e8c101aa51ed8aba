//! What the management API says of things: the few fields that px uses, read as tolerantly as three generations of
//! RabbitMQ demand. A figure that is missing, null or no number is `None`, never 0.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde::{Deserialize, Deserializer, de};
use serde_json::{Map, Value};

/// `GET /api/overview`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Overview {
    /// For example 3.10.8.
    pub rabbitmq_version: String,
    /// Empty where the broker does not say.
    #[serde(default)]
    pub cluster_name: String,
    /// The node that answered; empty where the broker does not say.
    #[serde(default)]
    pub node: String,
}

/// What a check for alarms that fails says.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Alarms {
    #[serde(default)]
    pub alarms: Vec<Alarm>,
}

/// One of them.
#[derive(Debug, Deserialize)]
pub(super) struct Alarm {
    pub node: String,
    pub resource: String,
}

/// The type of a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum QueueKind {
    Classic,
    Quorum,
    Stream,
    /// One that this version does not know, in the broker's word.
    Other(String),
}

/// A queue as the management API lists it. A figure is `None` where the broker has no statistics of it: for some seconds
/// after it was declared, while its node is down, and always where statistics are switched off.
#[derive(Debug, Clone, PartialEq)]
pub struct QueueInfo {
    /// Where it is.
    pub vhost: String,
    /// Its name.
    pub name: String,
    /// Its type; classic where the broker does not say, as before 3.8.
    pub kind: QueueKind,
    /// Outlives a restart.
    pub durable: bool,
    /// Goes with its last consumer.
    pub auto_delete: bool,
    /// Lives with one connection.
    pub exclusive: bool,
    /// Those that it was declared with.
    pub arguments: Map<String, Value>,
    /// Ready and unacknowledged.
    pub messages: Option<u64>,
    /// Of their bodies.
    pub message_bytes: Option<u64>,
    /// Bytes of the queue's process, not of its messages on disk.
    pub memory: Option<u64>,
    /// How many there were up to 10 s ago.
    pub consumers: Option<u64>,
    /// `running`, `down`, `minority`, `stopped` …; `live` where statistics are switched off.
    pub state: Option<String>,
    /// Quorum queues and queues that are fed have none.
    pub idle_since: Option<Timestamp>,
    /// The policy that is in force.
    pub policy: Option<String>,
    /// Where its leader is.
    pub node: Option<String>,
}

impl QueueInfo {
    /// What is asked for, so that the list of a large broker stays small.
    pub(super) const COLUMNS: &str = "vhost,name,type,durable,auto_delete,exclusive,arguments,messages,message_bytes,\
                                      memory,consumers,state,idle_since,policy,node";
}

impl<'de> Deserialize<'de> for QueueInfo {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let fields = Map::deserialize(from)?;
        let text = |key: &str| fields.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
        let owned = |key: &str| text(key).map(str::to_owned);
        let needed = |key: &'static str| {
            let found = fields.get(key).and_then(Value::as_str).map(str::to_owned);
            found.ok_or_else(|| de::Error::missing_field(key))
        };
        // Older brokers write these as strings now and then.
        let is = |key: &str| matches!(fields.get(key), Some(Value::Bool(true))) || text(key) == Some("true");
        Ok(QueueInfo {
            vhost: needed("vhost")?,
            name: needed("name")?,
            kind: text("type").map_or(QueueKind::Classic, QueueKind::of),
            durable: is("durable"),
            auto_delete: is("auto_delete"),
            exclusive: is("exclusive"),
            // An empty table is sometimes an empty list.
            arguments: fields
                .get("arguments")
                .and_then(Value::as_object)
                .cloned()
                .unwrap_or_default(),
            messages: figure(fields.get("messages")),
            message_bytes: figure(fields.get("message_bytes")),
            memory: figure(fields.get("memory")),
            consumers: figure(fields.get("consumers")),
            state: owned("state"),
            idle_since: text("idle_since").and_then(time),
            policy: owned("policy"),
            node: owned("node"),
        })
    }
}

impl QueueKind {
    fn of(word: &str) -> QueueKind {
        match word {
            "classic" | "rabbit_classic_queue" => QueueKind::Classic,
            "quorum" | "rabbit_quorum_queue" => QueueKind::Quorum,
            "stream" | "rabbit_stream_queue" => QueueKind::Stream,
            other => QueueKind::Other(other.to_owned()),
        }
    }
}

/// A whole number, however it is written; a placeholder such as `"undefined"` or `"NaN"` is none.
fn figure(value: Option<&Value>) -> Option<u64> {
    let number = value?.as_number()?;
    number.as_u64().or_else(|| {
        let number = number.as_f64().filter(|number| (0.0..1e18).contains(number))?;
        Some(number as u64)
    })
}

/// `2026-11-21T21:09:26.795+00:00`, or as before 3.8 `2014-11-21 21:09:26`, which is UTC too.
fn time(text: &str) -> Option<Timestamp> {
    if let Ok(time) = text.parse() {
        return Some(time);
    }
    let (day, hour) = text.split_once(' ')?;
    let utc = format!("{day}T{}", hour.trim())
        .parse::<DateTime>()
        .ok()?
        .to_zoned(TimeZone::UTC)
        .ok()?;
    Some(utc.timestamp())
}

/// `GET /api/vhosts`.
#[derive(Debug, Deserialize)]
pub(super) struct Vhost {
    pub(super) name: String,
}

/// What the API says when it refuses.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Refusal {
    #[serde(default)]
    pub(super) error: Value,
    #[serde(default)]
    pub(super) reason: Value,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_queue_is_read_with_its_figures() {
        let queue: QueueInfo = serde_json::from_value(json!({
            "vhost": "/", "name": "q ü/\"x", "type": "quorum", "durable": true, "auto_delete": false,
            "exclusive": false, "arguments": { "x-queue-type": "quorum" }, "messages": 25_001, "message_bytes": 5e7,
            "memory": 10_848, "consumers": 0, "state": "running", "policy": "ha-all", "node": "rabbit@h",
            "idle_since": "2026-11-21T21:09:26.795+00:00"
        }))
        .unwrap();
        assert_eq!((&queue.name[..], &queue.kind), ("q ü/\"x", &QueueKind::Quorum));
        assert_eq!((queue.messages, queue.message_bytes), (Some(25_001), Some(50_000_000)));
        assert_eq!((queue.memory, queue.consumers), (Some(10_848), Some(0)));
        assert_eq!(queue.idle_since, Some("2026-11-21T21:09:26.795Z".parse().unwrap()));
        assert_eq!(queue.arguments["x-queue-type"], "quorum");
    }

    #[test]
    fn what_is_missing_is_not_zero() {
        let bare = json!({
            "vhost": "/", "name": "", "arguments": [], "messages": "undefined", "message_bytes": null,
            "memory": -1, "consumers": "", "policy": "", "idle_since": "soon", "state": null
        });
        let queue: QueueInfo = serde_json::from_value(bare).unwrap();
        assert_eq!(
            (queue.messages, queue.message_bytes, queue.memory, queue.consumers),
            (None, None, None, None)
        );
        assert_eq!(
            (queue.kind, queue.policy, queue.idle_since, queue.state),
            (QueueKind::Classic, None, None, None)
        );
        let error = serde_json::from_value::<QueueInfo>(json!({ "name": "q" })).unwrap_err();
        assert!(error.to_string().contains("vhost"), "{error}");
    }

    #[test]
    fn times_are_read_as_old_brokers_write_them_too() {
        let expected: Timestamp = "2014-11-21T21:09:26Z".parse().unwrap();
        for text in [
            "2014-11-21 21:09:26",
            "2014-11-21  21:09:26",
            "2014-11-21T21:09:26+00:00",
        ] {
            assert_eq!(time(text), Some(expected), "{text}");
        }
    }
}
