//! [`ConnectionState`]: what the task of a connection and its requests tell each other; with [`Inbound`], which
//! part of a request the last bytes were, and [`Outbound`], what is still to be sent.
//!
//! hyper reads what comes behind a request at once with it, and does not read it again. So only the last
//! bytes ([`Tail`]) show whether something has come behind the request.
//!
//! hyper takes parts of a response before the socket does. So the end of a body is not the end of its
//! response; and over HTTP/2, hyper would take parts of all responses while the client reads nothing.

use std::{fmt, mem, net::Ipv4Addr, sync::Arc, task::Waker};

use crate::{
    limits,
    request::context::Deadline,
    server::capacity::{handle::ConnectionHandle, worker_capacity::WorkerCapacity},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::Relaxed},
        lock,
    },
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

/// Which part of a request over HTTP/1 the last bytes of a connection were.
#[derive(Debug, Default)]
pub(crate) struct Inbound {
    tail: SharedTail,
    /// Bytes have come that are not yet a request.
    has_unparsed: AtomicBool,
    /// The next bytes are the body of a request.
    is_in_body: AtomicBool,
}

impl Inbound {
    pub(crate) fn note_bytes(&self, bytes: &[u8]) {
        self.tail.add(bytes);
        self.has_unparsed.store(true, Relaxed);
    }

    /// Notes that the bytes were the head of a request. What is behind it is a part of the next one,
    /// unless it is a body.
    pub(crate) fn note_request(&self) {
        self.has_unparsed.store(!self.tail.is_empty_line(), Relaxed);
    }

    /// Notes that the next bytes are the body of a request.
    pub(crate) fn note_body_begins(&self) {
        self.is_in_body.store(true, Relaxed);
    }

    /// Notes that the body has been read or is not needed any more. `last` are its last bytes; `None`
    /// stands for a chunked body.
    pub(crate) fn note_body_ends(&self, last: Option<Tail>) {
        let is_all = match last {
            Some(last) => self.tail.ends_with(last),
            None => self.tail.is_empty_line(),
        };
        self.is_in_body.store(false, Relaxed);
        self.has_unparsed.store(!is_all, Relaxed);
    }

    /// Whether a part of a head has come, if no request is in flight.
    pub(super) fn has_half_head(&self) -> bool {
        self.has_unparsed.load(Relaxed) && !self.is_in_body.load(Relaxed)
    }
}

/// The last bytes of a connection or of a body, at most four.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Tail {
    /// The last byte is the lowest.
    bytes: u32,
    count: usize,
}

const SIZE: usize = size_of::<u32>();

impl Tail {
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        let last = &bytes[bytes.len().saturating_sub(SIZE)..];
        for byte in last {
            self.bytes = self.bytes << 8 | u32::from(*byte);
        }
        self.count = (self.count + last.len()).min(SIZE);
    }
}

/// The last four bytes that have come over a connection.
#[derive(Debug, Default)]
struct SharedTail(AtomicU32);

impl SharedTail {
    fn add(&self, bytes: &[u8]) {
        let mut tail = Tail {
            bytes: self.0.load(Relaxed),
            count: 0,
        };
        tail.add(bytes);
        self.0.store(tail.bytes, Relaxed);
    }

    /// Whether they end with an empty line, as a head and a chunked body do.
    fn is_empty_line(&self) -> bool {
        let bytes = self.bytes();
        bytes.ends_with(b"\n\r\n") || bytes.ends_with(b"\n\n")
    }

    fn ends_with(&self, tail: Tail) -> bool {
        let last = tail.bytes.to_be_bytes();
        self.bytes().ends_with(&last[SIZE - tail.count..])
    }

    fn bytes(&self) -> [u8; SIZE] {
        self.0.load(Relaxed).to_be_bytes()
    }
}

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

    #[test]
    fn the_last_bytes_are_known_however_they_come() {
        for parts in [
            &["GET / HTTP/1.1\r\n\r\n"][..],
            &["G\r\n\r", "\n"],
            &["\n", "\n"],
        ] {
            let tail = SharedTail::default();
            for part in parts {
                assert!(!tail.is_empty_line());
                tail.add(part.as_bytes());
            }
            assert!(tail.is_empty_line(), "{parts:?}");
            tail.add(b"GET");
            assert!(!tail.is_empty_line());
        }
    }

    #[test]
    fn the_end_of_a_body_is_the_end_of_what_has_come_or_not() {
        for (come, body, ends) in [
            ("head\r\n\r\nhello", &["hello"][..], true),
            ("head\r\n\r\nhello", &["he", "llo"], true),
            ("head\r\n\r\nhelloG", &["hello"], false),
            ("head\r\n\r\nx", &["x"], true),
            ("head\r\n\r\nxG", &["x"], false),
        ] {
            let (tail, mut end) = (SharedTail::default(), Tail::default());
            tail.add(come.as_bytes());
            for part in body {
                end.add(part.as_bytes());
            }
            assert_eq!(tail.ends_with(end), ends, "{come:?}");
        }
    }

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
