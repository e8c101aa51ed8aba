use proptest::prelude::*;

use super::*;
use crate::config::reaper::Vhosts;
use crate::config::{Broker, BrokerUrl, Places, UnitDir};
use crate::message::Finder;

type Set = fn(&mut QueueInfo, u64);
type Change = fn(&mut QueueInfo);

const HOUR: Duration = Duration::from_secs(3600);
const NOW: i64 = 1_800_000_000;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn queue(name: &str) -> QueueInfo {
    QueueInfo {
        vhost: "/".into(),
        name: name.into(),
        kind: QueueKind::Classic,
        durable: true,
        auto_delete: false,
        exclusive: false,
        arguments: serde_json::Map::new(),
        messages: Some(0),
        message_bytes: Some(0),
        memory: Some(10_000),
        consumers: Some(0),
        state: Some("running".into()),
        idle_since: None,
        policy: None,
        node: None,
    }
}

fn limits(max_messages: u64, max_bytes: u64, idle_for: Option<Duration>) -> Limits {
    Limits {
        max_messages,
        max_bytes,
        idle_for,
    }
}

fn reaper(limits: Limits, rules: Vec<Rule>) -> Reaper {
    let url = BrokerUrl::parse("amqp://h", &Places::system()).unwrap();
    Reaper {
        broker: Broker::new("b", url),
        limits,
        grace: Duration::from_secs(600),
        vhosts: Vhosts::All,
        rules,
    }
}

fn rule(regex: &str, keep: bool, limits: Limits) -> Rule {
    Rule {
        queue: Finder::new(regex).unwrap(),
        keep,
        limits,
    }
}

fn usual() -> Reaper {
    reaper(limits(25_000, 50_000_000, None), Vec::new())
}

fn is_deleted(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Delete(_))
}

/// The verdict on a queue that was first seen now.
fn verdict(change: impl FnOnce(&mut QueueInfo)) -> Verdict {
    let mut queue = queue("q");
    change(&mut queue);
    judge(&queue, &usual(), Some(at(NOW)), at(NOW))
}

#[test]
fn only_more_than_a_limit_is_too_much() {
    let table: [(Set, u64); 3] = [
        (|queue, figure| queue.messages = Some(figure), 25_000),
        (|queue, figure| queue.memory = Some(figure), 50_000_000),
        (|queue, figure| queue.message_bytes = Some(figure), 50_000_000),
    ];
    for (set, limit) in table {
        for (figure, wanted) in [(limit - 1, false), (limit, false), (limit + 1, true), (u64::MAX, true)] {
            assert_eq!(is_deleted(&verdict(|queue| set(queue, figure))), wanted, "{figure}");
        }
    }
    let both = verdict(|queue| (queue.messages, queue.memory) = (Some(25_001), Some(60_000_000)));
    let Verdict::Delete(reasons) = both else {
        panic!("{both:?}")
    };
    assert_eq!(
        joined(&reasons),
        "25001 messages, more than 25000; 60000000 bytes of memory, more than 50000000"
    );
}

#[test]
fn some_queues_stay_whatever_they_hold() {
    let full = |queue: &mut QueueInfo| queue.messages = Some(1_000_000);
    let cases: [(Change, &str); 9] = [
        (|queue| queue.consumers = Some(1), "it has a consumer"),
        (|queue| queue.consumers = Some(2), "it has 2 consumers"),
        (|queue| queue.consumers = None, "the broker has no statistics of it"),
        (|queue| queue.messages = None, "the broker has no statistics of it"),
        (|queue| queue.exclusive = true, "exclusive: it ends with its connection"),
        (
            |queue| drop(queue.arguments.insert("x-px-role".into(), "retry".into())),
            "px made it for itself (x-px-role \"retry\")",
        ),
        (
            |queue| drop(queue.arguments.insert("x-px-role".into(), 3.into())),
            "px made it for itself (x-px-role \"3\")",
        ),
        (
            |queue| queue.kind = QueueKind::Stream,
            "a stream: what is read stays in it, so nothing is too much",
        ),
        (
            |queue| queue.kind = QueueKind::Other("jms".into()),
            "of the type \"jms\", which px does not know",
        ),
    ];
    for (change, wanted) in cases {
        let verdict = verdict(|queue| {
            full(queue);
            change(queue);
        });
        let Verdict::Keep(why) = verdict else {
            panic!("{wanted}: {verdict:?}")
        };
        assert_eq!(why.to_string(), wanted);
    }
    assert!(is_deleted(&verdict(full)));
}

