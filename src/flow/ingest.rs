//! What all receivers share: the options of ingesting, the lines of the log, the counts.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tracing::{error, info, warn};

use super::product::Product;
use super::{Cause, Unit, chain};
use crate::backoff::Backoff;
use crate::config::feeds::{self, Fed};
use crate::config::options;
use crate::config::{self, Client, ClientKind, ConfigError, RoutingTable, Site, Table, UnitDir, UnitName};
use crate::message::ingest_name::{self, Extension};
use crate::message::{Fault, Masks};
use crate::metrics::Count;
use crate::spool::ingest::{Ingested, Ingester, Options, Routing, Taken};
use crate::spool::{Durability, SpoolError, off_thread};

/// The part of the unit that says why ingesting what an earlier run has left is paused.
const RECOVERY: &str = "recovery";
/// What stays in the receiver's queue, for a person to look at.
const LEFT: &str = "left_in_rxq";

/// `extension`, `route`, `routing_table`, `feeds` and `sync`, which every receiver reads the same way; and the clients
/// and the routing table as they are now.
#[derive(Debug, Clone)]
pub struct Config {
    options: Options,
    clients: Vec<Client>,
    /// The table's path, and what is odd in it.
    table: Option<PathBuf>,
    findings: Vec<ConfigError>,
}

impl Config {
    /// Reads the options from the unit's table. `masks` are the receiver's own; what they filter is the caller's.
    pub fn read(table: &mut Table, site: &Site, receiver: &str, masks: Option<Masks>) -> Option<Config> {
        let parse = |text: &str| Extension::parse(text, receiver).map_err(|error| error.to_string());
        let extension = table.parsed("extension", parse, ingest_name::EXTENSION);
        let has_extension = table.has("extension");
        let feeds = read_feeds(table, site, receiver);
        let durability = options::sync(table, Durability::Power, Durability::Crash);
        let (clients, mut findings) = config::clients(&site.places);
        let unknown = findings.iter().find(|finding| !finding.warning);
        if let Some(why) = unknown {
            table.refuse("route", &format!("it cannot be known who the clients are: {why}"));
        }
        let (routing, path) = read_routing(table, site, &clients, &mut findings);
        if has_extension && extension.is_none() {
            return None;
        }
        Some(Config {
            options: Options {
                extension: extension.unwrap_or_default(),
                masks: masks?,
                routing: routing?,
                feeds: feeds?,
                durability,
                unsettled: 0,
            },
            clients,
            table: path,
            findings,
        })
    }

    /// For a receiver of messages that has so many in hand at most.
    #[must_use]
    pub fn with_unsettled(mut self, messages: usize) -> Config {
        self.options.unsettled = messages;
        self
    }

    /// Whether the receiver's own masks have a say in who gets a product.
    pub fn uses_masks(&self) -> bool {
        self.table.is_some()
    }
}

/// `route` and `routing_table`, and the table itself.
fn read_routing(
    table: &mut Table,
    site: &Site,
    clients: &[Client],
    findings: &mut Vec<ConfigError>,
) -> (Option<Routing>, Option<PathBuf>) {
    let absolute = |text: &str| {
        let path = PathBuf::from(text);
        if path.is_absolute() {
            Ok(path)
        } else {
            Err(String::new())
        }
    };
    let by_table = table.choice("route", &[("masks", false), ("table", true)]);
    let path = table.parsed("routing_table", absolute, "an absolute path");
    if by_table != Some(true) {
        if table.has("routing_table") {
            table.warn("routing_table", "no effect with route = \"masks\"");
        }
        return (Some(Routing::Masks), None);
    }
    let path = path.unwrap_or_else(|| site.places.routing_table());
    match RoutingTable::load(&path, clients) {
        Ok((routing, odd)) => {
            findings.extend(odd);
            (Some(Routing::Table(Arc::new(routing))), Some(path))
        }
        Err(error) => {
            table.refuse("route", &format!("the routing table cannot be read: {error}"));
            (None, None)
        }
    }
}

