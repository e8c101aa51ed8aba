//! Names under which products are delivered: `filename`, a list of keywords with colons between them.
//!
//! | keyword | the name becomes |
//! | --- | --- |
//! | `WHATFN` | field 0 of the ingest name |
//! | `HEADFN` | the first two `_` parts of field 0 |
//! | `NONE` | the first six fields, or five where field 4 is no single character; a colon at the end is cut |
//! | `NONESENDER` | as `NONE`, with the field `SENDER=x` that follows it, where there is one |
//! | `SENDER` | what stands behind `SENDER=` in that field; where there is none, it stays as it is |
//! | `DESTFN=x` | `x` |
//! | `DESTFNSCRIPT=f` | what the script `f` makes of the ingest name |
//! | `SATNET=x` | the same, and `:SATNET=x` at its end |
//! | `TIME` | the same, and the reception stamp at its end, if a keyword before it has changed the name |
//!
//! They apply from left to right, beginning with the whole ingest name; `SATNET` and `TIME` go to the end, in this
//! order, whatever follows them. `TIME` takes the last field where that begins with 2, else the time of now.
//! Valid: `WHATFN`, `NONE:TIME`, `DESTFN=latest.gif`; invalid: `WHATSFN`, `DESTFN=`, `WHATFN:`.

use jiff::Timestamp;

use super::product_name::fields;
use super::stamp;

/// The keywords of `filename`, for error messages and manuals.
pub const NAMING: &str = "WHATFN, HEADFN, NONE, NONESENDER, SENDER, TIME, DESTFN=NAME, DESTFNSCRIPT=FILE, SATNET=TEXT, \
                          or several of them with colons between";

/// What a directory entry may have.
const BYTES_MAX: usize = 255;

/// Why a text is no `filename`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NamingError {
    /// No such keyword.
    #[error("unknown keyword {0:?}; accepted are {NAMING}")]
    Unknown(String),
    /// Nothing behind the equals sign, or what can be no name.
    #[error("{0:?} names nothing that could be a file")]
    Unfit(String),
    /// Only one script can be asked for one name.
    #[error("two scripts in one filename")]
    TwoScripts,
}

/// Why a product has no name to be delivered under.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The ingest name has too few fields.
    #[error("{keyword} wants {wanted} colon fields, and the name has {has}")]
    TooFewFields {
        /// What wants them.
        keyword: &'static str,
        /// At least so many.
        wanted: usize,
        /// So many.
        has: usize,
    },
    /// No directory can have an entry of this name.
    #[error("it would be delivered as {0:?}, which can be no file name")]
    Unfit(String),
    /// Longer than a file name may be.
    #[error("its name would have {0} bytes; at most {BYTES_MAX}")]
    TooLong(usize),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Keyword {
    WhatFn,
    HeadFn,
    None,
    NoneSender,
    Sender,
    Time,
    DestFn(String),
    Script(String),
    SatNet(String),
}

/// What the script of a `DESTFNSCRIPT` has answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scripted<'a> {
    /// It leaves the name as it is; also where no script is to be asked.
    Keep,
    /// It has made this name.
    Name(&'a [u8]),
}

/// A parsed `filename`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Naming(Vec<Keyword>);

impl Default for Naming {
    fn default() -> Self {
        Naming(vec![Keyword::WhatFn])
    }
}

impl Naming {
    /// Parses; the error lists what is accepted.
    pub fn parse(text: &str) -> Result<Naming, NamingError> {
        let keywords: Vec<Keyword> = text.split(':').map(parse_keyword).collect::<Result<_, _>>()?;
        let scripts = keywords.iter().filter(|keyword| matches!(keyword, Keyword::Script(_)));
        match scripts.count() {
            0 | 1 => Ok(Naming(keywords)),
            _ => Err(NamingError::TwoScripts),
        }
    }

    /// The script to be asked, by the name that is written.
    pub fn script(&self) -> Option<&str> {
        self.0.iter().find_map(|keyword| match keyword {
            Keyword::Script(file) => Some(file.as_str()),
            _ => None,
        })
    }

