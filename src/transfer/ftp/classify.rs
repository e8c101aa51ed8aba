//! Whose fault it is, of every error of the client and every reply of a server.

use std::io;

use rustix::io::Errno;
use suppaftp::FtpError;
use suppaftp::types::Response;

use super::super::Kind;
use crate::message::Fault;

/// Of a server's reply.
const TEXT_MAX: usize = 200;

/// What was being done when it went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doing {
    Connect,
    Secure,
    LogIn,
    /// What has nothing to do with any file.
    Prepare,
    /// Going to the directory of a delivery.
    Enter,
    /// Making it.
    Make,
    Store,
    Rename,
    /// Going to the directory of what is to be fetched.
    Find,
    Retrieve,
}

/// `name` is that of the command's argument: what it says is no reason.
pub(super) fn classify(err: &FtpError, doing: Doing, name: &str) -> (Fault, Kind, String) {
    let broken = |why: &str| (Fault::Endpoint, Kind::Broken, why.to_owned());
    match err {
        FtpError::ConnectionError(err) => {
            let (fault, kind, why) = of_system(err, doing);
            (fault, kind, why.to_owned())
        }
        FtpError::SecureError(why) => {
            let why = format!("no TLS: {}", printable(why));
            (Fault::Endpoint, Kind::Unreachable, why)
        }
        FtpError::UnexpectedResponse(reply) => of_reply(reply, doing, name),
        FtpError::BadResponse => broken("the answer is no FTP"),
        FtpError::InvalidAddress(_) => broken("the server names no address for data"),
        FtpError::DataConnectionAlreadyOpen => broken("another transfer was not ended"),
    }
}

fn of_system(err: &io::Error, doing: Doing) -> (Fault, Kind, &'static str) {
    match err.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS | Errno::ADDRNOTAVAIL) => {
            let why = "no descriptors, ports or memory left on this host";
            return (Fault::Own, Kind::Local, why);
        }
        // A name look-up that finds no descriptor only says that it failed.
        None if doing == Doing::Connect && has_no_descriptors() => {
            return (Fault::Own, Kind::Local, "no descriptors left on this host");
        }
        _ => {}
    }
    match err.kind() {
        io::ErrorKind::InvalidInput => (Fault::Message, Kind::Rejected, "no such name can be in FTP"),
        io::ErrorKind::TimedOut => (Fault::Endpoint, Kind::TimedOut, "no answer in time"),
        io::ErrorKind::ConnectionRefused | io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            (Fault::Endpoint, Kind::Unreachable, "no connection")
        }
        // Not even a name look-up: the resolver's errors have no kind.
        _ if doing == Doing::Connect => (Fault::Endpoint, Kind::Unreachable, "no connection"),
        // Reset, cut short, an endless answer, whatever else a network does.
        _ => (Fault::Endpoint, Kind::Broken, "the connection broke off"),
    }
}

fn has_no_descriptors() -> bool {
    matches!(rustix::io::dup(io::stderr()), Err(Errno::MFILE | Errno::NFILE))
}

fn of_reply(reply: &Response, doing: Doing, name: &str) -> (Fault, Kind, String) {
    let said = String::from_utf8_lossy(&reply.body);
    // The client knows not every code.
    let code = said.get(..3).and_then(|code| code.parse().ok()).unwrap_or(0);
    let words = super::text(&reply.body).to_ascii_lowercase();
    let words = match name {
        "" => words,
        name => words.replace(&name.to_ascii_lowercase(), ""),
    };
    let (fault, kind) = judge(code, &words, doing);
    let why = match doing {
        Doing::Secure => format!("the server refuses TLS: {}", printable(&said)),
        Doing::Enter if kind == Kind::Forbidden => format!("no way into its directory: {}", printable(&said)),
        _ => format!("the server says {}", printable(&said)),
    };
    (fault, kind, why)
}

