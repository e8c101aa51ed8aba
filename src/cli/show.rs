//! `px status`: one line a unit, or JSON.

use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::{Value, json};

use super::{NOT_RUNNING, control, plain, say};
use crate::config::{Places, Service, UnitName, service};
use crate::daemon::lock;
use crate::daemon::status::{self, Status};
use crate::daemon::sundew_lock::{self, Holder};
use crate::flow::state::{Role, moment};

/// Counters worth a place on the line, in this order.
const ON_THE_LINE: [&str; 21] = [
    "announced",
    "forwarded",
    "ignored",
    "learned",
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

/// What is known of one unit.
struct Row {
    name: UnitName,
    pid: Option<u32>,
    status: Option<Status>,
    /// It does not run and was not stopped.
    has_died: bool,
    /// A process that is not px's and works on its queue.
    foreign: Option<u32>,
    /// It runs, but its file is there no more.
    file_is_gone: bool,
    left_to_sundew: Option<String>,
}

impl Row {
    fn of(places: &Places, (name, file): &(UnitName, PathBuf)) -> anyhow::Result<Row> {
        let pid = lock::holder(&places.lock_file(name))?;
        let status = status::read(&places.status_file(name));
        let is_open = status.as_ref().is_some_and(|status| !status.is_stopped());
        Ok(Row {
            name: name.clone(),
            pid,
            // As `px revive` sees it; and who runs units in the foreground is told of a crash too.
            has_died: pid.is_none() && (is_open || control::is_meant_to_run(places, name)),
            status,
            // One that may not be looked at keeps nobody from seeing the others.
            foreign: match pid.is_none().then(|| sundew_lock::holder(places, name)) {
                Some(Ok(Holder::Runs(pid))) => Some(pid),
                _ => None,
            },
            file_is_gone: pid.is_some() && file.try_exists().is_ok_and(|is_there| !is_there),
            left_to_sundew: match service(places, name, file) {
                Service::LeftToSundew(kind) => Some(kind),
                _ => None,
            },
        })
    }

    fn json(&self) -> Value {
        json!({"unit": self.name.to_string(), "running": self.pid.is_some(), "pid": self.pid, "status": self.status,
               "left_to_sundew": self.left_to_sundew, "file_gone": self.file_is_gone,
               "foreign_pid": self.foreign})
    }

    /// What stands after the unit's name.
    fn words(&self) -> String {
        if let Some(kind) = &self.left_to_sundew {
            return Service::LeftToSundew(kind.clone()).to_string();
        }
        let Some(pid) = self.pid else {
            let state = if self.has_died { "died" } else { "stopped" };
            return match self.foreign {
                Some(pid) => format!("{state}; process {pid} works on its queue (.lock)"),
                None => state.to_owned(),
            };
        };
        if self.file_is_gone {
            return format!("running (pid {pid}), its configuration file is gone");
        }
        match self.running_status() {
            Some(status) => running(status, pid),
            None => format!("starting (pid {pid})"),
        }
    }

    /// What the process that runs now says of itself.
    fn running_status(&self) -> Option<&Status> {
        self.status.as_ref().filter(|status| self.pid == Some(status.pid))
    }
}

/// Shows units. 3 when none of them runs.
pub fn status(places: &Places, units: &[(UnitName, PathBuf)], as_json: bool) -> anyhow::Result<ExitCode> {
    let rows: Vec<Row> = units
        .iter()
        .map(|unit| Row::of(places, unit))
        .collect::<anyhow::Result<_>>()?;
    if as_json {
        let rows: Vec<Value> = rows.iter().map(Row::json).collect();
        say(serde_json::to_string_pretty(&rows)?);
    } else {
        let width = rows.iter().map(|row| row.name.to_string().len()).max().unwrap_or(0);
        for row in &rows {
            say(plain(&format!("{:width$}  {}", row.name.to_string(), row.words())));
            for line in row.running_status().map(of_sources).unwrap_or_default() {
                say(plain(&format!("  {line}")));
            }
        }
    }
    let any_runs = rows.iter().any(|row| row.pid.is_some());
    Ok(if any_runs || rows.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(NOT_RUNNING)
    })
}

fn running(status: &Status, pid: u32) -> String {
    let mut line = format!("{} (pid {pid})", status.state);
    let head = line.len();
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
    if let Some(role) = &status.role {
        let said = role_words(role);
        match role.active || status.state != "standby" {
            true => line.push_str(&format!(" {}{said}", if role.active { "active" } else { "standby" })),
            // It is the first word already, and why comes before what it did in its time.
            false => line.insert_str(head, &format!("{said}{}", if line.len() > head { ";" } else { "" })),
        }
    }
    for (purpose, link) in status.links.as_object().into_iter().flatten() {
        // The state names it already, or there are more of its kind.
        let warnings = link["warnings"].as_array().into_iter().flatten();
        let warnings = warnings
            .filter(|warning| warning["refusal"] != "foreign")
            .filter(|warning| warning["refusal"] != "unbound" || !status.state.starts_with("impaired"))
            .filter_map(|warning| warning["what"].as_str());
        let said = link["error"].as_str().into_iter().chain(warnings);
        for what in said.filter(|what| !status.state.contains(what)) {
            line.push_str(&format!("; {purpose}: {what}"));
        }
    }
    line
}

