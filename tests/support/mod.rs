//! What integration tests share: waiting, private servers, a broker of one's own.
//!
//! Each test target takes it in with `#[path = "../support/mod.rs"] mod support;` and uses a part of it.
#![allow(dead_code, unused_imports)]

mod broker;
mod disk;
mod feed;
mod files;
mod ftp;
mod http;
mod keeper;
mod network;
mod ports;
mod products;
mod rabbit;
mod raw;
mod recipe;
mod site;
mod ssh;
mod wait;
mod web;

pub use broker::{TestBroker, broker_of};
pub use disk::{fill_disk, remount, run_with_small_disk};
pub use feed::{Feed, Reader, v00_urp, v02};
pub use files::files_below;
pub use ftp::{FTP_UID, FtpServer, FtpTls, Ftpd};
pub use http::{Reply, request};
pub use keeper::spawn_kept;
pub use network::enter_own_network;
pub use ports::free_port;
pub use products::{Answer, ProductServer};
pub use rabbit::{RabbitServer, rabbitmq_mirrors, rabbitmq_version};
pub use raw::{RawPublisher, raw_headers, raw_nested, raw_property, raw_text, spoiling_proxy};
pub use recipe::{blocks, recipe, recipe_with};
pub use site::{PX, Process, SOON, Said, TestSite};
pub use ssh::{SSH_UID, SshAgent, SshServer, make_key};
pub use wait::{eventually, wait_until, within};
pub use web::WebServer;
