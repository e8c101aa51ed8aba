//! Three hundred queues of every kind: exactly those are deleted that nobody consumes from and that hold too much.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, json};

use crate::support::wait_until;
use crate::world::{STATISTICS, World, with_outcome};

const ODD: [&str; 12] = [
    "plain",
    "with space",
    "a/b",
    "it's",
    "say \"hi\"",
    "réseau",
    "数据",
    "per%cent",
    "?x=1&y#z",
    "back\\slash",
    "tab\there",
    "..",
];
const LIMITS: &str = "max_messages = 3\nmax_bytes = \"500kB\"\ngrace = \"1s\"\n\
                      rules = [{ queue = '^keep\\.', keep = true }, { queue = 'more', max_messages = 6 }]";

/// From RabbitMQ 4.3 on a message counts a few bytes more than its body in a quorum queue.
const MORE_MAX: usize = 9;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Consumed,
    Plain,
    Role,
    Kept,
    AutoDelete,
    Exclusive,
    /// By a rule it may hold more messages, and not more bytes.
    More,
}

#[derive(Debug)]
struct Member {
    name: String,
    is_quorum: bool,
    kind: Kind,
    /// Of each message.
    sizes: Vec<usize>,
}

impl Member {
    /// The figures of `i` in mixed radix choose, so that everything meets everything.
    fn new(i: usize) -> Member {
        let is_quorum = i % 6 == 5;
        let sizes = match i / 6 % 5 {
            0 => vec![10; 4],
            1 => vec![10; 3],
            2 => Vec::new(),
            3 => vec![250_000, 250_001],
            _ if is_quorum => vec![250_000 - MORE_MAX, 250_000 - MORE_MAX],
            _ => vec![250_000, 250_000],
        };
        let kind = match i / 30 {
            0 | 3 | 6 => Kind::Consumed,
            2 => Kind::Role,
            4 => Kind::Kept,
            5 if !is_quorum => Kind::AutoDelete,
            7 if !is_quorum => Kind::Exclusive,
            9 => Kind::More,
            _ => Kind::Plain,
        };
        let (prefix, odd) = (["q.", "keep."][usize::from(kind == Kind::Kept)], ODD[i % ODD.len()]);
        let more = if kind == Kind::More { " more" } else { "" };
        Member {
            name: format!("{prefix}{i} {odd}{more}"),
            is_quorum,
            kind,
            sizes,
        }
    }

    fn is_abandoned(&self) -> bool {
        let messages_max = if self.kind == Kind::More { 6 } else { 3 };
        let is_much = self.sizes.len() > messages_max || self.sizes.iter().sum::<usize>() > 500_000;
        is_much && matches!(self.kind, Kind::Plain | Kind::AutoDelete | Kind::More)
    }

