//! What the document says that a user must be allowed is enough, and is what px asks for.

use std::collections::BTreeMap;

use crate::support::{Answer, Feed, ProductServer, TestBroker, TestSite, recipe, v00_urp, v02};

/// RabbitMQ's three patterns: configure, write, read.
type Patterns = [String; 3];

/// The users of a recipe, on the exchange of the tests.
fn users(title: &str) -> BTreeMap<String, Patterns> {
    let text = recipe(title).replace("xpublic", "xp").replace("^cmc$", "^xp$");
    let table: toml::Table = text.parse().expect("TOML");
    let users = table["users"].as_table().expect("[users.NAME]").clone();
    let patterns = |user: toml::Value| {
        ["configure", "write", "read"].map(|right| user["permissions"][right].as_str().expect(right).to_owned())
    };
    users.into_iter().map(|(name, user)| (name, patterns(user))).collect()
}

/// A site where each of these users is a broker of that name.
fn site_of(broker: &TestBroker, users: &BTreeMap<String, Patterns>) -> TestSite {
    let mut text = String::new();
    for (name, [configure, write, read]) in users {
        let url = broker.user(name, configure, write, read).urls.remove(0);
        let login = format!("{}:{}", url.user, url.password.expose());
        text += &format!(
            "[brokers.{name}]\nurls = [\"amqp://{login}@{}:{}/{}\"]\n\
             exchange = {{ name = \"xp\", type = \"topic\" }}\n",
            url.host, url.port, url.vhost
        );
    }
    TestSite::with_site_file(&text)
}

/// The document's own units are served by its own users: each name is one that the patterns have.
#[test]
fn the_users_of_the_document_fit_its_units() {
    let table = |title: &str| recipe(title).parse::<toml::Table>().expect("TOML");
    let site = table("/etc/px/px.toml: on each of the two brokers");
    let exchange = site["brokers"]["bunny"]["exchange"]["name"]
        .as_str()
        .expect("name")
        .to_owned();
    let file = table("/etc/px/broker.toml: a user for each kind of unit");
    assert_eq!(file["exchanges"][0]["name"].as_str(), Some(&*exchange));
    let may = |user: &str, right: &str, name: &str| {
        let pattern = file["users"][user]["permissions"][right].as_str().expect(right);
        assert!(
            regex::Regex::new(pattern).expect(pattern).is_match(name),
            "{user} {right} {name}: {pattern}"
        );
    };
    for unit in ["by the address", "by the broker"] {
        let unit = table(&format!("/etc/px/dispatch/urp.toml: {unit}"));
        let queue = unit["queue"].as_str().expect("queue");
        for right in ["configure", "write", "read"] {
            may("dispatcher", right, queue);
        }
    }
    for (user, rights) in [
        ("announcer", &["write"][..]),
        ("dispatcher", &["write", "read"]),
        ("puller", &["read"]),
        ("listener", &["read"]),
    ] {
        rights.iter().for_each(|right| may(user, right, &exchange));
    }
}

/// The unit works, and the broker has refused it nothing but to make the exchange that is there.
#[track_caller]
fn assert_content(site: &TestSite, unit: &str) {
    assert_eq!(site.state(unit), "running", "{}", site.logs());
    let said = site.said(unit);
    let refused = |line: &&str| line.contains("ACCESS_REFUSED") && !line.contains("exchange xp is used as it is");
    let refusals: Vec<&str> = said.lines().filter(refused).collect();
    assert!(refusals.is_empty(), "{unit}: {refusals:#?}");
    assert!(!said.contains("parking in the local spool"), "{said}");
    assert!(!said.contains("may not be known"), "{said}");
}

