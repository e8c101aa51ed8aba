//! `px reap`: deletes abandoned queues. For cron, and for who wants to know first.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::{Value, json};

use super::{REFUSED, control, plain, say};
use crate::broker::management::QueueKind;
use crate::config::{OwnQueues, Places, Reaper, Site};
use crate::daemon::lock::{self, Lock};
use crate::flow::reaper::{self, Finding, Outcome, Report, Wish};
use crate::spool::sightings::{Moment, Sightings};

/// Exit codes, at the end of the help.
const EXIT_CODES: &str = "\
Exit codes:
  0  done, also with nothing to do
  1  a queue or a virtual host failed (the others were reaped), another px reap runs, or the configuration is bad:
     also that of a unit whose queue is not known
  2  usage";

#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub struct Arguments {
    /// Only tell what would be deleted now; no sighting is recorded
    #[arg(long)]
    dry_run: bool,
    /// One JSON document, with every queue and why it stays
    #[arg(long)]
    json: bool,
    /// Say nothing unless a queue was deleted or something failed
    #[arg(long)]
    quiet: bool,
    /// Put the messages of each classic queue into a file in this directory before it is deleted, for px replay;
    /// quorum and auto_delete queues stay
    #[arg(long, value_name = "DIR")]
    spill: Option<PathBuf>,
}

/// Runs the reaper once. 1 when anything failed.
pub fn run(places: &Places, arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let wish = Wish {
        is_dry: arguments.dry_run,
        spill: arguments.spill.as_deref(),
    };
    if let Some(directory) = wish.spill
        && !directory.is_dir()
    {
        anyhow::bail!(
            "nothing is deleted: {} is no directory to spill into",
            directory.display()
        );
    }
    let mut tell = |finding: &Finding| match finding.outcome {
        _ if finding.has_failed() => eprintln!("px: {}", plain(&finding.line())),
        Outcome::Kept => {}
        _ if arguments.json || arguments.quiet && !finding.is_notable() => {}
        _ => say(plain(&finding.line())),
    };
    let Some((site_reaper, report)) = reap(places, wish, &mut tell)? else {
        return Ok(ExitCode::from(REFUSED));
    };
    for problem in &report.problems {
        eprintln!("px: {}", plain(problem));
    }
    let is_silent = arguments.quiet && !report.is_notable();
    if arguments.json && !is_silent {
        say(serde_json::to_string_pretty(&as_json(&site_reaper, wish, &report))?);
    } else if !arguments.quiet && !arguments.json {
        say_lists(&report);
    }
    Ok(ended(&report))
}

/// What the program of the old name says, and nothing else: each deleted queue, the two lines, an empty one.
pub fn old(places: &Places) -> anyhow::Result<ExitCode> {
    let mut tell = |finding: &Finding| match () {
        () if finding.has_failed() => eprintln!("queue_manager: {}", plain(&finding.line())),
        () if finding.is_deleted() => say(plain(&finding.queue.name)),
        () => {}
    };
    let Some((_, report)) = reap(places, Wish::default(), &mut tell)? else {
        return Ok(ExitCode::from(REFUSED));
    };
    for problem in &report.problems {
        eprintln!("queue_manager: {}", plain(problem));
    }
    say_lists(&report);
    say("");
    Ok(ended(&report))
}

fn ended(report: &Report) -> ExitCode {
    match report.has_failed() {
        true => ExitCode::from(REFUSED),
        false => ExitCode::SUCCESS,
    }
}

/// `None`: refused, and it was said why.
fn reap(places: &Places, wish: Wish<'_>, tell: &mut dyn FnMut(&Finding)) -> anyhow::Result<Option<(Reaper, Report)>> {
    let kept = places.state.join("reaper");
    if !wish.is_dry {
        control::become_unit_account(places, &kept)?;
    }
    let Some((reaper, own)) = configured(places) else {
        return Ok(None);
    };
    // Sightings are replaced as a whole, so who only reads them needs no lock, and holds up no real run.
    let _lock: Option<Lock> = match wish.is_dry {
        true => None,
        false => {
            let path = kept.join("lock");
            let lock = lock::take(&path).with_context(|| {
                let way = match places.is_system_root() {
                    true => "run it once as root, which sees to that",
                    false => "chown -R it",
                };
                let kept = kept.display();
                format!("nothing is deleted: is {kept} of the user that runs px reap? If not, {way}")
            })?;
            if lock.is_none() {
                let pid = lock::holder(&path).ok().flatten();
                let pid = pid.map_or(String::new(), |pid| format!(" with pid {pid}"));
                eprintln!("px: another px reap runs{pid}: nothing is done");
                return Ok(None);
            }
            lock
        }
    };
    let path = kept.join("sightings.json");
    let (mut sightings, problem) = Sightings::load(&path, &reaper.broker.name)?;
    if let Some(problem) = problem {
        eprintln!("px: {}", plain(&problem));
    }
    let now = Moment::now();
    sightings.go_on(&now);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let run = reaper::run(&reaper, &own, wish, sightings, now.at(), tell);
    let report = runtime.block_on(run).context("cannot reap")?;
    Ok(Some((reaper, report)))
}

