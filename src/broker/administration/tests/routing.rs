//! Topic permissions, limits, exchanges with all their options, and bindings.

use std::os::unix::fs::PermissionsExt;

use super::*;

const TEXT: &str = r#"
vhosts = ["/", "v"]
guest = "keep"
[users.u]
tags = ["monitoring"]
topic_permissions = [
    { exchange = "x", write = "^a", read = "" },
    { exchange = "x", vhost = "v", write = "", read = "b" },
]
limits = { max_connections = 3, max_channels = -1 }
[[exchanges]]
name = "x"
auto_delete = true
arguments = { alternate-exchange = "lost" }
[[exchanges]]
name = "lost"
type = "fanout"
internal = true
[[bindings]]
exchange = "amq.topic"
to_exchange = "x"
key = "a.#"
[[bindings]]
exchange = "x"
queue = "it's q"
key = "k"
arguments = { x-match = "all", n = 1 }
[[vhost_limits]]
max_queues = 0
"#;

#[test]
fn a_new_broker_gets_them_in_an_order_that_works() {
    let mut found = settled();
    found.vhosts.push("v".to_string());
    let new = plan(&wanted(TEXT), &found);
    assert_eq!(
        words(&new),
        [
            "declare the exchange x in /: topic, durable, auto-delete, arguments {\"alternate-exchange\":\"lost\"}",
            "declare the exchange lost in /: fanout, durable, internal",
            "let u in / with keys of x write \"^a\", read \"\"",
            "let u in v with keys of x write \"\", read \"b\"",
            "limit the user u: max-connections 3",
            "limit the virtual host /: max-queues 0",
            "bind the exchange x in / to the exchange amq.topic with the key \"a.#\"",
        ]
    );
    // Units declare queues.
    assert_eq!(
        new.stuck,
        [
            "binding of the queue \"it's q\" in / to the exchange x with the key \"k\" and the arguments \
          {\"n\":1,\"x-match\":\"all\"}: there is no queue \"it's q\" yet; start the unit that declares it, and apply"
        ]
    );
}

/// As it is after the plan was carried out, in the API's words.
fn carried_out() -> Found {
    let mut found = settled();
    found.vhosts.push("v".to_string());
    let read = |value: Value| -> FoundExchange { serde_json::from_value(value).unwrap() };
    found.exchanges = vec![
        read(
            json!({ "vhost": "/", "name": "x", "type": "topic", "durable": true, "auto_delete": true,
            "internal": false, "arguments": { "alternate-exchange": "lost" } }),
        ),
        read(
            json!({ "vhost": "/", "name": "lost", "type": "fanout", "durable": true, "auto_delete": false,
            "internal": true, "arguments": {} }),
        ),
    ];
    found.limits = serde_json::from_value(json!([
        { "user": "other", "value": { "max-connections": 1 } },
        { "user": "u", "value": { "max-connections": 3 } },
        { "vhost": "/", "value": { "max-queues": 0, "max-connections": 5 } },
    ]))
    .unwrap();
    found.topic_permissions = serde_json::from_value(json!([
        { "user": "u", "vhost": "/", "exchange": "x", "write": "^a", "read": "" },
        { "user": "u", "vhost": "v", "exchange": "x", "write": "", "read": "b" },
    ]))
    .unwrap();
    found.bindings = serde_json::from_value(json!([
        { "source": "amq.topic", "vhost": "/", "destination": "x", "destination_type": "exchange",
          "routing_key": "a.#", "arguments": {}, "properties_key": "a.%23" },
        { "source": "x", "vhost": "/", "destination": "it's q", "destination_type": "queue", "routing_key": "k",
          "arguments": { "x-match": "all", "n": 1 }, "properties_key": "k~x" },
    ]))
    .unwrap();
    found.queues = vec![FoundQueue {
        vhost: "/".to_string(),
        name: "it's q".to_string(),
        is_classic: true,
        is_lasting: true,
        policy: None,
    }];
    found
}

#[test]
fn each_difference_is_named() {
    assert_eq!(drift(TEXT, &carried_out()), [""; 0]);
    let changed = |change: &dyn Fn(&mut Found)| {
        let mut found = carried_out();
        change(&mut found);
        drift(TEXT, &found)
    };
    let to_q = "binding of the queue \"it's q\" in / to the exchange x with the key \"k\" and the arguments \
                {\"n\":1,\"x-match\":\"all\"}: missing";
    let x = "exchange x in /: topic, durable, auto-delete";
    let wanted_x = "wanted: topic, durable, auto-delete, arguments {\"alternate-exchange\":\"lost\"}; an exchange cannot \
                    be changed: delete it (its bindings go with it), apply, and restart who was bound to it";
    for (told, expected) in [
        (
            changed(&|found| found.topic_permissions[0].write = ".*".to_string()),
            "user u with keys of x in /: may write \".*\", wanted: \"^a\"".to_string(),
        ),
        (
            changed(&|found| drop(found.topic_permissions.pop())),
            "user u: no topic permissions for x in v".to_string(),
        ),
        (
            changed(&|found| {
                found.limits[1].value = json!({ "max-channels": 7, "max-connections": -1 })
                    .as_object()
                    .unwrap()
                    .clone();
            }),
            "user u: max-connections none, wanted: 3; max-channels 7, wanted: none".to_string(),
        ),
        (
            changed(&|found| found.limits.truncate(2)),
            "virtual host /: max-queues none, wanted: 0".to_string(),
        ),
        (changed(&|found| drop(found.bindings.pop())), to_q.to_string()),
        (
            changed(&|found| drop(found.bindings[1].arguments.insert("n".to_string(), json!(2)))),
            to_q.to_string(),
        ),
        (
            changed(&|found| found.exchanges[0].arguments = Map::new()),
            format!("{x}, {wanted_x}"),
        ),
    ] {
        assert_eq!(told, [expected]);
    }
    let mut more = carried_out();
    more.topic_permissions[1].exchange = "y".to_string();
    assert_eq!(
        plan(&wanted(TEXT), &more).also_there,
        ["user u may with keys of y in v only write \"\", read \"b\""]
    );
}

