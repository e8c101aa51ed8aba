//! What is wrong in a configuration, and where. No value that may be a password is ever kept here.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

/// The one warning for what is understood but not done by this version.
pub const NOT_SERVED: &str = "not served by this version";

/// One finding: `FILE:LINE: KEY = VALUE: accepted: …`. Values are redacted before they get here.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConfigError {
    /// The file it is in.
    pub file: PathBuf,
    /// Counted from 1; 0 means the whole file.
    pub line: usize,
    /// The dotted key; empty where the text is not even TOML.
    pub key: String,
    /// As written, shortened, without passwords; empty where there is none.
    pub value: String,
    /// What would be accepted, or what is wrong.
    pub accepted: String,
    /// Printed, but nothing is refused for it.
    pub warning: bool,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if self.line > 0 {
            write!(f, "{}:", self.line)?;
        }
        if !self.key.is_empty() {
            write!(f, " {}", self.key)?;
            if !self.value.is_empty() {
                write!(f, " = {}", self.value)?;
            }
            f.write_str(":")?;
        }
        if self.warning {
            f.write_str(" warning:")?;
        }
        write!(f, " {}", self.accepted)
    }
}

impl std::error::Error for ConfigError {}

/// The findings of one load, shared by all tables that are read in it.
#[derive(Debug, Clone, Default)]
pub struct Errors(Arc<Mutex<Vec<ConfigError>>>);

impl Errors {
    /// Adds one finding, unless it is there already.
    pub fn push(&self, error: ConfigError) {
        let mut list = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !list.contains(&error) {
            list.push(error);
        }
    }

    /// Whether anything is refused, that is, more than warnings.
    pub fn refused(&self) -> bool {
        let list = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        list.iter().any(|error| !error.warning)
    }

    /// All findings so far, by file and line; the list is empty afterwards.
    pub fn take(&self) -> Vec<ConfigError> {
        let mut list = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        list.sort();
        list
    }
}

/// A text as it may be shown: quoted, control characters escaped, shortened, and without what may be a password.
pub(super) fn shown(text: &str) -> String {
    const LONGEST: usize = 80;
    let text = without_password(text);
    match text.char_indices().nth(LONGEST) {
        Some((cut, _)) => format!("{:?}…", &text[..cut]),
        None => format!("{text:?}"),
    }
}

/// Like [`shown`], for what should be a URL: where it is none, nothing of it is shown, for any part may be a password.
/// A query is shown only where its values are numbers.
pub(super) fn shown_url(text: &str) -> String {
    if text.contains([':', '@'])
        && !text.contains("://")
        && !text.starts_with("embedded:")
        && !text.starts_with("file:/")
        && text != "file:"
    {
        return "***".to_string();
    }
    let text = without_password(text);
    let is_harmless = |pair: &str| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        !is_secret_key(key) && value.len() < 12 && value.bytes().all(|b| b.is_ascii_digit())
    };
    match text.split_once('?') {
        Some((before, query)) if !query.split('&').all(is_harmless) => shown(&format!("{before}?***")),
        _ => shown(&text),
    }
}

/// `scheme://user:password@host` and anything that looks like it, also when it is mistyped.
fn without_password(text: &str) -> String {
    let start = text.find("://").map_or(0, |at| at + 3);
    let Some(colon) = text[start..].find(':').map(|at| start + at) else {
        return text.to_string();
    };
    if let Some(at) = text.rfind('@').filter(|at| *at > colon) {
        return format!("{}:***{}", &text[..colon], &text[at..]);
    }
    // `amqp://user:password` with the host forgotten.
    let port = text[colon + 1..].split(['/', '?']).next().unwrap_or_default();
    let address = text[start..].starts_with('[');
    if start > 0 && !address && !port.bytes().all(|b| b.is_ascii_digit()) {
        return format!("{}:***", &text[..colon]);
    }
    text.to_string()
}

/// Whether it is `SCHEME://USER:PASSWORD@HOST`.
pub(super) fn is_login(text: &str) -> bool {
    let authority = text.split_once("://").map(|(_, rest)| rest);
    let login = authority.and_then(|rest| rest.rsplit_once('@')).map(|(login, _)| login);
    login.is_some_and(|login| login.contains(':'))
}

/// Whether a key is named like something secret, whoever reads it.
pub(super) fn is_secret_key(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    ["pass", "pwd", "secret", "token", "cred", "auth"]
        .iter()
        .any(|word| key.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_password_is_shown() {
        for text in [
            "amqp://feeder:canary@host",
            "amqp//feeder:canary@host",
            "feeder:canary@host",
            "amqp://feeder:ca@nary@host",
            "amqp://feeder:ca/canary@host/vhost",
            "amqp://feeder:canary",
            "amqp://feeder:canary/x",
            "https://root:canary@[::1]:15671",
        ] {
            assert!(!shown(text).contains("nary"), "{}", shown(text));
        }
    }

    #[test]
    fn what_is_no_password_is_shown() {
        for text in [
            "amqp://feeder@host:5672/x",
            "http://[::1]:80/",
            "10m",
            "v02.post.#",
            "/a:b/c",
        ] {
            assert_eq!(shown(text), format!("{text:?}"));
        }
    }

    #[test]
    fn long_and_hostile_values_are_cut_and_escaped() {
        let text = shown(&"\u{1b}[2J".repeat(100));
        assert!(text.chars().count() < 300 && !text.contains('\u{1b}'), "{text}");
    }
}
