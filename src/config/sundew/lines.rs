//! Sundew's lexing: lines of words, `px.conf` before the flow's own file, and what is included in place.
//!
//! A line with fewer than two words says nothing; one whose first character that is no blank is `#` is a comment. There
//! are no quotes, no escapes and no comments behind a line's words: `batch 10 # more` has four words.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::keywords::{self, SITE_KEYS, Shape};
use crate::config::error::{is_secret_key, shown};
use crate::config::{ConfigError, Errors, Places, file};

/// Includes within includes: far above any real site.
const DEEPEST: usize = 16;
/// All files of one flow together, so that includes cannot multiply without end.
const LARGEST: usize = 4 << 20;

/// Keywords whose value counts something, though Sundew takes a word for them.
const COUNTS: [&str; 2] = ["daysToKeepInDB", "logrotate"];
/// Keywords whose value is one of a few words.
const ONE_OF_A_FEW: [&str; 5] = ["exchange_type", "ftp_mode", "protocol", "sorter", "type"];

/// The directory of `ETC` a flow's file is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::config) enum FlowDir {
    Tx,
    Rx,
    Fx,
    Trx,
}

impl FlowDir {
    /// The directory's name.
    pub(in crate::config) fn name(self) -> &'static str {
        match self {
            FlowDir::Tx => "tx",
            FlowDir::Rx => "rx",
            FlowDir::Fx => "fx",
            FlowDir::Trx => "trx",
        }
    }

    /// The type of a flow that names none.
    pub(in crate::config) fn default_type(self) -> &'static str {
        match self {
            FlowDir::Tx => "single-file",
            FlowDir::Rx => "none",
            FlowDir::Fx => "filter",
            FlowDir::Trx => "aftn",
        }
    }

    /// The types that Sundew has there. A receiver of none does nothing.
    pub(in crate::config) fn types(self) -> &'static [&'static str] {
        match self {
            FlowDir::Tx => &["am", "amis", "amqp", "script", "single-file", "wmo"],
            FlowDir::Rx => &[
                "am",
                "amqp",
                "bulletin-file",
                "collector",
                "none",
                "pull-bulletin",
                "pull-file",
                "single-file",
                "wmo",
            ],
            FlowDir::Fx => &["filter", "filter-bulletin"],
            FlowDir::Trx => &["aftn"],
        }
    }
}

/// A line of two words or more. Its `Debug` shows the keyword alone, for the rest may be a password.
#[derive(Clone, PartialEq, Eq)]
pub(in crate::config) struct Line {
    pub file: Arc<Path>,
    /// Counted from 1.
    pub number: usize,
    /// The keyword, and at least one more.
    pub words: Vec<String>,
    /// Of `px.conf` (or included there): keywords of other tools and of other kinds of flow are legal in it.
    pub is_site: bool,
}

impl Line {
    pub(in crate::config) fn keyword(&self) -> &str {
        &self.words[0]
    }

    /// The second word, which is the value of most keywords.
    pub(in crate::config) fn value(&self) -> &str {
        &self.words[1]
    }

    /// What stands behind the keyword, as far as it can be no password: nothing of a line whose keyword nobody knows,
    /// and no word where a number or a truth should be, for the lines around a password get mixed up with it.
    fn shown_value(&self) -> String {
        let (value, keyword) = (self.value(), keywords::find(self.keyword()));
        let is_odd = match keyword.map(|keyword| keyword.shape) {
            _ if value.is_empty() => false,
            _ if COUNTS.contains(&self.keyword()) => keywords::number(value).is_none() && !is_word(value),
            None => !SITE_KEYS.contains(&self.keyword()),
            Some(Shape::Number) => keywords::number(value).is_none(),
            Some(Shape::Boolean | Shape::Switch) => !keywords::truth(value).1 && !is_word(value),
            Some(Shape::Word) if ONE_OF_A_FEW.contains(&self.keyword()) => !is_type_like(value),
            Some(_) => false,
        };
        match is_odd || is_secret_key(self.keyword()) {
            true => "***".to_string(),
            false => shown(&self.words[1..].join(" ")),
        }
    }

