//! `px convert`: a Sundew unit as TOML, on standard output or in its place.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail, ensure};
use rustix::fs::{CWD, FlockOperation, RenameFlags};

use super::{REFUSED, one_unit, say};
use crate::config::sundew::{self, Flow};
use crate::config::{Broker, Errors, Places, Secret, Service, UnitDir, UnitName, service, units};

/// A file that is there gives way.
const OVER: RenameFlags = RenameFlags::empty();

/// What is to be converted.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// DIR/NAME, or NAME where it is unique; all that px runs from a .conf when none is named
    #[arg(value_name = "UNIT")]
    names: Vec<String>,
    /// Write NAME.toml, its broker to px.toml, the password to secrets.toml or NAME.password; NAME.conf becomes
    /// NAME.conf.off
    #[arg(long)]
    write: bool,
}

/// Shows or writes each unit. 1 when one of them cannot be; the others are done all the same.
pub fn run(places: &Places, arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let chosen = match arguments.names.is_empty() {
        true => units(places).0.into_iter().map(|(name, _)| name).collect(),
        false => {
            let named = arguments.names.iter().map(|text| Ok(one_unit(places, text)?.0));
            named.collect::<anyhow::Result<Vec<UnitName>>>()?
        }
    };
    // Two at once would each add to the px.toml that the other has not seen.
    let _lock = arguments.write.then(|| lock(&places.etc)).transpose()?;
    let mut said = Said::default();
    let mut code = ExitCode::SUCCESS;
    for name in chosen {
        let conf = places.etc.join(name.dir.name()).join(format!("{}.conf", name.name));
        match (conf.exists(), arguments.names.is_empty()) {
            (true, is_any) if !is_any || service(places, &name, &conf) == Service::Served => {
                if let Err(error) = convert(places, &name, &conf, arguments.write, &mut said) {
                    eprintln!("px: {name}: {error:#}");
                    code = ExitCode::from(REFUSED);
                }
            }
            (false, false) => {
                eprintln!("px: {name} is TOML already");
                if !arguments.write {
                    code = ExitCode::from(REFUSED);
                }
            }
            _ => {}
        }
    }
    Ok(code)
}

/// What has been told of other units' files.
#[derive(Default)]
struct Said {
    findings: BTreeSet<String>,
    brokers: Vec<Broker>,
}

fn convert(places: &Places, name: &UnitName, conf: &Path, write: bool, said: &mut Said) -> anyhow::Result<()> {
    // Whatever its component refuses must not become a unit that does not start.
    let (findings, is_good) = match crate::flow::load(places, name, conf) {
        Ok(loaded) => (loaded.warnings, true),
        Err(findings) => (findings, false),
    };
    for finding in findings.iter().map(ToString::to_string) {
        if !said.findings.contains(&finding) {
            eprintln!("{finding}");
            said.findings.insert(finding);
        }
    }
    ensure!(is_good, "not converted");
    let flow = sundew::read(places, name, conf, &Errors::default()).context("px does not run it")?;
    match write {
        false => show(places, name, flow, &mut said.brokers),
        true => put(places, name, conf, flow),
    }
}

/// With the broker under the name that it would have been written with.
fn show(places: &Places, name: &UnitName, flow: Flow, brokers: &mut Vec<Broker>) -> anyhow::Result<()> {
    let conversion = sundew::convert(places, name, flow, brokers).map_err(anyhow::Error::msg)?;
    let private = if conversion.is_private() {
        ", for its owner alone"
    } else {
        ""
    };
    say(format_args!("# {name}.toml{private}"));
    if conversion.password.is_some() {
        say(format_args!("# {name}.password: the password"));
    }
    if let Some(broker) = conversion.broker {
        say("# px.toml, and the password in secrets.toml:");
        for line in sundew::broker_as_toml(&broker).lines() {
            say(format_args!("#     {line}"));
        }
        brokers.push(broker);
    }
    say(conversion.shown);
    Ok(())
}

