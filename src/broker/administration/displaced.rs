//! Policies of somebody else that take queues from those of the file: a queue has only one.

use std::collections::BTreeMap;

use super::found::{Found, FoundPolicy, FoundQueue};
use super::shown;
use super::step::Plan;
use crate::config::Administration;
use crate::config::administration::Replicated;

/// What a policy that mirrors has in it.
const MIRRORS: &str = "ha-mode";

/// What is wanted of the queues of a pattern.
struct Wish<'a> {
    about: &'a Replicated,
    priority: i64,
    applies_to: fn(&FoundQueue) -> bool,
    /// Whether another policy does what is wanted, or is there by intent.
    is_content: &'a dyn Fn(&FoundPolicy) -> bool,
    loss: &'static str,
}

/// Told by what the queues that are there really have: whether two patterns can ever meet, nobody knows.
pub(super) fn note(plan: &mut Plan, wanted: &Administration, found: &Found) {
    let is_ours = |there: &FoundPolicy| {
        let policies = wanted.policies.iter().map(|ours| (&ours.vhost, &ours.name));
        let replicated = wanted.replicated.iter().map(|ours| (&ours.vhost, &ours.name));
        policies
            .chain(replicated)
            .any(|ours| ours == (&there.vhost, &there.name))
    };
    for policy in &wanted.policies {
        let applies_to: fn(&FoundQueue) -> bool = match policy.apply_to {
            "all" | "queues" => |_| true,
            "classic_queues" => |queue| queue.is_classic,
            "quorum_queues" => |queue| !queue.is_classic,
            _ => continue,
        };
        if let Some(about) = Replicated::of_policy(policy) {
            let wish = Wish {
                about: &about,
                priority: policy.priority,
                applies_to,
                is_content: &is_ours,
                loss: "it does nothing there",
            };
            note_one(plan, &wish, found);
        }
    }
    // Where nothing is mirrored, the kind of the queue decides, and that is told elsewhere.
    for about in wanted.replicated.iter().filter(|_| found.mirrors() == Some(true)) {
        let wish = Wish {
            about,
            priority: 0,
            // A quorum queue is on all nodes by itself.
            applies_to: |queue| queue.is_classic,
            is_content: &|there| there.definition.contains_key(MIRRORS),
            loss: "these are not mirrored",
        };
        note_one(plan, &wish, found);
    }
}

fn note_one(plan: &mut Plan, wish: &Wish<'_>, found: &Found) {
    let about = wish.about;
    let mut taken: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let queues = found
        .queues
        .iter()
        .filter(|queue| queue.vhost == about.vhost && (wish.applies_to)(queue) && about.covers(&queue.name));
    for queue in queues {
        if let Some(policy) = queue.policy.as_deref().filter(|policy| *policy != about.name) {
            taken.entry(policy).or_default().push(&queue.name);
        }
    }
    for (name, mut queues) in taken {
        let is_it = |there: &&FoundPolicy| there.vhost == about.vhost && there.name == name;
        let Some(other) = found.policies.iter().find(is_it) else {
            continue;
        };
        // One of a lower priority gives way as soon as ours is as it should be.
        if (wish.is_content)(other) || other.priority < wish.priority {
            continue;
        }
        queues.sort_unstable();
        let example = shown(queues.first().copied().unwrap_or_default());
        plan.stuck.push(format!(
            "policy {ours} in {vhost}: policy {other}, of priority {priority}, is in force instead of it for {count} of its \
             queues, such as {example}, and a queue has only one: {loss}; clear the policy {other}, or make one of both",
            ours = shown(&about.name),
            vhost = shown(&about.vhost),
            other = shown(name),
            priority = other.priority,
            count = queues.len(),
            loss = wish.loss,
        ));
    }
}
