//! Products in hand: from the queue to a connection, and until they are settled.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::OwnedSemaphorePermit;

use crate::flow::duplicates::Digest;
use crate::spool::inventory::Version;
use crate::spool::queue::Queued;
use crate::transfer::deliver::Parcel;

/// A product that can be delivered at once.
pub(super) struct Ready {
    pub(super) file: Queued,
    /// Which one of that name.
    pub(super) version: Version,
    /// What a script put into its place.
    pub(super) instead: Option<Queued>,
    /// The path of the queued file, for people.
    pub(super) shown: String,
    /// To be remembered.
    pub(super) digest: Option<Digest>,
    pub(super) parcel: Parcel,
    pub(super) hold: Hold,
}

impl Ready {
    /// The name that it was ingested under, or the one that a script gave it.
    pub(super) fn ingest_name(&self) -> &[u8] {
        self.instead.as_ref().unwrap_or(&self.file).name()
    }
}

/// What keeps a product from being taken twice, and bounds how many are in hand.
#[derive(Default)]
pub(super) struct Hold {
    pub(super) marks: Vec<Mark>,
    pub(super) place: Option<OwnedSemaphorePermit>,
}

/// The paths of everything that is in hand.
#[derive(Clone, Default)]
pub(super) struct InHand(Arc<Mutex<HashSet<Vec<u8>>>>);

/// A path that is in hand; no more when this is dropped.
pub(super) struct Mark {
    of: InHand,
    path: Vec<u8>,
}

impl InHand {
    /// Takes a file in hand. `None` where it is already.
    pub(super) fn mark(&self, file: &Queued) -> Option<Mark> {
        let path = file.path().to_vec();
        let is_new = self.paths().insert(path.clone());
        is_new.then(|| Mark { of: self.clone(), path })
    }

    /// All of it, now.
    pub(super) fn snapshot(&self) -> HashSet<Vec<u8>> {
        self.paths().clone()
    }

    fn paths(&self) -> MutexGuard<'_, HashSet<Vec<u8>>> {
        // Every change is complete in itself.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        self.of.paths().remove(&self.path);
    }
}
