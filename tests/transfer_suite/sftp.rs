//! What is SFTP's own: keys, agents, host keys, its refusals. What every scheme promises is elsewhere.

use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use px::config::Secret;
use px::message::Fault;
use px::spool::Durability;
use px::transfer::deliver::{Deliverer, Destination, Lane, Lock, Options, Parcel};
use px::transfer::peer::Peer;
use px::transfer::{Kind, TransferError};

use crate::private::{is_private, unshare};
use crate::support::{SSH_UID, SshAgent, SshServer, eventually, files_below, make_key, within};

const SOON: Duration = Duration::from_secs(30);

fn options(peer: Peer) -> Options {
    Options {
        destination: Destination::Sftp(peer),
        lock: Lock::Suffix(".tmp".into()),
        mode: None,
        makes_directories: true,
        bandwidth: None,
        durability: Durability::Power,
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

fn body(size: usize) -> Vec<u8> {
    (0..size).map(|n| (n % 251) as u8).collect()
}

/// One put over a connection of its own.
async fn put_once(peer: Peer, name: &str) -> Result<(), TransferError> {
    let mut lane = lane(options(peer));
    let result = within(SOON, "a put", lane.put(&parcel(b"", name.as_bytes(), b"abc"))).await;
    lane.close().await;
    result.map(drop)
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
    assert!(!format!("{err:?}").contains("canary"), "{err:?}");
}

/// Small and large, new and replacing; the time and mode are those asked for, and nothing else stays.
async fn deliver_all(more: &[&str], lock: Lock) {
    let server = SshServer::start_with(None, more);
    let mut lane = lane(Options {
        mode: Some(0o640),
        lock,
        ..options(server.peer())
    });
    for size in [0, 10, 3_000_000, 131_072, 3, 0] {
        let bytes = body(size);
        for name in [&b"one:"[..], "äöü".as_bytes()] {
            let put = within(SOON, "a put", lane.put(&parcel(b"a//b/./c", name, &bytes))).await;
            assert_eq!(
                put.unwrap_or_else(|err| panic!("{more:?} {size}: {err:?}")).bytes,
                size as u64
            );
            let path = server.home().join("a/b/c").join(std::ffi::OsStr::from_bytes(name));
            assert!(std::fs::read(&path).unwrap() == bytes, "{size} bytes");
            let stat = std::fs::metadata(&path).unwrap();
            assert_eq!((stat.mode() & 0o777, stat.mtime()), (0o640, 1_445_412_480));
        }
    }
    assert_eq!(names(server.home()), ["a/b/c/one:", "a/b/c/äöü"]);
    // From the root of the server, too.
    let absolute = server.home().join("d");
    let put = lane.put(&parcel(absolute.as_os_str().as_bytes(), b"x", b"1")).await;
    assert!(put.is_ok() && absolute.join("x").exists(), "{put:?}");
    lane.close().await;
}

#[tokio::test]
async fn products_arrive_under_a_temporary_name() {
    deliver_all(&[], Lock::Suffix(".tmp".into())).await;
}

#[tokio::test]
async fn products_arrive_without_permissions_until_they_are_whole() {
    deliver_all(&[], Lock::Umask).await;
}

#[tokio::test]
async fn products_arrive_without_a_lock() {
    deliver_all(&[], Lock::None).await;
}

/// A server that has none of OpenSSH's extensions, and old algorithms only.
#[tokio::test]
async fn products_reach_an_old_server() {
    let old = [
        "Subsystem sftp internal-sftp -P posix-rename,fsync,statvfs,limits",
        "KexAlgorithms diffie-hellman-group14-sha1",
        "Ciphers aes128-ctr",
        "MACs hmac-sha1",
    ];
    deliver_all(&old, Lock::Suffix(".tmp".into())).await;
}

#[tokio::test]
async fn servers_with_an_rsa_key_and_sha1_only_are_known() {
    let files = tempfile::tempdir().unwrap();
    let key = files.path().join("rsa");
    make_key(&key, "rsa", "");
    let host_key = format!("HostKey {}", key.display());
    let server = SshServer::start_with(None, &[&host_key, "HostKeyAlgorithms ssh-rsa"]);
    let public = std::fs::read_to_string(files.path().join("rsa.pub")).unwrap();
    let mut peer = server.peer();
    peer.trust.known_hosts = Some(server.trust("rsa", &format!("[127.0.0.1]:{} {public}", server.port)));
    put_once(peer, "x").await.unwrap();
}

#[tokio::test]
async fn a_known_type_of_key_is_asked_for() {
    let files = tempfile::tempdir().unwrap();
    let key = files.path().join("ecdsa");
    make_key(&key, "ecdsa", "");
    let server = SshServer::start_with(None, &[&format!("HostKey {}", key.display())]);
    let public = std::fs::read_to_string(files.path().join("ecdsa.pub")).unwrap();
    let mut peer = server.peer();
    peer.trust.known_hosts = Some(server.trust("ecdsa", &format!("[127.0.0.1]:{} {public}", server.port)));
    put_once(peer, "x").await.unwrap();
}

#[tokio::test]
async fn private_keys_let_px_in() {
    let server = SshServer::start();
    put_once(server.peer_by_key(), "plain").await.unwrap();
    for kind in ["ed25519", "rsa", "ecdsa"] {
        let key = server.path().join(format!("locked_{kind}"));
        make_key(&key, kind, "canary");
        server.authorize(&key.with_extension("pub"));
        let mut peer = server.peer_by_key();
        peer.login.key_file = Some(key);
        peer.login.password = Some(Secret::new("canary"));
        put_once(peer.clone(), kind)
            .await
            .unwrap_or_else(|err| panic!("{kind}: {err:?}"));
        for password in [None, Some(Secret::new("canary-2"))] {
            peer.login.password = password;
            assert_class(
                &put_once(peer.clone(), "no").await.unwrap_err(),
                Fault::Own,
                Kind::Credentials,
            );
        }
    }
    assert_eq!(names(server.home()), ["ecdsa", "ed25519", "plain", "rsa"]);
}

#[tokio::test]
async fn what_opens_a_key_is_not_told_to_the_server() {
    let server = SshServer::start();
    let key = server.path().join("other");
    make_key(&key, "ed25519", "pw");
    let mut peer = server.peer();
    peer.login.key_file = Some(key);
    // "pw" would be the right password, too.
    let err = put_once(peer, "x").await.unwrap_err();
    assert_class(&err, Fault::Endpoint, Kind::LoginRefused);
    assert!(!server.log().contains("Failed password") && !server.log().contains("Accepted password"));
}

/// With an environment of its own, for the agent's socket.
#[test]
fn an_agent_lets_px_in() {
    let server = SshServer::start();
    let other = server.path().join("other");
    make_key(&other, "rsa", "");
    server.authorize(&other.with_extension("pub"));
    // The first one is not let in.
    let stranger = server.path().join("stranger");
    make_key(&stranger, "ed25519", "");
    let agent = SshAgent::start(&[&stranger, &other]);
    let (port, trusted) = (server.port.to_string(), server.path().join("known_hosts"));
    let environment = [
        ("SSH_AUTH_SOCK", agent.socket()),
        ("PX_TEST_PORT", port.into()),
        ("PX_TEST_KNOWN", trusted),
    ];
    let environment = environment
        .each_ref()
        .map(|(name, value)| (*name, value.to_str().unwrap()));
    is_private("sftp::inside_with_an_agent", &[], &environment);
    assert_eq!(names(server.home()), ["x"]);
    drop(agent);
    is_private("sftp::inside_without_an_agent", &[], &environment);
}

fn peer_of_environment() -> Option<Peer> {
    let mut peer = Peer {
        host: "127.0.0.1".into(),
        port: std::env::var("PX_TEST_PORT").ok()?.parse().unwrap(),
        login: px::transfer::peer::Login {
            user: "u".into(),
            agent: true,
            ..Default::default()
        },
        trust: Default::default(),
        connect_timeout: SOON,
        read_timeout: SOON,
    };
    peer.trust.known_hosts = Some(std::env::var_os("PX_TEST_KNOWN")?.into());
    Some(peer)
}

#[tokio::test]
async fn inside_with_an_agent() {
    if let Some(peer) = peer_of_environment() {
        put_once(peer, "x").await.unwrap();
    }
}

#[tokio::test]
async fn inside_without_an_agent() {
    if let Some(mut peer) = peer_of_environment() {
        assert_class(
            &put_once(peer.clone(), "y").await.unwrap_err(),
            Fault::Own,
            Kind::Credentials,
        );
        // Where there is more to try, it is tried.
        peer.login.password = Some(Secret::new("pw"));
        put_once(peer, "y").await.unwrap();
    }
}

#[tokio::test]
async fn who_is_refused_is_told_so() {
    let server = SshServer::start();
    let mut peer = server.peer();
    peer.login.password = Some(Secret::new("canary"));
    let err = put_once(peer.clone(), "x").await.unwrap_err();
    assert_class(&err, Fault::Endpoint, Kind::LoginRefused);
    assert!(err.what.contains("refused: the password"), "{err}");
    peer.login.password = None;
    assert_class(
        &put_once(peer.clone(), "x").await.unwrap_err(),
        Fault::Endpoint,
        Kind::LoginRefused,
    );
    peer.login.key_file = Some(server.path().join("host_key"));
    let err = put_once(peer, "x").await.unwrap_err();
    assert_class(&err, Fault::Endpoint, Kind::LoginRefused);
    assert!(err.what.contains("host_key"), "{err}");
    assert_eq!(names(server.home()), [""; 0]);
}

/// Nothing is ever sent to a server that is not the right one.
#[tokio::test]
async fn servers_that_are_not_known_get_nothing() {
    let server = SshServer::start();
    make_key(&server.path().join("other"), "ed25519", "");
    let other = std::fs::read_to_string(server.path().join("other.pub")).unwrap();
    let line = server.host_line();
    let table = [
        ("unknown", format!("elsewhere {other}"), "not known"),
        ("port", line.replace(&format!(":{} ", server.port), ":22 "), "not known"),
        (
            "changed",
            format!("# x\n[127.0.0.1]:{} {other}", server.port),
            "changed:2 says ssh-ed25519 SHA256:",
        ),
        (
            "revoked",
            format!("{line}@revoked * {}", line.split_once(' ').unwrap().1),
            "revoked:2 revokes",
        ),
    ];
    for (name, text, why) in table {
        let mut peer = server.peer();
        peer.trust.known_hosts = Some(server.trust(name, &text));
        let err = put_once(peer, "x").await.unwrap_err();
        assert_class(&err, Fault::Endpoint, Kind::Unreachable);
        assert!(err.what.contains(why), "{err}");
    }
    let mut peer = server.peer();
    peer.trust.known_hosts = Some(server.path().join("missing"));
    assert_class(&put_once(peer, "x").await.unwrap_err(), Fault::Own, Kind::Credentials);
    assert!(
        !server.log().contains("Failed") && !server.log().contains("Accepted"),
        "{}",
        server.log()
    );
}

#[tokio::test]
async fn hashed_lines_and_certificates_are_trusted() {
    let server = SshServer::start();
    let hashed = server.trust("hashed", &server.host_line());
    let made = Command::new("ssh-keygen")
        .args(["-q", "-H", "-f"])
        .arg(&hashed)
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    assert!(std::fs::read_to_string(&hashed).unwrap().starts_with("|1|"));
    let mut peer = server.peer();
    peer.trust.known_hosts = Some(hashed);
    put_once(peer, "x").await.unwrap();

    let files = tempfile::tempdir().unwrap();
    let [key, authority] = ["key", "authority"].map(|name| files.path().join(name));
    make_key(&key, "ed25519", "");
    make_key(&authority, "ed25519", "");
    let made = Command::new("ssh-keygen")
        .args(["-q", "-h", "-I", "host", "-n", "127.0.0.1", "-s"])
        .args([&authority, &key.with_extension("pub")])
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    let lines = [
        format!("HostKey {}", key.display()),
        format!("HostCertificate {}-cert.pub", key.display()),
    ];
    let server = SshServer::start_with(None, &lines.each_ref().map(String::as_str));
    let public = std::fs::read_to_string(authority.with_extension("pub")).unwrap();
    let mut peer = server.peer();
    peer.trust.known_hosts = Some(server.trust("authority", &format!("@cert-authority [127.0.0.1]:* {public}")));
    put_once(peer, "x").await.unwrap();
}

#[tokio::test]
async fn refusals_are_the_messages_or_the_directorys() {
    let server = SshServer::start();
    let home = server.home();
    std::fs::create_dir_all(home.join("taken")).unwrap();
    std::fs::create_dir(home.join("closed")).unwrap();
    std::fs::set_permissions(home.join("closed"), PermissionsExt::from_mode(0o500)).unwrap();
    std::fs::write(home.join("file"), "x").unwrap();
    let mut lane = lane(options(server.peer()));
    let long = vec![b'n'; 300];
    let table: [(&[u8], &[u8], Fault, Kind); 7] = [
        (b"", &long, Fault::Message, Kind::Rejected),
        (b"", b"\xff\xfe", Fault::Message, Kind::Rejected),
        (b"\xe4", b"x", Fault::Message, Kind::Rejected),
        (b"", b"taken", Fault::Message, Kind::Rejected),
        (b"", b"../x", Fault::Message, Kind::Rejected),
        (b"closed", b"x", Fault::Endpoint, Kind::Forbidden),
        (b"file/x", b"x", Fault::Endpoint, Kind::Forbidden),
    ];
    for (directory, name, fault, kind) in table {
        let result = within(SOON, "a put", lane.put(&parcel(directory, name, b"abc"))).await;
        assert_class(&result.unwrap_err(), fault, kind);
        // The connection goes on.
        lane.put(&parcel(b"", b"good", b"abc")).await.unwrap();
    }
    assert_eq!(server.log().matches("Accepted password").count(), 1);
    lane = self::lane(Options {
        makes_directories: false,
        ..options(server.peer())
    });
    let err = lane.put(&parcel(b"missing", b"x", b"abc")).await.unwrap_err();
    assert_class(&err, Fault::Endpoint, Kind::Forbidden);
    assert_eq!(names(home), ["file", "good"]);
}

/// What an earlier try left there neither stops the next one nor shines through.
#[tokio::test]
async fn leftovers_are_written_over() {
    let server = SshServer::start();
    for (name, mode) in [("x.tmp", 0o444), ("y", 0o000), ("z", 0o644)] {
        let path = server.home().join(name);
        std::fs::write(&path, "a much longer leftover").unwrap();
        chown(&path, Some(SSH_UID), Some(SSH_UID)).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
    }
    put_once(server.peer(), "x").await.unwrap();
    let mut lane = lane(Options {
        lock: Lock::Umask,
        ..options(server.peer())
    });
    for name in [b"y", b"z"] {
        lane.put(&parcel(b"", name, b"abc")).await.unwrap();
    }
    for name in ["x", "y", "z"] {
        let path = server.home().join(name);
        assert_eq!(std::fs::read(&path).unwrap(), b"abc");
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o644);
    }
    assert_eq!(names(server.home()), ["x", "y", "z"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_sees_one_version_or_the_other() {
    let server = SshServer::start();
    let [old, new] = [vec![b'o'; 2_000_000], vec![b'n'; 1_000_000]];
    let mut lane = lane(options(server.peer()));
    lane.put(&parcel(b"", b"x", &old)).await.unwrap();
    let (path, is_over) = (server.home().join("x"), Arc::new(AtomicBool::new(false)));
    let over = is_over.clone();
    let reader = std::thread::spawn(move || {
        let mut seen = [0_u32; 2];
        while !over.load(Ordering::Relaxed) || seen.contains(&0) {
            let read = std::fs::read(&path).expect("it is always there");
            let is_new = read.first() == Some(&b'n');
            assert_eq!(read.len(), if is_new { 1_000_000 } else { 2_000_000 });
            assert!(read.iter().all(|byte| *byte == read[0]));
            seen[usize::from(is_new)] += 1;
        }
    });
    for _ in 0..10 {
        lane.put(&parcel(b"", b"x", &new)).await.unwrap();
        lane.put(&parcel(b"", b"x", &old)).await.unwrap();
    }
    lane.put(&parcel(b"", b"x", &new)).await.unwrap();
    is_over.store(true, Ordering::Relaxed);
    reader.join().unwrap();
}

/// A large product in the middle of its way, as slow as `bandwidth` makes it.
async fn put_until_half(server: &SshServer, mut lane: Lane) -> tokio::task::JoinHandle<Result<(), TransferError>> {
    let putting = tokio::spawn(async move { lane.put(&parcel(b"", b"x", &body(4_000_000))).await.map(drop) });
    let temporary = server.home().join("x.tmp");
    eventually(SOON, "half of it", async || {
        std::fs::metadata(&temporary).is_ok_and(|stat| stat.len() > 300_000)
    })
    .await;
    assert!(!server.home().join("x").exists());
    putting
}

#[tokio::test]
async fn a_server_that_dies_is_waited_for() {
    let mut server = SshServer::start();
    let mut slow = options(server.peer());
    slow.bandwidth = Some(500_000);
    let deliverer = Deliverer::new(slow).unwrap();
    let putting = put_until_half(&server, deliverer.lane()).await;
    server.kill();
    let err = within(SOON, "the end of the put", putting).await.unwrap().unwrap_err();
    assert_class(&err, Fault::Endpoint, Kind::Broken);
    assert!(!server.home().join("x").exists());
    assert_class(
        &put_once(server.peer(), "y").await.unwrap_err(),
        Fault::Endpoint,
        Kind::Unreachable,
    );
    server.start_again();
    put_once(server.peer(), "x").await.unwrap();
    assert_eq!(names(server.home()), ["x"]);
}

/// No product has to fail for a connection that ended while nobody used it.
#[tokio::test]
async fn a_connection_that_ended_is_made_anew() {
    let server = SshServer::start();
    let mut lane = lane(options(server.peer()));
    for (name, logins) in [(b"1", 1), (b"2", 2)] {
        lane.put(&parcel(b"", name, b"abc")).await.unwrap();
        assert_eq!(server.logins(), logins);
        server.hang_up();
        eventually(SOON, "its end is seen", async || !lane.is_connected()).await;
    }
}

#[tokio::test]
async fn a_server_that_says_nothing_is_not_waited_for() {
    let server = SshServer::start();
    let mut peer = server.peer();
    peer.read_timeout = Duration::from_secs(3);
    let mut slow = options(peer.clone());
    slow.bandwidth = Some(500_000);
    let putting = put_until_half(&server, lane(slow)).await;
    server.freeze();
    let err = within(SOON, "the end of the put", putting).await.unwrap().unwrap_err();
    assert_class(&err, Fault::Endpoint, Kind::TimedOut);
    peer.connect_timeout = Duration::from_secs(1);
    assert_class(&put_once(peer, "y").await.unwrap_err(), Fault::Endpoint, Kind::TimedOut);
}

/// In mounts of its own. The server goes on when there is room again.
#[test]
fn a_full_disk_is_the_servers() {
    let test = "sftp::a_full_disk_is_the_servers";
    if !is_private(test, &unshare(), &[]) {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let disk = directory.path().join("disk");
    std::fs::create_dir(&disk).unwrap();
    let mount = |options: &str| {
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", options, "px-test"]).arg(&disk);
        assert!(command.status().unwrap().success(), "{options}");
    };
    mount("size=1m");
    let server = SshServer::start_with(Some(&disk), &[]);
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        for lock in [Lock::Suffix(".tmp".into()), Lock::Umask, Lock::None] {
            let mut lane = lane(Options {
                lock,
                ..options(server.peer())
            });
            let err = lane.put(&parcel(b"", b"x", &body(3_000_000))).await.unwrap_err();
            assert_class(&err, Fault::Endpoint, Kind::Full);
            assert!(err.what.contains("no space left"), "{err}");
            assert_eq!(names(&disk), [""; 0], "what did not fit is taken away");
            lane.put(&parcel(b"", b"small", b"abc")).await.unwrap();
            std::fs::remove_file(disk.join("small")).unwrap();
        }
    });
    drop(server);
}
