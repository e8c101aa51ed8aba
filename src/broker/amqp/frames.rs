//! Between the socket and the library, in the reading direction: what the library cannot read becomes such as it can.
//! One such frame would end the connection, and come again with the next one, for ever.
//!
//! Bytes in, bytes out. Nearly all go through where they lie: bodies are not looked at. A delivery whose routing key,
//! exchange or properties cannot be read keeps its delivery tag, its redelivered flag and its body. Names that cannot be
//! read are empty, the properties stand before the body as it was, and the only header, `x-px-unreadable`, tells why and
//! what was there: see [`Mark`]. Properties that are merely longer than a frame may be go the same way, without a reason:
//! they are properties again in the envelope.
//!
//! A message that brings a header of that name itself counts as unreadable. So behind this filter the mark is its own.
//!
//! Nonsense goes through: the library complains, and the connection ends.

use std::collections::HashMap;

mod mark;
mod properties;
#[cfg(test)]
mod tests;

pub(super) use mark::Mark;
pub(super) use properties::check;
use properties::{Fields, is_text};

const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
const HEARTBEAT: u8 = 8;
const FRAME_END: u8 = 0xce;
/// Type, channel, size.
const HEAD: usize = 7;
/// Head and end.
const AROUND: usize = HEAD + 1;
/// Every method that is looked at is shorter.
const METHOD_MAX: usize = 2048;
/// A longer content header is not collected. RabbitMQ passes on none that is longer than its own frame_max, which is
/// 128 KiB unless it is told otherwise.
const HEADER_MAX: usize = 16 << 20;
/// The least that peers agree on.
const FRAME_MAX_MIN: usize = 4096;

/// Class and method.
const TUNE: (u16, u16) = (10, 30);
const RETURN: (u16, u16) = (60, 50);
const DELIVER: (u16, u16) = (60, 60);
const GET_OK: (u16, u16) = (60, 71);
const BASIC: u16 = 60;
/// Class, weight, size of the body: what stands before the properties.
const HEADER_FIXED: usize = 12;
/// Properties that are a table of headers and nothing else.
const HEADERS_ONLY: u16 = 1 << 13;

/// The reading direction of one connection.
#[derive(Debug)]
pub(super) struct Filter {
    /// The longest frame that the library takes.
    frame_max: usize,
    /// So many bytes go through before the next frame begins.
    left: usize,
    /// The beginning of a frame that is looked at as a whole.
    held: Vec<u8>,
    /// Deliveries whose names could not be read, by channel, until their header comes.
    unreadable: HashMap<u16, Route>,
}

/// How a message came here, as it was on the wire.
#[derive(Debug)]
struct Route {
    exchange: Vec<u8>,
    key: Vec<u8>,
    why: &'static str,
}

/// What becomes of the frame at the beginning of some bytes.
enum Frame {
    /// So many bytes go through.
    Through(usize),
    /// So many bytes are replaced by these.
    Replaced(usize, Vec<u8>),
    /// It must be collected up to this length to be judged.
    Partial(usize),
}

impl Filter {
    /// For a connection whose frames have at most `frame_max` bytes, or fewer if the broker says so.
    pub(super) fn new(frame_max: u32) -> Self {
        Filter {
            frame_max: (frame_max as usize).max(FRAME_MAX_MIN),
            left: 0,
            held: Vec::new(),
            unreadable: HashMap::new(),
        }
    }

    /// It waits for the rest of a frame: the next bytes cannot stay where they lie.
    pub(super) fn is_holding(&self) -> bool {
        !self.held.is_empty()
    }

