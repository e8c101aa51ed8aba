//! Text to tables with their places; sizes, times, secrets and paths. Components take options by key and collect errors.

mod broker;
mod error;
mod places;
pub mod quantity;
mod secret;
mod table;
mod unit;
mod value;

pub use broker::{Broker, BrokerUrl, Management, Scheme};
pub use error::{ConfigError, Errors, NOT_SERVED};
pub use places::Places;
pub use secret::Secret;
pub use table::{Item, Table};
pub use unit::{UnitDir, UnitName, find_unit, units};
