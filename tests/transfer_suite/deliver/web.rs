//! HTTP: plain PUT and WebDAV, on nginx; and what only HTTP has.

use std::path::PathBuf;
use std::time::Duration;

use px::config::Secret;
use px::message::Fault;
use px::transfer::deliver::{Destination, HttpDestination, Lock, Options};
use px::transfer::peer::{Login, Peer, Trust};
use px::transfer::{Credential, Fetched, Fetcher, Kind as Failure, Options as Fetching, Wanted};

use super::row::{Row, Server, lane};
use crate::support::WebServer;

/// How products are put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Put,
    Dav,
}

pub struct Web {
    kind: Kind,
    server: WebServer,
}

impl Web {
    pub fn start(kind: Kind) -> Web {
        let server = WebServer::start();
        Web { kind, server }
    }

    fn place(&self) -> &'static str {
        match self.kind {
            Kind::Put => "put",
            Kind::Dav => "dav",
        }
    }
}

/// The destination at a URL, as user `u`.
fn destination(url: String, webdav: bool) -> HttpDestination {
    let url: url::Url = url.parse().unwrap();
    HttpDestination {
        peer: Peer {
            host: url.host_str().unwrap().to_owned(),
            port: url.port().unwrap(),
            login: Login {
                user: "u".into(),
                password: Some(Secret::new("pw")),
                ..Login::default()
            },
            trust: Trust::default(),
            connect_timeout: Duration::from_secs(5),
            read_timeout: Duration::from_secs(20),
        },
        url,
        webdav,
    }
}

impl Row for Web {
    fn name(&self) -> &'static str {
        match self.kind {
            Kind::Put => "http PUT",
            Kind::Dav => "webdav",
        }
    }

    fn destination(&self) -> Destination {
        let url = self.server.url(&format!("/{}/", self.place()));
        Destination::Http(destination(url, self.kind == Kind::Dav))
    }

    fn root(&self) -> PathBuf {
        self.server.files().join(self.place())
    }

    fn half_done(&self) -> Vec<PathBuf> {
        vec![self.server.half_done()]
    }

    fn locks(&self) -> Vec<Lock> {
        match self.kind {
            Kind::Put => vec![Lock::None],
            Kind::Dav => vec![Lock::Suffix(".tmp".into()), Lock::None],
        }
    }

    fn server(&mut self) -> Result<&mut dyn Server, &'static str> {
        Ok(&mut self.server)
    }

    fn makes_no_directories(&self) -> Option<&'static str> {
        (self.kind == Kind::Put).then_some("plain PUT has no word for it")
    }

    fn names_no_missing_directory(&self) -> Option<&'static str> {
        Some("nginx says 500 of it")
    }

    fn shows_half(&self, _lock: &Lock) -> Option<&'static str> {
        None // nginx renames what has come in whole
    }

    fn has_no_modes(&self) -> Option<&'static str> {
        Some("HTTP has none")
    }

    fn has_no_times(&self) -> Option<&'static str> {
        Some("HTTP has none")
    }
}

impl Server for WebServer {
    fn kill(&mut self) {
        WebServer::kill(self);
    }

    fn start_again(&mut self) {
        WebServer::start_again(self);
    }

    fn freeze(&mut self) {
        WebServer::freeze(self);
    }

    fn thaw(&mut self) {
        WebServer::thaw(self);
    }

    fn connections(&self) -> Result<usize, &'static str> {
        Ok(self.asked().1)
    }
}

fn options(destination: HttpDestination) -> Options {
    let row = Web::start(Kind::Dav);
    Options {
        lock: match destination.webdav {
            true => Lock::Suffix(".tmp".into()),
            false => Lock::None,
        },
        destination: Destination::Http(destination),
        ..(&row as &dyn Row).options()
    }
}

