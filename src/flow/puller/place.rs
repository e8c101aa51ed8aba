//! Where a worker puts what it has fetched: into a directory, or by the queue of a receiver into the database.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use jiff::Timestamp;
use tracing::warn;

use crate::config::options;
use crate::config::{Site, Table};
use crate::flow::{Unit, chain, ingest};
use crate::message::{Announcement, Masks, ProductPath, Template};
use crate::spool::atomic::{Draft, Placed, Safety, Tree};
use crate::spool::dirsync::InFlight;
use crate::spool::ingest::{Ingester, Taken};
use crate::spool::{Durability, SpoolError, off_thread};

/// What only goes without `directory`.
const INGEST: [&str; 4] = ["extension", "route", "routing_table", "feeds"];
/// Names that are looked at for temporary files of a killed process.
const ENTRIES_MAX: usize = 100_000;

/// `directory` and what goes with it; without it, the options of ingesting.
#[derive(Debug, Clone)]
pub(super) enum Config {
    Directory(Directory),
    Ingest(Box<ingest::Config>),
}

#[derive(Debug, Clone)]
pub(super) struct Directory {
    template: Template,
    mirror: bool,
    durability: Durability,
}

impl Config {
    /// For a worker that has so many announcements in hand at most.
    pub(super) fn read(table: &mut Table, site: &Site, name: &str, unsettled: usize) -> Option<Config> {
        let has_mirror = table.has("mirror");
        let mirror = table.boolean("mirror");
        if table.has("directory") {
            for key in INGEST {
                match table.has(key) {
                    true => table.refuse(key, "only without directory: then products are ingested"),
                    false => table.know(key),
                }
            }
            let durability = options::sync(table, Durability::Power, Durability::Crash);
            return Some(Config::Directory(Directory {
                template: read_directory(table)?,
                mirror: mirror.unwrap_or(false),
                durability,
            }));
        }
        table.know("directory");
        if has_mirror {
            table.refuse("mirror", "only with directory");
        }
        // The masks of a worker are on announced paths; the key of a product is its name.
        let ingest = ingest::Config::read(table, site, name, Some(Masks::default()))?;
        Some(Config::Ingest(Box::new(ingest.with_unsettled(unsettled))))
    }
}

fn read_directory(table: &mut Table) -> Option<Template> {
    const ACCEPTED: &str = "an absolute path; ${YYYYMMDD} and its kin stand for the announcement's time";
    let parse = |text: &str| {
        let template = Template::parse(text).map_err(|error| error.to_string())?;
        if template.fixed_start().starts_with('/') && !template.has_file() {
            Ok(template)
        } else {
            Err(String::new())
        }
    };
    table.parsed("directory", parse, ACCEPTED)
}

/// Where all products of the unit go.
pub(super) enum Target {
    Directory(Directory, Safety),
    Ingest(Ingester),
}

/// Where one product goes.
pub(super) struct Place {
    pub(super) time: Timestamp,
    /// Somebody may have put it there before.
    pub(super) is_redelivered: bool,
    to: To,
}

#[derive(Clone)]
enum To {
    Tree(Tree, ProductPath),
    Queue(Ingester, Vec<u8>),
}

/// What became of a product that was fetched as announced.
pub(super) enum Stored {
    Placed(Placed, u64),
    Ingested(Taken, u64),
    Superseded,
}

impl Target {
    /// Cleans up after an earlier run. `None` when the unit is told to stop before that could be done.
    pub(super) async fn open(unit: &Unit, config: &Config) -> anyhow::Result<Option<Target>> {
        match config {
            Config::Directory(directory) => {
                let safety = Safety::new(directory.durability)?;
                directory.sweep().await;
                Ok(Some(Target::Directory(directory.clone(), safety)))
            }
            Config::Ingest(config) => Ok(ingest::open(unit, config).await?.map(Target::Ingest)),
        }
    }

    /// The directory by the announcement's time, the path by the announcement.
    pub(super) async fn place(
        &self,
        announcement: &Announcement,
        time: Timestamp,
        is_redelivered: bool,
    ) -> Result<Place, SpoolError> {
        let file_name = announcement.path.file_name();
        let to = match self {
            Target::Directory(directory, _) => {
                let rendered = directory.template.render(time, b"");
                let root = PathBuf::from(OsString::from_vec(rendered));
                let path = if directory.mirror {
                    announcement.path.clone()
                } else {
                    ProductPath(file_name.to_vec())
                };
                let durability = directory.durability;
                To::Tree(off_thread(move || Tree::open(&root, true, durability)).await?, path)
            }
            Target::Ingest(ingester) => {
                ingester.check(file_name)?;
                To::Queue(ingester.clone(), file_name.to_vec())
            }
        };
        Ok(Place {
            time,
            is_redelivered,
            to,
        })
    }

    /// To be held from the beginning of the work until its input is settled: tells the syncer whether more is coming.
    pub(super) fn enter(&self) -> Option<InFlight> {
        match self {
            Target::Directory(_, safety) => safety.enter(),
            Target::Ingest(_) => None, // it does so itself
        }
    }

    /// Puts a complete draft of [`Place::draft`] where it goes. On `Ok` it is safe in the unit's mode.
    pub(super) async fn store(&self, mut draft: Draft, place: &Place, bytes: u64) -> Result<Stored, SpoolError> {
        match (self, &place.to) {
            (Target::Ingest(ingester), To::Queue(_, name)) => {
                // How old it is when a sender has it, is told from this.
                if let Err(error) = draft.file().set_modified(place.time.into()) {
                    return Err(SpoolError::own("cannot set the time of a product", error));
                }
                let taken = ingester.take(ingester.turn(name), draft, place.is_redelivered).await?;
                Ok(Stored::Ingested(taken, bytes))
            }
            (Target::Directory(_, safety), _) => {
                let placed = safety.place(draft, Some(place.time)).await?;
                Ok(Stored::Placed(placed, bytes))
            }
            (Target::Ingest(_), To::Tree(..)) => unreachable!("a target makes places of its own kind"),
        }
    }
}

impl Place {
    /// Whether a newer product is there. Nothing is fetched that would not be kept.
    pub(super) async fn has_newer(&self) -> Result<bool, SpoolError> {
        let To::Tree(tree, path) = &self.to else {
            return Ok(false);
        };
        let (tree, path) = (tree.clone(), path.clone());
        let there = off_thread(move || tree.mtime(&path.0)).await?;
        Ok(there.is_some_and(|there| there > self.time))
    }

    /// Begins a file. What is returned blocks.
    pub(super) fn draft(&self) -> impl FnMut() -> Result<Draft, SpoolError> + Send + 'static {
        let to = self.to.clone();
        move || match &to {
            To::Tree(tree, path) => tree.create(&path.0),
            To::Queue(ingester, name) => ingester.draft(name),
        }
    }
}

impl Directory {
    /// Removes what a killed process of this unit left under temporary names, where the directory is one for all times.
    async fn sweep(&self) {
        let root = PathBuf::from(self.template.fixed_start());
        let durability = self.durability;
        let begun = SystemTime::now();
        let swept = off_thread(move || {
            if !Path::new(&root).is_dir() {
                return Ok(None);
            }
            Tree::open(&root, false, durability)?
                .sweep(begun, ENTRIES_MAX)
                .map(Some)
        })
        .await;
        if let Err(error) = swept {
            warn!(
                "temporary files of an earlier run were not looked for: {}",
                chain(&error)
            );
        }
    }
}
