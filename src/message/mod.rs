//! Values that travel: announcements, envelopes, topics and the wire formats. No I/O, no async, no clock.

mod announcement;
mod envelope;
mod fault;
mod topology;

pub use announcement::{Announcement, DigestOf, Identity, Method, ProductPath};
pub use envelope::{Envelope, Headers, Value};
pub use fault::Fault;
pub use topology::{Binding, Exchange, ExchangeKind, Queue, Topology};
