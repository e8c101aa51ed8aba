//! A private nginx: in a temporary directory, on free loopback ports, dead when this process is.

use std::collections::BTreeSet;
use std::fs::Permissions;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::{free_port, spawn_kept, wait_until};

const NGINX: &str = "/usr/sbin/nginx";
const MODULE: &str = "/usr/lib/nginx/modules/ngx_http_dav_ext_module.so";

/// Below `files()` nginx serves `/pub/` to read, and, to user `u` with password `pw`: `/dav/` by WebDAV, `/put/` by
/// plain PUT. By https `/mtls/` is `/dav/` for who shows `client.pem`.
pub struct WebServer {
    directory: tempfile::TempDir,
    process: Option<Child>,
    pub port: u16,
    pub tls_port: u16,
}

impl WebServer {
    pub fn start() -> WebServer {
        for (path, package) in [(NGINX, "nginx-light"), (MODULE, "libnginx-mod-http-dav-ext")] {
            assert!(
                Path::new(path).exists(),
                "{path} is missing: run scripts/test, or apt-get install --no-install-recommends {package}"
            );
        }
        let directory = tempfile::Builder::new()
            .prefix("px-test-web-")
            .tempdir()
            .expect("directory");
        let path = directory.path();
        std::fs::set_permissions(path, Permissions::from_mode(0o755)).expect("mode");
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/make-ca");
        let made = Command::new(script).arg(path).output().expect("make-ca");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        for name in ["files/pub", "files/dav", "files/put", "tmp"] {
            std::fs::create_dir_all(path.join(name)).expect(name);
        }
        std::fs::write(path.join("htpasswd"), "u:{PLAIN}pw\n").expect("htpasswd");
        let (port, tls_port) = (free_port(), free_port());
        std::fs::write(path.join("nginx.conf"), configuration(path, port, tls_port)).expect("nginx.conf");
        let mut server = WebServer {
            directory,
            process: None,
            port,
            tls_port,
        };
        server.start_again();
        server
    }

    /// Starts a killed server again, on the same ports and files.
    pub fn start_again(&mut self) {
        let path = self.directory.path();
        let mut command = Command::new(NGINX);
        command.arg("-c").arg(path.join("nginx.conf")).arg("-p").arg(path);
        command.arg("-e").arg(path.join("error.log")).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let process = self.process.insert(spawn_kept(command).expect("nginx"));
        let ports = [self.port, self.tls_port];
        wait_until(Duration::from_secs(20), "nginx listens", || {
            if let Some(status) = process.try_wait().expect("wait") {
                panic!("nginx ended with {status}: {}", read(&path.join("error.log")));
            }
            ports
                .iter()
                .all(|port| TcpStream::connect(("127.0.0.1", *port)).is_ok())
        });
    }

    /// SIGKILL: it is one process.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().expect("kill");
            process.wait().expect("wait");
        }
    }

    /// SIGSTOP: connections stay open and nobody answers.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let process = self.process.as_ref().expect("it runs");
        kill_process(Pid::from_child(process), signal).expect("a signal");
    }

    /// `http://127.0.0.1:PORT/path`.
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// `https://localhost:PORT/path`.
    pub fn tls_url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.tls_port)
    }

    /// A file of the server's own: `ca.pem`, `client.pem`.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// What is served lies here.
    pub fn files(&self) -> PathBuf {
        self.directory.path().join("files")
    }

    /// Where the bodies of requests are kept while they come in.
    pub fn half_done(&self) -> PathBuf {
        self.directory.path().join("tmp")
    }

    /// Requests that were answered, and connections they came by.
    pub fn asked(&self) -> (usize, usize) {
        let log = read(&self.directory.path().join("access.log"));
        let connections: BTreeSet<&str> = log.lines().filter_map(|line| line.split(' ').next()).collect();
        (log.lines().count(), connections.len())
    }
}

impl Drop for WebServer {
    fn drop(&mut self) {
        self.kill();
    }
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn configuration(path: &Path, port: u16, tls_port: u16) -> String {
    let at = path.display();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|what| format!("{what}_temp_path {at}/tmp;\n"))
        .concat();
    let auth = format!("auth_basic px; auth_basic_user_file {at}/htpasswd;");
    let dav = "dav_methods PUT DELETE MKCOL MOVE; dav_access user:rw group:r;";
    format!(
        "load_module {MODULE};
daemon off; master_process off;
pid {at}/pid; error_log {at}/error.log;
events {{ worker_connections 256; }}
http {{
  log_format px '$connection $request_method $status';
  access_log {at}/access.log px;
  {temporary}
  client_max_body_size 0; client_body_buffer_size 1k; keepalive_requests 100000;
  server {{
    listen 127.0.0.1:{port};
    root {at}/files;
    location /pub/ {{ }}
    location /dav/ {{ {auth} {dav} }}
    location /put/ {{ {auth} dav_methods PUT; }}
    location /small/ {{ client_max_body_size 1k; dav_methods PUT; }}
  }}
  server {{
    listen 127.0.0.1:{tls_port} ssl;
    ssl_certificate {at}/server.pem; ssl_certificate_key {at}/server.key;
    ssl_client_certificate {at}/ca.pem; ssl_verify_client optional;
    location /mtls/ {{ if ($ssl_client_verify != SUCCESS) {{ return 403; }} alias {at}/files/dav/; {dav} }}
  }}
}}
"
    )
}