    /// The name that a product is delivered under. What it is made of comes from elsewhere, so it may turn out to be
    /// no name at all: an error then, as where the ingest name is too short.
    pub fn apply(&self, ingest_name: &[u8], now: Timestamp, scripted: Scripted<'_>) -> Result<Vec<u8>, NameError> {
        let parts: Vec<&[u8]> = fields(ingest_name).collect();
        let first = parts.first().copied().unwrap_or_default();
        let mut name = ingest_name.to_vec();
        let (mut satnet, mut time) = (Vec::new(), Vec::new());
        for keyword in &self.0 {
            match keyword {
                Keyword::WhatFn => name = first.to_vec(),
                Keyword::HeadFn => name = head(first),
                Keyword::None => name = without_stamp(&parts, "NONE")?,
                Keyword::NoneSender => name = with_sender(&parts)?,
                Keyword::Sender => {
                    if let Some(sender) = sender(&parts) {
                        name = sender.to_vec();
                    }
                }
                Keyword::DestFn(literal) => name = literal.clone().into_bytes(),
                Keyword::Script(_) => {
                    if let Scripted::Name(made) = scripted {
                        name = made.to_vec();
                    }
                }
                Keyword::SatNet(text) => satnet = format!(":SATNET={text}").into_bytes(),
                Keyword::Time if name != ingest_name => time = own_time(&parts, now),
                Keyword::Time => {}
            }
        }
        name.extend(satnet);
        name.extend(time);
        checked(name)
    }
}

/// Whether bytes can be a file's name in some directory, whatever the protocol.
fn is_fit(name: &[u8]) -> bool {
    let is_bad = |byte: &u8| *byte == b'/' || byte.is_ascii_control();
    !matches!(name, b"" | b"." | b"..") && !name.iter().any(is_bad)
}

fn checked(name: Vec<u8>) -> Result<Vec<u8>, NameError> {
    if name.len() > BYTES_MAX {
        return Err(NameError::TooLong(name.len()));
    }
    match is_fit(&name) {
        true => Ok(name),
        false => Err(NameError::Unfit(String::from_utf8_lossy(&name).into_owned())),
    }
}

fn parse_keyword(text: &str) -> Result<Keyword, NamingError> {
    let named = |value: &str| match is_fit(value.as_bytes()) && value.len() <= BYTES_MAX {
        true => Ok(value.to_string()),
        false => Err(NamingError::Unfit(text.chars().take(80).collect())),
    };
    Ok(match text.split_once('=') {
        Some(("DESTFN", value)) => Keyword::DestFn(named(value)?),
        Some(("DESTFNSCRIPT", value)) => Keyword::Script(named(value)?),
        Some(("SATNET", value)) => Keyword::SatNet(named(value)?),
        _ => match text {
            "WHATFN" => Keyword::WhatFn,
            "HEADFN" => Keyword::HeadFn,
            "NONE" => Keyword::None,
            "NONESENDER" => Keyword::NoneSender,
            "SENDER" => Keyword::Sender,
            "TIME" => Keyword::Time,
            _ => return Err(NamingError::Unknown(text.chars().take(80).collect())),
        },
    })
}

/// `SACN31_CWAO` of `SACN31_CWAO_300651`.
fn head(first: &[u8]) -> Vec<u8> {
    let parts: Vec<&[u8]> = first.split(|byte| *byte == b'_').take(2).collect();
    parts.join(&b'_')
}

/// How many fields stand before `SENDER=` or the stamp: a single character in field 4 is a priority, which other names
/// have not.
fn front(parts: &[&[u8]]) -> usize {
    match parts.get(4).is_some_and(|field| field.len() == 1) {
        true => 6,
        false => 5,
    }
}

fn without_stamp(parts: &[&[u8]], keyword: &'static str) -> Result<Vec<u8>, NameError> {
    require(parts, keyword, 5)?;
    let mut name = parts[..front(parts).min(parts.len())].join(&b':');
    if name.last() == Some(&b':') {
        name.pop();
    }
    Ok(name)
}

fn with_sender(parts: &[&[u8]]) -> Result<Vec<u8>, NameError> {
    const KEYWORD: &str = "NONESENDER";
    require(parts, KEYWORD, front(parts) + 1)?;
    let mut name = without_stamp(parts, KEYWORD)?;
    let field = parts[front(parts)];
    if field.starts_with(b"SENDER=") {
        name.push(b':');
        name.extend_from_slice(field);
    }
    Ok(name)
}

