//! Whether to take anything.

use tokio::sync::watch;

/// Whether to take anything: the caller wants it, and nothing of our own keeps us from it.
pub(super) struct Gate {
    pub wanted: watch::Receiver<bool>,
    pub held: watch::Sender<bool>,
}

impl Gate {
    /// Returns when the gate is (not) open. A caller that has gone away leaves it as it is.
    pub async fn until(&self, open: bool) {
        let (mut wanted, mut held) = (self.wanted.clone(), self.held.subscribe());
        loop {
            let is_open = *wanted.borrow_and_update() && !*held.borrow_and_update();
            if is_open == open {
                return;
            }
            tokio::select! {
                Ok(()) = wanted.changed() => {}
                Ok(()) = held.changed() => {}
                else => std::future::pending().await,
            }
        }
    }
}
