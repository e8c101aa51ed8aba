//! The pull worker: fetches announced products by URL. Several workers on several hosts share one queue and take turns.
//!
//! | option | default | meaning |
//! | --- | --- | --- |
//! | `type` | | `"pull"` |
//! | `broker` | | a broker of `px.toml` |
//! | `exchange` | the broker's | where the announcements come in |
//! | `queue` | | the shared queue, durable unless `durable = false`; `auto_delete`, `expires` |
//! | `queue_type` | `"classic"` | `"quorum"`: kept on several nodes of a cluster; one that is there keeps its type |
//! | `bind` | | patterns, or `{ exchange, key }`; `[]` where somebody else binds the queue |
//! | `prefetch` | 1 | announcements in hand per worker |
//! | `workers` | 1 | fetches at once in this process |
//! | `directory` | none: ingested | where products go; `${YYYYMMDD}` and its kin are the announcement's time, UTC |
//! | `mirror` | `false` | `true`: keep the announced directories below `directory` |
//! | `masks` | accept all | on the announced path |
//! | `alternates` | none | `{ bind = […], keep = "10m" }`: other sources, tried when the first fails |
//! | `schemes` | http, https | what may be fetched: also `ftp`, `sftp`, and `file`, which needs `file_roots` too |
//! | `hosts` | any | hosts that may be fetched from, `host` or `host:port` |
//! | `file_roots` | none | directories beneath which `file:` URLs may lie |
//! | `credentials` | none | `[[credentials]]`: who px is on servers, see below |
//! | `ca_file` | the system's | PEM file of the CAs of https servers, and of ftp with TLS |
//! | `connect_timeout`, `read_timeout` | 10 s, 30 s | to connect; of silence (a large file may take hours) |
//! | `max_size` | 64 GiB | larger products are refused |
//! | `give_up_after` | 12 h | how long an unwell server is waited for |
//! | `adopt_after` | 10 min | a fetch that takes longer is taken over from the broker |
//! | `extension`, `route`, `routing_table`, `feeds` | | without `directory`: as of a receiver, see px-receiver(5) |
//! | `sync` | `"power"` | `"crash"`: written and renamed, not synced |
//! | `format`, `digest` | | what a message is whose key and content type do not tell; what a v00 digest is of |
//! | `log` | the site's | `{ keep = 30, level = "info" }`: days for which old logs are kept, and what is written |
//!
//! ```toml
//! type   = "pull"
//! broker = "bunny"
//! queue  = "cmc.pull_urp"
//! bind   = ["v00.urp.notify.#"]
//! directory = "/data/radar/${YYYYMMDD}"
//! alternates = { bind = ["v00.urp.input.#"] }
//! ```
//!
//! A product is written under a temporary name, its size and digest checked, synced, renamed, its directory synced,
//! then the announcement is acked. A file is never replaced by an older announcement. Bytes that are not those
//! announced are fetched once more; then they go to quarantine and the alternates are tried.
//!
//! A fetch by HTTP that breaks off goes on where it was (`Range`, `If-Range`) if the server tells versions apart, one by
//! FTP or SFTP if the file is still the same.
//!
//! `[[credentials]]` is for the URLs that begin with its `url`: scheme, host and whole directories; the longest prefix
//! wins, and nothing follows a redirect. Who px is: `user` with `password` or `password_file`; by https (and ftp with
//! `tls`) also or instead a `certificate_file` (PEM, with its key); by sftp also or instead a `key_file`, which the
//! password opens, or `agent = true`. `known_hosts` is a file of sftp host keys, by default those of the user and of the
//! host. For ftp there are `tls = true` and `ftp_mode = "active"`; without credentials px is `anonymous` there. The path
//! of an ftp URL begins where the login does (`%2F` at its beginning: the root), that of an sftp URL at the root (`~/`:
//! where the login begins).
//!
//! Without `directory` a product goes through `rxq/NAME` into the database and into the queues of its clients, as
//! px-receiver(5) tells, under the last part of the announced path. Of an announcement that is delivered again, the
//! product that it became then is not linked a second time. The masks are on announced paths here too: with
//! `route = "table"` the routing key is the product's name.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;

