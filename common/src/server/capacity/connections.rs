//! [`Connections`]: the open connections of the process, their limit, and which of them ends at the limit to
//! make room for a new one, the newcomer.
//!
//! At the limit, and gently near it, the network with the most connections loses the one that has been
//! idle for longest. The newcomer counts, so a flood of connections from one network closes its own. Among
//! networks with few connections, the longest idle is chosen.

use std::{
    collections::HashMap,
    net::IpAddr,
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::sleep,
};
use tracing::warn;

use super::handle::{Close, ConnectionHandle, Newcomers, network_of};
use crate::{limits, rate_limit::RateLimit, sync::lock, telemetry::metrics};

#[derive(Debug)]
pub(crate) struct Connections {
    limit: usize,
    permits: Arc<Semaphore>,
    all: Mutex<All>,
    next: AtomicU64,
    /// Whether new connections are told to leave.
    says_goodbye: AtomicBool,
    newcomers: Arc<Newcomers>,
    picked: Mutex<Picked>,
    warnings: RateLimit,
}

/// The open connections, by number, and how many each network has.
#[derive(Debug)]
struct All {
    open: HashMap<u64, Arc<ConnectionHandle>>,
    networks: HashMap<IpAddr, usize>,
    /// The number of connections up to which networks count as equal.
    few: usize,
}

impl All {
    fn new(limit: usize) -> Self {
        Self {
            open: HashMap::new(),
            networks: HashMap::new(),
            few: limits::FEW_CONNECTIONS.max(limit / limits::FEW_SHARE),
        }
    }

    fn add(&mut self, number: u64, handle: Arc<ConnectionHandle>) {
        *self.networks.entry(handle.network).or_default() += 1;
        self.open.insert(number, handle);
    }

    fn remove(&mut self, number: u64) {
        let Some(handle) = self.open.remove(&number) else {
            return;
        };
        if let Some(count) = self.networks.get_mut(&handle.network) {
            *count -= 1;
            if *count == 0 {
                self.networks.remove(&handle.network);
            }
        }
    }

    /// The number of connections of a network, with the newcomer if that is of the same network. All numbers
    /// up to `few` count as equal.
    fn weight(&self, network: IpAddr, newcomer: IpAddr) -> usize {
        let count = self.networks.get(&network).copied().unwrap_or_default();
        (count + usize::from(network == newcomer)).max(self.few)
    }

    /// Picks the connections that have been idle for longest, of the networks with the most connections. The
    /// others have requests, or have been told `why` already.
    fn pick(&self, newcomer: IpAddr, why: Close) -> Picked {
        let (mut weight, mut idle) = (0, Vec::new());
        for handle in self.open.values() {
            let Some(since) = handle.usage.idle_since() else {
                continue;
            };
            let its_weight = self.weight(handle.network, newcomer);
            if its_weight < weight || handle.told_to_close() >= Some(why) {
                continue;
            }
            if its_weight > weight {
                weight = its_weight;
                idle.clear();
            }
            idle.push((since, handle));
        }
        idle.sort_unstable_by_key(|(since, _)| *since);
        let longest = idle.into_iter().take(limits::MAX_IDLE_PICKED).rev();
        Picked {
            weight,
            idle: longest
                .map(|(since, handle)| (since, handle.clone()))
                .collect(),
        }
    }
}

/// Connections that were idle at the last scan.
#[derive(Debug, Default)]
struct Picked {
    /// The weight of their networks.
    weight: usize,
    /// Each with the instant since which it has been idle, the longest idle last.
    idle: Vec<(u64, Arc<ConnectionHandle>)>,
}

impl Picked {
    /// Whether one of them may be closed for a newcomer of a network with this weight. The newcomer of a
    /// network with more connections than theirs closes one of its own.
    fn are_for(&self, weight: usize) -> bool {
        weight <= self.weight + self.weight / limits::WEIGHT_TOLERANCE
    }

    /// Closes the one that has been idle for longest. Returns whether there was one.
    fn close_one(&mut self, why: Close) -> bool {
        while let Some((since, handle)) = self.idle.pop() {
            if handle.usage.idle_since() == Some(since) {
                handle.close(why);
                return true;
            }
        }
        false
    }
}

