//! A connection that is made again for ever: one capped backoff with jitter for all transports.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, info, warn};

use super::state::LinkState;
use super::{Unit, chain};
use crate::backoff::Backoff;
use crate::broker::{self, BrokerError, Connection, Purpose, Refusal, Warning};
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
    /// Since when it stands, or does not.
    since: Option<Timestamp>,
    /// Asks again for the bindings that were refused.
    mending: Option<AbortOnDropHandle<()>>,
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
            since: None,
            mending: None,
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
                Ok((connection, warnings)) => {
                    self.stands(&connection, topology, warnings);
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
        if self.last_error.is_none() {
            self.since = Some(Timestamp::now());
        }
        self.mending = None;
        self.last_error = Some(text);
        self.show(Vec::new());
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

    async fn attempt(&mut self, topology: &Topology) -> Result<(Arc<dyn Connection>, Vec<Warning>), BrokerError> {
        let name = format!("px {} {}", self.unit.name, self.part());
        let answer = broker::connect(&self.broker, self.purpose, &name).await;
        self.is_away = matches!(&answer, Err(error) if error.fault == Fault::Endpoint);
        let connection: Arc<dyn Connection> = Arc::from(answer?);
        let warnings = connection.declare(topology).await?;
        for warning in &warnings {
            warn!(broker = %self.broker.name, "{warning}");
        }
        Ok((connection, warnings))
    }

    fn stands(&mut self, connection: &Arc<dyn Connection>, topology: &Topology, warnings: Vec<Warning>) {
        self.generation += 1;
        self.stood_since = Some(Instant::now());
        if self.generation > 1 {
            self.unit.metrics.count(Count::Reconnects);
        }
        self.last_error = None;
        self.since = Some(Timestamp::now());
        self.unit.state.resume(self.part());
        let is_unbound = is_unbound(&warnings);
        self.show(warnings);
        self.mending = is_unbound.then(|| {
            let mend = mend(self.unit.clone(), self.part(), Arc::clone(connection), topology.clone());
            AbortOnDropHandle::new(tokio::spawn(mend))
        });
        info!(broker = %self.broker.name, purpose = self.part(), "connected");
    }

    fn show(&self, warnings: Vec<Warning>) {
        let link = LinkState {
            broker: self.broker.name.clone(),
            connected: self.last_error.is_none(),
            since: self.since.unwrap_or_default(),
            generation: self.generation,
            error: self.last_error.clone(),
            warnings,
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

fn is_unbound(warnings: &[Warning]) -> bool {
    warnings.iter().any(|warning| warning.refusal == Refusal::Unbound)
}

/// Asks again until no binding is refused, for as long as the connection stands: a permission comes without a word.
async fn mend(unit: Unit, part: &'static str, connection: Arc<dyn Connection>, topology: Topology) {
    let mut waits = Backoff::new(Duration::from_secs(5), Duration::from_secs(300));
    loop {
        tokio::select! {
            () = unit.stop.cancelled() => return,
            _ = connection.closed() => return, // whoever uses it is told as well
            () = tokio::time::sleep(waits.next_wait()) => {}
        }
        match connection.declare(&topology).await {
            Ok(warnings) => {
                let is_mended = !is_unbound(&warnings);
                unit.state.set_warnings(part, warnings);
                if is_mended {
                    info!("bound, as was refused before");
                    return;
                }
            }
            Err(error) => debug!("{}", chain(&error)), // a broken connection says so itself
        }
    }
}
