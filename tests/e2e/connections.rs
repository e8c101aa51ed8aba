//! Connections: candidates, restarts, forced closes, TLS, the default virtual host.

use std::net::TcpListener;
use std::process::Command;
use std::time::Duration;

use crate::support::{
    Answer, Feed, ProductServer, RabbitServer, TestBroker, TestSite, broker_of, free_port, v02, wait_until,
};

const UNIT: &str = "rx/pull";

/// Announces a product and waits for it.
#[track_caller]
fn one_product(site: &TestSite, feed: &Feed, server: &ProductServer, name: &str) {
    server.serve(name, name.as_bytes());
    feed.announce(v02(&server.url(), name, name.as_bytes()));
    site.wait_that(&format!("{name} has arrived"), || {
        site.arrived(name).as_deref() == Some(name.as_bytes())
    });
}

#[test]
fn a_dead_candidate_is_passed_over() {
    let broker = TestBroker::new("failover");
    let feed = Feed::new(&broker.config());
    feed.queue("pull", &["v02.post.#"]);
    let site = TestSite::with_site_file(&format!(
        "[brokers.main]\norder = \"given\"\nurls = [\"amqp://u:p@127.0.0.1:{}/\", {:?}]\nexchange = {{ name = \"xp\" }}\n",
        free_port(),
        broker.amqp_url()
    ));
    site.puller(UNIT, "");
    let _unit = site.run_ready(UNIT);
    one_product(&site, &feed, &ProductServer::start(), "file");
}

/// Three ways to lose a connection or its queue, one after the other on one node; each time the unit comes back by itself.
#[test]
fn a_unit_survives_forced_closes_kills_and_restarts_of_its_broker() {
    let mut node = RabbitServer::start();
    let broker = TestBroker::on(&node, "restart");
    let site = TestSite::new(&broker);
    site.puller(UNIT, "");
    let server = ProductServer::start();
    let open = || {
        let feed = Feed::new(&broker.config());
        feed.queue("pull", &["v02.post.#"]);
        feed
    };
    let feed = open();
    let mut unit = site.run_ready(UNIT);
    one_product(&site, &feed, &server, "before");
    // The queue deleted under the consumer: declared again, and work goes on.
    broker.delete_queue("pull");
    site.wait_count(UNIT, "reconnects", 1);
    one_product(&site, &feed, &server, "after-the-deletion");
    drop(feed);

    let reconnects = site.count(UNIT, "reconnects");
    node.ctl(&["close_all_connections", "--global", "a test"]);
    site.wait_count(UNIT, "reconnects", reconnects + 1);
    let feed = open();
    one_product(&site, &feed, &server, "after-the-close");

    // The broker is killed while a delivery is in hand: it is delivered again, and fetched.
    node.flush_definitions();
    server.answer("held", Answer::Held(b"held".to_vec()));
    feed.announce(v02(&server.url(), "held", b"held"));
    site.wait_that("it is asked for", || server.hits("held").len() == 1);
    node.kill();
    site.wait(UNIT, "shows that it is cut off", |status| {
        status["links"]["consume"]["connected"] == false && !status["links"]["consume"]["error"].is_null()
    });
    let said = site.px_ends(0, &["status", UNIT]);
    assert!(
        said.out.contains("  waiting for broker main since 2") && said.out.contains(" UTC: "),
        "{said:?}"
    );
    unit.assert_runs();
    node.start_again();
    site.wait(UNIT, "is connected again", |status| {
        status["links"]["consume"]["connected"] == true
    });
    server.release();
    site.wait_that("held has arrived", || site.arrived("held").is_some());
    let feed = open();
    one_product(&site, &feed, &server, "after-the-kill");
    site.wait_that("nothing is left", || feed.depth("pull") == Some(0));
    assert_eq!(site.count(UNIT, "failed"), 0);
    assert_eq!(site.state(UNIT), "running");
    drop(unit);
}

