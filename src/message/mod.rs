//! Values that travel: announcements, envelopes, topics and the wire formats. No I/O, no async, no clock.

mod announcement;
mod base;
mod decode;
mod duplicate;
mod encode;
mod envelope;
mod escape;
mod exp;
mod fault;
mod format;
pub mod identity;
pub mod ingest_name;
mod key_template;
mod mask;
pub mod product_name;
pub mod stamp;
mod template;
pub mod topic;
mod topology;
mod v00;
mod v02;
mod v03;

pub use announcement::{Announcement, DigestOf, Identity, Method, ProductPath};
pub use base::{BaseError, split_tree_url};
pub use decode::{DecodeError, DecodeOptions, Decoded, Reason, decode};
pub use duplicate::{By, SeenKey, seen_key};
pub use encode::{EncodeError, Encoded, encode};
pub use envelope::{Envelope, Headers, Value};
pub use fault::Fault;
pub use format::{AnnounceAs, AnnounceAsError, Format, UnitHeaders};
pub use identity::ContentHasher;
pub use ingest_name::{Extension, Stem};
pub use key_template::{KeyError, KeyTemplate};
pub use mask::{MaskError, Masks, Pattern, Undecided, Verdict};
pub use template::{ACCEPTED as TEMPLATE_NAMES, Template, TemplateError};
pub use topology::{Binding, Exchange, ExchangeKind, Queue, Topology};
