//! The life of one unit: read, lock, log, run; reload on SIGHUP, end on SIGTERM.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use jiff::Timestamp;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{Level, error, info, warn};

use super::lock;
use super::log::{self, Destination, Rendering};
use super::status;
use super::sundew_lock::SundewLock;
use crate::config::{self, ConfigError, Places, UnitName};
use crate::flow::{self, Loaded, State, Unit, Words};
use crate::metrics::Metrics;

/// What is in hand may take this long after SIGTERM; then the brokers get it back.
pub const STOP_DEADLINE: Duration = Duration::from_secs(20);
/// For letting go, after the deadline.
const ABANDON: Duration = Duration::from_secs(2);
/// Threads that run async work: products are moved by the kernel and by blocking threads.
const WORKERS: usize = 2;
const BLOCKING_THREADS_MAX: usize = 32;
/// The usual size; main raises the default for the threads of libraries.
const STACK_BYTES: usize = 2 << 20;

/// How a unit's process is run.
#[derive(Debug, Clone)]
pub struct Options {
    /// Say `ready`, or the last error, to whoever started it.
    pub detached: bool,
    /// Log to the unit's file; else to standard error.
    pub log_file: bool,
    /// Text columns or JSON.
    pub rendering: Rendering,
    /// The least important level that is written; the site's when absent.
    pub level: Option<Level>,
}

/// Runs a unit until it is told to end. Exit code 1 when it cannot start; the reason is on standard error.
pub fn run(places: &Places, name: UnitName, file: PathBuf, options: &Options) -> anyhow::Result<ExitCode> {
    let loaded = match flow::load(places, &name, &file) {
        Ok(loaded) => loaded,
        Err(errors) => {
            for error in errors {
                eprintln!("{error}");
            }
            return Ok(ExitCode::FAILURE);
        }
    };
    let lock_file = places.lock_file(&name);
    let Some(_lock) = lock::take(&lock_file)? else {
        let by = lock::holder(&lock_file)?.map_or_else(String::new, |pid| format!(" (pid {pid})"));
        anyhow::bail!("{name} is already running{by}");
    };
    let to = if options.log_file {
        Destination::File(places.log_file(&name), loaded.log_keep)
    } else {
        Destination::Stderr
    };
    let level = options.level.unwrap_or(loaded.log_level);
    let log = log::start(&name.to_string(), &to, options.rendering, level)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .thread_stack_size(STACK_BYTES)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let life = Life {
        places: places.clone(),
        name,
        file,
        detached: options.detached,
        log,
        level: options.level,
    };
    let has_queue = loaded.component.queue_type().is_some();
    let ended = SundewLock::take(places, &life.name, has_queue).and_then(|sundew_lock| {
        let ended = runtime.block_on(life.run(loaded));
        runtime.shutdown_timeout(ABANDON);
        ended?;
        // Left after a fault, as after a crash: to a watchdog it tells that the unit is to run.
        sundew_lock.release()
    });
    if let Err(error) = &ended {
        error!("ended: {error:#}");
        if options.log_file {
            eprintln!("{error:#}");
        }
    }
    ended.map(|()| ExitCode::SUCCESS)
}

struct Life {
    places: Places,
    name: UnitName,
    file: PathBuf,
    detached: bool,
    log: log::Control,
    /// From the command line; the configuration does not change it.
    level: Option<Level>,
}

/// Why a component is told to stop.
enum Why {
    End,
    Reload(Box<Loaded>),
}

impl Life {
    async fn run(self, first: Loaded) -> anyhow::Result<()> {
        let mut ends = Ends {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        };
        let mut hang_up = signal(SignalKind::hangup())?;
        let (metrics, state) = (Arc::new(Metrics::default()), State::default());
        let unit = || Unit {
            name: self.name.clone(),
            places: self.places.clone(),
            metrics: Arc::clone(&metrics),
            state: state.clone(),
            stop: CancellationToken::new(),
            abandon: CancellationToken::new(),
        };
        let status = status::Writer::start(&unit(), Timestamp::now())?;
        let mut words = first.component.words(&self.name);
        tell_started(&self.name, words.as_ref());
        tokio::spawn(tell_when_ready(status.ready(), self.detached));
        let mut loaded = first;
        let ended = loop {
            let unit = unit();
            for warning in &loaded.warnings {
                warn!("{warning}");
            }
            let mut running = tokio::spawn(loaded.component.run(unit.clone()));
            let mut why = tokio::select! {
                ended = &mut running => break flatten(ended),
                () = ends.told() => Why::End,
                loaded = self.reload(&mut hang_up) => Why::Reload(Box::new(loaded)),
            };
            if matches!(why, Why::End) {
                info!("stopping: what is in hand is finished first");
            }
            let ended = finish(running, &unit, &mut ends, &mut why).await;
            match why {
                Why::End => break ended,
                Why::Reload(new) => {
                    if let Err(error) = ended {
                        warn!("while reloading: {error:#}");
                    }
                    state.clear();
                    loaded = *new;
                    words = loaded.component.words(&self.name);
                    tell_reloaded(words.as_ref());
                    let level = self.level.unwrap_or(loaded.log_level);
                    self.log.change(level, loaded.log_keep);
                }
            }
        };
        status.stopped()?;
        match words {
            Some(words) => info!("{}", words.stopped),
            None => info!("has been stopped"),
        }
        ended
    }

