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
    queue: &'a str,
    /// A first delivery has come, or there is nobody else; or the broker does not choose at all.
    pub is_known: bool,
    /// Consumers before this one; nothing where that could not be learned.
    before: Option<u64>,
    /// The most that were seen with this one.
    most: u64,
}

impl<'a> Choice<'a> {
    /// To be asked before the subscription.
    pub async fn of(connection: &'a dyn Connection, queue: &'a Queue) -> Choice<'a> {
        let mut choice = Choice {
            connection,
            queue: &queue.name,
            is_known: !queue.single_active,
            before: None,
            most: 0,
        };
        if queue.single_active {
            choice.before = choice.consumers().await;
        }
        choice
    }

    /// Whether the subscriber is the only one. False where that cannot be told.
    pub async fn has_nobody_else(&mut self) -> bool {
        let now = self.consumers().await.unwrap_or(0);
        self.most = self.most.max(now);
        is_alone(self.before, self.most, now)
    }

    /// A broken connection says so itself.
    async fn consumers(&self) -> Option<u64> {
        let count = self.connection.consumers(self.queue).await;
        count.unwrap_or_else(|error| {
            debug!("{}", chain(&error));
            None
        })
    }
}

/// RabbitMQ counts of a quorum queue only the consumer that it has chosen, whoever waits. So one is another one, unless
/// there was none before; or unless two were seen, which happens with classic queues only.
fn is_alone(before: Option<u64>, most: u64, now: u64) -> bool {
    now == 1 && (before == Some(0) || most > 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_consumer_is_this_one_only_where_that_is_sure() {
        for (before, counts, is_sure) in [
            (Some(0), &[1][..], true),
            (Some(1), &[2], false),
            (Some(1), &[2, 2, 1], true),
            (Some(2), &[3, 2], false),
            // The second of a quorum queue, also when the first has gone.
            (Some(1), &[1, 1], false),
            (Some(0), &[2], false),
            (Some(0), &[0], false),
            (None, &[1], false),
        ] {
            let most = counts.iter().copied().max().unwrap();
            let now = counts[counts.len() - 1];
            assert_eq!(is_alone(before, most, now), is_sure, "{before:?} {counts:?}");
        }
    }
}
