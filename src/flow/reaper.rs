//! The reaper: deletes queues that nobody consumes from and that hold too much or have stood for too long. One run, for
//! cron; its options are `[reaper]` of the site file.
//!
//! Every queue is listed and judged. What is to go is looked at once more, and a classic queue is deleted on the
//! condition that it has no consumer, which the broker checks. For a quorum queue RabbitMQ has no such condition: two
//! runs must have seen it without consumers, its grace apart, and its consumers are counted just before. What comes
//! between that look and the deletion, some milliseconds, loses its queue: the report says unguarded.
//!
//! The queue that a unit of this host consumes is never deleted, nor is anything where a unit's file does not tell its
//! queue: a dispatcher that stands by has no consumer, and no more has a unit that is stopped.
//!
//! A kill at any moment leaves queues that the next run finds. Sightings are written before anything is deleted, and a
//! queue's own is forgotten before it is: else one that is made again under its name would inherit it.

use std::path::{Path, PathBuf};

use anyhow::Context;
use jiff::Timestamp;
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::spill::{self, Ending, Figures, Spilled};
use crate::broker::management::{Deletion, Guard, Management, QueueInfo, QueueKind};
use crate::broker::{self, BrokerError, Connection, Purpose};
use crate::config::reaper::Vhosts;
use crate::config::{Broker, OwnQueues, Reaper};
use crate::message::Fault;
use crate::spool::sightings::Sightings;

mod judge;
mod report;

pub use judge::{Excess, Verdict, Why, joined, judge, rule_of, spared};
pub use report::{Finding, Outcome, Report};

/// When so many requests in a row have met a broker that is unwell, the others are left for the next run: each may cost
/// a time-out.
const ENDPOINT_FAULTS_MAX: u32 = 3;

/// How a run is meant.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wish<'a> {
    /// Nothing is changed, neither a queue nor a sighting: it shows what a run would do now.
    pub is_dry: bool,
    /// The messages of a queue are put into a file in this directory first. Classic queues only: another one could lose
    /// some of them by that, see [`spill`], and stays.
    pub spill: Option<&'a Path>,
}

/// Runs once. `tell` hears of every queue as soon as its fate is known. `Err`: nothing was deleted.
pub async fn run(
    reaper: &Reaper,
    own: &OwnQueues,
    wish: Wish<'_>,
    sightings: Sightings,
    now: Timestamp,
    tell: &mut dyn FnMut(&Finding),
) -> anyhow::Result<Report> {
    let mut run = Run {
        reaper,
        own,
        wish,
        sightings,
        now,
        management: Management::new(&reaper.broker)?,
        connection: None,
        endpoint_faults: 0,
        unfinished: Vec::new(),
        stop: CancellationToken::new(),
    };
    let _signals = run.heed_signals()?;
    let mut report = Report::default();
    let queues = run.look(&mut report).await?;
    run.save().context("nothing is deleted")?;
    for queue in queues {
        let finding = run.reap(queue).await;
        tell(&finding);
        report.findings.push(finding);
    }
    if let Some((_, connection)) = run.connection.take() {
        connection.close().await;
    }
    // What failed is remembered again; where that is not written, it is as if seen for the first time.
    if let Err(error) = run.save() {
        report.problems.push(line(error));
    }
    Ok(report)
}

struct Run<'a> {
    reaper: &'a Reaper,
    own: &'a OwnQueues,
    wish: Wish<'a>,
    sightings: Sightings,
    now: Timestamp,
    management: Management,
    /// To the virtual host that was last looked at by AMQP.
    connection: Option<(String, Box<dyn Connection>)>,
    endpoint_faults: u32,
    /// Of the queue at hand: files of earlier runs that were interrupted.
    unfinished: Vec<PathBuf>,
    /// Asked to end, on SIGTERM or SIGINT; only while messages are spilled, for there is something to tell then.
    stop: CancellationToken,
}