    /// Waits for SIGHUP and reads the configuration anew; a bad one is told and the old one kept.
    async fn reload(&self, hang_up: &mut Signal) -> Loaded {
        loop {
            if hang_up.recv().await.is_none() {
                std::future::pending::<()>().await;
            }
            let (places, name, first) = (self.places.clone(), self.name.clone(), self.file.clone());
            let read = move || {
                // Another one since it was converted.
                let known = config::units(&places).0.into_iter().find(|(unit, _)| *unit == name);
                let file = known.map_or(first, |(_, file)| file);
                flow::load(&places, &name, &file)
            };
            let read = tokio::task::spawn_blocking(read).await;
            match read {
                Ok(Ok(loaded)) => return loaded,
                Ok(Err(errors)) => tell_refused(&errors),
                Err(error) => error!("cannot read the configuration: {error}"),
            }
        }
    }
}

fn tell_started(name: &UnitName, words: Option<&Words>) {
    match words {
        Some(words) => info!("{}", words.started),
        None => info!(unit = %name, version = env!("CARGO_PKG_VERSION"), "has been started"),
    }
}

fn tell_reloaded(words: Option<&Words>) {
    match words {
        Some(words) => words.reloaded.iter().for_each(|line| info!("{line}")),
        None => info!("has been reloaded"),
    }
}

fn tell_refused(errors: &[ConfigError]) {
    for error in errors {
        error!("{error}");
    }
    error!("not reloaded: the configuration in force stays");
}

/// The signals that end a unit.
struct Ends {
    terminate: Signal,
    interrupt: Signal,
}

impl Ends {
    async fn told(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Lets the component finish what is in hand; after the deadline, or when told to end once more, it lets go. Who is
/// told to end while reloading ends.
async fn finish(
    mut running: tokio::task::JoinHandle<anyhow::Result<()>>,
    unit: &Unit,
    ends: &mut Ends,
    why: &mut Why,
) -> anyhow::Result<()> {
    unit.stop.cancel();
    let deadline = tokio::time::sleep(STOP_DEADLINE);
    tokio::pin!(deadline);
    loop {
        tokio::select! {
            ended = &mut running => {
                // A publisher with nothing to do may still be looking for a broker that the configuration has dropped.
                unit.abandon.cancel();
                return flatten(ended);
            }
            () = &mut deadline => break,
            () = ends.told() => match why {
                Why::Reload(_) => *why = Why::End,
                Why::End => break,
            }
        }
    }
    unit.abandon.cancel();
    match tokio::time::timeout(ABANDON, &mut running).await {
        Ok(ended) => flatten(ended),
        Err(_) => {
            running.abort();
            warn!("work in hand was broken off; it will be delivered again");
            Ok(())
        }
    }
}

fn flatten(ended: Result<anyhow::Result<()>, tokio::task::JoinError>) -> anyhow::Result<()> {
    match ended {
        Ok(result) => result,
        Err(error) => Err(anyhow::Error::new(error).context("the component broke")),
    }
}

/// Tells the starter, and systemd where it is there; then feeds systemd's watchdog while the runtime lives.
async fn tell_when_ready(mut ready: watch::Receiver<bool>, detached: bool) {
    if ready.wait_for(|ready| *ready).await.is_err() {
        return; // the unit has ended before
    }
    if detached {
        use std::io::Write;
        let mut out = std::io::stdout();
        // The starter may have stopped listening after its five seconds.
        drop(out.write_all(b"ready\n").and_then(|()| out.flush()));
    }
    // No systemd, no notification: nothing is lost.
    drop(sd_notify::notify(&[sd_notify::NotifyState::Ready]));
    if let Some(limit) = sd_notify::watchdog_enabled() {
        let mut tick = tokio::time::interval(limit / 3);
        loop {
            tick.tick().await;
            drop(sd_notify::notify(&[sd_notify::NotifyState::Watchdog]));
        }
    }
}
