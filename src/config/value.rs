//! TOML text to plain values, each with its line. The one place that knows the TOML library.

use toml::de::{DeTable, DeValue};

use super::error::shown;

/// A value as written. No `Debug`: it may be a password.
#[derive(Clone)]
pub(super) enum Value {
    Text(String),
    Boolean(bool),
    /// `None` where it is beyond 64 bits; and as written.
    Integer(Option<i64>, String),
    /// What no key takes (floats, dates), as written.
    Other(String),
    List(Vec<(usize, Value)>),
    Table(Vec<Entry>),
}

/// A key, its line, its value.
#[derive(Clone)]
pub(super) struct Entry {
    pub key: String,
    pub line: usize,
    pub value: Value,
}

/// Parses a whole file: the entries that could be read, and the syntax errors with their lines.
pub(super) fn parse(text: &str) -> (Vec<Entry>, Vec<(usize, String)>) {
    let lines = Lines::of(text);
    let (root, faults) = DeTable::parse_recoverable(text);
    let faults = faults.iter().map(|fault| {
        let at = fault.span().map_or(0, |span| span.start);
        (lines.at(at), fault.message().to_string())
    });
    (entries(root.into_inner(), &lines), faults.collect())
}

fn entries(table: DeTable<'_>, lines: &Lines) -> Vec<Entry> {
    let entries = table.into_iter().map(|(key, value)| Entry {
        line: lines.at(key.span().start),
        key: key.into_inner().into_owned(),
        value: Value::of(value.into_inner(), lines),
    });
    let mut entries: Vec<Entry> = entries.collect();
    entries.sort_by_key(|entry| entry.line);
    entries
}

impl Value {
    fn of(value: DeValue<'_>, lines: &Lines) -> Value {
        match value {
            DeValue::String(text) => Value::Text(text.into_owned()),
            DeValue::Boolean(answer) => Value::Boolean(answer),
            DeValue::Integer(number) => {
                let parsed = i64::from_str_radix(number.as_str(), number.radix()).ok();
                Value::Integer(parsed, number.to_string())
            }
            DeValue::Float(number) => Value::Other(number.as_str().to_string()),
            DeValue::Datetime(time) => Value::Other(time.to_string()),
            DeValue::Array(array) => {
                let elements = array.into_iter().map(|element| {
                    let line = lines.at(element.span().start);
                    (line, Value::of(element.into_inner(), lines))
                });
                Value::List(elements.collect())
            }
            DeValue::Table(table) => Value::Table(entries(table, lines)),
        }
    }

    /// The text, if it is one.
    pub(super) fn as_text(&self) -> Option<&str> {
        match self {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Short, escaped, and without what may be a password.
    pub(super) fn shown(&self) -> String {
        match self {
            Value::Text(text) => shown(text),
            Value::Boolean(answer) => answer.to_string(),
            Value::Integer(_, text) | Value::Other(text) => text.chars().take(40).collect(),
            Value::List(_) => "[…]".to_string(),
            Value::Table(_) => "{…}".to_string(),
        }
    }
}

/// Byte offsets to line numbers.
struct Lines(Vec<usize>);

impl Lines {
    fn of(text: &str) -> Lines {
        Lines(
            std::iter::once(0)
                .chain(text.match_indices('\n').map(|(at, _)| at + 1))
                .collect(),
        )
    }

    fn at(&self, offset: usize) -> usize {
        self.0.partition_point(|start| *start <= offset)
    }
}
