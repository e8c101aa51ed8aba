//! What is wanted and what is there, to steps in a safe order.

use serde_json::{Map, Value};

use super::found::{Found, FoundPolicy, FoundUser};
use super::hash::{is_hash_of, is_known};
use super::step::{Action, Limited, NewPassword, Plan, Step};
use super::{GUEST, displaced, exchanges, listed, rights, shown};
use crate::config::administration::{Guest, Password, Policy, Replicated, User};
use crate::config::{Administration, Secret};

/// Compares. Deterministic: the same two give the same steps.
pub fn plan(wanted: &Administration, found: &Found) -> Plan {
    let mut plan = Plan::default();
    // Who px logs in as comes first: the rest is done as this one.
    let own = wanted.own_user();
    if let Some(user) = own {
        let management = wanted.broker.management.as_ref();
        let own_password = management.map(|management| &management.password);
        plan_user(&mut plan, user, own_password, found);
    }
    for vhost in wanted.vhosts.iter().filter(|vhost| !found.vhosts.contains(vhost)) {
        let drift = format!("virtual host {}: missing", shown(vhost));
        plan.push(drift, Action::AddVhost(vhost.clone()));
    }
    let others = wanted
        .users
        .iter()
        .filter(|user| own.is_none_or(|own| own.name != user.name));
    if let Some(user) = own {
        rights::plan_permissions(&mut plan, user, found);
    }
    for exchange in &wanted.exchanges {
        exchanges::plan_exchange(&mut plan, exchange, found);
    }
    if let Some(user) = own {
        rights::plan_bounds(&mut plan, user, found);
    }
    for user in others {
        plan_user(&mut plan, user, None, found);
        rights::plan_permissions(&mut plan, user, found);
        rights::plan_bounds(&mut plan, user, found);
    }
    for of_vhost in &wanted.vhost_limits {
        let of = Limited::Vhost(of_vhost.vhost.clone());
        rights::plan_limits(&mut plan, of, &of_vhost.limits, found);
    }
    for binding in &wanted.bindings {
        exchanges::plan_binding(&mut plan, binding, wanted, found);
    }
    for policy in &wanted.policies {
        plan_policy(&mut plan, policy, found, false);
    }
    for replicated in &wanted.replicated {
        plan_replicated(&mut plan, replicated, found);
    }
    displaced::note(&mut plan, wanted, found);
    plan_guest(&mut plan, wanted.guest, found);
    note_administrators(&mut plan, wanted, found);
    plan
}

/// Whether the password that the broker keeps may be what lets px in: without it nobody could mend anything any more.
fn is_needed(own_password: Option<&Secret>, there: &FoundUser) -> bool {
    own_password.is_some_and(|password| {
        let (hash, algorithm) = (there.password_hash.expose(), there.hashing_algorithm.as_str());
        !is_known(algorithm) || is_hash_of(hash, algorithm, password.expose())
    })
}

/// `own_password` is that of px itself, where it logs in as this user.
fn plan_user(plan: &mut Plan, user: &User, own_password: Option<&Secret>, found: &Found) {
    let name = shown(&user.name);
    let Some(there) = found.users.iter().find(|there| there.name == user.name) else {
        let action = Action::PutUser {
            name: user.name.clone(),
            is_new: true,
            password: new_password(&user.password),
            tags: user.tags.clone(),
            has_new_tags: !user.tags.is_empty(),
        };
        plan.push(format!("user {name}: missing"), action);
        return;
    };
    let password = password_drift(&user.password, there);
    let password = match password {
        Some(_) if user.password == Password::External && is_needed(own_password, there) => {
            plan.stuck.push(format!(
                "user {name}: has a password here, wanted: external; px itself logs in with it, so it stays. Let \
                 management in px.toml name another administrator; or, when this one is seen to log in with its external \
                 password, rabbitmqctl clear_password {name}"
            ));
            None
        }
        password => password,
    };
    let has_new_tags = there.tags != user.tags;
    let mut drift: Vec<String> = password.iter().map(ToString::to_string).collect();
    if has_new_tags {
        drift.push(format!(
            "has tags {}, wanted: {}",
            listed(&there.tags),
            listed(&user.tags)
        ));
    }
    if drift.is_empty() {
        return;
    }
    let password = match password {
        Some(_) => new_password(&user.password),
        None => NewPassword::Kept(there.password_hash.clone(), there.hashing_algorithm.clone()),
    };
    let action = Action::PutUser {
        name: user.name.clone(),
        is_new: false,
        password,
        tags: user.tags.clone(),
        has_new_tags,
    };
    plan.push(format!("user {name}: {}", drift.join("; ")), action);
}

fn new_password(password: &Password) -> NewPassword {
    match password {
        Password::Known(password) => NewPassword::Set(Some(password.clone())),
        Password::Missing => NewPassword::Set(None),
        Password::External => NewPassword::None,
    }
}

