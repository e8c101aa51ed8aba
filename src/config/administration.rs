//! What a broker is to have before any unit comes: users, their rights and limits, exchanges, bindings, policies. `px broker apply` makes it
//! so, `px broker check` says what differs, and `px check` reads the file where there is one. It is `broker.toml`, next
//! to `px.toml`; another is named with `--file`.
//!
//! ```toml
//! broker = "bunny"
//! guest  = "disarm"
//!
//! [users.root]
//! tags = ["administrator"]
//! permissions = { configure = ".*", write = ".*", read = ".*" }
//!
//! [users.anonymous]
//! permissions = { configure = "^cmc.*$", write = "^cmc.*$", read = "^xpublic|^cmc.*$" }
//!
//! [[exchanges]]
//! name = "xpublic"
//! ```
//!
//! Nothing that the file does not name is removed or changed, but for `guest`. Other administrators, and rights of
//! these users in virtual hosts that the file does not give them, are told by `px broker check` as "also there":
//! exit code 0, or 1 with `--strict`, for cron.
//!
//! | option | default | meaning |
//! | --- | --- | --- |
//! | `broker` | | a broker of `px.toml`, with `management` |
//! | `guest` | `"disarm"` | the user of every new broker: `"disarm"` takes tags, rights and password; `"delete"`, `"keep"` |
//! | `vhosts` | `["/"]` | virtual hosts; what names no `vhost` is for the first |
//! | `users` | none | a table `[users.NAME]` each, see below |
//! | `exchanges` | none | a table `[[exchanges]]` each |
//! | `bindings` | none | a table `[[bindings]]` each |
//! | `policies` | none | a table `[[policies]]` each |
//! | `replicated` | none | a table `[[replicated]]` each: queues that are to live on all nodes of a cluster |
//! | `vhost_limits` | none | a table `[[vhost_limits]]` each: `max_connections`, `max_queues`, -1 for none; `vhost` |
//!
//! # Users
//!
//! | option | default | meaning |
//! | --- | --- | --- |
//! | `password` | the secrets' | `"external"`: none is kept in the broker, for another place such as LDAP checks it |
//! | `tags` | none | `administrator`, `monitoring`, `policymaker`, `management`, `impersonator` |
//! | `permissions` | none | `{ vhost, configure, write, read }`, or a list of these; regular expressions of RabbitMQ |
//! | `topic_permissions` | none | `{ vhost, exchange, write, read }`, or a list of these: which keys, on a topic exchange; who has none there may use all |
//! | `limits` | none | `{ max_connections, max_channels }`: of all connections of this user; -1 for none |
//!
//! A limit that is taken out of the file stays on the broker: -1 takes it away.
//!
//! Passwords stand where those of the URLs stand, see px.toml(5): in `secrets.toml` under the broker and the user, or
//! in the credentials directory. Whether the broker has the same is told by its salted hash: an unchanged password is
//! not written again.
//!
//! # Exchanges
//!
//! | option | default | meaning |
//! | --- | --- | --- |
//! | `name` | | of at most 255 bytes |
//! | `type` | `"topic"` | `"direct"`, `"fanout"`, `"headers"` |
//! | `durable` | true | whether it outlives the broker |
//! | `auto_delete` | false | whether it goes with its last binding |
//! | `internal` | false | whether nobody publishes to it, and messages come by bindings alone |
//! | `arguments` | none | a table of what RabbitMQ knows, as `{ alternate-exchange = "lost" }` |
//! | `vhost` | the first | its virtual host |
//!
//! One that exists with other options cannot be changed: it is named, with what to do.
//!
//! # Bindings
//!
//! | in it | default | meaning |
//! | --- | --- | --- |
//! | `exchange` | | where messages come from |
//! | `to_exchange`, or `queue` | | where they go |
//! | `key` | | a routing key, or a pattern of a topic exchange |
//! | `arguments` | none | what a headers exchange compares |
//! | `vhost` | the first | the virtual host of both |
//!
//! Queues are made by their units, which bind them too. One is bound here for a unit that may not, and has `bind = []`;
//! while there is no such queue, that is said and nothing done. Other bindings are left.
//!
//! # Policies
//!
//! | in it | default | meaning |
//! | --- | --- | --- |
//! | `name` | | its name |
//! | `pattern` | | a regular expression of RabbitMQ, found anywhere in a name |
//! | `apply_to` | `"all"` | `"queues"`, `"exchanges"`, `"classic_queues"`, `"quorum_queues"`, `"streams"` |
//! | `priority` | 0 | of several that match, the highest counts |
//! | `definition` | | a table of what RabbitMQ knows, as `{ max-length = 1000 }` |
//! | `vhost` | the first | its virtual host |
//!
//! A queue has one policy. `px broker check` names those of somebody else that take queues from one of the file, by
//! what policy the queues that are there have.
//!
//! # Replicated queues
//!
//! `name`, `pattern` and `vhost`. A broker before RabbitMQ 4.0 gets a policy of this name with `ha-mode = "all"` and
//! `ha-sync-mode = "automatic"`, so that a node that comes back gets what it has missed. Later
//! ones mirror no more: a queue is on several nodes if it is a quorum queue, and that is said when it is declared
//! (`queue_type = "quorum"` of a unit). There `px broker check` names the durable queues of this pattern that are not,
//! but for those that px makes to park messages in.
//!
//! # Logging in
//!
//! px logs in as the user of `management`. If the file names that user, it has to be an administrator. A new broker
//! knows only `guest`: `px broker apply --bootstrap` logs in as `guest`, makes the user of `management` first, and goes
//! on as this one. Where the user can log in already, `--bootstrap` changes nothing. `guest` is disarmed last, and only
//! after the other has logged in.
//!
//! Without the management API, `px broker apply --as rabbitmqctl` prints the same as commands for a new node, to be
//! saved and run there with bash. They ask for the passwords, and end at the first that fails. Exchanges and bindings
//! are in them as definitions to import, which RabbitMQ does a moment later.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value as Json};

