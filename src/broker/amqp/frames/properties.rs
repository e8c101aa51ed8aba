//! Whether the library can read the properties of a message, without reading them.

use crate::message::UNREADABLE;

/// Tables and arrays within each other. Who reads or stores headers recurses into them.
const NESTING_MAX: usize = 64;

const BROKEN: &str = "its properties are broken off or of a type that AMQP 0-9-1 does not have";
const HEADER_NAME: &str = "the name of one of its headers is not UTF-8";
const NESTED: &str = "its headers are nested more than 64 deep";
const MARKED: &str = "it has a header x-px-unreadable, which is for px alone to set";

/// What stands in the properties, in this order, each if its flag is set; the first has the highest bit.
const PROPERTIES: [Property; 14] = [
    Property::Text("its content_type is not UTF-8"),
    Property::Text("its content_encoding is not UTF-8"),
    Property::Headers,
    Property::Bytes(1), // delivery mode
    Property::Bytes(1), // priority
    Property::Text("its correlation_id is not UTF-8"),
    Property::Text("its reply_to is not UTF-8"),
    Property::Text("its expiration is not UTF-8"),
    Property::Text("its message_id is not UTF-8"),
    Property::Bytes(8), // timestamp
    Property::Text("its type is not UTF-8"),
    Property::Text("its user_id is not UTF-8"),
    Property::Text("its app_id is not UTF-8"),
    Property::Text("its cluster_id is not UTF-8"),
];

enum Property {
    /// With what is to be said of one that is none.
    Text(&'static str),
    Headers,
    Bytes(usize),
}

/// That these properties, flags and all, can be read and have no header of ours; else why not.
pub(in crate::broker::amqp) fn check(properties: &[u8]) -> Result<(), &'static str> {
    let mut fields = Fields(properties);
    let flags = fields.u16().ok_or(BROKEN)?;
    for (bit, property) in PROPERTIES.iter().enumerate() {
        if flags & (1 << (15 - bit)) == 0 {
            continue;
        }
        match property {
            Property::Text(otherwise) => {
                if !is_text(fields.short().ok_or(BROKEN)?) {
                    return Err(otherwise);
                }
            }
            Property::Headers => check_table(fields.long().ok_or(BROKEN)?, 0)?,
            Property::Bytes(count) => drop(fields.take(*count).ok_or(BROKEN)?),
        }
    }
    if fields.0.is_empty() { Ok(()) } else { Err(BROKEN) }
}

fn check_table(table: &[u8], depth: usize) -> Result<(), &'static str> {
    let mut fields = Fields(table);
    while !fields.0.is_empty() {
        let name = fields.short().ok_or(BROKEN)?;
        if !is_text(name) {
            return Err(HEADER_NAME);
        }
        if depth == 0 && name == UNREADABLE.as_bytes() {
            return Err(MARKED);
        }
        check_value(&mut fields, depth)?;
    }
    Ok(())
}

fn check_value(fields: &mut Fields<'_>, depth: usize) -> Result<(), &'static str> {
    let [kind] = fields.take(1).ok_or(BROKEN)? else {
        unreachable!("one byte was taken")
    };
    let taken = match kind {
        b'V' => Some(&[][..]),
        b't' | b'b' | b'B' => fields.take(1),
        b's' | b'U' | b'u' => fields.take(2),
        b'I' | b'i' | b'f' => fields.take(4),
        b'D' => fields.take(5),
        b'l' | b'L' | b'd' | b'T' => fields.take(8),
        b'S' | b'x' => fields.long(),
        b'A' | b'F' if depth >= NESTING_MAX => return Err(NESTED),
        b'F' => return check_table(fields.long().ok_or(BROKEN)?, depth + 1),
        b'A' => {
            let mut array = Fields(fields.long().ok_or(BROKEN)?);
            while !array.0.is_empty() {
                check_value(&mut array, depth + 1)?;
            }
            return Ok(());
        }
        _ => None,
    };
    taken.map(drop).ok_or(BROKEN)
}

pub(super) fn is_text(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok()
}

/// Fields of the wire, taken one by one; `None` where they are broken off.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn number<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.number().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.number().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.number().map(u64::from_be_bytes)
    }

    /// What has one byte of length before it.
    pub(super) fn short(&mut self) -> Option<&'a [u8]> {
        let [length] = self.number()?;
        self.take(length.into())
    }

    /// What has four bytes of length before it.
    fn long(&mut self) -> Option<&'a [u8]> {
        let length = self.u32()?;
        self.take(length as usize)
    }
}
