//! `destination`, and the options that go with one scheme or another.

use std::time::Duration;

use url::Url;

use crate::config::Table;
use crate::config::options::{self, Wanted, named_file};
use crate::spool::Durability;
use crate::transfer::deliver::{Destination, HttpDestination, Lock, Options};
use crate::transfer::ftp::How;
use crate::transfer::peer::{Login, Peer, Trust};

const DESTINATION: &str = "\"file:\", \"ftp://USER@HOST\", \"sftp://USER@HOST\", \
                           \"http://USER@HOST/PATH/\" or \"https://USER@HOST/PATH/\", of which http and https need no USER, without a password; directory is an option of its own";
const LOCK: &str = "\".tmp\" or another suffix that begins with a dot, \"umask\", \"none\"";
const CHMOD: &str = "three octal digits, such as \"664\"";
const CONNECTIONS_MAX: i64 = 64;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// The rest of the destination, of a directory of it, or of the unit, where nobody else says how long.
pub(super) const REST_FIRST: Duration = Duration::from_secs(1);
pub(super) const REST_LONGEST: Duration = Duration::from_secs(60);

/// Where products go, and over how many connections.
#[derive(Debug, Clone)]
pub(super) struct Config {
    pub(super) options: Options,
    pub(super) connections: usize,
    /// What is delivered gets the time of the file here.
    pub(super) keeps_time: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scheme {
    File,
    Ftp,
    Sftp,
    Http,
    Https,
}

use Scheme::{File, Ftp, Http, Https, Sftp};

impl Scheme {
    fn name(self) -> &'static str {
        match self {
            File => "file:",
            Ftp => "ftp://",
            Sftp => "sftp://",
            Http => "http://",
            Https => "https://",
        }
    }
}

/// Options that not every destination has, and those that have them.
const FITTING: [(&str, &[Scheme]); 18] = [
    ("password", &[Ftp, Sftp, Http, Https]),
    ("password_file", &[Ftp, Sftp, Http, Https]),
    ("key_file", &[Sftp]),
    ("agent", &[Sftp]),
    ("known_hosts", &[Sftp]),
    ("ca_file", &[Ftp, Https]),
    ("certificate_file", &[Ftp, Https]),
    ("ftp_mode", &[Ftp]),
    ("tls", &[Ftp]),
    ("ascii", &[Ftp]),
    ("webdav", &[Http, Https]),
    ("lock", &[File, Ftp, Sftp, Http, Https]),
    ("chmod", &[File, Ftp, Sftp]),
    ("mtime", &[File, Ftp, Sftp]),
    ("mkdir", &[File, Ftp, Sftp, Http, Https]),
    ("sync", &[File]),
    ("connect_timeout", &[Ftp, Sftp, Http, Https]),
    ("read_timeout", &[Ftp, Sftp, Http, Https]),
];
/// Options that every destination has, and a script has not.
const COMMON: [&str; 3] = ["destination", "connections", "bandwidth"];

/// The parts of a `destination`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Address {
    scheme: Scheme,
    user: String,
    host: String,
    port: u16,
    url: Url,
}

/// Notes what a unit must not have that gives its products to a script. Whether it has nothing of it.
pub(super) fn refuse_all(table: &mut Table) -> bool {
    let keys = COMMON.into_iter().chain(FITTING.map(|(key, _)| key));
    let mut is_good = true;
    for key in keys.filter(|key| table.has(key)).collect::<Vec<_>>() {
        table.refuse(key, "not with send_script, which delivers by itself");
        is_good = false;
    }
    is_good
}

impl Config {
    /// Whether that is this host, so that directories must be absolute.
    pub(super) fn is_local(&self) -> bool {
        matches!(self.options.destination, Destination::File)
    }

