//! `px broker`: a broker itself, as an operator and the programs of its host see it.

use std::process::ExitCode;

use clap::Subcommand;

use super::{broker_apply, broker_ping};
use crate::config::Places;

/// What to do with a broker.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a broker what broker.toml says: users, rights, exchanges, policies; what is so already is left
    Apply(broker_apply::Apply),
    /// Say what differs between a broker and broker.toml, a line each: exit code 1 where anything does, 0 where there are
    /// only lines "also there"
    Check(broker_apply::Check),
    /// Log in and open a channel, as a unit would, for keepalived and cron: exit code 0 where the broker answers
    Ping(broker_ping::Arguments),
}

/// Does what the command says.
pub fn run(places: &Places, command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Apply(arguments) => broker_apply::apply(places, &arguments),
        Command::Check(arguments) => broker_apply::check(places, &arguments),
        Command::Ping(arguments) => broker_ping::run(places, &arguments),
    }
}
