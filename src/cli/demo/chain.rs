//! The parts of the demo: its root, its configuration, its servers and its units. Each ends with its value.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};

use super::products::PRODUCERS;
use crate::cli::control;
use crate::config::{Places, UnitName, units};
use crate::daemon::{lock, status};

/// `px start` has waited 5 s before.
const READY_WITHIN: Duration = Duration::from_secs(10);
/// Of the log of a unit that died.
const LAST_LINES: usize = 5;

/// Set by Ctrl-C and its kin, which end nothing by themselves: what was started must be ended first.
#[derive(Clone, Default)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Takes the signals from now on.
    pub fn take() -> anyhow::Result<Interrupt> {
        let interrupt = Interrupt::default();
        let (shared, (ready, is_ready)) = (interrupt.clone(), mpsc::channel());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::spawn(move || {
            let taken = runtime.block_on(async {
                let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
                let [mut interrupt, mut terminate, mut hang_up] = match kinds.map(signal) {
                    [Ok(interrupt), Ok(terminate), Ok(hang_up)] => [interrupt, terminate, hang_up],
                    [a, b, c] => return a.and(b).and(c).map(drop),
                };
                drop(ready.send(Ok(()))); // whoever waits is there until it is answered
                loop {
                    tokio::select! {
                        _ = interrupt.recv() => {}
                        _ = terminate.recv() => {}
                        _ = hang_up.recv() => {}
                    }
                    shared.0.store(true, Ordering::Relaxed);
                }
            });
            drop(ready.send(taken));
        });
        is_ready.recv()?.context("cannot take signals")?;
        Ok(interrupt)
    }

    /// An error once somebody wants the end.
    pub fn check(&self) -> anyhow::Result<()> {
        anyhow::ensure!(!self.0.load(Ordering::Relaxed), "interrupted");
        Ok(())
    }

    /// Waits until then, unless somebody wants the end.
    pub fn sleep_until(&self, then: Instant) -> anyhow::Result<()> {
        loop {
            self.check()?;
            let left = then.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(Duration::from_millis(100)));
        }
    }
}

/// The directory everything is in. Removed with it, unless it is to be kept.
pub struct Root {
    /// Absolute.
    pub path: PathBuf,
    keep: bool,
}

impl Root {
    /// Makes it: the one given, which must not exist yet, or one in the directory of temporary files.
    pub fn make(given: Option<&Path>, keep: bool) -> anyhow::Result<Root> {
        let path = match given {
            Some(path) => std::path::absolute(path)?,
            None => std::env::temp_dir().join(format!("px-demo-{:08x}", fastrand::u32(..))),
        };
        let made = std::fs::DirBuilder::new().mode(0o700).create(&path);
        made.with_context(|| format!("cannot make the directory {}", path.display()))?;
        Ok(Root { path, keep })
    }

    /// A producer's tree.
    pub fn tree(&self, producer: usize) -> PathBuf {
        self.path.join(PRODUCERS[producer])
    }

    /// Where the pull workers put the products.
    pub fn delivered(&self) -> PathBuf {
        self.path.join("delivered")
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        if !self.keep
            && let Err(error) = std::fs::remove_dir_all(&self.path)
        {
            eprintln!("px: cannot remove {}: {error}", self.path.display());
        }
    }
}

/// Which broker, and what to call things there.
pub struct Broker {
    /// As it goes into px.toml.
    pub url: String,
    /// Queues begin with it.
    pub name: String,
    /// Keys have this after `v00.urp.input` and `v00.urp.notify`: a dot and a word, or nothing.
    pub key: String,
    /// Options of queues on a broker that others use too: nothing stays there.
    pub queue_options: &'static str,
}

impl Broker {
    /// The embedded broker, which nobody else uses.
    pub fn embedded() -> Broker {
        Broker {
            url: "embedded:px-demo.db".into(),
            name: "px-demo".into(),
            key: String::new(),
            queue_options: "",
        }
    }

