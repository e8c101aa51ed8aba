//! What is FTP's own: its modes, its TLS, its refusals. What every scheme promises is elsewhere.

use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use px::config::Secret;
use px::message::Fault;
use px::spool::Durability;
use px::transfer::deliver::{Deliverer, Destination, Lane, Lock, Options, Parcel};
use px::transfer::ftp::How;
use px::transfer::peer::Peer;
use px::transfer::policy::Policy;
use px::transfer::{Credential, Fetched, Fetcher, Kind, Options as Fetching, TransferError, Wanted};

use crate::private::{is_private, unshare};
use crate::support::{FTP_UID, FtpServer, FtpTls, Ftpd, eventually, files_below, within};

const SOON: Duration = Duration::from_secs(30);
const PASSIVE: How = How {
    active: false,
    tls: false,
    ascii: false,
};

fn options(peer: Peer, how: How) -> Options {
    Options {
        destination: Destination::Ftp(peer, how),
        lock: Lock::Suffix(".tmp".into()),
        mode: None,
        makes_directories: true,
        bandwidth: None,
        durability: Durability::Crash,
        rest_first: Duration::ZERO,
        rest_longest: Duration::ZERO,
    }
}

fn lane(options: Options) -> Lane {
    Deliverer::new(options).unwrap().lane()
}

fn parcel(directory: &[u8], name: &[u8], bytes: &[u8]) -> Parcel {
    let mut content = tempfile::tempfile().unwrap();
    content.write_all(bytes).unwrap();
    Parcel {
        content,
        size: bytes.len() as u64,
        directory: directory.to_vec(),
        name: name.to_vec(),
        modified: Some("2015-10-21T07:28:00Z".parse().unwrap()),
    }
}

fn names(home: &Path) -> Vec<String> {
    let below = files_below(home).into_iter();
    below
        .map(|path| path.strip_prefix(home).unwrap().to_string_lossy().into_owned())
        .collect()
}

#[track_caller]
fn assert_class(err: &TransferError, fault: Fault, kind: Kind) {
    assert_eq!((err.fault, err.kind), (fault, kind), "{err:?}");
}

/// Every mode, in clear and protected, small and large, new and replacing; the time and mode are those asked for.
async fn deliver_all_ways(program: Ftpd, tls: FtpTls) {
    let server = FtpServer::start(program, tls);
    for active in [false, true] {
        let mut peer = server.peer();
        if tls == FtpTls::ClientCertificate {
            peer.login.certificate_file = Some(server.directory().join("client.pem"));
        }
        let how = How {
            active,
            tls: tls != FtpTls::None,
            ascii: false,
        };
        let mut lane = lane(Options {
            mode: Some(0o640),
            ..options(peer, how)
        });
        for size in [0, 10, 700_000, 3, 0] {
            let bytes: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
            for name in [&b"one:"[..], b"other"] {
                let put = within(SOON, "a put", lane.put(&parcel(b"a/b", name, &bytes))).await;
                let put = put.unwrap_or_else(|err| panic!("{program:?} {tls:?} active {active} {size}: {err:?}"));
                assert_eq!(put.bytes, size);
                let path = server.home().join("a/b").join(String::from_utf8_lossy(name).as_ref());
                assert!(std::fs::read(&path).unwrap() == bytes, "{size} bytes");
                let stat = std::fs::metadata(&path).unwrap();
                assert_eq!((stat.mode() & 0o777, stat.mtime()), (0o640, 1_445_412_480));
            }
        }
        assert_eq!(names(server.home()), ["a/b/one:", "a/b/other"]);
        lane.close().await;
    }
}

#[tokio::test]
async fn products_reach_pyftpdlib() {
    deliver_all_ways(Ftpd::Python, FtpTls::None).await;
}

#[tokio::test]
async fn products_reach_pyftpdlib_with_tls() {
    deliver_all_ways(Ftpd::Python, FtpTls::Required).await;
}

#[tokio::test]
async fn products_reach_proftpd() {
    deliver_all_ways(Ftpd::Proftpd, FtpTls::None).await;
}

