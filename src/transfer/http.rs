//! `http:` and `https:` URLs, through reqwest.
//!
//! Redirects are followed here and not by reqwest, because each one has to be allowed and none may carry a password or
//! a certificate along. A body that breaks off is gone on with where the server can tell that it is the same version.

mod client;
mod resume;
#[cfg(test)]
mod tests;
mod web;

use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use reqwest::header::{self, HeaderMap};
use reqwest::{Client, Response, StatusCode};
use tokio::sync::OnceCell;
use tokio::task::{JoinHandle, spawn_blocking};
use url::Url;

pub(super) use web::{Answer, Ask, Web};

use super::credential::Credential;
use super::intake::{Bounds, Expected, Facts, Fetched, Intake};
use super::policy::Policy;
use super::{Kind, Options, TransferError, joined, off_thread, shorten};
use crate::message::Fault;
use crate::spool::SpoolError;
use client::{Marks, builder, classify, http_date, login, retry_after};
use resume::{Point, RESUMES, Rest, Version};

const HOPS_MAX: usize = 5;
/// Bytes gathered before they are written; while one lot is written the next is received.
const BUFFER: usize = 256 << 10;
/// Longest ETag kept.
const ETAG_MAX: usize = 256;

/// The clients of one unit.
#[derive(Debug)]
pub(super) struct Http {
    plain: Client,
    /// For `https:`, made when the first such URL comes.
    secure: OnceCell<Client>,
    /// A client shows one certificate, or none: so each certificate has its own.
    certified: Vec<(PathBuf, OnceCell<Client>)>,
    ca_file: Option<PathBuf>,
    connect_timeout: Duration,
    read_timeout: Duration,
    credentials: Vec<Credential>,
}

impl Http {
    pub(super) fn new(options: &Options) -> Result<Http, TransferError> {
        let files = options
            .credentials
            .iter()
            .filter_map(|known| known.login.certificate_file.clone());
        let mut files: Vec<PathBuf> = files.collect();
        files.sort();
        files.dedup();
        Ok(Http {
            plain: client::plain(builder(options.connect_timeout, Some(options.read_timeout)))?,
            secure: OnceCell::new(),
            certified: files.into_iter().map(|file| (file, OnceCell::new())).collect(),
            ca_file: options.ca_file.clone(),
            connect_timeout: options.connect_timeout,
            read_timeout: options.read_timeout,
            credentials: options.credentials.clone(),
        })
    }

    /// `open` is called again when what was received is of no use: the sink that it made before is dropped.
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
        F: FnMut() -> Result<W, SpoolError> + Send + 'static,
    {
        let shown = shorten(url.as_str()).to_string();
        let doing = format!("cannot fetch {shown}");
        let mut receiving = Receiving::new(bounds, expected, open);
        let (mut point, mut facts, mut version): (Option<Point>, _, _) = (None, Facts::default(), None);
        for breaks in 0.. {
            let mut response = self.answer(url, policy, point.as_ref()).await?;
            let rest = point
                .as_ref()
                .map(|point| point.judge(response.status(), response.headers()));
            match rest {
                Some(Rest::Follows) => {}
                Some(Rest::IsElsewhere) => {
                    receiving.restart().await?;
                    point = None;
                    continue;
                }
                Some(Rest::BeginsAnew) | None => {
                    receiving.restart().await?;
                    let length = response.content_length();
                    bounds.check_length(length, &shown)?;
                    facts = facts_of(response.headers());
                    version = Version::of(response.headers(), length);
                }
            }
            let before = receiving.got;
            let Err(err) = receiving.receive(&mut response, &doing).await else {
                break;
            };
            let is_break = err.fault == Fault::Endpoint && matches!(err.kind, Kind::Broken | Kind::TimedOut);
            point = version.clone().map(|version| Point {
                version,
                at: receiving.got,
            });
            if !is_break || point.is_none() || receiving.got == before || breaks >= RESUMES {
                return Err(err);
            }
        }
        let intake = receiving.end().await?;
        off_thread(move || intake.finish(facts, &shown)).await
    }

