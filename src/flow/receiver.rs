//! The receiver: makes products of messages that carry content, puts them into the database and into the queues of
//! their clients.
//!
//! | option | default | meaning |
//! | --- | --- | --- |
//! | `type` | | `"amqp"` |
//! | `broker` | | a broker of `px.toml` |
//! | `exchange` | the broker's | where the messages come in |
//! | `queue` | | the queue, durable unless `durable = false`; `auto_delete`, `expires`; `""`: see below |
//! | `queue_type` | `"classic"` | `"quorum"`: kept on several nodes of a cluster; one that is there keeps its type |
//! | `bind` | | patterns, or `{ exchange, key }`; `[]` where somebody else binds the queue |
//! | `prefetch` | 25 | messages in hand at once, and with them in memory: see below |
//! | `extension` | `"MISSING:MISSING:MISSING:MISSING:"` | the fields that a name lacks; `-NAME` is the unit's name |
//! | `route` | `"masks"` | who gets a product: every client whose own masks accept it; `"table"`: those of the routing table |
//! | `routing_table` | `pxRouting.conf` | with `route = "table"`: the absolute path of the table |
//! | `masks` | accept all | with `route = "table"`: the groups of what accepts are the key; they filter nothing |
//! | `feeds` | none | receivers that get each queued product too: `single-file` or Sundew's, not in a circle |
//! | `sync` | `"power"` | `"crash"`: written and renamed, not synced |
//! | `log` | the site's | `{ keep = 5 }`: days for which old logs of this unit are kept |
//!
//! ```toml
//! type   = "amqp"
//! broker = "bunny"
//! queue  = "cmc.receiver_amqp"
//! bind   = ["exp.dd.notify.#"]
//! extension = "-NAME:XSS:RADAR:3:GIF"
//! ```
//!
//! The body of a message is the product, and its header `filename` is the product's name. A product is
//! written to `rxq/NAME`, linked into `db/YYYYMMDD/F3/F1/F2/` and into the queues of its clients, all of that is synced,
//! and then the message is acked. A receiver that was killed in between finishes its products when it starts; of a
//! message that is delivered again, the product that it became then, one of the last, is not linked a second time. An
//! empty body is a product too. A file in `rxq/NAME` that px may not read, link or remove, or whose name has no place in
//! the database, stays there; the log tells why, and `px status` how many there are (`left_in_rxq`).
//!
//! The name in the database is the first six colon fields of `filename`, the empty ones among the fields 1 to 5 filled
//! from `extension`, and the time in UTC; a stamp that is taken is counted on. The priority in a client's queue is the
//! routing table's, else that of field 4, else 3. The clients are the units of `tx/`, `fx/` and `trx/`, whoever serves
//! them; transceivers get what the table gives them only. Their configurations are read at start and at a reload. A
//! product whose name holds `PROBLEM_BULLETIN` is kept and queued for nobody.
//!
//! A message is in memory from its delivery to its ack, and RabbitMQ bounds deliveries by their number only. So a unit
//! needs memory for `prefetch` messages of the largest size that comes, and for a second copy of each that is being
//! parked: with what RabbitMQ accepts at most by itself, 16 MiB (128 MiB before version 4), that is 400 MiB (3.2 GiB)
//! for 25. Raise `prefetch` where messages are small and many, lower it where they are large.
//!
//! A message without `filename`, and one whose `filename` holds a slash or a NUL byte, begins with a dot or is too long,
//! goes to the failed store with its reason.
//!
//! `queue = ""` with `durable = false` is a queue that the broker names for this connection alone. Everything that is
//! published while the unit is down, or not connected, is lost to it.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tracing::debug;

use super::consume::{self, Handle, Input, Intake, Step};
use super::{Cause, Outcome, Unit, ingest, since, vip};
use crate::config::options::{self, Inputs};
use crate::config::{Broker, Site, Table};
use crate::message::{Envelope, Exchange, Value};
use crate::metrics::Count;
use crate::spool::atomic::Draft;
use crate::spool::ingest::{Ingester, Turn};

/// The header that names a product.
const FILENAME: &str = "filename";
/// Bodies are in memory from the delivery to the ack, and a broker counts messages, not bytes.
const PREFETCH: u16 = 25;
const ADOPT_AFTER: Duration = Duration::from_secs(600);
const GIVE_UP_AFTER: Duration = Duration::from_secs(12 * 3600);

/// A unit of `rx/` with `type = "amqp"`.
#[derive(Debug, Clone)]
pub struct Config {
    inputs: Inputs,
    prefetch: u16,
    ingest: ingest::Config,
}

impl Config {
    /// The broker it works on.
    pub fn broker(&self) -> &Broker {
        &self.inputs.broker
    }

