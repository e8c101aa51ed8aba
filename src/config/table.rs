//! One TOML table, read key by key. Every key knows its line, every fault is collected, nothing stops at the first.
//!
//! A key becomes known by being asked for, so the list of accepted keys in a message is never written twice.

use std::fmt;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::error::{ConfigError, Errors, is_secret_key, shown_url};
use super::quantity;
use super::secret::Secret;
use super::value::{self, Entry, Value};

/// A table of a file, and the keys that were asked for so far. Ends with [`Table::finish`].
#[must_use = "a table that is not finished accepts unknown keys"]
pub struct Table {
    source: Arc<Source>,
    /// Dotted name with a trailing dot; empty for the file itself.
    prefix: String,
    line: usize,
    entries: Vec<Entry>,
    /// Every key that was asked for, whether it is there or not.
    known: Vec<String>,
    secret: bool,
}

struct Source {
    file: PathBuf,
    /// Where the table was put together from other files: what its lines count, and the first is the whole file.
    places: Vec<Place>,
    /// Lines with syntax errors: what recovery made of them is not reported a second time.
    broken: Vec<usize>,
    errors: Errors,
}

/// A line of a file; 0 is the whole file.
pub(super) type Place = (PathBuf, usize);

/// An element of a list that may be short (text) or spelled out (table).
#[derive(Debug)]
#[allow(missing_docs)]
pub enum Item {
    Text(String),
    Table(Table),
}

/// Names only: values may be secret.
impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: Vec<&str> = self.entries.iter().map(|entry| entry.key.as_str()).collect();
        write!(f, "Table({}:{} {keys:?})", self.source.file.display(), self.line)
    }
}

impl Table {
    /// Parses a whole file. Syntax errors go to `errors`, and what could be read is there.
    pub fn parse(file: &Path, text: &str, errors: &Errors) -> Table {
        let (entries, faults) = value::parse(text);
        let mut source = Source {
            file: file.to_path_buf(),
            places: Vec::new(),
            broken: Vec::new(),
            errors: errors.clone(),
        };
        for (line, fault) in &faults {
            // The first of a line is the cause of the others.
            if source.broken.contains(line) {
                continue;
            }
            source.broken.push(*line);
            errors.push(ConfigError {
                file: file.to_path_buf(),
                line: *line,
                key: String::new(),
                value: String::new(),
                accepted: format!("not TOML: {fault}"),
                warning: false,
            });
        }
        Table {
            source: Arc::new(source),
            prefix: String::new(),
            line: 1,
            entries,
            known: Vec::new(),
            secret: false,
        }
    }

    /// A table that was read from something else than TOML. The `line` of an entry counts `places`, of which the first
    /// stands for the whole file.
    pub(super) fn assembled(file: &Path, entries: Vec<Entry>, places: Vec<Place>, errors: &Errors) -> Table {
        Table {
            source: Arc::new(Source {
                file: file.to_path_buf(),
                places,
                broken: Vec::new(),
                errors: errors.clone(),
            }),
            prefix: String::new(),
            line: 0,
            entries,
            known: Vec::new(),
            secret: false,
        }
    }

    /// Everything that is written.
    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The same with another text at a key that is there.
    pub(super) fn with_text(mut self, key: &str, text: &str) -> Table {
        for entry in self.entries.iter_mut().filter(|entry| entry.key == key) {
            entry.value = Value::Text(text.to_string());
        }
        self
    }

    /// The same with the name of a file in the place of a secret; and the secret, where there is one.
    pub(super) fn with_secret_in(mut self, key: &str, file_key: &str, file: &Path) -> (Table, Option<Secret>) {
        let mut secret = None;
        for entry in self.entries.iter_mut().filter(|entry| entry.key == key) {
            secret = entry.value.as_text().map(Secret::new);
            entry.key = file_key.to_string();
            entry.value = Value::Text(file.display().to_string());
        }
        (self, secret)
    }

    /// Values of this table and of those below are never shown.
    pub fn keep_secret(mut self) -> Table {
        self.secret = true;
        self
    }

    /// Reads the table with `read` and finishes it; all findings so far. `None` where anything was refused.
    pub fn read_whole<T>(mut self, read: impl FnOnce(&mut Table) -> Option<T>) -> (Option<T>, Vec<ConfigError>) {
        let errors = self.source.errors.clone();
        let value = read(&mut self);
        self.finish();
        let value = value.filter(|_| !errors.refused());
        (value, errors.take())
    }

