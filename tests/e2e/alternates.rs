//! Alternates: what the first source cannot give is fetched from another that announced it.

use crate::support::{Feed, ProductServer, TestBroker, TestSite, v00_urp};

const UNIT: &str = "rx/pull";
const PRODUCTS: usize = 200;

#[test]
fn with_the_first_sources_server_dead_all_comes_from_the_second() {
    let broker = TestBroker::new("alternates");
    let feed = Feed::new(&broker.config());
    feed.queue("pull", &["v00.urp.notify.#"]);
    let site = TestSite::new(&broker);
    site.unit(
        UNIT,
        "type = \"pull\"\nbroker = \"main\"\nqueue = \"pull\"\nbind = [\"v00.urp.notify.#\"]\n\
         directory = \"{root}/data\"\nalternates = { bind = [\"v00.urp.input.#\"] }\n",
    );
    let (dead, alive) = (ProductServer::closed(), ProductServer::start());
    let _unit = site.run_ready(UNIT);
    site.wait(UNIT, "reads along", |status| {
        status["links"]["follow"]["connected"] == true
    });
    // The queue it reads along on is its own, and marked as such.
    let queues = broker.api("GET", &format!("/api/queues/{}", broker.vhost), None).json();
    let follow = queues.as_array().expect("queues").iter();
    let mut follow = follow.filter(|queue| queue["arguments"]["x-px-role"] == "alternates");
    assert!(
        follow.next().is_some_and(|queue| queue["auto_delete"] == true),
        "{queues:#}"
    );

    let path = |n: usize| format!("db/20261121/{n:04}~~X,60,10:URP:XAM:RADAR:META::20261121");
    let body = |n: usize| format!("product {n}").into_bytes();
    for n in 0..PRODUCTS {
        alive.serve(&path(n), &body(n));
    }
    // Both announce; the dispatcher, played here, lets the first through.
    let both = (0..PRODUCTS).flat_map(|n| [dead.url(), alive.url()].map(|url| v00_urp(&url, &path(n), body(n).len())));
    feed.announce_all(both);
    feed.announce_all((0..PRODUCTS).map(|n| {
        let mut first = v00_urp(&dead.url(), &path(n), body(n).len());
        first.key = first.key.replace("v00.urp.input", "v00.urp.notify");
        first
    }));
    site.wait_count(UNIT, "from_alternates", PRODUCTS as u64);
    for n in 0..PRODUCTS {
        let name = path(n);
        let name = name.rsplit('/').next().expect("a name");
        assert_eq!(site.arrived(name), Some(body(n)), "{name}");
    }
    assert_eq!(site.count(UNIT, "fetched"), PRODUCTS as u64);
    assert_eq!(site.count(UNIT, "failed"), 0);
    assert_eq!(site.names().len(), PRODUCTS);
    assert!(
        site.said(UNIT).contains(&format!("from {} (lat=", alive.authority())),
        "{}",
        site.logs()
    );
}
