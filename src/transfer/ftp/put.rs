//! Putting a product into a server.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use suppaftp::types::Response;
use suppaftp::{FtpError, FtpResult, Status};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tracing::warn;

use super::super::deliver::chunks::Chunks;
use super::super::deliver::options::{Context, Lock};
use super::super::deliver::parcel::Parcel;
use super::super::{Kind, TransferError};
use super::{Data, Doing, OPENED, Place, Session, Work, answered, argument, is_unknown, shown, text, within};
use crate::message::Fault;

/// For a server to close its side of a data connection after px has closed its own.
const DRAIN: Duration = Duration::from_secs(5);
/// Of a file that was delivered without any permission, where nothing else is asked for.
const USUAL_MODE: u32 = 0o644;

impl Session {
    /// Delivers one product; see [`super`] for the steps.
    pub(in crate::transfer) async fn put(&mut self, parcel: &Parcel, context: &Context) -> Result<(), TransferError> {
        self.wake().await?;
        let was_there = self.at.as_ref() == Some(&Place::of(&parcel.directory));
        let mut result = self.deliver(parcel, context).await;
        if result.is_err() && self.wants_older_tls {
            self.connect_again().await?;
            result = self.deliver(parcel, context).await;
        } else if was_there && !self.is_torn && result.as_ref().is_err_and(|err| err.kind == Kind::Forbidden) {
            // The directory may have been taken away, and another put in its place.
            result = self.deliver(parcel, context).await;
        }
        self.used = Instant::now();
        result
    }

    async fn deliver(&mut self, parcel: &Parcel, context: &Context) -> Result<(), TransferError> {
        let options = &context.options;
        let what = format!("cannot put {}", shown(&self.peer, &parcel.directory, &parcel.name));
        let work = Work {
            what: &what,
            entering: Doing::Enter,
        };
        self.enter(&parcel.directory, options.makes_directories, &work).await?;
        let name = argument(&parcel.name);
        let temporary = context.temporary_name(parcel);
        let written = temporary.map_or_else(|| name.clone(), |temporary| argument(&temporary));
        match options.lock {
            Lock::Umask => self.shut_umask(&written, &work).await?,
            Lock::Suffix(_) | Lock::None => self.open_umask(&work).await?,
        }
        let mut done = self.write(&written, parcel, context, &work).await;
        if done.is_ok() && written != name {
            done = self.rename(&written, &name, &work).await;
        }
        if done.is_err() && !self.is_torn && options.lock != Lock::None {
            // Nothing lost: the next try writes over what could not be removed.
            if answered(within(self.peer.read_timeout, self.client.rm(&written)).await).is_err() {
                self.is_torn = true;
            }
        }
        if done.is_err() {
            // What is refused there may be in order where the way begins.
            self.at = None;
        }
        done
    }

    /// What is written from now on has no permission at all.
    async fn shut_umask(&mut self, name: &str, work: &Work<'_>) -> Result<(), TransferError> {
        let limit = self.peer.read_timeout;
        if self.umask.is_none() {
            let asked = answered(within(limit, self.client.site("UMASK")).await);
            let asked = asked.map_err(|err| self.fail(work, Doing::Prepare, "", err))?;
            let set = answered(within(limit, self.client.site("UMASK 777")).await);
            match set.map_err(|err| self.fail(work, Doing::Prepare, "", err))? {
                Ok(_) => self.umask = Some(asked.ok().and_then(|reply| umask_in(&reply.body)).unwrap_or_default()),
                Err(_) => {
                    let what = format!("{}: the server has no SITE UMASK; set another lock", work.what);
                    return Err(TransferError::new(Fault::Endpoint, Kind::Rejected, what));
                }
            }
        }
        // A file that is there already would keep its mode while it is written.
        let removed = answered(within(limit, self.client.rm(name)).await);
        removed
            .map_err(|err| self.fail(work, Doing::Store, name, err))
            .map(drop)
    }

    /// The file under the name it is written to, whole, with its time and mode.
    async fn write(
        &mut self,
        name: &str,
        parcel: &Parcel,
        context: &Context,
        work: &Work<'_>,
    ) -> Result<(), TransferError> {
        self.store(name, parcel, context, work).await?;
        self.check_size(name, parcel.size, work).await?;
        if let Some(modified) = parcel.modified.filter(|_| self.has_mfmt) {
            self.set_time(name, modified, work).await?;
        }
        match (context.options.mode, &context.options.lock) {
            (mode, Lock::Umask) => self.set_mode(name, mode.unwrap_or(USUAL_MODE), true, work).await,
            (Some(mode), _) => self.set_mode(name, mode, false, work).await,
            (None, _) => Ok(()),
        }
    }

