//! What a run of the reaper has found and done.

use crate::broker::management::QueueInfo;

/// A queue, and what became of it.
#[derive(Debug, Clone)]
pub struct Finding {
    /// As it was when that was decided.
    pub queue: QueueInfo,
    /// The rule whose limits counted.
    pub rule: Option<String>,
    /// What is too much, or why it stays.
    pub reason: String,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Deleted. Guarded: the broker has made sure that there was no consumer.
    #[allow(missing_docs)]
    Deleted { guarded: bool },
    /// The same, had this not been a dry run.
    #[allow(missing_docs)]
    WouldBeDeleted { guarded: bool },
    /// It stays, as nearly all do.
    Kept,
    /// It stays, and an operator may want to know why.
    KeptAfterAll,
    /// Somebody else has deleted it meanwhile.
    Gone,
    /// It could not be deleted, or not be judged; the error.
    Failed(String),
}

impl Outcome {
    /// One word, for programs.
    pub fn word(&self) -> &'static str {
        match self {
            Outcome::Deleted { .. } => "deleted",
            Outcome::WouldBeDeleted { .. } => "would be deleted",
            Outcome::Kept | Outcome::KeptAfterAll => "kept",
            Outcome::Gone => "gone",
            Outcome::Failed(_) => "failed",
        }
    }
}

/// A whole run.
#[derive(Debug, Default)]
pub struct Report {
    /// Every queue that was listed, by virtual host and name.
    pub findings: Vec<Finding>,
    /// What else could not be done: virtual hosts whose queues could not be listed.
    pub problems: Vec<String>,
}

impl Report {
    /// Whether anything could not be done.
    pub fn has_failed(&self) -> bool {
        let failed = |finding: &Finding| matches!(finding.outcome, Outcome::Failed(_));
        !self.problems.is_empty() || self.findings.iter().any(failed)
    }

    /// Whether it is worth a word when all that is usual goes unsaid.
    pub fn is_notable(&self) -> bool {
        let notable = |finding: &Finding| finding.is_notable();
        !self.problems.is_empty() || self.findings.iter().any(notable)
    }
}

impl Finding {
    /// Something was done, would be done or has failed.
    pub fn is_notable(&self) -> bool {
        match self.outcome {
            Outcome::Deleted { .. } | Outcome::WouldBeDeleted { .. } | Outcome::Failed(_) => true,
            Outcome::Kept | Outcome::KeptAfterAll | Outcome::Gone => false,
        }
    }

    /// For people: name, what became of it, why.
    pub fn line(&self) -> String {
        let QueueInfo { vhost, name, .. } = &self.queue;
        let queue = format!("{name:?} in {vhost:?}");
        let reason = match &self.rule {
            Some(rule) => format!("{} (rule {rule:?})", self.reason),
            None => self.reason.clone(),
        };
        let guard = |guarded: bool| if guarded { "" } else { "; unguarded" };
        match &self.outcome {
            Outcome::Deleted { guarded } => format!("deleted {queue}: {reason}{}", guard(*guarded)),
            Outcome::WouldBeDeleted { guarded } => format!("would delete {queue}: {reason}{}", guard(*guarded)),
            Outcome::Kept | Outcome::KeptAfterAll => format!("kept {queue}: {reason}"),
            Outcome::Gone => format!("gone {queue}: deleted by somebody else meanwhile; {reason}"),
            Outcome::Failed(error) if reason.is_empty() => format!("cannot judge {queue}: {error}"),
            Outcome::Failed(error) => format!("cannot delete {queue} ({reason}): {error}"),
        }
    }
}
