use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use px::message::Fault;
use px::transfer::{Fetched, Fetcher, Kind, Options, Wanted};

use crate::private::is_private;
use crate::server::Server;
use crate::support::free_port;

struct TlsServer {
    process: Child,
    port: u16,
}

impl Drop for TlsServer {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

const OPENSSL_CONFIG: &str = "
[req]
distinguished_name = name
[name]
[ca]
basicConstraints = critical,CA:TRUE
[server]
basicConstraints = critical,CA:FALSE
subjectAltName = DNS:localhost
";

/// `NAME.pem` and `NAME.key` in `dir`; signed by itself without a `ca`.
fn make_certificate(dir: &Path, name: &str, ca: Option<&str>) {
    std::fs::write(dir.join("openssl.cnf"), OPENSSL_CONFIG).unwrap();
    let mut openssl = Command::new("openssl");
    openssl.args([
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
    ]);
    openssl.args(["-config", "openssl.cnf", "-subj", &format!("/CN={name}")]);
    openssl.args(["-keyout", &format!("{name}.key"), "-out", &format!("{name}.pem")]);
    match ca {
        None => openssl.args(["-extensions", "ca"]),
        Some(ca) => openssl.args([
            "-extensions",
            "server",
            "-CA",
            &format!("{ca}.pem"),
            "-CAkey",
            &format!("{ca}.key"),
        ]),
    };
    let output = openssl
        .current_dir(dir)
        .output()
        .expect("openssl runs; Debian package openssl");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn serve(dir: &Path) -> TlsServer {
    let port = free_port();
    let mut openssl = Command::new("openssl");
    openssl.args([
        "s_server",
        "-quiet",
        "-WWW",
        "-cert",
        "server.pem",
        "-key",
        "server.key",
    ]);
    openssl.args(["-accept", &format!("127.0.0.1:{port}")]).current_dir(dir);
    let process = openssl
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let server = TlsServer { process, port };
    let deadline = Instant::now() + Duration::from_secs(10);
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(Instant::now() < deadline, "openssl s_server does not listen");
        std::thread::yield_now();
    }
    server
}

#[tokio::test]
async fn https_trusts_the_configured_ca_and_no_other() {
    let dir = tempfile::tempdir().unwrap();
    make_certificate(dir.path(), "our-ca", None);
    make_certificate(dir.path(), "foreign-ca", None);
    make_certificate(dir.path(), "server", Some("our-ca"));
    std::fs::write(dir.path().join("product"), "content").unwrap();
    let server = serve(dir.path());
    let wanted = Wanted {
        url: format!("https://localhost:{}/product", server.port),
        size: Some(7),
        identity: None,
    };
    let fetcher = |ca: &str| {
        let ca_file = Some(dir.path().join(ca));
        Fetcher::new(Options {
            ca_file,
            ..Options::default()
        })
        .unwrap()
    };
    match fetcher("our-ca.pem").fetch(&wanted, || Ok(Vec::new())).await.unwrap() {
        Fetched::AsAnnounced(body, _) => assert_eq!(body, b"content"),
        other => panic!("{other:?}"),
    }
    let err = fetcher("foreign-ca.pem")
        .fetch(&wanted, || Ok(Vec::new()))
        .await
        .unwrap_err();
    assert_eq!((err.fault, err.kind), (Fault::Endpoint, Kind::Unreachable));
    assert!(err.what.contains("ca_file names the CAs"), "{err}");
    for bad in ["missing.pem", "product"] {
        let err = fetcher(bad).fetch(&wanted, || Ok(Vec::new())).await.unwrap_err();
        assert_eq!((err.fault, err.kind), (Fault::Own, Kind::Local), "{err}");
        assert!(err.what.contains(bad), "{err}");
    }
}

#[test]
fn without_ca_certificates_http_works_and_https_says_what_is_missing() {
    let test = "https::without_ca_certificates_http_works_and_https_says_what_is_missing";
    let nothing = tempfile::tempdir().unwrap();
    let dir = nothing.path().to_str().unwrap();
    let file = format!("{dir}/none");
    if !is_private(test, &[], &[("SSL_CERT_DIR", dir), ("SSL_CERT_FILE", &file)]) {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let server = Server::start().await;
        let fetcher = Fetcher::new(Options::default()).unwrap();
        let wanted = |url: String| Wanted {
            url,
            size: None,
            identity: None,
        };
        assert!(
            fetcher
                .fetch(&wanted(server.url("/ok")), || Ok(Vec::new()))
                .await
                .is_ok()
        );
        let err = fetcher
            .fetch(&wanted("https://localhost:9/x".into()), || Ok(Vec::new()))
            .await
            .unwrap_err();
        assert_eq!((err.fault, err.kind), (Fault::Own, Kind::Local));
        assert!(err.what.contains("install ca-certificates"), "{err}");
    });
}
