//! What a run of the reaper has found and done.

use std::path::{Path, PathBuf};

use crate::broker::management::QueueInfo;

/// A queue, and what became of it.
#[derive(Debug, Clone)]
pub struct Finding {
    /// As it was when that was decided.
    pub queue: QueueInfo,
    /// The rule that is about it, with its limits or that it is kept.
    pub rule: Option<String>,
    /// What is too much, or why it stays.
    pub reason: String,
    /// What became of it.
    pub outcome: Outcome,
    /// Files into which earlier runs have spilled it, and were interrupted.
    pub unfinished: Vec<PathBuf>,
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
    /// Deleted, and so many messages are in the file; no file where there was none.
    #[allow(missing_docs)]
    Spilled { file: Option<PathBuf>, messages: u64 },
    /// It stays, though so many messages are in the file. After a failure the last of them may be in the queue too.
    #[allow(missing_docs)]
    HalfSpilled {
        why: String,
        file: Option<PathBuf>,
        messages: u64,
    },
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
            Outcome::Deleted { .. } | Outcome::Spilled { .. } => "deleted",
            Outcome::WouldBeDeleted { .. } => "would be deleted",
            Outcome::Kept | Outcome::KeptAfterAll => "kept",
            Outcome::Gone => "gone",
            Outcome::Failed(_) | Outcome::HalfSpilled { .. } => "failed",
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
        !self.problems.is_empty() || self.findings.iter().any(Finding::has_failed)
    }

    /// Whether it is worth a word when all that is usual goes unsaid.
    pub fn is_notable(&self) -> bool {
        !self.problems.is_empty() || self.findings.iter().any(Finding::is_notable)
    }
}

impl Finding {
    /// It is gone by our doing.
    pub fn is_deleted(&self) -> bool {
        matches!(self.outcome, Outcome::Deleted { .. } | Outcome::Spilled { .. })
    }

    /// It should have been deleted, and is not.
    pub fn has_failed(&self) -> bool {
        matches!(self.outcome, Outcome::Failed(_) | Outcome::HalfSpilled { .. })
    }

    /// Something was done, would be done or has failed.
    pub fn is_notable(&self) -> bool {
        self.is_deleted() || self.has_failed() || matches!(self.outcome, Outcome::WouldBeDeleted { .. })
    }

    /// Where messages were spilled to, and how many.
    pub fn spilled(&self) -> Option<(&Path, u64)> {
        match &self.outcome {
            Outcome::Spilled { file, messages } | Outcome::HalfSpilled { file, messages, .. } => {
                Some((file.as_deref()?, *messages))
            }
            _ => None,
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
        let spilled = self.spilled().map_or(String::new(), |(file, messages)| {
            format!("; {messages} messages are in {}", file.display())
        });
        let older = self.unfinished.iter().map(|file| file.display().to_string());
        let older = older.collect::<Vec<_>>().join(", ");
        let spilled = match older.is_empty() {
            true => spilled,
            false => format!("{spilled}; earlier messages, of runs that were interrupted, are in {older}"),
        };
        let guard = |guarded: bool| if guarded { "" } else { "; unguarded" };
        match &self.outcome {
            Outcome::Deleted { guarded } => format!("deleted {queue}: {reason}{}", guard(*guarded)),
            Outcome::WouldBeDeleted { guarded } => format!("would delete {queue}: {reason}{}", guard(*guarded)),
            Outcome::Spilled { .. } => format!("deleted {queue}: {reason}{spilled}"),
            Outcome::HalfSpilled { why, .. } => format!("{queue} ({reason}): {why}{spilled}"),
            Outcome::Kept | Outcome::KeptAfterAll => format!("kept {queue}: {reason}{spilled}"),
            Outcome::Gone => format!("gone {queue}: deleted by somebody else meanwhile; {reason}"),
            Outcome::Failed(error) if reason.is_empty() => format!("cannot judge {queue}: {error}"),
            Outcome::Failed(error) => format!("cannot delete {queue} ({reason}): {error}"),
        }
    }
}
