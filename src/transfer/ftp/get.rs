//! Fetching a product from a server.

use std::io::{self, Write};
use std::time::Instant;

use jiff::Timestamp;
use suppaftp::FtpError;
use tokio::io::AsyncReadExt;
use tokio::task::spawn_blocking;

use super::super::idle::Idle;
use super::super::intake::{Bounds, Expected, Facts, Fetched, Intake};
use super::super::peer::Peer;
use super::super::{Kind, TransferError, joined, off_thread};
use super::{Data, Doing, How, OPENED, Place, Session, Work, answered, argument, shown, within};
use crate::message::Fault;
use crate::spool::SpoolError;

/// Bytes gathered before they are written; while one lot is written the next is received.
const BUFFER: usize = 256 << 10;
/// So often one fetch goes on where it broke off.
const RESUMES: u32 = 5;

/// Fetches `a/b/name` from where the login begins, or `/a/b/name` from the root, always in binary. A transfer that
/// breaks off is gone on with (`REST`) as long as the server says that it is the same file. Connections come from
/// `idle` and go back there.
pub(in crate::transfer) async fn fetch<W, F>(
    idle: &Idle<Session>,
    (peer, how): (&Peer, How),
    path: &[u8],
    bounds: Bounds,
    expected: Expected,
    open: F,
) -> Result<Fetched<W>, TransferError>
where
    W: Write + Send + 'static,
    F: FnOnce() -> Result<W, SpoolError> + Send + 'static,
{
    let (directory, name) = split(peer, path)?;
    let how = How { ascii: false, ..how };
    let place = format!("{how:?} {}", shown(peer, b"", b""));
    let session = match idle.take(&place, Instant::now()) {
        Some(session) => session,
        None => Session::connect(peer, how).await?,
    };
    let mut download = Download {
        session,
        url: shown(peer, directory, name),
        directory,
        name: argument(name),
        body: None,
        version: Version::default(),
        got: 0,
        resumes: 0,
    };
    let result = download.run(bounds, expected, open).await;
    if let Some(session) = download.end() {
        idle.give(&place, session, Instant::now());
    }
    result
}

/// Directory and name of what may be asked for.
fn split<'a>(peer: &Peer, path: &'a [u8]) -> Result<(&'a [u8], &'a [u8]), TransferError> {
    let refuse = |why: &str| {
        let what = format!("cannot fetch {}: {why}", shown(peer, b"", path));
        Err(TransferError::new(Fault::Message, Kind::NotAllowed, what))
    };
    if path.iter().any(u8::is_ascii_control) {
        return refuse("its path holds control characters");
    }
    if path.split(|byte| *byte == b'/').any(|part| part == b"..") {
        return refuse("its path leads upwards");
    }
    let (directory, name) = match path.iter().rposition(|byte| *byte == b'/') {
        Some(0) => (&path[..1], &path[1..]),
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (&path[..0], path),
    };
    match name {
        b"" | b"." => refuse("it names no file"),
        _ => Ok((directory, name)),
    }
}

/// What the server says of the file, to know it again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Version {
    size: Option<u64>,
    modified: Option<Timestamp>,
}

struct Download<'a> {
    session: Session,
    url: String,
    directory: &'a [u8],
    name: String,
    body: Option<Data>,
    version: Version,
    got: u64,
    resumes: u32,
}

