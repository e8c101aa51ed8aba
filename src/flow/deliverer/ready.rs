//! Products in hand: from the queue to a connection, and until they are settled.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, OwnedSemaphorePermit};

use crate::flow::duplicates::Digest;
use crate::flow::removal::Remover;
use crate::spool::inventory::Version;
use crate::spool::queue::Queued;
use crate::transfer::deliver::Parcel;

/// A queued file, and what scripts have made of it so far.
pub(super) struct Taken {
    pub(super) file: Queued,
    /// Which one of that name a script was asked about: another one is another product.
    pub(super) version: Option<Version>,
    /// What a script put into its place.
    pub(super) made: Option<Made>,
}

impl Taken {
    /// What its name and its content are made of.
    pub(super) fn source(&self) -> &Queued {
        self.made.as_ref().map_or(&self.file, Made::file)
    }
}

/// A product that can be delivered at once.
pub(super) struct Ready {
    pub(super) file: Queued,
    /// Which one of that name.
    pub(super) version: Version,
    /// What a script put into its place.
    pub(super) made: Option<Made>,
    /// The path of the queued file, for people.
    pub(super) shown: String,
    /// To be remembered.
    pub(super) digest: Option<Digest>,
    pub(super) parcel: Parcel,
    pub(super) hold: Hold,
}

impl Ready {
    /// What is delivered: the queued file, or what a script made of it.
    pub(super) fn source(&self) -> &Queued {
        self.made.as_ref().map_or(&self.file, Made::file)
    }

    /// The name that it was ingested under, or the one that a script gave it.
    pub(super) fn ingest_name(&self) -> &[u8] {
        self.source().name()
    }
}

/// What keeps a product from being taken twice, two of one name apart, and bounds how many are in hand.
#[derive(Default)]
pub(super) struct Hold {
    pub(super) _mark: Option<Mark>,
    pub(super) names: Option<NameMark>,
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

/// A file that a script put into the place of a queued one. It lies in the queue and is no product of its own: wherever
/// this is dropped the file is left over and removed by the next [`Leftovers::sweep`], for the script makes it again.
pub(super) struct Made {
    file: Queued,
    mark: Option<Mark>,
    left: Leftovers,
}

impl Made {
    pub(super) fn file(&self) -> &Queued {
        &self.file
    }

    /// It is removed already.
    pub(super) fn forget(mut self) {
        self.mark = None;
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        if let Some(mark) = self.mark.take() {
            self.left.files().push((self.file.clone(), mark));
        }
    }
}

/// What scripts have made and nobody needs any more. In hand until it is removed, so that no pass takes it.
#[derive(Clone, Default)]
pub(super) struct Leftovers(Arc<Mutex<Vec<(Queued, Mark)>>>);

impl Leftovers {
    /// Takes what a script has made in hand. `None` where it is already.
    pub(super) fn made(&self, file: Queued, in_hand: &InHand) -> Option<Made> {
        Some(Made {
            mark: Some(in_hand.mark(&file)?),
            file,
            left: self.clone(),
        })
    }

    /// Removes what is left over.
    pub(super) async fn sweep(&self, remover: &Remover) {
        let left = std::mem::take(&mut *self.files());
        let files = left.iter().map(|(file, _)| (file.clone(), None));
        // What cannot be removed is remembered there.
        remover.remove(files.collect()).await;
    }

    fn files(&self) -> MutexGuard<'_, Vec<(Queued, Mark)>> {
        // As above.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The names at the destination that are being written, the temporary ones too.
#[derive(Clone, Default)]
pub(super) struct Names(Arc<Written>);

#[derive(Default)]
struct Written {
    paths: Mutex<HashSet<Vec<u8>>>,
    freed: Notify,
}

/// Names that nobody else writes; free again when this is dropped.
pub(super) struct NameMark {
    of: Names,
    paths: Vec<Vec<u8>>,
}

impl Names {
    /// Takes names, as soon as nobody has any of them.
    pub(super) async fn take(&self, paths: Vec<Vec<u8>>) -> NameMark {
        loop {
            // Before the look, so that no news is missed.
            let freed = self.0.freed.notified();
            if self.try_take(&paths) {
                let of = self.clone();
                return NameMark { of, paths };
            }
            freed.await;
        }
    }

    fn try_take(&self, paths: &[Vec<u8>]) -> bool {
        let mut written = self.paths();
        let are_free = !paths.iter().any(|path| written.contains(path));
        if are_free {
            written.extend(paths.iter().cloned());
        }
        are_free
    }

    fn paths(&self) -> MutexGuard<'_, HashSet<Vec<u8>>> {
        // As above.
        self.0.paths.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for NameMark {
    fn drop(&mut self) {
        let mut written = self.of.paths();
        for path in &self.paths {
            written.remove(path);
        }
        drop(written);
        self.of.0.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_is_waited_for_as_long_as_another_product_has_it() {
        let names = Names::default();
        let paths = |some: &[&str]| some.iter().map(|path| path.as_bytes().to_vec()).collect::<Vec<_>>();
        let one = names.take(paths(&["d/a.tmp", "d/a"])).await;
        // A product whose final name is the other's temporary one.
        let second = tokio::spawn({
            let (names, paths) = (names.clone(), paths(&["d/a.tmp.tmp", "d/a.tmp"]));
            async move { names.take(paths).await }
        });
        let _other = names.take(paths(&["e/a.tmp", "e/a"])).await;
        tokio::task::yield_now().await;
        assert!(!second.is_finished());
        drop(one);
        let second = second.await.unwrap();
        assert!(!names.try_take(&paths(&["d/a.tmp"])));
        drop(second);
        assert!(names.try_take(&paths(&["d/a.tmp"])));
    }
}
