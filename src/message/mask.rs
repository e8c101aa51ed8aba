//! Masks: an ordered list of accept and reject patterns over names.
//!
//! The first pattern that matches decides; it is anchored at the start and not at the end. What no pattern matches is
//! accepted. Valid: `.*\.xml`, `^site/.*_e`; invalid: `(`.

use regex::bytes::{Regex, RegexBuilder};

/// What a matching pattern says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Verdict {
    Accept,
    Reject,
}

/// A pattern that is no regular expression.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub struct MaskError {
    /// Which one of the list, from 0.
    pub index: usize,
    /// What is wrong with it.
    pub problem: String,
}

/// A list of masks, in order.
#[derive(Debug, Clone, Default)]
pub struct Masks(Vec<(Verdict, Regex)>);

impl Masks {
    /// Compiles the list; on failure, every pattern that is wrong.
    pub fn new<P: AsRef<str>>(list: impl IntoIterator<Item = (Verdict, P)>) -> Result<Self, Vec<MaskError>> {
        let mut masks = Vec::new();
        let mut errors = Vec::new();
        for (index, (verdict, pattern)) in list.into_iter().enumerate() {
            match compile(pattern.as_ref()) {
                Ok(regex) => masks.push((verdict, regex)),
                Err(cause) => errors.push(MaskError {
                    index,
                    problem: cause.to_string(),
                }),
            }
        }
        if errors.is_empty() {
            Ok(Masks(masks))
        } else {
            Err(errors)
        }
    }

    /// Whether a product of this name is wanted.
    pub fn accepts(&self, name: &[u8]) -> bool {
        self.first_match(name)
            .is_none_or(|(_, verdict)| verdict == Verdict::Accept)
    }

    /// The first mask that matches, by its place in the list, and what it says.
    pub fn first_match(&self, name: &[u8]) -> Option<(usize, Verdict)> {
        let mut masks = self.0.iter().enumerate();
        masks
            .find(|(_, (_, regex))| matches_at_start(regex, name))
            .map(|(index, (verdict, _))| (index, *verdict))
    }
}

/// Byte-wise, so that `.` covers names that are not UTF-8; by characters only where the pattern cannot do without.
fn compile(pattern: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(pattern)
        .unicode(false)
        .build()
        .or_else(|_| Regex::new(pattern))
}

/// The leftmost match is at the start exactly if there is a match at the start. Wrapping the pattern in `\A(?:…)`
/// instead would let one with a `(?x)` comment swallow the bracket.
fn matches_at_start(regex: &Regex, name: &[u8]) -> bool {
    regex.find(name).is_some_and(|found| found.start() == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use Verdict::{Accept, Reject};

    #[test]
    fn the_first_match_wins_and_no_match_accepts() {
        let masks = Masks::new([(Accept, "site/keep.*"), (Reject, "site/"), (Reject, r".*\.bak$")]).unwrap();
        let table: &[(&[u8], bool)] = &[
            (b"site/keep/a.bak", true),
            (b"site/a.xml", false),
            (b"my/site/a.xml", true),
            (b"other/a.bak", false),
            (b"other/a.bak2", true),
            (b"", true),
        ];
        for (name, wanted) in table {
            assert_eq!(masks.accepts(name), *wanted, "{}", String::from_utf8_lossy(name));
        }
        assert_eq!(masks.first_match(b"other/a.bak"), Some((2, Reject)));
        assert!(Masks::default().accepts(b"anything"));
    }

    #[test]
    fn patterns_are_anchored_at_the_start_only() {
        let masks = Masks::new([(Accept, "^(.*)\\+\\+.*"), (Accept, "a|b"), (Reject, ".*")]).unwrap();
        for (name, wanted) in [
            ("dir++file", true),
            ("a.gif", true),
            ("ba", true),
            ("ca", false),
            ("xx", false),
        ] {
            assert_eq!(masks.accepts(name.as_bytes()), wanted, "{name}");
        }
    }

    #[test]
    fn names_need_not_be_utf8() {
        let masks = Masks::new([(Reject, r".*\.gif$"), (Reject, "[é]t"), (Reject, "(?x) old # comment")]).unwrap();
        for name in [&b"caf\xe9.gif"[..], "été".as_bytes(), b"old"] {
            assert!(!masks.accepts(name), "{name:?}");
        }
        assert!(masks.accepts(b"caf\xe9.png"));
    }

    #[test]
    fn every_wrong_pattern_is_reported_by_its_place() {
        let errors = Masks::new([(Accept, "("), (Accept, "fine"), (Reject, "[z-a]"), (Reject, "(?=x)")]).unwrap_err();
        let places: Vec<usize> = errors.iter().map(|error| error.index).collect();
        assert_eq!(places, [0, 2, 3]);
        assert!(errors[0].to_string().contains("unclosed group"), "{}", errors[0]);
    }
}
