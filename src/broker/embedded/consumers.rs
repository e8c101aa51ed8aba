//! The consumers of this connection: how much room each has, whose turn it is, and what they have claimed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tokio::sync::mpsc;

use super::messages::{self, Claimed};
use super::reason::Reason;
use super::routes::{QueueRow, Routes};
use crate::message::Envelope;

/// How long a consumer leaves messages to those whose turn it is.
const GRACE: Duration = Duration::from_millis(10);
/// Messages one consumer claims in one transaction.
const CLAIM_MAX: usize = 256;
/// Bytes of bodies that wait in one subscription; one message may go over it.
const BACKLOG_MAX: usize = 16 << 20;

/// A claimed message on its way to its subscription.
pub(super) struct Delivery {
    pub message: i64,
    pub redelivered: bool,
    pub envelope: Envelope,
}

/// The subscription's end of a consumer.
pub(super) struct Stream {
    /// `Err` is the last one.
    pub deliveries: mpsc::Receiver<Result<Delivery, Reason>>,
    backlog: Arc<AtomicUsize>,
}

impl Stream {
    /// Notes that a body has left the backlog; true when the consumer may claim again because of it.
    pub fn note_taken(&self, size: usize) -> bool {
        let before = self.backlog.fetch_sub(size, Ordering::AcqRel);
        before >= BACKLOG_MAX && before.saturating_sub(size) < BACKLOG_MAX
    }
}

struct Consumer {
    queue: i64,
    queue_name: String,
    prefetch: usize,
    unsettled: usize,
    /// `unsettled` differs from what the file says.
    is_relieved: bool,
    is_active: bool,
    /// Has room for `prefetch` deliveries and the last word.
    deliveries: mpsc::Sender<Result<Delivery, Reason>>,
    backlog: Arc<AtomicUsize>,
    /// Leaves what is ready to the others until then.
    patient_until: Option<Instant>,
}

impl Consumer {
    /// How many messages it could take now; it waits for nothing when that is none.
    fn room(&mut self) -> usize {
        let is_full = !self.is_active || self.backlog.load(Ordering::Acquire) >= BACKLOG_MAX;
        let room = if is_full {
            0
        } else {
            self.prefetch.saturating_sub(self.unsettled)
        };
        if room == 0 {
            self.patient_until = None;
        }
        room.min(CLAIM_MAX)
    }

    fn is_impatient(&self) -> bool {
        self.patient_until.is_some_and(|until| until <= Instant::now())
    }

    fn be_patient(&mut self) {
        self.patient_until = self.patient_until.or(Some(Instant::now() + GRACE));
    }
}

/// All of them, by their id in the file.
#[derive(Default)]
pub(super) struct Consumers(BTreeMap<i64, Consumer>);

impl Consumers {
    pub fn add(&mut self, id: i64, queue: &QueueRow, prefetch: usize) -> Stream {
        let (sender, deliveries) = mpsc::channel(prefetch + 1);
        let backlog = Arc::new(AtomicUsize::new(0));
        let consumer = Consumer {
            queue: queue.id,
            queue_name: queue.name.clone(),
            prefetch,
            unsettled: 0,
            is_relieved: false,
            is_active: true,
            deliveries: sender,
            backlog: backlog.clone(),
            patient_until: None,
        };
        self.0.insert(id, consumer);
        Stream { deliveries, backlog }
    }

    /// It gets nothing more and may still settle.
    pub fn stop(&mut self, id: i64) {
        if let Some(consumer) = self.0.get_mut(&id) {
            consumer.is_active = false;
            consumer.patient_until = None;
        }
    }

    pub fn remove(&mut self, id: i64) {
        self.0.remove(&id);
    }

