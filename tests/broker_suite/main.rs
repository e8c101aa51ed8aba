//! The promises of `px::broker::Connection`, kept by every transport.
//!
//! A promise is a function in `promises/`. A transport is a `Fixture` and a file that lists the promises it is held to,
//! one test each, and beside them its own oddities. What a transport may lack is named in `Capabilities`.

mod child;
mod embedded;
mod fixture;
mod promises;
mod rabbitmq;
#[path = "../support/mod.rs"]
mod support;