    /// Ends the reading: every key that nobody asked for is an error.
    pub fn finish(self) {
        for entry in self.entries.iter().filter(|entry| !self.known.contains(&entry.key)) {
            let near = self.nearest(&entry.key);
            if near.is_none() && self.is_broken() {
                // A key that a broken header has put into the wrong table.
                continue;
            }
            let mut text = "unknown key".to_string();
            if let Some(near) = near {
                text.push_str(&format!(", did you mean {near:?}?"));
            }
            let mut known: Vec<&str> = self.known.iter().map(String::as_str).collect();
            known.sort_unstable();
            if known.is_empty() {
                text.push_str("; no keys are accepted here");
            } else {
                text.push_str(&format!("; accepted: {}", known.join(", ")));
            }
            // Shown only where it is surely a mistyped harmless key, for it may as well be a password.
            let value = match near {
                Some(near) if !is_secret_key(&entry.key) => self.shown(near, &entry.value),
                _ => "***".to_string(),
            };
            self.push(entry.line, &entry.key, value, text, false);
        }
    }

    fn nearest(&self, key: &str) -> Option<&str> {
        near(key, self.known.iter().map(String::as_str))
    }

    /// The file this table is in.
    pub fn file(&self) -> &Path {
        &self.source.file
    }

    /// The line of a key, or of the table where it has no such key.
    pub fn line(&self, key: &str) -> usize {
        self.entry(key).map_or(self.line, |entry| entry.line)
    }

    /// Whether the key is written. Does not count as asking for it.
    pub fn has(&self, key: &str) -> bool {
        self.entry(key).is_some()
    }

    /// The keys that are written, in the order of the file, for tables whose keys are names.
    pub fn keys(&self) -> Vec<String> {
        self.entries.iter().map(|entry| entry.key.clone()).collect()
    }

    /// Whether the file has syntax errors, so that keys may be missing that are written.
    pub(super) fn is_broken(&self) -> bool {
        !self.source.broken.is_empty()
    }

    /// Records that the value of `key` is not acceptable, or that it is missing.
    pub fn reject(&mut self, key: &str, accepted: &str) {
        self.know(key);
        match self.entry(key) {
            Some(entry) => {
                let value = self.shown_value(entry);
                self.push(entry.line, key, value, format!("accepted: {accepted}"), false);
            }
            // What recovery from a syntax error dropped is not missing.
            None if self.is_broken() => {}
            None => self.push(
                self.line,
                key,
                String::new(),
                format!("missing; accepted: {accepted}"),
                false,
            ),
        }
    }

    /// Like [`Table::reject`], for one element of a list, counted from 0.
    pub fn reject_element(&mut self, key: &str, index: usize, accepted: &str) {
        match self.entry(key).map(|entry| &entry.value) {
            Some(Value::List(elements)) if index < elements.len() => {
                let (line, element) = &elements[index];
                self.refuse_at(*line, key, self.shown(key, element), format!("accepted: {accepted}"));
            }
            _ => self.reject(key, accepted),
        }
    }

    /// Like [`Table::reject`], for a value that is well formed but wrong for a reason of its own.
    pub fn refuse(&mut self, key: &str, why: &str) {
        self.know(key);
        let value = self.entry(key).map(|entry| self.shown_value(entry)).unwrap_or_default();
        self.push(self.line(key), key, value, why.to_string(), false);
    }

    /// Like [`Table::refuse`], with the line and a safe form of the value given by the caller.
    pub(super) fn refuse_at(&self, line: usize, key: &str, value: String, why: String) {
        self.push(line, key, value, why, false);
    }

    /// Records a warning at the key's place.
    pub fn warn(&mut self, key: &str, text: &str) {
        self.know(key);
        let value = self.entry(key).map(|entry| self.shown_value(entry)).unwrap_or_default();
        self.push(self.line(key), key, value, text.to_string(), true);
    }

    /// Text.
    pub fn string(&mut self, key: &str) -> Option<String> {
        self.parsed(key, |text| Ok(text.to_string()), "a string")
    }

