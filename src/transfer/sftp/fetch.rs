//! Reading one file from an SFTP server: many requests at once, and on with it after a connection that broke.

use std::io::Write;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use russh_sftp::client::RawSftpSession;
use russh_sftp::client::error::Error as SftpError;
use russh_sftp::protocol::{FileAttributes, OpenFlags, StatusCode};
use tokio::task::{JoinHandle, spawn_blocking};

use super::fault::{Step, failed};
use super::pipeline::Pipeline;
use super::{Session, place, text};
use crate::message::{Fault, ProductPath};
use crate::spool::SpoolError;
use crate::transfer::idle::Idle;
use crate::transfer::intake::{Bounds, Expected, Facts, Fetched, Intake};
use crate::transfer::peer::Peer;
use crate::transfer::{Kind, TransferError, joined, off_thread, shorten};

/// How long a connection that broke in the middle of a file is waited for, each time before it is made anew. Bytes that
/// come begin this anew; after the last the fetch has failed.
const PAUSES: [Duration; 4] = [
    Duration::ZERO,
    Duration::from_millis(250),
    Duration::from_secs(1),
    Duration::from_secs(3),
];

/// Fetches a file into the sink that `open` makes. The path is one of the server: from its root with a slash, else from
/// where the log-in begins. Connections come from `idle` and go back there while they work.
pub(in crate::transfer) async fn fetch<W, F>(
    idle: &Idle<Session>,
    peer: &Peer,
    path: &[u8],
    bounds: Bounds,
    expected: Expected,
    open: F,
) -> Result<Fetched<W>, TransferError>
where
    W: Write + Send + 'static,
    F: FnOnce() -> Result<W, SpoolError> + Send + 'static,
{
    let place = place(peer);
    let shown = shorten(&format!("{place}/{}", ProductPath(path.to_vec()))).to_string();
    let doing = format!("cannot fetch {shown}");
    let path = text(path, &doing)?;
    let mut progress = Progress::new(bounds, expected, open);
    let mut kept = idle.take(&place, Instant::now()).filter(|session| !session.is_over());
    let mut pauses = PAUSES.iter();
    loop {
        let had = progress.at;
        let was_kept = kept.is_some();
        let result = match kept.take() {
            Some(session) => progress.go_on(session, &path, &doing).await,
            None => match Session::connect(peer).await {
                Ok(session) => progress.go_on(session, &path, &doing).await,
                Err(err) => Err((err, None)),
            },
        };
        let err = match result {
            Ok((facts, session)) => {
                idle.give(&place, session, Instant::now());
                return progress.finish(facts, shown).await;
            }
            Err((err, Some(session))) => {
                idle.give(&place, session, Instant::now());
                return Err(err);
            }
            Err((err, None)) => err,
        };
        if was_kept {
            // It may have ended while nobody used it.
            continue;
        }
        if progress.at > had {
            pauses = PAUSES.iter();
        }
        match pauses.next() {
            Some(pause) if progress.at > 0 && is_worth_it(&err) => tokio::time::sleep(*pause).await,
            _ => return Err(err),
        }
    }
}

/// Whether the rest may come over another connection.
fn is_worth_it(err: &TransferError) -> bool {
    err.fault == Fault::Endpoint && matches!(err.kind, Kind::Broken | Kind::TimedOut | Kind::Unreachable)
}

/// What has arrived of a file.
struct Progress<W, F> {
    unopened: Option<(F, Expected)>,
    writing: Option<JoinHandle<Result<Intake<W>, TransferError>>>,
    bounds: Bounds,
    at: u64,
    /// What the file was when it was first looked at.
    version: Option<Facts>,
}

/// What an answer says.
enum Answer {
    /// Bytes from here, so many of those that were asked for.
    Bytes {
        from: u64,
        asked: usize,
        bytes: Vec<u8>,
    },
    End,
}

