//! Delivering: a file of this host is put into a directory of a server, whole or not at all as far as readers can see.
//!
//! A [`Deliverer`] is one per unit and knows how its destination is; a [`Lane`] is one connection to it, made when it
//! is needed and kept while it works. Nothing here decides what happens to a failure: [`TransferError::fault`] says
//! whose it is. To put the same product twice does no harm.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::bandwidth::Bandwidth;
use super::limit::CoolDown;
use super::{Kind, TransferError, ftp, sftp};
use crate::message::{Fault, ProductPath};
use crate::spool::atomic::Safety;

pub(super) mod chunks;
mod dav;
mod local;
pub(super) mod options;
pub(super) mod parcel;
#[cfg(test)]
mod tests;

use chunks::is_spoilt_content;
pub use options::{Destination, HttpDestination, Lock, Options};
pub use parcel::Parcel;

use options::Context;

/// What was delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Put {
    /// Bytes.
    pub bytes: u64,
    /// From the first command to the last answer; connecting and waiting for bandwidth included.
    pub took: Duration,
}

/// Delivers for one unit. Clones share rests and bandwidth.
#[derive(Debug, Clone)]
pub struct Deliverer {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    context: Context,
    /// The destination, for messages and as the place that rests.
    place: String,
    resting: Mutex<CoolDown>,
}

