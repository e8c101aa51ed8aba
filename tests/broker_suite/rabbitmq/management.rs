//! The management API of a real node, and servers that are none.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use px::broker::management::{Deletion, Guard, Management, QueueInfo, QueueKind};
use px::broker::{BrokerError, Purpose};
use px::config::{self, Broker, Secret};
use px::message::{Fault, Queue, Topology};
use serde_json::json;

use crate::fixture::*;
use crate::support::{TestBroker, broker_of, eventually, free_port};

const USED: Guard = Guard {
    if_unused: true,
    if_empty: false,
};
const EMPTY: Guard = Guard {
    if_unused: false,
    if_empty: true,
};
const BOTH: Guard = Guard {
    if_unused: true,
    if_empty: true,
};

fn with_api(broker: Broker, url: &str, user: &str, password: &str) -> Broker {
    Broker {
        management: Some(config::Management {
            url: url.to_owned(),
            user: user.to_owned(),
            password: Secret::new(password),
        }),
        ..broker
    }
}

fn api_of(broker: &TestBroker) -> Management {
    let (url, login) = broker.management();
    let (user, password) = login.split_once(':').expect("user:password");
    Management::new(&with_api(broker.config(), url, user, password)).expect("management API")
}

/// A user of the management API with these tags, and no rights in any virtual host.
fn user(broker: &TestBroker, name: &str, tags: &str) -> Management {
    let made = broker.user(name, "^$", "^$", "^$");
    let user = &made.urls[0].user;
    let body = json!({ "password": "canary-password", "tags": tags }).to_string();
    broker.api("PUT", &format!("/api/users/{user}"), Some(&body)).ok();
    let rights = format!("/api/permissions/{}/{user}", broker.vhost);
    broker.api("DELETE", &rights, None).ok();
    api_of(broker).with_login(user, Secret::new("canary-password"))
}

async fn make(api: &Management, vhost: &str, name: &str, kind: &str) {
    let body = json!({ "durable": true, "arguments": { "x-queue-type": kind } });
    api.put(&["queues", vhost, name], &body).await.expect(name);
}

#[track_caller]
fn assert_refused<T: std::fmt::Debug>(result: Result<T, BrokerError>, fault: Fault, said: &[&str]) {
    let error = result.expect_err("refused");
    let text = format!("{error} {error:?}");
    assert_eq!(error.fault, fault, "{text}");
    assert!(said.iter().all(|said| text.contains(said)), "{text}");
    assert!(!text.contains("canary"), "{text}");
}

#[tokio::test]
async fn queues_of_every_kind_are_listed_by_their_odd_names() {
    let broker = TestBroker::new("api-list");
    let (api, vhost) = (api_of(&broker), &broker.vhost[..]);
    let mut names = [
        "a b",
        "a/b",
        "a%2fb",
        "a\"b'c",
        "ünï",
        "nul\0x",
        "a;b?c#d&e=f",
        "a\tb",
        "a\\b",
        ".a",
        "...",
        "a+b",
    ]
    .map(str::to_owned)
    .to_vec();
    for name in &names {
        make(&api, vhost, name, "classic").await;
    }
    make(&api, vhost, "quorum/q", "quorum").await;
    make(&api, vhost, "stream s", "stream").await;
    let connection = open(&broker.config(), Purpose::Consume).await;
    let mut mine = only_queue("mine");
    mine.queues[0] = Queue {
        exclusive: true,
        durable: false,
        auto_delete: true,
        ..queue("mine")
    };
    declare(&*connection, &mine).await;
    names.extend(["quorum/q", "stream s", "mine"].map(str::to_owned));
    names.sort();

    let mut listed = Vec::new();
    eventually(SOON, "there are statistics of all", async || {
        listed = api.queues(vhost).await.expect("queues");
        listed
            .iter()
            .all(|queue| queue.messages.is_some() && queue.consumers.is_some() && queue.memory.is_some())
    })
    .await;
    let mut found: Vec<String> = listed.iter().map(|queue| queue.name.clone()).collect();
    found.sort();
    assert_eq!(found, names);
    let named = |name: &str| listed.iter().find(|queue| queue.name == name).expect(name);
    let kinds = [
        ("a b", QueueKind::Classic),
        ("quorum/q", QueueKind::Quorum),
        ("stream s", QueueKind::Stream),
        ("mine", QueueKind::Classic),
    ];
    for (name, kind) in kinds {
        assert_eq!(named(name).kind, kind, "{name}");
    }
    let QueueInfo {
        durable,
        auto_delete,
        exclusive,
        ..
    } = *named("mine");
    assert_eq!((durable, auto_delete, exclusive), (false, true, true));
    assert_eq!(named("quorum/q").arguments["x-queue-type"], "quorum");
    assert!(named("a b").durable && named("a b").idle_since.is_some());
    assert_eq!((named("a b").messages, named("a b").vhost.as_str()), (Some(0), vhost));

    for name in names.iter().filter(|name| *name != "mine") {
        let one = api.queue(vhost, name).await.expect("queue").expect(name);
        assert_eq!(one.name, *name);
        let deleted = api.delete_queue(vhost, name, Guard::default()).await.expect(name);
        assert_eq!(deleted, Deletion::Deleted, "{name:?}");
        assert_eq!(api.queue(vhost, name).await.expect("queue"), None, "{name:?}");
    }
}

