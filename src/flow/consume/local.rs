//! Deliveries that live here: parked or adopted in the unit's own spool, or failed and to be tried again.

use std::collections::HashSet;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::Semaphore;
use tracing::warn;

use super::desk::{Desk, Source};
use super::gate::Gate;
use super::{Handle, Input};
use crate::flow::{Cause, chain};
use crate::message::Fault;
use crate::metrics::Count;
use crate::spool::failed::Failure;
use crate::spool::{SpoolError, off_thread};

impl<H: Handle> Desk<H> {
    /// Deliveries that live in the unit's own spool, when they are due.
    pub async fn take_from_lot(self: Arc<Self>, gate: Arc<Gate>) {
        let places = Arc::new(Semaphore::new(
            self.intake.channels * usize::from(self.intake.prefetch).max(1),
        ));
        loop {
            gate.until(true).await;
            let Ok(place) = Arc::clone(&places).acquire_owned().await else {
                return;
            };
            match self.lot.take_due(Timestamp::now()).await {
                Ok(Some(parked)) => {
                    self.unit.metrics.count(Count::Retried);
                    let input = Arc::new(Input {
                        envelope: parked.envelope,
                        redelivered: true,
                        attempts: parked.attempts,
                        first_seen: parked.first_seen,
                    });
                    self.take_with(input, Source::Lot(parked.held), place).await;
                }
                Ok(None) => {
                    drop(place);
                    let wait = match self.lot.next_due(Timestamp::now()).await {
                        Ok(Some(wait)) => wait.max(Duration::from_millis(10)),
                        Ok(None) => Duration::from_secs(3600), // woken when something is parked or let go of
                        Err(error) => self.lot_trouble(&error).await,
                    };
                    tokio::select! {
                        () = tokio::time::sleep(wait) => {}
                        () = self.lot.changed() => {}
                    }
                }
                Err(error) => tokio::time::sleep(self.lot_trouble(&error).await).await,
            }
        }
    }

    /// Failed messages an operator wants tried again. They stay in the failed store until they are done.
    pub async fn take_replays(self: Arc<Self>, gate: Arc<Gate>) {
        const EVERY: Duration = Duration::from_secs(2);
        const AT_ONCE: u32 = 16;
        loop {
            gate.until(true).await;
            let failed = self.failed.clone();
            let asked = off_thread(move || failed.replays(AT_ONCE)).await;
            for (id, failure) in asked.unwrap_or_else(|error| self.replays_unread(&error)) {
                if !self.replaying().insert(id) {
                    continue; // in hand
                }
                self.unit.metrics.count(Count::Retried);
                let input = Input {
                    envelope: failure.envelope,
                    redelivered: true,
                    attempts: failure.attempts,
                    first_seen: failure.first,
                };
                self.take(Arc::new(input), Source::Failed(id)).await;
            }
            self.show_amounts().await;
            tokio::time::sleep(EVERY).await;
        }
    }

    fn replays_unread(&self, error: &SpoolError) -> Vec<(i64, Failure)> {
        let what = chain(error);
        if let Some(unsaid) = self.samples.take(&what) {
            warn!(unsaid, "nothing is replayed: {what}");
        }
        Vec::new()
    }

    /// What is here now, for the status file.
    async fn show_amounts(&self) {
        let failed = self.failed.clone();
        let state = &self.unit.state;
        state.set_gauge("in_hand", self.in_hand.len() as u64);
        if let Ok(parked) = self.lot.count().await {
            state.set_gauge("parked_here", parked);
        }
        if let Ok(totals) = off_thread(move || failed.totals()).await {
            state.set_gauge("failed_kept", totals.products + totals.rubbish);
        }
    }

    pub fn replaying(&self) -> MutexGuard<'_, HashSet<i64>> {
        self.replaying.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn lot_trouble(&self, error: &SpoolError) -> Duration {
        self.trouble(Cause::from((Fault::Own, error))).await;
        Duration::from_secs(5)
    }
}
