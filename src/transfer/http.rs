//! `http:` and `https:` URLs, through reqwest.
//!
//! No total time-out, no cookies, no proxies, no decoding of content. Redirects are followed here and not by reqwest,
//! because each one has to be allowed and none may carry a password along.

use std::error::Error;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimeParser;
use reqwest::header::{self, HeaderMap};
use reqwest::{Certificate, Client, ClientBuilder, Response, StatusCode, redirect};
use rustix::io::Errno;
use tokio::sync::OnceCell;
use tokio::task::spawn_blocking;
use url::Url;

use super::intake::{Bounds, Expected, Facts, Fetched, Intake};
use super::policy::Policy;
use super::{Kind, Options, TransferError, joined, off_thread, shorten};
use crate::config::Secret;
use crate::message::Fault;
use crate::spool::SpoolError;

const HOPS_MAX: usize = 5;
/// Bytes gathered before they are written; while one lot is written the next is received.
const BUFFER: usize = 256 << 10;
const IDLE_PER_HOST: usize = 8;
const IDLE: Duration = Duration::from_secs(60);
/// Longest ETag kept.
const ETAG_MAX: usize = 256;

/// Who px is on the servers whose URLs begin with `prefix`.
#[derive(Debug, Clone)]
pub struct Credential {
    /// Scheme, host, port and the beginning of the path, whole segments.
    pub prefix: Url,
    /// User name.
    pub user: String,
    /// Password.
    pub password: Secret,
}

impl Credential {
    fn is_for(&self, url: &Url) -> bool {
        let prefix = self.prefix.path().trim_end_matches('/');
        let is_beneath = url
            .path()
            .strip_prefix(prefix)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        is_beneath
            && self.prefix.scheme() == url.scheme()
            && self.prefix.host_str() == url.host_str()
            && self.prefix.port_or_known_default() == url.port_or_known_default()
    }
}

/// The clients of one unit.
#[derive(Debug)]
pub(super) struct Http {
    /// For `http:` alone: it loads no CA certificates, which a small host may not have.
    plain: Client,
    /// For `https:`, made when the first such URL comes.
    secure: OnceCell<Client>,
    ca_file: Option<PathBuf>,
    connect_timeout: Duration,
    read_timeout: Duration,
    credentials: Vec<Credential>,
}

impl Http {
    pub(super) fn new(options: &Options) -> Result<Http, TransferError> {
        let plain = builder(options.connect_timeout, options.read_timeout)
            .tls_certs_only([])
            .build();
        Ok(Http {
            plain: plain.map_err(|err| local("cannot prepare fetching by http").caused_by(err))?,
            secure: OnceCell::new(),
            ca_file: options.ca_file.clone(),
            connect_timeout: options.connect_timeout,
            read_timeout: options.read_timeout,
            credentials: options.credentials.clone(),
        })
    }

    pub(super) async fn fetch<W, F>(
        &self,
        url: &Url,
        policy: &Policy,
        bounds: Bounds,
        expected: Expected,
        open: F,
    ) -> Result<Fetched<W>, TransferError>
    where
        W: Write + Send + 'static,
        F: FnOnce() -> Result<W, SpoolError> + Send + 'static,
    {
        let mut response = self.answer(url, policy).await?;
        let facts = facts_of(response.headers());
        let shown = shorten(url.as_str()).to_string();
        bounds.check_length(response.content_length(), &shown)?;
        let mut left = bounds.most().saturating_add(1);
        let (first, mut has_ended) = gather(&mut response, &mut left, url).await?;
        let mut writing = spawn_blocking(move || {
            let mut intake = Intake::open(open, bounds, expected)?;
            intake.take(&first)?;
            Ok(intake)
        });
        while !has_ended {
            let (bytes, ended) = gather(&mut response, &mut left, url).await?;
            let mut intake = joined(writing).await?;
            writing = spawn_blocking(move || {
                intake.take(&bytes)?;
                Ok(intake)
            });
            has_ended = ended;
        }
        let intake = joined(writing).await?;
        off_thread(move || intake.finish(facts, &shown)).await
    }

