//! What a broker has, as its management API tells it.

use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::GUEST;
use crate::broker::BrokerError;
use crate::broker::management::{Management, QueueKind};
use crate::config::{Administration, Secret};

/// Everything that a plan needs to know.
#[derive(Debug, Clone, Default)]
pub struct Found {
    /// As the broker says it; empty where nobody has asked one.
    pub version: String,
    #[allow(missing_docs)]
    pub vhosts: Vec<String>,
    #[allow(missing_docs)]
    pub users: Vec<FoundUser>,
    #[allow(missing_docs)]
    pub permissions: Vec<FoundPermission>,
    #[allow(missing_docs)]
    pub topic_permissions: Vec<FoundTopicPermission>,
    /// Of users and of virtual hosts.
    pub limits: Vec<FoundLimits>,
    /// Of the virtual hosts that are wanted.
    pub exchanges: Vec<FoundExchange>,
    /// Of the virtual hosts with bindings.
    pub bindings: Vec<FoundBinding>,
    #[allow(missing_docs)]
    pub policies: Vec<FoundPolicy>,
    /// Of the virtual hosts with policies, with queues that are to be replicated, and with bindings.
    pub queues: Vec<FoundQueue>,
}

/// A user as the broker has it.
#[derive(Debug, Clone, Deserialize)]
#[allow(missing_docs)]
pub struct FoundUser {
    pub name: String,
    /// Salted; empty where no password opens it.
    #[serde(default, deserialize_with = "secret")]
    pub password_hash: Secret,
    #[serde(default)]
    pub hashing_algorithm: String,
    /// Sorted.
    #[serde(default, deserialize_with = "tags")]
    pub tags: Vec<String>,
}

/// What a user may do in a virtual host.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[allow(missing_docs)]
pub struct FoundPermission {
    pub user: String,
    pub vhost: String,
    pub configure: String,
    pub write: String,
    pub read: String,
}

/// What a user may do with the keys of an exchange.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[allow(missing_docs)]
pub struct FoundTopicPermission {
    pub user: String,
    pub vhost: String,
    pub exchange: String,
    pub write: String,
    pub read: String,
}

/// Limits of a user, or of a virtual host.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[allow(missing_docs)]
pub struct FoundLimits {
    #[serde(default)]
    pub user: Option<String>,
    #[serde(default)]
    pub vhost: Option<String>,
    #[serde(default)]
    pub value: Map<String, Value>,
}

/// A binding.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[allow(missing_docs)]
pub struct FoundBinding {
    pub vhost: String,
    pub source: String,
    pub destination: String,
    /// `queue` or `exchange`.
    pub destination_type: String,
    pub routing_key: String,
    #[serde(default)]
    pub arguments: Map<String, Value>,
}

/// An exchange.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[allow(missing_docs)]
pub struct FoundExchange {
    pub vhost: String,
    pub name: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub durable: bool,
    #[serde(default)]
    pub auto_delete: bool,
    #[serde(default)]
    pub internal: bool,
    #[serde(default)]
    pub arguments: Map<String, Value>,
}

/// A policy.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[allow(missing_docs)]
pub struct FoundPolicy {
    pub vhost: String,
    pub name: String,
    pub pattern: String,
    #[serde(default, rename = "apply-to")]
    pub apply_to: String,
    #[serde(default)]
    pub priority: i64,
    #[serde(default)]
    pub definition: Map<String, Value>,
}

/// A queue, as far as it matters on how many nodes it is, and whose policy it has.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct FoundQueue {
    pub vhost: String,
    pub name: String,
    pub is_classic: bool,
    /// Neither exclusive nor passing nor one of px's own beside a queue: what can be asked to be replicated.
    pub is_lasting: bool,
    /// The one policy that is in force.
    pub policy: Option<String>,
}

impl FoundUser {
    /// Whether it may do everything.
    pub fn is_administrator(&self) -> bool {
        self.tags
            .iter()
            .any(|tag| tag == crate::config::administration::ADMINISTRATOR)
    }
}

