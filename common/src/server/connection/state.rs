//! [`ConnectionState`]: what the task of a connection and its requests tell each other.

use std::{
    net::Ipv4Addr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use super::{inbound::Inbound, outbound::Outbound};
use crate::{
    lock::lock,
    request::context::Deadline,
    server::capacity::{handle::ConnectionHandle, worker_capacity::WorkerCapacity},
    tls::Peer,
};

/// The state of a connection. The layers above its requests and the task that serves it, both on one
/// thread, write and read it. Other threads see its `handle` only.
#[derive(Debug)]
pub(crate) struct ConnectionState {
    pub(crate) handle: Arc<ConnectionHandle>,
    /// The capacity of the worker that serves the connection.
    pub(crate) capacity: Arc<WorkerCapacity>,
    /// The peer that mutual TLS has shown.
    pub(crate) peer: Option<Peer>,
    pub(crate) inbound: Inbound,
    pub(crate) outbound: Outbound,
    pub(crate) is_http2: Flag,
    pub(crate) http1: Http1,
    /// There was a response over HTTP/2 since the client was told to go elsewhere.
    pub(crate) has_responded: Flag,
    /// The end of input is held back from hyper until the request has its response.
    holds_end: Flag,
    /// The deadline of the request over HTTP/2 that was admitted and has no stream yet.
    admitted: Mutex<Option<Deadline>>,
}

/// What the last request and its response over HTTP/1 say about the connection.
#[derive(Debug, Default)]
pub(crate) struct Http1 {
    /// The request came over HTTP/1.0.
    pub(crate) is_1_0: Flag,
    /// The client waits for `100 Continue` with the body of the request.
    pub(crate) waits_with_body: Flag,
    /// The request has `Connection: close`.
    pub(crate) asks_to_close: Flag,
    /// The end of the connection is the end of the response, so that only a reset shows that the response
    /// broke off.
    pub(crate) ends_response: Flag,
}

/// A boolean of a connection.
#[derive(Debug, Default)]
pub(crate) struct Flag(AtomicBool);

impl Flag {
    pub(crate) fn get(&self) -> bool {
        self.0.load(Relaxed)
    }

    pub(crate) fn set(&self, value: bool) {
        self.0.store(value, Relaxed);
    }
}

impl ConnectionState {
    pub(crate) fn new(
        handle: Arc<ConnectionHandle>,
        capacity: Arc<WorkerCapacity>,
        peer: Option<Peer>,
    ) -> Self {
        Self {
            handle,
            capacity,
            peer,
            inbound: Inbound::default(),
            outbound: Outbound::default(),
            is_http2: Flag::default(),
            http1: Http1::default(),
            has_responded: Flag::default(),
            holds_end: Flag::default(),
            admitted: Mutex::default(),
        }
    }

    /// The state of a connection that counts for no limit on connections.
    pub(crate) fn alone(capacity: Arc<WorkerCapacity>) -> Self {
        let handle = ConnectionHandle::new(Ipv4Addr::LOCALHOST.into());
        Self::new(Arc::new(handle), capacity, None)
    }

    /// Whether a part of the head of an HTTP/1 request has come.
    pub(crate) fn has_half_head(&self) -> bool {
        self.inbound.has_half_head() && !self.is_http2.get() && self.in_flight() == 0
    }

    /// Notes that the client has closed its side of the connection, or the whole connection. Returns
    /// whether the end must be held back from hyper, which would drop the request in flight.
    pub(crate) fn note_end(&self) -> bool {
        let holds_end = self.in_flight() > 0;
        self.holds_end.set(holds_end);
        holds_end
    }

    /// Whether the client has closed its side while a request is in flight.
    pub(crate) fn is_half_closed(&self) -> bool {
        self.holds_end.get() && self.in_flight() > 0
    }

    /// Whether the end of input was held back and the response has ended, so that hyper must read
    /// the end. Asked once more, it is not.
    pub(crate) fn release_end(&self) -> bool {
        let is_due = self.holds_end.get() && self.in_flight() == 0;
        if is_due {
            self.holds_end.set(false);
        }
        is_due
    }

    /// Whether a request is in flight, or the rest of a response is still to be written.
    pub(crate) fn is_busy(&self) -> bool {
        self.in_flight() > 0 || self.outbound.is_writing()
    }

    /// Notes that a request over HTTP/2 was admitted, until its stream begins.
    pub(crate) fn note_admitted(&self, deadline: Deadline) {
        *lock(&self.admitted) = Some(deadline);
    }

    /// The deadline of the request that the stream which begins now is for, if it was admitted.
    pub(crate) fn take_admitted(&self) -> Option<Deadline> {
        lock(&self.admitted).take()
    }

    fn in_flight(&self) -> usize {
        self.handle.usage.in_flight()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_input_is_held_back_until_the_response_has_ended() {
        let state = ConnectionState::alone(Arc::new(WorkerCapacity::alone(1)));
        assert!(!state.note_end(), "hyper may read it");
        assert!(!state.is_half_closed() && !state.release_end());
        state.handle.usage.begin();
        assert!(state.note_end());
        assert!(state.is_half_closed() && !state.release_end());
        state.handle.usage.end();
        assert!(!state.is_half_closed());
        assert!(state.release_end());
        assert!(!state.release_end(), "hyper has read it");
    }
}
