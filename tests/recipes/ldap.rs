//! The seed's LDAP queries as they are written today, and what they mean for px.

use px::config::Broker;

use crate::slapd::Slapd;
use crate::support::{
    Answer, Feed, ProductServer, RabbitServer, TestBroker, TestSite, broker_of, recipe, recipe_with, v02,
};

const UNIT: &str = "rx/pull";

/// LDAP groups decide everything: a member of `ou=/-users` reads queues and publishes, one of `cn=admin` makes queues,
/// somebody else does not even enter; whoever has a password may look at the management pages, and nobody may change
/// anything there.
#[test]
fn groups_of_ldap_decide_who_may_do_what() {
    let slapd = Slapd::start(None);
    let conf = recipe_with(
        "/etc/rabbitmq/rabbitmq.conf: rights from LDAP too",
        &[
            ("ldap.cmc.ec.gc.ca", "127.0.0.1"),
            ("auth_ldap.port = 389", &format!("auth_ldap.port = {}", slapd.port())),
        ],
    );
    let node = RabbitServer::start_with_ldap(&conf, &recipe("/etc/rabbitmq/advanced.config: rights from LDAP too"));
    let feed = Feed::new(&root_of(&node, "admin", "admin"));
    feed.queue("cmc.pull", &["v02.post.#"]);

    let url = |user: &str| format!("amqp://{user}:{user}pw@127.0.0.1:{}", node.amqp_port());
    let server = ProductServer::start();
    for (user, rungs) in [("boss", true), ("alice", false)] {
        let site = TestSite::at(&url(user));
        site.unit(
            UNIT,
            "type = \"pull\"\nbroker = \"main\"\nqueue = \"cmc.pull\"\nbind = [\"v02.post.#\"]\n\
             directory = \"{root}/data\"\n",
        );
        let _unit = site.run_ready(UNIT);
        server.answer(user, Answer::status(503));
        feed.announce(v02(&server.url(), user, b"p"));
        site.wait_count(UNIT, "parked", 1);
        server.serve(user, b"p");
        site.wait_count(UNIT, "fetched", 1);
        let said = site.said(UNIT);
        assert_eq!(!said.contains("parking in the local spool"), rungs, "{said}");
        assert_eq!(!said.contains("may not bind"), rungs, "{said}");
    }
    let site = TestSite::at(&url("bob"));
    site.puller(UNIT, "");
    let _unit = site.run(UNIT);
    site.wait_state(UNIT, "paused: ");
    assert!(
        site.state(UNIT).contains("may user bob enter it?"),
        "{}",
        site.state(UNIT)
    );

    for (user, may) in [("alice", "management"), ("admin", "administrator")] {
        let password = if user == "admin" { "admin" } else { "alicepw" };
        let login = format!("{user}:{password}");
        let who = crate::support::request(&node.management_url(), &login, "GET", "/api/whoami", &[], None);
        assert_eq!(who.expect("management API").json()["tags"], serde_json::json!([may]));
    }
}

/// In the configuration of the seed the queries were never asked: what it says of `auth_backends` gives the rights to
/// the internal database, and only the tags come from LDAP.
#[test]
fn the_old_configuration_asked_ldap_for_passwords_and_tags_only() {
    let slapd = Slapd::start(None);
    let advanced = recipe_with(
        "/etc/rabbitmq/rabbitmq.config of the old brokers",
        &[("ldap-dev.cmc.ec.gc.ca", "127.0.0.1"), ("389", &slapd.port())],
    );
    let node = RabbitServer::start_with_ldap("", &advanced);
    let broker = TestBroker::on(&node, "old");
    let bob = broker.url("bob", "bobpw");
    // In no group at all; internal: all rights, and no password.
    node.ctl(&["add_user", "bob", "x"]);
    node.ctl(&["clear_password", "bob"]);
    broker.permit("bob", ".*", ".*", ".*");
    let feed = Feed::new(&broker_of(vec![bob]));
    feed.queue("anything", &["#"]);
    feed.announce(v02("http://h/", "p", b"p"));
    feed.reader("anything").take(1);
}

fn root_of(node: &RabbitServer, user: &str, password: &str) -> Broker {
    let mut url = TestBroker::on(node, "unused").url(user, password);
    url.vhost = "/".into();
    broker_of(vec![url])
}
