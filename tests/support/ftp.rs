//! Private FTP servers: in a temporary directory, on a free loopback port, dead when this process is.

use std::fs::Permissions;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use px::config::Secret;
use px::transfer::peer::{Login, Peer, Trust};
use rustix::process::{Pid, Signal, kill_process};

use super::{free_port, spawn_kept, wait_until};

/// The user that proftpd serves files as.
pub const FTP_UID: u32 = 1000;

/// Which server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ftpd {
    /// pyftpdlib, for all it can be made to do; files belong to who runs the test.
    Python,
    /// proftpd, as sites have it; files belong to [`FTP_UID`]. Needs root.
    Proftpd,
}

/// What a server wants of its clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FtpTls {
    /// No TLS at all.
    None,
    /// TLS for commands and data.
    Required,
    /// The same, and for data the session of the control connection (proftpd only).
    SameSession,
    /// The same, and a certificate of the client's (proftpd only).
    ClientCertificate,
}

/// User `u`, password `pw`.
pub struct FtpServer {
    directory: tempfile::TempDir,
    home: PathBuf,
    process: Option<Child>,
    command: Vec<String>,
    pub port: u16,
}

impl FtpServer {
    pub fn start(program: Ftpd, tls: FtpTls) -> FtpServer {
        FtpServer::start_with(program, tls, None, &[])
    }

    /// In a home of the caller's, with words for `tests/support/ftpd.py` or lines for `proftpd.conf`.
    pub fn start_with(program: Ftpd, tls: FtpTls, home: Option<&Path>, more: &[&str]) -> FtpServer {
        let directory = tempfile::Builder::new()
            .prefix("px-test-ftp-")
            .tempdir()
            .expect("directory");
        let path = directory.path();
        // Others than who runs the test must get through.
        std::fs::set_permissions(path, Permissions::from_mode(0o755)).expect("mode");
        let home = home.map_or_else(|| path.join("home"), Path::to_owned);
        std::fs::create_dir_all(&home).expect("home");
        if tls != FtpTls::None {
            make_certificates(path);
        }
        let port = free_port();
        let command = match program {
            Ftpd::Python => python(path, &home, port, tls, more),
            Ftpd::Proftpd => proftpd(path, &home, port, tls, more),
        };
        let mut server = FtpServer {
            directory,
            home,
            process: None,
            command,
            port,
        };
        server.start_again();
        server
    }

