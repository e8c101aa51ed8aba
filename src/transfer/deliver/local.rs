//! Delivery into directories of this host, or of what is mounted here.
//!
//! The directories are the operator's, and may be links. The final name is never followed: what is there, be it a link
//! or one of many names of a file, gives way to the new product. The destination is an endpoint like any other, so its
//! full disk is its own fault and the products stay where they are.

use std::ffi::OsStr;
use std::fs::{DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustix::fs::{AtFlags, Mode, OFlags, Timespec, Timestamps};
use rustix::io::Errno;

use super::chunks::{changed, unreadable};
use super::{Context, Lock, Options, Parcel};
use crate::message::Fault;
use crate::spool::Durability;
use crate::spool::atomic::{Safety, is_young};
use crate::spool::dirsync::Directory;
use crate::transfer::{Kind, TransferError, off_thread};

const BUFFER: usize = 256 << 10;
/// Bytes that one call of the kernel may copy, so that a thread is not gone for long.
const AT_ONCE: u64 = 64 << 20;
/// Another program may make the same name again and again.
const TRIES: usize = 8;
const NOTHING: Mode = Mode::empty();
/// File systems of other hosts tell only when asked to sync that there is no room: NFS, SMB, CIFS, FUSE, Ceph.
const REMOTE: [u32; 5] = [0x6969, 0xFE53_4D42, 0xFF53_4D42, 0x6573_5546, 0x00C3_6400];

/// How files of this host become safe. Nothing is kept open: a directory may be moved away or mounted over meanwhile.
#[derive(Debug)]
pub(super) struct Session {
    safety: Safety,
}

/// One delivery, apart from its bytes.
struct Job {
    directory: PathBuf,
    makes_directories: bool,
    name: Vec<u8>,
    /// The name while it is written; may be the final one.
    written: Vec<u8>,
    has_umask: bool,
    mode: Option<Mode>,
    modified: Option<Timestamp>,
    size: u64,
    durability: Durability,
    shown: String,
}

/// A file in the making. Dropping it unfinished removes it.
struct Draft {
    job: Job,
    directory: Directory,
    /// Closed before the product is seen under its name: a watcher waits for writers to go.
    file: Option<File>,
    to_sync: Vec<Directory>,
    is_placed: bool,
}

impl Session {
    pub(super) fn new(safety: Safety) -> Session {
        Session { safety }
    }

    pub(super) async fn put(&mut self, parcel: &Parcel, context: &Context) -> Result<(), TransferError> {
        if context.options.bandwidth.is_none() {
            let tried = self.put_some(&[parcel], context).await;
            return tried.into_iter().try_for_each(|one| one.map(drop));
        }
        let _in_flight = self.safety.enter();
        let job = Job::of(parcel, &context.options)?;
        let shown = job.shown.clone();
        let to_sync = put_slowly(job, parcel, context).await?;
        self.sync(to_sync, &shown).await
    }

    /// Puts these in their order, up to the first that fails: one change of threads and one sync serve them all.
    /// An answer for each that was tried, at least one, with the time that it took.
    pub(super) async fn put_some(
        &mut self,
        parcels: &[&Parcel],
        context: &Context,
    ) -> Vec<Result<Duration, TransferError>> {
        let _in_flight = self.safety.enter();
        let mut shown = String::new();
        let (mut jobs, mut failed) = (Vec::with_capacity(parcels.len()), None);
        for parcel in parcels {
            match Job::with_content(parcel, &context.options) {
                Ok(job) => jobs.push(job),
                Err(err) => {
                    failed = Some(err);
                    break;
                }
            }
            shown = parcel.shown();
        }
        let mut placed = match off_thread(move || Ok(place(jobs))).await {
            Ok(placed) => placed,
            Err(err) => return vec![Err(err)],
        };
        let begun = Instant::now();
        if let Err(err) = self.sync(std::mem::take(&mut placed.to_sync), &shown).await {
            // None of them is safe; the others are tried again.
            return vec![Err(err)];
        }
        let syncing = begun.elapsed();
        let done = placed.took.into_iter().map(|took| Ok(took + syncing));
        done.chain(placed.failed.or(failed).map(Err)).collect()
    }

    async fn sync(&self, directories: Vec<Directory>, shown: &str) -> Result<(), TransferError> {
        match &self.safety {
            Safety::Power(syncer) if !directories.is_empty() => syncer.sync(directories).await.map_err(|err| {
                let what = format!("cannot deliver {shown}: its directory cannot be synced");
                TransferError::new(Fault::Endpoint, Kind::Broken, what).caused_by(err)
            }),
            Safety::Power(_) | Safety::Crash => Ok(()),
        }
    }
}

/// What became of some jobs, as far as they were tried.
#[derive(Default)]
struct Placed {
    took: Vec<Duration>,
    /// Each once.
    to_sync: Vec<Directory>,
    failed: Option<TransferError>,
}

fn place(jobs: Vec<(Job, File)>) -> Placed {
    let mut placed = Placed::default();
    for (job, content) in jobs {
        let begun = Instant::now();
        let directories = job.begin().and_then(|mut draft| {
            draft.copy(&content)?;
            draft.finish()
        });
        match directories {
            Ok(directories) => {
                placed.took.push(begun.elapsed());
                for directory in directories {
                    if placed.to_sync.iter().all(|known| known.id() != directory.id()) {
                        placed.to_sync.push(directory);
                    }
                }
            }
            Err(err) => {
                placed.failed = Some(err);
                break;
            }
        }
    }
    placed
}

/// No faster than the unit may.
async fn put_slowly(job: Job, parcel: &Parcel, context: &Context) -> Result<Vec<Directory>, TransferError> {
    let mut chunks = context.chunks(parcel)?;
    let mut draft = off_thread(move || job.begin()).await?;
    while let Some(bytes) = chunks.next().await? {
        draft = off_thread(move || {
            draft.write(&bytes)?;
            Ok(draft)
        })
        .await?;
    }
    off_thread(move || draft.finish()).await
}

impl Job {
    fn of(parcel: &Parcel, options: &Options) -> Result<Job, TransferError> {
        let shown = parcel.shown();
        if !parcel.is_absolute() {
            let what = format!("cannot deliver {shown}: a directory of this host begins with a slash");
            return Err(TransferError::new(Fault::Message, Kind::Rejected, what));
        }
        Ok(Job {
            directory: PathBuf::from(OsStr::from_bytes(&parcel.directory)),
            makes_directories: options.makes_directories,
            name: parcel.name.clone(),
            written: options.temporary_name(parcel).unwrap_or_else(|| parcel.name.clone()),
            has_umask: options.lock == Lock::Umask,
            mode: options.mode.map(Mode::from_raw_mode),
            modified: parcel.modified,
            size: parcel.size,
            durability: options.durability,
            shown,
        })
    }

    /// With a handle of its own on what is delivered.
    fn with_content(parcel: &Parcel, options: &Options) -> Result<(Job, File), TransferError> {
        let job = Job::of(parcel, options)?;
        let content = parcel.content.try_clone();
        let content = content.map_err(|err| unreadable(&err, &job.shown))?;
        Ok((job, content))
    }

    /// The empty file under the name it is written to.
    fn begin(self) -> Result<Draft, TransferError> {
        let (directory, to_sync) = self.open_directory().map_err(|err| self.refused(err))?;
        let mode = match (self.has_umask, self.mode) {
            (true, _) => NOTHING,
            // Not for others before it has the mode that it should have.
            (false, Some(_)) => Mode::RUSR | Mode::WUSR,
            (false, None) => Mode::from_raw_mode(0o666),
        };
        let file = create(&directory, &self.written, mode).map_err(|err| self.refused(err))?;
        Ok(Draft {
            job: self,
            directory,
            file: Some(file),
            to_sync,
            is_placed: false,
        })
    }

    /// The directory, and what must be synced for the product to be safe: it, and above it what may have been made just
    /// now, by px or another program, and not been synced yet.
    fn open_directory(&self) -> Result<(Directory, Vec<Directory>), Errno> {
        // To be synced it has to be opened for reading.
        let access = match self.durability {
            Durability::Power => OFlags::RDONLY,
            Durability::Crash => OFlags::PATH,
        };
        let open = |path: &Path| {
            let fd = rustix::fs::open(path, access | OFlags::DIRECTORY | OFlags::CLOEXEC, NOTHING)?;
            Directory::new(fd)
        };
        let directory = match open(&self.directory) {
            Err(Errno::NOENT) if self.makes_directories => {
                let made = DirBuilder::new().recursive(true).mode(0o777).create(&self.directory);
                made.map_err(|err| errno(&err))?;
                open(&self.directory)?
            }
            other => other?,
        };
        let mut to_sync = Vec::new();
        if self.durability == Durability::Power {
            to_sync.push(directory.clone());
            let mut at = self.directory.as_path();
            while let (Some(below), Some(above)) = (to_sync.last().filter(|below| is_young(below)), at.parent()) {
                match open(above) {
                    Ok(above) if above.is_on_device_of(below) => to_sync.push(above),
                    // A mount point; or another's directory, which px has not made anything in.
                    _ => break,
                }
                at = above;
            }
        }
        Ok((directory, to_sync))
    }

    fn refused(&self, err: Errno) -> TransferError {
        let (fault, kind, why) = classify(err);
        TransferError::new(fault, kind, format!("cannot deliver {}: {why}", self.shown)).caused_by(err)
    }
}

/// A new file: whatever has this name gives way, so that nothing is written through it.
fn create(directory: &Directory, name: &[u8], mode: Mode) -> Result<File, Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    for _ in 0..TRIES {
        match rustix::fs::openat(directory.fd(), name, flags, mode) {
            Err(Errno::EXIST) => match rustix::fs::unlinkat(directory.fd(), name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(err) => return Err(err),
            },
            other => return other.map(File::from),
        }
    }
    Err(Errno::EXIST)
}

