//! Components, and the two places that settle and publish.
//!
//! A component turns what comes in into an [`Outcome`]; [`consume`] settles, [`publish`] publishes, and nothing else
//! does either. Components never import each other: they meet through a broker or the spool, as on two machines.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::config::{self, Broker, ConfigError, Places, Report, Site, Table, UnitDir, UnitName, options};
use crate::message::{DecodeOptions, DigestOf, Envelope, Exchange, Fault, Format};
use crate::metrics::Metrics;

pub mod alternates;
pub mod announcer;
pub mod attempts;
pub mod consume;
pub mod deliverer;
pub mod dispatcher;
pub mod dropped;
pub mod duplicates;
pub mod exchanges;
pub mod ingest;
pub mod link;
pub mod park;
pub mod product;
pub mod publish;
pub mod puller;
pub mod queued;
pub mod reaper;
pub mod receiver;
pub mod removal;
pub mod sample;
pub mod script;
pub mod sender;
pub mod spill;
pub mod standby;
pub mod state;
mod tell;
pub mod vip;
pub mod watcher;
pub mod words;
mod written;

use exchanges::Declared;
pub use state::State;
pub use words::Words;

/// What every part of a running unit shares.
#[derive(Clone)]
pub struct Unit {
    /// `rx/pull_urp`.
    pub name: UnitName,
    /// Where its files lie.
    pub places: Places,
    /// Its counters.
    pub metrics: Arc<Metrics>,
    /// Ready, running or paused, and why.
    pub state: State,
    /// Take nothing new; finish what is in hand.
    pub stop: CancellationToken,
    /// The deadline for finishing has passed: let go of everything, the brokers will redeliver.
    pub abandon: CancellationToken,
}

/// Why something could not be done, for the log, the failed store and the decision what happens next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// Whose fault it is.
    pub fault: Fault,
    /// The whole chain as one line. Never holds a password.
    pub what: String,
    /// When the other side asked to be asked again.
    pub retry_after: Option<Duration>,
    /// How many attempts a message fault is worth, the first included. 1: no repeat can help.
    pub attempts_max: u32,
    /// It could not even be decoded: one of many, of which the failed store keeps samples.
    pub is_rubbish: bool,
}

/// Attempts for a message fault that may pass: at once, then after 5 s, 1 min and 10 min.
pub const ATTEMPTS: u32 = 4;
/// Attempts for a product that is gone (404, 410): at once, then twice after 5 s, so within a minute.
pub const ATTEMPTS_GONE: u32 = 3;

impl Cause {
    /// A cause of this class with the usual number of attempts.
    pub fn new(fault: Fault, what: impl Into<String>) -> Self {
        Cause {
            fault,
            what: what.into(),
            retry_after: None,
            attempts_max: ATTEMPTS,
            is_rubbish: false,
        }
    }

    /// A product that no repeat can mend: straight to the failed store.
    pub fn hopeless(what: impl Into<String>) -> Self {
        Cause {
            attempts_max: 1,
            ..Cause::new(Fault::Message, what)
        }
    }

    /// A message that cannot be decoded.
    pub fn rubbish(what: impl Into<String>) -> Self {
        Cause {
            is_rubbish: true,
            ..Cause::hopeless(what)
        }
    }
}

impl<E: std::error::Error> From<(Fault, &E)> for Cause {
    fn from((fault, error): (Fault, &E)) -> Self {
        Cause::new(fault, chain(error))
    }
}

/// An error and its causes on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

/// A message to be published before its input is settled.
#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    /// Exchange; empty for the default exchange.
    pub exchange: String,
    /// What to publish.
    pub envelope: Envelope,
}

/// What a component made of one delivery.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// Done, once these are published and confirmed.
    Done(Vec<Output>),
    /// Nothing to do, and why: a duplicate, a mask, a superseded product.
    Skip(String),
    /// Could not be done now. The class of the cause decides: counted, waited for, or the unit pauses.
    Park(Cause),
    /// Cannot be done at all: to the failed store.
    Fail(Cause),
}

/// How long ago that was; nothing when it lies ahead.
pub fn since(time: Timestamp) -> Duration {
    Duration::try_from(Timestamp::now().duration_since(time)).unwrap_or_default()
}

