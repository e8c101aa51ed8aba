//! Enough of Rust's grammar to see what a file names: words without comments and literals, paths, functions.

use std::path::{Path, PathBuf};

/// A word, `::`, or one other sign.
#[derive(Debug, Clone, PartialEq)]
pub struct Token {
    pub text: String,
    pub line: usize,
}

/// A path in the code, from the crate's root (`crate`) or from a foreign crate.
#[derive(Debug, PartialEq)]
pub struct CodePath {
    pub segments: Vec<String>,
    pub line: usize,
}

/// One Rust file of the project.
pub struct Source {
    /// From the project's root.
    pub path: PathBuf,
    pub text: String,
    pub tokens: Vec<Token>,
}

impl Source {
    pub fn read(root: &Path, path: &Path) -> Source {
        let text = std::fs::read_to_string(root.join(path)).unwrap();
        Source {
            path: path.to_owned(),
            tokens: tokens(&text),
            text,
        }
    }

    /// Every path that the code names, `use` lists taken apart, `self` and `super` replaced.
    pub fn paths(&self) -> Vec<CodePath> {
        let mut module = module_of(&self.path);
        let (mut found, mut open, mut inline) = (Vec::new(), 0, Vec::new());
        let mut at = 0;
        while at < self.tokens.len() {
            let mut next = at + 1;
            match self.text_at(at) {
                "{" => {
                    open += 1;
                    if at >= 2 && self.text_at(at - 2) == "mod" {
                        module.push(self.text_at(at - 1).to_string());
                        inline.push(open);
                    }
                }
                "}" => {
                    if inline.last() == Some(&open) {
                        inline.pop();
                        module.pop();
                    }
                    open -= 1;
                }
                _ if self.begins_path(at) => {
                    let mut paths = Vec::new();
                    next = self.follow(at, &mut Vec::new(), &mut paths);
                    let line = self.tokens[at].line;
                    found.extend(paths.into_iter().map(|segments| CodePath {
                        segments: resolve(segments, &module),
                        line,
                    }));
                }
                _ => {}
            }
            at = next;
        }
        found
    }

    /// The functions with bodies: name, line, lines from `fn` to the closing brace.
    pub fn functions(&self) -> Vec<(String, usize, usize)> {
        let mut functions = Vec::new();
        for at in 0..self.tokens.len().saturating_sub(1) {
            if self.text_at(at) != "fn" || !is_word(self.text_at(at + 1)) {
                continue;
            }
            let (mut depth, mut body) = (0, None);
            for (index, token) in self.tokens.iter().enumerate().skip(at) {
                match token.text.as_str() {
                    "(" | "[" => depth += 1,
                    ")" | "]" => depth -= 1,
                    ";" if depth == 0 && body.is_none() => break,
                    "{" => {
                        depth += 1;
                        body = body.or(Some(index));
                    }
                    "}" => {
                        depth -= 1;
                        if depth == 0 {
                            let first = self.tokens[at].line;
                            functions.push((self.text_at(at + 1).to_string(), first, token.line + 1 - first));
                            break;
                        }
                    }
                    _ => {}
                }
            }
        }
        functions
    }

    /// The lines on which a word stands in the code.
    pub fn lines_with(&self, word: &str) -> Vec<usize> {
        let tokens = self.tokens.iter().filter(|token| token.text == word);
        tokens.map(|token| token.line).collect()
    }

    fn text_at(&self, at: usize) -> &str {
        self.tokens.get(at).map_or("", |token| token.text.as_str())
    }

    fn begins_path(&self, at: usize) -> bool {
        let goes_on = is_word(self.text_at(at)) && self.text_at(at + 1) == "::";
        let is_rooted = at >= 1 && self.text_at(at - 1) == "::" && (at < 2 || !is_word(self.text_at(at - 2)));
        goes_on && (at == 0 || self.text_at(at - 1) != "::" || is_rooted)
    }

    /// Collects the paths that begin at a word, or at a list of them; returns where they end.
    fn follow(&self, mut at: usize, before: &mut Vec<String>, paths: &mut Vec<Vec<String>>) -> usize {
        let kept = before.len();
        if self.text_at(at) == "{" {
            at += 1;
            while !matches!(self.text_at(at), "}" | "") {
                at = self.follow(at, before, paths);
                while !matches!(self.text_at(at), "," | "}" | "") {
                    at += 1; // `as NAME`
                }
                at += usize::from(self.text_at(at) == ",");
            }
            return at + 1;
        }
        while is_word(self.text_at(at)) || self.text_at(at) == "*" {
            before.push(self.text_at(at).to_string());
            at += 1;
            if self.text_at(at) != "::" {
                break;
            }
            at += 1;
            if self.text_at(at) == "{" {
                at = self.follow(at, before, paths);
                before.truncate(kept);
                return at;
            }
        }
        paths.push(before.clone());
        before.truncate(kept);
        at
    }
}