/// Writes the files one after the other, each safe before the next, so that a run after a crash finishes what this one
/// has begun. The unit is there all the time, in one form or the other.
fn put(places: &Places, name: &UnitName, conf: &Path, flow: Flow) -> anyhow::Result<()> {
    let off = conf.with_extension("conf.off");
    ensure!(!off.exists(), "{} is there already: move it away first", off.display());
    let conversion = sundew::convert(places, name, flow, &[]).map_err(anyhow::Error::msg)?;
    let toml = conf.with_extension("toml");
    if let Ok(there) = std::fs::read(&toml) {
        ensure!(
            there == conversion.unit.as_bytes(),
            "{} is there already and is not what {} comes to: remove one of them",
            toml.display(),
            conf.display()
        );
    }
    if let Some(site) = &conversion.site {
        place(&places.site_file(), site.as_bytes(), 0o644, OVER, places)?;
    }
    if let Some(secrets) = &conversion.secrets {
        place(&places.secrets_file(), secrets.expose().as_bytes(), 0o600, OVER, places)?;
    }
    if let Some((file, password)) = &conversion.password {
        place_password(file, password, places)?;
    }
    if !toml.exists() {
        let mode = if conversion.is_private() { 0o600 } else { 0o644 };
        place(&toml, conversion.unit.as_bytes(), mode, RenameFlags::NOREPLACE, places)?;
    }
    let directory = conf.parent().context("a file without a directory")?;
    rustix::fs::renameat_with(CWD, conf, CWD, &off, RenameFlags::NOREPLACE)
        .with_context(|| format!("cannot rename {}", conf.display()))?;
    sync(directory)?;
    say(format_args!("{name}: {} is now {}", conf.display(), toml.display()));
    if name.dir == UnitDir::Tx && has_foreign_receivers(places) {
        eprintln!(
            "px: {name}: Sundew's receivers know clients by their .conf: what is left to Sundew puts nothing more into \
             txq/{} after its next start or reload; to go back, rename {} and remove {}",
            name.name,
            off.display(),
            toml.display()
        );
    }
    Ok(())
}

/// The password of a unit's server, in a file of its own that is nobody else's to read. One that is there is kept where
/// it is the same.
fn place_password(file: &Path, password: &Secret, places: &Places) -> anyhow::Result<()> {
    let content = format!("{}\n", password.expose());
    match std::fs::read(file) {
        Ok(there) => ensure!(
            there == content.as_bytes(),
            "{} is there already and holds another password: move it away first",
            file.display()
        ),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", file.display())),
    }
    // Again where it is there: its mode may be too open, and it may not be synced.
    place(file, content.as_bytes(), 0o600, OVER, places)
}

/// Whether Sundew still runs anything that may have this site's senders for its clients.
fn has_foreign_receivers(places: &Places) -> bool {
    let is_foreign = |(name, path): &(UnitName, PathBuf)| {
        name.dir == UnitDir::Rx && matches!(service(places, name, path), Service::LeftToSundew(_))
    };
    let has_flows = |dir: &str| {
        let files = std::fs::read_dir(places.etc.join(dir)).into_iter().flatten().flatten();
        files
            .into_iter()
            .any(|file| file.path().extension().is_some_and(|extension| extension == "conf"))
    };
    units(places).0.iter().any(is_foreign) || has_flows("fx") || has_flows("trx")
}

/// Held until it is dropped, or the process ends.
fn lock(directory: &Path) -> anyhow::Result<File> {
    let file = File::open(directory).with_context(|| format!("cannot open {}", directory.display()))?;
    rustix::fs::flock(&file, FlockOperation::LockExclusive)
        .with_context(|| format!("cannot lock {}", directory.display()))?;
    Ok(file)
}

/// Puts a whole file in place: after a crash there is the old one or the new one. Mode and owner stay, but that nobody
/// else can read what is given as private; of a file that is new the mode is given, and the owner is whoever owns the
/// spool, for the units read it.
fn place(path: &Path, content: &[u8], mode: u32, over: RenameFlags, places: &Places) -> anyhow::Result<()> {
    // What a link names is written, and the link stays.
    let path = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        bail!("{} is no file", path.display());
    };
    let temporary = directory.join(format!(".{}.px-convert", name.to_string_lossy()));
    let refused = || format!("cannot write {}", path.display());
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error).with_context(refused),
        // Left by a crash, or not there.
        _ => {}
    }
    let model = std::fs::metadata(&path);
    let most = if mode & 0o077 == 0 { 0o700 } else { 0o777 };
    let mode = model.as_ref().map_or(mode, |model| model.mode() & most);
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)
        .with_context(refused)?;
    if let (true, Ok(owner)) = (
        rustix::process::geteuid().is_root(),
        model.or_else(|_| std::fs::metadata(&places.spool)),
    ) {
        std::os::unix::fs::fchown(&file, Some(owner.uid()), Some(owner.gid())).with_context(refused)?;
    }
    file.set_permissions(Permissions::from_mode(mode))
        .with_context(refused)?;
    file.write_all(content).with_context(refused)?;
    file.sync_all().with_context(refused)?;
    rustix::fs::renameat_with(CWD, &temporary, CWD, &path, over).with_context(refused)?;
    sync(directory)
}

fn sync(directory: &Path) -> anyhow::Result<()> {
    let synced = File::open(directory).and_then(|directory| directory.sync_all());
    synced.with_context(|| format!("cannot sync {}", directory.display()))
}
