//! Connections: each takes the next product, and tells what became of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use tokio::sync::Mutex;
use tokio::sync::mpsc::{Receiver, UnboundedSender};
use tokio::task::JoinSet;

use super::failures::{Failure, Scope};
use super::ready::Ready;
use super::settle::Note;
use crate::flow::Unit;
use crate::flow::script::{Script, ScriptError, SendRequest};
use crate::transfer::deliver::{Deliverer, Lane, Parcel};

/// Small products that one connection takes at once, where that gains anything.
const HANDFUL: usize = 32;
/// So many bytes are a handful too: other connections want some of them, and who stops the unit waits for no more.
const HANDFUL_BYTES: u64 = 4 << 20;

/// Starts the connections; each ends when no product can come any more. Dropping the set breaks them off.
pub(super) fn start(
    unit: &Unit,
    deliverer: &Deliverer,
    (count, is_local): (usize, bool),
    products: Receiver<Ready>,
    notes: &UnboundedSender<Note>,
) -> JoinSet<()> {
    let products = Arc::new(Mutex::new(products));
    let connected = Arc::new(AtomicU64::new(0));
    let mut lanes = JoinSet::new();
    for _ in 0..count {
        let worker = Worker {
            unit: unit.clone(),
            lane: deliverer.lane(),
            products: Arc::clone(&products),
            notes: notes.clone(),
            connected: Arc::clone(&connected),
            is_connected: false,
            is_local,
        };
        lanes.spawn(worker.run());
    }
    lanes
}

struct Worker {
    unit: Unit,
    lane: Lane,
    products: Arc<Mutex<Receiver<Ready>>>,
    notes: UnboundedSender<Note>,
    connected: Arc<AtomicU64>,
    is_connected: bool,
    /// There are no connections to be shown.
    is_local: bool,
}

impl Worker {
    async fn run(mut self) {
        loop {
            let next = self.next().await;
            if next.is_empty() {
                break;
            }
            if self.unit.stop.is_cancelled() {
                continue; // not begun: they stay in the queue
            }
            let parcels: Vec<&Parcel> = next.iter().map(|ready| &ready.parcel).collect();
            let results = self.lane.put_all(&parcels).await;
            self.show_connected();
            for (ready, put) in next.into_iter().zip(results) {
                let result = put.map(|put| put.took).map_err(|error| Failure::from(&error));
                // Who settles ends early only when the unit does; the file stays.
                drop(self.notes.send((ready, result)));
            }
        }
        self.lane.close().await;
    }

    /// The next product, or some small ones that are there already; none when no more can come.
    async fn next(&self) -> Vec<Ready> {
        // Let go of before they are delivered.
        let mut products = self.products.lock().await;
        let mut next: Vec<Ready> = products.recv().await.into_iter().collect();
        let most = if self.lane.takes_many() { HANDFUL } else { 1 };
        let mut bytes = next.iter().map(|ready| ready.parcel.size).sum::<u64>();
        while !next.is_empty() && next.len() < most && bytes < HANDFUL_BYTES {
            let Ok(ready) = products.try_recv() else { break };
            bytes = bytes.saturating_add(ready.parcel.size);
            next.push(ready);
        }
        next
    }

    fn show_connected(&mut self) {
        let is_connected = self.lane.is_connected();
        if self.is_local || is_connected == self.is_connected {
            return;
        }
        self.is_connected = is_connected;
        let count = match is_connected {
            true => self.connected.fetch_add(1, Ordering::Relaxed) + 1,
            false => self.connected.fetch_sub(1, Ordering::Relaxed) - 1,
        };
        self.unit.state.set_gauge("connections", count);
    }
}

/// Starts what gives products to a script, a list at a time.
pub(super) fn start_script(
    unit: &Unit,
    script: Script,
    lists: Receiver<Vec<Ready>>,
    notes: &UnboundedSender<Note>,
) -> JoinSet<()> {
    let mut lanes = JoinSet::new();
    lanes.spawn(send(unit.clone(), script, lists, notes.clone()));
    lanes
}

async fn send(unit: Unit, script: Script, mut lists: Receiver<Vec<Ready>>, notes: UnboundedSender<Note>) {
    let queue = unit.places.spool.join("txq").join(&unit.name.name);
    while let Some(list) = lists.recv().await {
        if unit.stop.is_cancelled() {
            continue;
        }
        let requests: Vec<SendRequest> = list
            .iter()
            .map(|ready| SendRequest {
                path: super::path_of(&queue, ready.source()),
                directory: ready.parcel.directory.clone(),
                name: ready.parcel.name.clone(),
            })
            .collect();
        let begun = Instant::now();
        let answers = script.send(&requests).await;
        let took = begun.elapsed();
        for (ready, answer) in list.into_iter().zip(answers) {
            let result = answer.map(|()| took).map_err(Failure::from);
            drop(notes.send((ready, result))); // as above
        }
    }
}

impl From<ScriptError> for Failure {
    fn from(error: ScriptError) -> Self {
        Failure {
            fault: error.fault,
            what: error.what,
            scope: Scope::Script,
            retry_after: None,
        }
    }
}
