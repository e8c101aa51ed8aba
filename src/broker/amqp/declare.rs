//! Asserting exchanges, queues and bindings, and living with those that are there already.

use std::future::Future;
use std::time::Duration;

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Channel, ExchangeKind};

use super::Link;
use super::classify::{fault, reason, refused, reply_code, says_deprecated};
use super::convert::short;
use crate::broker::{BrokerError, Refusal, Warning};
use crate::message::{Binding, Exchange, Fault, Queue, Topology};

pub(super) const ACCESS_REFUSED: u16 = 403;
pub(super) const NOT_FOUND: u16 = 404;
pub(super) const PRECONDITION_FAILED: u16 = 406;
/// From RabbitMQ 4.0 on a quorum queue drops what was delivered 20 times, unless it is told otherwise; and a unit that is
/// paused gives its deliveries back as often as it likes.
const DELIVERIES_MAX: i64 = 1_000_000_000;

/// Asserts everything, in order; the answer is the warnings.
pub(super) async fn declare(link: &Link, topology: &Topology) -> Result<Vec<Warning>, BrokerError> {
    let mut declarer = Declarer::new(link);
    // The default exchange is always there, and every queue is bound to it.
    for exchange in topology.exchanges.iter().filter(|exchange| !exchange.name.is_empty()) {
        declarer.exchange(exchange).await?;
    }
    for queue in &topology.queues {
        declarer.queue(queue).await?;
    }
    for binding in topology.bindings.iter().filter(|binding| !binding.exchange.is_empty()) {
        declarer.binding(binding).await?;
    }
    declarer.close().await;
    Ok(declarer.warnings)
}

/// Ready messages and consumers of a queue; `None` when there is no such queue.
pub(super) async fn look(link: &Link, queue: &str) -> Result<Option<(u64, u64)>, BrokerError> {
    let mut declarer = Declarer::new(link);
    let name = own_name(link.queue_name(queue), "queue name")?;
    let options = QueueDeclareOptions {
        passive: true,
        ..QueueDeclareOptions::default()
    };
    let ask = |channel: Channel| async move { channel.queue_declare(name, options, FieldTable::default()).await };
    let answer = declarer.attempt("look at a queue", ask).await?;
    declarer.close().await;
    match answer {
        Ok(found) => Ok(Some((
            u64::from(found.message_count()),
            u64::from(found.consumer_count()),
        ))),
        Err(error) if reply_code(&error) == Some(NOT_FOUND) && is_own(&error) => Ok(None),
        Err(error) => Err(refused(
            format!("cannot look at queue {queue} on {}", link.life.url),
            &error,
        )),
    }
}

/// Whether there is such an exchange.
pub(super) async fn has_exchange(link: &Link, exchange: &str) -> Result<bool, BrokerError> {
    if exchange.is_empty() {
        return Ok(true); // the default exchange is always there
    }
    let Ok(name) = short(exchange, "exchange name") else {
        return Ok(false);
    };
    let mut declarer = Declarer::new(link);
    let options = ExchangeDeclareOptions {
        passive: true,
        ..ExchangeDeclareOptions::default()
    };
    // Its type is not compared.
    let kind = ExchangeKind::Topic;
    let ask = |channel: Channel| async move {
        channel
            .exchange_declare(name, kind, options, FieldTable::default())
            .await
    };
    let answer = declarer.attempt("look at an exchange", ask).await?;
    declarer.close().await;
    match answer {
        Ok(()) => Ok(true),
        Err(error) if reply_code(&error) == Some(NOT_FOUND) && is_own(&error) => Ok(false),
        Err(error) => Err(refused(
            format!("cannot look at exchange {exchange} on {}", link.life.url),
            &error,
        )),
    }
}

/// A refusal closes the channel; the next attempt opens another.
pub(super) struct Declarer<'a> {
    link: &'a Link,
    channel: Option<Channel>,
    warnings: Vec<Warning>,
}

