//! From the table to the values, every fault with its place.

use serde_json::Map;

use super::{
    Administration, Guest, Limits, Masks, NO_LIMIT, Password, Permission, Policy, Replicated, Scheme, Site, Table,
};
use super::{TopicPermission, User, Verdict, VhostLimits, options};
use crate::config::Broker;

mod exchanges;
mod free;

use exchanges::{bindings, exchanges};
use free::free;

const NAME: &str = "a name of at most 255 bytes without control characters, other than \".\" and \"..\"";
const NEW_GUEST: &str = "guest";
/// What RabbitMQ's own plugins look for.
const TAGS: [&str; 5] = [
    super::ADMINISTRATOR,
    "monitoring",
    "policymaker",
    "management",
    "impersonator",
];
const APPLY_TO: [(&str, &str); 6] = [
    ("all", "all"),
    ("queues", "queues"),
    ("exchanges", "exchanges"),
    ("classic_queues", "classic_queues"),
    ("quorum_queues", "quorum_queues"),
    ("streams", "streams"),
];
/// Where a limit is written, and its name in the API.
type LimitKey = (&'static str, &'static str);
const OF_USERS: [LimitKey; 2] = [("max_connections", "max-connections"), ("max_channels", "max-channels")];
const OF_VHOSTS: [LimitKey; 2] = [("max_connections", "max-connections"), ("max_queues", "max-queues")];

pub(super) fn administration(table: &mut Table, site: &Site) -> Option<Administration> {
    let broker = options::broker(table, site);
    if let Some(broker) = &broker {
        if broker.urls.iter().any(|url| url.scheme == Scheme::Embedded) {
            table.refuse("broker", "an embedded broker has no users and nothing to set up");
        } else if broker.management.is_none() {
            table.warn(
                "broker",
                "px.toml has no management for it: only apply --as rabbitmqctl works",
            );
        }
    }
    let guest = table.choice(
        "guest",
        &[
            ("disarm", Guest::Disarm),
            ("delete", Guest::Delete),
            ("keep", Guest::Keep),
        ],
    );
    let guest = guest.unwrap_or(Guest::Disarm);
    let vhosts = vhosts(table);
    // Where the list is at fault, nothing is said of what is not in it.
    let known = Vhosts(vhosts.as_deref());
    let users = users(table, broker.as_ref(), site, &known);
    let exchanges = exchanges(table, &known);
    let bindings = bindings(table, &known);
    let vhost_limits = vhost_limits(table, &known);
    let policies = policies(table, &known);
    let replicated = replicated(table, &known);
    check_policy_names(table, &policies, &replicated);
    if let (Some(broker), Some(users)) = (&broker, &users) {
        check_login(table, broker, guest, users);
    }
    Some(Administration {
        file: table.file().to_path_buf(),
        broker: broker?,
        guest,
        vhosts: vhosts?,
        users: users?,
        exchanges,
        bindings,
        policies,
        replicated,
        vhost_limits,
    })
}

/// The virtual hosts of the file; `None` where their list is at fault.
struct Vhosts<'a>(Option<&'a [String]>);

impl Vhosts<'_> {
    /// `vhost` of a table: one of the list, by default the first.
    fn read(&self, table: &mut Table) -> Option<String> {
        let named = table.string("vhost");
        let vhosts = self.0?;
        if !table.has("vhost") {
            return vhosts.first().cloned();
        }
        let named = named?;
        if !vhosts.contains(&named) {
            table.refuse(
                "vhost",
                &format!("not in vhosts; accepted: {}", vhosts.join(", ").escape_debug()),
            );
            return None;
        }
        Some(named)
    }
}

