//! Directories that products are delivered into: `data/${YYYYMMDD}/${0}`.
//!
//! | name | becomes |
//! | --- | --- |
//! | `${0}` `${1}` … | the groups that the masks took from the name |
//! | `${T1}` `${T2}` `${A1}` `${A2}` `${ii}` `${CCCC}` `${YY}` `${GG}` `${Gg}` `${BBB}` | parts of a bulletin's name |
//! | `${RYYYY}` `${RMM}` `${RDD}` `${RHH}` `${RMN}` `${RSS}` | parts of the reception time |
//! | `${YYYY}` `${MM}` `${DD}` `${HH}` `${JJJ}` `${YYYYMMDD}`, each also as `${YYYY-1D}` | parts of the time of now, UTC |
//!
//! A path that begins with `/` begins at the root of what it is in. Empty parts and `.` are left out.
//!
//! Valid: `data/${0}`, `/dd/${YYYYMMDD}/WXO`; invalid: `${YYY}`, `a/../b`, `${0`.

use jiff::Timestamp;

use super::key_template::{Part, group_index};
use super::template::TimePart;

/// The names that a directory accepts, for error messages and manuals.
pub const DIRECTORY_NAMES: &str = "${0} and its like, ${T1} ${T2} ${A1} ${A2} ${ii} ${CCCC} ${YY} ${GG} ${Gg} ${BBB}, \
                                   ${RYYYY} ${RMM} ${RDD} ${RHH} ${RMN} ${RSS}, ${YYYY} ${MM} ${DD} ${HH} ${JJJ} \
                                   ${YYYYMMDD}, each of the last six also as of n days ago (${YYYYMMDD-1D})";

/// A name in a directory, as every file system has it.
const COMPONENT_MAX: usize = 255;
/// The whole path, with room for a file's name below what kernels take.
const PATH_MAX: usize = 3800;

/// Why a text is no directory, or a product has none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DirectoryError {
    /// The name between the braces means nothing.
    #[error("unknown ${{{0}}}; accepted are {DIRECTORY_NAMES}")]
    Unknown(String),
    /// `${` without `}`.
    #[error("`${{` without `}}`")]
    Unclosed,
    /// The product's name has not what the template wants.
    #[error("the directory wants ${{{wanted}}}, which is in {place}, and the name has none")]
    Missing {
        /// The name between the braces.
        wanted: &'static str,
        /// Where it would be.
        place: &'static str,
    },
    /// The masks took no such group from the name.
    #[error("the directory wants ${{{0}}}, and the masks take no such group from the name")]
    NoGroup(usize),
    /// It would lead upwards, or ends a command of some protocol.
    #[error("{0:?} can be no directory to deliver into")]
    Unfit(String),
    /// Longer than a path may be.
    #[error("the directory would have {0} bytes; at most {PATH_MAX}, and {COMPONENT_MAX} in each part")]
    TooLong(usize),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Part(&'static Part),
    Time(TimePart),
    Group(usize),
}

/// A parsed `directory`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectoryTemplate {
    pieces: Vec<Piece>,
    is_absolute: bool,
}

impl Default for DirectoryTemplate {
    /// Where the login or the URL begins.
    fn default() -> Self {
        DirectoryTemplate {
            pieces: Vec::new(),
            is_absolute: false,
        }
    }
}

