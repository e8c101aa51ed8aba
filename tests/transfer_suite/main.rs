//! Promises of `transfer` and `spool`, kept against real servers, real file systems and real limits.

#[path = "../support/mod.rs"]
mod support;

mod deliver;
mod disk;
mod ftp;
mod http;
mod https;
mod local_files;
mod logins;
mod private;
mod resume;
mod server;
mod sftp;
