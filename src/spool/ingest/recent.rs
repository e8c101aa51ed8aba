//! Which products a message that is delivered again may have become.
//!
//! It was not acked, so it is one of the last. Whatever stands in the database from before has its name and its bytes
//! by chance: the same notice is published whenever its file is written.

use std::collections::VecDeque;
use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use jiff::{SignedDuration, Timestamp};

use crate::spool::{SpoolError, make_directory};

/// In the unit's state: its time is that of the last products of its last process, within [`MARKED_EVERY`].
const MARK: &str = "ingested";
const MARKED_EVERY: Duration = Duration::from_secs(60);
/// Around that time: the mark may be late, and stamps may have run ahead.
const AROUND: SignedDuration = SignedDuration::from_mins(10);

/// The last products of a receiver.
#[derive(Debug)]
pub struct Recent {
    mark: PathBuf,
    /// When an earlier process was at work last.
    earlier: Option<Timestamp>,
    max: usize,
    ours: Arc<Mutex<Ours>>,
}

/// The products of this process.
#[derive(Debug, Default)]
pub struct Ours {
    /// Ingest names, the newest last.
    names: VecDeque<Vec<u8>>,
    marked: Option<Instant>,
}

impl Recent {
    /// For a receiver with its state here, which has so many messages in hand at most. Blocks.
    pub fn open(state: &Path, unsettled: usize, ours: Arc<Mutex<Ours>>) -> Result<Recent, SpoolError> {
        if unsettled > 0 {
            make_directory(state)?;
        }
        let mark = state.join(MARK);
        let earlier = match std::fs::metadata(&mark).and_then(|there| there.modified()) {
            Ok(time) => Timestamp::try_from(time).ok(),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(SpoolError::own(format!("cannot look at {}", mark.display()), error)),
        };
        Ok(Recent {
            mark,
            earlier,
            // What came again and was known is among them too.
            max: unsettled.saturating_mul(2),
            ours,
        })
    }

    /// To be called before a product is linked. Blocks.
    pub fn mark(&self) -> Result<(), SpoolError> {
        let mut ours = self.ours();
        if self.max == 0 || ours.marked.is_some_and(|at| at.elapsed() < MARKED_EVERY) {
            return Ok(());
        }
        let marked = File::create(&self.mark).and_then(|file| file.set_modified(SystemTime::now()));
        marked.map_err(|error| SpoolError::own(format!("cannot write {}", self.mark.display()), error))?;
        ours.marked = Some(Instant::now());
        Ok(())
    }

    /// This product stands in the database.
    pub fn add(&self, name: &[u8]) {
        let mut ours = self.ours();
        ours.names.push_back(name.to_vec());
        let over = ours.names.len().saturating_sub(self.max);
        ours.names.drain(..over);
    }

    /// Whether the message of the product of this name and stamp may not have been acked.
    pub fn may_come_again(&self, name: &[u8], at: Timestamp) -> bool {
        let is_earlier = self.earlier.is_some_and(|time| at.duration_since(time).abs() <= AROUND);
        is_earlier || self.ours().names.iter().any(|known| known == name)
    }

    fn ours(&self) -> MutexGuard<'_, Ours> {
        // Every change is complete in itself.
        self.ours.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