impl DirectoryTemplate {
    /// Parses; the error lists what is accepted. Without `${…}` the text is looked at whole.
    pub fn parse(text: &str) -> Result<Self, DirectoryError> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("${") {
            let (name, after) = after.split_once('}').ok_or(DirectoryError::Unclosed)?;
            pieces.push(Piece::Text(before.to_string()));
            let known = named(name).ok_or_else(|| DirectoryError::Unknown(name.chars().take(40).collect()))?;
            pieces.push(known);
            rest = after;
        }
        pieces.push(Piece::Text(rest.to_string()));
        Self::of(text, pieces)
    }

    fn of(text: &str, mut pieces: Vec<Piece>) -> Result<Self, DirectoryError> {
        pieces.retain(|piece| *piece != Piece::Text(String::new()));
        let template = DirectoryTemplate {
            pieces,
            is_absolute: text.starts_with('/'),
        };
        for piece in &template.pieces {
            if let Piece::Text(text) = piece {
                check(text.as_bytes())?;
            }
        }
        if template.is_plain() {
            template.expand(b"", None, Timestamp::UNIX_EPOCH)?;
        }
        Ok(template)
    }

    /// Whether it is the same for every product and at all times.
    pub fn is_plain(&self) -> bool {
        self.pieces.iter().all(|piece| matches!(piece, Piece::Text(_)))
    }

    /// Whether it begins with `/`, and so does every path that is made of it.
    pub fn is_absolute(&self) -> bool {
        self.is_absolute
    }

    /// Whether it has a `${n}`, that is, whether the masks need to be asked for groups.
    pub fn has_groups(&self) -> bool {
        self.pieces.iter().any(|piece| matches!(piece, Piece::Group(_)))
    }

    /// The highest `${n}` that it has.
    pub fn last_group(&self) -> Option<usize> {
        let groups = self.pieces.iter().filter_map(|piece| match piece {
            Piece::Group(index) => Some(*index),
            _ => None,
        });
        groups.max()
    }

    /// The names that every path made of it begins with: what stands before the first `${`, whole names only; and
    /// whether that is all of it.
    pub fn known_beginning(&self) -> (Vec<&str>, bool) {
        let is_plain = self.is_plain();
        let text = match self.pieces.first() {
            Some(Piece::Text(text)) if is_plain => text.as_str(),
            Some(Piece::Text(text)) => text.rsplit_once('/').map_or("", |(whole, _)| whole),
            _ => "",
        };
        let names = text.split('/').filter(|name| !matches!(*name, "" | "."));
        (names.collect(), is_plain)
    }

    /// The directory for an ingest name and the groups that the masks took from it ([`super::Masks::groups`]). It has
    /// no `..`, no control character, no slash at its end.
    pub fn expand(&self, name: &[u8], groups: Option<&[Vec<u8>]>, now: Timestamp) -> Result<Vec<u8>, DirectoryError> {
        let mut path = Vec::new();
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => path.extend_from_slice(text.as_bytes()),
                Piece::Part(part) => {
                    let (wanted, place) = (part.name, part.place());
                    let text = part.of(name).ok_or(DirectoryError::Missing { wanted, place })?;
                    path.extend_from_slice(text);
                }
                Piece::Time(time) => path.extend_from_slice(time.render(now).as_bytes()),
                Piece::Group(index) => match groups.and_then(|groups| groups.get(*index)) {
                    Some(group) => path.extend_from_slice(group),
                    None => return Err(DirectoryError::NoGroup(*index)),
                },
            }
        }
        tidy(&path, self.is_absolute)
    }
}

fn named(name: &str) -> Option<Piece> {
    let part = Part::find(name).map(Piece::Part);
    let time = || TimePart::parse(name).map(Piece::Time);
    let group = || group_index(name).map(Piece::Group);
    part.or_else(time).or_else(group)
}

fn check(path: &[u8]) -> Result<(), DirectoryError> {
    match path.iter().any(u8::is_ascii_control) {
        true => Err(unfit(path)),
        false => Ok(()),
    }
}

/// The parts that say something, and an error where one would lead elsewhere.
fn tidy(path: &[u8], is_absolute: bool) -> Result<Vec<u8>, DirectoryError> {
    check(path)?;
    let mut tidy = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => continue,
            b".." => return Err(unfit(path)),
            part if part.len() > COMPONENT_MAX => return Err(DirectoryError::TooLong(path.len())),
            part => {
                if is_absolute || !tidy.is_empty() {
                    tidy.push(b'/');
                }
                tidy.extend_from_slice(part);
            }
        }
    }
    if is_absolute && tidy.is_empty() {
        tidy.push(b'/');
    }
    match tidy.len() > PATH_MAX {
        true => Err(DirectoryError::TooLong(tidy.len())),
        false => Ok(tidy),
    }
}

