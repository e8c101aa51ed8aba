//! Takes files from the queue, in order, and hands them to the connections.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::sync::mpsc::Sender;
use tracing::{info, warn};

use super::failures::{Failure, Failures};
use super::hooks::Hooks;
use super::prepare::{self, Opened, Rules, Step, Wanted};
use super::ready::{Hold, InHand, Ready};
use crate::flow::Unit;
use crate::flow::announcer::Announcer;
use crate::flow::duplicates::{Digest, Memory};
use crate::flow::queued::{Passes, Why};
use crate::flow::removal::Remover;
use crate::flow::script::FxAnswer;
use crate::message::Scripted;
use crate::spool::inventory::Version;
use crate::spool::off_thread;
use crate::spool::queue::{Look, Pass, Queue, Queued};
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
    pub(super) memory: Option<Arc<Mutex<Memory>>>,
    pub(super) in_hand: InHand,
    /// One for each product in hand.
    pub(super) room: Arc<Semaphore>,
    pub(super) out: Out,
    pub(super) announcer: Option<Arc<Announcer>>,
    /// Contents that were handed out since everything was last settled.
    pub(super) in_flight: HashSet<Digest>,
}

/// Files to be removed, and to be set aside.
#[derive(Default)]
struct Unfit {
    erased: Vec<(Queued, Why)>,
    hopeless: Vec<(Queued, Option<Version>, String)>,
}

/// A complete file on its way to a place, which a script may have to name.
struct Going {
    file: Queued,
    instead: Option<Queued>,
    step: Step,
    hold: Hold,
}

