//! The dispatcher: lets the first of redundant announcements through, under another key.
//!
//! Redundant producers announce every product twice. The dispatcher forwards the first announcement of each, body and
//! headers untouched, and ignores the others. It declares and binds its queue always, so that nothing is missed. Of
//! several on different hosts one works, and the others stand by: where its `vip` lives, or whom the broker chooses.
//!
//! | option | default | meaning |
//! | --- | --- | --- |
//! | `broker` | | a broker of `px.toml` |
//! | `exchange` | the broker's | where the announcements come in |
//! | `queue` | | a queue, durable unless `durable = false`; `auto_delete`, `expires` |
//! | `queue_type` | `"classic"` | `"quorum"`: kept on several nodes of a cluster; one that is there keeps its type |
//! | `bind` | | patterns, or `{ exchange, key }`; `[]` where somebody else binds the queue |
//! | `rekey` | | `{ from = "v00.urp.input", to = "v00.urp.notify" }` or `{ key = "v00.urp.notify" }` |
//! | `publish_exchange` | the input's | where the first announcements go |
//! | `seen` | | `{ by = "auto", entries = 125000, keep = "24h" }`; by: auto, identity, name, path |
//! | `reissue` | `"forward"` | `"drop"`: another path, size or time from the winner's own source is a duplicate too |
//! | `vip` | none | consume only while this host has the address; the broker's URL is localhost then |
//! | `election` | `"none"` | `"broker"`: the broker chooses one consumer of the queue; not with `vip` |
//! | `prefetch` | 256 | announcements in hand |
//! | `masks` | accept all | on the announced path; what they reject is skipped |
//! | `format`, `digest` | | what a message is whose key and content type do not tell; what a v00 digest is of |
//! | `unroutable` | `"count"` | `"hold"`: wait until somebody has bound a queue |
//! | `sync` | `"power"` | `"crash"`: the seen log is written, not synced |
//! | `log` | the site's | `{ keep = 30, level = "info" }`: days for which old logs are kept, and what is written |
//!
//! ```toml
//! broker = "local"
//! queue  = "cmc.dd_dispatcher.urp"
//! bind   = ["v00.urp.input.#"]
//! rekey  = { from = "v00.urp.input", to = "v00.urp.notify" }
//! seen   = { by = "identity", entries = 125000 }
//! vip    = "142.135.12.59"
//! ```
//!
//! Order is kept. A product is forwarded, confirmed, noted in the seen log, then acked: a crash repeats at most what
//! was in flight, and loses nothing. A second copy that comes in between waits for the verdict on the first.
//!
//! # Redundant sources
//!
//! A source is the host and port of the announced URL. `seen.by` says which announcements are of one product: `identity`,
//! those with the same digest; `name`, those whose file names have the same first five colon fields (of a shorter name,
//! all of it); `path`, those with the same path; `auto`, by a digest of the name alone, by another identity together
//! with the path, and by the path where there is none. What has no identity by which it could be known is forwarded.
//!
//! Each copy that another source announced before is a race between the two: `px status` shows for every source how many
//! it has won and by how much (`sources` in `status.json`, since the start). The lead counts from when the winner came
//! to when the copy came. A product of three sources is two races. Re-issues and repeats of the winner's own
//! source are none, nor is what the broker delivers again. Of more than 32 sources the others are one.
//!
//! Where sizes or digests differ for one product, the two sources disagree: that is counted (`disagreements`), shown with
//! the last such product, and told in the log once a minute for any two. The first stays forwarded. Only digests of the
//! content are compared, and only those of one method; with `name` and `path` also those of which nobody says what
//! they are of, so say `digest = "name"` where such ones are of the name. Sixteen hex digits are shown of each.
//!
//! A million products take about 130 MiB.
//!
//! # Standing by
//!
//! With `vip` each of the hosts has a broker (or a node of a cluster) and a dispatcher, which consumes while an interface
//! of its host has the address, and stops within a second when it goes. The queue stays, so nothing is lost. The URL of
//! the broker is that of this very host, localhost: one that goes to the address, or to the other host, breaks when
//! the address moves, and says nothing about this host's broker.
//!
//! With `election = "broker"` no address is needed: RabbitMQ gives the deliveries of the queue to one of its
//! consumers (`x-single-active-consumer`), and to another one when that is gone. A queue that exists without this
//! argument has to be deleted first, and whether it has it is told only to a user who may configure it: without this
//! right the unit pauses. Whom the broker has chosen it does not say. A dispatcher knows it when its first delivery
//! comes, or when it sees (every 10 s until then) that the queue has no other consumer; until then it shows
//! `standby`. Of those that come to a queue one after the other the first is `running`, and what the others show is
//! true. Of several that come at the same moment, or that the active one has left behind, who is chosen shows
//! `standby` until its first delivery. On a quorum queue RabbitMQ does not count those that wait: all show `standby`
//! until a delivery comes, also one that is alone. So name `queue_type` here also where the broker is told to take a
//! quorum queue for a classic one (`relaxed_checks_on_redeclaration`).
//!
//! Who works tells what it has forwarded, once that is confirmed, to the exchange `QUEUE.follow`; each host has a
//! queue `QUEUE.follow.HOST.ID` there, and remembers what comes: after a switch the copies of what was forwarded
//! before are ignored. These queues are durable, so that a host that was away learns what it missed; they hold 64 MiB
//! at most, and go when nobody has used them for `keep` (7 days at most). The ID is of the host's `/etc/machine-id`,
//! the root and the unit; of two hosts that have all of that and the name in common the second to come does not
//! follow, and says so in `px status`. A name that a policy mirrors, or `queue_type = "quorum"`, is for them too. Who
//! is to work publishes a marker that only its own queue gets, and begins when the marker has come back, after 2 s at
//! most. So its user needs to be allowed to configure, write and read `QUEUE.follow` and `QUEUE.follow.…`; without,
//! it works all the same, and a switch repeats more. What the other one still has in hand is not told: it may be
//! repeated. Only dispatchers with the same `publish_exchange`, `rekey`, `seen.by`, `format` and `digest` learn from
//! each other. On an embedded broker these queues are not bounded. The reaper leaves them alone. A `queue` without a
//! name has none of this.

