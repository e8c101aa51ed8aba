//! What the promises need to know of a destination, and short words for what they do with it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use px::spool::Durability;
use px::transfer::TransferError;
use px::transfer::deliver::{Deliverer, Destination, Lane, Lock, Options, Parcel};
use px::transfer::peer::Peer;

/// For what happens at once on a machine that may be busy.
pub const SOON: Duration = Duration::from_secs(30);
/// Of silence, in tests of it.
pub const SILENCE: Duration = Duration::from_secs(2);

/// A destination, with a server of its own where it needs one.
pub trait Row: Send + Sync {
    /// For messages: "sftp".
    fn name(&self) -> &'static str;

    /// Where it is, and who px is there.
    fn destination(&self) -> Destination;

    /// What a delivery to the place that `root` is says as its directory: "" or "/…".
    fn directory(&self) -> String {
        String::new()
    }

    /// The place on this disk.
    fn root(&self) -> PathBuf;

    /// Directories where something stands while a product comes in.
    fn half_done(&self) -> Vec<PathBuf> {
        vec![self.root()]
    }

    /// How products are hidden there, the usual way first.
    fn locks(&self) -> Vec<Lock>;

    /// The server; or why there is none.
    fn server(&mut self) -> Result<&mut dyn Server, &'static str>;

    /// Oddity: a product that is replaced is away for a moment with this lock.
    fn replaces_in_two_steps(&self, lock: &Lock) -> Option<&'static str> {
        (*lock == Lock::Umask).then_some("a file that has permissions already would keep them while it is written")
    }

    /// Oddity: no directories are made.
    fn makes_no_directories(&self) -> Option<&'static str> {
        None
    }

    /// Oddity: of a directory that is missing the server says no more than that it cannot.
    fn names_no_missing_directory(&self) -> Option<&'static str> {
        None
    }

    /// Oddity: with this lock half a product is seen.
    fn shows_half(&self, lock: &Lock) -> Option<&'static str> {
        (*lock == Lock::None).then_some("that is what \"none\" means")
    }

    /// Oddity: no product can have this name there, or it gets another one.
    fn cannot_name(&self, _name: &[u8]) -> Option<&'static str> {
        None
    }

    /// Oddity: no permissions can be said.
    fn has_no_modes(&self) -> Option<&'static str> {
        None
    }

    /// Oddity: no times can be said.
    fn has_no_times(&self) -> Option<&'static str> {
        None
    }
}

/// What can be done to a server.
pub trait Server {
    /// SIGKILL.
    fn kill(&mut self);
    /// Again, with the same port and files.
    fn start_again(&mut self);
    /// SIGSTOP.
    fn freeze(&mut self);
    /// SIGCONT.
    fn thaw(&mut self);
    /// Connections that came so far; or why nobody knows.
    fn connections(&self) -> Result<usize, &'static str>;
}

impl dyn Row + '_ {
    /// As a unit has it that waits for nothing.
    pub fn options(&self) -> Options {
        Options {
            destination: self.destination(),
            lock: self.locks().remove(0),
            mode: None,
            makes_directories: true,
            bandwidth: None,
            durability: Durability::Crash,
            rest_first: Duration::ZERO,
            rest_longest: Duration::ZERO,
        }
    }

    pub fn lane(&self) -> Lane {
        lane(self.options())
    }

    /// A product for the directory `below` the row's place.
    pub fn parcel(&self, below: &str, name: &[u8], bytes: &[u8]) -> Parcel {
        let mut content = tempfile::tempfile().unwrap();
        content.write_all(bytes).unwrap();
        let directory = [self.directory().as_str(), below].join(if below.is_empty() { "" } else { "/" });
        // Below nothing it would begin at the root of the server.
        let directory = match self.directory().is_empty() {
            true => directory.trim_start_matches('/').to_owned(),
            false => directory,
        };
        Parcel {
            content,
            size: bytes.len() as u64,
            directory: directory.into_bytes(),
            name: name.to_vec(),
            modified: None,
        }
    }

    pub fn at(&self, path: &[u8]) -> PathBuf {
        use std::os::unix::ffi::OsStrExt;
        self.root().join(std::ffi::OsStr::from_bytes(path))
    }

    /// What readers find under a name.
    pub fn read(&self, path: &[u8]) -> Option<Vec<u8>> {
        std::fs::read(self.at(path)).ok()
    }

    /// Says that a promise is not kept, and why.
    pub fn leaves_out(&self, what: &str, why: &str) {
        println!("{}: {what}: left out: {why}", self.name());
    }

    /// Bytes of all that stands there by now, half or whole.
    pub fn bytes_there(&self) -> u64 {
        self.half_done().iter().map(|path| bytes_below(path)).sum()
    }
}

/// The peer of a destination, for changing it.
pub fn peer(destination: &mut Destination) -> Option<&mut Peer> {
    match destination {
        Destination::File => None,
        Destination::Ftp(peer, _) | Destination::Sftp(peer) => Some(peer),
        Destination::Http(http) => Some(&mut http.peer),
    }
}

pub fn lane(options: Options) -> Lane {
    Deliverer::new(options).unwrap().lane()
}

#[track_caller]
pub fn assert_no_secret(err: &TransferError) {
    let text = format!("{err} {err:?}");
    assert!(!text.contains("canary") && !text.contains("pw"), "{text}");
}

fn bytes_below(path: &Path) -> u64 {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => bytes_below(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .sum()
}