#[test]
fn the_first_rule_that_matches_decides() {
    let more = limits(100, 50_000_000, None);
    let rules = vec![
        rule(r"^cmc\.", true, more),
        rule("^q_", false, more),
        rule("^q_keep", true, more),
        rule("é", true, more),
    ];
    let reaper = reaper(limits(10, 50_000_000, None), rules);
    for (name, messages, wanted) in [
        ("cmc.pull", 1_000, false),
        ("x.cmc.pull", 1_000, true),
        ("q_x", 100, false),
        ("q_x", 101, true),
        ("q_keep", 101, true),
        ("réseau", 1_000, false),
        ("other", 11, true),
        ("other", 10, false),
    ] {
        let queue = QueueInfo {
            messages: Some(messages),
            ..queue(name)
        };
        let verdict = judge(&queue, &reaper, None, at(NOW));
        assert_eq!(is_deleted(&verdict), wanted, "{name} {messages}: {verdict:?}");
    }
}

#[test]
fn a_queue_whose_rule_cannot_be_told_stays() {
    let busy = rule(r"(\w*)(\w*)(\w*)\1\2\3!", false, limits(1, 1, None));
    let queue = QueueInfo {
        messages: Some(1_000_000),
        ..queue(&"a".repeat(250))
    };
    let verdict = judge(&queue, &reaper(limits(1, 1, None), vec![busy]), None, at(NOW));
    assert!(matches!(verdict, Verdict::Keep(Why::Undecided(_))), "{verdict:?}");
}

#[test]
fn idleness_counts_from_our_own_first_sighting() {
    let reaper = reaper(limits(25_000, 50_000_000, Some(HOUR)), Vec::new());
    // What the broker calls idle says nothing: a queue that is fed is not idle to it.
    let queue = QueueInfo {
        idle_since: Some(at(0)),
        ..queue("q")
    };
    for (sighting, wanted) in [
        (None, false),
        (Some(NOW), false),
        (Some(NOW - 3600), false),
        (Some(NOW - 3601), true),
        (Some(NOW + 7200), false),
    ] {
        let verdict = judge(&queue, &reaper, sighting.map(at), at(NOW));
        assert_eq!(is_deleted(&verdict), wanted, "{sighting:?}: {verdict:?}");
    }
    let Verdict::Delete(reasons) = judge(&queue, &reaper, Some(at(NOW - 3601)), at(NOW)) else {
        panic!("kept");
    };
    assert_eq!(
        joined(&reasons),
        "no consumer since 2027-01-15T06:59:59Z, for more than 1h"
    );
}

#[test]
fn a_quorum_queue_waits_for_its_grace() {
    let full = QueueInfo {
        kind: QueueKind::Quorum,
        messages: Some(25_001),
        ..queue("q")
    };
    for (sighting, wanted) in [
        (None, false),
        (Some(NOW), false),
        (Some(NOW - 599), false),
        (Some(NOW - 600), true),
        (Some(NOW + 1), false),
    ] {
        let verdict = judge(&full, &usual(), sighting.map(at), at(NOW));
        assert_eq!(is_deleted(&verdict), wanted, "{sighting:?}: {verdict:?}");
    }
    let Verdict::Keep(why) = judge(&full, &usual(), Some(at(NOW - 60)), at(NOW)) else {
        panic!("deleted");
    };
    let until = "25001 messages, more than 25000; a quorum queue, not before 2027-01-15T08:09:00Z";
    assert_eq!(why.to_string(), until);
    let within = QueueInfo {
        messages: Some(1),
        ..full
    };
    let verdict = judge(&within, &usual(), Some(at(0)), at(NOW));
    assert_eq!(verdict, Verdict::Keep(Why::WithinLimits));
}

#[test]
fn spans_are_written_as_in_a_configuration() {
    for (ms, wanted) in [
        (0, "0d"),
        (1, "1ms"),
        (90_000, "90s"),
        (600_000, "10m"),
        (2_592_000_000, "30d"),
    ] {
        assert_eq!(Span(Duration::from_millis(ms)).to_string(), wanted);
    }
}