fn unfit(path: &[u8]) -> DirectoryError {
    let shown = &path[..path.len().min(300)];
    DirectoryError::Unfit(String::from_utf8_lossy(shown).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &[u8] = b"SACN31_CWAO_300651_RRA_0006:file:CWAO:SA:3:Direct:20061008042436";

    fn expand(template: &DirectoryTemplate, name: &[u8], groups: &[&str]) -> Result<String, DirectoryError> {
        let now = "2024-03-01T05:06:07Z".parse().unwrap();
        let groups: Vec<Vec<u8>> = groups.iter().map(|group| group.as_bytes().to_vec()).collect();
        let made = template.expand(name, Some(&groups), now)?;
        Ok(String::from_utf8(made).unwrap())
    }

    #[test]
    fn what_is_known_before_any_product_comes() {
        let table: [(&str, &[&str], bool, Option<usize>); 6] = [
            ("", &[], true, None),
            ("/a//b/./", &["a", "b"], true, None),
            ("a/b${0}/c", &["a"], false, Some(0)),
            ("/a/b/${1}/${0}", &["a", "b"], false, Some(1)),
            ("${CCCC}/a", &[], false, None),
            ("x${3}", &[], false, Some(3)),
        ];
        for (text, names, is_all, last) in table {
            let template = DirectoryTemplate::parse(text).unwrap();
            assert_eq!(template.known_beginning(), (names.to_vec(), is_all), "{text}");
            assert_eq!(template.last_group(), last, "{text}");
        }
    }

    #[test]
    fn names_become_parts_of_the_product_and_of_the_time() {
        let table = [
            ("", ""),
            ("/", "/"),
            ("data", "data"),
            ("/data//test/./", "/data/test"),
            ("/data/test/${0}/${1}/${2}", "/data/test/12/CMC/GRIB"),
            ("${0}${1}", "12CMC"),
            ("dd/${YYYYMMDD}/${HH}", "dd/20240301/05"),
            ("${JJJ-1D}/${YYYY-61D}", "060/2023"),
            ("/${T1}${T2}${A1}${A2}${ii}/${CCCC}", "/SACN31/CWAO"),
            ("${YY}/${GG}${Gg}/${BBB}", "30/0651/RRA"),
            ("${RYYYY}${RMM}${RDD}/${RHH}/${RMN}${RSS}", "20061008/04/2436"),
            ("a$b/{CCCC}", "a$b/{CCCC}"),
        ];
        for (text, wanted) in table {
            let template = DirectoryTemplate::parse(text).unwrap();
            assert_eq!(
                expand(&template, NAME, &["12", "CMC", "GRIB"]).as_deref(),
                Ok(wanted),
                "{text}"
            );
            assert_eq!(template.is_absolute(), text.starts_with('/'));
            assert_eq!(template.is_plain(), !text.contains("${"), "{text}");
        }
        assert!(DirectoryTemplate::parse("${7}").unwrap().has_groups());
        assert!(!DirectoryTemplate::parse("${CCCC}").unwrap().has_groups());
    }

    #[test]
    fn what_it_does_not_know_it_refuses_with_a_list() {
        for text in ["${YYY}", "${}", "${00}", "${FILE}", "a/${cccc}", "${YYYY-0D}"] {
            let error = DirectoryTemplate::parse(text).unwrap_err().to_string();
            assert!(error.starts_with("unknown ${") && error.contains("${CCCC}"), "{error}");
        }
        assert_eq!(DirectoryTemplate::parse("a/${0"), Err(DirectoryError::Unclosed));
        let long = "x".repeat(256);
        for text in ["a/../b", "..", "/..", "a\nb", "a\0", "a\r${0}", &long] {
            assert!(DirectoryTemplate::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_name_does_not_lead_a_product_elsewhere() {
        let template = DirectoryTemplate::parse("data/${0}").unwrap();
        let unfit = |text: &str| Err(DirectoryError::Unfit(text.to_string()));
        assert_eq!(expand(&template, NAME, &[".."]), unfit("data/.."));
        assert_eq!(expand(&template, NAME, &["../../etc"]), unfit("data/../../etc"));
        assert_eq!(expand(&template, NAME, &["a\r\nDELE b"]), unfit("data/a\r\nDELE b"));
        assert_eq!(expand(&template, NAME, &["a\0"]), unfit("data/a\0"));
        assert_eq!(expand(&template, NAME, &["/etc"]).as_deref(), Ok("data/etc"));
        assert_eq!(expand(&template, NAME, &[]), Err(DirectoryError::NoGroup(0)));
        let first = DirectoryTemplate::parse("${0}/x").unwrap();
        assert_eq!(expand(&first, NAME, &["/etc"]).as_deref(), Ok("etc/x"));
        assert!(matches!(
            expand(&first, NAME, &["x".repeat(256).as_str()]),
            Err(DirectoryError::TooLong(_))
        ));
        let deep = "x/".repeat(2000);
        assert!(matches!(
            expand(&first, NAME, &[deep.as_str()]),
            Err(DirectoryError::TooLong(_))
        ));
        let stamp = DirectoryTemplate::parse("${RHH}").unwrap();
        assert!(matches!(
            expand(&stamp, b"a:b", &[]),
            Err(DirectoryError::Missing { wanted: "RHH", .. })
        ));
        assert_eq!(
            expand(&DirectoryTemplate::parse("${CCCC}").unwrap(), b"a_", &[]).as_deref(),
            Ok("")
        );
    }
}