#[tokio::test]
async fn a_client_certificate_opens_what_is_closed_without() {
    let row = Web::start(Kind::Dav);
    let mut to = destination(row.server.tls_url("/mtls/"), true);
    to.peer.trust.ca_file = Some(row.server.file("ca.pem"));
    let parcel = || (&row as &dyn Row).parcel("", b"secret", b"x");
    let err = lane(options(to.clone())).put(&parcel()).await.unwrap_err();
    assert_eq!((err.fault, err.kind), (Fault::Endpoint, Failure::Forbidden), "{err}");
    to.peer.login.certificate_file = Some(row.server.file("client.pem"));
    let put = lane(options(to.clone())).put(&parcel()).await;
    assert!(put.is_ok(), "{put:?}");
    assert_eq!((&row as &dyn Row).read(b"secret").unwrap(), b"x");
    // A certificate without its key, and a server that nobody vouches for.
    to.peer.login.certificate_file = Some(row.server.file("client.crt"));
    let err = lane(options(to.clone())).put(&parcel()).await.unwrap_err();
    assert_eq!(err.fault, Fault::Own, "{err}");
    assert!(err.what.contains("client.crt"), "{err}");
    to.peer.login.certificate_file = None;
    to.peer.trust.ca_file = Some(row.server.file("client.crt"));
    let err = lane(options(to)).put(&parcel()).await.unwrap_err();
    assert_eq!((err.fault, err.kind), (Fault::Endpoint, Failure::Unreachable), "{err}");
}

#[tokio::test]
async fn a_certificate_is_shown_below_its_prefix_only() {
    let row = Web::start(Kind::Dav);
    std::fs::write(row.root().join("x"), b"closed").unwrap();
    let credential = |prefix: String| {
        let login = Login {
            certificate_file: Some(row.server.file("client.pem")),
            ..Login::default()
        };
        Credential::new(prefix.parse().unwrap(), login)
    };
    let fetch = async |credentials: Vec<Credential>| {
        let options = Fetching {
            credentials,
            ca_file: Some(row.server.file("ca.pem")),
            rest_first: Duration::ZERO,
            rest_longest: Duration::ZERO,
            ..Fetching::default()
        };
        let wanted = Wanted {
            url: row.server.tls_url("/mtls/x"),
            size: None,
            identity: None,
        };
        Fetcher::new(options).unwrap().fetch(&wanted, || Ok(Vec::new())).await
    };
    match fetch(vec![credential(row.server.tls_url("/mtls/"))]).await.unwrap() {
        Fetched::AsAnnounced(bytes, _) => assert_eq!(bytes, b"closed"),
        other => panic!("{other:?}"),
    }
    for credentials in [vec![], vec![credential(row.server.tls_url("/other/"))]] {
        assert_eq!(fetch(credentials).await.unwrap_err().kind, Failure::Forbidden);
    }
}

#[tokio::test]
async fn too_large_is_the_products_fault_and_not_served_the_directorys() {
    let row = Web::start(Kind::Put);
    std::fs::create_dir(row.server.files().join("small")).unwrap();
    let small = destination(row.server.url("/small/"), false);
    let mut to_small = lane(options(small));
    let err = to_small
        .put(&(&row as &dyn Row).parcel("", b"x", &[1; 5000]))
        .await
        .unwrap_err();
    assert_eq!((err.fault, err.kind), (Fault::Message, Failure::TooLarge), "{err}");
    to_small
        .put(&(&row as &dyn Row).parcel("", b"x", &[1; 500]))
        .await
        .unwrap();
    // nginx serves this for reading only.
    let mut closed = lane(options(destination(row.server.url("/pub/"), false)));
    let err = closed
        .put(&(&row as &dyn Row).parcel("", b"x", b"x"))
        .await
        .unwrap_err();
    assert_eq!((err.fault, err.kind), (Fault::Endpoint, Failure::Forbidden), "{err}");
}

#[tokio::test]
async fn a_server_that_came_back_gets_the_next_product_at_once() {
    let mut row = Web::start(Kind::Dav);
    let mut lane = (&row as &dyn Row).lane();
    lane.put(&(&row as &dyn Row).parcel("", b"1", b"x")).await.unwrap();
    row.server.kill();
    row.server.start_again();
    let put = lane.put(&(&row as &dyn Row).parcel("", b"2", b"x")).await;
    assert!(
        put.is_ok(),
        "the old connection is dead, and that is no failure: {put:?}"
    );
}

/// An absolute directory begins at the root of the server.
#[tokio::test]
async fn directories_begin_at_the_url_or_at_the_root() {
    let row = Web::start(Kind::Dav);
    let mut lane = (&row as &dyn Row).lane();
    let mut parcel = (&row as &dyn Row).parcel("", b"x", b"x");
    parcel.directory = b"/dav/from/the root".to_vec();
    lane.put(&parcel).await.unwrap();
    assert_eq!((&row as &dyn Row).read(b"from/the root/x").unwrap(), b"x");
}
