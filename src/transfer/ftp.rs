//! FTP, through suppaftp.

use super::deliver::{Context, Parcel};
use super::peer::Peer;
use super::{Kind, TransferError};
use crate::message::Fault;

/// What FTP leaves to the sites.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct How {
    /// The server connects back for data.
    pub active: bool,
    /// `AUTH TLS` before the login; a server without it is refused.
    pub tls: bool,
    /// Image type; else ASCII, in which servers may change the ends of lines.
    pub ascii: bool,
}

/// A connection that is logged in.
#[derive(Debug)]
pub(super) struct Session {}

impl Session {
    pub(super) async fn connect(_peer: &Peer, _how: How) -> Result<Session, TransferError> {
        Err(TransferError::new(Fault::Own, Kind::Local, "not built"))
    }

    pub(super) async fn put(&mut self, _parcel: &Parcel, _context: &Context) -> Result<(), TransferError> {
        Err(TransferError::new(Fault::Own, Kind::Local, "not built"))
    }

    pub(super) async fn close(self) {}
}
