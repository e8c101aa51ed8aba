//! What users may do, and how much of it.

use serde_json::Value;

use super::found::{Found, FoundLimits, FoundTopicPermission};
use super::shown;
use super::step::{Action, Limited, Plan, shown_limit};
use crate::config::administration::{Limits, NO_LIMIT, User};

/// What narrows the permissions of a user. Later brokers want the exchanges to be there.
pub(super) fn plan_bounds(plan: &mut Plan, user: &User, found: &Found) {
    plan_topics(plan, user, found);
    plan_limits(plan, Limited::User(user.name.clone()), &user.limits, found);
}

/// What a user may do in virtual hosts.
pub(super) fn plan_permissions(plan: &mut Plan, user: &User, found: &Found) {
    let name = shown(&user.name);
    let there = || found.permissions.iter().filter(|there| there.user == user.name);
    for wanted in &user.permissions {
        let vhost = shown(&wanted.vhost);
        let drift = match there().find(|there| there.vhost == wanted.vhost) {
            None => format!("user {name}: no permissions in {vhost}"),
            Some(there) => {
                let differing = [
                    ("configure", &there.configure, &wanted.configure),
                    ("write", &there.write, &wanted.write),
                    ("read", &there.read, &wanted.read),
                ];
                match differences(&differing) {
                    None => continue,
                    Some(differing) => format!("user {name} in {vhost}: {differing}"),
                }
            }
        };
        let action = Action::SetPermission {
            user: user.name.clone(),
            permission: wanted.clone(),
        };
        plan.push(drift, action);
    }
    let is_named = |vhost: &str| user.permissions.iter().any(|wanted| wanted.vhost == vhost);
    for there in there().filter(|there| !is_named(&there.vhost)) {
        let rights = [&there.configure, &there.write, &there.read];
        if rights.iter().any(|right| !right.is_empty()) {
            plan.also_there.push(format!(
                "user {name} may in {} configure {:?}, write {:?}, read {:?}",
                shown(&there.vhost),
                there.configure,
                there.write,
                there.read
            ));
        }
    }
}

/// Who has none for a topic exchange may use all keys: one that nobody wants takes rights away.
fn plan_topics(plan: &mut Plan, user: &User, found: &Found) {
    let name = shown(&user.name);
    let there = || found.topic_permissions.iter().filter(|there| there.user == user.name);
    for wanted in &user.topic_permissions {
        let place = format!("{} in {}", shown(&wanted.exchange), shown(&wanted.vhost));
        let is_it = |there: &&_| is_about(there, (&wanted.vhost, &wanted.exchange));
        let drift = match there().find(is_it) {
            None => format!("user {name}: no topic permissions for {place}"),
            Some(there) => {
                let differing = [
                    ("write", &there.write, &wanted.write),
                    ("read", &there.read, &wanted.read),
                ];
                match differences(&differing) {
                    None => continue,
                    Some(differing) => format!("user {name} with keys of {place}: {differing}"),
                }
            }
        };
        let action = Action::SetTopicPermission {
            user: user.name.clone(),
            permission: wanted.clone(),
        };
        plan.push(drift, action);
    }
    let is_named = |there: &FoundTopicPermission| {
        let mut wanted = user.topic_permissions.iter();
        wanted.any(|wanted| is_about(there, (&wanted.vhost, &wanted.exchange)))
    };
    for there in there().filter(|there| !is_named(there)) {
        plan.also_there.push(format!(
            "user {name} may with keys of {} in {} only write {:?}, read {:?}",
            shown(&there.exchange),
            shown(&there.vhost),
            there.write,
            there.read
        ));
    }
}

fn is_about(there: &FoundTopicPermission, (vhost, exchange): (&str, &str)) -> bool {
    (there.vhost.as_str(), there.exchange.as_str()) == (vhost, exchange)
}

/// `may write "a", wanted: "b"` for each right that differs.
fn differences(rights: &[(&str, &String, &String)]) -> Option<String> {
    let differing: Vec<String> = rights
        .iter()
        .filter(|(_, there, wanted)| there != wanted)
        .map(|(what, there, wanted)| format!("may {what} {there:?}, wanted: {wanted:?}"))
        .collect();
    (!differing.is_empty()).then(|| differing.join("; "))
}

/// Those that differ.
pub(super) fn plan_limits(plan: &mut Plan, of: Limited, wanted: &Limits, found: &Found) {
    let is_it = |there: &&FoundLimits| match &of {
        Limited::User(name) => there.user.as_ref() == Some(name),
        Limited::Vhost(name) => there.vhost.as_ref() == Some(name),
    };
    let there = found.limits.iter().find(is_it);
    let value = |what: &str| there.and_then(|there| there.value.get(what)).and_then(Value::as_i64);
    // Every negative number is none.
    let limit = |what: &str| value(what).unwrap_or(NO_LIMIT).max(NO_LIMIT);
    let differing: Limits = wanted
        .iter()
        .copied()
        .filter(|(what, wanted)| limit(what) != *wanted)
        .collect();
    if differing.is_empty() {
        return;
    }
    let words = differing
        .iter()
        .map(|(what, wanted)| format!("{what} {}, wanted: {}", shown_limit(limit(what)), shown_limit(*wanted)));
    let drift = format!("{of}: {}", words.collect::<Vec<_>>().join("; "));
    plan.push(drift, Action::SetLimits { of, limits: differing });
}
