//! A broker as the site file names it.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::error::NOT_SERVED;
use super::secrets::Secrets;
use super::url::{self, Parsed, Variables};
use super::{Places, Secret, Table, options};
use crate::message::Exchange;

/// The transports a URL can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Scheme {
    Amqp,
    Amqps,
    Embedded,
    Stomp,
    StompTls,
    Amqp10,
    Amqps10,
}

impl Scheme {
    pub(super) const ALL: [Scheme; 7] = [
        Scheme::Amqp,
        Scheme::Amqps,
        Scheme::Embedded,
        Scheme::Stomp,
        Scheme::StompTls,
        Scheme::Amqp10,
        Scheme::Amqps10,
    ];

    /// As in a URL.
    pub fn name(self) -> &'static str {
        match self {
            Scheme::Amqp => "amqp",
            Scheme::Amqps => "amqps",
            Scheme::Embedded => "embedded",
            Scheme::Stomp => "stomp",
            Scheme::StompTls => "stomp+ssl",
            Scheme::Amqp10 => "amqp10",
            Scheme::Amqps10 => "amqps10",
        }
    }

    /// Whether this version speaks it. Units of a broker that it does not speak are refused when they start.
    pub fn is_served(self) -> bool {
        matches!(self, Scheme::Amqp | Scheme::Amqps | Scheme::Embedded)
    }

    pub(super) fn default_port(self) -> u16 {
        match self {
            Scheme::Amqp | Scheme::Amqp10 => 5672,
            Scheme::Amqps | Scheme::Amqps10 => 5671,
            Scheme::Stomp => 61613,
            Scheme::StompTls => 61614,
            Scheme::Embedded => 0,
        }
    }

    /// The same protocol, with or without TLS.
    fn is_akin(self, other: Scheme) -> bool {
        let plain = |scheme| match scheme {
            Scheme::Amqps => Scheme::Amqp,
            Scheme::StompTls => Scheme::Stomp,
            Scheme::Amqps10 => Scheme::Amqp10,
            plain => plain,
        };
        plain(self) == plain(other)
    }
}

/// One failover candidate. Prints without its password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerUrl {
    /// The transport.
    pub scheme: Scheme,
    /// User name; `guest` when the URL names none.
    pub user: String,
    /// Password, from the URL, the environment or the secrets file.
    pub password: Secret,
    /// Host name or address; for `embedded:` empty.
    pub host: String,
    /// Port; the transport's default when the URL names none.
    pub port: u16,
    /// Virtual host, decoded; `/` for `amqp://h` and `amqp://h/`.
    pub vhost: String,
    /// For `embedded:` the database file, absolute.
    pub path: PathBuf,
    /// From `?heartbeat=`; seconds, default 30.
    pub heartbeat_s: u16,
    /// From `?frame_max=`; bytes, default 16384.
    pub frame_max: u32,
}

impl BrokerUrl {
    /// A URL from a command line: `${NAME}` is the environment's, a user without a password has an empty one. The
    /// error never quotes the text.
    pub fn parse(text: &str, places: &Places) -> Result<BrokerUrl, String> {
        let parsed = url::parse(text, &places.spool, &url::environment);
        parsed
            .map(|parsed| parsed.url)
            .map_err(|why| format!("{why}; accepted: {}", url::ACCEPTED))
    }

    /// Whether nobody can log in with it: it names a user, and there is no password anywhere.
    pub fn lacks_password(&self) -> bool {
        self.scheme != Scheme::Embedded && self.password.expose().is_empty()
    }

    /// Whether it is on this very host. A name other than `localhost` is not looked up.
    pub fn is_local(&self) -> bool {
        self.scheme == Scheme::Embedded
            || self.host.eq_ignore_ascii_case("localhost")
            || self.host.parse().is_ok_and(|host: IpAddr| host.is_loopback())
    }

    pub(super) fn unset(scheme: Scheme) -> BrokerUrl {
        BrokerUrl {
            scheme,
            user: String::new(),
            password: Secret::default(),
            host: String::new(),
            port: 0,
            vhost: "/".to_string(),
            path: PathBuf::new(),
            heartbeat_s: 30,
            frame_max: 16384,
        }
    }
}

