//! Is this queue abandoned? A pure decision, on what the broker says of the queue and on when it was first seen without
//! a consumer.

use std::fmt;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::broker::management::{QueueInfo, QueueKind};
use crate::config::reaper::{Limits, Rule};
use crate::config::{Reaper, UnitName};

/// The argument of queues that px made for itself.
const ROLE: &str = "x-px-role";

/// What is to be done with a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Verdict {
    Keep(Why),
    /// For these reasons, at least one.
    Delete(Vec<Excess>),
}

/// Why a queue stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// Nothing about it is more than its limits.
    WithinLimits,
    /// It has so many.
    Consumers(u64),
    /// px made it for itself, as its argument says.
    Role(String),
    /// It ends with its connection.
    Exclusive,
    /// A rule says so; which.
    Rule(String),
    /// It would be deleted for these reasons, were it not what a unit of this host consumes.
    Unit {
        /// Whose it is.
        unit: UnitName,
        /// What is too much.
        reasons: Vec<Excess>,
    },
    /// A rule's pattern gave up on the name, so that nobody knows which limits are its own; what it says.
    Undecided(String),
    /// No queue that messages leave by being consumed, or one that this version does not know.
    Kind(QueueKind),
    /// The broker does not say how many consumers or messages it has: just made, or down.
    NoStatistics,
    /// A quorum queue with too much, whose grace is not over. `first`: this run is the first to see it so.
    Grace {
        /// What is too much.
        reasons: Vec<Excess>,
        /// When it may go, if no run sees a consumer before.
        until: Timestamp,
    },
}

/// What there is too much of, and the limit.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Excess {
    Messages {
        found: u64,
        limit: u64,
    },
    MessageBytes {
        found: u64,
        limit: u64,
    },
    Memory {
        found: u64,
        limit: u64,
    },
    /// Without a consumer since then.
    Idle {
        since: Timestamp,
        limit: Duration,
    },
}

/// The first rule that is about a queue. `Err`: that cannot be told, and why.
pub fn rule_of<'a>(rules: &'a [Rule], queue: &str) -> Result<Option<&'a Rule>, String> {
    for rule in rules {
        let found = rule.queue.finds(queue.as_bytes());
        if found.map_err(|why| format!("the rule {:?} cannot decide on this name: {why}", rule.queue.text()))? {
            return Ok(Some(rule));
        }
    }
    Ok(None)
}

/// The verdict on a queue that has been seen without a consumer since `sighting`; `None`: it is so for the first time.
pub fn judge(queue: &QueueInfo, reaper: &Reaper, sighting: Option<Timestamp>, now: Timestamp) -> Verdict {
    match why_never(queue, reaper) {
        Ok(limits) => judge_by(queue, &limits, reaper.grace, sighting, now),
        Err(why) => Verdict::Keep(why),
    }
}

/// The same verdict for the queue of this unit: it is never deleted.
pub fn spared(verdict: Verdict, unit: Option<&UnitName>) -> Verdict {
    match (verdict, unit) {
        (Verdict::Delete(reasons) | Verdict::Keep(Why::Grace { reasons, .. }), Some(unit)) => {
            let unit = unit.clone();
            Verdict::Keep(Why::Unit { unit, reasons })
        }
        (verdict, _) => verdict,
    }
}

/// The limits of a queue that may be deleted, or why it may not, whatever it holds.
fn why_never(queue: &QueueInfo, reaper: &Reaper) -> Result<Limits, Why> {
    if let Some(role) = queue.arguments.get(ROLE) {
        let role = role.as_str().map_or_else(|| role.to_string(), str::to_owned);
        return Err(Why::Role(role));
    }
    if queue.exclusive {
        return Err(Why::Exclusive);
    }
    let rule = rule_of(&reaper.rules, &queue.name).map_err(Why::Undecided)?;
    if let Some(rule) = rule.filter(|rule| rule.keep) {
        return Err(Why::Rule(rule.queue.text().to_owned()));
    }
    if let Some(count @ 1..) = queue.consumers {
        return Err(Why::Consumers(count));
    }
    if !matches!(queue.kind, QueueKind::Classic | QueueKind::Quorum) {
        return Err(Why::Kind(queue.kind.clone()));
    }
    if queue.consumers.is_none() || queue.messages.is_none() {
        return Err(Why::NoStatistics);
    }
    Ok(rule.map_or(reaper.limits, |rule| rule.limits))
}

