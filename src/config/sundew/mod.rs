//! Sundew's configuration, as far as px has to understand it: `px.conf`, `pxRouting.conf` and the `.conf` of flows.
//!
//! The `.conf` of a type that px serves is read into the very table that a TOML file gives, with the places of its own
//! lines, so that a component sees no difference and what is wrong is said of the line that has it.

mod broker;
mod clients;
mod convert;
mod deliverer;
mod keywords;
mod lines;
mod masks;
mod reading;
mod receiver;
mod routing;
mod script_options;
mod sender;
mod settings;
mod site;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use keywords::Kind;
use lines::FlowDir;
use reading::Reading;

pub use clients::{Client, ClientKind, clients};
pub use convert::{Conversion, broker_as_toml, convert, print};
pub use routing::{Route, RoutingTable};
pub(super) use settings::Settings;
pub(super) use site::{Directories, read as read_site};

use super::{Broker, ConfigError, Errors, Places, Service, Table, UnitDir, UnitName, file};

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
    if let Some(line) = lines::unknown_type(dir, &lines) {
        errors.push(no_type(dir, line));
        return None;
    }
    let kind = kind(dir, &lines)?;
    let (settings, scripts) = (Settings::load(places), places.etc.join("scripts"));
    let reading = Reading::new(kind, (path, &lines), (&settings, &scripts), errors);
    reading.check(&lone);
    Some(match kind {
        Kind::Sender => sender::read(reading),
        Kind::Deliverer => deliverer::read(reading, &name.name),
        Kind::Receiver | Kind::Dropped => receiver::read(reading),
    })
}

/// What px makes of the flow, by its `type`; `None` where that is not served.
fn kind(dir: FlowDir, lines: &[lines::Line]) -> Option<Kind> {
    match (dir, type_of(dir, lines)) {
        (FlowDir::Tx, "amqp") => Some(Kind::Sender),
        (FlowDir::Tx, "single-file" | "script") => Some(Kind::Deliverer),
        (FlowDir::Rx, "amqp") => Some(Kind::Receiver),
        (FlowDir::Rx, "single-file") => Some(Kind::Dropped),
        _ => None,
    }
}

fn type_of(dir: FlowDir, lines: &[lines::Line]) -> &str {
    lines::flow_type(lines).map_or(dir.default_type(), lines::Line::value)
}

/// That nobody has such a type: a mistyped one would be left to Sundew, which does not start it either.
fn no_type(dir: FlowDir, line: &lines::Line) -> ConfigError {
    let accepted = dir.types().join(", ");
    line.error(format!("neither px nor Sundew has such a type; accepted: {accepted}"))
}

/// The directory of a `.conf`, where one is a unit.
fn flow_dir(dir: UnitDir) -> Option<FlowDir> {
    match dir {
        UnitDir::Tx => Some(FlowDir::Tx),
        UnitDir::Rx => Some(FlowDir::Rx),
        UnitDir::Watch | UnitDir::Dispatch | UnitDir::Process => None,
    }
}

/// Who runs the unit in this `.conf`. One that the site keeps for Sundew, and one with a script that nothing runs for
/// px, is left to Sundew. One of a type that nobody has is px's, so that whoever loads it is told why.
pub(super) fn service(places: &Places, dir: UnitDir, path: &Path) -> Service {
    whose(places, dir, path).0
}

/// What in `px.toml` would make px run a unit that is left to Sundew; nothing where nothing would.
pub(super) fn way_out(places: &Places, dir: UnitDir, path: &Path) -> Option<String> {
    whose(places, dir, path).1
}

fn whose(places: &Places, unit_dir: UnitDir, path: &Path) -> (Service, Option<String>) {
    let Some(dir) = flow_dir(unit_dir) else {
        return (Service::NotServed, None);
    };
    if file::bytes(path).is_err() {
        return (Service::Served, None);
    }
    let lines = lines::flow(places, dir, path, &Errors::default());
    let named = type_of(dir, &lines);
    let left = |more: &str| match more {
        "" => Service::LeftToSundew(named.to_string()),
        more => Service::LeftToSundew(format!("{named} {more}")),
    };
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    let settings = Settings::load(places);
    if settings.keeps(unit_dir, &name) {
        return (left("in keep of px.toml"), None);
    }
    if lines::unknown_type(dir, &lines).is_some() {
        return (Service::Served, None);
    }
    let Some(kind) = kind(dir, &lines) else {
        return (left(""), None);
    };
    match hindrance(kind, (&lines, named), &settings, &name) {
        Some((more, "")) => (left(&more), None),
        Some((more, section)) => {
            let section = section.replace("NAME", &name);
            (left(&more), Some(format!("px runs it with {section} of px.toml")))
        }
        None => (Service::Served, None),
    }
}