/// RabbitMQ's API has no way to name these: it would take the list for the queue.
#[tokio::test]
async fn a_name_that_leads_elsewhere_is_refused() {
    let broker = TestBroker::new("api-dots");
    let (api, vhost) = (api_of(&broker), &broker.vhost[..]);
    let connection = open(&broker.config(), Purpose::Consume).await;
    declare(&*connection, &only_queue("..")).await;
    let said = ["cannot be asked for a thing whose name is \"..\""];
    assert_refused(api.queue(vhost, "..").await, Fault::Own, &said);
    assert_refused(api.delete_queue(vhost, "..", Guard::default()).await, Fault::Own, &said);
    assert_refused(
        api.delete(&["vhosts", ""], &[]).await,
        Fault::Own,
        &["whose name is \"\""],
    );
    assert_eq!(depth(&*connection, "..").await, Some(0));
}

#[tokio::test]
async fn a_guarded_deletion_looks_and_deletes_in_one_step() {
    let broker = TestBroker::new("api-guard");
    let (api, vhost) = (api_of(&broker), &broker.vhost[..]);
    let connection = open(&broker.config(), Purpose::Consume).await;
    // A name that ends as the refusal does.
    for name in ["q", "x' in vhost '/' not empty"] {
        declare(&*connection, &only_queue(name)).await;
        fill(&*connection, name, &["one"]).await;
        let delete = async |guard| api.delete_queue(vhost, name, guard).await.expect("an answer");
        assert_eq!(delete(EMPTY).await, Deletion::NotEmpty);
        let mut subscription = connection.subscribe(name, 1).await.expect("subscribe");
        // The statistics do not know of it yet.
        assert_eq!(delete(USED).await, Deletion::InUse);
        assert_eq!(delete(BOTH).await, Deletion::InUse);
        assert_eq!(take_text(&mut subscription).await, "one");
        subscription.cancel().await;
        fill(&*connection, name, &["two"]).await;
        assert_eq!(delete(BOTH).await, Deletion::NotEmpty);
        assert_eq!(delete(USED).await, Deletion::Deleted);
        assert_eq!(delete(BOTH).await, Deletion::Gone);
        assert_eq!(delete(Guard::default()).await, Deletion::Gone);
    }
}

/// RabbitMQ refuses guards on quorum queues, and deletes a stream whatever the guard says.
#[tokio::test]
async fn what_cannot_be_guarded_is_not_deleted() {
    let broker = TestBroker::new("api-unguarded");
    let (api, vhost) = (api_of(&broker), &broker.vhost[..]);
    let connection = open(&broker.config(), Purpose::Publish).await;
    for kind in ["quorum", "stream"] {
        make(&api, vhost, kind, kind).await;
        fill(&*connection, kind, &["one"]).await;
        for guard in [USED, EMPTY, BOTH] {
            assert_refused(
                api.delete_queue(vhost, kind, guard).await,
                Fault::Own,
                &["only a classic queue", kind],
            );
        }
        assert!(api.queue(vhost, kind).await.expect("queue").is_some());
        let deleted = api
            .delete_queue(vhost, kind, Guard::default())
            .await
            .expect("an answer");
        assert_eq!(deleted, Deletion::Deleted);
    }
    // Nobody else may delete what belongs to a connection.
    let mine = Topology {
        queues: vec![Queue {
            exclusive: true,
            durable: false,
            ..queue("mine")
        }],
        ..Topology::default()
    };
    declare(&*connection, &mine).await;
    assert_refused(
        api.delete_queue(vhost, "mine", USED).await,
        Fault::Own,
        &["exclusive access"],
    );
}

