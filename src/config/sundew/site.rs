//! What `px.conf` says of the whole site: places, how long products and logs are kept.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::keywords;
use super::lines::{self, Line};
use crate::config::{ConfigError, Errors, Places};

const DAY: Duration = Duration::from_secs(24 * 3600);
const DAYS: &str = "accepted: a whole number of days from 1 to 3650";
const DIRECTORY: &str = "accepted: an absolute path";

/// The directories that `px.conf` moves.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::config) struct Directories {
    pub etc: Option<PathBuf>,
    pub spool: Option<PathBuf>,
    pub log: Option<PathBuf>,
}

impl Directories {
    /// Of a `px.conf`; the last of each counts. What is wrong in it is for [`read`] to tell.
    pub(in crate::config) fn of(px_conf: &Path) -> Directories {
        let mut found = Directories::default();
        for line in lines::site(px_conf, &Errors::default()) {
            let path = Path::new(line.value());
            if let Some(place) = found.named(&line).filter(|_| path.is_absolute()) {
                *place = Some(path.to_path_buf());
            }
        }
        found
    }

    fn named(&mut self, line: &Line) -> Option<&mut Option<PathBuf>> {
        match line.keyword() {
            "etcdir" => Some(&mut self.etc),
            "spooldir" => Some(&mut self.spool),
            "logdir" => Some(&mut self.log),
            _ => None,
        }
    }
}

/// What `px.conf` sets for the site, as far as px has it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::config) struct PxConf {
    /// `daysToKeepInDB`.
    pub keep_db: Option<Duration>,
    /// `logrotate`, in days.
    pub log_keep: Option<u32>,
}

/// Reads the site's `px.conf`, and tells what is wrong in it and in the one that moved it.
pub(in crate::config) fn read(places: &Places, errors: &Errors) -> PxConf {
    let path = places.sundew_site_file();
    let lines = lines::site(&path, errors);
    let directories_from = places.first_px_conf();
    if *path == *directories_from {
        check_directories(&lines, errors);
    } else {
        check_directories(&lines::site(directories_from, errors), errors);
        for line in lines.iter().filter(|line| Directories::default().named(line).is_some()) {
            let first = directories_from.display();
            errors.push(line.warning(format!("no effect: the directories are those that {first} names")));
        }
    }
    let mut found = PxConf::default();
    for line in &lines {
        match line.keyword() {
            "daysToKeepInDB" => match line.value().parse().ok().filter(|days| (1..=3650).contains(days)) {
                Some(days) => found.keep_db = Some(DAY * days),
                None => errors.push(line.error(DAYS)),
            },
            keyword if !keywords::SITE_KEYS.contains(&keyword) && keywords::find(keyword).is_none() => {
                // What it is nobody knows, so it may be a password.
                let unknown = line.warning("no keyword of px.conf or of a flow: Sundew passes over it, and so does px");
                errors.push(ConfigError {
                    value: "***".to_string(),
                    ..unknown
                });
            }
            "logrotate" => found.log_keep = logrotate(line.value()).or(found.log_keep),
            _ => {}
        }
    }
    found
}

/// The days of a `logrotate`; `None` where Sundew ignores the line, for it is no number. Its 0 keeps every old log, and
/// so does what px counts at most.
pub(in crate::config) fn logrotate(value: &str) -> Option<u32> {
    const MOST: u32 = 3650;
    if value.is_empty() || !value.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let days = value.parse().unwrap_or(MOST).min(MOST);
    Some(if days == 0 { MOST } else { days })
}