impl Draft {
    /// All bytes, by the kernel where it can.
    fn copy(&mut self, content: &File) -> Result<(), TransferError> {
        let size = self.job.size;
        let mut at = 0;
        let file = self.file()?;
        let by_range = |at: &mut u64, most| rustix::fs::copy_file_range(content, Some(at), file, None, most);
        let by_page = |at: &mut u64, most| rustix::fs::sendfile(file, content, Some(at), most);
        let copied = in_kernel(&mut at, size, by_range).and_then(|()| in_kernel(&mut at, size, by_page));
        copied.map_err(|err| self.job.refused(err))?;
        let mut buffer = vec![0; if at < size { BUFFER } else { 0 }];
        while at < size {
            let most = usize::try_from(size - at).unwrap_or(usize::MAX).min(BUFFER);
            match content.read_at(&mut buffer[..most], at) {
                Ok(0) => break,
                Ok(count) => {
                    self.write(&buffer[..count])?;
                    at += count as u64;
                }
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) => return Err(unreadable(&err, &self.job.shown)),
            }
        }
        let now = content.metadata().map_err(|err| unreadable(&err, &self.job.shown))?;
        match now.len() == size && at == size {
            true => Ok(()),
            false => Err(changed(&self.job.shown, size)),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), TransferError> {
        let mut file = self.file()?;
        file.write_all(bytes).map_err(|err| self.job.refused(errno(&err)))
    }

