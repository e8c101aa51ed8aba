//! Sundew's configuration, as far as px has to understand it: `px.conf`, `pxRouting.conf` and the `.conf` of flows.

use std::path::{Path, PathBuf};

use super::{Errors, Places, Service, UnitDir, file};

mod lines;
mod site;

pub(super) use site::{Directories, read as read_site};

use lines::FlowDir;

/// What px runs of `.conf` units.
const SERVED: [(FlowDir, &[&str]); 2] = [(FlowDir::Tx, &["amqp"]), (FlowDir::Rx, &["amqp", "single-file"])];

/// Hooks by which a receiver's files come or change. They are Sundew's to run, and so is a receiver that has one.
const HOOKS: [&str; 3] = ["fx_script", "lx_script", "pull_script"];

/// Who runs the unit in this `.conf` of `tx/` or `rx/`.
pub(super) fn service(places: &Places, dir: UnitDir, path: &Path) -> Service {
    if file::bytes(path).is_err() {
        return Service::Served;
    }
    let dir = match dir {
        UnitDir::Tx => FlowDir::Tx,
        _ => FlowDir::Rx,
    };
    let lines = lines::flow(places, dir, path, &Errors::default());
    let kind = lines::flow_type(&lines).map_or(dir.default_type(), |line| line.value());
    let is_served = SERVED
        .iter()
        .any(|(served, kinds)| *served == dir && kinds.contains(&kind));
    let hook = lines.iter().find(|line| HOOKS.contains(&line.keyword()));
    match hook.filter(|_| is_served && dir == FlowDir::Rx) {
        Some(hook) => Service::LeftToSundew(format!("{kind} with {}", hook.keyword())),
        None if is_served => Service::NotServed,
        None => Service::LeftToSundew(lines::printable(kind)),
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
