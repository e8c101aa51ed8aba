//! Where things are on disk.

use std::path::{Path, PathBuf};

use super::UnitName;

/// The places of one root. `PX_ROOT=R` (or the old `PXROOT`) moves them all under R, in Sundew's shape.
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
}

impl Places {
    /// The places the environment names. A relative root is taken from the working directory, once.
    pub fn from_env() -> Places {
        let root = ["PX_ROOT", "PXROOT"]
            .into_iter()
            .find_map(|name| std::env::var_os(name).filter(|value| !value.is_empty()));
        match root {
            Some(root) => {
                let root = PathBuf::from(root);
                // Fails only where the working directory is gone; then a relative root fails soon enough by itself.
                Places::under(&std::path::absolute(&root).unwrap_or(root))
            }
            None => Places::system(),
        }
    }

    /// `/etc/px`, `/var/spool/px`, `/var/log/px`, `/run/px`.
    pub fn system() -> Places {
        Places {
            etc: "/etc/px".into(),
            spool: "/var/spool/px".into(),
            state: "/var/spool/px/state".into(),
            log: "/var/log/px".into(),
            run: "/run/px".into(),
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
        }
    }

    /// What moves everything, unless these are the system's own places.
    pub fn root(&self) -> Option<&Path> {
        (!self.is_system_root()).then_some(self.spool.as_path())
    }

    /// Whether these are the system's own: only there privileges are dropped.
    pub fn is_system_root(&self) -> bool {
        *self == Places::system()
    }

    /// `px.toml`.
    pub fn site_file(&self) -> PathBuf {
        self.etc.join("px.toml")
    }

    /// `px.conf`, where a Sundew site has one.
    pub fn sundew_site_file(&self) -> PathBuf {
        self.etc.join("px.conf")
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
}
