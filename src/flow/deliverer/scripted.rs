//! What programs of the site say of products before these are opened: changed, dropped, named.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use tracing::{info, warn};

use super::failures::{Failure, Scope};
use super::going::{Going, Unfit};
use super::prepare::{self, Step, Wanted};
use super::ready::Taken;
use super::taker::{Stopped, Taker};
use crate::flow::queued::Why;
use crate::flow::script::{FxAnswer, Script, ScriptError};
use crate::message::{Fault, Scripted};
use crate::spool::inventory::Version;
use crate::spool::off_thread;
use crate::spool::queue::{Look, Queued};

impl Taker {
    /// Lets `fx_script` have its say about complete files. One with which it has failed is asked about alone.
    pub(super) async fn change(&mut self, going: Vec<Going>, unfit: &mut Unfit) -> Result<Vec<Going>, Stopped> {
        let Some(script) = self.hooks.fx.clone() else {
            return Ok(going);
        };
        let files = self.whole(going).await;
        let mut changed = Vec::new();
        for list in self.failures.apart(files, |(file, version)| (file, Some(*version))) {
            // What is left comes again with a later look.
            if self.rests().is_some() {
                break;
            }
            let root = self.queue.path();
            let paths: Vec<_> = list.iter().map(|(file, _)| super::path_of(root, file)).collect();
            let asked = self.unit.stop.run_until_cancelled(script.fx(&paths));
            let answers = asked.await.ok_or(Stopped)?;
            for ((file, version), answer) in list.into_iter().zip(answers) {
                self.take_answer((file, version), answer, &mut changed, unfit).await;
            }
        }
        Ok(changed)
    }

