//! The delivering sender: puts every file of its queue on a server, announces it there, and removes it from the queue.
//!
//! ## Options
//!
//! | option | default | meaning |
//! | --- | --- | --- |
//! | `type` | | `"deliver"` |
//! | `destination` | | `"file:"`, `"ftp://USER@HOST"`, `"sftp://USER@HOST"`, `"http://HOST/PATH/"`, `"https://HOST/PATH/"`; a port may follow the host |
//! | `password`, `password_file` | none | who px is there; a password never stands in `destination` |
//! | `key_file`, `agent` | none, `false` | sftp: a private key; `true`: ask the agent at `SSH_AUTH_SOCK` |
//! | `known_hosts` | see below | sftp: the file with the server's host key |
//! | `ca_file`, `certificate_file` | the system's, none | https, and ftp with `tls`: PEM files of CAs, of px's own certificate and key |
//! | `ftp_mode` | `"passive"` | `"active"`: the server connects back |
//! | `tls`, `ascii` | `false` | ftp: `AUTH TLS` before the login; ends of lines as the server likes them |
//! | `webdav` | `false` | http: `true`: `MKCOL`, and `MOVE` from a temporary name; else `PUT` onto the final one |
//! | `directory` | `""` | where products go; relative to the login or the URL, `"/…"` from the server's root; see below |
//! | `filename` | `"WHATFN"` | their names there; see below |
//! | `masks` | accept all | on the whole file name; first match wins; what they reject **is removed**; each that accepts may have its own `directory` and `filename` |
//! | `lock` | `".tmp"` | how nobody sees half a product: a suffix until it is whole; `"umask"`: no permissions, see below; `"none"`, the default of http without `webdav` |
//! | `chmod` | the server's | permissions of what is delivered: `"664"` |
//! | `mtime` | `false` | `true`: what is delivered gets the modification time of the file here, where the server sets it; not with http |
//! | `mkdir` | `true` | `false`: directories that are not there are not made; http makes some with `webdav` only |
//! | `sync` | `"power"` | file: `"crash"`: written and renamed, not synced |
//! | `bandwidth` | none | `"10MB"` a second, all connections together |
//! | `connections` | 1 | products that are on their way at once |
//! | `connect_timeout`, `read_timeout` | 10 s, 30 s | to connect and log in; of silence |
//! | `batch` | 100 | files between two looks at what is more urgent |
//! | `duplicates` | none | `{ entries = 125000, keep = "8h" }`: the same content is not delivered twice |
//! | `validation` | `false` | `true`: files whose names have no priority or no stamp **are removed** |
//! | `purge` | none | `[{ priority = [3], after = "5h" }]`: files that were received so long ago **are removed** |
//! | `min_age` | `"0s"` | younger files wait |
//! | `order` | `"priority"` | by the priority and stamp in the name, then by path; `"mtime"`: by modification time |
//! | `fx_script`, `destfn_script`, `send_script` | none | `["/path/program", "argument"]`: changes products, names them, delivers in place of `destination` |
//! | `script_timeout`, `script_options` | 5 min, none | for one run of a program; a table that programs may ask for |
//! | `announcements`, `url_files` | none | tables, see below: announce what has been delivered |
//! | `log` | the site's | `{ keep = 30, level = "info" }`: days for which old logs are kept, and what is written |
//!
//! ```toml
//! type        = "deliver"
//! destination = "ftp://wxofeed@wxo-b1.cmc.ec.gc.ca"
//! password_file = "/etc/px/wxofeed.password"
//! directory   = "data/${YYYYMMDD}"
//! masks       = [{ accept = '.*:RADAR:', directory = "radar" }, { accept = ".*" }]
//! ```
//!
//! ## The queue
//!
//! The queue of the unit `tx/NAME` is `txq/NAME`, and what is seen in it, in which order, is in px-sender(5). With
//! `connections = 1` products arrive in that order, save those that were in hand when the destination went away; with
//! more connections nearly so, and those of one name always.
//!
//! ## Directories and names
//!
//! `directory` may hold `${0}`, `${1}`… for the groups that the masks take from the name, `${T1}` `${T2}` `${A1}` `${A2}`
//! `${ii}` `${CCCC}` `${YY}` `${GG}` `${Gg}` `${BBB}` for parts of a bulletin's name, `${RYYYY}` `${RMM}` `${RDD}` `${RHH}`
//! `${RMN}` `${RSS}` for the reception stamp, and `${YYYYMMDD}` `${YYYY}` `${MM}` `${DD}` `${HH}` `${JJJ}` for the time of
//! now, UTC; `${YYYYMMDD-1D}` is yesterday. With `file:` it begins with `/`.
//!
//! `filename` is one keyword, or several with colons between: `WHATFN` (the name up to its first colon), `HEADFN` (its
//! first two parts between `_`), `NONE` (the name without its stamp), `NONESENDER`, `SENDER` (what follows `SENDER=`),
//! `DESTFN=NAME`, `TIME` and `SATNET=TEXT` (at the end), and `DESTFNSCRIPT=FILE`: the program `scripts/FILE` beside
//! `px.toml` is asked. `destfn_script` has the last word on every name. Programs are in docs/scripts.md; a file that
//! `fx_script` makes in place of another is best put under `txq/NAME` where no pass sees it, as in `txq/NAME/work`.
//!
//! `lock = "umask"` writes under the final name, without permissions until the product is whole; then it has those of
//! `chmod`, or where that is absent 644, and with `file:` what the umask of px leaves of 666. FTP servers need
//! `SITE UMASK` and `SITE CHMOD` for it, which vsftpd has; ProFTPD and pyftpdlib have no `SITE UMASK`, and the unit is
//! paused: use a suffix there.
//!
//! ## Host keys
//!
//! The server's host key must be in `known_hosts`, else in `~/.ssh/known_hosts` or `/etc/ssh/ssh_known_hosts`: nobody is
//! trusted at first sight.
//!
//! ## Order and failures
//!
//! A product is delivered, announced, then removed from the queue: a crash repeats at most what was in hand, and loses
//! nothing. With `[announcements]` or `[[url_files]]` a product that cannot be announced is not delivered.
//!
//! While the destination is away, files stay and the unit shows `paused: cannot deliver to …`; it is tried again after
//! 1 s, and further and further apart up to a minute. A directory that the server does not let px into holds up its own
//! products only. What this host cannot do, as with a full disk, pauses the unit in the same way. A product that the
//! server refuses is tried four times, 5 s, 1 min and 10 min apart; then, as what can never be delivered, it goes to
//! `txq/NAME/PROBLEM` under its own name, is told of as an error and counted as failed. To send
//! them again, correct the cause and move them to `txq/NAME/3/HOUR`, as in `txq/NAME/3/2026112117`; px failed does not
//! know them.
//!
//! ## Duplicates
//!
//! Duplicates are known by the md5 of the content, once the first was delivered. Files in `0` are retransmissions: they
//! are always delivered. The memory is lost when the unit ends or is reloaded; nothing leaves it until it is full, then
//! what is older than `keep`, then the older half.
//!
//! ## Figures and lines
//!
//! In `px status`, `queued_files` is how many files wait, counted every 10 s up to 20000, `connections` how many are open,
//! and `outbox` how many announcements wait for the broker. The log names the URL of what was delivered, or for a
//! `send_script` `script:FILE/DIRECTORY/NAME`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tracing::info;

