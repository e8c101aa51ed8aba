//! What goes wrong, row by row of the failure table, on units that run as processes against a real broker: who is
//! parked, who is kept, who pauses, what `px status` shows of it, and that all is well afterwards.

mod endpoint;
mod hostile;
mod message;
mod own;
mod patience;
mod secrets;
#[path = "../support/mod.rs"]
mod support;

use support::{Feed, ProductServer, TestBroker, TestSite};

/// A pull worker's world: its broker, one server of products, a feed of announcements.
struct World {
    broker: TestBroker,
    server: ProductServer,
    feed: Feed,
    site: TestSite,
}

const UNIT: &str = "rx/pull";

impl World {
    /// With these further options of the unit, which does not run yet.
    fn new(name: &str, options: &str) -> World {
        let broker = TestBroker::new(name);
        let feed = Feed::new(&broker.config());
        feed.queue("pull", &["v02.post.#"]);
        let site = TestSite::new(&broker);
        site.puller(UNIT, options);
        World {
            server: ProductServer::start(),
            feed,
            site,
            broker,
        }
    }

    /// Serves a product and announces it.
    fn announce(&self, path: &str, bytes: &[u8]) {
        self.server.serve(path, bytes);
        self.announce_only(path, bytes);
    }

    fn announce_only(&self, path: &str, bytes: &[u8]) {
        self.feed.announce(support::v02(&self.server.url(), path, bytes));
    }

    #[track_caller]
    fn wait_arrived(&self, name: &str, bytes: &[u8]) {
        self.site.wait_that(&format!("{name} has arrived"), || {
            self.site.arrived(name).as_deref() == Some(bytes)
        });
    }

    /// The one entry of the failed store: its reason, fault and attempts.
    #[track_caller]
    fn only_failure(&self) -> (String, String, u64) {
        let failed = self.site.failed(UNIT);
        assert_eq!(failed.len(), 1, "{failed:#?}");
        let text = |field: &str| failed[0][field].as_str().unwrap_or_default().to_owned();
        (
            text("reason"),
            text("fault"),
            failed[0]["attempts"].as_u64().unwrap_or(0),
        )
    }

    /// Nothing waits anywhere on the broker.
    #[track_caller]
    fn assert_broker_empty(&self) {
        for queue in ["pull", "pull.retry.5s", "pull.retry.1m", "pull.retry.10m"] {
            assert_eq!(self.feed.depth(queue).unwrap_or(0), 0, "{queue}");
        }
    }
}