impl Deliverer {
    /// Prepares; connects to nothing.
    pub fn new(options: Options) -> Result<Deliverer, TransferError> {
        if let Err(why) = options.destination.check(&options.lock) {
            let what = format!("cannot deliver to {}: {why}", options.destination);
            return Err(TransferError::new(Fault::Own, Kind::NotAllowed, what));
        }
        if options.mode.is_some() && !options.destination.has_modes() {
            let what = format!("cannot deliver to {}: HTTP has no permissions", options.destination);
            return Err(TransferError::new(Fault::Own, Kind::NotAllowed, what));
        }
        let safety = match options.destination {
            Destination::File => Some(Safety::new(options.durability)?),
            _ => None,
        };
        let resting = CoolDown::new(options.rest_first, options.rest_longest);
        Ok(Deliverer {
            shared: Arc::new(Shared {
                place: options.destination.to_string(),
                resting: Mutex::new(resting),
                context: Context {
                    bandwidth: options.bandwidth.map(|rate| Arc::new(Bandwidth::new(rate))),
                    safety,
                    options,
                },
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

    /// The paths that a delivery of this parcel writes: of the final name, and of the temporary one where there is one.
    /// No two deliveries may have one in common at the same time.
    pub fn written_names(&self, parcel: &Parcel) -> Vec<Vec<u8>> {
        let root: &[u8] = if parcel.is_absolute() { b"/" } else { b"" };
        let directory = parcel.parts().flat_map(|part| [part, b"/"]);
        let directory: Vec<u8> = std::iter::once(root).chain(directory).flatten().copied().collect();
        let temporary = self.shared.context.temporary_name(parcel);
        let names = temporary.into_iter().chain([parcel.name.clone()]);
        names.map(|name| [directory.as_slice(), &name].concat()).collect()
    }

    /// How long the whole destination still rests.
    pub fn rests(&self) -> Option<Duration> {
        self.shared.resting().left(&self.shared.place, Instant::now())
    }
}

impl Shared {
    /// The map is whole after every call, so a panic elsewhere does not spoil it.
    fn resting(&self) -> MutexGuard<'_, CoolDown> {
        self.resting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The destination, and the directory on it.
    fn places(&self, parcel: &Parcel) -> [String; 2] {
        let directory = ProductPath(parcel.directory.clone());
        [self.place.clone(), format!("{} {directory}", self.place)]
    }

    /// Whether it is this parcel's turn at the destination and in its directory.
    fn turn(&self, places: &[String; 2], parcel: &Parcel) -> Result<(), TransferError> {
        let (mut resting, now) = (self.resting(), Instant::now());
        for place in places {
            if let Err(left) = resting.turn(place, parcel.hash(), now) {
                let what = format!("not trying {} on {}: it rests", parcel.shown(), self.place);
                let mut err = TransferError::new(Fault::Endpoint, Kind::Resting, what);
                err.retry_after = Some(left);
                return Err(err);
            }
        }
        Ok(())
    }

    fn note(&self, places: &[String; 2], parcel: &Parcel, result: &Result<(), TransferError>) {
        let mut resting = self.resting();
        let [whole, directory] = places;
        match result {
            Ok(()) => places.iter().for_each(|place| resting.note_success(place)),
            Err(err) => match whose(err) {
                Rests::Whole => resting.note_fault(whole, parcel.hash(), err.retry_after, Instant::now()),
                Rests::Directory => {
                    resting.note_fault(directory, parcel.hash(), err.retry_after, Instant::now());
                    resting.note_success(whole);
                }
                Rests::IsWell => resting.note_success(whole),
                Rests::NotKnown => {}
            },
        }
    }
}

/// What a failure says of the destination.
#[derive(Debug, PartialEq, Eq)]
enum Rests {
    Whole,
    Directory,
    IsWell,
    NotKnown,
}

fn whose(err: &TransferError) -> Rests {
    match err.fault {
        Fault::Endpoint if err.kind == Kind::Forbidden => Rests::Directory,
        Fault::Endpoint => Rests::Whole,
        Fault::Message if is_spoilt_content(err) => Rests::NotKnown,
        // An answer that refuses this one product: the server is well.
        Fault::Message => Rests::IsWell,
        Fault::Own => Rests::NotKnown,
    }
}

/// Whether a session cannot be used after this. A refusal is an answer, and leaves it as it was; anything else may have
/// come in the middle of a transfer.
fn spoils(err: &TransferError) -> bool {
    match err.fault {
        Fault::Message => is_spoilt_content(err),
        Fault::Endpoint => err.kind != Kind::Forbidden,
        Fault::Own => true,
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
    Http(Box<dav::Session>),
}

impl Lane {
    /// Delivers one product. `Ok`: it is there under its final name, whole; with `durability` power and a destination
    /// on this host also after a power cut. On an error nothing new is seen under the final name, or, without a lock,
    /// possibly half of it; the next try begins anew. A destination that rests is not tried ([`Kind::Resting`]). When
    /// the future is dropped, the connection is. Two lanes must not put at the same time what has one of its
    /// [`Deliverer::written_names`] in common.
    pub async fn put(&mut self, parcel: &Parcel) -> Result<Put, TransferError> {
        parcel.check()?;
        let places = self.shared.places(parcel);
        self.shared.turn(&places, parcel)?;
        let begun = Instant::now();
        let result = self.try_put(parcel).await;
        self.shared.note(&places, parcel, &result);
        result.map(|()| Put {
            bytes: parcel.size,
            took: begun.elapsed(),
        })
    }

    /// Delivers some products one after the other, and answers for each as [`Lane::put`] does. Where they go to this
    /// host as fast as it can, one change of threads and one sync of their directories serve them all.
    pub async fn put_all(&mut self, parcels: &[&Parcel]) -> Vec<Result<Put, TransferError>> {
        let mut results = Vec::with_capacity(parcels.len());
        while let Some(rest) = parcels.get(results.len()..).filter(|rest| !rest.is_empty()) {
            match self.takes_many() {
                true => results.extend(self.put_some(rest).await),
                false => results.push(self.put(rest[0]).await),
            }
        }
        results
    }

    /// Whether it gains anything to give it more than one product at a time.
    pub fn takes_many(&self) -> bool {
        let options = &self.shared.context.options;
        matches!(options.destination, Destination::File) && options.bandwidth.is_none()
    }

    /// Those at the beginning, at least one, up to the first that fails: it may mean a rest for the others.
    async fn put_some(&mut self, parcels: &[&Parcel]) -> Vec<Result<Put, TransferError>> {
        let turn = |parcel: &Parcel| {
            parcel
                .check()
                .and_then(|()| self.shared.turn(&self.shared.places(parcel), parcel))
        };
        let mut stopped = None;
        let is_next = |parcel: &&&Parcel| match turn(parcel) {
            Ok(()) => true,
            Err(err) => {
                stopped = Some(err);
                false
            }
        };
        let some = &parcels[..parcels.iter().take_while(is_next).count()];
        let context = &self.shared.context;
        let safety = context.safety.clone().unwrap_or(Safety::Crash);
        let tried = match some.is_empty() {
            true => Vec::new(),
            false => local::Session::new(safety).put_some(some, context).await,
        };
        // After a failure it is asked again whose turn it is.
        let stopped = stopped.filter(|_| tried.len() == some.len() && tried.iter().all(Result::is_ok));
        let mut results = Vec::with_capacity(tried.len());
        for (parcel, tried) in some.iter().zip(tried) {
            let (took, result) = match tried {
                Ok(took) => (took, Ok(())),
                Err(err) => (Duration::ZERO, Err(err)),
            };
            self.shared.note(&self.shared.places(parcel), parcel, &result);
            results.push(result.map(|()| Put {
                bytes: parcel.size,
                took,
            }));
        }
        results.extend(stopped.map(Err));
        results
    }

    /// The session is taken out meanwhile: one that was left in the middle must not be used again.
    async fn try_put(&mut self, parcel: &Parcel) -> Result<(), TransferError> {
        let context = &self.shared.context;
        let mut session = match self.session.take().filter(|session| !session.is_over()) {
            Some(session) => session,
            None => Session::connect(context).await.map_err(|err| TransferError {
                // Who px is was in question, and not one directory.
                kind: match err.kind {
                    Kind::Forbidden => Kind::LoginRefused,
                    kind => kind,
                },
                ..err
            })?,
        };
        let result = match &mut session {
            Session::File(session) => session.put(parcel, context).await,
            Session::Ftp(session) => session.put(parcel, context).await,
            Session::Sftp(session) => session.put(parcel, context).await,
            Session::Http(session) => session.put(parcel, context).await,
        };
        if !result.as_ref().is_err_and(spoils) {
            self.session = Some(session);
        }
        result
    }

    /// Whether there is a connection, as far as is known.
    pub fn is_connected(&self) -> bool {
        self.session.as_ref().is_some_and(|session| !session.is_over())
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
    async fn connect(context: &Context) -> Result<Session, TransferError> {
        Ok(match &context.options.destination {
            Destination::File => {
                let safety = context.safety.clone();
                Session::File(local::Session::new(safety.unwrap_or(Safety::Crash)))
            }
            Destination::Ftp(peer, how) => Session::Ftp(Box::new(ftp::Session::connect(peer, *how).await?)),
            Destination::Sftp(peer) => Session::Sftp(Box::new(sftp::Session::connect(peer).await?)),
            Destination::Http(http) => Session::Http(Box::new(dav::Session::new(http).await?)),
        })
    }

    /// Whether the server has ended it, as far as is known without asking.
    fn is_over(&self) -> bool {
        match self {
            Session::Sftp(session) => session.is_over(),
            // These look for themselves, or have none.
            Session::File(_) | Session::Ftp(_) | Session::Http(_) => false,
        }
    }
}