    /// A broker that others use too.
    pub fn shared(url: &str) -> Broker {
        let name = format!("px-demo-{:08x}", fastrand::u32(..));
        Broker {
            url: url.into(),
            key: format!(".{name}"),
            name,
            queue_options: "durable = false\nexpires = \"10m\"\n",
        }
    }
}

/// Writes px.toml and the units, and checks them as `px check` does.
pub fn configure(root: &Root, places: &Places, broker: &Broker, servers: &[Server]) -> anyhow::Result<()> {
    let Broker {
        url,
        name,
        key,
        queue_options,
    } = broker;
    let write = |file: &str, text: String| -> anyhow::Result<()> {
        let path = places.etc.join(file);
        std::fs::create_dir_all(path.parent().unwrap_or(&places.etc))?;
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    let site = format!(
        "[brokers.demo]\nurls     = [{}]\nexchange = {{ name = \"px-demo\", type = \"topic\" }}\n",
        quoted(url)
    );
    write("px.toml", site)?;
    for (producer, server) in servers.iter().enumerate() {
        let tree = path_text(&root.tree(producer))?;
        let unit = format!(
            "broker   = \"demo\"\n\
             announce = [{{ format = \"v00\", key = \"v00.urp.input{key}\", digest = \"name\" }}]\n\
             [[tree]]\npath = {}\nurl  = \"http://127.0.0.1:{}/\"\n",
            quoted(&tree),
            server.port
        );
        write(&format!("watch/{}.toml", PRODUCERS[producer]), unit)?;
    }
    let dispatcher = format!(
        "broker = \"demo\"\nqueue  = \"{name}.dispatch\"\n{queue_options}\
         bind   = [\"v00.urp.input{key}.#\"]\n\
         rekey  = {{ from = \"v00.urp.input\", to = \"v00.urp.notify\" }}\n\
         seen   = {{ by = \"identity\", entries = 125000 }}\n"
    );
    write("dispatch/urp.toml", dispatcher)?;
    let directory = format!("{}/${{YYYYMMDD}}", path_text(&root.delivered())?);
    let worker = format!(
        "type   = \"pull\"\nbroker = \"demo\"\nqueue  = \"{name}.pull\"\n{queue_options}\
         bind   = [\"v00.urp.notify{key}.#\"]\n\
         directory  = {}\n\
         alternates = {{ bind = [\"v00.urp.input{key}.#\"], keep = \"10m\" }}\n",
        quoted(&directory)
    );
    // The same unit twice: workers that take turns are several units on one queue.
    write("rx/pull-1.toml", worker.clone())?;
    write("rx/pull-2.toml", worker)?;
    let report = crate::flow::check(places);
    let findings: Vec<String> = report.findings().iter().map(ToString::to_string).collect();
    anyhow::ensure!(!report.refused(), "{}", findings.join("\n"));
    Ok(())
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

fn path_text(path: &Path) -> anyhow::Result<String> {
    let text = path.to_str().context("the root's path is not UTF-8")?;
    Ok(text.to_owned())
}

/// A file server in a process of its own. Ended with this value, and by itself when this process ends.
pub struct Server {
    child: Child,
    /// On 127.0.0.1.
    pub port: u16,
}

impl Server {
    /// Starts one over a tree and waits until it listens.
    pub fn start(tree: &Path) -> anyhow::Result<Server> {
        std::fs::create_dir_all(tree)?;
        let mut command = Command::new(std::env::current_exe().context("cannot find px itself")?);
        command.args(["demo", "serve"]).arg(tree).process_group(0); // Ctrl-C is for us alone
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let child = command.spawn().context("cannot start a file server")?;
        let mut server = Server { child, port: 0 };
        let mut line = String::new();
        if let Some(out) = server.child.stdout.take() {
            BufReader::new(out).read_line(&mut line)?;
        }
        server.port = line.trim().parse().context("the file server did not start")?;
        Ok(server)
    }

    /// SIGKILL, as if the host had lost power.
    pub fn kill(&mut self) -> std::io::Result<()> {
        self.child.kill()?;
        self.child.wait().map(drop)
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            eprintln!("px: cannot end the file server {}: {error}", self.child.id());
        }
    }
}

/// The units that were started. Ended with this value.
pub struct Units<'a> {
    places: &'a Places,
    started: Vec<UnitName>,
}

