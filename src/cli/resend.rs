//! `px resend`: puts products of the database into a client's queue once more, as retransmissions.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use jiff::Timestamp;
use serde_json::{Value, json};
use tracing::{Level, error, info};

use super::selection::{self, Selection};
use super::{REFUSED, USAGE, plain, say};
use crate::config::{Client, ClientKind, Places, UnitDir, clients, find_unit};
use crate::daemon::log::{self, Destination, Rendering};
use crate::message::Fault;
use crate::spool::SpoolError;
use crate::spool::resend::{Found, Product, Queued, Resender, Span, products};

/// Days for which old logs are kept.
const KEEP: usize = 5;
/// Links between two syncs.
const SYNC_EVERY: usize = 500;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The client: tx/NAME, trx/NAME, or NAME where it is unique; whoever runs it
    client: String,
    /// Products received since then, in UTC: HH:MM[:SS], the last that has passed; "YYYY-MM-DD HH:MM[:SS]"; RFC 3339;
    /// or how long ago, as 2h
    #[arg(long, value_name = "TIME", value_parser = selection::time)]
    since: Timestamp,
    #[command(flatten)]
    selection: Selection,
    /// The directory of the queue; 0 is for retransmissions, which no duplicate check holds back
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=5))]
    priority: u8,
    /// Products a second; 0 for as fast as it goes
    #[arg(long, default_value_t = 100)]
    rate: u32,
    /// Only tell how many would be resent
    #[arg(long)]
    dry_run: bool,
    /// With --dry-run: a line for each product
    #[arg(long, requires = "dry_run")]
    verbose: bool,
    /// One JSON document, at the end
    #[arg(long, conflicts_with = "verbose")]
    json: bool,
}

/// Resends. 1 when a product could not be, the others all the same.
pub fn run(places: &Places, arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let span = match arguments.selection.span(arguments.since, Timestamp::now()) {
        Ok(span) => span,
        Err(why) => {
            eprintln!("px: {why}");
            return Ok(ExitCode::from(USAGE));
        }
    };
    let client = client(places, &arguments.client)?;
    let wants = |name: &[u8]| arguments.selection.wants(name) && client.masks.accepts(name);
    let db = places.spool.join("db");
    let found = products(&db, span, wants).context("the products of the database")?;
    for unread in &found.unread {
        eprintln!("px: {}", plain(&unread.line()));
    }
    let unit = match client.kind {
        ClientKind::Transceiver => format!("trx/{}", client.name),
        ClientKind::Sender | ClientKind::Filter => format!("tx/{}", client.name),
    };
    let mut run = Run {
        arguments,
        unit,
        span,
        told: Vec::new(),
        counts: Counts::default(),
    };
    run.preview(&found);
    if arguments.dry_run {
        run.list(&found.products);
    } else if !found.products.is_empty() {
        run.log(&places.log);
        let mut resender = Resender::open(&places.spool, &client.name, arguments.priority)?;
        run.resend(&mut resender, &found.products);
    }
    run.end(&found)
}

/// The client that is meant, whoever runs it.
fn client(places: &Places, text: &str) -> anyhow::Result<Client> {
    let (kind, name) = match text.strip_prefix("trx/") {
        Some(name) => (ClientKind::Transceiver, name.to_string()),
        None => match find_unit(places, text) {
            Ok((unit, _)) if unit.dir == UnitDir::Tx => (ClientKind::Sender, unit.name),
            Ok((unit, _)) => anyhow::bail!("{unit} is no client: only what has a queue in txq can be resent to"),
            Err(why) => match text.contains('/') {
                true => anyhow::bail!(why),
                // Perhaps a transceiver.
                false => (ClientKind::Transceiver, text.to_string()),
            },
        },
    };
    let (clients, findings) = clients(places);
    for finding in &findings {
        let is_ours = finding.file.file_stem().is_some_and(|stem| stem == name.as_str());
        if is_ours || !finding.warning {
            eprintln!("{finding}");
        }
    }
    let found = clients
        .into_iter()
        .find(|client| client.kind == kind && client.name == name);
    match (found, kind) {
        (Some(client), _) => Ok(client),
        (None, ClientKind::Transceiver) => anyhow::bail!("there is no unit {text}"),
        (None, _) => anyhow::bail!("tx/{name} is no client: it announces what is in the database, and has no queue"),
    }
}

#[derive(Default)]
struct Counts {
    linked: usize,
    there: usize,
    failed: usize,
}

struct Run<'a> {
    arguments: &'a Arguments,
    unit: String,
    span: Span,
    told: Vec<Value>,
    counts: Counts,
}

