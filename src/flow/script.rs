//! Programs of the site that have a say in what becomes of files. One contract for all hooks; docs/scripts.md is its
//! manual.
//!
//! A program is started with its words and the name of the hook, without a shell, in the unit's queue directory. It
//! reads one JSON object a line for each file, writes one for each answer, and ends:
//!
//! | end | files without an answer |
//! | --- | --- |
//! | 0 | message fault: no answer is never taken for one |
//! | 75, a signal, the time-out, the end of its unit | endpoint fault: later |
//! | 126, 127, cannot be started | own fault: the program is not there or may not run |
//! | any other code | message fault |
//!
//! Answers that were given count however it ends. Its standard error goes to the unit's log.

use std::collections::HashSet;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use tokio::process::Command;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{Cause, Unit};
use crate::config::{Secret, UnitDir};
use crate::message::Fault;

mod lines;
mod program;
mod said;

use lines::{Answer, Answers, Key, bytes_of, path_of};
use program::{End, Ran};

/// EX_TEMPFAIL of sysexits.h.
const TRY_LATER: i32 = 75;
/// What shells and `env` end with when they cannot run something, or find it.
const NOT_RUN: [i32; 2] = [126, 127];
/// The word after the program that asks for the unit's `script_options` on standard input.
const OPTIONS_WORD: &str = "--options";
/// Of px's environment a program gets these and nothing else, for there may be passwords in it.
const ENVIRONMENT: [&str; 5] = ["PATH", "HOME", "LANG", "TZ", "PX_ROOT"];
/// Where px itself has no PATH.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";
/// The longest file name on Linux.
const NAME_MAX: usize = 255;

/// When a program is asked, and about what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// What becomes of each file, before all else.
    Fx,
    /// Under which name each file is delivered.
    Destfn,
    /// Which files of a list are ingested.
    Lx,
    /// To deliver files.
    Send,
    /// To fetch files into the unit's queue.
    Pull,
}

impl Hook {
    /// The option, and the last word of the command.
    pub fn name(self) -> &'static str {
        match self {
            Hook::Fx => "fx_script",
            Hook::Destfn => "destfn_script",
            Hook::Lx => "lx_script",
            Hook::Send => "send_script",
            Hook::Pull => "pull_script",
        }
    }
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct ScriptError {
    /// Whose fault it is.
    pub fault: Fault,
    /// What happened to which program.
    pub what: String,
}

impl From<ScriptError> for Cause {
    fn from(error: ScriptError) -> Self {
        Cause::new(error.fault, error.what)
    }
}

/// What becomes of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FxAnswer {
    /// It goes on as it is.
    Keep,
    /// It is removed.
    Drop,
    /// This file goes on in its place, then the file is removed. A regular file in the unit's queue directory; and none
    /// of the list, and no other's replacement.
    Replace(PathBuf),
}

/// What a list becomes.
#[derive(Debug)]
pub struct LxAnswers {
    /// For each file of the list, whether it is to be ingested; where not, the program has seen to it.
    pub files: Vec<Result<bool, ScriptError>>,
    /// Files that were not in the list and are to be ingested as well. Not checked.
    pub more: Vec<PathBuf>,
}

/// A file to be delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SendRequest {
    /// Where it lies.
    pub path: PathBuf,
    /// The directory at the destination.
    pub directory: Vec<u8>,
    /// Its name there.
    pub name: Vec<u8>,
}

/// A program and the hook it is for. Each call is one run of it.
#[derive(Debug, Clone)]
pub struct Script {
    words: Vec<String>,
    hook: Hook,
    limit: Duration,
    options: Option<Secret>,
    queue: PathBuf,
    variables: Vec<(&'static str, String)>,
    end: CancellationToken,
}

impl Script {
    /// The program of a unit: `words` as of [`crate::config::options::script`], `limit` for each run.
    pub fn new(words: Vec<String>, hook: Hook, limit: Duration, unit: &Unit) -> Script {
        let queues = match unit.name.dir {
            UnitDir::Rx => "rxq",
            _ => "txq",
        };
        let queue = unit.places.spool.join(queues).join(&unit.name.name);
        let shown = |path: &Path| path.to_string_lossy().into_owned();
        Script {
            words,
            hook,
            limit,
            options: None,
            end: CancellationToken::new(),
            variables: vec![
                ("PX_HOOK", hook.name().to_owned()),
                ("PX_UNIT", unit.name.to_string()),
                ("PX_NAME", unit.name.name.clone()),
                ("PX_QUEUE", shown(&queue)),
                ("PX_SPOOL", shown(&unit.places.spool)),
                ("PX_ETC", shown(&unit.places.etc)),
            ],
            queue,
        }
    }

