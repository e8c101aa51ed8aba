//! Fetching from servers that have logins: ftp and sftp URLs.

use std::path::PathBuf;
use std::time::Duration;

use px::config::Secret;
use px::message::{Fault, Identity, Method};
use px::transfer::peer::Peer;
use px::transfer::policy::Policy;
use px::transfer::{Credential, Fetched, Fetcher, Kind, Options, TransferError, Wanted};

use crate::support::{FtpServer, FtpTls, Ftpd, SshServer};

/// A server with files in `home`.
struct Served {
    url: String,
    home: PathBuf,
    peer: Peer,
}

fn fetcher(served: &Served, password: Option<&str>) -> Fetcher {
    let mut login = served.peer.login.clone();
    if let Some(password) = password {
        login.password = Some(Secret::new(password));
    }
    let credential = Credential {
        known_hosts: served.peer.trust.known_hosts.clone(),
        ..Credential::new(served.url.parse().unwrap(), login)
    };
    Fetcher::new(Options {
        policy: Policy {
            schemes: vec!["ftp".into(), "sftp".into()],
            ..Policy::default()
        },
        credentials: vec![credential],
        rest_first: Duration::ZERO,
        rest_longest: Duration::ZERO,
        ..Options::default()
    })
    .unwrap()
}

async fn fetch(
    fetcher: &Fetcher,
    url: String,
    size: Option<u64>,
    identity: Option<Identity>,
) -> Result<Fetched<Vec<u8>>, TransferError> {
    fetcher.fetch(&Wanted { url, size, identity }, || Ok(Vec::new())).await
}

async fn keeps_its_promises(served: &Served) {
    let large: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    std::fs::create_dir_all(served.home.join("a b")).unwrap();
    for (name, bytes) in [("large", &large[..]), ("a b/é%#", b"odd"), ("empty", b"")] {
        std::fs::write(served.home.join(name), bytes).unwrap();
    }
    let good = fetcher(served, None);
    for (path, bytes) in [("large", &large[..]), ("a%20b/%C3%A9%25%23", b"odd"), ("empty", b"")] {
        let url = format!("{}{path}", served.url);
        match fetch(&good, url.clone(), Some(bytes.len() as u64), None).await.unwrap() {
            Fetched::AsAnnounced(got, facts) => {
                assert!(got == bytes, "{url}");
                assert!(facts.last_modified.is_some(), "{url}");
            }
            other => panic!("{url}: {other:?}"),
        }
    }
    let wrong = Identity {
        method: Method::Md5,
        value: "0".repeat(32),
        of: px::message::DigestOf::Content,
    };
    let differs = fetch(&good, format!("{}large", served.url), None, Some(wrong))
        .await
        .unwrap();
    assert!(matches!(differs, Fetched::Differs(..)));
    let gone = fetch(&good, format!("{}gone", served.url), None, None)
        .await
        .unwrap_err();
    assert_eq!((gone.fault, gone.kind), (Fault::Message, Kind::Gone), "{gone}");
    let refused = fetch(
        &fetcher(served, Some("canary")),
        format!("{}large", served.url),
        None,
        None,
    )
    .await
    .unwrap_err();
    assert_eq!(
        (refused.fault, refused.kind),
        (Fault::Endpoint, Kind::Forbidden),
        "{refused}"
    );
    assert!(!format!("{refused} {refused:?}").contains("canary"));
}

#[tokio::test]
async fn products_come_by_ftp() {
    let server = FtpServer::start(Ftpd::Python, FtpTls::None);
    let served = Served {
        url: format!("ftp://127.0.0.1:{}/", server.port),
        home: server.home().to_owned(),
        peer: server.peer(),
    };
    keeps_its_promises(&served).await;
    let logins = server.commands().iter().filter(|said| said.starts_with("USER")).count();
    assert_eq!(logins, 2, "one connection for all, and the one that was refused");
}

#[tokio::test]
async fn products_come_by_sftp() {
    let server = SshServer::start();
    let served = Served {
        url: format!("sftp://127.0.0.1:{}{}/", server.port, server.home().display()),
        home: server.home().to_owned(),
        peer: server.peer(),
    };
    keeps_its_promises(&served).await;
    let from_login = format!("sftp://127.0.0.1:{}/~/large", server.port);
    let mut login = fetcher(&served, None);
    let err = fetch(&login, from_login.clone(), None, None).await.unwrap_err();
    assert_eq!(
        (err.fault, err.kind),
        (Fault::Endpoint, Kind::Forbidden),
        "no credentials are for it: {err}"
    );
    let all = Served {
        url: format!("sftp://127.0.0.1:{}/", server.port),
        ..served
    };
    login = fetcher(&all, None);
    match fetch(&login, from_login, None, None).await.unwrap() {
        Fetched::AsAnnounced(bytes, _) => assert_eq!(bytes.len(), 3_000_000),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn schemes_that_are_not_listed_are_not_fetched() {
    let fetcher = Fetcher::new(Options::default()).unwrap();
    for url in ["ftp://127.0.0.1/x", "sftp://127.0.0.1/x"] {
        let err = fetch(&fetcher, url.to_owned(), None, None).await.unwrap_err();
        assert_eq!((err.fault, err.kind), (Fault::Message, Kind::NotAllowed), "{err}");
    }
}
