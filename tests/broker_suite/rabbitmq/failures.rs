//! Brokers that refuse, freeze, block, die, or close the door.

use std::process::Command;
use std::time::{Duration, Instant};

use px::broker::management::Management;
use px::broker::{Purpose, Returns, Settlement, connect};
use px::config::{BrokerUrl, Scheme, Secret};
use px::message::{Fault, Queue, Topology};

use crate::fixture::*;
use crate::support::{RabbitServer, TestBroker, broker_of, free_port, rabbitmq_version, wait_until, within};

/// What `connect` says, in full: its text and its cause.
async fn refusal(broker: &px::config::Broker) -> (Fault, String) {
    let error = within(SOON, "refused", connect(broker, Purpose::Publish, "refused"))
        .await
        .err()
        .expect("refused");
    (error.fault, format!("{error} {error:?}"))
}

#[tokio::test]
async fn wrong_credentials_are_our_own_fault_and_never_shown() {
    let broker = TestBroker::new("login");
    let (fault, text) = refusal(&broker_of(vec![broker.url("admin", "canary-wrong")])).await;
    assert_eq!(fault, Fault::Own);
    assert!(text.contains("check the password of user admin"), "{text}");
    assert!(!text.contains("canary"), "{text}");
}

#[tokio::test]
async fn a_missing_vhost_is_our_own_fault() {
    let broker = TestBroker::new("vhost");
    let url = BrokerUrl {
        vhost: "no-such-vhost".into(),
        ..broker.config().urls[0].clone()
    };
    let (fault, text) = refusal(&broker_of(vec![url])).await;
    assert_eq!(fault, Fault::Own);
    assert!(text.contains("does vhost no-such-vhost exist"), "{text}");
}

#[tokio::test]
async fn the_error_names_every_candidate_and_no_password() {
    let url = |host: &str| BrokerUrl {
        scheme: Scheme::Amqp,
        user: "feeder".into(),
        password: Secret::new("canary-password"),
        host: host.into(),
        port: free_port(),
        vhost: "/".into(),
        path: Default::default(),
        heartbeat_s: 30,
        frame_max: 16384,
    };
    let (fault, text) = refusal(&broker_of(vec![
        url("127.0.0.1"),
        url("::1"),
        url("no-such-host.invalid"),
    ]))
    .await;
    assert_eq!(fault, Fault::Endpoint);
    for part in ["feeder@127.0.0.1", "::1", "feeder@no-such-host.invalid", "refused"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains("canary"), "{text}");
}

#[tokio::test]
async fn the_next_candidate_is_tried_when_one_is_dead() {
    let broker = TestBroker::new("failover");
    let alive = broker.config().urls[0].clone();
    let dead = BrokerUrl {
        port: free_port(),
        ..alive.clone()
    };
    let connection = open(&broker_of(vec![dead, alive]), Purpose::Publish).await;
    assert_eq!(depth(&*connection, "q").await, None);
}

/// The library's I/O threads that live in this process.
fn io_threads() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").expect("/proc");
    let names = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|name| name.starts_with("lapin")).count()
}

/// A frozen broker keeps its connections open and says nothing: every call ends within its time-out, the connection
/// ends with it, and no thread stays behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_broker_hangs_nobody() {
    let server = RabbitServer::start();
    let broker = TestBroker::on(&server, "frozen");
    let mut config = broker.config();
    // What is asked before the broker freezes is answered in this time too, on a machine that is busy.
    config.connect_timeout = Duration::from_secs(5);
    config.reply_timeout = Duration::from_secs(5);
    let publishing = open(&config, Purpose::Publish).await;
    let consuming = open(&config, Purpose::Consume).await;
    declare(&*publishing, &only_queue("q")).await;
    fill(&*publishing, "q", &["held"]).await;
    let mut subscription = consuming.subscribe("q", 1).await.expect("subscribe");
    let _held = take(&mut subscription).await;

    let publish = async || publishing.publish("", &message("q", ""), Returns::Counted).await;
    publish().await.expect("on its way").await.expect("confirm");
    server.freeze();
    let before = Instant::now();
    let (fault, text) = refusal(&config).await;
    assert_eq!(fault, Fault::Endpoint);
    assert!(text.contains("no answer within 5s"), "{text}");
    let confirm = publish().await.expect("on its way");
    let error = confirm.await.expect_err("nobody answers");
    assert_eq!(error.fault, Fault::Endpoint);
    assert!(error.to_string().contains("no answer within 5s"), "{error}");
    within(SOON, "ended", publishing.closed()).await;
    assert!(consuming.depth("q").await.is_err());
    within(SOON, "ended", consuming.closed()).await;
    assert!(subscription.next().await.is_err());
    assert!(before.elapsed() < 2 * SOON);
    wait_until(SOON, "the threads are gone", || io_threads() == 0);
    server.thaw();
}

