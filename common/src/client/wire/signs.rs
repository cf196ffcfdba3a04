//! [`Signs`]: what a connection shows of its peer, as the pool judges it.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

use tokio::sync::{Notify, SetOnce};

/// The signs of one connection, shared by its driver, its calls and the task that watches it.
#[derive(Debug, Default)]
pub(in crate::client) struct Signs {
    /// Reads that brought at least one byte.
    reads: AtomicU64,
    begun: AtomicU64,
    settled: AtomicU64,
    ended: AtomicU64,
    closed: SetOnce<Closed>,
    /// Whether [`Self::call_begun`] was notified, so that further calls need not do it again.
    is_awake: AtomicBool,
    call_begun: Notify,
}

/// Why a connection takes no new calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::client) enum Closed {
    /// The replica has sent GOAWAY. Calls in flight run to their end.
    GoingAway,
    /// The authorities that have vouched for it are no longer trusted. Calls in flight run to
    /// their end.
    Outdated,
    /// The connection broke or was closed.
    Lost,
}

/// The counts of a connection at one time. They only grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::client) struct Counts {
    /// Reads that brought at least one byte.
    pub(in crate::client) reads: u64,
    /// Calls that have begun.
    pub(in crate::client) begun: u64,
    /// Calls whose response has begun, or that ended without one.
    pub(in crate::client) settled: u64,
}

impl Signs {
    pub(in crate::client) fn counts(&self) -> Counts {
        Counts {
            reads: self.reads.load(Relaxed),
            begun: self.begun.load(Relaxed),
            settled: self.settled.load(Relaxed),
        }
    }

    pub(in crate::client) fn in_flight(&self) -> u64 {
        let ended = self.ended.load(Relaxed);
        self.begun.load(Relaxed).saturating_sub(ended)
    }

    /// Closes the connection to new calls. The first reason stays.
    pub(super) fn close(&self, why: Closed) {
        let _ = self.closed.set(why);
    }

    pub(in crate::client) fn is_closed(&self) -> bool {
        self.closed.initialized()
    }

    /// Waits until the connection is closed to new calls.
    pub(in crate::client) async fn closed(&self) -> Closed {
        *self.closed.wait().await
    }

    /// Waits until a call begins. Only the first call pays for the notification.
    pub(in crate::client) async fn call_begun(&self) {
        self.is_awake.store(false, Relaxed);
        let counts = self.counts();
        if counts.begun == counts.settled {
            self.call_begun.notified().await;
        }
    }

    /// Counts a read that brought these bytes.
    pub(super) fn note_read(&self, bytes: &[u8]) {
        self.reads.fetch_add(u64::from(!bytes.is_empty()), Relaxed);
    }

    /// Counts a call that begins.
    pub(super) fn start_call(self: &Arc<Self>) -> InFlight {
        self.begun.fetch_add(1, Relaxed);
        if !self.is_awake.load(Relaxed) {
            self.is_awake.store(true, Relaxed);
            self.call_begun.notify_one();
        }
        InFlight {
            signs: self.clone(),
            is_settled: false,
        }
    }
}

/// A call in flight, up to the end of its response.
#[derive(Debug)]
pub(super) struct InFlight {
    signs: Arc<Signs>,
    is_settled: bool,
}

impl InFlight {
    /// Notes that the response has begun.
    pub(super) fn settle(&mut self) {
        if !self.is_settled {
            self.is_settled = true;
            self.signs.settled.fetch_add(1, Relaxed);
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.settle();
        self.signs.ended.fetch_add(1, Relaxed);
    }
}