use super::duplicates::{Duplicates, Memory};
use super::queued::{self, Passes};
use super::removal::Remover;
use super::{Unit, announcer, script};
use crate::config::{Broker, Site, Table};
use crate::message::Exchange;
use crate::spool::queue::{Queue, Queued};
use crate::transfer::deliver::Deliverer;

mod destination;
mod failures;
mod going;
mod hooks;
mod lanes;
mod place;
mod prepare;
mod ready;
mod refused;
mod scripted;
mod settle;
mod taker;

use announcer::Announcer;
use failures::Failures;
use hooks::Hooks;
use prepare::Rules;
use ready::{InHand, Leftovers, Names};
use settle::Settler;
use taker::{Out, ROOM, Taker};

/// For a script that delivers to end, and for what it has delivered to be settled, once the unit is abandoned.
const SCRIPT_GRACE: Duration = Duration::from_millis(1500);
/// Opened products that wait for a connection.
const WAITING: usize = 32;

/// A unit of `tx/` with `type = "deliver"`.
#[derive(Debug, Clone)]
pub struct Config {
    /// `None` where a script delivers.
    destination: Option<destination::Config>,
    rules: Rules,
    hooks: hooks::Config,
    announcer: Option<announcer::Config>,
}

impl Config {
    /// The broker that it announces on, if it does.
    pub fn broker(&self) -> Option<&Broker> {
        self.announcer.as_ref()?.broker()
    }

