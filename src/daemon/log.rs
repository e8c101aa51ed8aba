//! The log: one line per event, in the columns that sites cut on, or as JSON.
//!
//! `2026-11-21 21:03:37,617 [INFO] (498081 Bytes) Forwarded NAME  from urp-1 (lat=0.004210,ignored=1)`
//!
//! `2026-11-21 21:03:37,617 [INFO] (86 Bytes) Message NAME  delivered (lat=2.617139,speed=224461.819540)`
//!
//! `2026-11-21 21:03:37,617 [INFO] (86 Bytes) File PATH delivered to ftp://user@host/a/NAME
//! (lat=2.617139,speed=224461.8)`
//!
//! `2026-11-21 21:03:37,617 [INFO] (12 Bytes) Ingested in DB as /var/spool/px/db/20261121/RADAR/URP/XSS/NAME`
//!
//! `2026-11-21 21:03:37,617 [INFO] Queued for: CLIENTS FEEDS`
//!
//! Stamps are local time. Split at single blanks, field 4 is `(BYTES`, field 6 the verb, and field 7 always NAME.
//! A file `NAME.log` is the current day's; at local midnight it becomes `NAME.log.YYYY-MM-DD`, and the oldest beyond
//! the number kept are removed. When somebody else moves the file away, a new one is begun.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Zoned;
use jiff::civil::Date;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, reload};

use crate::flow::product;

/// How lines are rendered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Rendering {
    /// The old columns.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Where lines go.
#[derive(Debug, Clone)]
pub enum Destination {
    /// Standard error.
    Stderr,
    /// A file of our own, turned at local midnight, this many old ones kept.
    File(PathBuf, usize),
}

/// What can be changed of a log that is being written.
pub struct Control {
    filter: reload::Handle<Targets, Registry>,
    keep: Arc<AtomicUsize>,
}

impl Control {
    /// The least important level from now on, and how many old files are kept at the next midnight.
    pub fn change(&self, level: Level, keep: usize) {
        self.keep.store(keep, Ordering::Relaxed);
        if let Err(error) = self.filter.reload(filter(level)) {
            tracing::error!("the level of the log stays: {error}");
        }
    }
}

/// Libraries speak only when something is wrong; lapin prints whole messages of ours at WARN.
fn filter(level: Level) -> Targets {
    Targets::new()
        .with_target("px", level)
        .with_target("lapin::returned_messages", LevelFilter::OFF)
        .with_target("lapin", LevelFilter::OFF)
        .with_default(LevelFilter::WARN)
}

/// Starts logging for this process. `unit` stands in every JSON line.
pub fn start(unit: &str, to: &Destination, rendering: Rendering, level: Level) -> anyhow::Result<Control> {
    let keep = Arc::new(AtomicUsize::new(0));
    let sink = match to {
        Destination::Stderr => Sink::Stderr,
        Destination::File(path, wanted) => {
            keep.store(*wanted, Ordering::Relaxed);
            Sink::File(LogFile::open(path, Arc::clone(&keep), Zoned::now().date())?)
        }
    };
    let lines = Lines {
        unit: unit.to_owned(),
        rendering,
        sink: Mutex::new(sink),
    };
    let (filter, handle) = reload::Layer::new(filter(level));
    tracing_subscriber::registry()
        .with(lines.with_filter(filter))
        .try_init()?;
    // A detached unit has no standard error: its faults would leave no trace.
    std::panic::set_hook(Box::new(|panic| {
        tracing::error!("a fault of px itself, please report it: {panic}")
    }));
    Ok(Control { filter: handle, keep })
}

struct Lines {
    unit: String,
    rendering: Rendering,
    sink: Mutex<Sink>,
}

enum Sink {
    Stderr,
    File(LogFile),
}

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let now = Zoned::now();
        let mut fields = Fields::default();
        event.record(&mut fields);
        let is_product = event.metadata().target() == product::TARGET;
        let level = *event.metadata().level();
        let mut line = match self.rendering {
            Rendering::Text => text(&now, level, &fields, is_product),
            Rendering::Json => json(&now, level, &self.unit, &fields),
        };
        line.push('\n');
        let mut sink = self.sink.lock().unwrap_or_else(PoisonError::into_inner);
        let written = match &mut *sink {
            Sink::Stderr => std::io::stderr().write_all(line.as_bytes()),
            Sink::File(file) => file.write(line.as_bytes(), now.date()),
        };
        // A log that cannot be written must not stop the products; status.json goes on telling.
        drop(written);
    }
}

fn level_name(level: Level) -> &'static str {
    match level {
        Level::ERROR => "ERROR",
        Level::WARN => "WARNING",
        Level::INFO => "INFO",
        Level::DEBUG => "DEBUG",
        Level::TRACE => "TRACE",
    }
}

