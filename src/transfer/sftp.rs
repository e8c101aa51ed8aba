//! SFTP, through russh and russh-sftp.
//!
//! A server is known by its host key (`sftp/known_hosts.rs`) and lets px in by key, agent or password
//! (`sftp/login.rs`). Requests go out many at a time (`sftp/pipeline.rs`), so that a small file costs three round trips
//! and a large one fills the line.

use std::fmt;
use std::time::Duration;

use russh::client::Handle;
use russh::{ChannelMsg, Disconnect};
use russh_sftp::client::error::Error as SftpError;
use russh_sftp::client::{Config, RawSftpSession};

use super::deliver::options::Context;
use super::deliver::parcel::Parcel;
use super::peer::Peer;
use super::{Kind, TransferError};
use crate::message::Fault;
use connect::{Doorkeeper, ssh};
use fault::{Step, failed};

mod connect;
mod fault;
mod fetch;
mod known_hosts;
mod login;
mod pipeline;
mod upload;

pub(super) use fetch::fetch;

/// Bytes of one request, where the server names no limit of its own: what every server takes.
const PIECE: usize = 32 << 10;
/// More than this in one request gains nothing.
const PIECE_MAX: usize = 128 << 10;
/// The library's own time-out for one request; silence is watched in the pipeline.
const NEVER_S: u64 = 24 * 3600;
/// The longest packet that is taken.
const PACKET_MAX: u32 = 256 << 10;
/// For the words at the end of a connection.
const FAREWELL: Duration = Duration::from_secs(2);

/// A connection that is logged in.
pub(super) struct Session {
    ssh: Handle<Doorkeeper>,
    sftp: RawSftpSession,
    offers: Offers,
    /// `sftp://user@host`, for messages.
    place: String,
    /// For silence.
    patience: Duration,
}

/// What the server has beyond the protocol, and how much it takes at once.
#[derive(Debug, Clone, Copy)]
struct Offers {
    posix_rename: bool,
    fsync: bool,
    statvfs: bool,
    write: usize,
    read: usize,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("place", &self.place)
            .field("offers", &self.offers)
            .finish_non_exhaustive()
    }
}

impl Session {
    /// Connects, checks the server, logs in and begins with SFTP, all within the connect time-out.
    pub(super) async fn connect(peer: &Peer) -> Result<Session, TransferError> {
        let place = place(peer);
        match tokio::time::timeout(peer.connect_timeout, begin(peer, &place)).await {
            Ok(result) => result,
            Err(_) => {
                let what = format!("cannot connect to {place}: no answer within {:?}", peer.connect_timeout);
                Err(TransferError::new(Fault::Endpoint, Kind::TimedOut, what))
            }
        }
    }

    /// Puts a product in place: under a temporary name, as the options say, verified and then shown.
    pub(super) async fn put(&mut self, parcel: &Parcel, context: &Context) -> Result<(), TransferError> {
        upload::Upload::new(self, parcel, context)?.run().await
    }

    /// Whether the server has ended it, or has said nothing for too long.
    pub(super) fn is_over(&self) -> bool {
        self.ssh.is_closed()
    }

    /// Ends the connection politely.
    pub(super) async fn close(self) {
        let words = async {
            // Nothing is lost: everything that was put is confirmed, and a dead connection needs no farewell.
            let _ = self.sftp.close_session();
            let _ = self.ssh.disconnect(Disconnect::ByApplication, "", "").await;
            let _ = self.ssh.await;
        };
        // Nothing lost either: dropped, it breaks off.
        let _ = tokio::time::timeout(FAREWELL, words).await;
    }

    /// One request whose answer is waited for.
    async fn ask<T>(&self, request: impl Future<Output = Result<T, SftpError>>) -> Result<T, SftpError> {
        let answer = tokio::time::timeout(self.patience, request).await;
        answer.unwrap_or(Err(SftpError::Timeout))
    }
}

/// `sftp://user@host`, with the port where it is not the usual one.
fn place(peer: &Peer) -> String {
    peer.sftp_url()
}

async fn begin(peer: &Peer, place: &str) -> Result<Session, TransferError> {
    let mut handle = connect::connect(peer, place).await?;
    login::log_in(&mut handle, peer, place).await?;
    let mut channel = handle.channel_open_session().await.map_err(|err| ssh(err, place))?;
    channel
        .request_subsystem(true, "sftp")
        .await
        .map_err(|err| ssh(err, place))?;
    loop {
        match channel.wait().await {
            Some(ChannelMsg::Success) => break,
            Some(ChannelMsg::Failure | ChannelMsg::Close | ChannelMsg::Eof) => {
                return Err(ssh(russh::Error::RequestDenied, place));
            }
            // The size of the window, for example.
            Some(_) => {}
            None => return Err(ssh(russh::Error::HUP, place)),
        }
    }
    let config = Config {
        request_timeout_secs: NEVER_S,
        max_packet_len: PACKET_MAX,
        ..Config::default()
    };
    let sftp = RawSftpSession::new_with_config(channel.into_stream(), config);
    let offers = offers(&sftp)
        .await
        .map_err(|err| failed(err, Step::Begin, &format!("cannot use {place}")))?;
    Ok(Session {
        ssh: handle,
        sftp,
        offers,
        place: place.to_owned(),
        patience: peer.read_timeout,
    })
}

async fn offers(sftp: &RawSftpSession) -> Result<Offers, SftpError> {
    let version = sftp.init().await?;
    let has = |name: &str, number: &str| version.extensions.get(name).is_some_and(|has| has == number);
    let (mut write, mut read) = (PIECE, PIECE);
    if has("limits@openssh.com", "1") {
        let limits = sftp.limits().await?;
        // A power of two divides what is read from disk at once.
        let most = |limit: u64| match usize::try_from(limit).unwrap_or(PIECE_MAX) {
            0 => PIECE,
            limit => 1 << limit.min(PIECE_MAX).ilog2(),
        };
        (write, read) = (most(limits.max_write_len), most(limits.max_read_len));
    }
    Ok(Offers {
        posix_rename: has("posix-rename@openssh.com", "1"),
        fsync: has("fsync@openssh.com", "1"),
        statvfs: has("statvfs@openssh.com", "2"),
        write,
        read,
    })
}

/// A path as the library takes it.
fn text(path: &[u8], doing: &str) -> Result<String, TransferError> {
    String::from_utf8(path.to_vec()).map_err(|_| {
        let what = format!("{doing}: px sends names by SFTP in UTF-8 only, and this is none");
        TransferError::new(Fault::Message, Kind::Rejected, what)
    })
}
