//! Units: one file under `/etc/px` is one unit, one process, one log.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::Places;

/// The directory a unit's file is in. It says which component the unit is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)]
pub enum UnitDir {
    Watch,
    Tx,
    Rx,
    Dispatch,
    Process,
}

impl UnitDir {
    /// All of them.
    pub const ALL: [UnitDir; 5] = [
        UnitDir::Watch,
        UnitDir::Tx,
        UnitDir::Rx,
        UnitDir::Dispatch,
        UnitDir::Process,
    ];

    /// The directory's name.
    pub fn name(self) -> &'static str {
        match self {
            UnitDir::Watch => "watch",
            UnitDir::Tx => "tx",
            UnitDir::Rx => "rx",
            UnitDir::Dispatch => "dispatch",
            UnitDir::Process => "process",
        }
    }
}

/// A unit: `rx/pull_urp`. Safe as a file name and on a command line.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnitName {
    /// The component's directory.
    pub dir: UnitDir,
    /// The file's name without its extension.
    pub name: String,
}

impl UnitName {
    /// Checks the name: letters, digits, `.`, `_` and `-`, at most 100; neither a dot nor a dash first.
    pub fn new(dir: UnitDir, name: &str) -> Result<UnitName, String> {
        let legal = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        if name.is_empty() || name.len() > 100 || name.starts_with(['.', '-']) || !name.bytes().all(legal) {
            return Err(format!(
                "{name:?} is no unit name: at most 100 letters, digits, '.', '_' or '-', and neither '.' nor '-' first"
            ));
        }
        Ok(UnitName {
            dir,
            name: name.to_string(),
        })
    }

    /// `rx_pull_urp`: how logs, locks and state are named.
    pub fn on_disk(&self) -> String {
        format!("{}_{}", self.dir.name(), self.name)
    }

    /// The unit that [`UnitName::on_disk`] gives this name.
    pub fn from_on_disk(text: &str) -> Option<UnitName> {
        text.replacen('_', "/", 1).parse().ok()
    }
}

impl fmt::Display for UnitName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.dir.name(), self.name)
    }
}

/// `rx/pull_urp`; not `pull_urp`, which only [`find_unit`] understands.
impl FromStr for UnitName {
    type Err = String;

    fn from_str(text: &str) -> Result<UnitName, String> {
        let known = || UnitDir::ALL.map(UnitDir::name).join(", ");
        let (dir, name) = text
            .split_once('/')
            .ok_or_else(|| format!("{text:?} is no unit: DIRECTORY/NAME, the directory one of {}", known()))?;
        let dir = UnitDir::ALL
            .into_iter()
            .find(|known| known.name() == dir)
            .ok_or_else(|| format!("{text:?} is no unit: the directory is one of {}", known()))?;
        UnitName::new(dir, name)
    }
}

/// A file in a unit directory that is no unit: its path, and why.
pub type Stray = (PathBuf, String);

