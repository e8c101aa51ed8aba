//! Delivery by HTTP `PUT`, and by WebDAV.

use super::{Context, HttpDestination, Parcel};
use crate::message::Fault;
use crate::transfer::{Kind, TransferError};

/// A client of one web server.
#[derive(Debug)]
pub(super) struct Session {}

impl Session {
    pub(super) fn new(_destination: &HttpDestination) -> Result<Session, TransferError> {
        Ok(Session {})
    }

    pub(super) async fn put(&mut self, _parcel: &Parcel, _context: &Context) -> Result<(), TransferError> {
        Err(TransferError::new(Fault::Own, Kind::Local, "not built"))
    }
}
