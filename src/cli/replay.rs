//! `px replay`: publishes the messages of a spill file once more.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::broker;
use super::{REFUSED, plain, say};
use crate::broker::{BrokerError, Confirmed, Connection, Purpose, Returns, connect};
use crate::config::{Broker, Places};
use crate::flow::publish::{Options, Pending, PublishError, Publisher, WINDOW};
use crate::flow::{chain, spill};
use crate::message::{Binding, Exchange, ExchangeKind, Topology};
use crate::spool::spill::{Source, SpillReader};

/// For the confirms of what is on its way when the command is interrupted.
const LAST_CONFIRMS: Duration = Duration::from_secs(5);
/// What takes messages out of a queue though they were confirmed.
const LIMITS: [&str; 4] = [
    "x-max-length",
    "x-max-length-bytes",
    "x-message-ttl",
    "x-delivery-limit",
];

/// After the options.
const MANUAL: &str = "\
Without options the messages go back into the queue that the file names, on the broker and virtual host that it names, \
in their old order, with their routing keys, headers and properties. The queue must exist. No other queue gets them: \
they pass through a fanout exchange of their own, QUEUE.replay.RANDOM, or px.replay.RANDOM where that is no name, which is \
deleted at the end. The user must have the permission to configure it.

They are persistent then, whatever they were; their user_id is not kept; times to live begin anew. A message that was \
being spilled when px or the broker was killed may be in the queue and in the file, and comes twice.

A message that could not be read when it was spilled, for its routing key, a property or the name of a header is not UTF-8 \
or its headers are nested without measure, is in the file with all its bytes, under the header x-px-unreadable. It cannot \
be published: px says which it is, and goes on with the others.

A confirm says that the queue has taken the message, not that it keeps it: a queue with a max-length drops its oldest \
messages for newer ones, a time to live ends, and what is redelivered too often goes (delivery-limit). px says so where \
the file names such a limit, and when the queue holds less at the end than was published. A limit that a policy sets is \
not in the file. Keep the file until the messages have been worked off.

Exit status: 0 when every message is confirmed and in a queue. 1 when the file is damaged or has no end, after all that \
can be read of it; when messages were refused or found no queue; when the queue holds less at the end than was published, \
and has no consumer; when nothing is confirmed for --timeout seconds, or on SIGINT and SIGTERM: then it is said how many \
are safe, and --skip goes on from there.";

/// Which file, and where to.
#[derive(Debug, Args)]
#[command(after_long_help = MANUAL)]
pub struct Arguments {
    /// A file that px has spilled: QUEUE.YYYYMMDDTHHMMSS.jsonl.gz
    file: PathBuf,
    /// A broker of px.toml, or a URL without a password; that of the file when absent
    #[arg(long)]
    broker: Option<String>,
    /// Another queue
    #[arg(long, conflicts_with = "exchange")]
    queue: Option<String>,
    /// An exchange in place of a queue: whoever is bound there gets the messages
    #[arg(long)]
    exchange: Option<String>,
    /// Leave out the first N messages: they are safe already
    #[arg(long, value_name = "N", default_value_t = 0)]
    skip: u64,
    /// Read the whole file and say what would be published; no broker is asked
    #[arg(long)]
    dry_run: bool,
    /// Give up when nothing is confirmed for this many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    timeout: u64,
}

/// Publishes what the file holds.
pub fn run(places: &Places, arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let mut reader = SpillReader::open(&arguments.file).map_err(|error| anyhow::anyhow!(error.line()))?;
    let target = Target::of(arguments, reader.source());
    if arguments.dry_run {
        return dry_run(arguments, &target, &mut reader);
    }
    let source = reader.source();
    let broker = match &arguments.broker {
        Some(broker) => broker::find(places, broker)?,
        None => broker::find(places, &source.broker)
            .with_context(|| format!("the file is of broker {:?}: say --broker", source.broker))?
            .in_vhost(&source.vhost),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(replay(places, arguments, broker, &target, &mut reader))
}

/// Where the messages go.
enum Target {
    /// Into one queue, past everybody else's.
    Queue {
        name: String,
        passing: String,
    },
    Exchange(String),
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Target::Queue { name, .. } => write!(f, "queue {}", plain(name)),
            Target::Exchange(name) => write!(f, "exchange {}", plain(name)),
        }
    }
}