use super::{Broker, ConfigError, Errors, Scheme, Secret, Site, Table, file, options};
use crate::message::{Exchange, ExchangeKind, Masks, Verdict};

mod read;

/// What becomes of the user that every new broker has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Guest {
    /// No tags, no permissions, no password.
    Disarm,
    Delete,
    Keep,
}

/// How a user logs in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Password {
    /// With this one.
    Known(Secret),
    /// Another place checks it; the broker has none.
    External,
    /// The file names none, and neither do the secrets.
    Missing,
}

/// What a user may do in one virtual host: regular expressions of RabbitMQ.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Permission {
    pub vhost: String,
    pub configure: String,
    pub write: String,
    pub read: String,
}

/// Which keys a user may use on a topic exchange: regular expressions of RabbitMQ.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct TopicPermission {
    pub vhost: String,
    pub exchange: String,
    pub write: String,
    pub read: String,
}

/// Limits by the API's names; [`NO_LIMIT`] for none.
pub type Limits = Vec<(&'static str, i64)>;

/// What a limit is that limits nothing.
pub const NO_LIMIT: i64 = -1;

/// `[users.NAME]`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct User {
    pub name: String,
    pub password: Password,
    /// Sorted.
    pub tags: Vec<String>,
    /// One for a virtual host.
    pub permissions: Vec<Permission>,
    /// One for a virtual host and an exchange.
    pub topic_permissions: Vec<TopicPermission>,
    pub limits: Limits,
}

/// The tag of who may do everything.
pub const ADMINISTRATOR: &str = "administrator";

impl User {
    /// Whether it may do everything.
    pub fn is_administrator(&self) -> bool {
        self.tags.iter().any(|tag| tag == ADMINISTRATOR)
    }
}

/// `[[exchanges]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct WantedExchange {
    pub vhost: String,
    pub name: String,
    pub kind: ExchangeKind,
    pub durable: bool,
    pub auto_delete: bool,
    pub internal: bool,
    pub arguments: Map<String, Json>,
}

impl WantedExchange {
    /// As a unit would declare it.
    pub fn as_declared(&self) -> Exchange {
        Exchange {
            name: self.name.clone(),
            kind: self.kind,
            durable: self.durable,
            auto_delete: self.auto_delete,
        }
    }
}

/// Where a binding leads.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Destination {
    Exchange(String),
    Queue(String),
}

/// `[[bindings]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct WantedBinding {
    pub vhost: String,
    pub exchange: String,
    pub to: Destination,
    pub key: String,
    pub arguments: Map<String, Json>,
}

/// `[[vhost_limits]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct VhostLimits {
    pub vhost: String,
    pub limits: Limits,
}

/// `[[policies]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Policy {
    pub vhost: String,
    pub name: String,
    pub pattern: String,
    /// In the API's words.
    pub apply_to: &'static str,
    pub priority: i64,
    pub definition: Map<String, Json>,
}

/// `[[replicated]]`.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct Replicated {
    pub vhost: String,
    pub name: String,
    pub pattern: String,
    masks: Masks,
}

impl Replicated {
    /// What a policy is about, as if it were an entry of `replicated`; `None` where px cannot read its pattern, which is
    /// RabbitMQ's.
    pub fn of_policy(policy: &Policy) -> Option<Replicated> {
        Some(Replicated {
            vhost: policy.vhost.clone(),
            name: policy.name.clone(),
            pattern: policy.pattern.clone(),
            masks: read::found_anywhere(&policy.pattern).ok()?,
        })
    }

    /// Whether the pattern is found in the name of a queue.
    pub fn covers(&self, queue: &str) -> bool {
        // A pattern that gives up on a name is no match, as for the broker.
        matches!(self.masks.first_match(queue.as_bytes()), Ok(Some(_)))
    }
}

/// `broker.toml`, loaded. Prints no password.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct Administration {
    pub file: PathBuf,
    pub broker: Broker,
    pub guest: Guest,
    pub vhosts: Vec<String>,
    /// In the order of the file.
    pub users: Vec<User>,
    pub exchanges: Vec<WantedExchange>,
    pub bindings: Vec<WantedBinding>,
    pub policies: Vec<Policy>,
    pub replicated: Vec<Replicated>,
    pub vhost_limits: Vec<VhostLimits>,
}

impl Administration {
    /// Loads the file. All findings; `None` where anything is refused. A user without a password is a warning here, for
    /// not everything needs it.
    pub fn load(site: &Site, path: &Path) -> (Option<Administration>, Vec<ConfigError>) {
        let errors = Errors::default();
        match file::load(path, &errors) {
            Some(table) => table.read_whole(|table| read::administration(table, site)),
            None => (None, errors.take()),
        }
    }

    /// The users whose password nobody knows.
    pub fn without_password(&self) -> Vec<&str> {
        let missing = self.users.iter().filter(|user| user.password == Password::Missing);
        missing.map(|user| user.name.as_str()).collect()
    }

    /// The user of the management API, where the file names it.
    pub fn own_user(&self) -> Option<&User> {
        let own = &self.broker.management.as_ref()?.user;
        self.users.iter().find(|user| user.name == *own)
    }
}

#[cfg(test)]
mod tests;
