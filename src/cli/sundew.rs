//! The old program names. `pxSender`, `pxReceiver`, `pxChecker` and `queue_manager` are links to `px`: they say what
//! the old programs say, with their exit codes, for the scripts and watchdogs of a site. `px` itself keeps its own
//! words.
//!
//! Kept on purpose: `status` is always 0 and `reload` always 2, and `restart` does not start what does not run. Not
//! kept: a start that fails is told, with 1, and what is not ready yet, with 0; where the configuration is bad,
//! `restart` ends nothing and is 1; `reload` works for root too.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use rustix::process::Signal;
use tracing::{Level, error, info};

use super::control::{self, Started};
use super::{LogLevel, REFUSED, USAGE, plain, reap, say};
use crate::config::{Places, Service, UnitDir, UnitName, service, units};
use crate::daemon::lock;
use crate::daemon::log::{self, Destination, Rendering};
use crate::daemon::sundew_lock::{self, Holder};

/// Refused, as Sundew says it.
const SUNDEW_REFUSED: u8 = 2;
/// Days for which old logs of pxChecker are kept.
const KEEP: usize = 5;

/// A name px was called by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// `pxSender`
    Sender,
    /// `pxReceiver`
    Receiver,
    /// `pxChecker`
    Checker,
    /// `queue_manager`, or `queue_manager.py`
    QueueManager,
}

/// What Sundew calls the units of one program.
struct Words {
    dir: UnitDir,
    /// At the beginning of a line.
    capital: &'static str,
    /// Elsewhere.
    word: &'static str,
    /// In usage errors.
    unit: &'static str,
}

const SENDERS: Words = Words {
    dir: UnitDir::Tx,
    capital: "Sender",
    word: "sender",
    unit: "client",
};
const RECEIVERS: Words = Words {
    dir: UnitDir::Rx,
    capital: "Receiver",
    word: "receiver",
    unit: "source",
};

impl Program {
    /// The program that the base name of argv\[0\] means; `None` for px.
    pub fn of(argv0: &OsStr) -> Option<Program> {
        match Path::new(argv0).file_name()?.to_str()? {
            "pxSender" => Some(Program::Sender),
            "pxReceiver" => Some(Program::Receiver),
            "pxChecker" => Some(Program::Checker),
            "queue_manager" | "queue_manager.py" => Some(Program::QueueManager),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Program::Sender => "pxSender",
            Program::Receiver => "pxReceiver",
            Program::Checker => "pxChecker",
            Program::QueueManager => "queue_manager",
        }
    }
}

/// Runs the program with what followed its name.
pub fn run(program: Program, arguments: Vec<OsString>, places: &Places) -> anyhow::Result<ExitCode> {
    let arguments: Vec<String> = arguments
        .iter()
        .map(|argument| argument.to_string_lossy().into_owned())
        .collect();
    let words = match program {
        Program::Sender => &SENDERS,
        Program::Receiver => &RECEIVERS,
        Program::Checker if arguments.is_empty() => return check(places),
        Program::QueueManager if arguments.is_empty() => return reap::old(places),
        Program::Checker | Program::QueueManager => {
            let name = program.name();
            eprint!("Usage: {name}\n\n{name}: error: Too many arguments\n");
            return Ok(ExitCode::from(USAGE));
        }
    };
    match parse(&arguments, words) {
        Ok(Wish::Help) => {
            say(format_args!("{}\n\n{}", usage(program), OPTIONS));
            Ok(ExitCode::SUCCESS)
        }
        Ok(Wish::Do { name, verb, level }) => match find(places, words, &name) {
            Some((unit, file)) => Doing {
                places,
                words,
                unit,
                file,
            }
            .act(verb, level),
            None => {
                let text = match program {
                    Program::Receiver => format!("Wrong source name: {name}"),
                    Program::Sender | Program::Checker | Program::QueueManager => "Wrong client name".to_owned(),
                };
                Ok(refuse(program, &text))
            }
        },
        Err(text) => Ok(refuse(program, &text)),
    }
}

