//! `px clean`: removes empty hours from senders' queues, and old days from the database. For cron: a line for each, and
//! silent with nothing to do.

use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use jiff::Zoned;
use serde_json::{Value, json};

use super::{REFUSED, say};
use crate::config::{Places, Service, Site, UnitDir, service, units};
use crate::spool::clean::{self, Finding};

const DAY: Duration = Duration::from_secs(86_400);

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Only tell what would be removed
    #[arg(long)]
    dry_run: bool,
    /// How old the database's days get, in place of `keep_db`
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..=36_500))]
    keep: Option<u32>,
    /// One JSON document
    #[arg(long)]
    json: bool,
}

/// Cleans the spool. 1 when something could not be removed; the rest is all the same.
pub fn run(places: &Places, arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let (site, errors) = Site::load(places);
    if errors.iter().any(|error| !error.warning) {
        for error in errors {
            eprintln!("{error}");
        }
        eprintln!("px: nothing is removed: what is to be kept is not known");
        return Ok(ExitCode::from(REFUSED));
    }
    let now = Zoned::now();
    let mut findings = Vec::new();
    for (unit, file) in units(places).0 {
        if unit.dir == UnitDir::Tx && service(places, &unit, &file) == Service::Served {
            let queue = places.spool.join("txq").join(&unit.name);
            findings.extend(clean::empty_hours(&queue, &now, arguments.dry_run));
        }
    }
    let keep = arguments.keep.map_or(site.keep_db, |days| DAY * days);
    // A span that goes back before all time keeps everything.
    if let Some(before) = SystemTime::now().checked_sub(keep) {
        findings.extend(clean::old_days(&places.spool.join("db"), before, arguments.dry_run));
    }
    tell(&findings, arguments)
}

fn tell(findings: &[Finding], arguments: &Arguments) -> anyhow::Result<ExitCode> {
    if arguments.json {
        let findings: Vec<Value> = findings
            .iter()
            .map(|Finding { path, error }| {
                let is_removed = error.is_none() && !arguments.dry_run;
                let error = error.as_ref().map(|error| error.line());
                json!({"path": path.to_string_lossy(), "removed": is_removed, "error": error})
            })
            .collect();
        say(serde_json::to_string_pretty(&findings)?);
    }
    let done = if arguments.dry_run {
        "would be removed"
    } else {
        "has been removed"
    };
    for Finding { path, error } in findings {
        match error {
            Some(error) => eprintln!("px: {}", error.line()),
            None if !arguments.json => say(super::plain(&format!("{} {done}", path.display()))),
            None => {}
        }
    }
    Ok(if findings.iter().any(|finding| finding.error.is_some()) {
        ExitCode::from(REFUSED)
    } else {
        ExitCode::SUCCESS
    })
}
