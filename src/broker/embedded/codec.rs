//! An envelope as it lies in the file: key, properties and body, each in its own column. The properties are packed
//! here and not written as JSON, for a header keeps its exact type and value, NaN and broken UTF-8 included.

use super::reason::Reason;
use crate::message::{Envelope, Headers, Value};

/// The longest routing key, header name or property, as on AMQP: what one transport carries all do.
const SHORT_MAX: usize = 255;
/// The largest body, as RabbitMQ's default.
pub(super) const BODY_MAX: usize = 128 << 20;
/// The largest headers and properties together, packed.
const PROPERTIES_MAX: usize = 1 << 20;
/// How deep tables and arrays may nest: packing is recursive and a message may be hostile.
const DEPTH_MAX: usize = 32;
/// The first byte of packed properties.
const VERSION: u8 = 1;

/// An envelope ready for the file.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Content {
    pub key: String,
    pub properties: Vec<u8>,
    pub body: Vec<u8>,
}

impl Content {
    /// Packs an envelope. One that is beyond the limits is a message fault.
    pub fn pack(envelope: &Envelope) -> Result<Content, Reason> {
        if envelope.key.len() > SHORT_MAX {
            return Err(Reason::message(format!(
                "cannot publish a key of {} bytes; {SHORT_MAX} are allowed",
                envelope.key.len()
            )));
        }
        if envelope.body.len() > BODY_MAX {
            return Err(Reason::message(format!(
                "cannot publish a body of {} bytes; {BODY_MAX} are allowed",
                envelope.body.len()
            )));
        }
        let properties = pack_properties(envelope).ok_or_else(|| {
            Reason::message(format!(
                "cannot publish headers nested deeper than {DEPTH_MAX} or larger than {PROPERTIES_MAX} bytes, or a \
                 property or header name longer than {SHORT_MAX} bytes"
            ))
        })?;
        Ok(Content {
            key: envelope.key.clone(),
            properties,
            body: envelope.body.clone(),
        })
    }

    /// The envelope again; `None` when the properties were not written by this code.
    pub fn unpack(self) -> Option<Envelope> {
        let mut reader = Reader(&self.properties);
        if reader.byte()? != VERSION {
            return None;
        }
        let envelope = Envelope {
            content_type: reader.text()?,
            content_encoding: reader.text()?,
            message_id: reader.text()?,
            correlation_id: reader.text()?,
            reply_to: reader.text()?,
            expiration: reader.text()?,
            kind: reader.text()?,
            app_id: reader.text()?,
            priority: reader.option(Reader::byte)?,
            timestamp: reader.option(Reader::u64)?,
            headers: reader.table(DEPTH_MAX)?,
            key: self.key,
            body: self.body,
        };
        reader.0.is_empty().then_some(envelope)
    }
}

fn pack_properties(envelope: &Envelope) -> Option<Vec<u8>> {
    let mut out = vec![VERSION];
    for text in [
        &envelope.content_type,
        &envelope.content_encoding,
        &envelope.message_id,
        &envelope.correlation_id,
        &envelope.reply_to,
        &envelope.expiration,
        &envelope.kind,
        &envelope.app_id,
    ] {
        out.push(u8::from(text.is_some()));
        if let Some(text) = text {
            pack_short(&mut out, text)?;
        }
    }
    out.push(u8::from(envelope.priority.is_some()));
    out.extend(envelope.priority);
    out.push(u8::from(envelope.timestamp.is_some()));
    out.extend(envelope.timestamp.into_iter().flat_map(u64::to_be_bytes));
    pack_table(&mut out, &envelope.headers, DEPTH_MAX)?;
    (out.len() <= PROPERTIES_MAX).then_some(out)
}

fn pack_length(out: &mut Vec<u8>, length: usize) -> Option<()> {
    if out.len() + length > PROPERTIES_MAX {
        return None;
    }
    out.extend(u32::try_from(length).ok()?.to_be_bytes());
    Some(())
}

fn pack_bytes(out: &mut Vec<u8>, bytes: &[u8]) -> Option<()> {
    pack_length(out, bytes.len())?;
    out.extend(bytes);
    Some(())
}

