//! The queues that a product is linked into: of senders and transceivers by priority and hour, of filters and fed
//! receivers flat.

use jiff::Timestamp;
use rustix::fs::FileType;

use crate::config::{Client, ClientKind};
use crate::message::ingest_name;
use crate::spool::SpoolError;
use crate::spool::atomic::{Source, Tree};
use crate::spool::database::{later, link_free};
use crate::spool::dirsync::Directory;

/// Hours of a client's queue that are searched for a link of an earlier run.
const HOURS_MAX: usize = 10_000;
/// Stamps that are tried in each.
const STAMPS_MAX: i64 = 100;

/// `txq`, `fxq` and `rxq`.
#[derive(Debug)]
pub(super) struct Queues {
    pub txq: Tree,
    pub fxq: Tree,
    pub rxq: Tree,
}

/// A product on its way into queues.
pub(super) struct Queued<'a> {
    pub source: &'a Source,
    pub stem: &'a [u8],
    /// The stamp it has in the database.
    pub at: Timestamp,
    pub now: Timestamp,
    /// Some of its links may be there.
    pub is_resumed: bool,
}

impl Queues {
    /// Links a product into a client's queue; what must be synced.
    pub fn add(&self, product: &Queued<'_>, client: &Client, priority: u8) -> Result<Vec<Directory>, SpoolError> {
        let name = client.name.as_bytes();
        if client.kind == ClientKind::Filter {
            return flat(&self.fxq, product, name);
        }
        let priority = priority.to_string();
        if product.is_resumed
            && let Some(there) = self.find(product, name, priority.as_bytes())?
        {
            return Ok(vec![there]);
        }
        let hour = ingest_name::hour(product.now).into_bytes();
        let parents = vec![name.to_vec(), priority.into_bytes(), hour];
        let linked = link_free(&self.txq, product.source, product.stem, product.at, |_, _| {
            Ok(parents.clone())
        })?;
        Ok(linked.to_sync)
    }

    /// Links a product into the queue of another receiver; what must be synced.
    pub fn feed(&self, product: &Queued<'_>, receiver: &str) -> Result<Vec<Directory>, SpoolError> {
        flat(&self.rxq, product, receiver.as_bytes())
    }

    /// The directory in which an earlier run has queued the product: another hour may have begun.
    fn find(&self, product: &Queued<'_>, client: &[u8], priority: &[u8]) -> Result<Option<Directory>, SpoolError> {
        let Some(directory) = self.txq.find_directory(&[client, priority])? else {
            return Ok(None);
        };
        let mut hours = Vec::new();
        self.txq.each_name(&directory, |name, kind| {
            if matches!(kind, FileType::Directory | FileType::Unknown) && !name.starts_with(b".") {
                hours.push(name.to_vec());
            }
            Ok(hours.len() < HOURS_MAX)
        })?;
        for hour in hours {
            let Some(directory) = self.txq.find_directory(&[client, priority, &hour])? else {
                continue;
            };
            for ahead in 0..STAMPS_MAX {
                let Some(at) = later(product.at, ahead) else { break };
                let name = ingest_name::stamped(product.stem, at);
                match self.txq.id_at(&directory, &name)? {
                    Some(id) if id == product.source.id() => return Ok(Some(directory)),
                    Some(_) => {}
                    None => break,
                }
            }
        }
        Ok(None)
    }
}

fn flat(tree: &Tree, product: &Queued<'_>, queue: &[u8]) -> Result<Vec<Directory>, SpoolError> {
    let parents = vec![queue.to_vec()];
    let linked = link_free(tree, product.source, product.stem, product.at, |_, _| {
        Ok(parents.clone())
    })?;
    Ok(linked.to_sync)
}
