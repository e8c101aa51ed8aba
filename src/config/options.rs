//! Options that several components share, each read in one way.

use std::time::Duration;

use super::value::{Entry, Value};
use super::{Broker, Item, Log, Site, Table, quantity};

use crate::message::{
    AnnounceAs, Binding, DigestOf, DirectoryTemplate, Exchange, ExchangeKind, Format, Masks, Pattern, Queue, Topology,
    Verdict,
};

mod named_file;
mod password;
mod queue;
mod script;

pub use named_file::{Wanted, check_program, named_file};
pub use password::password;
pub use queue::queue;
pub use script::{script, script_options, script_timeout};

const EXCHANGE: &str = r#"a name of at most 255 bytes, or { name = "…", type = "topic", durable = true }"#;
const KEY: &str = "a key or pattern of at most 255 bytes";

/// `broker = "NAME"`, which must be one of px.toml's. Nothing is said where px.toml has it but with faults.
pub fn broker(table: &mut Table, site: &Site) -> Option<Broker> {
    let name = table.required_string("broker")?;
    let found = site.broker(&name).cloned();
    if found.is_none() && !site.has_faulty_broker(&name) {
        table.refuse(
            "broker",
            &match site.broker_names().collect::<Vec<_>>()[..] {
                [] => "px.toml has no brokers".to_string(),
                ref names => format!("px.toml has no such broker; accepted: {}", names.join(", ")),
            },
        );
    }
    found
}

/// The unit's own `exchange`, or else its broker's. The name of the broker's exchange alone is that exchange with all
/// its options.
pub fn exchange(table: &mut Table, broker: &Broker) -> Option<Exchange> {
    table.know("exchange");
    if !table.has("exchange") {
        if broker.exchange.is_none() {
            table.reject("exchange", &format!("{EXCHANGE}; the broker names none either"));
        }
        return broker.exchange.clone();
    }
    let (own, is_bare) = read_exchange(table, "exchange")?;
    let theirs = broker
        .exchange
        .as_ref()
        .filter(|theirs| is_bare && theirs.name == own.name);
    Some(theirs.cloned().unwrap_or(own))
}

/// An exchange by name or spelled out, under any key. Topic and durable unless it says otherwise.
pub fn exchange_at(table: &mut Table, key: &str) -> Option<Exchange> {
    read_exchange(table, key).map(|(exchange, _)| exchange)
}

/// `type` of an exchange.
pub fn exchange_kind(table: &mut Table) -> Option<ExchangeKind> {
    let kinds = [
        ExchangeKind::Topic,
        ExchangeKind::Direct,
        ExchangeKind::Fanout,
        ExchangeKind::Headers,
    ];
    table.choice("type", &kinds.map(|kind| (kind.name(), kind)))
}

/// The exchange, and whether it is a name alone.
fn read_exchange(table: &mut Table, key: &str) -> Option<(Exchange, bool)> {
    let (exchange, is_bare) = match table.string_or_table(key)? {
        Item::Text(name) => (bare(name), true),
        Item::Table(mut spelled) => {
            let name = spelled.required_string("name");
            let kind = exchange_kind(&mut spelled);
            let durable = spelled.boolean("durable");
            spelled.finish();
            let plain = bare(name?);
            let (kind, durable) = (kind.unwrap_or(plain.kind), durable.unwrap_or(plain.durable));
            (Exchange { kind, durable, ..plain }, false)
        }
    };
    if !is_short(&exchange.name) || exchange.name.is_empty() {
        table.reject(key, EXCHANGE);
        return None;
    }
    Some((exchange, is_bare))
}

fn bare(name: String) -> Exchange {
    Exchange {
        name,
        kind: ExchangeKind::Topic,
        durable: true,
        auto_delete: false,
    }
}

/// AMQP's short string, without what no log line should carry.
fn is_short(text: &str) -> bool {
    text.len() <= 255 && !text.chars().any(char::is_control)
}

/// One element of `bind`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bind {
    /// An exchange of its own; else the unit's.
    pub exchange: Option<Exchange>,
    /// Routing key or pattern.
    pub key: String,
}

/// `bind = ["v02.post.#", { exchange = "other", key = "#" }]`: at least one.
pub fn binds(table: &mut Table) -> Option<Vec<Bind>> {
    let mut binds = Vec::new();
    let items = table.values("bind");
    let count = items.len();
    for (index, item) in items.into_iter().enumerate() {
        let bind = match item {
            Item::Text(key) => Some(Bind { exchange: None, key }),
            Item::Table(mut spelled) => {
                let (exchange, key) = (exchange_at(&mut spelled, "exchange"), spelled.string("key"));
                for (missing, accepted) in [("exchange", EXCHANGE), ("key", KEY)] {
                    if !spelled.has(missing) {
                        spelled.reject(missing, accepted);
                    }
                }
                spelled.finish();
                exchange.zip(key).map(|(exchange, key)| Bind {
                    exchange: Some(exchange),
                    key,
                })
            }
        };
        match bind {
            Some(bind) if !is_short(&bind.key) => table.reject_element("bind", index, KEY),
            Some(bind) => binds.push(bind),
            None => {}
        }
    }
    if count == 0 {
        table.reject(
            "bind",
            r#"a list of patterns or { exchange = "…", key = "…" }, at least one"#,
        );
    }
    (count > 0 && binds.len() == count).then_some(binds)
}

