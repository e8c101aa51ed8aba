//! `tx/`, `type amqp`: the options of a sender.

use std::collections::BTreeMap;

use super::keywords::Kind;
use super::lines::Line;
use super::reading::{Reading, integer, text};
use super::{Flow, broker, masks};
use crate::config::value::Value;

/// Reads the lines into the sender's table. What Sundew does without being told, and px does not, is written out.
pub(super) fn read(mut reading: Reading) -> Flow {
    let line = reading.last("type");
    reading.put("type", line, text("amqp"));
    let broker = broker::read(&mut reading);
    exchange(&mut reading);
    let line = reading.last("exchange_key");
    reading.put("key", line, text(line.map_or("", Line::value)));
    word(&mut reading, "exchange_content", "content_type");
    check_file_names(&reading);
    masks::put(&mut reading, true, |_, _| Vec::new());
    batch(&mut reading);
    duplicates(&mut reading, true, "8h");
    let (validation, line) = reading.boolean("validation", true);
    reading.put("validation", line, Value::Boolean(validation));
    min_age(&mut reading);
    order(&mut reading);
    purge(&mut reading);
    log(&mut reading);
    Flow {
        table: reading.finish(),
        broker: Some(broker),
    }
}

/// `exchange = { name, type, durable = false }`. Old peers loop for ever where it is durable.
pub(super) fn exchange(reading: &mut Reading) {
    let name = reading.last("exchange_name");
    if name.is_none() {
        reading.missing("exchange_name", "the name of an exchange");
    }
    let kind = reading.last("exchange_type");
    let entries = vec![
        reading.entry("name", name, text(name.map_or("missing", Line::value))),
        reading.entry("type", kind, text(kind.map_or("fanout", Line::value))),
        reading.entry("durable", None, Value::Boolean(false)),
    ];
    reading.put("exchange", name, Value::Table(entries));
}

/// A word as it is, where it is written.
pub(super) fn word(reading: &mut Reading, keyword: &str, key: &str) {
    if let Some(line) = reading.last(keyword) {
        reading.put(key, Some(line), text(line.value()));
    }
}

/// `batch N`: files of one pass. More than px sorts at once makes no difference.
pub(super) fn batch(reading: &mut Reading) {
    const MOST: i64 = 20_000;
    if let Some((number, line)) = reading.number("batch") {
        if number > MOST {
            reading.warn(
                line,
                &format!("px takes {MOST} at most, which are the files that it sorts at once"),
            );
        }
        reading.put("batch", Some(line), integer(number.min(MOST)));
    }
}

/// `duplicates = { entries, keep = "8h" }`: Sundew's cache.
pub(super) fn duplicates(reading: &mut Reading, default: bool, keep: &str) {
    let (wanted, line) = reading.boolean("noduplicates", default);
    if !wanted {
        return;
    }
    let (entries, size) = match reading.number("cache_size") {
        Some((number, size)) => (number, Some(size)),
        None => (125_000, None),
    };
    let entries = vec![
        reading.entry("entries", size.or(line), integer(entries)),
        reading.entry("keep", line, text(keep)),
    ];
    reading.put("duplicates", line, Value::Table(entries));
}

/// `mtime N`: seconds for which a file must have been left alone.
pub(super) fn min_age(reading: &mut Reading) {
    let Some((seconds, line)) = reading.number("mtime") else {
        return;
    };
    if seconds < 0 {
        reading.refuse(line, "accepted: a whole number of seconds");
        return;
    }
    reading.put("min_age", Some(line), text(&format!("{seconds}s")));
}

/// `sorter`: by priority and stamp of the name, or by mtime. Sundew's amqp senders die of the third.
pub(super) fn order(reading: &mut Reading) {
    let Some(line) = reading.last("sorter") else { return };
    match line.value() {
        "MultiKeysStringSorter" => reading.put("order", Some(line), text("priority")),
        "None" => reading.put("order", Some(line), text("mtime")),
        "StandardSorter" if reading.kind == Kind::Deliverer => {
            reading.warn(line, "px sorts by the priority and stamp of the name, then by path");
            reading.put("order", Some(line), text("priority"));
        }
        _ => reading.refuse(line, "accepted: MultiKeysStringSorter, None"),
    }
}