    /// With the unit's `script_options`, for programs that ask for them.
    #[must_use]
    pub fn with_options(self, options: Option<Secret>) -> Script {
        Script { options, ..self }
    }

    /// Whose runs are ended when that is cancelled: asked to, then made to soon after. Answers given by then count.
    #[must_use]
    pub fn with_end(self, end: CancellationToken) -> Script {
        Script { end, ..self }
    }

    /// What becomes of each of these files, in their order.
    pub async fn fx(&self, files: &[PathBuf]) -> Vec<Result<FxAnswer, ScriptError>> {
        let asked: Vec<&[u8]> = files.iter().map(|file| bytes_of(file)).collect();
        let mut taken: HashSet<PathBuf> = files.iter().cloned().collect();
        let mut judged = Vec::with_capacity(files.len());
        for answer in self.ask(&asked, Key::Path).await {
            judged.push(match answer {
                Ok((file, answer)) => self.fx_answer(path_of(file), &answer, &mut taken).await,
                Err(error) => Err(error),
            });
        }
        judged
    }

    async fn fx_answer(
        &self,
        file: PathBuf,
        answer: &Answer,
        taken: &mut HashSet<PathBuf>,
    ) -> Result<FxAnswer, ScriptError> {
        match (answer.result.as_deref(), &answer.with) {
            (Some("keep"), None) => Ok(FxAnswer::Keep),
            (Some("drop"), None) => Ok(FxAnswer::Drop),
            (Some("replace"), Some(with)) => {
                let with = path_of(with.clone());
                if with == file {
                    return Ok(FxAnswer::Keep);
                }
                self.check_replacement(&with).await?;
                if !taken.insert(with.clone()) {
                    let with = with.display();
                    return Err(self.bad(format!(
                        "its replacement {with} is another file of the list, or replaces one"
                    )));
                }
                Ok(FxAnswer::Replace(with))
            }
            _ => Err(self.unknown(answer, r#"keep, drop, or replace and "with""#)),
        }
    }

    async fn check_replacement(&self, with: &Path) -> Result<(), ScriptError> {
        let shown = with.display();
        let below = with.strip_prefix(&self.queue).ok();
        let is_below = below.is_some_and(|below| {
            let mut parts = below.components().peekable();
            parts.peek().is_some() && parts.all(|part| matches!(part, Component::Normal(_)))
        });
        if !is_below {
            let queue = self.queue.display();
            return Err(self.bad(format!(
                "its replacement {shown} is not in the unit's queue directory {queue}"
            )));
        }
        match tokio::fs::symlink_metadata(with).await {
            Ok(status) if status.is_file() => Ok(()),
            Ok(_) => Err(self.bad(format!("its replacement {shown} is no regular file"))),
            Err(error) => Err(self.bad(format!("its replacement {shown}: {error}"))),
        }
    }

    /// The names under which these are delivered, in their order.
    pub async fn destfn(&self, names: &[Vec<u8>]) -> Vec<Result<Vec<u8>, ScriptError>> {
        let asked: Vec<&[u8]> = names.iter().map(Vec::as_slice).collect();
        let answers = self.ask(&asked, Key::Name).await.into_iter();
        let named = answers.map(|answer| {
            let (name, answer) = answer?;
            match (answer.result.as_deref(), &answer.with) {
                (Some("keep"), None) => Ok(name),
                (Some("replace"), Some(with)) if is_name(with) => Ok(with.clone()),
                (Some("replace"), Some(with)) => {
                    let with = String::from_utf8_lossy(&with[..with.len().min(NAME_MAX + 1)]);
                    Err(self.bad(format!(
                        "{with:?} is no name for a file: 1 to {NAME_MAX} bytes without / and NUL"
                    )))
                }
                _ => Err(self.unknown(&answer, r#"keep, or replace and "with""#)),
            }
        });
        named.collect()
    }

    /// Which of these files are to be ingested.
    pub async fn lx(&self, files: &[PathBuf]) -> LxAnswers {
        let asked: Vec<&[u8]> = files.iter().map(|file| bytes_of(file)).collect();
        let (answers, end) = self.run(&asked, Key::Path, false).await;
        let is_good = is_good(&end);
        let judge = |name: &&[u8]| match answers.of(name) {
            Some(Ok(answer)) if answer.result.as_deref() == Some("ingest") && answer.with.is_none() => Ok(true),
            Some(Ok(answer)) => Err(self.unknown(answer, "ingest")),
            Some(Err(why)) => Err(self.bad(why)),
            // A line that cannot be read may have been the answer for this one.
            None if answers.unread > 0 => Err(self.unanswered(&end, &answers)),
            None if is_good => Ok(false),
            None => Err(self.unanswered(&end, &answers)),
        };
        let known: HashSet<&[u8]> = asked.iter().copied().collect();
        let more = answers.order.iter().filter(|name| !known.contains(name.as_slice()));
        let more = more.filter(|name| {
            let answer = answers.of(name);
            answer.is_some_and(|answer| answer.is_ok_and(|answer| answer.result.as_deref() == Some("ingest")))
        });
        LxAnswers {
            files: asked.iter().map(judge).collect(),
            more: more.cloned().map(path_of).collect(),
        }
    }

    /// Delivers these files; whether each is delivered, in their order.
    pub async fn send(&self, requests: &[SendRequest]) -> Vec<Result<(), ScriptError>> {
        let line = |request: &SendRequest| {
            lines::line(&[
                ("path", bytes_of(&request.path)),
                ("directory", &request.directory),
                ("name", &request.name),
            ])
        };
        let input: Vec<u8> = requests.iter().flat_map(line).collect();
        let (answers, end) = self.start(input, Key::Path, false).await;
        let asked = requests.iter().map(|request| bytes_of(&request.path));
        let done = asked.map(|path| {
            let answer = self.answer(path, &answers, &end)?;
            match (answer.result.as_deref(), &answer.with) {
                (Some("delivered"), None) => Ok(()),
                _ => Err(self.unknown(answer, "delivered")),
            }
        });
        done.collect()
    }

    /// Fetches files into the unit's queue: those that it names, and why it did not end well. `is_sleeping`: this host
    /// is not to fetch; the program is told and decides.
    pub async fn pull(&self, is_sleeping: bool) -> (Vec<PathBuf>, Option<ScriptError>) {
        let (answers, end) = self.start(Vec::new(), Key::Path, is_sleeping).await;
        let is_good = is_good(&end) && answers.unread == 0;
        let error = (!is_good).then(|| self.unanswered(&end, &answers));
        (answers.order.into_iter().map(path_of).collect(), error)
    }

    /// One answer for each of these, in their order, with its name.
    async fn ask(&self, asked: &[&[u8]], key: Key) -> Vec<Result<(Vec<u8>, Answer), ScriptError>> {
        let (answers, end) = self.run(asked, key, false).await;
        let each = asked.iter().map(|name| {
            let answer = self.answer(name, &answers, &end)?;
            Ok((name.to_vec(), answer.clone()))
        });
        each.collect()
    }

    fn answer<'a>(
        &self,
        name: &[u8],
        answers: &'a Answers,
        end: &Result<Ended, ScriptError>,
    ) -> Result<&'a Answer, ScriptError> {
        match answers.of(name) {
            Some(Ok(answer)) => Ok(answer),
            Some(Err(why)) => Err(self.bad(why)),
            None => Err(self.unanswered(end, answers)),
        }
    }

    async fn run(&self, asked: &[&[u8]], key: Key, is_sleeping: bool) -> (Answers, Result<Ended, ScriptError>) {
        let word = if key == Key::Path { "path" } else { "name" };
        let input = asked.iter().flat_map(|name| lines::line(&[(word, name)]));
        self.start(input.collect(), key, is_sleeping).await
    }

    /// Runs the program once. Nothing of it is left when this returns, or is dropped.
    async fn start(&self, files: Vec<u8>, key: Key, is_sleeping: bool) -> (Answers, Result<Ended, ScriptError>) {
        let mut input = self.options_line();
        input.extend(files);
        let mut log = said::Log::new(self.hook.name());
        match program::run(self.command(is_sleeping), &input, (self.limit, &self.end), &mut log).await {
            Ok(Ran { answers, end }) => {
                let answers = Answers::read(&answers, key);
                if answers.unread > 0 {
                    warn!("{}{}", self.shown(), answers.unread_text());
                }
                let said = log.last().to_owned();
                (answers, Ok(Ended { end, said }))
            }
            Err(error) => {
                let error = ScriptError {
                    fault: Fault::Own,
                    what: format!("cannot run {}: {error}", self.shown()),
                };
                (Answers::default(), Err(error))
            }
        }
    }

    /// `{"options":{…}}`, where the program asks for it.
    fn options_line(&self) -> Vec<u8> {
        if self.words.get(1).is_none_or(|word| word != OPTIONS_WORD) {
            return Vec::new();
        }
        let options = self.options.as_ref().map_or("{}", Secret::expose);
        format!("{{\"options\":{options}}}\n").into_bytes()
    }

    fn command(&self, is_sleeping: bool) -> Command {
        let (program, arguments) = self.words.split_first().map_or(("", &[][..]), |(p, a)| (p.as_str(), a));
        let mut command = Command::new(program);
        command.args(arguments).arg(self.hook.name()).current_dir(&self.queue);
        command.env_clear().env("PATH", PATH);
        let kept = ENVIRONMENT
            .iter()
            .filter_map(|name| Some((name, std::env::var_os(name)?)));
        command
            .envs(kept)
            .envs(self.variables.iter().map(|(name, value)| (name, value)));
        if self.hook == Hook::Pull {
            command.env("PX_SLEEPING", if is_sleeping { "1" } else { "0" });
        }
        command
    }

    /// `fx_script /path/program FILE.py`. Its other arguments may hold what is nobody's business.
    fn shown(&self) -> String {
        let program = self.words.first().map_or("", String::as_str);
        let file = file_run(&self.words).map_or(String::new(), |file| format!(" {file}"));
        format!("{} {program}{file}", self.hook.name())
    }

    fn bad(&self, what: impl std::fmt::Display) -> ScriptError {
        ScriptError {
            fault: Fault::Message,
            what: format!("{}: {what}", self.shown()),
        }
    }

    fn unknown(&self, answer: &Answer, accepted: &str) -> ScriptError {
        let result: String = answer
            .result
            .iter()
            .flat_map(|result| result.chars())
            .take(40)
            .collect();
        let with = if answer.with.is_some() { "a" } else { "no" };
        self.bad(format!(
            "its answer is {result:?} with {with} \"with\"; accepted: {accepted}"
        ))
    }

    fn unanswered(&self, end: &Result<Ended, ScriptError>, answers: &Answers) -> ScriptError {
        let Ended { end, said } = match end {
            Ok(ended) => ended,
            Err(error) => return error.clone(),
        };
        let (fault, what) = classify(*end, self.limit);
        let said = match (end, said.as_str()) {
            // What a program says that has ended well is not why it has no answer.
            (End::Code(0), _) | (_, "") => String::new(),
            (_, said) => format!("; it said: {said}"),
        };
        ScriptError {
            fault,
            what: format!("{} {what}{said}{}", self.shown(), answers.unread_text()),
        }
    }
}

/// How a run ended, and what the program said last.
struct Ended {
    end: End,
    said: String,
}

fn is_good(end: &Result<Ended, ScriptError>) -> bool {
    end.as_ref().is_ok_and(|ended| ended.end == End::Code(0))
}

/// How people know the program of these words: the name of the file that it runs, else its own.
pub fn short_name(words: &[String]) -> &str {
    let program = words.first().map_or("", |word| file_name(word));
    file_run(words).unwrap_or(program)
}

/// The name of the file that a program runs, as an interpreter does: its last word, where that is a path with a suffix.
fn file_run(words: &[String]) -> Option<&str> {
    let (_, arguments) = words.split_first()?;
    let path = arguments.last().filter(|word| word.starts_with('/'))?;
    Path::new(path).extension().map(|_| file_name(path))
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Whose fault it is that a file has no answer.
fn classify(end: End, limit: Duration) -> (Fault, String) {
    match end {
        End::Code(0) => (Fault::Message, "gave no answer".to_owned()),
        End::Code(TRY_LATER) => (Fault::Endpoint, format!("ended with {TRY_LATER}: it cannot now")),
        End::Code(code) if NOT_RUN.contains(&code) => {
            let why = "something that it needs is missing or may not be run";
            (Fault::Own, format!("ended with {code}: {why}"))
        }
        End::Code(code) => (Fault::Message, format!("ended with {code}")),
        End::Signal(signal) => (Fault::Endpoint, format!("was killed by signal {signal}")),
        End::TimedOut => (Fault::Endpoint, format!("did not end within {limit:?}")),
        End::Stopped => (Fault::Endpoint, "was ended, for its unit ends".to_owned()),
        End::TooMuch => (Fault::Message, "was ended, for its answers are without end".to_owned()),
    }
}

fn is_name(name: &[u8]) -> bool {
    let is_dots = matches!(name, b"." | b"..");
    !name.is_empty() && name.len() <= NAME_MAX && !is_dots && !name.contains(&b'/') && !name.contains(&0)
}

#[cfg(test)]
mod tests;