/// `bind = []`: somebody else binds the queue, which therefore has a name.
fn is_bound_elsewhere(table: &mut Table) -> bool {
    let is = |entry: &Entry, key| entry.key == key;
    let is_empty = |value: &Value| matches!(value, Value::List(list) if list.is_empty());
    let entries = table.entries();
    let is_bound_elsewhere = entries.iter().any(|entry| is(entry, "bind") && is_empty(&entry.value))
        && !entries
            .iter()
            .any(|entry| is(entry, "queue") && matches!(&entry.value, Value::Text(name) if name.is_empty()));
    if is_bound_elsewhere {
        table.know("bind");
    }
    is_bound_elsewhere
}

/// Where a unit's deliveries come from.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Inputs {
    pub broker: Broker,
    pub exchange: Exchange,
    pub queue: Queue,
    /// Exchanges, the queue and its bindings, ready to be asserted.
    pub topology: Topology,
}

/// `broker`, `exchange`, the options of `queue`, and `bind`.
pub fn inputs(table: &mut Table, site: &Site) -> Option<Inputs> {
    let broker = broker(table, site);
    let queue = queue(table, broker.as_ref());
    let binds = match is_bound_elsewhere(table) {
        true => Some(Vec::new()),
        false => binds(table),
    };
    let exchange = match &broker {
        Some(broker) => exchange(table, broker),
        None => exchange_at(table, "exchange"),
    };
    let (queue, exchange) = (queue?, exchange?);
    Some(Inputs {
        broker: broker?,
        topology: topology(queue.clone(), &exchange, &binds?),
        exchange,
        queue,
    })
}

/// The exchanges, the queue and its bindings, ready to be asserted.
pub fn topology(queue: Queue, exchange: &Exchange, binds: &[Bind]) -> Topology {
    let mut topology = Topology::default();
    for bind in binds {
        let exchange = bind.exchange.as_ref().unwrap_or(exchange);
        if !topology.exchanges.contains(exchange) {
            topology.exchanges.push(exchange.clone());
        }
        topology.bindings.push(Binding {
            exchange: exchange.name.clone(),
            queue: queue.name.clone(),
            key: bind.key.clone(),
        });
    }
    topology.queues.push(queue);
    topology
}

/// What an element of `masks` accepts.
const MASK: &str = "{ accept = REGULAR EXPRESSION }, { reject = REGULAR EXPRESSION }, { accept_glob = SHELL PATTERN } \
                    or { reject_glob = SHELL PATTERN }";

/// How the text of a mask becomes its pattern, and what it must be.
type MaskKind = (&'static str, Verdict, fn(String) -> Pattern, &'static str);

const MASK_KINDS: [MaskKind; 4] = [
    ("accept", Verdict::Accept, Pattern::Regex, "a regular expression"),
    ("reject", Verdict::Reject, Pattern::Regex, "a regular expression"),
    ("accept_glob", Verdict::Accept, Pattern::Glob, "a shell pattern"),
    ("reject_glob", Verdict::Reject, Pattern::Glob, "a shell pattern"),
];

/// `masks = [{ accept = RE }, { reject = RE }, { accept_glob = GLOB }, { reject_glob = GLOB }]`; empty where there is
/// none. Each wrong pattern has its line.
pub fn masks(table: &mut Table) -> Option<Masks> {
    masks_with(table, |_, _| Some(())).map(|(masks, _)| masks)
}

/// The same, with what `read` takes from each mask beside its pattern, in the order of the masks; `None` is a fault that
/// it has noted.
pub fn masks_with<T>(table: &mut Table, read: impl Fn(&mut Table, Verdict) -> Option<T>) -> Option<(Masks, Vec<T>)> {
    let (mut list, mut extras) = (Vec::new(), Vec::new());
    let mut are_good = true;
    for mut element in table.tables("masks") {
        let mut found = Vec::new();
        let mut first: Option<(&str, Verdict)> = None;
        for (key, verdict, kind, accepted) in MASK_KINDS {
            found.extend(element.parsed(key, |text| mask(verdict, kind(text.to_string())), accepted));
            match first {
                Some((first, _)) if element.has(key) => {
                    element.refuse(key, &format!("{first} and {key} in one mask; accepted: {MASK}"));
                    are_good = false;
                }
                None if element.has(key) => first = Some((key, verdict)),
                _ => {}
            }
        }
        if first.is_none() {
            element.reject("accept", MASK);
        }
        let extra = read(&mut element, first.map_or(Verdict::Accept, |(_, verdict)| verdict));
        element.finish();
        are_good &= found.len() == 1 && extra.is_some();
        list.append(&mut found);
        extras.extend(extra);
    }
    let masks = Masks::new(list).ok().filter(|_| are_good)?;
    Some((masks, extras))
}