impl Download<'_> {
    async fn run<W, F>(&mut self, bounds: Bounds, expected: Expected, open: F) -> Result<Fetched<W>, TransferError>
    where
        W: Write + Send + 'static,
        F: FnOnce() -> Result<W, SpoolError> + Send + 'static,
    {
        self.session.wake().await?;
        let was_there = self.session.at.as_ref() == Some(&Place::of(self.directory));
        let mut begun = self.begin(bounds).await;
        if was_there && !self.session.is_torn && begun.as_ref().is_err_and(|err| err.kind == Kind::Gone) {
            // The directory may have been taken away, and another put in its place.
            self.session.at = None;
            begun = self.begin(bounds).await;
        }
        begun?;
        let mut left = bounds.most().saturating_add(1);
        let (first, mut has_ended) = self.gather(&mut left).await?;
        let mut writing = spawn_blocking(move || {
            let mut intake = Intake::open(open, bounds, expected)?;
            intake.take(&first)?;
            Ok(intake)
        });
        while !has_ended {
            let (bytes, ended) = self.gather(&mut left).await?;
            let mut intake = joined(writing).await?;
            writing = spawn_blocking(move || {
                intake.take(&bytes)?;
                Ok(intake)
            });
            has_ended = ended;
        }
        let intake = joined(writing).await?;
        let facts = Facts {
            size: 0,
            last_modified: self.version.modified,
            etag: None,
        };
        let url = self.url.clone();
        off_thread(move || intake.finish(facts, &url)).await
    }

    async fn begin(&mut self, bounds: Bounds) -> Result<(), TransferError> {
        self.version = self.ask().await?;
        bounds.check_length(self.version.size, &self.url)?;
        self.retrieve().await
    }

    /// Goes on where it broke off, on a new connection.
    async fn resume(&mut self) -> Result<(), TransferError> {
        self.resumes += 1;
        self.body = None;
        self.session.connect_again().await?;
        if self.ask().await? != self.version {
            let what = format!("cannot fetch {}: it changed meanwhile", self.url);
            return Err(TransferError::new(Fault::Endpoint, Kind::Broken, what));
        }
        self.retrieve().await
    }

    async fn ask(&mut self) -> Result<Version, TransferError> {
        let what = format!("cannot fetch {}", self.url);
        let work = Work {
            what: &what,
            entering: Doing::Find,
        };
        self.session.enter(self.directory, false, &work).await?;
        let limit = self.session.peer.read_timeout;
        let mut version = Version::default();
        if self.session.has_size {
            version.size = match answered(within(limit, self.session.client.size(&self.name)).await) {
                Ok(size) => size.ok().map(|size| size as u64),
                Err(FtpError::BadResponse) => None,
                Err(err) => return Err(self.session.fail(&work, Doing::Retrieve, &self.name, err)),
            };
        }
        version.modified = match answered(within(limit, self.session.client.mdtm(&self.name)).await) {
            Ok(time) => time
                .ok()
                .and_then(|time| Timestamp::from_second(time.and_utc().timestamp()).ok()),
            Err(FtpError::BadResponse) => None,
            Err(err) => return Err(self.session.fail(&work, Doing::Retrieve, &self.name, err)),
        };
        Ok(version)
    }

    async fn retrieve(&mut self) -> Result<(), TransferError> {
        let limit = self.session.peer.read_timeout;
        let client = &mut self.session.client;
        let opened = within(limit, async {
            // A server without REST refuses the offset: then it cannot be gone on with.
            client
                .resume_transfer(usize::try_from(self.got).unwrap_or(usize::MAX))
                .await?;
            client.custom_data_command(format!("RETR {}", self.name), &OPENED).await
        });
        let (_, body) = opened.await.map_err(|err| self.fail(err))?;
        self.body = Some(body);
        Ok(())
    }

    fn fail(&mut self, err: FtpError) -> TransferError {
        let what = format!("cannot fetch {}", self.url);
        let work = Work {
            what: &what,
            entering: Doing::Find,
        };
        self.session.fail(&work, Doing::Retrieve, &self.name, err)
    }

    /// Receives up to a buffer; true when nothing more is wanted. Of what is too long, one byte more than is taken.
    async fn gather(&mut self, left: &mut u64) -> Result<(Vec<u8>, bool), TransferError> {
        let mut gathered = Vec::new();
        loop {
            let before = gathered.len();
            let received = self.receive(&mut gathered, *left).await;
            let count = (gathered.len() - before) as u64;
            (self.got, *left) = (self.got + count, *left - count);
            match received {
                Ok(has_ended) if has_ended || *left == 0 => return Ok((gathered, true)),
                Ok(_) if gathered.len() >= BUFFER => return Ok((gathered, false)),
                Ok(_) => {}
                Err(err) => match self.may_go_on(&err) {
                    true => self.resume().await?,
                    false => return Err(err),
                },
            }
        }
    }

    fn may_go_on(&self, err: &TransferError) -> bool {
        let has_begun = self.got > 0 || self.session.wants_older_tls;
        err.fault == Fault::Endpoint && has_begun && self.resumes < RESUMES
    }

    /// Fills the buffer as far as it goes; true at the end, which the server has confirmed.
    async fn receive(&mut self, gathered: &mut Vec<u8>, left: u64) -> Result<bool, TransferError> {
        let limit = self.session.peer.read_timeout;
        let Some(body) = &mut self.body else {
            return Ok(true);
        };
        let room = BUFFER.saturating_sub(gathered.len());
        gathered.reserve(room);
        let most = left.min(room as u64);
        let read = within(limit, async {
            let mut part = (&mut *body).take(most);
            part.read_buf(gathered).await.map_err(FtpError::ConnectionError)
        });
        match read.await {
            Ok(count) if count > 0 || most == 0 => Ok(false),
            Ok(_) => self.confirm(false).await,
            // The end of the connection without TLS's own end: only what the server says of it counts.
            Err(FtpError::ConnectionError(err)) if err.kind() == io::ErrorKind::UnexpectedEof => {
                self.confirm(true).await
            }
            Err(err) => Err(self.fail(err)),
        }
    }

    async fn confirm(&mut self, was_cut: bool) -> Result<bool, TransferError> {
        if let Some(body) = self.body.take() {
            let finished = within(self.session.peer.read_timeout, body.finish()).await;
            finished.map_err(|err| self.fail(err))?;
        }
        let is_whole = match self.version.size {
            Some(size) => self.got >= size,
            None => !was_cut,
        };
        match is_whole {
            true => Ok(true),
            false => Err(self.fail(FtpError::ConnectionError(io::ErrorKind::UnexpectedEof.into()))),
        }
    }

    /// The session, where it can be used again.
    fn end(self) -> Option<Session> {
        let mut session = self.session;
        session.used = Instant::now();
        (self.body.is_none() && !session.is_torn).then_some(session)
    }
}

#[cfg(test)]
mod tests;
