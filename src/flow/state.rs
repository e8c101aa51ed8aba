//! Ready, running or paused, and why: what `px status` shows of a running unit.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// One broker connection of a unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LinkState {
    /// The broker's name in `px.toml`.
    pub broker: String,
    /// Whether it stands now.
    pub connected: bool,
    /// How often it was made.
    pub generation: u64,
    /// Why it does not stand.
    pub error: Option<String>,
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
    /// `starting`, `running`, `standby` or `paused: REASON`.
    pub fn word(&self) -> String {
        match self.paused.values().next() {
            Some(_) => {
                // Several parts often have one reason.
                let reasons: BTreeSet<&str> = self.paused.values().map(String::as_str).collect();
                let reasons: Vec<&str> = reasons.into_iter().collect();
                format!("paused: {}", reasons.join("; "))
            }
            None if self.role.as_ref().is_some_and(|role| !role.active) => "standby".into(),
            None if self.ready => "running".into(),
            None => "starting".into(),
        }
    }
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