/// The units of a site with their files, by name: `*.toml`, and in `rx/` and `tx/` also `*.conf`. Other files and dot
/// names are nobody's business; files that want to be units but cannot are returned aside.
pub fn units(places: &Places) -> (Vec<(UnitName, PathBuf)>, Vec<Stray>) {
    let (mut units, mut strays) = (Vec::new(), Vec::new());
    for dir in UnitDir::ALL {
        let path = places.etc.join(dir.name());
        match std::fs::read_dir(&path) {
            Ok(entries) => {
                for entry in entries {
                    match entry {
                        Ok(entry) => match unit_of(dir, &entry.path()) {
                            Some(Ok(name)) => units.push((name, entry.path())),
                            Some(Err(why)) => strays.push((entry.path(), why)),
                            None => {}
                        },
                        Err(error) => strays.push((path.clone(), format!("cannot list: {error}"))),
                    }
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => strays.push((path, format!("cannot list: {error}"))),
        }
    }
    // The native form first, so that it is the converted one that is refused where both are there.
    units.sort_by_key(|(name, path)| (name.clone(), !is_native(path)));
    for pair in units.windows(2) {
        if pair[0].0 == pair[1].0 {
            let other = pair[0].1.display();
            strays.push((
                pair[1].1.clone(),
                format!("the unit {} is in {other} already", pair[1].0),
            ));
        }
    }
    units.dedup_by(|later, first| later.0 == first.0);
    strays.sort();
    (units, strays)
}

/// Whether there is such a unit, be it out of service.
pub fn is_there(places: &Places, name: &UnitName) -> bool {
    let directory = places.etc.join(name.dir.name());
    ["conf", "toml", "conf.off", "toml.off", "off"]
        .iter()
        .any(|extension| directory.join(format!("{}.{extension}", name.name)).exists())
}

/// Whether any unit's file is TOML.
pub(super) fn has_native(places: &Places) -> bool {
    let (units, strays) = units(places);
    let mut paths = units
        .iter()
        .map(|(_, path)| path)
        .chain(strays.iter().map(|(path, _)| path));
    paths.any(|path| is_native(path))
}

/// Whether a unit's file is TOML.
pub(super) fn is_native(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "toml")
}

fn unit_of(dir: UnitDir, path: &Path) -> Option<Result<UnitName, String>> {
    let extension = path.extension()?;
    let sundew = matches!(dir, UnitDir::Rx | UnitDir::Tx) && extension == "conf";
    if extension != "toml" && !sundew {
        return None;
    }
    let stem = path.file_stem()?.to_string_lossy();
    if stem.starts_with('.') {
        return None;
    }
    Some(UnitName::new(dir, &stem))
}

/// The unit an operator means: `rx/NAME`, or `NAME` where only one directory has it, or `rx-NAME`, since the name of a
/// systemd unit has no slash.
pub fn find_unit(places: &Places, text: &str) -> Result<(UnitName, PathBuf), String> {
    find_among(&units(places).0, places, text)
}

/// Like [`find_unit`], among these.
pub fn find_among(units: &[(UnitName, PathBuf)], places: &Places, text: &str) -> Result<(UnitName, PathBuf), String> {
    let meant: Vec<_> = if text.contains('/') {
        let name: UnitName = text.parse()?;
        units.iter().filter(|(unit, _)| *unit == name).collect()
    } else {
        let dashed = |unit: &UnitName| text.strip_prefix(unit.dir.name())?.strip_prefix('-');
        units
            .iter()
            .filter(|(unit, _)| unit.name == text || dashed(unit) == Some(unit.name.as_str()))
            .collect()
    };
    match meant[..] {
        [one] => Ok(one.clone()),
        [] => {
            let all: Vec<String> = units.iter().map(|(unit, _)| unit.to_string()).collect();
            let all = if all.is_empty() {
                "none".to_string()
            } else {
                all.join(", ")
            };
            Err(format!(
                "no unit {text:?} under {}; there are: {all}",
                places.etc.display()
            ))
        }
        _ => {
            let names: Vec<String> = meant.iter().map(|(unit, _)| unit.to_string()).collect();
            Err(format!("{text:?} may be {}: say which", names.join(" or ")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(files: &[&str]) -> (tempfile::TempDir, Places) {
        let root = tempfile::tempdir().unwrap();
        for file in files {
            let path = root.path().join("etc").join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        let places = Places::under(root.path());
        (root, places)
    }

    #[test]
    fn names_are_safe_file_names() {
        let unit: UnitName = "rx/pull_urp".parse().unwrap();
        assert_eq!(
            (unit.to_string(), unit.on_disk()),
            ("rx/pull_urp".into(), "rx_pull_urp".into())
        );
        assert_eq!(UnitName::from_on_disk("rx_pull_urp"), Some(unit));
        assert_eq!(
            (UnitName::from_on_disk("rx"), UnitName::from_on_disk("ab_c")),
            (None, None)
        );
        let long = format!("rx/{}", "x".repeat(101));
        for text in [
            "", "rx", "rx/", "rx/..", "rx/../x", "rx/.x", "rx/-x", "etc/x", "/x", "rx/a b", "rx/a\0", "rx/é", &long,
        ] {
            assert!(text.parse::<UnitName>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn units_are_listed_and_strays_are_told() {
        let (_root, places) = site(&[
            "px.toml",
            "rx/a.toml",
            "rx/b.conf",
            "rx/README",
            "rx/.c.toml",
            "rx/d.toml~",
            "rx/e e.toml",
            "watch/w.toml",
            "watch/x.conf",
            "tx/a.toml",
            "tx/a.conf",
        ]);
        let (units, strays) = units(&places);
        let names: Vec<String> = units.iter().map(|(name, _)| name.to_string()).collect();
        assert_eq!(names, ["watch/w", "tx/a", "rx/a", "rx/b"]);
        let strays: Vec<String> = strays
            .iter()
            .map(|(path, why)| format!("{}: {why}", path.display()))
            .collect();
        assert_eq!(strays.len(), 2, "{strays:?}");
        assert!(strays[0].contains("rx/e e.toml"), "{strays:?}");
        assert!(strays[1].contains("tx/a.conf: the unit tx/a is in"), "{strays:?}");
    }

    #[test]
    fn a_short_name_must_be_unique() {
        let (_root, places) = site(&["rx/a.toml", "tx/a.toml", "tx/b.toml"]);
        assert_eq!(find_unit(&places, "b").unwrap().0.to_string(), "tx/b");
        assert_eq!(find_unit(&places, "rx/a").unwrap().0.to_string(), "rx/a");
        assert!(find_unit(&places, "a").unwrap_err().contains("tx/a or rx/a"));
        assert!(
            find_unit(&places, "c")
                .unwrap_err()
                .contains("there are: tx/a, tx/b, rx/a")
        );
        assert!(find_unit(&places, "../a").is_err());
    }

    #[test]
    fn a_dash_stands_for_the_slash_that_systemd_cannot_have() {
        let (_root, places) = site(&["rx/pull-urp.toml", "rx/a.toml", "watch/rx-a.toml"]);
        assert_eq!(find_unit(&places, "rx-pull-urp").unwrap().0.to_string(), "rx/pull-urp");
        assert!(find_unit(&places, "rx-a").unwrap_err().contains("watch/rx-a or rx/a"));
        assert_eq!(find_unit(&places, "watch-rx-a").unwrap().0.to_string(), "watch/rx-a");
        assert!(find_unit(&places, "tx-a").is_err());
    }
}
