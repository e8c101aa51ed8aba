//! What may be fetched. A URL comes in a message, and whoever can publish could send px anywhere: so schemes, hosts and
//! directories are the operator's choice.

use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use percent_encoding::percent_decode_str;
use url::{Host, Url};

use super::{Kind, TransferError, shorten};
use crate::message::Fault;

const SFTP_PORT: u16 = 22;
/// Longest URL looked at.
const URL_MAX: usize = 8192;

/// The operator's choice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Lower case. `file` counts only with `file_roots`.
    pub schemes: Vec<String>,
    /// Hosts that may be fetched from; any when empty. Redirects elsewhere need an entry always.
    pub hosts: Vec<HostPattern>,
    /// Directories beneath which `file:` URLs may lie; absolute.
    pub file_roots: Vec<PathBuf>,
}

impl Default for Policy {
    fn default() -> Self {
        Policy {
            schemes: vec!["http".into(), "https".into()],
            hosts: Vec::new(),
            file_roots: Vec::new(),
        }
    }
}

/// `host` (every port) or `host:port`. Valid: `dd1.weather.gc.ca`, `urp-1:8080`, `[::1]:80`; invalid: `http://h`,
/// `h:x`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPattern {
    host: String,
    port: Option<u16>,
}

/// No host name was recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("accepted: host or host:port")]
pub struct BadHost;

impl FromStr for HostPattern {
    type Err = BadHost;

    fn from_str(text: &str) -> Result<Self, BadHost> {
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(port.parse().map_err(|_| BadHost)?)),
            _ => (text, None),
        };
        if host.is_empty()
            || host.contains(['/', '@', '?', '#', '\\'])
            || (host.contains(':') && !host.starts_with('['))
        {
            return Err(BadHost);
        }
        // As a URL, so that both sides of a comparison are normalised alike.
        let url = Url::parse(&format!("http://{host}/")).map_err(|_| BadHost)?;
        Ok(HostPattern {
            host: url.host_str().ok_or(BadHost)?.to_owned(),
            port,
        })
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => write!(f, "{}:{port}", self.host),
            None => f.write_str(&self.host),
        }
    }
}

impl HostPattern {
    fn matches(&self, url: &Url) -> bool {
        url.host_str() == Some(&self.host) && (self.port.is_none() || self.port == port_of(url))
    }
}

/// A URL that may be fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// `http` or `https`.
    Http(Url),
    /// `ftp` or `sftp`.
    Server(Remote),
    /// A file beneath one of the roots.
    File {
        /// The root.
        root: PathBuf,
        /// Beneath it, no leading slash.
        path: Vec<u8>,
    },
}

/// A file of a server that has logins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    /// As announced, the host in lower case.
    pub url: Url,
    /// By SFTP; else by FTP.
    pub is_sftp: bool,
    /// Name or address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// From the root with a slash; else from where the login begins.
    pub path: Vec<u8>,
}

/// The port that a URL means.
pub(super) fn port_of(url: &Url) -> Option<u16> {
    url.port_or_known_default()
        .or_else(|| (url.scheme() == "sftp").then_some(SFTP_PORT))
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Http(url) | Target::Server(Remote { url, .. }) => write!(f, "{}", shorten(url.as_str())),
            Target::File { root, path } => {
                write!(
                    f,
                    "file:{}/{}",
                    root.display(),
                    crate::message::ProductPath(path.clone())
                )
            }
        }
    }
}

impl Target {
    /// What may have to rest: the host, and the directory on it.
    pub(super) fn places(&self) -> [String; 2] {
        match self {
            Target::Http(url) | Target::Server(Remote { url, .. }) => {
                let port = port_of(url).unwrap_or_default();
                let host = format!("{}:{port}", url.host_str().unwrap_or_default());
                let directory = url.path().rsplit_once('/').map_or("", |(directory, _)| directory);
                let directory = format!("{host}{directory}/");
                [host, directory]
            }
            Target::File { root, .. } => {
                let root = format!("file:{}", root.display());
                [root.clone(), root + "/"]
            }
        }
    }
}

