//! Takes files from the queue, in order, and hands them to the connections.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::sync::mpsc::Sender;
use tracing::info;

use super::failures::Failures;
use super::going::Unfit;
use super::hooks::Hooks;
use super::prepare::{self, Needs, Opened, Rules, Wanted};
use super::ready::{InHand, Leftovers, Names, Ready, Taken};
use crate::flow::Unit;
use crate::flow::announcer::Announcer;
use crate::flow::duplicates::{Duplicates, Look};
use crate::flow::queued::Passes;
use crate::flow::removal::Remover;
use crate::spool::off_thread;
use crate::spool::queue::{Pass, Queue, Queued};
use crate::transfer::deliver::Deliverer;

/// Products in hand: opened and not yet settled.
pub(super) const ROOM: usize = 256;
/// Files that are opened together, so that changing threads is cheap.
const HANDFUL: usize = 32;
/// Products of one run of a script.
const LIST_MAX: usize = 100;

/// The unit is to stop.
pub(super) struct Stopped;

/// Who delivers.
pub(super) enum Out {
    Lanes(Deliverer, Sender<Ready>),
    Script(Sender<Vec<Ready>>),
}

pub(super) struct Taker {
    pub(super) unit: Unit,
    pub(super) rules: Arc<Rules>,
    pub(super) hooks: Hooks,
    pub(super) queue: Arc<Queue>,
    pub(super) passes: Passes,
    pub(super) remover: Arc<Remover>,
    pub(super) failures: Arc<Failures>,
    pub(super) duplicates: Duplicates,
    pub(super) in_hand: InHand,
    pub(super) leftovers: Leftovers,
    pub(super) names: Names,
    /// What is delivered gets the time of the file here.
    pub(super) keeps_time: bool,
    /// One for each product in hand.
    pub(super) room: Arc<Semaphore>,
    pub(super) out: Out,
    pub(super) announcer: Option<Arc<Announcer>>,
}

impl Taker {
    /// Until the unit is told to stop. What was handed out by then is nobody's concern here.
    pub(super) async fn run(mut self) {
        let stop = self.unit.stop.clone();
        while !stop.is_cancelled() {
            self.leftovers.sweep(&self.remover).await;
            if let Some(rest) = self.rests() {
                if stop.run_until_cancelled(tokio::time::sleep(rest)).await.is_none() {
                    return;
                }
                continue;
            }
            match self.pass().await {
                Ok(false) => {}
                Ok(true) => {
                    if !self.passes.wait().await {
                        return;
                    }
                }
                Err(Stopped) => return,
            }
        }
    }

    /// How long nothing is worth trying.
    pub(super) fn rests(&self) -> Option<Duration> {
        let theirs = match &self.out {
            Out::Lanes(deliverer, _) => deliverer.rests(),
            Out::Script(_) => None,
        };
        theirs.max(self.failures.rests())
    }

    /// One look at the queue, and everything that it finds; whether there was nothing to do.
    async fn pass(&mut self) -> Result<bool, Stopped> {
        if !self.remover.remove_again().await {
            return Ok(true);
        }
        // Before the look: what is settled meanwhile may still be seen by it.
        let in_hand = self.in_hand.snapshot();
        let Some(mut pass) = self.passes.pass().await else {
            return Ok(true);
        };
        if pass.files.is_empty() && pass.is_whole && pass.unread.is_empty() && self.queue.holds_nothing() {
            self.failures.nothing_waits();
        }
        self.failures.forget_old();
        pass.files.retain(|file| !in_hand.contains(file.path()));
        let mut is_idle = pass.files.is_empty();
        while !pass.files.is_empty() {
            if self.unit.stop.is_cancelled() {
                return Err(Stopped);
            }
            // What is left comes again with the next look.
            if self.rests().is_some() {
                return Ok(false);
            }
            is_idle |= !self.next_batch(&mut pass).await?;
        }
        Ok(is_idle)
    }

    async fn next_batch(&mut self, pass: &mut Pass) -> Result<bool, Stopped> {
        let count = pass.files.len().min(self.rules.queued.batch);
        let batch: Vec<Queued> = pass.files.drain(..count).collect();
        let is_done = self.batch(batch).await?;
        self.passes.overtake(pass).await;
        Ok(is_done)
    }

