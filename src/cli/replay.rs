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
use crate::broker::{Confirmed, Purpose, Returns, connect};
use crate::config::{Broker, Places};
use crate::flow::chain;
use crate::flow::publish::{Options, Pending, PublishError, Publisher, WINDOW};
use crate::message::{Binding, Exchange, ExchangeKind, Topology, identity};
use crate::spool::spill::{Source, SpillReader};

/// For the confirms of what is on its way when the command is interrupted.
const LAST_CONFIRMS: Duration = Duration::from_secs(5);
/// The longest name on AMQP.
const NAME_MAX: usize = 255;

/// After the options.
const MANUAL: &str = "\
Without options the messages go back into the queue that the file names, on the broker and virtual host that it names, \
in their old order, with their routing keys, headers and properties. The queue must exist. No other queue gets them: \
they pass through a fanout exchange QUEUE.replay, which is deleted at the end.

They are persistent then, whatever they were; their user_id is not kept; times to live begin anew. A message that was \
being spilled when px or the broker was killed may be in the queue and in the file, and comes twice.

Exit status: 0 when every message is confirmed and in a queue. 1 when the file is damaged, after all that can be read of \
it; when messages were refused or found no queue; when nothing is confirmed for --timeout seconds, or on SIGINT and \
SIGTERM: then it is said how many are safe, and --skip goes on from there.";

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
        let mut passing = format!("{name}.replay");
        if passing.len() > NAME_MAX {
            passing = format!("px.replay.{}", identity::md5_hex(name.as_bytes()));
        }
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

    /// That it is there; else nothing is published.
    async fn check(&self, broker: &Broker, source: &Source) -> anyhow::Result<()> {
        let connection = connect(broker, Purpose::Publish, "px replay").await;
        let connection = connection.map_err(|error| anyhow::anyhow!(chain(&error)))?;
        let is_there = match self {
            Target::Queue { name, .. } => connection.depth(name).await.map(|depth| depth.is_some()),
            Target::Exchange(name) => connection.has_exchange(name).await,
        };
        connection.close().await;
        if is_there.map_err(|error| anyhow::anyhow!(chain(&error)))? {
            return Ok(());
        }
        let place = broker.urls.first().map(ToString::to_string).unwrap_or_default();
        let advice = match self {
            Target::Queue { .. } => {
                let arguments = serde_json::to_string(&source.arguments).unwrap_or_default();
                format!(
                    "start the unit that declares it, or declare it (its arguments were {arguments}), or say --queue or \
                     --exchange"
                )
            }
            Target::Exchange(_) => "declare it, or say --queue".to_owned(),
        };
        anyhow::bail!("{self} is not on {place}: {advice}; nothing was published");
    }

    /// Takes away what was made on the way.
    async fn clean_up(&self, broker: &Broker) {
        let Target::Queue { passing, .. } = self else { return };
        let delete = async {
            let connection = connect(broker, Purpose::Publish, "px replay").await?;
            let deleted = connection.delete_exchange(passing).await;
            connection.close().await;
            deleted
        };
        if let Err(error) = delete.await {
            let (passing, why) = (plain(passing), plain(&chain(&error)));
            eprintln!("px: exchange {passing} is left until its queue goes, and does no harm: {why}");
        }
    }
}

fn dry_run(arguments: &Arguments, target: &Target, reader: &mut SpillReader) -> anyhow::Result<ExitCode> {
    let (mut messages, mut bytes) = (0u64, 0);
    while let Some(message) = next(reader)? {
        messages += 1;
        bytes += message.envelope.body.len();
    }
    let source = reader.source();
    say(plain(&format!(
        "{messages} messages, {bytes} bytes of bodies, of queue {}, broker {}, virtual host {}, spilled at {}",
        source.queue,
        source.broker,
        source.vhost,
        reader.time()
    )));
    let left = messages.saturating_sub(arguments.skip);
    say(format_args!("{left} would be published to {target}"));
    Ok(ExitCode::from(if is_whole(arguments, reader, messages) {
        0
    } else {
        REFUSED
    }))
}

fn next(reader: &mut SpillReader) -> anyhow::Result<Option<crate::spool::spill::Message>> {
    reader.next().map_err(|error| anyhow::anyhow!(error.line()))
}

/// Says where a file is damaged.
fn is_whole(arguments: &Arguments, reader: &SpillReader, messages: u64) -> bool {
    let Some(damage) = reader.damage() else { return true };
    let file = plain(&arguments.file.display().to_string());
    eprintln!(
        "px: {file} is damaged after message {messages} ({damage}), and the rest of it cannot be read: was px killed while \
         it spilled, those messages are in their queue still; was the file cut or copied badly, they are lost with it"
    );
    false
}

/// How far it has come.
#[derive(Default)]
struct Tally {
    /// Messages of the file, from its beginning, that are left out or answered for.
    done: u64,
    confirmed: u64,
    returned: u64,
    refused: u64,
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
    target.clean_up(&broker).await;
    let name = plain(&broker.name);
    let Tally { done, read, .. } = tally;
    if let Err(error) = ended {
        eprintln!("px: {}", plain(&format!("{error:#}")));
        eprintln!("px: the first {done} messages of the file are safe on {name}; go on with --skip {done}");
        return Ok(ExitCode::from(REFUSED));
    }
    let is_whole = is_whole(arguments, reader, read);
    say(format_args!(
        "{} messages published to {target} on {name}, all confirmed",
        tally.confirmed
    ));
    if tally.returned > 0 {
        eprintln!(
            "px: {} more found no queue: none is bound for their keys",
            tally.returned
        );
    }
    let is_done = is_whole && tally.returned == 0 && tally.refused == 0;
    Ok(ExitCode::from(if is_done { 0 } else { REFUSED }))
}

impl Tally {
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
        match answer {
            Ok(Confirmed::Routed) => self.confirmed += 1,
            Ok(Confirmed::Returned) => self.returned += 1,
            Err(PublishError::Refused(why)) => {
                eprintln!("px: message {} of the file was refused: {}", self.done + 1, plain(&why));
                self.refused += 1;
            }
            Err(PublishError::Stopping) => anyhow::bail!("publishing has ended"),
        }
        self.done += 1;
        Ok(())
    }
}

fn silence(limit: Duration) -> String {
    format!("nothing was confirmed for {} s", limit.as_secs())
}
