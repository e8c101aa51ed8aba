//! The site file: what all units of a site share. `px check` prints every error of every file at once.
//!
//! ```toml
//! [brokers.bunny]
//! urls     = ["amqps://feeder@bunny1-op", "amqps://feeder@bunny2-op"]
//! exchange = { name = "cmc", type = "topic" }
//!
//! [log]
//! keep = 30
//! ```
//!
//! Durations are written `250ms`, `30s`, `10m`, `24h` or `7d`; sizes `512B`, `50MB` (decimal) or `50MiB` (binary). An
//! unknown key is an error.
//!
//! # Brokers
//!
//! Each table `[brokers.NAME]` is one broker, or the nodes of one cluster. Units name it.
//!
//! | option | default | meaning |
//! | --- | --- | --- |
//! | `urls` | | failover candidates of one protocol, see below |
//! | `order` | `"random"` | in which order the candidates are tried; `"given"`: as written |
//! | `exchange` | none | for units that name none: a name, or `{ name, type = "topic", durable = true }` |
//! | `management` | none | `{ url, user }` of the management API, for the reaper and administration |
//! | `ca_file` | the system's | PEM file of the CA that signs the broker's certificate |
//! | `connect_timeout` | 10 s | for each candidate |
//! | `reply_timeout` | 30 s | for a confirm and for every other answer; then the connection counts as broken |
//!
//! | URL | broker |
//! | --- | --- |
//! | `amqp://USER@HOST:PORT/VHOST` | RabbitMQ, port 5672; without a path the virtual host is `/` |
//! | `amqps://USER@HOST:PORT/VHOST` | the same by TLS, port 5671 |
//! | `embedded:PATH` | px's own broker in one SQLite file, for one host; PATH is below the spool unless absolute |
//!
//! After `?` a URL takes `heartbeat` (seconds, 30), `frame_max` (bytes, 16384) and `connection_timeout` (milliseconds).
//! `${NAME}` in `urls`, in `management.url` and in secrets is a variable of the environment.
//!
//! # Log
//!
//! The table `[log]`:
//!
//! | option | default | meaning |
//! | --- | --- | --- |
//! | `keep` | 30 | days for which old logs are kept |
//! | `level` | `"info"` | the least important level that is written: error, warn, info, debug, trace |
//!
//! A product is one line, and its name is always field 7:
//!
//! ```text
//! 2026-11-21 21:03:37,617 [INFO] (498081 Bytes) Forwarded NAME  from urp-1 (lat=0.004210,ignored=1)
//! ```
//!
//! # Spool
//!
//! The table `[spool]`:
//!
//! | option | default | meaning |
//! | --- | --- | --- |
//! | `keep_db` | 30 days | how long `px clean` leaves products in `db/` |
//!
//! # Reaper
//!
//! The table `[reaper]` says which queues are abandoned, for `px reap`: those that have no consumer and hold more than
//! a limit. A queue is judged by what the broker's management API says of it.
//!
//! | option | default | meaning |
//! | --- | --- | --- |
//! | `broker` | | one with `management`; its user needs the tag `monitoring`, and `configure` in the virtual hosts |
//! | `max_messages` | 25000 | more messages than this are too many |
//! | `max_bytes` | `"50MB"` | more memory of the queue's process than this is too much, and so are more bytes of messages |
//! | `idle_for` | none | without a consumer for longer than this is abandoned, whatever it holds; see below |
//! | `grace` | 10 m | a quorum queue is deleted when two runs at least so far apart have seen it without consumers |
//! | `vhosts` | that of the first URL | a list of virtual hosts, or `"all"` |
//! | `rules` | none | other limits for some queues, see below |
//!
//! ```toml
//! [reaper]
//! broker = "bunny"
//! idle_for = "30d"
//! rules = [
//!     { queue = "^cmc\\.", keep = true },
//!     { queue = "^q_", max_messages = 100000, max_bytes = "1GB", idle_for = "7d" },
//! ]
//! ```
//!
//! | in a rule | meaning |
//! | --- | --- |
//! | `queue` | a regular expression that is found anywhere in the name of a queue, as in a policy of RabbitMQ |
//! | `keep` | `true`: such a queue is never deleted |
//! | `max_messages`, `max_bytes`, `idle_for` | the limits of such a queue; those that are left out are the table's |
//!
//! The first rule that matches decides. Memory is that of the queue's process: an empty classic queue takes some 10 to
//! 100 kB, so a small `max_bytes` deletes every queue that nobody consumes from.
//!
//! Never deleted are the `queue` of each unit of this host's `rx/` and `dispatch/`, also of one that stands by or is
//! stopped; queues that px made for itself (`x-px-role`); exclusive ones, which end with their connection; streams; and
//! queues of which the broker has no statistics. Where a unit's file does not tell its queue, as it cannot be read,
//! nothing at all is deleted, and that is said. A unit that is out of service (`NAME.toml.off`) and the units of other
//! hosts count for nothing: rules keep their queues.
//!
//! A classic queue is deleted on the condition that it has no consumer, which the broker itself checks. A quorum queue
//! cannot be deleted on that condition: after its `grace` it is looked at again immediately before, by AMQP at the
//! broker's URLs as the user of `management`, and the report says unguarded.
//!
//! What the runs have seen is in `state/reaper/sightings.json`: since when each queue has had no consumer. That is
//! forgotten when a run sees that it has one or is gone. The time between two runs counts as one without a consumer, so
//! run it often: each five minutes, from cron. It is counted by the clock that nobody sets: what passes around a boot
//! does not count, and a wrong date makes no queue older. Who only asks for messages (`basic.get`) is no consumer, and
//! a queue that is deleted and made again between two runs is taken for the same one: keep such queues by rules where
//! `idle_for` is set.
//!
//! All of `state/reaper` belongs to the user that runs `px reap`. At the system's own places root goes on as the user
//! that units run as, and makes it theirs.
//!
//! # Secrets
//!
//! Passwords stand by broker and user in `secrets.toml`, next to `px.toml`. It is refused where anybody but its owner
//! can read or write it: its mode is 0600.
//!
//! ```toml
//! [bunny]
//! feeder = "the password"
//! ```
//!
//! Where the environment has `CREDENTIALS_DIRECTORY`, as systemd provides it, a file named `bunny.feeder` in that
//! directory comes first. No password is ever printed. A password that is written in a URL itself is as secret as
//! `px.toml` is: `px check` warns where everybody can read that.
//!
//! # Places
//!
//! With `PX_ROOT=R` in the environment they are those in brackets.
//!
//! | place | holds |
//! | --- | --- |
//! | `/etc/px` (`R/etc`) | `px.toml`, `secrets.toml`, and the units in `watch/`, `dispatch/`, `rx/`, `tx/` |
//! | `/var/spool/px` (`R`) | `rxq`, `txq` and `db`, as Sundew has them; the file of an embedded broker |
//! | `/var/spool/px/state` (`R/state`) | of each unit `DIR_NAME/`: what failed, what is parked, what was seen |
//! | `/var/log/px` (`R/log`) | `DIR_NAME.log`, and `DIR_NAME.log.YYYY-MM-DD` of past days |
//! | `/run/px` (`R/run`) | `DIR_NAME.lock`, `DIR_NAME.status.json` |
//!
//! # A Sundew site
//!
//! Where `px.conf` stands beside it, `px.toml` may be missing. Of `px.conf` the site has `etcdir`, `spooldir` and
//! `logdir`, absolute paths, which move the places above (px's own state with the spool), `daysToKeepInDB`, for which
//! `keep_db` is another word, and `logrotate`, the same as `keep` of `[log]`. What `px.toml` says counts more. Every
//! other line of it is for the units that are `.conf` files themselves.
//!
//! The table `[sundew]`:
//!
//! | in it | default | meaning |
//! | --- | --- | --- |
//! | `keep` | none | `["tx/NAME"]`: `.conf` units that stay with Sundew though px could run them |
//! | `hook_host` | none | a program that runs Python files of Sundew; without it units with scripts stay with Sundew |
//!
//! A table `[sftp_amqp.NAME]` says what the `send_script sftp_amqp.py` of the sender `tx/NAME.conf` has inside; without
//! it the sender stays with Sundew:
//!
//! | in it | default | meaning |
//! | --- | --- | --- |
//! | `queue` | | the sender of `type amqp` that announces what was delivered: `txq/QUEUE` gets a file with each URL |
//! | `url` | | the URL of the directory `root` |
//! | `root` | `""` | what the delivered directories begin with; `""` is where the login begins |