impl<'a> Declarer<'a> {
    pub(super) fn new(link: &'a Link) -> Self {
        Declarer {
            link,
            channel: None,
            warnings: Vec::new(),
        }
    }

    pub(super) async fn close(&mut self) {
        if let Some(channel) = self.channel.take() {
            self.link.close(channel).await;
        }
    }

    async fn exchange(&mut self, exchange: &Exchange) -> Result<(), BrokerError> {
        let Err(refusal) = self.declare_exchange(exchange, false).await? else {
            return Ok(());
        };
        let what = format!("exchange {}", exchange.name);
        if is_of_another_type(&refusal) {
            // It would route otherwise than this configuration believes, perhaps to nobody.
            let what = format!(
                "{what} on {} is of another type than type = {:?}",
                self.link.life.url,
                exchange.kind.name()
            );
            return Err(refused(what, &refusal).with_fault(Fault::Own));
        }
        if !is_negotiable(&refusal) {
            return Err(self.cannot_declare(&what, &refusal));
        }
        match self.declare_exchange(exchange, true).await? {
            Ok(()) => self.used_as_it_is(exchange_warning(exchange, &reason(&refusal)), &refusal),
            // So RabbitMQ from 4.3 on answers who has no right at all on it, which who reads a bound queue needs not.
            Err(unseen) if reply_code(&unseen) == Some(ACCESS_REFUSED) => {
                let why = reason(&unseen);
                self.used_as_it_is(
                    format!("{what} may not be looked at, and is taken to be there: {why}"),
                    &unseen,
                );
            }
            Err(missing) => return Err(self.missing(&what, &refusal, &missing)),
        }
        Ok(())
    }

    fn used_as_it_is(&mut self, what: String, refusal: &lapin::Error) {
        let refusal = match reply_code(refusal) {
            Some(ACCESS_REFUSED) => Refusal::Foreign,
            _ => Refusal::Differs,
        };
        self.warnings.push(Warning { refusal, what });
    }

    async fn declare_exchange(&mut self, exchange: &Exchange, passive: bool) -> Result<lapin::Result<()>, BrokerError> {
        let name = own_name(&exchange.name, "exchange name")?;
        let kind = ExchangeKind::Custom(exchange.kind.name().to_owned());
        let options = ExchangeDeclareOptions {
            passive,
            durable: exchange.durable,
            auto_delete: exchange.auto_delete,
            ..ExchangeDeclareOptions::default()
        };
        self.attempt("declare an exchange", |channel| async move {
            channel
                .exchange_declare(name, kind, options, FieldTable::default())
                .await
        })
        .await
    }

    async fn queue(&mut self, queue: &Queue) -> Result<(), BrokerError> {
        if queue.name.is_empty() && queue.exclusive {
            return self.nameless(queue).await;
        }
        let Err(refusal) = self.declare_queue(queue, false).await? else {
            return Ok(());
        };
        let what = format!("queue {}", queue.name);
        if queue.single_active && is_negotiable(&refusal) {
            return Err(self.not_single_active(&what, &refusal));
        }
        if !is_negotiable(&refusal) {
            let is_given_up = says_deprecated(&reason(&refusal)) && !queue.durable;
            let advice = match is_given_up {
                true => " with durable = false, which this broker takes no more: say durable = true",
                false => "",
            };
            return Err(self.cannot_declare(&format!("{what}{advice}"), &refusal));
        }
        match self.declare_queue(queue, true).await? {
            Ok(_) => self.used_as_it_is(queue_warning(&what, &reason(&refusal)), &refusal),
            Err(missing) => return Err(self.missing(&what, &refusal, &missing)),
        }
        Ok(())
    }

    /// One per connection: asserted again, it is the same.
    async fn nameless(&mut self, queue: &Queue) -> Result<(), BrokerError> {
        if self.link.nameless.get().is_some() {
            return Ok(());
        }
        match self.declare_queue(queue, false).await? {
            Ok(declared) => {
                let name = declared.name().as_str().to_owned();
                self.link.nameless.get_or_init(|| name);
                Ok(())
            }
            Err(refusal) => Err(self.cannot_declare("a queue of the broker's naming", &refusal)),
        }
    }

