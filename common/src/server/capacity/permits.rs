//! [`Permits`]: the limits on requests in flight, and which client gets the last permits.
//!
//! A request holds its permit from its admission until the socket has taken the response, and no other
//! request gets the permit in between. Below seven eighths of a limit, every request gets a permit.
//! The last eighth is a reserve for clients that hold little:
//!
//! - a connection may enter while it has fewer requests than an eighth of what is free in the reserve,
//! - and the requests of a network may hold as many permits of the reserve as they leave free.
//!
//! So a few clients can't keep the others out, whatever the number of their connections or streams.
//! Behind a trusted proxy, a client is the address that the proxy names: its connections carry the requests of
//! many clients, so only the second rule applies to them.
//!
//! A service of the mesh may fill all but an eighth of the reserve: it has let its own clients in by these
//! rules, and calls for all of them over one connection.
//!
//! A request without a permit may get one in advance from a connection that is preempted, because its client
//! takes nothing; see [`Stalled`].
//!
//! [`WorkerPermits`] is a worker's access to them, [`RequestPermit`] has those of one request, and
//! [`UnreadRefusal`] is a response without a permit. The [`RequestClass`] of a request says which limits
//! ([`PermitPool`]) apply to it.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use super::{
    connections::Connections,
    handle::{ConnectionHandle, network_of},
    stalled::Stalled,
};
use crate::{
    endpoints, limits,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
        lock,
    },
};

/// The permits of the process for requests in flight.
#[derive(Debug)]
pub(crate) struct Permits {
    /// In the order of [`PermitPool`].
    counts: [Count; 3],
    stalled: Stalled,
}

#[derive(Debug)]
struct Count {
    limit: usize,
    /// The last permits, which are for clients that hold little.
    reserve: usize,
    /// The number of permits that all workers have taken.
    taken: AtomicUsize,
    /// The permits that the requests of each network hold of the reserve.
    in_reserve: Mutex<HashMap<IpAddr, usize>>,
}

/// A permit that was taken.
#[derive(Debug, Clone, Copy)]
pub(super) enum Permit {
    /// With this number of further permits, taken in advance.
    Common {
        in_advance: usize,
    },
    Reserve {
        network: IpAddr,
    },
}

/// No permit is free for this client.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NoPermit {
    pub(crate) limit: usize,
}

impl Count {
    fn new(limit: usize) -> Self {
        Self {
            limit,
            reserve: limit / limits::RESERVE_SHARE,
            taken: AtomicUsize::new(0),
            in_reserve: Mutex::default(),
        }
    }

    /// Takes a permit of the reserve for a network, while `free` permits are left.
    fn enter_reserve(&self, network: IpAddr, free: usize) -> bool {
        let mut in_reserve = lock(&self.in_reserve);
        let held = in_reserve.get(&network).copied().unwrap_or_default();
        let enters = held < free;
        if enters {
            in_reserve.insert(network, held + 1);
        }
        enters
    }

    fn leave_reserve(&self, network: IpAddr) {
        let mut in_reserve = lock(&self.in_reserve);
        if let Some(held) = in_reserve.get_mut(&network) {
            *held -= 1;
            if *held == 0 {
                in_reserve.remove(&network);
            }
        }
    }
}

impl Permits {
    /// The permits of a process for `max_in_flight` requests in flight over these connections.
    pub(crate) fn new(max_in_flight: usize, connections: Arc<Connections>) -> Self {
        let long_lived = max_in_flight.div_ceil(limits::LONG_LIVED_SHARE);
        let counts = [max_in_flight, long_lived, limits::MAX_PROBES];
        Self {
            counts: counts.map(Count::new),
            stalled: Stalled::new(connections),
        }
    }

    pub(crate) fn max_in_flight(&self) -> usize {
        self.counts[PermitPool::Requests as usize].limit
    }

    pub(super) fn taken(&self, pool: PermitPool) -> usize {
        self.counts[pool as usize].taken.load(Relaxed)
    }

