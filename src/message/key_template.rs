//! Routing keys made from names: `exp.dd.notify.${0}`.
//!
//! | name | becomes |
//! | --- | --- |
//! | `${T1}` `${T2}` `${A1}` `${A2}` `${ii}` | characters 0, 1, 2, 3 and 4 to 5 of the first `_` part of field 0 |
//! | `${CCCC}` | its second part |
//! | `${YY}` `${GG}` `${Gg}` | its third part: two characters each |
//! | `${BBB}` | its fourth part: three characters |
//! | `${RYYYY}` `${RMM}` `${RDD}` `${RHH}` `${RMN}` `${RSS}` | parts of field 6, the reception time |
//! | `${0}` `${1}` … | the groups that the masks took from the name |
//!
//! A key without `$` is used as it is, dots and all. In one with `$`, empty words are dropped, words are split at `$`,
//! and every piece is looked at for a name in braces at its front, also one that no `$` precedes. A name that is
//! unknown, or a group that is not there, becomes nothing where it is the whole piece, and stays as it is where more
//! text follows: `${9}` is nothing, `${9}z` is `{9}z`. Dots at the end are cut; two dots within stay two dots.

use super::mask::Undecided;

/// AMQP's short string.
const BYTES_MAX: usize = 255;

/// Why no key can be made for a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The name has not what the template wants.
    #[error("the key wants ${{{wanted}}}, which is in {place}, and the name has none")]
    Missing {
        /// The name between the braces.
        wanted: &'static str,
        /// Where it would be.
        place: &'static str,
    },
    /// Nothing is left of the template.
    #[error("the key would be empty")]
    Empty,
    /// More than a routing key may have.
    #[error("the key would have {0} bytes; at most {BYTES_MAX}")]
    TooLong(usize),
    /// Keys are text, names need not be.
    #[error("the key would not be UTF-8")]
    NotText,
    /// The masks gave no answer.
    #[error(transparent)]
    Undecided(#[from] Undecided),
}

/// A `_` part of field 0, or field 6, and the characters of it that are meant.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) name: &'static str,
    from: Place,
    start: usize,
    end: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Word(usize),
    Stamp,
}

const fn part(name: &'static str, from: Place, start: usize, end: usize) -> Part {
    Part { name, from, start, end }
}

const PARTS: [Part; 16] = [
    part("T1", Place::Word(0), 0, 1),
    part("T2", Place::Word(0), 1, 2),
    part("A1", Place::Word(0), 2, 3),
    part("A2", Place::Word(0), 3, 4),
    part("ii", Place::Word(0), 4, 6),
    part("CCCC", Place::Word(1), 0, usize::MAX),
    part("YY", Place::Word(2), 0, 2),
    part("GG", Place::Word(2), 2, 4),
    part("Gg", Place::Word(2), 4, 6),
    part("BBB", Place::Word(3), 0, 3),
    part("RYYYY", Place::Stamp, 0, 4),
    part("RMM", Place::Stamp, 4, 6),
    part("RDD", Place::Stamp, 6, 8),
    part("RHH", Place::Stamp, 8, 10),
    part("RMN", Place::Stamp, 10, 12),
    part("RSS", Place::Stamp, 12, 14),
];

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Part {
        part: &'static Part,
        rest: String,
    },
    Group {
        index: usize,
        rest: String,
        /// What stands there where the masks give no such group.
        otherwise: String,
    },
}

/// A parsed `key`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyTemplate(Kind);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    /// One key for all.
    Fixed(String),
    /// Words to be joined by dots, each in pieces.
    Words(Vec<Vec<Piece>>),
}