/// `logrotate N`: how many old logs are kept, 5 where nothing is said. Sundew keeps all for 0.
pub(super) fn log(reading: &mut Reading) {
    const MOST: i64 = 3650;
    let line = reading.last("logrotate");
    let is_number = |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit());
    let keep = match line {
        None => 5,
        Some(line) if !is_number(line.value()) => {
            reading.warn(line, "no number, so it counts as 5, as under Sundew");
            5
        }
        Some(line) => match line.value().parse() {
            Ok(number @ 1..=MOST) => number,
            Ok(0) => {
                reading.warn(
                    line,
                    &format!("0 means all of them for Sundew; px keeps them for {MOST} days at most"),
                );
                MOST
            }
            _ => {
                reading.warn(line, &format!("px keeps them for {MOST} days at most"));
                MOST
            }
        },
    };
    let keep = vec![reading.entry("keep", line, integer(keep))];
    reading.put("log", line, Value::Table(keep));
}

/// File name options do nothing here but one thing: Sundew erases what matches a mask whose option it does not know.
fn check_file_names(reading: &Reading) {
    const ERASES: &str =
        "Sundew knows no such file name option and erases every file that matches; px publishes it and drops the word";
    for line in reading.all(&["accept", "filename", "destination"]) {
        let (option, words) = match line.keyword() {
            "filename" => (Some(line.value()), 1),
            _ => (line.words.get(2).map(String::as_str), 2),
        };
        match option {
            Some(option) if option.starts_with('#') => reading.warn(
                line,
                "there are no comments behind a value: Sundew takes # for a file name option and erases every file that \
                 matches; px publishes it",
            ),
            Some(option) if !is_file_name_option(option) => reading.warn(line, ERASES),
            // The rest of other lines has been looked at.
            _ if line.keyword() == "accept" && line.words.len() > words + 1 => reading.warn_of_rest(line, words),
            _ => {}
        }
    }
}

/// Whether Sundew knows such a `filename`.
pub(super) fn is_file_name_option(option: &str) -> bool {
    let words = ["WHATFN", "HEADFN", "NONE", "NONESENDER", "SENDER", "TIME"];
    let starts = ["DESTFN=", "DESTFNSCRIPT=", "SATNET="];
    option
        .split(':')
        .all(|part| words.contains(&part) || starts.iter().any(|start| part.starts_with(start)))
}

/// `purge 5H,3:10H,4+`, or by the name of a `purgeAlias` above it; the last one counts.
pub(super) fn purge(reading: &mut Reading) {
    const SPEC: &str = "accepted: HOURS and priorities such as 5H,3:10H,4+, or the name of a purgeAlias above it";
    let mut aliases = BTreeMap::new();
    let mut last = None;
    for line in reading.all(&["purge", "purgeAlias"]) {
        if line.keyword() == "purgeAlias" {
            match line.words.get(2) {
                Some(spec) => drop(aliases.insert(line.value(), spec.as_str())),
                None => reading.refuse(
                    line,
                    "accepted: NAME and HOURS with priorities, such as OLD 5H,3:10H,4+",
                ),
            }
            continue;
        }
        let spec = aliases.get(line.value()).copied().unwrap_or(line.value());
        match purges(spec) {
            Some(purges) => last = Some((purges, line)),
            None => reading.refuse(line, SPEC),
        }
    }
    let Some((purges, line)) = last else { return };
    let mut list = Vec::new();
    for (hours, priorities) in purges {
        let priorities = priorities.into_iter().map(|priority| (0, integer(priority)));
        let entries = vec![
            reading.entry("priority", Some(line), Value::List(priorities.collect())),
            reading.entry("after", Some(line), text(&format!("{hours}h"))),
        ];
        list.push((reading.place(Some(line)), Value::Table(entries)));
    }
    reading.put("purge", Some(line), Value::List(list));
}

/// Hours and priorities. The letter behind the hours may be any, as Sundew has it.
fn purges(spec: &str) -> Option<Vec<(u32, Vec<i64>)>> {
    let one = |part: &str| {
        let (hours, priorities) = part.split_once(',')?;
        let (digits, _) = hours.split_at_checked(hours.char_indices().last()?.0)?;
        let hours = digits.parse::<u32>().ok()?;
        let priorities = match priorities.strip_suffix('+') {
            Some(first) => (first.parse::<i64>().ok().filter(|first| (0..=5).contains(first))?..=5).collect(),
            None => vec![priorities.parse::<i64>().ok().filter(|one| (1..=5).contains(one))?],
        };
        Some((hours, priorities))
    };
    spec.split(':').map(one).collect()
}