    fn make(&self, world: &World, i: usize) {
        if self.kind == Kind::Exclusive {
            world.make_exclusive(&self.name);
        } else {
            let mut arguments = Map::new();
            if self.is_quorum {
                arguments.insert("x-queue-type".into(), "quorum".into());
            }
            if self.kind == Kind::Role {
                arguments.insert("x-px-role".into(), "retry".into());
            }
            let is_auto = self.kind == Kind::AutoDelete;
            // Half of the classic ones are not durable, which changes nothing.
            let durable = self.is_quorum || i.is_multiple_of(2);
            world.make_as(
                &self.name,
                &json!({"durable": durable, "auto_delete": is_auto, "arguments": arguments}),
            );
        }
        world.fill(&self.name, self.sizes.iter().copied());
        if i.is_multiple_of(5) && self.kind != Kind::Exclusive {
            let queue = world.path(&self.name).replace("/api/queues/", "");
            let (vhost, queue) = queue.split_once('/').expect("VHOST/QUEUE");
            let path = format!("/api/bindings/{vhost}/e/amq.topic/q/{queue}");
            world
                .broker
                .api("POST", &path, Some(r#"{"routing_key": "any.#"}"#))
                .ok();
        }
    }
}

#[test]
fn of_a_fleet_exactly_the_abandoned_queues_are_deleted() {
    let world = World::new("fleet", LIMITS);
    let fleet: Vec<Member> = (0..300).map(Member::new).collect();
    let mut consumers = Vec::new();
    for (i, member) in fleet.iter().enumerate() {
        member.make(&world, i);
        if member.kind == Kind::Consumed {
            consumers.push(world.consumer(&member.name));
        }
    }
    world.make("a stream", json!({"x-queue-type": "stream"}));
    world.fill("a stream", [10; 4]);
    let figures = |member: &Member| {
        let bytes: usize = member.sizes.iter().sum();
        (
            member.sizes.len() as u64,
            bytes as u64,
            u64::from(member.kind == Kind::Consumed),
        )
    };
    let is_as_made = |member: &Member, listed: &BTreeMap<String, serde_json::Value>| {
        let (messages, bytes, consumers) = figures(member);
        let found = &listed[&member.name];
        let more = if member.is_quorum {
            messages * MORE_MAX as u64
        } else {
            0
        };
        let found_bytes = found["message_bytes"].as_u64().unwrap_or_default();
        found["messages"] == messages
            && (bytes..=bytes + more).contains(&found_bytes)
            && found["consumers"] == consumers
    };
    wait_until(STATISTICS, "the statistics are up to date", || {
        let listed = world.listed();
        fleet.iter().all(|member| is_as_made(member, &listed))
    });
    let abandoned = |is_quorum: bool| -> BTreeSet<String> {
        let found = fleet
            .iter()
            .filter(|member| member.is_quorum == is_quorum && member.is_abandoned());
        found.map(|member| member.name.clone()).collect()
    };
    let set = |names: Vec<String>| -> BTreeSet<String> { names.into_iter().collect() };
    let (classic, quorum) = (abandoned(false), abandoned(true));
    assert!(classic.len() > 30 && quorum.len() > 5, "{classic:?} {quorum:?}");

    // A dry run says it and does nothing, and no sighting comes of it.
    let dry = world.reap(0, &["--dry-run"]);
    assert_eq!(set(with_outcome(&dry, "would be deleted")), classic);
    assert!(!world.site.path("state/reaper").exists());
    assert_eq!(world.listed().len(), 301);

    let first = world.reap(0, &[]);
    assert_eq!(set(with_outcome(&first, "deleted")), classic);
    wait_until(STATISTICS, "the grace of the quorum queues is over", || {
        set(with_outcome(&world.reap(0, &["--dry-run"]), "would be deleted")) == quorum
    });
    let second = world.reap(0, &[]);
    assert_eq!(set(with_outcome(&second, "deleted")), quorum);
    assert_eq!(with_outcome(&world.reap(0, &[]), "deleted"), [""; 0]);

    let rest: Vec<&Member> = fleet.iter().filter(|member| !member.is_abandoned()).collect();
    let mut names: BTreeSet<String> = rest.iter().map(|member| member.name.clone()).collect();
    names.insert("a stream".into());
    wait_until(STATISTICS, "what is left has its messages", || {
        let listed = world.listed();
        listed.keys().cloned().collect::<BTreeSet<String>>() == names
            && rest.iter().all(|member| is_as_made(member, &listed))
    });
    for member in rest.iter().filter(|member| member.kind != Kind::Consumed) {
        assert_eq!(world.depth(&member.name), Some(member.sizes.len() as u64), "{member:?}");
    }
}

#[test]
fn the_limits_of_old_are_the_defaults() {
    let world = World::new("reaper-defaults", "");
    for (queue, count) in [("at", 25_000), ("over", 25_001)] {
        world.make(queue, json!({}));
        world.fill(queue, std::iter::repeat_n(10, count));
    }
    for (queue, size) in [("large", 5_000_000), ("larger", 5_000_001)] {
        world.make(queue, json!({}));
        world.fill(queue, std::iter::repeat_n(size, 10));
    }
    world.wait_figures([
        ("at", 25_000, 0),
        ("over", 25_001, 0),
        ("large", 10, 0),
        ("larger", 10, 0),
    ]);
    // These come apart from the counts.
    wait_until(STATISTICS, "the bytes are counted", || {
        let listed = world.listed();
        [("large", 50_000_000), ("larger", 50_000_010)]
            .iter()
            .all(|(queue, bytes)| listed[*queue]["message_bytes"] == *bytes)
    });
    let report = world.reap(0, &[]);
    assert_eq!(with_outcome(&report, "deleted"), ["larger", "over"]);
    assert_eq!(world.depth("at"), Some(25_000));
    assert_eq!(world.depth("large"), Some(10));
}

#[test]
fn memory_of_the_queue_counts_too() {
    let rules = "rules = [{ queue = 'small', max_bytes = \"1kB\" }]";
    let world = World::new("reaper-memory", rules);
    for queue in ["small", "other"] {
        world.make(queue, json!({}));
    }
    world.wait_figures([("small", 0, 0), ("other", 0, 0)]);
    let report = world.reap(0, &[]);
    assert_eq!(with_outcome(&report, "deleted"), ["small"]);
    let reason = crate::world::of(&report, "small")["reason"].as_str().expect("a reason");
    assert!(reason.ends_with(" bytes of memory, more than 1000"), "{reason}");
}
