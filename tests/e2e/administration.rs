//! A broker set up by one command: real nodes as they are after their first start, with guest and nothing else.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use px::broker::{Purpose, Returns, connect};
use px::config::{BrokerUrl, Scheme, Secret};
use px::message::{Binding, Envelope, Queue, Topology};
use serde_json::{Value, json};

use crate::support::{RabbitServer, Reply, Said, TestSite, broker_of, rabbitmq_mirrors, request, wait_until};

mod routing;

/// As installed: what the tests' other nodes are configured with is overridden.
const AS_INSTALLED: &str = "default_user = guest\ndefault_pass = guest";
const SECRETS: [(&str, &str); 3] = [
    ("root", "canary-root $'\\\" x"),
    ("feeder", "canary-feeder"),
    ("anonymous", "canary-anonymous"),
];

/// A site with the broker `bunny` on this node, and passwords.
fn site(node: &RabbitServer) -> TestSite {
    let site = TestSite::with_site_file(&format!(
        "[brokers.bunny]\nurls = [\"amqp://feeder@127.0.0.1:{}\"]\nmanagement = {{ url = {:?}, user = \"root\" }}\n",
        node.amqp_port(),
        node.management_url()
    ));
    secrets(&site, &SECRETS);
    site
}

fn secrets(site: &TestSite, secrets: &[(&str, &str)]) {
    let mut text = "[bunny]\n".to_string();
    for (user, password) in secrets {
        text += &format!("{user:?} = {password:?}\n");
    }
    site.write("etc/secrets.toml", text);
    std::fs::set_permissions(site.path("etc/secrets.toml"), PermissionsExt::from_mode(0o600)).unwrap();
}

/// A px command that ends with this code and says no secret.
#[track_caller]
fn px(site: &TestSite, code: i32, arguments: &[&str]) -> Said {
    let said = site.px_ends(code, arguments);
    for text in [&said.out, &said.err] {
        assert!(!text.contains("canary") && !text.contains("password_hash"), "{said:?}");
    }
    said
}

fn api_as(node: &RabbitServer, login: &str, method: &str, path: &str, body: Option<Value>) -> Reply {
    let body = body.map(|body| body.to_string());
    request(&node.management_url(), login, method, path, &[], body.as_deref()).expect("management API")
}

fn request_as_root(node: &RabbitServer, method: &str, path: &str, body: Option<Value>) -> Reply {
    let (root, password) = SECRETS[0];
    api_as(node, &format!("{root}:{password}"), method, path, body)
}

#[track_caller]
fn api(node: &RabbitServer, method: &str, path: &str, body: Option<Value>) -> Reply {
    request_as_root(node, method, path, body).ok()
}

fn url(node: &RabbitServer, (user, password): (&str, &str)) -> BrokerUrl {
    BrokerUrl {
        scheme: Scheme::Amqp,
        user: user.to_string(),
        password: Secret::new(password),
        host: "127.0.0.1".to_string(),
        port: node.amqp_port(),
        vhost: "/".to_string(),
        path: Default::default(),
        heartbeat_s: 30,
        frame_max: 16384,
    }
}

/// A queue that `ha-all` mirrors or, where nothing mirrors, one that needs no policy to be on several nodes.
fn queue_bound_to(queue: &str, exchange: &str) -> Topology {
    let bindings = [exchange]
        .into_iter()
        .filter(|exchange| !exchange.is_empty())
        .map(|exchange| Binding {
            exchange: exchange.to_string(),
            queue: queue.to_string(),
            key: "#".to_string(),
        });
    Topology {
        queues: vec![Queue {
            name: queue.to_string(),
            durable: true,
            quorum: !rabbitmq_mirrors(),
            ..Queue::default()
        }],
        bindings: bindings.collect(),
        ..Topology::default()
    }
}

/// What a user is refused, or nothing; each on a connection of its own, for a refusal may end it.
fn declares(node: &RabbitServer, login: (&str, &str), topology: &Topology) -> Result<(), String> {
    let broker = broker_of(vec![url(node, login)]);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let connection = connect(&broker, Purpose::Publish, "test")
            .await
            .map_err(|error| error.to_string())?;
        let declared = connection.declare(topology).await;
        connection.close().await;
        match declared.map_err(|error| error.to_string())?.as_slice() {
            [] => Ok(()),
            // A refused binding does not end a unit: the queue may be bound by others.
            warnings => Err(warnings.iter().map(|warning| format!("{warning}\n")).collect()),
        }
    })
}