fn figure() -> impl Strategy<Value = Option<u64>> {
    prop_oneof![Just(None), (0u64..6).prop_map(Some), Just(Some(u64::MAX))]
}

fn any_queue() -> impl Strategy<Value = QueueInfo> {
    let kinds = prop_oneof![
        Just(QueueKind::Classic),
        Just(QueueKind::Quorum),
        Just(QueueKind::Stream),
        Just(QueueKind::Other("odd".into())),
    ];
    let figures = (figure(), figure(), figure(), figure());
    (kinds, figures, any::<[bool; 2]>(), "[ab/ é]{0,3}").prop_map(|(kind, figures, [exclusive, has_role], name)| {
        let mut arguments = serde_json::Map::new();
        if has_role {
            arguments.insert("x-px-role".into(), "retry".into());
        }
        QueueInfo {
            kind,
            exclusive,
            arguments,
            messages: figures.0,
            message_bytes: figures.1,
            memory: figures.2,
            consumers: figures.3,
            ..queue(&name)
        }
    })
}

proptest! {
    /// Whatever the broker says: what is deleted has no consumer, is of a kind that may go, is ours to delete, and at
    /// least one figure is more than its limit; a quorum queue has had its grace.
    #[test]
    fn nothing_is_deleted_without_every_condition(
        queue in any_queue(),
        max_messages in 0u64..5,
        max_bytes in 1u64..5,
        idle_s in prop::option::of(1u64..2000),
        seen in prop::option::of(-2000i64..100),
    ) {
        let limits = limits(max_messages, max_bytes, idle_s.map(Duration::from_secs));
        let reaper = reaper(limits, vec![rule("^a", true, limits)]);
        let sighting = seen.map(|seconds| at(NOW + seconds));
        let verdict = judge(&queue, &reaper, sighting, at(NOW));
        let age = seen.filter(|seconds| *seconds <= 0).map_or(0, |seconds| seconds.unsigned_abs());
        let may_go = queue.consumers == Some(0)
            && queue.messages.is_some()
            && !queue.exclusive
            && queue.arguments.is_empty()
            && !queue.name.starts_with('a')
            && (queue.kind == QueueKind::Classic || queue.kind == QueueKind::Quorum && age >= 600);
        let is_much = queue.messages > Some(max_messages)
            || queue.memory > Some(max_bytes)
            || queue.message_bytes > Some(max_bytes)
            || idle_s.is_some_and(|idle| age > idle);
        prop_assert_eq!(is_deleted(&verdict), may_go && is_much);
        if let Verdict::Delete(reasons) = verdict {
            prop_assert!(!reasons.is_empty());
        }
    }

    /// A judgement of the same facts at a later time never takes back a deletion.
    #[test]
    fn waiting_makes_nothing_younger(queue in any_queue(), seen in -2000i64..0, later in 0i64..5000) {
        let reaper = reaper(limits(2, 2, Some(Duration::from_secs(1000))), Vec::new());
        let sighting = Some(at(NOW + seen));
        if is_deleted(&judge(&queue, &reaper, sighting, at(NOW))) {
            prop_assert!(is_deleted(&judge(&queue, &reaper, sighting, at(NOW + later))));
        }
    }
}

#[test]
fn only_what_would_go_now_or_later_is_spared_for_its_unit() {
    let unit = UnitName::new(UnitDir::Dispatch, "urp").unwrap();
    let reasons = vec![Excess::Messages { found: 4, limit: 3 }];
    let until = at(NOW);
    let grace = Verdict::Keep(Why::Grace {
        reasons: reasons.clone(),
        until,
    });
    for verdict in [Verdict::Delete(reasons.clone()), grace] {
        assert_eq!(spared(verdict.clone(), None), verdict);
        let Verdict::Keep(why) = spared(verdict, Some(&unit)) else {
            panic!("deleted")
        };
        assert_eq!(why.to_string(), "the queue of dispatch/urp; 4 messages, more than 3");
    }
    let within = Verdict::Keep(Why::WithinLimits);
    assert_eq!(spared(within.clone(), Some(&unit)), within);
}
