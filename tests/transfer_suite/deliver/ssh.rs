//! SFTP: OpenSSH as it is, and without its extensions, as other servers are.

use std::path::PathBuf;

use px::transfer::deliver::{Destination, Lock};

use super::row::{Row, Server};
use crate::support::SshServer;

/// What the server has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    OpenSsh,
    Plain,
}

pub struct Ssh {
    kind: Kind,
    server: SshServer,
}

impl Ssh {
    pub fn start(kind: Kind) -> Ssh {
        let lines: &[&str] = match kind {
            Kind::OpenSsh => &[],
            Kind::Plain => &["Subsystem sftp internal-sftp -P posix-rename,fsync,statvfs,limits"],
        };
        let server = SshServer::start_with(None, lines);
        Ssh { kind, server }
    }
}

impl Row for Ssh {
    fn name(&self) -> &'static str {
        match self.kind {
            Kind::OpenSsh => "sftp",
            Kind::Plain => "sftp without extensions",
        }
    }

    fn destination(&self) -> Destination {
        Destination::Sftp(self.server.peer())
    }

    fn root(&self) -> PathBuf {
        self.server.home().to_owned()
    }

    fn locks(&self) -> Vec<Lock> {
        vec![Lock::Suffix(".tmp".into()), Lock::Umask, Lock::None]
    }

    fn server(&mut self) -> Result<&mut dyn Server, &'static str> {
        Ok(&mut self.server)
    }

    fn replaces_in_two_steps(&self, lock: &Lock) -> Option<&'static str> {
        match (self.kind, lock) {
            (_, Lock::Umask) => Some("a file that has permissions already would keep them while it is written"),
            (Kind::Plain, _) => Some("plain SFTP renames onto nothing that is there"),
            (Kind::OpenSsh, _) => None,
        }
    }

    fn cannot_name(&self, name: &[u8]) -> Option<&'static str> {
        std::str::from_utf8(name)
            .is_err()
            .then_some("px sends names by SFTP in UTF-8")
    }
}

impl Server for SshServer {
    fn kill(&mut self) {
        SshServer::kill(self);
    }

    fn start_again(&mut self) {
        SshServer::start_again(self);
    }

    fn freeze(&mut self) {
        SshServer::freeze(self);
    }

    fn thaw(&mut self) {
        SshServer::thaw(self);
    }

    fn connections(&self) -> Result<usize, &'static str> {
        Ok(self.logins())
    }
}
