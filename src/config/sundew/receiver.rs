//! `rx/`, `type amqp` and `type single-file`: the options of a receiver.

use super::keywords::Kind;
use super::lines::Line;
use super::reading::{Reading, text};
use super::{Flow, broker, masks, script_options, sender};
use crate::config::value::Value;

const LOSSY: &str = "the queue has no name of its own and is gone with the connection, as under Sundew: what is \
                     published meanwhile is lost. To keep it: px convert the unit, then queue = \"NAME\" without \
                     durable and auto_delete";

/// Seconds between two pulls where nothing is said.
const PULL_SLEEP: i64 = 600;

/// Reads the lines into the receiver's table. What Sundew does without being told, and px does not, is written out.
pub(super) fn read(mut reading: Reading) -> Flow {
    let kind = reading.kind;
    let line = reading.last("type");
    let broker = match kind {
        Kind::Receiver => {
            reading.put("type", line, text("amqp"));
            Some(queue(&mut reading, line))
        }
        Kind::Sender | Kind::Dropped | Kind::Deliverer => {
            reading.put("type", line, text("single-file"));
            None
        }
    };
    extension(&mut reading);
    let (by_table, line) = reading.boolean("routemask", true);
    let removes = kind == Kind::Dropped && removes_by_masks(&reading, by_table);
    match by_table || removes {
        true => masks::put(&mut reading, false, |_, _| Vec::new()),
        false => masks::leave_out(&reading),
    }
    let route = if by_table { "table" } else { "masks" };
    reading.put("route", line, text(route));
    if by_table {
        sender::word(&mut reading, "routingTable", "routing_table");
    }
    feeds(&mut reading);
    match kind {
        Kind::Receiver => check_duplicates(&reading),
        Kind::Sender | Kind::Dropped | Kind::Deliverer => {
            sender::batch(&mut reading);
            sender::min_age(&mut reading);
            sender::order(&mut reading);
            let (validation, line) = reading.switch("validation");
            if validation {
                reading.put("validation", line, Value::Boolean(true));
            }
            sender::duplicates(&mut reading, false, "8h");
        }
    }
    hooks(&mut reading);
    sender::log(&mut reading);
    Flow {
        table: reading.finish(),
        broker,
    }
}

/// Broker, exchange, and the queue that Sundew makes: without a name, transient, gone with its connection.
fn queue(reading: &mut Reading, kind: Option<&Line>) -> crate::config::Broker {
    let broker = broker::read(reading);
    sender::exchange(reading);
    reading.put("queue", kind, text(""));
    let key = reading.last("exchange_key");
    let bind = (reading.place(key), text(key.map_or("", Line::value)));
    reading.put("bind", key, Value::List(vec![bind]));
    reading.put("durable", kind, Value::Boolean(false));
    reading.put("auto_delete", kind, Value::Boolean(true));
    if let Some(line) = kind {
        reading.warn(line, LOSSY);
    }
    broker
}

/// Whether files that the masks reject are removed. Sundew can be told not to.
fn removes_by_masks(reading: &Reading, by_table: bool) -> bool {
    let (removes, line) = reading.boolean("patternMatching", true);
    let rejects = reading.all(&["reject", "emask"]).next();
    if let (false, Some(line), Some(rejects)) = (removes, line, rejects) {
        let text = format!("with it Sundew removes nothing by {}", rejects.keyword());
        match by_table {
            true => reading.refuse(line, &format!("{text}, and px would; accepted: True, or no such line")),
            false => reading.warn(line, &format!("{text}, and neither does px")),
        }
    }
    removes
}

/// Scripts, where the site names the program that runs them.
fn hooks(reading: &mut Reading) {
    for keyword in ["fx_script", "lx_script", "pull_script"] {
        reading.hook(keyword);
    }
    if let (true, Some(line)) = (reading.has("pull_script"), reading.last("type")) {
        let (seconds, own) = reading.number("pull_sleep").unzip();
        let every = seconds.filter(|seconds| *seconds > 0).unwrap_or(PULL_SLEEP);
        reading.put("pull_every", own.or(Some(line)), text(&format!("{every}s")));
        sender::word(reading, "vip", "vip");
    }
    script_options::put(reading);
}

/// Five fields; what has not so many is passed over by Sundew with an error in its log.
fn extension(reading: &mut Reading) {
    if let Some(line) = reading.last("extension") {
        if line.value().split(':').count() != 5 {
            reading.refuse(
                line,
                "accepted: five fields with colons between them, such as -NAME:CC:TT:3:FMT",
            );
            return;
        }
        reading.put("extension", Some(line), text(line.value()));
    }
}

/// Each once, in order.
fn feeds(reading: &mut Reading) {
    let mut list: Vec<(usize, Value)> = Vec::new();
    let mut seen = Vec::new();
    for line in reading.all(&["feed"]) {
        if !seen.contains(&line.value()) {
            seen.push(line.value());
            list.push((reading.place(Some(line)), text(line.value())));
        }
    }
    if !list.is_empty() {
        let first = reading.all(&["feed"]).next();
        reading.put("feeds", first, Value::List(list));
    }
}

/// Sundew's amqp receivers die of it at the start, so no site has it on.
fn check_duplicates(reading: &Reading) {
    if let (true, Some(line)) = reading.boolean("noduplicates", false) {
        reading.refuse(
            line,
            "an amqp receiver suppresses no duplicates, and Sundew's does not even start; accepted: False",
        );
    }
}
