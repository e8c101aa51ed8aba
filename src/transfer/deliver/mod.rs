//! Delivering: a file of this host is put into a directory of a server, whole or not at all as far as readers can see.
//!
//! A [`Deliverer`] is one per unit and knows how its destination is; a [`Lane`] is one connection to it, made when it is
//! needed and kept while it works. Nothing here decides what happens to a failure: [`TransferError::fault`] says whose
//! it is. To put the same product twice does no harm.

use std::fmt;
use std::fs::File;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use url::Url;

use super::limit::CoolDown;
use super::peer::Peer;
use super::{Kind, TransferError, ftp, sftp};
use crate::message::Fault;
use crate::spool::Durability;

mod dav;
mod local;

/// Where products go.
#[derive(Debug, Clone)]
pub enum Destination {
    /// Directories of this host, or what is mounted here.
    File,
    /// FTP, active or passive, in clear or with explicit TLS.
    Ftp(Peer, ftp::How),
    /// SFTP.
    Sftp(Peer),
    /// HTTP PUT, or WebDAV.
    Http(HttpDestination),
}

/// A web server that takes files.
#[derive(Debug, Clone)]
pub struct HttpDestination {
    /// Scheme, authority and the path that relative directories begin at; ends in `/`.
    pub url: Url,
    /// Who px is, by what the server is known; its host and port are those of the URL.
    pub peer: Peer,
    /// `MKCOL`, and `MOVE` from a temporary name; else plain `PUT` onto the final one.
    pub webdav: bool,
}

/// How nobody sees half a product.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lock {
    /// Under the name with this suffix first, then renamed.
    Suffix(String),
    /// Without any permission until it is whole: mode 000, then that of `mode`.
    Umask,
    /// Not at all.
    None,
}

/// How a unit delivers.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where to.
    pub destination: Destination,
    /// How nobody sees half a product.
    pub lock: Lock,
    /// Permission bits of what is delivered; the server's own choice when absent.
    pub mode: Option<u32>,
    /// Whether missing directories are made.
    pub makes_directories: bool,
    /// Bytes a second, of all lanes together.
    pub bandwidth: Option<u64>,
    /// Whether a file of this host is synced before it is renamed.
    pub durability: Durability,
    /// A destination rests this long after its first failure, and twice as long after each more.
    pub rest_first: Duration,
    /// The longest rest.
    pub rest_longest: Duration,
}

/// One product to be delivered.
#[derive(Debug)]
pub struct Parcel {
    /// Its bytes; read by position, so that a second try begins anew.
    pub content: File,
    /// So many bytes; a file that has fewer by now is a failure.
    pub size: u64,
    /// `a/b` from where the login or the URL begins, `/a/b` from the root of the server, empty: where it begins.
    pub directory: Vec<u8>,
    /// The final name.
    pub name: Vec<u8>,
    /// The time that the delivered file should have, where the protocol can say it.
    pub modified: Option<Timestamp>,
}

/// What was delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Put {
    /// Bytes.
    pub bytes: u64,
    /// From the first command to the last answer; connecting and waiting for bandwidth included.
    pub took: Duration,
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Destination::File => f.write_str("file://"),
            Destination::Ftp(peer, _) => write!(f, "ftp://{}@{}", peer.login.user, peer.host),
            Destination::Sftp(peer) => write!(f, "sftp://{}@{}", peer.login.user, peer.host),
            Destination::Http(http) => write!(f, "{}", http.url),
        }
    }
}

/// Delivers for one unit. Clones share rests and bandwidth.
#[derive(Debug, Clone)]
pub struct Deliverer {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    options: Options,
    resting: Mutex<CoolDown>,
}

impl Deliverer {
    /// Prepares; connects to nothing.
    pub fn new(options: Options) -> Result<Deliverer, TransferError> {
        let resting = CoolDown::new(options.rest_first, options.rest_longest);
        Ok(Deliverer {
            shared: Arc::new(Shared {
                options,
                resting: Mutex::new(resting),
            }),
        })
    }