fn require(parts: &[&[u8]], keyword: &'static str, wanted: usize) -> Result<(), NameError> {
    let has = parts.len();
    match has >= wanted {
        true => Ok(()),
        false => Err(NameError::TooFewFields { keyword, wanted, has }),
    }
}

/// The name that the product had where it came from.
fn sender<'n>(parts: &[&'n [u8]]) -> Option<&'n [u8]> {
    parts.get(front(parts))?.strip_prefix(b"SENDER=")
}

fn own_time(parts: &[&[u8]], now: Timestamp) -> Vec<u8> {
    let own = parts.last().filter(|last| last.starts_with(b"2"));
    match own {
        Some(own) => [b":", *own].concat(),
        None => format!(":{}", stamp::to_seconds(now)).into_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BULLETIN: &str = "SACN31_CWAO_300651___0006:file:CWAO:SA:3:Direct:20061008042436";
    const PDS: &str = "201306061440_XSS.gif:URP:XSS:RADAR:GIF::20130606144709";
    const FROM: &str = "201306061440_XSS.gif:URP:XSS:RADAR:GIF:SENDER=there.gif:20130606144709";
    const FROM_BULLETIN: &str = "SACN31_CWAO_1:file:CWAO:SA:3::SENDER=there:20061008042436";

    fn apply(filename: &str, name: &[u8], scripted: Scripted<'_>) -> Result<String, NameError> {
        let now = "2026-11-21T20:12:34Z".parse().unwrap();
        let made = Naming::parse(filename).unwrap().apply(name, now, scripted)?;
        Ok(String::from_utf8(made).unwrap())
    }

    #[test]
    fn every_keyword_makes_its_name() {
        let table = [
            ("WHATFN", BULLETIN, "SACN31_CWAO_300651___0006"),
            ("WHATFN", "plain", "plain"),
            ("HEADFN", BULLETIN, "SACN31_CWAO"),
            ("HEADFN", "plain:a", "plain"),
            ("HEADFN", "a_b", "a_b"),
            ("NONE", BULLETIN, "SACN31_CWAO_300651___0006:file:CWAO:SA:3:Direct"),
            ("NONE", PDS, "201306061440_XSS.gif:URP:XSS:RADAR:GIF"),
            ("NONE", FROM_BULLETIN, "SACN31_CWAO_1:file:CWAO:SA:3"),
            ("NONE", "a:b:c:d:", "a:b:c:d"),
            ("NONE", "a:b:c:d:3", "a:b:c:d:3"),
            ("NONE", "a:b:c:d:3.A.I.E::2005", "a:b:c:d:3.A.I.E"),
            (
                "NONESENDER",
                BULLETIN,
                "SACN31_CWAO_300651___0006:file:CWAO:SA:3:Direct",
            ),
            ("NONESENDER", PDS, "201306061440_XSS.gif:URP:XSS:RADAR:GIF"),
            (
                "NONESENDER",
                FROM,
                "201306061440_XSS.gif:URP:XSS:RADAR:GIF:SENDER=there.gif",
            ),
            ("NONESENDER", FROM_BULLETIN, "SACN31_CWAO_1:file:CWAO:SA:3:SENDER=there"),
            ("SENDER", FROM, "there.gif"),
            ("SENDER", FROM_BULLETIN, "there"),
            ("SENDER", PDS, PDS),
            ("SENDER", "short", "short"),
            ("DESTFN=latest.gif", PDS, "latest.gif"),
            ("DESTFN=a=b", PDS, "a=b"),
            ("TIME", PDS, PDS),
            ("TIME:WHATFN", PDS, "201306061440_XSS.gif"),
            ("WHATFN:TIME", PDS, "201306061440_XSS.gif:20130606144709"),
            ("WHATFN:TIME", "a:b:c", "a:20261121201234"),
            ("WHATFN:TIME", "a:", "a:20261121201234"),
            ("WHATFN:TIME", "a", "a"),
            ("SATNET=x", "a", "a:SATNET=x"),
            ("TIME:SATNET=x", PDS, &format!("{PDS}:SATNET=x")),
            (
                "WHATFN:TIME:SATNET=x",
                PDS,
                "201306061440_XSS.gif:SATNET=x:20130606144709",
            ),
            ("WHATFN:DESTFN=x:TIME", PDS, "x:20130606144709"),
        ];
        for (filename, name, wanted) in table {
            assert_eq!(
                apply(filename, name.as_bytes(), Scripted::Keep).as_deref(),
                Ok(wanted),
                "{filename} of {name}"
            );
        }
        assert_eq!(Naming::default(), Naming::parse("WHATFN").unwrap());
        let at = Timestamp::UNIX_EPOCH;
        let raw = Naming::default().apply(b"\xff:a", at, Scripted::Keep);
        assert_eq!(raw.as_deref(), Ok(&b"\xff"[..]));
    }

    #[test]
    fn a_scripts_answer_stands_where_its_keyword_does() {
        let table = [
            ("DESTFNSCRIPT=s.py", Scripted::Keep, PDS),
            ("DESTFNSCRIPT=s.py", Scripted::Name(b"made"), "made"),
            ("WHATFN:DESTFNSCRIPT=s.py", Scripted::Keep, "201306061440_XSS.gif"),
            ("DESTFNSCRIPT=s.py:TIME", Scripted::Name(b"made"), "made:20130606144709"),
        ];
        for (filename, answer, wanted) in table {
            assert_eq!(Naming::parse(filename).unwrap().script(), Some("s.py"));
            assert_eq!(
                apply(filename, PDS.as_bytes(), answer).as_deref(),
                Ok(wanted),
                "{filename}"
            );
        }
        assert_eq!(Naming::default().script(), None);
    }

    #[test]
    fn what_can_be_no_name_is_told() {
        let few = |keyword, wanted, has| NameError::TooFewFields { keyword, wanted, has };
        let long = "x".repeat(256);
        let table = [
            ("NONE", "a:b:c:d", few("NONE", 5, 4)),
            ("NONE", "", few("NONE", 5, 1)),
            ("NONESENDER", "a:b:c:d:GIF", few("NONESENDER", 6, 5)),
            ("NONESENDER", "a:b:c:d:3:x", few("NONESENDER", 7, 6)),
            ("WHATFN", ":b:c", NameError::Unfit(String::new())),
            ("WHATFN", "..:b:c", NameError::Unfit("..".to_string())),
            ("WHATFN", "a\r\nDELE b:c", NameError::Unfit("a\r\nDELE b".to_string())),
            (
                "SENDER",
                "a:b:c:d:GIF:SENDER=../x:2",
                NameError::Unfit("../x".to_string()),
            ),
            ("WHATFN", &long, NameError::TooLong(256)),
        ];
        for (filename, name, wanted) in table {
            assert_eq!(
                apply(filename, name.as_bytes(), Scripted::Keep),
                Err(wanted),
                "{filename} of {name}"
            );
        }
        let made = apply("DESTFNSCRIPT=s", b"a", Scripted::Name(b"a\0"));
        assert_eq!(made, Err(NameError::Unfit("a\0".to_string())));
    }

    #[test]
    fn unknown_keywords_are_refused_with_a_list() {
        for text in ["", "WHATSFN", "whatfn", "WHATFN:", "WHATFN=x", "DESTFNX=1", "#WHATFN"] {
            let error = Naming::parse(text).unwrap_err().to_string();
            assert!(
                error.starts_with("unknown keyword") && error.contains("DESTFNSCRIPT=FILE"),
                "{text}: {error}"
            );
        }
        for text in [
            "DESTFN=",
            "DESTFN=a/b",
            "DESTFN=..",
            "DESTFNSCRIPT=",
            "DESTFNSCRIPT=../s.py",
            "SATNET=",
        ] {
            assert_eq!(Naming::parse(text), Err(NamingError::Unfit(text.to_string())));
        }
        let two = Naming::parse("DESTFNSCRIPT=a:DESTFNSCRIPT=b");
        assert_eq!(two, Err(NamingError::TwoScripts));
    }
}
