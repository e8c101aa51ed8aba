//! Exchanges, and what is bound to them.

use serde_json::{Map, Value};

use super::found::{Found, FoundBinding, FoundExchange, FoundQueue};
use super::shown;
use super::step::{Action, Plan};
use crate::config::Administration;
use crate::config::administration::{Destination, WantedBinding, WantedExchange};

pub(super) fn plan_exchange(plan: &mut Plan, wanted: &WantedExchange, found: &Found) {
    let is_it = |there: &&FoundExchange| (&there.vhost, &there.name) == (&wanted.vhost, &wanted.name);
    let what = format!("exchange {} in {}", shown(&wanted.name), shown(&wanted.vhost));
    let Some(there) = found.exchanges.iter().find(is_it) else {
        plan.push(format!("{what}: missing"), Action::Declare(wanted.clone()));
        return;
    };
    let [is, should] = [there.description(), wanted.description()];
    if is != should {
        plan.stuck.push(format!(
            "{what}: {is}, wanted: {should}; an exchange cannot be changed: delete it (its bindings go with it), apply, \
             and restart who was bound to it"
        ));
    }
}

impl FoundExchange {
    fn description(&self) -> String {
        let flags = [self.durable, self.auto_delete, self.internal];
        description(&shown(&self.kind), flags, &self.arguments)
    }
}

impl WantedExchange {
    /// All that two exchanges of one name can differ in.
    pub(super) fn description(&self) -> String {
        let flags = [self.durable, self.auto_delete, self.internal];
        description(self.kind.name(), flags, &self.arguments)
    }
}

fn description(kind: &str, [durable, auto_delete, internal]: [bool; 3], arguments: &Map<String, Value>) -> String {
    let durability = if durable { "durable" } else { "transient" };
    let mut text = format!("{kind}, {durability}");
    for word in [("auto-delete", auto_delete), ("internal", internal)]
        .iter()
        .filter_map(|(word, is)| is.then_some(word))
    {
        text.push_str(&format!(", {word}"));
    }
    if !arguments.is_empty() {
        text.push_str(&format!(", arguments {}", Value::Object(arguments.clone())));
    }
    text
}

/// One that is missing is made where both its ends are there, or in the file.
pub(super) fn plan_binding(plan: &mut Plan, wanted: &WantedBinding, file: &Administration, found: &Found) {
    let (kind, destination) = wanted.to.parts();
    let is_it = |there: &FoundBinding| {
        (&there.vhost, &there.source, &there.routing_key) == (&wanted.vhost, &wanted.exchange, &wanted.key)
            && (there.destination_type.as_str(), there.destination.as_str()) == (kind, destination)
            && there.arguments == wanted.arguments
    };
    if found.bindings.iter().any(is_it) {
        return;
    }
    let has_exchange = |name: &str| {
        let is = |vhost: &str, other: &str| (vhost, other) == (&wanted.vhost, name);
        // Every virtual host has these.
        name.starts_with("amq.")
            || found.exchanges.iter().any(|there| is(&there.vhost, &there.name))
            || file.exchanges.iter().any(|there| is(&there.vhost, &there.name))
    };
    let missing = match &wanted.to {
        _ if !has_exchange(&wanted.exchange) => Some(("exchange", &wanted.exchange)),
        Destination::Exchange(name) if !has_exchange(name) => Some(("exchange", name)),
        Destination::Queue(name) => {
            let is = |there: &FoundQueue| (&there.vhost, &there.name) == (&wanted.vhost, name);
            (!found.queues.iter().any(is)).then_some(("queue", name))
        }
        Destination::Exchange(_) => None,
    };
    let drift = format!("binding of {}", wanted.description());
    match missing {
        None => plan.push(format!("{drift}: missing"), Action::Bind(wanted.clone())),
        Some((what, name)) => plan.stuck.push(format!(
            "{drift}: there is no {what} {} yet; start the unit that declares it, and apply",
            shown(name)
        )),
    }
}

impl Destination {
    /// What it is in the API's words, and its name.
    pub(super) fn parts(&self) -> (&'static str, &str) {
        match self {
            Destination::Exchange(name) => ("exchange", name),
            Destination::Queue(name) => ("queue", name),
        }
    }
}

impl WantedBinding {
    /// `the queue q in / to the exchange x with the key "k"`.
    pub(super) fn description(&self) -> String {
        let (kind, destination) = self.to.parts();
        let mut text = format!(
            "the {kind} {} in {} to the exchange {} with the key {:?}",
            shown(destination),
            shown(&self.vhost),
            shown(&self.exchange),
            self.key
        );
        if !self.arguments.is_empty() {
            text.push_str(&format!(" and the arguments {}", Value::Object(self.arguments.clone())));
        }
        text
    }
}