fn usage(program: Program) -> String {
    format!("Usage: {} NAME (start|stop|status|restart|reload)", program.name())
}

const OPTIONS: &str = "Options:
  -h, --help            show this help message and exit
  -l LEVEL, --logLevel=LEVEL
                        the least important level that a started unit logs:
                        DEBUG, INFO, WARNING, ERROR or CRITICAL";

fn refuse(program: Program, text: &str) -> ExitCode {
    eprintln!("{}\n\n{}: error: {text}", usage(program), program.name());
    ExitCode::from(USAGE)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verb {
    Start,
    Stop,
    Status,
    Restart,
    Reload,
}

#[derive(Debug)]
enum Wish {
    Help,
    Do {
        name: String,
        verb: Verb,
        level: Option<LogLevel>,
    },
}

/// Options may stand anywhere. `Err`: what is wrong.
fn parse(arguments: &[String], words: &Words) -> Result<Wish, String> {
    let (mut level, mut plain) = (None, Vec::new());
    let mut arguments = arguments.iter().map(String::as_str);
    while let Some(argument) = arguments.next() {
        match argument {
            "--" => plain.extend(arguments.by_ref()),
            "-h" | "--help" => return Ok(Wish::Help),
            "-l" | "--logLevel" => {
                let value = arguments.next();
                let value = value.ok_or_else(|| format!("{argument} option requires an argument"))?;
                level = Some(level_of(value)?);
            }
            "-" => plain.push(argument),
            _ => match argument.strip_prefix("--logLevel=").or(argument.strip_prefix("-l")) {
                Some(value) => level = Some(level_of(value)?),
                None if argument.starts_with('-') => return Err(format!("no such option: {argument}")),
                None => plain.push(argument),
            },
        }
    }
    let unit = format!("{}{}", words.unit[..1].to_uppercase(), &words.unit[1..]);
    let (name, verb) = match plain[..] {
        [name, verb] => (name.to_owned(), verb),
        [] => return Err(format!("{unit} and command missing")),
        [_] => return Err(format!("{unit} or command missing")),
        _ => return Err("Too many arguments".to_owned()),
    };
    let verb = match verb {
        "start" => Verb::Start,
        "stop" => Verb::Stop,
        "status" => Verb::Status,
        "restart" => Verb::Restart,
        "reload" => Verb::Reload,
        _ => return Err("Wrong command name".to_owned()),
    };
    Ok(Wish::Do { name, verb, level })
}

/// Sundew's levels are more than ours.
fn level_of(text: &str) -> Result<LogLevel, String> {
    match text {
        "VERYVERYVERBOSE" | "VERYVERBOSE" => Ok(LogLevel::Trace),
        "DEBUG" => Ok(LogLevel::Debug),
        "INFO" => Ok(LogLevel::Info),
        "WARNING" => Ok(LogLevel::Warn),
        "ERROR" | "EXCEPTION" | "CRITICAL" => Ok(LogLevel::Error),
        _ => Err(format!("Wrong log level: {text}")),
    }
}

fn find(places: &Places, words: &Words, name: &str) -> Option<(UnitName, PathBuf)> {
    let (units, _) = units(places);
    units
        .into_iter()
        .find(|(unit, _)| unit.dir == words.dir && unit.name == name)
}

/// One command for one unit.
struct Doing<'a> {
    places: &'a Places,
    words: &'a Words,
    unit: UnitName,
    file: PathBuf,
}

/// Who works on the unit's queue.
enum Runs {
    Px(u32),
    Another(u32),
    Died(u32),
    Nobody,
}