    /// Text that must be there and not be empty.
    pub fn required_string(&mut self, key: &str) -> Option<String> {
        let text = self.string(key);
        let empty = text.as_ref().is_some_and(String::is_empty);
        if empty || !self.has(key) {
            self.reject(key, "a string that is not empty");
        }
        text.filter(|_| !empty)
    }

    /// `true` or `false`.
    pub fn boolean(&mut self, key: &str) -> Option<bool> {
        match self.take(key)? {
            Value::Boolean(answer) => Some(answer),
            _ => {
                self.reject(key, "true or false");
                None
            }
        }
    }

    /// A whole number within `range`.
    pub fn integer<T: TryFrom<i64>>(&mut self, key: &str, range: RangeInclusive<i64>) -> Option<T> {
        let answer = match self.take(key)? {
            Value::Integer(Some(number), _) if range.contains(&number) => T::try_from(number).ok(),
            _ => None,
        };
        if answer.is_none() {
            self.reject(
                key,
                &format!("a whole number from {} to {}", range.start(), range.end()),
            );
        }
        answer
    }

    /// A list of whole numbers within `range`, at least one.
    pub fn integers<T: TryFrom<i64>>(
        &mut self,
        key: &str,
        range: RangeInclusive<i64>,
        accepted: &str,
    ) -> Option<Vec<T>> {
        let numbers: Option<Vec<T>> = match self.take(key)? {
            Value::List(elements) if !elements.is_empty() => elements
                .into_iter()
                .map(|(_, element)| match element {
                    Value::Integer(Some(number), _) if range.contains(&number) => T::try_from(number).ok(),
                    _ => None,
                })
                .collect(),
            _ => None,
        };
        if numbers.is_none() {
            self.reject(key, accepted);
        }
        numbers
    }

    /// A duration: `"10m"`, `"24h"`, `"0s"`, `"250ms"`.
    pub fn duration(&mut self, key: &str) -> Option<Duration> {
        self.parsed(
            key,
            |text| quantity::duration(text).ok_or_else(String::new),
            quantity::DURATION,
        )
    }

    /// Bytes: `"50MB"` is decimal, `"50MiB"` binary.
    pub fn size(&mut self, key: &str) -> Option<u64> {
        self.parsed(key, |text| quantity::size(text).ok_or_else(String::new), quantity::SIZE)
    }

    /// A list of strings.
    pub fn strings(&mut self, key: &str) -> Option<Vec<String>> {
        self.parsed_list(key, |text| Ok(text.to_string()), "a list of strings")
    }

    /// One word of several.
    pub fn choice<T: Copy>(&mut self, key: &str, choices: &[(&str, T)]) -> Option<T> {
        let words: Vec<String> = choices.iter().map(|(word, _)| format!("{word:?}")).collect();
        let find = |text: &str| match choices.iter().find(|(word, _)| *word == text) {
            Some((_, value)) => Ok(*value),
            None => Err(match near(text, choices.iter().map(|(word, _)| *word)) {
                Some(near) => format!("did you mean {near:?}?"),
                None => String::new(),
            }),
        };
        self.parsed(key, find, &words.join(", "))
    }

    /// Text that `parse` understands. Its error, if it is not empty, says what is wrong; `accepted` says what is right.
    pub fn parsed<T>(&mut self, key: &str, parse: impl Fn(&str) -> Result<T, String>, accepted: &str) -> Option<T> {
        let value = self.take(key)?;
        match value.as_text().map(&parse) {
            Some(Ok(value)) => return Some(value),
            Some(Err(why)) if !why.is_empty() => self.refuse(key, &format!("{why}; accepted: {accepted}")),
            Some(Err(_)) | None => self.reject(key, accepted),
        }
        None
    }

    /// A list of texts that `parse` understands; each fault has the line of its element. `None` where one is wrong.
    pub fn parsed_list<T>(
        &mut self,
        key: &str,
        parse: impl Fn(&str) -> Result<T, String>,
        accepted: &str,
    ) -> Option<Vec<T>> {
        let Value::List(elements) = self.take(key)? else {
            self.reject(key, accepted);
            return None;
        };
        let mut list = Vec::new();
        for (line, element) in &elements {
            let why = match element.as_text().map(&parse) {
                Some(Ok(value)) => {
                    list.push(value);
                    continue;
                }
                Some(Err(why)) if !why.is_empty() => format!("{why}; accepted: {accepted}"),
                Some(Err(_)) | None => format!("accepted: {accepted}"),
            };
            self.refuse_at(*line, key, self.shown(key, element), why);
        }
        (list.len() == elements.len()).then_some(list)
    }

