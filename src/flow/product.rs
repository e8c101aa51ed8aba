//! One line per product, as typed values. `daemon/log` alone renders them.

use std::time::Duration;

use tracing::info;

/// The tracing target that marks an event as a product line.
pub const TARGET: &str = "px::product";

/// What was done with a product. Its name never holds blanks, so that it stays one column.
#[derive(Debug, Clone)]
pub enum Product<'a> {
    /// An announcement was made, passed on, or followed.
    Handled {
        /// Announced, Forwarded, Fetched.
        verb: &'static str,
        /// The product's name.
        name: &'a str,
        /// Its size, where known.
        bytes: u64,
        /// The host it came from or goes by.
        from: &'a str,
        /// Since its announcement, or since its close for an announcement of our own.
        latency: Duration,
        /// Duplicates since the unit's previous forward (Forwarded only).
        ignored: Option<u64>,
    },
    /// A queued file was published, in the columns of Sundew's senders.
    Delivered {
        /// The queued file's name, with its stamp.
        name: &'a str,
        /// Its size.
        bytes: u64,
        /// Since the file's modification time; below zero where that lies ahead.
        latency_s: f64,
        /// Bytes per second since it was taken up.
        speed: f64,
    },
    /// A queued file was delivered, in the columns of Sundew's senders.
    Put {
        /// The path of the queued file; its name has the stamp.
        path: &'a str,
        /// The URL under which it lies now, without a password.
        to: &'a str,
        /// Its size.
        bytes: u64,
        /// Since the file's modification time; below zero where that lies ahead.
        latency_s: f64,
        /// Bytes per second, from the first command to the last answer.
        speed: f64,
    },
    /// A product came into the database, in the columns of Sundew's receivers.
    Ingested {
        /// Its path there.
        path: &'a str,
        /// Its size.
        bytes: u64,
    },
    /// It was linked into the queues of its clients.
    Queued {
        /// Its path in the database.
        path: &'a str,
        /// Who will send it, or filter it.
        clients: &'a [String],
        /// Other receivers that got it.
        feeds: &'a [String],
    },
}

impl Product<'_> {
    /// Writes the line.
    pub fn log(&self) {
        match *self {
            Product::Handled {
                verb,
                name,
                bytes,
                from,
                latency,
                ignored,
            } => {
                let (name, latency_s) = (&*one_column(name), latency.as_secs_f64());
                match ignored {
                    Some(ignored) => info!(target: TARGET, verb, name, bytes, from, latency_s, ignored),
                    None => info!(target: TARGET, verb, name, bytes, from, latency_s),
                }
            }
            Product::Delivered {
                name,
                bytes,
                latency_s,
                speed,
            } => info!(target: TARGET, verb = DELIVERED, name = &*one_column(name), bytes, latency_s, speed),
            Product::Put {
                path,
                to,
                bytes,
                latency_s,
                speed,
            } => {
                let (path, to) = (&*one_column(path), &*one_column(to));
                info!(target: TARGET, verb = DELIVERED, path, to, bytes, latency_s, speed);
            }
            Product::Ingested { path, bytes } => {
                info!(target: TARGET, verb = INGESTED, path = &*one_column(path), bytes);
            }
            Product::Queued { path, clients, feeds } => {
                let (clients, feeds) = (clients.join(" "), feeds.join(" "));
                info!(target: TARGET, verb = QUEUED, path = &*one_column(path), clients, feeds);
            }
        }
    }
}

/// The verb of [`Product::Delivered`] and [`Product::Put`].
pub const DELIVERED: &str = "Delivered";
/// The verb of [`Product::Ingested`].
pub const INGESTED: &str = "Ingested";
/// The verb of [`Product::Queued`].
pub const QUEUED: &str = "Queued";

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