impl Taker {
    /// Until the unit is told to stop. What was handed out by then is nobody's concern here.
    pub(super) async fn run(mut self) {
        let stop = self.unit.stop.clone();
        while !stop.is_cancelled() {
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
    fn rests(&self) -> Option<Duration> {
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
    async fn batch(&mut self, files: Vec<Queued>) -> Result<bool, Stopped> {
        let (rules, stop) = (Arc::clone(&self.rules), self.unit.stop.clone());
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
            unfit.sort_out(&mut going, file, None, step, Hold::default());
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

    /// Lets `fx_script` have its say about complete files.
    async fn change(&mut self, going: Vec<Going>, unfit: &mut Unfit) -> Result<Vec<Going>, Stopped> {
        let Some(script) = self.hooks.fx.clone() else {
            return Ok(going);
        };
        let (queue, files) = (Arc::clone(&self.queue), going.into_iter().map(|one| one.file).collect());
        let looked = match off_thread(move || prepare::look(&queue, files)).await {
            Ok(looked) => looked,
            Err(error) => {
                self.passes.refused(&error);
                return Ok(Vec::new());
            }
        };
        let mut files = Vec::new();
        for (file, look) in looked {
            match look {
                Look::Whole(whole) => files.push((file, whole.version)),
                Look::Written => self.passes.leave_to_its_writer(&file),
                Look::Unread(cause) => {
                    let own = self.passes.leave_unread(&file, cause);
                    self.passes.note_read(own);
                }
                Look::Gone => {}
            }
        }
        if files.is_empty() {
            return Ok(Vec::new());
        }
        let root = self.queue.path();
        let paths: Vec<_> = files.iter().map(|(file, _)| super::path_of(root, file)).collect();
        let asked = self.unit.stop.run_until_cancelled(script.fx(&paths));
        let answers = asked.await.ok_or(Stopped)?;
        let mut changed = Vec::new();
        for ((file, version), answer) in files.into_iter().zip(answers) {
            self.take_answer((file, version), answer, &mut changed, unfit).await;
        }
        Ok(changed)
    }

    async fn take_answer(
        &self,
        (file, version): (Queued, Version),
        answer: Result<FxAnswer, crate::flow::script::ScriptError>,
        changed: &mut Vec<Going>,
        unfit: &mut Unfit,
    ) {
        let name = String::from_utf8_lossy(file.name()).into_owned();
        if answer.is_ok() {
            self.failures.script_works();
        }
        match answer {
            Ok(FxAnswer::Keep) => {
                warn!("FX script kept the file as is : {name}");
                let step = self.rules.place(file.name(), None);
                unfit.sort_out(changed, file, None, step, Hold::default());
            }
            Ok(FxAnswer::Drop) => unfit.erased.push((file, Why::Dropped)),
            Ok(FxAnswer::Replace(with)) => {
                info!("FX script modified {} to {} ", self.queue.shown(&file), with.display());
                let instead = super::file_of(&self.queue, &with);
                let mut hold = Hold::default();
                hold.marks
                    .extend(instead.as_ref().and_then(|instead| self.in_hand.mark(instead)));
                let step = self.rules.place(instead.as_ref().unwrap_or(&file).name(), None);
                if matches!(step, Step::Erase(_) | Step::SetAside(_)) {
                    self.remover
                        .remove(instead.clone().map(|instead| (instead, None)).into_iter().collect())
                        .await;
                }
                unfit.sort_out(changed, file, instead, step, hold);
            }
            Err(error) => {
                let failure = Failure::from(error);
                self.failures.failed((&file, Some(version)), b"", failure, false).await;
            }
        }
    }

    /// Lets scripts name what they have to.
    async fn name(&mut self, mut going: Vec<Going>, unfit: &mut Unfit) -> Result<Vec<Wanted>, Stopped> {
        let scripts: HashSet<String> = going.iter().filter_map(Going::script).map(str::to_string).collect();
        for script in scripts {
            let (asking, others): (Vec<_>, Vec<_>) =
                going.into_iter().partition(|one| one.script() == Some(script.as_str()));
            going = others;
            going.extend(self.ask(&script, asking, unfit).await?);
        }
        if self.hooks.destfn.is_some() {
            going = self.rename(going).await?;
        }
        let mut wanted = Vec::with_capacity(going.len());
        for one in going {
            let ingest_name = one.source().name().to_vec();
            let Step::Put { directory, name } = one.step else {
                continue;
            };
            // Known before it is delivered: nothing that is there stays unannounced.
            let announced = self
                .announcer
                .as_ref()
                .map(|announcer| announcer.check(&ingest_name, &directory, &name));
            if let Some(Err(why)) = announced {
                unfit.hopeless.push((one.file, None, why));
                self.remover
                    .remove(one.instead.map(|instead| (instead, None)).into_iter().collect())
                    .await;
                continue;
            }
            wanted.push(Wanted {
                file: one.file,
                instead: one.instead,
                directory,
                name,
                hold: one.hold,
            });
        }
        Ok(wanted)
    }

    /// Asks a script that a `filename` names, with the names in the queue.
    async fn ask(&self, script: &str, asking: Vec<Going>, unfit: &mut Unfit) -> Result<Vec<Going>, Stopped> {
        let Some(script) = self.hooks.named.get(script) else {
            return Ok(Vec::new());
        };
        let names: Vec<Vec<u8>> = asking.iter().map(|one| one.source().name().to_vec()).collect();
        let answers = self.unit.stop.run_until_cancelled(script.destfn(&names)).await;
        let mut named = Vec::new();
        for (one, answer) in asking.into_iter().zip(answers.ok_or(Stopped)?) {
            match answer {
                Ok(name) => {
                    self.failures.script_works();
                    let own = one.source().name().to_vec();
                    let scripted = if name == own {
                        Scripted::Keep
                    } else {
                        Scripted::Name(&name)
                    };
                    let step = self.rules.place(&own, Some(scripted));
                    unfit.sort_out(&mut named, one.file, one.instead, step, one.hold);
                }
                Err(error) => self.unnamed(one, Failure::from(error)).await,
            }
        }
        Ok(named)
    }

    /// Asks `destfn_script` with the names at the destination.
    async fn rename(&self, going: Vec<Going>) -> Result<Vec<Going>, Stopped> {
        let (Some(script), false) = (&self.hooks.destfn, going.is_empty()) else {
            return Ok(going);
        };
        let names: Vec<Vec<u8>> = going.iter().map(|one| one.destination().to_vec()).collect();
        let answers = self.unit.stop.run_until_cancelled(script.destfn(&names)).await;
        let mut named = Vec::new();
        for (mut one, answer) in going.into_iter().zip(answers.ok_or(Stopped)?) {
            match answer {
                Ok(made) => {
                    self.failures.script_works();
                    if let Step::Put { name, .. } = &mut one.step {
                        *name = made;
                    }
                    named.push(one);
                }
                Err(error) => self.unnamed(one, Failure::from(error)).await,
            }
        }
        Ok(named)
    }

    async fn unnamed(&self, one: Going, failure: Failure) {
        self.failures.failed((&one.file, None), b"", failure, false).await;
        let made = one.instead.clone().map(|instead| (instead, None));
        self.remover.remove(made.into_iter().collect()).await;
    }

    /// Opens some files and hands them out; whether all of them are dealt with.
    async fn open(&mut self, mut handful: Vec<Wanted>) -> Result<bool, Stopped> {
        handful.retain(|wanted| match self.failures.refused_until(&wanted.directory) {
            Some(until) => {
                self.queue.hold(&wanted.file, until);
                false
            }
            None => true,
        });
        let (queue, in_hand) = (Arc::clone(&self.queue), self.in_hand.clone());
        let needs_digest = self.memory.is_some();
        let opened = off_thread(move || prepare::open(&queue, &in_hand, handful, needs_digest)).await;
        let opened = match opened {
            Ok(opened) => opened,
            Err(error) => {
                self.passes.refused(&error);
                return Ok(false);
            }
        };
        let (mut new, mut suppressed, mut orphans) = (Vec::new(), Vec::new(), Vec::new());
        let mut own_fault = None;
        for one in opened {
            match one {
                Opened::Ready(ready) => {
                    if let Some(digest) = ready.digest {
                        // Whether it is one may hang on the verdict of these.
                        if self.is_in_flight(digest) {
                            self.hand_out(std::mem::take(&mut new)).await?;
                        }
                        if self.is_duplicate(digest).await? {
                            suppressed.push(*ready);
                            continue;
                        }
                    }
                    new.push(*ready);
                }
                Opened::Written(file) => self.passes.leave_to_its_writer(&file),
                Opened::Unread(file, cause) => own_fault = self.passes.leave_unread(&file, cause).or(own_fault),
                Opened::Orphan(instead) => orphans.push((instead, None)),
            }
        }
        self.hand_out(new).await?;
        self.passes.note_read(own_fault);
        orphans.extend(
            suppressed
                .iter()
                .filter_map(|ready| Some((ready.instead.clone()?, None))),
        );
        self.remover.remove(orphans).await;
        let known = suppressed.iter().map(|ready| (ready.file.clone(), ready.version));
        self.remover.suppress(known.collect()).await;
        Ok(own_fault.is_none())
    }

    /// Whether this content was delivered. While the same content is in flight its verdict is waited for.
    async fn is_duplicate(&mut self, digest: Digest) -> Result<bool, Stopped> {
        let Some(memory) = self.memory.clone() else {
            return Ok(false);
        };
        let knows = || {
            let mut memory = memory.lock().unwrap_or_else(PoisonError::into_inner);
            memory.knows(digest, Instant::now())
        };
        if knows() {
            return Ok(true);
        }
        if self.is_in_flight(digest) {
            self.settled().await?;
            if knows() {
                return Ok(true);
            }
        }
        self.in_flight.insert(digest);
        Ok(false)
    }

    /// Whether everything must be settled before it is known what this content is.
    fn is_in_flight(&self, digest: Digest) -> bool {
        self.in_flight.contains(&digest) || self.in_flight.len() >= crate::spool::queue::PASS_MAX
    }

    /// Waits until everything that was handed out is settled.
    async fn settled(&mut self) -> Result<(), Stopped> {
        let all = self.room.acquire_many(ROOM as u32);
        let settled = self.unit.stop.run_until_cancelled(all).await;
        // Nobody closes it.
        drop(settled.ok_or(Stopped)?);
        self.in_flight.clear();
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
                Out::Lanes(_, lanes) => {
                    let taken = stop.run_until_cancelled(lanes.send(ready)).await;
                    // The connections end early only when the unit does; the file stays.
                    drop(taken.ok_or(Stopped)?);
                }
                Out::Script(_) => list.push(ready),
            }
        }
        if let (Out::Script(lists), false) = (&self.out, list.is_empty()) {
            drop(stop.run_until_cancelled(lists.send(list)).await.ok_or(Stopped)?); // as above
        }
        Ok(())
    }
}

impl Unfit {
    /// Sorts out what does not go anywhere; the rest goes on.
    fn sort_out(&mut self, going: &mut Vec<Going>, file: Queued, instead: Option<Queued>, step: Step, hold: Hold) {
        match step {
            Step::Erase(why) => self.erased.push((file, why)),
            Step::SetAside(why) => self.hopeless.push((file, None, why)),
            step @ (Step::Put { .. } | Step::Ask(_)) => going.push(Going {
                file,
                instead,
                step,
                hold,
            }),
        }
    }
}

impl Going {
    /// The script that has to name it.
    fn script(&self) -> Option<&str> {
        match &self.step {
            Step::Ask(script) => Some(script),
            Step::Put { .. } | Step::Erase(_) | Step::SetAside(_) => None,
        }
    }

    /// What its name is made of.
    fn source(&self) -> &Queued {
        self.instead.as_ref().unwrap_or(&self.file)
    }

    /// Its name at the destination, where it has one.
    fn destination(&self) -> &[u8] {
        match &self.step {
            Step::Put { name, .. } => name,
            Step::Ask(_) | Step::Erase(_) | Step::SetAside(_) => b"",
        }
    }
}
