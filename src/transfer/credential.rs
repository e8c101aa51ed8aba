//! Who px is on the servers that it fetches from: configured by prefixes of URLs, never by what a message names.

use std::path::PathBuf;

use url::Url;

use super::ftp::How;
use super::peer::Login;
use super::policy::port_of;

/// Who px is on the servers whose URLs begin with `prefix`. What the scheme cannot use is refused where the
/// configuration is read.
#[derive(Debug, Clone)]
pub struct Credential {
    /// Scheme, host, port and the beginning of the path, whole segments.
    pub prefix: Url,
    /// Who px is.
    pub login: Login,
    /// SSH: a file of host keys; those of the user and the host when absent.
    pub known_hosts: Option<PathBuf>,
    /// FTP: what it leaves to the sites.
    pub how: How,
}

impl Credential {
    /// With nothing but a login.
    pub fn new(prefix: Url, login: Login) -> Credential {
        Credential {
            prefix,
            login,
            known_hosts: None,
            how: How::default(),
        }
    }

    fn is_for(&self, url: &Url) -> bool {
        let prefix = self.prefix.path().trim_end_matches('/');
        let is_beneath = url
            .path()
            .strip_prefix(prefix)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        is_beneath
            && self.prefix.scheme() == url.scheme()
            && self.prefix.host_str() == url.host_str()
            && port_of(&self.prefix) == port_of(url)
    }

    /// The one with the longest prefix.
    pub(super) fn find<'a>(known: &'a [Credential], url: &Url) -> Option<&'a Credential> {
        let fitting = known.iter().filter(|known| known.is_for(url));
        fitting.max_by_key(|known| known.prefix.path().len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    #[test]
    fn a_credential_is_for_its_prefix_only() {
        let credential = |prefix: &str| {
            let login = Login {
                user: "u".into(),
                password: Some(Secret::new("canary")),
                ..Login::default()
            };
            Credential::new(Url::parse(prefix).unwrap(), login)
        };
        let table = [
            ("http://h/data", "http://h/data/x", true),
            ("http://h/data/", "http://h:80/data/x", true),
            ("http://h", "http://h/x", true),
            ("http://h/data", "http://h/database", false),
            ("http://h/data", "https://h/data/x", false),
            ("http://h/data", "http://h:8080/data/x", false),
            ("http://h/data", "http://h.evil/data/x", false),
            ("http://h/data", "http://h/other", false),
            ("sftp://h", "sftp://h:22/x", true),
            ("sftp://h", "sftp://h:2222/x", false),
            ("ftp://h:21/a", "ftp://h/a/x", true),
        ];
        for (prefix, url, is_for) in table {
            let url = Url::parse(url).unwrap();
            assert_eq!(credential(prefix).is_for(&url), is_for, "{prefix} {url}");
        }
        assert!(!format!("{:?}", credential("http://h")).contains("canary"));
        let (wide, narrow) = (credential("http://h"), credential("http://h/data"));
        let known = [narrow, wide];
        let found = |url: &str| Credential::find(&known, &Url::parse(url).unwrap()).map(|known| known.prefix.as_str());
        assert_eq!(found("http://h/data/x"), Some("http://h/data"));
        assert_eq!(found("http://h/x"), Some("http://h/"));
        assert_eq!(found("http://i/x"), None);
    }
}
