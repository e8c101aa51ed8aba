//! A flow's lines while they are read: what Sundew passes over in silence is told, and what they come to is put
//! together as a table whose entries know their lines.

use std::path::{Path, PathBuf};

use super::keywords::{self, Kind, Meaning, Shape};
use super::lines::Line;
use super::settings::Settings;
use crate::config::error::is_login;
use crate::config::table::Place;
use crate::config::value::{Entry, Value};
use crate::config::{ConfigError, Errors, Table};

/// The word by which the program that runs scripts asks for `script_options`.
const OPTIONS: &str = "--options";

/// The lines of one flow, and the table in the making.
pub(super) struct Reading<'a> {
    pub kind: Kind,
    pub lines: &'a [Line],
    /// What the site says of Sundew's files.
    pub settings: &'a Settings,
    /// Where scripts are.
    scripts: &'a Path,
    path: &'a Path,
    errors: &'a Errors,
    entries: Vec<Entry>,
    places: Vec<Place>,
}

impl<'a> Reading<'a> {
    pub(super) fn new(
        kind: Kind,
        (path, lines): (&'a Path, &'a [Line]),
        (settings, scripts): (&'a Settings, &'a Path),
        errors: &'a Errors,
    ) -> Self {
        Reading {
            kind,
            lines,
            settings,
            scripts,
            path,
            errors,
            entries: Vec::new(),
            places: vec![(PathBuf::from(path), 0)],
        }
    }

    /// Looks at every line by itself: is it a keyword, has it the right words, does it do what it seems to say?
    pub(super) fn check(&self, lone: &[Line]) {
        for line in lone {
            let known = keywords::find(line.keyword());
            if known.is_some_and(|keyword| keyword.meaning(self.kind) != Meaning::Foreign) {
                self.warn(line, "no value, so the line says nothing, as under Sundew");
            }
        }
        for line in self.lines {
            match keywords::find(line.keyword()) {
                Some(keyword) => match keyword.meaning(self.kind) {
                    Meaning::Becomes(_) => self.check_words(line, keyword.shape),
                    Meaning::Nothing(_) => {}
                    Meaning::Foreign => self.check_foreign(line),
                    Meaning::Hook if self.runs_hooks() => self.check_words(line, keyword.shape),
                    Meaning::Hook => self.refuse(line, &no_hooks(self.kind)),
                },
                // The site file has keywords of other tools too.
                None if line.is_site => {}
                None => self.errors.push(unknown(line, self.kind)),
            }
        }
    }

    fn runs_hooks(&self) -> bool {
        self.kind.has_hooks() && self.settings.hook_host.is_some()
    }

    fn check_words(&self, line: &Line, shape: Shape) {
        if has_login(line) {
            self.refuse(line, "a URL with a password: only destination may have one");
        }
        match shape {
            Shape::Number if keywords::number(line.value()).is_none() => self.refuse(line, "accepted: a whole number"),
            Shape::Boolean | Shape::Switch if !keywords::truth(line.value()).1 => {
                self.warn(line, "counts as false, as under Sundew; accepted: True, False");
            }
            _ => {}
        }
        let counted = match shape {
            Shape::Words(count) => count,
            _ => 1,
        };
        if line.words.len() > counted + 1 && !self.reads_rest(line) {
            self.warn_of_rest(line, counted);
        }
    }

    /// Whether the words behind the value are read where the keyword itself is.
    fn reads_rest(&self, line: &Line) -> bool {
        self.kind.is_sender() && line.keyword() == "accept"
    }

    /// That the words behind `counted` ones have no effect. They are not shown: they may be anything.
    pub(super) fn warn_of_rest(&self, line: &Line, counted: usize) {
        let text = match line.words[counted + 1].starts_with('#') {
            true => "there are no comments behind a value: Sundew takes the rest for more words, which have no effect",
            false => "there are more words than Sundew reads: the rest has no effect",
        };
        let plain = Line {
            words: line.words[..=counted].to_vec(),
            ..line.clone()
        };
        self.warn(&plain, text);
    }

    fn check_foreign(&self, line: &Line) {
        // What a receiver includes is told by the lexer.
        if !line.is_site && line.keyword() != "include" {
            let (other, own) = match self.kind.is_sender() {
                true => ("receivers", "senders"),
                false => ("senders", "receivers"),
            };
            let text = format!("a keyword of {other}: it has no effect in {own}, as under Sundew");
            self.warn(line, &text);
        }
    }

    /// That a line is wrong.
    pub(super) fn refuse(&self, line: &Line, why: &str) {
        self.errors.push(redacted(line, line.error(why)));
    }

    /// That a line has an effect which may surprise.
    pub(super) fn warn(&self, line: &Line, text: &str) {
        self.errors.push(redacted(line, line.warning(text)));
    }

    /// That a keyword is missing which Sundew cannot do without either.
    pub(super) fn missing(&self, keyword: &str, accepted: &str) {
        self.errors.push(ConfigError {
            file: self.path.to_path_buf(),
            line: 0,
            key: keyword.to_string(),
            value: String::new(),
            accepted: format!("missing; accepted: {accepted}"),
            warning: false,
        });
    }