fn check_directories(lines: &[Line], errors: &Errors) {
    for line in lines {
        let is_place = Directories::default().named(line).is_some();
        if is_place && !Path::new(line.value()).is_absolute() {
            errors.push(line.error(DIRECTORY));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = root.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        root
    }

    fn read_at(places: &Places, root: &Path) -> (PxConf, Vec<String>) {
        let errors = Errors::default();
        let found = read(places, &errors);
        let root = format!("{}/", root.display());
        let findings = errors.take();
        let findings = findings.iter().map(|finding| finding.to_string().replace(&root, ""));
        (found, findings.collect())
    }

    #[test]
    fn the_site_says_how_long_things_are_kept() {
        let table: [(&str, Option<u64>, Option<u32>, &str); 9] = [
            ("", None, None, ""),
            ("daysToKeepInDB 40\nlogrotate 7\n", Some(40), Some(7), ""),
            ("daysToKeepInDB 40\ndaysToKeepInDB 3 # days\n", Some(3), None, ""),
            ("#daysToKeepInDB 40\ndaysToKeepInDB\n", None, None, ""),
            ("logrotate 0\n", None, Some(3650), ""),
            ("logrotate 99999999999\n", None, Some(3650), ""),
            ("logrotate 7\nlogrotate ten\n", None, Some(7), ""),
            (
                "daysToKeepInDB 0",
                None,
                None,
                "etc/px.conf:1: daysToKeepInDB = \"0\": ",
            ),
            (
                "\ndaysToKeepInDB -1",
                None,
                None,
                "etc/px.conf:2: daysToKeepInDB = \"-1\": ",
            ),
        ];
        for (text, days, log_keep, refused) in table {
            let root = site(&[("etc/px.conf", text)]);
            let (found, findings) = read_at(&Places::under(root.path()), root.path());
            let keep_db = days.map(|days| Duration::from_secs(days * 86_400));
            assert_eq!(found, PxConf { keep_db, log_keep }, "{text}");
            match refused {
                "" => assert_eq!(findings, [] as [&str; 0], "{text}"),
                refused => assert_eq!(findings, [format!("{refused}{DAYS}")], "{text}"),
            }
        }
    }

    #[test]
    fn keywords_of_tools_and_flows_are_legal_and_others_are_passed_over_with_a_warning() {
        let text =
            "user px\nbackend h1 h2\nlang fra\naccept .*\nexchange_type topic\npull_sleep 3\nmasterKonfPath canary\n";
        let root = site(&[("etc/px.conf", text)]);
        let (_, findings) = read_at(&Places::under(root.path()), root.path());
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert!(
            findings[0].starts_with("etc/px.conf:7: masterKonfPath = ***: warning: no keyword"),
            "{findings:?}"
        );
    }

    #[test]
    fn a_place_that_is_no_absolute_path_is_refused_where_it_is_written() {
        let root = site(&[("etc/px.conf", "spooldir spool\nlogdir /l\nlogdir ./l\n")]);
        let places = Places::under(root.path()).moved_by_px_conf();
        assert_eq!((&*places.spool, &*places.log), (root.path(), Path::new("/l")));
        let expected = [
            format!("etc/px.conf:1: spooldir = \"spool\": {DIRECTORY}"),
            format!("etc/px.conf:3: logdir = \"./l\": {DIRECTORY}"),
        ];
        assert_eq!(read_at(&places, root.path()).1, expected);
    }

    #[test]
    fn the_first_px_conf_names_the_places_and_the_second_all_else() {
        let root = site(&[("new/px.conf", "spooldir /nowhere\ndaysToKeepInDB 3\n")]);
        let new = root.path().join("new");
        std::fs::create_dir(root.path().join("etc")).unwrap();
        let first = format!("etcdir {}\nspooldir /s\nlogdir l\ndaysToKeepInDB 9\n", new.display());
        std::fs::write(root.path().join("etc/px.conf"), first).unwrap();
        let places = Places::under(root.path()).moved_by_px_conf();
        assert_eq!((&places.etc, &*places.spool), (&new, Path::new("/s")));
        let (found, findings) = read_at(&places, root.path());
        assert_eq!(found.keep_db, Some(DAY * 3));
        let expected = [
            format!("etc/px.conf:3: logdir = \"l\": {DIRECTORY}"),
            "new/px.conf:1: spooldir = \"/nowhere\": warning: no effect: the directories are those that etc/px.conf \
             names"
                .to_string(),
        ];
        assert_eq!(findings, expected);
    }
}