/// A line a source that races with others, and one for each two that disagree.
fn of_sources(status: &Status) -> Vec<String> {
    let mut lines = Vec::new();
    for standing in &status.sources {
        let (source, percent) = (&standing.source, standing.share * 100.0);
        let mut line = format!("{source} first {percent:.0} % of {}", standing.contested);
        if let Some(lead_s) = standing.lead_s.p50 {
            line.push_str(&format!(", median lead {}", lead(lead_s)));
        }
        lines.push(line);
    }
    for found in &status.disagreements {
        let ([one, other], last) = (&found.sources, &found.last);
        let mut line = format!("{one} and {other} disagree: {}, last {}", found.count, last.name);
        if let [Some(one), Some(other)] = last.sizes {
            line.push_str(&format!(", {one} and {other} bytes"));
        }
        if let [Some(one), Some(other)] = &last.digests {
            line.push_str(&format!(", digests {one} and {other}"));
        }
        lines.push(line);
    }
    lines
}

fn lead(seconds: f64) -> String {
    match seconds {
        0.0..0.001 => "below 1 ms".to_owned(),
        0.001..1.0 => format!("{:.0} ms", seconds * 1e3),
        _ => format!("{seconds:.1} s"),
    }
}

/// Since when, and why.
fn role_words(role: &Role) -> String {
    format!(" since {}: {}", moment(role.since), role.why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_when_and_why_a_unit_stands_by_or_works_is_said() {
        let said = |state: &str, forwarded: u64, active: bool, why: &str| {
            let role = json!({"active": active, "since": "2026-11-22T08:15:03.25Z", "why": why});
            let status: Status = serde_json::from_value(json!({
                "unit": "dispatch/a", "version": "1", "pid": 7, "started": "", "updated": "", "ready": true,
                "state": state, "gauges": {}, "counts": {"forwarded": forwarded}, "latency_s": {}, "role": role,
                "links": {"follow": {"error": "away"}},
            }))
            .unwrap();
            running(&status, 7)
        };
        for (state, forwarded, active, words) in [
            (
                "standby",
                0,
                false,
                "standby (pid 7) since 2026-11-22 08:15:03 UTC: why; follow: away",
            ),
            (
                "standby",
                3,
                false,
                "standby (pid 7) since 2026-11-22 08:15:03 UTC: why; forwarded=3; follow: away",
            ),
            (
                "running",
                3,
                true,
                "running (pid 7) forwarded=3 active since 2026-11-22 08:15:03 UTC: why; follow: away",
            ),
            (
                "paused: x",
                0,
                false,
                "paused: x (pid 7) standby since 2026-11-22 08:15:03 UTC: why; follow: away",
            ),
        ] {
            assert_eq!(said(state, forwarded, active, "why"), words);
        }
    }

    #[test]
    fn what_a_pause_names_is_said_once() {
        let status: Status = serde_json::from_value(json!({
            "unit": "rx/a", "version": "1", "pid": 7, "started": "", "updated": "", "ready": true,
            "state": "paused: refused by b", "gauges": {"parked": 2}, "counts": {}, "latency_s": {},
            "links": {"consume": {"error": "refused by b"}, "publish": {"error": "away"}, "more": {"error": null}},
        }))
        .unwrap();
        assert_eq!(
            running(&status, 7),
            "paused: refused by b (pid 7) parked=2; publish: away"
        );
    }

    #[test]
    fn what_a_broker_refused_is_behind_and_what_the_state_names_is_not() {
        let of = |state: &str| -> Status {
            let warnings = json!([{"refusal": "foreign", "what": "exchange x is used as it is: 403"},
                {"refusal": "differs", "what": "queue q is used as it is: 406"},
                {"refusal": "unbound", "what": "may not bind a"}, {"refusal": "unbound", "what": "may not bind b"}]);
            serde_json::from_value(json!({
                "unit": "rx/a", "version": "1", "pid": 7, "started": "", "updated": "", "ready": true,
                "state": state, "gauges": {}, "counts": {}, "latency_s": {},
                "links": {"consume": {"error": null, "warnings": warnings}},
            }))
            .unwrap()
        };
        let impaired = "impaired: may not bind a (and 1 more)";
        assert_eq!(
            running(&of(impaired), 7),
            format!("{impaired} (pid 7); consume: queue q is used as it is: 406")
        );
        assert_eq!(
            running(&of("paused: full"), 7),
            "paused: full (pid 7); consume: queue q is used as it is: 406; consume: may not bind a; consume: may not \
             bind b"
        );
    }

    #[test]
    fn sources_have_a_line_each_and_so_have_those_that_disagree() {
        let mut status: Status = serde_json::from_value(json!({
            "unit": "dispatch/a", "version": "1", "pid": 7, "started": "", "updated": "", "ready": true,
            "state": "running", "gauges": {}, "counts": {}, "latency_s": {}, "links": {},
        }))
        .unwrap();
        assert!(of_sources(&status).is_empty());
        let [one, two] = ["urp-1:80", "urp-2:80"];
        status.sources = serde_json::from_value(json!([
            {"source": one, "first": 756, "contested": 1200, "share": 0.63, "lead_s": {"p50": 0.1804, "p99": 2.0}},
            {"source": two, "first": 0, "contested": 1200, "share": 0.0, "lead_s": {}},
        ]))
        .unwrap();
        status.disagreements = serde_json::from_value(json!([
            {"sources": [one, two], "count": 3, "last": {"name": "X", "sizes": [1, 2], "digests": [null, null]}},
        ]))
        .unwrap();
        assert_eq!(
            of_sources(&status),
            [
                "urp-1:80 first 63 % of 1200, median lead 180 ms",
                "urp-2:80 first 0 % of 1200",
                "urp-1:80 and urp-2:80 disagree: 3, last X, 1 and 2 bytes",
            ]
        );
        assert_eq!((lead(0.0), lead(2.04)), ("below 1 ms".to_owned(), "2.0 s".to_owned()));
    }
}
