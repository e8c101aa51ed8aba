//! Clients of reqwest, the marks by which the two sides know each other, and whose fault an error is.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimeParser;
use reqwest::header::{self, HeaderMap};
use reqwest::{Certificate, Client, ClientBuilder, Identity, redirect};
use rustix::io::Errno;

use super::super::{Kind, TransferError, off_thread};
use crate::config::Secret;
use crate::message::Fault;

const IDLE_PER_HOST: usize = 8;
const IDLE: Duration = Duration::from_secs(60);

/// Of one side to the other.
#[derive(Debug, Clone, Default)]
pub(super) struct Marks {
    /// PEM file of the CAs; the system's when absent.
    pub(super) ca_file: Option<PathBuf>,
    /// PEM file with px's certificate chain and its key.
    pub(super) certificate_file: Option<PathBuf>,
}

/// No total time-out, no cookies, no proxies, no redirects. `read_timeout` is for silence of the server while it
/// answers; it must be absent where px sends for longer than that.
pub(super) fn builder(connect_timeout: Duration, read_timeout: Option<Duration>) -> ClientBuilder {
    let builder = Client::builder()
        .user_agent(concat!("px/", env!("CARGO_PKG_VERSION")))
        .redirect(redirect::Policy::none())
        .referer(false)
        .no_proxy()
        .http1_only()
        .tcp_nodelay(true)
        .connect_timeout(connect_timeout)
        .pool_max_idle_per_host(IDLE_PER_HOST)
        .pool_idle_timeout(IDLE);
    match read_timeout {
        Some(limit) => builder.read_timeout(limit),
        None => builder,
    }
}

/// For `http:` alone: it loads no CA certificates, which a small host may not have.
pub(super) fn plain(builder: ClientBuilder) -> Result<Client, TransferError> {
    let built = builder.tls_certs_only([]).build();
    built.map_err(|err| local("cannot prepare http").caused_by(err))
}

/// For `https:`. Reads the files anew: the operator may have put them right.
pub(super) async fn secure(mut builder: ClientBuilder, marks: Marks) -> Result<Client, TransferError> {
    off_thread(move || {
        if let Some(file) = marks.ca_file {
            let doing = format!("cannot use the CA certificates in {}", file.display());
            let certificates = Certificate::from_pem_bundle(&read(&file, &doing)?);
            let certificates = certificates.map_err(|err| local(&doing).caused_by(err))?;
            if certificates.is_empty() {
                return Err(local(&format!("{doing}: there are none")));
            }
            builder = builder.tls_certs_only(certificates);
        }
        let Some(file) = marks.certificate_file else {
            let advice = "cannot prepare https: install ca-certificates or set ca_file";
            return builder.build().map_err(|err| local(advice).caused_by(err));
        };
        let doing = format!("cannot use the certificate and key in {}", file.display());
        let of_px = |err| TransferError {
            kind: Kind::Credentials,
            ..err
        };
        let identity = Identity::from_pem(&read(&file, &doing).map_err(of_px)?);
        let identity = identity.map_err(|err| of_px(local(&doing).caused_by(err)))?;
        let advice = format!("{doing}, or the CA certificates: install ca-certificates or set ca_file");
        let built = builder.identity(identity).build();
        built.map_err(|err| of_px(local(&advice).caused_by(err)))
    })
    .await
}

fn read(file: &Path, doing: &str) -> Result<Vec<u8>, TransferError> {
    std::fs::read(file).map_err(|err| local(doing).caused_by(err))
}

fn local(what: &str) -> TransferError {
    TransferError::new(Fault::Own, Kind::Local, what)
}

/// What goes with a request to be known by.
pub(super) fn login<'a>(user: &'a str, password: Option<&'a Secret>) -> Option<(&'a str, Option<&'a str>)> {
    let is_known = !user.is_empty() || password.is_some();
    is_known.then(|| (user, password.map(Secret::expose)))
}

pub(super) fn http_date(text: &str) -> Option<Timestamp> {
    DateTimeParser::new().parse_timestamp(text).ok()
}

/// What a busy server asks for: seconds, or a date that has not passed.
pub(super) fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let asked = headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
    parse_retry_after(asked?, now)
}

pub(super) fn parse_retry_after(text: &str, now: Timestamp) -> Option<Duration> {
    let text = text.trim();
    match text.parse::<u64>() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => Some(Duration::try_from(http_date(text)?.duration_since(now)).unwrap_or_default()),
    }
}

/// Whatever reqwest reports. Its errors are opaque, so the system's own code is looked for first.
pub(super) fn classify(err: reqwest::Error, doing: &str) -> TransferError {
    let is_ours = match system_error(&err).map(Errno::from_raw_os_error) {
        Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS | Errno::ADDRNOTAVAIL) => true,
        // A name look-up that finds no descriptor only says that it failed.
        _ => err.is_connect() && has_no_descriptors(),
    };
    let (fault, kind, why) = if is_ours {
        (
            Fault::Own,
            Kind::Local,
            "no descriptors, ports or memory left on this host",
        )
    } else if err.is_builder() {
        (Fault::Message, Kind::Rejected, "it cannot be asked for")
    } else if err.is_timeout() {
        (Fault::Endpoint, Kind::TimedOut, "no answer in time")
    } else if err.is_dns() {
        (Fault::Endpoint, Kind::Unreachable, "the host name is not known")
    } else if is_distrusted(&err) {
        let why = "the server's certificate is not one to be trusted; ca_file names the CAs that are";
        (Fault::Endpoint, Kind::Unreachable, why)
    } else if err.is_connect() {
        (Fault::Endpoint, Kind::Unreachable, "no connection")
    } else {
        // Request, body and decode errors: reset, cut short, no HTTP. Redirect, status and upgrade errors cannot
        // be, and whatever later versions invent is parked, which is bounded.
        (Fault::Endpoint, Kind::Broken, "the answer broke off")
    };
    TransferError::new(fault, kind, format!("{doing}: {why}")).caused_by(err.without_url())
}

fn system_error(err: &reqwest::Error) -> Option<i32> {
    let mut cause: Option<&dyn Error> = Some(err);
    while let Some(at) = cause {
        if let Some(code) = at.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) {
            return Some(code);
        }
        cause = at.source();
    }
    None
}

/// Whether TLS has refused what the server has shown; its errors cannot be told apart by type here.
fn is_distrusted(err: &reqwest::Error) -> bool {
    let mut cause = err.source().filter(|_| err.is_connect());
    while let Some(at) = cause {
        if at.to_string().contains("invalid peer certificate") {
            return true;
        }
        cause = at.source();
    }
    false
}

fn has_no_descriptors() -> bool {
    matches!(rustix::io::dup(io::stderr()), Err(Errno::MFILE | Errno::NFILE))
}
