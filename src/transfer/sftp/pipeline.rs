//! Requests that are on their way: many at once, so that a long line costs one round trip and not one per request.

use std::collections::VecDeque;
use std::future::{Future, poll_fn, ready};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use russh_sftp::client::error::Error as SftpError;

use super::fault::Step;

/// Bytes on their way at most. Servers take 2 MiB before they are read, so more of them helps no line.
const WINDOW: usize = 4 << 20;

type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, SftpError>> + Send + 'a>>;

/// Requests in the order in which they were sent, and in which their answers are looked at.
pub(super) struct Pipeline<'a, T> {
    sent: VecDeque<Sent<'a, T>>,
    bytes: usize,
    patience: Duration,
}

struct Sent<'a, T> {
    step: Step,
    bytes: usize,
    patience: Duration,
    answer: Answer<'a, T>,
}

impl<'a, T: Send + 'a> Pipeline<'a, T> {
    /// `patience` is for silence: how long one answer is waited for after the one before.
    pub(super) fn new(patience: Duration) -> Pipeline<'a, T> {
        Pipeline {
            sent: VecDeque::new(),
            bytes: 0,
            patience,
        }
    }

    /// Whether so many bytes more may be asked for or sent.
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        self.sent.is_empty() || self.bytes + bytes <= WINDOW
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sent.is_empty()
    }

    /// Sends a request. `more` is added to the patience for what takes a server long.
    pub(super) async fn send(
        &mut self,
        step: Step,
        bytes: usize,
        more: Duration,
        request: impl Future<Output = Result<T, SftpError>> + Send + 'a,
    ) {
        self.bytes += bytes;
        self.sent.push_back(Sent {
            step,
            bytes,
            patience: self.patience + more,
            answer: start(Box::pin(request)).await,
        });
    }

    /// The answer to the oldest request; `None` when there is none.
    pub(super) async fn next(&mut self) -> Option<Result<T, (Step, SftpError)>> {
        let sent = self.sent.pop_front()?;
        self.bytes -= sent.bytes;
        let answer = tokio::time::timeout(sent.patience, sent.answer).await;
        let answer = answer.unwrap_or(Err(SftpError::Timeout));
        Some(answer.map_err(|err| (sent.step, err)))
    }

    /// Forgets what is on its way; the answers are thrown away as they come.
    pub(super) fn forget(&mut self) {
        self.sent.clear();
        self.bytes = 0;
    }
}

/// A request of the library is sent when it is first polled; this does so, and does not wait for the answer.
async fn start<'a, T: Send + 'a>(mut request: Answer<'a, T>) -> Answer<'a, T> {
    match poll_fn(|cx| Poll::Ready(request.as_mut().poll(cx))).await {
        Poll::Ready(answer) => Box::pin(ready(answer)),
        Poll::Pending => request,
    }
}