/// A pattern that compiles by itself; its error in one line.
fn mask(verdict: Verdict, pattern: Pattern) -> Result<(Verdict, Pattern), String> {
    match Masks::new([(verdict, pattern.clone())]) {
        Ok(_) => Ok((verdict, pattern)),
        Err(errors) => Err(errors.first().map(ToString::to_string).unwrap_or_default()),
    }
}

/// What a directory of this host must be.
pub const ABSOLUTE_DIRECTORY: &str = "an absolute path; ${0}, ${CCCC}, ${RYYYY}, ${YYYYMMDD} and their kin stand for parts of \
                                      the name and of the time";
const DIRECTORY: &str = "a path; ${0}, ${CCCC}, ${RYYYY}, ${YYYYMMDD} and their kin stand for parts of the name and of the \
                         time";

/// A directory to deliver into; with `is_absolute` one that begins with `/`.
pub fn directory_template(table: &mut Table, key: &str, is_absolute: bool) -> Option<DirectoryTemplate> {
    let parse = |text: &str| match DirectoryTemplate::parse(text) {
        Ok(template) if is_absolute && !template.is_absolute() => Err(String::new()),
        Ok(template) => Ok(template),
        Err(error) => Err(error.to_string()),
    };
    let accepted = if is_absolute { ABSOLUTE_DIRECTORY } else { DIRECTORY };
    table.parsed(key, parse, accepted)
}

/// What `announce` accepts.
pub const ANNOUNCE: &str = r#"a list of "exp", "v00", "v02", "v03" or { format = "…", key = "…", digest = "name" or "content" }, at least one"#;

/// `announce = ["v02", { format = "v00", key = "v00.urp.input", digest = "name" }]`: at least one format.
pub fn announce(table: &mut Table) -> Option<Vec<AnnounceAs>> {
    let mut formats = Vec::new();
    let items = table.values("announce");
    let count = items.len();
    for (index, item) in items.into_iter().enumerate() {
        match item {
            Item::Text(name) => match Format::from_name(&name) {
                Some(format) => formats.push(AnnounceAs::from(format)),
                None => table.reject_element("announce", index, ANNOUNCE),
            },
            Item::Table(mut spelled) => {
                formats.extend(announce_as(&mut spelled));
                spelled.finish();
            }
        }
    }
    if count == 0 && table.has("announce") {
        table.reject("announce", ANNOUNCE);
    }
    (count > 0 && formats.len() == count).then_some(formats)
}

fn announce_as(table: &mut Table) -> Option<AnnounceAs> {
    let format = table.choice("format", &Format::ALL.map(|format| (format.name(), format)));
    let key = table.string("key");
    let digest = table.choice("digest", &[("name", DigestOf::Name), ("content", DigestOf::Content)]);
    if !table.has("format") {
        table.reject("format", r#""exp", "v00", "v02", "v03""#);
    }
    match AnnounceAs::new(format?, key.as_deref(), digest) {
        Ok(how) => Some(how),
        Err(error) => {
            let key = if table.has("digest") && format != Some(Format::V00) {
                "digest"
            } else {
                "key"
            };
            table.refuse(key, &error.to_string());
            None
        }
    }
}

/// `sync = "power"` (default) or `"crash"`, as the caller's own type.
pub fn sync<T: Copy>(table: &mut Table, power: T, crash: T) -> T {
    table
        .choice("sync", &[("power", power), ("crash", crash)])
        .unwrap_or(power)
}

/// `log = { keep = 30, level = "info" }`, of the site or of a unit; what it does not say is as in `plain`.
pub fn log(table: &mut Table, plain: &Log) -> Log {
    let levels = [
        ("error", tracing::Level::ERROR),
        ("warn", tracing::Level::WARN),
        ("info", tracing::Level::INFO),
        ("debug", tracing::Level::DEBUG),
        ("trace", tracing::Level::TRACE),
    ];
    let read = table.within("log", |table| {
        Some(Log {
            keep: table.integer("keep", 1..=3650).unwrap_or(plain.keep),
            level: table.choice("level", &levels).unwrap_or(plain.level),
        })
    });
    read.unwrap_or_else(|| plain.clone())
}

/// A duration above zero.
pub fn positive_duration(table: &mut Table, key: &str) -> Option<Duration> {
    let duration = table.duration(key)?;
    if duration.is_zero() {
        table.reject(key, &format!("{}, above zero", quantity::DURATION));
        return None;
    }
    Some(duration)
}

#[cfg(test)]
mod tests;
