//! Everything that can be said of a site without knowing the components: `px check` begins here.

use std::fmt;
use std::path::Path;

use super::error::NOT_SERVED;
use super::unit::{UnitDir, is_native};
use super::{ConfigError, Places, Site, Table, UnitName, load_unit, units};

/// The findings of all files, by file and line.
#[derive(Debug, Clone, Default)]
pub struct Report(Vec<ConfigError>);

impl Report {
    /// Adds findings.
    pub fn add(&mut self, findings: impl IntoIterator<Item = ConfigError>) {
        self.0.extend(findings);
        self.0.sort();
        self.0.dedup();
    }

    /// Adds one finding about a whole file.
    pub fn add_file(&mut self, file: &Path, text: &str, warning: bool) {
        self.add([ConfigError {
            file: file.to_path_buf(),
            line: 0,
            key: String::new(),
            value: String::new(),
            accepted: text.to_string(),
            warning,
        }]);
    }

    /// Whether anything is wrong; warnings are not.
    pub fn refused(&self) -> bool {
        self.0.iter().any(|finding| !finding.warning)
    }

    /// All of them.
    pub fn findings(&self) -> &[ConfigError] {
        &self.0
    }
}

/// A line each.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|finding| writeln!(f, "{finding}"))
    }
}

/// Checks the site file, the secrets, the names and kinds of the unit files. What comes back beside the report are the
/// units that this version serves, for their components to read.
pub fn check(places: &Places) -> (Site, Vec<(UnitName, Table)>, Report) {
    let mut report = Report::default();
    let (site, errors) = Site::load(places);
    report.add(errors);
    let (units, strays) = units(places);
    for (path, why) in strays {
        report.add_file(&path, &why, false);
    }
    let mut served = Vec::new();
    for (name, path) in units {
        let is_served = is_served(&name, &path);
        if !is_served {
            report.add_file(&path, NOT_SERVED, true);
        }
        if is_native(&path) {
            match load_unit(&path) {
                Err(errors) => report.add(errors),
                Ok(table) if is_served => served.push((name, table)),
                Ok(table) => report.add(syntax_errors(table)),
            }
        }
    }
    (site, served, report)
}

/// Whether this version runs units of this kind: not `process/`, nor Sundew's `.conf`.
pub fn is_served(name: &UnitName, path: &Path) -> bool {
    is_native(path) && name.dir != UnitDir::Process
}

/// What is wrong with a table whose keys nobody here knows.
fn syntax_errors(mut table: Table) -> Vec<ConfigError> {
    table.know_all();
    table.read_whole(|_| Some(())).1
}

#[cfg(test)]
mod tests;
