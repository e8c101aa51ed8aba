//! What passes between the async side and the thread that owns the file.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::event::EventfdFlags;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::codec::Content;
use super::consumers::Stream;
use super::reason::Reason;
use crate::broker::{Confirmed, Removal, Settlement};
use crate::message::Topology;

/// Where an answer goes, once what it speaks of is committed.
pub(super) type Reply<T> = oneshot::Sender<Result<T, Reason>>;

/// One call.
pub(super) enum Request {
    Declare {
        topology: Topology,
        reply: Reply<Vec<String>>,
    },
    Publish {
        exchange: String,
        content: Content,
        /// The share of the memory for publishes under way.
        memory: OwnedSemaphorePermit,
        reply: Reply<Confirmed>,
    },
    Subscribe {
        queue: String,
        prefetch: usize,
        reply: Reply<Subscribed>,
    },
    Settle {
        message: i64,
        consumer: i64,
        how: Settlement,
        reply: Reply<()>,
    },
    Cancel {
        consumer: i64,
        unread: Vec<i64>,
        reply: Reply<()>,
    },
    Depth {
        queue: String,
        reply: Reply<Option<u64>>,
    },
    Consumers {
        queue: String,
        reply: Reply<Option<u64>>,
    },
    DeleteQueue {
        queue: String,
        /// If unused, if empty.
        guards: (bool, bool),
        reply: Reply<Removal>,
    },
    DeleteExchange {
        exchange: String,
        reply: Reply<()>,
    },
    HasExchange {
        exchange: String,
        reply: Reply<bool>,
    },
    Close {
        reply: oneshot::Sender<()>,
    },
}

/// What a new subscription works with.
pub(super) struct Subscribed {
    pub stream: Stream,
    pub channel: Arc<Channel>,
}

/// Something that was dropped without a call.
pub(super) enum Left {
    /// A subscription, with what it had not handed out.
    Subscription { consumer: i64, unread: Vec<i64> },
    /// The subscription and all of its receipts: nobody can settle any more.
    Channel { consumer: i64 },
    /// The connection: it closes in good order, and what subscriptions and receipts are left are useless.
    Connection,
}

/// Shared by a subscription and its receipts. When the last of them is dropped, what is unsettled goes back.
pub(super) struct Channel {
    pub consumer: i64,
    pub bell: Arc<Bell>,
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.bell.leave(Left::Channel {
            consumer: self.consumer,
        });
    }
}

/// Wakes the thread that owns the file.
pub(super) struct Bell {
    event: OwnedFd,
    // At most two entries per subscription.
    left: Mutex<Vec<Left>>,
}

impl Bell {
    pub fn new() -> Result<Bell, Reason> {
        let event = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|error| Reason::os("make an event descriptor", error))?;
        Ok(Bell {
            event,
            left: Mutex::default(),
        })
    }

    pub fn ring(&self) {
        // It can only fail when the counter is full, and then the bell is ringing.
        let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
    }

    /// Stops the ringing; true if there was any. Look at what there is only after that.
    pub fn silence(&self) -> bool {
        rustix::io::read(&self.event, &mut [0; 8]).is_ok()
    }

    pub fn leave(&self, left: Left) {
        self.left.lock().unwrap_or_else(PoisonError::into_inner).push(left);
        self.ring();
    }

    pub fn take_left(&self) -> Vec<Left> {
        std::mem::take(&mut *self.left.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Readable while it rings.
    pub fn event(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

/// Rings when it is dropped: declared after a sender, it tells the receiver that the sender is gone.
pub(super) struct RingOnDrop(pub Arc<Bell>);

impl Drop for RingOnDrop {
    fn drop(&mut self) {
        self.0.ring();
    }
}
