//! Products of one name take turns, in the order in which they came: the later one is the correction.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// Who is at work on which name.
#[derive(Debug, Default)]
pub struct Turns(Arc<Mutex<HashMap<Vec<u8>, watch::Receiver<()>>>>);

/// A place in the line of one name, until it is dropped.
#[derive(Debug)]
pub struct Turn {
    name: Vec<u8>,
    before: Option<watch::Receiver<()>>,
    /// Closes when the turn is over.
    over: Option<watch::Sender<()>>,
    line: Arc<Mutex<HashMap<Vec<u8>, watch::Receiver<()>>>>,
}

impl Turns {
    /// The next place in the line of this name.
    pub fn take(&self, name: &[u8]) -> Turn {
        let (over, mine) = watch::channel(());
        let before = lock(&self.0).insert(name.to_vec(), mine);
        Turn {
            name: name.to_vec(),
            before,
            over: Some(over),
            line: Arc::clone(&self.0),
        }
    }
}

impl Turn {
    /// The name.
    pub fn name(&self) -> &[u8] {
        &self.name
    }

    /// Waits for those who came before.
    pub async fn comes(&mut self) {
        if let Some(mut before) = self.before.take() {
            // Nothing is ever sent: the error is the end of the turn before.
            while before.changed().await.is_ok() {}
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut line = lock(&self.line);
        drop(self.over.take());
        // Nobody came after: the last one in the line is this one, and it is over.
        if line.get(&self.name).is_some_and(|last| last.has_changed().is_err()) {
            line.remove(&self.name);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn one_name_waits_and_another_does_not() {
        let turns = Turns::default();
        let (mut first, mut second, mut third) = (turns.take(b"a"), turns.take(b"a"), turns.take(b"a"));
        let mut other = turns.take(b"b");
        assert!(first.comes().now_or_never().is_some() && other.comes().now_or_never().is_some());
        assert!(third.comes().now_or_never().is_none());
        assert!(second.comes().now_or_never().is_none());
        drop((first, second, third, other));
        assert!(lock(&turns.0).is_empty(), "nothing is remembered");
    }

    #[tokio::test]
    async fn turns_come_in_order() {
        let turns = Turns::default();
        let order = Arc::new(Mutex::new(Vec::new()));
        let turns: Vec<Turn> = (0..20).map(|_| turns.take(b"a")).collect();
        // Begun in the other order.
        let begin = |(n, mut turn): (usize, Turn)| {
            let order = Arc::clone(&order);
            tokio::spawn(async move {
                turn.comes().await;
                tokio::task::yield_now().await;
                lock(&order).push(n);
            })
        };
        let tasks: Vec<_> = turns.into_iter().enumerate().rev().map(begin).collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(*lock(&order), (0..20).collect::<Vec<_>>());
    }
}
