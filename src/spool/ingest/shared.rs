//! What all ingesters of one receiver share in a process. Work that a reload has let go of may still run, on a disk
//! that is slow: what the next configuration does with the same name, when its message comes again, has to wait for it
//! and to know of it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};

use super::recent::Ours;
use super::turn::Turns;

/// Kept by whoever has it; with the last one it is gone.
#[derive(Debug, Default)]
pub struct Shared {
    pub turns: Turns,
    pub recent: Arc<Mutex<Ours>>,
}

/// What the ingesters of the receiver with this queue share.
pub fn of(rxq: &Path) -> Arc<Shared> {
    static ALL: LazyLock<Mutex<HashMap<PathBuf, Weak<Shared>>>> = LazyLock::new(Mutex::default);
    let mut all = ALL.lock().unwrap_or_else(PoisonError::into_inner);
    all.retain(|_, shared| shared.strong_count() > 0);
    if let Some(shared) = all.get(rxq).and_then(Weak::upgrade) {
        return shared;
    }
    let shared = Arc::default();
    all.insert(rxq.to_owned(), Arc::downgrade(&shared));
    shared
}