use super::alternates::{self, Alternates};
use super::consume::{self, Handle, Input, Intake, Step};
use super::product::Product;
use super::{ATTEMPTS_GONE, Cause, Outcome, Unit, chain, ingest, since, vip};
use crate::config::options::{self, Inputs};
use crate::config::{Broker, Site, Table};
use crate::message::{Announcement, DecodeOptions, Decoded, Exchange, Fault, Masks, decode};
use crate::metrics::Count;
use crate::spool::atomic::{Draft, Placed};
use crate::spool::quarantine::{Quarantine, Room};
use crate::spool::{SpoolError, off_thread};
use crate::transfer::{self, Facts, Fetched, Fetcher, Kind, Mismatch, TransferError, Wanted};

mod fetching;
mod place;

use place::{Place, Stored, Target};

const ADOPT_AFTER: Duration = Duration::from_secs(600);
/// Since its announcement, which v00 tells in whole seconds.
const FRESH: Duration = Duration::from_secs(2);
/// For the second of two redundant announcements.
const ALTERNATES_WITHIN: Duration = Duration::from_millis(500);
const GIVE_UP_AFTER: Duration = Duration::from_secs(12 * 3600);

/// A unit of `rx/` with `type = "pull"`.
#[derive(Debug, Clone)]
pub struct Config {
    inputs: Inputs,
    prefetch: u16,
    workers: usize,
    target: place::Config,
    masks: Masks,
    alternates: Option<alternates::Config>,
    fetching: transfer::Options,
    adopt_after: Duration,
    give_up_after: Duration,
    decoding: DecodeOptions,
}

impl Config {
    /// The broker it works on.
    pub fn broker(&self) -> &Broker {
        &self.inputs.broker
    }

    /// The exchanges that it declares there.
    pub fn exchanges(&self) -> Vec<&Exchange> {
        let alternates = self.alternates.iter();
        let alternates = alternates.flat_map(|alternates| alternates.exchanges(&self.inputs.exchange));
        self.inputs.topology.exchanges.iter().chain(alternates).collect()
    }

    /// Reads the table of the unit `rx/NAME`; what is wrong is noted in it.
    pub fn read(table: &mut Table, site: &Site, name: &str) -> Option<Config> {
        let inputs = options::inputs(table, site);
        let prefetch = table.integer("prefetch", 1..=10_000).unwrap_or(1);
        let workers = table.integer("workers", 1..=1000).unwrap_or(1);
        let target = place::Config::read(table, site, name, workers * usize::from(prefetch));
        let masks = options::masks(table);
        let has_alternates = table.has("alternates");
        let alternates = table.within("alternates", alternates::Config::read);
        let fetching = fetching::read(table);
        let adopt_after = options::positive_duration(table, "adopt_after");
        let give_up_after = options::positive_duration(table, "give_up_after");
        let decoding = super::read_decoding(table);
        if has_alternates && alternates.is_none() {
            return None;
        }
        Some(Config {
            inputs: inputs?,
            prefetch,
            workers,
            target: target?,
            masks: masks?,
            alternates,
            fetching: fetching?,
            adopt_after: adopt_after.unwrap_or(ADOPT_AFTER),
            give_up_after: give_up_after.unwrap_or(GIVE_UP_AFTER),
            decoding,
        })
    }
}

/// Runs the unit until it is told to stop.
pub async fn run(config: Config, unit: Unit) -> anyhow::Result<()> {
    let Some(target) = Target::open(&unit, &config.target).await? else {
        return Ok(());
    };
    let alternates = config.alternates.clone().map(|alternates| {
        let broker = config.inputs.broker.clone();
        Alternates::follow(
            &unit,
            broker,
            &config.inputs.exchange,
            &config.inputs.queue.name,
            alternates,
        )
    });
    let intake = Intake {
        broker: config.inputs.broker.clone(),
        topology: config.inputs.topology.clone(),
        queue: config.inputs.queue.clone(),
        prefetch: config.prefetch,
        channels: config.workers,
        adopt_after: config.adopt_after,
        give_up_after: config.give_up_after,
    };
    let quarantine = unit.places.unit_state(&unit.name).join("quarantine");
    let worker = Worker {
        unit: unit.clone(),
        fetcher: Fetcher::new(config.fetching.clone())?,
        target,
        quarantine: Quarantine::new(&quarantine, Room::default()),
        alternates,
        config,
    };
    let handler = Arc::new(Puller(Arc::new(worker)));
    consume::run(&unit, intake, handler, None, vip::gate(&unit, None)).await
}

