//! The announced base URL, and what follows from it: the URL to fetch, and who announced.

use std::borrow::Cow;

use url::Url;

use super::{Announcement, escape};

const BASE_BYTES_MAX: usize = 2048;

/// Why an announced base cannot be used. Never quotes it: it may hold a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BaseError {
    /// Not `scheme://authority/…`.
    #[error("the base is no absolute URL")]
    NotAbsolute,
    /// With `?` or `#` in it, nothing can follow.
    #[error("the base URL has a query or a fragment")]
    HasQuery,
    /// Longer than any host and directory need.
    #[error("the base URL is longer than {BASE_BYTES_MAX} bytes")]
    TooLong,
}

/// The base with exactly one slash at its end. Valid: `http://h`, `https://h:8443/x/`, `file:/`; invalid: `h/x`,
/// `http:/h`, `http://h/?q=`.
pub(super) fn normalized(text: &str) -> Result<String, BaseError> {
    if text.len() > BASE_BYTES_MAX {
        return Err(BaseError::TooLong);
    }
    let root = root_len(text)
        .filter(|_| !text.contains("%00"))
        .ok_or(BaseError::NotAbsolute)?;
    if text.contains(['?', '#']) {
        return Err(BaseError::HasQuery);
    }
    let url = Url::parse(text).map_err(|_| BaseError::NotAbsolute)?;
    if url.cannot_be_a_base() || (url.host_str().unwrap_or_default().is_empty() && url.scheme() != "file") {
        return Err(BaseError::NotAbsolute);
    }
    let directories = text[root..].trim_end_matches('/');
    let slash = if directories.is_empty() && text[..root].ends_with('/') {
        ""
    } else {
        "/"
    };
    Ok(format!("{}{directories}{slash}", &text[..root]))
}

/// How long `scheme://authority/` is (without its slash where the text has none); `None` when the text does not begin
/// like that. `Url` alone is too kind: it reads `http:h` and `http:///h` as `http://h/`, and a backslash as a slash.
pub(super) fn root_len(text: &str) -> Option<usize> {
    let (scheme, rest) = text.split_once(':')?;
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    if !is_scheme || text.bytes().any(|byte| byte <= b' ' || byte == 0x7f || byte == b'\\') {
        return None;
    }
    let is_file = scheme.eq_ignore_ascii_case("file");
    match rest.strip_prefix("//") {
        Some(rest) => {
            let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
            let slash = usize::from(rest[authority.len()..].starts_with('/'));
            let is_whole = !authority.is_empty() || (is_file && slash == 1);
            is_whole.then_some(scheme.len() + 3 + authority.len() + slash)
        }
        None => (is_file && rest.starts_with('/')).then_some(scheme.len() + 2),
    }
}

/// Divides the URL of a tree into the base that is announced, `scheme://authority/`, and what every path below it
/// begins with: `http://h/x/my%20xml` becomes `http://h/` and `x/my xml/`.
pub fn split_tree_url(url: &str) -> Result<(String, Vec<u8>), BaseError> {
    let whole = normalized(url)?;
    let root = root_len(&whole).ok_or(BaseError::NotAbsolute)?;
    Ok((whole[..root].to_owned(), escape::undo(&whole.as_bytes()[root..])))
}

/// The base for people to read.
pub(super) fn without_user_info(base: &str) -> Cow<'_, str> {
    let Some((scheme, rest)) = base.split_once("://") else {
        return Cow::Borrowed(base);
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    match authority.rfind('@') {
        Some(at) => Cow::Owned(format!("{scheme}://***{}", &rest[at..])),
        None => Cow::Borrowed(base),
    }
}

impl Announcement {
    /// The URL to fetch: base and escaped path, with exactly one slash between. Where the announcement names another
    /// place below its base to fetch from (v03 `retrievePath`), that place instead of the path.
    pub fn fetch_url(&self) -> String {
        let elsewhere = ["retrievePath", "retPath"]
            .into_iter()
            .find_map(|name| self.headers.get(name)?.as_str());
        let path = match elsewhere.map(|path| path.trim_start_matches('/')) {
            Some(path) if !path.is_empty() => escape::url_text(path),
            _ => escape::path(&self.path.0),
        };
        let slash = if self.base.ends_with('/') { "" } else { "/" };
        format!("{}{slash}{path}", self.base)
    }

    /// Who announced: `host:port` of the base in lower case, the scheme's own port filled in. `localhost` for files
    /// without a host; the bare host where the scheme has no port that everybody knows.
    pub fn source(&self) -> String {
        let Ok(url) = Url::parse(&self.base) else {
            return String::new();
        };
        let host = match url.host_str().unwrap_or_default() {
            "" => "localhost".to_owned(),
            host => host.to_ascii_lowercase(),
        };
        let well_known = match url.scheme() {
            "sftp" => Some(22),
            "ftps" => Some(990),
            _ => None,
        };
        match url.port_or_known_default().or(well_known) {
            Some(port) => format!("{host}:{port}"),
            None => host,
        }
    }

