//! `[reaper]` of the site file: which queues are abandoned. Its manual is the site file's.

use std::time::Duration;

use super::value::Value;
use super::{Broker, BrokerUrl, Scheme, Site, Table, options};
use crate::message::Finder;

/// Limits as the first reaper had them.
const LIMITS: Limits = Limits {
    max_messages: 25_000,
    max_bytes: 50_000_000,
    idle_for: None,
};
const GRACE: Duration = Duration::from_secs(600);
const MESSAGES_MAX: i64 = 1_000_000_000_000;
const VHOSTS: &str = r#""all", or a list of virtual hosts such as ["/", "site"], each once"#;
const MANAGEMENT: &str = r#"management = { url = "http://HOST:15672", user = "…" } in its table"#;

/// `[reaper]`, read.
#[derive(Debug, Clone)]
pub struct Reaper {
    /// Has a management API.
    pub broker: Broker,
    /// Of every queue that no rule is about.
    pub limits: Limits,
    /// Two sightings of a quorum queue are at least so far apart.
    pub grace: Duration,
    /// Where queues are looked at.
    pub vhosts: Vhosts,
    /// The first that matches decides.
    pub rules: Vec<Rule>,
}

/// What a queue without consumers may hold and how long it may stand. What is more than one of them is abandoned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Messages, ready or not.
    pub max_messages: u64,
    /// Of the memory of its process, and of the bodies of its messages.
    pub max_bytes: u64,
    /// Without a consumer; `None`: for ever.
    pub idle_for: Option<Duration>,
}

/// The virtual hosts that are looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Vhosts {
    All,
    These(Vec<String>),
}

/// What is so for the queues of some names.
#[derive(Debug, Clone)]
pub struct Rule {
    /// Found anywhere in the name.
    pub queue: Finder,
    /// Never deleted.
    pub keep: bool,
    /// The rule's own; what it leaves out is the table's.
    pub limits: Limits,
}

impl Reaper {
    pub(super) fn read(table: &mut Table, site: &Site) -> Option<Reaper> {
        let broker = managed_broker(table, site);
        let limits = limits(table, LIMITS);
        let grace = options::positive_duration(table, "grace").unwrap_or(GRACE);
        let vhosts = vhosts(table);
        let mut rules = Vec::new();
        for mut spelled in table.tables("rules") {
            rules.push(rule(&mut spelled, limits));
            spelled.finish();
        }
        let broker = broker?;
        let own = || Some(Vhosts::These(vec![broker.urls.first()?.vhost.clone()]));
        Some(Reaper {
            limits,
            grace,
            vhosts: vhosts.or_else(own)?,
            rules: rules.into_iter().collect::<Option<Vec<Rule>>>()?,
            broker,
        })
    }
}

fn managed_broker(table: &mut Table, site: &Site) -> Option<Broker> {
    let broker = options::broker(table, site)?;
    let is_amqp = |url: &BrokerUrl| matches!(url.scheme, Scheme::Amqp | Scheme::Amqps);
    if !broker.urls.first().is_some_and(is_amqp) {
        table.refuse(
            "broker",
            "no RabbitMQ; accepted: a broker with amqp:// or amqps:// URLs",
        );
        return None;
    }
    if broker.management.is_none() {
        table.refuse(
            "broker",
            &format!("{} has no management API; accepted: {MANAGEMENT}", broker.name),
        );
        return None;
    }
    Some(broker)
}

fn limits(table: &mut Table, plain: Limits) -> Limits {
    let max_messages = table.integer("max_messages", 0..=MESSAGES_MAX);
    let max_bytes = table.size("max_bytes").filter(|bytes| {
        if *bytes == 0 {
            table.reject("max_bytes", "a size above zero, for every queue takes some memory");
        }
        *bytes > 0
    });
    Limits {
        max_messages: max_messages.unwrap_or(plain.max_messages),
        max_bytes: max_bytes.unwrap_or(plain.max_bytes),
        idle_for: options::positive_duration(table, "idle_for").or(plain.idle_for),
    }
}

/// `None` where there is none, and where it is wrong.
fn vhosts(table: &mut Table) -> Option<Vhosts> {
    let is_list = |entry: &super::value::Entry| entry.key == "vhosts" && matches!(entry.value, Value::List(_));
    if !table.entries().iter().any(is_list) {
        let all = |text: &str| (text == "all").then_some(Vhosts::All).ok_or_else(String::new);
        return table.parsed("vhosts", all, VHOSTS);
    }
    let list = table.strings("vhosts")?;
    if list.is_empty() {
        table.reject("vhosts", VHOSTS);
        return None;
    }
    for (index, name) in list.iter().enumerate() {
        if name.is_empty() || list[..index].contains(name) {
            table.reject_element("vhosts", index, VHOSTS);
            return None;
        }
    }
    Some(Vhosts::These(list))
}