fn password_drift(wanted: &Password, there: &FoundUser) -> Option<&'static str> {
    let hash = there.password_hash.expose();
    match wanted {
        Password::External if hash.is_empty() => None,
        Password::External => Some("has a password here, wanted: external"),
        Password::Known(_) if hash.is_empty() => Some("has no password"),
        Password::Known(password) if is_hash_of(hash, &there.hashing_algorithm, password.expose()) => None,
        Password::Known(_) => Some("has another password than the secrets"),
        // Nobody can tell.
        Password::Missing => None,
    }
}

fn plan_policy(plan: &mut Plan, wanted: &Policy, found: &Found, is_for_mirroring: bool) {
    let is_it = |there: &&FoundPolicy| (&there.vhost, &there.name) == (&wanted.vhost, &wanted.name);
    let what = format!("policy {} in {}", shown(&wanted.name), shown(&wanted.vhost));
    let drift = match found.policies.iter().find(is_it) {
        None => format!("{what}: missing"),
        Some(there) => {
            let mut differing = Vec::new();
            if there.pattern != wanted.pattern {
                differing.push(format!("pattern {:?}, wanted: {:?}", there.pattern, wanted.pattern));
            }
            if there.apply_to != wanted.apply_to {
                differing.push(format!(
                    "applies to {}, wanted: {}",
                    shown(&there.apply_to),
                    wanted.apply_to
                ));
            }
            if there.priority != wanted.priority {
                differing.push(format!("priority {}, wanted: {}", there.priority, wanted.priority));
            }
            if there.definition != wanted.definition {
                let [is, should] = [&there.definition, &wanted.definition].map(|map| Value::Object(map.clone()));
                differing.push(format!("definition {is}, wanted: {should}"));
            }
            if differing.is_empty() {
                return;
            }
            format!("{what}: {}", differing.join("; "))
        }
    };
    let action = Action::SetPolicy {
        policy: wanted.clone(),
        is_for_mirroring,
    };
    plan.push(drift, action);
}

fn plan_replicated(plan: &mut Plan, wanted: &Replicated, found: &Found) {
    let mirrors = found.mirrors();
    if mirrors != Some(false) {
        let policy = Policy {
            vhost: wanted.vhost.clone(),
            name: wanted.name.clone(),
            pattern: wanted.pattern.clone(),
            apply_to: "all",
            priority: 0,
            // A mirror that comes back is filled, or the next switch would lose what was there before it.
            definition: Map::from_iter(
                [("ha-mode", "all"), ("ha-sync-mode", "automatic")].map(|(key, value)| (key.to_string(), value.into())),
            ),
        };
        plan_policy(plan, &policy, found, mirrors.is_none());
        return;
    }
    let queues = found
        .queues
        .iter()
        .filter(|queue| queue.vhost == wanted.vhost && queue.is_classic && queue.is_lasting);
    for queue in queues.filter(|queue| wanted.covers(&queue.name)) {
        plan.stuck.push(format!(
            "queue {} in {}: on one node only, for it is no quorum queue, and RabbitMQ {} does not mirror; stop its \
             unit, empty and delete it, and start the unit with queue_type = \"quorum\"",
            shown(&queue.name),
            shown(&queue.vhost),
            shown(&found.version)
        ));
    }
}

/// What guest has and must not have. Its deletion takes its permissions along.
fn plan_guest(plan: &mut Plan, wanted: Guest, found: &Found) {
    let Some(guest) = found.users.iter().find(|user| user.name == GUEST) else {
        return;
    };
    let mut push = |drift: String, action| plan.last.push(Step { drift, action });
    match wanted {
        Guest::Keep => {}
        Guest::Delete => push(
            "user guest: is there".to_string(),
            Action::DeleteUser(GUEST.to_string()),
        ),
        Guest::Disarm => {
            let has_password = !guest.password_hash.expose().is_empty();
            let has_tags = !guest.tags.is_empty();
            let mut drift = Vec::new();
            if has_tags {
                drift.push(format!("has tags {}", listed(&guest.tags)));
            }
            if has_password {
                drift.push("has a password".to_string());
            }
            if !drift.is_empty() {
                let action = Action::PutUser {
                    name: GUEST.to_string(),
                    is_new: false,
                    password: NewPassword::None,
                    tags: Vec::new(),
                    has_new_tags: has_tags,
                };
                push(format!("user guest: {}", drift.join("; ")), action);
            }
            for there in found.permissions.iter().filter(|there| there.user == GUEST) {
                let action = Action::ClearPermission {
                    user: GUEST.to_string(),
                    vhost: there.vhost.clone(),
                };
                push(
                    format!("user guest: has permissions in {}", shown(&there.vhost)),
                    action,
                );
            }
        }
    }
}

fn note_administrators(plan: &mut Plan, wanted: &Administration, found: &Found) {
    let own = wanted
        .broker
        .management
        .as_ref()
        .map(|management| management.user.as_str());
    let is_told = |name: &str| {
        let is_named = wanted.users.iter().any(|user| user.name == name);
        is_named || own == Some(name) || name == GUEST && wanted.guest != Guest::Keep
    };
    for user in found
        .users
        .iter()
        .filter(|user| user.is_administrator() && !is_told(&user.name))
    {
        plan.also_there
            .push(format!("user {} is an administrator", shown(&user.name)));
    }
}
