//! Text to tables with their places; sizes, times, secrets and paths. Components take options by key and collect errors.

mod broker;
mod secret;

pub use broker::{Broker, BrokerUrl, Management, Scheme};
pub use secret::Secret;
