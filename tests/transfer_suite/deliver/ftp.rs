//! FTP: pyftpdlib, and proftpd as sites have it.

use std::path::PathBuf;

use px::transfer::deliver::{Destination, Lock};
use px::transfer::ftp::How;

use super::row::{Row, Server};
use crate::support::{FtpServer, FtpTls, Ftpd};

pub struct Ftp {
    program: Ftpd,
    server: FtpServer,
}

impl Ftp {
    pub fn start(program: Ftpd) -> Ftp {
        let server = FtpServer::start(program, FtpTls::None);
        Ftp { program, server }
    }
}

impl Row for Ftp {
    fn name(&self) -> &'static str {
        match self.program {
            Ftpd::Python => "ftp",
            Ftpd::Proftpd => "ftp (proftpd)",
        }
    }

    fn destination(&self) -> Destination {
        Destination::Ftp(self.server.peer(), How::default())
    }

    fn root(&self) -> PathBuf {
        self.server.home().to_owned()
    }

    fn locks(&self) -> Vec<Lock> {
        match self.program {
            // It has no SITE UMASK.
            Ftpd::Python => vec![Lock::Suffix(".tmp".into()), Lock::None],
            Ftpd::Proftpd => vec![Lock::Suffix(".tmp".into()), Lock::Umask, Lock::None],
        }
    }

    fn cannot_name(&self, name: &[u8]) -> Option<&'static str> {
        let is_replaced = self.program == Ftpd::Python && std::str::from_utf8(name).is_err();
        is_replaced.then_some("pyftpdlib replaces what is no UTF-8")
    }

    fn server(&mut self) -> Result<&mut dyn Server, &'static str> {
        Ok(self)
    }
}

impl Server for Ftp {
    fn kill(&mut self) {
        self.server.kill();
    }

    fn start_again(&mut self) {
        self.server.start_again();
    }

    fn freeze(&mut self) {
        self.server.freeze();
    }

    fn thaw(&mut self) {
        self.server.thaw();
    }

    fn connections(&self) -> Result<usize, &'static str> {
        match self.program {
            Ftpd::Python => Ok(self
                .server
                .commands()
                .iter()
                .filter(|said| said.starts_with("USER"))
                .count()),
            Ftpd::Proftpd => Err("proftpd keeps no log of them here"),
        }
    }
}
