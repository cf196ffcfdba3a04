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
    /// Whether a socket is watched, which calls [`drained`](Self::drained) and [`close`](Self::close).
    is_watched: AtomicBool,
    /// Whether the last write of the socket waits for the client.
    is_writing: AtomicBool,
    /// Bytes of responses over HTTP/2 that hyper has taken since the socket had taken all.
    given: AtomicUsize,
    /// Whether anything is in `waiting`, so that most looks take no lock.
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

    /// The socket has taken all that the client lets through.
    pub(crate) fn drained(&self) {
        self.given.store(0, Relaxed);
        self.end(true);
    }

    /// The connection ends. What ends with it waits for nothing.
    pub(crate) fn close(&self) {
        self.is_watched.store(false, Relaxed);
        self.end(false);
    }

    /// Ends all that waits: the socket has taken the rest, or never will.
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