fn is_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// `src/flow/mod.rs` and `src/flow.rs` are `[flow]`.
fn module_of(path: &Path) -> Vec<String> {
    let inner = path.strip_prefix("src").unwrap_or(path).with_extension("");
    let mut module: Vec<String> = inner
        .components()
        .map(|part| part.as_os_str().to_string_lossy().into_owned())
        .collect();
    if module.last().is_some_and(|last| last == "mod" || last == "lib") {
        module.pop();
    }
    module
}

/// From the crate's root, where the path is one of this crate.
fn resolve(segments: Vec<String>, module: &[String]) -> Vec<String> {
    let ups = segments.iter().take_while(|segment| *segment == "super").count();
    let down = match segments[0].as_str() {
        "self" => 1,
        "super" => ups,
        _ => return segments,
    };
    let here = &module[..module.len().saturating_sub(ups)];
    let mut resolved = vec!["crate".to_string()];
    resolved.extend_from_slice(here);
    resolved.extend_from_slice(&segments[down..]);
    resolved
}

/// The code without comments, texts and characters.
fn tokens(text: &str) -> Vec<Token> {
    let bytes = text.as_bytes();
    let (mut tokens, mut at, mut line) = (Vec::new(), 0, 1);
    while at < bytes.len() {
        let rest = &text[at..];
        let first = bytes[at];
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if let Some(length) = literal(rest) {
            length
        } else if first.is_ascii_alphanumeric() || first == b'_' {
            let is_inside = |c: char| c.is_alphanumeric() || c == '_';
            let length = rest.find(|c| !is_inside(c)).unwrap_or(rest.len());
            tokens.push(Token {
                text: rest[..length].to_string(),
                line,
            });
            length
        } else {
            let length = match rest.starts_with("::") {
                true => 2,
                false => rest.chars().next().map_or(1, char::len_utf8),
            };
            if !rest[..length].trim().is_empty() {
                tokens.push(Token {
                    text: rest[..length].to_string(),
                    line,
                });
            }
            length
        };
        line += rest[..length].matches('\n').count();
        at += length;
    }
    tokens
}

fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        let rest = &text.as_bytes()[at..];
        if rest.starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    text.len()
}

/// The length of a string, byte string, raw string or character that begins here. A lifetime is none.
fn literal(text: &str) -> Option<usize> {
    let prefix = ["br", "cr", "b", "c", "r", ""].into_iter().find(|prefix| {
        text.strip_prefix(prefix)
            .is_some_and(|rest| rest.starts_with(['"', '#', '\'']))
    })?;
    let rest = &text[prefix.len()..];
    if prefix.ends_with('r') {
        let hashes = rest.len() - rest.trim_start_matches('#').len();
        if !rest[hashes..].starts_with('"') {
            return None; // r#type
        }
        let end = format!("\"{}", "#".repeat(hashes));
        let body = prefix.len() + hashes + 1;
        return Some(text[body..].find(&end).map_or(text.len(), |at| body + at + end.len()));
    }
    let quote = rest.chars().next().filter(|quote| *quote != '#')?;
    let inner = &rest[1..];
    if quote == '\'' && !inner.starts_with('\\') && inner.chars().nth(1) != Some('\'') {
        return None;
    }
    let mut is_escaped = false;
    for (at, c) in inner.char_indices() {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            c if c == quote => return Some(prefix.len() + 1 + at + 1),
            _ => {}
        }
    }
    Some(text.len())
}

#[test]
fn what_is_no_code_is_not_seen() {
    let text = r##"
        // crate::a
        /* crate::b /* nested */ crate::c */
        let x = "crate::d \" crate::e"; let y = r#"crate::f " crate::g"#; let z = '"'; let w: &'static str = b"h";
        use crate::{flow::{self, Unit as U}, cli};
        mod tests { use super::super::broker::*; }
        fn after(a: [u8; 2]) -> ::url::Url {
            self::g()
        }
    "##;
    let source = Source {
        path: "src/spool/tree/mod.rs".into(),
        text: text.to_string(),
        tokens: tokens(text),
    };
    let paths: Vec<String> = source.paths().iter().map(|path| path.segments.join("::")).collect();
    let expected = [
        "crate::flow::self",
        "crate::flow::Unit",
        "crate::cli",
        "crate::spool::broker::*",
        "url::Url",
        "crate::spool::tree::g",
    ];
    assert_eq!(paths, expected);
    assert_eq!(source.functions(), [("after".to_string(), 7, 3)]);
}
