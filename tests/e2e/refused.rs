//! What a broker refuses is seen where operators look, until it is mended.

use serde_json::Value;

use crate::support::{Feed, ProductServer, TestBroker, TestSite, v02};

const UNIT: &str = "rx/pull";

/// The broker `main` as a user who may read the queue `pull`, and everybody's queue `pull`.
fn world(name: &str) -> (TestBroker, Feed, TestSite, String) {
    let broker = TestBroker::new(name);
    let feed = Feed::new(&broker.config());
    feed.queue("pull", &[]);
    let url = broker.user("reader", "^$", "^$", "^pull$").urls.remove(0);
    let place = format!("{}:{}/{}", url.host, url.port, url.vhost);
    let site = TestSite::with_site_file(&format!(
        "[brokers.main]\nurls = [\"amqp://{}:{}@{place}\"]\nexchange = {{ name = \"xp\" }}\n",
        url.user,
        url.password.expose()
    ));
    (broker, feed, site, url.user)
}

#[test]
fn a_refused_bind_shows_until_it_is_mended() {
    let (broker, feed, site, user) = world("refused-bind");
    site.puller(UNIT, "");
    let _unit = site.run_ready(UNIT);
    site.wait_state(
        UNIT,
        "impaired: may not bind queue pull to exchange xp with key v02.post.#: ",
    );
    let status = site.status(UNIT).expect("status");
    let refusals: Vec<&Value> = status["links"]["consume"]["warnings"]
        .as_array()
        .expect("warnings")
        .iter()
        .collect();
    let refusals: Vec<&str> = refusals
        .iter()
        .filter_map(|warning| warning["refusal"].as_str())
        .collect();
    assert_eq!(refusals, ["foreign", "foreign", "unbound"], "{status:#}");
    let said = site.px_ends(0, &["status", UNIT]);
    let [line] = said.out.lines().collect::<Vec<_>>()[..] else {
        panic!("{said:?}")
    };
    assert!(
        line.starts_with("rx/pull  impaired: may not bind queue pull") && !line.contains("consume:"),
        "{line}"
    );

    // A permission comes without a word: it is asked again, on the connection that stands.
    broker.permit(&user, "^$", "^pull$", "^pull$|^xp$");
    site.wait_state(UNIT, "running");
    let server = ProductServer::start();
    server.serve("p", b"p");
    feed.announce(v02(&server.url(), "p", b"p"));
    site.wait_count(UNIT, "fetched", 1);
    assert_eq!(site.count(UNIT, "reconnects"), 0);
}

/// Who knows that somebody else binds says so, and is not told of it.
#[test]
fn a_unit_that_leaves_its_bindings_to_others_asks_for_none() {
    let (_broker, _feed, site, _) = world("bound-elsewhere");
    let text = "type = \"pull\"\nbroker = \"main\"\nqueue = \"pull\"\nbind = []\ndirectory = \"{root}/data\"\n";
    site.unit(UNIT, text);
    let _unit = site.run_ready(UNIT);
    site.wait_state(UNIT, "running");
    assert!(!site.said(UNIT).contains("may not bind"), "{}", site.logs());
}
