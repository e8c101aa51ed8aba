//! What brokers move: a routing key, headers, properties and a body.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A header value. The variants are AMQP 0-9-1's field types, so that a forwarded header keeps its type.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Value {
    Bool(bool),
    I8(i8),
    U8(u8),
    I16(i16),
    U16(u16),
    I32(i32),
    U32(u32),
    I64(i64),
    F32(f32),
    F64(f64),
    /// Scale, then digits.
    Decimal(u8, u32),
    /// A long string. Peers are not obliged to send UTF-8.
    Str(Vec<u8>),
    Bytes(Vec<u8>),
    /// Seconds since 1970.
    Timestamp(u64),
    Array(Vec<Value>),
    Table(Headers),
    Void,
}

/// Headers by name. Two envelopes with the same headers compare equal whatever their order was.
pub type Headers = BTreeMap<String, Value>;

impl Value {
    /// The value as text, if it is a string of valid UTF-8.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::Str(bytes) | Value::Bytes(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Value::Str(text.as_bytes().to_vec())
    }
}

/// The header of a message that px could not read as it came: a table that says why, and holds what was there. Only px
/// sets it.
pub const UNREADABLE: &str = "x-px-unreadable";

/// One message as a broker carries it. Everything here survives a forward untouched.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Envelope {
    /// Routing key, at most 255 bytes.
    pub key: String,
    /// Application headers.
    pub headers: Headers,
    /// MIME type of the body.
    pub content_type: Option<String>,
    /// Encoding of the body.
    pub content_encoding: Option<String>,
    /// 0..=255; brokers honour it only on priority queues.
    pub priority: Option<u8>,
    /// The publisher's own id.
    pub message_id: Option<String>,
    /// What this message answers.
    pub correlation_id: Option<String>,
    /// Where an answer goes.
    pub reply_to: Option<String>,
    /// Per-message time to live in milliseconds, as text.
    pub expiration: Option<String>,
    /// Seconds since 1970.
    pub timestamp: Option<u64>,
    /// The publisher's message type.
    pub kind: Option<String>,
    /// The publisher's program.
    pub app_id: Option<String>,
    /// The bytes.
    pub body: Vec<u8>,
}

impl Envelope {
    /// Why this message is not what was published: something of it could not be read. It is kept and shown, and neither
    /// worked on nor published again.
    pub fn unreadable(&self) -> Option<String> {
        let why = match self.headers.get(UNREADABLE)? {
            Value::Table(mark) => mark.get("why").and_then(Value::as_str),
            _ => None,
        };
        Some(match why {
            Some(why) => format!("the message cannot be read: {why}"),
            None => format!("the message has a header {UNREADABLE}, which is for px alone to set"),
        })
    }
}