/// A user for each kind of unit, with these rights and no others: all work, what fails is parked on the broker, and
/// other sources are heard of.
#[test]
fn each_unit_works_under_a_user_of_its_own() {
    let broker = TestBroker::new("rights");
    let feed = Feed::new(&broker.config());
    feed.queue("all", &["#"]);
    let site = site_of(&broker, &users("/etc/px/broker.toml: a user for each kind of unit"));
    let tree = site.path("in");
    std::fs::create_dir_all(&tree).expect("in");
    site.unit(
        "watch/in",
        "broker = \"announcer\"\nannounce = [\"v02\"]\n[[tree]]\npath = \"{root}/in\"\nurl = \"http://h/\"\n",
    );
    site.unit("tx/send", "type = \"amqp\"\nbroker = \"announcer\"\nkey = \"k\"\n");
    site.unit(
        "dispatch/urp",
        "broker = \"dispatcher\"\nqueue = \"cmc.dd_dispatcher.urp\"\nbind = [\"v00.urp.input.#\"]\n\
         rekey = { from = \"v00.urp.input\", to = \"v00.urp.notify\" }\nseen = { by = \"identity\" }\n\
         election = \"broker\"\n",
    );
    site.unit(
        "rx/pull",
        "type = \"pull\"\nbroker = \"puller\"\nqueue = \"cmc.pull_urp\"\nbind = [\"v00.urp.notify.#\"]\n\
         directory = \"{root}/data\"\nalternates = { bind = [\"v00.urp.input.#\"] }\n",
    );
    let units = ["watch/in", "tx/send", "dispatch/urp", "rx/pull"];
    let _processes = units.map(|unit| site.run_ready(unit));
    for unit in ["rx/pull", "dispatch/urp"] {
        site.wait(unit, "reads along", |status| {
            status["links"]["follow"]["connected"] == true
        });
    }

    let server = ProductServer::start();
    let path = "db/20261121/0001~~X,60,10:URP:XAM:RADAR:META::20261121";
    server.answer(path, Answer::status(503));
    feed.announce(v00_urp(&server.url(), path, 5));
    site.wait_count("dispatch/urp", "forwarded", 1);
    site.wait_count("rx/pull", "parked", 1);
    server.serve(path, b"radar");
    site.write("txq/send/0/2026112100/a:b:c:d:e:20261121000000", "message");
    site.write("in/hello.txt", "hello");
    site.wait_count("tx/send", "delivered", 1);
    site.wait_count("watch/in", "announced", 1);
    site.wait_count("rx/pull", "fetched", 1);
    for unit in units {
        assert_content(&site, unit);
    }
}

/// With the queue made by somebody else a user needs nothing but to read it.
#[test]
fn a_reader_makes_nothing_and_parks_at_home() {
    let broker = TestBroker::new("reader");
    let feed = Feed::new(&broker.config());
    feed.queue("cmc.pull_urp", &["v02.post.#"]);
    let site = site_of(&broker, &users("/etc/px/broker.toml: a user who only reads"));
    site.unit(
        "rx/pull",
        "type = \"pull\"\nbroker = \"reader\"\nqueue = \"cmc.pull_urp\"\nbind = []\n\
         directory = \"{root}/data\"\n",
    );
    let _unit = site.run_ready("rx/pull");
    let server = ProductServer::start();
    server.answer("p", Answer::status(503));
    feed.announce(v02(&server.url(), "p", b"p"));
    site.wait_count("rx/pull", "parked", 1);
    server.serve("p", b"p");
    site.wait_count("rx/pull", "fetched", 1);
    let said = site.said("rx/pull");
    assert!(said.contains("parking in the local spool"), "{said}");
    assert!(!said.contains("may not bind"), "{said}");
    assert_eq!(site.state("rx/pull"), "running");
}

/// The seed's three users: a subscriber as `anonymous` has all it needs for queues `cmc.…`; it cannot announce on
/// `xpublic`, and may break what is not its own, as the document says.
#[test]
fn the_old_patterns_do_what_the_document_says() {
    let broker = TestBroker::new("seed");
    let feed = Feed::new(&broker.config());
    let mut users = users("/etc/px/broker.toml: the users of the old brokers");
    users.remove("root"); // for the management API
    let site = site_of(&broker, &users);
    site.unit(
        "rx/pull",
        "type = \"pull\"\nbroker = \"anonymous\"\nqueue = \"cmc.pull\"\nbind = [\"v02.post.#\"]\n\
         directory = \"{root}/data\"\n",
    );
    site.write("hello", "hello");
    let file = site.path("hello").display().to_string();
    let root = site.root().display().to_string();
    let post = |user: &str| {
        let more = ["--root", &root, "--url", "http://h/", "--timeout", "5", &file];
        site.px(&[&["post", user], &more[..]].concat())
    };
    {
        let _unit = site.run_ready("rx/pull");
        let server = ProductServer::start();
        server.serve("p", b"p");
        feed.announce(v02(&server.url(), "p", b"p"));
        site.wait_count("rx/pull", "fetched", 1);
        assert_content(&site, "rx/pull");
        assert_eq!(post("feeder").code, 0);
        let refused = post("anonymous");
        assert_eq!(refused.code, 1, "{refused:?}");
        assert!(refused.err.contains("ACCESS_REFUSED"), "{refused:?}");
    }
    let login = format!("{}-anonymous:canary-password", broker.vhost);
    let tags = r#"{"password": "canary-password", "tags": "management"}"#;
    broker
        .api("PUT", &format!("/api/users/{}-anonymous", broker.vhost), Some(tags))
        .ok();
    let (management, _) = broker.management();
    for what in ["queues", "exchanges"] {
        let name = if what == "queues" { "cmc.pull" } else { "xp" };
        let path = format!("/api/{what}/{}/{name}", broker.vhost);
        crate::support::request(management, &login, "DELETE", &path, &[], None)
            .expect("management API")
            .ok();
    }
}