impl Found {
    /// Asks the broker for all that has to do with what is wanted.
    pub async fn read(management: &Management, wanted: &Administration) -> Result<Found, BrokerError> {
        let mut found = Found {
            version: management.overview().await?.rabbitmq_version,
            vhosts: management.vhosts().await?,
            users: management.get(&["users"], &[]).await?.unwrap_or_default(),
            permissions: management.get(&["permissions"], &[]).await?.unwrap_or_default(),
            topic_permissions: management.get(&["topic-permissions"], &[]).await?.unwrap_or_default(),
            policies: management.get(&["policies"], &[]).await?.unwrap_or_default(),
            ..Found::default()
        };
        // Older brokers know of none of users.
        for kind in ["user-limits", "vhost-limits"] {
            let limits: Option<Vec<FoundLimits>> = management.get(&[kind], &[]).await?;
            found.limits.extend(limits.unwrap_or_default());
        }
        for vhost in wanted.vhosts.iter().filter(|vhost| found.vhosts.contains(vhost)) {
            let exchanges: Option<Vec<FoundExchange>> = management.get(&["exchanges", vhost], &[]).await?;
            found.exchanges.extend(exchanges.unwrap_or_default());
            let is_replicated = wanted.replicated.iter().any(|replicated| replicated.vhost == *vhost);
            let is_bound = wanted.bindings.iter().any(|binding| binding.vhost == *vhost);
            if is_bound {
                let bindings: Option<Vec<FoundBinding>> = management.get(&["bindings", vhost], &[]).await?;
                found.bindings.extend(bindings.unwrap_or_default());
            }
            if is_replicated || is_bound || wanted.policies.iter().any(|policy| policy.vhost == *vhost) {
                let queues = management.queues(vhost).await?.into_iter().map(|queue| FoundQueue {
                    is_classic: queue.kind == QueueKind::Classic,
                    is_lasting: queue.durable
                        && !queue.exclusive
                        && !queue.auto_delete
                        && !queue.arguments.contains_key("x-px-role"),
                    policy: queue.policy,
                    vhost: queue.vhost,
                    name: queue.name,
                });
                found.queues.extend(queues);
            }
        }
        Ok(found)
    }

    /// A node as it is after its first start, which nobody has asked.
    pub fn new_node() -> Found {
        Found {
            vhosts: vec!["/".to_string()],
            users: vec![FoundUser {
                name: GUEST.to_string(),
                password_hash: Secret::new("it has one"),
                hashing_algorithm: String::new(),
                tags: vec![crate::config::administration::ADMINISTRATOR.to_string()],
            }],
            permissions: vec![FoundPermission {
                user: GUEST.to_string(),
                vhost: "/".to_string(),
                configure: ".*".to_string(),
                write: ".*".to_string(),
                read: ".*".to_string(),
            }],
            ..Found::default()
        }
    }

    /// Whether this broker still mirrors queues by a policy, as those before 4.0 do; `None` where nobody has asked.
    pub fn mirrors(&self) -> Option<bool> {
        let major = self.version.split('.').next().filter(|major| !major.is_empty())?;
        // What cannot be read is a new way to count.
        Some(major.parse::<u32>().is_ok_and(|major| major < 4))
    }
}

fn secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Secret, D::Error> {
    // Some brokers say null where there is none.
    Ok(Secret::new(
        Option::<String>::deserialize(deserializer)?.unwrap_or_default(),
    ))
}

/// A list, or as older brokers have it one text with commas.
pub(super) fn tags<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Tags {
        List(Vec<String>),
        Text(String),
    }
    let mut tags = match Tags::deserialize(deserializer)? {
        Tags::List(tags) => tags,
        Tags::Text(text) => text
            .split(',')
            .map(|tag| tag.trim().to_string())
            .filter(|tag| !tag.is_empty())
            .collect(),
    };
    tags.sort();
    tags.dedup();
    Ok(tags)
}
