//! Exchanges, and what is bound to them.

use super::super::{Destination, WantedBinding, WantedExchange};
use super::{NAME, Vhosts, free, named, required_name};
use crate::config::{Table, options};
use crate::message::ExchangeKind;

pub(super) fn exchanges(table: &mut Table, vhosts: &Vhosts) -> Vec<WantedExchange> {
    const EXCHANGE: &str = "a name of at most 255 bytes that does not start with amq.";
    let mut list: Vec<WantedExchange> = Vec::new();
    for mut spelled in table.tables("exchanges") {
        if !spelled.has("name") {
            spelled.reject("name", EXCHANGE);
        }
        let own = |text: &str| match text.starts_with("amq.") {
            true => Err(String::new()),
            false => named(text),
        };
        let name = spelled.parsed("name", own, EXCHANGE);
        let kind = options::exchange_kind(&mut spelled);
        let [durable, auto_delete, internal] = ["durable", "auto_delete", "internal"].map(|key| spelled.boolean(key));
        let arguments = free(&mut spelled, "arguments");
        let vhost = vhosts.read(&mut spelled);
        if let (Some(name), Some(vhost)) = (name, vhost) {
            if list.iter().any(|other| (&other.vhost, &other.name) == (&vhost, &name)) {
                spelled.refuse("name", "there twice");
            }
            list.push(WantedExchange {
                vhost,
                name,
                kind: kind.unwrap_or(ExchangeKind::Topic),
                durable: durable.unwrap_or(true),
                auto_delete: auto_delete.unwrap_or(false),
                internal: internal.unwrap_or(false),
                arguments: arguments.unwrap_or_default(),
            });
        }
        spelled.finish();
    }
    list
}

/// `[[bindings]]`. Queues are not declared here: whether there is one shows on the broker.
pub(super) fn bindings(table: &mut Table, vhosts: &Vhosts) -> Vec<WantedBinding> {
    let mut list = Vec::new();
    for mut spelled in table.tables("bindings") {
        let binding = binding(&mut spelled, vhosts);
        if let Some(binding) = binding {
            if list.contains(&binding) {
                spelled.refuse("exchange", "the same binding is there twice");
            }
            list.push(binding);
        }
        spelled.finish();
    }
    list
}

fn binding(table: &mut Table, vhosts: &Vhosts) -> Option<WantedBinding> {
    const KEY: &str = "a key or pattern of at most 255 bytes";
    let (vhost, exchange) = (vhosts.read(table), required_name(table, "exchange"));
    let [queue, to_exchange] = ["queue", "to_exchange"].map(|key| table.parsed(key, named, NAME));
    if table.has("queue") == table.has("to_exchange") {
        table.reject("queue", "either a queue or, as to_exchange, an exchange");
    }
    if !table.has("key") {
        table.reject("key", KEY);
    }
    let key = |text: &str| match text.len() <= 255 && !text.chars().any(char::is_control) {
        true => Ok(text.to_string()),
        false => Err(String::new()),
    };
    let key = table.parsed("key", key, KEY);
    let arguments = free(table, "arguments");
    Some(WantedBinding {
        vhost: vhost?,
        exchange: exchange?,
        to: queue
            .map(Destination::Queue)
            .or(to_exchange.map(Destination::Exchange))?,
        key: key?,
        arguments: arguments.unwrap_or_default(),
    })
}