use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use super::consume::{self, Intake};
use super::publish::{Options, Publisher, Unroutable};
use super::standby::{Election, Learn, Peers, Standby};
use super::{Unit, vip};
use crate::config::options::{self, Inputs};
use crate::config::{Broker, BrokerUrl, Scheme, Site, Table};
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

/// Which of several dispatchers on one queue works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OneOf {
    /// There is but one, or they share the work.
    Alone,
    /// The one on the host that has the address.
    Vip(IpAddr),
    /// The one that the broker chooses.
    Elected,
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
    one_of: OneOf,
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

    /// The exchanges that it declares there.
    pub fn exchanges(&self) -> Vec<&Exchange> {
        let mut all: Vec<&Exchange> = self.inputs.topology.exchanges.iter().collect();
        all.push(&self.publish_exchange);
        all
    }

    /// What makes the forwards of two processes the same: where they go, and what is one product.
    fn forwards(&self) -> String {
        let exchange = &self.publish_exchange.name;
        format!("{exchange:?} {:?} {:?} {:?}", self.rekey, self.by, self.decoding)
    }

    /// Reads the unit's table; what is wrong is noted in it.
    pub fn read(table: &mut Table, site: &Site) -> Option<Config> {
        let mut inputs = options::inputs(table, site);
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
        let one_of = read_one_of(table, inputs.as_mut());
        let prefetch = table.integer("prefetch", 1..=10_000);
        let masks = options::masks(table);
        let decoding = super::read_decoding(table);
        let unroutable = super::read_unroutable(table);
        let durability = options::sync(table, Durability::Power, Durability::Crash);
        let (inputs, rekey, (by, memory), one_of) = (inputs?, rekey?, seen?, one_of?);
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
            one_of,
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

/// `vip` and `election`.
fn read_one_of(table: &mut Table, inputs: Option<&mut Inputs>) -> Option<OneOf> {
    let vip: Option<IpAddr> = table.parsed("vip", |text| text.parse().map_err(|_| String::new()), "an IP address");
    let elected = table.choice("election", &[("none", false), ("broker", true)]) == Some(true);
    match (vip, elected) {
        (Some(_), true) => {
            table.refuse("election", "the unit has a vip too; accepted: one of them");
            None
        }
        (None, true) => elect(table, inputs?).then_some(OneOf::Elected),
        (Some(vip), false) => {
            if inputs.is_some_and(|inputs| !inputs.broker.urls.iter().any(|url| is_of_host_with(vip, url))) {
                table.warn("vip", ELSEWHERE);
            }
            Some(OneOf::Vip(vip))
        }
        (None, false) => Some(OneOf::Alone),
    }
}

const ELSEWHERE: &str = "no URL of its broker is localhost: whoever has the address works with the broker of its own \
                         host, or else another host's failure is its own";

/// Whether a broker's URL is that of the host itself. A name is not looked up.
fn is_of_host_with(vip: IpAddr, url: &BrokerUrl) -> bool {
    url.is_local() || url.host.parse() == Ok(vip)
}

/// Has the broker choose one consumer of the queue, where it can.
fn elect(table: &mut Table, inputs: &mut Inputs) -> bool {
    if inputs.broker.urls.iter().any(|url| url.scheme == Scheme::Embedded) {
        table.refuse("election", "an embedded broker chooses nobody; accepted: \"none\"");
        return false;
    }
    if inputs.queue.name.is_empty() {
        table.refuse(
            "election",
            "a queue without a name has one consumer only; accepted: \"none\", or a named queue",
        );
        return false;
    }
    inputs.queue.single_active = true;
    for queue in &mut inputs.topology.queues {
        queue.single_active = true;
    }
    true
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
    // A queue without a name is this process's alone: it shares it with nobody.
    let (broker, queue) = (&config.inputs.broker, &config.inputs.queue);
    let is_alone = matches!(config.one_of, OneOf::Alone) || queue.name.is_empty();
    let peers = (!is_alone).then(|| Peers::of(&unit, broker, queue, &config.forwards(), config.memory.keep));
    let (others, telling) = peers.as_ref().map(Peers::tell).unzip();
    let remembered = Remembered::open(&unit, config.memory, config.durability, others).await?;
    let remembered = Arc::new(remembered);
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
    let standby = peers.map(|peers| Standby::start(peers, learn(&remembered)));
    let (gate, election) = match (config.one_of, standby) {
        (OneOf::Vip(vip), Some(standby)) => (vip::warm_gate(&unit, vip, standby), None),
        (OneOf::Vip(vip), None) => (vip::gate(&unit, Some(vip)), None),
        (OneOf::Elected, Some(standby)) => (vip::gate(&unit, None), Some(Election::new(standby))),
        _ => (vip::gate(&unit, None), None),
    };
    let intake = Intake {
        broker: config.inputs.broker.clone(),
        topology: config.inputs.topology.clone(),
        queue: config.inputs.queue.clone(),
        prefetch: config.prefetch,
        channels: 1, // one channel keeps the order
        adopt_after: Duration::from_secs(600),
        give_up_after: Duration::from_secs(12 * 3600),
    };
    let dispatch = Dispatch::new(&unit, config, remembered, election);
    consume::run(&unit, intake, Arc::new(dispatch), Some(publisher), gate).await?;
    if let Some(telling) = telling {
        // Everything is settled; whoever goes on now is to know it.
        unit.abandon.run_until_cancelled(telling.end()).await;
    }
    Ok(())
}

/// What the active one tells is remembered as if this one had forwarded it.
fn learn(remembered: &Arc<Remembered>) -> Learn {
    let remembered = Arc::clone(remembered);
    Arc::new(move |told| {
        let remembered = Arc::clone(&remembered);
        Box::pin(async move { remembered.learn(&told) })
    })
}