    async fn store(
        &mut self,
        name: &str,
        parcel: &Parcel,
        context: &Context,
        work: &Work<'_>,
    ) -> Result<(), TransferError> {
        let (limit, chunks) = (self.peer.read_timeout, context.chunks(parcel)?);
        // Not the client's own STOR: that forgets the server's answer where the data connection broke.
        let command = format!("STOR {name}");
        let opened = within(limit, self.client.custom_data_command(command, &OPENED)).await;
        let (_, mut data) = opened.map_err(|err| self.fail(work, Doing::Store, name, err))?;
        let sent = send(&mut data, chunks, self.how.ascii, limit).await;
        if let Ok(Err(FtpError::ConnectionError(err))) = &sent
            && err.kind() == std::io::ErrorKind::TimedOut
        {
            let err = FtpError::ConnectionError(std::io::ErrorKind::TimedOut.into());
            return Err(self.fail(work, Doing::Store, name, err));
        }
        let answer = within(limit, data.finish()).await;
        match (sent, answer) {
            (Ok(Ok(())), Ok(())) => Ok(()),
            // The content could not be read: what the server has of it is removed.
            (Err(err), answer) => {
                self.is_torn |= answered(answer).is_err();
                if !self.is_torn && context.options.lock == Lock::None {
                    self.is_torn = answered(within(limit, self.client.rm(name)).await).is_err();
                }
                Err(err)
            }
            // It says why.
            (Ok(_), Err(err)) => Err(self.fail(work, Doing::Store, name, err)),
            (Ok(Err(err)), Ok(())) => Err(self.fail(work, Doing::Store, name, err)),
        }
    }

    /// In ASCII type servers count otherwise.
    async fn check_size(&mut self, name: &str, size: u64, work: &Work<'_>) -> Result<(), TransferError> {
        if !self.has_size || self.how.ascii {
            return Ok(());
        }
        match answered(within(self.peer.read_timeout, self.client.size(name)).await) {
            Ok(Ok(there)) if there as u64 == size => Ok(()),
            Ok(Ok(there)) => {
                let what = format!("{}: of {size} bytes {there} are there", work.what);
                Err(TransferError::new(Fault::Endpoint, Kind::Broken, what))
            }
            Ok(Err(reply)) => {
                self.has_size = !is_unknown(&reply);
                Ok(())
            }
            // A size in words of its own.
            Err(FtpError::BadResponse) => Ok(()),
            Err(err) => Err(self.fail(work, Doing::Store, name, err)),
        }
    }

    async fn set_time(&mut self, name: &str, modified: Timestamp, work: &Work<'_>) -> Result<(), TransferError> {
        let stamp = modified.to_zoned(TimeZone::UTC).strftime("%Y%m%d%H%M%S");
        let command = format!("MFMT {stamp} {name}");
        let expected = [Status::File, Status::CommandOk, Status::RequestedFileActionOk];
        let set = within(self.peer.read_timeout, self.client.custom_command(command, &expected)).await;
        match answered(set) {
            // Who may not set it leaves it.
            Ok(_) => Ok(()),
            Err(err) => Err(self.fail(work, Doing::Store, name, err)),
        }
    }

    async fn set_mode(&mut self, name: &str, mode: u32, is_needed: bool, work: &Work<'_>) -> Result<(), TransferError> {
        let command = format!("SITE CHMOD {mode:03o} {name}");
        let expected = [Status::CommandOk, Status::RequestedFileActionOk];
        let set = within(self.peer.read_timeout, self.client.custom_command(command, &expected)).await;
        match answered(set).map_err(|err| self.fail(work, Doing::Store, name, err))? {
            Ok(_) => {}
            Err(reply) if is_needed => {
                let said = self.fail(work, Doing::Store, name, FtpError::UnexpectedResponse(reply));
                let what = format!("{}; the lock umask needs SITE CHMOD", said.what);
                return Err(TransferError::new(Fault::Endpoint, Kind::Rejected, what));
            }
            Err(reply) if !self.warned_of_mode => {
                self.warned_of_mode = true;
                let said = self.fail(work, Doing::Store, name, FtpError::UnexpectedResponse(reply));
                let server = shown(&self.peer, b"", b"");
                warn!(%server, why = said.what, "files keep the mode that the server gives them");
            }
            Err(_) => {}
        }
        Ok(())
    }