impl Doing<'_> {
    fn act(&self, verb: Verb, level: Option<LogLevel>) -> anyhow::Result<ExitCode> {
        match service(self.places, &self.unit, &self.file) {
            Service::Served => {}
            // Whose it is changes nothing about what a script asks.
            _ if verb == Verb::Status => {}
            service @ (Service::LeftToSundew(_) | Service::NotServed) => {
                anyhow::bail!("{} is {service}: px neither starts nor stops it", self.unit)
            }
        }
        match verb {
            Verb::Status => self.status().map(|()| ExitCode::SUCCESS),
            Verb::Start => self.start(level),
            Verb::Stop => self.end(control::end).map(|_| ExitCode::SUCCESS),
            Verb::Restart => {
                if matches!(self.runs()?, Runs::Px(_)) && !control::may_restart(self.places, &self.unit, &self.file) {
                    Ok(ExitCode::from(REFUSED))
                } else if self.end(control::stop_one)? {
                    self.launch(level)
                } else {
                    Ok(ExitCode::SUCCESS)
                }
            }
            Verb::Reload => self.reload().map(|()| ExitCode::from(SUNDEW_REFUSED)),
        }
    }

    fn runs(&self) -> anyhow::Result<Runs> {
        if let Some(pid) = lock::holder(&self.places.lock_file(&self.unit))? {
            return Ok(Runs::Px(pid));
        }
        Ok(match sundew_lock::holder(self.places, &self.unit)? {
            Holder::Runs(pid) => Runs::Another(pid),
            Holder::Died(pid) => Runs::Died(pid),
            Holder::Nobody => Runs::Nobody,
        })
    }

    fn status(&self) -> anyhow::Result<()> {
        let (Words { capital, word, .. }, name) = (self.words, &self.unit.name);
        match self.runs()? {
            Runs::Px(pid) | Runs::Another(pid) => say(format_args!("{capital} {name} is running with PID {pid}")),
            Runs::Died(pid) => say(format_args!("** {word} {name} is locked (PID {pid}) but not running")),
            Runs::Nobody => say(format_args!("* {word} {name} is not running")),
        }
        Ok(())
    }

    fn start(&self, level: Option<LogLevel>) -> anyhow::Result<ExitCode> {
        match self.runs()? {
            Runs::Px(pid) | Runs::Another(pid) => {
                let (word, name) = (self.words.word, &self.unit.name);
                say(format_args!(
                    "WARNING: The {word} {name} is already started with PID {pid}, use stop or restart!"
                ));
                return Ok(ExitCode::from(SUNDEW_REFUSED));
            }
            Runs::Died(_) => self.unlink()?,
            Runs::Nobody => {}
        }
        self.launch(level)
    }

    fn launch(&self, level: Option<LogLevel>) -> anyhow::Result<ExitCode> {
        // Sundew's parent has gone before anything can fail; then only the log would tell.
        match control::start_one(self.places, &self.unit, level) {
            Ok(started) => {
                // It goes on trying, as a daemon of Sundew would; who types it should know.
                if let Started::NotYet(..) = started {
                    eprintln!("{}", plain(&format!("{} has been started {started}", self.unit)));
                }
                Ok(ExitCode::SUCCESS)
            }
            Err(error) => Err(error.context(format!("cannot start {}", self.unit))),
        }
    }

    /// Ends it by `end`; whether it ran, and says when not. What has died counts as having run: a watchdog's restart
    /// must start it.
    fn end(&self, end: fn(&Places, &UnitName) -> anyhow::Result<bool>) -> anyhow::Result<bool> {
        let (word, name) = (self.words.word, &self.unit.name);
        let runs = self.runs()?;
        if let Runs::Another(pid) = runs {
            anyhow::bail!("{} is run by process {pid}, which is not px's: end it there", self.unit);
        }
        if let Runs::Died(_) = runs {
            self.unlink()?;
        }
        let mut did_run = end(self.places, &self.unit)?;
        match runs {
            Runs::Died(_) => did_run = true,
            Runs::Nobody if !did_run => {
                say(format_args!(
                    "No lock on the {word} {name}. Are you sure it was started?"
                ));
            }
            _ => {}
        }
        Ok(did_run)
    }

    fn unlink(&self) -> anyhow::Result<()> {
        if sundew_lock::remove_dead(self.places, &self.unit)? {
            let (word, name) = (self.words.word, &self.unit.name);
            say(format_args!(
                "INFO: The {word} {name} was locked, but not running! The lock has been unlinked!"
            ));
        }
        Ok(())
    }

    fn reload(&self) -> anyhow::Result<()> {
        let (word, name) = (self.words.word, &self.unit.name);
        if let Runs::Px(_) = self.runs()? {
            if !control::may_reload(self.places, &self.unit, &self.file) {
                return Ok(());
            }
            if control::signal(self.places, &self.unit, Signal::HUP)?.is_some() {
                return Ok(());
            }
        }
        say(format_args!("No process to reload for {name} ({word} None)!"));
        Ok(())
    }
}

