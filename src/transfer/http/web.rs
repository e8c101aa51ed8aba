//! Requests to one server that takes files. No status is judged here.

use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::stream::try_unfold;
use jiff::Timestamp;
use reqwest::header::{self, HeaderValue};
use reqwest::{Body, Client, Method, RequestBuilder, Response};
use url::Url;

use super::super::deliver::chunks::Chunks;
use super::super::peer::Peer;
use super::super::{Kind, TransferError};
use super::client::{self, Marks, builder, classify, login, retry_after};
use crate::message::Fault;

/// Of an answer's body, which nobody reads, so much is taken for the connection to be kept.
const BODY_MAX: usize = 64 << 10;

/// A client of one server; its connections are its own.
#[derive(Debug)]
pub(in crate::transfer) struct Web {
    client: Client,
    peer: Peer,
}

/// One request.
pub(in crate::transfer) struct Ask<'a> {
    /// For messages: "cannot put a/b on http://h/".
    pub(in crate::transfer) doing: &'a str,
    pub(in crate::transfer) method: &'static str,
    pub(in crate::transfer) url: Url,
    /// Of a `MOVE`; what is there is replaced.
    pub(in crate::transfer) destination: Option<Url>,
    /// The bytes to be sent, and how many they are.
    pub(in crate::transfer) body: Option<(Chunks, u64)>,
}

/// What the server said.
#[derive(Debug)]
pub(in crate::transfer) struct Answer {
    pub(in crate::transfer) status: u16,
    /// "507 Insufficient Storage".
    pub(in crate::transfer) shown: String,
    pub(in crate::transfer) retry_after: Option<Duration>,
}

impl Web {
    /// A client; connects to nothing.
    pub(in crate::transfer) async fn new(peer: &Peer, is_secure: bool) -> Result<Web, TransferError> {
        // The time that px takes to send counts as the server's silence in reqwest, so it is watched here.
        let builder = builder(peer.connect_timeout, None);
        let client = match is_secure {
            true => {
                let marks = Marks {
                    ca_file: peer.trust.ca_file.clone(),
                    certificate_file: peer.login.certificate_file.clone(),
                };
                client::secure(builder, marks).await?
            }
            false => client::plain(builder)?,
        };
        Ok(Web {
            client,
            peer: peer.clone(),
        })
    }

    /// Sends the request and hears out the answer. An error is one of the connection, or of the bytes to be sent.
    pub(in crate::transfer) async fn ask(&self, ask: Ask<'_>) -> Result<Answer, TransferError> {
        let doing = ask.doing;
        let wait = Arc::new(Wait::new(self.peer.connect_timeout));
        let request = self.request(ask, &wait).await?;
        let answered = self.within(&wait, request.send()).await;
        let mut response = match answered {
            Some(Ok(response)) => response,
            Some(Err(err)) => return Err(wait.take_spoilt().unwrap_or_else(|| classify(err, doing))),
            None => return Err(silent(doing)),
        };
        let answer = Answer {
            status: response.status().as_u16(),
            shown: response.status().to_string(),
            retry_after: retry_after(response.headers(), Timestamp::now()),
        };
        wait.for_server();
        // The status is what counts: an answer whose end does not come only costs the connection.
        let _ = self.within(&wait, hear_out(&mut response)).await;
        Ok(answer)
    }

    async fn request(&self, ask: Ask<'_>, wait: &Arc<Wait>) -> Result<RequestBuilder, TransferError> {
        let unusable = |what: &str| {
            let what = format!("{}: {what}", ask.doing);
            TransferError::new(Fault::Message, Kind::Rejected, what)
        };
        let method = Method::from_bytes(ask.method.as_bytes()).map_err(|_| unusable("no such method"))?;
        let mut request = self.client.request(method, ask.url.clone());
        if let Some((user, password)) = login(&self.peer.login.user, self.peer.login.password.as_ref()) {
            request = request.basic_auth(user, password);
        }
        if let Some(to) = &ask.destination {
            let to = HeaderValue::from_str(to.as_str()).map_err(|_| unusable("its name cannot be said"))?;
            request = request.header("destination", to).header("overwrite", "T");
        }
        let Some((mut chunks, size)) = ask.body else {
            return Ok(request);
        };
        // With a length that is known the body is sent plainly and not in chunks, which some servers refuse.
        request = request.header(header::CONTENT_LENGTH, size);
        if size == 0 {
            chunks.next().await?;
            return Ok(request.body(Body::default()));
        }
        Ok(request.body(stream(chunks, Arc::clone(wait))))
    }

    /// `None` when the server has been silent for too long.
    async fn within<T>(&self, wait: &Wait, answer: impl Future<Output = T>) -> Option<T> {
        let mut answer = pin!(answer);
        loop {
            let left = wait.left(self.peer.read_timeout, Instant::now());
            if left.is_zero() {
                return None;
            }
            if let Ok(answer) = tokio::time::timeout(left, &mut answer).await {
                return Some(answer);
            }
        }
    }
}

fn silent(doing: &str) -> TransferError {
    TransferError::new(Fault::Endpoint, Kind::TimedOut, format!("{doing}: no answer in time"))
}

async fn hear_out(response: &mut Response) {
    let mut left = BODY_MAX;
    while let Ok(Some(chunk)) = response.chunk().await {
        left = left.saturating_sub(chunk.len());
        if left == 0 {
            return;
        }
    }
}

fn stream(chunks: Chunks, wait: Arc<Wait>) -> Body {
    let parts = try_unfold((chunks, wait), |(mut chunks, wait)| async move {
        wait.for_px();
        let next = chunks.next().await;
        wait.for_server();
        match next {
            Ok(Some(bytes)) => Ok(Some((bytes, (chunks, wait)))),
            Ok(None) => Ok(None),
            Err(err) => {
                let shown = err.what.clone();
                wait.put_spoilt(err);
                Err(shown)
            }
        }
    });
    Body::wrap_stream(parts)
}

/// Who is waited for. Time that px itself takes, for a disk or for bandwidth, is not the server's.
#[derive(Debug)]
struct Wait(Mutex<Waiting>);

#[derive(Debug)]
struct Waiting {
    /// Since when the server has been silent; `None` while px has to say something.
    server_since: Option<Instant>,
    /// Why the bytes to be sent ended early.
    spoilt: Option<TransferError>,
}

impl Wait {
    /// The first silence may last longer, for a connection may have to be made.
    fn new(connect_timeout: Duration) -> Wait {
        Wait(Mutex::new(Waiting {
            server_since: Some(Instant::now() + connect_timeout),
            spoilt: None,
        }))
    }

    fn for_px(&self) {
        self.lock().server_since = None;
    }

    fn for_server(&self) {
        self.lock().server_since = Some(Instant::now());
    }

    fn put_spoilt(&self, err: TransferError) {
        self.lock().spoilt = Some(err);
    }

    fn take_spoilt(&self) -> Option<TransferError> {
        self.lock().spoilt.take()
    }

    /// Until the silence is too long.
    fn left(&self, limit: Duration, now: Instant) -> Duration {
        match self.lock().server_since {
            Some(since) => (since + limit).saturating_duration_since(now),
            None => limit,
        }
    }

    /// Two plain fields are whole after every call, so a panic elsewhere does not spoil them.
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