    async fn declare_queue(
        &mut self,
        queue: &Queue,
        passive: bool,
    ) -> Result<lapin::Result<lapin::Queue>, BrokerError> {
        let name = own_name(&queue.name, "queue name")?;
        let arguments = queue_arguments(queue);
        let options = QueueDeclareOptions {
            passive,
            durable: queue.durable,
            exclusive: queue.exclusive,
            auto_delete: queue.auto_delete,
            ..QueueDeclareOptions::default()
        };
        self.attempt("declare a queue", |channel| async move {
            channel.queue_declare(name, options, arguments).await
        })
        .await
    }

    /// There is no passive form of a binding: where we may not bind, we trust that somebody has.
    async fn binding(&mut self, binding: &Binding) -> Result<(), BrokerError> {
        let queue = own_name(self.link.queue_name(&binding.queue), "queue name")?;
        let exchange = own_name(&binding.exchange, "exchange name")?;
        let key = own_name(&binding.key, "binding key")?;
        let ask = |channel: Channel| async move {
            let options = QueueBindOptions::default();
            channel
                .queue_bind(queue, exchange, key, options, FieldTable::default())
                .await
        };
        let Err(refusal) = self.attempt("bind a queue", ask).await? else {
            return Ok(());
        };
        let what = format!(
            "queue {} to exchange {} with key {}",
            binding.queue, binding.exchange, binding.key
        );
        if reply_code(&refusal) == Some(ACCESS_REFUSED) {
            let why = reason(&refusal);
            self.warnings.push(Warning {
                refusal: Refusal::Unbound,
                what: format!("may not bind {what}: messages come only if somebody else has bound it ({why})"),
            });
            return Ok(());
        }
        Err(refused(
            format!("cannot bind {what} on {}", self.link.life.url),
            &refusal,
        ))
    }

    /// One request on the open channel. The inner error is the broker's no, after which the channel is gone.
    pub(super) async fn attempt<T, F: Future<Output = lapin::Result<T>>>(
        &mut self,
        what: &str,
        request: impl FnOnce(Channel) -> F,
    ) -> Result<lapin::Result<T>, BrokerError> {
        let channel = match self.channel.take() {
            Some(channel) => channel,
            None => self.link.channel().await?,
        };
        let answer = self.link.life.wait(what, request(channel.clone())).await?;
        match &answer {
            Ok(_) => self.channel = Some(channel),
            Err(error) if reply_code(error).is_none() => {
                let what = format!("cannot {what} on {}", self.link.life.url);
                return Err(self.link.life.over().unwrap_or_else(|| refused(what, error)));
            }
            Err(_) => {}
        }
        Ok(answer)
    }

    /// Used as it is, all consumers would get deliveries at once. The broker names the first difference alone, so that
    /// of a queue that differs otherwise nothing is known of this one.
    fn not_single_active(&self, what: &str, refusal: &lapin::Error) -> BrokerError {
        let url = &self.link.life.url;
        let may_not_ask = reply_code(refusal) == Some(ACCESS_REFUSED);
        let what = match reason(refusal).contains("'x-single-active-consumer'") {
            _ if may_not_ask => format!(
                "{what} on {url} may not be configured by us, so that it cannot be told whether one consumer at a time is \
                 active there: get the permission to configure it"
            ),
            true => format!(
                "{what} on {url} exists without x-single-active-consumer: its consumers would all be active at once; have \
                 this unit use another queue, or drain and delete this one and have it declared anew"
            ),
            false => format!(
                "{what} on {url} exists with other options, so that it cannot be told whether one consumer at a time is \
                 active there: have this unit's options be those of the queue, or use another queue"
            ),
        };
        refused(what, refusal).with_fault(Fault::Own)
    }