    /// That this line is wrong. Shows the line's words as far as they can be no password.
    pub(in crate::config) fn error(&self, accepted: impl Into<String>) -> ConfigError {
        ConfigError {
            file: self.file.to_path_buf(),
            line: self.number,
            key: printable(self.keyword()),
            value: self.shown_value(),
            accepted: accepted.into(),
            warning: false,
        }
    }

    /// Like [`Line::error`], for what is loaded all the same.
    pub(in crate::config) fn warning(&self, text: impl Into<String>) -> ConfigError {
        ConfigError {
            warning: true,
            ..self.error(text)
        }
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keyword = printable(self.keyword());
        write!(f, "{}:{} {keyword} …", self.file.display(), self.number)
    }
}

/// A keyword as a finding shows it: a known one, or what is surely meant to be one. Anything else may be a password, as
/// in `password=SECRET # x` or where a line has been turned around.
pub(in crate::config) fn printable(keyword: &str) -> String {
    let is_short = keyword.len() <= 30 && keyword.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    let is_plain = || keyword.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    match is_short && (is_plain() || keywords::is_near(keyword)) {
        true => keyword.to_string(),
        false => "***".to_string(),
    }
}

/// Letters alone, as `Oui` and `daily`.
fn is_word(text: &str) -> bool {
    text.len() <= 30 && text.bytes().all(|b| b.is_ascii_alphabetic())
}

/// Like a type of Sundew's or a kind of exchange: letters with dashes.
fn is_type_like(text: &str) -> bool {
    text.split('-').all(is_word)
}

/// All lines that make up a flow: those of `px.conf`, where there is one, and those of its file. For `tx` an `include`
/// stays as a line and is followed by what it includes; elsewhere Sundew ignores it.
pub(in crate::config) fn flow(places: &Places, dir: FlowDir, path: &Path, errors: &Errors) -> Vec<Line> {
    flow_and_lone(places, dir, path, errors).0
}

/// Like [`flow`], and beside it the flow's own lines of one word, which say nothing; their value is empty.
pub(in crate::config) fn flow_and_lone(
    places: &Places,
    dir: FlowDir,
    path: &Path,
    errors: &Errors,
) -> (Vec<Line>, Vec<Line>) {
    let mut reader = Reader::new(errors, (dir == FlowDir::Tx).then(|| places.etc.join("tx")));
    reader.site(&places.sundew_site_file());
    reader.is_site = false;
    reader.file(path);
    if dir != FlowDir::Tx {
        let ignored = |line: &&Line| line.keyword() == "include" && !line.is_site;
        for line in reader.lines.iter().filter(ignored) {
            errors.push(line.warning("Sundew reads no include here, and neither does px: its lines have no effect"));
        }
    }
    (reader.lines, reader.lone)
}

/// The lines of a `px.conf` alone; none where there is no such file.
pub(in crate::config) fn site(path: &Path, errors: &Errors) -> Vec<Line> {
    let mut reader = Reader::new(errors, None);
    reader.site(path);
    reader.lines
}

/// The `type` that is in force: the last one. Where there is none, it is [`FlowDir::default_type`].
pub(in crate::config) fn flow_type(lines: &[Line]) -> Option<&Line> {
    lines.iter().rev().find(|line| line.keyword() == "type")
}

/// The `type` that is in force where Sundew has no such type.
pub(in crate::config) fn unknown_type(dir: FlowDir, lines: &[Line]) -> Option<&Line> {
    flow_type(lines).filter(|line| !dir.types().contains(&line.value()))
}

struct Reader<'a> {
    errors: &'a Errors,
    /// Where included files are; `None` where nothing is included.
    includes: Option<PathBuf>,
    lines: Vec<Line>,
    lone: Vec<Line>,
    is_site: bool,
    /// The files that are being read, each included by the one before it.
    open: Vec<Arc<Path>>,
    bytes_left: usize,
}

