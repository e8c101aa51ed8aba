//! Deleting queues and exchanges.

use lapin::Channel;
use lapin::options::{ExchangeDeleteOptions, QueueDeleteOptions};

use super::Link;
use super::classify::{reason, refused, reply_code};
use super::declare::{ACCESS_REFUSED, Declarer, NOT_FOUND, PRECONDITION_FAILED, is_own, look, own_name};
use crate::broker::{BrokerError, Removal};

/// Deletes a queue under its guards.
pub(super) async fn delete_queue(
    link: &Link,
    queue: &str,
    if_unused: bool,
    if_empty: bool,
) -> Result<Removal, BrokerError> {
    // Deleting what is missing is no error on RabbitMQ.
    if look(link, queue).await?.is_none() {
        return Ok(Removal::Missing);
    }
    let name = own_name(link.queue_name(queue), "queue name")?;
    let options = QueueDeleteOptions {
        if_unused,
        if_empty,
        ..QueueDeleteOptions::default()
    };
    let mut declarer = Declarer::new(link);
    let ask = |channel: Channel| async move { channel.queue_delete(name, options).await };
    let answer = declarer.attempt("delete a queue", ask).await?;
    declarer.close().await;
    match answer {
        Ok(_) => Ok(Removal::Deleted),
        Err(refusal) => kept(&refusal).ok_or_else(|| cannot(link, &format!("queue {queue}"), &refusal)),
    }
}

/// Why it stays, where that is the guard's doing.
fn kept(refusal: &lapin::Error) -> Option<Removal> {
    let text = reason(refusal);
    match reply_code(refusal)? {
        PRECONDITION_FAILED if text.contains("in use") => Some(Removal::InUse),
        PRECONDITION_FAILED if text.contains("not empty") => Some(Removal::NotEmpty),
        NOT_FOUND if is_own(refusal) => Some(Removal::Missing),
        _ => None,
    }
}

/// Deletes an exchange.
pub(super) async fn delete_exchange(link: &Link, exchange: &str) -> Result<(), BrokerError> {
    let name = own_name(exchange, "exchange name")?;
    let mut declarer = Declarer::new(link);
    let ask = |channel: Channel| async move { channel.exchange_delete(name, ExchangeDeleteOptions::default()).await };
    let answer = declarer.attempt("delete an exchange", ask).await?;
    declarer.close().await;
    match answer {
        Ok(()) => Ok(()),
        Err(refusal) if reply_code(&refusal) == Some(NOT_FOUND) => Ok(()),
        Err(refusal) => Err(cannot(link, &format!("exchange {exchange}"), &refusal)),
    }
}

fn cannot(link: &Link, what: &str, refusal: &lapin::Error) -> BrokerError {
    let advice = match reply_code(refusal) {
        Some(ACCESS_REFUSED) => ": the user lacks the permission to configure it",
        _ => "",
    };
    refused(format!("cannot delete {what} on {}{advice}", link.life.url), refusal)
}