    fn cannot_declare(&self, what: &str, refusal: &lapin::Error) -> BrokerError {
        refused(format!("cannot declare {what} on {}", self.link.life.url), refusal)
    }

    fn missing(&self, what: &str, refusal: &lapin::Error, missing: &lapin::Error) -> BrokerError {
        let url = &self.link.life.url;
        if reply_code(missing) != Some(NOT_FOUND) || !is_own(missing) {
            return refused(format!("cannot look at {what} on {url}"), missing);
        }
        let advice = match reply_code(refusal) {
            Some(ACCESS_REFUSED) => "may not be made by us: have it made, or get the permission to configure it",
            _ if reason(refusal).contains(" limit in vhost ") => {
                "cannot be made, for a limit is reached: have it raised"
            }
            _ => "cannot be made with the options of this configuration",
        };
        let what = format!("{what} is missing on {url} and {advice}");
        refused(what, refusal).with_fault(Fault::Own)
    }
}

impl BrokerError {
    fn with_fault(mut self, fault: Fault) -> Self {
        self.fault = fault;
        self
    }
}

/// It may be there already, made otherwise or by others.
fn is_negotiable(refusal: &lapin::Error) -> bool {
    matches!(reply_code(refusal), Some(PRECONDITION_FAILED | ACCESS_REFUSED))
}

fn is_of_another_type(refusal: &lapin::Error) -> bool {
    reply_code(refusal) == Some(PRECONDITION_FAILED) && reason(refusal).contains("inequivalent arg 'type'")
}

pub(super) fn is_own(error: &lapin::Error) -> bool {
    super::classify::classify(error) == Fault::Own
}

/// A name from the configuration. RabbitMQ takes line ends out of the names that it declares, looks at and deletes, and
/// of no others: that would be two queues.
pub(super) fn own_name(name: &str, what: &str) -> Result<ShortString, BrokerError> {
    if name.contains(['\r', '\n']) {
        return Err(fault(
            Fault::Own,
            format!("{what} {name:?} has a line end, and no broker makes such a one"),
        ));
    }
    short(name, what).map_err(|error| fault(Fault::Own, error.what))
}

fn queue_warning(what: &str, refusal: &str) -> String {
    let is_quorum = refusal.contains("current is 'quorum'") || refusal.contains("current is the value 'quorum'");
    let advice = match is_quorum || refusal.contains("'x-delivery-limit'") {
        true => {
            "; from RabbitMQ 4 on it may drop what has come back 20 times, as while this unit is paused: set a policy \
             with delivery-limit = 1000000000"
        }
        false => "",
    };
    format!("{what} is used as it is: {refusal}{advice}")
}

fn exchange_warning(exchange: &Exchange, refusal: &str) -> String {
    let name = &exchange.name;
    if exchange.durable && refusal.contains("inequivalent arg 'durable'") {
        return format!(
            "exchange {name} is transient on the broker: a broker restart deletes it with its bindings, and messages \
             published before the consumers have bound again are lost to them ({refusal})"
        );
    }
    format!("exchange {name} is used as it is: {refusal}")
}

fn queue_arguments(queue: &Queue) -> FieldTable {
    let text = |text: &str| AMQPValue::LongString(text.into());
    let mut arguments = FieldTable::default();
    if let Some(expires) = queue.expires {
        arguments.insert("x-expires".into(), milliseconds(expires));
    }
    if let Some(ttl) = queue.message_ttl {
        arguments.insert("x-message-ttl".into(), milliseconds(ttl));
    }
    if let Some(bytes) = queue.max_bytes {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        arguments.insert("x-max-length-bytes".into(), AMQPValue::LongLongInt(bytes));
    }
    if let Some(exchange) = &queue.dead_letter_exchange {
        arguments.insert("x-dead-letter-exchange".into(), text(exchange));
    }
    if queue.single_active {
        arguments.insert("x-single-active-consumer".into(), AMQPValue::Boolean(true));
    }
    if queue.quorum {
        arguments.insert("x-queue-type".into(), text("quorum"));
        arguments.insert("x-delivery-limit".into(), AMQPValue::LongLongInt(DELIVERIES_MAX));
    } else if queue.durable {
        // A virtual host may make quorum queues of those that say nothing, and those would have the delivery limit.
        arguments.insert("x-queue-type".into(), text("classic"));
    }
    if queue.quorum && queue.dead_letter_exchange.is_some() {
        // Else what expires while the other queue has no leader is lost.
        arguments.insert("x-dead-letter-strategy".into(), text("at-least-once"));
        arguments.insert("x-overflow".into(), text("reject-publish")); // the strategy demands it
    }
    if let Some(role) = queue.role {
        arguments.insert("x-px-role".into(), text(role));
    }
    arguments
}

