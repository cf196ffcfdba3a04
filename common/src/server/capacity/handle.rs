//! [`ConnectionHandle`]: an open connection as the other threads of the process see it; [`ConnectionUsage`]: what
//! its requests hold, since when it is idle, and whether its client takes the responses.

use std::{
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, OnceLock},
    task::Waker,
};

use crate::{
    sync::{
        Mutex, Notify,
        atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering::Relaxed},
        lock, now,
    },
    tls::identity::TrustVersion,
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
    /// A new connection needs the permit.
    MakeRoom = 3,
}

/// An open connection as the other threads of the process see it: its client, its usage, and how they
/// tell its task to end.
#[derive(Debug)]
pub(crate) struct ConnectionHandle {
    pub(crate) address: IpAddr,
    /// The network that counts as one peer at a limit; see [`network_of`].
    pub(crate) network: IpAddr,
    /// The authorities that have vouched for the client, with mutual TLS.
    pub(crate) trust: OnceLock<TrustVersion>,
    pub(crate) usage: ConnectionUsage,
    close: AtomicU8,
    is_preempted: AtomicBool,
    /// Wakes the task of the connection when it is told to end. It stays here after a call: one that takes
    /// it could take it from a task that knows the reason already, and would leave none for the next reason.
    waker: Mutex<Option<Waker>>,
}

impl ConnectionHandle {
    /// The handle on a connection that no newcomer waits for.
    pub(crate) fn new(address: IpAddr) -> Self {
        Self::with_newcomers(address, Arc::default())
    }

    pub(super) fn with_newcomers(address: IpAddr, newcomers: Arc<Newcomers>) -> Self {
        let address = address.to_canonical();
        Self {
            address,
            network: network_of(address),
            trust: OnceLock::new(),
            usage: ConnectionUsage::new(newcomers),
            close: AtomicU8::new(0),
            is_preempted: AtomicBool::new(false),
            waker: Mutex::default(),
        }
    }

    /// Tells the connection to end.
    pub(crate) fn close(&self, why: Close) {
        self.close.fetch_max(why as u8, Relaxed);
        self.wake();
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

    /// Tells the connection to end at once, because its client takes nothing and another request needs a
    /// permit. Returns whether this is new.
    pub(super) fn preempt(&self) -> bool {
        let is_new = !self.is_preempted.swap(true, Relaxed);
        self.wake();
        is_new
    }

    pub(crate) fn is_preempted(&self) -> bool {
        self.is_preempted.load(Relaxed)
    }

    /// Withdraws the preemption if the client has taken something after all.
    pub(crate) fn stay_if_taken(&self) {
        if self.usage.has_taken() {
            self.is_preempted.store(false, Relaxed);
        }
    }

    /// Replaces the waker, which is called whenever there is a reason to end. The caller looks for reasons
    /// that came before.
    pub(crate) fn wake_to_close(&self, waker: &Waker) {
        let _last = lock(&self.waker).replace(waker.clone());
    }

    fn wake(&self) {
        let waker = lock(&self.waker).clone();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

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
    use std::{sync::atomic::AtomicUsize, task::Wake};

    use super::*;

    fn handle() -> ConnectionHandle {
        ConnectionHandle::new(Ipv6Addr::LOCALHOST.into())
    }

    #[test]
    fn an_ipv4_address_and_an_ipv6_network_of_64_bits_are_one_peer_each() {
        let network = |address: &str| {
            let handle = ConnectionHandle::new(address.parse().unwrap());
            handle.network.to_string()
        };
        assert_eq!(network("192.0.2.7"), "192.0.2.7");
        assert_eq!(network("::ffff:192.0.2.7"), "192.0.2.7", "IPv4 in IPv6");
        assert_eq!(network("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(network("2001:db8:1:3::"), "2001:db8:1:3::");
    }

    #[test]
    fn the_strongest_reason_to_end_counts() {
        let handle = handle();
        assert_eq!(handle.told_to_close(), None);
        for why in [Close::Leave, Close::Drain, Close::MakeRoom] {
            handle.close(why);
            assert_eq!(handle.told_to_close(), Some(why));
        }
        handle.close(Close::Leave);
        assert_eq!(handle.told_to_close(), Some(Close::MakeRoom));
    }

    #[test]
    fn a_connection_is_preempted_once_and_stays_if_its_client_takes_something() {
        let handle = handle();
        assert!(!handle.is_preempted());
        assert!(handle.preempt());
        assert!(!handle.preempt(), "it knows");
        handle.stay_if_taken();
        assert!(handle.is_preempted());
        handle.usage.note_taken();
        handle.stay_if_taken();
        assert!(!handle.is_preempted());
    }

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    #[test]
    fn each_reason_to_end_wakes_the_connection() {
        let handle = handle();
        let woken = Arc::new(Woken::default());
        let count = || woken.0.load(Relaxed);
        handle.wake_to_close(&woken.clone().into());
        assert_eq!(count(), 0);
        handle.close(Close::Leave);
        assert_eq!(count(), 1);
        handle.close(Close::MakeRoom);
        assert_eq!(count(), 2);
        assert!(handle.preempt());
        assert_eq!(count(), 3);
    }

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
