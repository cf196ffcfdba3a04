//! [`Open`]: the state of an open connection, shared with other threads.

use std::{
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, OnceLock},
    task::Waker,
};

use http::Version;

use super::{
    clock::now,
    held::Held,
    newcomers::Newcomers,
    outbound::Outbound,
    tail::{SharedTail, Tail},
};
use crate::{
    lock::lock,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed},
    },
    tls::Peer,
};

/// The network that counts as one peer: an IPv4 address, or an IPv6 network of 64 bits, because
/// providers give each customer a whole network.
pub(super) fn network_of(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
    }
}

/// The reason why a connection must end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Close {
    /// The client is to go elsewhere. Over HTTP/1 the next response has `Connection: close`; over
    /// HTTP/2 the connection ends with its requests. An idle HTTP/1 connection stays.
    Leave = 1,
    /// The service drains. Requests that were already sent still get responses.
    Drain = 2,
    /// A new connection needs the place.
    MakeRoom = 3,
}

/// The state of an open connection.
#[derive(Debug)]
pub(crate) struct Open {
    pub(crate) address: IpAddr,
    /// The network that counts as one peer at a limit; see [`network_of`].
    pub(crate) network: IpAddr,
    /// The new connections that wait for the place of an idle one.
    newcomers: Arc<Newcomers>,
    /// The peer that mutual TLS has shown.
    pub(crate) peer: OnceLock<Peer>,
    pub(crate) held: Held,
    /// When the last request ended, or the connection was opened; see [`now`].
    idle_since: AtomicU64,
    /// Bytes have come that are not yet a request.
    has_unparsed: AtomicBool,
    /// The last bytes that have come. hyper reads what comes behind a request at once with it, and
    /// does not read it again.
    tail: SharedTail,
    /// The next bytes are the body of a request.
    is_in_body: AtomicBool,
    /// The client waits for `100 Continue` with the body of its request.
    waits_with_body: AtomicBool,
    is_http2: AtomicBool,
    /// The last request came over HTTP/1.0.
    is_http_1_0: AtomicBool,
    /// The end of the connection is the end of the response.
    ends_response: AtomicBool,
    /// The client asks to close the connection after the last request.
    asks_to_close: AtomicBool,
    /// There was a response since the client is to go elsewhere.
    has_responded: AtomicBool,
    /// The end of input is held back from hyper until the request has its response.
    holds_end: AtomicBool,
    pub(crate) outbound: Outbound,
    close: AtomicU8,
    /// Wakes the connection when it must end. It stays here after a call: one that takes it could take it
    /// from a connection that knows the reason already, and would leave none for the next reason.
    waker: Mutex<Option<Waker>>,
}

impl Open {
    /// The state of a connection that no other one waits for.
    pub(crate) fn new(address: IpAddr) -> Self {
        Self::with_newcomers(address, Arc::default())
    }

    pub(super) fn with_newcomers(address: IpAddr, newcomers: Arc<Newcomers>) -> Self {
        let address = address.to_canonical();
        Self {
            address,
            network: network_of(address),
            newcomers,
            peer: OnceLock::new(),
            held: Held::default(),
            idle_since: AtomicU64::new(now()),
            has_unparsed: AtomicBool::new(false),
            tail: SharedTail::default(),
            is_in_body: AtomicBool::new(false),
            waits_with_body: AtomicBool::new(false),
            is_http2: AtomicBool::new(false),
            is_http_1_0: AtomicBool::new(false),
            ends_response: AtomicBool::new(false),
            asks_to_close: AtomicBool::new(false),
            has_responded: AtomicBool::new(false),
            holds_end: AtomicBool::new(false),
            outbound: Outbound::default(),
            close: AtomicU8::new(0),
            waker: Mutex::default(),
        }
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.held.in_flight()
    }

    /// Adds a request, which waits for the service.
    pub(crate) fn begin_request(&self) {
        self.held.begin();
    }

    /// Removes a request that no longer waits for the service.
    pub(crate) fn end_request(&self) {
        if self.held.end() {
            self.idle_since.store(now(), Relaxed);
            self.newcomers.note_idle();
        }
    }

    /// Asks the connection to end, because its client takes nothing. Returns whether this is new.
    pub(super) fn ask_to_give_way(&self) -> bool {
        let is_new = self.held.ask_to_give_way();
        self.wake();
        is_new
    }