    /// Whether the base holds a user name or a password.
    pub fn has_user_info(&self) -> bool {
        Url::parse(&self.base).is_ok_and(|url| !url.username().is_empty() || url.password().is_some())
            || without_user_info(&self.base) != self.base
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{ProductPath, Value};

    fn announcement(base: &str, path: &str) -> Announcement {
        Announcement::new(base, ProductPath::from(path)).unwrap()
    }

    #[test]
    fn a_base_is_an_absolute_url_with_one_slash_at_its_end() {
        let table = [
            ("http://dd1.weather.gc.ca/", "http://dd1.weather.gc.ca/"),
            ("http://dd1.weather.gc.ca", "http://dd1.weather.gc.ca/"),
            ("https://h:8443/a/b", "https://h:8443/a/b/"),
            ("https://h:8443/a/b///", "https://h:8443/a/b/"),
            ("http://h//", "http://h/"),
            ("sftp://px@host/", "sftp://px@host/"),
            ("file:/", "file:/"),
            ("file:///", "file:///"),
            ("file:/data", "file:/data/"),
            ("http://[::1]:80/", "http://[::1]:80/"),
        ];
        for (text, wanted) in table {
            assert_eq!(normalized(text).as_deref(), Ok(wanted), "{text}");
        }
        let bad = [
            "",
            "h/x",
            "/data/",
            "http:/h/",
            "http:h",
            "http:///h",
            "http://",
            "://h/",
            "1http://h/",
            "http://h /",
            "http://h\\@evil/",
            "mailto:a@b",
            "http://h\n/",
            "http://a:b:c/",
            "file:",
            "file://",
            "http://h/%00",
            "data:text",
            "http://[::1/",
        ];
        for text in bad {
            assert_eq!(normalized(text), Err(BaseError::NotAbsolute), "{text:?}");
        }
        assert_eq!(normalized("http://h/?x=/"), Err(BaseError::HasQuery));
        assert_eq!(normalized("http://h#/"), Err(BaseError::HasQuery));
        assert_eq!(
            normalized(&format!("http://h/{}", "x".repeat(5000))),
            Err(BaseError::TooLong)
        );
    }

    #[test]
    fn a_tree_url_is_base_and_start_of_the_paths() {
        let table = [
            (
                "http://dd1.weather.gc.ca/citypage_weather/xml/",
                "http://dd1.weather.gc.ca/",
                "citypage_weather/xml/",
            ),
            ("http://h/x/my%20xml", "http://h/", "x/my xml/"),
            ("http://h:81", "http://h:81/", ""),
            ("file:///data/x", "file:///", "data/x/"),
            ("file:/data/x", "file:/", "data/x/"),
        ];
        for (url, base, start) in table {
            assert_eq!(
                split_tree_url(url),
                Ok((base.to_owned(), start.as_bytes().to_vec())),
                "{url}"
            );
        }
        assert_eq!(split_tree_url("/data/x"), Err(BaseError::NotAbsolute));
    }

    #[test]
    fn the_url_to_fetch_is_base_and_escaped_path() {
        let table = [
            (
                "http://urp-1/",
                "db/a~~PA,60:URP::2015",
                "http://urp-1/db/a~~PA,60:URP::2015",
            ),
            ("http://h/x", "a b/100%.gif", "http://h/x/a%20b/100%25.gif"),
            ("http://h/", "a?b#c", "http://h/a%3Fb%23c"),
            ("file:/", "data/old.cap", "file:/data/old.cap"),
        ];
        for (base, path, wanted) in table {
            assert_eq!(announcement(base, path).fetch_url(), wanted);
        }
        let mut elsewhere = announcement("http://h/x/", "a.gif");
        elsewhere.headers.insert("retPath".into(), "/get?f=a b%20c".into());
        assert_eq!(elsewhere.fetch_url(), "http://h/x/get?f=a%20b%20c");
        elsewhere
            .headers
            .insert("retrievePath".into(), Value::Str(b"//evil.com/x#y".to_vec()));
        assert_eq!(elsewhere.fetch_url(), "http://h/x/evil.com/x%23y");
        elsewhere
            .headers
            .insert("retrievePath".into(), Value::Str(b"/".to_vec()));
        assert_eq!(elsewhere.fetch_url(), "http://h/x/a.gif");
    }

    #[test]
    fn a_source_is_host_and_port() {
        let table = [
            ("http://URP-1.cmc.ec.gc.ca/", "urp-1.cmc.ec.gc.ca:80"),
            ("http://urp-1.cmc.ec.gc.ca:80/x/", "urp-1.cmc.ec.gc.ca:80"),
            ("https://u:p@h/", "h:443"),
            ("sftp://px@Host/", "host:22"),
            ("ftp://h:2121/", "h:2121"),
            ("file:/data/", "localhost"),
            ("s3://Bucket/", "bucket"),
            ("http://[::1]/", "[::1]:80"),
        ];
        for (base, wanted) in table {
            assert_eq!(announcement(base, "x").source(), wanted, "{base}");
        }
    }

    #[test]
    fn user_information_is_seen_and_never_printed() {
        for base in [
            "sftp://px@host/",
            "http://u:canary@h/",
            "http://:canary@h/",
            "http://u@x:canary@h/",
            "http://@h/",
        ] {
            let announcement = announcement(base, "x");
            assert!(announcement.has_user_info(), "{base}");
            let shown = format!("{announcement} {announcement:?}");
            assert!(!shown.contains("canary") && !shown.contains("px@"), "{shown}");
        }
        assert!(!announcement("http://h/a@b/", "x").has_user_info());
        assert_eq!(announcement("http://h/a/", "b\n").to_string(), "http://h/a/b\\n");
    }
}
