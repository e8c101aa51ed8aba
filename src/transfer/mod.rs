//! Moving bytes: what is announced is fetched, bounded, hashed while it passes, and handed over only with a verdict.
//!
//! [`Fetcher`] is one per unit. It knows what may be fetched ([`policy`]), lets a host rest that is unwell
//! ([`limit`]), and never decides what happens to a failure: [`TransferError::fault`] says whose it is.

use std::error::Error;
use std::fmt;
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::message::{Fault, Identity};
use crate::spool::SpoolError;

mod bandwidth;
mod credential;
pub mod deliver;
mod file;
pub mod ftp;
mod http;
mod idle;
mod intake;
pub mod limit;
pub mod peer;
pub mod policy;
mod sftp;

#[cfg(test)]
#[path = "../../tests/support/ports.rs"]
mod ports;

pub use credential::Credential;
pub use intake::{Facts, Fetched, Mismatch};

use idle::Idle;
use intake::{Bounds, Expected};
use limit::CoolDown;
use peer::{Login, Peer, Trust};
use policy::{Policy, Remote, Target};

/// Connections to servers with logins are kept for so long, and so many of each.
const IDLE: Duration = Duration::from_secs(60);
const IDLE_PER_PLACE: usize = 8;

/// What kind of failure it was, beside whose fault it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// There is no such product any more (404, 410, no such file).
    Gone,
    /// The URL may not be fetched: scheme, host, root, user information, redirect.
    NotAllowed,
    /// The server refuses this URL for good (a 4xx of its own, no regular file).
    Rejected,
    /// Larger than this unit takes.
    TooLarge,
    /// The server wants other credentials for this part of its tree (401, 403).
    Forbidden,
    /// The server does not take px for who it says it is (401, a wrong password or key): of the whole destination.
    LoginRefused,
    /// The server is busy or broken (429, 5xx).
    Unavailable,
    /// The server has no room left: disk, quota.
    Full,
    /// No connection: refused, no route, unknown name, TLS.
    Unreachable,
    /// Silence for longer than the time-out.
    TimedOut,
    /// The answer broke off or was no HTTP.
    Broken,
    /// Not tried: the host rests after a failure.
    Resting,
    /// What px is known by cannot be used: a key, a certificate, the agent; or what the server is known by.
    Credentials,
    /// This host: no descriptors, no CA certificates, the sink refused.
    Local,
}

/// A fetch that did not happen, classified where it was born.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct TransferError {
    /// Whose fault it is.
    pub fault: Fault,
    /// What kind.
    pub kind: Kind,
    /// What was being done, to what. Never holds a password.
    pub what: String,
    /// Not before this much time has passed.
    pub retry_after: Option<Duration>,
    /// The foreign error, if there is one.
    #[source]
    pub source: Option<Box<dyn Error + Send + Sync>>,
}

impl TransferError {
    pub(crate) fn new(fault: Fault, kind: Kind, what: impl Into<String>) -> Self {
        TransferError {
            fault,
            kind,
            what: what.into(),
            retry_after: None,
            source: None,
        }
    }

    pub(crate) fn caused_by(mut self, source: impl Error + Send + Sync + 'static) -> Self {
        self.source = Some(Box::new(source));
        self
    }
}

/// The sink could not be made: the fault is what the spool says.
impl From<SpoolError> for TransferError {
    fn from(err: SpoolError) -> Self {
        let kind = match err.fault {
            Fault::Message => Kind::Rejected,
            Fault::Endpoint | Fault::Own => Kind::Local,
        };
        TransferError {
            fault: err.fault,
            kind,
            what: err.what,
            retry_after: None,
            source: err.source,
        }
    }
}

/// How a unit fetches.
#[derive(Debug, Clone)]
pub struct Options {
    /// What may be fetched.
    pub policy: Policy,
    /// Who px is, by URL prefix.
    pub credentials: Vec<Credential>,
    /// PEM file of the CAs that sign the servers' certificates; the system's CAs when absent.
    pub ca_file: Option<PathBuf>,
    /// For name look-up, TCP and TLS together.
    pub connect_timeout: Duration,
    /// For silence, not for the whole transfer: a large file may take hours.
    pub read_timeout: Duration,
    /// Larger products are refused.
    pub max_bytes: u64,
    /// A host rests this long after its first failure, and twice as long after each more.
    pub rest_first: Duration,
    /// The longest rest, unless the host asks for more.
    pub rest_longest: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            policy: Policy::default(),
            credentials: Vec::new(),
            ca_file: None,
            connect_timeout: Duration::from_secs(10),
            read_timeout: Duration::from_secs(30),
            max_bytes: 64 << 30,
            rest_first: Duration::from_secs(1),
            rest_longest: Duration::from_secs(60),
        }
    }
}

