//! Listing a queue.

use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use jiff::Timestamp;
use rustix::fs::{Access, AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::first::{First, Ranked};
use super::{Order, PASS_MAX, Pass, Queue, Queued, Shape};
use crate::message::ingest_name;
use crate::spool::inventory::Version;
use crate::spool::tree::root::{self, join};

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);
const PRIORITIES: u8 = 6;
/// Faults that are told of one pass.
const UNREAD_MAX: usize = 10;

pub(super) fn pass(queue: &Queue, root: BorrowedFd<'_>, now: Timestamp) -> Result<Pass, Errno> {
    let mut scan = Scan::new(queue, root, now);
    let mut pass = Pass::default();
    match queue.options.shape {
        Shape::Flat => {
            let mut first = First::new(PASS_MAX);
            scan.gather(b"", &mut first)?;
            pass.is_whole = true;
            pass.files = sorted(first.into_vec(), Shape::Flat).into();
        }
        Shape::Priorities => {
            let (found, is_whole) = priorities(&mut scan, &mut pass.reached)?;
            pass.is_whole = is_whole;
            let files = sorted(found, Shape::Priorities);
            let known = files.iter().filter(|file| file.priority < Some(pass.reached));
            pass.known = known.map(|file| file.path.clone()).collect();
            pass.files = files.into();
        }
    }
    pass.unread = scan.unread;
    Ok(pass)
}

/// Hour by hour, until there are enough for a batch. What earlier hours had stays in the pass whatever the last has, so
/// a few urgent files are never crowded out. Whether every directory was looked into.
fn priorities(scan: &mut Scan<'_>, reached: &mut u8) -> Result<(Vec<Ranked>, bool), Errno> {
    let mut found = Vec::new();
    scan.list(b"", |_| {})?; // for its watch: priorities may be made
    for priority in 0..PRIORITIES {
        *reached = priority;
        for hour in scan.hours(priority)? {
            let mut first = First::new(PASS_MAX.saturating_sub(found.len()));
            scan.gather(&hour, &mut first)?;
            found.append(&mut first.into_vec());
            if found.len() >= scan.queue.options.batch {
                return Ok((found, false));
            }
        }
    }
    Ok((found, true))
}

/// How many visible files lie in the queue, at most `max`: what is held, too young or unreadable waits as well.
pub(super) fn count(queue: &Queue, root: BorrowedFd<'_>, max: usize) -> Result<usize, Errno> {
    let mut scan = Scan::new(queue, root, Timestamp::now());
    let mut directories = match queue.options.shape {
        Shape::Flat => vec![Vec::new()],
        Shape::Priorities => {
            let mut hours = Vec::new();
            for priority in 0..PRIORITIES {
                hours.append(&mut scan.hours(priority)?);
            }
            hours
        }
    };
    let mut count = 0;
    while count < max
        && let Some(directory) = directories.pop()
    {
        scan.list_while(&directory, |found| {
            match found.is_directory {
                true => directories.push(join(&directory, found.name)),
                false => count += 1,
            }
            count < max
        })?;
    }
    Ok(count)
}

/// Where the front of the pass is urgent itself, for at least a batch, only what goes before even that is looked for:
/// each listing is short, or finds more than it costs.
pub(super) fn overtaking(
    queue: &Queue,
    root: BorrowedFd<'_>,
    pass: &mut Pass,
    now: Timestamp,
) -> Result<Vec<Queued>, Errno> {
    let urgent = pass.files.iter().take_while(|file| file.priority < Some(pass.reached));
    let urgent = urgent.count();
    let limit = match pass.files.front() {
        Some(front) if urgent >= queue.options.batch => front.priority.unwrap_or(0),
        _ => pass.reached,
    };
    let mut scan = Scan::new(queue, root, now);
    let mut first = First::new(PASS_MAX.saturating_sub(urgent));
    let mut there = HashSet::new();
    for priority in 0..limit {
        for hour in scan.hours(priority)? {
            scan.gather_new(&hour, &mut first, &mut |path| {
                let is_known = pass.known.contains(path);
                if is_known {
                    there.insert(path.to_vec());
                }
                !is_known
            })?;
        }
    }
    let found = sorted(first.into_vec(), Shape::Priorities);
    let was_listed = |path: &[u8]| path.first().is_some_and(|digit| *digit < b'0' + limit);
    // What was offered stays known while it is there: it is in the pass or in flight. What is gone may come again.
    pass.known.retain(|path| !was_listed(path) || there.contains(path));
    pass.known.extend(found.iter().map(|file| file.path.clone()));
    // What is dropped here is found by the next pass.
    pass.files.truncate(PASS_MAX - found.len());
    Ok(found)
}

fn sorted(mut found: Vec<Ranked>, shape: Shape) -> Vec<Queued> {
    found.sort_unstable();
    found
        .into_iter()
        .map(|ranked| Queued::new(ranked.path, shape))
        .collect()
}

struct Scan<'q> {
    queue: &'q Queue,
    root: BorrowedFd<'q>,
    now: Timestamp,
    now_held: Instant,
    unread: Vec<(Vec<u8>, Errno)>,
}

