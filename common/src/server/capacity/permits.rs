//! [`Permits`]: the limits on requests in flight, and who gets the last places.
//!
//! A place is held from the admission of a request until the socket has taken the response, and it is
//! not given to another request in between. Below seven eighths of a limit, whoever asks gets a place.
//! The last eighth is a reserve for clients that hold little:
//!
//! - a connection may enter while it has fewer requests than an eighth of what is free in the reserve,
//! - and the requests of a network may have as many places of the reserve as they leave free.
//!
//! So a few clients can't keep the others out, whatever the number of their connections or streams.
//! A service of the mesh may fill all but an eighth of the reserve: it has let its own clients in by these
//! rules, and calls for all of them over one connection.
//!
//! Who finds no place may have that of a client that takes nothing; see [`Stalled`].

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use super::{connections::Connections, open::Open, request_class::PermitPool, stalled::Stalled};
use crate::{
    limits,
    lock::lock,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

/// The places of the process for requests in flight.
#[derive(Debug)]
pub(crate) struct Permits {
    /// In the order of [`PermitPool`].
    counts: [Count; 3],
    stalled: Stalled,
}

#[derive(Debug)]
struct Count {
    limit: usize,
    /// The last places, which are for clients that hold little.
    reserve: usize,
    /// The number of places that all workers have taken.
    taken: AtomicUsize,
    /// The places that requests of each network have taken from the reserve.
    in_reserve: Mutex<HashMap<IpAddr, usize>>,
}

/// A place that was taken.
#[derive(Debug, Clone, Copy)]
pub(super) enum Permit {
    /// With this number of further places, taken in advance.
    Common {
        in_advance: usize,
    },
    Reserve,
}

/// No place is free for this client.
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

    /// Takes a place of the reserve for a network, while `free` places are left.
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
    /// The places of a process for `max_in_flight` requests in flight over these connections.
    pub(crate) fn new(max_in_flight: usize, connections: Arc<Connections>) -> Self {
        let long_lived = max_in_flight.div_ceil(limits::LONG_LIVED_SHARE);
        let counts = [max_in_flight, long_lived, limits::MAX_PROBES];
        Self {
            counts: counts.map(Count::new),
            stalled: Stalled::new(connections),
        }
    }

    pub(crate) fn max_in_flight(&self) -> usize {
        self.counts[PermitPool::RequestPermit as usize].limit
    }

    pub(super) fn taken(&self, limit: PermitPool) -> usize {
        self.counts[limit as usize].taken.load(Relaxed)
    }

    /// Takes a place for a request of this connection, and `in_advance` more while many are free.
    pub(super) fn take(
        &self,
        open: &Open,
        limit: PermitPool,
        in_advance: usize,
    ) -> Result<Permit, NoPermit> {
        const ALONE: Permit = Permit::Common { in_advance: 0 };
        let count = &self.counts[limit as usize];
        let before = count.taken.fetch_add(1 + in_advance, Relaxed);
        if before + in_advance < count.limit / 4 * 3 {
            return Ok(Permit::Common { in_advance });
        }
        self.release(limit, in_advance);
        let free = count.limit.saturating_sub(before);
        let kept = if open.held.keeps_places() {
            count.reserve / limits::RESERVE_SHARE
        } else {
            count.reserve
        };
        if free > kept {
            return Ok(ALONE);
        }
        self.stalled.look();
        let holds_little = open.held.is_less_than(free.div_ceil(limits::RESERVE_SHARE));
        if holds_little && count.enter_reserve(open.network, free) {
            return Ok(Permit::Reserve);
        }
        // The connection that ends soon leaves its places.
        if (holds_little || free == kept) && self.stalled.end_one() {
            return Ok(ALONE);
        }
        self.release(limit, 1);
        Err(NoPermit { limit: count.limit })
    }

    pub(super) fn release(&self, limit: PermitPool, places: usize) {
        self.counts[limit as usize].taken.fetch_sub(places, Relaxed);
    }

    pub(super) fn leave_reserve(&self, limit: PermitPool, network: IpAddr) {
        self.counts[limit as usize].leave_reserve(network);
    }
}
