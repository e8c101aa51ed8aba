//! Deliveries this unit has taken over from its broker: parked until a due time, or adopted because their work takes
//! long. Each is synced here before it is acked there, so a restart goes on with it.
//!
//! Which of them are being worked on is known in memory only: it ends with the process, and whoever lets go of one
//! without settling it gets it again, even where the disk takes no writes.

use std::collections::HashSet;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, params};
use tokio::sync::Notify;

use super::sqlite::{self, Durability, Schema};
use super::{SpoolError, line, off_thread};
use crate::message::Envelope;

const SCHEMA: Schema = Schema {
    name: "store of parked deliveries",
    application_id: 0x7078_0101,
    steps: &["CREATE TABLE parked(
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        due_ms INTEGER NOT NULL,
        attempts INTEGER NOT NULL,
        first_ms INTEGER NOT NULL,
        envelope BLOB NOT NULL
     ); CREATE INDEX parked_due ON parked(due_ms)"],
};
const READING: &str = "cannot read the parked deliveries";

/// One delivery that now lives here.
#[derive(Debug)]
pub struct Parked {
    /// Keeps it in hand.
    pub held: Held,
    /// The message as it came.
    pub envelope: Envelope,
    /// Attempts that count, so far.
    pub attempts: u32,
    /// When px first had it.
    pub first_seen: Timestamp,
}

/// A delivery in hand: nobody else takes it. Dropped without [`Lot::remove`] or [`Lot::defer`], it is due again at once.
#[derive(Debug)]
pub struct Held {
    id: i64,
    hands: Arc<Hands>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.hands.lock().remove(&self.id);
        self.hands.changed.notify_one();
    }
}

#[derive(Debug, Default)]
struct Hands {
    held: Mutex<HashSet<i64>>,
    /// Something may be due that was not before.
    changed: Notify,
}

impl Hands {
    /// A set of numbers is whole whatever panicked elsewhere.
    fn lock(&self) -> MutexGuard<'_, HashSet<i64>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(self: &Arc<Self>, id: i64) -> Held {
        self.lock().insert(id);
        Held {
            id,
            hands: Arc::clone(self),
        }
    }
}

/// The store at `state/UNIT/parked.db`. One process uses it: the unit itself.
#[derive(Clone)]
pub struct Lot {
    db: Arc<Mutex<Connection>>,
    hands: Arc<Hands>,
}

impl Lot {
    /// Opens it. What was in hand when the last process ended is due again.
    pub async fn open(path: &Path) -> Result<Self, SpoolError> {
        let path = path.to_owned();
        off_thread(move || {
            let db = sqlite::open(&path, &SCHEMA, Durability::Power)?;
            Ok(Lot {
                db: Arc::new(Mutex::new(db)),
                hands: Arc::default(),
            })
        })
        .await
    }

    /// Keeps a delivery until `due`. Synced when this returns.
    pub async fn keep(
        &self,
        envelope: &Envelope,
        attempts: u32,
        first_seen: Timestamp,
        due: Timestamp,
    ) -> Result<(), SpoolError> {
        drop(self.insert(envelope, attempts, first_seen, due).await?); // and with it whoever waits is woken
        Ok(())
    }

    /// Takes over a delivery that is being worked on; it is due at once should that break off. Synced when this
    /// returns.
    pub async fn adopt(&self, envelope: &Envelope, attempts: u32, first_seen: Timestamp) -> Result<Held, SpoolError> {
        self.insert(envelope, attempts, first_seen, Timestamp::UNIX_EPOCH).await
    }

    async fn insert(
        &self,
        envelope: &Envelope,
        attempts: u32,
        first_seen: Timestamp,
        due: Timestamp,
    ) -> Result<Held, SpoolError> {
        let doing = "cannot park a delivery in the spool";
        let text = line::of_envelope(envelope)?.into_bytes();
        let hands = Arc::clone(&self.hands);
        self.with(doing, move |db| {
            db.execute(
                "INSERT INTO parked(due_ms, attempts, first_ms, envelope) VALUES (?1, ?2, ?3, ?4)",
                params![due.as_millisecond(), attempts, first_seen.as_millisecond(), text],
            )?;
            // Before anybody else can read the table: the connection is ours until this returns.
            Ok(hands.take(db.last_insert_rowid()))
        })
        .await
    }

