//! `v03`: one JSON object.
//!
//! Valid: `{"pubTime":"20261121T201234.5","baseUrl":"http://h/","relPath":"a/b.gif","size":7}`; C peers write the size
//! as a string, older ones `integrity` and `retPath`. Invalid: `[]`, `{"baseUrl":"http://h/"}`. Fields that are not
//! ours are kept and written again.

use jiff::Timestamp;
use serde_json::{Map, Number, Value as Json, json};

use super::decoded::{parse_size, place};
use super::exp::with_slash;
use super::{Announcement, DecodeError, Decoded, DigestOf, EncodeError, Envelope, Format, Headers, Identity, Method};
use super::{Reason, Value, identity, stamp, v02};

const FORMAT: Format = Format::V03;
/// What the announcement itself says, or that there is no product: never taken from messages of other formats.
const OWN_FIELDS: [&str; 9] = [
    "pubTime",
    "baseUrl",
    "relPath",
    "size",
    "identity",
    "integrity",
    "parts",
    "blocks",
    "fileOp",
];

pub(super) fn decode(envelope: &Envelope) -> Result<Decoded, DecodeError> {
    let mut fields = match serde_json::from_slice(&envelope.body) {
        Ok(Json::Object(fields)) => fields,
        Ok(_) => return Err(DecodeError::NotJson { line: 0, column: 0 }),
        Err(error) => {
            return Err(DecodeError::NotJson {
                line: error.line(),
                column: error.column(),
            });
        }
    };
    let parts = fields.get("parts").and_then(Json::as_str);
    if let Some(reason) = reason_of(&fields).or(parts.and_then(v02::reason_of_parts)) {
        return Ok(Decoded::NotForFetching(reason));
    }
    let legacy_size = parts.and_then(v02::parse_parts);
    let (base, path) = (text(&fields, "baseUrl")?, text(&fields, "relPath")?);
    let mut announcement = place(FORMAT, base.as_bytes(), path.as_bytes())?;
    let time = stamp::parse(text(&fields, "pubTime")?).ok_or_else(|| bad("pubTime", "is no time"))?;
    announcement.time = Some(time);
    announcement.size = parse_json_size(fields.get("size"))?.or(legacy_size);
    announcement.identity = fields
        .get("identity")
        .or(fields.get("integrity"))
        .map(parse_identity)
        .transpose()?
        .flatten();
    announcement.mtime = fields.get("mtime").and_then(Json::as_str).and_then(stamp::parse);
    for name in [
        "pubTime",
        "baseUrl",
        "relPath",
        "size",
        "identity",
        "integrity",
        "parts",
    ] {
        fields.remove(name);
    }
    if announcement.mtime.is_some() {
        fields.remove("mtime");
    }
    announcement.headers = fields
        .into_iter()
        .map(|(name, value)| (name, from_json(value)))
        .collect();
    Ok(Decoded::Product(announcement))
}

fn bad(field: &'static str, problem: &'static str) -> DecodeError {
    DecodeError::Field {
        format: FORMAT,
        field,
        problem,
    }
}

fn text<'a>(fields: &'a Map<String, Json>, name: &'static str) -> Result<&'a str, DecodeError> {
    match fields.get(name) {
        Some(Json::String(text)) => Ok(text),
        Some(_) => Err(bad(name, "is no text")),
        None => Err(bad(name, "is missing")),
    }
}

fn reason_of(fields: &Map<String, Json>) -> Option<Reason> {
    if fields.get("blocks").is_some_and(|blocks| !blocks.is_null()) {
        return Some(Reason::Part);
    }
    let operation = fields.get("fileOp").filter(|operation| !operation.is_null())?;
    let has = |name| operation.get(name).is_some();
    Some(if has("rename") {
        Reason::Rename
    } else if has("remove") && has("directory") {
        Reason::DirectoryRemoved
    } else if has("remove") {
        Reason::Removal
    } else if has("link") || has("hlink") {
        Reason::Link
    } else if has("directory") {
        Reason::DirectoryMade
    } else {
        Reason::OtherOperation
    })
}

fn parse_json_size(size: Option<&Json>) -> Result<Option<u64>, DecodeError> {
    let parsed = match size {
        None | Some(Json::Null) => return Ok(None),
        Some(Json::Number(number)) => number.as_u64(),
        Some(Json::String(digits)) => parse_size(digits.as_bytes()),
        Some(_) => None,
    };
    parsed.map(Some).ok_or_else(|| bad("size", "is no number of bytes"))
}

fn parse_identity(field: &Json) -> Result<Option<Identity>, DecodeError> {
    if field.is_null() {
        return Ok(None);
    }
    let method = field
        .get("method")
        .and_then(Json::as_str)
        .ok_or_else(|| bad("identity", "names no method"))?;
    let value = match field.get("value") {
        Some(Json::String(value)) => value.clone(),
        Some(Json::Number(value)) => value.to_string(),
        _ => return Err(bad("identity", "has no value")),
    };
    let digest = |method: Method, of| {
        let hex = identity::base64_to_hex(&value).filter(|hex| identity::hex_digits(&method) == Some(hex.len()));
        hex.map(|value| Identity { method, value, of })
    };
    let not_a_digest = || bad("identity", "is no digest of its method");
    let unchecked = |method| Identity {
        method,
        value: value.clone(),
        of: DigestOf::Unknown,
    };
    Ok(Some(match method {
        "md5" => digest(Method::Md5, DigestOf::Content).ok_or_else(not_a_digest)?,
        "sha512" => digest(Method::Sha512, DigestOf::Content).ok_or_else(not_a_digest)?,
        "md5name" => digest(Method::Md5, DigestOf::Name).ok_or_else(not_a_digest)?,
        "random" => unchecked(Method::Random),
        "arbitrary" => unchecked(Method::Arbitrary),
        "cod" => unchecked(Method::ComputeOnDownload),
        other => unchecked(Method::Other(other.to_owned())),
    }))
}