fn publishes(node: &RabbitServer, login: (&str, &str), exchange: &str) -> Result<(), String> {
    let broker = broker_of(vec![url(node, login)]);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let connection = connect(&broker, Purpose::Publish, "test")
            .await
            .map_err(|error| error.to_string())?;
        let envelope = Envelope {
            key: "k".to_string(),
            ..Envelope::default()
        };
        let confirm = connection.publish(exchange, &envelope, Returns::Counted).await;
        let confirmed = confirm.map_err(|error| error.to_string())?.await;
        confirmed.map(drop).map_err(|error| error.to_string())
    })
}

/// One node's life: new, set up, used, spoilt in every way, mended.
#[test]
fn a_new_broker_is_set_up_and_every_drift_is_found_and_mended() {
    let mut node = RabbitServer::start_with(AS_INSTALLED, "[].");
    let site = site(&node);
    site.write("etc/broker.toml", include_str!("../../etc/broker.toml"));
    is_bootstrapped(&node, &site);
    has_the_rights_of_the_file(&node, &site);
    is_mended(&node, &site);
    goes_on_after_a_failed_step(&node, &site);
    routing::is_made_and_mended(&node, &site);
    node.kill();
    for command in ["apply", "check"] {
        let said = px(&site, 1, &["broker", command]);
        assert!(
            said.err.starts_with("px: ") && said.err.contains("no connection"),
            "{said:?}"
        );
    }
}

fn is_bootstrapped(node: &RabbitServer, site: &TestSite) {
    let refused = px(site, 1, &["broker", "apply"]);
    assert!(
        refused
            .err
            .contains("if the broker is new: px broker apply --bootstrap"),
        "{refused:?}"
    );
    assert_eq!(px(site, 1, &["broker", "check"]).out, "");
    let dry = px(site, 0, &["broker", "apply", "--bootstrap", "--dry-run"]);
    let guest = api_as(node, "guest:guest", "GET", "/api/users", None).json();
    assert_eq!(guest.as_array().unwrap().len(), 1, "{guest}");

    let said = px(site, 0, &["broker", "apply", "--bootstrap"]);
    assert_eq!((said.out.as_str(), said.err.as_str()), (dry.out.as_str(), ""));
    let steps: Vec<&str> = said.out.lines().collect();
    assert_eq!(steps[0], "add the user root: tags administrator");
    let guest = &steps[steps.len() - 2..];
    assert_eq!(
        guest,
        [
            "give the user guest no password, tags none",
            "take all permissions in / from guest"
        ]
    );

    for login in ["guest:guest", "guest:"] {
        assert_eq!(api_as(node, login, "GET", "/api/whoami", None).status, 401, "{login}");
    }
    assert!(declares(node, ("guest", "guest"), &Topology::default()).is_err());
    let root = api(node, "GET", "/api/whoami", None).json();
    assert_eq!(root["tags"], json!(["administrator"]), "{root}");
    for again in [
        &["broker", "apply"][..],
        &["broker", "apply", "--bootstrap"],
        &["broker", "apply", "--dry-run"],
    ] {
        let said = px(site, 0, again);
        assert_eq!((said.out.as_str(), said.err.as_str()), ("nothing to do\n", ""));
    }
    let said = px(site, 0, &["broker", "check"]);
    assert_eq!((said.out.as_str(), said.err.as_str()), ("", ""));
}

fn has_the_rights_of_the_file(node: &RabbitServer, site: &TestSite) {
    let [_, feeder, anonymous] = SECRETS;
    declares(node, anonymous, &queue_bound_to("cmc.x", "xpublic")).unwrap();
    declares(node, anonymous, &queue_bound_to("other", "")).unwrap_err();
    let other = request_as_root(node, "GET", "/api/queues/%2f/other", None);
    assert_eq!(other.status, 404, "{other:?}");
    let nameless = Queue {
        exclusive: true,
        ..Queue::default()
    };
    let nameless = Topology {
        queues: vec![nameless],
        ..queue_bound_to("", "xpublic")
    };
    declares(node, anonymous, &nameless).unwrap();
    declares(node, feeder, &queue_bound_to("other", "")).unwrap();
    let refusal = declares(node, anonymous, &queue_bound_to("cmc.y", "amq.topic")).unwrap_err();
    assert!(
        refusal.contains("403") || refusal.contains("ACCESS_REFUSED") || refusal.contains("may not"),
        "{refusal}"
    );
    publishes(node, anonymous, "xpublic").unwrap_err();
    publishes(node, feeder, "xpublic").unwrap();
    match rabbitmq_mirrors() {
        true => wait_until(Duration::from_secs(20), "the policy is on the queue", || {
            let queue = api(node, "GET", "/api/queues/%2f/cmc.x", None).json();
            queue["policy"] == "ha-all"
        }),
        false => is_told_of_a_classic_queue(node, site),
    }
    let other = api(node, "GET", "/api/queues/%2f/other", None).json();
    assert!(other["policy"].is_null(), "{other}");
    assert_eq!(px(site, 0, &["broker", "check"]).out, "");
}