/// The reaper of a site without a fault, and what it never takes; else every fault is said.
fn configured(places: &Places) -> Option<(Reaper, OwnQueues)> {
    let (site, errors) = Site::load(places);
    if errors.iter().any(|error| !error.warning) {
        for error in errors {
            eprintln!("{error}");
        }
        eprintln!("px: nothing is deleted: what is abandoned is not known");
        return None;
    }
    let Some(reaper) = site.reaper.clone() else {
        let file = places.site_file();
        eprintln!(
            "px: {} has no [reaper]: it says which queues are abandoned",
            file.display()
        );
        return None;
    };
    match OwnQueues::of(&site) {
        Ok(own) => Some((reaper, own)),
        Err(errors) => {
            for error in errors {
                eprintln!("{error}");
            }
            eprintln!("px: nothing is deleted: which queues are those of this host's units is not known");
            None
        }
    }
}

fn as_json(reaper: &Reaper, wish: Wish<'_>, report: &Report) -> Value {
    let queues: Vec<Value> = report.findings.iter().map(finding_as_json).collect();
    json!({
        "broker": reaper.broker.name,
        "dry_run": wish.is_dry,
        "queues": queues,
        "problems": report.problems,
    })
}

fn finding_as_json(finding: &Finding) -> Value {
    let queue = &finding.queue;
    let guarded = match finding.outcome {
        Outcome::Deleted { guarded } | Outcome::WouldBeDeleted { guarded } => Some(guarded),
        Outcome::Spilled { .. } => Some(true),
        _ => None,
    };
    let error = match &finding.outcome {
        Outcome::Failed(error) | Outcome::HalfSpilled { why: error, .. } => Some(error),
        _ => None,
    };
    let spilled = finding.spilled();
    json!({
        "vhost": queue.vhost,
        "queue": queue.name,
        "type": word(&queue.kind),
        "outcome": finding.outcome.word(),
        "reason": finding.reason,
        "rule": finding.rule,
        "guarded": guarded,
        "error": error,
        "file": spilled.map(|(file, _)| file.to_string_lossy()),
        "spilled": spilled.map(|(_, messages)| messages),
        "unfinished": finding.unfinished,
        "messages": queue.messages,
        "message_bytes": queue.message_bytes,
        "memory": queue.memory,
        "consumers": queue.consumers,
    })
}

fn word(kind: &QueueKind) -> &str {
    match kind {
        QueueKind::Classic => "classic",
        QueueKind::Quorum => "quorum",
        QueueKind::Stream => "stream",
        QueueKind::Other(word) => word,
    }
}

/// The two lines that scripts of a site know, with the names of all virtual hosts together. Where no queue could be
/// listed they would tell of an empty broker.
fn say_lists(report: &Report) {
    if report.findings.is_empty() && report.has_failed() {
        return;
    }
    let now = Timestamp::now()
        .to_zoned(TimeZone::UTC)
        .strftime("%Y-%m-%d %H:%M:%S,000");
    let listed = report.findings.iter();
    let deleted = listed.clone().filter(|finding| finding.is_deleted());
    say(format_args!("{now} queues  : {} ", python_list(listed)));
    say(format_args!("{now} deleted : {} ", python_list(deleted)));
}

fn python_list<'a>(findings: impl Iterator<Item = &'a Finding>) -> String {
    let names: Vec<String> = findings.map(|finding| python_text(&finding.queue.name)).collect();
    format!("[{}]", names.join(", "))
}

/// As Python 2 writes a string of bytes: `'a'`, `"it's"`, `'caf\xc3\xa9'`.
fn python_text(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') {
        '"'
    } else {
        '\''
    };
    let mut written = String::from(quote);
    for byte in text.bytes() {
        match byte {
            b'\t' => written.push_str("\\t"),
            b'\n' => written.push_str("\\n"),
            b'\r' => written.push_str("\\r"),
            b'\\' => written.push_str("\\\\"),
            byte if char::from(byte) == quote => written.extend(['\\', quote]),
            b' '..=b'~' => written.push(char::from(byte)),
            byte => written.push_str(&format!("\\x{byte:02x}")),
        }
    }
    written.push(quote);
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The right-hand sides are what Python 2.7 prints.
    #[test]
    fn names_are_written_as_python_2_writes_them() {
        for (name, wanted) in [
            ("cmc.pull", r"'cmc.pull'"),
            ("", r"''"),
            ("a b/c", r"'a b/c'"),
            ("it's", r#""it's""#),
            ("say \"a\"", r#"'say "a"'"#),
            ("both ' and \"", r#"'both \' and "'"#),
            ("café", r"'caf\xc3\xa9'"),
            ("a\\b\t\r\n\0\u{7f}", r"'a\\b\t\r\n\x00\x7f'"),
        ] {
            assert_eq!(python_text(name), wanted);
        }
    }
}