impl<'q> Scan<'q> {
    fn new(queue: &'q Queue, root: BorrowedFd<'q>, now: Timestamp) -> Self {
        Scan {
            queue,
            root,
            now,
            now_held: Instant::now(),
            unread: Vec::new(),
        }
    }

    /// The directories of one priority, by name.
    fn hours(&mut self, priority: u8) -> Result<Vec<Vec<u8>>, Errno> {
        let path = [b'0' + priority];
        let mut hours = Vec::new();
        self.list(&path, |found| {
            if found.is_directory {
                hours.push(join(&path, found.name));
            }
        })?;
        hours.sort_unstable();
        Ok(hours)
    }

    /// Offers every visible file in and below a directory.
    fn gather(&mut self, directory: &[u8], first: &mut First) -> Result<(), Errno> {
        self.gather_new(directory, first, &mut |_| true)
    }

    /// The same, for those that are new.
    fn gather_new(
        &mut self,
        directory: &[u8],
        first: &mut First,
        is_new: &mut impl FnMut(&[u8]) -> bool,
    ) -> Result<(), Errno> {
        let mut directories = vec![directory.to_vec()];
        while let Some(directory) = directories.pop() {
            let (queue, now, now_held) = (self.queue, self.now, self.now_held);
            self.list(&directory, |found| {
                let path = join(&directory, found.name);
                if found.is_directory {
                    directories.push(path);
                } else if let Some(key) = key(queue.options.order, &found) {
                    let ranked = Ranked { key, path };
                    let is_wanted = !queue.is_held(&ranked.path, now_held, || version(&found))
                        && is_new(&ranked.path)
                        && first.wants(&ranked)
                        && found.is_shown(queue.options.min_age, now);
                    if is_wanted {
                        first.take(ranked);
                    }
                }
            })?;
        }
        Ok(())
    }

    /// Every file and directory in a directory. One that cannot be read is noted and left out, and one that is gone is
    /// empty; an error is this host's.
    fn list(&mut self, path: &[u8], mut found: impl FnMut(Found<'_>)) -> Result<(), Errno> {
        self.list_while(path, |one| {
            found(one);
            true
        })
    }

    /// The same, for as long as `found` wants more.
    fn list_while(&mut self, path: &[u8], mut found: impl FnMut(Found<'_>) -> bool) -> Result<(), Errno> {
        let mut read = || -> Result<(), Errno> {
            let directory = root::open_beneath(self.root, path, DIRECTORY, Mode::empty())?;
            // Before it is listed, so that a file is seen by the listing or noticed afterwards.
            self.queue.waker.watch(directory.as_fd());
            for entry in Dir::read_from(&directory)? {
                let entry = entry?;
                let name = entry.file_name().to_bytes();
                if root::is_skipped(name) {
                    continue;
                }
                let kind = match entry.file_type() {
                    FileType::Unknown => match status(directory.as_fd(), name) {
                        Some(stat) => FileType::from_raw_mode(stat.st_mode),
                        None => continue,
                    },
                    known => known,
                };
                if !matches!(kind, FileType::Directory | FileType::RegularFile) {
                    continue;
                }
                let wants_more = found(Found {
                    name,
                    is_directory: kind == FileType::Directory,
                    directory: directory.as_fd(),
                });
                if !wants_more {
                    break;
                }
            }
            Ok(())
        };
        match read() {
            Ok(()) | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(()),
            Err(cause @ (Errno::MFILE | Errno::NFILE | Errno::NOMEM)) => Err(cause),
            Err(cause) if path.is_empty() => Err(cause),
            Err(cause) => {
                if self.unread.len() < UNREAD_MAX {
                    self.unread.push((path.to_vec(), cause));
                }
                Ok(())
            }
        }
    }
}

/// A name in a directory that is being listed.
struct Found<'a> {
    name: &'a [u8],
    is_directory: bool,
    directory: BorrowedFd<'a>,
}

impl Found<'_> {
    /// Readable, and old enough.
    fn is_shown(&self, min_age: std::time::Duration, now: Timestamp) -> bool {
        if rustix::fs::accessat(self.directory, self.name, Access::READ_OK, AtFlags::empty()).is_err() {
            return false;
        }
        if min_age.is_zero() {
            return true;
        }
        let Some(stat) = status(self.directory, self.name) else {
            return false;
        };
        let age_ns = now.as_nanosecond() - i128::from(Version::of(&stat).mtime_ns);
        age_ns > i128::try_from(min_age.as_nanos()).unwrap_or(i128::MAX)
    }
}

fn status(directory: BorrowedFd<'_>, name: &[u8]) -> Option<Stat> {
    rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).ok()
}

fn version(found: &Found<'_>) -> Option<Version> {
    status(found.directory, found.name).map(|stat| Version::of(&stat))
}

/// What files are sorted by, before their paths. `None` where the file is gone.
fn key(order: Order, found: &Found<'_>) -> Option<Vec<u8>> {
    match order {
        Order::Priority => Some(ingest_name::sort_key(found.name)),
        Order::Mtime => {
            let mtime_ns = Version::of(&status(found.directory, found.name)?).mtime_ns;
            // As bytes in the order of the numbers, those before 1970 first.
            Some((mtime_ns.cast_unsigned() ^ (1 << 63)).to_be_bytes().to_vec())
        }
    }
}
