//! The open connections of the process: how many there may be, and which of them is closed for
//! another.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc, LazyLock, Mutex,
        atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    task::Waker,
    time::Instant,
};

use futures_util::task::AtomicWaker;
use slab::Slab;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::warn;

use super::places::Request;
use crate::{limited::Limited, lock::lock, metrics};

/// How many connections are picked in one look at all of them.
const PICKED_AT_ONCE: usize = 64;

/// Milliseconds since the first call, and never 0.
pub(super) fn now() -> u64 {
    static BEGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
    u64::try_from(BEGIN.elapsed().as_millis()).unwrap_or(u64::MAX) + 1
}

/// The provider of an IPv6 peer gives it a network of 64 bits, and with it any number of addresses.
fn network_of(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
    }
}

/// How a connection is told to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Close {
    /// The service drains: what was sent by then is still answered.
    Drain = 1,
    /// Another needs its place.
    MakeRoom = 2,
}

/// An open connection, as other threads than its own see it.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) address: IpAddr,
    /// What counts as one peer at a limit: an IPv4 address, or all that an IPv6 network has.
    pub(super) network: IpAddr,
    /// Its requests in flight.
    pub(super) requests: Mutex<Slab<Arc<Request>>>,
    /// How many these are.
    in_flight: AtomicUsize,
    /// When it had a request last, or was opened; see [`now`].
    idle_since: AtomicU64,
    /// Bytes came that belong to no request yet.
    has_unparsed: AtomicBool,
    /// Bytes that come are the body of a request.
    is_in_body: AtomicBool,
    is_http2: AtomicBool,
    /// It has lasted for as long as it may.
    is_old: AtomicBool,
    /// The client sends nothing more.
    has_ended: AtomicBool,
    /// Bytes wait for the client to take them.
    is_writing: AtomicBool,
    close: AtomicU8,
    waker: AtomicWaker,
}

impl Open {
    pub(super) fn new(address: IpAddr) -> Self {
        let address = address.to_canonical();
        Self {
            address,
            network: network_of(address),
            requests: Mutex::default(),
            in_flight: AtomicUsize::new(0),
            idle_since: AtomicU64::new(now()),
            has_unparsed: AtomicBool::new(false),
            is_in_body: AtomicBool::new(false),
            is_http2: AtomicBool::new(false),
            is_old: AtomicBool::new(false),
            has_ended: AtomicBool::new(false),
            is_writing: AtomicBool::new(false),
            close: AtomicU8::new(0),
            waker: AtomicWaker::new(),
        }
    }

    /// Its requests in flight.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Relaxed)
    }

    /// Returns the key that [`Self::end_request`] takes.
    pub(super) fn begin_request(&self, request: Arc<Request>) -> usize {
        let mut requests = lock(&self.requests);
        let key = requests.insert(request);
        self.in_flight.store(requests.len(), Relaxed);
        key
    }

    pub(super) fn end_request(&self, key: usize) {
        let mut requests = lock(&self.requests);
        requests.remove(key);
        self.in_flight.store(requests.len(), Relaxed);
        if requests.is_empty() {
            self.idle_since.store(now(), Relaxed);
        }
    }

    /// Since when it has had no request, or `None` where it has one.
    pub(super) fn idle_since(&self) -> Option<u64> {
        (self.in_flight() == 0).then(|| self.idle_since.load(Relaxed))
    }

    /// Bytes came.
    pub(super) fn note_bytes(&self) {
        self.has_unparsed.store(true, Relaxed);
    }

    /// A request came, whose head is what the bytes were.
    pub(super) fn note_request(&self) {
        self.has_unparsed.store(false, Relaxed);
    }

    /// What comes from now on is the body of a request.
    pub(super) fn note_body_begins(&self) {
        self.is_in_body.store(true, Relaxed);
    }

    /// All of that body has come, or nobody wants it.
    pub(super) fn note_body_ends(&self) {
        self.is_in_body.store(false, Relaxed);
        self.has_unparsed.store(false, Relaxed);
    }

    /// The client has closed its side, or all of the connection.
    pub(super) fn note_end(&self) {
        self.has_ended.store(true, Relaxed);
    }

    /// Whether the client has done so, and a request of its is still in flight.
    pub(super) fn is_half_closed(&self) -> bool {
        self.has_ended.load(Relaxed) && self.in_flight() > 0
    }

    /// Whether bytes wait for the client to take them, as of the last write.
    pub(super) fn is_writing(&self) -> bool {
        self.is_writing.load(Relaxed)
    }

    pub(super) fn note_writing(&self, is_writing: bool) {
        self.is_writing.store(is_writing, Relaxed);
    }

    /// Whether there is a request in flight, or a rest of a response is still to be written.
    pub(super) fn is_busy(&self) -> bool {
        self.in_flight() > 0 || self.is_writing()
    }

    pub(super) fn note_http2(&self) {
        self.is_http2.store(true, Relaxed);
    }

    pub(super) fn is_http2(&self) -> bool {
        self.is_http2.load(Relaxed)
    }

    /// It has lasted for as long as it may: the next response over HTTP/1 is the last.
    pub(super) fn note_old(&self) {
        self.is_old.store(true, Relaxed);
    }

    pub(super) fn is_old(&self) -> bool {
        self.is_old.load(Relaxed)
    }

    /// Whether a part of the head of an HTTP/1 request is there.
    pub(super) fn has_half_head(&self) -> bool {
        let is_elsewhere = self.is_http2() || self.is_in_body.load(Relaxed);
        self.has_unparsed.load(Relaxed) && !is_elsewhere && self.in_flight() == 0
    }

    /// Tells it to end.
    pub(super) fn close(&self, why: Close) {
        self.close.fetch_max(why as u8, Relaxed);
        self.waker.wake();
    }

    /// The waker is called when it is told to end.
    pub(super) fn wake_to_close(&self, waker: &Waker) {
        self.waker.register(waker);
    }

    /// Whether it is told to end.
    pub(super) fn told_to_close(&self) -> Option<Close> {
        match self.close.load(Relaxed) {
            0 => None,
            1 => Some(Close::Drain),
            _ => Some(Close::MakeRoom),
        }
    }
}

