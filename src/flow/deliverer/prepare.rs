//! From a queued file to a product that can be delivered, as far as this host alone has the say. All of it blocks.

use jiff::Timestamp;
use rustix::io::Errno;
use tokio_util::sync::CancellationToken;

use super::place::{self, Decision};
use super::ready::{Hold, InHand, Mark, Ready, Taken};
use crate::flow::duplicates::Digest;
use crate::flow::queued::{self, Why};
use crate::message::Scripted;
use crate::spool::SpoolError;
use crate::spool::queue::{Look, Opening, Queue, Queued, Reader};
use crate::transfer::deliver::Parcel;

/// A product with its place.
pub(super) struct Wanted {
    pub(super) taken: Taken,
    pub(super) directory: Vec<u8>,
    pub(super) name: Vec<u8>,
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
}

/// What is needed of each product.
#[derive(Debug, Clone, Copy)]
pub(super) struct Needs {
    pub(super) digest: bool,
    /// The time of the file here, for the one at the destination.
    pub(super) time: bool,
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

/// Opens files, each once. What is gone, in hand already, or another product by now is left out.
pub(super) fn open(
    queue: &Queue,
    in_hand: &InHand,
    files: Vec<Wanted>,
    needs: Needs,
) -> Result<Vec<Opened>, SpoolError> {
    let mut reader = queue.reader()?;
    let mut opened = Vec::with_capacity(files.len());
    for wanted in files {
        let Some(mark) = in_hand.mark(&wanted.taken.file) else {
            continue;
        };
        opened.extend(open_one(queue, &mut reader, wanted, needs, mark));
    }
    Ok(opened)
}

fn open_one(
    queue: &Queue,
    reader: &mut Reader<'_>,
    Wanted { taken, directory, name }: Wanted,
    needs: Needs,
    mark: Mark,
) -> Option<Opened> {
    let needs_md5 = needs.digest && taken.file.priority() != Some(0);
    let (content, whole) = match reader.open_whole(taken.source(), needs_md5) {
        Opening::Whole(content, whole) => (content, whole),
        Opening::Written => return Some(Opened::Written(taken.file)),
        Opening::Unread(cause) => return Some(Opened::Unread(taken.file, cause)),
        Opening::Gone if taken.made.is_some() => return Some(Opened::Unread(taken.file, Errno::NOENT)),
        Opening::Gone => return None,
    };
    let version = match &taken.made {
        None => whole.version,
        Some(_) => match reader.look(&taken.file, false) {
            Look::Whole(whole) => whole.version,
            Look::Written => return Some(Opened::Written(taken.file)),
            Look::Unread(cause) => return Some(Opened::Unread(taken.file, cause)),
            Look::Gone => return None,
        },
    };
    if taken.version.is_some_and(|asked| asked != version) {
        // A script has not seen this one: a later pass asks it.
        return None;
    }
    let modified = i128::from(version.mtime_ns);
    Some(Opened::Ready(Box::new(Ready {
        shown: queue.shown(&taken.file),
        version,
        digest: whole.md5.map(Digest::from),
        parcel: Parcel {
            content,
            size: whole.version.size,
            directory,
            name,
            modified: needs.time.then(|| Timestamp::from_nanosecond(modified).ok()).flatten(),
        },
        file: taken.file,
        made: taken.made,
        hold: Hold {
            _mark: Some(mark),
            ..Hold::default()
        },
    })))
}
