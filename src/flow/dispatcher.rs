//! The dispatcher: lets the first of redundant announcements through, under another key.
//!
//! Redundant producers announce every product twice. The dispatcher forwards the first announcement of each, body and
//! headers untouched, and ignores the others. It declares and binds its queue always, so that nothing is missed, and
//! consumes only where its `vip` lives.
//!
//! | option | default | meaning |
//! | --- | --- | --- |
//! | `broker` | | a broker of `px.toml` |
//! | `exchange` | the broker's | where the announcements come in |
//! | `queue` | | a queue, durable unless `durable = false`; `auto_delete`, `expires` |
//! | `bind` | | patterns, or `{ exchange, key }` |
//! | `rekey` | | `{ from = "v00.urp.input", to = "v00.urp.notify" }` or `{ key = "v00.urp.notify" }` |
//! | `publish_exchange` | the input's | where the first announcements go |
//! | `seen` | | `{ by = "auto", entries = 125000, keep = "24h" }`; by: auto, identity, name, path |
//! | `reissue` | `"forward"` | `"drop"`: another path, size or time from the winner's own source is a duplicate too |
//! | `vip` | none | consume only while this host has the address |
//! | `prefetch` | 256 | announcements in hand |
//! | `masks` | accept all | on the announced path; what they reject is skipped |
//! | `format`, `digest` | | what a message is whose key and content type do not tell; what a v00 digest is of |
//! | `unroutable` | `"count"` | `"hold"`: wait until somebody has bound a queue |
//! | `sync` | `"power"` | `"crash"`: the seen log is written, not synced |
//! | `log` | the site's | `{ keep = 30, level = "info" }`: days for which old logs are kept, and what is written |
//!
//! ```toml
//! broker = "bunny"
//! queue  = "cmc.dd_dispatcher.urp"
//! bind   = ["v00.urp.input.#"]
//! rekey  = { from = "v00.urp.input", to = "v00.urp.notify" }
//! seen   = { by = "identity", entries = 125000 }
//! vip    = "142.135.12.59"
//! ```
//!
//! Order is kept. A product is forwarded, confirmed, noted in the seen log, then acked: a crash repeats at most what
//! was in flight, and loses nothing. A second copy that comes in between waits for the verdict on the first.

use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use super::consume::{self, Intake};
use super::publish::{Options, Publisher, Unroutable};
use super::{Unit, vip};
use crate::config::options::{self, Inputs};
use crate::config::{Broker, Site, Table};
use crate::message::{Binding, By, DecodeOptions, Exchange, Masks, Topology, topic};
use crate::spool::Durability;
use crate::spool::seen::Memory;

mod dispatch;
mod remember;
mod sources;

use dispatch::Dispatch;
use remember::Remembered;

const ENTRIES: i64 = 125_000;
const KEEP: Duration = Duration::from_secs(24 * 3600);
const PREFETCH: u16 = 256;

/// The key a forwarded announcement gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rekey {
    /// The first words are replaced, the rest stays.
    Prefix {
        /// What the key begins with.
        from: String,
        /// What it begins with then.
        to: String,
    },
    /// One key for all.
    Fixed(String),
}

/// A unit of `dispatch/`.
#[derive(Debug, Clone)]
pub struct Config {
    inputs: Inputs,
    rekey: Rekey,
    publish_exchange: Exchange,
    by: By,
    memory: Memory,
    drops_reissues: bool,
    vip: Option<IpAddr>,
    prefetch: u16,
    masks: Masks,
    decoding: DecodeOptions,
    unroutable: Unroutable,
    durability: Durability,
}

impl Config {
    /// The broker it works on.
    pub fn broker(&self) -> &Broker {
        &self.inputs.broker
    }

