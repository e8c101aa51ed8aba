//! `px`: an AMQP file-notification bridge. The map, lowest layer first; imports go downward only,
//! and `tests/tidy.rs` proves it.

#![warn(missing_docs)]
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::todo,
    clippy::unimplemented,
    clippy::dbg_macro
)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod backoff; // how long to wait before trying again
pub mod metrics; // every counter, by name

pub mod broker; // moving envelopes
pub mod cli;
pub mod config; // text -> tables with their places; secrets; paths
pub mod daemon; // being a process
pub mod flow; // components, and the two places that settle and publish
pub mod message; // announcements, envelopes, topics, formats: values, no I/O
pub mod spool; // everything durable on local disk
pub mod transfer; // moving bytes // what an operator types