impl Policy {
    /// Whether this announced URL may be fetched, and how. Every refusal is a message fault.
    pub fn check(&self, text: &str) -> Result<Target, TransferError> {
        if text.len() > URL_MAX {
            return Err(refused("the announced URL is longer than 8192 bytes"));
        }
        // The text of a URL that does not parse is not repeated: it may hold a password.
        let mut url = Url::parse(text).map_err(|err| refused("the announced URL is none").caused_by(err))?;
        if let ("sftp", Some(host)) = (url.scheme(), url.host_str().map(str::to_ascii_lowercase)) {
            // Of the schemes that it does not know `Url` leaves the host as it is.
            url.set_host(Some(&host))
                .map_err(|err| refused("the announced URL has no host").caused_by(err))?;
        }
        if has_user_info(text, &url) {
            return Err(refused(format!(
                "the announced URL holds user information (host {})",
                host_of(&url)
            )));
        }
        if climbs(text) {
            return Err(refused(format!(
                "the path of {} has a . or .. in it",
                shorten(url.as_str())
            )));
        }
        match url.scheme() {
            "file" if self.file_roots.is_empty() => Err(refused(format!(
                "not fetching {}: file_roots is not set",
                shorten(url.as_str())
            ))),
            "file" => self.beneath_a_root(&url),
            scheme if !self.allows_scheme(scheme) => Err(refused(format!(
                "not fetching {}: the scheme is not in schemes",
                shorten(url.as_str())
            ))),
            "http" | "https" if self.hosts.is_empty() || self.is_listed(&url) => Ok(Target::Http(url)),
            "ftp" | "sftp" if self.hosts.is_empty() || self.is_listed(&url) => remote(url).map(Target::Server),
            "http" | "https" | "ftp" | "sftp" => Err(refused(format!(
                "not fetching {}: the host is not in hosts",
                shorten(url.as_str())
            ))),
            _ => Err(refused(format!(
                "not fetching {}: px cannot fetch this scheme",
                shorten(url.as_str())
            ))),
        }
    }

    /// Whether a redirect from the `announced` URL to `next` may be followed: to the announced host (from its http to
    /// its https port too), or to one in `hosts`.
    pub fn check_redirect(&self, announced: &Url, next: &Url) -> Result<(), TransferError> {
        let refuse = |why: &str| {
            let (from, to) = (shorten(announced.as_str()), host_of(next));
            Err(refused(format!(
                "not following {from} to {}://{to}: {why}",
                next.scheme()
            )))
        };
        if !matches!(next.scheme(), "http" | "https") || !self.allows_scheme(next.scheme()) {
            return refuse("the scheme is not allowed");
        }
        if !next.username().is_empty() || next.password().is_some() {
            return refuse("the redirect holds user information");
        }
        let is_same_host = next.host_str() == announced.host_str();
        let is_same_port = next.port_or_known_default() == announced.port_or_known_default();
        let are_default_ports = next.port().is_none() && announced.port().is_none();
        if (is_same_host && (is_same_port || are_default_ports)) || self.is_listed(next) {
            return Ok(());
        }
        refuse("the host is neither the announced one nor in hosts")
    }

    fn allows_scheme(&self, scheme: &str) -> bool {
        self.schemes.iter().any(|allowed| allowed == scheme)
    }

    fn is_listed(&self, url: &Url) -> bool {
        self.hosts.iter().any(|host| host.matches(url))
    }

    fn beneath_a_root(&self, url: &Url) -> Result<Target, TransferError> {
        let shown = shorten(url.as_str());
        if url.host_str().is_some() || url.query().is_some() || url.fragment().is_some() {
            return Err(refused(format!("not fetching {shown}: a file URL is file:/path")));
        }
        let path: Vec<u8> = percent_decode_str(url.path()).collect();
        if path.contains(&0) || climbs_bytes(&path) {
            return Err(refused(format!("not fetching {shown}: the path holds NUL, . or ..")));
        }
        let path = Path::new(std::ffi::OsStr::from_bytes(&path));
        for root in &self.file_roots {
            match path.strip_prefix(root) {
                Ok(beneath) if !beneath.as_os_str().is_empty() => {
                    return Ok(Target::File {
                        root: root.clone(),
                        path: beneath.as_os_str().as_bytes().to_vec(),
                    });
                }
                _ => {}
            }
        }
        Err(refused(format!(
            "not fetching {shown}: it is beneath none of file_roots"
        )))
    }
}