#[tokio::test]
async fn products_reach_proftpd_with_tls() {
    deliver_all_ways(Ftpd::Proftpd, FtpTls::Required).await;
}

#[tokio::test]
async fn products_reach_proftpd_that_wants_its_session_resumed() {
    deliver_all_ways(Ftpd::Proftpd, FtpTls::SameSession).await;
}

#[tokio::test]
async fn products_reach_proftpd_that_knows_its_clients_by_certificate() {
    deliver_all_ways(Ftpd::Proftpd, FtpTls::ClientCertificate).await;
}

#[tokio::test]
async fn in_ascii_lines_keep_their_ends_whatever_the_wire_has() {
    for program in [Ftpd::Python, Ftpd::Proftpd] {
        let server = FtpServer::start(program, FtpTls::None);
        let mut lane = lane(options(server.peer(), How { ascii: true, ..PASSIVE }));
        lane.put(&parcel(b"", b"text", b"a\nb\r\nc\n")).await.unwrap();
        assert_eq!(std::fs::read(server.home().join("text")).unwrap(), b"a\nb\nc\n");
    }
}

#[tokio::test]
async fn names_of_any_kind_arrive_as_they_are() {
    let names: [&[u8]; 9] = [
        b"a b  c",
        b" leading",
        b"~root",
        b"~",
        b"-rf",
        b"quo\"te'*?[x]",
        "é€.grib".as_bytes(),
        &[b'n'; 255],
        b"what:URP:XSS:RADAR:GIF::20130606144709",
    ];
    for program in [Ftpd::Python, Ftpd::Proftpd] {
        let server = FtpServer::start(program, FtpTls::None);
        let mut lane = lane(options(server.peer(), PASSIVE));
        for name in names {
            let mut parcel = parcel(&[b"/~d \"e/", name].concat(), name, b"x");
            // proftpd makes no directory of such a name.
            if name.len() == 255 || name.contains(&b'*') {
                parcel.directory = b"/~d \"e".to_vec();
            }
            if let Err(err) = lane.put(&parcel).await {
                panic!("{program:?} {}: {err:?}", String::from_utf8_lossy(name));
            }
        }
        assert_eq!(files_below(server.home()).len(), names.len());
        for name in names {
            let found = files_below(server.home()).iter().any(|path| {
                use std::os::unix::ffi::OsStrExt;
                path.file_name().unwrap().as_bytes() == name
            });
            assert!(found, "{program:?} {}", String::from_utf8_lossy(name));
        }
    }
    let server = FtpServer::start(Ftpd::Proftpd, FtpTls::None);
    let mut lane = lane(options(server.peer(), PASSIVE));
    lane.put(&parcel(b"d\xe9", b"caf\xe9\xfe", b"x")).await.unwrap();
    assert_eq!(files_below(server.home()).len(), 1);
}

#[tokio::test]
async fn a_wrong_password_is_the_endpoints_and_is_not_printed() {
    for program in [Ftpd::Python, Ftpd::Proftpd] {
        let server = FtpServer::start(program, FtpTls::None);
        let mut peer = server.peer();
        peer.login.password = Some(Secret::new("canary"));
        let mut lane = lane(options(peer, PASSIVE));
        let err = lane.put(&parcel(b"", b"x", b"x")).await.unwrap_err();
        assert_class(&err, Fault::Endpoint, Kind::LoginRefused);
        assert!(
            err.what.contains(&format!("ftp://u@127.0.0.1:{}", server.port)),
            "{err}"
        );
        assert!(!format!("{err:?} {lane:?}").contains("canary"), "{err:?}");
    }
}

#[tokio::test]
async fn without_a_user_px_is_anonymous() {
    let server = FtpServer::start(Ftpd::Python, FtpTls::None);
    let mut peer = server.peer();
    (peer.login.user, peer.login.password) = (String::new(), None);
    lane(options(peer, PASSIVE))
        .put(&parcel(b"", b"x", b"x"))
        .await
        .unwrap();
    assert_eq!(names(server.home()), ["x"]);
}

