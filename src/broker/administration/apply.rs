//! Doing what a plan says, in its order; and who to log in as while the broker is new.

use std::collections::BTreeSet;

use serde::Deserialize;

use super::found::tags;
use super::step::{Action, Plan, Step};
use super::{GUEST, shown};
use crate::broker::BrokerError;
use crate::broker::management::Management;
use crate::config::administration::ADMINISTRATOR;
use crate::config::{Administration, Secret};
use crate::message::Fault;

/// As whom the first step is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// The user of `management` in px.toml.
    Own,
    /// guest, for the broker knows nobody else yet.
    Guest,
}

/// What became of a step.
#[derive(Debug)]
#[allow(missing_docs)]
pub enum Outcome {
    Done,
    Failed(BrokerError),
    /// Not tried; why.
    LeftOut(String),
}

/// Who the broker takes px for.
#[derive(Deserialize)]
struct WhoAmI {
    #[serde(default, deserialize_with = "tags")]
    tags: Vec<String>,
}

/// Finds out who px can log in as; with `bootstrap` it tries guest where the broker refuses the user of px.toml.
pub async fn enter(management: &Management, bootstrap: bool) -> Result<(Entry, Management), BrokerError> {
    let refusal = match who_am_i(management).await {
        Ok(_) => return Ok((Entry::Own, management.clone())),
        Err(error) if error.fault != Fault::Own => return Err(error),
        Err(error) if !bootstrap => {
            return Err(own_fault(
                format!("{error}; if the broker is new: px broker apply --bootstrap"),
                error.source,
            ));
        }
        Err(error) => error,
    };
    let guest = management.with_login(GUEST, Secret::new(GUEST));
    match who_am_i(&guest).await {
        Ok(_) => Ok((Entry::Guest, guest)),
        Err(error) if error.fault != Fault::Own => Err(error),
        // Why guest was refused says less than why the real user was.
        Err(_) => Err(own_fault(
            format!("{refusal}; and guest may not log in either: a new broker lets it in from its own host only"),
            refusal.source,
        )),
    }
}

/// Does the steps, in order, and tells of each. A step that fails does not keep others from being done, but those that
/// need it; where the broker is away, nothing more is tried. True where all were done.
///
/// `management` is the login of px.toml, and `first` the one that [`enter`] has found.
pub async fn carry_out(
    wanted: &Administration,
    plan: &Plan,
    management: &Management,
    (entry, first): (Entry, &Management),
    mut tell: impl FnMut(&Step, &Outcome),
) -> bool {
    let mut run = Run {
        failed: BTreeSet::new(),
        halted: None,
        is_good: true,
    };
    let mut management = (entry, first, management);
    if entry == Entry::Guest && wanted.own_user().is_none() {
        run.halted = Some("nobody but guest can log in, and the file does not name the user of px.toml".to_string());
    }
    for step in &plan.steps {
        let outcome = run.step(step, management.1).await;
        tell(step, &outcome);
        let is_own = wanted
            .own_user()
            .is_some_and(|own| step.action.user() == Some(own.name.as_str()));
        if management.0 == Entry::Guest && is_own && run.halted.is_none() {
            // From here on as the user that stays: what it may not do shows now, and guest can be disarmed later.
            match is_administrator(management.2).await {
                Ok(()) => management = (Entry::Own, management.2, management.2),
                Err(why) => run.halt(format!("the new administrator cannot log in: {why}")),
            }
        }
    }
    if !plan.last.is_empty()
        && run.halted.is_none()
        && let Err(why) = is_administrator(management.2).await
    {
        run.halt(format!(
            "guest is left as it is, for nobody else can log in as administrator: {why}"
        ));
    }
    for step in &plan.last {
        let outcome = run.step(step, management.2).await;
        tell(step, &outcome);
    }
    run.is_good
}

/// What has happened so far.
struct Run {
    /// What could not be made, and what therefore cannot be used.
    failed: BTreeSet<(&'static str, String)>,
    /// Why nothing more is tried.
    halted: Option<String>,
    is_good: bool,
}

impl Run {
    fn halt(&mut self, why: String) {
        self.halted = Some(why);
        self.is_good = false;
    }

    async fn step(&mut self, step: &Step, management: &Management) -> Outcome {
        let outcome = match self.obstacle(&step.action) {
            Some(why) => Outcome::LeftOut(why),
            None => match step.action.perform(management).await {
                Ok(()) => return Outcome::Done,
                Err(error) => Outcome::Failed(error),
            },
        };
        self.is_good = false;
        if let Outcome::Failed(error) = &outcome {
            if error.fault == Fault::Endpoint {
                self.halted = Some("the broker is away".to_string());
            }
            match &step.action {
                Action::AddVhost(vhost) => drop(self.failed.insert(("virtual host", vhost.clone()))),
                Action::PutUser { name, is_new: true, .. } => drop(self.failed.insert(("user", name.clone()))),
                _ => {}
            }
        }
        outcome
    }

    fn obstacle(&self, action: &Action) -> Option<String> {
        if self.halted.is_some() {
            return self.halted.clone();
        }
        let needs = [("virtual host", action.vhost()), ("user", action.user())];
        let missing = needs.into_iter().find_map(|(what, name)| {
            let name = name?.to_string();
            self.failed.contains(&(what, name.clone())).then_some((what, name))
        });
        missing.map(|(what, name)| format!("there is no {what} {}", shown(&name)))
    }
}

async fn who_am_i(management: &Management) -> Result<WhoAmI, BrokerError> {
    let who = management.get(&["whoami"], &[]).await?;
    who.ok_or_else(|| BrokerError {
        fault: Fault::Endpoint,
        what: "the management API does not know whoami".to_string(),
        source: None,
    })
}

async fn is_administrator(management: &Management) -> Result<(), String> {
    match who_am_i(management).await {
        Ok(who) if who.tags.iter().any(|tag| tag == ADMINISTRATOR) => Ok(()),
        Ok(_) => Err("it is no administrator".to_string()),
        Err(error) => Err(error.to_string()),
    }
}

fn own_fault(what: String, source: Option<Box<dyn std::error::Error + Send + Sync>>) -> BrokerError {
    BrokerError {
        fault: Fault::Own,
        what,
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::administration::Permission;

    #[test]
    fn what_needs_something_that_could_not_be_made_is_left_out() {
        let permit = |user: &str, vhost: &str| Action::SetPermission {
            user: user.to_string(),
            permission: Permission {
                vhost: vhost.to_string(),
                configure: String::new(),
                write: String::new(),
                read: String::new(),
            },
        };
        let mut run = Run {
            failed: [("virtual host", "v".to_string()), ("user", "u".to_string())].into(),
            halted: None,
            is_good: false,
        };
        assert_eq!(run.obstacle(&permit("u", "/")).as_deref(), Some("there is no user u"));
        assert_eq!(
            run.obstacle(&permit("w", "v")).as_deref(),
            Some("there is no virtual host v")
        );
        assert_eq!(run.obstacle(&permit("v", "u")), None);
        run.halt("the broker is away".to_string());
        assert_eq!(run.obstacle(&permit("v", "u")).as_deref(), Some("the broker is away"));
    }
}
