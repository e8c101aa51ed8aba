//! Everybody whom a receiver's products can be linked to, with the masks that tell what they want.
//!
//! They are all flows of `tx/`, `fx/` and `trx/`, whoever runs them. The masks of `px.conf` come before those of a
//! `.conf`; what none matches a sender or transceiver rejects and a filter accepts. A unit in TOML has its own list.
//!
//! Whoever's masks cannot be known is sent everything, for what a receiver has acked without a link is lost; its own
//! masks remove the rest once they can be read.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::keywords::{self, Kind};
use super::lines::{self, FlowDir, Line};
use super::{files, masks};
use crate::config::unit::is_native;
use crate::config::{ConfigError, Errors, Places, UnitDir, file, options, units};
use crate::message::{Masks, Pattern, Verdict};

/// What kind of flow a client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientKind {
    /// `tx/`: its queue is `txq/NAME`.
    Sender,
    /// `fx/`: its queue is `fxq/NAME`.
    Filter,
    /// `trx/`: its queue is `txq/NAME`.
    Transceiver,
}

/// Who may be sent products.
#[derive(Debug, Clone)]
pub struct Client {
    /// The flow's name.
    pub name: String,
    /// What kind of flow it is.
    pub kind: ClientKind,
    /// What it wants, with its fall-back as the last mask.
    pub masks: Masks,
}

/// All clients: senders, filters, transceivers, each by name. The findings beside them are errors where it cannot be
/// known who they are, and warnings where it cannot be known what one wants, or where Sundew, too, drops that line.
pub fn clients(places: &Places) -> (Vec<Client>, Vec<ConfigError>) {
    let errors = Errors::default();
    let mut clients: Vec<Client> = natives(places)
        .into_iter()
        .filter_map(|(name, path)| native(name, &path, &errors))
        .collect();
    // Where both are there, it is the one in TOML that counts.
    let converted: BTreeSet<String> = natives(places).into_iter().map(|(name, _)| name).collect();
    for dir in [FlowDir::Tx, FlowDir::Fx, FlowDir::Trx] {
        for (name, path) in files(places, dir, &errors) {
            if dir != FlowDir::Tx || !converted.contains(&name) {
                clients.push(flow(places, dir, name, &path, &errors));
            }
        }
    }
    clients.sort_by(|one, other| (one.kind as u8, &one.name).cmp(&(other.kind as u8, &other.name)));
    (clients, errors.take())
}

/// What is wrong in the masks of a flow that Sundew runs, as warnings.
pub(in crate::config) fn check(places: &Places, dir: FlowDir, path: &Path) -> Vec<ConfigError> {
    let errors = Errors::default();
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    read_masks(places, dir, &name, path, &errors);
    errors.take()
}

fn natives(places: &Places) -> Vec<(String, PathBuf)> {
    let (units, _) = units(places);
    let natives = units
        .into_iter()
        .filter(|(name, path)| name.dir == UnitDir::Tx && is_native(path));
    natives.map(|(unit, path)| (unit.name, path)).collect()
}

/// A fault because of which it is not known what a client wants.
fn everything(name: &str, fault: ConfigError) -> ConfigError {
    ConfigError {
        accepted: format!(
            "{}; until this is right, client {name} is sent every product",
            fault.accepted
        ),
        warning: true,
        ..fault
    }
}

/// A sender in TOML; `None` where it is none, for it announces what is in `db/`.
fn native(name: String, path: &Path, errors: &Errors) -> Option<Client> {
    let own = Errors::default();
    let masks = match file::load(path, &own) {
        Some(mut table) => {
            if table.string("type").as_deref() == Some("announce") {
                return None;
            }
            // The rest of it is for the component to read.
            options::masks(&mut table).filter(|_| !table.is_broken())
        }
        None => None,
    };
    let masks = masks.unwrap_or_else(|| {
        // It is not known what it wants: only now its faults are ours.
        for fault in own.take() {
            errors.push(everything(&name, fault));
        }
        Masks::default()
    });
    Some(Client {
        name,
        kind: ClientKind::Sender,
        masks,
    })
}

fn flow(places: &Places, dir: FlowDir, name: String, path: &Path, errors: &Errors) -> Client {
    Client {
        kind: match dir {
            FlowDir::Tx => ClientKind::Sender,
            FlowDir::Trx => ClientKind::Transceiver,
            FlowDir::Fx | FlowDir::Rx => ClientKind::Filter,
        },
        masks: read_masks(places, dir, &name, path, errors),
        name,
    }
}

/// The masks of a `.conf` in the order in which Sundew looks at them. A line that cannot be read is a warning; where it
/// might accept something, everything is accepted.
fn read_masks(places: &Places, dir: FlowDir, name: &str, path: &Path, errors: &Errors) -> Masks {
    let found = Errors::default();
    let lines = lines::flow(places, dir, path, &found);
    let is_client = dir != FlowDir::Rx;
    let mut is_known = true;
    for finding in found.take() {
        // Sundew goes on without what it cannot include.
        let is_lost = is_client && !finding.warning;
        is_known &= !is_lost;
        errors.push(match is_lost {
            true => everything(name, finding),
            false => ConfigError {
                warning: true,
                ..finding
            },
        });
    }
    if let Some(line) = lines.iter().find(|line| is_client && may_be_accept(line)) {
        is_known = false;
        errors.push(everything(name, line.warning("unknown keyword, perhaps a mask")));
    }
    let all = |keywords: [&'static str; 2]| lines.iter().filter(move |line| keywords.contains(&line.keyword()));
    let mut list: Vec<(Option<&Line>, Verdict, Pattern)> = all(["imask", "emask"])
        .chain(all(["accept", "reject"]))
        .map(|line| (Some(line), verdict(line), pattern(line)))
        .collect();
    if matches!(dir, FlowDir::Tx | FlowDir::Trx) {
        list.push((None, Verdict::Reject, Pattern::Regex(masks::REJECT_ALL.to_string())));
    }
    let compile = |list: &[(Option<&Line>, Verdict, Pattern)]| {
        Masks::new(list.iter().map(|(_, verdict, pattern)| (*verdict, pattern.clone())))
    };
    let masks = compile(&list).unwrap_or_else(|faults| {
        for fault in faults.iter().rev() {
            let (line, verdict, _) = list.remove(fault.index);
            let Some(line) = line else { continue };
            let dropped = line.warning(format!("{fault}; the line is dropped, as under Sundew"));
            let is_lost = is_client && verdict == Verdict::Accept;
            is_known &= !is_lost;
            errors.push(if is_lost { everything(name, dropped) } else { dropped });
        }
        // What is left has been compiled once already.
        compile(&list).unwrap_or_default()
    });
    if is_known { masks } else { Masks::default() }
}

/// Whether a keyword that nobody knows was meant to accept something.
fn may_be_accept(line: &Line) -> bool {
    let meant = || keywords::nearest(line.keyword(), Kind::Sender);
    keywords::find(line.keyword()).is_none() && matches!(meant(), Some("accept" | "imask" | "include"))
}

fn verdict(line: &Line) -> Verdict {
    match line.keyword() {
        "reject" | "emask" => Verdict::Reject,
        _ => Verdict::Accept,
    }
}

fn pattern(line: &Line) -> Pattern {
    let text = line.value().to_string();
    match line.keyword() {
        "imask" | "emask" => Pattern::Glob(text),
        _ => Pattern::Regex(text),
    }
}

#[cfg(test)]
mod tests;