#[tokio::test]
async fn tls_is_with_the_right_server_or_not_at_all() {
    let how = How { tls: true, ..PASSIVE };
    let plain = FtpServer::start(Ftpd::Python, FtpTls::None);
    let (server, foreign) = (
        FtpServer::start(Ftpd::Proftpd, FtpTls::ClientCertificate),
        FtpServer::start(Ftpd::Python, FtpTls::Required),
    );
    let mut trusting = plain.peer();
    trusting.trust.ca_file = server.peer().trust.ca_file;
    let err = lane(options(trusting, how))
        .put(&parcel(b"", b"x", b"x"))
        .await
        .unwrap_err();
    assert_class(&err, Fault::Endpoint, Kind::Unreachable);
    assert!(err.what.contains("refuses TLS"), "{err}");
    assert!(!plain.commands().iter().any(|command| command.starts_with("PASS")));

    let mut peer = foreign.peer();
    peer.trust.ca_file = server.peer().trust.ca_file;
    let err = lane(options(peer, how))
        .put(&parcel(b"", b"x", b"x"))
        .await
        .unwrap_err();
    assert_class(&err, Fault::Endpoint, Kind::Unreachable);
    assert!(!foreign.commands().iter().any(|command| command.starts_with("USER")));

    let err = lane(options(server.peer(), how))
        .put(&parcel(b"", b"x", b"x"))
        .await
        .unwrap_err();
    assert_eq!(err.fault, Fault::Endpoint, "no certificate: {err:?}");

    for (name, ca_file) in [
        ("none.pem", true),
        ("client.key", true),
        ("none.pem", false),
        ("server.key", false),
    ] {
        let (mut peer, file) = (server.peer(), server.directory().join(name));
        match ca_file {
            true => peer.trust.ca_file = Some(file),
            false => peer.login.certificate_file = Some(file),
        }
        let err = lane(options(peer, how))
            .put(&parcel(b"", b"x", b"x"))
            .await
            .unwrap_err();
        let kind = if ca_file { Kind::Local } else { Kind::Credentials };
        assert_class(&err, Fault::Own, kind);
        assert!(err.what.contains(name), "{err}");
    }
}

#[tokio::test]
async fn a_server_in_clear_is_refused_where_it_wants_tls() {
    for program in [Ftpd::Python, Ftpd::Proftpd] {
        let server = FtpServer::start(program, FtpTls::Required);
        let err = lane(options(server.peer(), PASSIVE))
            .put(&parcel(b"", b"x", b"x"))
            .await
            .unwrap_err();
        assert_eq!(err.fault, Fault::Endpoint, "{err:?}");
        assert!(names(server.home()).is_empty());
    }
}

#[tokio::test]
async fn the_same_directory_costs_nothing_and_a_deeper_one_little() {
    let server = FtpServer::start(Ftpd::Python, FtpTls::None);
    let mut lane = lane(options(server.peer(), PASSIVE));
    for directory in [&b"a/b"[..], b"a//b/./", b"a/b/c", b"a", b"/a/b", b""] {
        lane.put(&parcel(directory, b"x", b"x")).await.unwrap();
    }
    let commands = server.commands();
    let moves: Vec<&str> = commands
        .iter()
        .filter(|command| ["CWD", "MKD", "STO"].contains(&&command[..3]))
        .map(String::as_str)
        .collect();
    let store = "STOR x.tmp";
    let expected = [
        &["CWD a", "MKD a", "CWD a", "CWD b", "MKD b", "CWD b", store][..],
        &[store],
        &["CWD c", "MKD c", "CWD c", store],
        &["CWD /", "CWD a", store],
        &["CWD /", "CWD a", "CWD b", store],
        &["CWD /", store],
    ];
    assert_eq!(moves, expected.concat());
}