    /// The lines of these keywords, in order.
    pub(super) fn all<'k>(&self, keywords: &'k [&'k str]) -> impl Iterator<Item = &'a Line> + use<'a, 'k> {
        let lines = self.lines;
        lines.iter().filter(move |line| keywords.contains(&line.keyword()))
    }

    /// The line of a keyword that is in force: the last one.
    pub(super) fn last(&self, keyword: &str) -> Option<&'a Line> {
        self.lines.iter().rev().find(|line| line.keyword() == keyword)
    }

    /// A boolean, and its line where it has one.
    pub(super) fn boolean(&self, keyword: &str, default: bool) -> (bool, Option<&'a Line>) {
        match self.last(keyword) {
            Some(line) => (keywords::truth(line.value()).0, Some(line)),
            None => (default, None),
        }
    }

    /// A boolean that no line can turn off again.
    pub(super) fn switch(&self, keyword: &str) -> (bool, Option<&'a Line>) {
        let on = self.all(&[keyword]).find(|line| keywords::truth(line.value()).0);
        if let Some((last, on)) = self.last(keyword).zip(on)
            && !keywords::truth(last.value()).0
        {
            let text = format!(
                "line {} of {} has turned it on, and nothing turns it off",
                on.number,
                on.file.display()
            );
            self.warn(last, &text);
        }
        (on.is_some(), on)
    }

    /// A number; what is none has been refused already.
    pub(super) fn number(&self, keyword: &str) -> Option<(i64, &'a Line)> {
        let line = self.last(keyword)?;
        Some((keywords::number(line.value())?, line))
    }

    /// Puts an option into the table, as said in `line`, or nowhere.
    pub(super) fn put(&mut self, key: &str, line: Option<&Line>, value: Value) {
        let entry = self.entry(key, line, value);
        self.entries.push(entry);
    }

    /// Whether the table has the option.
    pub(super) fn has(&self, key: &str) -> bool {
        self.entries.iter().any(|entry| entry.key == key)
    }

    /// An entry of a table below.
    pub(super) fn entry(&mut self, key: &str, line: Option<&Line>, value: Value) -> Entry {
        Entry {
            key: key.to_string(),
            line: self.place(line),
            value,
        }
    }

    /// What stands for a line in entries and lists.
    pub(super) fn place(&mut self, line: Option<&Line>) -> usize {
        let Some(line) = line else { return 0 };
        self.places.push((line.file.to_path_buf(), line.number));
        self.places.len() - 1
    }

    /// Puts a script into the table: the program that runs it for px, and its file.
    pub(super) fn hook(&mut self, keyword: &str) {
        if let Some(line) = self.last(keyword) {
            self.script(keyword, line, line.value());
        }
    }

    /// Like [`Reading::hook`], for a script that a line names in another way. As Sundew does, the directory and the
    /// name are put together, whatever the name is.
    pub(super) fn script(&mut self, key: &str, line: &Line, name: &str) {
        let Some(host) = self.settings.hook_host.as_ref().filter(|_| self.runs_hooks()) else {
            return;
        };
        let file = format!("{}/{name}", self.scripts.display());
        let place = self.place(Some(line));
        let words = [host.display().to_string(), OPTIONS.to_string(), file].map(|word| (place, Value::Text(word)));
        self.put(key, Some(line), Value::List(words.to_vec()));
    }

    /// The table.
    pub(super) fn finish(self) -> Table {
        Table::assembled(self.path, self.entries, self.places, self.errors)
    }
}

/// A text.
pub(super) fn text(text: &str) -> Value {
    Value::Text(text.to_string())
}

/// A whole number.
pub(super) fn integer(number: i64) -> Value {
    Value::Integer(Some(number), number.to_string())
}

/// Whether a value is a URL with a password where none belongs: its option would show it.
fn has_login(line: &Line) -> bool {
    let is_place = ["destination", "password"].contains(&line.keyword());
    !is_place && line.words[1..].iter().any(|word| is_login(word))
}

fn no_hooks(kind: Kind) -> String {
    let but = match kind.has_hooks() {
        true => " but by hook_host of [sundew] in px.toml",
        false => "",
    };
    format!(
        "px runs no scripts in {}{but}: leave the unit to Sundew, or do without",
        kind.name()
    )
}

/// Nothing of the value is shown: the line may be a mistyped password.
fn unknown(line: &Line, kind: Kind) -> ConfigError {
    let text = match (
        keywords::corrected(line.keyword()),
        keywords::nearest(line.keyword(), kind),
    ) {
        (Some(right), _) => {
            format!("no keyword, whatever the documentation says: Sundew passes over it; accepted: {right}")
        }
        (None, Some(near)) => format!("unknown keyword, did you mean {near:?}? Sundew passes over it"),
        (None, None) => format!("unknown keyword for {}: Sundew passes over it", kind.name()),
    };
    ConfigError {
        value: "***".to_string(),
        ..line.error(text)
    }
}

/// Without what may be a password: all of a `destination`, and words behind a value, but for the option of a mask.
fn redacted(line: &Line, error: ConfigError) -> ConfigError {
    let value = match line.keyword() {
        "destination" => "***".to_string(),
        "accept" => error.value,
        _ => {
            let words = line.words.iter().take(2).cloned().collect();
            let plain = Line { words, ..line.clone() };
            plain.error("").value
        }
    };
    ConfigError { value, ..error }
}