fn vhosts(table: &mut Table) -> Option<Vec<String>> {
    if !table.has("vhosts") {
        table.know("vhosts");
        return Some(vec!["/".to_string()]);
    }
    let list = table.parsed_list("vhosts", named, &format!("a list of {NAME}"))?;
    if list.is_empty() {
        table.reject("vhosts", "at least one virtual host");
        return None;
    }
    for (index, vhost) in list.iter().enumerate() {
        if list[..index].contains(vhost) {
            table.refuse("vhosts", &format!("{vhost:?} is there twice"));
        }
    }
    Some(list)
}

fn is_name(text: &str) -> bool {
    // A path of the API cannot have the last two.
    !text.is_empty() && text.len() <= 255 && !text.chars().any(char::is_control) && !matches!(text, "." | "..")
}

fn named(text: &str) -> Result<String, String> {
    match is_name(text) {
        true => Ok(text.to_string()),
        false => Err(String::new()),
    }
}

/// `name` and its kin, which must be there.
fn required_name(table: &mut Table, key: &str) -> Option<String> {
    if !table.has(key) {
        table.reject(key, NAME);
    }
    table.parsed(key, named, NAME)
}

fn users(table: &mut Table, broker: Option<&Broker>, site: &Site, vhosts: &Vhosts) -> Option<Vec<User>> {
    table.know("users");
    if !table.has("users") {
        return Some(Vec::new());
    }
    let mut below = table.table("users")?;
    let names = below.keys();
    let mut users = Vec::new();
    for name in &names {
        if !is_name(name) {
            below.refuse(name, &format!("not a user's name; accepted: {NAME}"));
        }
        let user = below.within(name, |table| user(table, name, vhosts));
        let Some((mut user, is_external)) = user else { continue };
        if is_external {
            user.password = Password::External;
        } else if let Some(broker) = broker {
            user.password = password(&mut below, broker, name, site);
        }
        users.push(user);
    }
    below.finish();
    (users.len() == names.len()).then_some(users)
}

/// `[users.NAME]`, and whether its password is elsewhere. `None` where its tags are at fault: nothing follows of them.
fn user(table: &mut Table, name: &str, vhosts: &Vhosts) -> Option<(User, bool)> {
    let external = table.choice("password", &[("external", true)]).unwrap_or(false);
    // A password that was written here by mistake is told once, and not missed.
    let is_external = external || table.has("password");
    let tag = |text: &str| match text {
        "" => Err(String::new()),
        text if text.contains([',', ' ']) || text.chars().any(char::is_control) => Err(String::new()),
        text => Ok(text.to_string()),
    };
    let tags = table.parsed_list("tags", tag, &format!("a list of {}", TAGS.join(", ")));
    let are_good = tags.is_some() || !table.has("tags");
    let mut tags = tags.unwrap_or_default();
    for tag in tags.iter().filter(|tag| !TAGS.contains(&tag.as_str())) {
        table.warn(
            "tags",
            &format!("{tag:?} is none that RabbitMQ knows itself: {}", TAGS.join(", ")),
        );
    }
    tags.sort();
    tags.dedup();
    let permissions = once_each(table, "permissions", permission, vhosts, |read| {
        (
            "vhost",
            format!("{:?} has permissions of this user already", read.vhost),
        )
    });
    let topic_permissions = once_each(table, "topic_permissions", topic_permission, vhosts, |read| {
        let (exchange, vhost) = (&read.exchange, &read.vhost);
        (
            "exchange",
            format!("{exchange:?} in {vhost:?} has topic permissions of this user already"),
        )
    });
    let limits = table.within("limits", |table| Some(limits(table, OF_USERS)));
    let user = User {
        name: name.to_string(),
        password: Password::Missing,
        tags,
        permissions,
        topic_permissions,
        limits: limits.unwrap_or_default(),
    };
    are_good.then_some((user, is_external))
}