fn rule(table: &mut Table, plain: Limits) -> Option<Rule> {
    let queue = table.parsed("queue", Finder::new, "a regular expression");
    if !table.has("queue") {
        table.reject("queue", "a regular expression, found anywhere in the name of a queue");
    }
    let keep = table.boolean("keep").unwrap_or(false);
    for key in ["max_messages", "max_bytes", "idle_for"] {
        if keep && table.has(key) {
            table.refuse(key, "keep = true and a limit in one rule; accepted: one of them");
        }
    }
    let is_bare = ["keep", "max_messages", "max_bytes", "idle_for"]
        .iter()
        .all(|key| !table.has(key));
    if is_bare {
        table.warn("queue", "neither keep nor a limit: the table's own limits are for it");
    }
    Some(Rule {
        queue: queue?,
        keep,
        limits: limits(table, plain),
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{Errors, Management, Places, Secret};

    fn site(url: &str, has_management: bool) -> Site {
        let places = Places::under(Path::new("/r"));
        let mut broker = Broker::new("b", BrokerUrl::parse(url, &places).unwrap());
        broker.management = has_management.then(|| Management {
            url: "http://h:15672".into(),
            user: "root".into(),
            password: Secret::new("x"),
        });
        Site::of(&places, [broker])
    }

    fn read(text: &str, site: &Site) -> (Option<Reaper>, Vec<String>) {
        let table = Table::parse(Path::new("px.toml"), text, &Errors::default());
        let (reaper, found) = table.read_whole(|table| Reaper::read(table, site));
        (reaper, found.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_rule_leaves_out_what_the_table_says() {
        let text = r#"
            broker = "b"
            idle_for = "30d"
            max_bytes = "1MB"
            grace = "1m"
            vhosts = ["/", "site"]
            rules = [
                { queue = '^cmc\.', keep = true },
                { queue = "^q_", max_messages = 100000, idle_for = "7d" },
                { queue = "" },
            ]
        "#;
        let (reaper, found) = read(text, &site("amqp://h", true));
        let warned =
            "px.toml:10: rules.queue = \"\": warning: neither keep nor a limit: the table's own limits are for it";
        assert_eq!(found, [warned]);
        let reaper = reaper.unwrap();
        let day = Duration::from_secs(86_400);
        let plain = Limits {
            max_messages: 25_000,
            max_bytes: 1_000_000,
            idle_for: Some(30 * day),
        };
        assert_eq!(reaper.limits, plain);
        assert_eq!(reaper.grace, Duration::from_secs(60));
        assert_eq!(reaper.vhosts, Vhosts::These(vec!["/".into(), "site".into()]));
        let rules: Vec<(&str, bool, Limits)> = reaper
            .rules
            .iter()
            .map(|rule| (rule.queue.text(), rule.keep, rule.limits))
            .collect();
        let more = Limits {
            max_messages: 100_000,
            idle_for: Some(7 * day),
            ..plain
        };
        assert_eq!(
            rules,
            [(r"^cmc\.", true, plain), ("^q_", false, more), ("", false, plain)]
        );
    }

    #[test]
    fn defaults_are_those_of_the_first_reaper() {
        let (reaper, found) = read("broker = \"b\"", &site("amqp://h/site", true));
        assert_eq!(found, [] as [&str; 0]);
        let reaper = reaper.unwrap();
        assert_eq!((reaper.limits, reaper.grace), (LIMITS, Duration::from_secs(600)));
        assert_eq!(reaper.vhosts, Vhosts::These(vec!["site".into()]));
        assert!(reaper.rules.is_empty());
        let (reaper, _) = read("broker = \"b\"\nvhosts = \"all\"", &site("amqp://h", true));
        assert_eq!(reaper.unwrap().vhosts, Vhosts::All);
    }

    #[test]
    fn every_error_has_its_place() {
        let text = r#"broker = "b"
max_messages = -1
max_bytes = "0B"
idle_for = "0s"
grace = "soon"
vhosts = ["/", "a", "/"]
rules = [
  { queue = "(", keep = true },
  { keep = true },
  { queue = "x", keep = true, max_bytes = "1MB" },
  { queue = "x", limit = 3 },
  { queue = "x", max_messages = "many" },
]
"#;
        let (reaper, found) = read(text, &site("amqp://h", true));
        assert!(reaper.is_none());
        let places: Vec<&str> = found
            .iter()
            .map(|finding| finding.split(" = ").next().unwrap())
            .collect();
        let expected = [
            "px.toml:2: max_messages",
            "px.toml:3: max_bytes",
            "px.toml:4: idle_for",
            "px.toml:5: grace",
            "px.toml:6: vhosts",
            "px.toml:8: rules.queue",
            "px.toml:9: rules.queue: missing; accepted: a regular expression, found anywhere in the name of a queue",
            "px.toml:10: rules.max_bytes",
            "px.toml:11: rules.limit",
            "px.toml:11: rules.queue",
            "px.toml:12: rules.max_messages",
        ];
        assert_eq!(places, expected, "{found:#?}");
    }

    #[test]
    fn a_broker_without_management_and_odd_vhosts_are_refused() {
        for (text, url, has_management, why) in [
            ("", "amqp://h", true, "missing"),
            (
                "broker = \"c\"",
                "amqp://h",
                true,
                "px.toml has no such broker; accepted: b",
            ),
            (
                "broker = \"b\"",
                "amqp://h",
                false,
                "b has no management API; accepted: management",
            ),
            (
                "broker = \"b\"",
                "embedded:x",
                true,
                "no RabbitMQ; accepted: a broker with",
            ),
            ("broker = \"b\"\nvhosts = \"/\"", "amqp://h", true, "accepted: \"all\""),
            ("broker = \"b\"\nvhosts = []", "amqp://h", true, "accepted: \"all\""),
            ("broker = \"b\"\nvhosts = [\"\"]", "amqp://h", true, "accepted: \"all\""),
            ("broker = \"b\"\nvhosts = 3", "amqp://h", true, "accepted: \"all\""),
            ("broker = \"b\"\nrules = 3", "amqp://h", true, "a list of tables"),
        ] {
            let (reaper, found) = read(text, &site(url, has_management));
            assert!(reaper.is_none(), "{text}");
            assert_eq!(found.len(), 1, "{text}: {found:?}");
            assert!(found[0].contains(why), "{text}: {found:?}");
        }
    }
}
