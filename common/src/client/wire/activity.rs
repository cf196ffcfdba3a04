//! [`ConnectionActivity`]: counts the bytes and calls of a connection; its replica is judged by them.
//! [`InFlight`]: a call on a connection. [`Room`]: the calls that wait for a stream of any connection to a
//! replica.

use std::{mem, sync::Arc};

use tokio::sync::{SetOnce, watch};

use crate::{
    limits,
    sync::{
        Notify,
        atomic::{
            AtomicBool, AtomicU64, AtomicUsize,
            Ordering::{AcqRel, Relaxed},
        },
    },
};

/// The activity of one connection, shared by its driver, its calls and the task that watches it.
#[derive(Debug, Default)]
pub(crate) struct ConnectionActivity {
    /// Reads that brought at least one byte.
    reads: AtomicU64,
    /// The requests that h2 has got since the driver of the connection ran last.
    unsent: AtomicU64,
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

    /// Counts a request that h2 has got. It goes out when the driver of the connection runs.
    pub(super) fn count_unsent(&self) {
        self.unsent.fetch_add(1, Relaxed);
    }

    /// Notes that the driver has run: h2 has written what it had, or waits for the socket to take it.
    pub(super) fn note_driven(&self) {
        self.unsent.store(0, Relaxed);
    }

    /// The requests that h2 has got since the driver ran last. The next one shares their write.
    pub(crate) fn unsent(&self) -> u64 {
        self.unsent.load(Relaxed)
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

/// The calls that wait for a stream, first come, first served.
///
/// Whoever frees a stream while calls wait wakes the first of them. A call that was woken and finds
/// more than one free stream wakes the next, so that each free stream has a call on its way to it.
#[derive(Debug, Default)]
pub(crate) struct Room {
    waiting: AtomicUsize,
    freed: Notify,
    wanted: Notify,
    /// The connections that are silent.
    silent: AtomicUsize,
    went_silent: Notify,
}

impl Room {
    /// Joins the waiting calls, or returns `None` if there are too many.
    pub(crate) fn wait(&self) -> Option<WaitingForStream<'_>> {
        let others = self.waiting.fetch_add(1, Relaxed);
        let waiting = WaitingForStream {
            room: self,
            is_first: others == 0,
        };
        self.wanted.notify_one();
        (others < limits::MAX_CALLS_WITHOUT_STREAM).then_some(waiting)
    }

    pub(crate) fn is_waited_for(&self) -> bool {
        self.waiting.load(Relaxed) > 0
    }

    /// Waits until a call waits.
    pub(crate) async fn wanted(&self) {
        while !self.is_waited_for() {
            self.wanted.notified().await;
        }
    }

    /// Wakes the first waiting call, as a stream may be free.
    pub(crate) fn wake_one(&self) {
        if self.is_waited_for() {
            self.freed.notify_one();
        }
    }

    /// Waits until one of the connections is silent.
    pub(crate) async fn silent(&self) {
        loop {
            let went_silent = self.went_silent.notified();
            if self.silent.load(Relaxed) > 0 {
                return;
            }
            went_silent.await;
        }
    }

    /// Counts a connection that falls silent.
    pub(crate) fn count_silent(&self) {
        self.silent.fetch_add(1, Relaxed);
        self.went_silent.notify_waiters();
    }

    /// Counts a silent connection that is heard again.
    pub(crate) fn count_heard(&self) {
        self.silent.fetch_sub(1, Relaxed);
    }

    /// Wakes all waiting calls, as their connection is closed.
    pub(crate) fn wake_all(&self) {
        self.freed.notify_waiters();
    }
}

/// A call that waits for a stream.
pub(crate) struct WaitingForStream<'a> {
    room: &'a Room,
    is_first: bool,
}

impl WaitingForStream<'_> {
    /// Whether no other call waited when this one began to. Of several that begin at once, one is the
    /// first.
    pub(crate) fn is_first(&self) -> bool {
        self.is_first
    }

    /// Waits until a stream may be free.
    pub(crate) async fn woken(&self) {
        self.room.freed.notified().await;
    }
}

impl Drop for WaitingForStream<'_> {
    fn drop(&mut self) {
        self.room.waiting.fetch_sub(1, Relaxed);
    }
}