    /// The exchanges that it declares there.
    pub fn exchanges(&self) -> Vec<&Exchange> {
        self.inputs.topology.exchanges.iter().collect()
    }

    /// Reads the table of the unit `rx/NAME`; what is wrong is noted in it.
    pub fn read(table: &mut Table, site: &Site, name: &str) -> Option<Config> {
        let inputs = options::inputs(table, site);
        let prefetch = table.integer("prefetch", 1..=10_000).unwrap_or(PREFETCH);
        let masks = options::masks(table);
        let ingest = ingest::Config::read(table, site, name, masks);
        if table.has("masks") && ingest.as_ref().is_some_and(|ingest| !ingest.uses_masks()) {
            table.warn(
                "masks",
                "no effect with route = \"masks\": the clients' own masks decide",
            );
        }
        Some(Config {
            inputs: inputs?,
            prefetch,
            ingest: ingest?.with_unsettled(prefetch.into()),
        })
    }
}

/// Runs the unit until it is told to stop.
pub async fn run(config: Config, unit: Unit) -> anyhow::Result<()> {
    let Some(ingester) = ingest::open(&unit, &config.ingest).await? else {
        return Ok(());
    };
    let intake = Intake {
        broker: config.inputs.broker,
        topology: config.inputs.topology,
        queue: config.inputs.queue,
        prefetch: config.prefetch,
        channels: 1,
        adopt_after: ADOPT_AFTER,
        give_up_after: GIVE_UP_AFTER,
    };
    let handler = Arc::new(Receiver {
        unit: unit.clone(),
        ingester,
    });
    consume::run(&unit, intake, handler, None, vip::gate(&unit, None)).await
}

struct Receiver {
    unit: Unit,
    ingester: Ingester,
}

#[async_trait]
impl Handle for Receiver {
    type Note = ();

    async fn begin(&self, input: &Arc<Input>) -> (Step, ()) {
        let name = match named(&input.envelope) {
            Ok(name) => name.to_vec(),
            Err(why) => return (Step::Now(Outcome::Fail(Cause::hopeless(why))), ()),
        };
        if let Err(error) = self.ingester.check(&name) {
            return (Step::Now(Outcome::Fail(ingest::cause(&error))), ());
        }
        // In the queue's order: of two products of one name the later one is the correction.
        let turn = self.ingester.turn(&name);
        let (unit, ingester, input) = (self.unit.clone(), self.ingester.clone(), Arc::clone(input));
        let work = async move { receive(&unit, &ingester, input, turn).await };
        (Step::Later(Box::pin(work)), ())
    }

    async fn outputs_safe(&self, _: &Input, (): &()) -> Result<(), Cause> {
        Ok(())
    }

    fn undone(&self, _: &Input, (): &()) {}
}

/// The name of the product, as the sender wrote it.
fn named(envelope: &Envelope) -> Result<&[u8], String> {
    match envelope.headers.get(FILENAME) {
        Some(Value::Str(name) | Value::Bytes(name)) => Ok(name),
        Some(_) => Err(format!("its header {FILENAME} is no text")),
        None => Err(format!("it has no header {FILENAME}")),
    }
}

async fn receive(unit: &Unit, ingester: &Ingester, input: Arc<Input>, turn: Turn) -> Outcome {
    let (first_seen, redelivered) = (input.first_seen, input.redelivered);
    let fill = move |draft: &mut Draft| draft.write_all(&input.envelope.body);
    match ingester.receive(turn, redelivered, fill).await {
        Ok(taken) => {
            ingest::tell_taken(unit, &taken);
            match taken.known {
                Some(path) => {
                    unit.metrics.count(Count::Skipped);
                    debug!("it stands in the database: {}", path.display());
                    Outcome::Skip("delivered again; it was ingested before".into())
                }
                None => {
                    unit.metrics.latency(since(first_seen));
                    Outcome::Done(Vec::new())
                }
            }
        }
        Err(error) => Outcome::Park(ingest::cause(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_product_is_named_by_a_header_of_text() {
        let with = |value: Option<Value>| {
            let mut envelope = Envelope::default();
            envelope
                .headers
                .extend(value.map(|value| (FILENAME.to_string(), value)));
            named(&envelope).map(<[u8]>::to_vec)
        };
        assert_eq!(with(Some("a:b".into())), Ok(b"a:b".to_vec()));
        assert_eq!(with(Some(Value::Bytes(b"caf\xe9".to_vec()))), Ok(b"caf\xe9".to_vec()));
        assert!(with(None).unwrap_err().contains("no header filename"));
        assert!(with(Some(Value::I32(7))).unwrap_err().contains("is no text"));
    }
}