/// A configured component: the one list of them.
#[derive(Debug, Clone)]
pub enum Component {
    /// `watch/`, and `tx/` with `type = "announce"`
    Watcher(watcher::Config),
    /// `dispatch/`
    Dispatcher(dispatcher::Config),
    /// `rx/`, `type = "pull"`
    Puller(puller::Config),
    /// `tx/`, `type = "amqp"`
    Sender(sender::Config),
    /// `tx/`, `type = "deliver"`
    Deliverer(Box<deliverer::Config>),
    /// `rx/`, `type = "amqp"`
    Receiver(receiver::Config),
    /// `rx/`, `type = "single-file"`
    Dropped(dropped::Config),
}

impl Component {
    /// Reads a unit's table with its component. `None` where something is wrong, which is noted in the table.
    pub fn read(name: &UnitName, table: &mut Table, site: &Site) -> Option<Component> {
        match name.dir {
            UnitDir::Watch => watcher::Config::read(table, site).map(Component::Watcher),
            UnitDir::Dispatch => dispatcher::Config::read(table, site).map(Component::Dispatcher),
            UnitDir::Rx => match kind(
                table,
                &[("amqp", Rx::Amqp), ("pull", Rx::Pull), ("single-file", Rx::SingleFile)],
            )? {
                Rx::Amqp => receiver::Config::read(table, site, &name.name).map(Component::Receiver),
                Rx::Pull => puller::Config::read(table, site, &name.name).map(Component::Puller),
                Rx::SingleFile => dropped::Config::read(table, site, &name.name).map(Component::Dropped),
            },
            UnitDir::Tx => match kind(
                table,
                &[("amqp", Tx::Amqp), ("announce", Tx::Announce), ("deliver", Tx::Deliver)],
            )? {
                Tx::Amqp => sender::Config::read(table, site).map(Component::Sender),
                Tx::Announce => watcher::Config::read_announcer(table, site).map(Component::Watcher),
                Tx::Deliver => deliverer::Config::read(table, site, &name.name)
                    .map(Box::new)
                    .map(Component::Deliverer),
            },
            UnitDir::Process => None,
        }
    }

    /// The broker it works on, where it needs one.
    fn broker(&self) -> Option<&Broker> {
        Some(match self {
            Component::Watcher(config) => config.broker(),
            Component::Dispatcher(config) => config.broker(),
            Component::Puller(config) => config.broker(),
            Component::Sender(config) => config.broker(),
            Component::Receiver(config) => config.broker(),
            Component::Deliverer(config) => return config.broker(),
            Component::Dropped(_) => return None,
        })
    }

    /// The exchanges that it declares there.
    fn exchanges(&self) -> Vec<&Exchange> {
        match self {
            Component::Watcher(config) => config.exchanges(),
            Component::Dispatcher(config) => config.exchanges(),
            Component::Puller(config) => config.exchanges(),
            Component::Sender(config) => config.exchanges(),
            Component::Receiver(config) => config.exchanges(),
            Component::Deliverer(config) => config.exchange().into_iter().collect(),
            Component::Dropped(_) => Vec::new(),
        }
    }

    /// The `type` of a sender or a receiver: it has a queue in the spool, and the log tells of its life in certain words.
    pub fn queue_type(&self) -> Option<&'static str> {
        match self {
            Component::Watcher(_) | Component::Dispatcher(_) => None,
            Component::Puller(_) => Some("pull"),
            Component::Sender(_) => Some("amqp"),
            Component::Deliverer(config) => Some(config.kind()),
            Component::Receiver(_) => Some("amqp"),
            Component::Dropped(_) => Some("single-file"),
        }
    }

    /// What the log says of the unit's life, where sites look for certain words.
    pub fn words(&self, unit: &UnitName) -> Option<Words> {
        Words::of(unit, self.queue_type()?)
    }

    /// Runs the unit until it is told to stop and everything in hand is settled.
    pub async fn run(self, unit: Unit) -> anyhow::Result<()> {
        match self {
            Component::Watcher(config) => watcher::run(config, unit).await,
            Component::Dispatcher(config) => dispatcher::run(config, unit).await,
            Component::Puller(config) => puller::run(config, unit).await,
            Component::Sender(config) => sender::run(config, unit).await,
            Component::Deliverer(config) => deliverer::run(*config, unit).await,
            Component::Receiver(config) => receiver::run(config, unit).await,
            Component::Dropped(config) => dropped::run(config, unit).await,
        }
    }
}

