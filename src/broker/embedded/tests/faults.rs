//! Refusals, bad files, and other people's hands.

use super::*;

fn own(result: Result<impl Sized, crate::broker::BrokerError>) -> String {
    let error = result.map(|_| ()).unwrap_err();
    assert_eq!(error.fault, Fault::Own, "{error}");
    error.what
}

#[tokio::test]
async fn what_is_missing_or_refused_is_our_own_fault_and_says_what_to_do() {
    let site = Site::new();
    let broker = site.connect().await;
    let envelope = Envelope::default();
    let confirm = broker.publish("nowhere", &envelope, Returns::Counted).await.unwrap();
    assert!(own(confirm.await).contains("no exchange nowhere; declare it"));
    assert!(own(broker.subscribe("nowhere", 1).await).contains("no queue nowhere; declare it"));
    let bind = |exchange: &str, queue: &str| Topology {
        bindings: vec![binding(exchange, queue, "k")],
        ..Topology::default()
    };
    assert!(own(broker.declare(&bind("nowhere", "q")).await).contains("no such exchange"));
    assert!(own(broker.declare(&bind("amq.topic", "q")).await).contains("no such queue"));
    assert!(own(broker.declare(&only(queue(&"q".repeat(300)))).await).contains("300 bytes"));
    let headers = Topology {
        exchanges: vec![exchange("h", ExchangeKind::Headers)],
        ..Topology::default()
    };
    assert!(own(broker.declare(&headers).await).contains("topic, direct and fanout"));
    // The connection is none the worse for it.
    declare(&*broker, queue("q")).await;
    fill(&*broker, "q", &["x"]).await;
}

#[tokio::test]
async fn a_bad_file_or_directory_is_our_own_fault() {
    let site = Site::new();
    let path = site.path();
    std::fs::write(&path, "not a database ".repeat(100)).unwrap();
    let what = own(open(path.clone()).await);
    assert!(
        what.contains("not a database") && what.contains("another one"),
        "{what}"
    );
    std::fs::remove_file(&path).unwrap();
    let foreign = rusqlite::Connection::open(&path).unwrap();
    foreign
        .execute_batch("CREATE TABLE theirs (x); INSERT INTO theirs VALUES (1)")
        .unwrap();
    drop(foreign);
    let what = own(open(path.clone()).await);
    assert!(what.contains("of another program"), "{what}");
    assert!(!path.with_extension("db.d").exists());
    let what = own(open(site.0.path().join("none/broker.db")).await);
    assert!(what.contains("directory must exist"), "{what}");
    let later = Site::new();
    later.connect().await.close().await;
    let file = rusqlite::Connection::open(later.path()).unwrap();
    file.pragma_update(None, "user_version", 99).unwrap();
    let what = own(open(later.path()).await);
    assert!(what.contains("layout 99"), "{what}");
}

#[tokio::test]
async fn a_broken_file_ends_the_connection_with_its_reason() {
    let site = Site::new();
    let broker = site.connect().await;
    declare(&*broker, queue("q")).await;
    let mut subscription = broker.subscribe("q", 1).await.unwrap();
    let other = rusqlite::Connection::open(site.path()).unwrap();
    other.execute_batch("DROP TABLE contents").unwrap();
    let envelope = Envelope {
        key: "q".into(),
        ..Envelope::default()
    };
    let confirm = broker.publish("", &envelope, Returns::Known);
    confirm.await.unwrap().await.unwrap_err();
    let error = timeout(SOON, broker.closed()).await.unwrap();
    assert!(error.what.contains("contents"), "{error}");
    assert!(timeout(SOON, subscription.next()).await.unwrap().is_err());
    timeout(SOON, broker.close()).await.unwrap();
}

#[tokio::test]
async fn whoever_lost_its_lock_file_is_told_and_nothing_is_lost() {
    let site = Site::new();
    let (a, b) = (site.connect().await, site.connect().await);
    declare(&*a, queue("q")).await;
    fill(&*a, "q", &["x"]).await;
    let mut held = a.subscribe("q", 1).await.unwrap();
    let received = next(&mut held).await;
    let label = rusqlite::Connection::open(site.path()).unwrap();
    let owner: String = label
        .query_row("SELECT owner FROM consumers", [], |row| row.get(0))
        .unwrap();
    std::fs::remove_file(site.path().with_extension("db.d").join(format!("{owner}.lock"))).unwrap();
    wait_until("it went back", || async { b.depth("q").await.unwrap() == Some(1) }).await;
    assert_eq!(
        received.receipt.settle(Settlement::Ack).await.unwrap_err().fault,
        Fault::Endpoint
    );
    assert!(
        timeout(SOON, a.closed())
            .await
            .unwrap()
            .what
            .contains("took this connection for dead")
    );
    let mut other = b.subscribe("q", 1).await.unwrap();
    assert_eq!(next_body(&mut other, Settlement::Ack).await, ("x".into(), true));
}