#[tokio::test]
async fn a_refusal_names_the_user_and_what_it_needs() {
    let broker = TestBroker::new("api-login");
    let (api, vhost) = (api_of(&broker), &broker.vhost[..]);
    let overview = api.overview().await.expect("overview");
    assert!(
        overview.rabbitmq_version.starts_with(|c: char| c.is_ascii_digit()),
        "{overview:?}"
    );
    assert!(
        overview.node.contains('@') && !overview.cluster_name.is_empty(),
        "{overview:?}"
    );
    assert!(api.vhosts().await.expect("vhosts").iter().any(|name| name == vhost));

    let wrong = api.with_login("admin", Secret::new("canary-wrong"));
    assert_refused(
        wrong.overview().await,
        Fault::Own,
        &["user admin or its password is refused", "401"],
    );
    assert!(!format!("{wrong:?}").contains("canary"));
    let plain = user(&broker, "plain", "");
    let name = format!("user {vhost}-plain needs the tag");
    assert_refused(plain.overview().await, Fault::Own, &[&name, "management"]);
    let stranger = user(&broker, "stranger", "management");
    assert_refused(
        stranger.queues(vhost).await,
        Fault::Own,
        &["stranger", "rights in the vhost"],
    );
    assert_refused(
        stranger.get::<serde_json::Value>(&["users"], &[]).await,
        Fault::Own,
        &["-stranger needs the tag", "administrator"],
    );
    broker.permit(&format!("{vhost}-stranger"), "^$", "^$", ".*");
    make(&api, vhost, "q", "classic").await;
    assert_refused(
        stranger.delete_queue(vhost, "q", USED).await,
        Fault::Own,
        &["-stranger may not (401 Access refused.)"],
    );

    assert_refused(api.queues("no-such-vhost").await, Fault::Own, &["404", "no-such-vhost"]);
    assert_eq!(api.queue("no-such-vhost", "q").await.expect("an answer"), None);
    let odd = json!({ "arguments": { "x-queue-type": "odd" } });
    assert_refused(
        api.put(&["queues", vhost, "z"], &odd).await,
        Fault::Own,
        &["400", "unsupported queue type"],
    );
    assert_refused(api.post(&["overview"], &json!({})).await, Fault::Own, &["405"]);
    assert!(!api.delete(&["policies", vhost, "none"], &[]).await.expect("an answer"));
}

#[tokio::test]
async fn what_is_not_configured_is_an_own_fault() {
    let broker = TestBroker::new("api-config");
    assert_refused(
        Management::new(&broker.config()),
        Fault::Own,
        &["has no management API", "px.toml"],
    );
    let nobody = with_api(broker.config(), "http://127.0.0.1:1", "root", "");
    assert_refused(
        Management::new(&nobody),
        Fault::Own,
        &["no password for root", "[test] root"],
    );
    let mut secure = with_api(broker.config(), "https://127.0.0.1:1", "root", "canary");
    secure.ca_file = Some("/no/such/file".into());
    assert_refused(
        Management::new(&secure),
        Fault::Own,
        &["cannot use ca_file /no/such/file"],
    );
}

/// Answers one request as told, on a thread that ends with it.
fn server(answer: impl FnOnce(TcpStream) + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("address");
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("accept");
        let mut request = [0; 8192];
        let _ = stream.read(&mut request).expect("a request");
        answer(stream);
    });
    format!("http://{address}")
}

#[tokio::test]
async fn a_server_that_is_none_is_told_from_one_that_is_unwell() {
    let within = |limit: Duration, url: &str| {
        let mut broker = broker_of(Vec::new());
        broker.connect_timeout = limit;
        broker.reply_timeout = limit;
        Management::new(&with_api(broker, url, "root", "canary")).expect("management API")
    };
    let at = |url: &str| within(SOON, url);
    let says = |text: &'static str| server(move |mut stream| stream.write_all(text.as_bytes()).expect("answer"));
    let closed = format!("http://127.0.0.1:{}", free_port());
    let table = [
        (closed, Fault::Endpoint, "no connection"),
        (
            "http://no-such-host.invalid:1".to_owned(),
            Fault::Endpoint,
            "no connection",
        ),
        (says("AMQP\0\0\u{9}\u{1}"), Fault::Endpoint, "the answer broke off"),
        (
            says("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n<html>"),
            Fault::Endpoint,
            "the answer broke off",
        ),
        (
            says("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>"),
            Fault::Endpoint,
            "not that of RabbitMQ",
        ),
        (
            says("HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n"),
            Fault::Own,
            "302",
        ),
        (
            says("HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"),
            Fault::Endpoint,
            "503",
        ),
    ];
    for (url, fault, said) in table {
        assert_refused(at(&url).overview().await, fault, &[said, "broker test"]);
    }

    let (done, held) = std::sync::mpsc::channel::<()>();
    let silent = server(move |stream| {
        // Until the client has given up.
        let _ = held.recv();
        drop(stream);
    });
    assert_refused(
        within(Duration::from_millis(300), &silent).overview().await,
        Fault::Endpoint,
        &["no answer in time"],
    );
    drop(done);

    let endless = at(&server(|mut stream| {
        let head = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n";
        let chunk = vec![b' '; 1 << 20];
        // Ends when the client hangs up.
        let mut written = stream.write_all(head.as_bytes());
        while written.is_ok() {
            written = stream.write_all(&chunk);
        }
    }));
    assert_refused(endless.overview().await, Fault::Endpoint, &["more than 67108864 bytes"]);
}
