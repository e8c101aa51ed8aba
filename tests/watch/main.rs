//! Watched trees, on a real file system with a real inventory.

#![allow(clippy::unwrap_used, clippy::panic)]

mod limits;
mod polled;
mod renames;
mod roots;
mod starts;
mod support;
mod versions;
