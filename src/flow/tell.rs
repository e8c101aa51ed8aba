//! From a product to the messages that announce it: what everything that announces files has in common.

use std::path::Path;

use jiff::Timestamp;

use super::sample::Sampler;
use crate::config::Table;
use crate::message::{
    AnnounceAs, Announcement, DigestOf, EncodeError, Envelope, Format, Headers, Identity, Method, ProductPath,
    Template, UnitHeaders, Value, encode, split_tree_url,
};
use crate::metrics::{Count, Metrics};
use crate::spool::tree::{Digests, Needs};

/// `source`, `cluster` and `filename`.
pub(super) fn read_headers(table: &mut Table) -> UnitHeaders {
    UnitHeaders {
        source: table.string("source"),
        cluster: table.string("cluster"),
        filename: table.parsed(
            "filename",
            |text| Template::parse(text).map_err(|error| error.to_string()),
            "text; ${FILE} stands for the file name",
        ),
    }
}

/// `identity`.
pub(super) fn read_identity(table: &mut Table) -> Method {
    table
        .choice("identity", &[("md5", false), ("sha512", true)])
        .map_or(
            Method::Md5,
            |is_long| if is_long { Method::Sha512 } else { Method::Md5 },
        )
}

/// `url`, which there must be: the base that is announced, and what every path below it begins with.
pub(super) fn read_url(table: &mut Table, of: &str) -> Option<(String, Vec<u8>)> {
    let accepted = format!("the URL of {of}, without user and password");
    let divided = |text: &str| match text.parse::<url::Url>() {
        Ok(url) if url.username().is_empty() && url.password().is_none() => {
            split_tree_url(text).map_err(|error| error.to_string())
        }
        _ => Err(String::new()),
    };
    let url = table.parsed("url", divided, &accepted);
    if !table.has("url") {
        table.reject("url", &accepted);
    }
    url
}

/// How a unit announces.
#[derive(Clone, Copy)]
pub(super) struct How<'a> {
    /// The formats.
    pub(super) announce: &'a [AnnounceAs],
    /// The digest of v02 and v03.
    pub(super) identity: &'a Method,
    /// What the unit adds.
    pub(super) headers: &'a UnitHeaders,
    /// The `filename` header of exp, v00 and v02 where the unit has none of its own.
    pub(super) filename: Option<&'a [u8]>,
}

impl How<'_> {
    /// The digests that these formats need.
    pub(super) fn needs(&self) -> Needs {
        let mut needs = Needs::default();
        for how in self.announce {
            match self.method(how) {
                Some(Method::Md5) => needs.md5 = true,
                Some(Method::Sha512) => needs.sha512 = true,
                _ => {}
            }
        }
        needs
    }

    /// The digest of the content that a format carries, if it carries one.
    fn method(&self, how: &AnnounceAs) -> Option<Method> {
        match how.format {
            Format::Exp => None,
            Format::V00 if how.digest == DigestOf::Name => None,
            Format::V00 => Some(Method::Md5),
            Format::V02 | Format::V03 => Some(self.identity.clone()),
        }
    }

    fn headers(&self, format: Format) -> Headers {
        match self.filename.filter(|_| self.headers.filename.is_none()) {
            Some(name) if format != Format::V03 => Headers::from([("filename".to_owned(), Value::Str(name.to_vec()))]),
            _ => Headers::new(),
        }
    }
}

/// One version of a file that is ready.
pub(super) struct Ready<'a> {
    /// `scheme://authority/`.
    pub(super) base: &'a str,
    /// The path that follows it.
    pub(super) path: ProductPath,
    /// Bytes.
    pub(super) size: u64,
    /// Its modification time.
    pub(super) mtime: Option<Timestamp>,
    /// The digests of its content, as far as they are needed.
    pub(super) digests: &'a Digests,
}

/// What announces one version of a file.
pub(super) struct Told {
    /// One message per format, in the configured order.
    pub(super) envelopes: Vec<Envelope>,
    /// Formats that cannot carry it, and why.
    pub(super) unnameable: Vec<EncodeError>,
    /// A key lost words at its end.
    pub(super) is_key_cut: bool,
    /// Headers that did not fit.
    pub(super) left_out: Vec<String>,
    /// The path as announced.
    pub(super) path: ProductPath,
}

/// Announces one version of a file in each format.
pub(super) fn tell(ready: Ready<'_>, unit: How<'_>, now: Timestamp) -> Told {
    let mut announcement = Announcement {
        base: ready.base.to_owned(),
        path: ready.path,
        identity: None,
        size: Some(ready.size),
        time: Some(now),
        mtime: ready.mtime,
        headers: Headers::new(),
    };
    let mut told = Told {
        envelopes: Vec::with_capacity(unit.announce.len()),
        unnameable: Vec::new(),
        is_key_cut: false,
        left_out: Vec::new(),
        path: announcement.path.clone(),
    };
    for how in unit.announce {
        announcement.identity = unit.method(how).and_then(|method| content(method, ready.digests));
        announcement.headers = unit.headers(how.format);
        match encode(&announcement, how, unit.headers, now) {
            Ok(encoded) => {
                told.envelopes.push(encoded.envelope);
                told.is_key_cut |= encoded.is_key_cut;
                told.left_out.extend(encoded.left_out);
            }
            Err(error) => told.unnameable.push(error),
        }
    }
    told
}

impl Told {
    /// Counts and says what could not be told. Of cut keys it says so once, which `has_warned` remembers.
    pub(super) fn warn(&self, metrics: &Metrics, sampler: &Sampler, tree: &Path, has_warned: &mut bool) {
        if self.is_key_cut && !*has_warned {
            *has_warned = true;
            let tree = tree.display();
            tracing::warn!(%tree, path = %self.path, "keys of more than 255 bytes are cut at a dot");
        }
        for problem in &self.unnameable {
            metrics.count(Count::Unnameable);
            self.say(sampler, &format!("not announced in one format: {problem}"));
        }
        if !self.left_out.is_empty() {
            let names = self.left_out.join(", ");
            self.say(sampler, &format!("headers left out of an announcement: {names}"));
        }
    }

    fn say(&self, sampler: &Sampler, text: &str) {
        if let Some(unsaid) = sampler.take(text) {
            tracing::warn!(path = %self.path, unsaid, "{text}");
        }
    }
}

fn content(method: Method, digests: &Digests) -> Option<Identity> {
    let digest = match method {
        Method::Md5 => digests.md5.as_ref(),
        Method::Sha512 => digests.sha512.as_ref(),
        _ => None,
    };
    digest.map(|hex| Identity::of_content(method, hex.clone()))
}
