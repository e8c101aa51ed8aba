//! From an announcement to an envelope, in a given format.

use jiff::Timestamp;
use url::Url;

use super::decoded::path_problem;
use super::{AnnounceAs, Announcement, BaseError, Envelope, Format, Headers, Keyed, ProductPath, UnitHeaders, Value};
use super::{base, exp, topic, v00, v02, v03};

/// Peers of v02 refuse longer strings.
const V02_STRING_BYTES_MAX: usize = 255;
/// AMQP's limit for the name of a header.
const HEADER_NAME_BYTES_MAX: usize = 128;
/// Headers travel in one frame with the properties, and a frame may be no larger than 16 KiB.
const HEADERS_BYTES_MAX: usize = 8 << 10;

/// A message ready to be published, and what it could not hold.
#[derive(Debug, Clone, PartialEq)]
pub struct Encoded {
    /// The message.
    pub envelope: Envelope,
    /// The key lost words at its end: warn, once per tree.
    pub is_key_cut: bool,
    /// Headers that the format cannot carry, by name. None is needed to fetch the product.
    pub left_out: Vec<String>,
}

/// Why an announcement cannot be written in a format.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// The format has no way to write this name: count it, warn, and announce in the other formats.
    #[error("{format} cannot carry this name: it {problem}")]
    Unnameable {
        /// The format.
        format: Format,
        /// What is in the way.
        problem: &'static str,
    },
    /// The format demands what the announcement does not have.
    #[error("{format} needs {what}")]
    Lacks {
        /// The format.
        format: Format,
        /// What is missing.
        what: &'static str,
    },
    /// The base is no base.
    #[error("{0}")]
    Base(#[from] BaseError),
    /// Announcing would tell everybody the password.
    #[error("the base URL holds a password")]
    Password,
}

/// Writes an announcement. `now` is its time where it has none, and never asked of a clock here.
///
/// The timestamp property is set on every message: exp and v00 carry no other time.
pub fn encode(
    announcement: &Announcement,
    how: &AnnounceAs,
    unit: &UnitHeaders,
    now: Timestamp,
) -> Result<Encoded, EncodeError> {
    let format = how.format;
    if let Some(problem) = path_problem(&announcement.path) {
        return Err(EncodeError::Unnameable { format, problem });
    }
    base::normalized(&announcement.base)?;
    // Parsed only where there can be one: this is done for every file of a burst.
    if announcement.base.contains('@') && Url::parse(&announcement.base).is_ok_and(|url| url.password().is_some()) {
        return Err(EncodeError::Password);
    }
    let time = announcement.time.unwrap_or(now);
    let mut left_out = Vec::new();
    let others = other_headers(announcement, format, unit, now);
    let (body, headers) = match format {
        Format::Exp => (
            exp::body(announcement),
            amqp_headers(Headers::new(), others, None, &mut left_out),
        ),
        Format::V00 => (
            v00::body(announcement, how)?,
            amqp_headers(Headers::new(), others, None, &mut left_out),
        ),
        Format::V02 => {
            let own = v02::own_headers(announcement, &mut left_out);
            let limit = Some(V02_STRING_BYTES_MAX);
            (
                v02::body(announcement, time),
                amqp_headers(own, v02::peers_headers(others), limit, &mut left_out),
            )
        }
        Format::V03 => (v03::body(announcement, others, time, &mut left_out)?, Headers::new()),
    };
    let key = match how.keyed {
        Keyed::File => topic::key(&how.key, &announcement.path),
        Keyed::Directory => topic::key(&how.key, &ProductPath(announcement.path.directory().to_vec())),
    };
    let envelope = Envelope {
        key: key.text,
        headers,
        content_type: Some(format.content_type().to_owned()),
        timestamp: u64::try_from(time.as_second()).ok(),
        body,
        ..Envelope::default()
    };
    Ok(Encoded {
        envelope,
        is_key_cut: key.is_cut,
        left_out,
    })
}

/// What the announcement carried besides, without the internals of its last sender (`_…`), and what the unit adds.
fn other_headers(announcement: &Announcement, format: Format, unit: &UnitHeaders, now: Timestamp) -> Headers {
    let kept = announcement.headers.iter().filter(|(name, _)| !name.starts_with('_'));
    let mut headers: Headers = kept.map(|(name, value)| (name.clone(), value.clone())).collect();
    let mut add = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            headers.entry(name.to_owned()).or_insert(value);
        }
    };
    if format != Format::V03 {
        let file_name = announcement.path.file_name();
        let filename = unit
            .filename
            .as_ref()
            .map(|template| template.render(announcement.time.unwrap_or(now), file_name));
        add("filename", filename.map(Value::Str));
    }
    if matches!(format, Format::V02 | Format::V03) {
        add("source", unit.source.as_deref().map(Value::from));
        add("from_cluster", unit.cluster.as_deref().map(Value::from));
    }
    headers
}

/// The format's own headers, then the others as far as there is room. Inlined content stays in v03.
fn amqp_headers(mut own: Headers, others: Headers, string_max: Option<usize>, left_out: &mut Vec<String>) -> Headers {
    let mut room = HEADERS_BYTES_MAX;
    for (name, value) in others {
        if own.contains_key(&name) {
            continue;
        }
        let bytes = weight(&value, string_max.unwrap_or(usize::MAX)).map(|bytes| bytes + name.len() + 1);
        match bytes {
            Some(bytes) if bytes <= room && name.len() <= HEADER_NAME_BYTES_MAX && name != "content" => {
                room -= bytes;
                own.insert(name, value);
            }
            _ => left_out.push(name),
        }
    }
    own
}

/// About how many bytes a value takes in a frame; `None` when a string in it is too long.
fn weight(value: &Value, string_max: usize) -> Option<usize> {
    match value {
        Value::Str(bytes) | Value::Bytes(bytes) => (bytes.len() <= string_max).then_some(bytes.len() + 5),
        Value::Array(values) => values
            .iter()
            .try_fold(5, |sum, value| Some(sum + weight(value, string_max)?)),
        Value::Table(table) => table.iter().try_fold(5, |sum, (name, value)| {
            Some(sum + name.len() + 1 + weight(value, string_max)?)
        }),
        _ => Some(9),
    }
}
