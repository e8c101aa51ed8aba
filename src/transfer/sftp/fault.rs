//! Whose fault it is: every kind of error that the SSH and SFTP libraries have.

use std::io;

use russh::{ChannelOpenFailure, Error as SshError};
use russh_sftp::client::error::Error as SftpError;
use russh_sftp::protocol::{Status, StatusCode};
use rustix::io::Errno;

use crate::message::Fault;
use crate::transfer::{Kind, TransferError, shorten};

/// What was asked of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// To begin with SFTP.
    Begin,
    /// To make a directory.
    MakeDirectory,
    /// To make the file that is written.
    Create,
    /// To write, or to say how much there is.
    Write,
    /// To write to its disk, and to close.
    Finish,
    /// To set mode and time.
    Attributes,
    /// To give the file its final name.
    Rename,
    /// To say what there is.
    Look,
    /// To open for reading.
    Open,
    /// To read.
    Read,
}

type Class = (Fault, Kind, &'static str);

const BROKEN: Class = (Fault::Endpoint, Kind::Broken, "the connection broke off");
const NO_SFTP: Class = (Fault::Endpoint, Kind::Broken, "the answer is no SFTP");

/// An answer that is a refusal, or no answer.
pub(super) fn classify(err: &SftpError, step: Step) -> Class {
    match err {
        SftpError::Status(status) => refused(status, step),
        SftpError::Timeout => (Fault::Endpoint, Kind::TimedOut, "no answer in time"),
        // The transport has ended, or a request was dropped by its end: the library says it in words only.
        SftpError::IO(_) | SftpError::UnexpectedBehavior(_) => BROKEN,
        SftpError::UnexpectedPacket | SftpError::Limited(_) => NO_SFTP,
    }
}

fn refused(status: &Status, step: Step) -> Class {
    match status.status_code {
        StatusCode::NoSuchFile => match step {
            Step::Look | Step::Open | Step::Read => (Fault::Message, Kind::Gone, "there is no such file"),
            // Not the message: the directories are the operator's, and what is in the queue stays there.
            Step::MakeDirectory | Step::Create => (Fault::Endpoint, Kind::Forbidden, "there is no such directory"),
            Step::Write | Step::Finish | Step::Attributes | Step::Rename => {
                (Fault::Endpoint, Kind::Broken, "the file went away while it was written")
            }
            Step::Begin => NO_SFTP,
        },
        StatusCode::PermissionDenied => (Fault::Endpoint, Kind::Forbidden, "px has no right to it there"),
        StatusCode::BadMessage => match step {
            // What OpenSSH says to a name that is too long.
            Step::MakeDirectory | Step::Create | Step::Rename | Step::Look | Step::Open => {
                (Fault::Message, Kind::Rejected, "the server takes no such name")
            }
            _ => NO_SFTP,
        },
        StatusCode::Failure if is_full(&status.error_message) => (Fault::Endpoint, Kind::Full, "no space left there"),
        StatusCode::Failure => (
            Fault::Endpoint,
            Kind::Unavailable,
            "the server says no more than: failure",
        ),
        StatusCode::OpUnsupported => (Fault::Endpoint, Kind::Unavailable, "the server cannot do that"),
        StatusCode::NoConnection | StatusCode::ConnectionLost => BROKEN,
        // The end of a file, or success, where an answer was wanted.
        StatusCode::Eof | StatusCode::Ok => NO_SFTP,
    }
}

fn is_full(said: &str) -> bool {
    let said = said.to_ascii_lowercase();
    ["no space", "quota", "disk full", "disk is full"]
        .iter()
        .any(|text| said.contains(text))
}

/// What a server said, fit for a log: bounded, on one line; empty when it says no more than the code.
fn said(err: &SftpError) -> String {
    let SftpError::Status(status) = err else {
        return String::new();
    };
    let text: String = status.error_message.chars().filter(|c| !c.is_control()).collect();
    let is_code = text.trim().is_empty() || text.eq_ignore_ascii_case(&status.status_code.to_string());
    if is_code {
        String::new()
    } else {
        format!(" ({})", shorten(&text))
    }
}

/// The error of one request. `doing` is for example `cannot put a/b on sftp://u@h`.
pub(super) fn failed(err: SftpError, step: Step, doing: &str) -> TransferError {
    let (fault, kind, why) = classify(&err, step);
    let at = match step {
        Step::MakeDirectory => "making its directory: ",
        Step::Attributes => "setting its mode and time: ",
        Step::Rename => "giving it its name: ",
        _ => "",
    };
    let made = TransferError::new(fault, kind, format!("{doing}: {at}{why}{}", said(&err)));
    match err {
        // All that it says is in the text, in one line.
        SftpError::Status(_) => made,
        other => made.caused_by(other),
    }
}

/// Whatever the SSH library reports while connecting.
pub(super) fn classify_ssh(err: &SshError) -> Class {
    match err {
        SshError::IO(err) => classify_io(err),
        SshError::ConnectionTimeout
        | SshError::KeepaliveTimeout
        | SshError::InactivityTimeout
        | SshError::Elapsed(_) => (Fault::Endpoint, Kind::TimedOut, "no answer in time"),
        SshError::NoCommonAlgo { .. } | SshError::UnknownAlgo => {
            (Fault::Endpoint, Kind::Unreachable, "no algorithm that both sides have")
        }
        SshError::WrongServerSig | SshError::UnknownKey | SshError::KeyChanged { .. } => (
            Fault::Endpoint,
            Kind::Unreachable,
            "the server does not prove who it is",
        ),
        SshError::NoAuthMethod | SshError::UnsupportedAuthMethod | SshError::NotAuthenticated => {
            (Fault::Endpoint, Kind::Forbidden, "the server does not let px in")
        }
        SshError::ChannelOpenFailure(ChannelOpenFailure::ResourceShortage) => (
            Fault::Endpoint,
            Kind::Unavailable,
            "the server has no room for one more",
        ),
        SshError::ChannelOpenFailure(_) | SshError::RequestDenied => (
            Fault::Endpoint,
            Kind::Forbidden,
            "the server offers no SFTP to this user",
        ),
        SshError::CouldNotReadKey | SshError::Keys(_) | SshError::NoHomeDir | SshError::SshKey(_) => {
            (Fault::Endpoint, Kind::Broken, "a key cannot be read")
        }
        SshError::InvalidConfig(_) => (Fault::Own, Kind::Local, "SSH is set up wrongly"),
        SshError::HUP | SshError::Disconnect | SshError::SendError | SshError::RecvError | SshError::Join(_) => BROKEN,
        SshError::KexInit
        | SshError::Version
        | SshError::Kex
        | SshError::PacketAuth
        | SshError::Inconsistent
        | SshError::IndexOutOfBounds
        | SshError::PacketSize(_)
        | SshError::WrongChannel
        | SshError::Pending
        | SshError::DecryptionError
        | SshError::Utf8(_)
        | SshError::StrictKeyExchangeViolation { .. }
        | SshError::Signature(_)
        | SshError::SshEncoding(_) => (Fault::Endpoint, Kind::Broken, "the answer is no SSH"),
        // Whatever later versions invent is the server's: it is waited for, which is bounded.
        #[allow(unreachable_patterns, reason = "the enum may grow")]
        _ => BROKEN,
    }
}

/// Making a connection.
pub(super) fn classify_io(err: &io::Error) -> Class {
    match Errno::from_io_error(err) {
        Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS | Errno::ADDRNOTAVAIL) => (
            Fault::Own,
            Kind::Local,
            "no descriptors, ports or memory left on this host",
        ),
        Some(Errno::TIMEDOUT) => (Fault::Endpoint, Kind::TimedOut, "no answer in time"),
        Some(Errno::CONNREFUSED | Errno::HOSTUNREACH | Errno::NETUNREACH | Errno::HOSTDOWN | Errno::NETDOWN) => {
            (Fault::Endpoint, Kind::Unreachable, "no connection")
        }
        _ => BROKEN,
    }
}