    /// The 200 at the end of the redirects; whatever the server says to a request for the rest.
    async fn answer(&self, announced: &Url, policy: &Policy, rest: Option<&Point>) -> Result<Response, TransferError> {
        let doing = format!("cannot fetch {}", shorten(announced.as_str()));
        let mut url = announced.clone();
        for hop in 0..=HOPS_MAX {
            let known = self.credential(&url).filter(|_| hop == 0);
            let client = self.client(&url, known).await?;
            let mut request = client.get(url.clone()).header(header::ACCEPT_ENCODING, "identity");
            if let Some((user, password)) =
                known.and_then(|known| login(&known.login.user, known.login.password.as_ref()))
            {
                request = request.basic_auth(user, password);
            }
            if let Some(Point { version, at }) = rest {
                request = request
                    .header(header::RANGE, format!("bytes={at}-"))
                    .header(header::IF_RANGE, &version.validator);
            }
            let response = request.send().await.map_err(|err| classify(err, &doing))?;
            match response.status() {
                StatusCode::OK => return Ok(response),
                StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE if rest.is_some() => {
                    return Ok(response);
                }
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
        let what = format!("{doing}: more than {HOPS_MAX} redirects");
        Err(TransferError::new(Fault::Message, Kind::NotAllowed, what))
    }

    fn credential(&self, url: &Url) -> Option<&Credential> {
        Credential::find(&self.credentials, url)
    }

    /// What reads files is tried again with every https URL until it works: the operator may install them meanwhile.
    async fn client(&self, url: &Url, known: Option<&Credential>) -> Result<&Client, TransferError> {
        if url.scheme() != "https" {
            return Ok(&self.plain);
        }
        let wanted = known.and_then(|known| known.login.certificate_file.as_ref());
        let certified = self.certified.iter().find(|(file, _)| Some(file) == wanted);
        let (certificate_file, cell) = match certified {
            Some((file, cell)) => (Some(file.clone()), cell),
            None => (None, &self.secure),
        };
        cell.get_or_try_init(|| {
            let marks = Marks {
                ca_file: self.ca_file.clone(),
                certificate_file,
            };
            client::secure(builder(self.connect_timeout, Some(self.read_timeout)), marks)
        })
        .await
    }
}

/// What was received so far, written by another thread while more is received.
struct Receiving<W, F> {
    open: Arc<Mutex<F>>,
    bounds: Bounds,
    expected: Expected,
    /// The last lot; `None` before the first one.
    writing: Option<JoinHandle<Result<Intake<W>, TransferError>>>,
    got: u64,
}

impl<W, F> Receiving<W, F>
where
    W: Write + Send + 'static,
    F: FnMut() -> Result<W, SpoolError> + Send + 'static,
{
    fn new(bounds: Bounds, expected: Expected, open: F) -> Self {
        Receiving {
            open: Arc::new(Mutex::new(open)),
            bounds,
            expected,
            writing: None,
            got: 0,
        }
    }

    /// Drops what there is.
    async fn restart(&mut self) -> Result<(), TransferError> {
        self.got = 0;
        let Some(writing) = self.writing.take() else {
            return Ok(());
        };
        let intake = joined(writing).await?;
        off_thread(move || {
            drop(intake);
            Ok(())
        })
        .await
    }

    /// Until the body ends, breaks off, or nothing more is wanted. What came before a break is written.
    async fn receive(&mut self, response: &mut Response, doing: &str) -> Result<(), TransferError> {
        loop {
            // Of what is too long, one byte more than is taken.
            let left = self.bounds.most().saturating_add(1).saturating_sub(self.got);
            let (bytes, ended) = gather(response, left, doing).await;
            if !bytes.is_empty() {
                self.write(bytes).await?;
            }
            if ended? {
                return Ok(());
            }
        }
    }

    async fn write(&mut self, bytes: Vec<u8>) -> Result<(), TransferError> {
        self.got += bytes.len() as u64;
        let mut intake = match self.writing.take() {
            Some(writing) => joined(writing).await?,
            None => return self.first(bytes),
        };
        self.writing = Some(spawn_blocking(move || {
            intake.take(&bytes)?;
            Ok(intake)
        }));
        Ok(())
    }

    /// Opens the sink.
    fn first(&mut self, bytes: Vec<u8>) -> Result<(), TransferError> {
        let (open, bounds, expected) = (Arc::clone(&self.open), self.bounds, self.expected.clone());
        self.writing = Some(spawn_blocking(move || {
            // A panic while it opened has ended the fetch.
            let mut open = open.lock().unwrap_or_else(PoisonError::into_inner);
            let mut intake = Intake::open(&mut *open, bounds, expected)?;
            intake.take(&bytes)?;
            Ok(intake)
        }));
        Ok(())
    }

    async fn end(mut self) -> Result<Intake<W>, TransferError> {
        if self.writing.is_none() {
            self.first(Vec::new())?;
        }
        match self.writing {
            Some(writing) => joined(writing).await,
            None => unreachable!("it was begun just now"),
        }
    }
}

/// Receives up to a buffer, and whether nothing more is wanted or why nothing more comes.
async fn gather(response: &mut Response, mut left: u64, doing: &str) -> (Vec<u8>, Result<bool, TransferError>) {
    let mut gathered = Vec::new();
    while gathered.len() < BUFFER && left > 0 {
        match response.chunk().await {
            Ok(Some(chunk)) => {
                let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(chunk.len());
                gathered.extend_from_slice(&chunk[..wanted]);
                left -= wanted as u64;
            }
            Ok(None) => return (gathered, Ok(true)),
            Err(err) => return (gathered, Err(classify(err, doing))),
        }
    }
    (gathered, Ok(left == 0))
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
        err.retry_after = retry_after(headers, now);
    }
    err
}
