//! Where a unit delivers and how, and what every session is given of it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use url::Url;

use super::chunks::Chunks;
use super::parcel::{NAME_MAX, Parcel};
use crate::spool::Durability;
use crate::spool::atomic::Safety;
use crate::transfer::TransferError;
use crate::transfer::bandwidth::Bandwidth;
use crate::transfer::ftp::How;
use crate::transfer::peer::Peer;

/// The longest suffix of a temporary name.
const SUFFIX_MAX: usize = 64;

/// Where products go.
#[derive(Debug, Clone)]
pub enum Destination {
    /// Directories of this host, or what is mounted here.
    File,
    /// FTP, active or passive, in clear or with explicit TLS.
    Ftp(Peer, How),
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

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Destination::File => f.write_str("file://"),
            Destination::Ftp(peer, _) => f.write_str(&peer.ftp_url()),
            Destination::Sftp(peer) => f.write_str(&peer.sftp_url()),
            Destination::Http(http) => write!(f, "{}", http.url),
        }
    }
}

impl Destination {
    /// Whether this way of hiding a product in the making is possible there; else what to say of it. HTTP has no
    /// umask, and plain `PUT` has [`Lock::None`] only: where the configuration names no lock, that is its default.
    pub fn check(&self, lock: &Lock) -> Result<(), &'static str> {
        match (self, lock) {
            (_, Lock::Suffix(suffix)) if suffix.is_empty() || suffix.len() > SUFFIX_MAX => {
                Err("accepted: a suffix of 1 to 64 bytes")
            }
            (_, Lock::Suffix(suffix)) if suffix.contains('/') || suffix.contains(|c: char| c.is_control()) => {
                Err("a suffix holds no slash and no control characters")
            }
            (Destination::Http(_), Lock::Umask) => Err("umask: HTTP has no permissions"),
            (Destination::Http(http), Lock::Suffix(_)) if !http.webdav => {
                Err("plain PUT writes the final name; a temporary name needs webdav = true")
            }
            _ => Ok(()),
        }
    }

    /// Whether a mode can be said there.
    pub fn has_modes(&self) -> bool {
        !matches!(self, Destination::Http(_))
    }
}

impl Options {
    /// The name that a product has while it is written; `None` without [`Lock::Suffix`]. One that would be too long is
    /// cut, and made its own again by a number that depends on all of it.
    pub(in crate::transfer) fn temporary_name(&self, parcel: &Parcel) -> Option<Vec<u8>> {
        let Lock::Suffix(suffix) = &self.lock else {
            return None;
        };
        let room = NAME_MAX.saturating_sub(suffix.len());
        let mut name = parcel.name.clone();
        if name.len() > room {
            let number = format!("-{:08x}", parcel.hash() as u32);
            let mut end = room.saturating_sub(number.len());
            // Not within a character of UTF-8: some servers refuse what is none.
            while end > 0 && name[end] & 0xC0 == 0x80 {
                end -= 1;
            }
            name.truncate(end);
            name.extend(number.as_bytes());
        }
        name.extend(suffix.as_bytes());
        Some(name)
    }
}

/// What a session is given with every parcel.
#[derive(Debug)]
pub(in crate::transfer) struct Context {
    pub(in crate::transfer) options: Options,
    pub(super) bandwidth: Option<Arc<Bandwidth>>,
    /// How files of this host become safe, where that is the destination.
    pub(super) safety: Option<Safety>,
}

impl Context {
    /// The parcel's bytes, as fast as the unit may send.
    pub(in crate::transfer) fn chunks(&self, parcel: &Parcel) -> Result<Chunks, TransferError> {
        Chunks::new(parcel, self.bandwidth.clone())
    }

    /// As [`Options::temporary_name`].
    pub(in crate::transfer) fn temporary_name(&self, parcel: &Parcel) -> Option<Vec<u8>> {
        self.options.temporary_name(parcel)
    }
}