impl Target {
    fn of(arguments: &Arguments, source: &Source) -> Target {
        if let Some(exchange) = &arguments.exchange {
            return Target::Exchange(exchange.clone());
        }
        let name = arguments.queue.as_ref().unwrap_or(&source.queue).clone();
        let passing = spill::name_beside(&name, "replay");
        Target::Queue { name, passing }
    }

    /// The exchange that is published to.
    fn exchange(&self) -> &str {
        match self {
            Target::Queue { passing, .. } => passing,
            Target::Exchange(name) => name,
        }
    }

    fn topology(&self) -> Topology {
        let Target::Queue { name, passing } = self else {
            return Topology::default(); // it is used as it stands
        };
        Topology {
            exchanges: vec![Exchange {
                name: passing.clone(),
                kind: ExchangeKind::Fanout,
                durable: false,
                auto_delete: true,
            }],
            bindings: vec![Binding {
                exchange: passing.clone(),
                queue: name.clone(),
                key: String::new(),
            }],
            ..Topology::default()
        }
    }

    /// That it is there, and the way to it open; else nothing is published.
    async fn check(&self, broker: &Broker, source: &Source) -> anyhow::Result<()> {
        let connection = connect(broker, Purpose::Publish, "px replay").await;
        let connection = connection.map_err(|error| anyhow::anyhow!(chain(&error)))?;
        let checked = self.check_on(connection.as_ref(), broker, source).await;
        connection.close().await;
        checked
    }

    async fn check_on(&self, connection: &dyn Connection, broker: &Broker, source: &Source) -> anyhow::Result<()> {
        let refused = |error: BrokerError| anyhow::anyhow!("{}; nothing was published", chain(&error));
        let is_there = match self {
            Target::Queue { name, .. } => connection.depth(name).await.map_err(refused)?.is_some(),
            Target::Exchange(name) => connection.has_exchange(name).await.map_err(refused)?,
        };
        let place = broker.urls.first().map(ToString::to_string).unwrap_or_default();
        if !is_there {
            let advice = match self {
                Target::Queue { .. } => {
                    let arguments = serde_json::to_string(&source.arguments).unwrap_or_default();
                    format!(
                        "start the unit that declares it, or declare it (its arguments were {arguments}), or say --queue \
                         or --exchange"
                    )
                }
                Target::Exchange(_) => "declare it, or say --queue".to_owned(),
            };
            anyhow::bail!("{self} is not on {place}: {advice}; nothing was published");
        }
        let Target::Queue { passing, .. } = self else {
            return Ok(());
        };
        if connection.has_exchange(passing).await.map_err(refused)? {
            anyhow::bail!("exchange {passing} is on {place} already; nothing was published: say it again");
        }
        // A warning says that messages would not get through, or to others.
        let warnings = connection.declare(&self.topology()).await.map_err(refused);
        let trouble = match warnings {
            Ok(warnings) if warnings.is_empty() => return Ok(()),
            Ok(warnings) => {
                let warnings: Vec<String> = warnings.iter().map(ToString::to_string).collect();
                anyhow::anyhow!("{}; nothing was published", warnings.join("; "))
            }
            Err(error) => error,
        };
        self.clean_up_on(connection).await;
        Err(trouble)
    }

    /// Takes away what was made on the way, and looks what the queue holds: ready messages, unless somebody consumes.
    async fn clean_up(&self, broker: &Broker) -> Option<u64> {
        let Target::Queue { name, .. } = self else { return None };
        match connect(broker, Purpose::Publish, "px replay").await {
            Ok(connection) => {
                self.clean_up_on(connection.as_ref()).await;
                let consumers = connection.consumers(name).await.ok().flatten();
                let depth = connection.depth(name).await.ok().flatten();
                connection.close().await;
                depth.filter(|_| consumers == Some(0))
            }
            Err(error) => {
                self.is_left(&error);
                None
            }
        }
    }

    async fn clean_up_on(&self, connection: &dyn Connection) {
        let Target::Queue { passing, .. } = self else { return };
        let deleted = match connection.has_exchange(passing).await {
            Ok(false) => Ok(()),
            Ok(true) => connection.delete_exchange(passing).await,
            Err(error) => Err(error),
        };
        if let Err(error) = deleted {
            self.is_left(&error);
        }
    }