impl KeyTemplate {
    /// Parses. A fixed key over 255 bytes is an error at once; the empty one is fit for exchanges that do not look at
    /// it.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        if text.contains('$') {
            let words = text.split('.').filter(|word| !word.is_empty());
            let pieces = words.map(|word| word.split('$').map(parse_piece).collect());
            return Ok(KeyTemplate(Kind::Words(pieces.collect())));
        }
        if text.len() > BYTES_MAX {
            return Err(KeyError::TooLong(text.len()));
        }
        Ok(KeyTemplate(Kind::Fixed(text.to_string())))
    }

    /// Whether it has a `${n}`, that is, whether the masks need to be asked for groups.
    pub fn has_groups(&self) -> bool {
        match &self.0 {
            Kind::Fixed(_) => false,
            Kind::Words(words) => words.iter().flatten().any(|piece| matches!(piece, Piece::Group { .. })),
        }
    }

    /// The key for an ingest name and the groups that the masks took from it ([`super::Masks::groups`]).
    pub fn expand(&self, name: &[u8], groups: Option<&[Vec<u8>]>) -> Result<String, KeyError> {
        let words = match &self.0 {
            Kind::Fixed(key) => return Ok(key.clone()),
            Kind::Words(words) => words,
        };
        let mut key = Vec::new();
        for word in words {
            for piece in word {
                piece.put(&mut key, name, groups.unwrap_or_default())?;
            }
            key.push(b'.');
        }
        let length = key.iter().rposition(|byte| *byte != b'.').map_or(0, |last| last + 1);
        key.truncate(length);
        match length {
            0 => Err(KeyError::Empty),
            1..=BYTES_MAX => String::from_utf8(key).map_err(|_| KeyError::NotText),
            _ => Err(KeyError::TooLong(length)),
        }
    }
}

impl Piece {
    fn put(&self, key: &mut Vec<u8>, name: &[u8], groups: &[Vec<u8>]) -> Result<(), KeyError> {
        match self {
            Piece::Text(text) => key.extend_from_slice(text.as_bytes()),
            Piece::Part { part, rest } => {
                key.extend_from_slice(part.of(name).ok_or_else(|| part.missing())?);
                key.extend_from_slice(rest.as_bytes());
            }
            Piece::Group { index, rest, otherwise } => match groups.get(*index) {
                Some(group) => {
                    key.extend_from_slice(group);
                    key.extend_from_slice(rest.as_bytes());
                }
                None => key.extend_from_slice(otherwise.as_bytes()),
            },
        }
        Ok(())
    }
}

impl Part {
    pub(super) fn find(name: &str) -> Option<&'static Part> {
        PARTS.iter().find(|part| part.name == name)
    }

    /// The characters that are there; `None` only where a field or part is not there at all.
    pub(super) fn of<'n>(&self, name: &'n [u8]) -> Option<&'n [u8]> {
        let mut fields = name.split(|byte| *byte == b':');
        let text = match self.from {
            Place::Word(index) => {
                let first = fields.next().unwrap_or_default();
                first.split(|byte| *byte == b'_').nth(index)
            }
            Place::Stamp => fields.nth(6),
        }?;
        Some(&text[self.start.min(text.len())..self.end.min(text.len())])
    }

    /// Where it would be.
    pub(super) fn place(&self) -> &'static str {
        match self.from {
            Place::Word(_) => "a part of the first field, between underscores",
            Place::Stamp => "the seventh field",
        }
    }

    fn missing(&self) -> KeyError {
        let (wanted, place) = (self.name, self.place());
        KeyError::Missing { wanted, place }
    }
}

/// The number of a group; `00` and `+1` are none.
pub(super) fn group_index(name: &str) -> Option<usize> {
    name.parse::<usize>().ok().filter(|index| index.to_string() == name)
}

fn parse_piece(text: &str) -> Piece {
    let braced = text.strip_prefix('{').and_then(|inner| inner.split_once('}'));
    if let Some((name, rest)) = braced {
        if let Some(part) = Part::find(name) {
            let rest = rest.to_string();
            return Piece::Part { part, rest };
        }
        if let Some(index) = group_index(name) {
            return Piece::Group {
                index,
                rest: rest.to_string(),
                otherwise: blanked(text),
            };
        }
    }
    Piece::Text(blanked(text))
}

/// A piece that is all braces is nothing.
fn blanked(text: &str) -> String {
    if text.len() > 2 && text.starts_with('{') && text.ends_with('}') {
        String::new()
    } else {
        text.to_string()
    }
}

#[cfg(test)]
mod tests;
