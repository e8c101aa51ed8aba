//! Who runs a unit, and its file as its component reads it.

use std::fmt;
use std::path::Path;

use super::error::NOT_SERVED;
use super::unit::is_native;
use super::{ConfigError, Errors, Places, Site, Table, UnitDir, UnitName, file, sundew};

/// Who runs a unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Service {
    /// px.
    Served,
    /// Sundew goes on with it, for it is of this type: px never starts, stops or cleans it.
    LeftToSundew(String),
    /// Nobody: what this version does not do.
    NotServed,
}

/// As it is told of a unit.
impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Service::Served => f.write_str("served"),
            Service::LeftToSundew(kind) => write!(f, "left to Sundew (type {kind})"),
            Service::NotServed => f.write_str(NOT_SERVED),
        }
    }
}

/// Who runs the unit in this file. One whose file cannot be read is px's, so that whoever loads it is told why.
pub fn service(places: &Places, name: &UnitName, path: &Path) -> Service {
    match (name.dir, is_native(path)) {
        (UnitDir::Process, true) => Service::NotServed,
        (_, true) => Service::Served,
        (dir, false) => sundew::service(places, dir, path),
    }
}

/// A unit's file as its component reads it, whatever it is written in, and the site as it is for this unit. Syntax
/// errors are in the table's findings; `Err` is for a file that cannot be read at all, and for a unit that px does not
/// run.
pub fn load_unit(site: &Site, name: &UnitName, path: &Path) -> Result<(Table, Site), Vec<ConfigError>> {
    let refusal = |why: String| ConfigError {
        file: path.to_path_buf(),
        line: 0,
        key: String::new(),
        value: String::new(),
        accepted: why,
        warning: false,
    };
    match service(&site.places, name, path) {
        Service::Served => {
            let errors = Errors::default();
            let read = match is_native(path) {
                true => file::load(path, &errors).map(|table| (table, site.clone())),
                false => {
                    sundew::read(&site.places, name, path, &errors).map(|flow| (flow.table, site.with(flow.broker)))
                }
            };
            read.ok_or_else(|| errors.take())
        }
        service @ Service::LeftToSundew(_) => Err(vec![refusal(format!("{service}: px does not run it"))]),
        Service::NotServed => Err(vec![refusal(NOT_SERVED.to_string())]),
    }
}
