use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use px::config::Secret;
use px::message::{DigestOf, Fault, Identity, Method};
use px::transfer::peer::Login;
use px::transfer::policy::Policy;
use px::transfer::{Credential, Fetched, Fetcher, Kind, Mismatch, Options, TransferError, Wanted};

use crate::private::is_private;
use crate::server::{BODY, Server};
use crate::support::free_port;

const WRONG_MD5: &str = "73d64b65f3b6f2f2f8d9a1a3a0e1d2b9";

fn options() -> Options {
    Options {
        rest_first: Duration::ZERO,
        rest_longest: Duration::ZERO,
        ..Options::default()
    }
}

/// For servers that fall silent; those that do not must be heard of in time, on a machine that is busy.
fn impatient() -> Options {
    Options {
        read_timeout: Duration::from_secs(1),
        ..options()
    }
}

fn wanted(url: String, size: Option<u64>) -> Wanted {
    Wanted {
        url,
        size,
        identity: None,
    }
}

async fn fetch(options: Options, url: String, size: Option<u64>) -> Result<Fetched<Vec<u8>>, TransferError> {
    Fetcher::new(options)
        .unwrap()
        .fetch(&wanted(url, size), || Ok(Vec::new()))
        .await
}

fn body(fetched: Fetched<Vec<u8>>) -> Vec<u8> {
    match fetched {
        Fetched::AsAnnounced(body, _) => body,
        Fetched::Differs(_, _, mismatch) => panic!("{mismatch}"),
    }
}

