//! What users may do with keys and how much of it, and exchanges with what is bound to them: made, spoilt, mended.

use serde_json::json;

use super::{SECRETS, api, declares, px, queue_bound_to};
use crate::support::{RabbitServer, TestSite};

const TEXT: &str = r#"
broker = "bunny"
[users.feeder]
permissions = { configure = ".*", write = ".*", read = ".*" }
topic_permissions = { exchange = "amq.topic", write = "^a", read = "" }
limits = { max_connections = 1, max_channels = 9 }
[[exchanges]]
name = "inner"
internal = true
arguments = { alternate-exchange = "amq.fanout" }
[[bindings]]
exchange = "amq.topic"
to_exchange = "inner"
key = "a.#"
[[bindings]]
exchange = "inner"
queue = "cmc.late"
key = "a.b"
arguments = { n = 1 }
[[vhost_limits]]
max_queues = 50
"#;

/// On a node that has been set up.
pub fn is_made_and_mended(node: &RabbitServer, site: &TestSite) {
    // Left by what came before.
    for path in ["/api/users/eve", "/api/vhosts/v"] {
        api(node, "DELETE", path, None);
    }
    site.write("routing.toml", TEXT);
    let file = site.path("routing.toml").display().to_string();
    let px = |code, command| px(site, code, &["broker", command, "--file", &file]);
    let waits = "binding of the queue cmc.late in / to the exchange inner with the key \"a.b\" and the arguments \
                 {\"n\":1}: there is no queue cmc.late yet; start the unit that declares it, and apply";
    let said = px(1, "apply");
    let steps = [
        "declare the exchange inner in /: topic, durable, internal, arguments {\"alternate-exchange\":\"amq.fanout\"}",
        "let feeder in / with keys of amq.topic write \"^a\", read \"\"",
        "limit the user feeder: max-connections 1, max-channels 9",
        "limit the virtual host /: max-queues 50",
        "bind the exchange inner in / to the exchange amq.topic with the key \"a.#\"",
    ];
    assert_eq!(said.out.lines().collect::<Vec<_>>(), steps);
    assert_eq!(said.err, format!("px: not mended: {waits}\n"));
    declares(node, SECRETS[2], &queue_bound_to("cmc.late", "")).unwrap();
    let said = px(0, "apply");
    let to_queue =
        "bind the queue cmc.late in / to the exchange inner with the key \"a.b\" and the arguments {\"n\":1}\n";
    assert_eq!((said.out.as_str(), said.err.as_str()), (to_queue, ""));
    for (command, expected) in [("apply", "nothing to do\n"), ("check", "")] {
        assert_eq!(px(0, command).out, expected);
    }

    let key = json!({ "exchange": "amq.topic", "write": ".*", "read": "" });
    api(node, "PUT", "/api/topic-permissions/%2f/feeder", Some(key));
    api(node, "DELETE", "/api/user-limits/feeder/max-channels", None);
    api(
        node,
        "PUT",
        "/api/vhost-limits/%2f/max-queues",
        Some(json!({ "value": 3 })),
    );
    // Its bindings go with it, and so does the one to the queue.
    api(node, "DELETE", "/api/exchanges/%2f/inner", None);
    let said = px(1, "check");
    let expected = [
        "exchange inner in /: missing",
        "user feeder with keys of amq.topic in /: may write \".*\", wanted: \"^a\"",
        "user feeder: max-channels none, wanted: 9",
        "virtual host /: max-queues 3, wanted: 50",
        "binding of the exchange inner in / to the exchange amq.topic with the key \"a.#\": missing",
        "binding of the queue cmc.late in / to the exchange inner with the key \"a.b\" and the arguments {\"n\":1}: missing",
    ];
    assert_eq!(said.out.lines().collect::<Vec<_>>(), expected);
    assert_eq!(px(0, "apply").out.lines().count(), expected.len());
    assert_eq!(px(0, "check").out, "");

    // An internal exchange that is not, and that has no alternate, cannot be changed.
    api(node, "DELETE", "/api/exchanges/%2f/inner", None);
    let plain = json!({ "type": "topic", "durable": true });
    api(node, "PUT", "/api/exchanges/%2f/inner", Some(plain));
    let stuck = "exchange inner in /: topic, durable, wanted: topic, durable, internal, arguments \
                 {\"alternate-exchange\":\"amq.fanout\"}; an exchange cannot be changed";
    assert!(px(1, "apply").err.starts_with(&format!("px: not mended: {stuck}")));
    api(node, "DELETE", "/api/exchanges/%2f/inner", None);
    api(node, "DELETE", "/api/queues/%2f/cmc.late", None);
    api(node, "DELETE", "/api/user-limits/feeder/max-connections", None);
}