/// Where nothing mirrors, what is to be replicated is a quorum queue or is told of.
fn is_told_of_a_classic_queue(node: &RabbitServer, site: &TestSite) {
    let path = "/api/queues/%2f/cmc.classic";
    let classic = json!({ "durable": true, "arguments": { "x-queue-type": "classic" } });
    api(node, "PUT", path, Some(classic));
    let said = px(site, 1, &["broker", "check"]).out;
    assert!(said.starts_with("queue cmc.classic in /: on one node only"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    api(node, "DELETE", path, None);
}

fn is_mended(node: &RabbitServer, site: &TestSite) {
    let spoil = |method, path: &str, body: Value| drop(api(node, method, path, Some(body)));
    spoil(
        "PUT",
        "/api/users/feeder",
        json!({ "password": "guessed", "tags": "management" }),
    );
    spoil("DELETE", "/api/users/anonymous", Value::Null);
    let narrow = json!({ "configure": "", "write": ".*", "read": ".*" });
    spoil("PUT", "/api/permissions/%2f/feeder", narrow);
    spoil("DELETE", "/api/exchanges/%2f/xpublic", Value::Null);
    let policy = json!({ "pattern": "^x", "definition": { "ha-mode": "all", "ha-sync-mode": "automatic" },
        "apply-to": "queues", "priority": 1 });
    if rabbitmq_mirrors() {
        spoil("PUT", "/api/policies/%2f/ha-all", policy);
    }
    spoil(
        "PUT",
        "/api/users/guest",
        json!({ "password": "guest", "tags": "administrator" }),
    );
    let all = json!({ "configure": ".*", "write": ".*", "read": ".*" });
    spoil("PUT", "/api/permissions/%2f/guest", all.clone());
    spoil(
        "PUT",
        "/api/users/eve",
        json!({ "password": "eve", "tags": "administrator" }),
    );
    spoil("PUT", "/api/vhosts/v", json!({}));
    spoil("PUT", "/api/permissions/v/feeder", all);

    let said = px(site, 1, &["broker", "check"]);
    let mut expected = vec![
        "exchange xpublic in /: missing",
        "user feeder: has another password than the secrets; has tags management, wanted: none",
        "user feeder in /: may configure \"\", wanted: \".*\"",
        "user anonymous: missing",
        "user anonymous: no permissions in /",
        "policy ha-all in /: pattern \"^x\", wanted: \"^cmc\\\\.\"; applies to queues, wanted: all; priority 1, \
         wanted: 0",
        "user guest: has tags administrator; has a password",
        "user guest: has permissions in /",
    ];
    expected.retain(|drift| rabbitmq_mirrors() || !drift.starts_with("policy"));
    let also_there = [
        // Who makes a virtual host has all rights there.
        "also there: user root may in v configure \".*\", write \".*\", read \".*\"",
        "also there: user feeder may in v configure \".*\", write \".*\", read \".*\"",
        "also there: user eve is an administrator",
    ];
    let lines: Vec<&str> = said.out.lines().collect();
    assert_eq!(lines, [&expected[..], &also_there[..]].concat());
    let document: Value = serde_json::from_str(&px(site, 1, &["broker", "check", "--json"]).out).unwrap();
    let drift = document["drift"].as_array().unwrap();
    assert_eq!(drift.iter().map(|drift| &drift["what"]).collect::<Vec<_>>(), expected);
    assert_eq!(
        (&document["broker"], document["also_there"].as_array().unwrap().len()),
        (&json!("bunny"), 3)
    );

    assert_eq!(px(site, 0, &["broker", "apply"]).out.lines().count(), expected.len());
    assert_eq!(px(site, 0, &["broker", "apply"]).out, "nothing to do\n");
    assert_eq!(
        px(site, 0, &["broker", "check"]).out.lines().collect::<Vec<_>>(),
        also_there
    );
    px(site, 1, &["broker", "check", "--strict"]);
    declares(node, SECRETS[2], &queue_bound_to("cmc.x", "xpublic")).unwrap();
    if rabbitmq_mirrors() {
        is_told_of_another_policy(node, site);
    }

    // Other tags leave the password alone.
    let known = SECRETS[1];
    let body = json!({ "password": known.1, "tags": "policymaker,management" });
    api(node, "PUT", "/api/users/feeder", Some(body));
    let said = px(site, 0, &["broker", "apply"]);
    assert_eq!(said.out, "give the user feeder tags none\n");
    declares(node, known, &Topology::default()).unwrap();

    // What nothing can mend: it stays, and is told each time.
    api(node, "DELETE", "/api/exchanges/%2f/xpublic", None);
    api(
        node,
        "PUT",
        "/api/exchanges/%2f/xpublic",
        Some(json!({ "type": "fanout", "durable": true })),
    );
    let said = px(site, 1, &["broker", "apply"]);
    let stuck = "exchange xpublic in /: fanout, durable, wanted: topic, durable; an exchange cannot be changed";
    assert!(
        said.out.is_empty() && said.err.starts_with(&format!("px: not mended: {stuck}")),
        "{said:?}"
    );
    assert!(px(site, 1, &["broker", "check"]).out.starts_with(stuck));
    api(node, "DELETE", "/api/exchanges/%2f/xpublic", None);
    px(site, 0, &["broker", "apply"]);
}

/// A policy of somebody else takes the queues from that which mirrors.
fn is_told_of_another_policy(node: &RabbitServer, site: &TestSite) {
    let mine = json!({ "pattern": "^cmc", "priority": 5, "definition": { "max-length": 1000 } });
    api(node, "PUT", "/api/policies/%2f/mine", Some(mine));
    let told =
        "policy ha-all in /: policy mine, of priority 5, is in force instead of it for 2 of its queues, such as cmc.x,";
    wait_until(Duration::from_secs(60), "the queue has the other policy", || {
        site.px(&["broker", "check"]).out.starts_with(told)
    });
    px(site, 1, &["broker", "check"]);
    assert!(px(site, 1, &["broker", "apply"]).err.contains(told));
    api(node, "DELETE", "/api/policies/%2f/mine", None);
    wait_until(Duration::from_secs(60), "the queue has its own policy", || {
        site.px(&["broker", "check"]).code == 0
    });
}

fn goes_on_after_a_failed_step(node: &RabbitServer, site: &TestSite) {
    let file = site.path("other.toml");
    let text = "broker = \"bunny\"\n[[policies]]\nname = \"bad\"\npattern = \".\"\ndefinition = { no-such-key = 1 }\n\
                [[policies]]\nname = \"good\"\npattern = \".\"\ndefinition = { max-length = 9 }\n";
    site.write("other.toml", text);
    let said = px(site, 1, &["broker", "apply", "--file", file.to_str().unwrap()]);
    assert_eq!(said.out.lines().count(), 1, "{said:?}");
    assert!(said.err.starts_with("px: cannot set the policy bad in /: "), "{said:?}");
    let good = api(node, "GET", "/api/policies/%2f/good", None).json();
    assert_eq!(good["definition"], json!({ "max-length": 9 }));
}

/// Names that a shell or a URL could take for something else.
const HOSTILE: &str = r#"
broker = "bunny"
guest = "delete"
vhosts = ["/", "it's $(touch x) / ü"]
[users.root]
tags = ["administrator"]
permissions = [
    { configure = ".*", write = ".*", read = ".*" },
    { vhost = "it's $(touch x) / ü", configure = ".*", write = ".*", read = ".*" },
]
[users."a 'b\" `/ü"]
tags = ["monitoring", "policymaker"]
permissions = { vhost = "it's $(touch x) / ü", configure = "^it's \"$HOME\" \\.", write = "", read = "-.*" }
topic_permissions = { vhost = "it's $(touch x) / ü", exchange = "it's \"T\" %2f", write = "^it's", read = "$(touch x)" }
limits = { max_connections = 7, max_channels = 0 }
[users.-alice]
password = "external"
permissions = { configure = "", write = "", read = "x|y" }
[[exchanges]]
name = "x 'y' \"z\" %2f"
type = "fanout"
durable = false
vhost = "it's $(touch x) / ü"
[[exchanges]]
name = "it's \"T\" %2f"
internal = true
arguments = { alternate-exchange = "it's $(touch x)" }
vhost = "it's $(touch x) / ü"
[[exchanges]]
name = "xpublic"
[[bindings]]
exchange = "x 'y' \"z\" %2f"
to_exchange = "it's \"T\" %2f"
key = "it's.$(touch x).#"
arguments = { a = "it's" }
vhost = "it's $(touch x) / ü"
[[vhost_limits]]
max_connections = 1000
vhost = "it's $(touch x) / ü"
[[policies]]
name = "-max 'x'"
pattern = "^it's"
apply_to = "queues"
priority = -3
definition = { max-length = 9, overflow = "reject-publish" }
[[replicated]]
name = "ha-all"
pattern = '^cmc\.'
"#;

#[test]
fn the_printed_commands_make_a_node_without_drift() {
    let node = RabbitServer::start_with(AS_INSTALLED, "[].");
    let site = site(&node);
    site.write("etc/broker.toml", HOSTILE);
    keeps_guest_while_nobody_else_can_log_in(&node, &site);
    let odd = ("a 'b\" `/ü", "canary odd \\ ü");
    // Printing needs no password.
    secrets(&site, &[("feeder", "canary-feeder")]);
    let script = px(&site, 0, &["broker", "apply", "--as", "rabbitmqctl"]).out;
    assert!(
        px(&site, 1, &["broker", "check"])
            .err
            .contains("no password for root, a 'b"),
        "{script}"
    );
    secrets(&site, &[SECRETS[0], odd]);

    let path = site.path("script");
    std::fs::write(&path, &script).unwrap();
    let run = |passwords: &[&str]| {
        let mut bash = Command::new("bash");
        bash.args(["-c", r#". "$0/env"; cd "$0"; exec bash "$1""#])
            .arg(node.directory())
            .arg(&path);
        bash.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut bash = bash.spawn().unwrap();
        let passwords: String = passwords.iter().map(|password| format!("{password}\n")).collect();
        bash.stdin.take().unwrap().write_all(passwords.as_bytes()).unwrap();
        bash.wait_with_output().unwrap()
    };
    // Somebody gives up half way: nothing that comes later is done, and it can be done again.
    let ended = run(&[SECRETS[0].1]);
    assert!(
        !ended.status.success() && String::from_utf8_lossy(&ended.stderr).contains("ended here"),
        "{ended:?}"
    );
    api_as(&node, "guest:guest", "GET", "/api/whoami", None).ok();
    // In the order in which they are asked for.
    let ended = run(&[SECRETS[0].1, odd.1]);
    assert!(ended.status.success(), "{ended:?}\n{script}");
    assert!(!node.directory().join("x").exists(), "a name was run");

    // Definitions are imported in the background.
    wait_until(
        Duration::from_secs(30),
        format!("no drift after\n{script}\n{ended:?}"),
        || {
            let said = site.px(&["broker", "check"]);
            said.code == 0 && said.out.is_empty()
        },
    );
    // And the API agrees with itself on these names.
    for path in [
        "/api/users/-alice",
        "/api/exchanges/%2f/xpublic",
        "/api/policies/%2f/-max%20%27x%27",
    ] {
        api(&node, "DELETE", path, None);
    }
    api(
        &node,
        "DELETE",
        &format!("/api/vhosts/{}", encoded("it's $(touch x) / ü")),
        None,
    );
    api(&node, "DELETE", &format!("/api/users/{}", encoded(odd.0)), None);
    let said = px(&site, 0, &["broker", "apply"]);
    assert_eq!(said.out.lines().count(), 14, "{said:?}");
    assert_eq!(px(&site, 0, &["broker", "apply"]).out, "nothing to do\n");
}

/// Nobody but LDAP knows root, and there is none: what would lock everybody out is not done.
fn keeps_guest_while_nobody_else_can_log_in(node: &RabbitServer, site: &TestSite) {
    let text =
        "broker = \"bunny\"\n[users.root]\npassword = \"external\"\ntags = [\"administrator\"]\n[users.feeder]\n";
    site.write("locked-out.toml", text);
    let file = site.path("locked-out.toml");
    let said = px(
        site,
        1,
        &["broker", "apply", "--bootstrap", "--file", file.to_str().unwrap()],
    );
    assert_eq!(said.out, "add the user root: no password here, tags administrator\n");
    let left_out: Vec<&str> = said.err.lines().collect();
    assert_eq!(left_out.len(), 3, "{said:?}");
    for line in left_out {
        assert!(
            line.starts_with("px: left out: ") && line.contains("the new administrator cannot log in"),
            "{line}"
        );
    }
    api_as(node, "guest:guest", "DELETE", "/api/users/root", None).ok();
}

fn encoded(name: &str) -> String {
    percent_encoding::utf8_percent_encode(name, percent_encoding::NON_ALPHANUMERIC).to_string()
}
