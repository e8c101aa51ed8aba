//! `px status`: one line a unit, or JSON.

use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::{Value, json};

use super::{NOT_RUNNING, plain, say};
use crate::config::{Places, Service, UnitName, service};
use crate::daemon::{lock, status};

/// Counters worth a place on the line, in this order.
const ON_THE_LINE: [&str; 20] = [
    "announced",
    "forwarded",
    "ignored",
    "fetched",
    "from_alternates",
    "delivered",
    "suppressed",
    "rejected",
    "invalid",
    "purged",
    "ingested",
    "queued",
    "skipped",
    "superseded",
    "parked",
    "failed",
    "quarantined",
    "unroutable",
    "unnameable",
    "reconnects",
];

/// Shows units. 3 when none of them runs.
pub fn status(places: &Places, units: &[(UnitName, PathBuf)], as_json: bool) -> anyhow::Result<ExitCode> {
    let mut rows = Vec::new();
    for (name, file) in units {
        let pid = lock::holder(&places.lock_file(name))?;
        let status = status::read(&places.status_file(name));
        let left = match service(places, name, file) {
            Service::LeftToSundew(kind) => Some(kind),
            _ => None,
        };
        rows.push((name, pid, status, left));
    }
    if as_json {
        let rows: Vec<Value> = rows
            .iter()
            .map(|(name, pid, status, left)| {
                json!({"unit": name.to_string(), "running": pid.is_some(), "pid": pid, "status": status,
                       "left_to_sundew": left})
            })
            .collect();
        say(serde_json::to_string_pretty(&rows)?);
    } else {
        let width = rows.iter().map(|(name, ..)| name.to_string().len()).max().unwrap_or(0);
        for (name, pid, status, left) in &rows {
            let name = name.to_string();
            say(plain(&match left {
                Some(kind) => format!("{name:width$}  {}", Service::LeftToSundew(kind.clone())),
                None => line(&name, width, *pid, status.as_ref()),
            }));
        }
    }
    let any_runs = rows.iter().any(|(_, pid, ..)| pid.is_some());
    Ok(if any_runs || rows.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(NOT_RUNNING)
    })
}

fn line(name: &str, width: usize, pid: Option<u32>, status: Option<&status::Status>) -> String {
    let Some(pid) = pid else {
        let died = status.is_some_and(|status| status.state != "stopped");
        return format!("{name:width$}  {}", if died { "died" } else { "stopped" });
    };
    let Some(status) = status.filter(|status| status.pid == pid) else {
        return format!("{name:width$}  starting (pid {pid})");
    };
    let mut line = format!("{name:width$}  {} (pid {pid})", status.state);
    let counts = ON_THE_LINE
        .iter()
        .filter_map(|name| Some((*name, status.counts.get(*name)?.as_u64()?)));
    let gauges = status
        .gauges
        .iter()
        .filter_map(|(name, n)| Some((name.as_str(), n.as_u64()?)));
    for (name, n) in counts.filter(|(_, n)| *n > 0).chain(gauges.filter(|(_, n)| *n > 0)) {
        line.push_str(&format!(" {name}={n}"));
    }
    for quantile in ["p50", "p99"] {
        if let Some(seconds) = status.latency_s.get(quantile).and_then(Value::as_f64) {
            line.push_str(&format!(" {quantile}={seconds:.3}s"));
        }
    }
    for (purpose, link) in status.links.as_object().into_iter().flatten() {
        if let Some(error) = link["error"].as_str() {
            line.push_str(&format!("; {purpose}: {error}"));
        }
    }
    line
}
