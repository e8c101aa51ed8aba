//! Ready, running or paused, and why: what `px status` shows of a running unit.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::broker::{Refusal, Warning};

/// One broker connection of a unit.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct LinkState {
    /// The broker's name in `px.toml`.
    pub broker: String,
    /// Whether it stands now.
    pub connected: bool,
    /// Since when it does, or does not, UTC; RFC 3339 as text.
    #[serde(with = "text")]
    pub since: Timestamp,
    /// How often it was made.
    pub generation: u64,
    /// Why it does not stand.
    pub error: Option<String>,
    /// What the broker refused when exchanges, the queue and its bindings were declared.
    pub warnings: Vec<Warning>,
}

/// Whether this one of several works, or stands by for another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Role {
    /// It works; else it stands by.
    pub active: bool,
    /// Since when, UTC; RFC 3339 as text.
    #[serde(with = "text")]
    pub since: Timestamp,
    /// Why, in words.
    pub why: String,
}

mod text {
    use jiff::Timestamp;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(time)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// A picture of the unit at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Snapshot {
    /// It has begun its work at least once.
    pub ready: bool,
    /// What keeps it from working, by the part that says so.
    pub paused: BTreeMap<&'static str, String>,
    /// Its connections, by purpose.
    pub links: BTreeMap<&'static str, LinkState>,
    /// Present amounts: in hand, parked here, kept as failed, remembered.
    pub gauges: BTreeMap<&'static str, u64>,
    /// Of a unit that works only where its address is, or when it is chosen.
    pub role: Option<Role>,
}

impl Snapshot {
    /// `paused: REASON`, `standby`, `waiting for broker NAME since TIME: REASON`, `impaired: REASON`, `running` or
    /// `starting`: the first that is so.
    pub fn word(&self) -> String {
        if !self.paused.is_empty() {
            // Several parts often have one reason.
            let reasons: BTreeSet<&str> = self.paused.values().map(String::as_str).collect();
            let reasons: Vec<&str> = reasons.into_iter().collect();
            return format!("paused: {}", reasons.join("; "));
        }
        if self.role.as_ref().is_some_and(|role| !role.active) {
            return "standby".into(); // a switch shows, whatever the broker does
        }
        if let Some((link, error)) = self.away() {
            let since = moment(link.since);
            return format!("waiting for broker {} since {since}: {error}", link.broker);
        }
        match self.unbound() {
            Some(reason) => format!("impaired: {reason}"),
            None if self.ready => "running".into(),
            None => "starting".into(),
        }
    }

    /// The needed connection that is missed for the longest time, and why it does not stand.
    fn away(&self) -> Option<(&LinkState, &str)> {
        let errors = self.needed().filter(|link| !link.connected);
        let errors = errors.filter_map(|link| Some((link, link.error.as_deref()?)));
        errors.min_by_key(|(link, _)| link.since)
    }

    /// What is not bound, on one line.
    fn unbound(&self) -> Option<String> {
        let mut refused = self.needed().flat_map(|link| &link.warnings);
        let is_unbound = |warning: &&Warning| warning.refusal == Refusal::Unbound;
        let first = refused.by_ref().find(is_unbound)?;
        Some(match refused.filter(is_unbound).count() {
            0 => first.to_string(),
            more => format!("{first} (and {more} more)"),
        })
    }

    /// Without what it reads along or tells, a unit does its work all the same.
    fn needed(&self) -> impl Iterator<Item = &LinkState> {
        let needed = self
            .links
            .iter()
            .filter(|(purpose, _)| !matches!(**purpose, "follow" | "tell"));
        needed.map(|(_, link)| link)
    }
}

/// A time as operators read it.
pub fn moment(time: Timestamp) -> impl std::fmt::Display {
    time.strftime("%Y-%m-%d %H:%M:%S UTC")
}

/// The shared state of a unit. Cheap to clone; every change wakes the status writer.
#[derive(Clone)]
pub struct State(Arc<watch::Sender<Snapshot>>);

impl Default for State {
    fn default() -> Self {
        State(Arc::new(watch::Sender::new(Snapshot::default())))
    }
}

impl State {
    /// The unit has begun its work.
    pub fn set_ready(&self) {
        self.change(|s| s.ready = true);
    }

    /// Forgets everything but that it was ready: a new configuration begins.
    pub fn clear(&self) {
        self.change(|s| {
            *s = Snapshot {
                ready: s.ready,
                ..Snapshot::default()
            }
        });
    }