    fn file(&self) -> Result<&File, TransferError> {
        self.file.as_ref().ok_or_else(|| self.job.refused(Errno::BADF))
    }

    /// Time, sync, mode, final name. The directories that are returned must be synced before the product is safe.
    fn finish(mut self) -> Result<Vec<Directory>, TransferError> {
        self.try_finish().map_err(|err| self.job.refused(err))?;
        self.is_placed = true;
        Ok(std::mem::take(&mut self.to_sync))
    }

    fn try_finish(&mut self) -> Result<(), Errno> {
        let file = self.file.take().ok_or(Errno::BADF)?;
        if let Some(time) = self.job.modified.map(timespec) {
            let times = Timestamps {
                last_access: time,
                last_modification: time,
            };
            rustix::fs::futimens(&file, &times)?;
        }
        let syncs = self.job.durability == Durability::Power || is_remote(&file);
        let mode = match (self.job.has_umask, self.job.mode) {
            (true, None) => Some(usual_mode()),
            (_, mode) => mode,
        };
        if self.job.has_umask && syncs {
            // Nobody reads what a power cut may still take away.
            rustix::fs::fdatasync(&file)?;
        }
        if let Some(mode) = mode {
            rustix::fs::fchmod(&file, mode)?;
        }
        if syncs {
            rustix::fs::fdatasync(&file)?;
        }
        drop(file);
        let (fd, from, to) = (self.directory.fd(), &self.job.written, &self.job.name);
        if from != to {
            rustix::fs::renameat(fd, from.as_slice(), fd, to.as_slice())?;
        }
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.is_placed {
            // What cannot be removed is removed by the next try, which begins with it.
            let _ = rustix::fs::unlinkat(self.directory.fd(), self.job.written.as_slice(), AtFlags::empty());
        }
    }
}

