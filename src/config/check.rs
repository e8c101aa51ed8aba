//! Everything that can be said of a site without knowing the components: `px check` begins here.

use std::fmt;
use std::path::{Path, PathBuf};

use super::error::NOT_SERVED;
use super::unit::is_native;
use super::{
    Administration, ConfigError, Errors, Places, RoutingTable, Service, Site, Table, UnitName, clients, file,
    load_unit, service, sundew, units,
};

/// The findings of all files, by file and line; and notes, which nobody needs to do anything about.
#[derive(Debug, Clone, Default)]
pub struct Report {
    findings: Vec<ConfigError>,
    notes: Vec<(PathBuf, String)>,
}

impl Report {
    /// Adds findings.
    pub fn add(&mut self, findings: impl IntoIterator<Item = ConfigError>) {
        self.findings.extend(findings);
        self.findings.sort();
        self.findings.dedup();
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

    /// Notes what is as it should be, but not what one might expect.
    pub fn note(&mut self, file: &Path, text: &str) {
        self.notes.push((file.to_path_buf(), text.to_string()));
        self.notes.sort();
    }

    /// Whether anything is wrong; warnings are not.
    pub fn refused(&self) -> bool {
        self.findings.iter().any(|finding| !finding.warning)
    }

    /// All of them.
    pub fn findings(&self) -> &[ConfigError] {
        &self.findings
    }

    /// All notes, by file.
    pub fn notes(&self) -> &[(PathBuf, String)] {
        &self.notes
    }
}

/// A line each, without the notes.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.findings.iter().try_for_each(|finding| writeln!(f, "{finding}"))
    }
}

/// A unit that this version serves: its name, its table, and the site as it is for this unit.
pub type ServedUnit = (UnitName, Table, Site);

/// Checks the site file, the secrets, the names and kinds of the unit files. What comes back beside the report are the
/// units that this version serves, for their components to read.
pub fn check(places: &Places) -> (Vec<ServedUnit>, Report) {
    let mut report = Report::default();
    let (site, errors) = Site::load(places);
    report.add(errors);
    let (units, strays) = units(places);
    for (path, why) in strays {
        match sundew::stray(places, &path) {
            Some(service) => report.note(&path, &service.to_string()),
            None => report.add_file(&path, &why, false),
        }
    }
    let mut served = Vec::new();
    for (name, path) in units {
        match service(places, &name, &path) {
            Service::Served => match load_unit(&site, &name, &path) {
                Ok((table, site)) => served.push((name, table, site)),
                Err(errors) => report.add(errors),
            },
            service @ Service::LeftToSundew(_) => {
                let way_out = sundew::way_out(places, name.dir, &path);
                let way_out = way_out.map(|way_out| format!("; {way_out}")).unwrap_or_default();
                report.note(&path, &format!("{service}{way_out}"));
                report.add(sundew::check_masks(places, name.dir, &path));
            }
            Service::NotServed => {
                report.add_file(&path, NOT_SERVED, true);
                if is_native(&path) {
                    report.add(syntax_errors(&path));
                }
            }
        }
    }
    let (others, errors) = sundew::others(places);
    report.add(errors);
    for (path, service) in others {
        report.note(&path, &service.to_string());
    }
    let administration = places.administration_file();
    if administration.exists() {
        report.add(Administration::load(&site, &administration).1);
    }
    let routing = places.routing_table();
    if routing.exists() {
        // What is wrong with clients is told with their own files.
        match RoutingTable::load(&routing, &clients(places).0) {
            Ok((_, findings)) => report.add(findings),
            Err(error) => report.add([error]),
        }
    }
    (served, report)
}

/// What is wrong with a file whose keys nobody here knows.
fn syntax_errors(path: &Path) -> Vec<ConfigError> {
    let errors = Errors::default();
    if let Some(mut table) = file::load(path, &errors) {
        table.know_all();
        table.finish();
    }
    errors.take()
}

#[cfg(test)]
mod tests;
