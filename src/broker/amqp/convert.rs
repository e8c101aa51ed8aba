//! Envelopes to AMQP properties and back, without losing a type.

use lapin::BasicProperties;
use lapin::message::Delivery;
use lapin::types::{AMQPValue, ByteArray, DecimalValue, FieldArray, FieldTable, ShortString};

use super::classify::fault;
use super::frames::{Mark, check};
use crate::broker::BrokerError;
use crate::message::{Envelope, Fault, Headers, UNREADABLE, Value};

/// Delivery mode 2: the broker writes it to disk before it confirms.
const PERSISTENT: u8 = 2;

/// What a content header takes beside its properties: frame (8), class, weight, size and flags (14), and the fixed
/// parts of every property.
const HEADER_OVERHEAD: usize = 64;

/// The properties of a persistent message. A message fault when a text exceeds AMQP's 255 bytes or the headers do not
/// fit into one frame (the broker would close the connection, and so for ever).
pub(super) fn to_properties(envelope: &Envelope, frame_max: u32) -> Result<BasicProperties, BrokerError> {
    let mut properties = BasicProperties::default().with_delivery_mode(PERSISTENT);
    let mut bytes = HEADER_OVERHEAD;
    if !envelope.headers.is_empty() {
        bytes += table_bytes(&envelope.headers);
        properties = properties.with_headers(to_table(&envelope.headers)?);
    }
    if let Some(priority) = envelope.priority {
        properties = properties.with_priority(priority);
    }
    if let Some(timestamp) = envelope.timestamp {
        properties = properties.with_timestamp(timestamp);
    }
    type Setter = fn(BasicProperties, ShortString) -> BasicProperties;
    let texts: [(&str, &Option<String>, Setter); 8] = [
        (
            "content type",
            &envelope.content_type,
            BasicProperties::with_content_type,
        ),
        (
            "content encoding",
            &envelope.content_encoding,
            BasicProperties::with_content_encoding,
        ),
        ("message id", &envelope.message_id, BasicProperties::with_message_id),
        (
            "correlation id",
            &envelope.correlation_id,
            BasicProperties::with_correlation_id,
        ),
        ("reply-to", &envelope.reply_to, BasicProperties::with_reply_to),
        ("expiration", &envelope.expiration, BasicProperties::with_expiration),
        ("message type", &envelope.kind, BasicProperties::with_type),
        ("application id", &envelope.app_id, BasicProperties::with_app_id),
    ];
    for (name, text, set) in texts {
        if let Some(text) = text {
            bytes += 1 + text.len();
            properties = set(properties, short(text, name)?);
        }
    }
    if bytes > frame_max as usize {
        let what =
            format!("headers of {bytes} bytes do not fit into one frame of {frame_max}; raise ?frame_max= in the URL");
        return Err(fault(Fault::Message, what));
    }
    Ok(properties)
}

/// A text of at most 255 bytes, else a message fault that names it.
pub(super) fn short(text: &str, name: &str) -> Result<ShortString, BrokerError> {
    ShortString::try_new(text).map_err(|_| {
        fault(
            Fault::Message,
            format!("{name} of {} bytes; AMQP takes at most 255", text.len()),
        )
    })
}

/// What arrived, as an envelope, and where it was published, if that can be read. What a [`Mark`] says was moved is where
/// it was again.
pub(super) fn to_envelope(delivery: Delivery) -> (Option<String>, Envelope) {
    let (key, exchange) = (delivery.routing_key.as_str(), delivery.exchange.as_str());
    let (mut properties, mut body) = (delivery.properties, delivery.data);
    let mut exchange = Some(exchange.to_owned());
    let mut moved = None;
    if let Some(mut mark) = found_mark(&properties) {
        let rest = body.split_off(mark.length.min(body.len()));
        let original = std::mem::replace(&mut body, rest);
        properties = read_properties(&original).unwrap_or_else(|| {
            mark.why
                .get_or_insert_with(|| "its properties cannot be parsed".to_owned());
            BasicProperties::default()
        });
        if mark
            .names
            .as_ref()
            .is_some_and(|(name, _)| std::str::from_utf8(name).is_err())
        {
            exchange = None;
        }
        moved = mark.why.is_some().then(|| kept_mark(mark, original));
    }
    let mut headers = properties.headers().as_ref().map(from_table).unwrap_or_default();
    headers.extend(moved.map(|mark| (UNREADABLE.to_owned(), mark)));
    let text = |text: &Option<ShortString>| text.as_ref().map(|text| text.as_str().to_owned());
    let envelope = Envelope {
        key: key.to_owned(),
        headers,
        content_type: text(properties.content_type()),
        content_encoding: text(properties.content_encoding()),
        priority: *properties.priority(),
        message_id: text(properties.message_id()),
        correlation_id: text(properties.correlation_id()),
        reply_to: text(properties.reply_to()),
        expiration: text(properties.expiration()),
        timestamp: *properties.timestamp(),
        kind: text(properties.kind()),
        app_id: text(properties.app_id()),
        body,
    };
    (exchange, envelope)
}