    /// Reads `destination` and all options that say how to deliver there; what is wrong is noted in the table.
    pub(super) fn read(table: &mut Table) -> Option<Config> {
        if !table.has("destination") {
            table.reject("destination", &format!("{DESTINATION}; or send_script"));
        }
        let address = table.parsed("destination", parse, DESTINATION);
        let connections = table.integer("connections", 1..=CONNECTIONS_MAX).unwrap_or(1);
        let bandwidth = table.size("bandwidth");
        if bandwidth == Some(0) {
            table.reject("bandwidth", "a size above zero, a second");
        }
        let Some(address) = address else {
            FITTING.iter().for_each(|(key, _)| table.know(key));
            return None;
        };
        let mut is_good = fits(table, address.scheme);
        let destination = read_destination(table, &address);
        let lock = read_lock(table, destination.as_ref());
        let mode = table.parsed("chmod", parse_mode, CHMOD);
        is_good &= mode.is_some() == table.has("chmod");
        let keeps_time = table.boolean("mtime").unwrap_or(false);
        let mkdir = table.boolean("mkdir");
        let durability = options::sync(table, Durability::Power, Durability::Crash);
        let destination = destination?;
        let options = Options {
            lock: lock?,
            mode,
            makes_directories: mkdir.unwrap_or(is_writable_tree(&destination)),
            bandwidth: bandwidth.filter(|bandwidth| *bandwidth > 0),
            durability,
            rest_first: REST_FIRST,
            rest_longest: REST_LONGEST,
            destination,
        };
        if let (Destination::Http(http), Some(true)) = (&options.destination, mkdir)
            && !http.webdav
        {
            table.refuse("mkdir", "plain PUT makes no directories; that needs webdav = true");
            is_good = false;
        }
        is_good.then_some(Config {
            options,
            connections,
            keeps_time,
        })
    }
}

/// Whether directories are made without being told to.
fn is_writable_tree(destination: &Destination) -> bool {
    !matches!(destination, Destination::Http(http) if !http.webdav)
}

/// Notes the options that are of other destinations; whether there are none.
fn fits(table: &mut Table, scheme: Scheme) -> bool {
    let mut is_good = true;
    for (key, schemes) in FITTING {
        table.know(key);
        if table.has(key) && !schemes.contains(&scheme) {
            let others: Vec<&str> = schemes.iter().map(|scheme| scheme.name()).collect();
            let why = format!("not with {}; accepted with {}", scheme.name(), others.join(", "));
            table.refuse(key, &why);
            is_good = false;
        }
    }
    is_good
}

fn read_destination(table: &mut Table, address: &Address) -> Option<Destination> {
    if address.scheme == File {
        return Some(Destination::File);
    }
    let peer = read_peer(table, address);
    let (mode, tls, ascii) = (
        table.choice("ftp_mode", &[("passive", false), ("active", true)]),
        table.boolean("tls"),
        table.boolean("ascii"),
    );
    let webdav = table.boolean("webdav").unwrap_or(false);
    let how = How {
        active: mode.unwrap_or(false),
        tls: tls.unwrap_or(false),
        ascii: ascii.unwrap_or(false),
    };
    if address.scheme == Ftp && !how.tls {
        for key in ["ca_file", "certificate_file"] {
            if table.has(key) {
                table.refuse(key, "only with tls = true");
                return None;
            }
        }
    }
    let peer = peer?;
    Some(match address.scheme {
        File => Destination::File,
        Ftp => Destination::Ftp(peer, how),
        Sftp => Destination::Sftp(peer),
        Http | Https => Destination::Http(HttpDestination {
            url: address.url.clone(),
            peer,
            webdav,
        }),
    })
}

fn read_peer(table: &mut Table, address: &Address) -> Option<Peer> {
    let password = options::password(table);
    let has_password = table.has("password") || table.has("password_file");
    let mut path = |key: &str, wanted| named_file(table, key, wanted);
    let key_file = path("key_file", Wanted::PrivateKey { has_password });
    let certificate_file = path("certificate_file", Wanted::CertificateAndKey);
    let (known_hosts, ca_file) = (
        path("known_hosts", Wanted::HostKeys),
        path("ca_file", Wanted::Certificates),
    );
    let agent = table.boolean("agent").unwrap_or(false);
    let connect_timeout = options::positive_duration(table, "connect_timeout");
    let read_timeout = options::positive_duration(table, "read_timeout");
    let password = password?;
    let needs_user = address.scheme == Sftp || password.is_some() || key_file.is_some() || agent;
    if needs_user && address.user.is_empty() {
        let path = if matches!(address.scheme, Http | Https) {
            "/PATH/"
        } else {
            ""
        };
        let why = format!(
            "it names no user; accepted: \"{}USER@HOST{path}\"",
            address.scheme.name()
        );
        table.refuse("destination", &why);
        return None;
    }
    if address.scheme == Sftp && password.is_none() && key_file.is_none() && !agent {
        table.refuse(
            "destination",
            "who px is there: password, password_file, key_file or agent = true",
        );
        return None;
    }
    Some(Peer {
        host: address.host.clone(),
        port: address.port,
        login: Login {
            user: address.user.clone(),
            password,
            key_file,
            agent,
            certificate_file,
        },
        trust: Trust { known_hosts, ca_file },
        connect_timeout: connect_timeout.unwrap_or(CONNECT_TIMEOUT),
        read_timeout: read_timeout.unwrap_or(READ_TIMEOUT),
    })
}

