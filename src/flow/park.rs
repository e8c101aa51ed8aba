//! Setting a delivery aside until it may go better: rungs on the broker where it can keep them, else the local spool.
//!
//! A rung is a fanout exchange and a queue `QUEUE.retry.RUNG` whose messages expire after the rung's time and are
//! dead-lettered through the fanout exchange `QUEUE.again` back to QUEUE, with the key they came with. Any worker of
//! the queue may take the next attempt. How often and since when travels in headers.

use std::time::Duration;

use jiff::Timestamp;

use super::Cause;
use crate::message::{Binding, Envelope, Exchange, ExchangeKind, Fault, Queue, Topology, Value};

/// A wait that parked deliveries can be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rung {
    /// As it stands in the queue's name.
    pub name: &'static str,
    /// How long a delivery stays on it.
    pub wait: Duration,
}

/// The rungs, shortest first.
pub const RUNGS: [Rung; 3] = [
    Rung {
        name: "5s",
        wait: Duration::from_secs(5),
    },
    Rung {
        name: "1m",
        wait: Duration::from_secs(60),
    },
    Rung {
        name: "10m",
        wait: Duration::from_secs(600),
    },
];

const ATTEMPTS: &str = "x-px-attempts";
const FIRST_SEEN: &str = "x-px-first-seen";
/// What brokers write into a message that was dead-lettered.
const BROKER_MARKS: [&str; 7] = [
    "x-death",
    "x-first-death-exchange",
    "x-first-death-queue",
    "x-first-death-reason",
    "x-last-death-exchange",
    "x-last-death-queue",
    "x-last-death-reason",
];

/// What happens to a delivery that could not be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Aside, then another attempt.
    Park(Rung),
    /// To the failed store.
    Fail,
    /// Back to the queue; the unit pauses.
    Release,
}

/// Decides by the class of the cause. `attempts` counts this one; `age` is since px first had the message.
pub fn next_step(cause: &Cause, attempts: u32, age: Duration, give_up_after: Duration) -> Next {
    match cause.fault {
        Fault::Own => Next::Release,
        Fault::Message if attempts >= cause.attempts_max => Next::Fail,
        // Within a minute where few attempts are worth it; else one rung further each time.
        Fault::Message if cause.attempts_max <= super::ATTEMPTS_GONE => Next::Park(RUNGS[0]),
        Fault::Message => Next::Park(RUNGS[(attempts.max(1) as usize - 1).min(RUNGS.len() - 1)]),
        Fault::Endpoint if age >= give_up_after => Next::Fail,
        Fault::Endpoint => Next::Park(endpoint_rung(cause.retry_after, age)),
    }
}

/// Often while it is fresh, seldom when it has lasted; never before the other side wants to be asked.
fn endpoint_rung(retry_after: Option<Duration>, age: Duration) -> Rung {
    let by_age = match age {
        age if age < Duration::from_secs(60) => RUNGS[0],
        age if age < Duration::from_secs(15 * 60) => RUNGS[1],
        _ => RUNGS[2],
    };
    let asked = retry_after.unwrap_or_default();
    let by_request = RUNGS.into_iter().find(|rung| rung.wait >= asked).unwrap_or(RUNGS[2]);
    if by_request.wait > by_age.wait {
        by_request
    } else {
        by_age
    }
}

/// The exchange that leads back to `queue`, and its binding. Asserted before the rungs, for a message that expires
/// without it vanishes.
pub fn way_back(queue: &str) -> Topology {
    Topology {
        exchanges: vec![fanout(format!("{queue}.again"))],
        queues: Vec::new(),
        bindings: vec![Binding {
            exchange: format!("{queue}.again"),
            queue: queue.into(),
            key: String::new(),
        }],
    }
}

/// The rungs of `queue`: what is parked survives what the queue survives.
pub fn rungs(queue: &Queue) -> Topology {
    let mut topology = Topology::default();
    for rung in RUNGS {
        let name = rung_name(&queue.name, rung);
        topology.exchanges.push(fanout(name.clone()));
        topology.queues.push(Queue {
            name: name.clone(),
            durable: true,
            message_ttl: Some(rung.wait),
            dead_letter_exchange: Some(format!("{}.again", queue.name)),
            quorum: queue.quorum,
            role: Some("retry"),
            ..Queue::default()
        });
        topology.bindings.push(Binding {
            exchange: name.clone(),
            queue: name,
            key: String::new(),
        });
    }
    topology
}

