//! `px check`: all errors of all files at once.

use std::process::ExitCode;

use serde_json::json;

use super::{REFUSED, say};
use crate::config::Places;

/// Prints every finding, then the notes. 1 when anything is refused; warnings and notes are not.
pub fn check(places: &Places, as_json: bool) -> anyhow::Result<ExitCode> {
    let report = crate::flow::check(places);
    if as_json {
        let findings = report.findings().iter().map(|f| {
            json!({"file": f.file, "line": f.line, "key": f.key, "value": f.value, "accepted": f.accepted,
                   "warning": f.warning, "note": false})
        });
        let notes = report.notes().iter().map(|(file, text)| {
            json!({"file": file, "line": 0, "key": "", "value": "", "accepted": text, "warning": true, "note": true})
        });
        say(serde_json::to_string_pretty(
            &findings.chain(notes).collect::<Vec<_>>(),
        )?);
    } else {
        for finding in report.findings() {
            if finding.warning {
                say(finding);
            } else {
                eprintln!("{finding}");
            }
        }
        for (file, text) in report.notes() {
            say(format_args!("{}: {text}", file.display()));
        }
    }
    Ok(if report.refused() {
        ExitCode::from(REFUSED)
    } else {
        ExitCode::SUCCESS
    })
}