struct Puller(Arc<Worker>);

#[async_trait]
impl Handle for Puller {
    type Note = ();

    async fn begin(&self, input: &Arc<Input>) -> (Step, ()) {
        let (worker, input) = (Arc::clone(&self.0), Arc::clone(input));
        let work = async move { worker.pull(&input).await };
        (Step::Later(Box::pin(work)), ())
    }

    async fn outputs_safe(&self, _: &Input, (): &()) -> Result<(), Cause> {
        Ok(())
    }

    fn undone(&self, _: &Input, (): &()) {}
}

struct Worker {
    unit: Unit,
    config: Config,
    fetcher: Fetcher,
    target: Target,
    quarantine: Quarantine,
    alternates: Option<Arc<Alternates>>,
}

impl Worker {
    /// From the announcement to the file, or to why not.
    async fn pull(&self, input: &Input) -> Outcome {
        let announcement = match decode(&input.envelope, &self.config.decoding) {
            Ok(Decoded::Product(announcement)) => announcement,
            Ok(Decoded::NotForFetching(reason)) => return self.skip(reason.to_string()),
            Err(error) => return Outcome::Fail(Cause::rubbish(chain(&error))),
        };
        if !self.config.masks.accepts(&announcement.path.0) {
            return self.skip("rejected by a mask".into());
        }
        // A clock that runs ahead at the source must not pin a file here for ever.
        let time = announcement
            .time_or(&input.envelope, input.first_seen)
            .min(Timestamp::now());
        let place = match self.target.place(&announcement, time, input.redelivered).await {
            Ok(place) => place,
            Err(error) => return Outcome::Park(spool_cause(&error)),
        };
        // Held until it is settled or handed back: tells the syncer whether more is coming.
        let _in_flight = self.target.enter();
        let announcement = Arc::new(announcement);
        let (mut candidate, mut others) = (Arc::clone(&announcement), None);
        let mut worst: Option<Cause> = None;
        loop {
            match self.try_source(&candidate, &place).await {
                Ok(stored) => {
                    let is_alternate = others.is_some();
                    return self.done(&announcement, &candidate, place.time, stored, is_alternate);
                }
                Err(cause) if cause.fault == Fault::Own => return Outcome::Park(cause),
                Err(cause) => worst = Some(worse(worst, cause)),
            }
            if others.is_none() {
                others = Some(self.others(&announcement, place.time).await.into_iter());
            }
            match others.as_mut().and_then(Iterator::next) {
                Some(other) => candidate = other,
                None => break,
            }
        }
        Outcome::Park(worst.unwrap_or_else(|| Cause::new(Fault::Endpoint, "no source was tried")))
    }

    /// The other sources of a product. Those of a fresh one may be announced just now: they are waited for a moment.
    /// Of an older one they are not, so that the products of a dead source cannot hold up the queue.
    async fn others(&self, announcement: &Announcement, time: Timestamp) -> Vec<Arc<Announcement>> {
        let Some(alternates) = &self.alternates else {
            return Vec::new();
        };
        let age = Timestamp::now().duration_since(time).unsigned_abs();
        let patience = if age < FRESH { ALTERNATES_WITHIN } else { Duration::ZERO };
        alternates.soon_of(announcement, patience).await
    }

    fn skip(&self, reason: String) -> Outcome {
        self.unit.metrics.count(Count::Skipped);
        Outcome::Skip(reason)
    }

    fn done(
        &self,
        announcement: &Announcement,
        from: &Announcement,
        time: Timestamp,
        stored: Stored,
        is_alternate: bool,
    ) -> Outcome {
        let superseded = |why: &str| {
            self.unit.metrics.count(Count::Superseded);
            Outcome::Skip(format!("superseded: {why}"))
        };
        let (bytes, taken) = match stored {
            Stored::Superseded => return superseded("the source has a newer version"),
            Stored::Placed(Placed::KeptNewer, _) => return superseded("a newer file is here"),
            Stored::Placed(Placed::New | Placed::Replaced, bytes) => (bytes, None),
            Stored::Ingested(taken, bytes) => (bytes, Some(taken)),
        };
        if taken.as_ref().is_some_and(|taken| taken.known.is_some()) {
            return self.skip("delivered again; it was ingested before".into());
        }
        let metrics = &self.unit.metrics;
        metrics.count(Count::Fetched);
        metrics.add(Count::FetchedBytes, bytes);
        if is_alternate {
            metrics.count(Count::FromAlternates);
        }
        let took = since(time);
        metrics.latency(took);
        Product::Handled {
            verb: "Fetched",
            name: &String::from_utf8_lossy(announcement.path.file_name()),
            bytes,
            from: &from.source(),
            latency: took,
            ignored: None,
        }
        .log();
        if let Some(taken) = taken {
            ingest::tell_taken(&self.unit, &taken);
        }
        Outcome::Done(Vec::new())
    }