/// The permit of a connection. Dropping it frees the permit.
#[derive(Debug)]
pub(crate) struct ConnectionPermit {
    pub(crate) handle: Arc<ConnectionHandle>,
    connections: Arc<Connections>,
    number: u64,
    _permit: OwnedSemaphorePermit,
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        lock(&self.connections.all).remove(self.number);
    }
}

impl Connections {
    /// The connections of a process, at most `limit` at once.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit,
            permits: Arc::new(Semaphore::new(limit)),
            all: Mutex::new(All::new(limit)),
            next: AtomicU64::new(0),
            says_goodbye: AtomicBool::new(false),
            newcomers: Arc::default(),
            picked: Mutex::default(),
            warnings: RateLimit::per_second(limits::LIMIT_WARNINGS),
        }
    }

    /// Waits for a permit for a connection from this address. Near the limit, an idle connection is
    /// drained; at the limit, one is closed first.
    pub(crate) async fn admit(self: &Arc<Self>, address: IpAddr) -> ConnectionPermit {
        let network = network_of(address.to_canonical());
        let permit = match self.permits.clone().try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => self.wait_for_permit(network).await,
        };
        if self.permits.available_permits() < self.limit / limits::ROOM_SHARE {
            self.end_longest_idle(network, Close::Drain);
        }
        let newcomers = self.newcomers.clone();
        let handle = Arc::new(ConnectionHandle::with_newcomers(address, newcomers));
        let number = self.next.fetch_add(1, Relaxed);
        lock(&self.all).add(number, handle.clone());
        if self.says_goodbye.load(Relaxed) {
            handle.close(Close::Leave);
        }
        ConnectionPermit {
            handle,
            connections: self.clone(),
            number,
            _permit: permit,
        }
    }

    /// Closes an idle connection, or the next one that becomes idle, until there is a permit.
    async fn wait_for_permit(&self, newcomer: IpAddr) -> OwnedSemaphorePermit {
        self.note_limit();
        let waiting = self.newcomers.wait();
        let mut permit = pin!(self.permits.clone().acquire_owned());
        let mut why = Close::MakeRoom;
        loop {
            let makes_room = self.end_longest_idle(newcomer, why);
            why = tokio::select! {
                biased;
                permit = &mut permit => return permit.expect("the semaphore is never closed"),
                // Its client may send the next request at this moment, which must not be lost.
                () = waiting.for_idle(), if !makes_room => Close::Drain,
                () = sleep(limits::ROOM_PATIENCE) => Close::MakeRoom,
            };
        }
    }

    fn note_limit(&self) {
        metrics::count(|counters| &counters.connections_at_limit);
        if let Some(untold) = self.warnings.allow() {
            warn!(
                action = "accept",
                status = "failure",
                limit = self.limit,
                untold,
                "there are as many connections as there may be; the longest idle makes room"
            );
        }
    }

    /// Closes the connection that has been idle for longest. Returns whether there is one.
    fn end_longest_idle(&self, newcomer: IpAddr, why: Close) -> bool {
        let mut picked = lock(&self.picked);
        let all = lock(&self.all);
        if picked.are_for(all.weight(newcomer, newcomer)) && picked.close_one(why) {
            return true;
        }
        *picked = all.pick(newcomer, why);
        picked.close_one(why)
    }

    /// Tells the clients of all connections to go elsewhere, also of those that come later.
    pub(crate) fn say_goodbye(&self) {
        self.says_goodbye.store(true, Relaxed);
        self.for_each(|handle| handle.close(Close::Leave));
    }

    pub(crate) fn for_each(&self, look: impl FnMut(&Arc<ConnectionHandle>)) {
        lock(&self.all).open.values().for_each(look);
    }
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, time::Duration};

    use futures_util::FutureExt;

    use super::*;

    const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    async fn admit(
        connections: &Arc<Connections>,
        address: IpAddr,
        count: usize,
    ) -> Vec<ConnectionPermit> {
        let mut admitted = Vec::new();
        for _ in 0..count {
            admitted.push(connections.admit(address).await);
        }
        admitted
    }

    fn told(connections: &[ConnectionPermit], why: Close) -> usize {
        let told = connections
            .iter()
            .filter(|one| one.handle.told_to_close() == Some(why));
        told.count()
    }

    /// Admits a newcomer that must wait until those are closed that were told to make room.
    fn come_in(
        connections: &Arc<Connections>,
        address: IpAddr,
        others: [&mut Vec<ConnectionPermit>; 2],
    ) -> ConnectionPermit {
        let newcomer = connections.admit(address);
        // Without tokio's budget for a task, which would make it wait once more.
        let mut newcomer = Box::pin(tokio::task::unconstrained(newcomer));
        assert!(newcomer.as_mut().now_or_never().is_none());
        for other in others {
            other.retain(|one| one.handle.told_to_close() != Some(Close::MakeRoom));
        }
        newcomer.now_or_never().expect("there is room")
    }

    const FLOOD: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    const LIMIT: usize = 8 * limits::FEW_CONNECTIONS;

    #[tokio::test]
    async fn a_flood_from_one_network_closes_its_own_and_newcomers_of_others_get_in() {
        let connections = Arc::new(Connections::new(LIMIT));
        let mut others = admit(&connections, ADDRESS, LIMIT / 4).await;
        let mut flood = admit(&connections, FLOOD, LIMIT - LIMIT / 4).await;
        for _ in 0..2 * LIMIT {
            let next = come_in(&connections, FLOOD, [&mut others, &mut flood]);
            flood.push(next);
        }
        assert_eq!((others.len(), flood.len()), (LIMIT / 4, LIMIT - LIMIT / 4));
        for _ in 0..LIMIT / 4 {
            let next = come_in(&connections, ADDRESS, [&mut others, &mut flood]);
            others.push(next);
        }
        assert_eq!((others.len(), flood.len()), (LIMIT / 2, LIMIT / 2));
    }

    #[tokio::test]
    async fn a_flood_may_not_use_what_was_picked_for_others() {
        let connections = Arc::new(Connections::new(LIMIT));
        // Many networks with one connection each, and the first of a flood.
        let mut others = Vec::new();
        for number in 0..LIMIT {
            let network = Ipv4Addr::from_bits(u32::try_from(number).expect("a few"));
            others.push(connections.admit(network.into()).await);
        }
        let mut flood = Vec::new();
        for _ in 0..LIMIT {
            let next = come_in(&connections, FLOOD, [&mut others, &mut flood]);
            flood.push(next);
        }
        let few = limits::FEW_CONNECTIONS + limits::FEW_CONNECTIONS / limits::WEIGHT_TOLERANCE;
        assert!(flood.len() <= few + 1, "{}", flood.len());
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_becomes_idle_makes_room_for_one_that_waits() {
        let connections = Arc::new(Connections::new(3));
        let open = admit(&connections, ADDRESS, 3).await;
        for one in &open {
            one.handle.usage.begin();
        }
        let mut newcomer = Box::pin(connections.admit(ADDRESS));
        assert!(newcomer.as_mut().now_or_never().is_none());
        assert_eq!(told(&open, Close::MakeRoom), 0, "none is idle");
        open[1].handle.usage.end();
        open[2].handle.usage.end();
        assert!(newcomer.as_mut().now_or_never().is_none());
        assert_eq!(told(&open, Close::Drain), 1, "one, and gently");
        // It does not end. After a while, it must.
        tokio::time::advance(limits::ROOM_PATIENCE).await;
        assert!(newcomer.as_mut().now_or_never().is_none());
        assert_eq!(told(&open, Close::MakeRoom), 1);
        drop(open);
        newcomer.await;
        let permits = connections.permits.available_permits();
        assert_eq!(permits, 3);
    }

    #[tokio::test]
    async fn the_longest_idle_connection_makes_room_and_one_with_a_request_does_not() {
        let connections = Arc::new(Connections::new(3));
        let mut open = Vec::new();
        for _ in 0..3 {
            open.push(connections.admit(ADDRESS).await);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        open[0].handle.usage.begin();
        let mut newcomer = Box::pin(connections.admit(ADDRESS));
        assert!(newcomer.as_mut().now_or_never().is_none());
        let told = |index: usize| open[index].handle.told_to_close();
        assert_eq!(
            [told(0), told(1), told(2)],
            [None, Some(Close::MakeRoom), None]
        );
        drop(open.remove(1));
        let newcomer = newcomer.await;
        assert!(newcomer.handle.usage.idle_since().is_some());
    }

    #[tokio::test]
    async fn near_the_limit_an_idle_connection_ends_gently() {
        let limit = 2 * limits::ROOM_SHARE;
        let connections = Arc::new(Connections::new(limit));
        let mut open = Vec::new();
        for _ in 0..limit {
            open.push(connections.admit(ADDRESS).await);
        }
        let told = open.iter().filter_map(|one| one.handle.told_to_close());
        assert_eq!(told.collect::<Vec<_>>(), [Close::Drain; 2]);
    }

    #[tokio::test]
    async fn goodbye_is_for_open_connections_and_for_new_ones_and_all_may_make_room() {
        let connections = Arc::new(Connections::new(2));
        let old = connections.admit(ADDRESS).await;
        connections.say_goodbye();
        let new = connections.admit(ADDRESS).await;
        let told = || [&old, &new].map(|one| one.handle.told_to_close());
        assert_eq!(told(), [Some(Close::Leave); 2]);
        assert!(connections.admit(ADDRESS).now_or_never().is_none());
        assert!(told().contains(&Some(Close::MakeRoom)));
    }

    /// What is known of the open connections, in a form to compare.
    fn known(connections: &Connections) -> (usize, Vec<(IpAddr, usize)>) {
        let all = lock(&connections.all);
        let mut networks: Vec<_> = all.networks.clone().into_iter().collect();
        networks.sort_unstable();
        (all.open.len(), networks)
    }

    #[tokio::test]
    async fn a_connection_counts_for_its_network_until_its_end() {
        let connections = Arc::new(Connections::new(8));
        let mut permits = admit(&connections, ADDRESS, 2).await;
        let other = connections.admit(FLOOD).await;
        assert_eq!(known(&connections), (3, vec![(ADDRESS, 2), (FLOOD, 1)]));
        permits.pop();
        assert_eq!(known(&connections), (2, vec![(ADDRESS, 1), (FLOOD, 1)]));
        drop((permits, other));
        assert_eq!(known(&connections), (0, vec![]));
    }

    #[tokio::test]
    async fn the_newcomer_counts_for_its_network() {
        let connections = Arc::new(Connections::new(LIMIT));
        let few = limits::FEW_CONNECTIONS;
        let _permits = admit(&connections, ADDRESS, few).await;
        let all = lock(&connections.all);
        assert_eq!(all.weight(ADDRESS, FLOOD), few);
        assert_eq!(all.weight(ADDRESS, ADDRESS), few + 1);
        assert_eq!(all.weight(FLOOD, FLOOD), few, "few are as many as others");
    }

    #[tokio::test]
    async fn a_scan_picks_all_idle_connections_of_the_largest_networks() {
        let connections = Arc::new(Connections::new(LIMIT));
        let permits = admit(&connections, ADDRESS, limits::FEW_CONNECTIONS).await;
        let others = admit(&connections, FLOOD, limits::FEW_CONNECTIONS + 8).await;
        let all = lock(&connections.all);
        let newcomer = Ipv4Addr::new(192, 0, 2, 2).into();
        let picked = all.pick(newcomer, Close::MakeRoom);
        assert_eq!(picked.weight, limits::FEW_CONNECTIONS + 8);
        assert_eq!(picked.idle.len(), picked.weight);
        for one in &others {
            one.handle.usage.begin();
        }
        let picked = all.pick(newcomer, Close::MakeRoom);
        assert_eq!(picked.weight, limits::FEW_CONNECTIONS);
        assert_eq!(picked.idle.len(), permits.len());
        assert!(picked.are_for(picked.weight + picked.weight / limits::WEIGHT_TOLERANCE));
        assert!(!picked.are_for(picked.weight + picked.weight / limits::WEIGHT_TOLERANCE + 1));
    }
}