    /// Takes the next bytes. The answer says how many of them go through where they lie; what comes after those is
    /// added to `out`.
    pub(super) fn read(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> usize {
        let (mut at, mut through) = (0, 0);
        let mut in_place = !self.is_holding();
        while at < bytes.len() {
            if self.left > 0 {
                let step = self.left.min(bytes.len() - at);
                match in_place {
                    true => through += step,
                    false => out.extend(&bytes[at..at + step]),
                }
                self.left -= step;
                at += step;
            } else if self.is_holding() {
                at += self.collect(&bytes[at..], out);
            } else {
                match self.look(&bytes[at..]) {
                    Frame::Through(length) => self.left = length,
                    Frame::Replaced(length, by) => {
                        in_place = false;
                        out.extend(by);
                        at += length;
                    }
                    Frame::Partial(_) => {
                        in_place = false;
                        self.held.extend(&bytes[at..]);
                        at = bytes.len();
                    }
                }
            }
        }
        through
    }

    /// Goes on with the frame that is held. The answer is how many bytes it took.
    fn collect(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> usize {
        let mut held = std::mem::take(&mut self.held);
        let mut at = 0;
        loop {
            match self.look(&held) {
                Frame::Partial(whole) => {
                    let step = whole.saturating_sub(held.len()).min(bytes.len() - at);
                    held.extend(&bytes[at..at + step]);
                    at += step;
                    if held.len() < whole {
                        self.held = held;
                        return at;
                    }
                }
                Frame::Through(length) => {
                    self.left = length.saturating_sub(held.len());
                    out.extend(held);
                    return at;
                }
                Frame::Replaced(_, by) => {
                    out.extend(by);
                    return at;
                }
            }
        }
    }

    /// Judges the frame that begins here.
    fn look(&mut self, bytes: &[u8]) -> Frame {
        // Whatever this is, there are no frames in it that could be found.
        const NONSENSE: Frame = Frame::Through(usize::MAX);
        let Some((head, _)) = bytes.split_first_chunk::<HEAD>() else {
            return match bytes.first() {
                Some(&(METHOD | HEADER | BODY | HEARTBEAT)) | None => Frame::Partial(HEAD),
                Some(_) => NONSENSE,
            };
        };
        let [kind, c1, c0, s3, s2, s1, s0] = *head;
        let channel = u16::from_be_bytes([c1, c0]);
        let size = u32::from_be_bytes([s3, s2, s1, s0]) as usize;
        let whole = AROUND + size;
        match kind {
            METHOD if size <= METHOD_MAX => {}
            HEADER if size <= HEADER_MAX => {}
            METHOD | HEADER | BODY | HEARTBEAT => return Frame::Through(whole),
            _ => return NONSENSE,
        }
        let Some(frame) = bytes.get(..whole) else {
            return Frame::Partial(whole);
        };
        let [_, _, _, _, _, _, _, payload @ .., FRAME_END] = frame else {
            return NONSENSE;
        };
        let by = match kind {
            METHOD => self.method(channel, payload),
            _ => self.header(channel, payload),
        };
        by.map_or(Frame::Through(whole), |by| Frame::Replaced(whole, by))
    }

    /// What goes in place of a method; `None` where it can be read, or does not bring a message.
    fn method(&mut self, channel: u16, payload: &[u8]) -> Option<Vec<u8>> {
        let mut fields = Fields(payload);
        match (fields.u16()?, fields.u16()?) {
            TUNE => {
                let (_channel_max, frame_max) = (fields.u16()?, fields.u32()? as usize);
                if frame_max > 0 {
                    self.frame_max = self.frame_max.min(frame_max.max(FRAME_MAX_MIN));
                }
                return None;
            }
            DELIVER => {
                let (_consumer_tag, _delivery_tag, _redelivered) = (fields.short()?, fields.take(8)?, fields.take(1)?);
            }
            GET_OK => {
                let (_delivery_tag, _redelivered) = (fields.take(8)?, fields.take(1)?);
            }
            RETURN => {
                let (_code, _text) = (fields.u16()?, fields.short()?);
            }
            _ => return None,
        }
        let before = &payload[..payload.len() - fields.0.len()];
        let (exchange, key) = (fields.short()?, fields.short()?);
        if !self.unreadable.is_empty() {
            self.unreadable.remove(&channel);
        }
        let why = match (is_text(exchange), is_text(key)) {
            (true, true) => return None,
            (true, false) => "its routing key is not UTF-8",
            (false, true) => "the name of its exchange is not UTF-8",
            (false, false) => "its routing key and the name of its exchange are not UTF-8",
        };
        let mut readable = before.to_vec();
        for name in [exchange, key] {
            let name = if is_text(name) { name } else { b"" };
            readable.push(name.len() as u8); // it was one byte on the wire too
            readable.extend(name);
        }
        readable.extend(fields.0);
        let route = Route {
            exchange: exchange.to_vec(),
            key: key.to_vec(),
            why,
        };
        self.unreadable.insert(channel, route);
        let mut out = Vec::new();
        write_frame(&mut out, METHOD, channel, &readable);
        Some(out)
    }

    /// What goes in place of a content header; `None` where it can be read, and the names of its message could be.
    fn header(&mut self, channel: u16, payload: &[u8]) -> Option<Vec<u8>> {
        let route = match self.unreadable.is_empty() {
            true => None,
            false => self.unreadable.remove(&channel),
        };
        let mut fields = Fields(payload);
        let (class, weight, body_size) = (fields.u16()?, fields.u16()?, fields.u64()?);
        if class != BASIC {
            return None; // the library ends the connection
        }
        let properties = fields.0;
        let checked = check(properties);
        if checked.is_ok() && route.is_none() && AROUND + payload.len() <= self.frame_max {
            return None;
        }
        let reasons: Vec<&str> = route.iter().map(|route| route.why).chain(checked.err()).collect();
        let mark = Mark {
            why: (!reasons.is_empty()).then(|| reasons.join(", and ")),
            names: route.map(|route| (route.exchange, route.key)),
            length: properties.len(),
        };
        let mut marked = Vec::with_capacity(HEADER_FIXED + 64);
        marked.extend(class.to_be_bytes());
        marked.extend(weight.to_be_bytes());
        marked.extend(body_size.saturating_add(properties.len() as u64).to_be_bytes());
        marked.extend(HEADERS_ONLY.to_be_bytes());
        mark.write(&mut marked);
        let mut out = Vec::with_capacity(marked.len() + properties.len() + 4 * AROUND);
        write_frame(&mut out, HEADER, channel, &marked);
        for part in properties.chunks(self.frame_max - AROUND) {
            write_frame(&mut out, BODY, channel, part);
        }
        Some(out)
    }
}

/// What is written here fits into a frame.
fn write_frame(out: &mut Vec<u8>, kind: u8, channel: u16, payload: &[u8]) {
    out.push(kind);
    out.extend(channel.to_be_bytes());
    out.extend((payload.len() as u32).to_be_bytes());
    out.extend(payload);
    out.push(FRAME_END);
}
