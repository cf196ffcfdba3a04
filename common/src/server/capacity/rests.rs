//! [`Rests`]: the responses over HTTP/1 whose last bytes the socket has not taken yet.

use std::{
    fmt, mem,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use crate::lock::lock;

/// Called with whether the socket has taken the rest of a response.
type AtEnd = Box<dyn FnOnce(bool) + Send>;

/// The responses of a connection whose last bytes are in hyper's buffer or in that of TLS.
#[derive(Default)]
pub(crate) struct Rests {
    waiting: Mutex<Vec<AtEnd>>,
    /// Whether there may be any, so that most looks take no lock.
    has_any: AtomicBool,
    /// Whether a socket is watched, which calls [`end`](Self::end).
    is_watched: AtomicBool,
}

impl Rests {
    /// Notes that [`end`](Self::end) will be called.
    pub(crate) fn watch(&self) {
        self.is_watched.store(true, Relaxed);
    }

    pub(crate) fn is_watched(&self) -> bool {
        self.is_watched.load(Relaxed)
    }

    pub(crate) fn add(&self, at_end: impl FnOnce(bool) + Send + 'static) {
        lock(&self.waiting).push(Box::new(at_end));
        self.has_any.store(true, Relaxed);
    }

    /// Ends all that wait: the socket has taken their rest, or never will.
    pub(crate) fn end(&self, has_left: bool) {
        if self.has_any.swap(false, Relaxed) {
            let waiting = mem::take(&mut *lock(&self.waiting));
            for at_end in waiting {
                at_end(has_left);
            }
        }
    }
}

impl fmt::Debug for Rests {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Rests").finish_non_exhaustive()
    }
}