    /// Those that nobody writes, and which version each is.
    async fn whole(&mut self, going: Vec<Going>) -> Vec<(Queued, Version)> {
        let files = going.into_iter().map(|one| one.taken.file).collect();
        let queue = Arc::clone(&self.queue);
        let looked = match off_thread(move || prepare::look(&queue, files)).await {
            Ok(looked) => looked,
            Err(error) => {
                self.passes.refused(&error);
                return Vec::new();
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
        files
    }

    async fn take_answer(
        &self,
        (file, version): (Queued, Version),
        answer: Result<FxAnswer, ScriptError>,
        changed: &mut Vec<Going>,
        unfit: &mut Unfit,
    ) {
        if answer.is_ok() {
            self.failures.script_works();
        }
        let mut taken = Taken {
            file,
            version: Some(version),
            made: None,
        };
        match answer {
            Ok(FxAnswer::Keep) => {
                let name = String::from_utf8_lossy(taken.file.name());
                warn!("FX script kept the file as is : {name}");
            }
            Ok(FxAnswer::Drop) => return unfit.erased.push((taken.file, Some(version), Why::Dropped)),
            Ok(FxAnswer::Replace(with)) => {
                let shown = self.queue.shown(&taken.file);
                let Some(replaced) = self.replaced(&taken, &with).await else {
                    let file = (&taken.file, Some(version));
                    return self.failures.failed(file, b"", in_hand_already(&with), false).await;
                };
                info!("FX script modified {shown} to {} ", with.display());
                taken = replaced;
            }
            Err(error) => {
                let file = (&taken.file, Some(version));
                return self.failures.failed(file, b"", Failure::from(error), false).await;
            }
        }
        let step = self.rules.place(taken.source().name(), None);
        unfit.sort_out(changed, taken, step);
    }

    /// `None` where the replacement is in hand already.
    async fn replaced(&self, taken: &Taken, with: &Path) -> Option<Taken> {
        let new = super::file_of(&self.queue, with)?;
        let path = super::path_of(self.queue.path(), &taken.file);
        let is_renamed = tokio::fs::symlink_metadata(path)
            .await
            .is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound);
        let made = self.leftovers.made(new.clone(), &self.in_hand)?;
        if is_renamed {
            // All that is left of the product: not to be removed before it is delivered.
            made.forget();
            return Some(Taken {
                file: new,
                version: None,
                made: None,
            });
        }
        Some(Taken {
            file: taken.file.clone(),
            version: taken.version,
            made: Some(made),
        })
    }

    /// Lets scripts name what they have to.
    pub(super) async fn name(&mut self, mut going: Vec<Going>, unfit: &mut Unfit) -> Result<Vec<Wanted>, Stopped> {
        let scripts: HashSet<String> = going.iter().filter_map(Going::script).map(str::to_string).collect();
        for script in scripts {
            let (asking, others): (Vec<_>, Vec<_>) =
                going.into_iter().partition(|one| one.script() == Some(script.as_str()));
            going = others;
            going.extend(self.ask(&script, asking, unfit).await?);
        }
        if let Some(script) = &self.hooks.destfn {
            going = self.rename(script, going).await?;
        }
        let mut wanted = Vec::with_capacity(going.len());
        for Going { taken, step } in going {
            let Step::Put { directory, name } = step else {
                continue;
            };
            let checked = self
                .announcer
                .as_ref()
                .map(|announcer| announcer.check(taken.source().name(), &directory, &name));
            match checked {
                // Known before it is delivered: nothing that is there stays unannounced.
                Some(Err(why)) => unfit.hopeless.push((taken.file, taken.version, why)),
                Some(Ok(())) | None => wanted.push(Wanted { taken, directory, name }),
            }
        }
        Ok(wanted)
    }

    /// Asks a script that a `filename` names, with the names in the queue.
    async fn ask(&self, script: &str, asking: Vec<Going>, unfit: &mut Unfit) -> Result<Vec<Going>, Stopped> {
        let Some(script) = self.hooks.named.get(script) else {
            return Ok(Vec::new());
        };
        let answers = self.names_by(script, asking, |one| one.taken.source().name()).await?;
        let mut named = Vec::new();
        for (one, name) in answers {
            let own = one.taken.source().name();
            let scripted = if name == own {
                Scripted::Keep
            } else {
                Scripted::Name(&name)
            };
            let step = self.rules.place(own, Some(scripted));
            unfit.sort_out(&mut named, one.taken, step);
        }
        Ok(named)
    }

    /// Asks `destfn_script` with the names at the destination.
    async fn rename(&self, script: &Script, going: Vec<Going>) -> Result<Vec<Going>, Stopped> {
        let answers = self.names_by(script, going, Going::destination).await?;
        let renamed = answers.into_iter().map(|(mut one, made)| {
            if let Step::Put { name, .. } = &mut one.step {
                *name = made;
            }
            one
        });
        Ok(renamed.collect())
    }

    /// The names that a script has for these. What it has none for is left. One with which something has failed is
    /// asked about alone.
    async fn names_by(
        &self,
        script: &Script,
        going: Vec<Going>,
        name: impl Fn(&Going) -> &[u8],
    ) -> Result<Vec<(Going, Vec<u8>)>, Stopped> {
        let mut named = Vec::with_capacity(going.len());
        for list in self.failures.apart(going, key) {
            if self.rests().is_some() {
                break;
            }
            let names: Vec<Vec<u8>> = list.iter().map(|one| name(one).to_vec()).collect();
            let answers = self.unit.stop.run_until_cancelled(script.destfn(&names)).await;
            for (one, answer) in list.into_iter().zip(answers.ok_or(Stopped)?) {
                match answer {
                    Ok(name) => {
                        self.failures.script_works();
                        named.push((one, name));
                    }
                    Err(error) => self.failures.failed(key(&one), b"", Failure::from(error), false).await,
                }
            }
        }
        Ok(named)
    }
}

fn key(one: &Going) -> (&Queued, Option<Version>) {
    (&one.taken.file, one.taken.version)
}

/// Whoever writes one file for two products has changed the first while it was on its way.
fn in_hand_already(with: &Path) -> Failure {
    Failure {
        fault: Fault::Message,
        what: format!(
            "fx_script: its replacement {} is in hand for another file; each needs one of its own",
            with.display()
        ),
        scope: Scope::Script,
        retry_after: None,
    }
}
