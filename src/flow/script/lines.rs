//! What is written to a program and read from it: one JSON object a line.
//!
//! JSON has no strings for names that are not UTF-8. Such a name is written in hexadecimal digits under the key with
//! `_hex` after it, in both directions: `{"path_hex": "2f646174612fff"}`.

use std::collections::HashMap;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};

/// Of one line.
const LINE_MAX: usize = 64 << 10;

/// An object of names, as a line to be written.
pub(super) fn line(fields: &[(&str, &[u8])]) -> Vec<u8> {
    let fields = fields.iter().map(|(key, value)| match std::str::from_utf8(value) {
        Ok(text) => ((*key).to_owned(), Value::from(text)),
        Err(_) => (format!("{key}_hex"), Value::from(hex(value))),
    });
    let mut line = Value::Object(fields.collect::<Map<String, Value>>())
        .to_string()
        .into_bytes();
    line.push(b'\n');
    line
}

/// One line of an answer.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    path: Option<String>,
    path_hex: Option<String>,
    name: Option<String>,
    name_hex: Option<String>,
    result: Option<String>,
    with: Option<String>,
    with_hex: Option<String>,
}

/// What a program says of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    pub result: Option<String>,
    pub with: Option<Vec<u8>>,
}

/// By what answers name their file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    Path,
    Name,
}

/// All answers of a run.
#[derive(Debug, Default)]
pub(super) struct Answers {
    /// In the order in which they came; a file that was answered twice has its first answer.
    pub order: Vec<Vec<u8>>,
    /// `None` where two answers for one file differ.
    of: HashMap<Vec<u8>, Option<Answer>>,
    /// Lines that are no answers.
    pub unread: usize,
    /// What is wrong with the first of them.
    pub why: Option<String>,
}

impl Answers {
    pub(super) fn read(said: &[u8], key: Key) -> Answers {
        let mut answers = Answers::default();
        for line in said.split(|byte| *byte == b'\n') {
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            match parse(line, key) {
                Ok((name, answer)) => answers.add(name, answer),
                Err(why) => {
                    answers.unread += 1;
                    answers.why.get_or_insert(why);
                }
            }
        }
        answers
    }

    fn add(&mut self, name: Vec<u8>, answer: Answer) {
        match self.of.get_mut(&name) {
            Some(first) if first.as_ref() == Some(&answer) => {}
            Some(first) => *first = None,
            None => {
                self.order.push(name.clone());
                self.of.insert(name, Some(answer));
            }
        }
    }

    /// The answer for this file. `Err` where there are two that differ.
    pub(super) fn of(&self, name: &[u8]) -> Option<Result<&Answer, &'static str>> {
        let answer = self.of.get(name)?;
        Some(answer.as_ref().ok_or("it was answered twice, and differently"))
    }

    /// ` (3 lines of its output are no answers; the first: …)`, for the end of an error.
    pub(super) fn unread_text(&self) -> String {
        match &self.why {
            Some(why) => format!(" ({} of its lines are no answers; the first: {why})", self.unread),
            None => String::new(),
        }
    }
}

fn parse(line: &[u8], key: Key) -> Result<(Vec<u8>, Answer), String> {
    if line.len() > LINE_MAX {
        return Err(format!("longer than {LINE_MAX} bytes"));
    }
    let line: Line = serde_json::from_slice(line).map_err(|error| error.to_string())?;
    let (name, is_other) = match key {
        Key::Path => (either("path", line.path, line.path_hex)?, line.name.or(line.name_hex)),
        Key::Name => (either("name", line.name, line.name_hex)?, line.path.or(line.path_hex)),
    };
    let word = if key == Key::Path { "path" } else { "name" };
    if is_other.is_some() {
        return Err(format!("it names its file by something else than \"{word}\""));
    }
    let name = name.ok_or_else(|| format!("it has no \"{word}\""))?;
    let with = either("with", line.with, line.with_hex)?;
    let result = line.result;
    Ok((name, Answer { result, with }))
}

fn either(key: &str, plain: Option<String>, digits: Option<String>) -> Result<Option<Vec<u8>>, String> {
    match (plain, digits) {
        (Some(_), Some(_)) => Err(format!("it has both {key:?} and \"{key}_hex\"")),
        (None, Some(digits)) => match from_hex(&digits) {
            Some(bytes) => Ok(Some(bytes)),
            None => Err(format!("\"{key}_hex\" is not an even number of hexadecimal digits")),
        },
        (plain, None) => Ok(plain.map(String::into_bytes)),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(digits: &str) -> Option<Vec<u8>> {
    let value = |digit: u8| char::from(digit).to_digit(16).map(|value| value as u8);
    let pairs = digits.as_bytes().chunks(2).map(|pair| match pair {
        [high, low] => Some(value(*high)? << 4 | value(*low)?),
        _ => None,
    });
    pairs.collect()
}

/// A path as bytes.
pub(super) fn bytes_of(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

/// Bytes as a path.
pub(super) fn path_of(bytes: Vec<u8>) -> PathBuf {
    PathBuf::from(std::ffi::OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_survives_the_way_there_and_back() {
        for name in [&b"/q/plain"[..], b"/q/\xff\x00", b"/q/new\nline\"", "/q/é".as_bytes()] {
            let written = line(&[("path", name)]);
            assert_eq!(written.iter().filter(|byte| **byte == b'\n').count(), 1);
            let answers = Answers::read(&written, Key::Path);
            assert_eq!((answers.order.as_slice(), answers.unread), (&[name.to_vec()][..], 0));
        }
        assert_eq!(line(&[("path", b"\xff")]), b"{\"path_hex\":\"ff\"}\n");
    }

    #[test]
    fn what_is_no_answer_is_counted_and_none_is_guessed() {
        for (text, wanted) in [
            ("hello", "expected value"),
            (r#"{"path": 7}"#, "invalid type"),
            (r#"{"path": "a", "wiht": "b"}"#, "unknown field"),
            (r#"{"result": "keep"}"#, "no \"path\""),
            (r#"{"name": "a", "result": "keep"}"#, "something else"),
            (r#"{"path": "a", "name": "a"}"#, "something else"),
            (r#"{"path": "a", "path_hex": "61"}"#, "both"),
            (r#"{"path_hex": "6"}"#, "hexadecimal"),
            (r#"{"path_hex": "+6"}"#, "hexadecimal"),
            (&format!("{{\"path\": \"{}\"}}", "a".repeat(LINE_MAX)), "longer than"),
        ] {
            let answers = Answers::read(format!("\n{text}\n \r\n").as_bytes(), Key::Path);
            assert_eq!((answers.unread, answers.order.len()), (1, 0), "{text}");
            assert!(
                answers.unread_text().contains(wanted),
                "{text}: {}",
                answers.unread_text()
            );
        }
    }

    #[test]
    fn two_answers_for_one_file_must_be_the_same() {
        let keep = r#"{"path": "a", "result": "keep"}"#;
        let twice = Answers::read(format!("{keep}\n{keep}").as_bytes(), Key::Path);
        assert!(twice.of(b"a").is_some_and(|answer| answer.is_ok()));
        let differ = Answers::read(
            format!("{keep}\n{}", keep.replace("keep", "drop")).as_bytes(),
            Key::Path,
        );
        assert!(differ.of(b"a").is_some_and(|answer| answer.is_err()));
        assert!(differ.of(b"b").is_none());
    }
}
