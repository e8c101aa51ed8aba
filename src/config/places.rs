//! Where things are on disk.

use std::path::{Path, PathBuf};

use super::UnitName;
use super::sundew::Directories;

/// The places of one root. `PX_ROOT=R` (or the old `PXROOT`) moves them all under R, in Sundew's shape; then `etcdir`,
/// `spooldir` and `logdir` of `px.conf` move theirs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// `px.toml` and the unit directories.
    pub etc: PathBuf,
    /// `txq`, `rxq`, `db`.
    pub spool: PathBuf,
    /// px's own durable state, a directory per unit.
    pub state: PathBuf,
    /// Logs.
    pub log: PathBuf,
    /// Locks and status files.
    pub run: PathBuf,
    /// What moved everything; `None` for the system's own places.
    root: Option<PathBuf>,
    /// Where the places are read from: `px.conf` before any `etcdir`.
    first_px_conf: PathBuf,
}

impl Places {
    /// The places the environment names. A relative root is taken from the working directory, once.
    pub fn from_env() -> Places {
        let root = ["PX_ROOT", "PXROOT"]
            .into_iter()
            .find_map(|name| std::env::var_os(name).filter(|value| !value.is_empty()));
        let places = match root {
            Some(root) => {
                let root = PathBuf::from(root);
                // Fails only where the working directory is gone; then a relative root fails soon enough by itself.
                Places::under(&std::path::absolute(&root).unwrap_or(root))
            }
            None => Places::system(),
        };
        places.moved_by_px_conf()
    }

    /// These places as their `px.conf` moves them, where there is one. px's own state moves with the spool, for it
    /// tells what was done with the files there; locks and status files stay. What is wrong in `px.conf` moves nothing,
    /// and is told when the site is loaded.
    pub fn moved_by_px_conf(mut self) -> Places {
        let moved = Directories::of(&self.first_px_conf);
        if let Some(etc) = moved.etc {
            self.etc = etc;
        }
        if let Some(log) = moved.log {
            self.log = log;
        }
        if let Some(spool) = moved.spool {
            self.state = spool.join("state");
            self.spool = spool;
        }
        self
    }

    /// `/etc/px`, `/var/spool/px`, `/var/log/px`, `/run/px`.
    pub fn system() -> Places {
        Places {
            etc: "/etc/px".into(),
            spool: "/var/spool/px".into(),
            state: "/var/spool/px/state".into(),
            log: "/var/log/px".into(),
            run: "/run/px".into(),
            root: None,
            first_px_conf: "/etc/px/px.conf".into(),
        }
    }

    /// `R/etc`, `R/{txq,rxq,db,state}`, `R/log`, `R/run`.
    pub fn under(root: &Path) -> Places {
        Places {
            etc: root.join("etc"),
            spool: root.to_path_buf(),
            state: root.join("state"),
            log: root.join("log"),
            run: root.join("run"),
            root: Some(root.to_path_buf()),
            first_px_conf: root.join("etc/px.conf"),
        }
    }

    /// What moves everything, unless these are the system's own places.
    pub fn root(&self) -> Option<&Path> {
        self.root.as_deref()
    }

    /// Whether these are the system's own: only there privileges are dropped.
    pub fn is_system_root(&self) -> bool {
        self.root.is_none()
    }

    /// `px.toml`.
    pub fn site_file(&self) -> PathBuf {
        self.etc.join("px.toml")
    }

    /// `broker.toml`: what a broker is to have.
    pub fn administration_file(&self) -> PathBuf {
        self.etc.join("broker.toml")
    }

    /// `px.conf`, where a Sundew site has one.
    pub fn sundew_site_file(&self) -> PathBuf {
        self.etc.join("px.conf")
    }

    /// `pxRouting.conf`: the routing table of receivers that name no other.
    pub fn routing_table(&self) -> PathBuf {
        self.etc.join("pxRouting.conf")
    }

    /// The `px.conf` that may move the places, the other `px.conf` among them.
    pub(super) fn first_px_conf(&self) -> &Path {
        &self.first_px_conf
    }

    /// `secrets.toml`, next to `px.toml`.
    pub fn secrets_file(&self) -> PathBuf {
        self.etc.join("secrets.toml")
    }

    /// `state/rx_pull_urp`: the unit's failed store, inventory, seen log, quarantine.
    pub fn unit_state(&self, unit: &UnitName) -> PathBuf {
        self.state.join(unit.on_disk())
    }

    /// `run/rx_pull_urp.lock`.
    pub fn lock_file(&self, unit: &UnitName) -> PathBuf {
        self.run.join(format!("{}.lock", unit.on_disk()))
    }

    /// `run/rx_pull_urp.status.json`.
    pub fn status_file(&self, unit: &UnitName) -> PathBuf {
        self.run.join(format!("{}.status.json", unit.on_disk()))
    }

    /// `log/rx_pull_urp.log`.
    pub fn log_file(&self, unit: &UnitName) -> PathBuf {
        self.log.join(format!("{}.log", unit.on_disk()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_moves_everything() {
        let places = Places::under(Path::new("/r"));
        let unit: UnitName = "rx/pull_urp".parse().unwrap();
        assert!(!places.is_system_root() && Places::system().is_system_root());
        assert_eq!(places.unit_state(&unit), Path::new("/r/state/rx_pull_urp"));
        assert_eq!(places.lock_file(&unit), Path::new("/r/run/rx_pull_urp.lock"));
        assert_eq!(places.status_file(&unit), Path::new("/r/run/rx_pull_urp.status.json"));
        assert_eq!(places.log_file(&unit), Path::new("/r/log/rx_pull_urp.log"));
        assert_eq!(places.spool, Path::new("/r"));
        assert_eq!((places.root(), Places::system().root()), (Some(Path::new("/r")), None));
    }

    #[test]
    fn px_conf_moves_what_it_names_and_the_state_goes_with_the_spool() {
        let root = tempfile::tempdir().unwrap();
        let etc = root.path().join("etc");
        std::fs::create_dir(&etc).unwrap();
        let plain = Places::under(root.path());
        assert_eq!(plain.clone().moved_by_px_conf(), plain);
        std::fs::write(
            etc.join("px.conf"),
            "user px\nspooldir /a\nspooldir /data/px/\nlogdir /l # logs\n",
        )
        .unwrap();
        let moved = plain.clone().moved_by_px_conf();
        assert_eq!((&*moved.spool, &*moved.log), (Path::new("/data/px"), Path::new("/l")));
        assert_eq!(moved.state, Path::new("/data/px/state"));
        assert_eq!(
            (&moved.etc, &moved.run, moved.root()),
            (&plain.etc, &plain.run, plain.root())
        );
        std::fs::write(etc.join("px.conf"), "etcdir /e\n").unwrap();
        let moved = plain.clone().moved_by_px_conf();
        assert_eq!(moved.site_file(), Path::new("/e/px.toml"));
        assert_eq!(moved.sundew_site_file(), Path::new("/e/px.conf"));
        assert_eq!((&moved.spool, &moved.state), (&plain.spool, &plain.state));
    }
}
