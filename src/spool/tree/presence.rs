//! Whether the root is there. It may be missing, replaced by another directory, or not mounted.

use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::Stat;

use super::scout::{Halt, Scout};
use super::{CatchUp, marker, root, walk};
use crate::spool::inventory::Baseline;

impl Scout {
    /// The root, if it is there. Another one than before is compared as a whole first.
    pub(super) fn open_root(&mut self) -> Result<Option<OwnedFd>, Halt> {
        let opened = root::open(&self.options.path).and_then(|root| Ok((rustix::fs::fstat(&root)?, root)));
        let reason = match opened {
            Ok((stat, root)) if self.root == Some((stat.st_dev, stat.st_ino)) => return Ok(Some(root)),
            Ok((stat, root)) => match self.judge_root(&stat)? {
                None => {
                    self.watches.drop_beneath(b"");
                    self.waiting.clear();
                    self.rows.set_root_inode(stat.st_ino)?;
                    self.root = Some((stat.st_dev, stat.st_ino));
                    self.compare_anew();
                    return Ok(Some(root));
                }
                Some(reason) => reason,
            },
            Err(err) => format!("cannot open the tree {}: {err}", self.options.path.display()),
        };
        self.root = None;
        self.watches.drop_beneath(b"");
        self.waiting.clear();
        self.pause(reason);
        if self.rows.baseline()? == Baseline::None && self.options.catch_up == CatchUp::Since {
            self.rows.begin_baseline(marker::without_root())?;
        }
        self.report_ready();
        Ok(None)
    }

    /// Why a directory at the root's place is not the root: the empty one that shows when nothing is mounted there.
    fn judge_root(&self, stat: &Stat) -> Result<Option<String>, Halt> {
        let is_another = self.rows.root_inode()?.is_some_and(|inode| inode != stat.st_ino);
        if !is_another || self.rows.is_empty()? {
            return Ok(None);
        }
        let path = self.options.path.display();
        Ok(match walk::has_entries(&self.options.path) {
            Ok(true) => None,
            Ok(false) => Some(format!(
                "{path} is empty and is not the directory it was: is its file system mounted?"
            )),
            Err(err) => Some(format!("cannot read the tree {path}: {err}")),
        })
    }

    /// Whether the root is still where it was: what was not found in it is really gone.
    pub(super) fn check_root(&self, root: BorrowedFd<'_>) -> Result<(), Halt> {
        let here = rustix::fs::fstat(root).map_err(|_| Halt::RootLost)?;
        let there = rustix::fs::stat(&self.options.path).map_err(|_| Halt::RootLost)?;
        if here.st_nlink == 0 || (here.st_dev, here.st_ino) != (there.st_dev, there.st_ino) {
            return Err(Halt::RootLost);
        }
        Ok(())
    }
}