#[tokio::test]
async fn good_answers_arrive_whole_over_kept_connections() {
    let server = Server::start().await;
    let fetcher = Fetcher::new(options()).unwrap();
    for (path, size) in [
        ("/ok", 1000),
        ("/chunked", 1000),
        ("/ok", 1000),
        ("/empty", 0),
        ("/large", 3_000_000),
    ] {
        for announced in [None, Some(size)] {
            let got = fetcher
                .fetch(&wanted(server.url(path), announced), || Ok(Vec::new()))
                .await
                .unwrap();
            assert_eq!(body(got).len() as u64, size, "{path}");
        }
    }
    let closes = fetcher
        .fetch(&wanted(server.url("/closeafter"), Some(1000)), || Ok(Vec::new()))
        .await
        .unwrap();
    assert_eq!(body(closes), BODY);
    let asked = server.asked();
    assert_eq!(
        asked[0].headers["user-agent"],
        concat!("px/", env!("CARGO_PKG_VERSION"))
    );
    assert_eq!(asked[0].headers["accept-encoding"], "identity");
    match fetcher
        .fetch(&wanted(server.url("/ok"), None), || Ok(Vec::new()))
        .await
        .unwrap()
    {
        Fetched::AsAnnounced(_, facts) => {
            assert_eq!(facts.last_modified, Some("2015-10-21T07:28:00Z".parse().unwrap()));
            assert_eq!((facts.etag.as_deref(), facts.size), (Some("\"v1\""), 1000));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn every_misbehaviour_has_its_fault() {
    let server = Server::start().await;
    let table = [
        ("/truncate", Fault::Endpoint, Kind::Broken),
        ("/reset", Fault::Endpoint, Kind::Broken),
        ("/chunkcut", Fault::Endpoint, Kind::Broken),
        ("/garbage", Fault::Endpoint, Kind::Broken),
        ("/206", Fault::Endpoint, Kind::Broken),
        ("/stall", Fault::Endpoint, Kind::TimedOut),
        ("/nothing", Fault::Endpoint, Kind::TimedOut),
        ("/500", Fault::Endpoint, Kind::Unavailable),
        ("/503", Fault::Endpoint, Kind::Unavailable),
        ("/429", Fault::Endpoint, Kind::Unavailable),
        ("/401", Fault::Endpoint, Kind::Forbidden),
        ("/dir/403", Fault::Endpoint, Kind::Forbidden),
        ("/404", Fault::Message, Kind::Gone),
        ("/410", Fault::Message, Kind::Gone),
        ("/400", Fault::Message, Kind::Rejected),
        ("/loop", Fault::Message, Kind::NotAllowed),
        ("/nowhere", Fault::Message, Kind::NotAllowed),
    ];
    for (path, fault, kind) in table {
        for announced in [None, Some(1000)] {
            let err = fetch(impatient(), server.url(path), announced).await.unwrap_err();
            assert_eq!((err.fault, err.kind), (fault, kind), "{path}: {err} {err:?}");
            assert!(err.what.contains(path), "{path}: {err}");
        }
    }
    let busy = fetch(options(), server.url("/503"), None).await.unwrap_err();
    assert_eq!(busy.retry_after, Some(Duration::from_secs(7)));
    let slow = fetch(options(), server.url("/429"), None).await.unwrap_err();
    assert!(slow.retry_after.unwrap() > Duration::from_secs(3600));
    let hops = server.asked().iter().filter(|asked| asked.path == "/loop").count();
    assert_eq!(hops, 2 * 6, "five redirects are followed");
}

#[tokio::test]
async fn nobody_there_is_the_endpoints_fault() {
    let free = free_port();
    let refused = fetch(options(), format!("http://127.0.0.1:{free}/x"), None)
        .await
        .unwrap_err();
    assert_eq!((refused.fault, refused.kind), (Fault::Endpoint, Kind::Unreachable));
    let unknown = fetch(options(), "http://no-such-host.invalid/x".into(), None)
        .await
        .unwrap_err();
    assert_eq!(unknown.fault, Fault::Endpoint, "{unknown}");
}

#[tokio::test]
async fn a_slow_transfer_has_no_total_time_out() {
    let server = Server::start().await;
    let began = std::time::Instant::now();
    assert_eq!(
        body(fetch(impatient(), server.url("/drip"), Some(20)).await.unwrap()).len(),
        20
    );
    assert!(began.elapsed() > impatient().read_timeout, "else it proves nothing");
}

#[tokio::test]
async fn bytes_that_are_not_those_announced_are_handed_over_as_such() {
    let server = Server::start().await;
    let table = [
        ("/nolength", Some(1000), 600),
        ("/long", Some(1000), 500),
        ("/empty", Some(1), 0),
        ("/ok", Some(999), 1000),
        ("/large", Some(10), 1 << 20),
        ("/endless", Some(10), 1 << 20),
    ];
    for (path, size, kept) in table {
        match fetch(options(), server.url(path), size).await.unwrap() {
            Fetched::Differs(body, _, _) => assert_eq!(body.len(), kept, "{path}"),
            Fetched::AsAnnounced(..) => panic!("{path} passed for {size:?} bytes"),
        }
    }
}

#[tokio::test]
async fn a_digest_of_the_content_is_checked() {
    let server = Server::start().await;
    let fetcher = Fetcher::new(options()).unwrap();
    let identity = |value: &str, of| Identity {
        method: Method::Md5,
        value: value.into(),
        of,
    };
    let mut wanted = wanted(server.url("/ok"), None);
    wanted.identity = Some(identity(WRONG_MD5, DigestOf::Content));
    match fetcher.fetch(&wanted, || Ok(Vec::new())).await.unwrap() {
        Fetched::Differs(_, _, Mismatch::Digest { got, .. }) => {
            wanted.identity = Some(identity(&got, DigestOf::Content));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(body(fetcher.fetch(&wanted, || Ok(Vec::new())).await.unwrap()), BODY);
    wanted.identity = Some(identity(WRONG_MD5, DigestOf::Name));
    assert_eq!(body(fetcher.fetch(&wanted, || Ok(Vec::new())).await.unwrap()), BODY);
}

#[tokio::test]
async fn more_than_the_unit_takes_is_refused() {
    let server = Server::start().await;
    let small = Options {
        max_bytes: 500,
        ..options()
    };
    for (path, size) in [
        ("/ok", None),
        ("/ok", Some(1000)),
        ("/chunked", None),
        ("/endless", None),
    ] {
        let err = fetch(small.clone(), server.url(path), size).await.unwrap_err();
        assert_eq!((err.fault, err.kind), (Fault::Message, Kind::TooLarge), "{path}");
    }
}

#[tokio::test]
async fn redirects_lead_only_where_the_operator_allows() {
    let (server, other) = (Server::start().await, Server::start().await);
    assert_eq!(body(fetch(options(), server.url("/hop"), None).await.unwrap()), BODY);
    assert_eq!(body(fetch(options(), server.url("/to?/ok"), None).await.unwrap()), BODY);
    let elsewhere = server.url(&format!("/to?{}", other.url("/ok")));
    let targets = [
        elsewhere.clone(),
        server.url("/to?file:///etc/hostname"),
        server.url("/to?ftp://127.0.0.1/x"),
        server.url(&format!("/to?http://u:canary@127.0.0.1:{}/ok", server.port)),
        server.url("/to?http://"),
    ];
    for url in targets {
        let err = fetch(options(), url.clone(), None).await.unwrap_err();
        assert_eq!((err.fault, err.kind), (Fault::Message, Kind::NotAllowed), "{url}");
    }
    assert!(other.asked().is_empty());
    let listed = Options {
        policy: Policy {
            hosts: vec![
                format!("127.0.0.1:{}", server.port).parse().unwrap(),
                "127.0.0.1".parse().unwrap(),
            ],
            ..Policy::default()
        },
        ..options()
    };
    assert_eq!(body(fetch(listed, elsewhere, None).await.unwrap()), BODY);
}

#[tokio::test]
async fn a_password_goes_to_its_prefix_and_nowhere_else() {
    let server = Server::start().await;
    let options = Options {
        credentials: vec![Credential::new(
            server.url("/to").parse().unwrap(),
            Login {
                user: "px".into(),
                password: Some(Secret::new("canary")),
                ..Login::default()
            },
        )],
        ..options()
    };
    assert_eq!(
        body(fetch(options.clone(), server.url("/to?/to?/ok"), None).await.unwrap()),
        BODY
    );
    assert_eq!(
        body(fetch(options.clone(), server.url("/ok"), None).await.unwrap()),
        BODY
    );
    let sent: Vec<bool> = server
        .asked()
        .iter()
        .map(|asked| asked.headers.contains_key("authorization"))
        .collect();
    assert_eq!(sent, [true, false, false, false]);
    let refused = fetch(options, server.url("/dir/403"), None).await.unwrap_err();
    assert!(!format!("{refused} {refused:?}").contains("canary"));
    let announced = format!("http://px:canary@127.0.0.1:{}/ok", server.port);
    let err = fetch(self::options(), announced, None).await.unwrap_err();
    assert_eq!(err.kind, Kind::NotAllowed);
    assert!(!format!("{err} {err:?}").contains("canary"));
}

#[tokio::test]
async fn a_host_that_failed_rests_and_a_forbidden_directory_rests_alone() {
    let (server, other) = (Server::start().await, Server::start().await);
    let fetcher = Fetcher::new(Options {
        rest_first: Duration::from_secs(600),
        rest_longest: Duration::from_secs(600),
        ..options()
    })
    .unwrap();
    let try_one = async |url: String| fetcher.fetch(&wanted(url, None), || Ok(Vec::new())).await;
    assert_eq!(try_one(server.url("/dir/403")).await.unwrap_err().kind, Kind::Forbidden);
    assert_eq!(try_one(server.url("/dir/ok")).await.unwrap_err().kind, Kind::Resting);
    assert_eq!(body(try_one(server.url("/ok")).await.unwrap()), BODY);
    assert_eq!(try_one(server.url("/404")).await.unwrap_err().kind, Kind::Gone);
    assert_eq!(body(try_one(server.url("/ok")).await.unwrap()), BODY);
    assert_eq!(try_one(server.url("/503")).await.unwrap_err().kind, Kind::Unavailable);
    let resting = try_one(server.url("/ok")).await.unwrap_err();
    assert_eq!((resting.fault, resting.kind), (Fault::Endpoint, Kind::Resting));
    assert!(resting.retry_after.unwrap() > Duration::from_secs(500));
    assert!(fetcher.rests(&server.url("/ok")).is_some() && fetcher.rests(&other.url("/ok")).is_none());
    assert_eq!(body(try_one(other.url("/ok")).await.unwrap()), BODY);
    assert_eq!(server.asked().len(), 5, "a resting host is not asked");
}

/// A sink like a full disk.
#[derive(Debug)]
struct Full;

impl Write for Full {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::Error::from_raw_os_error(28))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_sink_that_refuses_is_our_own_fault_and_is_not_made_without_need() {
    let server = Server::start().await;
    let fetcher = Fetcher::new(options()).unwrap();
    let err = fetcher
        .fetch(&wanted(server.url("/large"), None), || Ok(Full))
        .await
        .unwrap_err();
    assert_eq!((err.fault, err.kind), (Fault::Own, Kind::Local));
    let is_made = Arc::new(AtomicBool::new(false));
    let made = is_made.clone();
    let open = move || {
        made.store(true, Ordering::SeqCst);
        Ok(Vec::new())
    };
    assert!(fetcher.fetch(&wanted(server.url("/404"), None), open).await.is_err());
    assert!(!is_made.load(Ordering::SeqCst));
}

#[test]
fn no_descriptors_left_is_our_own_fault() {
    if !is_private(
        "http::no_descriptors_left_is_our_own_fault",
        &["prlimit", "--nofile=64"],
        &[],
    ) {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let server = Server::start().await;
        let fetcher = Fetcher::new(options()).unwrap();
        let mut taken = Vec::new();
        while let Ok(file) = std::fs::File::open("/dev/null") {
            taken.push(file);
        }
        for url in [server.url("/ok"), "http://localhost:9/x".into()] {
            let err = fetcher.fetch(&wanted(url, None), || Ok(Vec::new())).await.unwrap_err();
            assert_eq!((err.fault, err.kind), (Fault::Own, Kind::Local), "{err}: {err:?}");
        }
        drop(taken);
        assert_eq!(
            body(
                fetcher
                    .fetch(&wanted(server.url("/ok"), None), || Ok(Vec::new()))
                    .await
                    .unwrap()
            ),
            BODY
        );
    });
}
