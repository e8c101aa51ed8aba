//! The loop around connections and channels: where deliveries come from, and why they stop coming.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use super::desk::{Desk, WORK};
use super::gate::Gate;
use super::{Handle, Intake};
use crate::backoff::Backoff;
use crate::broker::{BrokerError, Connection, Purpose};
use crate::flow::link::Link;
use crate::flow::{Cause, chain};
use crate::message::Fault;

/// Why deliveries stopped coming.
enum End {
    Stopped,
    Shut,
    Broken(BrokerError),
}

/// The loop around connections and channels.
pub(super) struct Taker<H> {
    desk: Arc<Desk<H>>,
    link: Link,
    gate: Arc<Gate>,
    troubles: mpsc::Receiver<Cause>,
    probe: Backoff,
}

impl<H: Handle> Taker<H> {
    pub fn new(desk: Arc<Desk<H>>, gate: Arc<Gate>, troubles: mpsc::Receiver<Cause>) -> Self {
        Taker {
            link: Link::new(&desk.unit, desk.intake.broker.clone(), Purpose::Consume),
            desk,
            gate,
            troubles,
            probe: Backoff::new(Duration::from_secs(1), Duration::from_secs(60)),
        }
    }

    /// Takes until the unit stops. The answer is the connection that then stands: what is in hand is settled on it.
    pub async fn run(&mut self) -> Option<Arc<dyn Connection>> {
        let stop = self.desk.unit.stop.clone();
        while let Some(connection) = self.link.connect(&self.desk.intake.topology, &stop).await {
            match self.generation(&connection, &stop).await {
                Ok(()) => return Some(connection),
                Err(error) => self.link.broken(&error),
            }
        }
        None
    }

    /// One connection. `Ok` when the unit stops.
    async fn generation(
        &mut self,
        connection: &Arc<dyn Connection>,
        stop: &CancellationToken,
    ) -> Result<(), BrokerError> {
        self.desk.choose_parking(connection.as_ref()).await?;
        loop {
            self.desk.unit.state.set_ready();
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = self.gate.until(true) => {}
                error = connection.closed() => return Err(error),
                () = tokio::time::sleep(LOOK_EVERY) => {
                    let looked = stop.run_until_cancelled(self.look_after_queue(connection.as_ref())).await;
                    looked.unwrap_or(Ok(()))?;
                    continue;
                }
            }
            match self.channels(connection, stop).await {
                End::Stopped => return Ok(()),
                // A new connection declares the queue again, should it have been deleted.
                End::Broken(error) => return Err(error),
                End::Shut => {}
            }
        }
    }

    /// Nobody consumes, so nobody is told when the queue goes. It is the memory of all that is not worked on yet, and
    /// without it what comes is lost.
    async fn look_after_queue(&self, connection: &dyn Connection) -> Result<(), BrokerError> {
        let Intake { queue, topology, .. } = &self.desk.intake;
        match connection.depth(&queue.name).await {
            Ok(Some(_)) => return Ok(()),
            Ok(None) => {}
            Err(error) => {
                // A broken connection says so itself.
                debug!("{}", chain(&error));
                return Ok(());
            }
        }
        let warnings = connection.declare(topology).await?;
        error!(
            "queue {} was gone while this unit stands by: it was deleted, or has expired. What it held, and what has been \
             published since, is lost to this unit; it is declared and bound again",
            queue.name
        );
        for warning in warnings {
            warn!("{warning}");
        }
        Ok(())
    }

    /// All channels, until the gate shuts, trouble of our own comes up, or the connection breaks.
    async fn channels(&mut self, connection: &Arc<dyn Connection>, stop: &CancellationToken) -> End {
        let halt = CancellationToken::new();
        let mut channels = tokio::task::JoinSet::new();
        for _ in 0..self.desk.intake.channels {
            let desk = Arc::clone(&self.desk);
            channels.spawn(desk.channel(Arc::clone(connection), halt.clone()));
        }
        let mut trouble = None;
        let state = self.desk.unit.state.clone();
        let well = async {
            tokio::time::sleep(WELL_AFTER).await;
            state.resume(WORK);
            std::future::pending().await
        };
        let mut end = tokio::select! {
            biased;
            () = stop.cancelled() => End::Stopped,
            () = well => unreachable!("it never ends"),
            Some(cause) = self.troubles.recv() => {
                trouble = Some(cause);
                End::Shut
            }
            () = self.gate.until(false) => End::Shut,
            Some(ended) = channels.join_next() => broken(ended),
            error = connection.closed() => End::Broken(error),
        };
        halt.cancel();
        while let Some(ended) = channels.join_next().await {
            if let (End::Shut, broken @ End::Broken(_)) = (&end, broken(ended)) {
                end = broken;
            }
        }
        if let Some(cause) = trouble {
            self.rest(cause).await;
        }
        end
    }

    /// Takes nothing for a while, shows why, then lets the next delivery be the probe.
    async fn rest(&mut self, cause: Cause) {
        self.gate.held.send_replace(true);
        if !self.desk.unit.state.is_paused() {
            self.probe.reset();
        }
        self.desk.unit.state.pause(WORK, cause.what);
        let wait = self.probe.next_wait();
        self.desk.unit.stop.run_until_cancelled(tokio::time::sleep(wait)).await;
        while self.troubles.try_recv().is_ok() {} // said while resting: the same trouble
        self.gate.held.send_replace(false);
    }
}

/// While nothing is taken.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// After a rest: no new trouble for so long means that it is over, even when nothing came.
const WELL_AFTER: Duration = Duration::from_secs(10);

fn broken(ended: Result<Result<(), BrokerError>, tokio::task::JoinError>) -> End {
    match ended {
        Ok(Ok(())) => End::Shut,
        Ok(Err(error)) => End::Broken(error),
        Err(error) => End::Broken(BrokerError {
            fault: Fault::Endpoint,
            what: "a channel's task ended".into(),
            source: Some(Box::new(error)),
        }),
    }
}
