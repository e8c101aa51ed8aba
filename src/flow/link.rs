//! A connection that is made again for ever: one capped backoff with jitter for all transports.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::state::LinkState;
use super::{Unit, chain};
use crate::backoff::Backoff;
use crate::broker::{self, BrokerError, Connection, Purpose};
use crate::config::{Broker, BrokerUrl};
use crate::message::{Fault, Topology};
use crate::metrics::Count;

/// A connection that stood this long was good.
const STOOD: Duration = Duration::from_secs(10);

/// Between two looks for a broker of this very host that is away: an address that moves comes to the host as soon as the
/// broker is well, and then nobody waits for the unit. Asking there costs nothing.
const LOOK_HERE: Duration = Duration::from_secs(1);

/// Between attempts: from 250 ms, doubling, never longer than 30 s.
pub fn reconnect_backoff() -> Backoff {
    Backoff::new(Duration::from_millis(250), Duration::from_secs(30))
}

/// One purpose of one unit on one broker. Each connect is a new generation.
pub struct Link {
    unit: Unit,
    broker: Broker,
    purpose: Purpose,
    backoff: Backoff,
    generation: u64,
    /// When the last connection was made.
    stood_since: Option<Instant>,
    last_error: Option<String>,
    /// It did not answer the last time.
    is_away: bool,
}

impl Link {
    /// Nothing is connected yet.
    pub fn new(unit: &Unit, broker: Broker, purpose: Purpose) -> Self {
        Link {
            unit: unit.clone(),
            broker,
            purpose,
            backoff: reconnect_backoff(),
            generation: 0,
            stood_since: None,
            last_error: None,
            is_away: false,
        }
    }

    /// Connects and asserts the topology, for as long as it takes. `None` when `until` is cancelled first.
    /// An own fault (credentials, rights) shows as a pause; an endpoint fault is logged when it changes.
    pub async fn connect(
        &mut self,
        topology: &Topology,
        until: &tokio_util::sync::CancellationToken,
    ) -> Option<Arc<dyn Connection>> {
        loop {
            if self.last_error.is_some() {
                let wait = self.next_wait();
                until.run_until_cancelled(tokio::time::sleep(wait)).await?;
            }
            let attempt = until.run_until_cancelled(self.attempt(topology)).await?;
            match attempt {
                Ok(connection) => {
                    self.stands();
                    return Some(connection);
                }
                Err(error) => self.broken(&error),
            }
        }
    }

    /// Notes why the connection is gone, or why it cannot be used. One that stood for a while is missed quickly; one
    /// that breaks at once is not hammered.
    pub fn broken(&mut self, error: &BrokerError) {
        if self.stood_since.take().is_some_and(|since| since.elapsed() >= STOOD) {
            self.backoff.reset();
        }
        let text = chain(error);
        // Without what it reads along or tells, a unit does its work all the same.
        if error.fault == Fault::Own && !matches!(self.purpose, Purpose::Follow | Purpose::Tell) {
            self.unit.state.pause(self.part(), text.clone());
        } else if self.last_error.as_ref() != Some(&text) {
            warn!(broker = %self.broker.name, "no connection: {text}; will be tried again until it stands");
        }
        self.last_error = Some(text.clone());
        self.show(false, Some(text));
    }

    fn next_wait(&mut self) -> Duration {
        match self.is_away && self.broker.urls.iter().all(BrokerUrl::is_local) {
            true => LOOK_HERE,
            false => self.backoff.next_wait(),
        }
    }

    /// How often it was made.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    async fn attempt(&mut self, topology: &Topology) -> Result<Arc<dyn Connection>, BrokerError> {
        let name = format!("px {} {}", self.unit.name, self.part());
        let answer = broker::connect(&self.broker, self.purpose, &name).await;
        self.is_away = matches!(&answer, Err(error) if error.fault == Fault::Endpoint);
        let connection: Arc<dyn Connection> = Arc::from(answer?);
        for warning in connection.declare(topology).await? {
            warn!(broker = %self.broker.name, "{warning}");
        }
        Ok(connection)
    }

    fn stands(&mut self) {
        self.generation += 1;
        self.stood_since = Some(Instant::now());
        if self.generation > 1 {
            self.unit.metrics.count(Count::Reconnects);
        }
        self.last_error = None;
        self.unit.state.resume(self.part());
        self.show(true, None);
        info!(broker = %self.broker.name, purpose = self.part(), "connected");
    }

    fn show(&self, connected: bool, error: Option<String>) {
        let link = LinkState {
            broker: self.broker.name.clone(),
            connected,
            generation: self.generation,
            error,
        };
        self.unit.state.set_link(self.part(), link);
    }

    fn part(&self) -> &'static str {
        match self.purpose {
            Purpose::Publish => "publish",
            Purpose::Consume => "consume",
            Purpose::Follow => "follow",
            Purpose::Tell => "tell",
        }
    }
}