    /// Ends the subscriptions to queues that are gone.
    pub fn end_missing(&mut self, routes: &Routes, place: &str) {
        self.0.retain(|_, consumer| {
            let is_there = routes.queue(consumer.queue).is_some();
            if !is_there {
                let gone = Reason::endpoint(format!("queue {} was deleted", consumer.queue_name)).at(place);
                // There is room for this last word; a subscription that is being dropped does not want it.
                let _ = consumer.deliveries.try_send(Err(gone));
            }
            is_there
        });
    }

    /// One delivery of this consumer is settled or went back.
    pub fn note_settled(&mut self, id: i64) {
        if let Some(consumer) = self.0.get_mut(&id) {
            consumer.unsettled = consumer.unsettled.saturating_sub(1);
            consumer.is_relieved = true;
        }
    }

    /// When the first of those that wait for their turn has waited long enough.
    pub fn patient_until(&self) -> Option<Instant> {
        self.0.values().filter_map(|consumer| consumer.patient_until).min()
    }

    /// Is there anything to take? Asked before a transaction, so that idle processes do not write.
    pub fn could_claim(&mut self, db: &Connection, now_ms: i64) -> rusqlite::Result<bool> {
        for (id, consumer) in &mut self.0 {
            let room = consumer.room();
            if room == 0 {
                continue;
            }
            let demand = messages::demand(db, consumer.queue, room, now_ms)?;
            if demand.share(*id, consumer.is_impatient()) > 0 {
                return Ok(true);
            }
            match demand.ready {
                0 => consumer.patient_until = None,
                _ => consumer.be_patient(),
            }
        }
        Ok(false)
    }

    /// Claims what it is their turn to take. True when one of them could take more at once.
    pub fn claim(
        &mut self,
        db: &Connection,
        now_ms: i64,
        deliveries: &mut Vec<(i64, Delivery)>,
    ) -> Result<bool, Reason> {
        for (id, consumer) in self.0.iter_mut().filter(|(_, consumer)| consumer.is_relieved) {
            consumer.is_relieved = false;
            messages::note_consumer(db, *id, consumer.unsettled, false)?;
        }
        let mut is_more = false;
        for (id, consumer) in &mut self.0 {
            let room = consumer.room();
            if room == 0 {
                continue;
            }
            let demand = messages::demand(db, consumer.queue, room, now_ms)?;
            let share = demand.share(*id, consumer.is_impatient()).min(room);
            let mut taken = 0;
            if share > 0 {
                let bytes_max = BACKLOG_MAX.saturating_sub(consumer.backlog.load(Ordering::Acquire));
                let claimed = messages::claim(db, consumer.queue, *id, share, bytes_max, now_ms)?;
                taken = claimed.len();
                consumer.unsettled += taken;
                messages::note_consumer(db, *id, consumer.unsettled, true)?;
                for claimed in claimed {
                    deliveries.push((*id, unpack(claimed)?));
                }
            }
            if taken > 0 || demand.ready == 0 {
                consumer.patient_until = None;
            }
            if demand.ready > taken && consumer.unsettled < consumer.prefetch {
                if taken == CLAIM_MAX {
                    is_more = true;
                } else {
                    consumer.be_patient();
                }
            }
        }
        Ok(is_more)
    }

    /// Hands a claimed message to its subscription. A subscription that is ending does not take it: gives its id.
    pub fn deliver(&self, id: i64, delivery: Delivery) -> Result<(), i64> {
        let message = delivery.message;
        let consumer = self.0.get(&id).ok_or(message)?;
        consumer
            .backlog
            .fetch_add(delivery.envelope.body.len(), Ordering::AcqRel);
        consumer.deliveries.try_send(Ok(delivery)).map_err(|_| message)
    }
}

fn unpack(claimed: Claimed) -> Result<Delivery, Reason> {
    let Claimed {
        id,
        redelivered,
        content,
    } = claimed;
    let envelope = content.unpack().ok_or_else(|| {
        Reason::own(format!(
            "the properties of message {id} are not what px writes; the file is damaged, move it away or restore it"
        ))
    })?;
    Ok(Delivery {
        message: id,
        redelivered,
        envelope,
    })
}
