//! What a caller of `transfer::deliver` may rely on, whatever the destination: one suite, every scheme.
//!
//! A destination is a [`row::Row`]. Where one cannot keep a promise it says why, and the reason is printed.

mod failures;
mod file;
mod ftp;
mod products;
mod row;
mod ssh;
mod web;

use crate::support::Ftpd;
use row::Row;

/// Every destination, each with a server of its own.
fn rows() -> Vec<Box<dyn Row>> {
    vec![
        Box::new(file::Directory::start()),
        Box::new(ssh::Ssh::start(ssh::Kind::OpenSsh)),
        Box::new(ssh::Ssh::start(ssh::Kind::Plain)),
        Box::new(web::Web::start(web::Kind::Put)),
        Box::new(web::Web::start(web::Kind::Dav)),
        Box::new(ftp::Ftp::start(Ftpd::Python)),
        Box::new(ftp::Ftp::start(Ftpd::Proftpd)),
    ]
}