/// The file of an `ftp:` URL lies where the login begins, unless its path begins with an escaped slash; that of an
/// `sftp:` URL lies below the root, unless its path begins with `~/`.
fn remote(url: Url) -> Result<Remote, TransferError> {
    let shown = shorten(url.as_str()).to_string();
    if url.query().is_some() || url.fragment().is_some() {
        return Err(refused(format!("not fetching {shown}: a ? or # in a path is escaped")));
    }
    let path: Vec<u8> = percent_decode_str(url.path()).collect();
    if path.iter().any(u8::is_ascii_control) || path.ends_with(b"/") || path.is_empty() {
        return Err(refused(format!(
            "not fetching {shown}: the path holds control characters or no name"
        )));
    }
    let is_sftp = url.scheme() == "sftp";
    let path = match (is_sftp, path.strip_prefix(b"/~/"), path.strip_prefix(b"/")) {
        (true, Some(from_login), _) => from_login.to_vec(),
        (false, _, Some(from_login)) => from_login.to_vec(),
        _ => path,
    };
    let (host, port) = match (url.host(), port_of(&url)) {
        (Some(Host::Domain(name)), Some(port)) => (name.to_owned(), port),
        (Some(Host::Ipv4(address)), Some(port)) => (address.to_string(), port),
        (Some(Host::Ipv6(address)), Some(port)) => (address.to_string(), port),
        _ => return Err(refused(format!("not fetching {shown}: it names no host"))),
    };
    Ok(Remote {
        url,
        is_sftp,
        host,
        port,
        path,
    })
}

fn refused(what: impl Into<String>) -> TransferError {
    TransferError::new(Fault::Message, Kind::NotAllowed, what)
}

fn host_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or(host.to_owned(), |port| format!("{host}:{port}"))
}

/// `Url` forgets an empty user (`http://@h/`), so the text is looked at as well.
fn has_user_info(text: &str, url: &Url) -> bool {
    let after_scheme = text
        .split_once(':')
        .map_or("", |(_, rest)| rest)
        .trim_start_matches(['/', '\\']);
    let authority = after_scheme.split(['/', '\\', '?', '#']).next().unwrap_or_default();
    !url.username().is_empty() || url.password().is_some() || (url.scheme() != "file" && authority.contains('@'))
}

/// `Url` resolves dot segments silently, and would leave the announced base.
fn climbs(text: &str) -> bool {
    let path = text.split(['?', '#']).next().unwrap_or_default();
    let decoded: Vec<u8> = percent_decode_str(path).collect();
    climbs_bytes(&decoded)
}

