//! A server, who px is there, and by what the server is known to be itself.

use std::path::PathBuf;
use std::time::Duration;

use crate::config::Secret;

/// A server of files.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Name or address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Who px is there.
    pub login: Login,
    /// What tells that it is the right server.
    pub trust: Trust,
    /// For name look-up, TCP, TLS and login together.
    pub connect_timeout: Duration,
    /// For silence, not for a whole transfer.
    pub read_timeout: Duration,
}

impl Peer {
    /// For messages, of a server of FTP.
    pub(super) fn ftp_url(&self) -> String {
        self.url("ftp", 21)
    }

    /// For messages, of a server of SFTP.
    pub(super) fn sftp_url(&self) -> String {
        self.url("sftp", 22)
    }

    /// `scheme://user@host`, with the port where it is not the `usual` one; without the password.
    fn url(&self, scheme: &str, usual: u16) -> String {
        let user = match self.login.user.as_str() {
            "" => "anonymous",
            user => user,
        };
        let mut url = match self.host.contains(':') {
            true => format!("{scheme}://{user}@[{}]", self.host),
            false => format!("{scheme}://{user}@{}", self.host),
        };
        if self.port != usual {
            url += &format!(":{}", self.port);
        }
        url
    }
}

/// Who px is. What the protocol cannot use is refused where the configuration is read.
#[derive(Debug, Clone, Default)]
pub struct Login {
    /// User name; empty: anonymous where the protocol has that.
    pub user: String,
    /// Password, or what opens the private key.
    pub password: Option<Secret>,
    /// SSH: a private key in OpenSSH's or PEM form.
    pub key_file: Option<PathBuf>,
    /// SSH: ask the agent at `SSH_AUTH_SOCK` too.
    pub agent: bool,
    /// TLS: a PEM file with px's certificate chain and its key.
    pub certificate_file: Option<PathBuf>,
}

/// What tells that a server is the right one.
#[derive(Debug, Clone, Default)]
pub struct Trust {
    /// SSH: a file of host keys in OpenSSH's form. There is no trust on first use.
    pub known_hosts: Option<PathBuf>,
    /// TLS: PEM file of CAs; the system's when absent.
    pub ca_file: Option<PathBuf>,
}