    /// When the connection became idle, or `None` while it has requests.
    pub(crate) fn idle_since(&self) -> Option<u64> {
        (self.in_flight() == 0).then(|| self.idle_since.load(Relaxed))
    }

    /// Notes a request that was refused, and so is never in flight.
    pub(crate) fn note_refusal(&self) {
        self.idle_since.store(now(), Relaxed);
    }

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

    /// Notes whether the client waits for `100 Continue` with the body of its request.
    pub(crate) fn note_waits_with_body(&self, waits: bool) {
        self.waits_with_body.store(waits, Relaxed);
    }

    pub(crate) fn waits_with_body(&self) -> bool {
        self.waits_with_body.load(Relaxed)
    }

    /// Notes that the client has closed its side of the connection, or the whole connection. Returns
    /// whether the end must be held back from hyper, which would drop the request in flight.
    pub(crate) fn note_end(&self) -> bool {
        let holds_end = self.in_flight() > 0;
        self.holds_end.store(holds_end, Relaxed);
        holds_end
    }

    /// Whether the client has closed its side while a request is in flight.
    pub(crate) fn is_half_closed(&self) -> bool {
        self.holds_end.load(Relaxed) && self.in_flight() > 0
    }

    /// Whether the end of input was held back and the response has ended, so that hyper must read
    /// the end.
    pub(crate) fn release_end(&self) -> bool {
        self.holds_end.load(Relaxed) && self.in_flight() == 0 && self.holds_end.swap(false, Relaxed)
    }

    /// Whether a request is in flight, or the rest of a response is still to be written.
    pub(crate) fn is_busy(&self) -> bool {
        self.in_flight() > 0 || self.outbound.is_writing()
    }

    pub(crate) fn note_http2(&self) {
        self.is_http2.store(true, Relaxed);
    }

    pub(crate) fn is_http2(&self) -> bool {
        self.is_http2.load(Relaxed)
    }

    /// Notes the version of a request over HTTP/1, and whether it has `Connection: close`.
    pub(crate) fn note_http1(&self, version: Version, asks_to_close: bool) {
        self.is_http_1_0.store(version == Version::HTTP_10, Relaxed);
        self.asks_to_close.store(asks_to_close, Relaxed);
    }

    pub(crate) fn asks_to_close(&self) -> bool {
        self.asks_to_close.load(Relaxed)
    }

    pub(crate) fn is_http_1_0(&self) -> bool {
        self.is_http_1_0.load(Relaxed)
    }

    /// Whether the end of the connection is the end of the response, so that only a reset shows that
    /// the response broke off.
    pub(crate) fn ends_response(&self) -> bool {
        self.ends_response.load(Relaxed)
    }

    pub(crate) fn note_ends_response(&self, ends_response: bool) {
        self.ends_response.store(ends_response, Relaxed);
    }

    /// Notes a response, once the client is to go elsewhere.
    pub(crate) fn note_response(&self) {
        self.has_responded.store(true, Relaxed);
    }

    pub(crate) fn has_responded(&self) -> bool {
        self.has_responded.load(Relaxed)
    }

    /// Whether a part of the head of an HTTP/1 request has come.
    pub(crate) fn has_half_head(&self) -> bool {
        let is_elsewhere = self.is_http2() || self.is_in_body.load(Relaxed);
        self.has_unparsed.load(Relaxed) && !is_elsewhere && self.in_flight() == 0
    }

    /// Makes the connection end.
    pub(crate) fn close(&self, why: Close) {
        self.close.fetch_max(why as u8, Relaxed);
        self.wake();
    }

    fn wake(&self) {
        let waker = lock(&self.waker).clone();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Calls the waker, in place of the last one, whenever there is a reason to end. The caller looks for
    /// reasons that came before.
    pub(crate) fn wake_to_close(&self, waker: &Waker) {
        let _last = lock(&self.waker).replace(waker.clone());
    }

    /// The reason why the connection must end, if it must.
    pub(crate) fn told_to_close(&self) -> Option<Close> {
        match self.close.load(Relaxed) {
            0 => None,
            1 => Some(Close::Leave),
            2 => Some(Close::Drain),
            _ => Some(Close::MakeRoom),
        }
    }
}
