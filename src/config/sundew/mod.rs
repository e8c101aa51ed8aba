//! Sundew's configuration, as far as px has to understand it: `px.conf`, `pxRouting.conf` and the `.conf` of flows.
//!
//! The `.conf` of a type that px serves is read into the very table that a TOML file gives, with the places of its own
//! lines, so that a component sees no difference and what is wrong is said of the line that has it.

mod broker;
mod convert;
mod keywords;
mod lines;
mod masks;
mod reading;
mod receiver;
mod sender;
mod site;

use std::path::{Path, PathBuf};

use keywords::Kind;
use lines::FlowDir;
use reading::Reading;

pub use convert::{Conversion, broker_as_toml, convert, print};
pub(super) use site::{Directories, read as read_site};

use super::{Broker, Errors, Places, Service, Table, UnitDir, UnitName, file};

/// A `.conf` in px's own words.
#[derive(Debug)]
pub struct Flow {
    /// The unit's table, to be read by its component.
    pub table: Table,
    /// Its broker, where its type has one; the table names it.
    pub broker: Option<Broker>,
}

/// Reads the `.conf` of a unit into what its TOML would say. `None` where it is of a type that px does not serve.
/// Everything that is wrong goes to `errors`, which are those of the table too.
pub fn read(places: &Places, name: &UnitName, path: &Path, errors: &Errors) -> Option<Flow> {
    let dir = flow_dir(name.dir)?;
    let (lines, lone) = lines::flow_and_lone(places, dir, path, errors);
    let kind = kind(dir, &lines)?;
    let reading = Reading::new(kind, path, &lines, errors);
    reading.check(&lone);
    Some(match kind {
        Kind::Sender => sender::read(reading),
        Kind::Receiver | Kind::Dropped => receiver::read(reading),
    })
}

/// What px makes of the flow, by its `type`; `None` where that is not served.
fn kind(dir: FlowDir, lines: &[lines::Line]) -> Option<Kind> {
    match (dir, lines::flow_type(lines)?.value()) {
        (FlowDir::Tx, "amqp") => Some(Kind::Sender),
        (FlowDir::Rx, "amqp") => Some(Kind::Receiver),
        (FlowDir::Rx, "single-file") => Some(Kind::Dropped),
        _ => None,
    }
}

/// The directory of a `.conf`, where one is a unit.
fn flow_dir(dir: UnitDir) -> Option<FlowDir> {
    match dir {
        UnitDir::Tx => Some(FlowDir::Tx),
        UnitDir::Rx => Some(FlowDir::Rx),
        UnitDir::Watch | UnitDir::Dispatch | UnitDir::Process => None,
    }
}

/// Who runs the unit in this `.conf`. A receiver with a script by which its files come or change is left to Sundew.
pub(super) fn service(places: &Places, dir: UnitDir, path: &Path) -> Service {
    let Some(dir) = flow_dir(dir) else {
        return Service::NotServed;
    };
    if file::bytes(path).is_err() {
        return Service::Served;
    }
    let lines = lines::flow(places, dir, path, &Errors::default());
    let named = lines::flow_type(&lines).map_or(dir.default_type(), |line| line.value());
    let Some(kind) = kind(dir, &lines) else {
        return Service::LeftToSundew(lines::printable(named));
    };
    let is_hook = |line: &&lines::Line| {
        keywords::find(line.keyword()).is_some_and(|keyword| keyword.meaning(kind) == keywords::Meaning::Hook)
    };
    match lines.iter().find(is_hook) {
        Some(hook) => Service::LeftToSundew(format!("{named} with {}", hook.keyword())),
        None => Service::Served,
    }
}

/// Filters and transceivers, which are no units of px: their files, by name, and who runs them.
pub(super) fn others(places: &Places) -> Vec<(PathBuf, Service)> {
    let mut others = Vec::new();
    for dir in [FlowDir::Fx, FlowDir::Trx] {
        for (_, path) in files(places, dir) {
            let lines = lines::flow(places, dir, &path, &Errors::default());
            let kind = lines::flow_type(&lines).map_or(dir.default_type(), |line| line.value());
            others.push((path, Service::LeftToSundew(lines::printable(kind))));
        }
    }
    others
}

/// The `.conf` files of a directory with their flows' names, by name. Dot names are nobody's business.
fn files(places: &Places, dir: FlowDir) -> Vec<(String, PathBuf)> {
    // A directory that cannot be listed is told where units are.
    let entries = std::fs::read_dir(places.etc.join(dir.name())).into_iter().flatten();
    let mut files: Vec<(String, PathBuf)> = entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let stem = name
                .strip_suffix(".conf")
                .filter(|stem| !stem.is_empty() && !stem.starts_with('.'))?;
            Some((stem.to_string(), entry.path()))
        })
        .collect();
    files.sort();
    files
}

#[cfg(test)]
mod tests;