/// A memory alarm: the broker reads no more from publishers, and says so only to those that publish.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blocking_broker_hangs_nobody() {
    let server = RabbitServer::start();
    let broker = TestBroker::on(&server, "blocked");
    let mut config = broker.config();
    config.reply_timeout = Duration::from_secs(5);
    let publishing = open(&config, Purpose::Publish).await;
    let consuming = open(&config, Purpose::Consume).await;
    declare(&*publishing, &only_queue("q")).await;
    fill(&*publishing, "q", &["before"]).await;

    server.ctl(&["set_vm_memory_high_watermark", "0.00001"]);
    let confirm = publishing
        .publish("", &message("q", "blocked"), Returns::Counted)
        .await
        .expect("on its way");
    let error = confirm.await.expect_err("it takes nothing");
    assert_eq!(error.fault, Fault::Endpoint);
    within(SOON, "ended", publishing.closed()).await;
    // Consuming goes on: it has its own connection.
    let mut subscription = consuming.subscribe("q", 1).await.expect("subscribe");
    assert_eq!(take_text(&mut subscription).await, "before");

    server.ctl(&["set_vm_memory_high_watermark", "0.4"]);
    let again = open(&config, Purpose::Publish).await;
    fill(&*again, "q", &["after"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_broker_ends_the_connection_and_comes_back() {
    let mut server = RabbitServer::start();
    let broker = TestBroker::on(&server, "killed");
    let connection = open(&broker.config(), Purpose::Publish).await;
    declare(&*connection, &only_queue("q")).await;
    fill(&*connection, "q", &["kept"]).await;
    server.flush_definitions();
    let mut subscription = connection.subscribe("q", 1).await.expect("subscribe");
    let held = take(&mut subscription).await;
    server.kill();
    let ending = within(SOON, "ended", connection.closed()).await;
    assert_eq!(ending.fault, Fault::Endpoint);
    assert!(within(SOON, "refused", subscription.next()).await.is_err());
    assert!(
        within(SOON, "refused", held.receipt.settle(Settlement::Ack))
            .await
            .is_err()
    );
    server.start_again();
    let connection = open(&broker.config(), Purpose::Consume).await;
    let mut subscription = connection.subscribe("q", 1).await.expect("subscribe");
    let received = take(&mut subscription).await;
    assert_eq!(settle(received, Settlement::Ack).await, "kept");
}

/// The broker closes in good order, and its reason arrives.
#[tokio::test]
async fn a_forced_close_gives_its_reason() {
    let server = RabbitServer::start();
    let broker = TestBroker::on(&server, "forced");
    let connection = open(&broker.config(), Purpose::Consume).await;
    declare(&*connection, &only_queue("q")).await;
    let mut subscription = connection.subscribe("q", 1).await.expect("subscribe");
    server.ctl(&["close_all_connections", "--vhost", &broker.vhost, "maintenance at noon"]);
    let ending = within(SOON, "ended", connection.closed()).await;
    assert_eq!(ending.fault, Fault::Endpoint);
    assert!(format!("{ending:?}").contains("maintenance at noon"), "{ending:?}");
    let error = within(SOON, "ended", subscription.next()).await.err().expect("ended");
    assert!(format!("{error:?}").contains("maintenance at noon"), "{error:?}");
}

/// From RabbitMQ 4 on a broker may have given up transient queues that are not exclusive: it ends the connection.
#[tokio::test]
async fn a_transient_queue_that_the_broker_has_given_up_is_our_own_fault() {
    let transient = Topology {
        queues: vec![Queue {
            durable: false,
            ..queue("q")
        }],
        ..Topology::default()
    };
    if rabbitmq_version() < (4, 0) {
        // It takes them, and does not know the option.
        let broker = TestBroker::new("transient");
        declare(&*open(&broker.config(), Purpose::Consume).await, &transient).await;
        return;
    }
    let server = RabbitServer::start_with("deprecated_features.permit.transient_nonexcl_queues = false", "[].");
    let broker = TestBroker::on(&server, "transient");
    let connection = open(&broker.config(), Purpose::Consume).await;
    let error = connection.declare(&transient).await.expect_err("given up");
    assert_eq!(error.fault, Fault::Own, "{error:?}");
    assert!(error.to_string().contains("say durable = true"), "{error}");
}

/// consumer_timeout ends the subscription, not the connection, and the error names it.
#[tokio::test]
async fn a_delivery_held_too_long_ends_its_subscription() {
    let server = RabbitServer::start_with("consumer_timeout = 1000", "[{rabbit, [{channel_tick_interval, 500}]}].");
    let broker = TestBroker::on(&server, "timeout");
    let connection = open(&broker.config(), Purpose::Consume).await;
    // From 4.3 on only quorum queues have that patience, and the channel stays.
    let stays = rabbitmq_version() >= (4, 3);
    let mut topology = only_queue("q");
    topology.queues[0].quorum = stays;
    declare(&*connection, &topology).await;
    fill(&*connection, "q", &["slow", "next"]).await;
    let mut subscription = connection.subscribe("q", 1).await.expect("subscribe");
    let held = take(&mut subscription).await;
    let error = within(SOON, "ended", subscription.next())
        .await
        .err()
        .expect("timed out");
    assert_eq!(error.fault, Fault::Endpoint);
    assert!(error.to_string().contains("consumer_timeout"), "{error}");
    // Too late, whether it is told or not.
    let late = within(SOON, "answered", held.receipt.settle(Settlement::Ack)).await;
    assert_eq!(late.is_ok(), stays, "{late:?}");
    let mut subscription = connection.subscribe("q", 1).await.expect("the connection lives");
    let again = take(&mut subscription).await;
    let came = (again.redelivered, settle(again, Settlement::Ack).await);
    assert!(stays || came == (true, "slow".to_owned()), "{came:?}");
}

/// A private CA: refused unless `ca_file` names it.
#[tokio::test]
async fn amqps_and_https_trust_the_ca_of_ca_file() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/make-ca");
    let made = Command::new(script).arg(directory.path()).output().expect("make-ca");
    assert!(made.status.success(), "{made:?}");
    let (port, api) = (free_port(), free_port());
    let path = directory.path().display();
    let conf = format!(
        "listeners.ssl.1 = 127.0.0.1:{port}\nssl_options.cacertfile = {path}/ca.pem\n\
         ssl_options.certfile = {path}/server.pem\nssl_options.keyfile = {path}/server.key\n\
         management.ssl.ip = 127.0.0.1\nmanagement.ssl.port = {api}\nmanagement.ssl.cacertfile = {path}/ca.pem\n\
         management.ssl.certfile = {path}/server.pem\nmanagement.ssl.keyfile = {path}/server.key"
    );
    let server = RabbitServer::start_with(&conf, "[].");
    let broker = TestBroker::on(&server, "tls");
    let mut config = broker.config();
    config.urls[0].scheme = Scheme::Amqps;
    config.urls[0].port = port;
    config.management = Some(px::config::Management {
        url: format!("https://localhost:{api}"),
        user: "admin".into(),
        password: Secret::new("admin"),
    });

    let (fault, text) = refusal(&config).await;
    assert_eq!(fault, Fault::Own, "{text}");
    assert!(text.contains("ca_file"), "{text}");
    let error = Management::new(&config)
        .expect("prepared")
        .overview()
        .await
        .expect_err("not trusted");
    assert_eq!(error.fault, Fault::Own, "{error}");
    assert!(error.to_string().contains("ca_file"), "{error}");

    config.ca_file = Some(directory.path().join("ca.pem"));
    for host in ["localhost", "127.0.0.1"] {
        config.urls[0].host = host.into();
        let connection = open(&config, Purpose::Publish).await;
        declare(&*connection, &only_queue("q")).await;
        fill(&*connection, "q", &["secret"]).await;
    }
    let trusting = Management::new(&config).expect("prepared");
    assert!(trusting.overview().await.is_ok());

    config.ca_file = Some(directory.path().join("server.key"));
    let (fault, text) = refusal(&config).await;
    assert_eq!(fault, Fault::Own);
    assert!(text.contains("holds no PEM certificate"), "{text}");
}
