//! What the demo says: how far it is, and in the end what became of every product.

use std::collections::HashMap;
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use super::products::Product;
use crate::cli::say;

/// On a terminal the line changes this often.
const CHANGE_EVERY: Duration = Duration::from_millis(200);
/// Elsewhere there is one this often.
const LINE_EVERY: Duration = Duration::from_secs(1);

/// How far it is: one line that changes on a terminal, else a line now and then.
pub struct Progress {
    is_terminal: bool,
    last: Option<Instant>,
}

impl Progress {
    /// On standard output.
    pub fn new() -> Progress {
        Progress {
            is_terminal: io::stdout().is_terminal(),
            last: None,
        }
    }

    /// Whether it is time for a line.
    pub fn is_due(&self) -> bool {
        let every = if self.is_terminal { CHANGE_EVERY } else { LINE_EVERY };
        self.last.is_none_or(|last| last.elapsed() >= every)
    }

    /// Shows the line.
    pub fn show(&mut self, line: &str) {
        if self.is_terminal {
            let mut out = io::stdout();
            drop(write!(out, "\r\x1b[2K{line}").and_then(|()| out.flush()));
        } else {
            say(line);
        }
        self.last = Some(Instant::now());
    }

    /// A line that stays.
    pub fn say(&mut self, text: &str) {
        self.end();
        say(text);
    }

    /// Leaves the line that changes as it is.
    pub fn end(&mut self) {
        if self.is_terminal && self.last.take().is_some() {
            say("");
        }
    }
}

/// The files in a directory and below, by name.
pub fn files_below(directory: &Path) -> io::Result<HashMap<String, PathBuf>> {
    let (mut files, mut directories) = (HashMap::new(), vec![directory.to_owned()]);
    while let Some(directory) = directories.pop() {
        let entries = match std::fs::read_dir(&directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                directories.push(entry.path());
            } else {
                files.insert(entry.file_name().to_string_lossy().into_owned(), entry.path());
            }
        }
    }
    Ok(files)
}

/// The names a product may have when it is there: one, or one a producer.
fn names(product: &Product) -> impl Iterator<Item = &str> {
    let [first, second] = [0, 1].map(|producer| product.file_name(producer));
    std::iter::once(first).chain((second != first).then_some(second))
}

/// How many products are there, by name.
pub fn there(products: &[Product], files: &HashMap<String, PathBuf>) -> usize {
    let is_there = |product: &&Product| names(product).any(|name| files.contains_key(name));
    products.iter().filter(is_there).count()
}

/// What became of the products.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Each with what is wrong.
    pub lost: Vec<String>,
    /// Products that arrived once for each producer.
    pub twice: usize,
    /// From written to delivered, shortest first.
    latency: Vec<Duration>,
}

impl Verdict {
    /// Compares what was delivered with what was written, byte for byte. `written`: when the first copy was.
    pub fn of(products: &[Product], written: &[SystemTime], delivered: &Path) -> io::Result<Verdict> {
        let files = files_below(delivered)?;
        let mut verdict = Verdict::default();
        for (product, written) in products.iter().zip(written) {
            let copies = [0, 1].map(|producer| product.content(producer));
            let found: Vec<&PathBuf> = names(product).filter_map(|name| files.get(name)).collect();
            let mut arrived = Vec::new();
            for path in &found {
                let bytes = std::fs::read(path)?;
                if copies.contains(&bytes) {
                    arrived.push(changed(path)?);
                }
            }
            match arrived.iter().min() {
                Some(arrived) => verdict
                    .latency
                    .push(arrived.duration_since(*written).unwrap_or_default()),
                None if found.is_empty() => verdict.lost.push(format!("{}: not delivered", product.file_name(0))),
                None => verdict.lost.push(format!("{}: other bytes", product.file_name(0))),
            }
            verdict.twice += usize::from(found.len() > 1);
        }
        verdict.latency.sort();
        Ok(verdict)
    }

    /// The latency below which this share of the products stayed.
    fn latency(&self, share: f64) -> Option<Duration> {
        let rank = (self.latency.len() as f64 * share).ceil() as usize;
        self.latency.get(rank.saturating_sub(1)).copied()
    }
}

/// When the file got its name: its times of modification are the announcement's.
fn changed(path: &Path) -> io::Result<SystemTime> {
    let metadata = std::fs::metadata(path)?;
    let (seconds, nanoseconds) = (metadata.ctime(), metadata.ctime_nsec());
    let since_1970 = Duration::new(seconds.unsigned_abs(), nanoseconds.unsigned_abs() as u32);
    Ok(SystemTime::UNIX_EPOCH + since_1970)
}

