//! The one operation behind a start, an overflow, a broker's return and the very first start: comparing the tree with
//! its inventory, both in the byte order of the paths, side by side.

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::time::Instant;

use tracing::info;

use super::capture::now_ns;
use super::marker::{self, ctime_ns};
use super::oldest::Oldest;
use super::root::join;
use super::scout::{Halt, Scout};
use super::walk::{Scope, Step, Walk};
use super::{CatchUp, Options};
use crate::metrics::Count;
use crate::spool::SpoolError;
use crate::spool::inventory::{Baseline, Marker, Row, Rows, Version};

/// Rows read or written at a time.
const CHUNK: usize = 1000;

impl Scout {
    /// Watches and reads the whole tree; forgets what is gone, records what was there before the first start, and
    /// looks at what differs, the oldest first.
    pub(super) fn compare(&mut self, root: BorrowedFd<'_>) -> Result<(), Halt> {
        let begun = Instant::now();
        self.metrics.count(Count::Rescans);
        self.compare_due = false;
        self.next_rescan = None;
        let marker = self.baseline_marker(root)?;
        let mut merge = Merge {
            marker,
            resume_after: self.compared_to.take(),
            ..Merge::default()
        };
        let is_complete = self.merge(root, &mut merge)?;
        self.check_root(root)?;
        if marker.is_some() {
            self.rows.finish_baseline()?;
            info!(path = %self.options.path.display(), files = merge.before_total, "recorded what was there before");
        }
        if is_complete {
            self.watches.drop_unmet();
            self.has_warned_of_unread = false;
        }
        let rescan = match self.options.poll {
            // A tree that takes long to be read is left alone for as long.
            Some(poll) => poll.max(begun.elapsed()),
            None => self.options.rescan,
        };
        self.next_rescan = (!rescan.is_zero()).then(|| Instant::now() + rescan);
        self.report_ready();
        self.resume();
        let oldest = merge.oldest;
        if oldest.has_more {
            self.compared_to = oldest.last().cloned();
            self.compare_due = true;
        }
        self.look_at_all(root, oldest)
    }

    /// The moment before the first start, as long as what was there before is not recorded.
    fn baseline_marker(&mut self, root: BorrowedFd<'_>) -> Result<Option<Marker>, SpoolError> {
        let marker = match self.rows.baseline()? {
            Baseline::Done => return Ok(None),
            _ if self.options.catch_up == CatchUp::All => {
                self.rows.finish_baseline()?;
                return Ok(None);
            }
            Baseline::Begun(marker) => marker,
            Baseline::None => {
                let marker = marker::make(root, &self.options.path);
                self.rows.begin_baseline(marker)?;
                marker
            }
        };
        Ok(Some(marker))
    }

    /// Whether everything could be read.
    fn merge(&mut self, root: BorrowedFd<'_>, merge: &mut Merge) -> Result<bool, Halt> {
        self.watches.begin_walk();
        let mut walk = Walk::new(root, b"", Scope::All);
        if let Some(marker) = merge.marker {
            let stat = rustix::fs::fstat(root).map_err(|_| Halt::RootLost)?;
            let is_new = match marker.root_inode {
                Some(inode) => inode != stat.st_ino,
                None => ctime_ns(&stat) > marker.ctime_ns,
            };
            walk = walk.since(marker.ctime_ns, is_new);
        }
        let mut is_complete = true;
        while let Some(step) = walk.next(&mut self.watches) {
            self.check_stop()?;
            if let Step::Unread { path, cause, .. } = &step {
                is_complete = false;
                self.warn_of_unread(path, *cause);
            }
            merge.take(step, &self.rows, &self.options)?;
            if merge.before.len() >= CHUNK || merge.gone.len() >= CHUNK {
                self.write(root, merge)?;
            }
        }
        while let Some((path, row)) = merge.pages.take(&self.rows)? {
            merge.gone.push((path, row.version));
            if merge.gone.len() >= CHUNK {
                self.write(root, merge)?;
            }
        }
        self.write(root, merge)?;
        Ok(is_complete)
    }