    /// Takes a permit for a request of this connection, and `in_advance` more while many are free.
    /// `client` is the address of the client, where that is not the peer of the connection, but behind it.
    pub(super) fn take(
        &self,
        handle: &ConnectionHandle,
        pool: PermitPool,
        in_advance: usize,
        client: Option<IpAddr>,
    ) -> Result<Permit, NoPermit> {
        const ALONE: Permit = Permit::Common { in_advance: 0 };
        let count = &self.counts[pool as usize];
        let before = count.taken.fetch_add(1 + in_advance, Relaxed);
        if before + in_advance < count.limit / 4 * 3 {
            return Ok(Permit::Common { in_advance });
        }
        self.release(pool, in_advance);
        let free = count.limit.saturating_sub(before);
        let kept = if handle.usage.is_of_mesh() {
            count.reserve / limits::RESERVE_SHARE
        } else {
            count.reserve
        };
        if free > kept {
            return Ok(ALONE);
        }
        self.stalled.look();
        // The connection of a proxy is that of many clients.
        let holds_little = client.is_some()
            || handle
                .usage
                .is_less_than(free.div_ceil(limits::RESERVE_SHARE));
        let network = client.map_or(handle.network, network_of);
        if holds_little && count.enter_reserve(network, free) {
            return Ok(Permit::Reserve { network });
        }
        // The connection that is preempted frees its permits soon.
        if (holds_little || free == kept) && self.stalled.preempt_one() {
            return Ok(ALONE);
        }
        self.release(pool, 1);
        Err(NoPermit { limit: count.limit })
    }

    pub(super) fn release(&self, pool: PermitPool, permits: usize) {
        self.counts[pool as usize].taken.fetch_sub(permits, Relaxed);
    }

    pub(super) fn leave_reserve(&self, pool: PermitPool, network: IpAddr) {
        self.counts[pool as usize].leave_reserve(network);
    }
}

/// A worker's access to the permits of the process.
///
/// It takes a few permits of [`PermitPool::Requests`] in advance, so that most requests do not change the
/// count that all workers share.
#[derive(Debug)]
pub(crate) struct WorkerPermits {
    permits: Arc<Permits>,
    /// The permits that were taken in advance. Only the thread of the worker changes their number.
    spare: AtomicUsize,
    max_spare: usize,
    /// The responses without a permit that clients of this worker have not read yet.
    refusals: AtomicUsize,
}

impl WorkerPermits {
    pub(crate) fn new(permits: Arc<Permits>, workers: usize) -> Self {
        Self {
            max_spare: limits::MAX_SPARE
                .min(permits.max_in_flight() / limits::SPARE_SHARE / workers),
            permits,
            spare: AtomicUsize::new(0),
            refusals: AtomicUsize::new(0),
        }
    }

    pub(crate) fn max_in_flight(&self) -> usize {
        self.permits.max_in_flight()
    }

    /// The permits of [`PermitPool::Requests`] that requests hold, if the process has one worker.
    pub(crate) fn in_flight(&self) -> usize {
        self.permits.taken(PermitPool::Requests) - self.spare.load(Relaxed)
    }

    /// Takes the permits of a request of this connection. `client` is the address of a client behind it, if
    /// there is a proxy.
    pub(crate) fn take(
        self: &Arc<Self>,
        handle: &Arc<ConnectionHandle>,
        class: RequestClass,
        client: Option<IpAddr>,
    ) -> Result<RequestPermit, NoPermit> {
        let mut taken = [None; 2];
        for (index, pool) in class.pools().iter().enumerate() {
            match self.take_one(handle, *pool, client) {
                Ok(permit) => taken[index] = Some(permit),
                Err(error) => {
                    self.release(class, taken);
                    return Err(error);
                }
            }
        }
        handle.usage.begin();
        Ok(RequestPermit {
            class,
            taken,
            handle: handle.clone(),
            permits: self.clone(),
            waits_for_service: true,
        })
    }