fn text(now: &Zoned, level: Level, fields: &Fields, is_product: bool) -> String {
    let mut line = now.strftime("%Y-%m-%d %H:%M:%S").to_string();
    line.push_str(&format!(",{:03} [{}] ", now.millisecond(), level_name(level)));
    if is_product {
        push_product(&mut line, fields);
        return line;
    }
    push_escaped(&mut line, &fields.message);
    for (name, value) in &fields.others {
        line.push_str(&format!(" {name}="));
        push_escaped(&mut line, &value.to_text());
    }
    line
}

/// The columns are an interface: sites cut on them.
fn push_product(line: &mut String, fields: &Fields) {
    let get = |name| fields.get(name).map(Scalar::to_text).unwrap_or_default();
    let number = |name| fields.get(name).map_or(0.0, Scalar::to_number);
    let (verb, latency_s) = (get("verb"), number("latency_s"));
    if verb == product::QUEUED {
        // Without feeds the line ends with a blank, as it always did.
        push_escaped(line, &format!("Queued for: {} {}", get("clients"), get("feeds")));
        return;
    }
    line.push_str(&format!("({} Bytes) ", get("bytes")));
    if verb == product::INGESTED {
        push_escaped(line, &format!("Ingested in DB as {}", get("path")));
        return;
    }
    if verb == product::DELIVERED {
        // Either way the seventh column ends in the name.
        match fields.get("to") {
            None => {
                line.push_str("Message ");
                push_escaped(line, &get("name"));
                line.push_str("  delivered");
            }
            Some(to) => {
                line.push_str("File ");
                push_escaped(line, &get("path"));
                line.push_str(" delivered to ");
                push_escaped(line, &to.to_text());
            }
        }
        let speed = number("speed");
        line.push_str(&format!(" (lat={latency_s:.6},speed={speed:.6})"));
        return;
    }
    line.push_str(&format!("{verb} "));
    push_escaped(line, &get("name"));
    line.push_str("  from ");
    push_escaped(line, &get("from"));
    line.push_str(&format!(" (lat={latency_s:.6}"));
    if let Some(ignored) = fields.get("ignored") {
        line.push_str(&format!(",ignored={}", ignored.to_text()));
    }
    line.push(')');
}