    fn is_left(&self, error: &BrokerError) {
        let (passing, why) = (plain(self.exchange()), plain(&chain(error)));
        eprintln!("px: exchange {passing} is perhaps left until its queue goes, and does no harm: {why}");
    }

    /// Limits that the file's queue was declared with.
    fn warn_of_limits(&self, source: &Source) {
        let Target::Queue { name, .. } = self else { return };
        for limit in LIMITS.iter().filter(|_| *name == source.queue) {
            if let Some(value) = source.arguments.get(*limit) {
                eprintln!(
                    "px: queue {} was declared with {limit} = {value}: messages may go though they were confirmed; keep \
                     the file",
                    plain(name)
                );
            }
        }
    }
}

fn dry_run(arguments: &Arguments, target: &Target, reader: &mut SpillReader) -> anyhow::Result<ExitCode> {
    let (mut messages, mut bytes, mut left, mut refused) = (0u64, 0, 0u64, false);
    while let Some(message) = next(reader)? {
        messages += 1;
        bytes += message.envelope.body.len();
        match message.envelope.unreadable() {
            _ if messages <= arguments.skip => {}
            None => left += 1,
            Some(why) => {
                eprintln!(
                    "px: message {messages} of the file: {}; so it cannot be published",
                    plain(&why)
                );
                refused = true;
            }
        }
    }
    let source = reader.source();
    say(plain(&format!(
        "{messages} messages, {bytes} bytes of bodies, of queue {}, broker {}, virtual host {}, spilled at {}",
        source.queue,
        source.broker,
        source.vhost,
        reader.time()
    )));
    say(format_args!("{left} would be published to {target}"));
    target.warn_of_limits(source);
    let is_whole = is_whole(arguments, reader, messages);
    Ok(ExitCode::from(if is_whole && !refused { 0 } else { REFUSED }))
}

fn next(reader: &mut SpillReader) -> anyhow::Result<Option<crate::spool::spill::Message>> {
    reader.next().map_err(|error| anyhow::anyhow!(error.line()))
}

/// Says where a file is damaged.
fn is_whole(arguments: &Arguments, reader: &SpillReader, messages: u64) -> bool {
    let file = plain(&arguments.file.display().to_string());
    for damage in reader.damage() {
        let (after, why) = (damage.after, &damage.why);
        eprintln!("px: {file} is damaged after the {after} messages that were read till there ({why})");
    }
    match reader.end() {
        Some(end) if end == messages && reader.damage().is_empty() => return true,
        Some(end) => eprintln!(
            "px: {} of the {end} messages of {file} cannot be read: they are in no queue; look for a better copy of it",
            end.saturating_sub(messages)
        ),
        None => eprintln!(
            "px: {file} has no end after message {messages}: was px killed while it spilled, the other messages are in \
             their queue still; was the file cut or copied badly, look for a better copy of it"
        ),
    }
    false
}

/// How far it has come.
#[derive(Default)]
struct Tally {
    /// Messages of the file, from its beginning, that are left out or answered for.
    done: u64,
    /// Of them, those that were left out.
    skipped: u64,
    /// The first that is in no queue.
    lost: Option<u64>,
    confirmed: u64,
    returned: u64,
    /// Messages that were read.
    read: u64,
    waiting: VecDeque<Pending>,
}

