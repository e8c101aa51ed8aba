//! What the site's scripts are told of their unit: the attributes that Sundew's own object would have, by its names.

use super::keywords::{self, Shape, truth};
use super::lines::Line;
use super::reading::{Reading, integer, text};
use crate::config::value::{Entry, Value};

/// Attributes of both sides that a script may look at, by their keywords. What nothing is said of has the default that
/// Sundew's has, and the program that runs scripts knows those.
const COMMON: [(&str, &str); 22] = [
    ("protocol", "protocol"),
    ("host", "host"),
    ("port", "port"),
    ("user", "user"),
    ("password", "passwd"),
    ("ssh_keyfile", "ssh_keyfile"),
    ("ftp_mode", "ftp_mode"),
    ("binary", "binary"),
    ("chmod", "chmod"),
    ("lock", "lock"),
    ("dir_mkdir", "dir_mkdir"),
    ("dir_pattern", "dir_pattern"),
    ("kbytes_ps", "kbytes_ps"),
    ("timeout", "timeout"),
    ("timeout_send", "timeout_send"),
    ("batch", "batch"),
    ("extension", "extension"),
    ("pull_sleep", "pull_sleep"),
    ("pull_wait", "pull_wait"),
    ("timeout_get", "timeout_get"),
    ("delete", "delete"),
    ("pull_prefix", "pull_prefix"),
];

/// Puts `script_options`, where the unit has a script.
pub(super) fn put(reading: &mut Reading) {
    let hooks = ["fx_script", "destfn_script", "send_script", "lx_script", "pull_script"];
    if !hooks.iter().any(|hook| reading.has(hook)) {
        return;
    }
    let mut entries = Vec::new();
    for (keyword, attribute) in COMMON {
        if let Some(line) = reading.last(keyword) {
            entries.extend(attribute_of(reading, attribute, line));
        }
    }
    let pulls = pulls(reading);
    if !pulls.is_empty() {
        entries.push(reading.entry("pulls", None, Value::List(pulls)));
    }
    if !entries.is_empty() {
        reading.put("script_options", None, Value::Table(entries));
    }
}

/// `None` where it is refused.
fn attribute_of(reading: &mut Reading, attribute: &str, line: &Line) -> Option<Entry> {
    let value = match keywords::find(line.keyword())?.shape {
        Shape::Number => {
            let number = keywords::number(line.value());
            if number.is_none() {
                reading.refuse(line, "accepted: a whole number");
            }
            integer(number?)
        }
        Shape::Boolean | Shape::Switch => Value::Boolean(truth(line.value()).0),
        Shape::Word | Shape::Words(_) => text(line.value()),
    };
    Some(reading.entry(attribute, Some(line), value))
}

/// `directory D` and the `get RE` below it: `[[D, RE, RE…], …]`, as Sundew's receivers have it.
fn pulls(reading: &mut Reading) -> Vec<(usize, Value)> {
    let mut pulls: Vec<(usize, Value)> = Vec::new();
    if reading.kind.is_sender() {
        return pulls;
    }
    for line in reading.all(&["directory", "get"]) {
        let word = (reading.place(Some(line)), text(line.value()));
        match (line.keyword(), pulls.last_mut()) {
            ("directory", _) => pulls.push((word.0, Value::List(vec![word]))),
            (_, Some((_, Value::List(list)))) => list.push(word),
            _ => {}
        }
    }
    pulls
}
