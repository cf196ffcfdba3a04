//! [`Held`]: the places that the requests of a connection hold, and whether its client takes the
//! responses.

use crate::{
    lock::lock,
    request::deadline::Deadline,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
};

/// What the requests of a connection hold.
#[derive(Debug, Default)]
pub(crate) struct Held {
    in_flight: AtomicUsize,
    /// How many of the requests in flight wait for the service. The others wait for the client.
    waiting_for_service: AtomicUsize,
    /// The number of responses without a place over HTTP/2 whose clients have not read them.
    refusals: AtomicUsize,
    /// The deadline of the request over HTTP/2 that was admitted and has no stream yet.
    admitted: Mutex<Option<Deadline>>,
    /// Whether the client has taken a part of a response since the last look.
    has_taken: AtomicBool,
    /// The first look since which the client has taken nothing, or 0; see [`now`](super::clock::now).
    stalled_since: AtomicU64,
    /// Another request needs a place, and the client takes nothing.
    gives_way: AtomicBool,
    /// The connection never gives way.
    keeps_places: AtomicBool,
}

impl Held {
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Relaxed)
    }

    /// Adds a request, which waits for the service.
    pub(super) fn begin(&self) {
        self.in_flight.fetch_add(1, Relaxed);
        self.waiting_for_service.fetch_add(1, Relaxed);
    }

    /// Removes a request that no longer waits for the service. Returns whether it was the last.
    pub(super) fn end(&self) -> bool {
        self.in_flight.fetch_sub(1, Relaxed) == 1
    }

    /// Notes that one of the requests waits for the service, or that it waits for the client.
    pub(super) fn note_waits_for_service(&self, waits: bool) {
        if waits {
            self.waiting_for_service.fetch_add(1, Relaxed);
        } else {
            self.waiting_for_service.fetch_sub(1, Relaxed);
        }
    }

    /// Whether the client has fewer open requests than this, or none.
    pub(super) fn is_less_than(&self, count: usize) -> bool {
        let held = self.in_flight() + self.refusals.load(Relaxed);
        held == 0 || held < count
    }

    /// Notes that a request over HTTP/2 was admitted, until its stream begins.
    pub(crate) fn note_admitted(&self, deadline: Deadline) {
        *lock(&self.admitted) = Some(deadline);
    }

    /// The deadline of the request that the stream which begins now is for, if it was admitted.
    pub(crate) fn take_admitted(&self) -> Option<Deadline> {
        lock(&self.admitted).take()
    }

    pub(crate) fn begin_refusal(&self) {
        self.refusals.fetch_add(1, Relaxed);
    }

    pub(crate) fn end_refusal(&self) {
        self.refusals.fetch_sub(1, Relaxed);
    }

    /// Notes that the client has taken a part of a response.
    pub(crate) fn note_taken(&self) {
        self.has_taken.store(true, Relaxed);
    }

    /// Notes that the connection never gives way: its client is no stranger.
    pub(crate) fn note_keeps_places(&self) {
        self.keeps_places.store(true, Relaxed);
    }

    pub(super) fn keeps_places(&self) -> bool {
        self.keeps_places.load(Relaxed)
    }

    /// Looks whether all responses wait for the client, and returns since when it has taken nothing.
    pub(super) fn look(&self, now: u64) -> Option<u64> {
        let is_stalled = !self.keeps_places()
            && self.in_flight() > 0
            && self.waiting_for_service.load(Relaxed) == 0
            && !self.has_taken.swap(false, Relaxed);
        let since = match (is_stalled, self.stalled_since.load(Relaxed)) {
            (false, _) => 0,
            (true, 0) => now,
            (true, since) => since,
        };
        self.stalled_since.store(since, Relaxed);
        is_stalled.then_some(since)
    }

    /// Notes that another request needs a place. Returns whether this is new.
    pub(super) fn ask_to_give_way(&self) -> bool {
        !self.gives_way.swap(true, Relaxed)
    }

    /// Whether the connection must end because its client takes nothing.
    pub(crate) fn gives_way(&self) -> bool {
        self.gives_way.load(Relaxed)
    }

    /// Withdraws that if the client has taken something after all.
    pub(crate) fn stays_if_taken(&self) {
        if self.has_taken.load(Relaxed) {
            self.gives_way.store(false, Relaxed);
        }
    }
}