impl fmt::Display for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = self.scheme.name();
        if self.scheme == Scheme::Embedded {
            return write!(f, "{scheme}:{}", self.path.display());
        }
        let encoded = |text| utf8_percent_encode(text, NON_ALPHANUMERIC);
        write!(f, "{scheme}://{}@", self.user)?;
        match self.host.contains(':') {
            true => write!(f, "[{}]", self.host)?,
            false => f.write_str(&self.host)?,
        }
        write!(f, ":{}/", self.port)?;
        match self.vhost.as_str() {
            "/" => Ok(()),
            vhost => write!(f, "{}", encoded(vhost)),
        }
    }
}

/// The management API of a broker, for the reaper and administration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Management {
    /// `http` or `https`, without user information and without a final slash.
    pub url: String,
    /// From `user`, or from the URL.
    pub user: String,
    /// From the URL or the secrets; empty where there is none.
    pub password: Secret,
}

/// `[brokers.NAME]` of `px.toml`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broker {
    /// NAME.
    pub name: String,
    /// Failover candidates, at least one; all of one transport.
    pub urls: Vec<BrokerUrl>,
    /// Try the candidates in random order (default) or as written.
    pub random_order: bool,
    /// The exchange units use unless they say otherwise.
    pub exchange: Option<Exchange>,
    /// Management API.
    pub management: Option<Management>,
    /// PEM file of the CA that signs the broker's certificate; the system's CAs when absent.
    pub ca_file: Option<PathBuf>,
    /// For each candidate; default 10 s.
    pub connect_timeout: Duration,
    /// For a publish to be confirmed and for any other answer; default 30 s.
    pub reply_timeout: Duration,
}

/// What a name of a broker is made of.
pub(super) const NAME: &str = "a name of at most 64 letters, digits, '_' and '-'";

pub(super) fn is_name(name: &str) -> bool {
    let legal = |b: u8| b.is_ascii_alphanumeric() || b"_-".contains(&b);
    !name.is_empty() && name.len() <= 64 && name.bytes().all(legal)
}

/// What reading a broker needs to know of the rest of the site.
pub(super) struct Surroundings<'a> {
    pub spool: &'a Path,
    pub variables: Variables<'a>,
    pub secrets: &'a Secrets,
    /// Anybody on the host can read the file that the brokers stand in.
    pub is_open: bool,
}

impl Surroundings<'_> {
    /// A password in a file that anybody can read is as secret as the file.
    fn warn_of_open_password(&self, table: &mut Table, key: &str, broker: &str, user: &str) {
        if self.is_open {
            table.warn(
                key,
                &format!(
                    "everybody can read the password of {user} here: put it into secrets.toml (0600) as [{broker}] \
                     {user} = \"…\", or run chmod o-r on this file"
                ),
            );
        }
    }

    /// As that in a URL is missed; where the secrets were refused, that has been told.
    fn warn_of_missing_password(&self, table: &mut Table, key: &str, broker: &str, user: &str) {
        if !self.secrets.refused() {
            table.warn(
                key,
                &format!("no password for {user}: secrets.toml (0600) has no [{broker}] {user} = \"…\""),
            );
        }
    }
}

impl Broker {
    /// The same broker with another virtual host in all of its URLs.
    pub fn in_vhost(&self, vhost: &str) -> Broker {
        let mut broker = self.clone();
        for url in &mut broker.urls {
            vhost.clone_into(&mut url.vhost);
        }
        broker
    }

    /// A broker with one URL and every other option at its default.
    pub fn new(name: &str, url: BrokerUrl) -> Broker {
        Broker {
            name: name.to_string(),
            urls: vec![url],
            random_order: true,
            exchange: None,
            management: None,
            ca_file: None,
            connect_timeout: Duration::from_secs(10),
            reply_timeout: Duration::from_secs(30),
        }
    }

    /// Reads `[brokers.NAME]`.
    pub(super) fn read(table: &mut Table, name: &str, around: &Surroundings) -> Option<Broker> {
        let urls = urls(table, name, around);
        let exchange = options::exchange_at(table, "exchange");
        let management = table.within("management", |table| management(table, name, around));
        let ca_file = table.parsed("ca_file", absolute, "an absolute path");
        let order = table.choice("order", &[("random", true), ("given", false)]);
        let connect_timeout = options::positive_duration(table, "connect_timeout");
        let reply_timeout = options::positive_duration(table, "reply_timeout");
        let urls = urls?;
        let longest = urls.iter().filter_map(|parsed| parsed.connect_timeout).max();
        if longest.is_some() && connect_timeout.is_some() {
            table.refuse("connect_timeout", "a URL has connection_timeout already; say it once");
        }
        let mut urls = urls.into_iter().map(|parsed| parsed.url);
        let plain = Broker::new(name, urls.next()?);
        Some(Broker {
            urls: plain.urls.into_iter().chain(urls).collect(),
            random_order: order.unwrap_or(true),
            exchange,
            management,
            ca_file,
            connect_timeout: connect_timeout.or(longest).unwrap_or(plain.connect_timeout),
            reply_timeout: reply_timeout.unwrap_or(plain.reply_timeout),
            name: plain.name,
        })
    }
}

