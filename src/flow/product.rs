//! One line per product, as typed values. `daemon/log` alone renders them.

use std::time::Duration;

use tracing::info;

/// The tracing target that marks an event as a product line.
pub const TARGET: &str = "px::product";

/// What was done with a product.
#[derive(Debug, Clone)]
pub struct Product<'a> {
    /// Announced, Forwarded, Fetched.
    pub verb: &'static str,
    /// The product's name: no blanks, so that it stays one column.
    pub name: &'a str,
    /// Its size, where known.
    pub bytes: u64,
    /// The host it came from or goes by.
    pub from: &'a str,
    /// Since its announcement, or since its close for an announcement of our own.
    pub latency: Duration,
    /// Duplicates since the unit's previous forward (Forwarded only).
    pub ignored: Option<u64>,
}

impl Product<'_> {
    /// Writes the line.
    pub fn log(&self) {
        let name = &*one_column(self.name);
        let latency_s = self.latency.as_secs_f64();
        match self.ignored {
            Some(ignored) => {
                info!(target: TARGET, verb = self.verb, name, bytes = self.bytes, from = self.from, latency_s, ignored);
            }
            None => info!(target: TARGET, verb = self.verb, name, bytes = self.bytes, from = self.from, latency_s),
        }
    }
}

/// A name as one blank-free column, so that `cut -d' ' -f7` finds it whatever the wire brought.
fn one_column(name: &str) -> std::borrow::Cow<'_, str> {
    if name.chars().any(|c| c.is_whitespace() || c.is_control()) {
        name.chars()
            .map(|c| if c.is_whitespace() || c.is_control() { '_' } else { c })
            .collect::<String>()
            .into()
    } else {
        name.into()
    }
}