/// A list of tables of which each is about something else: the key and the words of what `about` says are of one that
/// is there already.
fn once_each<T>(
    table: &mut Table,
    key: &str,
    read: fn(&mut Table, &Vhosts) -> Option<T>,
    vhosts: &Vhosts,
    about: impl Fn(&T) -> (&'static str, String),
) -> Vec<T> {
    let mut list: Vec<T> = Vec::new();
    for mut spelled in table.tables(key) {
        if let Some(read) = read(&mut spelled, vhosts) {
            let (key, words) = about(&read);
            if list.iter().any(|other| about(other).1 == words) {
                spelled.refuse(key, &words);
            }
            list.push(read);
        }
        spelled.finish();
    }
    list
}

fn permission(table: &mut Table, vhosts: &Vhosts) -> Option<Permission> {
    let vhost = vhosts.read(table);
    let [configure, write, read] = ["configure", "write", "read"].map(|key| right(table, key));
    Some(Permission {
        vhost: vhost?,
        configure: configure?,
        write: write?,
        read: read?,
    })
}

fn topic_permission(table: &mut Table, vhosts: &Vhosts) -> Option<TopicPermission> {
    let (vhost, exchange) = (vhosts.read(table), required_name(table, "exchange"));
    let [write, read] = ["write", "read"].map(|key| right(table, key));
    Some(TopicPermission {
        vhost: vhost?,
        exchange: exchange?,
        write: write?,
        read: read?,
    })
}

fn right(table: &mut Table, key: &str) -> Option<String> {
    const PATTERN: &str = "a regular expression; \"\" for nothing, \".*\" for everything";
    if !table.has(key) {
        table.reject(key, PATTERN);
    }
    table.parsed(key, pattern, PATTERN)
}

fn limits(table: &mut Table, keys: [LimitKey; 2]) -> Limits {
    let limit = |(key, name)| Some((name, table.integer(key, NO_LIMIT..=1_000_000_000)?));
    keys.into_iter().filter_map(limit).collect()
}

fn vhost_limits(table: &mut Table, vhosts: &Vhosts) -> Vec<VhostLimits> {
    let read = |table: &mut Table, vhosts: &Vhosts| {
        let (vhost, limits) = (vhosts.read(table), limits(table, OF_VHOSTS));
        Some(VhostLimits { vhost: vhost?, limits })
    };
    once_each(table, "vhost_limits", read, vhosts, |read| {
        ("vhost", format!("{:?} has limits already", read.vhost))
    })
}

/// RabbitMQ's own regular expressions: what no command line could carry is none.
fn pattern(text: &str) -> Result<String, String> {
    match text.contains('\0') {
        true => Err(String::new()),
        false => Ok(text.to_string()),
    }
}

fn password(users: &mut Table, broker: &Broker, name: &str, site: &Site) -> Password {
    match site.password(&broker.name, name) {
        Ok(Some(password)) if password.expose().contains(['\n', '\r', '\0']) => {
            users.refuse(
                name,
                "its password has a line end or a NUL in it: no command could carry it",
            );
            return Password::Missing;
        }
        Ok(Some(password)) => return Password::Known(password),
        Ok(None) => {}
        Err(why) => {
            users.refuse(name, &why);
            return Password::Missing;
        }
    }
    // The one that px logs in with may also stand in its URL.
    let own = broker.management.as_ref().filter(|management| management.user == name);
    if let Some(own) = own.filter(|own| !own.password.expose().is_empty()) {
        return Password::Known(own.password.clone());
    }
    if !site.secrets_are_refused() {
        let broker = &broker.name;
        users.warn(
            name,
            &format!("no password for {name}: secrets.toml (0600) has no [{broker}] {name} = \"…\""),
        );
    }
    Password::Missing
}

fn policies(table: &mut Table, vhosts: &Vhosts) -> Vec<Policy> {
    let mut list = Vec::new();
    for mut spelled in table.tables("policies") {
        let (name, pattern) = (required_name(&mut spelled, "name"), required_pattern(&mut spelled));
        let apply_to = spelled.choice("apply_to", &APPLY_TO);
        let priority = spelled.integer("priority", -1_000_000..=1_000_000);
        const DEFINITION: &str = "a table that is not empty";
        if !spelled.has("definition") {
            spelled.reject("definition", DEFINITION);
        }
        let definition = free(&mut spelled, "definition");
        if definition.as_ref().is_some_and(Map::is_empty) {
            spelled.reject("definition", DEFINITION);
        }
        let definition = definition.filter(|definition| !definition.is_empty());
        let vhost = vhosts.read(&mut spelled);
        if let (Some(name), Some(pattern), Some(definition), Some(vhost)) = (name, pattern, definition, vhost) {
            list.push(Policy {
                vhost,
                name,
                pattern,
                apply_to: apply_to.unwrap_or("all"),
                priority: priority.unwrap_or(0),
                definition,
            });
        }
        spelled.finish();
    }
    list
}

fn required_pattern(table: &mut Table) -> Option<String> {
    const PATTERN: &str = "a regular expression";
    if !table.has("pattern") {
        table.reject("pattern", PATTERN);
    }
    table.parsed("pattern", pattern, PATTERN)
}

fn replicated(table: &mut Table, vhosts: &Vhosts) -> Vec<Replicated> {
    let mut list = Vec::new();
    for mut spelled in table.tables("replicated") {
        let (name, pattern) = (required_name(&mut spelled, "name"), required_pattern(&mut spelled));
        let vhost = vhosts.read(&mut spelled);
        let masks = pattern.as_deref().map(found_anywhere).transpose();
        let masks = masks.unwrap_or_else(|problem| {
            spelled.refuse("pattern", &problem);
            None
        });
        if let (Some(name), Some(pattern), Some(vhost), Some(masks)) = (name, pattern, vhost, masks) {
            list.push(Replicated {
                vhost,
                name,
                pattern,
                masks,
            });
        }
        spelled.finish();
    }
    list
}

/// RabbitMQ finds a pattern anywhere in a name; a mask begins where the name does.
pub(super) fn found_anywhere(pattern: &str) -> Result<Masks, String> {
    let mask = |text: String| {
        let masks = Masks::new([(Verdict::Accept, text)]);
        masks.map_err(|errors| errors.first().map(|error| error.problem.clone()).unwrap_or_default())
    };
    // Alone first: what opens and closes groups that are not its own is none.
    mask(pattern.to_string())?;
    mask(format!("(?s:.*?)(?:{pattern})"))
}

/// A virtual host has one policy of a name, and those of `replicated` are policies too.
fn check_policy_names(table: &mut Table, policies: &[Policy], replicated: &[Replicated]) {
    let policies = policies.iter().map(|policy| ("policies", &policy.vhost, &policy.name));
    let replicated = replicated
        .iter()
        .map(|policy| ("replicated", &policy.vhost, &policy.name));
    let all: Vec<_> = policies.chain(replicated).collect();
    for (index, (key, vhost, name)) in all.iter().enumerate() {
        if all[..index].iter().any(|(_, v, n)| (v, n) == (vhost, name)) {
            table.refuse(key, &format!("two of the name {name:?} for the virtual host {vhost:?}"));
        }
    }
}

/// Nobody may saw off the branch that he sits on.
fn check_login(table: &mut Table, broker: &Broker, guest: Guest, users: &[User]) {
    let own = broker.management.as_ref().map(|management| management.user.as_str());
    if guest != Guest::Keep {
        if own == Some(NEW_GUEST) {
            table.refuse(
                "guest",
                "px itself logs in as guest: let `management` in px.toml name another administrator",
            );
        }
        if users.iter().any(|user| user.name == NEW_GUEST) {
            table.refuse(
                "guest",
                "users has guest too; accepted: guest = \"keep\", or no [users.guest]",
            );
        }
    }
    let own = users.iter().find(|user| Some(user.name.as_str()) == own);
    if let Some(own) = own.filter(|own| !own.is_administrator()) {
        let text = format!(
            "px itself logs in as {}, who needs tags = [\"administrator\"]",
            own.name
        );
        table.refuse("users", &text);
    }
}