    /// `part` cannot go on, for `reason`. Logged once per reason.
    pub fn pause(&self, part: &'static str, reason: impl Into<String>) {
        let reason = reason.into();
        let is_new = self.change(|s| {
            s.paused.insert(part, reason.clone());
        });
        if is_new {
            tracing::error!(part, "paused: {reason}");
        }
    }

    /// `part` can go on.
    pub fn resume(&self, part: &'static str) {
        if !self.0.borrow().paused.contains_key(part) {
            return; // the usual case, on every confirm
        }
        let was_paused = self.change(|s| {
            s.paused.remove(part);
        });
        if was_paused {
            tracing::info!(part, "resumed");
        }
    }

    /// Whether anything keeps the unit from working.
    pub fn is_paused(&self) -> bool {
        !self.0.borrow().paused.is_empty()
    }

    /// The state of one connection.
    pub fn set_link(&self, purpose: &'static str, link: LinkState) {
        self.change(|s| {
            s.links.insert(purpose, link);
        });
    }

    /// What the broker refuses on a connection that stands, asked again.
    pub fn set_warnings(&self, purpose: &'static str, warnings: Vec<Warning>) {
        self.change(|s| {
            if let Some(link) = s.links.get_mut(purpose).filter(|link| link.connected) {
                link.warnings = warnings;
            }
        });
    }

    /// A present amount.
    pub fn set_gauge(&self, name: &'static str, amount: u64) {
        self.change(|s| {
            s.gauges.insert(name, amount);
        });
    }

    /// This one works, or stands by, and why. Another reason for the same is no new beginning.
    pub fn set_role(&self, active: bool, why: impl Into<String>) {
        let why = why.into();
        self.change(|s| {
            let begun = s
                .role
                .as_ref()
                .filter(|role| role.active == active)
                .map(|role| role.since);
            let since = begun.unwrap_or_else(Timestamp::now);
            s.role = Some(Role { active, since, why });
        });
    }

    /// The picture now.
    pub fn snapshot(&self) -> Snapshot {
        self.0.borrow().clone()
    }

    /// To be woken at every change.
    pub fn subscribe(&self) -> watch::Receiver<Snapshot> {
        self.0.subscribe()
    }

    fn change(&self, edit: impl FnOnce(&mut Snapshot)) -> bool {
        self.0.send_if_modified(|snapshot| {
            let before = snapshot.clone();
            edit(snapshot);
            before != *snapshot
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn warning(refusal: Refusal, what: &str) -> Warning {
        let what = what.to_owned();
        Warning { refusal, what }
    }

    fn link(error: Option<&str>, warnings: Vec<Warning>) -> LinkState {
        LinkState {
            broker: "bunny".into(),
            connected: error.is_none(),
            error: error.map(str::to_owned),
            warnings,
            ..LinkState::default()
        }
    }

    #[test]
    fn the_word_is_what_keeps_the_unit_most_from_its_work() {
        let mut unit = Snapshot::default();
        assert_eq!(unit.word(), "starting");
        unit.links.insert("publish", link(Some("refused"), Vec::new()));
        let waiting = "waiting for broker bunny since 1970-01-01 00:00:00 UTC: refused";
        assert_eq!(unit.word(), waiting); // whether it ever was at work or not
        unit.ready = true;
        assert_eq!(unit.word(), waiting);
        unit.role = Some(Role {
            active: false,
            since: Timestamp::default(),
            why: String::new(),
        });
        assert_eq!(unit.word(), "standby");
        unit.paused.insert("publishing", "full".into());
        assert_eq!(unit.word(), "paused: full");
        unit.paused.clear();

        let refused = vec![
            warning(Refusal::Foreign, "as it is"),
            warning(Refusal::Unbound, "may not bind a"),
            warning(Refusal::Unbound, "may not bind b"),
        ];
        unit.links.insert("publish", link(None, Vec::new()));
        unit.links.insert("consume", link(None, refused));
        assert_eq!(unit.word(), "standby");
        unit.role = None;
        assert_eq!(unit.word(), "impaired: may not bind a (and 1 more)");
        unit.links
            .insert("consume", link(None, vec![warning(Refusal::Differs, "as it is")]));
        assert_eq!(unit.word(), "running");
        unit.links.insert("follow", link(Some("refused"), Vec::new()));
        assert_eq!(unit.word(), "running"); // it works all the same
    }
}
