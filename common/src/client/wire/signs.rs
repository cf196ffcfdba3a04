//! [`Signs`]: what a connection shows of its peer, for those who judge it.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

use tokio::sync::{Notify, watch};

/// The signs of one connection, shared by its driver, its calls and whoever watches it.
#[derive(Debug, Default)]
pub(super) struct Signs {
    /// Reads that brought at least one byte.
    reads: AtomicU64,
    begun: AtomicU64,
    settled: AtomicU64,
    ended: AtomicU64,
    closed: watch::Sender<Option<Closed>>,
    /// Whether somebody looks at the signs from time to time.
    is_watched: AtomicBool,
    begin: Notify,
}

/// Why a connection takes no new calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::client) enum Closed {
    /// The replica has sent GOAWAY. Calls in flight run to their end.
    GoingAway,
    /// It broke, or came to its end.
    Lost,
}

/// The counts of a connection at one time. None of them ever decreases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::client) struct Counts {
    /// Reads that brought at least one byte.
    pub(in crate::client) reads: u64,
    /// Calls that were begun.
    pub(in crate::client) begun: u64,
    /// Calls whose response has begun, or which were given up.
    pub(in crate::client) settled: u64,
}

impl Signs {
    pub(super) fn counts(&self) -> Counts {
        Counts {
            reads: self.reads.load(Relaxed),
            begun: self.begun.load(Relaxed),
            settled: self.settled.load(Relaxed),
        }
    }

    pub(super) fn in_flight(&self) -> u64 {
        let ended = self.ended.load(Relaxed);
        self.begun.load(Relaxed).saturating_sub(ended)
    }

    /// From now on the connection takes no new call. The first reason stays.
    pub(super) fn close(&self, why: Closed) {
        self.closed.send_if_modified(|closed| {
            let is_first = closed.is_none();
            closed.get_or_insert(why);
            is_first
        });
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.borrow().is_some()
    }

    /// Waits until the connection takes no new call.
    pub(super) async fn closed(&self) -> Closed {
        let mut closed = self.closed.subscribe();
        let closed = closed.wait_for(Option::is_some).await;
        // The sender is there as long as `self` is.
        closed.ok().and_then(|why| *why).unwrap_or(Closed::Lost)
    }

    /// Waits until a call is begun. The first call afterwards pays for it, no other does.
    pub(super) async fn begin(&self) {
        self.is_watched.store(false, Relaxed);
        let counts = self.counts();
        if counts.begun == counts.settled {
            self.begin.notified().await;
        }
    }

    /// These bytes have come.
    pub(super) fn note_read(&self, bytes: &[u8]) {
        self.reads.fetch_add(u64::from(!bytes.is_empty()), Relaxed);
    }

    /// A call is begun.
    pub(super) fn start_call(self: &Arc<Self>) -> InFlight {
        self.begun.fetch_add(1, Relaxed);
        if !self.is_watched.load(Relaxed) {
            self.is_watched.store(true, Relaxed);
            self.begin.notify_one();
        }
        InFlight {
            signs: self.clone(),
            is_settled: false,
        }
    }
}

/// A call in flight, up to the last byte of its response.
#[derive(Debug)]
pub(super) struct InFlight {
    signs: Arc<Signs>,
    is_settled: bool,
}

impl InFlight {
    /// Its response has begun.
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