/// One event is one line, whatever the wire brought.
fn push_escaped(line: &mut String, text: &str) {
    for c in text.chars() {
        if c.is_control() {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
}

fn json(now: &Zoned, level: Level, unit: &str, fields: &Fields) -> String {
    let mut object = serde_json::Map::new();
    object.insert("time".into(), now.timestamp().to_string().into());
    object.insert("level".into(), level_name(level).into());
    object.insert("unit".into(), unit.into());
    if !fields.message.is_empty() {
        object.insert("message".into(), fields.message.clone().into());
    }
    for (name, value) in &fields.others {
        object.insert((*name).into(), value.to_json());
    }
    serde_json::Value::Object(object).to_string()
}

enum Scalar {
    Text(String),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Bool(bool),
}

impl Scalar {
    fn to_text(&self) -> String {
        match self {
            Scalar::Text(text) => text.clone(),
            Scalar::Unsigned(n) => n.to_string(),
            Scalar::Signed(n) => n.to_string(),
            Scalar::Float(n) => n.to_string(),
            Scalar::Bool(b) => b.to_string(),
        }
    }

    /// Nothing where it is no number.
    fn to_number(&self) -> f64 {
        match self {
            Scalar::Float(n) => *n,
            Scalar::Unsigned(n) => *n as f64,
            Scalar::Signed(n) => *n as f64,
            Scalar::Text(_) | Scalar::Bool(_) => 0.0,
        }
    }

    fn to_json(&self) -> serde_json::Value {
        match self {
            Scalar::Text(text) => text.clone().into(),
            Scalar::Unsigned(n) => (*n).into(),
            Scalar::Signed(n) => (*n).into(),
            Scalar::Float(n) => (*n).into(),
            Scalar::Bool(b) => (*b).into(),
        }
    }
}

#[derive(Default)]
struct Fields {
    message: String,
    others: Vec<(&'static str, Scalar)>,
}

impl Fields {
    fn get(&self, name: &str) -> Option<&Scalar> {
        self.others.iter().find(|(n, _)| *n == name).map(|(_, value)| value)
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let text = format!("{value:?}");
        if field.name() == "message" {
            self.message = text;
        } else {
            self.others.push((field.name(), Scalar::Text(text)));
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message = value.to_owned();
        } else {
            self.others.push((field.name(), Scalar::Text(value.to_owned())));
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        // That nothing was left unsaid need not be said.
        if field.name() == "unsaid" && value == 0 {
            return;
        }
        self.others.push((field.name(), Scalar::Unsigned(value)));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.others.push((field.name(), Scalar::Signed(value)));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.others.push((field.name(), Scalar::Float(value)));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.others.push((field.name(), Scalar::Bool(value)));
    }
}

/// The current day's file.
struct LogFile {
    path: PathBuf,
    keep: Arc<AtomicUsize>,
    day: Date,
    file: File,
    inode: u64,
    looked: std::time::Instant,
}

impl LogFile {
    fn open(path: &Path, keep: Arc<AtomicUsize>, today: Date) -> anyhow::Result<Self> {
        use anyhow::Context;
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
        }
        let opened = open_append(path).with_context(|| format!("cannot open {}", path.display()))?;
        let written = opened.metadata()?.modified()?;
        let written = jiff::Timestamp::try_from(written)?.to_zoned(jiff::tz::TimeZone::system());
        Ok(LogFile {
            path: path.to_owned(),
            keep,
            // What a previous process wrote on another day is turned at the first line.
            day: if opened.metadata()?.len() == 0 {
                today
            } else {
                written.date()
            },
            inode: opened.metadata()?.ino(),
            file: opened,
            looked: std::time::Instant::now(),
        })
    }

    /// Whatever becomes of the turning, the line is written.
    fn write(&mut self, line: &[u8], today: Date) -> std::io::Result<()> {
        let mut turned = Ok(());
        if today != self.day {
            turned = self.turn(today);
        } else if self.looked.elapsed() >= std::time::Duration::from_secs(1) {
            self.looked = std::time::Instant::now();
            let there = std::fs::metadata(&self.path).map(|m| m.ino());
            if there.ok() != Some(self.inode) {
                turned = self.reopen();
            }
        }
        self.file.write_all(line).and(turned)
    }

    fn turn(&mut self, today: Date) -> std::io::Result<()> {
        let mut ended = self.path.clone().into_os_string();
        ended.push(format!(".{}", self.day.strftime("%Y-%m-%d")));
        self.day = today;
        if !Path::new(&ended).exists() {
            std::fs::rename(&self.path, &ended)?;
        }
        self.reopen()?;
        for path in old_logs(&self.path)?
            .into_iter()
            .rev()
            .skip(self.keep.load(Ordering::Relaxed))
        {
            std::fs::remove_file(path)?;
        }
        Ok(())
    }

    fn reopen(&mut self) -> std::io::Result<()> {
        self.file = open_append(&self.path)?;
        self.inode = self.file.metadata()?.ino();
        Ok(())
    }
}

fn open_append(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// `NAME.log.YYYY-MM-DD` beside `NAME.log`, oldest first.
fn old_logs(path: &Path) -> std::io::Result<Vec<PathBuf>> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name().and_then(|n| n.to_str())) else {
        return Ok(Vec::new());
    };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let other = entry.file_name();
        let day = other
            .to_str()
            .and_then(|n| n.strip_prefix(name))
            .and_then(|n| n.strip_prefix('.'));
        if day.is_some_and(|day| day.parse::<Date>().is_ok()) {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keep(count: usize) -> Arc<AtomicUsize> {
        Arc::new(AtomicUsize::new(count))
    }

    fn at() -> Zoned {
        "2026-11-21T21:03:37.617[UTC]".parse().unwrap()
    }

    fn fields(others: Vec<(&'static str, Scalar)>) -> Fields {
        Fields {
            message: "connected".into(),
            others,
        }
    }

    #[test]
    fn a_product_line_has_its_name_in_field_seven() {
        let product = fields(vec![
            ("verb", Scalar::Text("Forwarded".into())),
            ("name", Scalar::Text("A:URP".into())),
            ("bytes", Scalar::Unsigned(498_081)),
            ("from", Scalar::Text("urp-1".into())),
            ("latency_s", Scalar::Float(0.00421)),
            ("ignored", Scalar::Unsigned(1)),
        ]);
        let line = text(&at(), Level::INFO, &product, true);
        let want = "2026-11-21 21:03:37,617 [INFO] (498081 Bytes) Forwarded A:URP  from urp-1 (lat=0.004210,ignored=1)";
        assert_eq!(line, want);
        assert_eq!(line.split(' ').nth(6), Some("A:URP"));
    }

    #[test]
    fn a_delivered_line_is_that_of_sundew() {
        const NAME: &str = "radar.XSS++a.gif:URP:XSS:RADAR:GIF::20130606144709";
        let product = fields(vec![
            ("verb", Scalar::Text(product::DELIVERED.into())),
            ("name", Scalar::Text(NAME.into())),
            ("bytes", Scalar::Unsigned(86)),
            ("latency_s", Scalar::Float(2.617139)),
            ("speed", Scalar::Float(224_461.819_54)),
        ]);
        let line = text(&at(), Level::INFO, &product, true);
        let want = format!(
            "2026-11-21 21:03:37,617 [INFO] (86 Bytes) Message {NAME}  delivered (lat=2.617139,speed=224461.819540)"
        );
        assert_eq!(line, want);
        // What pxRetrans, paplat and pxStats take.
        assert_eq!(line.split(' ').nth(6), Some(NAME));
        assert_eq!(line.split_whitespace().nth(6), Some(NAME));
        let object: serde_json::Value = serde_json::from_str(&json(&at(), Level::INFO, "tx/a", &product)).unwrap();
        assert_eq!((&object["name"], &object["bytes"]), (&NAME.into(), &86.into()));
    }

    #[test]
    fn the_lines_of_a_receiver_are_those_of_sundew() {
        const PATH: &str = "/apps/px/db/20261121/RADAR/URP/XSS/a.gif:URP:XSS:RADAR:GIF::20261121210337";
        let ingested = fields(vec![
            ("verb", Scalar::Text(product::INGESTED.into())),
            ("path", Scalar::Text(PATH.into())),
            ("bytes", Scalar::Unsigned(12)),
        ]);
        let line = text(&at(), Level::INFO, &ingested, true);
        assert_eq!(
            line,
            format!("2026-11-21 21:03:37,617 [INFO] (12 Bytes) Ingested in DB as {PATH}")
        );
        assert_eq!(line.split(' ').nth(9), Some(PATH), "the tenth column");
        for (clients, feeds, want) in [
            ("c1 c2", "f1", "Queued for: c1 c2 f1"),
            ("c1 c2", "", "Queued for: c1 c2 "),
            ("", "", "Queued for:  "),
        ] {
            let queued = fields(vec![
                ("verb", Scalar::Text(product::QUEUED.into())),
                ("clients", Scalar::Text(clients.into())),
                ("feeds", Scalar::Text(feeds.into())),
            ]);
            let line = text(&at(), Level::INFO, &queued, true);
            assert_eq!(line, format!("2026-11-21 21:03:37,617 [INFO] {want}"));
        }
    }

    #[test]
    fn one_event_is_one_line_whatever_it_holds() {
        let hostile = fields(vec![("path", Scalar::Text("a\nERROR b\u{1b}[31m".into()))]);
        let line = text(&at(), Level::WARN, &hostile, false);
        assert_eq!(
            line,
            "2026-11-21 21:03:37,617 [WARNING] connected path=a\\nERROR b\\u{1b}[31m"
        );
        let object: serde_json::Value = serde_json::from_str(&json(&at(), Level::WARN, "rx/a", &hostile)).unwrap();
        assert_eq!(object["path"], "a\nERROR b\u{1b}[31m");
        assert_eq!(object["unit"], "rx/a");
    }

    #[test]
    fn a_day_that_cannot_be_turned_is_written_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rx_a.log");
        let day = |d| Date::new(2026, 11, d).unwrap();
        let mut log = LogFile::open(&path, keep(2), day(1)).unwrap();
        log.write(b"one\n", day(1)).unwrap();
        let aside = dir.path().join("moved");
        std::fs::rename(&path, &aside).unwrap();
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("in the way"), "").unwrap();
        std::fs::create_dir(dir.path().join("rx_a.log.2026-11-01")).unwrap();
        assert!(log.write(b"two\n", day(2)).is_err() && log.write(b"three\n", day(2)).is_ok());
        assert_eq!(std::fs::read_to_string(aside).unwrap(), "one\ntwo\nthree\n");
    }

    #[test]
    fn the_file_is_turned_at_midnight_and_begun_anew_when_moved_away() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rx_a.log");
        let day = |d| Date::new(2026, 11, d).unwrap();
        let mut log = LogFile::open(&path, keep(2), day(1)).unwrap();
        for d in 1..=5 {
            log.write(format!("day {d}\n").as_bytes(), day(d)).unwrap();
        }
        let kept: Vec<_> = old_logs(&path).unwrap();
        assert_eq!(
            kept,
            [
                dir.path().join("rx_a.log.2026-11-03"),
                dir.path().join("rx_a.log.2026-11-04")
            ]
        );
        assert_eq!(std::fs::read_to_string(&kept[1]).unwrap(), "day 4\n");
        std::fs::rename(&path, dir.path().join("moved")).unwrap();
        log.looked -= std::time::Duration::from_secs(2);
        log.write(b"new\n", day(5)).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "new\n");
    }
}
