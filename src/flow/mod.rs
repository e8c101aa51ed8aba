//! Components, and the two places that settle and publish.
//!
//! A component turns what comes in into an [`Outcome`]; [`consume`] settles, [`publish`] publishes, and nothing else
//! does either. Components never import each other: they meet through a broker or the spool, as on two machines.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::config::{Places, UnitName};
use crate::message::{Envelope, Fault};
use crate::metrics::Metrics;

pub mod consume;
pub mod link;
pub mod park;
pub mod product;
pub mod publish;
pub mod state;

pub use state::State;

/// What every part of a running unit shares.
#[derive(Clone)]
pub struct Unit {
    /// `rx/pull_urp`.
    pub name: UnitName,
    /// Where its files lie.
    pub places: Places,
    /// Its counters.
    pub metrics: Arc<Metrics>,
    /// Ready, running or paused, and why.
    pub state: State,
    /// Take nothing new; finish what is in hand.
    pub stop: CancellationToken,
    /// The deadline for finishing has passed: let go of everything, the brokers will redeliver.
    pub abandon: CancellationToken,
}

/// Why something could not be done, for the log, the failed store and the decision what happens next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// Whose fault it is.
    pub fault: Fault,
    /// The whole chain as one line. Never holds a password.
    pub what: String,
    /// When the other side asked to be asked again.
    pub retry_after: Option<Duration>,
    /// How many attempts a message fault is worth, the first included. 1: no repeat can help.
    pub attempts_max: u32,
    /// It could not even be decoded: one of many, of which the failed store keeps samples.
    pub is_rubbish: bool,
}

/// Attempts for a message fault that may pass: at once, then after 5 s, 1 min and 10 min.
pub const ATTEMPTS: u32 = 4;
/// Attempts for a product that is gone (404, 410): at once, then twice after 5 s, so within a minute.
pub const ATTEMPTS_GONE: u32 = 3;

impl Cause {
    /// A cause of this class with the usual number of attempts.
    pub fn new(fault: Fault, what: impl Into<String>) -> Self {
        Cause {
            fault,
            what: what.into(),
            retry_after: None,
            attempts_max: ATTEMPTS,
            is_rubbish: false,
        }
    }

    /// A product that no repeat can mend: straight to the failed store.
    pub fn hopeless(what: impl Into<String>) -> Self {
        Cause {
            attempts_max: 1,
            ..Cause::new(Fault::Message, what)
        }
    }

    /// A message that cannot be decoded.
    pub fn rubbish(what: impl Into<String>) -> Self {
        Cause {
            is_rubbish: true,
            ..Cause::hopeless(what)
        }
    }
}

impl<E: std::error::Error> From<(Fault, &E)> for Cause {
    fn from((fault, error): (Fault, &E)) -> Self {
        Cause::new(fault, chain(error))
    }
}

/// An error and its causes on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

/// A message to be published before its input is settled.
#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    /// Exchange; empty for the default exchange.
    pub exchange: String,
    /// What to publish.
    pub envelope: Envelope,
}

/// What a component made of one delivery.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// Done, once these are published and confirmed.
    Done(Vec<Output>),
    /// Nothing to do, and why: a duplicate, a mask, a superseded product.
    Skip(String),
    /// Could not be done now. The class of the cause decides: counted, waited for, or the unit pauses.
    Park(Cause),
    /// Cannot be done at all: to the failed store.
    Fail(Cause),
}
