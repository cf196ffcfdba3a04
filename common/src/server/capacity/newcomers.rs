//! [`Newcomers`]: the new connections that wait for a place, and how they learn of an idle one.

use crate::sync::{
    Notify,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

/// The new connections that wait for a place.
#[derive(Debug, Default)]
pub(super) struct Newcomers {
    waiting: AtomicUsize,
    idle: Notify,
}

impl Newcomers {
    /// Counts a newcomer, until the value is dropped.
    pub(super) fn wait(&self) -> Waiting<'_> {
        self.waiting.fetch_add(1, Relaxed);
        Waiting(self)
    }

    /// Notes that a connection has become idle. Costs nothing more than a look while nobody waits.
    pub(super) fn note_idle(&self) {
        if self.waiting.load(Relaxed) > 0 {
            self.idle.notify_one();
        }
    }
}

/// A new connection that waits.
pub(super) struct Waiting<'a>(&'a Newcomers);

impl Waiting<'_> {
    /// Completes when a connection has become idle. It may miss one that became idle just when the
    /// newcomer began to wait.
    pub(super) async fn for_idle(&self) {
        self.0.idle.notified().await;
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Relaxed);
    }
}