/// A reply by its code, by its words where many causes share a code, and by what it is the answer to. A directory that
/// is missing or closed is the endpoint's: all its products wait for the operator.
fn judge(code: u32, words: &str, doing: Doing) -> (Fault, Kind) {
    match (code, doing) {
        (421 | 434, _) => (Fault::Endpoint, Kind::Unavailable),
        (_, Doing::Secure) => (Fault::Endpoint, Kind::Unreachable),
        (425, _) => (Fault::Endpoint, Kind::Unreachable),
        (430 | 530 | 532 | 331 | 332, _) => (Fault::Endpoint, Kind::Forbidden),
        (500.., Doing::LogIn) => (Fault::Endpoint, Kind::Forbidden),
        (400.., Doing::Connect | Doing::LogIn | Doing::Prepare) => (Fault::Endpoint, Kind::Unavailable),
        (452 | 552, _) => (Fault::Endpoint, Kind::Full),
        (400.., _) => reason(words, doing).unwrap_or_else(|| usual(code, doing)),
        // An answer to another question.
        _ => (Fault::Endpoint, Kind::Broken),
    }
}

fn reason(words: &str, doing: Doing) -> Option<(Fault, Kind)> {
    let says = |some: &[&str]| some.iter().any(|some| words.contains(some));
    if says(&["no space", "disk full", "quota"]) {
        Some((Fault::Endpoint, Kind::Full))
    } else if says(&[
        "too long",
        "is a directory",
        "not a regular",
        "not a plain",
        "can't decode",
        "illegal",
        "invalid",
    ]) {
        Some((Fault::Message, Kind::Rejected))
    } else if says(&[
        "denied",
        "not permitted",
        "read-only",
        "not enough priv",
        "could not create",
    ]) {
        Some((Fault::Endpoint, Kind::Forbidden))
    } else if says(&["no such file", "not found", "not exist"]) {
        Some(missing(doing))
    } else {
        None
    }
}

fn missing(doing: Doing) -> (Fault, Kind) {
    match doing {
        Doing::Find | Doing::Retrieve => (Fault::Message, Kind::Gone),
        // Its directory has gone meanwhile.
        _ => (Fault::Endpoint, Kind::Forbidden),
    }
}

/// What a code means where the words say nothing more.
fn usual(code: u32, doing: Doing) -> (Fault, Kind) {
    match code {
        426 => (Fault::Endpoint, Kind::Broken),
        501 | 551 | 553 => (Fault::Message, Kind::Rejected),
        // 521: there is such a directory; but it could not be entered.
        521 | 550 => missing(doing),
        // 450, 451: busy, a fault of its own. 500 and 502 to 504: it lacks what px cannot do without.
        _ => (Fault::Endpoint, Kind::Unavailable),
    }
}