impl<W, F> Progress<W, F>
where
    W: Write + Send + 'static,
    F: FnOnce() -> Result<W, SpoolError> + Send + 'static,
{
    fn new(bounds: Bounds, expected: Expected, open: F) -> Self {
        Progress {
            unopened: Some((open, expected)),
            writing: None,
            bounds,
            at: 0,
            version: None,
        }
    }

    /// Reads on from where it is. The session comes back when it can be used further.
    async fn go_on(
        &mut self,
        session: Session,
        path: &str,
        doing: &str,
    ) -> Result<(Facts, Session), (TransferError, Option<Session>)> {
        match self.read(&session, path, doing).await {
            Ok(facts) => Ok((facts, session)),
            Err(err) if err.fault == Fault::Endpoint && err.kind != Kind::Forbidden => Err((err, None)),
            Err(err) => Err((err, Some(session))),
        }
    }

    async fn read(&mut self, session: &Session, path: &str, doing: &str) -> Result<Facts, TransferError> {
        let sftp = &session.sftp;
        // Looked at before it is opened: opening a pipe would wait for its writer.
        let there = session.ask(sftp.stat(path)).await;
        let facts = facts(&there.map_err(|err| failed(err, Step::Look, doing))?.attrs, doing)?;
        self.bounds
            .check_length(Some(facts.size), &doing.trim_start_matches("cannot fetch "))?;
        match &self.version {
            Some(version) if *version != facts => {
                let what = format!("{doing}: it changed while it was read");
                return Err(TransferError::new(Fault::Message, Kind::Broken, what));
            }
            _ => self.version = Some(facts.clone()),
        }
        let opened = session
            .ask(sftp.open(path, OpenFlags::READ, FileAttributes::empty()))
            .await;
        let handle = opened.map_err(|err| failed(err, Step::Open, doing))?.handle;
        let result = self.read_on(session, &handle, facts.size, doing).await;
        let mut closing = Pipeline::new(session.patience);
        // Nobody waits for the answer: nothing depends on it.
        closing.send(Step::Finish, 0, Duration::ZERO, sftp.close(handle)).await;
        result.map(|()| facts)
    }

    async fn read_on(
        &mut self,
        session: &Session,
        handle: &str,
        mut size: u64,
        doing: &str,
    ) -> Result<(), TransferError> {
        // One byte more than is taken tells that there is more.
        let most = self.bounds.most().saturating_add(1);
        let mut pipeline = Pipeline::new(session.patience);
        let (mut asked, mut has_probed) = (self.at, false);
        loop {
            while asked < most && !has_probed && pipeline.has_room(session.offers.read) {
                // What lies behind the size is asked for once: the answer should be that there is nothing.
                has_probed = asked >= size;
                let wanted = if has_probed { most } else { size.min(most) } - asked;
                let length = usize::try_from(wanted).unwrap_or(usize::MAX).min(session.offers.read);
                let request = bytes(&session.sftp, handle, asked, length);
                pipeline.send(Step::Read, length, Duration::ZERO, request).await;
                asked += length as u64;
            }
            match pipeline.next().await {
                None | Some(Ok(Answer::End)) => return Ok(()),
                Some(Ok(Answer::Bytes {
                    from,
                    asked: wanted,
                    bytes,
                })) => {
                    let got = bytes.len();
                    self.take(bytes).await?;
                    let end = from + got as u64;
                    if got < wanted || has_probed && end > size {
                        // Fewer than asked for, or the file has grown: from here on again.
                        pipeline.forget();
                        (asked, has_probed, size) = (end, false, size.max(end));
                    }
                }
                Some(Err((step, err))) => return Err(failed(err, step, doing)),
            }
        }
    }

    /// Writes off the async threads, while the next bytes come.
    async fn take(&mut self, bytes: Vec<u8>) -> Result<(), TransferError> {
        self.at += bytes.len() as u64;
        let bounds = self.bounds;
        self.writing = Some(match (self.writing.take(), self.unopened.take()) {
            (Some(writing), _) => {
                let mut intake = joined(writing).await?;
                spawn_blocking(move || intake.take(&bytes).map(|()| intake))
            }
            (None, Some((open, expected))) => spawn_blocking(move || {
                let mut intake = Intake::open(open, bounds, expected)?;
                intake.take(&bytes)?;
                Ok(intake)
            }),
            (None, None) => {
                let what = "the file that is being written failed before";
                return Err(TransferError::new(Fault::Own, Kind::Local, what));
            }
        });
        Ok(())
    }

    async fn finish(mut self, facts: Facts, shown: String) -> Result<Fetched<W>, TransferError> {
        if self.unopened.is_some() {
            self.take(Vec::new()).await?;
        }
        let Some(writing) = self.writing else {
            return Err(TransferError::new(Fault::Own, Kind::Local, "nothing was written"));
        };
        let intake = joined(writing).await?;
        off_thread(move || intake.finish(facts, &shown)).await
    }
}

async fn bytes(sftp: &RawSftpSession, handle: &str, from: u64, asked: usize) -> Result<Answer, SftpError> {
    let length = u32::try_from(asked).unwrap_or(u32::MAX);
    match sftp.read(handle, from, length).await {
        Ok(data) if data.data.is_empty() => Ok(Answer::End),
        Ok(data) if data.data.len() > asked => Err(SftpError::UnexpectedPacket),
        Ok(data) => Ok(Answer::Bytes {
            from,
            asked,
            bytes: data.data,
        }),
        Err(SftpError::Status(status)) if status.status_code == StatusCode::Eof => Ok(Answer::End),
        Err(err) => Err(err),
    }
}

fn facts(there: &FileAttributes, doing: &str) -> Result<Facts, TransferError> {
    // A server that tells no type has nothing else.
    if there.permissions.is_some() && !there.is_regular() {
        let what = format!("{doing}: it is no regular file");
        return Err(TransferError::new(Fault::Message, Kind::Rejected, what));
    }
    Ok(Facts {
        size: there.size.unwrap_or_default(),
        last_modified: there
            .mtime
            .and_then(|time| Timestamp::from_second(i64::from(time)).ok()),
        etag: None,
    })
}

#[cfg(test)]
mod tests;
