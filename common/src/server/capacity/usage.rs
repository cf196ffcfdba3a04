//! [`ConnectionUsage`]: what the requests of a connection hold, since when it is idle, and whether its client takes
//! the responses.

use std::sync::Arc;

use super::clock::now;
use crate::sync::{
    Notify,
    atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
};

/// What the requests of a connection hold.
#[derive(Debug)]
pub(crate) struct ConnectionUsage {
    in_flight: AtomicUsize,
    /// The number of requests in flight that wait for the service. The others wait for the client.
    waiting_for_service: AtomicUsize,
    /// The number of responses without a permit that their client has not read yet, over HTTP/2.
    refusals: AtomicUsize,
    /// When the last request ended, or the connection was opened; see [`now`].
    idle_since: AtomicU64,
    newcomers: Arc<Newcomers>,
    /// The client has taken a part of a response since the last look.
    has_taken: AtomicBool,
    /// The first look since which the client has taken nothing, or 0; see [`now`].
    stalled_since: AtomicU64,
    is_of_mesh: AtomicBool,
}

impl ConnectionUsage {
    /// The usage of a connection without requests. One of `newcomers` hears when it is idle again.
    pub(super) fn new(newcomers: Arc<Newcomers>) -> Self {
        Self {
            in_flight: AtomicUsize::new(0),
            waiting_for_service: AtomicUsize::new(0),
            refusals: AtomicUsize::new(0),
            idle_since: AtomicU64::new(now()),
            newcomers,
            has_taken: AtomicBool::new(false),
            stalled_since: AtomicU64::new(0),
            is_of_mesh: AtomicBool::new(false),
        }
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.load(Relaxed)
    }

    /// When the connection became idle, or `None` while it has requests.
    pub(crate) fn idle_since(&self) -> Option<u64> {
        (self.in_flight() == 0).then(|| self.idle_since.load(Relaxed))
    }

    /// Adds a request, which waits for the service.
    pub(crate) fn begin(&self) {
        self.in_flight.fetch_add(1, Relaxed);
        self.waiting_for_service.fetch_add(1, Relaxed);
    }

    /// Removes a request that no longer waits for the service.
    pub(crate) fn end(&self) {
        if self.in_flight.fetch_sub(1, Relaxed) == 1 {
            self.restart_idle_time();
            self.newcomers.note_idle();
        }
    }

    /// Notes that one of the requests waits for the service, or that it waits for the client.
    pub(super) fn note_waits_for_service(&self, waits: bool) {
        if waits {
            self.waiting_for_service.fetch_add(1, Relaxed);
        } else {
            self.waiting_for_service.fetch_sub(1, Relaxed);
        }
    }

    /// Begins the time without a request anew. A refused request does so, too: it is never in flight.
    pub(crate) fn restart_idle_time(&self) {
        self.idle_since.store(now(), Relaxed);
    }

    pub(super) fn begin_refusal(&self) {
        self.refusals.fetch_add(1, Relaxed);
    }

    pub(super) fn end_refusal(&self) {
        self.refusals.fetch_sub(1, Relaxed);
    }

    /// Whether the client has fewer open requests than this, or none.
    pub(super) fn is_less_than(&self, count: usize) -> bool {
        let open = self.in_flight() + self.refusals.load(Relaxed);
        open == 0 || open < count
    }

    /// Notes that the client is a service of the mesh, whose connections are never preempted.
    pub(crate) fn note_of_mesh(&self) {
        self.is_of_mesh.store(true, Relaxed);
    }

    pub(super) fn is_of_mesh(&self) -> bool {
        self.is_of_mesh.load(Relaxed)
    }

    /// Notes that the client has taken a part of a response.
    pub(crate) fn note_taken(&self) {
        self.has_taken.store(true, Relaxed);
    }

    pub(super) fn has_taken(&self) -> bool {
        self.has_taken.load(Relaxed)
    }

    /// Looks whether all responses wait for the client, and returns since when it has taken nothing.
    pub(super) fn look(&self, now: u64) -> Option<u64> {
        let is_stalled = !self.is_of_mesh()
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
}

/// The new connections that wait for a permit, which one gets when another connection is idle.
#[derive(Debug, Default)]
pub(super) struct Newcomers {
    waiting: AtomicUsize,
    idle: Notify,
}

impl Newcomers {
    /// Counts a newcomer, until the value is dropped.
    pub(super) fn wait(&self) -> Waiting<'_> {
        self.waiting.fetch_add(1, Relaxed);
        Waiting(self)
    }

    /// Notes that a connection is idle. While no newcomer waits, this is one load.
    fn note_idle(&self) {
        if self.waiting.load(Relaxed) > 0 {
            self.idle.notify_one();
        }
    }
}

/// A newcomer that waits.
pub(super) struct Waiting<'a>(&'a Newcomers);

impl Waiting<'_> {
    /// Completes when a connection is idle. It may miss one that became idle just when the newcomer
    /// began to wait.
    pub(super) async fn for_idle(&self) {
        self.0.idle.notified().await;
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage() -> ConnectionUsage {
        ConnectionUsage::new(Arc::default())
    }

    #[test]
    fn a_client_holds_its_requests_and_the_refusals_that_it_has_not_read() {
        let usage = usage();
        assert!(usage.is_less_than(0), "whoever holds nothing may enter");
        usage.begin();
        assert!(usage.is_less_than(2) && !usage.is_less_than(1));
        usage.begin_refusal();
        usage.begin_refusal();
        assert!(usage.is_less_than(4) && !usage.is_less_than(3));
        usage.end_refusal();
        assert!(usage.is_less_than(3));
        usage.end();
        assert!(!usage.is_less_than(1), "a refusal is left");
        usage.end_refusal();
        assert!(usage.is_less_than(0));
    }

    #[test]
    fn a_client_without_requests_is_not_stalled() {
        let usage = usage();
        assert_eq!(usage.look(1), None);
        usage.begin();
        usage.note_waits_for_service(false);
        assert_eq!(usage.look(2), Some(2));
        assert_eq!(usage.look(3), Some(2), "since the first look");
        usage.end();
        assert_eq!(usage.look(4), None);
    }
}
