use serde_json::{Map, Value, json};

use super::*;
use crate::config::administration::ADMINISTRATOR;
use crate::config::{Administration, Places, Secret, Site};

/// `broker.toml` as a file has it; the passwords are those of `secrets`.
fn wanted(text: &str) -> Administration {
    let root = tempfile::tempdir().unwrap();
    let etc = root.path().join("etc");
    std::fs::create_dir(&etc).unwrap();
    let write = |name: &str, text: &str| {
        std::fs::write(etc.join(name), text).unwrap();
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(etc.join(name), private).unwrap();
    };
    write(
        "px.toml",
        "[brokers.b]\nurls = [\"amqp://u@h\"]\nmanagement = { url = \"http://h:1\", user = \"root\" }\n",
    );
    write(
        "secrets.toml",
        "[b]\nroot = \"canary-root\"\nu = \"guest\"\n\"a 'b\" = \"canary-a\"\n",
    );
    write("broker.toml", &format!("broker = \"b\"\n{text}"));
    let places = Places::under(root.path());
    let (site, _) = Site::load_with(&places, &|_| None);
    let (read, findings) = Administration::load(&site, &places.administration_file());
    read.unwrap_or_else(|| panic!("{findings:?}"))
}

const ROOT: &str =
    "[users.root]\ntags = [\"administrator\"]\npermissions = { configure = \".*\", write = \".*\", read = \".*\" }\n";

fn words(plan: &Plan) -> Vec<String> {
    plan.all().map(|step| step.action.words()).collect()
}

fn drift(text: &str, found: &Found) -> Vec<String> {
    let plan = plan(&wanted(text), found);
    let steps = plan.all().map(|step| step.drift.clone());
    steps.chain(plan.stuck.clone()).collect()
}

/// A broker whose guest is disarmed, and that has u with the password `guest`.
fn settled() -> Found {
    let mut found = Found::new_node();
    found.version = "3.10.8".to_string();
    found.permissions.clear();
    found.users[0].tags.clear();
    found.users[0].password_hash = Secret::default();
    found.users.push(FoundUser {
        name: "u".to_string(),
        password_hash: Secret::new("iFHLaF7029PWOs+VK7lbOKdnAh6k/Wa99X65SlJG56GukuMP"),
        hashing_algorithm: "rabbit_password_hashing_sha256".to_string(),
        tags: vec!["monitoring".to_string()],
    });
    found
}

const U: &str = "[users.u]\ntags = [\"monitoring\"]\n";

#[test]
fn a_new_broker_gets_its_administrator_first_and_loses_guest_last() {
    let text = format!(
        "vhosts = [\"/\", \"v\"]\n[users.\"a 'b\"]\n[users.alice]\npassword = \"external\"\n{ROOT}\
         [[exchanges]]\nname = \"x\"\nvhost = \"v\"\n[[replicated]]\nname = \"ha\"\npattern = '^c\\.'\n"
    );
    let mut found = Found::new_node();
    found.version = "3.10.8".to_string();
    let plan = plan(&wanted(&text), &found);
    assert_eq!(
        words(&plan),
        [
            "add the user root: tags administrator",
            "add the virtual host v",
            "let root in / configure \".*\", write \".*\", read \".*\"",
            "declare the exchange x in v: topic, durable",
            "add the user \"a 'b\"",
            "add the user alice: no password here",
            "set the policy ha in /: {\"ha-mode\":\"all\",\"ha-sync-mode\":\"automatic\"} for all of \"^c\\\\.\", priority 0",
            "give the user guest no password, tags none",
            "take all permissions in / from guest",
        ]
    );
    assert_eq!(plan.last.len(), 2);
    assert!(!format!("{plan:?}").contains("canary"));
}

#[test]
fn what_is_as_wanted_needs_no_step() {
    let found = settled();
    let plan = plan(&wanted(U), &found);
    assert!(plan.is_done() && plan.also_there.is_empty(), "{plan:?}");
}

#[test]
fn each_difference_of_a_user_is_named() {
    let found = settled();
    assert_eq!(
        drift("[users.u]\n[users.root]\ntags = [\"administrator\"]\n", &found),
        ["user root: missing", "user u: has tags monitoring, wanted: none"]
    );
    let mut other = found.clone();
    other.users[1].password_hash = Secret::default();
    assert_eq!(drift(U, &other), ["user u: has no password"]);
    other.users[1].hashing_algorithm = "rabbit_password_hashing_sha512".to_string();
    other.users[1].password_hash = found.users[1].password_hash.clone();
    assert_eq!(drift(U, &other), ["user u: has another password than the secrets"]);
    let external = "[users.u]\ntags = [\"monitoring\"]\npassword = \"external\"\n";
    assert_eq!(
        drift(external, &found),
        ["user u: has a password here, wanted: external"]
    );
    let with = format!("{U}permissions = {{ configure = \"a\", write = \"\", read = \"c\" }}\n");
    assert_eq!(drift(&with, &found), ["user u: no permissions in /"]);
    let mut permitted = found.clone();
    permitted.permissions.push(FoundPermission {
        user: "u".to_string(),
        vhost: "/".to_string(),
        configure: "a".to_string(),
        write: ".*".to_string(),
        read: "d".to_string(),
    });
    assert_eq!(
        drift(&with, &permitted),
        ["user u in /: may write \".*\", wanted: \"\"; may read \"d\", wanted: \"c\""]
    );
}