fn printable(said: &str) -> String {
    let words = said.split_whitespace().collect::<Vec<_>>().join(" ");
    words
        .chars()
        .filter(|letter| !letter.is_control())
        .take(TEXT_MAX)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use suppaftp::Status;

    #[test]
    fn every_reply_has_its_class() {
        use Doing::*;
        use Fault::{Endpoint, Message};
        let table = [
            ("421 Idle too long", Store, Endpoint, Kind::Unavailable),
            ("120 In a minute", Connect, Endpoint, Kind::Broken),
            ("500 AUTH not understood", Secure, Endpoint, Kind::Unreachable),
            ("534 No", Secure, Endpoint, Kind::Unreachable),
            ("530 Login incorrect.", LogIn, Endpoint, Kind::Forbidden),
            ("530 Not logged in", Store, Endpoint, Kind::Forbidden),
            ("332 Need account", LogIn, Endpoint, Kind::Forbidden),
            (
                "425 Unable to build data connection",
                Store,
                Endpoint,
                Kind::Unreachable,
            ),
            ("426 Aborted", Store, Endpoint, Kind::Broken),
            ("426 [Errno 28] No space left on device", Store, Endpoint, Kind::Full),
            ("451 Local error", Store, Endpoint, Kind::Unavailable),
            ("452 Insufficient storage", Store, Endpoint, Kind::Full),
            ("552 Exceeded", Store, Endpoint, Kind::Full),
            ("550 n: Permission denied", Store, Endpoint, Kind::Forbidden),
            ("550 n", Store, Endpoint, Kind::Forbidden),
            ("553 n", Store, Message, Kind::Rejected),
            ("553 Could not create file.", Store, Endpoint, Kind::Forbidden),
            ("550 File name too long", Store, Message, Kind::Rejected),
            ("550 n: Not a regular file", Store, Message, Kind::Rejected),
            ("550 n: Invalid directory name", Make, Message, Kind::Rejected),
            ("501 Can't decode command.", Store, Message, Kind::Rejected),
            ("502 Not implemented", Rename, Endpoint, Kind::Unavailable),
            ("550 Failed to change directory.", Enter, Endpoint, Kind::Forbidden),
            ("550 Failed to change directory.", Find, Message, Kind::Gone),
            ("550 n: No such file or directory", Enter, Endpoint, Kind::Forbidden),
            ("550 n: No such file or directory", Retrieve, Message, Kind::Gone),
            ("550 Failed to open file.", Retrieve, Message, Kind::Gone),
            ("550 n: Permission denied", Retrieve, Endpoint, Kind::Forbidden),
            ("450 Busy", Retrieve, Endpoint, Kind::Unavailable),
            ("521 Exists", Make, Endpoint, Kind::Forbidden),
            ("250 What?", Rename, Endpoint, Kind::Broken),
        ];
        for (reply, doing, fault, kind) in table {
            let status = reply[..3].parse::<u32>().map(Status::from).unwrap();
            let reply = Response::new(status, format!("{reply}\r\n").into_bytes());
            let (is_fault, is_kind, why) = classify(&FtpError::UnexpectedResponse(reply), doing, "n.quota");
            assert_eq!((is_fault, is_kind), (fault, kind), "{why} to {doing:?}");
        }
    }

    #[test]
    fn what_a_name_says_is_no_reason() {
        let body = b"550 Quota.denied: No such file or directory\r\n".to_vec();
        let err = FtpError::UnexpectedResponse(Response::new(Status::FileUnavailable, body));
        assert_eq!(classify(&err, Doing::Retrieve, "Quota.denied").1, Kind::Gone);
    }

    #[test]
    fn every_error_of_the_client_has_its_class() {
        let system = |errno: Errno| FtpError::ConnectionError(errno.into());
        let kind = |kind: io::ErrorKind| FtpError::ConnectionError(kind.into());
        let table = [
            (system(Errno::MFILE), Doing::Store, Fault::Own, Kind::Local),
            (
                system(Errno::CONNREFUSED),
                Doing::Connect,
                Fault::Endpoint,
                Kind::Unreachable,
            ),
            (
                system(Errno::HOSTUNREACH),
                Doing::Connect,
                Fault::Endpoint,
                Kind::Unreachable,
            ),
            (system(Errno::CONNRESET), Doing::Store, Fault::Endpoint, Kind::Broken),
            (system(Errno::TIMEDOUT), Doing::Connect, Fault::Endpoint, Kind::TimedOut),
            (
                kind(io::ErrorKind::TimedOut),
                Doing::Store,
                Fault::Endpoint,
                Kind::TimedOut,
            ),
            (
                kind(io::ErrorKind::UnexpectedEof),
                Doing::Store,
                Fault::Endpoint,
                Kind::Broken,
            ),
            (
                kind(io::ErrorKind::InvalidInput),
                Doing::Store,
                Fault::Message,
                Kind::Rejected,
            ),
            (
                kind(io::ErrorKind::Other),
                Doing::Connect,
                Fault::Endpoint,
                Kind::Unreachable,
            ),
            (
                FtpError::SecureError("x".into()),
                Doing::Secure,
                Fault::Endpoint,
                Kind::Unreachable,
            ),
            (FtpError::BadResponse, Doing::Connect, Fault::Endpoint, Kind::Broken),
            (
                FtpError::DataConnectionAlreadyOpen,
                Doing::Store,
                Fault::Endpoint,
                Kind::Broken,
            ),
        ];
        for (err, doing, fault, kind) in table {
            let (is_fault, is_kind, why) = classify(&err, doing, "");
            assert_eq!((is_fault, is_kind), (fault, kind), "{err:?}: {why}");
        }
    }
}
