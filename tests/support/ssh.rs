//! A private OpenSSH server and agent: in a temporary directory, on a free loopback port, dead when this process is.

use std::fs::Permissions;
use std::net::TcpStream;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use px::config::Secret;
use px::transfer::peer::{Login, Peer, Trust};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use super::{free_port, spawn_kept, wait_until};

const SSHD: &str = "/usr/sbin/sshd";
/// Who logs in: user `u`, password `pw`. It exists for the server alone.
pub const SSH_UID: u32 = 1999;
const ROOM: Duration = Duration::from_secs(20);

/// User `u` comes in with password `pw` or with `user_key`.
pub struct SshServer {
    directory: tempfile::TempDir,
    home: PathBuf,
    process: Option<Child>,
    pub port: u16,
}

impl SshServer {
    pub fn start() -> SshServer {
        SshServer::start_with(None, &[])
    }

    /// In a home of the caller's, with more lines for `sshd_config`, which go before the others: the first one counts.
    pub fn start_with(home: Option<&Path>, more: &[&str]) -> SshServer {
        assert!(
            Path::new(SSHD).exists(),
            "sshd is missing: run scripts/test, or apt-get install --no-install-recommends openssh-server"
        );
        let directory = tempfile::Builder::new()
            .prefix("px-test-ssh-")
            .tempdir()
            .expect("directory");
        let path = directory.path();
        // The user must get through.
        std::fs::set_permissions(path, Permissions::from_mode(0o755)).expect("mode");
        let home = home.map_or_else(|| path.join("home"), Path::to_owned);
        std::fs::create_dir_all(&home).expect("home");
        chown(&home, Some(SSH_UID), Some(SSH_UID)).expect("this test needs root");
        make_key(&path.join("host_key"), "ed25519", "");
        make_key(&path.join("user_key"), "ed25519", "");
        std::fs::copy(path.join("user_key.pub"), path.join("authorized_keys")).expect("authorized_keys");
        let mut server = SshServer {
            directory,
            home,
            process: None,
            port: free_port(),
        };
        server.write_files(more);
        server.trust("known_hosts", &server.host_line());
        server.start_again();
        server
    }

    /// The machine's users are not touched: the server sees files of its own in their place.
    fn write_files(&self, more: &[&str]) {
        let (path, port) = (self.path(), self.port);
        let mut config = more.join("\n");
        config += &format!(
            "\nPort {port}\nListenAddress 127.0.0.1\nHostKey {0}/host_key\nPidFile none\nStrictModes no\nUsePAM no\n\
             AuthorizedKeysFile {0}/authorized_keys\nPasswordAuthentication yes\nKbdInteractiveAuthentication no\n\
             MaxStartups 100\nLogLevel VERBOSE\n",
            path.display()
        );
        if !more.iter().any(|line| line.starts_with("Subsystem")) {
            config += "Subsystem sftp internal-sftp\n";
        }
        std::fs::write(path.join("sshd_config"), config).expect("sshd_config");
        let passwd = std::fs::read_to_string("/etc/passwd").expect("/etc/passwd");
        let user = format!("u:x:{SSH_UID}:{SSH_UID}::{}:/bin/sh\n", self.home.display());
        std::fs::write(path.join("passwd"), passwd + &user).expect("passwd");
        let hash = output(Command::new("openssl").args(["passwd", "-6", "pw"]));
        let shadow = format!(
            "root:*:19000:0:99999:7:::\nsshd:*:19000::::::\nu:{}:19000:0:99999:7:::\n",
            hash.trim()
        );
        std::fs::write(path.join("shadow"), shadow).expect("shadow");
        std::fs::set_permissions(path.join("shadow"), Permissions::from_mode(0o600)).expect("mode");
        std::fs::create_dir_all("/run/sshd").expect("/run/sshd");
    }

    /// Starts a killed server again, on the same port and home.
    pub fn start_again(&mut self) {
        let script = r#"mount --bind "$0/passwd" /etc/passwd && mount --bind "$0/shadow" /etc/shadow &&
            exec /usr/sbin/sshd -D -e -f "$0/sshd_config""#;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "unshare", "-m", "sh", "-c", script]);
        let log = std::fs::File::create(self.path().join("log")).expect("log");
        command
            .arg(self.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let (log, port) = (self.path().join("log"), self.port);
        let process = self.process.insert(spawn_kept(command).expect("setpriv"));
        wait_until(ROOM, "sshd listens", || {
            if let Some(status) = process.try_wait().expect("wait") {
                panic!(
                    "sshd ended with {status}: {}",
                    std::fs::read_to_string(&log).unwrap_or_default()
                );
            }
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
    }

    /// SIGKILL, also for what serves its clients.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            for one in family(process.id()) {
                // Nothing lost: it ended meanwhile.
                let _ = kill_process(one, Signal::KILL);
            }
            // Nothing lost: nobody else is left in it.
            let _ = kill_process_group(Pid::from_child(&process), Signal::KILL);
            process.wait().expect("wait");
        }
    }