impl<'a> Units<'a> {
    /// Starts all units of the site as `px start` does, those that take first, and waits until each is at work.
    pub fn start(places: &'a Places, interrupt: &Interrupt) -> anyhow::Result<Units<'a>> {
        let mut running = Units {
            places,
            started: Vec::new(),
        };
        for unit in units(places).0.into_iter().rev() {
            interrupt.check()?;
            running.started.push(unit.0.clone());
            let code = control::start(places, std::slice::from_ref(&unit))?;
            anyhow::ensure!(code == ExitCode::SUCCESS, "{} did not start", unit.0);
            running.await_ready(&unit.0, interrupt)?;
        }
        Ok(running)
    }

    /// Waits until the unit is at work and its connections stand: from then on it misses nothing.
    fn await_ready(&self, unit: &UnitName, interrupt: &Interrupt) -> anyhow::Result<()> {
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            let (mut state, mut is_paused) = ("no status yet".to_owned(), false);
            if let Some(status) = status::read(&self.places.status_file(unit)) {
                let links: Vec<_> = status.links.as_object().into_iter().flatten().collect();
                let mut stand = links.iter().map(|(_, link)| link["connected"].as_bool() == Some(true));
                if status.ready && stand.all(|stands| stands) {
                    return Ok(());
                }
                let error = links.iter().find_map(|(_, link)| link["error"].as_str());
                is_paused = status.state.starts_with("paused");
                state = match error {
                    Some(error) if !is_paused => error.to_owned(), // a pause names it
                    _ => status.state,
                };
            }
            self.check()?;
            let is_hopeless = is_paused || Instant::now() >= deadline;
            anyhow::ensure!(!is_hopeless, "{unit} is not ready: {state}");
            interrupt.sleep_until(Instant::now() + Duration::from_millis(20))?;
        }
    }

    /// An error when a unit has died, with its last words.
    pub fn check(&self) -> anyhow::Result<()> {
        for unit in &self.started {
            if lock::holder(&self.places.lock_file(unit))?.is_none() {
                let log = std::fs::read_to_string(self.places.log_file(unit)).unwrap_or_default();
                let lines: Vec<&str> = log.lines().collect();
                let last = lines[lines.len().saturating_sub(LAST_LINES)..].join("\n");
                anyhow::bail!("{unit} has died:\n{last}");
            }
        }
        Ok(())
    }

    /// A counter of all units of a directory, each by itself, as their status files tell.
    pub fn counts(&self, dir: &str, counter: &str) -> Vec<u64> {
        let of_dir = self.started.iter().filter(|unit| unit.dir.name() == dir);
        let status = of_dir.filter_map(|unit| status::read(&self.places.status_file(unit)));
        status
            .map(|status| status.counts.get(counter).and_then(|n| n.as_u64()).unwrap_or(0))
            .collect()
    }

    /// The sum of [`Units::counts`].
    pub fn count(&self, dir: &str, counter: &str) -> u64 {
        self.counts(dir, counter).iter().sum()
    }

    /// Ends all at once, as `px stop` does each. Their status files tell the last counts then.
    pub fn stop(&self) -> anyhow::Result<()> {
        std::thread::scope(|scope| {
            let endings: Vec<_> = self
                .started
                .iter()
                .map(|unit| (unit, scope.spawn(|| control::end(self.places, unit))))
                .collect();
            for (unit, ending) in endings {
                match ending.join() {
                    Ok(ended) => ended.map(drop).with_context(|| format!("cannot stop {unit}"))?,
                    Err(_) => anyhow::bail!("cannot stop {unit}"),
                }
            }
            Ok(())
        })
    }
}

impl Drop for Units<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            eprintln!("px: {error:#}");
        }
    }
}