    /// The exchange that it announces on, if it does.
    pub fn exchange(&self) -> Option<&Exchange> {
        self.announcer.as_ref()?.exchange()
    }

    /// Its `type`, as Sundew names it.
    pub fn kind(&self) -> &'static str {
        match self.destination {
            Some(_) => "single-file",
            None => "script",
        }
    }

    /// Reads the table of the unit `tx/NAME`; what is wrong is noted in it.
    pub fn read(table: &mut Table, site: &Site, name: &str) -> Option<Config> {
        let hooks = hooks::Config::read(table);
        let has_script = table.has("send_script");
        let destination = match has_script {
            true => destination::refuse_all(table).then_some(None),
            false => destination::Config::read(table).map(Some),
        };
        let is_local = |destination: &destination::Config| destination.is_local();
        let is_local = destination.as_ref().and_then(Option::as_ref).is_some_and(is_local);
        let place = place::Config::read(table, is_local);
        let queued = queued::Options::read(table);
        let announcer = announcer::Config::read(table, site, name);
        if let (Some(hooks), Some(place)) = (&hooks, &place) {
            let has_all = hooks.check(table, &site.places.etc, place.scripts());
            if !place.check_roots(table) || !has_all {
                return None;
            }
        }
        let config = Config {
            destination: destination?,
            rules: Rules {
                place: place?,
                queued: queued?,
            },
            hooks: hooks?,
            announcer: announcer?,
        };
        if config.announcer.is_some() && table.boolean("ascii") == Some(true) {
            let why = "what is announced is the size and the digest of the product here, and the server changes both";
            table.refuse("ascii", why);
            return None;
        }
        Some(config)
    }
}

/// Runs the unit until it is told to stop.
pub async fn run(config: Config, unit: Unit) -> anyhow::Result<()> {
    info!("Initialisation of client {}", unit.name.name);
    let queue = queued::open(&unit, &config.rules.queued).await?;
    let announcer = match config.announcer.clone() {
        Some(config) => Some(Arc::new(Announcer::start(&unit, config).await?)),
        None => None,
    };
    let abandon = unit.abandon.clone();
    let counting = queued::count(unit.state.clone(), Arc::clone(&queue));
    let remover = Arc::new(Remover::new(&unit, Arc::clone(&queue)));
    let leftovers = Leftovers::default();
    let grace = match config.destination {
        Some(_) => Duration::ZERO,
        None => SCRIPT_GRACE,
    };
    let work = work(
        config,
        unit,
        (queue, Arc::clone(&remover), leftovers.clone()),
        announcer,
    );
    let abandoned = async {
        abandon.cancelled().await;
        tokio::time::sleep(grace).await;
    };
    let ended = tokio::select! {
        ended = work => ended,
        // What is in hand is let go of: it stays in the queue.
        () = abandoned => Ok(()),
        never = counting => match never {},
    };
    leftovers.sweep(&remover).await;
    ended
}