/// Exchange and queue of one rung.
pub fn rung_name(queue: &str, rung: Rung) -> String {
    format!("{queue}.retry.{}", rung.name)
}

fn fanout(name: String) -> Exchange {
    Exchange {
        name,
        kind: ExchangeKind::Fanout,
        durable: true,
        auto_delete: false,
    }
}

/// Attempts that counted so far, and when px first had the message, if it was parked before.
pub fn history(envelope: &Envelope) -> (u32, Option<Timestamp>) {
    let number = |name| match envelope.headers.get(name) {
        Some(Value::I64(n)) => Some(*n),
        Some(Value::I32(n)) => Some(i64::from(*n)),
        _ => None,
    };
    let attempts = number(ATTEMPTS).and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
    let first_seen = number(FIRST_SEEN).and_then(|ms| Timestamp::from_millisecond(ms).ok());
    (attempts, first_seen)
}

/// The message as it goes onto a rung: same key, body and headers, and its history.
pub fn with_history(envelope: &Envelope, attempts: u32, first_seen: Timestamp) -> Envelope {
    let mut envelope = envelope.clone();
    let headers = &mut envelope.headers;
    headers.insert(ATTEMPTS.into(), Value::I64(i64::from(attempts)));
    headers.insert(FIRST_SEEN.into(), Value::I64(first_seen.as_millisecond()));
    envelope
}

/// The message as it first came: without px's history and the broker's marks of parking.
pub fn without_history(mut envelope: Envelope) -> Envelope {
    for name in [ATTEMPTS, FIRST_SEEN].into_iter().chain(BROKER_MARKS) {
        envelope.headers.remove(name);
    }
    envelope
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOURS_12: Duration = Duration::from_secs(12 * 3600);

    fn after(cause: &Cause, attempts: u32, age_s: u64) -> Next {
        next_step(cause, attempts, Duration::from_secs(age_s), HOURS_12)
    }

    #[test]
    fn the_class_of_the_fault_decides() {
        let gone = Cause {
            attempts_max: super::super::ATTEMPTS_GONE,
            ..Cause::new(Fault::Message, "404")
        };
        assert_eq!(after(&gone, 1, 0), Next::Park(RUNGS[0]));
        assert_eq!(after(&gone, 2, 5), Next::Park(RUNGS[0]));
        assert_eq!(after(&gone, 3, 10), Next::Fail);
        let wrong = Cause::new(Fault::Message, "wrong digest");
        assert_eq!(after(&wrong, 2, 5), Next::Park(RUNGS[1]));
        assert_eq!(after(&wrong, 4, 700), Next::Fail);
        assert_eq!(after(&Cause::hopeless("garbage"), 1, 0), Next::Fail);
        assert_eq!(after(&Cause::new(Fault::Own, "disk full"), 9, 9), Next::Release);
    }

    #[test]
    fn an_endpoint_is_waited_for_without_counting_until_given_up() {
        let refused = Cause::new(Fault::Endpoint, "refused");
        assert_eq!(after(&refused, 999, 0), Next::Park(RUNGS[0]));
        assert_eq!(after(&refused, 1, 61), Next::Park(RUNGS[1]));
        assert_eq!(after(&refused, 1, 3600), Next::Park(RUNGS[2]));
        assert_eq!(after(&refused, 1, 12 * 3600), Next::Fail);
        let busy = Cause {
            retry_after: Some(Duration::from_secs(30)),
            ..refused
        };
        assert_eq!(after(&busy, 1, 0), Next::Park(RUNGS[1]));
    }

    #[test]
    fn history_travels_and_leaves_no_trace() {
        let mut plain = Envelope::default();
        plain.headers.insert("filename".into(), "a".into());
        let seen = Timestamp::from_millisecond(1234).unwrap();
        let mut parked = with_history(&plain, 2, seen);
        parked.headers.insert("x-death".into(), Value::Array(Vec::new()));
        assert_eq!(history(&parked), (2, Some(seen)));
        assert_eq!(without_history(parked), plain);
        assert_eq!(history(&plain), (0, None));
    }
}