#[test]
fn amqps_with_a_ca_of_ones_own_and_the_default_virtual_host() {
    let directory = tempfile::tempdir().expect("directory");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/make-ca");
    let made = Command::new(script).arg(directory.path()).output().expect("make-ca");
    assert!(made.status.success(), "{made:?}");
    let (tls, certificates) = (free_port(), directory.path().display());
    let node = RabbitServer::start_with(
        &format!(
            "listeners.ssl.1 = 127.0.0.1:{tls}\nssl_options.cacertfile = {certificates}/ca.pem\n\
             ssl_options.certfile = {certificates}/server.pem\nssl_options.keyfile = {certificates}/server.key"
        ),
        "[].",
    );
    let broker = TestBroker::on(&node, "unused");
    let mut plain = broker.config().urls.remove(0);
    plain.vhost = "/".into();
    let feed = Feed::new(&broker_of(vec![plain]));
    feed.queue("pull", &["v02.post.#"]);
    let server = ProductServer::start();

    // `amqp://h/` is the virtual host `/`, and so is `amqp://h`.
    for (unit, end) in [("one", "/"), ("two", "")] {
        let site = TestSite::at(&format!("amqp://admin:admin@127.0.0.1:{}{end}", node.amqp_port()));
        site.puller(UNIT, "");
        let _unit = site.run_ready(UNIT);
        one_product(&site, &feed, &server, unit);
    }
    let with = |ca: &str| {
        let site = TestSite::with_site_file(&format!(
            "[brokers.main]\nurls = [\"amqps://admin:admin@localhost:{tls}/\"]\n{ca}exchange = {{ name = \"xp\" }}\n"
        ));
        site.puller(UNIT, "");
        site
    };
    let site = with(&format!("ca_file = \"{certificates}/ca.pem\"\n"));
    let _unit = site.run_ready(UNIT);
    one_product(&site, &feed, &server, "by-tls");
    // Not signed by anybody the system knows: an operator's affair.
    let site = with("");
    let _unit = site.run(UNIT);
    site.wait_state(UNIT, "paused: ");
    assert!(site.state(UNIT).contains("ca_file"), "{}", site.state(UNIT));
}

/// An address that moves comes to a host as soon as its broker is back: nobody may wait for a unit that has lost
/// patience meanwhile. Each look here ends badly, and with waits that double there would not be so many for many
/// minutes.
#[test]
fn a_broker_of_this_host_is_looked_for_every_second_however_long_it_is_away() {
    const LOOKS: usize = 20;
    let away = TcpListener::bind("127.0.0.1:0").expect("listener");
    let port = away.local_addr().expect("address").port();
    let site = TestSite::at(&format!("amqp://u:p@localhost:{port}/"));
    site.puller(UNIT, "");
    let _unit = site.run(UNIT);
    away.set_nonblocking(true).expect("nonblocking");
    let mut looks = 0;
    wait_until(Duration::from_secs(90), format!("{LOOKS} looks"), || {
        looks += usize::from(away.accept().is_ok());
        looks == LOOKS
    });
}

/// A broker that answers nothing any more, its connections open: heartbeats tell, and the next candidate is taken.
#[test]
fn a_frozen_broker_is_left_for_the_next_candidate() {
    let node = RabbitServer::start();
    let frozen = TestBroker::on(&node, "frozen");
    let other = TestBroker::new("next");
    let site = TestSite::with_site_file(&format!(
        "[brokers.main]\norder = \"given\"\nconnect_timeout = \"1s\"\nurls = [\"{}?heartbeat=2\", {:?}]\n\
         exchange = {{ name = \"xp\" }}\n",
        frozen.amqp_url(),
        other.amqp_url()
    ));
    site.puller(UNIT, "");
    let server = ProductServer::start();
    let feed = Feed::new(&frozen.config());
    let _unit = site.run_ready(UNIT);
    one_product(&site, &feed, &server, "before");
    node.freeze();
    site.wait_count(UNIT, "reconnects", 1);
    let feed = Feed::new(&other.config());
    one_product(&site, &feed, &server, "after");
    // A stop does not wait for the frozen one either.
    node.thaw();
}

/// After a reconnect to an exchange that is not durable consumers may have to bind again. What waits for them holds up
/// nobody else, and keeps its order.
#[test]
fn what_nobody_is_bound_for_yet_holds_up_no_other_key() {
    const SENDER: &str = "tx/out";
    let node = RabbitServer::start();
    let broker = TestBroker::on(&node, "grace");
    let open = || {
        let feed = Feed::new(&broker.config());
        feed.queue("b", &["exp.b"]);
        feed
    };
    drop(open());
    let site = TestSite::new(&broker);
    site.unit(
        SENDER,
        "type = \"amqp\"\nbroker = \"main\"\nexchange = { name = \"xp\", durable = false }\nkey = \"exp.${0}\"\n\
         masks = [{ accept = '^(.)_' }]\n",
    );
    let _unit = site.run_ready(SENDER);
    node.ctl(&["close_all_connections", "--global", "a test"]);
    site.wait_count(SENDER, "reconnects", 1);
    let feed = open();
    for name in ["a_1", "a_2", "b_1"] {
        site.write(&format!("txq/out/3/2026112200/{name}"), name);
    }
    assert_eq!(feed.reader("b").take(1).remove(0).body, b"b_1");
    feed.queue("a", &["exp.a"]);
    let bodies: Vec<Vec<u8>> = feed.reader("a").take(2).into_iter().map(|one| one.body).collect();
    assert_eq!(bodies, [b"a_1", b"a_2"]);
    assert_eq!(
        site.count(SENDER, "unroutable"),
        1,
        "messages are counted, and not tries"
    );
}
