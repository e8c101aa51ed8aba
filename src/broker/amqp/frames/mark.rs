//! The header that a replaced message has in place of its own properties.

use crate::message::UNREADABLE;

/// What it says.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::broker::amqp) struct Mark {
    /// What could not be read; `None` where all could, but was too long for a frame.
    pub(in crate::broker::amqp) why: Option<String>,
    /// Exchange and routing key as they were, where one of them could not be read.
    pub(in crate::broker::amqp) names: Option<(Vec<u8>, Vec<u8>)>,
    /// So many bytes at the beginning of the body are the properties as they were.
    pub(in crate::broker::amqp) length: usize,
}

impl Mark {
    pub(in crate::broker::amqp) const WHY: &str = "why";
    pub(in crate::broker::amqp) const EXCHANGE: &str = "exchange";
    pub(in crate::broker::amqp) const KEY: &str = "key";
    pub(in crate::broker::amqp) const PROPERTIES: &str = "properties";

    /// Adds a table of headers that has this one and no other.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let mut mark = Vec::new();
        if let Some(why) = &self.why {
            write_field(&mut mark, Mark::WHY, b'S', Some(why.as_bytes()));
        }
        if let Some((exchange, key)) = &self.names {
            write_field(&mut mark, Mark::EXCHANGE, b'x', Some(exchange));
            write_field(&mut mark, Mark::KEY, b'x', Some(key));
        }
        write_field(&mut mark, Mark::PROPERTIES, b'l', None);
        mark.extend((self.length as u64).to_be_bytes());
        let mut headers = Vec::new();
        write_field(&mut headers, UNREADABLE, b'F', Some(&mark));
        write_long(out, &headers);
    }
}

/// A name, a type, and its value if that has a length.
fn write_field(out: &mut Vec<u8>, name: &str, kind: u8, value: Option<&[u8]>) {
    out.push(name.len() as u8); // the names are ours
    out.extend(name.as_bytes());
    out.push(kind);
    if let Some(value) = value {
        write_long(out, value);
    }
}

fn write_long(out: &mut Vec<u8>, value: &[u8]) {
    out.extend((value.len() as u32).to_be_bytes());
    out.extend(value);
}
