//! Text to tables with their places; sizes, times, secrets and paths. Components take options by key and collect
//! errors.

pub mod administration;
mod broker;
mod check;
mod error;
pub mod feeds;
mod file;
pub mod options;
mod own_queues;
mod places;
pub mod quantity;
pub mod reaper;
mod secret;
mod secrets;
mod service;
mod site;
pub mod sundew;
mod table;
mod unit;
mod url;
mod value;

pub use administration::Administration;
pub use broker::{Broker, BrokerUrl, Management, Scheme};
pub use check::{Report, check};
pub use error::{ConfigError, Errors, NOT_SERVED};
pub use own_queues::OwnQueues;
pub use places::Places;
pub use reaper::Reaper;
pub use secret::Secret;
pub use service::{Service, load_unit, service};
pub use site::{Log, Site};
pub use sundew::{Client, ClientKind, Route, RoutingTable, clients};
pub use table::{Item, Table};
pub use unit::{UnitDir, UnitName, find_among, find_unit, is_there, units};