/// What is to be fetched.
#[derive(Debug, Clone, PartialEq)]
pub struct Wanted {
    /// Absolute URL, the announced path escaped. Not trusted.
    pub url: String,
    /// Announced size in bytes; always checked.
    pub size: Option<u64>,
    /// Announced identity; checked only where it is a digest of the content.
    pub identity: Option<Identity>,
}

/// Fetches for one unit. Clones share connections and rests.
#[derive(Debug, Clone)]
pub struct Fetcher {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    options: Options,
    http: http::Http,
    ftp: Idle<ftp::Session>,
    sftp: Idle<sftp::Session>,
    resting: Mutex<CoolDown>,
}

impl Fetcher {
    /// Prepares; connects to nothing. Works on a host without CA certificates as long as no https URL comes.
    pub fn new(options: Options) -> Result<Fetcher, TransferError> {
        let resting = CoolDown::new(options.rest_first, options.rest_longest);
        Ok(Fetcher {
            shared: Arc::new(Shared {
                http: http::Http::new(&options)?,
                ftp: Idle::new(IDLE, IDLE_PER_PLACE),
                sftp: Idle::new(IDLE, IDLE_PER_PLACE),
                options,
                resting: Mutex::new(resting),
            }),
        })
    }

    /// Fetches into the sink that `open` makes: once there is something to write, off the async threads. `Ok` means
    /// that all bytes the source had (or as many as are allowed) are in the sink; whether they are those announced is
    /// in the answer. A body that breaks off is gone on with where it can be; where it has to begin anew, `open` makes
    /// another sink and the first one is dropped. On an error, or when the future is dropped, the sink is dropped.
    pub async fn fetch<W, F>(&self, wanted: &Wanted, open: F) -> Result<Fetched<W>, TransferError>
    where
        W: Write + Send + 'static,
        F: FnMut() -> Result<W, SpoolError> + Send + 'static,
    {
        let target = self.shared.options.policy.check(&wanted.url)?;
        let max = self.shared.options.max_bytes;
        if let Some(size) = wanted.size.filter(|size| *size > max) {
            let what = format!("cannot fetch {target}: {size} bytes are announced, {max} are allowed");
            return Err(TransferError::new(Fault::Message, Kind::TooLarge, what));
        }
        let (places, url) = (target.places(), hash_of(&wanted.url));
        let turns = places
            .each_ref()
            .map(|place| self.resting().turn(place, url, Instant::now()));
        if let Some(left) = turns.into_iter().filter_map(Result::err).max() {
            let mut err = TransferError::new(Fault::Endpoint, Kind::Resting, format!("not trying {target}: it rests"));
            err.retry_after = Some(left);
            return Err(err);
        }
        let bounds = Bounds::new(wanted.size, max);
        let expected = Expected::new(wanted);
        let result = match &target {
            Target::Http(url) => {
                self.shared
                    .http
                    .fetch(url, &self.shared.options.policy, bounds, expected, open)
                    .await
            }
            Target::Server(remote) => self.fetch_remote(remote, bounds, expected, open).await,
            Target::File { root, path } => file::fetch(root.clone(), path.clone(), bounds, expected, open).await,
        };
        // One of `[[credentials]]` that cannot be used holds up what it is for, and nothing else.
        let result = result.map_err(|err| match err.kind {
            Kind::Credentials => TransferError {
                fault: Fault::Endpoint,
                ..err
            },
            _ => err,
        });
        self.note(&places, url, &result);
        result
    }

    async fn fetch_remote<W, F>(
        &self,
        remote: &Remote,
        bounds: Bounds,
        expected: Expected,
        open: F,
    ) -> Result<Fetched<W>, TransferError>
    where
        W: Write + Send + 'static,
        F: FnOnce() -> Result<W, SpoolError> + Send + 'static,
    {
        let Shared { options, ftp, sftp, .. } = &*self.shared;
        let known = Credential::find(&options.credentials, &remote.url);
        let peer = Peer {
            host: remote.host.clone(),
            port: remote.port,
            login: known.map_or_else(Login::default, |known| known.login.clone()),
            trust: Trust {
                known_hosts: known.and_then(|known| known.known_hosts.clone()),
                ca_file: options.ca_file.clone(),
            },
            connect_timeout: options.connect_timeout,
            read_timeout: options.read_timeout,
        };
        match (remote.is_sftp, known) {
            (true, Some(_)) => sftp::fetch(sftp, &peer, &remote.path, bounds, expected, open).await,
            (true, None) => {
                let shown = shorten(remote.url.as_str());
                let what = format!("cannot fetch {shown}: none of [[credentials]] is for it");
                Err(TransferError::new(Fault::Endpoint, Kind::Forbidden, what))
            }
            (false, known) => {
                let how = known.map_or_else(ftp::How::default, |known| known.how);
                ftp::fetch(ftp, (&peer, how), &remote.path, bounds, expected, open).await
            }
        }
    }

