//! `px check`: all errors of all files at once.

use std::process::ExitCode;

use serde_json::json;

use super::{REFUSED, say};
use crate::config::Places;

/// Prints every finding. 1 when anything is refused; warnings are not.
pub fn check(places: &Places, as_json: bool) -> anyhow::Result<ExitCode> {
    let report = crate::flow::check(places);
    if as_json {
        let findings: Vec<_> = report
            .findings()
            .iter()
            .map(|f| json!({"file": f.file, "line": f.line, "key": f.key, "value": f.value, "accepted": f.accepted, "warning": f.warning}))
            .collect();
        say(serde_json::to_string_pretty(&findings)?);
    } else {
        for finding in report.findings() {
            if finding.warning {
                say(finding);
            } else {
                eprintln!("{finding}");
            }
        }
    }
    Ok(if report.refused() {
        ExitCode::from(REFUSED)
    } else {
        ExitCode::SUCCESS
    })
}
