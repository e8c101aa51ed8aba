//! The life of one connection: it ends once, everybody learns the same reason, and nothing waits beyond its end.

use std::fmt::Display;
use std::future::Future;
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use lapin::{ConnectionStatus, Event};
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{info, warn};

use super::classify::{classify, reason, refused};
use crate::broker::BrokerError;
use crate::message::Fault;

/// An orderly close by the broker raises no event in the library: its state is looked at this often as well.
const STATE_CHECK: Duration = Duration::from_secs(5);

/// Why a connection is over.
#[derive(Debug, Clone)]
pub(super) struct Ending {
    pub(super) fault: Fault,
    pub(super) what: String,
    pub(super) cause: Option<String>,
}

impl Ending {
    pub(super) fn new(fault: Fault, what: impl Into<String>) -> Self {
        Ending {
            fault,
            what: what.into(),
            cause: None,
        }
    }

    pub(super) fn of(what: impl Into<String>, error: &lapin::Error) -> Self {
        Ending {
            fault: classify(error),
            what: what.into(),
            cause: Some(reason(error)),
        }
    }
}

impl From<Ending> for BrokerError {
    fn from(ending: Ending) -> Self {
        BrokerError {
            fault: ending.fault,
            what: ending.what,
            source: ending.cause.map(Into::into),
        }
    }
}

/// One connection, alive until `end`.
pub(super) struct Life {
    ending: watch::Sender<Option<Ending>>,
    /// A second handle on the connection's socket. Shutting it down is the one way to end the library's I/O thread
    /// while the broker is frozen or blocks the connection.
    socket: TcpStream,
    /// URL without password, for texts.
    pub(super) url: String,
    reply_timeout: Duration,
}

impl Life {
    pub(super) fn new(socket: TcpStream, url: String, reply_timeout: Duration) -> Self {
        Life {
            ending: watch::Sender::new(None),
            socket,
            url,
            reply_timeout,
        }
    }

    /// Ends it, unless it is over already. The first reason stays.
    pub(super) fn end(&self, ending: Ending) {
        let first = self.ending.send_if_modified(|held| {
            let first = held.is_none();
            held.get_or_insert(ending);
            first
        });
        if first {
            // Nothing lost: it fails only when the peer has already gone.
            let _ = self.socket.shutdown(Shutdown::Both);
        }
    }

    /// The reason, once it is over.
    pub(super) fn over(&self) -> Option<BrokerError> {
        self.ending.borrow().clone().map(Into::into)
    }

    /// Resolves when it is over.
    pub(super) async fn ended(&self) -> BrokerError {
        let mut ending = self.ending.subscribe();
        match ending.wait_for(Option::is_some).await {
            Ok(ending) => match &*ending {
                Some(ending) => ending.clone().into(),
                None => unreachable!("waited for an ending"),
            },
            Err(_) => unreachable!("the sender lives as long as self"),
        }
    }

    /// Waits for the broker, but not beyond the reply time-out, which ends the connection: what is still queued in it
    /// may be sent much later, and nobody could tell.
    pub(super) async fn wait<T>(&self, what: impl Display, answer: impl Future<Output = T>) -> Result<T, BrokerError> {
        tokio::select! {
            biased;
            answer = answer => Ok(answer),
            error = self.ended() => Err(error),
            () = sleep(self.reply_timeout) => {
                self.end(Ending::new(Fault::Endpoint, self.silence(what)));
                Err(self.ended().await)
            }
        }
    }

    /// As `wait`, with a refusal classified.
    pub(super) async fn ask<T>(
        &self,
        what: impl Display,
        answer: impl Future<Output = lapin::Result<T>>,
    ) -> Result<T, BrokerError> {
        match self.wait(&what, answer).await? {
            Ok(answer) => Ok(answer),
            Err(error) => Err(self
                .over()
                .unwrap_or_else(|| refused(format!("cannot {what} on {}", self.url), &error))),
        }
    }

    fn silence(&self, what: impl Display) -> String {
        format!(
            "cannot {what} on {}: no answer within {:?}; is the broker out of memory or disk (alarms block publishers)?",
            self.url, self.reply_timeout
        )
    }
}

/// Tells the life when the library says that the connection is lost. Ends with the life.
pub(super) async fn watch_over(
    life: Arc<Life>,
    status: ConnectionStatus,
    mut events: impl Stream<Item = Event> + Send + Unpin,
) {
    let lost = format!("connection to {} lost", life.url);
    loop {
        tokio::select! {
            _ = life.ended() => return,
            event = events.next() => match event {
                Some(Event::ConnectionBlocked(why)) => warn!(broker = %life.url, %why, "broker blocks publishing"),
                Some(Event::ConnectionUnblocked) => info!(broker = %life.url, "broker takes messages again"),
                Some(Event::Error(error)) if !status.connected() => life.end(Ending::of(lost.as_str(), &error)),
                // A channel's error: whoever uses the channel gets it too.
                Some(_) => {}
                None => life.end(Ending::new(Fault::Endpoint, lost.as_str())),
            },
            () = sleep(STATE_CHECK) => {
                if !status.connected() {
                    life.end(Ending::new(Fault::Endpoint, lost.as_str()));
                }
            }
        }
    }
}