impl Run<'_> {
    fn preview(&self, found: &Found) {
        if self.arguments.json {
            return;
        }
        let bytes: u64 = found.products.iter().map(|product| product.bytes).sum();
        let doing = if self.arguments.dry_run {
            "would be resent"
        } else {
            "to be resent"
        };
        say(format_args!(
            "{} products, {bytes} bytes, received from {} to {}, {doing} to {} with priority {}",
            found.products.len(),
            self.span.since,
            self.span.until,
            self.unit,
            self.arguments.priority
        ));
    }

    fn list(&mut self, products: &[Product]) {
        for product in products {
            if self.arguments.json {
                self.tell(product, "would be resent", None);
            } else if self.arguments.verbose {
                say(format_args!("({} Bytes) {}", product.bytes, shown(product)));
            }
        }
    }

    /// Whoever may not write there resends all the same: every line is on the terminal too.
    fn log(&self, directory: &Path) {
        let to = Destination::File(directory.join("pxResend.log"), KEEP);
        if let Err(error) = log::start("pxResend", &to, Rendering::Text, Level::INFO) {
            eprintln!("px: there will be no log: {error:#}");
        }
    }

    fn resend(&mut self, resender: &mut Resender, products: &[Product]) {
        let begun = Instant::now();
        for (index, product) in products.iter().enumerate() {
            self.wait(begun, index);
            let now = Timestamp::now();
            match resender.resend(product, now) {
                Ok(Queued::New) => {
                    self.counts.linked += 1;
                    let to = resender.directory(now);
                    let line = format!(
                        "({} Bytes) Resent {} to {}",
                        product.bytes,
                        shown(product),
                        to.display()
                    );
                    info!("{line}");
                    self.tell(product, "resent", Some(line));
                }
                Ok(Queued::There) => {
                    self.counts.there += 1;
                    let line = format!("({} Bytes) In the queue already {}", product.bytes, shown(product));
                    self.tell(product, "there", Some(line));
                }
                Ok(Queued::Gone) => self.fail(product, "it is in the database no more"),
                Err(error) => {
                    self.fail(product, &error.line());
                    if would_fail_again(&error) {
                        let left = products.len() - index - 1;
                        self.complain(&format!("given up: {left} products were not tried"));
                        break;
                    }
                }
            }
            if index % SYNC_EVERY == SYNC_EVERY - 1 {
                self.sync(resender);
            }
        }
        self.sync(resender);
        info!("{}", self.summary());
    }

    /// Holds the rate: no product before its time.
    fn wait(&self, begun: Instant, index: usize) {
        if self.arguments.rate > 0 {
            let due = begun + Duration::from_secs_f64(index as f64 / f64::from(self.arguments.rate));
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
        }
    }

    fn sync(&mut self, resender: &mut Resender) {
        if let Err(error) = resender.sync() {
            self.counts.failed += 1;
            self.complain(&error.line());
        }
    }

    fn tell(&mut self, product: &Product, result: &str, line: Option<String>) {
        match (self.arguments.json, line) {
            (true, _) => self.told.push(json!({
                "name": shown(product), "bytes": product.bytes, "received": product.at.to_string(), "result": result
            })),
            (false, Some(line)) => say(line),
            (false, None) => {}
        }
    }

    fn fail(&mut self, product: &Product, why: &str) {
        self.counts.failed += 1;
        self.complain(&format!("{}: {why}", shown(product)));
        if self.arguments.json {
            self.tell(product, "failed", None);
        }
    }

    fn complain(&self, text: &str) {
        let text = plain(text);
        error!("{text}");
        eprintln!("px: {text}");
    }

    fn summary(&self) -> String {
        let Counts { linked, there, failed } = self.counts;
        format!(
            "{linked} products resent to {}, {there} in its queue already, {failed} failed",
            self.unit
        )
    }

    fn end(self, found: &Found) -> anyhow::Result<ExitCode> {
        let Counts { linked, there, failed } = self.counts;
        if self.arguments.json {
            let bytes: u64 = found.products.iter().map(|product| product.bytes).sum();
            let document = json!({
                "client": self.unit, "since": self.span.since.to_string(), "until": self.span.until.to_string(),
                "priority": self.arguments.priority, "dry_run": self.arguments.dry_run,
                "count": found.products.len(), "bytes": bytes,
                "resent": linked, "there": there, "failed": failed, "products": self.told,
            });
            say(serde_json::to_string_pretty(&document)?);
        } else if !self.arguments.dry_run {
            say(self.summary());
        }
        Ok(match failed == 0 && found.unread.is_empty() {
            true => ExitCode::SUCCESS,
            false => ExitCode::from(REFUSED),
        })
    }
}

/// What this host refuses, and no single file is to blame for, it refuses the next one too.
fn would_fail_again(error: &SpoolError) -> bool {
    error.fault == Fault::Own && !error.one_file
}

fn shown(product: &Product) -> String {
    plain(&String::from_utf8_lossy(product.name()))
}
