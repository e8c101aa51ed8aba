//! Shell patterns as Python's `fnmatch` reads them: on the whole name, byte by byte, case kept.
//!
//! `*` any bytes, also none; `?` one byte; `[seq]` one of these, with ranges; `[!seq]` none of these. A `]` that comes
//! first in a set is one of it; a `[` without `]` stands for itself. There is no escape: a star is `[*]`.
//! Valid: `*.gif:URP:*`, `[!A-F]*`; invalid: `[z-a]`.

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Byte(u8),
    One,
    Many,
    Set { is_negated: bool, ranges: Vec<(u8, u8)> },
}

/// A shell pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Glob(Vec<Piece>);

impl Glob {
    /// Reads a pattern; only a range that runs backwards is wrong.
    pub fn parse(pattern: &str) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut rest = pattern.as_bytes();
        while let [first, after @ ..] = rest {
            rest = after;
            let piece = match first {
                b'*' => Piece::Many,
                b'?' => Piece::One,
                b'[' => match split_set(rest) {
                    Some((set, after)) => {
                        rest = after;
                        read_set(set)?
                    }
                    None => Piece::Byte(b'['),
                },
                byte => Piece::Byte(*byte),
            };
            if piece != Piece::Many || pieces.last() != Some(&Piece::Many) {
                pieces.push(piece);
            }
        }
        Ok(Glob(pieces))
    }

    /// Whether the whole name is of this pattern. At worst as many steps as name and pattern multiplied.
    pub fn matches(&self, name: &[u8]) -> bool {
        let (mut at, mut piece) = (0, 0);
        // Where to go on when it does not fit: the last star, and the end of what it has swallowed so far.
        let mut star: Option<(usize, usize)> = None;
        loop {
            match self.0.get(piece) {
                Some(Piece::Many) => {
                    star = Some((piece, at));
                    piece += 1;
                }
                Some(one) if name.get(at).is_some_and(|byte| one.covers(*byte)) => (at, piece) = (at + 1, piece + 1),
                None if at == name.len() => return true,
                _ => match star {
                    Some((place, swallowed)) if swallowed < name.len() => {
                        star = Some((place, swallowed + 1));
                        (at, piece) = (swallowed + 1, place + 1);
                    }
                    _ => return false,
                },
            }
        }
    }
}

impl Piece {
    fn covers(&self, byte: u8) -> bool {
        match self {
            Piece::Byte(own) => *own == byte,
            Piece::One | Piece::Many => true,
            Piece::Set { is_negated, ranges } => {
                ranges.iter().any(|(low, high)| (*low..=*high).contains(&byte)) != *is_negated
            }
        }
    }
}

/// What stands between `[` and its `]`, and what comes after.
fn split_set(rest: &[u8]) -> Option<(&[u8], &[u8])> {
    let start = usize::from(rest.first() == Some(&b'!'));
    let start = start + usize::from(rest.get(start) == Some(&b']'));
    let end = start + rest.get(start..)?.iter().position(|byte| *byte == b']')?;
    Some((&rest[..end], &rest[end + 1..]))
}

fn read_set(set: &[u8]) -> Result<Piece, String> {
    let (is_negated, mut rest) = match set {
        [b'!', rest @ ..] => (true, rest),
        rest => (false, rest),
    };
    let mut ranges = Vec::new();
    while let [low, after @ ..] = rest {
        let (high, after) = match after {
            [b'-', high, after @ ..] => (high, after),
            after => (low, after),
        };
        if low > high {
            let range = [*low, b'-', *high];
            return Err(format!("bad range {}", String::from_utf8_lossy(&range)));
        }
        ranges.push((*low, *high));
        rest = after;
    }
    Ok(Piece::Set { is_negated, ranges })
}
