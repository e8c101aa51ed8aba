//! One compiled pattern, by the engine that it needs.

use std::ops::Range;

use regex::bytes::{Regex, RegexBuilder};

use super::Pattern;
use super::glob::Glob;
use super::python::{self, Spelling};

/// How often a pattern with look-around or back-references may try another way on one name: some 50 ms at worst.
const BACKTRACKS_MAX: usize = 1_000_000;

#[derive(Debug, Clone)]
pub(super) enum Matcher {
    /// One pass over the name, whatever the name.
    Linear(Regex),
    Backtracking(fancy_regex::Regex),
    Glob(Glob),
}

/// The pattern gave up on a name; why.
pub(super) type GaveUp = String;

impl Matcher {
    /// Compiles; the error is one line.
    pub fn compile(pattern: &Pattern) -> Result<Self, String> {
        match pattern {
            Pattern::Glob(glob) => Glob::parse(glob).map(Matcher::Glob),
            Pattern::Regex(regex) => {
                let spelling = python::respell(regex)?;
                if spelling.needs_backtracking {
                    compile_backtracking(&spelling).map(Matcher::Backtracking)
                } else {
                    compile_linear(&spelling).map(Matcher::Linear)
                }
            }
        }
    }

    pub fn is_glob(&self) -> bool {
        matches!(self, Matcher::Glob(_))
    }

    /// Whether it matches: a glob the whole name, the others from the start.
    pub fn matches(&self, name: &[u8]) -> Result<bool, GaveUp> {
        match self {
            Matcher::Linear(regex) => Ok(matches_at_start(regex, name)),
            Matcher::Backtracking(regex) => {
                let at_start = fancy_regex::RegexInput::new(name).anchored(true);
                let found = regex.find_input(at_start).map_err(|cause| cause.to_string())?;
                Ok(found.is_some())
            }
            Matcher::Glob(glob) => Ok(glob.matches(name)),
        }
    }

    /// The groups of the only place in the name where it matches, as Python's `findall` counts places; the whole match
    /// where it has no groups. `None` where there is no such place, or more than one, and for a glob.
    ///
    /// A second place whose only text is empty does not count: `.*` finds one at the end of every name.
    pub fn sole_hit(&self, name: &[u8]) -> Result<Option<Vec<Vec<u8>>>, GaveUp> {
        let mut hits: Vec<Vec<Vec<u8>>> = Vec::new();
        let mut from = 0;
        while hits.len() < 3 && from <= name.len() {
            let spans = self.spans(name, from)?;
            let Some(Some(whole)) = spans.first() else {
                break;
            };
            from = whole.end + usize::from(whole.is_empty());
            let groups = if spans.len() > 1 { &spans[1..] } else { &spans[..] };
            let texts = groups.iter().map(|span| match span {
                Some(span) => name[span.clone()].to_vec(),
                None => Vec::new(),
            });
            hits.push(texts.collect());
        }
        if hits.len() == 2 && hits[1].len() == 1 && hits[1][0].is_empty() {
            hits.pop();
        }
        Ok(if hits.len() == 1 { hits.pop() } else { None })
    }

    /// Where the next match from this place on is, and its groups, if they took part; nothing where there is none.
    fn spans(&self, name: &[u8], from: usize) -> Result<Vec<Option<Range<usize>>>, GaveUp> {
        Ok(match self {
            Matcher::Linear(regex) => match regex.captures_at(name, from) {
                Some(found) => found.iter().map(|group| group.map(|group| group.range())).collect(),
                None => Vec::new(),
            },
            Matcher::Backtracking(regex) => match regex.captures_from_pos(name, from) {
                Ok(Some(found)) => found.iter().map(|group| group.map(|group| group.range())).collect(),
                Ok(None) => Vec::new(),
                Err(cause) => return Err(cause.to_string()),
            },
            Matcher::Glob(_) => Vec::new(),
        })
    }
}

/// Byte-wise, so that `.` covers names that are not UTF-8; by characters only where the pattern cannot do without.
fn compile_linear(spelling: &Spelling) -> Result<Regex, String> {
    RegexBuilder::new(&spelling.text)
        .unicode(false)
        .build()
        .or_else(|_| Regex::new(&spelling.text))
        .map_err(|cause| {
            let text = cause.to_string();
            let last = text.lines().last().unwrap_or_default();
            last.trim_start_matches("error: ").to_string()
        })
}

fn compile_backtracking(spelling: &Spelling) -> Result<fancy_regex::Regex, String> {
    let build = |mode| {
        fancy_regex::RegexBuilder::new(&spelling.text)
            .bytes_mode(mode)
            .backtrack_limit(BACKTRACKS_MAX)
            .build()
    };
    build(fancy_regex::BytesMode::Ascii)
        .or_else(|_| build(fancy_regex::BytesMode::UnicodeBytes))
        .map_err(|cause| cause.to_string().lines().last().unwrap_or_default().to_string())
}

/// The leftmost match is at the start exactly if there is a match at the start.
fn matches_at_start(regex: &Regex, name: &[u8]) -> bool {
    regex.find(name).is_some_and(|found| found.start() == 0)
}