/// Delivers until the unit is told to stop, and finishes what is in hand then.
async fn work(
    config: Config,
    unit: Unit,
    (queue, remover, leftovers): (Arc<Queue>, Arc<Remover>, Leftovers),
    announcer: Option<Arc<Announcer>>,
) -> anyhow::Result<()> {
    let duplicates = config.rules.queued.duplicates;
    let memory = duplicates.map(|options| Arc::new(Mutex::new(Memory::new(options))));
    let to = match (&config.destination, &config.hooks.send) {
        (Some(destination), _) => destination.options.destination.to_string(),
        (None, words) => format!("script:{}", script::short_name(words.as_deref().unwrap_or_default())),
    };
    let failures = Arc::new(Failures::new(
        &unit,
        Arc::clone(&queue),
        Arc::clone(&remover),
        to.clone(),
    ));
    let (notes, done) = mpsc::unbounded_channel(); // bounded by the room of the taker
    let options = config
        .destination
        .as_ref()
        .map(|destination| destination.options.clone());
    let deliverer = options.map(Deliverer::new).transpose()?;
    let hooks = Hooks::new(&config.hooks, config.rules.place.scripts(), &unit);
    let (out, lanes) = start(&config, &unit, deliverer.as_ref(), &notes)?;
    drop(notes);
    let settler = Settler {
        unit: unit.clone(),
        remover: Arc::clone(&remover),
        leftovers: leftovers.clone(),
        failures: Arc::clone(&failures),
        memory: memory.clone(),
        deliverer,
        announcer: announcer.clone(),
        to,
    };
    unit.state.set_ready();
    let taker = Taker {
        passes: Passes::new(&unit, Arc::clone(&queue)),
        rules: Arc::new(config.rules),
        hooks,
        queue,
        remover,
        failures,
        duplicates: Duplicates::new(memory),
        in_hand: InHand::default(),
        leftovers,
        names: Names::default(),
        keeps_time: config.destination.is_some_and(|destination| destination.keeps_time),
        room: Arc::new(Semaphore::new(ROOM)),
        out,
        announcer: announcer.clone(),
        unit,
    };
    // Together with the connections, which end when the taker has, as what settles does after them.
    tokio::join!(taker.run(), settler.run(done), lanes.join_all());
    if let Some(announcer) = announcer {
        announcer.finish().await;
    }
    Ok(())
}

/// Starts what delivers: connections, or a script.
fn start(
    config: &Config,
    unit: &Unit,
    deliverer: Option<&Deliverer>,
    notes: &mpsc::UnboundedSender<settle::Note>,
) -> anyhow::Result<(Out, JoinSet<()>)> {
    let waiting = config.rules.queued.batch.min(WAITING);
    Ok(match (deliverer, config.hooks.sender(unit)) {
        (None, Some(script)) => {
            let (lists, taken) = mpsc::channel(1);
            (Out::Script(lists), lanes::start_script(unit, script, taken, notes))
        }
        (Some(deliverer), _) => {
            let (products, taken) = mpsc::channel(waiting);
            let server = config.destination.as_ref();
            let count = server.map_or(1, |destination| destination.connections);
            let is_local = server.is_some_and(destination::Config::is_local);
            let lanes = lanes::start(unit, deliverer, (count, is_local), taken, notes);
            (Out::Lanes(deliverer.clone(), products), lanes)
        }
        (None, None) => anyhow::bail!("neither a destination nor a script"),
    })
}

/// The path of a queued file.
fn path_of(queue: &Path, file: &Queued) -> PathBuf {
    queue.join(OsStr::from_bytes(file.path()))
}

/// A file of the queue by its whole path.
fn file_of(queue: &Queue, path: &Path) -> Option<Queued> {
    let below = path.strip_prefix(queue.path()).ok()?;
    Some(queue.file(below.as_os_str().as_bytes()))
}

#[cfg(test)]
mod tests;