    /// The 200 at the end of the redirects.
    async fn answer(&self, announced: &Url, policy: &Policy) -> Result<Response, TransferError> {
        let mut url = announced.clone();
        for hop in 0..=HOPS_MAX {
            let mut request = self
                .client(&url)
                .await?
                .get(url.clone())
                .header(header::ACCEPT_ENCODING, "identity");
            if let Some(known) = self.credential(&url).filter(|_| hop == 0) {
                request = request.basic_auth(&known.user, Some(known.password.expose()));
            }
            let response = request.send().await.map_err(|err| classify(err, &url))?;
            match response.status() {
                StatusCode::OK => return Ok(response),
                StatusCode::MOVED_PERMANENTLY
                | StatusCode::FOUND
                | StatusCode::SEE_OTHER
                | StatusCode::TEMPORARY_REDIRECT
                | StatusCode::PERMANENT_REDIRECT => {
                    let next = location(&url, response.headers())?;
                    policy.check_redirect(announced, &next)?;
                    url = next;
                }
                status => return Err(refusal(status, response.headers(), announced, Timestamp::now())),
            }
        }
        let what = format!(
            "cannot fetch {}: more than {HOPS_MAX} redirects",
            shorten(announced.as_str())
        );
        Err(TransferError::new(Fault::Message, Kind::NotAllowed, what))
    }

    /// The one with the longest prefix.
    fn credential(&self, url: &Url) -> Option<&Credential> {
        self.credentials
            .iter()
            .filter(|known| known.is_for(url))
            .max_by_key(|known| known.prefix.path().len())
    }

    async fn client(&self, url: &Url) -> Result<&Client, TransferError> {
        match url.scheme() {
            "https" => self.secure.get_or_try_init(|| self.secure_client()).await,
            _ => Ok(&self.plain),
        }
    }

    /// Tried again with every https URL until it works: the operator may install the certificates meanwhile.
    async fn secure_client(&self) -> Result<Client, TransferError> {
        let (ca_file, connect, read) = (self.ca_file.clone(), self.connect_timeout, self.read_timeout);
        off_thread(move || {
            let mut builder = builder(connect, read);
            if let Some(file) = ca_file {
                let doing = format!("cannot use the CA certificates in {}", file.display());
                let pem = std::fs::read(&file).map_err(|err| local(&doing).caused_by(err))?;
                let certificates = Certificate::from_pem_bundle(&pem).map_err(|err| local(&doing).caused_by(err))?;
                if certificates.is_empty() {
                    return Err(local(&format!("{doing}: there are none")));
                }
                builder = builder.tls_certs_only(certificates);
            }
            let advice = "cannot prepare fetching by https: install ca-certificates or set ca_file";
            builder.build().map_err(|err| local(advice).caused_by(err))
        })
        .await
    }
}

fn builder(connect_timeout: Duration, read_timeout: Duration) -> ClientBuilder {
    Client::builder()
        .user_agent(concat!("px/", env!("CARGO_PKG_VERSION")))
        .redirect(redirect::Policy::none())
        .referer(false)
        .no_proxy()
        .http1_only()
        .tcp_nodelay(true)
        .connect_timeout(connect_timeout)
        .read_timeout(read_timeout)
        .pool_max_idle_per_host(IDLE_PER_HOST)
        .pool_idle_timeout(IDLE)
}

fn local(what: &str) -> TransferError {
    TransferError::new(Fault::Own, Kind::Local, what)
}

/// Receives up to a buffer; true when nothing more is wanted. Of what is too long, one byte more than is taken.
async fn gather(response: &mut Response, left: &mut u64, url: &Url) -> Result<(Vec<u8>, bool), TransferError> {
    let mut gathered = Vec::new();
    while gathered.len() < BUFFER && *left > 0 {
        let Some(chunk) = response.chunk().await.map_err(|err| classify(err, url))? else {
            return Ok((gathered, true));
        };
        let wanted = usize::try_from(*left).unwrap_or(usize::MAX).min(chunk.len());
        gathered.extend_from_slice(&chunk[..wanted]);
        *left -= wanted as u64;
    }
    Ok((gathered, *left == 0))
}

fn facts_of(headers: &HeaderMap) -> Facts {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    Facts {
        size: 0,
        last_modified: text(header::LAST_MODIFIED).and_then(http_date),
        etag: text(header::ETAG)
            .filter(|etag| etag.len() <= ETAG_MAX)
            .map(str::to_owned),
    }
}

fn http_date(text: &str) -> Option<Timestamp> {
    DateTimeParser::new().parse_timestamp(text).ok()
}

fn location(from: &Url, headers: &HeaderMap) -> Result<Url, TransferError> {
    let next = headers.get(header::LOCATION).and_then(|value| value.to_str().ok());
    next.and_then(|next| from.join(next).ok()).ok_or_else(|| {
        let what = format!("cannot fetch {}: it is redirected to nowhere", shorten(from.as_str()));
        TransferError::new(Fault::Message, Kind::NotAllowed, what)
    })
}