/// Whoever takes the password from the login he uses locks himself out.
#[test]
fn the_password_by_which_px_logs_in_is_not_taken() {
    let text = "[users.root]\npassword = \"external\"\ntags = [\"administrator\"]\n";
    let hash_of = |password: &str| {
        use base64::Engine as _;
        use sha2::Digest as _;
        let salted = [b"salt", password.as_bytes()].concat();
        let hash = [b"salt".as_slice(), &sha2::Sha256::digest(salted)].concat();
        Secret::new(base64::engine::general_purpose::STANDARD.encode(hash))
    };
    let mut found = settled();
    found.users.push(FoundUser {
        name: "root".to_string(),
        password_hash: hash_of("canary-root"),
        hashing_algorithm: "rabbit_password_hashing_sha256".to_string(),
        tags: vec![ADMINISTRATOR.to_string(), "monitoring".to_string()],
    });
    let left = plan(&wanted(text), &found);
    assert_eq!(words(&left), ["give the user root tags administrator"]);
    let [stuck] = left.stuck.as_slice() else {
        panic!("{left:?}")
    };
    assert!(stuck.contains("px itself logs in with it, so it stays"), "{stuck}");
    // Logged in all the same: somebody else checks its passwords already.
    found.users[2].password_hash = hash_of("another");
    let taken = plan(&wanted(text), &found);
    assert!(taken.stuck.is_empty(), "{taken:?}");
    assert_eq!(words(&taken), ["give the user root no password, tags administrator"]);
}

#[test]
fn an_unchanged_password_is_not_written_with_new_tags() {
    let found = settled();
    let plan = plan(&wanted("[users.u]\n"), &found);
    assert_eq!(words(&plan), ["give the user u tags none"]);
    let Action::PutUser { password, .. } = &plan.steps[0].action else {
        panic!("{plan:?}")
    };
    assert!(matches!(password, NewPassword::Kept(hash, _) if *hash == found.users[1].password_hash));
}

#[test]
fn guest_is_disarmed_deleted_or_kept() {
    let new = Found::new_node();
    let disarm = [
        "user guest: has tags administrator; has a password",
        "user guest: has permissions in /",
    ];
    assert_eq!(drift("", &new), disarm);
    assert_eq!(drift("guest = \"delete\"\n", &new), ["user guest: is there"]);
    assert_eq!(drift("guest = \"keep\"\n", &new), [""; 0]);
    let kept = plan(&wanted("guest = \"keep\"\n"), &new);
    assert_eq!(kept.also_there, ["user guest is an administrator"]);
    assert_eq!(
        drift("guest = \"delete\"\n", &Found::default())[..],
        ["virtual host /: missing"]
    );
}

#[test]
fn what_nobody_named_is_left_and_told_where_it_is_dangerous() {
    let mut found = settled();
    found.users.push(FoundUser {
        name: "eve\r\n".to_string(),
        password_hash: Secret::default(),
        hashing_algorithm: String::new(),
        tags: vec![ADMINISTRATOR.to_string()],
    });
    for (vhost, right) in [("v", ".*"), ("w", "")] {
        found.permissions.push(FoundPermission {
            user: "u".to_string(),
            vhost: vhost.to_string(),
            configure: right.to_string(),
            write: String::new(),
            read: String::new(),
        });
    }
    let plan = plan(&wanted(U), &found);
    assert!(plan.is_done());
    assert_eq!(
        plan.also_there,
        [
            "user u may in v configure \".*\", write \"\", read \"\"",
            "user \"eve\\r\\n\" is an administrator"
        ]
    );
}