/// The mark of a message that was replaced on its way in.
fn found_mark(properties: &BasicProperties) -> Option<Mark> {
    let AMQPValue::FieldTable(mark) = properties.headers().as_ref()?.inner().get(UNREADABLE)? else {
        return None;
    };
    let mark = mark.inner();
    let bytes = |name: &str| match mark.get(name) {
        Some(AMQPValue::ByteArray(bytes)) => Some(bytes.as_slice().to_vec()),
        _ => None,
    };
    let AMQPValue::LongLongInt(length) = mark.get(Mark::PROPERTIES)? else {
        return None;
    };
    Some(Mark {
        why: match mark.get(Mark::WHY) {
            Some(AMQPValue::LongString(why)) => Some(why.to_string()),
            _ => None,
        },
        names: bytes(Mark::EXCHANGE).zip(bytes(Mark::KEY)),
        length: usize::try_from(*length).ok()?,
    })
}

/// The mark as it stays with the envelope: all bytes that were moved or taken out are in it.
fn kept_mark(mark: Mark, properties: Vec<u8>) -> Value {
    let mut kept = Headers::from([(Mark::PROPERTIES.to_owned(), Value::Bytes(properties))]);
    if let Some(why) = mark.why {
        kept.insert(Mark::WHY.to_owned(), Value::Str(why.into_bytes()));
    }
    if let Some((exchange, key)) = mark.names {
        kept.insert(Mark::EXCHANGE.to_owned(), Value::Bytes(exchange));
        kept.insert(Mark::KEY.to_owned(), Value::Bytes(key));
    }
    Value::Table(kept)
}

/// Properties as they were on the wire, unless they are why the message cannot be read.
fn read_properties(original: &[u8]) -> Option<BasicProperties> {
    check(original).ok()?;
    lapin::protocol::basic::parse_properties(original)
        .ok()
        .map(|(_, properties)| properties)
}

fn to_table(headers: &Headers) -> Result<FieldTable, BrokerError> {
    let mut table = FieldTable::default();
    for (name, value) in headers {
        table.insert(short(name, "header name")?, to_value(value)?);
    }
    Ok(table)
}

fn to_value(value: &Value) -> Result<AMQPValue, BrokerError> {
    Ok(match value {
        Value::Bool(v) => AMQPValue::Boolean(*v),
        Value::I8(v) => AMQPValue::ShortShortInt(*v),
        Value::U8(v) => AMQPValue::ShortShortUInt(*v),
        Value::I16(v) => AMQPValue::ShortInt(*v),
        Value::U16(v) => AMQPValue::ShortUInt(*v),
        Value::I32(v) => AMQPValue::LongInt(*v),
        Value::U32(v) => AMQPValue::LongUInt(*v),
        Value::I64(v) => AMQPValue::LongLongInt(*v),
        Value::F32(v) => AMQPValue::Float(*v),
        Value::F64(v) => AMQPValue::Double(*v),
        Value::Decimal(scale, value) => AMQPValue::DecimalValue(DecimalValue {
            scale: *scale,
            value: *value,
        }),
        Value::Str(bytes) => AMQPValue::LongString(bytes.clone().into()),
        Value::Bytes(bytes) => AMQPValue::ByteArray(ByteArray::from(bytes.clone())),
        Value::Timestamp(v) => AMQPValue::Timestamp(*v),
        Value::Array(values) => {
            let values = values.iter().map(to_value).collect::<Result<Vec<_>, _>>()?;
            AMQPValue::FieldArray(FieldArray::from(values))
        }
        Value::Table(headers) => AMQPValue::FieldTable(to_table(headers)?),
        Value::Void => AMQPValue::Void,
    })
}

/// Not nested without bound: see [`check`].
fn from_table(table: &FieldTable) -> Headers {
    table
        .into_iter()
        .map(|(name, value)| (name.as_str().to_owned(), from_value(value)))
        .collect()
}

