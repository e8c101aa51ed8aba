//! One thing to do: in words, and as a call of the management API; and a plan, which is many.

use std::fmt;

use serde_json::{Map, Value, json};

use super::{listed, shown};
use crate::broker::BrokerError;
use crate::broker::management::Management;
use crate::config::Secret;
use crate::config::administration::{
    Limits, NO_LIMIT, Permission, Policy, TopicPermission, WantedBinding, WantedExchange,
};

/// What is not as it should be, and what mends it.
#[derive(Debug, Clone)]
pub struct Step {
    /// Words for `px broker check`.
    pub drift: String,
    #[allow(missing_docs)]
    pub action: Action,
}

/// What differs.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// In the order in which they are done: who px logs in as first.
    pub steps: Vec<Step>,
    /// Done only after an administrator of the file, or of px.toml, has logged in: guest's end.
    pub last: Vec<Step>,
    /// What differs and nothing here can mend, with what a person can do.
    pub stuck: Vec<String>,
    /// What the file does not name and is dangerous; it is left.
    pub also_there: Vec<String>,
}

impl Plan {
    /// Every step, in order.
    pub fn all(&self) -> impl Iterator<Item = &Step> {
        self.steps.iter().chain(&self.last)
    }

    /// Whether the broker is as the file has it.
    pub fn is_done(&self) -> bool {
        self.steps.is_empty() && self.last.is_empty() && self.stuck.is_empty()
    }

    pub(super) fn push(&mut self, drift: String, action: Action) {
        self.steps.push(Step { drift, action });
    }
}

/// What becomes of a user's password.
#[derive(Debug, Clone)]
pub enum NewPassword {
    /// This one. `None`: nobody here knows it, and only the commands that ask for it can do it.
    Set(Option<Secret>),
    /// None: nobody logs in with a password that the broker keeps.
    None,
    /// Stays as it is: its hash, and by which algorithm.
    Kept(Secret, String),
}

/// Who has limits.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Limited {
    User(String),
    Vhost(String),
}

impl fmt::Display for Limited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Limited::User(name) => write!(f, "user {}", shown(name)),
            Limited::Vhost(name) => write!(f, "virtual host {}", shown(name)),
        }
    }
}

/// Something to do, to one thing.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub enum Action {
    AddVhost(String),
    /// A new user, or one that is there; its tags are exactly these.
    PutUser {
        name: String,
        is_new: bool,
        password: NewPassword,
        tags: Vec<String>,
        /// Whether the tags are others than before.
        has_new_tags: bool,
    },
    DeleteUser(String),
    SetPermission {
        user: String,
        permission: Permission,
    },
    ClearPermission {
        user: String,
        vhost: String,
    },
    SetTopicPermission {
        user: String,
        permission: TopicPermission,
    },
    /// These and no others.
    SetLimits {
        of: Limited,
        limits: Limits,
    },
    Declare(WantedExchange),
    Bind(WantedBinding),
    SetPolicy {
        policy: Policy,
        /// Only a broker that mirrors takes it, and nobody has asked whether this one does.
        is_for_mirroring: bool,
    },
}

impl Action {
    /// In words, as one line that begins with a verb.
    pub fn words(&self) -> String {
        match self {
            Action::AddVhost(vhost) => format!("add the virtual host {}", shown(vhost)),
            Action::PutUser {
                name,
                is_new,
                password,
                tags,
                has_new_tags,
            } => put_user_words(&shown(name), *is_new, password, has_new_tags.then_some(tags)),
            Action::DeleteUser(name) => format!("delete the user {}", shown(name)),
            Action::SetPermission { user, permission } => format!(
                "let {} in {} configure {:?}, write {:?}, read {:?}",
                shown(user),
                shown(&permission.vhost),
                permission.configure,
                permission.write,
                permission.read
            ),
            Action::ClearPermission { user, vhost } => {
                format!("take all permissions in {} from {}", shown(vhost), shown(user))
            }
            Action::SetTopicPermission { user, permission } => format!(
                "let {} in {} with keys of {} write {:?}, read {:?}",
                shown(user),
                shown(&permission.vhost),
                shown(&permission.exchange),
                permission.write,
                permission.read
            ),
            Action::SetLimits { of, limits } => {
                let limits = limits
                    .iter()
                    .map(|(what, limit)| format!("{what} {}", shown_limit(*limit)));
                format!("limit the {of}: {}", limits.collect::<Vec<_>>().join(", "))
            }
            Action::Declare(exchange) => format!(
                "declare the exchange {} in {}: {}",
                shown(&exchange.name),
                shown(&exchange.vhost),
                exchange.description()
            ),
            Action::Bind(binding) => format!("bind {}", binding.description()),
            Action::SetPolicy { policy, .. } => format!(
                "set the policy {} in {}: {} for {} of {:?}, priority {}",
                shown(&policy.name),
                shown(&policy.vhost),
                Value::Object(policy.definition.clone()),
                policy.apply_to,
                policy.pattern,
                policy.priority
            ),
        }
    }

    /// The virtual host without which it cannot be done.
    pub(super) fn vhost(&self) -> Option<&str> {
        match self {
            Action::SetPermission {
                permission: Permission { vhost, .. },
                ..
            }
            | Action::SetTopicPermission {
                permission: TopicPermission { vhost, .. },
                ..
            }
            | Action::SetLimits {
                of: Limited::Vhost(vhost),
                ..
            }
            | Action::Declare(WantedExchange { vhost, .. })
            | Action::Bind(WantedBinding { vhost, .. })
            | Action::SetPolicy {
                policy: Policy { vhost, .. },
                ..
            } => Some(vhost),
            Action::AddVhost(_)
            | Action::PutUser { .. }
            | Action::DeleteUser(_)
            | Action::ClearPermission { .. }
            | Action::SetLimits { .. } => None,
        }
    }

