//! Whom of a queue's consumers the broker has chosen. It does not say so: the first delivery does, or that there is
//! nobody else.

use std::time::Duration;

use tracing::debug;

use crate::broker::Connection;
use crate::flow::chain;
use crate::message::Queue;

/// Between two looks at who else is there.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(10);

/// What is known of it to one who subscribes.
pub(super) struct Choice<'a> {
    connection: &'a dyn Connection,
    queue: &'a Queue,
    /// A first delivery has come, or there is nobody else; or the broker does not choose at all.
    pub is_known: bool,
}

impl<'a> Choice<'a> {
    pub fn of(connection: &'a dyn Connection, queue: &'a Queue) -> Choice<'a> {
        Choice {
            connection,
            queue,
            is_known: !queue.single_active,
        }
    }

    /// Whether the subscriber is the only one. False where that cannot be told: RabbitMQ counts of a quorum queue only
    /// the consumer that it has chosen, whoever waits. Such a queue is of the type that it was declared with, for one
    /// that exists with other options is refused.
    pub async fn has_nobody_else(&self) -> bool {
        if self.queue.quorum {
            return false;
        }
        // A broken connection says so itself.
        let count = self.connection.consumers(&self.queue.name).await;
        count.unwrap_or_else(|error| {
            debug!("{}", chain(&error));
            None
        }) == Some(1)
    }
}
