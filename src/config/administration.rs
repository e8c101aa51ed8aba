//! What a broker is to have before any unit comes: users, their rights, exchanges, policies. `px broker apply` makes it
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
//! these users in virtual hosts that the file does not give them, are told by `px broker check` as "also there": exit code
//! 0, or 1 with `--strict`, for cron.
//!
//! | option | default | meaning |
//! | --- | --- | --- |
//! | `broker` | | a broker of `px.toml`, with `management` |
//! | `guest` | `"disarm"` | the user of every new broker: `"disarm"` takes tags, rights and password; `"delete"`, `"keep"` |
//! | `vhosts` | `["/"]` | virtual hosts; what names no `vhost` is for the first |
//! | `users` | none | a table `[users.NAME]` each, see below |
//! | `exchanges` | none | a table `[[exchanges]]` each |
//! | `policies` | none | a table `[[policies]]` each |
//! | `replicated` | none | a table `[[replicated]]` each: queues that are to live on all nodes of a cluster |
//!
//! # Users
//!
//! | option | default | meaning |
//! | --- | --- | --- |
//! | `password` | the secrets' | `"external"`: none is kept in the broker, for another place such as LDAP checks it |
//! | `tags` | none | `administrator`, `monitoring`, `policymaker`, `management`, `impersonator` |
//! | `permissions` | none | `{ vhost, configure, write, read }`, or a list of these; regular expressions of RabbitMQ |
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
//! | `vhost` | the first | its virtual host |
//!
//! One that exists with another type or durability cannot be changed: it is named, with what to do.
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
//! saved and run there with bash. They ask for the passwords. Exchanges are in them as definitions to import.
//!
//! Limits of users and virtual hosts, topic permissions, bindings, and arguments of exchanges are not covered.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value as Json};

use super::{Broker, ConfigError, Errors, Scheme, Secret, Site, Table, file, options};
use crate::message::{ExchangeKind, Masks, Verdict};

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
    pub policies: Vec<Policy>,
    pub replicated: Vec<Replicated>,
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
