//! The queues that the units of this host consume. They are somebody's, also while their unit stands by or is stopped.

use super::unit::is_native;
use super::{ConfigError, Errors, Scheme, Site, Table, UnitDir, UnitName, file, units};

/// The queues of all units of `rx/` and `dispatch/`. A `.conf` has none to keep: its queue ends with its connection.
#[derive(Debug, Clone, Default)]
pub struct OwnQueues {
    queues: Vec<Own>,
}

#[derive(Debug, Clone)]
struct Own {
    unit: UnitName,
    queue: String,
    /// Where its broker has it; `None`: that is not known, so anywhere.
    vhosts: Option<Vec<String>>,
}

impl OwnQueues {
    /// Reads no more of a unit than its queue, so that what else is wrong with it costs it nothing. `Err`: files of
    /// which it cannot be known whether they name a queue.
    pub fn of(site: &Site) -> Result<OwnQueues, Vec<ConfigError>> {
        let errors = Errors::default();
        let consumes = [UnitDir::Rx, UnitDir::Dispatch];
        let (units, strays) = units(&site.places);
        for (path, why) in strays {
            // A file with a name that is no unit's cannot run.
            if consumes.iter().any(|dir| path == site.places.etc.join(dir.name())) {
                errors.push(ConfigError {
                    file: path,
                    line: 0,
                    key: String::new(),
                    value: String::new(),
                    accepted: why,
                    warning: false,
                });
            }
        }
        let mut queues = Vec::new();
        for (unit, path) in units {
            if !consumes.contains(&unit.dir) || !is_native(&path) {
                continue;
            }
            let Some(mut table) = file::load(&path, &errors) else {
                continue;
            };
            if !table.is_broken() {
                queues.extend(Own::read(&mut table, unit, site));
            }
            table.know_all();
            table.finish();
        }
        match errors.refused() {
            true => Err(errors.take()),
            false => Ok(OwnQueues { queues }),
        }
    }

    /// Whose queue this is. A broker may have several names in px.toml, so only the virtual host is compared.
    pub fn unit_of(&self, vhost: &str, queue: &str) -> Option<&UnitName> {
        let is_there = |own: &Own| {
            let vhosts = own.vhosts.as_ref();
            vhosts.is_none_or(|vhosts| vhosts.iter().any(|known| known == vhost))
        };
        let found = self.queues.iter().find(|own| own.queue == queue && is_there(own));
        found.map(|own| &own.unit)
    }
}

impl Own {
    fn read(table: &mut Table, unit: UnitName, site: &Site) -> Option<Own> {
        let consumes_nothing = table.string("type").is_some_and(|kind| kind == "single-file");
        if !table.has("queue") && !consumes_nothing {
            table.reject("queue", "a name");
        }
        let queue = table.string("queue")?;
        let broker = table.string("broker").and_then(|name| site.broker(&name));
        let vhosts = broker.map(|broker| {
            let urls = broker.urls.iter().filter(|url| url.scheme != Scheme::Embedded);
            urls.map(|url| url.vhost.clone()).collect()
        });
        Some(Own { unit, queue, vhosts })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Broker, BrokerUrl, Places};

    fn site(files: &[(&str, &str)]) -> (tempfile::TempDir, Site) {
        let root = tempfile::tempdir().unwrap();
        for (file, text) in files {
            let path = root.path().join("etc").join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let places = Places::under(root.path());
        let broker = |name: &str, url: &str| Broker::new(name, BrokerUrl::parse(url, &places).unwrap());
        let brokers = [
            broker("main", "amqp://h"),
            broker("local", "amqp://localhost"),
            broker("site", "amqp://h/site"),
            broker("file", "embedded:x"),
        ];
        let site = Site::of(&places, brokers);
        (root, site)
    }

    fn unit_of(own: &OwnQueues, vhost: &str, queue: &str) -> Option<String> {
        own.unit_of(vhost, queue).map(ToString::to_string)
    }

    #[test]
    fn every_unit_that_consumes_has_its_queue_whatever_else_is_wrong_with_it() {
        let (_root, site) = site(&[
            (
                "dispatch/a.toml",
                "broker = \"local\"\nqueue = \"qa\"\nbind = 3\nodd = [1]",
            ),
            ("rx/b.toml", "type = \"pull\"\nbroker = \"site\"\nqueue = \"qb\""),
            ("rx/c.toml", "type = \"pull\"\nbroker = \"nobody\"\nqueue = \"qc\""),
            ("rx/d.toml", "type = \"single-file\""),
            ("rx/e.toml", "type = \"amqp\"\nbroker = \"file\"\nqueue = \"qe\""),
            ("rx/f.toml.off", "queue = \"qf\""),
            ("rx/g.conf", "type amqp"),
            ("tx/h.toml", "queue = \"qh\""),
            ("tx/i.toml", "="),
        ]);
        let own = OwnQueues::of(&site).unwrap();
        for (vhost, queue, unit) in [
            ("/", "qa", Some("dispatch/a")),
            ("site", "qa", None),
            ("site", "qb", Some("rx/b")),
            ("/", "qb", None),
            ("any", "qc", Some("rx/c")),
            ("/", "qe", None),
            ("/", "qf", None),
            ("/", "qh", None),
            ("/", "", None),
            ("/", "q", None),
        ] {
            assert_eq!(unit_of(&own, vhost, queue).as_deref(), unit, "{queue} in {vhost}");
        }
    }

    #[test]
    fn a_file_that_may_name_any_queue_is_an_error() {
        for (text, why) in [
            ("broker = \"main\"\nqueue = \"q", "rx/a.toml:2: not TOML"),
            ("broker = \"main\"\nquue = \"q\"", "rx/a.toml:1: queue: missing"),
            ("broker = \"main\"\nqueue = 3", "rx/a.toml:2: queue = 3"),
        ] {
            let (_root, site) = site(&[("rx/a.toml", text)]);
            let errors = OwnQueues::of(&site).unwrap_err();
            assert_eq!(errors.len(), 1, "{errors:?}");
            assert!(errors[0].to_string().contains(why), "{errors:?}");
        }
        let (root, site) = site(&[("rx/a.toml/x", "")]);
        assert!(OwnQueues::of(&site).is_err());
        std::fs::remove_dir_all(root.path().join("etc")).unwrap();
        std::fs::create_dir(root.path().join("etc")).unwrap();
        std::fs::write(root.path().join("etc/dispatch"), "").unwrap();
        assert!(OwnQueues::of(&site).is_err());
    }
}