#[test]
fn an_exchange_of_another_kind_is_for_a_person() {
    let mut found = settled();
    let exchange = FoundExchange {
        vhost: "/".to_string(),
        name: "x".to_string(),
        kind: "topic".to_string(),
        durable: true,
        auto_delete: false,
        internal: false,
        arguments: Map::new(),
    };
    found.exchanges.push(exchange.clone());
    let text = "[[exchanges]]\nname = \"x\"\n";
    assert_eq!(drift(text, &found), [""; 0]);
    for (changed, said) in [
        (
            FoundExchange {
                kind: "x-delayed".to_string(),
                ..exchange.clone()
            },
            "x-delayed, durable,",
        ),
        (
            FoundExchange {
                durable: false,
                ..exchange.clone()
            },
            "topic, transient,",
        ),
        (
            FoundExchange {
                auto_delete: true,
                ..exchange.clone()
            },
            "topic, durable, auto-delete,",
        ),
        (
            FoundExchange {
                internal: true,
                ..exchange.clone()
            },
            "topic, durable, internal,",
        ),
    ] {
        found.exchanges = vec![changed];
        let told = drift(text, &found);
        assert!(
            told[0].starts_with(&format!("exchange x in /: {said} wanted: topic, durable; an")),
            "{told:?}"
        );
        assert!(plan(&wanted(text), &found).steps.is_empty());
    }
    found.exchanges = vec![FoundExchange {
        vhost: "v".to_string(),
        ..exchange
    }];
    assert_eq!(drift(text, &found), ["exchange x in /: missing"]);
}

#[test]
fn each_difference_of_a_policy_is_named() {
    let mut found = settled();
    let text = "[[policies]]\nname = \"p\"\npattern = \"^x\"\napply_to = \"queues\"\npriority = 2\n\
                definition = { max-length = 5 }\n";
    assert_eq!(drift(text, &found), ["policy p in /: missing"]);
    found.policies.push(FoundPolicy {
        vhost: "/".to_string(),
        name: "p".to_string(),
        pattern: "^x".to_string(),
        apply_to: "queues".to_string(),
        priority: 2,
        definition: Map::from_iter([("max-length".to_string(), Value::from(5))]),
    });
    assert_eq!(drift(text, &found), [""; 0]);
    let there = &mut found.policies[0];
    (there.pattern, there.priority) = ("^y".to_string(), 0);
    there.apply_to = "all".to_string();
    there.definition = Map::new();
    assert_eq!(
        drift(text, &found),
        [
            "policy p in /: pattern \"^y\", wanted: \"^x\"; applies to all, wanted: queues; priority 0, wanted: 2; \
          definition {}, wanted: {\"max-length\":5}"
        ]
    );
}

#[test]
fn replication_is_a_policy_before_4_0_and_a_kind_of_queue_after() {
    let text = "[[replicated]]\nname = \"ha-all\"\npattern = '^cmc\\.'\n";
    let mut found = settled();
    let queue = |name: &str, is_classic, is_lasting| FoundQueue {
        vhost: "/".to_string(),
        name: name.to_string(),
        is_classic,
        is_lasting,
        policy: None,
    };
    found.queues = vec![
        queue("cmc.classic", true, true),
        queue("cmc.quorum", false, true),
        queue("cmc.passing", true, false),
        queue("other", true, true),
    ];
    for version in ["3.3.5", "3.10.8", "3.13.7"] {
        found.version = version.to_string();
        assert_eq!(drift(text, &found), ["policy ha-all in /: missing"], "{version}");
    }
    for version in ["4.0.0", "4.2.1", "12.1"] {
        found.version = version.to_string();
        let told = drift(text, &found);
        assert!(
            told.len() == 1 && told[0].starts_with("queue cmc.classic in /: on one node only"),
            "{told:?}"
        );
    }
}