#[tokio::test]
async fn a_directory_that_is_missing_or_closed_is_the_endpoints() {
    for program in [Ftpd::Python, Ftpd::Proftpd] {
        let server = FtpServer::start(program, FtpTls::None);
        let mut strict = lane(Options {
            makes_directories: false,
            ..options(server.peer(), PASSIVE)
        });
        let err = strict.put(&parcel(b"no/such", b"x", b"x")).await.unwrap_err();
        assert_class(&err, Fault::Endpoint, Kind::Forbidden);
        assert!(err.what.contains("no/such/x: no way into its directory"), "{err}");
        strict.put(&parcel(b"", b"x", b"x")).await.unwrap();
        assert_eq!(names(server.home()), ["x"]);
    }
    // As the user that it is, and not as root.
    let server = FtpServer::start(Ftpd::Proftpd, FtpTls::None);
    std::fs::create_dir(server.home().join("closed")).unwrap();
    let mut lane = lane(options(server.peer(), PASSIVE));
    for directory in [&b"closed"[..], b"closed/new"] {
        let err = lane.put(&parcel(directory, b"x", b"x")).await.unwrap_err();
        assert_class(&err, Fault::Endpoint, Kind::Forbidden);
    }
    lane.put(&parcel(b"", b"x", b"x")).await.unwrap();
    assert_eq!(names(server.home()), ["x"]);
}

#[tokio::test]
async fn a_name_that_is_a_directory_is_the_products_fault() {
    for program in [Ftpd::Python, Ftpd::Proftpd] {
        let server = FtpServer::start(program, FtpTls::None);
        let mut lane = lane(options(server.peer(), PASSIVE));
        lane.put(&parcel(b"taken", b"x", b"x")).await.unwrap();
        let err = lane.put(&parcel(b"", b"taken", b"x")).await.unwrap_err();
        assert_class(&err, Fault::Message, Kind::Rejected);
        assert_eq!(names(server.home()), ["taken/x"]);
    }
}

#[tokio::test]
async fn a_server_that_does_not_replace_is_helped_and_one_without_chmod_is_forgiven() {
    let words = ["norename", "nochmod"];
    let server = FtpServer::start_with(Ftpd::Python, FtpTls::None, None, &words);
    let mut lane = lane(Options {
        mode: Some(0o600),
        ..options(server.peer(), PASSIVE)
    });
    for bytes in [&b"old"[..], b"newer", b"newest"] {
        lane.put(&parcel(b"", b"x", bytes)).await.unwrap();
        assert_eq!(std::fs::read(server.home().join("x")).unwrap(), bytes);
    }
    assert_eq!(names(server.home()), ["x"]);
}

#[tokio::test]
async fn with_the_lock_umask_nobody_may_read_until_it_is_whole() {
    // proftpd has no SITE UMASK. As another user, for root may open what has no permission at all.
    let server = FtpServer::start_with(Ftpd::Python, FtpTls::None, None, &["umask", "user"]);
    let slow = Options {
        lock: Lock::Umask,
        mode: Some(0o664),
        bandwidth: Some(1_000_000),
        ..options(server.peer(), PASSIVE)
    };
    let (home, bytes) = (server.home().to_owned(), vec![b'x'; 600_000]);
    std::fs::write(home.join("x"), "older, and open to all").unwrap();
    let mut lane = lane(slow);
    let product = parcel(b"", b"x", &bytes);
    let mut seen = 0;
    let looking = eventually(SOON, "it is whole and open", async || {
        let stat = std::fs::metadata(home.join("x")).map(|stat| (stat.mode() & 0o777, stat.len()));
        // The old one is 22 bytes long; between them there is none.
        let stat = stat.unwrap_or_default();
        let is_new = stat.1 > 22;
        assert!(!is_new || stat.0 == 0 || stat == (0o664, 600_000), "{stat:?}");
        seen += u32::from(is_new && stat.0 == 0);
        is_new && stat.0 != 0
    });
    let putting = async { lane.put(&product).await.unwrap() };
    tokio::join!(putting, looking);
    assert!(seen > 0, "it was never looked at meanwhile");
    let stat = std::fs::metadata(home.join("x")).unwrap();
    assert_eq!((stat.mode() & 0o777, stat.len(), stat.uid()), (0o664, 600_000, FTP_UID));
    // Directories are not made under that umask, and what another try left without any permission is no obstacle.
    lane.put(&parcel(b"new/er", b"x", b"x")).await.unwrap();
    assert_eq!(std::fs::metadata(home.join("new/er")).unwrap().mode() & 0o777, 0o755);
    std::fs::set_permissions(home.join("new/er/x"), PermissionsExt::from_mode(0o000)).unwrap();
    lane.put(&parcel(b"new/er", b"x", b"xy")).await.unwrap();
    assert_eq!(std::fs::read(home.join("new/er/x")).unwrap(), b"xy");
}