    /// Reads the unit's table; what is wrong is noted in it.
    pub fn read(table: &mut Table, site: &Site) -> Option<Config> {
        let inputs = options::inputs(table, site);
        let publish_exchange = options::exchange_at(table, "publish_exchange");
        let rekey = table.within("rekey", read_rekey);
        if !table.has("rekey") {
            table.reject("rekey", REKEY);
        }
        let seen = table.within("seen", |table| Some(read_seen(table)));
        if !table.has("seen") {
            table.reject("seen", r#"{ by = "auto", entries = 125000, keep = "24h" }"#);
        }
        let drops_reissues = table.choice("reissue", &[("forward", false), ("drop", true)]);
        let vip = table.parsed("vip", |text| text.parse().map_err(|_| String::new()), "an IP address");
        let prefetch = table.integer("prefetch", 1..=10_000);
        let masks = options::masks(table);
        let decoding = super::read_decoding(table);
        let unroutable = super::read_unroutable(table);
        let durability = options::sync(table, Durability::Power, Durability::Crash);
        let (inputs, rekey, (by, memory)) = (inputs?, rekey?, seen?);
        let publish_exchange = publish_exchange.unwrap_or_else(|| inputs.exchange.clone());
        if let Some(pattern) = loops(&inputs.topology.bindings, &publish_exchange.name, &rekey) {
            table.refuse(
                "rekey",
                &format!("the unit's own binding {pattern:?} matches what it publishes"),
            );
            return None;
        }
        Some(Config {
            inputs,
            rekey,
            publish_exchange,
            by,
            memory,
            drops_reissues: drops_reissues.unwrap_or(false),
            vip,
            prefetch: prefetch.unwrap_or(PREFETCH),
            masks: masks?,
            decoding,
            unroutable,
            durability,
        })
    }
}

const REKEY: &str = r#"{ from = "PREFIX", to = "PREFIX" } or { key = "KEY" }"#;

fn read_rekey(table: &mut Table) -> Option<Rekey> {
    let (from, to, key) = (table.string("from"), table.string("to"), table.string("key"));
    match (from, to, key) {
        (Some(from), Some(to), None) => Some(Rekey::Prefix { from, to }),
        (None, None, Some(key)) if key.len() <= topic::KEY_BYTES_MAX => Some(Rekey::Fixed(key)),
        _ => {
            let present = ["from", "to", "key"].into_iter().find(|key| table.has(key));
            table.reject(present.unwrap_or("from"), REKEY);
            None
        }
    }
}

fn read_seen(table: &mut Table) -> (By, Memory) {
    let names = [By::Auto, By::Identity, By::Name, By::Path].map(|by| (by.name(), by));
    let by = table.choice("by", &names).unwrap_or_default();
    let entries = table.integer("entries", 1..=100_000_000).unwrap_or(ENTRIES);
    let keep = options::positive_duration(table, "keep").unwrap_or(KEEP);
    (by, memory(entries, keep))
}

fn memory(entries: i64, keep: Duration) -> Memory {
    let entries = usize::try_from(entries).ok().and_then(NonZeroUsize::new);
    Memory {
        entries: entries.unwrap_or(NonZeroUsize::MIN),
        keep,
    }
}

/// The unit's own binding that matches what it publishes, if there is one.
fn loops<'a>(bindings: &'a [Binding], publish_exchange: &str, rekey: &Rekey) -> Option<&'a str> {
    let own = bindings.iter().filter(|binding| binding.exchange == publish_exchange);
    own.map(|binding| binding.key.as_str()).find(|pattern| match rekey {
        Rekey::Prefix { to, .. } => topic::matches_below(pattern, to),
        Rekey::Fixed(key) => topic::matches(pattern, key),
    })
}

/// Runs the unit until it is told to stop.
pub async fn run(config: Config, unit: Unit) -> anyhow::Result<()> {
    let remembered = Remembered::open(&unit, config.memory, config.durability).await?;
    let publishing = Topology {
        exchanges: vec![config.publish_exchange.clone()],
        ..Topology::default()
    };
    let how = Options {
        unroutable: config.unroutable,
        transient_exchange: !config.publish_exchange.durable,
        ..Options::default()
    };
    let publisher = Publisher::start(&unit, config.inputs.broker.clone(), publishing, how);
    let gate = vip::gate(&unit, config.vip);
    let intake = Intake {
        broker: config.inputs.broker.clone(),
        topology: config.inputs.topology.clone(),
        queue: config.inputs.queue.clone(),
        prefetch: config.prefetch,
        channels: 1, // one channel keeps the order
        adopt_after: Duration::from_secs(600),
        give_up_after: Duration::from_secs(12 * 3600),
    };
    let dispatch = Dispatch::new(&unit, config, remembered);
    consume::run(&unit, intake, Arc::new(dispatch), Some(publisher), gate).await
}
