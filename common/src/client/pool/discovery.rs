//! [`Names`]: the addresses of a service, looked up for the whole process. [`keep_replicas`]: the
//! task of a worker that connects to its share of them.

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
use tokio_util::task::AbortOnDropHandle;
use tracing::warn;

use super::{balance::Balance, keeper::keep_connected, replica::Replica};
use crate::{
    client::{Config, target::Target, wire::Head},
    limits,
};

/// The names of a service and their addresses, for the whole process.
#[derive(Debug)]
pub(in crate::client) struct Names {
    all: Vec<Name>,
    /// The addresses of each name: none until the name is looked up.
    found: watch::Sender<Vec<Vec<SocketAddr>>>,
    /// Seeds the order in which the workers of this process prefer replicas.
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
    pub(in crate::client) fn new(target: &Target, config: &Config) -> Self {
        let names = target.authorities().iter().cloned();
        let all: Vec<_> = names
            .map(|authority| Name {
                head: Head {
                    authority,
                    request_id_names: config.request_id_names,
                    tls: config.tls.clone(),
                },
                last_look_up: Mutex::default(),
            })
            .collect();
        Self {
            found: watch::Sender::new(vec![Vec::new(); all.len()]),
            all,
            seed: fastrand::u64(..),
        }
    }

    /// Looks up a name, unless a worker has done so within `max_age`. If the look-up fails, the
    /// last addresses stay.
    async fn look_up(&self, index: usize, max_age: Duration) {
        let Name { head, last_look_up } = &self.all[index];
        let authority = &head.authority;
        let mut last = last_look_up.lock().await;
        if last.is_some_and(|last| last.at.elapsed() < max_age) {
            return;
        }
        let addresses = timeout(limits::LOOKUP_TIMEOUT, addresses_of(authority)).await;
        let addresses = addresses.unwrap_or_else(|elapsed| Err(elapsed.into()));
        let was_success = last.is_none_or(|last| last.is_success);
        *last = Some(LookUp {
            at: Instant::now(),
            is_success: addresses.is_ok(),
        });
        match addresses {
            Ok(addresses) => {
                self.found.send_if_modified(|found| {
                    let is_new = found[index] != addresses;
                    found[index] = addresses;
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

    /// Looks up a name every 5 s, as soon as a connection has ended, and every 0.5 s until it has
    /// addresses.
    async fn keep_looking_up(self: Arc<Self>, index: usize, mut ended: watch::Receiver<()>) {
        let mut max_age = limits::LOOKUP_PAUSE;
        loop {
            self.look_up(index, max_age).await;
            sleep(limits::LOOKUP_PAUSE).await;
            max_age = limits::LOOKUP_PAUSE;
            if !self.found.borrow()[index].is_empty() {
                select! {
                    () = sleep(limits::LOOKUP_INTERVAL) => max_age = limits::LOOKUP_INTERVAL,
                    Ok(()) = ended.changed() => {}
                }
            }
        }
    }

    /// All addresses in the order of a worker's preference.
    fn ring(&self, share: &Share) -> Vec<(SocketAddr, Head)> {
        let found = self.found.borrow();
        let mut all = BTreeMap::new();
        for (name, addresses) in self.all.iter().zip(&*found) {
            for address in addresses {
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

/// Looks up the addresses of one family. The IPv4 and the IPv6 address of a name such as
/// `localhost` are the same replica.
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

/// A worker's share of the connections of the process.
#[derive(Debug)]
pub(in crate::client) struct Share {
    number: usize,
    workers: watch::Sender<usize>,
}

impl Share {
    /// Returns the share of one more worker. `number` is the worker's own, `workers` counts them
    /// all.
    pub(in crate::client) fn join(number: usize, workers: &watch::Sender<usize>) -> Self {
        workers.send_modify(|workers| *workers += 1);
        Self {
            number,
            workers: workers.clone(),
        }
    }

    /// The number of replicas that the worker connects to.
    fn replicas(&self) -> usize {
        let workers = (*self.workers.borrow()).max(1);
        (limits::MAX_CHANNEL_CONNECTIONS / workers).max(limits::MIN_REPLICAS)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.workers.send_modify(|workers| *workers -= 1);
    }
}

/// Keeps a worker's share of the replicas in its balance while polled.
pub(in crate::client) async fn keep_replicas(
    names: Arc<Names>,
    share: Share,
    balance: Balance<Replica>,
) {
    let ended = watch::Sender::new(());
    // A task for each name, so that a slow look-up delays no other.
    let mut look_ups = JoinSet::new();
    for index in 0..names.all.len() {
        look_ups.spawn(names.clone().keep_looking_up(index, ended.subscribe()));
    }
    let mut found = names.found.subscribe();
    let mut workers = share.workers.subscribe();
    let mut keepers = HashMap::<SocketAddr, AbortOnDropHandle<()>>::new();
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
                let keeper = keep_connected(*address, head, balance, ended.clone());
                AbortOnDropHandle::new(tokio::spawn(keeper))
            });
        }
        select! {
            _ = found.changed() => {}
            _ = workers.changed() => {}
            () = balance.reachability_changed() => {}
        }
    }
}

/// The shortest prefix of a ring that has `count` replicas other than the unreachable ones.
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
    fn a_worker_connects_to_its_share_and_replaces_unreachable_replicas() {
        let ring = ring(10);
        assert_eq!(prefix(&ring, 3, |_| false).len(), 3);
        assert_eq!(prefix(&ring, 20, |_| false).len(), 10);
        let first_two = |address: SocketAddr| address.port() < 2;
        assert_eq!(prefix(&ring, 3, first_two).len(), 5);
        assert_eq!(prefix(&ring, 3, |_| true).len(), 10);
        assert_eq!(prefix(&ring, 3, |address| address.port() == 3).len(), 3);
    }

    /// The number of connections to each of 50 replicas from this many workers of one process.
    fn connections(workers: usize) -> Vec<usize> {
        let target = "service:1".parse().expect("a target");
        let names = Names::new(&target, &Config::default());
        let addresses = (0..50).map(address).collect();
        names.found.send_replace(vec![addresses]);
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
