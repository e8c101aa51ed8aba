//! One product on its way to an SFTP server.

use std::time::Duration;

use russh_sftp::client::RawSftpSession;
use russh_sftp::client::error::Error as SftpError;
use russh_sftp::protocol::{FileAttributes, OpenFlags, Packet, StatusCode};

use super::fault::{Step, failed};
use super::pipeline::Pipeline;
use super::{Session, text};
use crate::message::Fault;
use crate::spool::Durability;
use crate::transfer::deliver::options::{Context, Lock};
use crate::transfer::deliver::parcel::Parcel;
use crate::transfer::{Kind, TransferError};

/// What a file has at the end where the configuration says nothing and it began with nothing.
const USUAL_MODE: u32 = 0o644;
/// Writing to a slow disk may take this long for a megabyte.
const SYNC_OF_A_MEGABYTE: Duration = Duration::from_secs(1);
/// Tidying up after a failure.
const TIDYING: Duration = Duration::from_secs(5);

pub(super) struct Upload<'a> {
    session: &'a Session,
    parcel: &'a Parcel,
    context: &'a Context,
    /// `cannot put a/b on sftp://…`
    doing: String,
    /// Empty, or ends in a slash.
    directory: String,
    /// The final path.
    path: String,
    /// The path that is written.
    written: String,
}

/// What an answer says.
enum Answer {
    Done,
    Size(Option<u64>),
}

