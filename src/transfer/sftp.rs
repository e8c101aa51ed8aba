//! SFTP, through russh and russh-sftp.

use super::deliver::{Context, Parcel};
use super::peer::Peer;
use super::{Kind, TransferError};
use crate::message::Fault;

/// A connection that is logged in.
#[derive(Debug)]
pub(super) struct Session {}

impl Session {
    pub(super) async fn connect(_peer: &Peer) -> Result<Session, TransferError> {
        Err(TransferError::new(Fault::Own, Kind::Local, "not built"))
    }

    pub(super) async fn put(&mut self, _parcel: &Parcel, _context: &Context) -> Result<(), TransferError> {
        Err(TransferError::new(Fault::Own, Kind::Local, "not built"))
    }

    pub(super) async fn close(self) {}
}
