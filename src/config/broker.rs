//! A broker as the site file names it.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::Secret;
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

impl fmt::Display for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.scheme {
            Scheme::Amqp => "amqp",
            Scheme::Amqps => "amqps",
            Scheme::Embedded => return write!(f, "embedded:{}", self.path.display()),
            Scheme::Stomp => "stomp",
            Scheme::StompTls => "stomp+ssl",
            Scheme::Amqp10 => "amqp10",
            Scheme::Amqps10 => "amqps10",
        };
        write!(f, "{scheme}://{}@{}:{}{}", self.user, self.host, self.port, self.vhost)
    }
}

/// The management API of a broker, for the reaper and administration.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Management {
    pub url: String,
    pub user: String,
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