fn judge_by(
    queue: &QueueInfo,
    limits: &Limits,
    grace: Duration,
    sighting: Option<Timestamp>,
    now: Timestamp,
) -> Verdict {
    // One of the future is of a clock that has been set back.
    let since = sighting.filter(|first| *first <= now).unwrap_or(now);
    let reasons = excesses(queue, limits, since, now);
    if reasons.is_empty() {
        return Verdict::Keep(Why::WithinLimits);
    }
    let until = after(since, grace);
    if queue.kind == QueueKind::Quorum && now < until {
        return Verdict::Keep(Why::Grace { reasons, until });
    }
    Verdict::Delete(reasons)
}

/// Everything that is more than its limit; not what is just as much.
fn excesses(queue: &QueueInfo, limits: &Limits, since: Timestamp, now: Timestamp) -> Vec<Excess> {
    let over = |found: Option<u64>, limit: u64| found.filter(|found| *found > limit);
    let (messages, bytes) = (limits.max_messages, limits.max_bytes);
    let idle = limits.idle_for.filter(|limit| now > after(since, *limit));
    [
        over(queue.messages, messages).map(|found| Excess::Messages { found, limit: messages }),
        over(queue.memory, bytes).map(|found| Excess::Memory { found, limit: bytes }),
        over(queue.message_bytes, bytes).map(|found| Excess::MessageBytes { found, limit: bytes }),
        idle.map(|limit| Excess::Idle { since, limit }),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The end of all time where it is later.
fn after(time: Timestamp, span: Duration) -> Timestamp {
    let span = SignedDuration::try_from(span).unwrap_or(SignedDuration::MAX);
    time.checked_add(span).unwrap_or(Timestamp::MAX)
}

impl fmt::Display for Excess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Excess::Messages { found, limit } => write!(f, "{found} messages, more than {limit}"),
            Excess::MessageBytes { found, limit } => write!(f, "{found} bytes of messages, more than {limit}"),
            Excess::Memory { found, limit } => write!(f, "{found} bytes of memory, more than {limit}"),
            Excess::Idle { since, limit } => {
                write!(f, "no consumer since {since:.0}, for more than {}", Span(*limit))
            }
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::WithinLimits => f.write_str("within its limits"),
            Why::Consumers(1) => f.write_str("it has a consumer"),
            Why::Consumers(count) => write!(f, "it has {count} consumers"),
            Why::Role(role) => write!(f, "px made it for itself ({ROLE} {role:?})"),
            Why::Exclusive => f.write_str("exclusive: it ends with its connection"),
            Why::Rule(rule) => write!(f, "the rule {rule:?} keeps it"),
            Why::Unit { unit, reasons } => write!(f, "the queue of {unit}; {}", joined(reasons)),
            Why::Undecided(why) => f.write_str(why),
            Why::Kind(QueueKind::Stream) => f.write_str("a stream: what is read stays in it, so nothing is too much"),
            Why::Kind(QueueKind::Other(kind)) => write!(f, "of the type {kind:?}, which px does not know"),
            Why::Kind(QueueKind::Classic | QueueKind::Quorum) => f.write_str("of its type"),
            Why::NoStatistics => f.write_str("the broker has no statistics of it"),
            Why::Grace { reasons, until } => {
                write!(f, "{}; a quorum queue, not before {until:.0}", joined(reasons))
            }
        }
    }
}

/// All reasons on one line.
pub fn joined(reasons: &[Excess]) -> String {
    let reasons: Vec<String> = reasons.iter().map(ToString::to_string).collect();
    reasons.join("; ")
}

/// As it is written in a configuration.
struct Span(Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.as_millis();
        let units = [
            ("d", 86_400_000),
            ("h", 3_600_000),
            ("m", 60_000),
            ("s", 1_000),
            ("ms", 1),
        ];
        let fits = |unit: &&(&str, u128)| ms.is_multiple_of(unit.1);
        let (unit, length) = units.iter().find(fits).unwrap_or(&("ms", 1));
        write!(f, "{}{unit}", ms / length)
    }
}

#[cfg(test)]
mod tests;