fn climbs_bytes(path: &[u8]) -> bool {
    path.split(|byte| matches!(byte, b'/' | b'\\'))
        .any(|part| part == b"." || part == b"..")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(schemes: &[&str], hosts: &[&str], roots: &[&str]) -> Policy {
        Policy {
            schemes: schemes.iter().map(|scheme| scheme.to_string()).collect(),
            hosts: hosts.iter().map(|host| host.parse().unwrap()).collect(),
            file_roots: roots.iter().map(PathBuf::from).collect(),
        }
    }

    #[test]
    fn what_may_be_fetched() {
        let any = Policy::default();
        let one = policy(&["http"], &["dd1.weather.gc.ca", "urp-1:8080", "[::1]:80"], &[]);
        let files = policy(&["http", "file"], &[], &["/data/cache", "/apps"]);
        let table = [
            (&any, "http://h/a", true),
            (&any, "https://h:8443/a%20b?c", true),
            (&any, "ftp://h/a", false),
            (&any, "gopher://h/a", false),
            (&any, "data:text/plain,x", false),
            (&any, "file:///etc/hostname", false),
            (&any, "http://u:canary@h/a", false),
            (&any, "http://u@h/a", false),
            (&any, "http://@h/a", false),
            (&any, "http:/\\@h/a", false),
            (&any, "http://h/a@b", true),
            (&any, "http://h/x/../../y", false),
            (&any, "http://h/x/%2E%2e/y", false),
            (&any, "http://h/x/./y", false),
            (&any, "http://h/x..y/...", true),
            (&any, "http://h/x?y=../z", true),
            (&any, "not a url", false),
            (&any, "", false),
            (&any, "http://", false),
            (&one, "http://DD1.weather.gc.ca:9000/a", true),
            (&one, "https://dd1.weather.gc.ca/a", false),
            (&one, "http://evil/dd1.weather.gc.ca", false),
            (&one, "http://dd1.weather.gc.ca.evil/", false),
            (&one, "http://urp-1:8080/a", true),
            (&one, "http://urp-1/a", false),
            (&one, "http://[::1]/a", true),
            (&files, "file:///data/cache/x", true),
            (&files, "file:/apps/a%20b", true),
            (&files, "file://localhost/apps/a", true),
            (&files, "file:///data/cache", false),
            (&files, "file:///data/cachet/x", false),
            (&files, "file:///data/cache/../etc/x", false),
            (&files, "file:///data/cache/%2e%2e/etc/x", false),
            (&files, "file:///data/cache/..%2fx", false),
            (&files, "file:///data/cache/%00", false),
            (&files, "file:///data/cache/x?q", false),
            (&files, "file://other/data/cache/x", false),
            (&files, "file:///etc/hostname", false),
        ];
        for (policy, url, is_allowed) in table {
            let result = policy.check(url);
            assert_eq!(result.is_ok(), is_allowed, "{url}: {result:?}");
            if let Err(err) = result {
                assert_eq!((err.fault, err.kind), (Fault::Message, Kind::NotAllowed));
                assert!(!format!("{err:?}").contains("canary"));
            }
        }
        assert!(any.check(&format!("http://h/{}", "x".repeat(URL_MAX))).is_err());
        let beneath = files.check("file:///data/cache/a%20b/c").unwrap();
        assert_eq!(
            beneath,
            Target::File {
                root: "/data/cache".into(),
                path: b"a b/c".to_vec()
            }
        );
    }

    #[test]
    fn files_of_servers_with_logins() {
        let any = policy(&["ftp", "sftp"], &[], &[]);
        let one = policy(&["sftp"], &["h:22", "[::1]"], &[]);
        type Is<'a> = Option<(&'a str, u16, &'a str)>;
        let table: [(&Policy, &str, Is); 15] = [
            (&any, "ftp://h/a/b%20c", Some(("h", 21, "a/b c"))),
            (&any, "ftp://H:2121/%2Fa/b", Some(("h", 2121, "/a/b"))),
            (&any, "sftp://H/a/b", Some(("h", 22, "/a/b"))),
            (&any, "sftp://h:2222/~/a%3Fb", Some(("h", 2222, "a?b"))),
            (&any, "sftp://[::1]/a", Some(("::1", 22, "/a"))),
            (&one, "sftp://H/a", Some(("h", 22, "/a"))),
            (&one, "sftp://h:2222/a", None),
            (&one, "ftp://h/a", None),
            (&any, "ftp://u@h/a", None),
            (&any, "sftp://u:canary@h/a", None),
            (&any, "ftp://h/a%0d%0aDELE%20b", None),
            (&any, "sftp://h/a/%2e%2e/b", None),
            (&any, "ftp://h/a/", None),
            (&any, "ftp://h/a?b", None),
            (&any, "sftp:/a", None),
        ];
        for (policy, url, is) in table {
            let result = policy.check(url);
            assert!(!format!("{result:?}").contains("canary"), "{url}");
            match (result, is) {
                (Ok(Target::Server(remote)), Some((host, port, path))) => {
                    assert_eq!((remote.host.as_str(), remote.port), (host, port), "{url}");
                    assert_eq!(remote.path, path.as_bytes(), "{url}");
                    assert_eq!(remote.is_sftp, url.starts_with("sftp"));
                }
                (Err(err), None) => assert_eq!((err.fault, err.kind), (Fault::Message, Kind::NotAllowed), "{url}"),
                (result, _) => panic!("{url}: {result:?}"),
            }
        }
    }

    #[test]
    fn which_redirects_are_followed() {
        let any = Policy::default();
        let listed = policy(&["http"], &["h", "mirror:8080"], &["/data"]);
        let table = [
            (&any, "http://h/a", "http://h/b", true),
            (&any, "http://h/a", "https://h/b", true),
            (&any, "http://h:8000/a", "http://h:8000/b", true),
            (&any, "http://h/a", "http://h:8000/b", false),
            (&any, "http://h:8000/a", "https://h/b", false),
            (&any, "http://h/a", "http://other/b", false),
            (&any, "http://h/a", "http://u:canary@h/b", false),
            (&any, "http://h/a", "file:///etc/hostname", false),
            (&any, "http://h/a", "ftp://h/b", false),
            (&listed, "http://h/a", "http://mirror:8080/b", true),
            (&listed, "http://h/a", "http://mirror/b", false),
            (&listed, "http://h/a", "https://h/b", false),
            (&listed, "http://h/a", "file:///data/x", false),
        ];
        for (policy, from, to, is_allowed) in table {
            let result = policy.check_redirect(&Url::parse(from).unwrap(), &Url::parse(to).unwrap());
            assert_eq!(result.is_ok(), is_allowed, "{from} -> {to}: {result:?}");
            assert!(!format!("{result:?}").contains("canary"));
        }
    }

    #[test]
    fn hosts_are_names_with_or_without_a_port() {
        for (text, shown) in [
            ("H.example", "h.example"),
            ("h:80", "h:80"),
            ("[::1]", "[::1]"),
            ("[::1]:8080", "[::1]:8080"),
        ] {
            assert_eq!(text.parse::<HostPattern>().unwrap().to_string(), shown);
        }
        for text in [
            "", ":80", "h:", "h:x", "h:99999", "http://h", "h/x", "u@h", "::1", "h h",
        ] {
            assert_eq!(text.parse::<HostPattern>(), Err(BadHost), "{text}");
        }
    }
}