    fn take_one(
        &self,
        handle: &ConnectionHandle,
        pool: PermitPool,
        client: Option<IpAddr>,
    ) -> Result<Permit, NoPermit> {
        if pool != PermitPool::Requests {
            return self.permits.take(handle, pool, 0, client);
        }
        let spare = self.spare.load(Relaxed);
        if let Some(left) = spare.checked_sub(1) {
            self.spare.store(left, Relaxed);
            return Ok(Permit::Common { in_advance: 0 });
        }
        let permit = self
            .permits
            .take(handle, pool, self.max_spare / 2, client)?;
        if let Permit::Common { in_advance } = permit {
            self.spare.store(in_advance, Relaxed);
        }
        Ok(permit)
    }

    fn release(&self, class: RequestClass, permits: [Option<Permit>; 2]) {
        for (pool, permit) in class.pools().iter().zip(permits.into_iter().flatten()) {
            let spare = self.spare.load(Relaxed);
            if let Permit::Reserve { network } = permit {
                self.permits.leave_reserve(*pool, network);
            } else if *pool == PermitPool::Requests && spare < self.max_spare {
                self.spare.store(spare + 1, Relaxed);
                continue;
            }
            self.permits.release(*pool, 1);
        }
    }

    /// Counts a response without a permit. `None` if clients have left too many of them unread.
    pub(crate) fn refuse(
        self: &Arc<Self>,
        handle: &Arc<ConnectionHandle>,
    ) -> Option<UnreadRefusal> {
        let is_allowed = self.refusals.load(Relaxed) < limits::MAX_REFUSALS;
        is_allowed.then(|| {
            self.refusals.fetch_add(1, Relaxed);
            handle.usage.begin_refusal();
            UnreadRefusal {
                handle: handle.clone(),
                permits: self.clone(),
            }
        })
    }
}

/// The permits of a request. Dropping it frees them.
#[derive(Debug)]
pub(crate) struct RequestPermit {
    class: RequestClass,
    /// In the order of the pools of `class`.
    taken: [Option<Permit>; 2],
    handle: Arc<ConnectionHandle>,
    permits: Arc<WorkerPermits>,
    /// Whether the client waits for the service, and not the service for the client.
    waits_for_service: bool,
}

impl RequestPermit {
    /// Notes whether the client waits for the service, or a part of the response for the client.
    pub(crate) fn note_waits_for_service(&mut self, waits: bool) {
        if self.waits_for_service != waits {
            self.waits_for_service = waits;
            self.handle.usage.note_waits_for_service(waits);
        }
    }
}

impl Drop for RequestPermit {
    fn drop(&mut self) {
        self.note_waits_for_service(false);
        self.handle.usage.end();
        self.permits.release(self.class, self.taken);
    }
}

/// A response without a permit, until its client has read it.
#[derive(Debug)]
pub(crate) struct UnreadRefusal {
    handle: Arc<ConnectionHandle>,
    permits: Arc<WorkerPermits>,
}

impl Drop for UnreadRefusal {
    fn drop(&mut self) {
        self.handle.usage.end_refusal();
        self.permits.refusals.fetch_sub(1, Relaxed);
    }
}

/// The prefix of the paths of gRPC's health service.
const GRPC_HEALTH: &str = "/grpc.health.v1.Health/";

/// The limits on requests in flight. Each has a count of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PermitPool {
    /// All requests but probes.
    Requests,
    LongLived,
    Probes,
}

/// The class of a request, which decides the limits that apply to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RequestClass {
    Ordinary,
    /// A call of a method whose deadline is longer than `DEADLINE`.
    LongLived,
    Probe,
}

impl RequestClass {
    /// The class of a request for this path. Probes have a limit of their own, because a service
    /// at its limit must still respond to them.
    pub(crate) fn of(path: &str, is_long_lived: bool) -> Self {
        match path {
            _ if is_long_lived => Self::LongLived,
            endpoints::LIVE | endpoints::READY => Self::Probe,
            _ if path.starts_with(GRPC_HEALTH) => Self::Probe,
            _ => Self::Ordinary,
        }
    }