/// All open connections of the process.
#[derive(Debug)]
pub(super) struct Connections {
    limit: usize,
    places: Arc<Semaphore>,
    all: Mutex<HashMap<u64, Arc<Open>>>,
    next: AtomicU64,
    /// Those that were idle for longest at the last look, the longest last.
    picked: Mutex<Vec<(u64, Arc<Open>)>>,
    telling: Limited,
}

/// A connection that has a place, until this is dropped.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) open: Arc<Open>,
    connections: Arc<Connections>,
    number: u64,
    _place: OwnedSemaphorePermit,
}

impl Drop for Connection {
    fn drop(&mut self) {
        lock(&self.connections.all).remove(&self.number);
    }
}

impl Connections {
    /// For a process that may have this many.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            places: Arc::new(Semaphore::new(limit)),
            all: Mutex::default(),
            next: AtomicU64::new(0),
            picked: Mutex::default(),
            telling: Limited::per_second(1),
        }
    }

    /// Waits until there is a place for a connection from this address. Where there is none, the
    /// one that is idle for longest is closed.
    pub(super) async fn admit(self: &Arc<Self>, address: IpAddr) -> Connection {
        let place = self.places.clone().try_acquire_owned();
        let place = if let Ok(place) = place {
            place
        } else {
            self.make_room();
            let place = self.places.clone().acquire_owned().await;
            place.expect("it is never closed")
        };
        let open = Arc::new(Open::new(address));
        let number = self.next.fetch_add(1, Relaxed);
        lock(&self.all).insert(number, open.clone());
        Connection {
            open,
            connections: self.clone(),
            number,
            _place: place,
        }
    }

    fn make_room(&self) {
        metrics::mine(|mine| mine.connections_at_limit.add(1));
        if let Some(untold) = self.telling.tell() {
            warn!(
                action = "accept",
                status = "failure",
                limit = self.limit,
                untold,
                "there are as many connections as there may be; the longest idle makes room"
            );
        }
        let mut picked = lock(&self.picked);
        let close_one = |picked: &mut Vec<(u64, Arc<Open>)>| {
            while let Some((since, open)) = picked.pop() {
                if open.idle_since() == Some(since) {
                    open.close(Close::MakeRoom);
                    return true;
                }
            }
            false
        };
        if !close_one(&mut picked) {
            *picked = self.idle_for_longest();
            close_one(&mut picked);
        }
    }

    fn idle_for_longest(&self) -> Vec<(u64, Arc<Open>)> {
        let all = lock(&self.all);
        let idle = all.values().filter(|open| open.close.load(Relaxed) == 0);
        let idle = idle.filter_map(|open| Some((open.idle_since()?, open)));
        let mut idle: Vec<_> = idle.collect();
        idle.sort_unstable_by_key(|(since, _)| *since);
        let longest = idle.into_iter().take(PICKED_AT_ONCE).rev();
        longest.map(|(since, open)| (since, open.clone())).collect()
    }

    /// Lets `look` see each of them.
    pub(super) fn for_each(&self, look: impl FnMut(&Arc<Open>)) {
        lock(&self.all).values().for_each(look);
    }
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, time::Duration};

    use futures_util::FutureExt;

    use super::{super::places::Kind, *};

    const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    #[tokio::test]
    async fn the_longest_idle_makes_room_and_one_with_a_request_does_not() {
        let connections = Arc::new(Connections::new(3));
        let mut open = Vec::new();
        for _ in 0..3 {
            open.push(connections.admit(ADDRESS).await);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let request = Arc::new(Request::new(Kind::Ordinary));
        open[0].open.begin_request(request);
        let mut newcomer = Box::pin(connections.admit(ADDRESS));
        assert!(newcomer.as_mut().now_or_never().is_none());
        let told = |index: usize| open[index].open.told_to_close();
        assert_eq!(
            [told(0), told(1), told(2)],
            [None, Some(Close::MakeRoom), None]
        );
        drop(open.remove(1));
        let newcomer = newcomer.await;
        assert!(newcomer.open.idle_since().is_some());
    }
}
