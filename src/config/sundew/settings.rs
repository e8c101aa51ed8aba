//! What `px.toml` says of Sundew's own files: which of them stay with Sundew, what is inside a known script, and what
//! runs the others.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::config::{Errors, Places, Table, UnitDir, UnitName, file, is_there};

/// The script that delivers and leaves the URL of each product for an amqp sender.
pub(super) const SFTP_AMQP: &str = "sftp_amqp.py";

/// `[sundew]` and `[sftp_amqp.NAME]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::config) struct Settings {
    /// The program that runs Sundew's Python files for px.
    pub hook_host: Option<PathBuf>,
    /// Units that stay with Sundew though px could run them.
    keep: Vec<UnitName>,
    /// By the name of the sender.
    sftp_amqp: BTreeMap<String, UrlFiles>,
}

/// What one sender's `sftp_amqp.py` has inside: where it leaves URLs, and where they begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::config) struct UrlFiles {
    /// The amqp sender that announces.
    pub queue: String,
    /// The URL of the directory `root`.
    pub url: String,
    /// What delivered directories begin with, and URLs do not.
    pub root: Option<String>,
}

impl Settings {
    /// Reads both sections of `px.toml`; what is wrong with them is noted in the table.
    pub(in crate::config) fn read(table: &mut Table, places: &Places) -> Settings {
        let mut settings = table
            .within("sundew", |table| Some(sundew(table, places)))
            .unwrap_or_default();
        if let Some(mut scripts) = table.table("sftp_amqp") {
            for name in scripts.keys() {
                let inside = scripts.within(&name, read_url_files);
                match UnitName::new(UnitDir::Tx, &name) {
                    Err(_) => scripts.refuse(&name, "not a sender's name; accepted: the NAME of a tx/NAME.conf"),
                    Ok(unit) if !is_there(places, &unit) => {
                        scripts.warn(&name, &format!("there is no sender {unit}"));
                    }
                    Ok(_) => {}
                }
                settings.sftp_amqp.extend(inside.map(|inside| (name.clone(), inside)));
            }
            scripts.finish();
        }
        settings
    }

    /// Those of the site. What is wrong is told when the site is loaded, and no unit starts until it is right.
    pub(super) fn load(places: &Places) -> Settings {
        match file::load_if_there(&places.site_file(), &Errors::default()) {
            Some(mut table) => Settings::read(&mut table, places),
            None => Settings::default(),
        }
    }

    /// Whether the unit stays with Sundew.
    pub(super) fn keeps(&self, dir: UnitDir, name: &str) -> bool {
        self.keep.iter().any(|kept| kept.dir == dir && kept.name == name)
    }

    /// What the `sftp_amqp.py` of this sender has inside.
    pub(super) fn url_files(&self, sender: &str) -> Option<&UrlFiles> {
        self.sftp_amqp.get(sender)
    }
}

fn sundew(table: &mut Table, places: &Places) -> Settings {
    let absolute = |text: &str| match Path::new(text).is_absolute() {
        true => Ok(PathBuf::from(text)),
        false => Err(String::new()),
    };
    let flow = |text: &str| {
        let name: UnitName = text.parse()?;
        match name.dir {
            UnitDir::Tx | UnitDir::Rx => Ok(name),
            _ => Err("Sundew has no such units".to_string()),
        }
    };
    let hook_host = table.parsed("hook_host", absolute, "the absolute path of a program");
    let keep = table.parsed_list("keep", flow, "a list of tx/NAME and rx/NAME");
    let keep = keep.unwrap_or_default();
    for name in keep.iter().filter(|name| !is_there(places, name)) {
        table.warn("keep", &format!("there is no unit {name}"));
    }
    Settings {
        hook_host,
        keep,
        sftp_amqp: BTreeMap::new(),
    }
}

fn read_url_files(table: &mut Table) -> Option<UrlFiles> {
    const URL: &str = "the URL of a directory, such as \"http://dd1.weather.gc.ca/\", without user and password";
    const QUEUE: &str = "the NAME of the amqp sender tx/NAME that announces";
    let queue = table.parsed(
        "queue",
        |text| UnitName::new(UnitDir::Tx, text).map(|name| name.name),
        QUEUE,
    );
    let url = table.parsed("url", is_directory, URL);
    for (key, accepted) in [("queue", QUEUE), ("url", URL)] {
        if !table.has(key) {
            table.reject(key, accepted);
        }
    }
    let root = table.string("root");
    Some(UrlFiles {
        queue: queue?,
        url: url?,
        root,
    })
}

