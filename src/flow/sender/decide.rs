//! What is done with a queued file, as far as its name tells.

use jiff::Timestamp;

use super::Config;
use crate::flow::queued::Why;
use crate::message::{KeyError, Undecided, Verdict, ingest_name};

/// What a message has beside its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Letter {
    pub(super) key: String,
    /// The header of that name.
    pub(super) filename: Vec<u8>,
    pub(super) content_type: String,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Decision {
    Send(Letter),
    Erase(Why),
    /// It can never be sent.
    SetAside(String),
}

pub(super) fn decide(config: &Config, name: &[u8], now: Timestamp) -> Decision {
    if let Some(why) = config.queued.unwanted(name, now) {
        return Decision::Erase(why);
    }
    match config.masks.first_match(name) {
        Ok(Some((_, Verdict::Reject))) => return Decision::Erase(Why::NoPattern),
        Ok(_) => {}
        // Never removed for a pattern that could not tell.
        Err(undecided) => return Decision::SetAside(undecided.to_string()),
    }
    match key(config, name) {
        Ok(key) => Decision::Send(Letter {
            key,
            filename: ingest_name::filename_header(name),
            content_type: config.content_type.clone(),
        }),
        Err(NoKey::Masks(undecided)) => Decision::SetAside(undecided.to_string()),
        Err(NoKey::Template(error)) => Decision::SetAside(format!("no key can be made: {error}")),
    }
}

enum NoKey {
    Masks(Undecided),
    Template(KeyError),
}

fn key(config: &Config, name: &[u8]) -> Result<String, NoKey> {
    let groups = match config.key.has_groups() {
        true => config.masks.groups(name).map_err(NoKey::Masks)?,
        false => None,
    };
    config.key.expand(name, groups.as_deref()).map_err(NoKey::Template)
}