#[tokio::test]
async fn a_server_without_umask_says_that_another_lock_is_needed() {
    let server = FtpServer::start(Ftpd::Python, FtpTls::None);
    let mut lane = lane(Options {
        lock: Lock::Umask,
        ..options(server.peer(), PASSIVE)
    });
    let err = lane.put(&parcel(b"", b"x", b"x")).await.unwrap_err();
    assert_class(&err, Fault::Endpoint, Kind::Rejected);
    assert!(err.what.contains("set another lock"), "{err}");
    assert!(names(server.home()).is_empty());
}

#[tokio::test]
async fn a_server_that_dies_or_falls_silent_is_tried_again() {
    for (program, dies) in [(Ftpd::Python, true), (Ftpd::Proftpd, true), (Ftpd::Proftpd, false)] {
        let mut server = FtpServer::start(program, FtpTls::None);
        let mut peer = server.peer();
        peer.read_timeout = Duration::from_secs(3);
        let mut slow = lane(Options {
            bandwidth: Some(2_000_000),
            ..options(peer, PASSIVE)
        });
        let product = parcel(b"", b"x", &vec![b'x'; 20_000_000]);
        let home = server.home().to_owned();
        let (result, ()) = tokio::join!(within(SOON, "an error", slow.put(&product)), async {
            eventually(SOON, "half of it", async || {
                std::fs::metadata(home.join("x.tmp")).is_ok_and(|stat| stat.len() > 0)
            })
            .await;
            match dies {
                true => server.kill(),
                false => server.freeze(),
            }
        });
        let err = result.unwrap_err();
        let kind = if dies { Kind::Broken } else { Kind::TimedOut };
        assert_class(&err, Fault::Endpoint, kind);
        assert_eq!(names(&home), ["x.tmp"], "nothing under its own name");
        server.kill();
        let err = slow.put(&product).await.unwrap_err();
        assert_class(&err, Fault::Endpoint, Kind::Unreachable);
        server.start_again();
        let small = parcel(b"", b"x", b"whole");
        within(SOON, "a put", slow.put(&small)).await.unwrap();
        assert_eq!(names(&home), ["x"]);
    }
}