fn from_value(value: &AMQPValue) -> Value {
    match value {
        AMQPValue::Boolean(v) => Value::Bool(*v),
        AMQPValue::ShortShortInt(v) => Value::I8(*v),
        AMQPValue::ShortShortUInt(v) => Value::U8(*v),
        AMQPValue::ShortInt(v) => Value::I16(*v),
        AMQPValue::ShortUInt(v) => Value::U16(*v),
        AMQPValue::LongInt(v) => Value::I32(*v),
        AMQPValue::LongUInt(v) => Value::U32(*v),
        AMQPValue::LongLongInt(v) => Value::I64(*v),
        AMQPValue::Float(v) => Value::F32(*v),
        AMQPValue::Double(v) => Value::F64(*v),
        AMQPValue::DecimalValue(v) => Value::Decimal(v.scale, v.value),
        // Never on the wire: RabbitMQ's 's' is a 16-bit integer.
        AMQPValue::ShortString(v) => Value::Str(v.as_str().as_bytes().to_vec()),
        AMQPValue::LongString(v) => Value::Str(v.as_bytes().to_vec()),
        AMQPValue::FieldArray(v) => Value::Array(v.as_slice().iter().map(from_value).collect()),
        AMQPValue::Timestamp(v) => Value::Timestamp(*v),
        AMQPValue::FieldTable(v) => Value::Table(from_table(v)),
        AMQPValue::ByteArray(v) => Value::Bytes(v.as_slice().to_vec()),
        AMQPValue::Void => Value::Void,
    }
}

fn table_bytes(headers: &Headers) -> usize {
    4 + headers
        .iter()
        .map(|(name, value)| 2 + name.len() + value_bytes(value))
        .sum::<usize>()
}

fn value_bytes(value: &Value) -> usize {
    match value {
        Value::Void => 0,
        Value::Bool(_) | Value::I8(_) | Value::U8(_) => 1,
        Value::I16(_) | Value::U16(_) => 2,
        Value::I32(_) | Value::U32(_) | Value::F32(_) => 4,
        Value::Decimal(..) => 5,
        Value::I64(_) | Value::F64(_) | Value::Timestamp(_) => 8,
        Value::Str(bytes) | Value::Bytes(bytes) => 4 + bytes.len(),
        Value::Array(values) => 4 + values.iter().map(|value| 1 + value_bytes(value)).sum::<usize>(),
        Value::Table(headers) => table_bytes(headers),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_type() -> Headers {
        let mut headers = Headers::from([
            ("bool".into(), Value::Bool(true)),
            ("i8".into(), Value::I8(-8)),
            ("u8".into(), Value::U8(200)),
            ("i16".into(), Value::I16(-1600)),
            ("u16".into(), Value::U16(60000)),
            ("i32".into(), Value::I32(-320000)),
            ("u32".into(), Value::U32(4_000_000_000)),
            ("i64".into(), Value::I64(i64::MIN)),
            ("f32".into(), Value::F32(1.5)),
            ("f64".into(), Value::F64(-2.25)),
            ("decimal".into(), Value::Decimal(2, 31415)),
            ("text".into(), Value::from("été")),
            ("not utf-8".into(), Value::Str(vec![0xff, 0, 0x80])),
            ("bytes".into(), Value::Bytes(vec![0, 1, 0xfe])),
            ("time".into(), Value::Timestamp(1_700_000_000)),
            ("void".into(), Value::Void),
        ]);
        let all = headers.values().cloned().collect();
        headers.insert("table".into(), Value::Table(headers.clone()));
        headers.insert("array".into(), Value::Array(all));
        headers
    }

    #[test]
    fn headers_of_every_type_come_back_as_they_were() {
        assert_eq!(from_table(&to_table(&every_type()).unwrap()), every_type());
    }

    #[test]
    fn a_text_beyond_255_bytes_is_the_messages_fault() {
        let long = "x".repeat(256);
        let cases = [
            Envelope {
                content_type: Some(long.clone()),
                ..Envelope::default()
            },
            Envelope {
                headers: Headers::from([(long.clone(), Value::Void)]),
                ..Envelope::default()
            },
            Envelope {
                headers: Headers::from([("t".into(), Value::Table(Headers::from([(long, Value::Void)])))]),
                ..Envelope::default()
            },
        ];
        for envelope in cases {
            assert_eq!(to_properties(&envelope, 16384).unwrap_err().fault, Fault::Message);
        }
    }

    #[test]
    fn headers_beyond_a_frame_are_the_messages_fault() {
        let fits = |bytes: usize| {
            let headers = Headers::from([("h".into(), Value::Bytes(vec![0; bytes]))]);
            to_properties(
                &Envelope {
                    headers,
                    ..Envelope::default()
                },
                16384,
            )
            .is_ok()
        };
        assert!(fits(16000));
        assert!(!fits(16384));
    }
}
