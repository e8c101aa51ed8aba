//! Files that hold the URL of a product, put into the queues of senders that announce them.

use std::io::{Read, Write};

use jiff::{SignedDuration, Timestamp};

use super::{Delivered, UrlFiles};
use crate::config::Places;
use crate::message::{Announcement, ProductPath, ingest_name, url_file};
use crate::spool::atomic::{Draft, Safety, Tree};
use crate::spool::database::DIRECTORY_MODE;
use crate::spool::dirsync::{Directory, InFlight};
use crate::spool::{Durability, SpoolError};

/// Seconds that a stamp goes on where files with other URLs have its name.
const STAMPS_MAX: i64 = 1000;
/// Names in a queue that are looked at for what a killed process had not finished.
const SWEPT_MAX: usize = 100_000;

/// Writes them for one unit.
pub(super) struct UrlWriter {
    tree: Tree,
    files: Vec<UrlFiles>,
    safety: Safety,
}

/// What must be done before written files are safe.
#[derive(Default)]
pub(super) struct Written {
    to_sync: Vec<Directory>,
    /// They are there already. A sender may be about to remove what is there, so they take its place.
    again: Vec<Draft>,
}

impl UrlWriter {
    /// For the queues of this site. Blocks.
    pub(super) fn open(places: &Places, files: Vec<UrlFiles>) -> Result<UrlWriter, SpoolError> {
        let txq = places.spool.join("txq");
        let started = std::time::SystemTime::now();
        let tree = Tree::open(&txq, true, Durability::Power)?.with_directory_mode(DIRECTORY_MODE);
        for queue in files.iter().map(|files| &files.queue) {
            if txq.join(queue).is_dir() {
                Tree::open(&txq.join(queue), false, Durability::Power)?.sweep(started, SWEPT_MAX)?;
            }
        }
        Ok(UrlWriter {
            tree,
            files,
            safety: Safety::new(Durability::Power)?,
        })
    }

    /// To be held while products are worked on.
    pub(super) fn enter(&self) -> Option<InFlight> {
        self.safety.enter()
    }

    /// One file for each product and queue, under its final name. Blocks.
    pub(super) fn write(&self, delivered: &[Delivered], now: Timestamp) -> Result<Written, SpoolError> {
        let mut written = Written::default();
        for product in delivered {
            for files in &self.files {
                self.write_one(product, files, now, &mut written)?;
            }
        }
        Ok(written)
    }

    /// Makes what was written safe.
    pub(super) async fn sync(&self, written: Written) -> Result<(), SpoolError> {
        for draft in written.again {
            self.safety.place(draft, None).await?;
        }
        match &self.safety {
            Safety::Power(syncer) => syncer.sync(written.to_sync).await,
            Safety::Crash => Ok(()),
        }
    }

    fn write_one(
        &self,
        product: &Delivered,
        files: &UrlFiles,
        now: Timestamp,
        written: &mut Written,
    ) -> Result<(), SpoolError> {
        let path = files.place.path(&product.directory, &product.name);
        let path = path.map_err(SpoolError::message)?;
        let stem = url_file::stem(&path, &product.ingest_name);
        if let Some(problem) = url_file::problem(&stem) {
            let what = format!(
                "cannot announce {path}: the name of the file for {} {problem}",
                files.queue
            );
            return Err(SpoolError::message(what));
        }
        let url = url(&files.place.base, path);
        let priority = product.priority.to_string();
        let hour = ingest_name::hour(now);
        let parents = [files.queue.as_bytes(), priority.as_bytes(), hour.as_bytes()];
        let mut ahead = 0;
        while let Some(at) = later(product.stamp(now), ahead) {
            let name = ingest_name::stamped(&stem, at);
            let mut draft = self.tree.create(&[&parents[..], &[&name]].concat().join(&b'/'))?;
            draft
                .write_all(url.as_bytes())
                .map_err(|error| SpoolError::own(format!("cannot write to the queue of {}", files.queue), error))?;
            match draft.place_free(Durability::Power)? {
                Ok(to_sync) => {
                    written.to_sync.extend(to_sync);
                    return Ok(());
                }
                Err(draft) => match self.holds(&parents, &name, &url)? {
                    Some(true) => {
                        written.again.push(draft);
                        return Ok(());
                    }
                    Some(false) => ahead += 1,
                    None => {} // taken away meanwhile
                },
            }
        }
        let what = format!(
            "cannot put a file with the URL {url} into the queue of {}: {STAMPS_MAX} files have its name already",
            files.queue
        );
        // Later they may be gone.
        Err(SpoolError::unusable(what).of_one_file())
    }

    /// Whether the file of this name holds this URL; `None` where there is no such file. What cannot be read holds
    /// another.
    fn holds(&self, parents: &[&[u8]], name: &[u8], url: &str) -> Result<Option<bool>, SpoolError> {
        let Some(directory) = self.tree.find_directory(parents)? else {
            return Ok(None);
        };
        let Some(file) = self.tree.open_file(&directory, name) else {
            // Gone, or something else that has this name.
            return Ok(self.tree.has_name(&directory, name)?.then_some(false));
        };
        let mut there = Vec::new();
        let read = file.take(url.len() as u64 + 1).read_to_end(&mut there);
        Ok(Some(read.is_ok() && there == url.as_bytes()))
    }
}

fn later(at: Timestamp, seconds: i64) -> Option<Timestamp> {
    let is_bounded = seconds < STAMPS_MAX;
    is_bounded
        .then(|| at.checked_add(SignedDuration::from_secs(seconds)).ok())
        .flatten()
}

/// The URL as the file holds it.
fn url(base: &str, path: ProductPath) -> String {
    let announcement = Announcement {
        base: base.to_owned(),
        path,
        identity: None,
        size: None,
        time: None,
        mtime: None,
        headers: Default::default(),
    };
    announcement.fetch_url()
}