    /// One more connection, made when it is needed.
    pub fn lane(&self) -> Lane {
        Lane {
            shared: Arc::clone(&self.shared),
            session: None,
        }
    }

    /// How long the whole destination still rests.
    pub fn rests(&self) -> Option<Duration> {
        let place = self.shared.options.destination.to_string();
        self.shared.resting().left(&place, Instant::now())
    }
}

impl Shared {
    /// The map is whole after every call, so a panic elsewhere does not spoil it.
    fn resting(&self) -> MutexGuard<'_, CoolDown> {
        self.resting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection. Used by one task; dropped, it breaks off.
#[derive(Debug)]
pub struct Lane {
    shared: Arc<Shared>,
    session: Option<Session>,
}

#[derive(Debug)]
enum Session {
    File(local::Session),
    Ftp(Box<ftp::Session>),
    Sftp(Box<sftp::Session>),
    Http(dav::Session),
}

impl Lane {
    /// Delivers one product. `Ok`: it is there under its final name, whole; with `durability` power and a destination
    /// on this host also after a power cut. On an error nothing new is seen under the final name, or, without a lock,
    /// possibly half of it; the next try begins anew. A destination that rests is not tried ([`Kind::Resting`]).
    pub async fn put(&mut self, parcel: &Parcel) -> Result<Put, TransferError> {
        check(parcel)?;
        let begun = Instant::now();
        let result = self.try_put(parcel).await;
        if result.as_ref().is_err_and(|err| err.fault != Fault::Message) {
            self.session = None;
        }
        result.map(|()| Put {
            bytes: parcel.size,
            took: begun.elapsed(),
        })
    }

    async fn try_put(&mut self, parcel: &Parcel) -> Result<(), TransferError> {
        let options = &self.shared.options;
        let session = match self.session.take() {
            Some(session) => session,
            None => Session::connect(options).await?,
        };
        match self.session.insert(session) {
            Session::File(session) => session.put(parcel, options).await,
            Session::Ftp(session) => session.put(parcel, options).await,
            Session::Sftp(session) => session.put(parcel, options).await,
            Session::Http(session) => session.put(parcel, options).await,
        }
    }

    /// Ends the connection politely. Nothing is lost without it.
    pub async fn close(mut self) {
        match self.session.take() {
            Some(Session::Ftp(session)) => session.close().await,
            Some(Session::Sftp(session)) => session.close().await,
            Some(Session::File(_) | Session::Http(_)) | None => {}
        }
    }
}

impl Session {
    async fn connect(options: &Options) -> Result<Session, TransferError> {
        Ok(match &options.destination {
            Destination::File => Session::File(local::Session::new(options.durability)?),
            Destination::Ftp(peer, how) => Session::Ftp(Box::new(ftp::Session::connect(peer, *how).await?)),
            Destination::Sftp(peer) => Session::Sftp(Box::new(sftp::Session::connect(peer).await?)),
            Destination::Http(http) => Session::Http(dav::Session::new(http)?),
        })
    }
}

/// Names that would lead elsewhere, or end a command of the protocol, are the message's fault.
fn check(parcel: &Parcel) -> Result<(), TransferError> {
    let bad = |what: &str| {
        let shown = String::from_utf8_lossy(&parcel.name);
        Err(TransferError::new(
            Fault::Message,
            Kind::Rejected,
            format!("cannot deliver {shown}: {what}"),
        ))
    };
    let has_control = |bytes: &[u8]| bytes.iter().any(|byte| byte.is_ascii_control());
    match parcel.name.as_slice() {
        b"" | b"." | b".." => return bad("no such name can be"),
        name if name.contains(&b'/') => return bad("its name holds a slash"),
        name if has_control(name) => return bad("its name holds control characters"),
        _ => {}
    }
    if has_control(&parcel.directory) {
        return bad("its directory holds control characters");
    }
    if parcel.directory.split(|byte| *byte == b'/').any(|part| part == b"..") {
        return bad("its directory leads upwards");
    }
    Ok(())
}