    /// How long the host of this URL still rests.
    pub fn rests(&self, url: &str) -> Option<Duration> {
        let target = self.shared.options.policy.check(url).ok()?;
        target
            .places()
            .iter()
            .filter_map(|place| self.resting().left(place, Instant::now()))
            .max()
    }

    /// The places are the host and the directory on it; what concerns rights, or who px is, is of the directory only.
    fn note<W>(&self, places: &[String; 2], url: u64, result: &Result<Fetched<W>, TransferError>) {
        let now = Instant::now();
        let mut resting = self.resting();
        match result {
            Ok(_) => places.iter().for_each(|place| resting.note_success(place)),
            Err(err) if err.fault == Fault::Endpoint => {
                let [host, directory] = places;
                let place = match err.kind {
                    Kind::Forbidden | Kind::Credentials => directory,
                    _ => host,
                };
                resting.note_fault(place, url, err.retry_after, now);
            }
            // A 404 is an answer: the host is well.
            Err(err) if err.fault == Fault::Message => resting.note_success(&places[0]),
            Err(_) => {}
        }
    }

    /// The map is whole after every call, so a panic elsewhere does not spoil it.
    fn resting(&self) -> MutexGuard<'_, CoolDown> {
        self.shared.resting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a second fetch shows that the product was replaced after it was announced: the source says it is newer, or
/// it changed between the two fetches.
pub fn is_superseded(first: &Facts, second: &Facts, announced: Timestamp) -> bool {
    let is_newer = second.last_modified.is_some_and(|modified| modified > announced);
    let has_changed = matches!((&first.etag, &second.etag), (Some(a), Some(b)) if a != b);
    is_newer || has_changed
}

fn hash_of(url: &str) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    url.hash(&mut hasher);
    hasher.finish()
}

/// Text of unknown length for an error message.
fn shorten(text: &str) -> impl fmt::Display + '_ {
    const CHARS: usize = 300;
    let is_long = text.chars().nth(CHARS).is_some();
    let end = text.char_indices().nth(CHARS).map_or(text.len(), |(at, _)| at);
    format!("{}{}", &text[..end], if is_long { "…" } else { "" })
}

/// Runs blocking work off the async threads.
async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, TransferError> + Send + 'static,
) -> Result<T, TransferError> {
    joined(tokio::task::spawn_blocking(work)).await
}

async fn joined<T>(work: tokio::task::JoinHandle<Result<T, TransferError>>) -> Result<T, TransferError> {
    match work.await {
        Ok(result) => result,
        Err(err) => Err(TransferError::new(Fault::Own, Kind::Local, "writing broke off").caused_by(err)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_credential_that_cannot_be_used_holds_up_what_it_is_for_only() {
        let login = Login {
            certificate_file: Some("/no/such.pem".into()),
            ..Login::default()
        };
        let prefix = url::Url::parse("https://h.invalid/a/").unwrap();
        let fetcher = Fetcher::new(Options {
            credentials: vec![Credential::new(prefix, login)],
            ..Options::default()
        });
        let fetcher = fetcher.unwrap();
        let wanted = |url: &str| Wanted {
            url: url.into(),
            size: None,
            identity: None,
        };
        let fetched = fetcher.fetch(&wanted("https://h.invalid/a/x"), || Ok(Vec::new())).await;
        let err = fetched.map(|_| ()).unwrap_err();
        assert_eq!((err.fault, err.kind), (Fault::Endpoint, Kind::Credentials), "{err}");
        assert!(err.what.contains("/no/such.pem"), "{err}");
        assert!(fetcher.rests("https://h.invalid/a/x").is_some());
        assert!(fetcher.rests("https://h.invalid/b/x").is_none());
    }

    #[test]
    fn a_source_that_is_newer_or_changes_has_superseded_the_announcement() {
        let facts = |modified: Option<&str>, etag: Option<&str>| Facts {
            size: 1,
            last_modified: modified.map(|text| text.parse().unwrap()),
            etag: etag.map(str::to_owned),
        };
        let announced = "2026-11-21T12:00:00.5Z".parse().unwrap();
        let none = facts(None, None);
        assert!(!is_superseded(&none, &none, announced));
        assert!(is_superseded(
            &none,
            &facts(Some("2026-11-21T12:00:01Z"), None),
            announced
        ));
        assert!(!is_superseded(
            &none,
            &facts(Some("2026-11-21T12:00:00Z"), None),
            announced
        ));
        assert!(is_superseded(
            &facts(None, Some("a")),
            &facts(None, Some("b")),
            announced
        ));
        assert!(!is_superseded(&none, &facts(None, Some("b")), announced));
    }
}