/// What hinders px from running a flow of a type that it serves, in words behind that type; and what of `px.toml` would
/// change it.
fn hindrance(
    kind: Kind,
    (lines, named): (&[lines::Line], &str),
    settings: &Settings,
    name: &str,
) -> Option<(String, &'static str)> {
    let has_host = settings.hook_host.is_some();
    let is_hook = |line: &&lines::Line| {
        keywords::find(line.keyword()).is_some_and(|keyword| keyword.meaning(kind) == keywords::Meaning::Hook)
    };
    if let Some(hook) = lines.iter().find(is_hook) {
        let with = format!("with {}", hook.keyword());
        if !kind.has_hooks() {
            return Some((with, ""));
        }
        if !has_host {
            return Some((with, "hook_host in [sundew]"));
        }
    }
    let is_known = settings.url_files(name).is_some();
    (kind == Kind::Deliverer)
        .then(|| deliverer::hindrance(lines, named, has_host, is_known))
        .flatten()
}

/// Whether a receiver's files are put into its queue by others.
pub(super) fn is_single_file(places: &Places, path: &Path) -> bool {
    let lines = lines::flow(places, FlowDir::Rx, path, &Errors::default());
    kind(FlowDir::Rx, &lines) == Some(Kind::Dropped)
}

/// The receivers that a receiver feeds, whoever runs it.
pub(super) fn feeds(places: &Places, path: &Path) -> Vec<String> {
    let lines = lines::flow(places, FlowDir::Rx, path, &Errors::default());
    let feeds = lines.iter().filter(|line| line.keyword() == "feed");
    feeds.map(|line| line.value().to_string()).collect()
}

/// Who runs the flow in a file whose name is no unit's. px could not run it, but Sundew, whose flows may have any name,
/// goes on with its own.
pub(super) fn stray(places: &Places, path: &Path) -> Option<Service> {
    let name = flow_name(path.file_name()?)?;
    let parent = path.parent()?;
    let dir = [UnitDir::Tx, UnitDir::Rx]
        .into_iter()
        .find(|dir| parent == places.etc.join(dir.name()))?;
    // One with a good name is a stray because its unit has another file already.
    let is_named_badly = UnitName::new(dir, &name).is_err();
    let service = is_named_badly.then(|| service(places, dir, path))?;
    matches!(service, Service::LeftToSundew(_)).then_some(service)
}

/// What is wrong in the masks of a unit that is left to Sundew, as warnings: its products are routed by them.
pub(super) fn check_masks(places: &Places, dir: UnitDir, path: &Path) -> Vec<ConfigError> {
    flow_dir(dir).map_or_else(Vec::new, |dir| clients::check(places, dir, path))
}

/// Filters and transceivers, which are no units of px: their files, by name, who runs them, and what is wrong in them.
pub(super) fn others(places: &Places) -> (Vec<(PathBuf, Service)>, Vec<ConfigError>) {
    let errors = Errors::default();
    let mut others = Vec::new();
    for dir in [FlowDir::Fx, FlowDir::Trx] {
        for (_, path) in files(places, dir, &errors) {
            let lines = lines::flow(places, dir, &path, &Errors::default());
            let kind = lines::flow_type(&lines).map_or(dir.default_type(), |line| line.value());
            clients::check(places, dir, &path)
                .into_iter()
                .for_each(|error| errors.push(error));
            match lines::unknown_type(dir, &lines) {
                Some(line) => errors.push(no_type(dir, line)),
                None => others.push((path, Service::LeftToSundew(kind.to_string()))),
            }
        }
    }
    (others, errors.take())
}

/// The `.conf` files of a directory with their flows' names, by name. Dot names are nobody's business.
fn files(places: &Places, dir: FlowDir, errors: &Errors) -> Vec<(String, PathBuf)> {
    let path = places.etc.join(dir.name());
    let unlisted = |error: std::io::Error| {
        if error.kind() != std::io::ErrorKind::NotFound {
            errors.push(ConfigError {
                file: path.clone(),
                line: 0,
                key: String::new(),
                value: String::new(),
                accepted: format!("cannot list: {error}"),
                warning: false,
            });
        }
    };
    let entries = match std::fs::read_dir(&path) {
        Ok(entries) => entries,
        Err(error) => {
            unlisted(error);
            return Vec::new();
        }
    };
    let mut files = Vec::new();
    for entry in entries {
        match entry {
            Ok(entry) => files.extend(flow_name(&entry.file_name()).map(|name| (name, entry.path()))),
            Err(error) => unlisted(error),
        }
    }
    files.sort();
    files
}

fn flow_name(file_name: &OsStr) -> Option<String> {
    let stem = file_name.to_str()?.strip_suffix(".conf")?;
    (!stem.is_empty() && !stem.starts_with('.')).then(|| stem.to_string())
}

#[cfg(test)]
mod tests;