/// `lock`; what the destination cannot do is refused, and the default is what it can.
fn read_lock(table: &mut Table, destination: Option<&Destination>) -> Option<Lock> {
    let parse = |text: &str| match text {
        "umask" => Ok(Lock::Umask),
        "none" => Ok(Lock::None),
        suffix if suffix.starts_with('.') && suffix.len() > 1 => Ok(Lock::Suffix(suffix.to_string())),
        _ => Err(String::new()),
    };
    let own = table.parsed("lock", parse, LOCK);
    if table.has("lock") {
        let lock = own?;
        return match destination.map_or(Ok(()), |destination| destination.check(&lock)) {
            Ok(()) => Some(lock),
            Err(why) => {
                table.refuse("lock", why);
                None
            }
        };
    }
    let plain = Lock::Suffix(".tmp".to_string());
    Some(
        match destination.map_or(Ok(()), |destination| destination.check(&plain)) {
            Ok(()) => plain,
            Err(_) => Lock::None,
        },
    )
}

fn parse_mode(text: &str) -> Result<u32, String> {
    let is_octal = text.len() == 3 && text.bytes().all(|digit| (b'0'..=b'7').contains(&digit));
    match u32::from_str_radix(text, 8) {
        Ok(mode) if is_octal => Ok(mode),
        _ => Err(String::new()),
    }
}

fn parse(text: &str) -> Result<Address, String> {
    let bad = || Err(String::new());
    let Ok(mut url) = text.parse::<Url>() else { return bad() };
    let scheme = match url.scheme() {
        "file" => File,
        "ftp" => Ftp,
        "sftp" => Sftp,
        "http" => Http,
        "https" => Https,
        "ftps" => return Err("with TLS it is ftp:// and tls = true".to_string()),
        _ => return bad(),
    };
    if text
        .split_once("://")
        .is_some_and(|(_, rest)| rest.split('/').next().unwrap_or_default().ends_with(':'))
    {
        return Err("there is no port behind the colon".to_string());
    }
    if url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
        return bad();
    }
    let user = user_of(text);
    // Written in clear or not at all: what is escaped would be another name elsewhere.
    if user.contains(['%', ':', '/']) || user.chars().any(char::is_control) {
        return Err("a user name holds no : / % and no control characters".to_string());
    }
    let is_web = matches!(scheme, Http | Https);
    if !is_web && !matches!(url.path(), "" | "/") {
        return Err(format!("its path goes into directory: directory = {:?}", url.path()));
    }
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_string();
    if (scheme == File) != host.is_empty() || (scheme == File && !user.is_empty()) {
        return bad();
    }
    let port = url
        .port_or_known_default()
        .unwrap_or(if scheme == Sftp { 22 } else { 21 });
    if is_web {
        // Who px is stands in the login.
        let cleared = url.set_username("");
        if cleared.is_err() {
            return bad();
        }
        if !url.path().ends_with('/') {
            let path = format!("{}/", url.path());
            url.set_path(&path);
        }
    }
    Ok(Address {
        scheme,
        user,
        host,
        port,
        url,
    })
}

/// What stands before the last `@` of the authority.
fn user_of(text: &str) -> String {
    let authority = text.split_once("://").map_or("", |(_, rest)| rest);
    let authority = authority.split(['/', '?', '#']).next().unwrap_or_default();
    authority.rsplit_once('@').map_or("", |(user, _)| user).to_string()
}