/// Copies as long as the kernel does it. Where it cannot, or finds nothing, the next way goes on and tells why; but
/// what is full stays full.
fn in_kernel(
    at: &mut u64,
    size: u64,
    mut copy: impl FnMut(&mut u64, usize) -> Result<usize, Errno>,
) -> Result<(), Errno> {
    while *at < size {
        let most = usize::try_from((size - *at).min(AT_ONCE)).unwrap_or(usize::MAX);
        match copy(at, most) {
            Ok(0) => return Ok(()),
            Ok(_) | Err(Errno::INTR) => {}
            Err(err @ (Errno::NOSPC | Errno::DQUOT | Errno::FBIG)) => return Err(err),
            Err(_) => return Ok(()),
        }
    }
    Ok(())
}

fn is_remote(file: &File) -> bool {
    rustix::fs::fstatfs(file).is_ok_and(|stat| REMOTE.contains(&(stat.f_type as u32)))
}

/// The mode of a new file by this process's umask, which only the kernel can tell without changing it.
fn usual_mode() -> Mode {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let umask = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    let umask = umask.and_then(|octal| u32::from_str_radix(octal.trim(), 8).ok());
    Mode::from_raw_mode(0o666 & !umask.unwrap_or(0o022))
}

fn timespec(time: Timestamp) -> Timespec {
    // Before 1970 both parts are negative in jiff, and the kernel wants the second one positive.
    let (seconds, nanoseconds) = (time.as_second(), i64::from(time.subsec_nanosecond()));
    let borrows = i64::from(nanoseconds < 0);
    Timespec {
        tv_sec: seconds - borrows,
        tv_nsec: nanoseconds + borrows * 1_000_000_000,
    }
}

fn errno(err: &io::Error) -> Errno {
    Errno::from_io_error(err).unwrap_or(Errno::IO)
}

fn classify(err: Errno) -> (Fault, Kind, &'static str) {
    match err {
        Errno::NAMETOOLONG => (Fault::Message, Kind::Rejected, "the name is too long"),
        Errno::INVAL | Errno::ILSEQ => (Fault::Message, Kind::Rejected, "the file system takes no such name"),
        Errno::ISDIR | Errno::NOTEMPTY | Errno::EXIST => (Fault::Message, Kind::Rejected, "a directory is in the way"),
        Errno::FBIG => (Fault::Message, Kind::TooLarge, "it is too large for the file system"),
        // Of the directory: everything that goes there waits for the operator, and nothing else.
        Errno::NOTDIR => (
            Fault::Endpoint,
            Kind::Forbidden,
            "a file is in the way of its directory",
        ),
        Errno::LOOP => (Fault::Endpoint, Kind::Forbidden, "the links to its directory go round"),
        Errno::NOENT => (Fault::Endpoint, Kind::Forbidden, "its directory is missing"),
        Errno::ACCESS | Errno::PERM => (Fault::Endpoint, Kind::Forbidden, "px has no right to its directory"),
        Errno::ROFS => (Fault::Endpoint, Kind::Forbidden, "the file system is read-only"),
        Errno::NOSPC => (Fault::Endpoint, Kind::Full, "the disk is full"),
        Errno::DQUOT => (Fault::Endpoint, Kind::Full, "the quota is used up"),
        Errno::TIMEDOUT => (Fault::Endpoint, Kind::TimedOut, "its file system does not answer"),
        Errno::MFILE | Errno::NFILE => (Fault::Own, Kind::Local, "no file descriptors left"),
        Errno::NOMEM => (Fault::Own, Kind::Local, "no memory left"),
        // EIO, ESTALE and whatever else a file system that is not ours may say.
        _ => (Fault::Endpoint, Kind::Broken, "its file system fails"),
    }
}
