//! The lines about the connection that operators of Sundew look for.

use std::convert::Infallible;
use std::time::Duration;

use tokio::sync::watch::Receiver;
use tokio::time::Instant;
use tracing::{error, info};

use crate::config::{Broker, Scheme};
use crate::flow::state::{LinkState, Snapshot};

/// While there is no connection that is said again: what watches the log judges by its last line.
const AGAIN: Duration = Duration::from_secs(60);

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
    /// When a missing connection is told of again.
    again: Option<Instant>,
}

#[derive(Debug, PartialEq, Eq)]
enum News {
    Connected,
    NotConnected,
}

/// What is new about a connection, and worth a line.
fn news(told: &mut Told, link: &LinkState, now: Instant) -> Option<News> {
    if link.connected && link.generation != told.generation {
        *told = Told {
            generation: link.generation,
            ..Told::default()
        };
        return Some(News::Connected);
    }
    let is_due = told.again.is_none_or(|again| now >= again);
    if !link.connected && link.error.is_some() && (link.error != told.error || is_due) {
        told.error.clone_from(&link.error);
        told.again = Some(now + AGAIN);
        return Some(News::NotConnected);
    }
    None
}

/// Writes a line whenever the connection was made or lost and every minute without one, for ever. Why it was lost stands in the line before.
pub(super) async fn tell(mut states: Receiver<Snapshot>, host: String) -> Infallible {
    let mut told = Told::default();
    loop {
        let news = states
            .borrow_and_update()
            .links
            .get("publish")
            .and_then(|link| news(&mut told, link, Instant::now()));
        match news {
            Some(News::Connected) => info!("AMQP Sender is now connected to: {host}"),
            Some(News::NotConnected) => error!("AMQP Sender cannot connected to: {host}"),
            None => {}
        }
        let changed = match told.again {
            Some(again) if again > Instant::now() => tokio::time::timeout_at(again, states.changed()).await,
            _ => Ok(states.changed().await),
        };
        if let Ok(Err(_)) = changed {
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
            ..LinkState::default()
        }
    }

    #[test]
    fn every_connection_is_told_and_every_reason_once() {
        let (mut told, now) = (Told::default(), Instant::now());
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
            assert_eq!(news(&mut told, &link, now), wanted, "{link:?}");
        }
    }

    #[test]
    fn a_connection_that_stays_away_is_told_of_every_minute() {
        let (mut told, begun) = (Told::default(), Instant::now());
        let away = link(false, 0, Some("refused"));
        let mut said = |seconds: u64, link: &LinkState| news(&mut told, link, begun + Duration::from_secs(seconds));
        let lines = (0..=180).filter(|seconds| said(*seconds, &away).is_some());
        assert_eq!(lines.collect::<Vec<u64>>(), [0, 60, 120, 180]);
        assert_eq!(said(181, &link(true, 1, None)), Some(News::Connected));
        assert_eq!(said(300, &link(true, 1, None)), None);
    }
}
