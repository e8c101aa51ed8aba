//! The reaper as a process, against a real broker: what is deleted, what is not, and what happens meanwhile.

mod fleet;
mod output;
mod own;
mod proxy;
mod races;
mod sightings;
mod spill;
#[path = "../support/mod.rs"]
mod support;
mod world;