impl<'a> Upload<'a> {
    pub(super) fn new(
        session: &'a Session,
        parcel: &'a Parcel,
        context: &'a Context,
    ) -> Result<Upload<'a>, TransferError> {
        let doing = format!("cannot put {} on {}", parcel.shown(), session.place);
        let mut directory = String::from(if parcel.is_absolute() { "/" } else { "" });
        for part in parcel.parts() {
            directory.push_str(&text(part, &doing)?);
            directory.push('/');
        }
        let path = format!("{directory}{}", text(&parcel.name, &doing)?);
        let written = match context.temporary_name(parcel) {
            Some(name) => format!("{directory}{}", text(&name, &doing)?),
            None => path.clone(),
        };
        Ok(Upload {
            session,
            parcel,
            context,
            doing,
            directory,
            path,
            written,
        })
    }

    pub(super) async fn run(&self) -> Result<(), TransferError> {
        let handle = self.create().await?;
        let result = match self.fill(&handle).await {
            Ok(()) => self.show().await,
            Err(err) => Err(err),
        };
        if let Err(err) = &result
            && !matches!(err.kind, Kind::TimedOut | Kind::Broken)
        {
            self.tidy(handle).await;
        }
        result
    }

    /// Takes away what is not wanted. Nothing is lost where it stays, or was closed before: the next try writes over
    /// it.
    async fn tidy(&self, handle: String) {
        let sftp = &self.session.sftp;
        let _ = tokio::time::timeout(TIDYING, sftp.close(handle)).await;
        let _ = tokio::time::timeout(TIDYING, sftp.remove(self.written.as_str())).await;
    }

    /// Opens the file that is written. Always a new one where there is a lock: what an earlier try left there gives way
    /// with its permissions, and nothing is written through a link.
    async fn create(&self) -> Result<String, TransferError> {
        let options = &self.context.options;
        let mut flags = OpenFlags::WRITE | OpenFlags::CREATE | OpenFlags::TRUNCATE;
        if options.lock != Lock::None {
            flags |= OpenFlags::EXCLUDE;
        }
        let mut attributes = FileAttributes::empty();
        attributes.permissions = if options.lock == Lock::Umask {
            Some(0)
        } else {
            options.mode
        };
        let (mut may_make, mut may_clear) = (options.makes_directories, options.lock != Lock::None);
        loop {
            let sftp = &self.session.sftp;
            let request = sftp.open(self.written.as_str(), flags, attributes.clone());
            let err = match self.session.ask(request).await {
                Ok(handle) => return Ok(handle.handle),
                Err(err) => err,
            };
            match code(&err) {
                Some(StatusCode::NoSuchFile) if may_make && !self.directory.is_empty() => {
                    may_make = false;
                    self.make_directories().await?;
                }
                Some(StatusCode::Failure | StatusCode::PermissionDenied) if may_clear => {
                    may_clear = false;
                    // Nothing is lost: if it does not help, the server refuses once more.
                    let _ = self.session.ask(sftp.remove(self.written.as_str())).await;
                }
                _ => return Err(self.explained(err, Step::Create).await),
            }
        }
    }

    /// Makes what is missing; the last refusal tells why it cannot be.
    async fn make_directories(&self) -> Result<(), TransferError> {
        let ends = self.directory.match_indices('/').map(|(at, _)| at).filter(|at| *at > 0);
        let mut last = Ok(());
        for end in ends {
            let request = self.session.sftp.mkdir(&self.directory[..end], FileAttributes::empty());
            last = self.session.ask(request).await.map(drop);
        }
        match last {
            // It may be there by now, made by another: then opening succeeds.
            Err(err) if code(&err) != Some(StatusCode::Failure) => Err(self.failed(err, Step::MakeDirectory)),
            _ => Ok(()),
        }
    }

    /// Writes all bytes and everything that is to be done before the file is seen. Requests go out without waiting for
    /// the answers; this waits for all of them at the end.
    async fn fill(&self, handle: &str) -> Result<(), TransferError> {
        let mut pipeline = Pipeline::new(self.session.patience);
        let mut chunks = self.context.chunks(self.parcel)?;
        let (sftp, piece) = (&self.session.sftp, self.session.offers.write);
        let mut at = 0;
        while let Some(chunk) = chunks.next().await? {
            for bytes in chunk.chunks(piece) {
                while !pipeline.has_room(bytes.len()) {
                    self.hear(&mut pipeline).await?;
                }
                let request = write(sftp, handle, at, bytes.to_vec());
                pipeline.send(Step::Write, bytes.len(), Duration::ZERO, request).await;
                at += bytes.len() as u64;
            }
        }
        let size = async { sftp.fstat(handle).await.map(|stat| Answer::Size(stat.attrs.size)) };
        pipeline.send(Step::Write, 0, Duration::ZERO, size).await;
        if self.context.options.lock == Lock::Umask {
            // Only what is whole gets permissions.
            self.hear_all(&mut pipeline).await?;
        }
        self.finish(&mut pipeline, handle).await;
        self.hear_all(&mut pipeline).await
    }

    /// Sends what makes it a file that lasts: mode and time, to the disk, closed.
    async fn finish<'b>(&'b self, pipeline: &mut Pipeline<'b, Answer>, handle: &'b str) {
        let (sftp, options) = (&self.session.sftp, &self.context.options);
        let attributes = self.attributes();
        if attributes.permissions.is_some() || attributes.mtime.is_some() {
            let may_fail = attributes.permissions.is_none();
            let set = async move {
                match sftp.fsetstat(handle, attributes).await {
                    // A server that sets no times delivers all the same.
                    Err(SftpError::Status(_)) if may_fail => Ok(Answer::Done),
                    answer => answer.map(|_| Answer::Done),
                }
            };
            pipeline.send(Step::Attributes, 0, Duration::ZERO, set).await;
        }
        if self.session.offers.fsync && options.durability == Durability::Power {
            let more = SYNC_OF_A_MEGABYTE * u32::try_from(self.parcel.size >> 20).unwrap_or(u32::MAX);
            let sync = async move { sftp.fsync(handle).await.map(|_| Answer::Done) };
            pipeline.send(Step::Finish, 0, more, sync).await;
        }
        let close = async move { sftp.close(handle).await.map(|_| Answer::Done) };
        pipeline.send(Step::Finish, 0, Duration::ZERO, close).await;
    }

    fn attributes(&self) -> FileAttributes {
        let options = &self.context.options;
        let mut attributes = FileAttributes::empty();
        attributes.permissions = match options.lock {
            Lock::Umask => Some(options.mode.unwrap_or(USUAL_MODE)),
            Lock::Suffix(_) | Lock::None => options.mode,
        };
        // 32 bits, from 1970 on; other times are left out.
        let modified = self
            .parcel
            .modified
            .and_then(|time| u32::try_from(time.as_second()).ok());
        (attributes.mtime, attributes.atime) = (modified, modified);
        attributes
    }

    async fn hear_all(&self, pipeline: &mut Pipeline<'_, Answer>) -> Result<(), TransferError> {
        while !pipeline.is_empty() {
            self.hear(pipeline).await?;
        }
        Ok(())
    }

    async fn hear(&self, pipeline: &mut Pipeline<'_, Answer>) -> Result<(), TransferError> {
        match pipeline.next().await {
            None | Some(Ok(Answer::Done)) => Ok(()),
            Some(Ok(Answer::Size(size))) if size == Some(self.parcel.size) => Ok(()),
            Some(Ok(Answer::Size(size))) => {
                let there = size.map_or("the server does not say how many".to_owned(), |size| size.to_string());
                let what = format!("{}: of {} bytes there are {there}", self.doing, self.parcel.size);
                Err(TransferError::new(Fault::Endpoint, Kind::Broken, what))
            }
            Some(Err((step, err))) => {
                pipeline.forget();
                Err(self.explained(err, step).await)
            }
        }
    }

    /// Gives the file its final name, in one step where the server can.
    async fn show(&self) -> Result<(), TransferError> {
        if self.written == self.path {
            return Ok(());
        }
        let sftp = &self.session.sftp;
        let (from, to) = (self.written.as_str(), self.path.as_str());
        let result = if self.session.offers.posix_rename {
            self.session.ask(posix_rename(sftp, from, to)).await
        } else {
            match self.session.ask(sftp.rename(from, to)).await.map(drop) {
                // Plain SFTP replaces nothing. Only what is in the way is removed, and only for what is there to
                // replace it.
                Err(err) if code(&err) == Some(StatusCode::Failure) && self.are_both_there().await => {
                    match self.session.ask(sftp.remove(to)).await {
                        Ok(_) => self.session.ask(sftp.rename(from, to)).await.map(drop),
                        Err(_) => Err(err),
                    }
                }
                other => other,
            }
        };
        match result {
            Ok(()) => Ok(()),
            Err(err) => Err(self.explained(err, Step::Rename).await),
        }
    }

    /// Whether the file that was written is there, and another under the final name.
    async fn are_both_there(&self) -> bool {
        let sftp = &self.session.sftp;
        self.session.ask(sftp.lstat(self.written.as_str())).await.is_ok()
            && self.session.ask(sftp.lstat(self.path.as_str())).await.is_ok()
    }

    fn failed(&self, err: SftpError, step: Step) -> TransferError {
        failed(err, step, &self.doing)
    }

    /// OpenSSH says "failure" to a full disk and to a directory in the way alike: looks which it is.
    async fn explained(&self, err: SftpError, step: Step) -> TransferError {
        let says_nothing = code(&err) == Some(StatusCode::Failure);
        let mut made = self.failed(err, step);
        if !says_nothing {
            return made;
        }
        if matches!(step, Step::Create | Step::Rename)
            && let Ok(there) = self.session.ask(self.session.sftp.lstat(self.path.as_str())).await
            && there.attrs.is_dir()
        {
            (made.fault, made.kind) = (Fault::Message, Kind::Rejected);
            made.what = format!("{}: a directory has that name", self.doing);
            return made;
        }
        if self.session.offers.statvfs {
            let directory = if self.directory.is_empty() {
                "."
            } else {
                self.directory.as_str()
            };
            if let Ok(there) = self.session.ask(self.session.sftp.statvfs(directory)).await {
                let left = there.blocks_avail.saturating_mul(there.fragment_size);
                if left < self.parcel.size.max(1) || (there.inodes > 0 && there.inodes_avail == 0) {
                    made.kind = Kind::Full;
                    made.what = format!("{}: no space left there", self.doing);
                }
            }
        }
        made
    }
}

fn code(err: &SftpError) -> Option<StatusCode> {
    match err {
        SftpError::Status(status) => Some(status.status_code),
        _ => None,
    }
}

async fn write(sftp: &RawSftpSession, handle: &str, at: u64, bytes: Vec<u8>) -> Result<Answer, SftpError> {
    sftp.write(handle, at, bytes).await.map(|_| Answer::Done)
}

async fn posix_rename(sftp: &RawSftpSession, from: &str, to: &str) -> Result<(), SftpError> {
    let mut names = Vec::new();
    for name in [from, to] {
        let length = u32::try_from(name.len()).map_err(|_| SftpError::Limited("a name".into()))?;
        names.extend(length.to_be_bytes());
        names.extend(name.as_bytes());
    }
    match sftp.extended("posix-rename@openssh.com", names).await? {
        Packet::Status(status) if status.status_code == StatusCode::Ok => Ok(()),
        Packet::Status(status) => Err(SftpError::Status(status)),
        _ => Err(SftpError::UnexpectedPacket),
    }
}