use std::collections::BTreeMap;
use std::time::Duration;

use super::broker::{NAME, Surroundings, is_name};
use super::secrets::Secrets;
use super::url::{Variables, environment};
use super::{Broker, ConfigError, Errors, Places, Reaper, Secret, Table, file, options, sundew, unit};

/// Sundew's own default.
const KEEP_DB: Duration = Duration::from_secs(30 * 24 * 3600);

/// `[log]` of `px.toml`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// Days for which old logs are kept; default 30.
    pub keep: u32,
    /// The most detailed level that is written; default info.
    pub level: tracing::Level,
}

impl Default for Log {
    fn default() -> Self {
        Log {
            keep: 30,
            level: tracing::Level::INFO,
        }
    }
}

/// The site file, loaded. Prints no password.
#[derive(Debug, Clone)]
pub struct Site {
    /// The root it was loaded from.
    pub places: Places,
    /// How units log.
    pub log: Log,
    /// How long products stay in `db/`.
    pub keep_db: Duration,
    /// Which queues are abandoned, where the site says so.
    pub reaper: Option<Reaper>,
    brokers: BTreeMap<String, Broker>,
    /// Brokers that are written but could not be read; `None` where the whole file could not be.
    faulty: Option<Vec<String>>,
    secrets: Secrets,
}