async fn replay(
    places: &Places,
    arguments: &Arguments,
    broker: Broker,
    target: &Target,
    reader: &mut SpillReader,
) -> anyhow::Result<ExitCode> {
    target.check(&broker, reader.source()).await?;
    target.warn_of_limits(reader.source());
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let unit = broker::passing_unit(places, "replay")?;
    let publisher = Publisher::start(&unit, broker.clone(), target.topology(), Options::default());
    let mut tally = Tally::default();
    let mut ended = tokio::select! {
        ended = tally.publish_all(&publisher, arguments, target, reader) => ended,
        _ = interrupt.recv() => Err(anyhow::anyhow!("interrupted")),
        _ = terminate.recv() => Err(anyhow::anyhow!("interrupted")),
        () = broker::complain(&unit) => unreachable!("it ends with the unit"),
    };
    if ended.is_err() {
        // What is confirmed by now need not be published again.
        let last = tokio::time::timeout(LAST_CONFIRMS, tally.hear_all(LAST_CONFIRMS)).await;
        if let Ok(Err(refused)) = last {
            ended = ended.context(refused);
        }
    }
    unit.abandon.cancel();
    let depth = target.clean_up(&broker).await;
    let name = plain(&broker.name);
    if let Err(error) = &ended {
        eprintln!("px: {}", plain(&format!("{error:#}")));
    }
    let is_safe = tally.are_all_safe(target);
    if ended.is_err() {
        let safe = tally.safe(target);
        eprintln!("px: the first {safe} messages of the file are safe on {name}; go on with --skip {safe}");
        return Ok(ExitCode::from(REFUSED));
    }
    let is_whole = is_whole(arguments, reader, tally.read);
    let confirmed = tally.confirmed;
    say(format_args!(
        "{confirmed} messages published to {target} on {name}, all confirmed"
    ));
    let is_held = depth.is_none_or(|depth| depth >= confirmed);
    if let (false, Some(depth)) = (is_held, depth) {
        eprintln!(
            "px: {target} holds {depth} messages, less than were published, and nobody consumes from it: a limit or a time \
             to live of the queue or of a policy has taken them, or somebody has got them; keep the file"
        );
    }
    Ok(ExitCode::from(if is_whole && is_safe && is_held { 0 } else { REFUSED }))
}

impl Tally {
    /// Messages of the file, from its beginning, that are in a queue for certain. A return counts, but it may have been
    /// another message of the same window that was returned, and one that is not answered for yet may tell of it.
    fn safe(&self, target: &Target) -> u64 {
        let safe = self.lost.map_or(self.done, |lost| lost - 1);
        match self.returned > 0 || matches!(target, Target::Exchange(_)) {
            true => safe.saturating_sub(WINDOW as u64).max(self.skipped),
            false => safe,
        }
    }

    /// Says what is in no queue.
    fn are_all_safe(&self, target: &Target) -> bool {
        if self.returned > 0 {
            let count = self.returned;
            eprintln!("px: {count} messages found no queue: none is bound for their keys");
        }
        if self.lost.is_some() {
            let safe = self.safe(target);
            eprintln!(
                "px: of the messages after the first {safe} of the file not all are in a queue; --skip {safe} publishes all \
                 of those once more"
            );
        }
        self.lost.is_none()
    }

    /// In the order of the file, a window at a time.
    async fn publish_all(
        &mut self,
        publisher: &Publisher,
        arguments: &Arguments,
        target: &Target,
        reader: &mut SpillReader,
    ) -> anyhow::Result<()> {
        let limit = Duration::from_secs(arguments.timeout);
        while let Some(message) = next(reader)? {
            self.read += 1;
            if self.read <= arguments.skip {
                self.done += 1;
                self.skipped += 1;
                continue;
            }
            if self.waiting.len() >= WINDOW {
                self.hear(limit).await?;
            }
            let submit = publisher.submit(target.exchange(), message.envelope, Returns::Counted);
            let pending = tokio::time::timeout(limit, submit).await;
            self.waiting.push_back(pending.with_context(|| silence(limit))?);
        }
        self.hear_all(limit).await
    }

    async fn hear_all(&mut self, limit: Duration) -> anyhow::Result<()> {
        while !self.waiting.is_empty() {
            self.hear(limit).await?;
        }
        Ok(())
    }

    /// The answer for the oldest that waits. Safe to drop.
    async fn hear(&mut self, limit: Duration) -> anyhow::Result<()> {
        let Some(pending) = self.waiting.front_mut() else {
            return Ok(());
        };
        let answer = tokio::time::timeout(limit, pending)
            .await
            .with_context(|| silence(limit))?;
        self.waiting.pop_front();
        let is_routed = matches!(answer, Ok(Confirmed::Routed));
        match answer {
            Ok(Confirmed::Routed) => self.confirmed += 1,
            Ok(Confirmed::Returned) => self.returned += 1,
            Err(PublishError::Refused(why)) => {
                eprintln!("px: message {} of the file was refused: {}", self.done + 1, plain(&why));
            }
            Err(PublishError::Stopping) => anyhow::bail!("publishing has ended"),
        }
        self.done += 1;
        if !is_routed {
            self.lost.get_or_insert(self.done);
        }
        Ok(())
    }
}

fn silence(limit: Duration) -> String {
    format!("nothing was confirmed for {} s", limit.as_secs())
}
