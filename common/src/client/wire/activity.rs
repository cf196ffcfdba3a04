//! [`ConnectionActivity`]: counts the bytes and calls of a connection; its replica is judged by them.

use std::{mem, sync::Arc};

use tokio::sync::{SetOnce, watch};

use super::room::Room;
use crate::sync::{
    Notify,
    atomic::{
        AtomicBool, AtomicU64,
        Ordering::{AcqRel, Relaxed},
    },
};

/// The activity of one connection, shared by its driver, its calls and the task that watches it.
#[derive(Debug, Default)]
pub(crate) struct ConnectionActivity {
    /// Reads that brought at least one byte.
    reads: AtomicU64,
    begun: AtomicU64,
    settled: AtomicU64,
    ended: AtomicU64,
    closed: SetOnce<Closed>,
    suspicion: watch::Sender<Suspicion>,
    /// Whether HEADERS or DATA have come since the last PING, as far as they were read.
    has_answered: AtomicBool,
    room: Arc<Room>,
    /// Whether [`Self::call_begun`] was notified, so that further calls need not do it again.
    is_awake: AtomicBool,
    call_begun: Notify,
}

/// Why a connection takes no new calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Closed {
    /// The replica has sent GOAWAY. Calls in flight run to their end.
    GoingAway,
    /// The authorities that have vouched for it are no longer trusted. Calls in flight run to
    /// their end.
    Outdated,
    /// The replica says that it does not serve. Calls in flight run to their end.
    NotServing,
    /// Another connection has taken its place, as it was silent. Calls in flight run to their end.
    Replaced,
    /// The connection broke or was closed.
    Lost,
    /// Nothing came for so long that the connection was broken off.
    Silent,
}

/// How long a health check has had no reply.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd)]
pub(crate) enum Suspicion {
    /// Bytes come, or no call waits for any.
    #[default]
    None,
    /// A call is late, and a health check was sent.
    HealthCheckSent,
    /// There is no reply, although one usually comes at once.
    Silent,
    /// There has been none for so long that another connection may help.
    Suspect,
}

/// The counts of a connection at one time. They only grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Reads that brought at least one byte.
    pub(crate) reads: u64,
    /// Calls that have begun.
    pub(crate) begun: u64,
    /// Calls whose response has begun, or that ended without one.
    pub(crate) settled: u64,
    /// Calls that have ended.
    pub(crate) ended: u64,
}

impl ConnectionActivity {
    pub(crate) fn new(room: Arc<Room>) -> Self {
        Self {
            room,
            ..Self::default()
        }
    }

    /// The calls that wait for a stream of this connection, or of others to the same replica.
    pub(crate) fn room(&self) -> &Arc<Room> {
        &self.room
    }

    pub(crate) fn counts(&self) -> Counts {
        Counts {
            reads: self.reads.load(Relaxed),
            begun: self.begun.load(Relaxed),
            settled: self.settled.load(Relaxed),
            ended: self.ended.load(Relaxed),
        }
    }

    pub(crate) fn in_flight(&self) -> u64 {
        let ended = self.ended.load(Relaxed);
        self.begun.load(Relaxed).saturating_sub(ended)
    }

    /// Closes the connection to new calls. The first reason stays.
    pub(crate) fn close(&self, why: Closed) {
        let _ = self.closed.set(why);
        if matches!(why, Closed::Lost | Closed::Silent) {
            self.set_suspicion(Suspicion::None);
        }
        self.room.wake_all();
    }

    /// Whether HTTP/2 allows new streams, although there may be no new calls.
    pub(crate) fn takes_streams(&self) -> bool {
        matches!(
            self.closed.get(),
            None | Some(Closed::Outdated | Closed::NotServing | Closed::Replaced)
        )
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.initialized()
    }

    /// Waits until the connection is closed to new calls.
    pub(crate) async fn closed(&self) -> Closed {
        *self.closed.wait().await
    }

    pub(crate) fn set_suspicion(&self, suspicion: Suspicion) {
        self.suspicion.send_if_modified(|last| {
            let before = mem::replace(last, suspicion);
            match (before >= Suspicion::Silent, suspicion >= Suspicion::Silent) {
                (false, true) => self.room.count_silent(),
                (true, false) => self.room.count_heard(),
                _ => {}
            }
            before != suspicion
        });
    }

    pub(crate) fn suspicion(&self) -> Suspicion {
        *self.suspicion.borrow()
    }

    /// Follows the suspicion.
    pub(crate) fn suspicions(&self) -> watch::Receiver<Suspicion> {
        self.suspicion.subscribe()
    }

    /// Notes that HEADERS or DATA have come.
    pub(crate) fn note_answer(&self) {
        self.has_answered.store(true, Relaxed);
    }

    /// Whether HEADERS or DATA have come since the last time.
    pub(crate) fn take_answered(&self) -> bool {
        self.has_answered.swap(false, Relaxed)
    }

    /// Waits until a call is in flight. Only the first call pays for the notification.
    pub(crate) async fn call_begun(&self) {
        self.is_awake.store(false, Relaxed);
        // A call is counted before this, and seen here, or after it, and sees that nobody is awake.
        self.begun.fetch_add(0, AcqRel);
        if self.in_flight() == 0 {
            self.call_begun.notified().await;
        }
    }

    /// Counts a read that brought these bytes.
    pub(crate) fn note_read(&self, bytes: &[u8]) {
        self.reads.fetch_add(u64::from(!bytes.is_empty()), Relaxed);
    }

    /// Orders this call's wait before the ends of calls that it has not seen: they see that it waits.
    pub(crate) fn meet_ends(&self) {
        self.ended.fetch_add(0, AcqRel);
    }

    /// Counts a call that begins.
    pub(super) fn count_begun(&self) {
        self.begun.fetch_add(1, AcqRel);
        if !self.is_awake.load(Relaxed) {
            self.is_awake.store(true, Relaxed);
            self.call_begun.notify_one();
        }
    }
    /// Counts a call whose response has begun, or that ends without one.
    pub(super) fn count_settled(&self) {
        self.settled.fetch_add(1, Relaxed);
    }

    /// Counts a call that ends.
    pub(super) fn count_ended(&self) {
        self.ended.fetch_add(1, AcqRel);
        self.room.wake_one();
    }
}
