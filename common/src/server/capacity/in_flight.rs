//! [`Request`]: the state of a request in flight, shared with other threads.

use std::{
    cell::Cell,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, Ordering::Relaxed},
    },
    task::Waker,
};

use futures_util::task::AtomicWaker;

use super::kind::Kind;

/// A part of the response waits for the client, and no scan has seen it yet.
const OFFERED: u64 = u64::MAX;

/// Whether a request is in flight, must end, or has ended.
#[derive(Debug, Clone, Copy)]
enum State {
    Active,
    /// The request must end: another one has its place.
    GivesWay,
    Over,
}

/// The state of a request in flight.
#[derive(Debug)]
pub(crate) struct Request {
    pub(super) kind: Kind,
    /// When the client stopped reading the response (see [`now`](super::open::now)): [`OFFERED`]
    /// until the first scan, and 0 while the client waits for the service.
    untaken_since: AtomicU64,
    /// A [`State`].
    state: AtomicU8,
    waker: AtomicWaker,
}

impl Request {
    pub(crate) fn new(kind: Kind) -> Self {
        Self {
            kind,
            untaken_since: AtomicU64::new(0),
            state: AtomicU8::new(State::Active as u8),
            waker: AtomicWaker::new(),
        }
    }

    /// Begins a request on this thread; see [`take_begun`].
    pub(super) fn begin(kind: Kind) -> Arc<Self> {
        let request = Arc::new(Self::new(kind));
        BEGUN.set(Some(request.clone()));
        request
    }

    /// Ends the request; returns whether it still had its places.
    pub(super) fn end(&self) -> bool {
        self.state.swap(State::Over as u8, Relaxed) == State::Active as u8
    }

    /// Whether the request must end for another one.
    pub(crate) fn gives_way(&self) -> bool {
        self.state.load(Relaxed) == State::GivesWay as u8
    }

    /// Calls the waker when the request must end for another one.
    pub(crate) fn wake_to_give_way(&self, waker: &Waker) {
        self.waker.register(waker);
        if self.gives_way() {
            waker.wake_by_ref();
        }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.state.load(Relaxed) == State::Over as u8
    }

    /// Whether the request must end while its client reads nothing. Then its stream or connection
    /// must be dropped, because hyper does not poll the body.
    pub(crate) fn is_cut_off(&self) -> bool {
        self.gives_way() && self.untaken_since.load(Relaxed) != 0
    }

    /// The time since which the client has read nothing, for a scan at `now`, or `None` if the
    /// client waits for the service.
    pub(super) fn untaken_since(&self, now: u64) -> Option<u64> {
        match self.untaken_since.load(Relaxed) {
            0 => None,
            // Responses do not read the clock: the time begins with the first scan.
            OFFERED => {
                let _ = self
                    .untaken_since
                    .compare_exchange(OFFERED, now, Relaxed, Relaxed);
                Some(now)
            }
            since => Some(since),
        }
    }

    /// Whether the client has read nothing since that time.
    pub(super) fn is_untaken_since(&self, since: u64) -> bool {
        self.untaken_since.load(Relaxed) == since
    }

    /// Makes an active request end for another one. Returns false if the request is not active.
    pub(super) fn give_way(&self) -> bool {
        let (active, gives_way) = (State::Active as u8, State::GivesWay as u8);
        let ended = self
            .state
            .compare_exchange(active, gives_way, Relaxed, Relaxed);
        if ended.is_ok() {
            self.waker.wake();
        }
        ended.is_ok()
    }

    /// Notes that a part of the response waits for the client.
    pub(crate) fn note_offered(&self) {
        self.untaken_since.store(OFFERED, Relaxed);
    }

    /// Notes that the client waits for the service.
    pub(crate) fn note_waited_for(&self) {
        self.untaken_since.store(0, Relaxed);
    }
}

thread_local! {
    /// The last request that began, until its stream or connection takes it.
    static BEGUN: Cell<Option<Arc<Request>>> = const { Cell::new(None) };
}

/// Takes the request that has begun on this thread since the last call.
pub(crate) fn take_begun() -> Option<Arc<Request>> {
    BEGUN.take()
}
