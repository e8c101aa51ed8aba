//! A body that breaks off is gone on with, where that is safe.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use px::message::{DigestOf, Fault, Identity, Method};
use px::transfer::{Fetched, Fetcher, Kind, Options, TransferError, Wanted};

use crate::server::{Server, varied};

/// Of [`varied`].
const MD5: &str = "a24f1e3ef66950e1327f210e3997ba2c";

/// The answer, and how many sinks were made for it.
async fn fetch(server: &Server, path: &str, digest: Option<&str>) -> (Result<Fetched<Vec<u8>>, TransferError>, usize) {
    let options = Options {
        // Of a stall; whoever answers does so in this time, on a machine that is busy.
        read_timeout: Duration::from_secs(2),
        rest_first: Duration::ZERO,
        rest_longest: Duration::ZERO,
        ..Options::default()
    };
    let wanted = Wanted {
        url: server.url(path),
        size: None,
        identity: digest.map(|value| Identity {
            method: Method::Md5,
            value: value.into(),
            of: DigestOf::Content,
        }),
    };
    let sinks = Arc::new(AtomicUsize::new(0));
    let made = sinks.clone();
    let open = move || {
        made.fetch_add(1, Ordering::Relaxed);
        Ok(Vec::new())
    };
    let result = Fetcher::new(options).unwrap().fetch(&wanted, open).await;
    (result, sinks.load(Ordering::Relaxed))
}

fn ranges(server: &Server, path: &str) -> Vec<Option<String>> {
    let asked = server.asked().into_iter().filter(|asked| asked.path == path);
    asked.map(|asked| asked.headers.get("range").cloned()).collect()
}

#[tokio::test]
async fn what_broke_off_is_gone_on_with() {
    let server = Server::start().await;
    for path in [
        "/resume/cut",
        "/resume/reset",
        "/resume/chunkcut",
        "/resume/time",
        "/resume/stall",
    ] {
        let (result, sinks) = fetch(&server, path, Some(MD5)).await;
        match result.unwrap_or_else(|err| panic!("{path}: {err} {err:?}")) {
            Fetched::AsAnnounced(bytes, facts) => {
                assert!(bytes == varied(), "{path}");
                assert_eq!(facts.size, 1000, "{path}");
            }
            other => panic!("{path}: {other:?}"),
        }
        assert_eq!(sinks, 1, "{path}");
        assert_eq!(ranges(&server, path), [None, Some("bytes=600-".to_owned())], "{path}");
    }
    let asked = server.asked();
    let of = |path: &str| asked.iter().rfind(|asked| asked.path == path).unwrap().headers["if-range"].clone();
    assert_eq!(of("/resume/cut"), "\"v1\"");
    assert_eq!(of("/resume/time"), "Wed, 21 Oct 2015 07:28:00 GMT");
}

#[tokio::test]
async fn another_version_or_another_range_begins_anew_in_another_sink() {
    let server = Server::start().await;
    for (path, requests) in [("/resume/badrange", 2), ("/resume/206wrong", 3), ("/resume/416", 3)] {
        let (result, sinks) = fetch(&server, path, Some(MD5)).await;
        match result.unwrap_or_else(|err| panic!("{path}: {err} {err:?}")) {
            Fetched::AsAnnounced(bytes, _) => assert!(bytes == varied(), "{path}"),
            other => panic!("{path}: {other:?}"),
        }
        assert_eq!((sinks, ranges(&server, path).len()), (2, requests), "{path}");
    }
    match fetch(&server, "/resume/changed", None).await {
        (Ok(Fetched::AsAnnounced(bytes, facts)), 2) => {
            assert_eq!(bytes, b"another version");
            assert_eq!((facts.etag.as_deref(), facts.size), (Some("\"v2\""), 15));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_cannot_be_told_apart_or_does_not_go_on_fails() {
    let server = Server::start().await;
    let table = [
        // A weak ETag, and a time of the very second, name no version.
        ("/resume/weak", Fault::Endpoint, Kind::Broken, 1),
        ("/resume/fresh", Fault::Endpoint, Kind::Broken, 1),
        ("/resume/stuck", Fault::Endpoint, Kind::Broken, 2),
        ("/resume/slowly", Fault::Endpoint, Kind::Broken, 6),
        ("/resume/gone", Fault::Message, Kind::Gone, 2),
    ];
    for (path, fault, kind, requests) in table {
        let err = fetch(&server, path, None).await.0.unwrap_err();
        assert_eq!((err.fault, err.kind), (fault, kind), "{path}: {err} {err:?}");
        assert_eq!(ranges(&server, path).len(), requests, "{path}");
    }
}