impl Run<'_> {
    /// Until what it returns is dropped. Without `--spill` a signal ends the process, as ever.
    fn heed_signals(&self) -> anyhow::Result<Option<DropGuard>> {
        if self.wish.spill.is_none() {
            return Ok(None);
        }
        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let (stop, over) = (self.stop.clone(), CancellationToken::new());
        let guard = over.clone().drop_guard();
        tokio::spawn(async move {
            tokio::select! {
                _ = interrupt.recv() => stop.cancel(),
                _ = terminate.recv() => stop.cancel(),
                () = over.cancelled() => {}
            }
        });
        Ok(Some(guard))
    }

    /// Every queue of every virtual host that can be listed, and since when each has been without consumers.
    async fn look(&mut self, report: &mut Report) -> anyhow::Result<Vec<QueueInfo>> {
        let vhosts = match &self.reaper.vhosts {
            Vhosts::All => self.management.vhosts().await?,
            Vhosts::These(vhosts) => vhosts.clone(),
        };
        self.sightings
            .keep_vhosts(|vhost| vhosts.iter().any(|kept| kept == vhost));
        let mut all = Vec::new();
        for vhost in vhosts {
            if self.endpoint_faults >= ENDPOINT_FAULTS_MAX {
                let why = format!("not tried, for the broker failed {ENDPOINT_FAULTS_MAX} times in a row");
                report.problems.push(format!("virtual host {vhost:?}: {why}"));
                continue;
            }
            match self.management.queues(&vhost).await {
                Ok(mut queues) => {
                    self.endpoint_faults = 0;
                    queues.sort_by(|a, b| a.name.cmp(&b.name));
                    let without = queues.iter().filter(|queue| queue.consumers == Some(0));
                    self.sightings
                        .look(&vhost, without.map(|queue| queue.name.as_str()), self.now);
                    all.append(&mut queues);
                }
                Err(error) => {
                    self.endpoint_faults += u32::from(error.fault == Fault::Endpoint);
                    report.problems.push(format!("virtual host {vhost:?}: {}", line(error)));
                }
            }
        }
        Ok(all)
    }

    fn save(&self) -> anyhow::Result<()> {
        match self.wish.is_dry {
            true => Ok(()),
            false => Ok(self.sightings.save()?),
        }
    }

    fn judge(&self, queue: &QueueInfo) -> Verdict {
        let sighting = self.sightings.first(&queue.vhost, &queue.name);
        let verdict = judge(queue, self.reaper, sighting, self.now);
        spared(verdict, self.own.unit_of(&queue.vhost, &queue.name))
    }

    async fn reap(&mut self, mut queue: QueueInfo) -> Finding {
        let rule = rule_of(&self.reaper.rules, &queue.name).ok().flatten();
        let rule = rule.map(|rule| rule.queue.text().to_owned());
        let (reason, outcome) = match self.judge(&queue) {
            Verdict::Keep(Why::Undecided(why)) => (String::new(), Outcome::Failed(why)),
            Verdict::Keep(why @ (Why::NoStatistics | Why::Kind(_) | Why::Unit { .. } | Why::Grace { .. })) => {
                (why.to_string(), Outcome::KeptAfterAll)
            }
            Verdict::Keep(why) => (why.to_string(), Outcome::Kept),
            Verdict::Delete(reasons) => {
                let mut reason = joined(&reasons);
                let outcome = self.take(&mut queue, &mut reason).await;
                (reason, outcome)
            }
        };
        Finding {
            queue,
            rule,
            reason,
            outcome,
            unfinished: std::mem::take(&mut self.unfinished),
        }
    }

    /// Looks once more, and deletes what is still to be deleted. The queue and the reason become those of this look.
    async fn take(&mut self, queue: &mut QueueInfo, reason: &mut String) -> Outcome {
        if self.stop.is_cancelled() {
            return Outcome::Failed("not tried: interrupted".to_owned());
        }
        if self.endpoint_faults >= ENDPOINT_FAULTS_MAX {
            return Outcome::Failed(format!(
                "not tried, for the broker failed {ENDPOINT_FAULTS_MAX} times in a row"
            ));
        }
        match self.try_take(queue, reason).await {
            Ok(outcome) => {
                self.endpoint_faults = 0;
                outcome
            }
            Err(error) => {
                match error.downcast_ref::<BrokerError>().map(|error| error.fault) {
                    Some(Fault::Endpoint) => self.endpoint_faults += 1,
                    Some(Fault::Own | Fault::Message) | None => self.endpoint_faults = 0,
                }
                Outcome::Failed(line(error))
            }
        }
    }

    async fn try_take(&mut self, queue: &mut QueueInfo, reason: &mut String) -> anyhow::Result<Outcome> {
        if !Management::has_address(&queue.name) {
            reason.push_str("; the management API has no address for this name: rabbitmqctl delete_queue");
            return Ok(Outcome::KeptAfterAll);
        }
        let Some(again) = self.management.queue(&queue.vhost, &queue.name).await? else {
            self.sightings.forget(&queue.vhost, &queue.name);
            return Ok(Outcome::Gone);
        };
        *queue = again;
        match self.judge(queue) {
            Verdict::Delete(reasons) => *reason = joined(&reasons),
            Verdict::Keep(why) => {
                if let Why::Consumers(_) = why {
                    self.sightings.forget(&queue.vhost, &queue.name);
                }
                *reason = format!("meanwhile {why}");
                return Ok(Outcome::KeptAfterAll);
            }
        }
        let guarded = queue.kind == QueueKind::Classic;
        if self.wish.spill.is_some() && !guarded {
            reason.push_str(
                "; not spilled, for it is a quorum queue: its delivery limit may drop what is given back, and \
                 dead-lettered messages cannot be taken out",
            );
            return Ok(Outcome::KeptAfterAll);
        }
        if self.wish.spill.is_some() && queue.auto_delete {
            // To read it out is to consume, and to end that would delete it, with what has come meanwhile.
            reason.push_str("; not spilled, for it is auto_delete: it would go with its reader, unguarded");
            return Ok(Outcome::KeptAfterAll);
        }
        if self.wish.is_dry {
            let other = match guarded {
                true => None,
                false => self.last_look(queue, reason).await?,
            };
            return Ok(other.unwrap_or(Outcome::WouldBeDeleted { guarded }));
        }
        match self.wish.spill {
            Some(directory) => self.spill(queue, reason, directory).await,
            None => self.delete(queue, reason, guarded).await,
        }
    }

    async fn spill(&mut self, queue: &QueueInfo, reason: &mut String, directory: &Path) -> anyhow::Result<Outcome> {
        let (vhost, name) = (&queue.vhost, &queue.name);
        // Who has cancelled and not settled yet is no consumer, and guards nothing.
        let Some(seen) = figures(&self.management, vhost, name).await? else {
            return Ok(Outcome::Gone);
        };
        if seen.unacknowledged != Some(0) {
            reason.push_str("; somebody has messages of it in hand");
            return Ok(Outcome::KeptAfterAll);
        }
        let sighting = self.sightings.forget(vhost, name);
        self.sightings.save()?;
        let broker = self.as_manager(vhost);
        let Spilled {
            file,
            messages,
            ending,
            unfinished,
            ..
        } = {
            let look = async |queue: &str| figures(&self.management, vhost, queue).await;
            spill::spill(&broker, name, &queue.arguments, directory, look, &self.stop).await
        };
        self.unfinished = unfinished;
        // It has no consumer, as far as anybody knows: it goes on as it was.
        if let (Ending::FedFaster | Ending::InHand(_) | Ending::Interrupted | Ending::Failed(_), Some(first)) =
            (&ending, sighting)
        {
            self.sightings.remember(vhost, name, first);
        }
        Ok(match ending {
            Ending::Deleted => Outcome::Spilled { file, messages },
            Ending::Missing if messages == 0 => Outcome::Gone,
            Ending::InHand(why) if messages == 0 => {
                *reason += "; ";
                *reason += why;
                Outcome::KeptAfterAll
            }
            Ending::InUse if messages == 0 => {
                *reason = "meanwhile it has a consumer, says the broker".to_owned();
                Outcome::KeptAfterAll
            }
            ending => Outcome::HalfSpilled {
                why: ending.to_string(),
                file,
                messages,
            },
        })
    }

    /// What becomes of a queue that the broker does not guard, if it is not to be deleted.
    async fn last_look(&mut self, queue: &QueueInfo, reason: &mut String) -> anyhow::Result<Option<Outcome>> {
        Ok(match self.consumers_now(queue).await? {
            Some(0) => None,
            Some(_) => {
                self.sightings.forget(&queue.vhost, &queue.name);
                *reason = "meanwhile it has a consumer".to_owned();
                Some(Outcome::KeptAfterAll)
            }
            None => Some(Outcome::Gone),
        })
    }

    /// How many consumers there are at this moment, by AMQP: everything that the management API tells of consumers is up
    /// to 10 s old.
    async fn consumers_now(&mut self, queue: &QueueInfo) -> anyhow::Result<Option<u64>> {
        let connection = match self.connection.take() {
            Some((vhost, connection)) if vhost == queue.vhost => connection,
            _ => {
                let connection = broker::connect(&self.as_manager(&queue.vhost), Purpose::Follow, "px reap").await?;
                let look = async |name: &str| figures(&self.management, &queue.vhost, name).await;
                let same = spill::assert_same_broker(connection.as_ref(), &queue.name, &look).await;
                same.map_err(|cause| anyhow::anyhow!(cause.what))?;
                connection
            }
        };
        let count = connection.consumers(&queue.name).await?;
        self.connection = Some((queue.vhost.clone(), connection));
        Ok(count)
    }

    /// The broker as the management API's user sees it: who may delete there may look there too.
    fn as_manager(&self, vhost: &str) -> Broker {
        let mut broker = self.reaper.broker.in_vhost(vhost);
        if let Some(management) = &broker.management {
            for url in &mut broker.urls {
                url.user.clone_from(&management.user);
                url.password = management.password.clone();
            }
        }
        broker
    }

    async fn delete(&mut self, queue: &QueueInfo, reason: &mut String, guarded: bool) -> anyhow::Result<Outcome> {
        let (vhost, name) = (&queue.vhost, &queue.name);
        let sighting = self.sightings.forget(vhost, name);
        self.sightings.save()?;
        if !guarded {
            // After the file was synced, which may take seconds: nothing but the deletion comes after this look.
            match self.last_look(queue, reason).await {
                Ok(None) => {}
                Ok(Some(outcome)) => return Ok(outcome),
                Err(error) => {
                    if let Some(first) = sighting {
                        self.sightings.remember(vhost, name, first);
                    }
                    return Err(error);
                }
            }
        }
        let guard = Guard {
            if_unused: guarded,
            if_empty: false,
        };
        match self.management.delete_queue(vhost, name, guard).await {
            Ok(Deletion::Deleted) => Ok(Outcome::Deleted { guarded }),
            Ok(Deletion::Gone) => Ok(Outcome::Gone),
            Ok(Deletion::InUse | Deletion::NotEmpty) => {
                *reason = "meanwhile it has a consumer, says the broker".to_owned();
                Ok(Outcome::KeptAfterAll)
            }
            Err(error) => {
                // A refusal has changed nothing. After a broken connection nobody knows.
                if let (Fault::Own, Some(first)) = (error.fault, sighting) {
                    self.sightings.remember(vhost, name, first);
                }
                Err(error.into())
            }
        }
    }
}

/// The newest figures that the broker has told.
async fn figures(management: &Management, vhost: &str, queue: &str) -> Result<Option<Figures>, BrokerError> {
    let columns = [("columns", "name,messages_unacknowledged,reductions")];
    let found: Option<Value> = management.get(&["queues", vhost, queue], &columns).await?;
    Ok(found.map(|found| Figures {
        unacknowledged: found["messages_unacknowledged"].as_u64(),
        reductions: found["reductions"].as_u64(),
    }))
}

/// The whole chain.
fn line(error: impl Into<anyhow::Error>) -> String {
    format!("{:#}", error.into())
}
