//! [`Room`]: what the connections to one replica share: the calls that wait for a stream of any of
//! them, and whether one is silent.

use crate::{
    limits,
    sync::{
        Notify,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

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
