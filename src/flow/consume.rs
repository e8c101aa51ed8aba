//! The one place that settles: takes deliveries, lets the component decide, makes the outputs safe, then answers.
//!
//! Deliveries come from the unit's queue and from its own spool (parked here, or adopted because they took long); both
//! are treated alike. Each is settled exactly once, and only after what it led to is safe.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use jiff::Timestamp;
use tokio::sync::{mpsc, watch};
use tracing::warn;

use super::link::Link;
use super::publish::Publisher;
use super::{Cause, Outcome, Unit};
use crate::broker::Purpose;
use crate::config::Broker;
use crate::message::{Envelope, Queue, Topology};

mod along;
mod choice;
mod desk;
mod drain;
mod gate;
mod local;
mod taker;

pub use along::{read_along, subscribe_alone, wait_until_unused};
use desk::Desk;
pub use drain::Drain;
use gate::Gate;
use taker::Taker;

/// One delivery as a component sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Input {
    /// The message, without the marks of parking.
    pub envelope: Envelope,
    /// Somebody may have worked on it before.
    pub redelivered: bool,
    /// Attempts that counted before this one.
    pub attempts: u32,
    /// When px first had it, UTC; kept when parked.
    pub first_seen: Timestamp,
}

/// A component's answer to one delivery.
pub enum Step {
    /// Decided. Its outputs are published in the queue's order.
    Now(Outcome),
    /// Work that takes time; other deliveries go on meanwhile, within the prefetch.
    Later(BoxFuture<'static, Outcome>),
    /// Look again once this has come about: it hangs on another delivery.
    Again(BoxFuture<'static, ()>),
}

/// What a component does with its deliveries.
#[async_trait]
pub trait Handle: Send + Sync + 'static {
    /// What the component remembers of a delivery until it is settled.
    type Note: Send + Sync + 'static;

    /// Looks at one delivery. Called one at a time per channel, in the queue's order.
    async fn begin(&self, input: &Arc<Input>) -> (Step, Self::Note);

    /// The outputs of this input are confirmed and it is about to be settled. An error keeps it from that.
    async fn outputs_safe(&self, input: &Input, note: &Self::Note) -> Result<(), Cause>;

    /// The first delivery of a subscription has come: the broker gives its deliveries to this consumer. It begins
    /// when this returns, if it is still wanted then. Told before, too, where the broker chooses and has nobody else
    /// to choose.
    async fn chosen(&self) {}

    /// A subscription has ended: whatever it brought before, no more comes from it.
    fn unchosen(&self) {}

    /// This input was not done: it is parked, failed, released or left for the broker to deliver again.
    fn undone(&self, input: &Input, note: &Self::Note);
}

/// Where a unit's deliveries come from.
#[derive(Debug, Clone)]
pub struct Intake {
    /// The broker.
    pub broker: Broker,
    /// Exchanges, the queue and its bindings, asserted at every connect.
    pub topology: Topology,
    /// The queue.
    pub queue: Queue,
    /// Unsettled deliveries per channel.
    pub prefetch: u16,
    /// Channels, each with its own prefetch.
    pub channels: usize,
    /// Work that takes longer is taken over from the broker.
    pub adopt_after: Duration,
    /// An endpoint is waited for no longer than this.
    pub give_up_after: Duration,
}

/// Takes deliveries until the unit stops, while `gate` is open. Reconnects for ever. Returns when everything in hand is
/// settled, or when the unit is abandoned; `Err` only when the unit's own stores cannot be opened.
pub async fn run<H: Handle>(
    unit: &Unit,
    intake: Intake,
    handler: Arc<H>,
    publisher: Option<Publisher>,
    gate: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let (tell_trouble, troubles) = mpsc::channel(64);
    let desk = Arc::new(Desk::open(unit, intake, handler, publisher, tell_trouble).await?);
    let gate = Arc::new(Gate {
        wanted: gate,
        held: watch::Sender::new(false),
    });
    let local = [
        tokio::spawn(Arc::clone(&desk).take_from_lot(Arc::clone(&gate))),
        tokio::spawn(Arc::clone(&desk).take_replays(Arc::clone(&gate))),
    ];
    let connection = Taker::new(Arc::clone(&desk), gate, troubles).run().await;
    for task in local {
        task.abort(); // what it holds in hand goes on; what it had not taken waits for the next start
    }
    desk.in_hand.close();
    // After the deadline nothing more is waited for: the brokers will redeliver.
    let finished = unit.abandon.run_until_cancelled(desk.in_hand.wait()).await;
    if finished.is_none() {
        warn!(
            count = desk.in_hand.len(),
            "left in hand; the broker will deliver these again"
        );
        desk.in_hand.wait().await; // each lets go
    }
    if let Some(connection) = connection {
        connection.close().await;
    }
    Ok(())
}

/// Reads along on a queue that only this unit sees, until the unit stops. Reconnects for ever.
pub async fn follow(
    unit: &Unit,
    broker: Broker,
    topology: Topology,
    queue: String,
    note: impl Fn(&Envelope) + Send + Sync,
) {
    let mut link = Link::new(unit, broker, Purpose::Follow);
    while let Some(connection) = link.connect(&topology, &unit.stop).await {
        let note_all = async |envelopes: Vec<Envelope>| envelopes.iter().for_each(&note);
        let read = async {
            let subscription = along::subscribe(connection.as_ref(), &queue).await?;
            read_along(subscription, &unit.stop, note_all).await
        };
        match read.await {
            Ok(()) => break,
            Err(error) => link.broken(&error),
        }
    }
}

#[cfg(test)]
mod tests;