    async fn rename(&mut self, from: &str, to: &str, work: &Work<'_>) -> Result<(), TransferError> {
        let limit = self.peer.read_timeout;
        let Err(refused) = self.try_rename(from, to, work).await? else {
            return Ok(());
        };
        // What is there is touched only where it may be what is in the way.
        if !matches!(refused.status, Status::FileUnavailable | Status::BadFilename) {
            return Err(self.fail(work, Doing::Rename, to, FtpError::UnexpectedResponse(refused)));
        }
        let removed = answered(within(limit, self.client.rm(to)).await);
        if removed.map_err(|err| self.fail(work, Doing::Rename, to, err))?.is_err() {
            // Not because of an older file, then; of a directory servers say all sorts of things.
            if within(limit, self.client.cwd(to)).await.is_ok() {
                // Nothing lost: what was written stays there under its temporary name.
                let _ = within(limit, self.client.cdup()).await;
                let what = format!("{}: there is a directory of that name", work.what);
                return Err(TransferError::new(Fault::Message, Kind::Rejected, what));
            }
            return Err(self.fail(work, Doing::Rename, to, FtpError::UnexpectedResponse(refused)));
        }
        let renamed = self.try_rename(from, to, work).await?;
        renamed.map_err(|refused| self.fail(work, Doing::Rename, to, FtpError::UnexpectedResponse(refused)))
    }

    /// The inner error is that the server does not take the new name; that it does not have the old one is the outer.
    async fn try_rename(
        &mut self,
        from: &str,
        to: &str,
        work: &Work<'_>,
    ) -> Result<Result<(), Response>, TransferError> {
        let limit = self.peer.read_timeout;
        let command = format!("RNFR {from}");
        let begun = within(
            limit,
            self.client.custom_command(command, &[Status::RequestFilePending]),
        )
        .await;
        begun.map_err(|err| self.fail(work, Doing::Rename, from, err))?;
        let command = format!("RNTO {to}");
        let ended = within(
            limit,
            self.client.custom_command(command, &[Status::RequestedFileActionOk]),
        )
        .await;
        let ended = answered(ended).map_err(|err| self.fail(work, Doing::Rename, to, err))?;
        Ok(ended.map(drop))
    }
}

/// All bytes, and that they are all. The outer error is that the content cannot be read.
async fn send(
    data: &mut Data,
    mut chunks: Chunks,
    ascii: bool,
    limit: Duration,
) -> Result<FtpResult<()>, TransferError> {
    let mut lines = Lines::default();
    while let Some(mut chunk) = chunks.next().await? {
        if ascii {
            chunk = lines.for_wire(&chunk);
        }
        let mut rest = chunk.as_slice();
        while !rest.is_empty() {
            match within(limit, async {
                data.write(rest).await.map_err(FtpError::ConnectionError)
            })
            .await
            {
                Ok(0) => return Ok(Err(FtpError::ConnectionError(std::io::ErrorKind::WriteZero.into()))),
                Ok(count) => rest = &rest[count..],
                Err(err) => return Ok(Err(err)),
            }
        }
    }
    let ended = within(limit, async {
        data.shutdown().await.map_err(FtpError::ConnectionError)
    })
    .await;
    if ended.is_ok() {
        // A socket that is closed with bytes unread (tickets for later TLS sessions) is reset, and the server may lose
        // the end of what was sent. Its answer tells all the same, so that nothing is lost without this.
        let mut tickets = [0; 1024];
        let _ = tokio::time::timeout(limit.min(DRAIN), async {
            while matches!(data.read(&mut tickets).await, Ok(count) if count > 0) {}
        })
        .await;
    }
    Ok(ended)
}

/// `200 Current UMASK is 022`.
fn umask_in(reply: &[u8]) -> Option<String> {
    let said = text(reply);
    let digits = said
        .split(|letter: char| !letter.is_ascii_digit())
        .rfind(|word| !word.is_empty())?;
    let is_umask = (3..=4).contains(&digits.len()) && u32::from_str_radix(digits, 8).is_ok();
    (is_umask && said.trim_start().get(..3) != Some(digits)).then(|| digits.to_owned())
}

/// Ends of lines as ASCII type has them on the wire.
#[derive(Debug, Default)]
struct Lines {
    is_after_cr: bool,
}

impl Lines {
    fn for_wire(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut wire = Vec::with_capacity(bytes.len() + bytes.len() / 16);
        for byte in bytes {
            if *byte == b'\n' && !self.is_after_cr {
                wire.push(b'\r');
            }
            wire.push(*byte);
            self.is_after_cr = *byte == b'\r';
        }
        wire
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_with_cr_lf_wherever_they_are_cut() {
        for cut in 0..=8 {
            let mut lines = Lines::default();
            let (first, second) = b"a\nb\r\nc\n\n".split_at(cut);
            let wire = [lines.for_wire(first), lines.for_wire(second)].concat();
            assert_eq!(wire, b"a\r\nb\r\nc\r\n\r\n", "{cut}");
        }
    }

    #[test]
    fn a_umask_is_found_in_words() {
        let table = [
            ("200 Current UMASK is 022\r\n", Some("022")),
            ("200 Your current umask is 0027\r\n", Some("0027")),
            ("200 Ok\r\n", None),
            ("200 It is 99\r\n", None),
        ];
        for (reply, umask) in table {
            assert_eq!(umask_in(reply.as_bytes()).as_deref(), umask, "{reply}");
        }
    }
}