    /// The user that it makes, or that must be there.
    pub(super) fn user(&self) -> Option<&str> {
        match self {
            Action::PutUser { name, .. } | Action::DeleteUser(name) => Some(name),
            Action::SetPermission { user, .. }
            | Action::ClearPermission { user, .. }
            | Action::SetTopicPermission { user, .. }
            | Action::SetLimits {
                of: Limited::User(user),
                ..
            } => Some(user),
            Action::AddVhost(_)
            | Action::Declare(_)
            | Action::Bind(_)
            | Action::SetPolicy { .. }
            | Action::SetLimits { .. } => None,
        }
    }

    /// Does it through the management API. Doing it again does no harm.
    pub(super) async fn perform(&self, management: &Management) -> Result<(), BrokerError> {
        match self {
            Action::AddVhost(vhost) => management.put(&["vhosts", vhost], &json!({})).await,
            Action::PutUser {
                name, password, tags, ..
            } => management.put(&["users", name], &user_body(password, tags)).await,
            Action::DeleteUser(name) => management.delete(&["users", name], &[]).await.map(drop),
            Action::SetPermission { user, permission } => {
                let body = json!({
                    "configure": permission.configure, "write": permission.write, "read": permission.read,
                });
                management.put(&["permissions", &permission.vhost, user], &body).await
            }
            Action::ClearPermission { user, vhost } => {
                management.delete(&["permissions", vhost, user], &[]).await.map(drop)
            }
            Action::SetTopicPermission { user, permission } => {
                let body = json!({
                    "exchange": permission.exchange, "write": permission.write, "read": permission.read,
                });
                management
                    .put(&["topic-permissions", &permission.vhost, user], &body)
                    .await
            }
            Action::SetLimits { of, limits } => {
                let (kind, name) = match of {
                    Limited::User(name) => ("user-limits", name),
                    Limited::Vhost(name) => ("vhost-limits", name),
                };
                for (what, limit) in limits {
                    management.put(&[kind, name, what], &json!({ "value": limit })).await?;
                }
                Ok(())
            }
            Action::Declare(exchange) => {
                let body = exchange_body(exchange);
                management
                    .put(&["exchanges", &exchange.vhost, &exchange.name], &body)
                    .await
            }
            Action::Bind(binding) => {
                let (kind, destination) = binding.to.parts();
                let path = [
                    "bindings",
                    &binding.vhost,
                    "e",
                    &binding.exchange,
                    &kind[..1],
                    destination,
                ];
                let body = json!({ "routing_key": binding.key, "arguments": binding.arguments });
                management.post(&path, &body).await
            }
            Action::SetPolicy { policy, .. } => {
                let body = json!({
                    "pattern": policy.pattern, "apply-to": policy.apply_to, "priority": policy.priority,
                    "definition": policy.definition,
                });
                management.put(&["policies", &policy.vhost, &policy.name], &body).await
            }
        }
    }
}

fn put_user_words(name: &str, is_new: bool, password: &NewPassword, tags: Option<&Vec<String>>) -> String {
    let tags = tags.map(|tags| format!("tags {}", listed(tags)));
    if is_new {
        let password = matches!(password, NewPassword::None).then_some("no password here");
        let more: Vec<&str> = password.into_iter().chain(tags.as_deref()).collect();
        return match more[..] {
            [] => format!("add the user {name}"),
            _ => format!("add the user {name}: {}", more.join(", ")),
        };
    }
    let password = match password {
        NewPassword::Set(_) => Some("the password of the secrets"),
        NewPassword::None => Some("no password"),
        NewPassword::Kept(..) => None,
    };
    let what: Vec<&str> = password.into_iter().chain(tags.as_deref()).collect();
    format!("give the user {name} {}", what.join(", "))
}

/// Holds the password: never to be shown.
fn user_body(password: &NewPassword, tags: &[String]) -> Value {
    let mut body = json!({ "tags": tags.join(",") });
    match password {
        NewPassword::Set(Some(password)) => body["password"] = password.expose().into(),
        // The broker refuses it.
        NewPassword::Set(None) => {}
        NewPassword::None => body["password_hash"] = "".into(),
        NewPassword::Kept(hash, algorithm) => {
            body["password_hash"] = hash.expose().into();
            if !algorithm.is_empty() && !hash.expose().is_empty() {
                body["hashing_algorithm"] = algorithm.as_str().into();
            }
        }
    }
    body
}

/// What an exchange is, without its name.
pub(super) fn exchange_body(exchange: &WantedExchange) -> Value {
    json!({
        "type": exchange.kind.name(), "durable": exchange.durable, "auto_delete": exchange.auto_delete,
        "internal": exchange.internal, "arguments": exchange.arguments,
    })
}

/// Limits as one object.
pub(super) fn limits_body(limits: &Limits) -> Value {
    let limits = limits
        .iter()
        .map(|(what, limit)| (what.to_string(), Value::from(*limit)));
    Value::Object(Map::from_iter(limits))
}

/// A number, or `none`.
pub(super) fn shown_limit(limit: i64) -> String {
    match limit {
        NO_LIMIT => "none".to_string(),
        limit => limit.to_string(),
    }
}
