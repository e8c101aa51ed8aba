//! `px failed`: what could not be done and was kept, to look at, try again or drop.

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::{Value, json};

use super::{REFUSED, one_unit, plain, say};
use crate::config::{Places, UnitName, units};
use crate::message::{Headers, UNREADABLE, Value as Bytes};
use crate::spool::failed::{FailedStore, Failure, Limits, Which};

/// What to do with failed messages.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List failed messages, newest first
    List {
        /// DIR/NAME, or NAME where it is unique; all units when none is named
        unit: Option<String>,
        /// At most this many of each unit
        #[arg(long, default_value_t = 100)]
        limit: u32,
        /// One JSON document
        #[arg(long)]
        json: bool,
    },
    /// Show one failed message whole
    Show {
        /// The unit
        unit: String,
        /// Its number in the list
        id: i64,
        /// One JSON document
        #[arg(long)]
        json: bool,
    },
    /// Have the unit try failed messages again; each stays in the store until it is done. What could not be read when it
    /// came is refused: `show --json` has its bytes
    Replay {
        /// The unit
        unit: String,
        /// Numbers in the list
        #[arg(required_unless_present = "all")]
        ids: Vec<i64>,
        /// Every failed message of the unit
        #[arg(long, conflicts_with = "ids")]
        all: bool,
    },
    /// Drop failed messages for good
    Drop {
        /// The unit
        unit: String,
        /// Numbers in the list
        #[arg(required_unless_present = "all")]
        ids: Vec<i64>,
        /// Every failed message of the unit
        #[arg(long, conflicts_with = "ids")]
        all: bool,
    },
}

/// Does what the command says.
pub fn run(places: &Places, command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::List { unit, limit, json } => list(places, unit.as_deref(), limit, json),
        Command::Show { unit, id, json } => show(places, &unit, id, json),
        Command::Replay { unit, ids, all } => {
            for id in &ids {
                let found = find(places, &one_unit(places, &unit)?.0, *id)?;
                if let Some(why) = found.and_then(|failure| failure.envelope.unreadable()) {
                    eprintln!("px: message {id} cannot be replayed: {why}");
                    return Ok(ExitCode::from(REFUSED));
                }
            }
            change(places, &unit, &ids, all, "to be replayed", FailedStore::ask_replay)
        }
        Command::Drop { unit, ids, all } => change(places, &unit, &ids, all, "dropped", FailedStore::drop_entries),
    }
}

/// The unit's store; `None` when nothing has ever failed there.
fn store(places: &Places, name: &UnitName) -> anyhow::Result<Option<FailedStore>> {
    let path = places.unit_state(name).join("failed.db");
    Ok(FailedStore::open_existing(&path, Limits::default())?)
}

fn list(places: &Places, unit: Option<&str>, limit: u32, as_json: bool) -> anyhow::Result<ExitCode> {
    let names: Vec<UnitName> = match unit {
        Some(text) => vec![one_unit(places, text)?.0],
        None => units(places).0.into_iter().map(|(name, _)| name).collect(),
    };
    let mut document = Vec::new();
    for name in names {
        let Some(store) = store(places, &name)? else {
            continue;
        };
        let (entries, counted, totals) = (store.list(limit)?, store.counted()?, store.totals()?);
        if as_json {
            document.push(json!({"unit": name.to_string(), "entries": entries, "counted": counted, "totals": totals}));
            continue;
        }
        for entry in entries {
            let replay = if entry.replay { " (to be replayed)" } else { "" };
            say(format_args!(
                "{name} {} {} {} attempts={} {}: {}{replay}",
                entry.id,
                entry.last,
                entry.fault,
                entry.attempts,
                plain(&entry.key),
                plain(&entry.reason)
            ));
        }
        for rubbish in counted {
            say(format_args!(
                "{name} - {} counted only, {} times: {}",
                rubbish.last,
                rubbish.count,
                plain(&rubbish.reason)
            ));
        }
    }
    if as_json {
        say(serde_json::to_string_pretty(&document)?);
    }
    Ok(ExitCode::SUCCESS)
}

fn find(places: &Places, name: &UnitName, id: i64) -> anyhow::Result<Option<Failure>> {
    Ok(match store(places, name)? {
        Some(store) => store.show(id)?,
        None => None,
    })
}

fn show(places: &Places, unit: &str, id: i64, as_json: bool) -> anyhow::Result<ExitCode> {
    let (name, _) = one_unit(places, unit)?;
    let Some(failure) = find(places, &name, id)? else {
        eprintln!("px: {name} has no failed message {id}");
        return Ok(ExitCode::from(REFUSED));
    };
    let document = describe(&failure, as_json);
    if as_json {
        say(serde_json::to_string_pretty(&document)?);
    } else {
        for (field, value) in document.as_object().into_iter().flatten() {
            match value {
                Value::String(text) => say(format_args!("{field}: {}", plain(text))),
                other => say(format_args!("{field}: {}", plain(&other.to_string()))),
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn describe(failure: &Failure, is_whole: bool) -> Value {
    let envelope = &failure.envelope;
    let headers: serde_json::Map<String, Value> = envelope
        .headers
        .iter()
        .filter(|(name, _)| *name != UNREADABLE)
        .map(|(name, value)| {
            let shown = value.as_str().map_or_else(|| format!("{value:?}"), str::to_owned);
            (name.clone(), shown.into())
        })
        .collect();
    let mut document = json!({
        "reason": failure.reason,
        "fault": failure.fault,
        "attempts": failure.attempts,
        "first": failure.first.to_string(),
        "last": failure.last.to_string(),
        "queue": failure.queue,
        "key": envelope.key,
        "content_type": envelope.content_type,
        "headers": headers,
        "size": envelope.body.len(),
        "body": String::from_utf8_lossy(&envelope.body[..envelope.body.len().min(BODY_SHOWN)]),
    });
    if let Some(Bytes::Table(mark)) = envelope.headers.get(UNREADABLE) {
        document["original"] = original(mark, is_whole.then_some(&envelope.body));
    }
    document
}

/// What could not be read, as it came: escaped as in a C string.
fn original(mark: &Headers, body: Option<&Vec<u8>>) -> Value {
    let parts = mark.iter().filter_map(|(name, value)| match value {
        Bytes::Bytes(bytes) => Some((name.clone(), bytes.escape_ascii().to_string().into())),
        _ => None,
    });
    let body = body.map(|body| ("body".to_owned(), body.escape_ascii().to_string().into()));
    Value::Object(parts.chain(body).collect())
}

/// Bytes of a body that are shown.
const BODY_SHOWN: usize = 4096;

fn change(
    places: &Places,
    unit: &str,
    ids: &[i64],
    all: bool,
    done: &str,
    act: impl Fn(&FailedStore, Which) -> Result<u64, crate::spool::SpoolError>,
) -> anyhow::Result<ExitCode> {
    let (name, _) = one_unit(places, unit)?;
    let store = store(places, &name)?;
    let which: Vec<Which> = if all {
        vec![Which::All]
    } else {
        ids.iter().copied().map(Which::One).collect()
    };
    let mut count = 0;
    for which in which {
        let changed = match &store {
            Some(store) => act(store, which)?,
            None => 0,
        };
        if let (0, Which::One(id)) = (changed, which) {
            eprintln!("px: {name} has no failed message {id}");
            return Ok(ExitCode::from(REFUSED));
        }
        count += changed;
    }
    say(format_args!("{name}: {count} {done}"));
    Ok(ExitCode::SUCCESS)
}