    /// Hands out some files; whether all of them are dealt with.
    async fn batch(&mut self, mut files: Vec<Queued>) -> Result<bool, Stopped> {
        let (rules, stop, in_hand) = (Arc::clone(&self.rules), self.unit.stop.clone(), self.in_hand.snapshot());
        // What has overtaken others may be what a script has made of one of them.
        files.retain(|file| !in_hand.contains(file.path()));
        // Masks may take long, and there may be many files.
        let decided = off_thread(move || Ok(rules.decide(files, &stop)));
        let decided = match decided.await {
            Ok(decided) => decided,
            Err(error) => {
                self.passes.refused(&error);
                return Ok(false);
            }
        };
        let (mut unfit, mut going) = (Unfit::default(), Vec::new());
        for (file, step) in decided {
            let taken = Taken {
                file,
                version: None,
                made: None,
            };
            unfit.sort_out(&mut going, taken, step);
        }
        if self.hooks.fx.is_some() {
            going = self.change(going, &mut unfit).await?;
        }
        let wanted = self.name(going, &mut unfit).await?;
        self.remover.erase(unfit.erased).await;
        let mut is_done = self.remover.set_aside(unfit.hopeless).await;
        let mut wanted = wanted.into_iter();
        let handful = match self.out {
            Out::Lanes(..) => HANDFUL,
            Out::Script(_) => LIST_MAX,
        };
        loop {
            let handful: Vec<Wanted> = wanted.by_ref().take(handful).collect();
            if handful.is_empty() || self.rests().is_some() {
                return Ok(is_done);
            }
            is_done &= self.open(handful).await?;
        }
    }

    /// Opens some files and hands them out; whether all of them are dealt with.
    async fn open(&mut self, mut handful: Vec<Wanted>) -> Result<bool, Stopped> {
        handful.retain(|wanted| match self.failures.refused_until(&wanted.directory) {
            Some(until) => {
                self.queue.hold(&wanted.taken.file, until);
                false
            }
            None => true,
        });
        let (queue, in_hand) = (Arc::clone(&self.queue), self.in_hand.clone());
        let needs = Needs {
            digest: self.duplicates.is_wanted(),
            time: self.keeps_time,
        };
        let opened = off_thread(move || prepare::open(&queue, &in_hand, handful, needs)).await;
        let opened = match opened {
            Ok(opened) => opened,
            Err(error) => {
                self.passes.refused(&error);
                return Ok(false);
            }
        };
        let (mut new, mut suppressed) = (Vec::new(), Vec::new());
        let mut own_fault = None;
        for one in opened {
            match one {
                Opened::Ready(ready) => {
                    if let Some(digest) = ready.digest {
                        let mut look = self.duplicates.look(digest);
                        if look == Look::AfterOthers {
                            self.hand_out(std::mem::take(&mut new)).await?;
                            self.settled().await?;
                            look = self.duplicates.look(digest);
                        }
                        if look == Look::Repeat {
                            suppressed.push(*ready);
                            continue;
                        }
                    }
                    new.push(*ready);
                }
                Opened::Written(file) => self.passes.leave_to_its_writer(&file),
                Opened::Unread(file, cause) => own_fault = self.passes.leave_unread(&file, cause).or(own_fault),
            }
        }
        self.hand_out(new).await?;
        self.passes.note_read(own_fault);
        let known = suppressed.iter().map(|ready| (ready.file.clone(), ready.version));
        self.remover.suppress(known.collect()).await;
        drop(suppressed);
        self.leftovers.sweep(&self.remover).await;
        Ok(own_fault.is_none())
    }

    /// Waits until everything that was handed out is settled.
    async fn settled(&mut self) -> Result<(), Stopped> {
        let all = self.room.acquire_many(ROOM as u32);
        let settled = self.unit.stop.run_until_cancelled(all).await;
        // Nobody closes it.
        drop(settled.ok_or(Stopped)?);
        self.duplicates.all_settled();
        Ok(())
    }

    /// Says how many go out, and hands them out.
    async fn hand_out(&mut self, new: Vec<Ready>) -> Result<(), Stopped> {
        if new.is_empty() {
            return Ok(());
        }
        info!("{} files will be sent", new.len());
        let stop = self.unit.stop.clone();
        let mut list = Vec::new();
        for mut ready in new {
            let place = stop.run_until_cancelled(Arc::clone(&self.room).acquire_owned());
            // Nobody closes it.
            ready.hold.place = place.await.ok_or(Stopped)?.ok();
            match &self.out {
                Out::Lanes(deliverer, lanes) => {
                    let names = self.names.take(deliverer.written_names(&ready.parcel));
                    // Two at once under one name would become half of each, and the older one might be the last.
                    ready.hold.names = Some(stop.run_until_cancelled(names).await.ok_or(Stopped)?);
                    let taken = stop.run_until_cancelled(lanes.send(ready)).await;
                    // The connections end early only when the unit does; the file stays.
                    drop(taken.ok_or(Stopped)?);
                }
                Out::Script(_) => list.push(ready),
            }
        }
        if let Out::Script(lists) = &self.out {
            for list in self.failures.apart(list, |ready| (&ready.file, Some(ready.version))) {
                drop(stop.run_until_cancelled(lists.send(list)).await.ok_or(Stopped)?); // as above
            }
        }
        Ok(())
    }
}
