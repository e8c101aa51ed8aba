//! Deliveries this unit has taken over from its broker: parked until a due time, or adopted because their work takes
//! long. Each is synced here before it is acked there, so a restart goes on with it.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};

use super::db::{self, Durability, Schema};
use super::{SpoolError, off_thread};
use crate::message::Envelope;

const SCHEMA: Schema = Schema {
    name: "store of parked deliveries",
    application_id: 0x7078_0101,
    steps: &["CREATE TABLE parked(
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        due_ms INTEGER NOT NULL,
        in_hand INTEGER NOT NULL,
        attempts INTEGER NOT NULL,
        first_ms INTEGER NOT NULL,
        envelope BLOB NOT NULL
     ); CREATE INDEX parked_due ON parked(in_hand, due_ms)"],
};

/// One delivery that now lives here.
#[derive(Debug, Clone, PartialEq)]
pub struct Parked {
    /// Its row.
    pub id: i64,
    /// The message as it came.
    pub envelope: Envelope,
    /// Attempts that count, so far.
    pub attempts: u32,
    /// When px first had it.
    pub first_seen: Timestamp,
}

/// The store at `state/UNIT/parked.db`. One process uses it: the unit itself.
#[derive(Clone)]
pub struct Lot {
    db: Arc<Mutex<Connection>>,
}

impl Lot {
    /// Opens it. What was in hand when the last process ended is due at once.
    pub async fn open(path: &Path) -> Result<Self, SpoolError> {
        let path = path.to_owned();
        off_thread(move || {
            let db = db::open(&path, &SCHEMA, Durability::Power)?;
            db.execute("UPDATE parked SET in_hand = 0, due_ms = 0 WHERE in_hand = 1", [])
                .map_err(|err| db::classify(err, "cannot take up the parked deliveries"))?;
            Ok(Lot {
                db: Arc::new(Mutex::new(db)),
            })
        })
        .await
    }

    /// Keeps a delivery until `due`; with no due time it is in somebody's hand. Synced when this returns.
    pub async fn keep(
        &self,
        envelope: &Envelope,
        attempts: u32,
        first_seen: Timestamp,
        due: Option<Timestamp>,
    ) -> Result<i64, SpoolError> {
        let doing = "cannot park a delivery in the spool";
        let text = serde_json::to_vec(envelope).map_err(|err| SpoolError::own(doing, err))?;
        self.with(doing, move |db| {
            db.execute(
                "INSERT INTO parked(due_ms, in_hand, attempts, first_ms, envelope) VALUES (?1, ?2, ?3, ?4, ?5)",
                params![
                    due.map_or(0, Timestamp::as_millisecond),
                    due.is_none(),
                    attempts,
                    first_seen.as_millisecond(),
                    text
                ],
            )?;
            Ok(db.last_insert_rowid())
        })
        .await
    }

    /// Takes the delivery that has been due for longest into hand, if one is due at `now`.
    pub async fn take_due(&self, now: Timestamp) -> Result<Option<Parked>, SpoolError> {
        self.with("cannot read the parked deliveries", move |db| {
            db.query_row(
                "UPDATE parked SET in_hand = 1 WHERE id = (SELECT id FROM parked WHERE in_hand = 0 AND due_ms <= ?1
                 ORDER BY due_ms, id LIMIT 1) RETURNING id, envelope, attempts, first_ms",
                [now.as_millisecond()],
                |row| {
                    let envelope: Vec<u8> = row.get(1)?;
                    Ok(Parked {
                        id: row.get(0)?,
                        envelope: serde_json::from_slice(&envelope).map_err(|err| {
                            rusqlite::Error::FromSqlConversionFailure(1, rusqlite::types::Type::Blob, err.into())
                        })?,
                        attempts: row.get(2)?,
                        first_seen: Timestamp::from_millisecond(row.get(3)?).unwrap_or_default(),
                    })
                },
            )
            .optional()
        })
        .await
    }

    /// How long until the next delivery is due; `None` when none waits.
    pub async fn next_due(&self, now: Timestamp) -> Result<Option<Duration>, SpoolError> {
        self.with("cannot read the parked deliveries", move |db| {
            let due: Option<i64> =
                db.query_row("SELECT min(due_ms) FROM parked WHERE in_hand = 0", [], |row| row.get(0))?;
            Ok(due.map(|due| Duration::from_millis(due.saturating_sub(now.as_millisecond()).max(0) as u64)))
        })
        .await
    }

    /// Parks a delivery in hand again.
    pub async fn defer(&self, id: i64, attempts: u32, due: Timestamp) -> Result<(), SpoolError> {
        self.with("cannot park a delivery again", move |db| {
            db.execute(
                "UPDATE parked SET in_hand = 0, attempts = ?2, due_ms = ?3 WHERE id = ?1",
                params![id, attempts, due.as_millisecond()],
            )
        })
        .await
        .map(drop)
    }

    /// Puts a delivery in hand back, due at once.
    pub async fn release(&self, id: i64) -> Result<(), SpoolError> {
        self.with("cannot put a parked delivery back", move |db| {
            db.execute("UPDATE parked SET in_hand = 0, due_ms = 0 WHERE id = ?1", [id])
        })
        .await
        .map(drop)
    }

    /// Its outputs are safe: forgets it.
    pub async fn remove(&self, id: i64) -> Result<(), SpoolError> {
        self.with("cannot settle a parked delivery", move |db| {
            db.execute("DELETE FROM parked WHERE id = ?1", [id])
        })
        .await
        .map(drop)
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
            work(&db).map_err(|err| db::classify(err, doing))
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millisecond(ms).unwrap()
    }

    #[tokio::test]
    async fn what_was_in_hand_is_due_at_once_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("parked.db");
        let envelope = Envelope {
            key: "a.b".into(),
            body: vec![0, 255],
            ..Envelope::default()
        };
        let lot = Lot::open(&path).await.unwrap();
        lot.keep(&envelope, 0, at(7), None).await.unwrap();
        assert_eq!(lot.take_due(at(i64::from(u32::MAX))).await.unwrap(), None);
        drop(lot);
        let lot = Lot::open(&path).await.unwrap();
        let parked = lot.take_due(at(1)).await.unwrap().unwrap();
        assert_eq!((parked.envelope, parked.first_seen), (envelope, at(7)));
        lot.defer(parked.id, 3, at(5000)).await.unwrap();
        assert_eq!(lot.take_due(at(4999)).await.unwrap(), None);
        assert_eq!(lot.next_due(at(4000)).await.unwrap(), Some(Duration::from_secs(1)));
        let again = lot.take_due(at(5000)).await.unwrap().unwrap();
        assert_eq!(again.attempts, 3);
        lot.remove(again.id).await.unwrap();
        assert_eq!(lot.count().await.unwrap(), 0);
    }
}