#[tokio::test]
async fn a_subscription_ends_when_its_queue_is_deleted() {
    let site = Site::new();
    let broker = site.connect().await;
    declare(&*broker, queue("q")).await;
    let mut subscription = broker.subscribe("q", 1).await.unwrap();
    let other = rusqlite::Connection::open(site.path()).unwrap();
    other
        .execute_batch("DELETE FROM queues; UPDATE meta SET value = value + 1 WHERE name = 'topology'")
        .unwrap();
    let error = timeout(SOON, subscription.next()).await.unwrap().err().unwrap();
    assert_eq!(error.fault, Fault::Endpoint);
    assert!(error.what.contains("queue q was deleted"), "{error}");
}

#[tokio::test]
async fn what_exists_with_other_properties_is_accepted_with_a_warning() {
    let site = Site::new();
    let broker = site.connect().await;
    let first = Topology {
        exchanges: vec![exchange("x", ExchangeKind::Topic)],
        queues: vec![queue("q")],
        bindings: vec![],
    };
    assert!(broker.declare(&first).await.unwrap().is_empty());
    let mut second = first.clone();
    second.exchanges[0].durable = false;
    second.queues[0].expires = Some(Duration::from_secs(60));
    let warnings = broker.declare(&second).await.unwrap();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(
        warnings[0].what.contains("exchange x exists as topic, durable = true"),
        "{warnings:?}"
    );
    assert!(
        warnings[1].what.contains("queue q exists with expires = none"),
        "{warnings:?}"
    );
    assert!(broker.declare(&first).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_file_that_another_process_holds_is_the_endpoints_fault_in_time() {
    let site = Site::new();
    let patience = Duration::from_millis(700);
    let impatient = || async { connect(&url(site.path()), Purpose::Publish, "test", patience).await };
    let broker = impatient().await.unwrap();
    declare(&*broker, queue("q")).await;
    let other = rusqlite::Connection::open(site.path()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let envelope = Envelope {
        key: "q".into(),
        ..Envelope::default()
    };
    let confirm = broker.publish("", &envelope, Returns::Counted).await.unwrap();
    let error = timeout(patience * 3, confirm).await.unwrap().unwrap_err();
    assert_eq!(error.fault, Fault::Endpoint, "{error}");
    let error = timeout(SOON, broker.closed()).await.unwrap();
    assert_eq!(error.fault, Fault::Endpoint, "{error}");
    assert!(error.what.contains("another process holds the file"), "{error}");
    timeout(patience * 3, broker.close()).await.unwrap();
    let error = timeout(patience * 3, impatient()).await.unwrap().err().unwrap();
    assert_eq!(error.fault, Fault::Endpoint, "{error}");
    other.execute_batch("COMMIT").unwrap();
    let again = impatient().await.unwrap();
    fill(&*again, "q", &["x"]).await;
}

/// While the machine was off nobody could use the queue; while px was merely stopped, somebody could have.
#[tokio::test]
async fn leases_start_anew_after_a_reboot_and_only_then() {
    let site = Site::new();
    let expires = Some(Duration::from_secs(60));
    let broker = site.connect().await;
    declare(&*broker, Queue { expires, ..queue("q") }).await;
    broker.close().await;
    let file = rusqlite::Connection::open(site.path()).unwrap();
    let long_ago = "UPDATE queues SET used_ms = 1000";
    file.execute_batch(long_ago).unwrap();
    file.execute_batch("UPDATE meta SET value = 'another' WHERE name = 'boot'")
        .unwrap();
    let broker = site.connect().await;
    declare(&*broker, queue("other")).await;
    assert_eq!(broker.depth("q").await.unwrap(), Some(0));
    broker.close().await;
    file.execute_batch(long_ago).unwrap();
    let broker = site.connect().await;
    wait_until("the queue is gone", || async {
        broker.depth("q").await.unwrap().is_none()
    })
    .await;
}