    /// Starts a killed server again, on the same port and home.
    pub fn start_again(&mut self) {
        let mut command = Command::new(&self.command[0]);
        let log = std::fs::File::create(self.directory.path().join("out")).expect("out");
        command.args(&self.command[1..]).stdin(Stdio::null());
        command.stdout(log.try_clone().expect("out")).stderr(log);
        let process = self.process.insert(spawn_kept(command).expect("a server"));
        let (out, port) = (self.directory.path().join("out"), self.port);
        wait_until(Duration::from_secs(20), "the FTP server listens", || {
            if let Some(status) = process.try_wait().expect("wait") {
                panic!(
                    "it ended with {status}: {}",
                    std::fs::read_to_string(&out).unwrap_or_default()
                );
            }
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
    }

    /// SIGKILL, also for the processes that serve its clients.
    pub fn kill(&mut self) {
        let Some(mut process) = self.process.take() else {
            return;
        };
        // Who is stopped makes no more of them.
        signal(process.id(), Signal::STOP);
        signal(process.id(), Signal::KILL);
        process.wait().expect("wait");
        wait_until(Duration::from_secs(20), "its port is closed", || {
            TcpStream::connect(("127.0.0.1", self.port)).is_err()
        });
    }

    /// SIGSTOP: connections stay open and nobody answers.
    pub fn freeze(&self) {
        signal(self.process.as_ref().expect("it runs").id(), Signal::STOP);
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        signal(self.process.as_ref().expect("it runs").id(), Signal::CONT);
    }

    /// The directory that a login begins in.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// Where its own files are: `ca.pem`, `client.pem`.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// What pyftpdlib was asked for, in order.
    pub fn commands(&self) -> Vec<String> {
        let said = std::fs::read(self.directory.path().join("commands")).unwrap_or_default();
        String::from_utf8_lossy(&said).lines().map(str::to_owned).collect()
    }

    /// The server, with the right password and trust.
    pub fn peer(&self) -> Peer {
        let file = |name: &str| Some(self.directory.path().join(name)).filter(|file| file.exists());
        Peer {
            host: "127.0.0.1".into(),
            port: self.port,
            login: Login {
                user: "u".into(),
                password: Some(Secret::new("pw")),
                ..Login::default()
            },
            trust: Trust {
                ca_file: file("ca.pem"),
                ..Trust::default()
            },
            connect_timeout: Duration::from_secs(10),
            read_timeout: Duration::from_secs(10),
        }
    }
}

impl Drop for FtpServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// To a process, then to those that it made, then to theirs.
fn signal(process: u32, what: Signal) {
    let below = children(process);
    if let Some(pid) = i32::try_from(process).ok().and_then(Pid::from_raw) {
        // Nothing lost: it ended meanwhile.
        let _ = kill_process(pid, what);
    }
    // Stopped, it has made its last; killed, it has none any more.
    let below = if what == Signal::STOP { children(process) } else { below };
    below.into_iter().for_each(|child| signal(child, what));
}

fn children(parent: u32) -> Vec<u32> {
    let listed = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
    listed.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

fn make_certificates(path: &Path) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/make-ca");
    let made = Command::new(script).arg(path).output().expect("make-ca");
    assert!(made.status.success(), "{made:?}; Debian package openssl");
    let [certificate, key] = ["server.pem", "server.key"].map(|name| std::fs::read(path.join(name)).expect(name));
    std::fs::write(path.join("both.pem"), [certificate, key].concat()).expect("both.pem");
}

fn python(path: &Path, home: &Path, port: u16, tls: FtpTls, more: &[&str]) -> Vec<String> {
    assert!(
        Path::new("/usr/lib/python3/dist-packages/pyftpdlib").exists(),
        "pyftpdlib is missing: run scripts/test, or apt-get install --no-install-recommends python3-pyftpdlib"
    );
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/ftpd.py");
    let commands = path.join("commands").display().to_string();
    let mut words: Vec<String> = ["setpriv", "--pdeathsig", "KILL", "/usr/bin/python3", script]
        .map(str::to_owned)
        .into();
    words.push(port.to_string());
    words.extend([home.display().to_string(), commands]);
    if tls != FtpTls::None {
        words.push(path.join("both.pem").display().to_string());
    }
    words.extend(more.iter().map(|word| (*word).to_owned()));
    words
}

fn proftpd(path: &Path, home: &Path, port: u16, tls: FtpTls, more: &[&str]) -> Vec<String> {
    let has_it = Command::new("proftpd").arg("-v").output().is_ok();
    assert!(
        has_it,
        "proftpd is missing: run scripts/test, or apt-get install --no-install-recommends proftpd-core proftpd-mod-crypto"
    );
    std::os::unix::fs::chown(home, Some(FTP_UID), Some(FTP_UID)).expect("a home of another user: this needs root");
    let hash = Command::new("openssl")
        .args(["passwd", "-6", "pw"])
        .output()
        .expect("openssl");
    let hash = String::from_utf8(hash.stdout).expect("hash");
    let user = format!("u:{}:{FTP_UID}:{FTP_UID}::{}:/bin/false\n", hash.trim(), home.display());
    let users = path.join("users");
    std::fs::write(&users, user).expect("users");
    std::fs::set_permissions(&users, Permissions::from_mode(0o600)).expect("mode");
    let at = path.display();
    let mut conf = format!(
        "LoadModule mod_tls.c
ServerType standalone
DefaultAddress 127.0.0.1
Port {port}
UseIPv6 off
UseReverseDNS off
WtmpLog off
TransferLog none
SystemLog {at}/log
PidFile {at}/pid
ScoreboardFile none
DelayEngine off
AuthOrder mod_auth_file.c
AuthUserFile {at}/users
RequireValidShell off
User nobody
Group nogroup
DefaultRoot ~
AllowOverwrite on
AllowStoreRestart on
"
    );
    if tls != FtpTls::None {
        conf += &format!(
            "TLSEngine on
TLSRequired on
TLSECCertificateFile {at}/server.pem
TLSECCertificateKeyFile {at}/server.key
TLSLog {at}/tls.log
"
        );
    }
    conf += match tls {
        FtpTls::None | FtpTls::SameSession => "",
        FtpTls::Required => "TLSOptions NoSessionReuseRequired\n",
        FtpTls::ClientCertificate => "TLSVerifyClient on\n",
    };
    if tls == FtpTls::ClientCertificate {
        conf += &format!("TLSCACertificateFile {at}/ca.pem\n");
    }
    for line in more {
        conf += &format!("{line}\n");
    }
    let file = path.join("proftpd.conf");
    std::fs::write(&file, conf).expect("proftpd.conf");
    // It changes its user, and forgets that it should die with its parent; so a namespace dies.
    let script = "proftpd -n -q -c \"$0\" & wait";
    let words = [
        "setpriv",
        "--pdeathsig",
        "KILL",
        "unshare",
        "--pid",
        "--fork",
        "--kill-child",
        "sh",
        "-c",
        script,
    ];
    let mut words: Vec<String> = words.map(str::to_owned).into();
    words.push(file.display().to_string());
    words
}