/// Receivers of this site, and not this one: its products would come back for ever.
fn read_feeds(table: &mut Table, site: &Site, receiver: &str) -> Option<Vec<String>> {
    const ACCEPTED: &str = "a list of names of other receivers, units of rx/";
    let name = |text: &str| match UnitName::new(UnitDir::Rx, text) {
        Ok(unit) if unit.name != receiver => Ok(unit.name),
        Ok(_) => Err("it would feed itself".to_owned()),
        Err(error) => Err(error),
    };
    let has_feeds = table.has("feeds");
    let Some(feeds) = table.parsed_list("feeds", name, ACCEPTED) else {
        return (!has_feeds).then(Vec::new);
    };
    for feed in &feeds {
        match feeds::fed(&site.places, feed) {
            Fed::Takes(_) => {}
            Fed::Missing => table.warn(
                "feeds",
                &format!("there is no receiver {feed}: what it is fed will lie in rxq/{feed}"),
            ),
            Fed::Ignores => table.refuse(
                "feeds",
                &format!(
                    "{feed} takes nothing from rxq/{feed}, so what it is fed would lie there for ever; accepted: \
                     receivers of type single-file, and those that are left to Sundew"
                ),
            ),
        }
    }
    if let Some(way) = feeds::cycle(&site.places, receiver, &feeds) {
        let way = way.join(", ");
        table.refuse("feeds", &format!("each product would come back for ever: {way}"));
    }
    Some(feeds)
}

/// As [`prepare`], and finishes what an earlier run has left in the receiver's queue. `None` when the unit is told to
/// stop before that could be done.
pub async fn open(unit: &Unit, config: &Config) -> anyhow::Result<Option<Ingester>> {
    let ingester = prepare(unit, config).await?;
    Ok(recover(unit, &ingester).await.then_some(ingester))
}

/// Opens the spool for a receiver and tells in the log what it can link to.
pub async fn prepare(unit: &Unit, config: &Config) -> anyhow::Result<Ingester> {
    for finding in &config.findings {
        warn!("{finding}");
    }
    tell_clients(&unit.name.name, &config.clients);
    if let Some(path) = &config.table {
        info!("Routing table used: {}", path.display());
    }
    let (places, receiver, config) = (unit.places.clone(), unit.name.name.clone(), config.clone());
    Ok(off_thread(move || Ingester::open(&places, &receiver, config.options, config.clients)).await?)
}

/// The lines that Sundew's receivers begin with.
fn tell_clients(receiver: &str, clients: &[Client]) {
    info!("Initialisation of source {receiver}");
    info!(
        "Ingestor (source {receiver}) can link files to clients: {}",
        python_list(clients)
    );
    for client in clients {
        let kind = match client.kind {
            ClientKind::Sender => "client",
            ClientKind::Filter => "filter",
            ClientKind::Transceiver => "sourlient",
        };
        info!("Initialisation of {kind} {}", client.name);
    }
}

/// `['a', 'b']`
fn python_list(clients: &[Client]) -> String {
    let names: Vec<String> = clients.iter().map(|client| format!("'{}'", client.name)).collect();
    format!("[{}]", names.join(", "))
}

/// Tries until it is done; whether it is.
async fn recover(unit: &Unit, ingester: &Ingester) -> bool {
    let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
    loop {
        match ingester.recover(|ingested| tell(unit, ingested)).await {
            Ok(left) => {
                unit.state.set_gauge(LEFT, left.len() as u64);
                for reason in left {
                    error!("left in its queue: {}", reason.line());
                }
                unit.state.resume(RECOVERY);
                return true;
            }
            Err(error) => unit.state.pause(RECOVERY, chain(&error)),
        }
        let wait = tokio::time::sleep(backoff.next_wait());
        if unit.stop.run_until_cancelled(wait).await.is_none() {
            return false;
        }
    }
}

/// Tells of everything that was ingested on the way of one product.
pub fn tell_taken(unit: &Unit, taken: &Taken) {
    for ingested in &taken.ingested {
        tell(unit, ingested);
    }
}

/// One product in the log and in the counts.
pub fn tell(unit: &Unit, ingested: &Ingested) {
    for warning in &ingested.warnings {
        warn!("{warning}");
    }
    let metrics = &unit.metrics;
    metrics.count(Count::Ingested);
    metrics.add(Count::IngestedBytes, ingested.bytes);
    let path = ingested.path.to_string_lossy();
    Product::Ingested {
        path: &path,
        bytes: ingested.bytes,
    }
    .log();
    if let Some(clients) = &ingested.clients {
        metrics.add(Count::Queued, (clients.len() + ingested.feeds.len()) as u64);
        Product::Queued {
            path: &path,
            clients,
            feeds: &ingested.feeds,
        }
        .log();
    }
}

/// Why a product could not be ingested. What its name is to blame for cannot get better.
pub fn cause(error: &SpoolError) -> Cause {
    match error.fault {
        Fault::Message => Cause::hopeless(chain(error)),
        fault => Cause::new(fault, chain(error)),
    }
}

#[cfg(test)]
mod tests;
