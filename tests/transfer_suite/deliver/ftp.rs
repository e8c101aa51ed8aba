//! FTP, in clear on pyftpdlib, and with TLS on proftpd as Debian has it; what only FTP has is in `../ftp.rs`.

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
        let server = match program {
            Ftpd::Python => FtpServer::start_with(program, FtpTls::None, None, &["umask", "user"]),
            Ftpd::Proftpd => FtpServer::start(program, FtpTls::SameSession),
        };
        Ftp { program, server }
    }
}

impl Row for Ftp {
    fn name(&self) -> &'static str {
        match self.program {
            Ftpd::Python => "ftp",
            Ftpd::Proftpd => "ftp with tls",
        }
    }

    fn destination(&self) -> Destination {
        let is_proftpd = self.program == Ftpd::Proftpd;
        let how = How {
            active: is_proftpd,
            tls: is_proftpd,
            ascii: false,
        };
        Destination::Ftp(self.server.peer(), how)
    }

    fn root(&self) -> PathBuf {
        self.server.home().to_owned()
    }

    fn locks(&self) -> Vec<Lock> {
        let mut locks = vec![Lock::Suffix(".tmp".into()), Lock::None];
        if self.program == Ftpd::Python {
            locks.push(Lock::Umask);
        }
        locks
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
            Ftpd::Python => {
                let commands = self.server.commands();
                Ok(commands.iter().filter(|command| command.starts_with("USER")).count())
            }
            Ftpd::Proftpd => Err("proftpd counts none"),
        }
    }
}