/// Every status that is neither 200 nor a redirect.
fn refusal(status: StatusCode, headers: &HeaderMap, url: &Url, now: Timestamp) -> TransferError {
    let (fault, kind) = match status.as_u16() {
        404 | 410 => (Fault::Message, Kind::Gone),
        401 | 403 | 407 => (Fault::Endpoint, Kind::Forbidden),
        408 => (Fault::Endpoint, Kind::TimedOut),
        425 | 429 => (Fault::Endpoint, Kind::Unavailable),
        300..=499 => (Fault::Message, Kind::Rejected),
        500..=599 => (Fault::Endpoint, Kind::Unavailable),
        // 1xx, another 2xx, or no status of HTTP at all.
        _ => (Fault::Endpoint, Kind::Broken),
    };
    let mut err = TransferError::new(fault, kind, format!("cannot fetch {}: {status}", shorten(url.as_str())));
    if kind == Kind::Unavailable {
        let asked = headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
        err.retry_after = asked.and_then(|text| retry_after(text, now));
    }
    err
}

/// Seconds, or a date that has not passed.
fn retry_after(text: &str, now: Timestamp) -> Option<Duration> {
    let text = text.trim();
    match text.parse::<u64>() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => Some(Duration::try_from(http_date(text)?.duration_since(now)).unwrap_or_default()),
    }
}

/// Whatever reqwest reports. Its errors are opaque, so the system's own code is looked for first.
fn classify(err: reqwest::Error, url: &Url) -> TransferError {
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
    } else if err.is_connect() {
        (Fault::Endpoint, Kind::Unreachable, "no connection")
    } else {
        // Request, body and decode errors: reset, cut short, no HTTP. Redirect, status and upgrade errors cannot
        // be, and whatever later versions invent is parked, which is bounded.
        (Fault::Endpoint, Kind::Broken, "the answer broke off")
    };
    let what = format!("cannot fetch {}: {why}", shorten(url.as_str()));
    TransferError::new(fault, kind, what).caused_by(err.without_url())
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

fn has_no_descriptors() -> bool {
    matches!(rustix::io::dup(io::stderr()), Err(Errno::MFILE | Errno::NFILE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_has_its_class() {
        let url = Url::parse("http://h/x").unwrap();
        let table = [
            (404, Fault::Message, Kind::Gone),
            (410, Fault::Message, Kind::Gone),
            (400, Fault::Message, Kind::Rejected),
            (416, Fault::Message, Kind::Rejected),
            (304, Fault::Message, Kind::Rejected),
            (401, Fault::Endpoint, Kind::Forbidden),
            (403, Fault::Endpoint, Kind::Forbidden),
            (408, Fault::Endpoint, Kind::TimedOut),
            (429, Fault::Endpoint, Kind::Unavailable),
            (500, Fault::Endpoint, Kind::Unavailable),
            (503, Fault::Endpoint, Kind::Unavailable),
            (204, Fault::Endpoint, Kind::Broken),
            (206, Fault::Endpoint, Kind::Broken),
            (999, Fault::Endpoint, Kind::Broken),
        ];
        for (status, fault, kind) in table {
            let err = refusal(
                StatusCode::from_u16(status).unwrap(),
                &HeaderMap::new(),
                &url,
                Timestamp::now(),
            );
            assert_eq!((err.fault, err.kind), (fault, kind), "{status}");
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = "2015-10-21T07:27:00Z".parse().unwrap();
        let table = [
            ("120", Some(120)),
            (" 0 ", Some(0)),
            ("Wed, 21 Oct 2015 07:28:00 GMT", Some(60)),
            ("Wed, 21 Oct 2015 07:20:00 GMT", Some(0)),
            ("-1", None),
            ("soon", None),
            ("", None),
        ];
        for (text, seconds) in table {
            assert_eq!(retry_after(text, now), seconds.map(Duration::from_secs), "{text}");
        }
    }

    #[test]
    fn a_credential_is_for_its_prefix_only() {
        let credential = |prefix: &str| Credential {
            prefix: Url::parse(prefix).unwrap(),
            user: "u".into(),
            password: Secret::new("canary"),
        };
        let table = [
            ("http://h/data", "http://h/data/x", true),
            ("http://h/data/", "http://h:80/data/x", true),
            ("http://h", "http://h/x", true),
            ("http://h/data", "http://h/database", false),
            ("http://h/data", "https://h/data/x", false),
            ("http://h/data", "http://h:8080/data/x", false),
            ("http://h/data", "http://h.evil/data/x", false),
            ("http://h/data", "http://h/other", false),
        ];
        for (prefix, url, is_for) in table {
            assert_eq!(
                credential(prefix).is_for(&Url::parse(url).unwrap()),
                is_for,
                "{prefix} {url}"
            );
        }
        assert!(!format!("{:?}", credential("http://h")).contains("canary"));
    }
}