    /// The name for the log.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ordinary => "all",
            Self::LongLived => "long-lived",
            Self::Probe => "probes",
        }
    }

    /// The pools that a request of this class needs a permit of.
    pub(crate) fn pools(self) -> &'static [PermitPool] {
        match self {
            Self::Ordinary => &[PermitPool::Requests],
            Self::LongLived => &[PermitPool::LongLived, PermitPool::Requests],
            Self::Probe => &[PermitPool::Probes],
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::server::capacity::connections::{ConnectionPermit, Connections};

    async fn connect(connections: &Arc<Connections>) -> ConnectionPermit {
        connections.admit(Ipv4Addr::LOCALHOST.into()).await
    }

    /// A connection with a request whose client takes nothing.
    async fn stall(connections: &Arc<Connections>) -> ConnectionPermit {
        let stalled = connect(connections).await;
        stalled.handle.usage.begin();
        stalled.handle.usage.note_waits_for_service(false);
        stalled
    }

    #[test]
    fn permits_are_taken_in_advance_while_a_quarter_is_left() {
        let permits = Permits::new(1_000, Arc::new(Connections::new(1)));
        let handle = ConnectionHandle::new(Ipv4Addr::LOCALHOST.into());
        for (wished, taken, all) in [(600, 600, 601), (100, 100, 702), (100, 0, 703)] {
            let permit = permits.take(&handle, PermitPool::Requests, wished, None);
            assert!(matches!(permit, Ok(Permit::Common { in_advance }) if in_advance == taken));
            assert_eq!(permits.taken(PermitPool::Requests), all);
        }
    }

    #[test]
    fn the_clients_of_one_proxy_have_shares_of_the_reserve() {
        let permits = Permits::new(64, Arc::new(Connections::new(1)));
        let proxy = ConnectionHandle::new(Ipv4Addr::LOCALHOST.into());
        let take = |client: Option<[u8; 4]>| {
            let taken = permits.take(&proxy, PermitPool::Requests, 0, client.map(IpAddr::from));
            taken.inspect(|_| proxy.usage.begin())
        };
        let of_reserve = |taken: &Result<Permit, NoPermit>| matches!(taken, Ok(Permit::Reserve { network }) if *network != proxy.network);
        let [greedy, other] = [Some([1, 1, 1, 1]), Some([2, 2, 2, 2])];
        for _ in 0..56 {
            assert!(matches!(take(greedy), Ok(Permit::Common { .. })));
        }
        assert!(take(None).is_err(), "the connection has all of the others");
        for _ in 0..4 {
            assert!(of_reserve(&take(greedy)));
        }
        assert!(take(greedy).is_err(), "as many are left");
        for _ in 0..2 {
            assert!(of_reserve(&take(other)));
        }
        assert!(take(other).is_err());
        permits.leave_reserve(PermitPool::Requests, [1, 1, 1, 1].into());
        permits.release(PermitPool::Requests, 1);
        assert!(of_reserve(&take(other)), "three are free, and it has two");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_at_the_reserve_gets_the_permit_of_one_that_takes_nothing_and_leaves_the_reserve()
     {
        let connections = Arc::new(Connections::new(8));
        let permits = Permits::new(16, connections.clone());
        let stalled = [stall(&connections).await, stall(&connections).await];
        let preempted = || stalled.each_ref().map(|it| it.handle.is_preempted());
        tokio::time::advance(limits::LOOK_INTERVAL).await;
        permits.stalled.look();
        tokio::time::advance(limits::STALLED_AFTER).await;
        let greedy = connect(&connections).await;
        let take = |handle: &ConnectionHandle| permits.take(handle, PermitPool::Requests, 0, None);
        for _ in 0..14 {
            assert!(matches!(take(&greedy.handle), Ok(Permit::Common { .. })));
            greedy.handle.usage.begin();
        }
        assert_eq!(preempted(), [false; 2]);
        assert!(matches!(take(&greedy.handle), Ok(Permit::Common { .. })));
        assert_eq!(preempted().iter().filter(|it| **it).count(), 1);
        assert!(
            take(&greedy.handle).is_err(),
            "the last permit is for others"
        );
        assert_eq!(preempted().iter().filter(|it| **it).count(), 1);
        let other = connect(&connections).await;
        assert!(matches!(take(&other.handle), Ok(Permit::Reserve { .. })));
        // Nothing is free, but another client takes nothing.
        let last = connect(&connections).await;
        assert!(matches!(take(&last.handle), Ok(Permit::Common { .. })));
        assert_eq!(preempted(), [true; 2]);
        assert!(take(&last.handle).is_err());
    }

    /// The access of one worker to 1,000 permits, of which it keeps up to ten.
    fn worker() -> (Arc<WorkerPermits>, Arc<ConnectionHandle>) {
        let permits = Permits::new(1_000, Arc::new(Connections::new(1)));
        let worker = Arc::new(WorkerPermits::new(Arc::new(permits), 1));
        let handle = Arc::new(ConnectionHandle::new(Ipv4Addr::LOCALHOST.into()));
        (worker, handle)
    }

    #[test]
    fn a_worker_takes_permits_in_advance_and_keeps_some_of_those_that_are_given_back() {
        let (worker, handle) = worker();
        let taken = || worker.permits.taken(PermitPool::Requests);
        assert_eq!(worker.max_in_flight(), 1_000);
        let mut requests = Vec::new();
        for all in [6, 6, 6, 6, 6, 6, 12] {
            requests.extend(worker.take(&handle, RequestClass::Ordinary, None));
            assert_eq!((worker.in_flight(), taken()), (requests.len(), all));
        }
        for all in [12, 12, 12, 12, 12, 11, 10] {
            requests.pop();
            assert_eq!((worker.in_flight(), taken()), (requests.len(), all));
        }
    }

    #[test]
    fn no_probe_is_counted_in_advance() {
        let (worker, handle) = worker();
        let taken = |limit| worker.permits.taken(limit);
        let probe = worker.take(&handle, RequestClass::Probe, None);
        assert_eq!(taken(PermitPool::Probes), 1);
        assert_eq!(taken(PermitPool::Requests), 0);
        drop(probe);
        assert_eq!(taken(PermitPool::Probes), 0);
        let long_lived = worker.take(&handle, RequestClass::LongLived, None);
        assert_eq!(taken(PermitPool::LongLived), 1);
        assert_eq!(worker.in_flight(), 1);
        drop(long_lived);
        assert_eq!(taken(PermitPool::LongLived), 0);
        assert_eq!(worker.in_flight(), 0);
    }

    #[test]
    fn a_request_waits_for_the_service_or_for_its_client() {
        let (worker, handle) = worker();
        for now in [1, 3] {
            let mut request = worker.take(&handle, RequestClass::Ordinary, None).unwrap();
            assert_eq!(handle.usage.look(now), None);
            for _ in 0..2 {
                request.note_waits_for_service(false);
                assert_eq!(handle.usage.look(now), Some(now));
            }
            request.note_waits_for_service(true);
            assert_eq!(handle.usage.look(now + 1), None);
        }
    }

    #[test]
    fn the_probes_of_both_protocols_have_permits_of_their_own() {
        for path in [
            endpoints::LIVE,
            endpoints::READY,
            "/grpc.health.v1.Health/Check",
        ] {
            let class = RequestClass::of(path, false);
            assert_eq!(class.pools(), [PermitPool::Probes], "{path}");
        }
        let ordinary = RequestClass::of("/grpc.health.v1.HealthRecords/Get", false);
        assert_eq!(ordinary.pools(), [PermitPool::Requests]);
        // A health check that goes on holds its permits as any stream does.
        let watch = RequestClass::of("/grpc.health.v1.Health/Watch", true);
        assert_eq!(watch, RequestClass::LongLived);
    }

    #[test]
    fn a_log_line_names_the_requests_that_are_refused() {
        let all = [
            RequestClass::Ordinary,
            RequestClass::LongLived,
            RequestClass::Probe,
        ];
        assert_eq!(all.map(RequestClass::name), ["all", "long-lived", "probes"]);
    }
}
