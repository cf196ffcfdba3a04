//! [`Names`]: the addresses of a service, looked up for the whole process; and the task of a
//! worker that keeps its balance in step with them.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use http::uri::Authority;
use tokio::{
    net::lookup_host,
    select,
    sync::{Mutex, watch},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tracing::warn;

use super::{balance::Balance, keeper::keep_connected, replica::Replica};
use crate::client::{RequestIdNames, target::Target, wire::Head};

/// The shortest pause between two look-ups of a name, however many connections end.
const LOOKUP_PAUSE: Duration = Duration::from_millis(500);

/// How much longer the pause is if no connection ends: then a name is looked up every 5 s.
const LOOKUP_INTERVAL: Duration = Duration::from_millis(4_500);

/// The time limit of a look-up.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

/// Connections of a channel, for the whole process. Each worker has an equal share of them, and
/// connects to that many replicas.
const MAX_CONNECTIONS: usize = 512;

/// Replicas that each worker connects to at least, if there are as many. With fewer, a worker
/// would lose half of its replicas with one.
const MIN_REPLICAS: usize = 3;

/// The names of a service and their addresses, for the whole process.
#[derive(Debug)]
pub(in crate::client) struct Names {
    all: Vec<Name>,
    /// The addresses of each name, once they are known.
    found: watch::Sender<Vec<Option<Vec<SocketAddr>>>>,
    /// The order in which this process prefers replicas; another process has another.
    seed: u64,
}

#[derive(Debug)]
struct Name {
    head: Head,
    last_look_up: Mutex<Option<LookUp>>,
}

#[derive(Debug, Clone, Copy)]
struct LookUp {
    at: Instant,
    is_success: bool,
}

impl Names {
    pub(in crate::client) fn new(target: &Target, request_id_names: RequestIdNames) -> Self {
        let names = target.authorities().iter().cloned();
        let all: Vec<_> = names
            .map(|authority| Name {
                head: Head {
                    authority,
                    request_id_names,
                },
                last_look_up: Mutex::default(),
            })
            .collect();
        Self {
            found: watch::Sender::new(vec![None; all.len()]),
            all,
            seed: fastrand::u64(..),
        }
    }

    /// Looks a name up, unless a worker has done so within `max_age`. What is known of it is kept
    /// if that fails.
    async fn look_up(&self, index: usize, max_age: Duration) {
        let Name { head, last_look_up } = &self.all[index];
        let authority = &head.authority;
        let mut last = last_look_up.lock().await;
        if last.is_some_and(|last| last.at.elapsed() < max_age) {
            return;
        }
        let addresses = timeout(LOOKUP_TIMEOUT, addresses_of(authority)).await;
        let addresses = addresses.unwrap_or_else(|late| Err(late.into()));
        let was_success = last.is_none_or(|last| last.is_success);
        *last = Some(LookUp {
            at: Instant::now(),
            is_success: addresses.is_ok(),
        });
        match addresses {
            Ok(addresses) => {
                self.found.send_if_modified(|found| {
                    let is_new = found[index].as_ref() != Some(&addresses);
                    found[index] = Some(addresses);
                    is_new
                });
            }
            Err(error) if was_success => warn!(
                action = "look_up",
                status = "failure",
                %authority,
                %error,
                "the name can't be looked up; its last addresses are kept"
            ),
            Err(_) => {}
        }
    }

    /// Looks a name up now and then, as soon as a connection has ended, and often while nothing
    /// is known of it.
    async fn keep_looking_up(self: Arc<Self>, index: usize, mut ended: watch::Receiver<()>) {
        let mut max_age = LOOKUP_PAUSE;
        loop {
            self.look_up(index, max_age).await;
            sleep(LOOKUP_PAUSE).await;
            max_age = LOOKUP_PAUSE;
            if self.found.borrow()[index].is_some() {
                select! {
                    () = sleep(LOOKUP_INTERVAL) => max_age = LOOKUP_INTERVAL,
                    Ok(()) = ended.changed() => {}
                }
            }
        }
    }

    /// All addresses in the order in which a worker prefers them.
    fn ring(&self, share: &Share) -> Vec<(SocketAddr, Head)> {
        let found = self.found.borrow();
        let mut all = BTreeMap::new();
        for (name, addresses) in self.all.iter().zip(&*found) {
            for address in addresses.iter().flatten() {
                all.entry(*address).or_insert_with(|| name.head.clone());
            }
        }
        let mut ring: Vec<_> = all.into_iter().collect();
        fastrand::Rng::with_seed(self.seed).shuffle(&mut ring);
        if !ring.is_empty() {
            let first = share.number.wrapping_mul(share.replicas()) % ring.len();
            ring.rotate_left(first);
        }
        ring
    }
}

/// One family: the two addresses of a name such as `localhost` are one replica.
async fn addresses_of(authority: &Authority) -> io::Result<Vec<SocketAddr>> {
    let all: Vec<_> = lookup_host(authority.as_str()).await?.collect();
    let (v4, v6): (Vec<_>, Vec<_>) = all.into_iter().partition(SocketAddr::is_ipv4);
    let mut addresses = if v4.is_empty() { v6 } else { v4 };
    if addresses.is_empty() {
        return Err(io::Error::other("the name has no address"));
    }
    addresses.sort();
    addresses.dedup();
    Ok(addresses)
}

/// The share that a worker has of the connections of the process.
#[derive(Debug)]
pub(in crate::client) struct Share {
    number: usize,
    workers: watch::Sender<usize>,
}

impl Share {
    /// The share of one more worker, with a number of its own; `workers` counts them.
    pub(in crate::client) fn join(number: usize, workers: &watch::Sender<usize>) -> Self {
        workers.send_modify(|workers| *workers += 1);
        Self {
            number,
            workers: workers.clone(),
        }
    }

    /// How many replicas the worker connects to.
    fn replicas(&self) -> usize {
        let workers = (*self.workers.borrow()).max(1);
        (MAX_CONNECTIONS / workers).max(MIN_REPLICAS)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.workers.send_modify(|workers| *workers -= 1);
    }
}

/// Keeps the balance of a worker in step with the addresses, for as long as it is polled.
pub(in crate::client) async fn keep(names: Arc<Names>, share: Share, balance: Balance<Replica>) {
    let ended = watch::Sender::new(());
    // Each name by itself, so that a slow one delays no other.
    let mut look_ups = JoinSet::new();
    for index in 0..names.all.len() {
        look_ups.spawn(names.clone().keep_looking_up(index, ended.subscribe()));
    }
    let mut found = names.found.subscribe();
    let mut workers = share.workers.subscribe();
    let mut keepers = HashMap::<SocketAddr, JoinSet<()>>::new();
    loop {
        found.mark_unchanged();
        workers.mark_unchanged();
        let ring = names.ring(&share);
        let is_unreachable = |address: SocketAddr| balance.is_unreachable(address);
        let wanted = prefix(&ring, share.replicas(), is_unreachable);
        keepers.retain(|address, _| wanted.iter().any(|(wanted, _)| wanted == address));
        for (address, head) in wanted {
            keepers.entry(*address).or_insert_with(|| {
                let (head, balance) = (head.clone(), balance.clone());
                let mut keeper = JoinSet::new(); // which ends its task when it is dropped
                keeper.spawn(keep_connected(*address, head, balance, ended.clone()));
                keeper
            });
        }
        select! {
            _ = found.changed() => {}
            _ = workers.changed() => {}
            () = balance.reachability_changed() => {}
        }
    }
}

/// The first replicas of a ring, so many that `count` of them are not unreachable.
fn prefix<T>(
    ring: &[(SocketAddr, T)],
    count: usize,
    is_unreachable: impl Fn(SocketAddr) -> bool,
) -> &[(SocketAddr, T)] {
    let mut left = count;
    let end = ring.iter().position(|(address, _)| {
        if left == 0 {
            return true;
        }
        left -= usize::from(!is_unreachable(*address));
        false
    });
    &ring[..end.unwrap_or(ring.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: u16) -> SocketAddr {
        ([10, 0, 0, 1], number).into()
    }

    fn ring(of: u16) -> Vec<(SocketAddr, ())> {
        (0..of).map(|number| (address(number), ())).collect()
    }

    #[test]
    fn a_worker_connects_to_its_share_and_to_others_in_place_of_the_unreachable() {
        let ring = ring(10);
        assert_eq!(prefix(&ring, 3, |_| false).len(), 3);
        assert_eq!(prefix(&ring, 20, |_| false).len(), 10);
        let first_two = |address: SocketAddr| address.port() < 2;
        assert_eq!(prefix(&ring, 3, first_two).len(), 5);
        assert_eq!(prefix(&ring, 3, |_| true).len(), 10);
        assert_eq!(prefix(&ring, 3, |address| address.port() == 3).len(), 3);
    }

    /// How many connections 50 replicas get from that many workers of one process.
    fn connections(workers: usize) -> Vec<usize> {
        let target = "service:1".parse().expect("a target");
        let names = Names::new(&target, RequestIdNames::Both);
        let addresses = (0..50).map(address).collect();
        names.found.send_replace(vec![Some(addresses)]);
        let count = watch::Sender::new(0);
        let shares: Vec<_> = (0..workers)
            .map(|number| Share::join(number, &count))
            .collect();
        let mut connections = HashMap::<SocketAddr, usize>::new();
        for share in &shares {
            let ring = names.ring(share);
            for (address, _) in prefix(&ring, share.replicas(), |_| false) {
                *connections.entry(*address).or_default() += 1;
            }
        }
        connections.into_values().collect()
    }

    #[test]
    fn many_workers_share_the_connections_of_the_process_evenly() {
        assert_eq!(connections(2), [2; 50], "few workers connect to all");
        let many = connections(64);
        assert_eq!(many.iter().sum::<usize>(), 512);
        assert_eq!(many.len(), 50, "no replica is left out");
        assert!(
            many.iter().all(|count| (10..=11).contains(count)),
            "{many:?}"
        );
    }
}
