//! `accept`, `reject`, `imask`, `emask`: one list, in the order in which Sundew looks at them.

use super::keywords::Kind;
use super::lines::Line;
use super::reading::{Reading, text};
use crate::config::value::{Entry, Value};

/// What no other mask matches, names with line ends included.
pub(super) const REJECT_ALL: &str = "(?s).*";

/// Puts `masks` into the table, where there are any. The globs come before all others, wherever they stand. A sender
/// rejects what nothing matches, and px does not: `is_closed` says so in so many words. `more` is what a mask has
/// beside its pattern.
pub(super) fn put(reading: &mut Reading, is_closed: bool, more: impl Fn(&mut Reading, &Line) -> Vec<Entry>) {
    let globs: Vec<&Line> = reading.all(&["imask", "emask"]).collect();
    let patterns: Vec<&Line> = reading.all(&["accept", "reject"]).collect();
    let mut list = Vec::new();
    for line in globs.into_iter().chain(patterns) {
        let key = match line.keyword() {
            "imask" => "accept_glob",
            "emask" => "reject_glob",
            other => other,
        };
        let mut mask = vec![reading.entry(key, Some(line), text(line.value()))];
        mask.extend(more(reading, line));
        list.push((reading.place(Some(line)), Value::Table(mask)));
    }
    let first = reading.all(&["accept", "reject", "imask", "emask"]).next();
    if is_closed {
        if reading.all(&["accept", "imask"]).next().is_none() {
            tell_of_none(reading);
        }
        let last = vec![reading.entry("reject", None, text(REJECT_ALL))];
        list.push((0, Value::Table(last)));
    }
    if !list.is_empty() {
        reading.put("masks", first, Value::List(list));
    }
}

/// For a receiver that routes by its clients' masks and removes nothing by its own, these do nothing, and are left out.
pub(super) fn leave_out(reading: &Reading) {
    if let (Kind::Receiver, Some(line)) = (reading.kind, reading.all(&["reject", "emask"]).next()) {
        reading.warn(
            line,
            "the masks of an amqp receiver make routing keys and reject nothing; with routemask False they do nothing",
        );
    }
}

fn tell_of_none(reading: &Reading) {
    let line = reading
        .last("reject")
        .or(reading.last("emask"))
        .or(reading.last("type"));
    if let Some(line) = line {
        let done = match reading.kind {
            Kind::Deliverer => "delivered",
            Kind::Sender | Kind::Receiver | Kind::Dropped => "published",
        };
        let text = format!("there is no accept: every file is erased and none {done}, as under Sundew");
        reading.warn(line, &text);
    }
}