    /// Fetches from one source: twice when the bytes are wrong.
    async fn try_source(&self, candidate: &Announcement, place: &Place) -> Result<Stored, Cause> {
        if place.has_newer().await.map_err(|error| spool_cause(&error))? {
            return Ok(Stored::Placed(Placed::KeptNewer, 0));
        }
        let first = match self.fetch(candidate, place).await? {
            Fetched::AsAnnounced(draft, facts) => return self.store(draft, place, &facts).await,
            Fetched::Differs(_, facts, _) => facts,
        };
        let (draft, facts, mismatch) = match self.fetch(candidate, place).await? {
            Fetched::AsAnnounced(draft, facts) => return self.store(draft, place, &facts).await,
            Fetched::Differs(draft, facts, mismatch) => (draft, facts, mismatch),
        };
        if transfer::is_superseded(&first, &facts, place.time) {
            return Ok(Stored::Superseded);
        }
        Err(self.set_aside(candidate, draft, &facts, &mismatch).await)
    }

    async fn fetch(&self, candidate: &Announcement, place: &Place) -> Result<Fetched<Draft>, Cause> {
        let wanted = Wanted {
            url: candidate.fetch_url(),
            size: candidate.size,
            identity: candidate.identity.clone(),
        };
        let fetched = self.fetcher.fetch(&wanted, place.draft()).await;
        fetched.map_err(|error| transfer_cause(&error))
    }

    async fn store(&self, draft: Draft, place: &Place, facts: &Facts) -> Result<Stored, Cause> {
        let stored = self.target.store(draft, place, facts.size).await;
        stored.map_err(|error| spool_cause(&error))
    }

    async fn set_aside(&self, candidate: &Announcement, draft: Draft, facts: &Facts, mismatch: &Mismatch) -> Cause {
        let what = format!("wrong bytes from {}: {mismatch}", candidate.fetch_url());
        let (quarantine, path, note) = (
            self.quarantine.clone(),
            candidate.path.clone(),
            format!("{what}\n{facts:?}\n"),
        );
        match off_thread(move || quarantine.keep(draft, &path, &note)).await {
            Ok(kept) => {
                self.unit.metrics.count(Count::Quarantined);
                Cause::new(Fault::Message, format!("{what}; kept as {}", kept.display()))
            }
            Err(error) if error.fault == Fault::Own => spool_cause(&error),
            Err(_) => Cause::new(Fault::Message, what),
        }
    }
}

/// An endpoint that may recover outweighs a message that will not.
fn worse(worst: Option<Cause>, cause: Cause) -> Cause {
    match worst {
        Some(worst) if worst.fault == Fault::Endpoint && cause.fault != Fault::Endpoint => worst,
        Some(worst) if worst.fault == cause.fault => Cause {
            what: format!("{}; {}", worst.what, cause.what),
            retry_after: worst.retry_after.min(cause.retry_after).or(cause.retry_after),
            ..cause
        },
        _ => cause,
    }
}

fn spool_cause(error: &SpoolError) -> Cause {
    match error.fault {
        Fault::Message => Cause::hopeless(chain(error)),
        fault => Cause::new(fault, chain(error)),
    }
}

fn transfer_cause(error: &TransferError) -> Cause {
    let cause = Cause {
        retry_after: error.retry_after,
        ..Cause::new(error.fault, chain(error))
    };
    match error.kind {
        Kind::Gone => Cause {
            attempts_max: ATTEMPTS_GONE,
            ..cause
        },
        Kind::NotAllowed | Kind::TooLarge if error.fault == Fault::Message => Cause {
            attempts_max: 1,
            ..cause
        },
        _ => cause,
    }
}
