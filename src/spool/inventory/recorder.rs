//! Writing rows in batches, on a thread of its own.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tokio::sync::watch;

use super::{PUT, Row, SCHEMA, put_row};
use crate::backoff::Backoff;
use crate::spool::SpoolError;
use crate::spool::sqlite::{self, Durability};

/// Rows in one commit.
const BATCH_ROWS: usize = 256;
/// How long the first row of a commit waits for company.
const BATCH_WAIT: Duration = Duration::from_millis(5);

/// One announced file, on its way into the inventory.
pub struct Record {
    /// [`Rows::tree`].
    pub tree: i64,
    /// Path in the tree.
    pub path: Arc<[u8]>,
    /// What to write.
    pub row: Row,
    /// Dropped when the row is committed.
    pub receipt: Box<dyn Send>,
}

/// Writes the rows of a unit's trees in batches, on a thread of its own.
pub struct Recorder {
    records: mpsc::Sender<Record>,
    fault: watch::Receiver<Option<String>>,
    thread: JoinHandle<()>,
}

impl Recorder {
    /// Opens the inventory for writing.
    pub fn open(inventory: &Path) -> Result<Self, SpoolError> {
        let db = sqlite::open(inventory, &SCHEMA, Durability::Crash)?;
        let doing = format!("cannot write the inventory {}", inventory.display());
        let (records, queue) = mpsc::channel();
        let (fault_tx, fault) = watch::channel(None);
        let thread = std::thread::Builder::new()
            .name("inventory".into())
            .spawn(move || write_batches(db, &queue, &fault_tx, &doing))
            .map_err(|err| SpoolError::own("cannot start the inventory's thread", err))?;
        Ok(Recorder { records, fault, thread })
    }

    /// Hands over one row; does not block. The caller bounds how many wait: their receipts tell.
    pub fn record(&self, record: Record) {
        // The thread ends only with the recorder, so nothing is refused here.
        drop(self.records.send(record));
    }

    /// Why rows cannot be written, as long as they cannot.
    pub fn fault(&self) -> watch::Receiver<Option<String>> {
        self.fault.clone()
    }

    /// Writes what was handed over, and ends. Rows that cannot be written now are given up: their files will be
    /// announced again. Blocks.
    pub fn close(self) {
        drop(self.records);
        if self.thread.join().is_err() {
            tracing::error!("the inventory's thread has died");
        }
    }
}

fn write_batches(
    mut db: Connection,
    queue: &mpsc::Receiver<Record>,
    fault: &watch::Sender<Option<String>>,
    doing: &str,
) {
    let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(30));
    while let Ok(first) = queue.recv() {
        let mut batch = vec![first];
        let mut is_closed = gather(&mut batch, queue, BATCH_WAIT, BATCH_ROWS);
        while let Err(err) = write_batch(&mut db, &batch, doing) {
            fault.send_replace(Some(err.line()));
            if is_closed {
                return;
            }
            is_closed = gather(&mut batch, queue, backoff.next_wait(), usize::MAX);
        }
        backoff.reset();
        fault.send_if_modified(|fault| fault.take().is_some());
    }
}

/// Takes records until there are `rows_max`, the time is over or the queue is closed; whether it is closed.
fn gather(batch: &mut Vec<Record>, queue: &mpsc::Receiver<Record>, wait: Duration, rows_max: usize) -> bool {
    let deadline = Instant::now() + wait;
    while batch.len() < rows_max {
        match queue.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(record) => batch.push(record),
            Err(RecvTimeoutError::Timeout) => return false,
            Err(RecvTimeoutError::Disconnected) => return true,
        }
    }
    false
}

fn write_batch(db: &mut Connection, batch: &[Record], doing: &str) -> Result<(), SpoolError> {
    let refused = |err| sqlite::classify(err, doing);
    let tx = sqlite::begin(db, doing)?;
    {
        let mut put = tx.prepare_cached(PUT).map_err(refused)?;
        for record in batch {
            put_row(&mut put, record.tree, &record.path, &record.row).map_err(refused)?;
        }
    }
    tx.commit().map_err(refused)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::inventory::{Rows, Version};
    use std::path::PathBuf;

    #[test]
    fn receipts_are_given_when_the_rows_are_there_and_closing_loses_none() {
        struct Receipt(mpsc::Sender<bool>, PathBuf);
        impl Drop for Receipt {
            fn drop(&mut self) {
                let tree = Rows::open(&self.1, Path::new("/t")).unwrap();
                self.0.send(tree.get(b"a").unwrap().is_some()).unwrap();
            }
        }
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("inventory.db");
        let tree = Rows::open(&file, Path::new("/t")).unwrap();
        let version = Version {
            inode: 1,
            mtime_ns: 1,
            size: 1,
        };
        let row = Row {
            version,
            digest: None,
            recorded_at_ns: 1,
        };
        let recorder = Recorder::open(&file).unwrap();
        let (sender, receipts) = mpsc::channel();
        for n in 0..1000 {
            let receipt: Box<dyn Send> = match n {
                0 => Box::new(Receipt(sender.clone(), file.clone())),
                _ => Box::new(()),
            };
            let path = if n == 0 { "a".to_string() } else { format!("f{n}") };
            recorder.record(Record {
                tree: tree.tree(),
                path: path.into_bytes().into(),
                row: row.clone(),
                receipt,
            });
        }
        assert!(receipts.recv().unwrap());
        recorder.close();
        assert_eq!(tree.page(None, 2000).unwrap().len(), 1000);
    }

    #[test]
    fn what_cannot_be_written_now_is_told_and_written_later() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("inventory.db");
        let tree = Rows::open(&file, Path::new("/t")).unwrap();
        let recorder = Recorder::open(&file).unwrap();
        let other = Connection::open(&file).unwrap();
        other.execute_batch("ALTER TABLE file RENAME TO away").unwrap();
        let version = Version {
            inode: 1,
            mtime_ns: 1,
            size: 1,
        };
        recorder.record(Record {
            tree: tree.tree(),
            path: b"a".to_vec().into(),
            row: Row {
                version,
                digest: None,
                recorded_at_ns: 1,
            },
            receipt: Box::new(()),
        });
        let mut fault = recorder.fault();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let told = runtime.block_on(fault.wait_for(Option::is_some)).unwrap().clone();
        assert!(told.unwrap().contains("cannot write the inventory"));
        other.execute_batch("ALTER TABLE away RENAME TO file").unwrap();
        runtime.block_on(fault.wait_for(Option::is_none)).unwrap();
        assert_eq!(tree.get(b"a").unwrap().map(|row| row.version), Some(version));
    }
}