pub(super) fn body(
    announcement: &Announcement,
    others: Headers,
    time: Timestamp,
    left_out: &mut Vec<String>,
) -> Result<Vec<u8>, EncodeError> {
    let not_utf8 = |_| EncodeError::Unnameable {
        format: FORMAT,
        problem: "is not UTF-8",
    };
    let path = std::str::from_utf8(&announcement.path.0).map_err(not_utf8)?;
    let mut fields = Map::new();
    fields.insert("pubTime".into(), stamp::to_nanoseconds(time, "T").into());
    fields.insert("baseUrl".into(), with_slash(&announcement.base).into());
    fields.insert("relPath".into(), path.into());
    if let Some(size) = announcement.size {
        fields.insert("size".into(), size.into());
    }
    if let Some(identity) = &announcement.identity {
        match identity_field(identity) {
            Some(field) => drop(fields.insert("identity".into(), field)),
            None => left_out.push("identity".to_owned()),
        }
    }
    if let Some(mtime) = announcement.mtime {
        fields.insert("mtime".into(), stamp::to_nanoseconds(mtime, "T").into());
    }
    for (name, value) in others {
        if fields.contains_key(&name) || OWN_FIELDS.contains(&name.as_str()) {
            continue;
        }
        match to_json(peers_value(&name, value)) {
            Some(value) => drop(fields.insert(name, value)),
            None => left_out.push(name),
        }
    }
    Ok(Json::Object(fields).to_string().into_bytes())
}

fn identity_field(identity: &Identity) -> Option<Json> {
    let value = identity.value.as_str();
    let base64 = || identity::valid_hex(&identity.method, value).and_then(|hex| identity::hex_to_base64(&hex));
    let (method, value) = match (&identity.method, identity.of) {
        (Method::Md5, DigestOf::Content) => ("md5", base64()?),
        (Method::Sha512, DigestOf::Content) => ("sha512", base64()?),
        (Method::Md5, DigestOf::Name) => ("md5name", base64()?),
        // Nobody may take it for a digest of the content.
        (Method::Md5 | Method::Sha512, _) | (Method::Arbitrary, _) => ("arbitrary", value.to_owned()),
        (Method::Random, _) => ("random", value.to_owned()),
        (Method::ComputeOnDownload, _) => ("cod", value.to_owned()),
        (Method::Other(method), _) => (method.as_str(), value.to_owned()),
    };
    Some(json!({ "method": method, "value": value }))
}

/// v03 writes times with a `T`.
fn peers_value(name: &str, value: Value) -> Value {
    let digits = |text: &str| text.len() >= 14 && text.as_bytes()[..14].iter().all(u8::is_ascii_digit);
    match value.as_str().filter(|text| name == "atime" && digits(text)) {
        Some(text) => Value::Str(format!("{}T{}", &text[..8], &text[8..]).into_bytes()),
        None => value,
    }
}

/// Keeps every JSON value exactly, but for the order within objects.
fn from_json(json: Json) -> Value {
    match json {
        Json::Null => Value::Void,
        Json::Bool(value) => Value::Bool(value),
        Json::Number(number) => from_number(&number),
        Json::String(text) => Value::Str(text.into_bytes()),
        Json::Array(values) => Value::Array(values.into_iter().map(from_json).collect()),
        Json::Object(fields) => Value::Table(
            fields
                .into_iter()
                .map(|(name, value)| (name, from_json(value)))
                .collect(),
        ),
    }
}

fn from_number(number: &Number) -> Value {
    match (number.as_i64(), number.as_u64()) {
        (Some(value), _) => Value::I64(value),
        // The only unsigned 64-bit type that headers have.
        (None, Some(value)) => Value::Timestamp(value),
        (None, None) => Value::F64(number.as_f64().unwrap_or(f64::NAN)),
    }
}

/// `None` for what JSON cannot say: text that is not UTF-8, numbers that are none.
fn to_json(value: Value) -> Option<Json> {
    Some(match value {
        Value::Void => Json::Null,
        Value::Bool(value) => value.into(),
        Value::I8(value) => value.into(),
        Value::U8(value) => value.into(),
        Value::I16(value) => value.into(),
        Value::U16(value) => value.into(),
        Value::I32(value) => value.into(),
        Value::U32(value) => value.into(),
        Value::I64(value) => value.into(),
        Value::Timestamp(value) => value.into(),
        Value::F32(value) => Number::from_f64(f64::from(value))?.into(),
        Value::F64(value) => Number::from_f64(value)?.into(),
        Value::Decimal(scale, digits) => Number::from_f64(f64::from(digits) / 10f64.powi(i32::from(scale)))?.into(),
        Value::Str(bytes) | Value::Bytes(bytes) => String::from_utf8(bytes).ok()?.into(),
        Value::Array(values) => Json::Array(values.into_iter().map(to_json).collect::<Option<_>>()?),
        Value::Table(table) => {
            let fields = table.into_iter().map(|(name, value)| Some((name, to_json(value)?)));
            Json::Object(fields.collect::<Option<_>>()?)
        }
    })
}
