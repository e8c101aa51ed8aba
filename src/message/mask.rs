//! Masks: an ordered list of accept and reject patterns over names.
//!
//! The first pattern that matches decides; what no pattern matches is accepted. A regular expression is in Python's
//! spelling and matches bytes from the start of the name, not to its end; a glob matches the whole name.
//! Valid: `.*\.xml`, `^site/.*_e`, `(?!tmp)`, globs `*.xml`; invalid: `(`, `a++`.

mod glob;
mod pattern;
mod python;

use pattern::{GaveUp, Matcher};

/// What a matching pattern says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Verdict {
    Accept,
    Reject,
}

/// What a mask looks for in a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pattern {
    /// A regular expression in Python's spelling, from the start of the name.
    Regex(String),
    /// A shell pattern over the whole name: `*`, `?`, `[seq]`, `[!seq]`.
    Glob(String),
}

impl From<&str> for Pattern {
    fn from(regex: &str) -> Self {
        Pattern::Regex(regex.to_string())
    }
}

impl From<String> for Pattern {
    fn from(regex: String) -> Self {
        Pattern::Regex(regex)
    }
}

/// A pattern that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub struct MaskError {
    /// Which one of the list, from 0.
    pub index: usize,
    /// What is wrong with it, in one line.
    pub problem: String,
}

/// A mask that gave up before it knew: only one with look-around or back-references does, on a name made for it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("mask {} of the list cannot decide on this name: {problem}", .index + 1)]
pub struct Undecided {
    /// Which one of the list, from 0.
    pub index: usize,
    /// What stopped it.
    pub problem: String,
}

/// A list of masks, in order.
#[derive(Debug, Clone, Default)]
pub struct Masks(Vec<(Verdict, Matcher)>);

impl Masks {
    /// Compiles the list; on failure, every pattern that is wrong. Text alone is a regular expression.
    pub fn new<P: Into<Pattern>>(list: impl IntoIterator<Item = (Verdict, P)>) -> Result<Self, Vec<MaskError>> {
        let mut masks = Vec::new();
        let mut errors = Vec::new();
        for (index, (verdict, pattern)) in list.into_iter().enumerate() {
            match Matcher::compile(&pattern.into()) {
                Ok(matcher) => masks.push((verdict, matcher)),
                Err(problem) => errors.push(MaskError { index, problem }),
            }
        }
        if errors.is_empty() {
            Ok(Masks(masks))
        } else {
            Err(errors)
        }
    }

    /// Whether a product of this name is wanted.
    ///
    /// One that a mask gives up on is wanted: one too many harms less than one lost. Who takes away what is not wanted
    /// asks [`Masks::first_match`] instead, and keeps such a product for a person to look at.
    pub fn accepts(&self, name: &[u8]) -> bool {
        !matches!(self.first_match(name), Ok(Some((_, Verdict::Reject))))
    }

    /// The first mask that matches, by its place in the list, and what it says.
    pub fn first_match(&self, name: &[u8]) -> Result<Option<(usize, Verdict)>, Undecided> {
        for (index, (verdict, matcher)) in self.0.iter().enumerate() {
            if matcher.matches(name).map_err(undecided(index))? {
                return Ok(Some((index, *verdict)));
            }
        }
        Ok(None)
    }

    /// What the groups of the regular expressions take from this name, for `${0}`, `${1}`… of a template.
    ///
    /// The masks are walked in order, without the globs: the first that matches and rejects gives no groups; one that
    /// accepts gives its groups if it is found at exactly one place of the name, anywhere in it, else the walk goes on.
    /// A group that took no part is empty; a pattern without groups gives the one text that it found.
    pub fn groups(&self, name: &[u8]) -> Result<Option<Vec<Vec<u8>>>, Undecided> {
        for (index, (verdict, matcher)) in self.0.iter().enumerate() {
            if matcher.is_glob() || !matcher.matches(name).map_err(undecided(index))? {
                continue;
            }
            if *verdict == Verdict::Reject {
                return Ok(None);
            }
            if let Some(groups) = matcher.sole_hit(name).map_err(undecided(index))? {
                return Ok(Some(groups));
            }
        }
        Ok(None)
    }

    /// How many groups [`Masks::groups`] can give for a name whose first match is this mask, at most.
    pub fn groups_from(&self, index: usize) -> usize {
        let later = self.0.iter().skip(index);
        let accepting = later.filter(|(verdict, matcher)| *verdict == Verdict::Accept && !matcher.is_glob());
        accepting.map(|(_, matcher)| matcher.group_count()).max().unwrap_or(0)
    }

    /// Whether there is any regular expression among them; globs give no groups and no routing key.
    pub fn has_regex(&self) -> bool {
        self.0.iter().any(|(_, matcher)| !matcher.is_glob())
    }
}

/// A regular expression that may match anywhere in a text, as that of a RabbitMQ policy does. It has the spelling of a
/// mask's.
#[derive(Debug, Clone)]
pub struct Finder {
    matcher: Matcher,
    text: String,
}

impl Finder {
    /// Compiles it; the error is one line.
    pub fn new(regex: &str) -> Result<Finder, String> {
        Ok(Finder {
            matcher: Matcher::compile(&Pattern::from(regex))?,
            text: regex.to_string(),
        })
    }

    /// The expression as it is written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether it matches somewhere. `Err`: it gave up before it knew, which only one with look-around or
    /// back-references does; why.
    pub fn finds(&self, text: &[u8]) -> Result<bool, String> {
        self.matcher.finds(text)
    }
}

fn undecided(index: usize) -> impl FnOnce(GaveUp) -> Undecided {
    move |problem| Undecided { index, problem }
}

#[cfg(test)]
mod tests;