fn urls(table: &mut Table, name: &str, around: &Surroundings) -> Option<Vec<Parsed>> {
    let parse = |text: &str| {
        let mut parsed = url::parse(text, around.spool, around.variables)?;
        if parsed.wants_password
            && let Some(password) = around.secrets.find(name, &parsed.url.user)?
        {
            parsed.url.password = password;
            parsed.wants_password = false;
        }
        Ok(parsed)
    };
    let urls = table.parsed_list("urls", parse, &format!("a list of {}", url::ACCEPTED));
    if !table.has("urls") || urls.as_ref().is_some_and(Vec::is_empty) {
        table.reject("urls", &format!("a list of {}", url::ACCEPTED));
    }
    let urls = urls?;
    let first = urls.first()?.url.scheme;
    if urls.iter().any(|parsed| !parsed.url.scheme.is_akin(first)) {
        table.refuse("urls", "the candidates of one broker speak one protocol");
    } else if first == Scheme::Embedded && urls.len() > 1 {
        table.refuse("urls", "an embedded broker is one file");
    }
    if !first.is_served() {
        table.warn("urls", NOT_SERVED);
    }
    let mut users: Vec<&str> = urls
        .iter()
        .filter(|p| p.wants_password)
        .map(|p| p.url.user.as_str())
        .collect();
    users.dedup();
    for user in users {
        around.warn_of_missing_password(table, "urls", name, user);
    }
    if let Some(open) = urls.iter().find(|parsed| parsed.has_written_password) {
        around.warn_of_open_password(table, "urls", name, &open.url.user);
    }
    Some(urls)
}

fn management(table: &mut Table, name: &str, around: &Surroundings) -> Option<Management> {
    let parse = |text: &str| {
        let management = management_url(text, around.variables)?;
        Ok((management, url::has_written_password(text)))
    };
    let url = table.parsed("url", parse, "https://HOST:PORT");
    if !table.has("url") {
        table.reject("url", "https://HOST:PORT");
    }
    let user = table.string("user").filter(|user| !user.is_empty());
    let (mut management, is_written) = url?;
    match user {
        Some(_) if !management.user.is_empty() => {
            table.refuse("user", "the URL names a user already; say it once");
            return None;
        }
        Some(user) => management.user = user,
        None if management.user.is_empty() => {
            table.reject("user", "the user of the management API");
            return None;
        }
        None => {}
    }
    if management.password.expose().is_empty() {
        match around.secrets.find(name, &management.user) {
            Ok(Some(password)) => management.password = password,
            Ok(None) => {
                let key = if table.has("user") { "user" } else { "url" };
                around.warn_of_missing_password(table, key, name, &management.user);
            }
            Err(why) => table.refuse("user", &why),
        }
    } else if is_written {
        around.warn_of_open_password(table, "url", name, &management.user);
    }
    Some(management)
}

fn management_url(text: &str, variables: Variables) -> Result<Management, String> {
    // A variable stands for itself inside a URL, so a password in one needs no escaping: it is taken out first.
    let text = url::whole(text, variables)?;
    let (scheme, rest) = text.split_once("://").ok_or_else(String::new)?;
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (login, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    let (user, password) = login.split_once(':').unwrap_or((login, ""));
    let address = format!(
        "{scheme}://{}/{}",
        url::expand(host, variables)?,
        url::expand(path, variables)?
    );
    let parsed = ::url::Url::parse(&address).map_err(|_| String::new())?;
    let plain = parsed.query().is_none() && parsed.fragment().is_none() && parsed.username().is_empty();
    if !matches!(parsed.scheme(), "http" | "https") || !plain {
        return Err(String::new());
    }
    Ok(Management {
        url: parsed.as_str().trim_end_matches('/').to_string(),
        user: url::decode(user, variables)?,
        password: Secret::new(url::decode(password, variables)?),
    })
}

fn absolute(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if path.is_absolute() && !text.contains('\0') {
        Ok(path)
    } else {
        Err(String::new())
    }
}
