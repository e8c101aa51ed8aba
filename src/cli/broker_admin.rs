//! `px broker`: a broker itself, as an operator and the programs of its host see it.

use std::process::ExitCode;

use clap::Subcommand;

use super::broker_ping;
use crate::config::Places;

/// What to do with a broker.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Log in and open a channel, as a unit would, for keepalived and cron: exit code 0 where the broker answers
    Ping(broker_ping::Arguments),
}

/// Does what the command says.
pub fn run(places: &Places, command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Ping(arguments) => broker_ping::run(places, &arguments),
    }
}
