//! The lines about the connection that operators of Sundew look for.

use std::convert::Infallible;

use tokio::sync::watch::Receiver;
use tracing::{error, info};

use crate::config::{Broker, Scheme};
use crate::flow::state::{LinkState, Snapshot};

/// The host of a broker, with its port where it is not the usual one.
pub(super) fn host(broker: &Broker) -> String {
    match broker.urls.first() {
        Some(url) if matches!((url.scheme, url.port), (Scheme::Amqp, 5672) | (Scheme::Amqps, 5671)) => url.host.clone(),
        Some(url) => format!("{}:{}", url.host, url.port),
        None => String::new(),
    }
}

/// What was told last.
#[derive(Debug, Default, PartialEq, Eq)]
struct Told {
    generation: u64,
    error: Option<String>,
}

#[derive(Debug, PartialEq, Eq)]
enum News {
    Connected,
    NotConnected,
}

/// What is new about a connection, and worth a line.
fn news(told: &mut Told, link: &LinkState) -> Option<News> {
    if link.connected && link.generation != told.generation {
        *told = Told {
            generation: link.generation,
            error: None,
        };
        return Some(News::Connected);
    }
    if !link.connected && link.error.is_some() && link.error != told.error {
        told.error.clone_from(&link.error);
        return Some(News::NotConnected);
    }
    None
}

/// Writes a line whenever the connection was made or lost, for ever. Why it was lost stands in the line before.
pub(super) async fn tell(mut states: Receiver<Snapshot>, host: String) -> Infallible {
    let mut told = Told::default();
    loop {
        let news = states
            .borrow_and_update()
            .links
            .get("publish")
            .and_then(|link| news(&mut told, link));
        match news {
            Some(News::Connected) => info!("AMQP Sender is now connected to: {host}"),
            Some(News::NotConnected) => error!("AMQP Sender cannot connected to: {host}"),
            None => {}
        }
        if states.changed().await.is_err() {
            return std::future::pending().await; // nobody will ever change it again
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(connected: bool, generation: u64, error: Option<&str>) -> LinkState {
        LinkState {
            broker: "b".into(),
            connected,
            generation,
            error: error.map(str::to_string),
        }
    }

    #[test]
    fn every_connection_is_told_and_every_reason_once() {
        let mut told = Told::default();
        let table = [
            (link(false, 0, Some("refused")), Some(News::NotConnected)),
            (link(false, 0, Some("refused")), None),
            (link(false, 0, Some("no route")), Some(News::NotConnected)),
            (link(true, 1, None), Some(News::Connected)),
            (link(true, 1, None), None),
            (link(false, 1, Some("refused")), Some(News::NotConnected)),
            (link(true, 2, None), Some(News::Connected)),
            (link(true, 3, None), Some(News::Connected)),
        ];
        for (link, wanted) in table {
            assert_eq!(news(&mut told, &link), wanted, "{link:?}");
        }
    }
}
