//! From end to end: units as processes, a real broker, real files; killed, cut off and brought back.

mod administration;
mod alternates;
mod announce;
mod chain;
mod connections;
mod datamart;
mod deliverer;
mod dispatcher;
mod dropped;
mod election;
mod life;
mod parking;
mod receiver;
mod refused;
mod scripts;
mod sender;
mod sources;
mod spill;
mod sundew;
#[path = "../support/mod.rs"]
mod support;
mod sync_order;
mod unreadable;
mod vip;
mod watcher;