    /// A table below this one.
    pub fn table(&mut self, key: &str) -> Option<Table> {
        match self.take(key)? {
            Value::Table(entries) => Some(self.below(key, self.line(key), entries)),
            _ => {
                self.reject(key, "a table");
                None
            }
        }
    }

    /// Reads a table below this one with `read`, and finishes it.
    pub fn within<T>(&mut self, key: &str, read: impl FnOnce(&mut Table) -> Option<T>) -> Option<T> {
        let mut table = self.table(key)?;
        let value = read(&mut table);
        table.finish();
        value
    }

    /// `[[key]]`, or a list of inline tables; empty where there is none.
    pub fn tables(&mut self, key: &str) -> Vec<Table> {
        let items = self.items(key, "a list of tables", false);
        let tables = items.into_iter().filter_map(|item| match item {
            Item::Table(table) => Some(table),
            Item::Text(_) => None,
        });
        tables.collect()
    }

    /// A list whose elements are texts or tables; one alone need not be in brackets. Empty where there is none.
    pub fn values(&mut self, key: &str) -> Vec<Item> {
        self.items(key, "strings or tables", true)
    }

    /// One text or one table.
    pub fn string_or_table(&mut self, key: &str) -> Option<Item> {
        if self
            .entry(key)
            .is_some_and(|entry| matches!(entry.value, Value::List(_)))
        {
            self.reject(key, "a string or a table");
            return None;
        }
        self.values(key).pop()
    }

    fn items(&mut self, key: &str, accepted: &str, loose: bool) -> Vec<Item> {
        let elements = match self.take(key) {
            None => Vec::new(),
            Some(Value::List(elements)) => elements,
            Some(value) => vec![(self.line(key), value)],
        };
        let mut items = Vec::new();
        for (line, element) in elements {
            match element {
                Value::Table(entries) => items.push(Item::Table(self.below(key, line, entries))),
                Value::Text(text) if loose => items.push(Item::Text(text)),
                other => self.refuse_at(line, key, self.shown(key, &other), format!("accepted: {accepted}")),
            }
        }
        items
    }

    fn below(&self, key: &str, line: usize, entries: Vec<Entry>) -> Table {
        Table {
            source: self.source.clone(),
            prefix: format!("{}{key}.", self.prefix),
            line,
            entries,
            known: Vec::new(),
            secret: self.secret,
        }
    }

    fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.key == key)
    }

    /// Makes a key known without taking it.
    pub fn know(&mut self, key: &str) {
        if !self.known.iter().any(|known| known == key) {
            self.known.push(key.to_string());
        }
    }

    /// Takes every key as it is: nobody here knows them.
    pub fn know_all(&mut self) {
        for key in self.keys() {
            self.know(&key);
        }
    }

    fn take(&mut self, key: &str) -> Option<Value> {
        self.know(key);
        self.entry(key).map(|entry| entry.value.clone())
    }

    fn shown_value(&self, entry: &Entry) -> String {
        self.shown(&entry.key, &entry.value)
    }

    fn shown(&self, key: &str, value: &Value) -> String {
        if self.secret || is_secret_key(key) {
            return "***".to_string();
        }
        match value {
            Value::Text(text) if matches!(key, "url" | "urls" | "destination") => shown_url(text),
            value => value.shown(),
        }
    }

    fn push(&self, line: usize, key: &str, value: String, accepted: String, warning: bool) {
        if self.source.broken.contains(&line) {
            return;
        }
        let place = self.source.places.get(line).cloned();
        let (file, line) = place.unwrap_or_else(|| (self.source.file.clone(), line));
        self.source.errors.push(ConfigError {
            file,
            line,
            key: format!("{}{key}", self.prefix),
            value,
            accepted,
            warning,
        });
    }
}

/// The word of a few that another may be meant to be.
fn near<'a>(text: &str, words: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (text.chars().count() / 3).max(1);
    let distance = |word: &str| strsim::damerau_levenshtein(&text.to_lowercase(), word);
    let near = words.map(|word| (distance(word), word)).min()?;
    (near.0 <= limit).then_some(near.1)
}

#[cfg(test)]
mod tests;
