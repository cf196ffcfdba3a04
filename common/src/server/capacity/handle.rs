//! [`ConnectionHandle`]: an open connection as the other threads of the process see it.

use std::{
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, OnceLock},
    task::Waker,
};

use super::usage::{ConnectionUsage, Newcomers};
use crate::{
    lock::lock,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU8, Ordering::Relaxed},
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
}