/// What the units counted.
#[derive(Debug, Default)]
pub struct Counted {
    /// By all watchers.
    pub announced: u64,
    /// By the dispatcher.
    pub ignored: u64,
    /// By each pull worker.
    pub fetched: Vec<u64>,
    /// Of these, not from the first source.
    pub from_alternates: u64,
    /// Fetched.
    pub bytes: u64,
    /// Set aside for a while, by whatever unit.
    pub parked: u64,
    /// Given up, by whatever unit.
    pub failed: u64,
}

/// The table at the end: a name, a value, and what it is of.
pub fn table(counted: &Counted, verdict: &Verdict) -> String {
    let by_worker: Vec<String> = counted.fetched.iter().map(u64::to_string).collect();
    let seconds = |share| {
        verdict
            .latency(share)
            .map_or("-".into(), |took| format!("{:.3} s", took.as_secs_f64()))
    };
    let fetched = counted.fetched.iter().sum::<u64>().to_string();
    let mut rows = vec![
        (
            "announced",
            counted.announced.to_string(),
            "by both producers".to_owned(),
        ),
        (
            "ignored as duplicates",
            counted.ignored.to_string(),
            "by the dispatcher".into(),
        ),
        (
            "fetched",
            fetched,
            format!("by the pull workers: {}", by_worker.join(" + ")),
        ),
        (
            "from alternates",
            counted.from_alternates.to_string(),
            "of these, when the first source failed".into(),
        ),
        ("bytes", counted.bytes.to_string(), "fetched".into()),
    ];
    let more = [
        ("parked", counted.parked, "tried again after a while"),
        ("failed", counted.failed, "kept for `px failed`"),
        ("delivered twice", verdict.twice as u64, "under both producers' names"),
    ];
    let more = more.into_iter().filter(|(_, n, _)| *n > 0);
    rows.extend(more.map(|(name, n, what)| (name, n.to_string(), what.to_owned())));
    rows.push(("latency p50", seconds(0.5), "from written to delivered".into()));
    rows.push(("latency p99", seconds(0.99), String::new()));
    rows.push(("lost", verdict.lost.len().to_string(), "contents compared".into()));
    let lines = rows
        .iter()
        .map(|(name, value, what)| format!("{name:<22}{value:>12}  {what}"));
    lines
        .map(|line| line.trim_end().to_owned())
        .collect::<Vec<_>>()
        .join("\n")
}

#[cfg(test)]
mod tests {
    use super::super::products::plan;
    use super::*;

    #[test]
    fn what_is_missing_or_has_other_bytes_is_lost() {
        let products = plan(10, "2026-11-21T20:12:34Z".parse().unwrap());
        let delivered = tempfile::tempdir().unwrap();
        let day = delivered.path().join("20261121");
        std::fs::create_dir(&day).unwrap();
        // The other producer's bytes under this one's name: from an alternate.
        for product in &products {
            std::fs::write(day.join(product.file_name(0)), product.content(1)).unwrap();
        }
        let written = vec![SystemTime::now(); 10];
        let judge = || Verdict::of(&products, &written, delivered.path()).unwrap();
        assert!(judge().lost.is_empty());
        std::fs::write(day.join(products[0].file_name(1)), products[0].content(1)).unwrap();
        std::fs::remove_file(day.join(products[3].file_name(0))).unwrap();
        std::fs::write(day.join(products[4].file_name(0)), "other").unwrap();
        let verdict = judge();
        assert_eq!((verdict.lost.len(), verdict.twice, verdict.latency.len()), (2, 1, 8));
        assert!(verdict.lost[0].ends_with("not delivered") && verdict.lost[1].ends_with("other bytes"));
        assert_eq!(there(&products, &files_below(delivered.path()).unwrap()), 9);
        let text = table(&Counted::default(), &verdict);
        assert!(
            text.lines()
                .last()
                .unwrap()
                .starts_with("lost                             2"),
            "{text}"
        );
    }

    #[test]
    fn nothing_delivered_is_everything_lost() {
        let products = plan(3, "2026-11-21T20:12:34Z".parse().unwrap());
        let verdict = Verdict::of(&products, &[SystemTime::now(); 3], Path::new("/nonexistent/px")).unwrap();
        assert_eq!(verdict.lost.len(), 3);
        assert!(table(&Counted::default(), &verdict).contains(" -  from written"));
    }
}
