//! A message as a line of JSON, wherever one is kept on disk: spill files, the failed store, parked deliveries. Nothing
//! is lost: headers keep their types, and what is no text is base64.
//!
//! ```text
//! {"exchange":"xs","key":"v02.post","headers":{"n":{"i32":-5}},"body":"aHR0cA=="}
//! ```
//!
//! The first px kept failed and parked messages in another form, with all names of types in capitals and bodies as lists
//! of numbers; that is read still.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::SpoolError;
use crate::message::{Envelope, Headers, Value};

/// Headers nested deeper than this are a JSON text within the JSON: parsers have a limit.
const NESTING: usize = 30;

/// One message.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// Where it was published, if that is known.
    pub exchange: Option<String>,
    /// Somebody may have seen it before.
    pub redelivered: bool,
    /// The message.
    pub envelope: Envelope,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    exchange: Option<String>,
    #[serde(default, skip_serializing_if = "is_false")]
    redelivered: bool,
    key: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    headers: BTreeMap<String, Field>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    content_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    content_encoding: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    priority: Option<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    message_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    correlation_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reply_to: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expiration: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    timestamp: Option<u64>,
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    kind: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    app_id: Option<String>,
    body: String,
}

fn is_false(flag: &bool) -> bool {
    !flag
}

/// A header value under the name of its type.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Field {
    Bool(bool),
    I8(i8),
    U8(u8),
    I16(i16),
    U16(u16),
    I32(i32),
    U32(u32),
    I64(i64),
    F32(f64),
    F64(f64),
    /// Infinite, or no number: JSON has no word for it.
    F32Bits(u32),
    F64Bits(u64),
    Decimal(u8, u32),
    Str(String),
    /// A string that is not UTF-8.
    StrBase64(String),
    BytesBase64(String),
    Timestamp(u64),
    Array(Vec<Field>),
    Table(BTreeMap<String, Field>),
    Void,
    /// JSON text of a field.
    Nested(String),
}