fn pack_short(out: &mut Vec<u8>, text: &str) -> Option<()> {
    if text.len() > SHORT_MAX {
        return None;
    }
    pack_bytes(out, text.as_bytes())
}

fn pack_table(out: &mut Vec<u8>, table: &Headers, depth: usize) -> Option<()> {
    pack_length(out, table.len())?;
    for (name, value) in table {
        pack_short(out, name)?;
        pack_value(out, value, depth.checked_sub(1)?)?;
    }
    Some(())
}

/// The tags are part of the file format and stay.
fn pack_value(out: &mut Vec<u8>, value: &Value, depth: usize) -> Option<()> {
    match value {
        Value::Bool(v) => out.extend([0, u8::from(*v)]),
        Value::I8(v) => tagged(out, 1, &v.to_be_bytes()),
        Value::U8(v) => tagged(out, 2, &v.to_be_bytes()),
        Value::I16(v) => tagged(out, 3, &v.to_be_bytes()),
        Value::U16(v) => tagged(out, 4, &v.to_be_bytes()),
        Value::I32(v) => tagged(out, 5, &v.to_be_bytes()),
        Value::U32(v) => tagged(out, 6, &v.to_be_bytes()),
        Value::I64(v) => tagged(out, 7, &v.to_be_bytes()),
        Value::F32(v) => tagged(out, 8, &v.to_be_bytes()),
        Value::F64(v) => tagged(out, 9, &v.to_be_bytes()),
        Value::Decimal(scale, digits) => {
            out.extend([10, *scale]);
            out.extend(digits.to_be_bytes());
        }
        Value::Str(v) => {
            out.push(11);
            pack_bytes(out, v)?;
        }
        Value::Bytes(v) => {
            out.push(12);
            pack_bytes(out, v)?;
        }
        Value::Timestamp(v) => tagged(out, 13, &v.to_be_bytes()),
        Value::Array(values) => {
            out.push(14);
            pack_length(out, values.len())?;
            for value in values {
                pack_value(out, value, depth.checked_sub(1)?)?;
            }
        }
        Value::Table(table) => {
            out.push(15);
            pack_table(out, table, depth)?;
        }
        Value::Void => out.push(16),
    }
    Some(())
}

fn tagged(out: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    out.push(tag);
    out.extend(bytes);
}