impl<'a> Reader<'a> {
    fn new(errors: &'a Errors, includes: Option<PathBuf>) -> Self {
        Reader {
            errors,
            includes,
            lines: Vec::new(),
            lone: Vec::new(),
            is_site: true,
            open: Vec::new(),
            bytes_left: LARGEST,
        }
    }

    fn site(&mut self, path: &Path) {
        match file::bytes(path) {
            Err(fault) if fault.is_missing() => {}
            read => self.take(path, read),
        }
    }

    fn file(&mut self, path: &Path) {
        self.take(path, file::bytes(path));
    }

    fn take(&mut self, path: &Path, read: Result<Vec<u8>, file::Fault>) {
        match read {
            Ok(bytes) => self.text(path, &bytes),
            Err(fault) => self.errors.push(fault.of(path)),
        }
    }

    fn text(&mut self, path: &Path, bytes: &[u8]) {
        let path: Arc<Path> = path.into();
        self.bytes_left = self.bytes_left.saturating_sub(bytes.len());
        self.open.push(Arc::clone(&path));
        for (index, text) in bytes.split(|byte| *byte == b'\n').enumerate() {
            let Some((mut words, is_latin)) = words(text) else {
                continue;
            };
            let is_lone = words.len() == 1;
            words.extend(is_lone.then(String::new));
            let line = Line {
                file: Arc::clone(&path),
                number: index + 1,
                words,
                is_site: self.is_site,
            };
            if is_lone {
                self.lone.extend((!self.is_site).then_some(line));
                continue;
            }
            if is_latin {
                let consequence = "not UTF-8: read as Latin-1, so a mask matches names in UTF-8 only";
                let mut warning = line.warning(consequence);
                if !["accept", "reject", "imask", "emask"].contains(&line.keyword()) {
                    // It may be a password behind a mistyped keyword.
                    warning.value.clear();
                }
                self.errors.push(warning);
            }
            let included = (line.keyword() == "include").then(|| line.clone());
            self.lines.push(line);
            if let Some(line) = included {
                self.include(&line);
            }
        }
        self.open.pop();
    }

    fn include(&mut self, line: &Line) {
        let Some(directory) = &self.includes else {
            return;
        };
        // As Sundew does: the two are put together, whatever the name is.
        let mut path = directory.clone().into_os_string();
        path.push("/");
        path.push(line.value());
        let path = PathBuf::from(path);
        if self.open.iter().any(|open| **open == *path) {
            self.errors.push(line.error("the file includes itself"));
            return;
        }
        if self.open.len() >= DEEPEST {
            self.errors
                .push(line.error(format!("more than {DEEPEST} files within each other")));
            return;
        }
        match file::bytes(&path) {
            Ok(bytes) if bytes.len() > self.bytes_left => {
                let most = LARGEST >> 20;
                self.errors
                    .push(line.error(format!("all its files together are larger than {most} MiB")));
            }
            Ok(bytes) => self.text(&path, &bytes),
            Err(fault) => self.errors.push(line.error(format!("{}: {fault}", path.display()))),
        }
    }
}

/// The words of a line, and whether one of them had to be read as Latin-1; `None` for comments and empty lines.
fn words(line: &[u8]) -> Option<(Vec<String>, bool)> {
    let words: Vec<&[u8]> = split(line).collect();
    if words.first().is_none_or(|first| first.starts_with(b"#")) {
        return None;
    }
    let is_latin = words.iter().any(|word| std::str::from_utf8(word).is_err());
    Some((words.into_iter().map(text).collect(), is_latin))
}

/// A line's words, as bytes.
pub(in crate::config) fn split(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c);
    line.split(is_blank).filter(|word| !word.is_empty())
}

/// A word as text: UTF-8, or else Latin-1.
pub(in crate::config) fn text(word: &[u8]) -> String {
    match std::str::from_utf8(word) {
        Ok(word) => word.to_string(),
        Err(_) => word.iter().map(|byte| char::from(*byte)).collect(),
    }
}

#[cfg(test)]
mod tests;
