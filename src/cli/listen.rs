//! `px listen`: what is announced, as it comes, on a queue of its own.

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};

use clap::Args;
use serde_json::json;

use super::{broker, plain};
use crate::config::{Broker, Places, options};
use crate::flow::consume;
use crate::message::{DecodeOptions, Decoded, Envelope, Exchange, Queue, decode};

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
    let broker = broker::find(places, &arguments.broker)?;
    let exchange = broker::exchange(&broker, arguments.exchange.as_deref())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(listen(places, broker, exchange, arguments))?;
    Ok(ExitCode::SUCCESS)
}

async fn listen(places: &Places, broker: Broker, exchange: Exchange, arguments: Arguments) -> anyhow::Result<()> {
    let unit = broker::passing_unit(places, "listen")?;
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
            plain(&as_text(envelope))
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
        () = broker::complain(&unit) => {}
    }
    Ok(())
}

fn as_text(envelope: &Envelope) -> String {
    if let Some(why) = envelope.unreadable() {
        return format!("{} {why}", envelope.key);
    }
    match decode(envelope, &DecodeOptions::default()) {
        Ok(Decoded::Product(announcement)) => {
            let time = announcement
                .announced_at(envelope)
                .map_or("-".into(), |time| time.to_string());
            let size = announcement.size.map_or("-".into(), |size| size.to_string());
            format!("{} {time} {size} {}", envelope.key, announcement.fetch_url())
        }
        Ok(Decoded::NotForFetching(reason)) => format!("{} {reason}", envelope.key),
        Err(error) => format!("{} not an announcement: {error}", envelope.key),
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