    /// Takes the delivery that has been due for longest into hand, if one is due at `now`.
    pub async fn take_due(&self, now: Timestamp) -> Result<Option<Parked>, SpoolError> {
        let hands = Arc::clone(&self.hands);
        self.with(READING, move |db| {
            let Some((id, _)) = first_free(db, &hands)?.filter(|(_, due_ms)| *due_ms <= now.as_millisecond()) else {
                return Ok(None);
            };
            let held = hands.take(id);
            let mut read = db.prepare_cached("SELECT envelope, attempts, first_ms FROM parked WHERE id = ?1")?;
            let row = read.query_row([id], |row| {
                let text: Vec<u8> = row.get(0)?;
                let envelope = line::read_envelope(&String::from_utf8_lossy(&text)).map_err(|err| {
                    rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Blob, err.into())
                })?;
                Ok((envelope, row.get(1)?, row.get(2)?))
            });
            match row {
                Ok((envelope, attempts, first_ms)) => Ok(Some(Parked {
                    held,
                    envelope,
                    attempts,
                    first_seen: Timestamp::from_millisecond(first_ms).unwrap_or_default(),
                })),
                Err(error) => {
                    // One that cannot be read must not keep the others waiting: it stays in hand, and is told of again
                    // at the next start.
                    std::mem::forget(held);
                    Err(error)
                }
            }
        })
        .await
    }

    /// How long until the next delivery is due; `None` when none waits.
    pub async fn next_due(&self, now: Timestamp) -> Result<Option<Duration>, SpoolError> {
        let hands = Arc::clone(&self.hands);
        self.with(READING, move |db| {
            let due = first_free(db, &hands)?;
            Ok(due.map(|(_, due_ms)| {
                Duration::from_millis(due_ms.saturating_sub(now.as_millisecond()).max(0).unsigned_abs())
            }))
        })
        .await
    }

    /// Resolves when something may have become due that was not before.
    pub async fn changed(&self) {
        self.hands.changed.notified().await;
    }

    /// Parks a delivery in hand again.
    pub async fn defer(&self, held: Held, attempts: u32, due: Timestamp) -> Result<(), SpoolError> {
        let id = held.id;
        self.with("cannot park a delivery again", move |db| {
            db.execute(
                "UPDATE parked SET attempts = ?2, due_ms = ?3 WHERE id = ?1",
                params![id, attempts, due.as_millisecond()],
            )
        })
        .await
        .map(drop)
    }

    /// Its outputs are safe: forgets it.
    pub async fn remove(&self, held: Held) -> Result<(), SpoolError> {
        let id = held.id;
        self.with("cannot settle a parked delivery", move |db| {
            db.execute("DELETE FROM parked WHERE id = ?1", [id])
        })
        .await
        .map(drop)
    }

    /// How many are in somebody's hand.
    pub fn in_hand(&self) -> usize {
        self.hands.lock().len()
    }

    /// How many lie here, in hand or not.
    pub async fn count(&self) -> Result<u64, SpoolError> {
        self.with("cannot count the parked deliveries", |db| {
            db.query_row("SELECT count(*) FROM parked", [], |row| row.get::<_, i64>(0))
        })
        .await
        .map(|count| count as u64)
    }

    async fn with<T: Send + 'static>(
        &self,
        doing: &'static str,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, SpoolError> {
        let db = Arc::clone(&self.db);
        off_thread(move || {
            let db = db.lock().unwrap_or_else(PoisonError::into_inner);
            work(&db).map_err(|err| sqlite::classify(err, doing))
        })
        .await
    }
}