/// What is left to unpack.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take(&mut self, length: usize) -> Option<&[u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn byte(&mut self) -> Option<u8> {
        self.array().map(u8::from_be_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    fn length(&mut self) -> Option<usize> {
        usize::try_from(u32::from_be_bytes(self.array()?)).ok()
    }

    fn bytes(&mut self) -> Option<Vec<u8>> {
        let length = self.length()?;
        self.take(length).map(<[u8]>::to_vec)
    }

    fn option<T>(&mut self, read: impl Fn(&mut Self) -> Option<T>) -> Option<Option<T>> {
        match self.byte()? {
            0 => Some(None),
            1 => read(self).map(Some),
            _ => None,
        }
    }

    fn text(&mut self) -> Option<Option<String>> {
        self.option(|reader| String::from_utf8(reader.bytes()?).ok())
    }

    fn table(&mut self, depth: usize) -> Option<Headers> {
        let mut table = Headers::new();
        for _ in 0..self.length()? {
            let name = String::from_utf8(self.bytes()?).ok()?;
            table.insert(name, self.value(depth.checked_sub(1)?)?);
        }
        Some(table)
    }

    fn value(&mut self, depth: usize) -> Option<Value> {
        Some(match self.byte()? {
            0 => Value::Bool(self.byte()? != 0),
            1 => Value::I8(i8::from_be_bytes(self.array()?)),
            2 => Value::U8(self.byte()?),
            3 => Value::I16(i16::from_be_bytes(self.array()?)),
            4 => Value::U16(u16::from_be_bytes(self.array()?)),
            5 => Value::I32(i32::from_be_bytes(self.array()?)),
            6 => Value::U32(u32::from_be_bytes(self.array()?)),
            7 => Value::I64(i64::from_be_bytes(self.array()?)),
            8 => Value::F32(f32::from_be_bytes(self.array()?)),
            9 => Value::F64(f64::from_be_bytes(self.array()?)),
            10 => Value::Decimal(self.byte()?, u32::from_be_bytes(self.array()?)),
            11 => Value::Str(self.bytes()?),
            12 => Value::Bytes(self.bytes()?),
            13 => Value::Timestamp(self.u64()?),
            14 => {
                let mut values = Vec::new();
                for _ in 0..self.length()? {
                    values.push(self.value(depth.checked_sub(1)?)?);
                }
                Value::Array(values)
            }
            15 => Value::Table(self.table(depth)?),
            16 => Value::Void,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(Value::Bool),
            any::<i8>().prop_map(Value::I8),
            any::<u8>().prop_map(Value::U8),
            any::<i16>().prop_map(Value::I16),
            any::<u16>().prop_map(Value::U16),
            any::<i32>().prop_map(Value::I32),
            any::<u32>().prop_map(Value::U32),
            any::<i64>().prop_map(Value::I64),
            any::<f32>().prop_map(Value::F32),
            any::<f64>().prop_map(Value::F64),
            (any::<u8>(), any::<u32>()).prop_map(|(scale, digits)| Value::Decimal(scale, digits)),
            any::<Vec<u8>>().prop_map(Value::Str),
            any::<Vec<u8>>().prop_map(Value::Bytes),
            any::<u64>().prop_map(Value::Timestamp),
            Just(Value::Void),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
                prop::collection::btree_map(".{0,60}", inner, 0..4).prop_map(Value::Table),
            ]
        })
    }

    proptest! {
        #[test]
        fn an_envelope_comes_back_as_it_was(
            headers in prop::collection::btree_map(".{0,60}", any_value(), 0..6),
            texts in prop::collection::vec(prop::option::of(".{0,60}"), 8),
            priority in any::<Option<u8>>(),
            timestamp in any::<Option<u64>>(),
            body in any::<Vec<u8>>(),
        ) {
            let envelope = Envelope {
                key: "v02.post.a".into(),
                headers,
                content_type: texts[0].clone(),
                content_encoding: texts[1].clone(),
                priority,
                message_id: texts[2].clone(),
                correlation_id: texts[3].clone(),
                reply_to: texts[4].clone(),
                expiration: texts[5].clone(),
                timestamp,
                kind: texts[6].clone(),
                app_id: texts[7].clone(),
                body,
            };
            let again = Content::pack(&envelope).unwrap().unpack().unwrap();
            // NaN is not equal to itself: compare what would be written.
            prop_assert_eq!(format!("{:?}", again), format!("{:?}", envelope));
        }

        #[test]
        fn rubbish_is_refused_without_a_panic(mut properties in any::<Vec<u8>>()) {
            properties.insert(0, VERSION);
            let content = Content { key: String::new(), properties, body: Vec::new() };
            prop_assert!(content.clone().unpack().is_none_or(|envelope| envelope.body.is_empty()));
        }
    }

    #[test]
    fn what_is_beyond_the_limits_is_a_message_fault() {
        let mut nested = Value::Void;
        for _ in 0..=DEPTH_MAX {
            nested = Value::Array(vec![nested]);
        }
        let with_header = |value| Envelope {
            headers: [("x".to_string(), value)].into(),
            ..Envelope::default()
        };
        let table = [
            Envelope {
                key: "k".repeat(SHORT_MAX + 1),
                ..Envelope::default()
            },
            Envelope {
                body: vec![0; BODY_MAX + 1],
                ..Envelope::default()
            },
            Envelope {
                message_id: Some("i".repeat(SHORT_MAX + 1)),
                ..Envelope::default()
            },
            Envelope {
                headers: [("n".repeat(SHORT_MAX + 1), Value::Void)].into(),
                ..Envelope::default()
            },
            with_header(nested),
            with_header(Value::Bytes(vec![0; PROPERTIES_MAX])),
        ];
        for envelope in table {
            let refusal = Content::pack(&envelope).unwrap_err();
            assert_eq!(refusal.fault, crate::message::Fault::Message, "{refusal:?}");
        }
    }
}