fn is_directory(text: &str) -> Result<String, String> {
    let url = url::Url::parse(text).map_err(|error| error.to_string())?;
    let is_plain = url.has_host() && url.username().is_empty() && url.password().is_none();
    match is_plain && text.ends_with('/') && !text.contains(['?', '#']) {
        true => Ok(text.to_string()),
        false => Err(String::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Settings, Vec<String>) {
        let root = tempfile::tempdir().unwrap();
        let places = Places::under(root.path());
        std::fs::create_dir_all(places.etc.join("tx")).unwrap();
        std::fs::write(places.etc.join("tx/dd.conf"), "").unwrap();
        std::fs::write(places.etc.join("tx/was.conf.off"), "").unwrap();
        std::fs::write(places.site_file(), text).unwrap();
        let errors = Errors::default();
        let mut table = Table::parse(Path::new("px.toml"), text, &errors);
        let settings = Settings::read(&mut table, &places);
        table.finish();
        assert_eq!(Settings::load(&places), settings);
        (settings, errors.take().iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_site_says_what_is_whose() {
        let (settings, errors) = read(
            "[sundew]\nhook_host = \"/h\"\nkeep = [\"tx/dd\", \"tx/was\"]\n[sftp_amqp.dd]\nqueue = \"q\"\n\
             url = \"http://h/x/\"\nroot = \"a/b\"\n",
        );
        assert_eq!(errors, [""; 0]);
        assert_eq!(settings.hook_host.as_deref(), Some(Path::new("/h")));
        assert!(settings.keeps(UnitDir::Tx, "was") && !settings.keeps(UnitDir::Rx, "dd"));
        let inside = settings.url_files("dd").unwrap();
        assert_eq!(
            (&*inside.queue, &*inside.url, inside.root.as_deref()),
            ("q", "http://h/x/", Some("a/b"))
        );
        assert_eq!(read(""), (Settings::default(), Vec::new()));
    }

    #[test]
    fn what_is_wrong_is_told_where_it_is() {
        for (text, told) in [
            (
                "[sundew]\nhook_host = \"h\"",
                "px.toml:2: sundew.hook_host = \"h\": accepted: the absolute path",
            ),
            (
                "[sundew]\nkeep = [\"watch/x\"]",
                "px.toml:2: sundew.keep = \"watch/x\": Sundew has no such units",
            ),
            (
                "[sundew]\nkeep = [\"dd\"]",
                "px.toml:2: sundew.keep = \"dd\": \"dd\" is no unit",
            ),
            (
                "[sundew]\nkeep = [\"tx/x\"]",
                "px.toml:2: sundew.keep = […]: warning: there is no unit tx/x",
            ),
            ("[sundew]\nkeeps = []", "px.toml:2: sundew.keeps"),
            (
                "[sftp_amqp.dd]\nqueue = \"q\"",
                "px.toml:1: sftp_amqp.dd.url: missing; accepted: the URL",
            ),
            (
                "[sftp_amqp.dd]\nurl = \"http://h/\"",
                "px.toml:1: sftp_amqp.dd.queue: missing; accepted: the NAME",
            ),
            (
                "[sftp_amqp.dd]\nqueue = \"../q\"\nurl = \"http://h/\"",
                "px.toml:2: sftp_amqp.dd.queue = \"../q\": \"../q\" is no unit name",
            ),
            (
                "[sftp_amqp.dd]\nqueue = \"q\"\nurl = \"http://h/x\"",
                "px.toml:3: sftp_amqp.dd.url = \"http://h/x\": accepted: the URL of a directory",
            ),
            (
                "[sftp_amqp.x]\nqueue = \"q\"\nurl = \"http://h/\"",
                "px.toml:1: sftp_amqp.x = {…}: warning: there is no sender tx/x",
            ),
        ] {
            let (_, errors) = read(text);
            assert!(errors.len() == 1 && errors[0].starts_with(told), "{text}: {errors:?}");
        }
    }
}
