//! Waiting for a condition with a deadline; never for a time.

use std::fmt::Display;
use std::future::Future;
use std::time::{Duration, Instant};

const POLL: Duration = Duration::from_millis(10);

/// Waits until the condition holds; panics with `what` when it does not within `deadline`.
#[track_caller]
pub fn wait_until(deadline: Duration, what: impl Display, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + deadline;
    while !condition() {
        assert!(Instant::now() < end, "not within {deadline:?}: {what}");
        std::thread::sleep(POLL);
    }
}

/// As `wait_until`, for a condition that has to be asked for.
pub async fn eventually(deadline: Duration, what: impl Display, mut condition: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + deadline;
    while !condition().await {
        assert!(Instant::now() < end, "not within {deadline:?}: {what}");
        tokio::time::sleep(POLL).await;
    }
}

/// The answer of something that must not take longer than `deadline`.
pub async fn within<T>(deadline: Duration, what: impl Display, answer: impl Future<Output = T>) -> T {
    match tokio::time::timeout(deadline, answer).await {
        Ok(answer) => answer,
        Err(_) => panic!("not within {deadline:?}: {what}"),
    }
}
