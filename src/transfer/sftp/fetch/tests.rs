//! Against a private sshd: only root may start one, who logs in with a key.

use std::io;
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::*;
use crate::transfer::Wanted;
use crate::transfer::peer::{Login, Trust};
use crate::transfer::ports::free_port;

const SOON: Duration = Duration::from_secs(30);

struct Server {
    directory: tempfile::TempDir,
    process: Child,
    port: u16,
}

impl Server {
    async fn start() -> Server {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        for key in ["host", "user"] {
            let mut command = Command::new("ssh-keygen");
            command
                .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                .arg(path.join(key));
            assert!(command.status().expect("Debian package openssh-client").success());
        }
        let port = free_port();
        let config = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {0}/host\nPidFile none\nAuthorizedKeysFile {0}/user.pub\n\
             StrictModes no\nUsePAM no\nPermitRootLogin yes\nSubsystem sftp internal-sftp\nLogLevel VERBOSE\n",
            path.display()
        );
        std::fs::write(path.join("config"), config).unwrap();
        let key = std::fs::read_to_string(path.join("host.pub")).unwrap();
        std::fs::write(path.join("known"), format!("[127.0.0.1]:{port} {key}")).unwrap();
        std::fs::create_dir_all("/run/sshd").unwrap();
        let log = std::fs::File::create(path.join("log")).unwrap();
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "/usr/sbin/sshd", "-D", "-e", "-f"])
            .arg(path.join("config"));
        let process = command
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("Debian package openssh-server");
        let listens = async {
            while TcpStream::connect(("127.0.0.1", port)).is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(SOON, listens).await.expect("sshd listens");
        Server {
            directory,
            process,
            port,
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn peer(&self) -> Peer {
        Peer {
            host: "127.0.0.1".into(),
            port: self.port,
            login: Login {
                user: "root".into(),
                key_file: Some(self.file("user")),
                ..Login::default()
            },
            trust: Trust {
                known_hosts: Some(self.file("known")),
                ..Trust::default()
            },
            connect_timeout: SOON,
            read_timeout: SOON,
        }
    }

    async fn fetch<W: Write + Send + 'static>(
        &self,
        idle: &Idle<Session>,
        name: &str,
        (size, max): (Option<u64>, u64),
        sink: W,
    ) -> Result<Fetched<W>, TransferError> {
        let wanted = Wanted {
            url: String::new(),
            size,
            identity: None,
        };
        let (bounds, expected) = (Bounds::new(size, max), Expected::new(&wanted));
        let path = self.file(name).into_os_string().into_encoded_bytes();
        fetch(idle, &self.peer(), &path, bounds, expected, || Ok(sink)).await
    }

    fn logins(&self) -> usize {
        std::fs::read_to_string(self.file("log"))
            .unwrap()
            .matches("Accepted publickey for ")
            .count()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        hang_up(self.process.id());
        // Nothing lost: it ended before.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// SIGKILL for what serves the clients of this server.
fn hang_up(server: u32) {
    let children = std::fs::read_to_string(format!("/proc/{server}/task/{server}/children")).unwrap();
    for child in children.split_whitespace() {
        let child = rustix::process::Pid::from_raw(child.parse().unwrap()).unwrap();
        // Nothing lost: it ended meanwhile.
        let _ = rustix::process::kill_process(child, rustix::process::Signal::KILL);
    }
}

/// Breaks the connection when it has so many bytes.
struct Breaks {
    bytes: Vec<u8>,
    at: Vec<usize>,
    server: u32,
}

impl Write for Breaks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend(bytes);
        if self.at.last().is_some_and(|at| self.bytes.len() >= *at) {
            self.at.pop();
            hang_up(self.server);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn body(size: usize) -> Vec<u8> {
    (0..size).map(|n| (n % 251) as u8).collect()
}

fn idle() -> Idle<Session> {
    Idle::new(SOON, 2)
}

#[tokio::test]
async fn files_come_whole_over_one_connection() {
    let (server, idle) = (Server::start().await, idle());
    for size in [0, 10, 131_072, 3_000_001] {
        std::fs::write(server.file("x"), body(size)).unwrap();
        for announced in [None, Some(size as u64)] {
            match server
                .fetch(&idle, "x", (announced, 1 << 30), Vec::new())
                .await
                .unwrap()
            {
                Fetched::AsAnnounced(got, facts) => {
                    assert!(got == body(size), "{size} bytes");
                    assert_eq!(facts.size, size as u64);
                    assert!(facts.last_modified.is_some());
                }
                other => panic!("{other:?}"),
            }
        }
        for announced in [0, size as u64 + 1, 5] {
            let fetched = server
                .fetch(&idle, "x", (Some(announced), 1 << 30), Vec::new())
                .await
                .unwrap();
            assert_eq!(matches!(fetched, Fetched::AsAnnounced(..)), announced == size as u64);
        }
    }
    assert_eq!(server.logins(), 1);
}

#[tokio::test]
async fn what_cannot_be_fetched_is_the_messages() {
    let (server, idle) = (Server::start().await, idle());
    std::fs::write(server.file("x"), body(1000)).unwrap();
    let pipe = Command::new("mkfifo").arg(server.file("pipe")).status().unwrap();
    assert!(pipe.success());
    let table = [
        ("missing", Kind::Gone),
        ("x/below", Kind::Gone),
        (".", Kind::Rejected),
        ("pipe", Kind::Rejected),
        ("x", Kind::TooLarge),
    ];
    for (name, kind) in table {
        let err = server.fetch(&idle, name, (None, 999), Vec::new()).await.unwrap_err();
        assert_eq!((err.fault, err.kind), (Fault::Message, kind), "{name}: {err}");
    }
    assert_eq!(server.logins(), 1, "refusals leave the connection as it is");
}

#[tokio::test]
async fn a_fetch_goes_on_after_its_connection_broke() {
    let (server, idle) = (Server::start().await, idle());
    let bytes = body(20_000_000);
    std::fs::write(server.file("x"), &bytes).unwrap();
    let sink = Breaks {
        bytes: Vec::new(),
        at: vec![12_000_000, 1_000_000],
        server: server.process.id(),
    };
    match server.fetch(&idle, "x", (Some(20_000_000), 1 << 30), sink).await {
        Ok(Fetched::AsAnnounced(sink, _)) => assert!(sink.bytes == bytes && sink.at.is_empty()),
        other => panic!("{:?}", other.map(|_| ())),
    }
    assert_eq!(server.logins(), 3);
    // One that is kept may have ended meanwhile.
    hang_up(server.process.id());
    assert!(server.fetch(&idle, "x", (None, 1 << 30), Vec::new()).await.is_ok());
}