/// What a unit of `tx/` may be.
#[derive(Clone, Copy)]
enum Tx {
    Amqp,
    Announce,
    Deliver,
}

/// What a unit of `rx/` may be.
#[derive(Clone, Copy)]
enum Rx {
    Amqp,
    Pull,
    SingleFile,
}

/// `type`, which a unit of `rx/` or `tx/` must have.
fn kind<T: Copy>(table: &mut Table, kinds: &[(&str, T)]) -> Option<T> {
    let kind = table.choice("type", kinds);
    if !table.has("type") {
        let words: Vec<String> = kinds.iter().map(|(word, _)| format!("{word:?}")).collect();
        table.reject("type", &words.join(", "));
    }
    if kind.is_none() {
        // Nobody knows whose keys the others are.
        table.know_all();
    }
    kind
}

/// A unit's configuration, ready to run.
#[derive(Debug)]
pub struct Loaded {
    /// What it does.
    pub component: Component,
    /// What an operator should know all the same.
    pub warnings: Vec<ConfigError>,
    /// Days for which old logs are kept.
    pub log_keep: usize,
    /// The least important level that is written.
    pub log_level: tracing::Level,
}

/// Reads the site and one unit. All errors of both files, or what is to run.
pub fn load(places: &Places, name: &UnitName, file: &Path) -> Result<Loaded, Vec<ConfigError>> {
    let (site, errors) = Site::load(places);
    let mut report = Report::default();
    report.add(errors);
    let (mut component, mut log) = (None, site.log.clone());
    match config::load_unit(&site, name, file) {
        Ok((table, site)) => {
            let (read, errors) = table.read_whole(|table| {
                log = options::log(table, &site.log);
                Component::read(name, table, &site)
            });
            report.add(errors);
            component = read;
        }
        Err(errors) => report.add(errors),
    }
    let broker = component.as_ref().and_then(Component::broker);
    if let Some(url) = broker.and_then(|broker| broker.urls.first())
        && !url.scheme.is_served()
    {
        report.add_file(file, &format!("its broker {url} is {}", config::NOT_SERVED), false);
    }
    match component {
        Some(component) if !report.refused() => Ok(Loaded {
            component,
            warnings: report.findings().to_vec(),
            log_keep: log.keep as usize,
            log_level: log.level,
        }),
        _ => Err(report.findings().to_vec()),
    }
}

/// Checks every file of a site with everything that reads it.
pub fn check(places: &Places) -> Report {
    let (served, mut report) = config::check(places);
    let mut declared = exchanges::of_site(places);
    for (name, table, site) in served {
        let file = table.file().to_path_buf();
        let (component, errors) = table.read_whole(|table| {
            options::log(table, &site.log);
            Component::read(&name, table, &site)
        });
        report.add(errors);
        if let Some((component, broker)) = component.as_ref().and_then(|unit| Some((unit, unit.broker()?))) {
            declared.extend(
                component
                    .exchanges()
                    .into_iter()
                    .map(|exchange| Declared::new(&file, broker, exchange)),
            );
        }
    }
    report.add(exchanges::differing(&declared));
    report
}

/// `format` and `digest`: what messages do not tell by themselves.
fn read_decoding(table: &mut Table) -> DecodeOptions {
    DecodeOptions {
        default_format: table.choice("format", &Format::ALL.map(|format| (format.name(), format))),
        digest: table.choice("digest", &[("name", DigestOf::Name), ("content", DigestOf::Content)]),
    }
}

/// `unroutable`.
fn read_unroutable(table: &mut Table) -> publish::Unroutable {
    use publish::Unroutable;
    table
        .choice(
            "unroutable",
            &[("count", Unroutable::Count), ("hold", Unroutable::Hold)],
        )
        .unwrap_or_default()
}
