//! `px demo`: the whole chain at work, in separate processes, in a root of its own.
//!
//! Two producers write the same products, each into its own tree with its own file server. Two watchers announce them,
//! the dispatcher lets the first announcement of each through, two pull workers take turns in fetching. Half-way the
//! first producer's server is killed, and what it alone would have served comes from the other one. Then every byte
//! that was delivered is compared with what was written.
//!
//! Everything it started is ended and removed however it ends, except by SIGKILL: then `PX_ROOT=… px stop` ends the
//! units; the file servers end by themselves.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use clap::{Args, Subcommand};
use jiff::Timestamp;

use self::chain::{Broker, Interrupt, Root, Server, Units};
use self::products::Product;
use self::report::{Counted, Progress, Verdict, files_below, table, there};
use super::{REFUSED, say};
use crate::config::{BrokerUrl, Places};

mod chain;
mod products;
mod report;
mod server;

/// Between two products, unless there are so many that writing would last too long.
const PACE: Duration = Duration::from_millis(20);
const WRITING_MAX: Duration = Duration::from_secs(10);
/// Longer than the first rung, on which a fetch may wait for its next attempt.
const QUIET: Duration = Duration::from_secs(7);
/// Without any progress, while something is still to come.
const STUCK: Duration = Duration::from_secs(20);
/// After the last product was written.
const WAIT_MAX: Duration = Duration::from_secs(90);
const LOST_SHOWN_MAX: usize = 10;

/// How the demo is run.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, disable_help_subcommand = true)]
#[command(override_usage = "px demo [OPTIONS]")]
pub struct Arguments {
    /// How many products the producers write
    #[arg(long, value_name = "N", default_value_t = 400, value_parser = clap::value_parser!(u32).range(2..=100_000))]
    products: u32,
    /// A broker in place of the embedded one; a password by its variable: 'amqp://user:${PX_DEMO_PASSWORD}@host/'
    #[arg(long, value_name = "URL")]
    broker: Option<String>,
    /// The directory to work in, which must not exist yet; a temporary one when absent
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Leave the directory with configuration, logs, status files and products to look at
    #[arg(long)]
    keep: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The demo's file server
    #[command(hide = true)]
    Serve {
        /// What it serves
        root: PathBuf,
    },
}

/// Runs the demo. 1 when a product was lost.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    if let Some(Command::Serve { root }) = &arguments.command {
        return server::serve(root).map(|()| ExitCode::SUCCESS);
    }
    let broker = match &arguments.broker {
        Some(url) => {
            check_broker(url)?;
            Broker::shared(url)
        }
        None => Broker::embedded(),
    };
    let interrupt = Interrupt::take()?;
    // Dropped in turn, however this ends: the units, the servers, the root.
    let root = Root::make(arguments.root.as_deref(), arguments.keep)?;
    let places = Places::under(&root.path);
    if arguments.keep {
        say(format_args!(
            "everything is in {0}; to look at it: PX_ROOT={0} px status",
            root.path.display()
        ));
    }
    let mut servers = Vec::new();
    for producer in 0..products::PRODUCERS.len() {
        servers.push(Server::start(&root.tree(producer))?);
    }
    chain::configure(&root, &places, &broker, &servers)?;
    let units = Units::start(&places, &interrupt)?;
    let products = products::plan(arguments.products as usize, Timestamp::now());
    let mut demo = Demo {
        root: &root,
        products: &products,
        servers,
        units,
        interrupt,
        progress: Progress::new(),
    };
    let written = demo.produce()?;
    demo.await_deliveries()?;
    demo.progress.end();
    demo.units.stop()?;
    demo.conclude(&written)
}

/// A command line is everybody's to read: a password may only be named there.
fn check_broker(url: &str) -> anyhow::Result<()> {
    let login = url.split_once("://").and_then(|(_, rest)| rest.rsplit_once('@'));
    if let Some((_, password)) = login.and_then(|(login, _)| login.split_once(':')) {
        let name = password.strip_prefix("${").and_then(|rest| rest.strip_suffix('}'));
        let is_name = |name: &str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        anyhow::ensure!(
            name.is_some_and(is_name),
            "a password on a command line is everybody's: put it into a variable and name that, in single quotes: \
             --broker 'amqp://user:${{PX_DEMO_PASSWORD}}@host/'"
        );
    }
    let parsed = BrokerUrl::parse(url, &Places::system());
    let parsed = parsed.map_err(anyhow::Error::msg).context("--broker")?;
    let is_served = parsed.scheme.is_served();
    anyhow::ensure!(
        is_served,
        "--broker: {} is not served by this version",
        parsed.scheme.name()
    );
    Ok(())
}

struct Demo<'a> {
    root: &'a Root,
    products: &'a [Product],
    // Dropped in this order: nobody fetches when the servers go.
    units: Units<'a>,
    servers: Vec<Server>,
    interrupt: Interrupt,
    progress: Progress,
}