/// The delivery that is due first of those in nobody's hand, and when.
fn first_free(db: &Connection, hands: &Hands) -> rusqlite::Result<Option<(i64, i64)>> {
    let held = hands.lock();
    let mut rows = db.prepare_cached("SELECT id, due_ms FROM parked ORDER BY due_ms, id")?;
    rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .find(|row| row.as_ref().map_or(true, |(id, _)| !held.contains(id)))
        .transpose()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Value;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millisecond(ms).unwrap()
    }

    fn envelope() -> Envelope {
        Envelope {
            key: "a.b".into(),
            body: vec![0, 255],
            ..Envelope::default()
        }
    }

    async fn lot(dir: &tempfile::TempDir) -> Lot {
        Lot::open(&dir.path().join("parked.db")).await.unwrap()
    }

    /// The file is never written again: it is what px wrote before messages were lines of JSON here.
    #[tokio::test]
    async fn what_the_first_px_parked_is_read() {
        let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/spool/parked-1.db");
        let dir = tempfile::tempdir().unwrap();
        std::fs::copy(sample, dir.path().join("parked.db")).unwrap();
        let lot = lot(&dir).await;
        let full = lot.take_due(Timestamp::MAX).await.unwrap().unwrap();
        let today = crate::spool::line::tests::full(3).envelope;
        // It kept a word in place of a header that its form could not hold.
        let expected = crate::spool::with_plain_headers(&today);
        assert_eq!((full.envelope, full.attempts), (expected, 2));
        let plain = lot.take_due(Timestamp::MAX).await.unwrap().unwrap();
        assert_eq!((&*plain.envelope.key, plain.envelope.body.len()), ("4", 0));
        lot.keep(&today, 2, at(0), at(0)).await.unwrap();
        assert_eq!(lot.take_due(at(1)).await.unwrap().unwrap().envelope, today);
    }

    #[tokio::test]
    async fn what_was_in_hand_is_due_at_once_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let before = lot(&dir).await;
        let held = before.adopt(&envelope(), 0, at(7)).await.unwrap();
        assert!(before.take_due(at(i64::from(u32::MAX))).await.unwrap().is_none());
        std::mem::forget(held); // killed
        let lot = lot(&dir).await;
        let parked = lot.take_due(at(1)).await.unwrap().unwrap();
        assert_eq!((parked.envelope, parked.first_seen), (envelope(), at(7)));
        lot.defer(parked.held, 3, at(5000)).await.unwrap();
        assert!(lot.take_due(at(4999)).await.unwrap().is_none());
        assert_eq!(lot.next_due(at(4000)).await.unwrap(), Some(Duration::from_secs(1)));
        let again = lot.take_due(at(5000)).await.unwrap().unwrap();
        assert_eq!(again.attempts, 3);
        lot.remove(again.held).await.unwrap();
        assert_eq!(lot.count().await.unwrap(), 0);
    }

    #[tokio::test]
    async fn what_is_let_go_of_unsettled_wakes_the_taker_and_comes_again_even_on_a_full_disk() {
        let dir = tempfile::tempdir().unwrap();
        let lot = lot(&dir).await;
        for key in ["first", "second"] {
            let envelope = Envelope {
                key: key.into(),
                ..Envelope::default()
            };
            lot.keep(&envelope, 0, at(0), at(1)).await.unwrap();
        }
        let take = || async { lot.take_due(at(2)).await.unwrap() };
        let (first, second) = (take().await.unwrap(), take().await.unwrap());
        assert_eq!((&*first.envelope.key, &*second.envelope.key), ("first", "second"));
        assert_eq!(lot.next_due(at(2)).await.unwrap(), None);
        lot.changed().await; // that they were kept
        lot.db.lock().unwrap().pragma_update(None, "query_only", true).unwrap();
        assert!(lot.remove(first.held).await.is_err() && lot.defer(second.held, 1, at(9)).await.is_err());
        lot.changed().await;
        let again = take().await.unwrap();
        assert_eq!(again.envelope.key, "first");
        assert_eq!(take().await.unwrap().envelope.key, "second");
    }

    #[tokio::test]
    async fn a_header_that_json_cannot_carry_costs_itself_and_not_the_delivery() {
        let dir = tempfile::tempdir().unwrap();
        let lot = lot(&dir).await;
        let mut odd = envelope();
        odd.headers.insert("odd".into(), Value::F64(f64::NAN));
        odd.headers.insert("plain".into(), Value::F64(0.5));
        let deep = (0..64).fold(Value::Void, |inner, _| Value::Array(vec![inner]));
        odd.headers.insert("deep".into(), deep);
        lot.keep(&odd, 0, at(0), at(1)).await.unwrap();
        let parked = lot.take_due(at(1)).await.unwrap().unwrap();
        assert_eq!(parked.envelope.headers["plain"], Value::F64(0.5));
        assert_eq!(parked.envelope.body, odd.body);
    }

    #[tokio::test]
    async fn one_that_cannot_be_read_is_told_of_once_and_does_not_stop_the_others() {
        let dir = tempfile::tempdir().unwrap();
        let lot = lot(&dir).await;
        lot.keep(&envelope(), 0, at(0), at(1)).await.unwrap();
        let damage = "UPDATE parked SET envelope = x'00'";
        lot.db.lock().unwrap().execute(damage, []).unwrap();
        lot.keep(&envelope(), 0, at(0), at(2)).await.unwrap();
        assert!(lot.take_due(at(3)).await.is_err());
        assert!(lot.take_due(at(3)).await.unwrap().is_some());
    }
}
