//! What a unit asks a broker to have: exchanges, queues, bindings. Values that can be asserted again at every connect.

use std::time::Duration;

/// How an exchange routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExchangeKind {
    /// By pattern: `*` is one word, `#` any number of words.
    Topic,
    /// By equal key.
    Direct,
    /// To every bound queue.
    Fanout,
    /// By headers (RabbitMQ only).
    Headers,
}

impl ExchangeKind {
    /// The name on the wire and in TOML.
    pub fn name(self) -> &'static str {
        match self {
            ExchangeKind::Topic => "topic",
            ExchangeKind::Direct => "direct",
            ExchangeKind::Fanout => "fanout",
            ExchangeKind::Headers => "headers",
        }
    }
}

/// An exchange. The empty name is the default exchange, which is never declared.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Exchange {
    pub name: String,
    pub kind: ExchangeKind,
    pub durable: bool,
    pub auto_delete: bool,
}

/// A queue and the arguments px uses.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[allow(missing_docs)]
pub struct Queue {
    pub name: String,
    pub durable: bool,
    pub exclusive: bool,
    pub auto_delete: bool,
    /// Deleted when unused for this long (`x-expires`).
    pub expires: Option<Duration>,
    /// Every message leaves after this long (`x-message-ttl`).
    pub message_ttl: Option<Duration>,
    /// Where messages go that leave by expiry or reject (`x-dead-letter-exchange`); the key is kept.
    pub dead_letter_exchange: Option<String>,
    /// One consumer at a time gets deliveries, the others wait for their turn (`x-single-active-consumer`).
    pub single_active: bool,
    /// Replicated by a cluster's nodes (`x-queue-type` is `quorum`).
    pub quorum: bool,
    /// The oldest messages go when it holds more (`x-max-length-bytes`). An embedded broker bounds nothing.
    pub max_bytes: Option<u64>,
    /// What px made this queue for (`x-px-role`); none for a subscription's own queue.
    pub role: Option<&'static str>,
}

/// A queue bound to an exchange under a key or pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Binding {
    pub exchange: String,
    pub queue: String,
    pub key: String,
}

/// Everything a unit needs on its broker, in the order in which it is asserted: exchanges, queues, bindings.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[allow(missing_docs)]
pub struct Topology {
    pub exchanges: Vec<Exchange>,
    pub queues: Vec<Queue>,
    pub bindings: Vec<Binding>,
}

impl Topology {
    /// Whether the broker is to name a queue. Only an exclusive one, or nobody would ever find it again.
    pub fn has_nameless(&self) -> bool {
        self.queues.iter().any(|queue| queue.name.is_empty() && queue.exclusive)
    }

    /// The same with a name for the queue that has none.
    pub fn named(&self, name: &str) -> Topology {
        let mut topology = self.clone();
        let queues = topology.queues.iter_mut().map(|queue| &mut queue.name);
        let bound = topology.bindings.iter_mut().map(|binding| &mut binding.queue);
        for nameless in queues.chain(bound).filter(|queue| queue.is_empty()) {
            *nameless = name.to_owned();
        }
        topology
    }
}
