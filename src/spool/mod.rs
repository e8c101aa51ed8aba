//! Everything durable on local disk.

use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::message::{Envelope, Fault, Headers, Value};

pub mod atomic;
pub mod clean;
pub mod database;
pub mod dirsync;
pub mod failed;
pub mod ingest;
pub mod inventory;
mod line;
pub mod outbox;
pub mod parked;
pub mod quarantine;
pub mod queue;
pub mod resend;
pub mod seen;
pub mod sightings;
pub mod spill;
pub mod sqlite;
pub mod sweep;
pub mod tree;

pub use sqlite::Durability;

/// What the local disk refused, classified where it was born.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct SpoolError {
    /// Whose fault it is. Never the endpoint's: nothing here is remote.
    pub fault: Fault,
    /// What was being done, to what, and what the operator can do.
    pub what: String,
    /// A store has reached its limit and will not drop what it holds; an own fault.
    pub store_full: bool,
    /// An own fault that a single file is to blame for, which somebody has put there with rights of his own: others of
    /// its directory may go on.
    pub one_file: bool,
    /// The foreign error, if there is one.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl SpoolError {
    /// This host's fault.
    pub fn own(what: impl Into<String>, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        SpoolError {
            fault: Fault::Own,
            what: what.into(),
            store_full: false,
            one_file: false,
            source: Some(Box::new(source)),
        }
    }

    /// This host's fault, found by px itself.
    pub fn unusable(what: impl Into<String>) -> Self {
        SpoolError {
            fault: Fault::Own,
            what: what.into(),
            store_full: false,
            one_file: false,
            source: None,
        }
    }

    /// The message asks for something that must not or cannot be.
    pub fn message(what: impl Into<String>) -> Self {
        SpoolError {
            fault: Fault::Message,
            what: what.into(),
            store_full: false,
            one_file: false,
            source: None,
        }
    }

    /// A single file is to blame for it.
    pub(crate) fn of_one_file(self) -> Self {
        SpoolError { one_file: true, ..self }
    }

    /// The error and its cause on one line.
    pub fn line(&self) -> String {
        match &self.source {
            Some(cause) => format!("{}: {cause}", self.what),
            None => self.what.clone(),
        }
    }

    /// A store that never drops has no room left.
    pub fn full(what: impl Into<String>) -> Self {
        SpoolError {
            fault: Fault::Own,
            what: what.into(),
            store_full: true,
            one_file: false,
            source: None,
        }
    }
}

/// Makes a directory and its parents, safe from a power cut: the parent of each new one is synced.
pub fn make_directory(path: &Path) -> Result<(), SpoolError> {
    let mut missing: Vec<PathBuf> = Vec::new();
    let mut at = path;
    while !at.is_dir() {
        missing.push(at.to_owned());
        match at.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => at = parent,
            _ => break,
        }
    }
    for directory in missing.iter().rev() {
        let refused = |err: Errno| SpoolError::own(format!("cannot make directory {}", directory.display()), err);
        match rustix::fs::mkdir(directory, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(err) => return Err(refused(err)),
        }
        let parent = match directory.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(parent, flags, Mode::empty()).map_err(refused)?;
        rustix::fs::fsync(&fd).map_err(refused)?;
    }
    Ok(())
}

/// Runs blocking work off the async threads.
pub async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SpoolError> + Send + 'static,
) -> Result<T, SpoolError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(err) => Err(SpoolError::own("work on the local disk broke off", err)),
    }
}

/// The message with every header that JSON cannot bring back (not-a-number, nesting without end) replaced by a word, for
/// one odd header must not make a stored message unreadable.
fn with_plain_headers(envelope: &Envelope) -> Envelope {
    let comes_back = |value: &Value| {
        serde_json::to_string(value)
            .is_ok_and(|text| serde_json::from_str(&text).is_ok_and(|back: Value| back == *value))
    };
    let keep = |(name, value): (&String, &Value)| {
        let value = if comes_back(value) {
            value.clone()
        } else {
            Value::from("unrepresentable")
        };
        (name.clone(), value)
    };
    let headers: Headers = envelope.headers.iter().map(keep).collect();
    Envelope {
        headers,
        ..envelope.clone()
    }
}