/// `px revive`, told in pxChecker's own log.
fn check(places: &Places) -> anyhow::Result<ExitCode> {
    let died = control::died(places, &units(places).0)?;
    if died.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    let to = Destination::File(places.log.join("pxChecker.log"), KEEP);
    if let Err(error) = log::start("pxChecker", &to, Rendering::Text, Level::INFO) {
        // Reviving matters more than telling.
        eprintln!("pxChecker: {error:#}");
    }
    let mut code = ExitCode::SUCCESS;
    for (unit, _) in died {
        let who = match unit.dir {
            UnitDir::Tx => format!("{} {}", SENDERS.capital, unit.name),
            UnitDir::Rx => format!("{} {}", RECEIVERS.capital, unit.name),
            UnitDir::Watch | UnitDir::Dispatch | UnitDir::Process => unit.to_string(),
        };
        info!("{who} has been restarted by pxChecker");
        if let Err(error) = control::start_one(places, &unit, None) {
            error!("cannot start {unit}: {error:#}");
            eprintln!("pxChecker: cannot start {unit}: {error:#}");
            code = ExitCode::from(REFUSED);
        }
    }
    Ok(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str, words: &Words) -> Result<(String, Verb, Option<&'static str>), String> {
        let arguments: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
        match parse(&arguments, words)? {
            Wish::Help => Err("help".into()),
            Wish::Do { name, verb, level } => Ok((name, verb, level.map(|level| tracing::Level::from(level).as_str()))),
        }
    }

    #[test]
    fn options_stand_anywhere() {
        for (text, want) in [
            ("dd start", ("dd", Verb::Start, None)),
            ("dd -l DEBUG start", ("dd", Verb::Start, Some("DEBUG"))),
            ("--logLevel WARNING dd stop", ("dd", Verb::Stop, Some("WARN"))),
            ("dd restart --logLevel=CRITICAL", ("dd", Verb::Restart, Some("ERROR"))),
            ("-lVERYVERBOSE dd status", ("dd", Verb::Status, Some("TRACE"))),
            ("-- dd reload", ("dd", Verb::Reload, None)),
        ] {
            let (name, verb, level) = parsed(text, &SENDERS).unwrap();
            assert_eq!((name.as_str(), verb, level), want, "{text}");
        }
    }

    #[test]
    fn usage_errors_have_sundews_words() {
        for (text, words, want) in [
            ("", &SENDERS, "Client and command missing"),
            ("dd", &SENDERS, "Client or command missing"),
            ("dd", &RECEIVERS, "Source or command missing"),
            ("dd start now", &SENDERS, "Too many arguments"),
            ("dd begin", &SENDERS, "Wrong command name"),
            ("dd start -l", &SENDERS, "-l option requires an argument"),
            ("dd start -l LOUD", &SENDERS, "Wrong log level: LOUD"),
            ("dd start --all", &SENDERS, "no such option: --all"),
            ("-h", &SENDERS, "help"),
        ] {
            assert_eq!(parsed(text, words).unwrap_err(), want, "{text}");
        }
    }

    #[test]
    fn the_base_name_chooses() {
        let of = |name: &str| Program::of(OsStr::new(name));
        assert_eq!(of("/usr/bin/pxSender"), Some(Program::Sender));
        assert_eq!(of("pxReceiver"), Some(Program::Receiver));
        assert_eq!(of("./pxChecker"), Some(Program::Checker));
        assert_eq!(of("/opt/queue_manager.py"), Some(Program::QueueManager));
        for name in ["px", "/usr/bin/px", "pxsender", ""] {
            assert_eq!(of(name), None, "{name}");
        }
    }
}