impl Demo<'_> {
    /// Writes all products into both trees, and kills the first server half-way. Answers when each was written.
    fn produce(&mut self) -> anyhow::Result<Vec<SystemTime>> {
        let count = self.products.len();
        let pace = PACE.min(WRITING_MAX / count as u32);
        let (start, mut written) = (Instant::now(), Vec::with_capacity(count));
        for (index, product) in self.products.iter().enumerate() {
            if index == count / 2 {
                self.servers[0].kill().context("cannot kill the first server")?;
                let text = format!("{}: its file server is killed", products::PRODUCERS[0]);
                self.progress.say(&text);
            }
            written.push(SystemTime::now());
            // They take turns in being first.
            for producer in [index % 2, 1 - index % 2] {
                let tree = self.root.tree(producer);
                let wrote = product.write(&tree, producer);
                wrote.with_context(|| format!("cannot write into {}", tree.display()))?;
            }
            let next = start + pace * (index as u32 + 1);
            self.show(index + 1)?;
            self.interrupt.sleep_until(next)?;
        }
        Ok(written)
    }

    /// Tells how far it is, where it is time to, and that everything still runs.
    fn show(&mut self, written: usize) -> anyhow::Result<()> {
        // Looking costs more than a product: seldom enough.
        if !self.progress.is_due() {
            return Ok(());
        }
        self.units.check()?;
        let count = self.products.len();
        let there = there(self.products, &files_below(&self.root.delivered())?);
        let alternates = self.units.count("rx", "from_alternates");
        let ignored = self.units.count("dispatch", "ignored");
        self.progress.show(&format!(
            "written {written}/{count}  ignored as duplicates {ignored}  delivered {there}  from alternates {alternates}"
        ));
        Ok(())
    }

    /// Waits until everything is there, or until nothing more is to come.
    fn await_deliveries(&mut self) -> anyhow::Result<()> {
        let count = self.products.len();
        let start = Instant::now();
        let (mut last, mut since) = ((0, 0, 0), start);
        loop {
            let there = there(self.products, &files_below(&self.root.delivered())?);
            self.show(count)?;
            if there == count {
                return Ok(());
            }
            let (done, parked) = (
                self.units.count("rx", "fetched") + self.units.count("rx", "failed"),
                self.units.count("rx", "parked"),
            );
            if (there, done, parked) != last {
                (last, since) = ((there, done, parked), Instant::now());
            }
            let patience = if done >= count as u64 { QUIET } else { STUCK };
            if since.elapsed() >= patience || start.elapsed() >= WAIT_MAX {
                return Ok(());
            }
            anyhow::ensure!(self.servers[1].runs(), "the second file server has died");
            self.interrupt
                .sleep_until(Instant::now() + Duration::from_millis(100))?;
        }
    }

    fn conclude(&self, written: &[SystemTime]) -> anyhow::Result<ExitCode> {
        let everywhere = |counter| {
            ["watch", "dispatch", "rx"]
                .iter()
                .map(|dir| self.units.count(dir, counter))
                .sum()
        };
        let counted = Counted {
            announced: self.units.count("watch", "announced"),
            ignored: self.units.count("dispatch", "ignored"),
            fetched: self.units.counts("rx", "fetched"),
            from_alternates: self.units.count("rx", "from_alternates"),
            bytes: self.units.count("rx", "fetched_bytes"),
            parked: everywhere("parked"),
            failed: everywhere("failed"),
        };
        let verdict = Verdict::of(self.products, written, &self.root.delivered())?;
        say(format_args!("\n{}", table(&counted, &verdict)));
        for lost in verdict.lost.iter().take(LOST_SHOWN_MAX) {
            eprintln!("px: lost: {lost}");
        }
        if verdict.lost.is_empty() {
            return Ok(ExitCode::SUCCESS);
        }
        if verdict.lost.len() > LOST_SHOWN_MAX {
            eprintln!("px: and {} more", verdict.lost.len() - LOST_SHOWN_MAX);
        }
        Ok(ExitCode::from(REFUSED))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_may_only_be_named() {
        for url in [
            "amqp://u:secret@h/",
            "amqp://u:se@cret@h/",
            "amqp://u:${X}secret@h/",
            "amqp://u:a/b@h/",
            "amqp://u:@h/",
        ] {
            let error = check_broker(url).unwrap_err().to_string();
            assert!(
                error.contains("'amqp://user:${PX_DEMO_PASSWORD}@host/'"),
                "{url}: {error}"
            );
            assert!(!error.contains("secret"), "{error}");
        }
        for url in ["amqp://h/", "amqp://guest@h/", "amqp://u:${PATH}@h/", "embedded:x.db"] {
            assert!(check_broker(url).is_ok(), "{url}");
        }
        assert!(check_broker("amqp://u:${PX_NO_SUCH_VARIABLE}@h/").is_err());
    }
}
