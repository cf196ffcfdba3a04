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
//! A service of the mesh may fill all but an eighth of the reserve: it has let its own clients in by these
//! rules, and calls for all of them over one connection.
//!
//! A request without a permit may get one in advance from a connection that is preempted, because its client
//! takes nothing; see [`Stalled`].

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use super::{
    connections::Connections, handle::ConnectionHandle, request_class::PermitPool, stalled::Stalled,
};
use crate::{
    limits,
    lock::lock,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
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
    Reserve,
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
    pub(super) fn take(
        &self,
        handle: &ConnectionHandle,
        pool: PermitPool,
        in_advance: usize,
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
        let holds_little = handle
            .usage
            .is_less_than(free.div_ceil(limits::RESERVE_SHARE));
        if holds_little && count.enter_reserve(handle.network, free) {
            return Ok(Permit::Reserve);
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

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::server::capacity::connections::ConnectionPermit;

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
            let permit = permits.take(&handle, PermitPool::Requests, wished);
            assert!(matches!(permit, Ok(Permit::Common { in_advance }) if in_advance == taken));
            assert_eq!(permits.taken(PermitPool::Requests), all);
        }
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
        let take = |handle: &ConnectionHandle| permits.take(handle, PermitPool::Requests, 0);
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
        assert!(matches!(take(&other.handle), Ok(Permit::Reserve)));
        // Nothing is free, but another client takes nothing.
        let last = connect(&connections).await;
        assert!(matches!(take(&last.handle), Ok(Permit::Common { .. })));
        assert_eq!(preempted(), [true; 2]);
        assert!(take(&last.handle).is_err());
    }
}