    fn write(&mut self, root: BorrowedFd<'_>, merge: &mut Merge) -> Result<(), Halt> {
        if !merge.before.is_empty() {
            self.rows.put(&merge.before)?;
            merge.before_total += merge.before.len();
            merge.before.clear();
        }
        if !merge.gone.is_empty() {
            self.check_root(root)?;
            self.rows.forget(&merge.gone)?;
            merge.gone.clear();
        }
        Ok(())
    }
}

/// The tree and its rows side by side.
#[derive(Default)]
struct Merge {
    pages: Pages,
    marker: Option<Marker>,
    /// Older candidates were looked at by the comparison before this one.
    resume_after: Option<(i64, Vec<u8>)>,
    /// Files that were there before the first start.
    before: Vec<(Vec<u8>, Row)>,
    before_total: usize,
    /// Rows without a file.
    gone: Vec<(Vec<u8>, Version)>,
    /// Files that differ from their rows, or have none.
    oldest: Oldest,
}

impl Merge {
    fn take(&mut self, step: Step, rows: &Rows, options: &Options) -> Result<(), SpoolError> {
        match step {
            Step::File {
                path,
                version,
                ctime_ns,
                is_new,
            } => {
                self.rows_before(&path, rows)?;
                let row = self.pages.take_if(rows, |row_path| row_path == path)?;
                if row.is_some_and(|row| row.version == version && row.digest.is_none()) {
                    return Ok(());
                }
                let is_before = self.marker.is_some_and(|marker| !is_new && ctime_ns <= marker.ctime_ns);
                if is_before {
                    let row = Row {
                        version,
                        digest: None,
                        recorded_at_ns: now_ns(),
                    };
                    self.before.push((path, row));
                } else if options.masks.accepts(&path) {
                    self.push(version.mtime_ns, path);
                }
            }
            Step::Unread {
                path,
                is_directory: false,
                ..
            } => {
                self.rows_before(&path, rows)?;
                self.pages.take_if(rows, |row_path| row_path == path)?;
            }
            Step::Unread { path, .. } => {
                let first = if path.is_empty() { path } else { join(&path, b"") };
                self.rows_before(&first, rows)?;
                while self
                    .pages
                    .take_if(rows, |row_path| row_path.starts_with(&first))?
                    .is_some()
                {}
            }
        }
        Ok(())
    }

    /// Rows that the walk has passed without meeting their files.
    fn rows_before(&mut self, path: &[u8], rows: &Rows) -> Result<(), SpoolError> {
        while self.pages.peek(rows)?.is_some_and(|next| next < path) {
            if let Some((path, row)) = self.pages.take(rows)? {
                self.gone.push((path, row.version));
            }
        }
        Ok(())
    }

    fn push(&mut self, mtime_ns: i64, path: Vec<u8>) {
        let candidate = (mtime_ns, path);
        if self.resume_after.as_ref().is_none_or(|last| candidate > *last) {
            self.oldest.push(candidate.0, candidate.1);
        }
    }
}

/// The tree's rows in the order of their paths, read in chunks so that no long transaction holds the log.
#[derive(Default)]
struct Pages {
    rows: VecDeque<(Vec<u8>, Row)>,
    last: Option<Vec<u8>>,
    is_at_end: bool,
}

impl Pages {
    fn peek(&mut self, rows: &Rows) -> Result<Option<&[u8]>, SpoolError> {
        if self.rows.is_empty() && !self.is_at_end {
            self.rows = rows.page(self.last.as_deref(), CHUNK)?.into();
            self.is_at_end = self.rows.len() < CHUNK;
            if let Some((path, _)) = self.rows.back() {
                self.last = Some(path.clone());
            }
        }
        Ok(self.rows.front().map(|(path, _)| path.as_slice()))
    }

    fn take(&mut self, rows: &Rows) -> Result<Option<(Vec<u8>, Row)>, SpoolError> {
        self.peek(rows)?;
        Ok(self.rows.pop_front())
    }

    fn take_if(&mut self, rows: &Rows, wanted: impl FnOnce(&[u8]) -> bool) -> Result<Option<Row>, SpoolError> {
        if self.peek(rows)?.is_some_and(wanted) {
            return Ok(self.rows.pop_front().map(|(_, row)| row));
        }
        Ok(None)
    }
}
