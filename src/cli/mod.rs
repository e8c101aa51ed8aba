//! What an operator types. Exit codes: 0 done, 1 refused or failed, 2 usage, 3 not running.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};

use crate::config::{Places, Service, UnitName, find_among, find_unit, service, units};
use crate::daemon::log::Rendering;

mod broker;
mod broker_admin;
mod broker_apply;
mod broker_ping;
mod check;
mod clean;
mod control;
mod convert;
mod demo;
mod failed;
mod listen;
mod man;
mod post;
mod reap;
mod replay;
mod resend;
mod selection;
mod show;
mod sundew;

/// Refused or failed.
pub const REFUSED: u8 = 1;
/// Wrong arguments.
const USAGE: u8 = 2;
/// The unit is not running.
pub const NOT_RUNNING: u8 = 3;

/// An AMQP file-notification bridge: watch, announce, dispatch and pull files.
#[derive(Debug, Parser)]
#[command(name = "px", version, about, max_term_width = 100)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run one unit in the foreground; its log goes to standard error
    Run {
        /// DIR/NAME, or NAME where it is unique
        unit: String,
        /// Text columns or one JSON object a line
        #[arg(long, value_enum, default_value_t = LogForm::Text)]
        log: LogForm,
        /// The least important level that is written
        #[arg(long, value_enum)]
        level: Option<LogLevel>,
        /// Log to the unit's file under /var/log/px, as a started unit does
        #[arg(long)]
        log_file: bool,
        /// As `px start` runs it: log to the unit's file, say "ready" on standard output
        #[arg(long, hide = true)]
        detached: bool,
    },
    /// Start units in the background: those named, or all
    Start(Units),
    /// Stop units, also those whose files have gone; what they have in hand is finished first
    Stop(Units),
    /// Stop and start units; one that runs and whose configuration is bad goes on
    Restart(Units),
    /// Restart the units that run, one after the other, a second between them
    Graceful(Units),
    /// Make running units read their configuration anew; a bad one is refused and the old one kept
    Reload(Units),
    /// Start again what was started and has died (for cron, each minute)
    Revive(Units),
    /// Show what units are doing
    Status {
        #[command(flatten)]
        units: Units,
        /// One JSON document
        #[arg(long)]
        json: bool,
    },
    /// Check all configuration files and print every error of every file
    Check {
        /// One JSON document
        #[arg(long)]
        json: bool,
    },
    /// Show units of Sundew's .conf files as TOML, or turn them into it
    Convert(convert::Arguments),
    /// Remove empty hours from senders' queues and old days from the database (for cron, each hour)
    Clean(clean::Arguments),
    /// What could not be done and was kept
    #[command(subcommand)]
    Failed(failed::Command),
    /// Put products of the database into a client's queue once more
    Resend(resend::Arguments),
    /// Publish the messages of a spilled queue again
    Replay(replay::Arguments),
    /// Announce files by hand, as a watcher would
    Post(post::Arguments),
    /// Print what is announced, as it comes, on a queue of its own
    Listen(listen::Arguments),
    /// Look after a broker
    #[command(subcommand)]
    Broker(broker_admin::Command),
    /// Delete queues that nobody consumes from and that hold too much (for cron), as [reaper] of px.toml says
    Reap(reap::Arguments),
    /// Show the whole chain at work: producers, dispatcher, pull workers, in a temporary root
    Demo(demo::Arguments),
    /// Write the manual pages
    #[command(hide = true)]
    Man { directory: PathBuf },
}

#[derive(Debug, clap::Args)]
struct Units {
    /// DIR/NAME, or NAME where it is unique; all units when none is named
    #[arg(value_name = "UNIT")]
    names: Vec<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LogForm {
    Text,
    Json,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl From<LogLevel> for tracing::Level {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Error => tracing::Level::ERROR,
            LogLevel::Warn => tracing::Level::WARN,
            LogLevel::Info => tracing::Level::INFO,
            LogLevel::Debug => tracing::Level::DEBUG,
            LogLevel::Trace => tracing::Level::TRACE,
        }
    }
}

/// Parses the arguments, the name of the program first, and does what they say.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut arguments: Vec<OsString> = arguments.into_iter().collect();
    if let Some(program) = arguments.first().and_then(|name| sundew::Program::of(name)) {
        return ended(sundew::run(program, arguments.split_off(1), &Places::from_env()));
    }
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            // clap's text goes to the right stream; a closed stream changes nothing about the verdict.
            drop(error.print());
            return ExitCode::from(error.exit_code() as u8);
        }
    };
    ended(run(arguments.command, &Places::from_env()))
}

