//! [`Outbound`]: what a connection still has to send.
//!
//! hyper takes parts of a response before the socket does. So the end of a body is not the end of its
//! response; and over HTTP/2, hyper would take parts of all responses while the client reads nothing.

use std::{fmt, mem, task::Waker};

use crate::{
    limits,
    lock::lock,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
};

/// Called with whether the socket has taken the rest of a response.
type AtEnd = Box<dyn FnOnce(bool) + Send>;

/// What a connection still has to send.
#[derive(Default)]
pub(crate) struct Outbound {
    /// A socket is watched: its task calls [`drained`](Self::drained) and [`close`](Self::close).
    is_watched: AtomicBool,
    /// Whether the last write of the socket waits for the client.
    is_writing: AtomicBool,
    /// Whether the connection has ended.
    is_closed: AtomicBool,
    /// Whether hyper has flushed the socket since it took the last part of a response over HTTP/1. hyper may
    /// let others run while it holds bytes that it has not written: its loop yields after a write into its
    /// own buffer (dispatch.rs, `poll_loop`). It flushes the socket once it holds none.
    is_flushed: AtomicBool,
    /// Bytes of responses over HTTP/2 that hyper has taken since the socket had taken all.
    given: AtomicUsize,
    /// Whether anything is in `waiting`, so that `drained` rarely takes the lock.
    has_waiting: AtomicBool,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    /// For responses over HTTP/1 whose last bytes are in hyper's buffer or in that of TLS.
    rests: Vec<AtEnd>,
    /// Bodies over HTTP/2 that have more to give.
    bodies: Vec<Waker>,
}

impl Outbound {
    /// Notes that a socket is watched.
    pub(crate) fn watch(&self) {
        self.is_watched.store(true, Relaxed);
    }

    pub(crate) fn is_watched(&self) -> bool {
        self.is_watched.load(Relaxed)
    }

    /// Whether bytes wait for the client to read them, as of the last write.
    pub(crate) fn is_writing(&self) -> bool {
        self.is_writing.load(Relaxed)
    }

    pub(crate) fn note_writing(&self, is_writing: bool) {
        self.is_writing.store(is_writing, Relaxed);
    }

    /// Notes that hyper has taken a part of a response over HTTP/1.
    pub(crate) fn note_taken(&self) {
        self.is_flushed.store(false, Relaxed);
    }

    /// Whether the connection has ended before the socket took what hyper held.
    pub(crate) fn has_lost_a_rest(&self) -> bool {
        self.is_closed.load(Relaxed) && !self.is_flushed.load(Relaxed)
    }

    /// Notes that the socket was flushed, with all that there was to write.
    pub(crate) fn note_flushed(&self) {
        if !self.is_flushed.load(Relaxed) {
            self.is_flushed.store(true, Relaxed);
        }
    }

    /// Calls `at_end` when the socket has taken all, or never will.
    pub(crate) fn add_rest(&self, at_end: impl FnOnce(bool) + Send + 'static) {
        lock(&self.waiting).rests.push(Box::new(at_end));
        self.has_waiting.store(true, Relaxed);
    }

    /// Whether hyper may take more over HTTP/2. If not, the waker is called when the socket has taken
    /// what there is.
    pub(crate) fn has_room(&self, waker: &Waker) -> bool {
        if self.given.load(Relaxed) < limits::UNSENT as usize || !self.is_watched() {
            return true;
        }
        lock(&self.waiting).bodies.push(waker.clone());
        self.has_waiting.store(true, Relaxed);
        false
    }

    /// Notes that hyper has taken a part of a response over HTTP/2.
    pub(crate) fn note_given(&self, bytes: usize) {
        self.given.fetch_add(bytes, Relaxed);
    }

    /// Notes that the socket has taken all that was written to it.
    pub(crate) fn drained(&self) {
        self.given.store(0, Relaxed);
        if self.is_flushed.load(Relaxed) {
            self.end(true);
        } else if self.has_waiting.load(Relaxed) {
            let bodies = mem::take(&mut lock(&self.waiting).bodies);
            bodies.into_iter().for_each(Waker::wake);
        }
    }

    /// Notes that the connection ends, and ends all that waits.
    pub(crate) fn close(&self) {
        self.is_watched.store(false, Relaxed);
        self.is_closed.store(true, Relaxed);
        self.end(false);
    }

    /// Ends all that waits. `has_left` says whether the socket has taken the rest, or never will.
    pub(crate) fn end(&self, has_left: bool) {
        if self.has_waiting.load(Relaxed) && self.has_waiting.swap(false, Relaxed) {
            let Waiting { rests, bodies } = mem::take(&mut *lock(&self.waiting));
            for at_end in rests {
                at_end(has_left);
            }
            bodies.into_iter().for_each(Waker::wake);
        }
    }
}

impl fmt::Debug for Outbound {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Outbound").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_rest_has_left_when_the_socket_was_flushed_after_it() {
        let outbound = Outbound::default();
        outbound.watch();
        outbound.note_flushed();
        outbound.note_taken();
        let left = Arc::new(Mutex::new(None));
        let seen = left.clone();
        outbound.add_rest(move |has_left| *lock(&seen) = Some(has_left));
        outbound.drained();
        assert_eq!(*lock(&left), None, "hyper may hold it");
        outbound.note_flushed();
        outbound.drained();
        assert_eq!(*lock(&left), Some(true));
        outbound.close();
        assert!(!outbound.has_lost_a_rest());
        outbound.note_taken();
        assert!(outbound.has_lost_a_rest());
    }
}