#[derive(Debug, thiserror::Error)]
pub(super) enum LineError {
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    #[error("{0}")]
    Base64(#[from] base64::DecodeError),
}

/// One line, without its end.
pub(super) fn of(message: &Message) -> Result<String, SpoolError> {
    let Message {
        exchange,
        redelivered,
        envelope,
    } = message;
    json(&line(exchange.clone(), *redelivered, envelope, &envelope.body)?)
}

/// A message of which nothing more is known.
pub(super) fn of_envelope(envelope: &Envelope) -> Result<String, SpoolError> {
    json(&line(None, false, envelope, &envelope.body)?)
}

/// The same, its body aside.
pub(super) fn without_body(envelope: &Envelope) -> Result<String, SpoolError> {
    json(&line(None, false, envelope, &[])?)
}

fn line(exchange: Option<String>, redelivered: bool, envelope: &Envelope, body: &[u8]) -> Result<Line, SpoolError> {
    Ok(Line {
        exchange,
        redelivered,
        key: envelope.key.clone(),
        headers: fields(&envelope.headers, 0)?,
        content_type: envelope.content_type.clone(),
        content_encoding: envelope.content_encoding.clone(),
        priority: envelope.priority,
        message_id: envelope.message_id.clone(),
        correlation_id: envelope.correlation_id.clone(),
        reply_to: envelope.reply_to.clone(),
        expiration: envelope.expiration.clone(),
        timestamp: envelope.timestamp,
        kind: envelope.kind.clone(),
        app_id: envelope.app_id.clone(),
        body: STANDARD.encode(body),
    })
}

pub(super) fn json(value: &impl Serialize) -> Result<String, SpoolError> {
    serde_json::to_string(value).map_err(|error| SpoolError::own("cannot write a message as JSON", error))
}

fn fields(headers: &Headers, depth: usize) -> Result<BTreeMap<String, Field>, SpoolError> {
    let field = |(name, value): (&String, &Value)| Ok((name.clone(), field(value, depth)?));
    headers.iter().map(field).collect()
}

fn field(value: &Value, depth: usize) -> Result<Field, SpoolError> {
    if depth >= NESTING && matches!(value, Value::Array(_) | Value::Table(_)) {
        return Ok(Field::Nested(json(&field(value, 0)?)?));
    }
    Ok(match value {
        Value::Bool(v) => Field::Bool(*v),
        Value::I8(v) => Field::I8(*v),
        Value::U8(v) => Field::U8(*v),
        Value::I16(v) => Field::I16(*v),
        Value::U16(v) => Field::U16(*v),
        Value::I32(v) => Field::I32(*v),
        Value::U32(v) => Field::U32(*v),
        Value::I64(v) => Field::I64(*v),
        Value::F32(v) if v.is_finite() => Field::F32((*v).into()),
        Value::F32(v) => Field::F32Bits(v.to_bits()),
        Value::F64(v) if v.is_finite() => Field::F64(*v),
        Value::F64(v) => Field::F64Bits(v.to_bits()),
        Value::Decimal(scale, digits) => Field::Decimal(*scale, *digits),
        Value::Str(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => Field::Str(text.to_owned()),
            Err(_) => Field::StrBase64(STANDARD.encode(bytes)),
        },
        Value::Bytes(bytes) => Field::BytesBase64(STANDARD.encode(bytes)),
        Value::Timestamp(v) => Field::Timestamp(*v),
        Value::Array(values) => {
            let values = values.iter().map(|value| field(value, depth + 1));
            Field::Array(values.collect::<Result<_, _>>()?)
        }
        Value::Table(headers) => Field::Table(fields(headers, depth + 1)?),
        Value::Void => Field::Void,
    })
}

/// What a line says.
pub(super) fn read(line: &str) -> Result<Message, LineError> {
    let line: Line = serde_json::from_str(line)?;
    Ok(Message {
        exchange: line.exchange,
        redelivered: line.redelivered,
        envelope: Envelope {
            key: line.key,
            headers: headers(line.headers)?,
            content_type: line.content_type,
            content_encoding: line.content_encoding,
            priority: line.priority,
            message_id: line.message_id,
            correlation_id: line.correlation_id,
            reply_to: line.reply_to,
            expiration: line.expiration,
            timestamp: line.timestamp,
            kind: line.kind,
            app_id: line.app_id,
            body: STANDARD.decode(line.body)?,
        },
    })
}

/// What [`of_envelope`], [`without_body`] or the first px has written.
pub(super) fn read_envelope(text: &str) -> Result<Envelope, LineError> {
    // A body that is a list is no line, and one that is text is nothing else.
    match read(text) {
        Ok(message) => Ok(message.envelope),
        Err(error) => serde_json::from_str(text).map_err(|_| error),
    }
}

fn headers(fields: BTreeMap<String, Field>) -> Result<Headers, LineError> {
    let value = |(name, field)| Ok((name, value(field)?));
    fields.into_iter().map(value).collect()
}

fn value(field: Field) -> Result<Value, LineError> {
    Ok(match field {
        Field::Bool(v) => Value::Bool(v),
        Field::I8(v) => Value::I8(v),
        Field::U8(v) => Value::U8(v),
        Field::I16(v) => Value::I16(v),
        Field::U16(v) => Value::U16(v),
        Field::I32(v) => Value::I32(v),
        Field::U32(v) => Value::U32(v),
        Field::I64(v) => Value::I64(v),
        // It was one, so nothing is cut off.
        Field::F32(v) => Value::F32(v as f32),
        Field::F32Bits(v) => Value::F32(f32::from_bits(v)),
        Field::F64(v) => Value::F64(v),
        Field::F64Bits(v) => Value::F64(f64::from_bits(v)),
        Field::Decimal(scale, digits) => Value::Decimal(scale, digits),
        Field::Str(text) => Value::Str(text.into_bytes()),
        Field::StrBase64(text) => Value::Str(STANDARD.decode(text)?),
        Field::BytesBase64(text) => Value::Bytes(STANDARD.decode(text)?),
        Field::Timestamp(v) => Value::Timestamp(v),
        Field::Array(fields) => Value::Array(fields.into_iter().map(value).collect::<Result<_, _>>()?),
        Field::Table(fields) => Value::Table(headers(fields)?),
        Field::Void => Value::Void,
        Field::Nested(text) => value(serde_json::from_str(&text)?)?,
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn every_kind() -> Headers {
        let mut headers = Headers::from([
            ("bool".into(), Value::Bool(true)),
            ("i8".into(), Value::I8(-8)),
            ("u8".into(), Value::U8(200)),
            ("i16".into(), Value::I16(-1600)),
            ("u16".into(), Value::U16(60000)),
            ("i32".into(), Value::I32(-320000)),
            ("u32".into(), Value::U32(4_000_000_000)),
            ("i64".into(), Value::I64(i64::MIN)),
            ("f32".into(), Value::F32(0.1)),
            ("f32 max".into(), Value::F32(f32::INFINITY)),
            ("f64".into(), Value::F64(0.1 + 0.2)),
            ("f64 -0".into(), Value::F64(-0.0)),
            ("f64 max".into(), Value::F64(f64::NEG_INFINITY)),
            ("decimal".into(), Value::Decimal(2, 31415)),
            ("text".into(), Value::from("été\n\u{0}\u{2028}")),
            ("not utf-8".into(), Value::Str(vec![0xff, 0, 0x80])),
            ("bytes".into(), Value::Bytes(vec![0, 1, 0xfe])),
            ("time".into(), Value::Timestamp(u64::MAX)),
            ("void \r\n\u{0}\"".into(), Value::Void),
        ]);
        let all = headers.values().cloned().collect();
        headers.insert("table".into(), Value::Table(headers.clone()));
        headers.insert("array".into(), Value::Array(all));
        headers
    }

    /// Every property, every type of header, every byte.
    pub(in crate::spool) fn full(number: u64) -> Message {
        let text = |name: &str| Some(format!("{name} {number} \r\n\"é\u{0}"));
        Message {
            exchange: text("exchange"),
            redelivered: number.is_multiple_of(2),
            envelope: Envelope {
                key: format!("a.{number}"),
                headers: every_kind(),
                content_type: text("content type"),
                content_encoding: text("encoding"),
                priority: Some(number as u8),
                message_id: text("id"),
                correlation_id: text("correlation"),
                reply_to: text("reply"),
                expiration: text("expiration"),
                timestamp: Some(number),
                kind: text("kind"),
                app_id: text("app"),
                body: (0..=255).collect(),
            },
        }
    }

    #[test]
    fn a_line_of_either_form_is_read_and_nothing_else() {
        let envelope = full(1).envelope;
        assert_eq!(read_envelope(&of_envelope(&envelope).unwrap()).unwrap(), envelope);
        let aside = read_envelope(&without_body(&envelope).unwrap()).unwrap();
        assert_eq!((aside.body.len(), aside.headers), (0, envelope.headers));
        for bad in [
            r#"{"key":"k"}"#,
            r#"{"key":"k","body":"aHR0cA==","headers":{"n":{"I32":-5}}}"#,
            "{",
        ] {
            assert!(read_envelope(bad).is_err(), "{bad}");
        }
    }
}
