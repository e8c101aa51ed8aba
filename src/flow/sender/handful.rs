//! Reading files to be sent, a handful at a time and within bounds.

use std::sync::Arc;
use std::time::Instant;

use rustix::io::Errno;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::decide::Letter;
use super::settle::Outgoing;
use crate::flow::duplicates::Digest;
use crate::message::{Envelope, Headers, Value};
use crate::spool::SpoolError;
use crate::spool::queue::{Queue, Queued, Read};

/// Bytes of files that are read and not yet settled. A single larger file goes alone.
pub(super) const ROOM: usize = 16 << 20;
/// Larger files are set aside: RabbitMQ takes none.
const FILE_MAX: u64 = 512 << 20;
/// Files of one handful: enough to make changing threads cheap, few enough to begin soon.
const HANDFUL: usize = 64;

/// What became of one file.
pub(super) enum Taken {
    /// To be published.
    Content(Outgoing, Box<Envelope>),
    /// A writer has it.
    Written(Queued),
    /// It can never be sent.
    TooLarge(Queued, String),
    Unread(Queued, Errno),
}

pub(super) struct Handful {
    pub(super) taken: Vec<Taken>,
    /// Not looked at, the next one last.
    pub(super) rest: Vec<(Queued, Letter)>,
    /// So much room must become free for the next one.
    pub(super) needs: Option<u32>,
}

/// Reads some files, from the last of `rest` backwards, each within a permit of `room`. `place` is room for the first.
/// Files that are gone are left out. Blocks.
pub(super) fn take(
    queue: &Queue,
    mut rest: Vec<(Queued, Letter)>,
    room: &Arc<Semaphore>,
    mut place: Option<OwnedSemaphorePermit>,
    needs_digest: bool,
) -> Result<Handful, SpoolError> {
    let mut reader = queue.reader()?;
    let mut handful = Handful {
        taken: Vec::with_capacity(HANDFUL),
        rest: Vec::new(),
        needs: None,
    };
    while handful.taken.len() < HANDFUL
        && let Some((file, letter)) = rest.pop()
    {
        let begun = Instant::now();
        let mut permit = None;
        let read = reader.read(&file, |size| {
            permit = admit(size, room, place.take());
            permit.is_some()
        });
        match (read, permit) {
            (Read::Content(content), permit) => {
                let is_repeatable = file.priority() == Some(0);
                let outgoing = Outgoing {
                    version: content.version,
                    begun,
                    digest: (needs_digest && !is_repeatable).then(|| Digest::of(&content.bytes)),
                    file,
                    pending: None,
                    _room: permit,
                };
                let envelope = envelope(letter, content.bytes);
                handful.taken.push(Taken::Content(outgoing, Box::new(envelope)));
            }
            (Read::NoRoom(size), _) if size > FILE_MAX => {
                let why = format!("its {size} bytes are more than {FILE_MAX}");
                handful.taken.push(Taken::TooLarge(file, why));
            }
            (Read::NoRoom(size), _) => {
                rest.push((file, letter));
                handful.needs = Some(permits(size));
                break;
            }
            (Read::Written, _) => handful.taken.push(Taken::Written(file)),
            (Read::Unread(cause), _) => handful.taken.push(Taken::Unread(file, cause)),
            (Read::Gone, _) => {}
        }
    }
    handful.rest = rest;
    Ok(handful)
}

fn permits(size: u64) -> u32 {
    // ROOM fits.
    size.min(ROOM as u64) as u32
}

/// Room for so many bytes, if there is.
fn admit(size: u64, room: &Arc<Semaphore>, place: Option<OwnedSemaphorePermit>) -> Option<OwnedSemaphorePermit> {
    if size > FILE_MAX {
        return None;
    }
    let needed = permits(size);
    match place.filter(|place| place.num_permits() >= needed as usize) {
        Some(place) => Some(place),
        None => Arc::clone(room).try_acquire_many_owned(needed).ok(),
    }
}

fn envelope(letter: Letter, body: Vec<u8>) -> Envelope {
    Envelope {
        key: letter.key,
        headers: Headers::from([("filename".to_string(), Value::Str(letter.filename))]),
        content_type: Some(letter.content_type),
        body,
        ..Envelope::default()
    }
}