#[test]
fn a_full_disk_of_the_server_is_told_and_heals() {
    let test = "ftp::a_full_disk_of_the_server_is_told_and_heals";
    if !is_private(test, &unshare(), &[]) {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    for program in [Ftpd::Python, Ftpd::Proftpd] {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let home = dir.path().join("small");
        std::fs::create_dir(&home).unwrap();
        let mount = |options: &str| {
            let mut command = Command::new("mount");
            command.args(["-t", "tmpfs", "-o", options, "px-test"]).arg(&home);
            assert!(command.status().unwrap().success());
        };
        mount("size=1m");
        let server = FtpServer::start_with(program, FtpTls::None, Some(&home), &[]);
        runtime.block_on(async {
            let mut lane = lane(options(server.peer(), PASSIVE));
            let product = parcel(b"", b"x", &vec![b'x'; 3_000_000]);
            let err = within(SOON, "an error", lane.put(&product)).await.unwrap_err();
            // pyftpdlib does not say why it breaks off, and proftpd calls a write that was cut short an I/O error.
            let kinds = match program {
                Ftpd::Python => [Kind::Broken, Kind::Broken],
                Ftpd::Proftpd => [Kind::Full, Kind::Unavailable],
            };
            assert_eq!(err.fault, Fault::Endpoint, "{program:?} {err:?}");
            assert!(kinds.contains(&err.kind), "{program:?} {err:?}");
            assert!(names(&home).is_empty(), "{program:?}: what was half there is gone");
            mount("remount,size=20m");
            within(SOON, "a put", lane.put(&product)).await.unwrap();
            assert_eq!(names(&home), ["x"]);
        });
    }
}

/// In clear and protected, with the session resumed, over kept connections; a wrong CA gets nothing.
#[tokio::test]
async fn products_are_fetched_all_ways() {
    let servers = [
        (Ftpd::Python, FtpTls::None),
        (Ftpd::Python, FtpTls::Required),
        (Ftpd::Proftpd, FtpTls::None),
        (Ftpd::Proftpd, FtpTls::Required),
        (Ftpd::Proftpd, FtpTls::SameSession),
    ];
    for (program, tls) in servers {
        let server = FtpServer::start(program, tls);
        let (home, foreign) = (
            server.home().join("a b"),
            FtpServer::start(Ftpd::Python, FtpTls::Required),
        );
        std::fs::create_dir(&home).unwrap();
        for active in [false, true] {
            let fetcher = |ca_file| {
                let prefix = format!("ftp://127.0.0.1:{}/", server.port);
                let credential = Credential {
                    prefix: prefix.parse().unwrap(),
                    login: server.peer().login,
                    known_hosts: None,
                    how: How {
                        active,
                        tls: tls != FtpTls::None,
                        ascii: false,
                    },
                };
                let policy = Policy {
                    schemes: vec!["ftp".into()],
                    ..Policy::default()
                };
                let options = Fetching {
                    policy,
                    credentials: vec![credential],
                    ca_file,
                    ..Fetching::default()
                };
                Fetcher::new(options).unwrap()
            };
            let wanted = Wanted {
                url: format!("ftp://127.0.0.1:{}/a%20b/x", server.port),
                size: None,
                identity: None,
            };
            let right = fetcher(server.peer().trust.ca_file);
            for size in [0, 10, 700_000, 3, 300_000] {
                std::fs::write(home.join("x"), vec![b'x'; size]).unwrap();
                match within(SOON, "a fetch", right.fetch(&wanted, || Ok(Vec::new()))).await {
                    Ok(Fetched::AsAnnounced(bytes, _)) => assert_eq!(bytes.len(), size),
                    other => panic!("{program:?} {tls:?} active {active} {size}: {other:?}"),
                }
            }
            if tls != FtpTls::None {
                let wrong = fetcher(foreign.peer().trust.ca_file);
                let err = wrong.fetch(&wanted, || Ok(Vec::new())).await.unwrap_err();
                assert_class(&err, Fault::Endpoint, Kind::Unreachable);
            }
        }
    }
}

#[tokio::test]
async fn a_directory_that_was_taken_away_is_made_again() {
    for program in [Ftpd::Python, Ftpd::Proftpd] {
        let server = FtpServer::start(program, FtpTls::None);
        let mut lane = lane(options(server.peer(), PASSIVE));
        lane.put(&parcel(b"a/b", b"x", b"1")).await.unwrap();
        std::fs::remove_dir_all(server.home().join("a")).unwrap();
        lane.put(&parcel(b"a/b", b"y", b"2")).await.unwrap();
        assert_eq!(std::fs::read(server.home().join("a/b/y")).unwrap(), b"2");
    }
}

#[tokio::test]
async fn what_is_there_stays_where_nothing_can_replace_it() {
    let closed = ["<Limit RNFR>\nDenyAll\n</Limit>"];
    let server = FtpServer::start_with(Ftpd::Proftpd, FtpTls::None, None, &closed);
    let x = server.home().join("x");
    std::fs::write(&x, b"old").unwrap();
    let err = lane(options(server.peer(), PASSIVE))
        .put(&parcel(b"", b"x", b"new"))
        .await
        .unwrap_err();
    assert_eq!(err.fault, Fault::Endpoint, "{err}");
    assert_eq!(std::fs::read(&x).unwrap(), b"old");
}
