//! What integration tests share: waiting, private servers, a broker of one's own.
//!
//! Each test target takes it in with `#[path = "../support/mod.rs"] mod support;` and uses a part of it.
#![allow(dead_code, unused_imports)]

mod broker;
mod http;
mod keeper;
mod rabbit;
mod wait;

pub use broker::{TestBroker, broker_of};
pub use http::{Reply, request};
pub use keeper::spawn_kept;
pub use rabbit::{RabbitServer, free_port};
pub use wait::{eventually, wait_until, within};