/// A shell's `rabbitmqctl` that writes down what it is told, has the user `old`, and fails where it is told to.
fn run(script: &str, (fails_at, why): (&str, &str)) -> (bool, Vec<String>, String) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("rabbitmqctl");
    let fake = "#!/bin/bash\nread -r line\n\
                [ \"$1\" != import_definitions ] || { line=$(<\"$2\"); set -- \"$1\"; }\n\
                printf '%s<%s\\n' \"$*\" \"$line\" >>\"$0.log\"\n\
                [ \"$*\" != \"$FAILS_AT\" ] || { echo \"$WHY\" >&2; exit 1; }\n\
                [ \"$*\" != 'add_user old' ] || { echo 'User \"old\" already exists' >&2; exit 70; }\n\
                [ \"$*\" != version ] || echo 3.10.8\n";
    std::fs::write(&path, fake).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::write(directory.path().join("script"), script).unwrap();
    let command = "PATH=\"$0:$PATH\" FAILS_AT=$1 WHY=$2 exec bash \"$0/script\" <<<$'one\\ntwo\\nthree'";
    let ended = std::process::Command::new("bash")
        .args(["-c", command])
        .arg(directory.path())
        .args([fails_at, why])
        .output()
        .unwrap();
    let told = std::fs::read_to_string(directory.path().join("rabbitmqctl.log")).unwrap_or_default();
    let told = told.lines().map(str::to_string).collect();
    (
        ended.status.success(),
        told,
        String::from_utf8_lossy(&ended.stderr).into_owned(),
    )
}

#[test]
fn the_commands_end_at_the_first_that_fails_and_may_be_run_again() {
    let text = format!(
        "{ROOT}[users.old]\n{}",
        TEXT.replace("guest = \"keep\"", "guest = \"delete\"")
    );
    // Tables after arrays of tables: the top-level keys have to come first.
    let (top, rest) = text.split_at(text.find("\nvhosts").unwrap());
    let (keys, tables) = rest.split_at(rest.find("[users.u]").unwrap());
    let script = script(&wanted(&format!("{keys}\n{top}\n{tables}")));
    let (is_good, told, said) = run(&script, ("", ""));
    assert!(said.contains("old exists, and keeps its password"), "{said}\n{script}");
    // Units declare queues: that is said, and is no success.
    let left = "not done: binding of the queue \"it's q\" in / to the exchange x";
    assert!(!is_good && said.contains(left), "{said}\n{script}");
    let told: Vec<&str> = told.iter().map(String::as_str).collect();
    assert_eq!(told[0], "add_user root<one");
    assert!(
        told.contains(&"add_user old<two") && told.contains(&"add_user u<three"),
        "{told:?}"
    );
    for line in [
        "set_topic_permissions -p v -- u x  b<",
        "set_user_limits -- u {\"max-connections\":3}<",
        "set_vhost_limits -p / -- {\"max-queues\":0}<",
    ] {
        assert!(told.contains(&line), "{line} is not in {told:#?}");
    }
    let is_topic = |line: &&str| line.starts_with("set_topic_permissions");
    let topics = told.iter().position(is_topic).unwrap();
    let imported = |told: &[&str]| -> Vec<Value> {
        let imports = told.iter().filter_map(|line| line.strip_prefix("import_definitions<"));
        imports.map(|text| serde_json::from_str(text).unwrap()).collect()
    };
    // Exchanges are there before rights on their keys.
    let ([exchanges], [bindings]) = (&imported(&told[..topics])[..], &imported(&told[topics..])[..]) else {
        panic!("{told:#?}")
    };
    assert_eq!(exchanges["exchanges"][1]["internal"], true);
    assert_eq!(bindings["bindings"][0]["destination"], "x");
    assert_eq!(told.last(), Some(&"delete_user -- guest<"));

    let (is_good, told, said) = run(&script, ("set_permissions -p / -- root .* .* .*", ""));
    assert!(
        !is_good && said.contains("ended here, the rest is not done: rabbitmqctl set_permissions"),
        "{said}"
    );
    assert!(told.last().unwrap().starts_with("set_permissions"), "{told:?}");
    // An exchange that a unit is yet to make.
    let why = "Error:\nExchange x does not exist";
    let (is_good, told, said) = run(&script, ("set_topic_permissions -p v -- u x  b", why));
    assert!(
        !is_good && said.contains("Exchange x does not exist; run this again"),
        "{said}"
    );
    assert_eq!(told.last().unwrap(), "delete_user -- guest<");
}