/// RabbitMQ compares integers by value, whatever their width.
fn milliseconds(duration: Duration) -> AMQPValue {
    AMQPValue::LongLongInt(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_warning_of_a_transient_exchange_says_what_is_lost() {
        let exchange = Exchange {
            name: "xpublic".into(),
            kind: crate::message::ExchangeKind::Topic,
            durable: true,
            auto_delete: false,
        };
        let transient = "406 PRECONDITION_FAILED - inequivalent arg 'durable' for exchange 'xpublic' in vhost '/': \
                         received 'true' but current is 'false'";
        assert!(exchange_warning(&exchange, transient).contains("restart deletes it"));
        let other = "406 PRECONDITION_FAILED - inequivalent arg 'auto_delete' for exchange 'xpublic' in vhost '/'";
        assert!(exchange_warning(&exchange, other).contains("used as it is"));
    }

    #[test]
    fn the_warning_of_a_quorum_queue_says_what_is_dropped() {
        let refusal = |arg: &str, other: &str| {
            format!("406 PRECONDITION_FAILED - inequivalent arg '{arg}' for queue 'q' in vhost '/': received {other}")
        };
        for (arg, other, is_limited) in [
            ("x-queue-type", "'classic' but current is 'quorum'", true),
            (
                "x-queue-type",
                "none but current is the value 'quorum' of type 'longstr'",
                true,
            ),
            ("x-delivery-limit", "'1000000000' but current is '20'", true),
            ("x-queue-type", "'quorum' but current is 'classic'", false),
            ("x-expires", "'1000' but current is none", false),
        ] {
            let warning = queue_warning("queue q", &refusal(arg, other));
            assert_eq!(warning.contains("delivery-limit = 1000000000"), is_limited, "{warning}");
        }
    }

    #[test]
    fn queue_arguments_are_those_asked_for() {
        assert_eq!(queue_arguments(&Queue::default()), FieldTable::default());
        let durable = Queue {
            durable: true,
            ..Queue::default()
        };
        assert_eq!(
            queue_arguments(&durable).inner().get("x-queue-type"),
            Some(&AMQPValue::LongString("classic".into()))
        );
        let queue = Queue {
            expires: Some(Duration::from_secs(3)),
            role: Some("retry"),
            single_active: true,
            quorum: true,
            max_bytes: Some(64),
            ..Queue::default()
        };
        let arguments = queue_arguments(&queue);
        assert_eq!(arguments.inner().get("x-expires"), Some(&AMQPValue::LongLongInt(3000)));
        assert_eq!(
            arguments.inner().get("x-px-role"),
            Some(&AMQPValue::LongString("retry".into()))
        );
        assert_eq!(
            arguments.inner().get("x-single-active-consumer"),
            Some(&AMQPValue::Boolean(true))
        );
        assert_eq!(
            arguments.inner().get("x-queue-type"),
            Some(&AMQPValue::LongString("quorum".into()))
        );
        assert!(arguments.contains_key("x-delivery-limit"));
        assert_eq!(
            arguments.inner().get("x-max-length-bytes"),
            Some(&AMQPValue::LongLongInt(64))
        );
        assert_eq!(arguments.inner().len(), 6);
    }
}
