//! What is done with a file that is there in a version that is not known: the decision alone.

use std::time::Duration;

use super::lease::Writers;
use super::waiting::Look;
use crate::spool::inventory::Version;

/// Where no lease can tell whether a writer holds a file, it must have stood still for so long at least.
pub(super) const STILL: Duration = Duration::from_secs(2);
/// A file that was made and not closed is looked at after so long, then ever more rarely. Not later: a file that was
/// linked in, and has lost its other name since, looks the same.
pub(super) const MADE_FIRST: Duration = Duration::from_millis(20);
const MADE_LAST: Duration = Duration::from_secs(60);

/// What to do with a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    Announce,
    Wait(Duration, Look),
    /// Its own close will be told, or nothing needs to be done.
    Leave,
}

/// Decides about a file that is there, in a version that is not known. `age` is that of its content.
pub(super) fn next_step(
    look: Look,
    version: Version,
    age: Duration,
    settle: Duration,
    writers: impl FnOnce() -> Writers,
) -> Next {
    let still = settle.max(STILL);
    match look {
        Look::Closed if settle.is_zero() => Next::Announce,
        Look::Closed => Next::Wait(settle, Look::Quiet(version)),
        Look::Quiet(then) | Look::Still(then) if then == version => Next::Announce,
        Look::Quiet(_) => Next::Wait(settle, Look::Quiet(version)),
        Look::Still(_) => Next::Wait(still, Look::Still(version)),
        Look::Met => match writers() {
            Writers::None if age >= settle => Next::Announce,
            Writers::None => Next::Wait(settle, Look::Quiet(version)),
            Writers::Some | Writers::Gone => Next::Leave,
            Writers::Unknown => Next::Wait(still, Look::Still(version)),
        },
        Look::Made(times) => match writers() {
            Writers::None if age >= settle => Next::Announce,
            Writers::None => Next::Wait(settle, Look::Quiet(version)),
            Writers::Some => {
                let pause = MADE_FIRST.saturating_mul(2u32.saturating_pow(times));
                Next::Wait(pause.min(MADE_LAST), Look::Made(times + 1))
            }
            // Usually its own close is told. One that was linked in and lost its other name has none to come.
            Writers::Unknown => Next::Wait(MADE_LAST.max(settle), Look::Still(version)),
            Writers::Gone => Next::Leave,
        },
    }
}

/// The same in a tree that is polled: a file is ready when it stood still for `pause`, from one walk to a later look.
/// The writers that a lease can tell of, those of this host, are waited for.
pub(super) fn next_polled(look: Look, version: Version, pause: Duration, writers: Writers) -> Next {
    match (look, writers) {
        // The next walk meets it again.
        (_, Writers::Some | Writers::Gone) => Next::Leave,
        (Look::Still(then), _) if then == version => Next::Announce,
        _ => Next::Wait(pause, Look::Still(version)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Duration = Duration::ZERO;
    const SHORT: Duration = Duration::from_millis(100);
    const LONG: Duration = Duration::from_secs(10);

    fn version(mtime_ns: i64) -> Version {
        Version {
            inode: 1,
            mtime_ns,
            size: 1,
        }
    }

    #[test]
    fn in_a_polled_tree_a_file_is_announced_when_it_stood_still() {
        let (now, then) = (version(2), version(1));
        let still = || Next::Wait(LONG, Look::Still(now));
        let table = [
            (Look::Met, Writers::None, still()),
            (Look::Met, Writers::Unknown, still()),
            (Look::Met, Writers::Some, Next::Leave),
            (Look::Closed, Writers::None, still()),
            (Look::Still(then), Writers::Unknown, still()),
            (Look::Still(now), Writers::Unknown, Next::Announce),
            (Look::Still(now), Writers::None, Next::Announce),
            (Look::Still(now), Writers::Some, Next::Leave),
            (Look::Still(now), Writers::Gone, Next::Leave),
        ];
        for (look, writers, wanted) in table {
            assert_eq!(next_polled(look, now, LONG, writers), wanted, "{look:?} {writers:?}");
        }
    }

    #[test]
    fn a_file_is_announced_when_it_is_whole_and_quiet() {
        let (now, then) = (version(2), version(1));
        let quiet = |settle| Next::Wait(settle, Look::Quiet(now));
        let still = |pause| Next::Wait(pause, Look::Still(now));
        // look, age, settle, writers, what to do
        let table = [
            (Look::Closed, NONE, NONE, Writers::Some, Next::Announce),
            (Look::Closed, LONG, SHORT, Writers::None, quiet(SHORT)),
            (Look::Quiet(now), NONE, SHORT, Writers::Some, Next::Announce),
            (Look::Quiet(then), NONE, SHORT, Writers::None, quiet(SHORT)),
            (Look::Met, NONE, NONE, Writers::None, Next::Announce),
            (Look::Met, LONG, SHORT, Writers::None, Next::Announce),
            (Look::Met, SHORT, LONG, Writers::None, quiet(LONG)),
            (Look::Met, LONG, NONE, Writers::Some, Next::Leave),
            (Look::Met, LONG, NONE, Writers::Unknown, still(STILL)),
            (Look::Met, LONG, LONG, Writers::Unknown, still(LONG)),
            (Look::Still(now), NONE, NONE, Writers::Unknown, Next::Announce),
            (Look::Still(then), LONG, NONE, Writers::Unknown, still(STILL)),
            (Look::Made(0), NONE, NONE, Writers::None, Next::Announce),
            (Look::Made(0), NONE, NONE, Writers::Unknown, still(MADE_LAST)),
            (
                Look::Made(1),
                NONE,
                NONE,
                Writers::Some,
                Next::Wait(MADE_FIRST * 2, Look::Made(2)),
            ),
            (
                Look::Made(60),
                NONE,
                NONE,
                Writers::Some,
                Next::Wait(MADE_LAST, Look::Made(61)),
            ),
            (Look::Made(0), NONE, NONE, Writers::Gone, Next::Leave),
        ];
        for (look, age, settle, writers, wanted) in table {
            assert_eq!(
                next_step(look, now, age, settle, || writers),
                wanted,
                "{look:?} {writers:?}"
            );
        }
    }
}