#[test]
fn a_policy_of_somebody_else_that_takes_queues_is_named() {
    let text = "[[replicated]]\nname = \"ha-all\"\npattern = '^cmc\\.'\n[[policies]]\nname = \"p\"\npattern = \"x$\"\n\
                apply_to = \"queues\"\npriority = 2\ndefinition = { max-length = 5 }\n";
    let policy = |name: &str, pattern: &str, priority, definition: Value| FoundPolicy {
        vhost: "/".to_string(),
        name: name.to_string(),
        pattern: pattern.to_string(),
        apply_to: "all".to_string(),
        priority,
        definition: definition.as_object().unwrap().clone(),
    };
    let mut found = settled();
    let ha = json!({ "ha-mode": "all", "ha-sync-mode": "automatic" });
    found.policies = vec![
        policy("ha-all", "^cmc\\.", 0, ha.clone()),
        policy("mine", "^cmc", 5, json!({ "max-length": 1000 })),
        policy("mirrors", "^cmc", 5, ha),
        policy("low", "", -1, json!({ "max-length": 1000 })),
        policy("p", "x$", 2, json!({ "max-length": 5 })),
    ];
    found.policies[4].apply_to = "queues".to_string();
    let queue = |name: &str, is_classic, policy: &str| FoundQueue {
        vhost: "/".to_string(),
        name: name.to_string(),
        is_classic,
        is_lasting: true,
        policy: Some(policy.to_string()),
    };
    found.queues = vec![
        queue("cmc.b", true, "ha-all"),
        queue("cmc.c", true, "mirrors"),
        queue("cmc.d", true, "low"),
        queue("cmc.quorum", false, "mine"),
        queue("other", true, "mine"),
        queue("x", true, "p"),
    ];
    assert_eq!(drift(text, &found), [""; 0]);
    found.queues.extend([
        queue("cmc.2", true, "mine"),
        queue("cmc.1", true, "mine"),
        queue("ax", true, "mine"),
        // What the file has itself is no accident, but does not mirror.
        queue("cmc.x", true, "p"),
    ]);
    assert_eq!(
        drift(text, &found),
        [
            "policy p in /: policy mine, of priority 5, is in force instead of it for 1 of its queues, such as ax, and a \
             queue has only one: it does nothing there; clear the policy mine, or make one of both",
            "policy ha-all in /: policy mine, of priority 5, is in force instead of it for 2 of its queues, such as \
             cmc.1, and a queue has only one: these are not mirrored; clear the policy mine, or make one of both",
            "policy ha-all in /: policy p, of priority 2, is in force instead of it for 1 of its queues, such as cmc.x, \
             and a queue has only one: these are not mirrored; clear the policy p, or make one of both",
        ]
    );
}

#[test]
fn commands_hold_no_password_and_survive_any_name() {
    let text = format!(
        "vhosts = [\"/\", \"it's $(x) `y`\"]\nguest = \"delete\"\n[users.\"a 'b\"]\n[users.-alice]\n\
         password = \"external\"\n{ROOT}\
         [[exchanges]]\nname = \"x y\"\ntype = \"fanout\"\ndurable = false\n\
         [[replicated]]\nname = \"ha-all\"\npattern = '^cmc\\.'\n"
    );
    let script = script(&wanted(&text));
    let (head, steps) = script.split_once("\n\n").unwrap();
    assert!(head.contains("rabbitmqctl import_definitions \"$file\""), "{head}");
    let is_command = |line: &&str| !line.is_empty() && !line.starts_with('#') && !line.starts_with("version=");
    let commands: Vec<&str> = steps.lines().filter(is_command).collect();
    assert_eq!(
        commands,
        [
            "ask root | add_user root",
            "rabbitmqctl set_user_tags -- root administrator",
            r"rabbitmqctl add_vhost -- 'it'\''s $(x) `y`'",
            "rabbitmqctl set_permissions -p / -- root '.*' '.*' '.*'",
            concat!(
                r#"definitions '{"exchanges":[{"type":"fanout","durable":false,"auto_delete":false,"internal":false,"#,
                r#""arguments":{},"name":"x y","vhost":"/"}]}'"#
            ),
            r"ask 'a '\''b' | add_user 'a '\''b'",
            r#"add_user -alice "$(head -c 24 /dev/urandom | base64)""#,
            "rabbitmqctl clear_password -- -alice",
            concat!(
                "case $version in [0-3].*) rabbitmqctl set_policy -p / --apply-to all --priority 0 -- ",
                r#"ha-all '^cmc\.' '{"ha-mode":"all","ha-sync-mode":"automatic"}' ;; esac"#
            ),
            "rabbitmqctl delete_user -- guest",
        ]
    );
    assert!(!script.contains("canary"));
}

#[test]
fn a_disarmed_guest_and_a_new_password_have_commands_too() {
    let guest: Vec<String> = plan(&wanted(""), &Found::new_node())
        .all()
        .flat_map(|step| step.action.commands())
        .collect();
    assert_eq!(
        guest,
        [
            "rabbitmqctl clear_password -- guest",
            "rabbitmqctl set_user_tags -- guest",
            "rabbitmqctl clear_permissions -p / -- guest"
        ]
    );
    let mut found = settled();
    found.users[1].password_hash = Secret::new("AAAAAAAA");
    let changed = plan(&wanted(U), &found);
    assert_eq!(
        changed.steps[0].action.commands(),
        ["ask u | rabbitmqctl change_password u"]
    );
}

#[test]
fn what_older_brokers_say_is_read() {
    let users = json!([
        { "name": "a", "password_hash": "x", "tags": "monitoring,administrator" },
        { "name": "b", "password_hash": null, "hashing_algorithm": "h", "tags": ["x"], "limits": {} },
        { "name": "c", "tags": "" },
    ]);
    let users: Vec<FoundUser> = serde_json::from_value(users).unwrap();
    assert_eq!(users[0].tags, ["administrator", "monitoring"]);
    assert!(users[1].password_hash.expose().is_empty() && users[2].tags.is_empty());
}

mod routing;
