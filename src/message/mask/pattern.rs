//! One compiled pattern, by the engine that it needs.

use std::ops::Range;

use regex::bytes::{Regex, RegexBuilder};

use super::Pattern;
use super::glob::Glob;
use super::python::{self, Spelling, text_of_bytes};

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
            Pattern::Regex(regex) => match python::respell(regex)? {
                Spelling::OnePass(text) => compile_linear(&text).map(Matcher::Linear),
                Spelling::Backtracking(text) => compile_backtracking(&text).map(Matcher::Backtracking),
            },
        }
    }

    pub fn is_glob(&self) -> bool {
        matches!(self, Matcher::Glob(_))
    }

    /// How many groups a hit has; a pattern without any gives one. A glob gives none.
    pub fn group_count(&self) -> usize {
        let with_whole = match self {
            Matcher::Linear(regex) => regex.captures_len(),
            Matcher::Backtracking(regex) => regex.captures_len(),
            Matcher::Glob(_) => return 0,
        };
        with_whole.saturating_sub(1).max(1)
    }

    /// Whether it matches: a glob the whole name, the others from the start.
    pub fn matches(&self, name: &[u8]) -> Result<bool, GaveUp> {
        match self {
            Matcher::Linear(regex) => Ok(matches_at_start(regex, name)),
            Matcher::Backtracking(regex) => {
                let text = text_of_bytes(name);
                let at_start = fancy_regex::RegexInput::new(text.as_str()).anchored(true);
                let found = regex.find_input(at_start).map_err(|cause| cause.to_string())?;
                Ok(found.is_some())
            }
            Matcher::Glob(glob) => Ok(glob.matches(name)),
        }
    }

    /// Whether it matches anywhere in the text; a glob the whole of it.
    pub fn finds(&self, text: &[u8]) -> Result<bool, GaveUp> {
        match self {
            Matcher::Linear(regex) => Ok(regex.is_match(text)),
            Matcher::Backtracking(regex) => regex.is_match(&text_of_bytes(text)).map_err(|cause| cause.to_string()),
            Matcher::Glob(glob) => Ok(glob.matches(text)),
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
            Matcher::Backtracking(regex) => backtracking_spans(regex, name, from)?,
            Matcher::Glob(_) => Vec::new(),
        })
    }
}

/// The same for text: places in it are turned into places in the name, and back.
fn backtracking_spans(
    regex: &fancy_regex::Regex,
    name: &[u8],
    from: usize,
) -> Result<Vec<Option<Range<usize>>>, GaveUp> {
    let text = text_of_bytes(name);
    let place = |offset: usize| text[..offset].chars().count();
    let offset = text_of_bytes(&name[..from]).len();
    let found = regex
        .captures_from_pos(text.as_str(), offset)
        .map_err(|cause| cause.to_string())?;
    let spans = found.iter().flat_map(|found| found.iter());
    Ok(spans
        .map(|group| group.map(|group| place(group.start())..place(group.end())))
        .collect())
}

/// Byte-wise, so that `.` covers names that are not UTF-8; by characters only where the pattern cannot do without.
fn compile_linear(pattern: &str) -> Result<Regex, String> {
    RegexBuilder::new(pattern)
        .unicode(false)
        .build()
        .or_else(|_| Regex::new(pattern))
        .map_err(|cause| last_line(&cause.to_string()))
}

fn compile_backtracking(pattern: &str) -> Result<fancy_regex::Regex, String> {
    fancy_regex::RegexBuilder::new(pattern)
        .backtrack_limit(BACKTRACKS_MAX)
        .build()
        .map_err(|cause| last_line(&cause.to_string()))
}

/// The problem itself; before it comes a picture of the pattern.
fn last_line(text: &str) -> String {
    let last = text.lines().last().unwrap_or_default();
    last.trim_start_matches("error: ").to_string()
}

/// The leftmost match is at the start exactly if there is a match at the start.
fn matches_at_start(regex: &Regex, name: &[u8]) -> bool {
    regex.find(name).is_some_and(|found| found.start() == 0)
}
