//! Against a private pyftpdlib.

use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::*;
use crate::config::Secret;
use crate::transfer::Wanted;
use crate::transfer::peer::{Login, Trust};
use crate::transfer::ports::free_port;

const SOON: Duration = Duration::from_secs(30);

struct Server {
    directory: tempfile::TempDir,
    process: Child,
    peer: Peer,
}

impl Server {
    async fn start(words: &[&str]) -> Server {
        let directory = tempfile::tempdir().unwrap();
        let home = directory.path().join("home");
        std::fs::create_dir_all(home.join("a/b")).unwrap();
        let port = free_port();
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "/usr/bin/python3"]);
        command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/ftpd.py"));
        command
            .arg(port.to_string())
            .arg(home)
            .arg(directory.path().join("commands"));
        command.args(words).stdin(Stdio::null()).stderr(Stdio::null());
        let process = command.spawn().expect("Debian package python3-pyftpdlib");
        let listens = async {
            while TcpStream::connect(("127.0.0.1", port)).is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(SOON, listens).await.expect("it listens");
        Server {
            directory,
            process,
            peer: peer(port),
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join("home").join(name)
    }

    fn asked(&self, word: &str) -> usize {
        let commands = std::fs::read_to_string(self.directory.path().join("commands")).unwrap();
        commands.lines().filter(|line| line.starts_with(word)).count()
    }

    async fn fetch<W: Write + Send + 'static>(
        &self,
        idle: &Idle<Session>,
        path: &str,
        (size, max): (Option<u64>, u64),
        sink: W,
    ) -> Result<Fetched<W>, TransferError> {
        let wanted = Wanted {
            url: String::new(),
            size,
            identity: None,
        };
        let (bounds, expected) = (Bounds::new(size, max), Expected::new(&wanted));
        let how = (&self.peer, How::default());
        fetch(idle, how, path.as_bytes(), bounds, expected, || Ok(sink)).await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.process.kill().expect("kill");
        self.process.wait().expect("wait");
    }
}

fn peer(port: u16) -> Peer {
    Peer {
        host: "127.0.0.1".into(),
        port,
        login: Login {
            user: "u".into(),
            password: Some(Secret::new("pw")),
            ..Login::default()
        },
        trust: Trust::default(),
        connect_timeout: SOON,
        read_timeout: SOON,
    }
}

fn idle() -> Idle<Session> {
    Idle::new(SOON, 2)
}

fn bytes(size: usize) -> Vec<u8> {
    (0..size).map(|n| (n % 251) as u8).collect()
}

fn content(fetched: Fetched<Vec<u8>>) -> Vec<u8> {
    match fetched {
        Fetched::AsAnnounced(bytes, _) => bytes,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn products_are_fetched_over_one_connection() {
    let (server, idle) = (Server::start(&[]).await, idle());
    for (path, size) in [("a/b/x", 700_000), ("a/b/empty", 0), ("top", 10), ("a/b/x", 700_000)] {
        std::fs::write(server.file(path), bytes(size)).unwrap();
        let modified = std::fs::File::options().write(true).open(server.file(path)).unwrap();
        let time: Timestamp = "2015-10-21T07:28:00Z".parse().unwrap();
        modified.set_modified(time.into()).unwrap();
        let announced = (Some(size as u64), 1 << 20);
        match server.fetch(&idle, path, announced, Vec::new()).await.unwrap() {
            Fetched::AsAnnounced(got, facts) => {
                assert!(got == bytes(size), "{path}");
                assert_eq!((facts.size, facts.last_modified), (size as u64, Some(time)));
            }
            other => panic!("{other:?}"),
        }
    }
    for gone in ["a/b/none", "none/x"] {
        let err = server.fetch(&idle, gone, (None, 100), Vec::new()).await.unwrap_err();
        assert_eq!((err.fault, err.kind), (Fault::Message, Kind::Gone), "{err:?}");
    }
    let err = server.fetch(&idle, "a/b", (None, 100), Vec::new()).await.unwrap_err();
    assert_eq!(err.fault, Fault::Message, "a directory: {err:?}");
    let fetched = server.fetch(&idle, "/top", (None, 100), Vec::new()).await.unwrap();
    assert_eq!(content(fetched).len(), 10);
    assert_eq!(server.asked("USER"), 1, "what is refused keeps the connection");
}

#[tokio::test]
async fn more_than_is_wanted_is_not_taken() {
    let (server, idle) = (Server::start(&[]).await, idle());
    std::fs::write(server.file("x"), bytes(20_000_000)).unwrap();
    let err = server.fetch(&idle, "x", (None, 1000), Vec::new()).await.unwrap_err();
    assert_eq!((err.fault, err.kind), (Fault::Message, Kind::TooLarge));
    assert_eq!(server.asked("RETR"), 0, "its size told it");
    match server.fetch(&idle, "x", (Some(10), 1 << 30), Vec::new()).await.unwrap() {
        Fetched::Differs(kept, ..) => assert_eq!(kept.len(), 1 << 20),
        other => panic!("{:?}", matches!(other, Fetched::AsAnnounced(..))),
    }
    std::fs::write(server.file("x"), b"short").unwrap();
    let fetched = server.fetch(&idle, "x", (Some(10), 1000), Vec::new()).await.unwrap();
    assert!(matches!(fetched, Fetched::Differs(..)));
}

#[tokio::test]
async fn what_breaks_off_is_gone_on_with() {
    let (server, idle) = (Server::start(&["cut=300000"]).await, idle());
    std::fs::write(server.file("x"), bytes(1_000_000)).unwrap();
    let fetched = server.fetch(&idle, "x", (Some(1_000_000), 1 << 20), Vec::new()).await;
    assert!(content(fetched.unwrap()) == bytes(1_000_000));
    assert!(server.asked("REST") >= 2, "{}", server.asked("REST"));
}

/// Replaces the source as soon as something of it has come.
struct Replacing(PathBuf);

impl Write for Replacing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        std::fs::write(&self.0, b"another version")?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn two_versions_are_never_joined() {
    let (server, idle) = (Server::start(&["cut=1500000"]).await, idle());
    std::fs::write(server.file("x"), bytes(8_000_000)).unwrap();
    let sink = Replacing(server.file("x"));
    let announced = (Some(8_000_000), 1 << 30);
    match server.fetch(&idle, "x", announced, sink).await {
        Err(err) => {
            assert_eq!((err.fault, err.kind), (Fault::Endpoint, Kind::Broken), "{err:?}");
            assert!(err.what.contains("changed meanwhile"), "{err}");
        }
        Ok(_) => panic!("8 MB came of a file that was replaced"),
    }
}

#[test]
fn a_path_has_a_directory_and_a_name_and_no_line_ends() {
    let peer = peer(21);
    let good: [(&[u8], &[u8], &[u8]); 4] = [
        (b"n", b"", b"n"),
        (b"/n", b"/", b"n"),
        (b"a/b/n", b"a/b", b"n"),
        (b"/a/n\xff", b"/a", b"n\xff"),
    ];
    for (path, directory, name) in good {
        assert_eq!(split(&peer, path).unwrap(), (directory, name));
    }
    let bad: [&[u8]; 7] = [b"", b"a/", b"a/.", b"../n", b"a/..", b"n\r\nDELE x", b"a\0/n"];
    for path in bad {
        let err = split(&peer, path).unwrap_err();
        assert_eq!((err.fault, err.kind), (Fault::Message, Kind::NotAllowed), "{path:?}");
        assert!(!err.what.contains('\n'), "{err}");
    }
}
