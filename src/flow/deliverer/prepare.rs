//! From a queued file to a product that can be delivered, as far as this host alone has the say. All of it blocks.

use jiff::Timestamp;
use rustix::io::Errno;
use tokio_util::sync::CancellationToken;

use super::place::{self, Decision};
use super::ready::{Hold, InHand, Ready};
use crate::flow::duplicates::Digest;
use crate::flow::queued::{self, Why};
use crate::message::Scripted;
use crate::spool::SpoolError;
use crate::spool::queue::{Look, Opening, Queue, Queued, Reader};
use crate::transfer::deliver::Parcel;

/// A product with its place.
pub(super) struct Wanted {
    pub(super) file: Queued,
    /// What a script put into its place.
    pub(super) instead: Option<Queued>,
    pub(super) directory: Vec<u8>,
    pub(super) name: Vec<u8>,
    pub(super) hold: Hold,
}

/// What is done with a file, as far as its name tells.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    Put {
        directory: Vec<u8>,
        name: Vec<u8>,
    },
    /// This script has to name it.
    Ask(String),
    Erase(Why),
    /// It can never be delivered.
    SetAside(String),
}

/// What decides by names.
#[derive(Debug, Clone)]
pub(super) struct Rules {
    pub(super) place: place::Config,
    pub(super) queued: queued::Options,
}

impl Rules {
    /// Decides about files, in their order, until the unit is told to stop.
    pub(super) fn decide(&self, files: Vec<Queued>, stop: &CancellationToken) -> Vec<(Queued, Step)> {
        let now = Timestamp::now();
        let decided = files.into_iter().take_while(|_| !stop.is_cancelled()).map(|file| {
            let step = match self.queued.unwanted(file.name(), now) {
                Some(why) => Step::Erase(why),
                None => self.place(file.name(), None),
            };
            (file, step)
        });
        decided.collect()
    }

    /// Where a product of this name goes.
    pub(super) fn place(&self, name: &[u8], scripted: Option<Scripted<'_>>) -> Step {
        match self.place.decide(name, Timestamp::now(), scripted) {
            Decision::Put { directory, name } => Step::Put { directory, name },
            Decision::NeedsScript(script) => Step::Ask(script),
            Decision::Rejected => Step::Erase(Why::NoDestination),
            Decision::SetAside(why) => Step::SetAside(why),
        }
    }
}

/// What became of a file that was to be opened.
pub(super) enum Opened {
    Ready(Box<Ready>),
    Written(Queued),
    Unread(Queued, Errno),
    /// Of a file that has gone only what a script made of it is left.
    Orphan(Queued),
}

/// Which of these files nobody writes. What is gone is left out.
pub(super) fn look(queue: &Queue, files: Vec<Queued>) -> Result<Vec<(Queued, Look)>, SpoolError> {
    let mut reader = queue.reader()?;
    let looked = files.into_iter().map(|file| {
        let look = reader.look(&file, false);
        (file, look)
    });
    Ok(looked.filter(|(_, look)| !matches!(look, Look::Gone)).collect())
}

/// Opens files, each once. What is gone, or in hand already, is left out.
pub(super) fn open(
    queue: &Queue,
    in_hand: &InHand,
    files: Vec<Wanted>,
    needs_digest: bool,
) -> Result<Vec<Opened>, SpoolError> {
    let mut reader = queue.reader()?;
    let mut opened = Vec::with_capacity(files.len());
    for mut wanted in files {
        let Some(mark) = in_hand.mark(&wanted.file) else {
            continue;
        };
        wanted.hold.marks.push(mark);
        opened.extend(open_one(queue, &mut reader, wanted, needs_digest));
    }
    Ok(opened)
}

fn open_one(queue: &Queue, reader: &mut Reader<'_>, wanted: Wanted, needs_digest: bool) -> Option<Opened> {
    let needs_md5 = needs_digest && wanted.file.priority() != Some(0);
    let source = wanted.instead.as_ref().unwrap_or(&wanted.file);
    let (content, whole) = match reader.open_whole(source, needs_md5) {
        Opening::Whole(content, whole) => (content, whole),
        Opening::Written => return Some(Opened::Written(wanted.file)),
        Opening::Unread(cause) => return Some(Opened::Unread(wanted.file, cause)),
        Opening::Gone if wanted.instead.is_some() => return Some(Opened::Unread(wanted.file, Errno::NOENT)),
        Opening::Gone => return None,
    };
    let version = match &wanted.instead {
        None => whole.version,
        Some(instead) => match reader.look(&wanted.file, false) {
            Look::Whole(whole) => whole.version,
            Look::Written => return Some(Opened::Written(wanted.file)),
            Look::Unread(cause) => return Some(Opened::Unread(wanted.file, cause)),
            Look::Gone => return Some(Opened::Orphan(instead.clone())),
        },
    };
    Some(Opened::Ready(Box::new(Ready {
        shown: queue.shown(&wanted.file),
        version,
        digest: whole.md5.map(Digest::from),
        parcel: Parcel {
            content,
            size: whole.version.size,
            directory: wanted.directory,
            name: wanted.name,
            modified: None,
        },
        file: wanted.file,
        instead: wanted.instead,
        hold: wanted.hold,
    })))
}