impl Site {
    /// Loads `px.toml` and the secrets. Faults come back beside what could be read.
    pub fn load(places: &Places) -> (Site, Vec<ConfigError>) {
        Site::load_with(places, &environment)
    }

    /// Like [`Site::load`], with the environment as an argument.
    pub fn load_with(places: &Places, variables: &dyn Fn(&str) -> Option<String>) -> (Site, Vec<ConfigError>) {
        let errors = Errors::default();
        let mut site = Site::of(places, []);
        let px_conf = sundew::read_site(places, &errors);
        site.keep_db = px_conf.keep_db.unwrap_or(site.keep_db);
        site.log.keep = px_conf.log_keep.unwrap_or(site.log.keep);
        let path = places.site_file();
        // A Sundew site has none, and without units nothing is missing.
        let may_be_missing = places.sundew_site_file().exists() || !unit::has_native(places);
        let table = match may_be_missing {
            true => file::load_if_there(&path, &errors),
            false => file::load(&path, &errors),
        };
        match table {
            Some(mut table) => {
                site.read(&mut table, variables, &errors);
                table.finish();
            }
            // Unreadable: it may have had any broker.
            None if errors.refused() => site.faulty = None,
            None => {}
        }
        (site, errors.take())
    }

    /// A site without a file: for a broker that was given on a command line, and for tests.
    pub fn of(places: &Places, brokers: impl IntoIterator<Item = Broker>) -> Site {
        Site {
            places: places.clone(),
            log: Log::default(),
            keep_db: KEEP_DB,
            reaper: None,
            brokers: brokers
                .into_iter()
                .map(|broker| (broker.name.clone(), broker))
                .collect(),
            faulty: Some(Vec::new()),
            secrets: Secrets::default(),
        }
    }

    /// The same site with one more broker, the one that a unit brings.
    pub fn with(&self, broker: Option<Broker>) -> Site {
        let mut site = self.clone();
        site.brokers.extend(broker.map(|broker| (broker.name.clone(), broker)));
        site
    }

    /// A broker by name.
    pub fn broker(&self, name: &str) -> Option<&Broker> {
        self.brokers.get(name)
    }

    /// The password of a user of this broker, if there is one.
    pub(super) fn password(&self, broker: &str, user: &str) -> Result<Option<Secret>, String> {
        self.secrets.find(broker, user)
    }

    /// Whether the operator has been told already why passwords are missing.
    pub(super) fn secrets_are_refused(&self) -> bool {
        self.secrets.refused()
    }

    /// The names of all brokers that could be read.
    pub fn broker_names(&self) -> impl Iterator<Item = &str> {
        self.brokers.keys().map(String::as_str)
    }

    /// Whether the name may be that of a broker whose faults were told already.
    pub(super) fn has_faulty_broker(&self, name: &str) -> bool {
        self.faulty
            .as_ref()
            .is_none_or(|faulty| faulty.iter().any(|other| other == name))
    }

    fn read(&mut self, table: &mut Table, variables: Variables, errors: &Errors) {
        let mut faulty = Vec::new();
        // Loaded in any case: a file of passwords that others can read is an error by itself.
        let brokers = table.table("brokers");
        let is_table = brokers.is_some() || !table.has("brokers");
        let names = brokers.as_ref().map(Table::keys).unwrap_or_default();
        let secrets = Secrets::load(&self.places, (&names, !table.is_broken()), variables, errors);
        let spool = self.places.spool.clone();
        let around = Surroundings {
            spool: &spool,
            variables,
            secrets: &secrets,
            is_open: file::is_open(&self.places.site_file()),
        };
        if let Some(mut brokers) = brokers {
            for name in names {
                if !is_name(&name) {
                    brokers.refuse(&name, &format!("not a broker's name; accepted: {NAME}"));
                }
                match brokers.within(&name, |table| Broker::read(table, &name, &around)) {
                    Some(broker) => {
                        self.brokers.insert(name, broker);
                    }
                    None => faulty.push(name),
                }
            }
            brokers.finish();
        }
        // Where `brokers` is no table, or the file not even TOML, it may have had any broker.
        self.faulty = (!table.is_broken() && is_table).then_some(faulty);
        self.secrets = secrets;
        self.log = options::log(table, &self.log);
        // Read again where a unit's own file is read.
        sundew::Settings::read(table, &self.places);
        if let Some(keep) = table.within("spool", |table| options::positive_duration(table, "keep_db")) {
            self.keep_db = keep;
        }
        self.reaper = table.within("reaper", |table| Reaper::read(table, self));
    }
}

#[cfg(test)]
mod tests;
