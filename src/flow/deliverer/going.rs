//! Files on their way to a place, as far as their names tell, and those that do not go anywhere.

use super::prepare::Step;
use super::ready::Taken;
use crate::flow::queued::Why;
use crate::spool::inventory::Version;
use crate::spool::queue::Queued;

/// Files to be removed, and to be set aside: only the version that was decided about, where that is known.
#[derive(Default)]
pub(super) struct Unfit {
    pub(super) erased: Vec<(Queued, Option<Version>, Why)>,
    pub(super) hopeless: Vec<(Queued, Option<Version>, String)>,
}

/// A file on its way to a place, which a script may have to name.
pub(super) struct Going {
    pub(super) taken: Taken,
    pub(super) step: Step,
}

impl Unfit {
    /// Sorts out what does not go anywhere; the rest goes on.
    pub(super) fn sort_out(&mut self, going: &mut Vec<Going>, taken: Taken, step: Step) {
        match step {
            Step::Erase(why) => self.erased.push((taken.file, taken.version, why)),
            Step::SetAside(why) => self.hopeless.push((taken.file, taken.version, why)),
            step @ (Step::Put { .. } | Step::Ask(_)) => going.push(Going { taken, step }),
        }
    }
}

impl Going {
    /// The script that has to name it.
    pub(super) fn script(&self) -> Option<&str> {
        match &self.step {
            Step::Ask(script) => Some(script),
            Step::Put { .. } | Step::Erase(_) | Step::SetAside(_) => None,
        }
    }

    /// Its name at the destination, where it has one.
    pub(super) fn destination(&self) -> &[u8] {
        match &self.step {
            Step::Put { name, .. } => name,
            Step::Ask(_) | Step::Erase(_) | Step::SetAside(_) => b"",
        }
    }
}