    /// SIGKILL for what serves its clients; the server lives on.
    pub fn hang_up(&self) {
        let process = self.process.as_ref().expect("it runs");
        for one in family(process.id())
            .into_iter()
            .filter(|one| *one != Pid::from_child(process))
        {
            // Nothing lost: it ended meanwhile.
            let _ = kill_process(one, Signal::KILL);
        }
    }

    /// SIGSTOP: connections stay open and nobody answers.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        for one in family(self.process.as_ref().expect("it runs").id()) {
            kill_process(one, signal).expect("signal");
        }
    }

    /// Log-ins so far.
    pub fn logins(&self) -> usize {
        let log = self.log();
        log.matches("Accepted password for ").count() + log.matches("Accepted publickey for ").count()
    }

    /// What it said.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path().join("log")).unwrap_or_default()
    }

    /// Where a log-in begins.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// Where its keys are: `host_key`, `user_key`.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// `[127.0.0.1]:PORT TYPE KEY`, right.
    pub fn host_line(&self) -> String {
        let key = std::fs::read_to_string(self.path().join("host_key.pub")).expect("host_key.pub");
        format!("[127.0.0.1]:{} {key}", self.port)
    }

    /// Writes a file of host keys, and says where it is.
    pub fn trust(&self, name: &str, text: &str) -> PathBuf {
        let file = self.path().join(name);
        std::fs::write(&file, text).expect("known_hosts");
        file
    }

    /// The server, with the right password and trust.
    pub fn peer(&self) -> Peer {
        Peer {
            host: "127.0.0.1".into(),
            port: self.port,
            login: Login {
                user: "u".into(),
                password: Some(Secret::new("pw")),
                ..Login::default()
            },
            trust: Trust {
                known_hosts: Some(self.path().join("known_hosts")),
                ..Trust::default()
            },
            connect_timeout: Duration::from_secs(10),
            read_timeout: Duration::from_secs(10),
        }
    }

    /// The server, with the right key in place of a password.
    pub fn peer_by_key(&self) -> Peer {
        let mut peer = self.peer();
        peer.login.password = None;
        peer.login.key_file = Some(self.path().join("user_key"));
        peer
    }

    /// Lets this key in too.
    pub fn authorize(&self, public: &Path) {
        let file = self.path().join("authorized_keys");
        let keys = [&file, public].map(|file| std::fs::read(file).expect("a public key"));
        std::fs::write(file, keys.concat()).expect("authorized_keys");
    }
}

impl Drop for SshServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A key pair in OpenSSH's form, as `ssh-keygen` makes it.
pub fn make_key(file: &Path, kind: &str, passphrase: &str) {
    let mut command = Command::new("ssh-keygen");
    command
        .args(["-q", "-t", kind, "-C", "px-test", "-N", passphrase, "-f"])
        .arg(file);
    output(&mut command);
}

/// An agent with keys in it.
pub struct SshAgent {
    directory: tempfile::TempDir,
    process: Child,
}

impl SshAgent {
    pub fn start(keys: &[&Path]) -> SshAgent {
        let directory = tempfile::Builder::new()
            .prefix("px-test-agent-")
            .tempdir()
            .expect("directory");
        let socket = directory.path().join("socket");
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "ssh-agent", "-D", "-a"])
            .arg(&socket);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let process = spawn_kept(command).expect("setpriv");
        let agent = SshAgent { directory, process };
        wait_until(ROOM, "the agent listens", || socket.exists());
        for key in keys {
            output(Command::new("ssh-add").arg("-q").arg(key).env("SSH_AUTH_SOCK", &socket));
        }
        agent
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("socket")
    }
}

impl Drop for SshAgent {
    fn drop(&mut self) {
        // Nothing lost: it ended before.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn output(command: &mut Command) -> String {
    let output = command
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|err| panic!("{command:?}: {err}; Debian packages openssh-client, openssl"));
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A process and everything below it.
fn family(top: u32) -> Vec<Pid> {
    let mut all = vec![top];
    let mut next = 0;
    while let Some(parent) = all.get(next).copied() {
        let listed = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
        all.extend(listed.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
        next += 1;
    }
    all.into_iter()
        .filter_map(|pid| Pid::from_raw(i32::try_from(pid).ok()?))
        .collect()
}