fn ended(ended: anyhow::Result<ExitCode>) -> ExitCode {
    match ended {
        Ok(code) => code,
        Err(error) => {
            eprintln!("px: {error:#}");
            ExitCode::from(REFUSED)
        }
    }
}

fn run(command: Command, places: &Places) -> anyhow::Result<ExitCode> {
    match command {
        Command::Run {
            unit,
            log,
            level,
            log_file,
            detached,
        } => {
            let (name, file) = one_unit(places, &unit)?;
            let options = crate::daemon::process::Options {
                detached,
                log_file: log_file || detached,
                rendering: match log {
                    LogForm::Text => Rendering::Text,
                    LogForm::Json => Rendering::Json,
                },
                level: level.map(tracing::Level::from),
            };
            crate::daemon::process::run(places, name, file, &options)
        }
        Command::Start(chosen) => control::start(places, &chosen.in_places(places)?),
        Command::Stop(chosen) => control::stop(places, &chosen.to_end(places)?, !chosen.names.is_empty()),
        Command::Restart(chosen) => control::restart(places, &chosen.in_places(places)?),
        Command::Graceful(chosen) => control::graceful(places, &chosen.in_places(places)?, !chosen.names.is_empty()),
        Command::Reload(chosen) => control::reload(places, &chosen.in_places(places)?, !chosen.names.is_empty()),
        Command::Revive(chosen) => control::revive(places, &chosen.in_places(places)?),
        Command::Status { units, json } => show::status(places, &units.to_show(places)?, json),
        Command::Check { json } => check::check(places, json),
        Command::Convert(arguments) => convert::run(places, &arguments),
        Command::Clean(arguments) => clean::run(places, &arguments),
        Command::Failed(command) => failed::run(places, command),
        Command::Resend(arguments) => resend::run(places, &arguments),
        Command::Replay(arguments) => replay::run(places, &arguments),
        Command::Post(arguments) => post::run(places, &arguments),
        Command::Listen(arguments) => listen::run(places, arguments),
        Command::Broker(command) => broker_admin::run(places, command),
        Command::Reap(arguments) => reap::run(places, &arguments),
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Man { directory } => man::man(&directory),
    }
}

fn one_unit(places: &Places, text: &str) -> anyhow::Result<(UnitName, PathBuf)> {
    find_unit(places, text).map_err(anyhow::Error::msg)
}

impl Units {
    /// Those that were named, or all that px runs. One that is left to Sundew is refused.
    fn in_places(&self, places: &Places) -> anyhow::Result<Vec<(UnitName, PathBuf)>> {
        Units::refuse_left(places, self.among(places, units(places).0)?)
    }

    /// Like [`Units::in_places`], with those that run although their files have gone.
    fn to_end(&self, places: &Places) -> anyhow::Result<Vec<(UnitName, PathBuf)>> {
        Units::refuse_left(places, self.to_show(places)?)
    }

    fn refuse_left(places: &Places, units: Vec<(UnitName, PathBuf)>) -> anyhow::Result<Vec<(UnitName, PathBuf)>> {
        for (name, file) in &units {
            if let service @ Service::LeftToSundew(_) = service(places, name, file) {
                anyhow::bail!("{name} is {service}: px neither starts nor stops it");
            }
        }
        Ok(units)
    }

    /// Like [`Units::to_end`], for a command that only looks: what was named may be left to Sundew.
    fn to_show(&self, places: &Places) -> anyhow::Result<Vec<(UnitName, PathBuf)>> {
        let mut all = units(places).0;
        all.extend(control::without_file(places)?);
        self.among(places, all)
    }

    fn among(&self, places: &Places, all: Vec<(UnitName, PathBuf)>) -> anyhow::Result<Vec<(UnitName, PathBuf)>> {
        if self.names.is_empty() {
            let is_served = |(name, file): &(UnitName, PathBuf)| service(places, name, file) == Service::Served;
            return Ok(all.into_iter().filter(is_served).collect());
        }
        let find = |name: &String| find_among(&all, places, name).map_err(anyhow::Error::msg);
        self.names.iter().map(find).collect()
    }
}

/// Prints a line. Where nobody reads any more, as behind `head`, the command goes on to its end all the same.
fn say(line: impl std::fmt::Display) {
    use std::io::Write as _;
    let mut out = std::io::stdout();
    // Nothing is lost: there is nobody to read it.
    drop(writeln!(out, "{line}").and_then(|()| out.flush()));
}

/// Without control characters: a terminal is no place for what a wire brought.
fn plain(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}
