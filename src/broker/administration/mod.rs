//! Setting up a broker: what is wanted and what is there make a plan of ordered steps.
//!
//! The plan is a pure function. A step has words for the operator, a call of the management API, and commands that do
//! the same on the broker's own host. Only `apply` and [`Found::read`] talk to anybody.

mod apply;
mod commands;
mod displaced;
mod exchanges;
mod found;
mod hash;
mod plan;
mod rights;
mod step;

pub use apply::{Entry, Outcome, carry_out, enter};
pub use commands::script;
pub use found::{
    Found, FoundBinding, FoundExchange, FoundLimits, FoundPermission, FoundPolicy, FoundQueue, FoundTopicPermission,
    FoundUser,
};
pub use plan::plan;
pub use step::{Action, Limited, NewPassword, Plan, Step};

/// The user that every new broker has, and its password.
pub const GUEST: &str = "guest";

/// A name as a person reads it: quoted where it is not plain.
fn shown(name: &str) -> String {
    let is_plain = |c: char| !c.is_whitespace() && !c.is_control() && !matches!(c, '"' | '\'' | ',');
    match !name.is_empty() && name.chars().all(is_plain) {
        true => name.to_string(),
        false => format!("{name:?}"),
    }
}

/// `a, b`, or `none`.
fn listed(words: &[String]) -> String {
    match words {
        [] => "none".to_string(),
        words => words.iter().map(|word| shown(word)).collect::<Vec<_>>().join(", "),
    }
}

#[cfg(test)]
mod tests;
