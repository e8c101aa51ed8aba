//! `file:` URLs: read beneath a configured root, regular files only.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::intake::{Bounds, Expected, Facts, Fetched, Intake};
use super::policy::Target;
use super::{Kind, TransferError, off_thread};
use crate::message::Fault;
use crate::spool::SpoolError;

const BUFFER: usize = 256 << 10;
/// Links inside the root are the operator's; none leads out of it.
const BENEATH: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_MAGICLINKS);

pub(super) async fn fetch<W, F>(
    root: PathBuf,
    path: Vec<u8>,
    bounds: Bounds,
    expected: Expected,
    open: F,
) -> Result<Fetched<W>, TransferError>
where
    W: Write + Send + 'static,
    F: FnOnce() -> Result<W, SpoolError> + Send + 'static,
{
    off_thread(move || {
        let target = Target::File {
            root: root.clone(),
            path: path.clone(),
        };
        let (file, facts) = open_file(&root, &path).map_err(|err| at(err, &target))?;
        bounds.check_length(Some(facts.size), &target)?;
        let mut intake = Intake::open(open, bounds, expected)?;
        let mut buffer = vec![0; BUFFER];
        // One byte more than is taken tells that there is more.
        let mut file = file.take(bounds.most().saturating_add(1));
        loop {
            match file.read(&mut buffer) {
                Ok(0) => return intake.finish(facts, &target),
                Ok(count) => intake.take(&buffer[..count])?,
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) => {
                    let errno = Errno::from_io_error(&err).unwrap_or(Errno::IO);
                    return Err(at(Refusal::Errno(errno), &target));
                }
            }
        }
    })
    .await
}

enum Refusal {
    NoRoot(Errno),
    Errno(Errno),
    NotRegular,
}

fn open_file(root: &Path, path: &[u8]) -> Result<(File, Facts), Refusal> {
    let root = rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let root = root.map_err(Refusal::NoRoot)?;
    // NONBLOCK: a pipe would wait for its writer.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let fd =
        rustix::fs::openat2(&root, OsStr::from_bytes(path), flags, Mode::empty(), BENEATH).map_err(Refusal::Errno)?;
    let stat = rustix::fs::fstat(&fd).map_err(Refusal::Errno)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Refusal::NotRegular);
    }
    let nanoseconds = i32::try_from(stat.st_mtime_nsec).unwrap_or_default();
    let facts = Facts {
        size: u64::try_from(stat.st_size).unwrap_or_default(),
        last_modified: Timestamp::new(stat.st_mtime, nanoseconds).ok(),
        etag: None,
    };
    Ok((fd.into(), facts))
}

fn at(refusal: Refusal, target: &Target) -> TransferError {
    let (fault, kind, why) = classify(&refusal);
    let err = TransferError::new(fault, kind, format!("cannot read {target}: {why}"));
    match refusal {
        Refusal::NoRoot(errno) | Refusal::Errno(errno) => err.caused_by(errno),
        Refusal::NotRegular => err,
    }
}

fn classify(refusal: &Refusal) -> (Fault, Kind, &'static str) {
    match refusal {
        Refusal::NotRegular => (Fault::Message, Kind::Rejected, "it is no regular file"),
        Refusal::NoRoot(Errno::MFILE | Errno::NFILE) | Refusal::Errno(Errno::MFILE | Errno::NFILE) => {
            (Fault::Own, Kind::Local, "no file descriptors left")
        }
        Refusal::NoRoot(_) => (
            Fault::Endpoint,
            Kind::Unreachable,
            "the root cannot be opened; is it mounted?",
        ),
        Refusal::Errno(errno) => match *errno {
            Errno::NOENT | Errno::NOTDIR => (Fault::Message, Kind::Gone, "there is no such file"),
            Errno::LOOP | Errno::XDEV => (Fault::Message, Kind::NotAllowed, "a link leads out of the root"),
            Errno::NAMETOOLONG | Errno::INVAL | Errno::ILSEQ => (Fault::Message, Kind::Rejected, "no such name can be"),
            // A socket, or a device without a driver.
            Errno::NXIO | Errno::NODEV => (Fault::Message, Kind::Rejected, "it is no regular file"),
            Errno::ACCESS | Errno::PERM => (Fault::Endpoint, Kind::Forbidden, "px has no right to it"),
            Errno::TIMEDOUT => (Fault::Endpoint, Kind::TimedOut, "its file system does not answer"),
            Errno::NOMEM => (Fault::Own, Kind::Local, "no memory left"),
            // EIO, ESTALE and whatever else a file system that is not ours may say.
            _ => (Fault::Endpoint, Kind::Broken, "its file system fails"),
        },
    }
}
