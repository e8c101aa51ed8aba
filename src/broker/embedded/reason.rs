//! Why the embedded broker refuses a call or dies, classified where it is born.

use rusqlite::ErrorCode;

use crate::broker::BrokerError;
use crate::message::Fault;

/// A refusal or a death. Unlike [`BrokerError`] it can be told to many callers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reason {
    /// Whose fault it is.
    pub fault: Fault,
    /// What was being done, to what, and what the operator can do.
    pub what: String,
}

/// What a call answers, inside what the file answers.
pub(super) type Answered<T> = rusqlite::Result<Result<T, Reason>>;

impl Reason {
    pub fn message(what: impl Into<String>) -> Self {
        Reason::new(Fault::Message, what)
    }

    pub fn endpoint(what: impl Into<String>) -> Self {
        Reason::new(Fault::Endpoint, what)
    }

    pub fn own(what: impl Into<String>) -> Self {
        Reason::new(Fault::Own, what)
    }

    fn new(fault: Fault, what: impl Into<String>) -> Self {
        Reason {
            fault,
            what: what.into(),
        }
    }

    /// An error of the SQLite file.
    pub fn file(doing: &str, error: &rusqlite::Error) -> Self {
        let (fault, advice) = classify(error);
        Reason::new(fault, format!("cannot {doing}: {error}{advice}"))
    }

    /// An error of the operating system. All of them are this host's.
    pub fn os(doing: &str, error: impl std::fmt::Display) -> Self {
        Reason::own(format!("cannot {doing}: {error}"))
    }

    /// The same with the broker's URL in front.
    pub fn at(self, place: &str) -> Self {
        Reason {
            what: format!("{place}: {}", self.what),
            ..self
        }
    }
}

/// In the middle of a transaction there is nothing better to say than which file it was.
impl From<rusqlite::Error> for Reason {
    fn from(error: rusqlite::Error) -> Self {
        Reason::file("use the file", &error)
    }
}

impl From<Reason> for BrokerError {
    fn from(reason: Reason) -> Self {
        BrokerError {
            fault: reason.fault,
            what: reason.what,
            source: None,
        }
    }
}

/// Whose fault an error of the file is, and what the operator can do about it.
fn classify(error: &rusqlite::Error) -> (Fault, &'static str) {
    let rusqlite::Error::SqliteFailure(failure, _) = error else {
        // A column of a type or a value that px never writes: somebody else changed the file.
        return (
            Fault::Own,
            "; the file holds what px does not write, restore it or move it away",
        );
    };
    match failure.code {
        ErrorCode::DiskFull => (Fault::Own, "; free some disk space"),
        ErrorCode::SystemIoFailure => (Fault::Own, "; look at the disk and its free space"),
        ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::AuthorizationForStatementDenied => {
            (Fault::Own, "; the file and its directory must be writable for px")
        }
        ErrorCode::CannotOpen => (
            Fault::Own,
            "; its directory must exist and be writable, and a file descriptor be free",
        ),
        ErrorCode::NotADatabase => (Fault::Own, "; move the file away or name another one"),
        ErrorCode::DatabaseCorrupt => (Fault::Own, "; the file is damaged, move it away or restore it"),
        ErrorCode::OutOfMemory | ErrorCode::NoLargeFileSupport => (Fault::Own, ""),
        ErrorCode::FileLockingProtocolFailed => (Fault::Own, "; the file must be on a local file system"),
        ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => {
            (Fault::Endpoint, "; another process holds the file, it may be stopped")
        }
        ErrorCode::TooBig
        | ErrorCode::SchemaChanged
        | ErrorCode::ConstraintViolation
        | ErrorCode::TypeMismatch
        | ErrorCode::ApiMisuse
        | ErrorCode::ParameterOutOfRange
        | ErrorCode::InternalMalfunction
        | ErrorCode::OperationAborted
        | ErrorCode::OperationInterrupted
        | ErrorCode::NotFound
        | ErrorCode::Unknown => (Fault::Endpoint, ""),
        // The enum is open; its users reconnect with a backoff, so this is bounded.
        _ => (Fault::Endpoint, ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_our_own_fault_and_a_held_file_is_the_endpoints() {
        let table = [
            (rusqlite::ffi::SQLITE_FULL, Fault::Own, "free some disk space"),
            (rusqlite::ffi::SQLITE_IOERR_FSYNC, Fault::Own, "disk"),
            (rusqlite::ffi::SQLITE_READONLY, Fault::Own, "writable"),
            (rusqlite::ffi::SQLITE_CANTOPEN, Fault::Own, "exist"),
            (rusqlite::ffi::SQLITE_NOTADB, Fault::Own, "another one"),
            (rusqlite::ffi::SQLITE_CORRUPT, Fault::Own, "damaged"),
            (rusqlite::ffi::SQLITE_BUSY, Fault::Endpoint, "another process"),
            (rusqlite::ffi::SQLITE_MISUSE, Fault::Endpoint, ""),
        ];
        for (code, fault, advice) in table {
            let error = rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), None);
            let reason = Reason::file("publish", &error);
            assert_eq!(reason.fault, fault, "{reason:?}");
            assert!(reason.what.contains(advice), "{reason:?}");
        }
    }
}
