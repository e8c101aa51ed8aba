//! Tables whose keys are RabbitMQ's, and not known here.

use serde_json::{Map, Value as Json};

use crate::config::Table;
use crate::config::value::Value;

/// Of the text that is nested: far above what RabbitMQ knows.
const DEPTH_MAX: usize = 8;

/// What RabbitMQ is told as it is written; `None` where there is none, or it is at fault.
pub(super) fn free(table: &mut Table, key: &str) -> Option<Map<String, Json>> {
    const FREE: &str = "a table of texts, whole numbers, true or false, and lists or tables of these";
    let mut below = table.table(key)?;
    below.know_all();
    let read = object(below.entries().iter().map(|entry| (&entry.key, &entry.value)), 0);
    below.finish();
    if read.is_none() {
        table.reject(key, FREE);
    }
    read
}

fn object<'a>(entries: impl Iterator<Item = (&'a String, &'a Value)>, depth: usize) -> Option<Map<String, Json>> {
    entries
        .map(|(key, value)| Some((key.clone(), json(value, depth + 1)?)))
        .collect()
}

fn json(value: &Value, depth: usize) -> Option<Json> {
    if depth > DEPTH_MAX {
        return None;
    }
    match value {
        Value::Text(text) => Some(Json::from(text.as_str())),
        Value::Boolean(answer) => Some(Json::from(*answer)),
        Value::Integer(number, _) => Some(Json::from((*number)?)),
        Value::Other(_) => None,
        Value::List(elements) => elements.iter().map(|(_, element)| json(element, depth + 1)).collect(),
        Value::Table(entries) => {
            let entries = entries.iter().map(|entry| (&entry.key, &entry.value));
            object(entries, depth).map(Json::Object)
        }
    }
}
