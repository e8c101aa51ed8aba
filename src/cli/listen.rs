//! `px listen`: what is announced, as it comes, on a queue of its own.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use clap::Args;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::plain;
use crate::config::{Broker, BrokerUrl, Places, Site, UnitDir, UnitName, options};
use crate::flow::{State, Unit, consume};
use crate::message::{DecodeOptions, Decoded, Envelope, Exchange, ExchangeKind, Queue, decode, stamp};
use crate::metrics::Metrics;

/// What to listen to.
#[derive(Debug, Args)]
pub struct Arguments {
    /// A broker of px.toml, or a URL without a password
    broker: String,
    /// The exchange; the broker's own when absent
    #[arg(long)]
    exchange: Option<String>,
    /// Patterns to bind
    #[arg(long, default_values_t = ["#".to_string()])]
    bind: Vec<String>,
    /// End after this many messages
    #[arg(long)]
    count: Option<u64>,
    /// One JSON object a message
    #[arg(long)]
    json: bool,
}

/// Prints one line a message until it is interrupted or has seen enough.
pub fn run(places: &Places, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let broker = find_broker(places, &arguments.broker)?;
    let exchange = match (&arguments.exchange, &broker.exchange) {
        (Some(name), Some(own)) if own.name == *name => own.clone(),
        (Some(name), _) => Exchange {
            name: name.clone(),
            kind: ExchangeKind::Topic,
            durable: true,
            auto_delete: false,
        },
        (None, Some(own)) => own.clone(),
        (None, None) => anyhow::bail!("broker {} names no exchange: say --exchange NAME", broker.name),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(listen(places, broker, exchange, arguments))?;
    Ok(ExitCode::SUCCESS)
}

fn find_broker(places: &Places, text: &str) -> anyhow::Result<Broker> {
    if !text.contains(':') {
        let (site, errors) = Site::load(places);
        return match site.broker(text) {
            Some(broker) => Ok(broker.clone()),
            None => {
                let mut said: Vec<String> = errors.iter().map(ToString::to_string).collect();
                said.push(format!("{} has no broker {text:?}", places.site_file().display()));
                anyhow::bail!("{}", said.join("\n"))
            }
        };
    }
    let url = BrokerUrl::parse(text, places).map_err(anyhow::Error::msg)?;
    if text.split_once("://").is_some_and(|(_, rest)| {
        let authority = rest.split('/').next().unwrap_or_default();
        authority.rsplit_once('@').is_some_and(|(user, _)| user.contains(':'))
    }) {
        anyhow::bail!("a password on a command line is everybody's: put it into secrets.toml and name the broker");
    }
    Ok(Broker::new("listen", url))
}

async fn listen(places: &Places, broker: Broker, exchange: Exchange, arguments: Arguments) -> anyhow::Result<()> {
    let unit = Unit {
        name: UnitName::new(UnitDir::Rx, "listen").map_err(anyhow::Error::msg)?,
        places: places.clone(),
        metrics: Arc::new(Metrics::default()),
        state: State::default(),
        stop: CancellationToken::new(),
        abandon: CancellationToken::new(),
    };
    let name = format!("px.listen.{:016x}", fastrand::u64(..));
    let queue = Queue {
        name: name.clone(),
        auto_delete: true,
        exclusive: true,
        role: Some("follow"),
        ..Queue::default()
    };
    let binds: Vec<options::Bind> = arguments
        .bind
        .iter()
        .map(|key| options::Bind {
            exchange: None,
            key: key.clone(),
        })
        .collect();
    let topology = options::topology(queue, &exchange, &binds);
    let (seen, stop) = (AtomicU64::new(0), unit.stop.clone());
    let show = |envelope: &Envelope| {
        let before = seen.fetch_add(1, Ordering::Relaxed);
        if arguments.count.is_some_and(|count| before >= count) {
            return;
        }
        let line = if arguments.json {
            as_json(envelope)
        } else {
            as_text(envelope)
        };
        // A closed pipe ends the listening, as it does for every filter.
        let written = std::io::Write::write_all(&mut std::io::stdout(), format!("{line}\n").as_bytes());
        if written.is_err() || arguments.count == Some(before + 1) {
            stop.cancel();
        }
    };
    tokio::select! {
        () = consume::follow(&unit, broker, topology, name, show) => {}
        _ = tokio::signal::ctrl_c() => unit.stop.cancel(),
        () = complain(&unit) => {}
    }
    Ok(())
}

/// Says on standard error why nothing comes.
async fn complain(unit: &Unit) {
    let mut changes = unit.state.subscribe();
    let mut said = None;
    while changes.changed().await.is_ok() {
        let error = changes
            .borrow_and_update()
            .links
            .values()
            .find_map(|link| link.error.clone());
        if error.is_some() && error != said {
            eprintln!("px: {}; trying again", error.as_deref().unwrap_or_default());
        }
        said = error;
    }
}

fn as_text(envelope: &Envelope) -> String {
    match decode(envelope, &DecodeOptions::default()) {
        Ok(Decoded::Product(announcement)) => {
            let time = stamp::announced_at(&announcement, envelope).map_or("-".into(), |time| time.to_string());
            let size = announcement.size.map_or("-".into(), |size| size.to_string());
            format!(
                "{} {time} {size} {}",
                plain(&envelope.key),
                plain(&announcement.fetch_url())
            )
        }
        Ok(Decoded::NotForFetching(reason)) => format!("{} {reason}", plain(&envelope.key)),
        Err(error) => format!("{} not an announcement: {error}", plain(&envelope.key)),
    }
}

fn as_json(envelope: &Envelope) -> String {
    let headers: serde_json::Map<String, serde_json::Value> = envelope
        .headers
        .iter()
        .map(|(name, value)| {
            (
                name.clone(),
                value
                    .as_str()
                    .map_or_else(|| format!("{value:?}"), str::to_owned)
                    .into(),
            )
        })
        .collect();
    json!({
        "key": envelope.key,
        "content_type": envelope.content_type,
        "timestamp": envelope.timestamp,
        "headers": headers,
        "body": String::from_utf8_lossy(&envelope.body),
    })
    .to_string()
}
