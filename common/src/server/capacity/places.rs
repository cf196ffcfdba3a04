//! [`Places`]: the limits on requests in flight, and which request gives way at a limit.
//!
//! Below a limit, taking a place changes one count. At a limit, another request may give way to the
//! newcomer: first one whose client reads nothing of the response; then one of the network with the
//! most places, if these are at least twice as many as the newcomer's network would have; then one of
//! the connection with the most of its own network, if these are at least twice as many as the
//! newcomer would have. A single peer may have every place.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use super::{
    connections::Connections,
    in_flight::Request,
    kind::Limit,
    open::{Open, now},
};
use crate::{limits, lock::lock, metrics};

/// The places of the process for requests in flight.
#[derive(Debug)]
pub(crate) struct Places {
    /// In the order of [`Limit`].
    counts: [Count; 3],
    connections: Arc<Connections>,
}

#[derive(Debug)]
struct Count {
    limit: usize,
    /// The number of places that all workers have taken.
    taken: AtomicUsize,
    held: Mutex<Held>,
}

/// The holders of the places of a limit: as of the last scan, with those that have taken the places
/// of others since.
#[derive(Debug, Default)]
struct Held {
    looked: Option<u64>,
    /// Requests whose clients read nothing, the longest stalled last.
    stalled: Vec<(u64, Arc<Request>)>,
    /// The number of places of each network and of its connections.
    networks: HashMap<IpAddr, Holder>,
}

#[derive(Debug, Default)]
struct Holder {
    count: usize,
    connections: Vec<(usize, Arc<Open>)>,
}

impl Held {
    /// Counts a request of this connection, which has taken the place of another.
    fn add(&mut self, newcomer: &Arc<Open>) {
        let holder = self.networks.entry(newcomer.network).or_default();
        holder.count += 1;
        let mut connections = holder.connections.iter_mut();
        match connections.find(|(_, open)| Arc::ptr_eq(open, newcomer)) {
            Some((count, _)) => *count += 1,
            None => holder.connections.push((1, newcomer.clone())),
        }
    }
}

/// No place is free, and no request gives way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NoPlace {
    pub(crate) limit: usize,
}

impl Places {
    /// The places of a process for `max_in_flight` requests in flight over these connections.
    pub(crate) fn new(max_in_flight: usize, connections: Arc<Connections>) -> Self {
        let long_lived = max_in_flight.div_ceil(limits::LONG_LIVED_SHARE);
        let counts = [max_in_flight, long_lived, limits::MAX_PROBES];
        let counts = counts.map(|limit| Count {
            limit,
            taken: AtomicUsize::new(0),
            held: Mutex::default(),
        });
        Self {
            counts,
            connections,
        }
    }

    pub(crate) fn max_in_flight(&self) -> usize {
        self.counts[Limit::InFlight as usize].limit
    }

    /// Takes a place for a request of this connection, and `in_advance` more while many are free.
    /// Returns the number taken in advance.
    pub(super) fn take(
        &self,
        open: &Arc<Open>,
        limit: Limit,
        in_advance: usize,
    ) -> Result<usize, NoPlace> {
        let count = &self.counts[limit as usize];
        let before = count.taken.fetch_add(1 + in_advance, Relaxed);
        if before + in_advance < count.limit / 4 * 3 {
            return Ok(in_advance);
        }
        self.release(limit, in_advance);
        if before < count.limit {
            self.look_ahead(limit);
            return Ok(0);
        }
        if self.make_room(open, limit) {
            return Ok(0);
        }
        self.release(limit, 1);
        Err(NoPlace { limit: count.limit })
    }

    pub(super) fn release(&self, limit: Limit, places: usize) {
        self.counts[limit as usize].taken.fetch_sub(places, Relaxed);
    }

    /// Scans for stalled clients near the limit, so that it is known at the limit how long they
    /// have been stalled.
    fn look_ahead(&self, limit: Limit) {
        if let Ok(mut held) = self.counts[limit as usize].held.try_lock() {
            self.look_again(&mut held, limit, limits::STALLED_AFTER);
        }
    }

    /// Ends another request for one of this connection. Returns whether there was one to end.
    fn make_room(&self, newcomer: &Arc<Open>, limit: Limit) -> bool {
        let mut held = lock(&self.counts[limit as usize].held);
        self.look_again(&mut held, limit, limits::LOOK_INTERVAL);
        self.end_one(&mut held, newcomer, limit)
    }

    /// Scans again if the last scan is at least this old.
    fn look_again(&self, held: &mut Held, limit: Limit, age: Duration) {
        let now = now();
        if held.looked.is_none_or(|looked| now >= looked + millis(age)) {
            *held = self.look(limit, now);
        }
    }

    /// Scans all requests to which a limit applies.
    fn look(&self, limit: Limit, now: u64) -> Held {
        let mut held = Held {
            looked: Some(now),
            ..Held::default()
        };
        self.connections.for_each(|open| {
            if open.in_flight() == 0 {
                return;
            }
            let mut count = 0;
            for (_, request) in &*lock(&open.requests) {
                if request.gives_way() || !request.kind.limits().contains(&limit) {
                    continue;
                }
                count += 1;
                let untaken_since = request.untaken_since(now);
                let stalled =
                    untaken_since.filter(|since| since + millis(limits::STALLED_AFTER) <= now);
                held.stalled
                    .extend(stalled.map(|since| (since, request.clone())));
            }
            if count > 0 {
                let holder = held.networks.entry(open.network).or_default();
                holder.count += count;
                holder.connections.push((count, open.clone()));
            }
        });
        held.stalled
            .sort_unstable_by_key(|(since, _)| u64::MAX - since);
        held
    }

    /// Ends a request that must give way to the newcomer, if there is one.
    fn end_one(&self, held: &mut Held, newcomer: &Arc<Open>, limit: Limit) -> bool {
        let is_ended =
            self.end_stalled(held) || self.end_one_of_largest_holder(held, newcomer, limit);
        if is_ended {
            held.add(newcomer);
        }
        is_ended
    }

    fn end_stalled(&self, held: &mut Held) -> bool {
        while let Some((since, request)) = held.stalled.pop() {
            if request.is_untaken_since(since) && self.end(&request) {
                return true;
            }
        }
        false
    }

    fn end_one_of_largest_holder(
        &self,
        held: &mut Held,
        newcomer: &Arc<Open>,
        limit: Limit,
    ) -> bool {
        // A holder whose requests have ended since the scan is passed over.
        loop {
            let own = held.networks.get(&newcomer.network);
            let own = own.map_or(0, |holder| holder.count);
            let networks = held.networks.iter();
            let Some((largest, holder)) = networks.max_by_key(|(_, holder)| holder.count) else {
                return false;
            };
            let is_much = |count, of_newcomer| count >= limits::GIVE_WAY_RATIO * (of_newcomer + 1);
            let gives_other = *largest != newcomer.network && is_much(holder.count, own);
            let network = if gives_other {
                *largest
            } else {
                newcomer.network
            };
            let Some(holder) = held.networks.get_mut(&network) else {
                return false;
            };
            let connections = holder.connections.iter_mut();
            let Some((count, open)) = connections.max_by_key(|(count, _)| *count) else {
                return false;
            };
            if !gives_other && !is_much(*count, newcomer.in_flight()) {
                return false;
            }
            let is_ended = self.end_newest(open, limit);
            let gone = if is_ended { 1 } else { *count };
            *count -= gone;
            holder.count -= gone;
            if is_ended {
                return true;
            }
        }
    }

    /// Ends the newest request of a connection that a limit applies to, if there is one.
    fn end_newest(&self, open: &Open, limit: Limit) -> bool {
        let requests = lock(&open.requests);
        let newest_first = requests.iter().map(|(_, request)| request).rev();
        let mut under_limit = newest_first.filter(|request| request.kind.limits().contains(&limit));
        under_limit.any(|request| self.end(request))
    }

    /// Ends a request and releases its places. The newcomer has already taken its own.
    fn end(&self, request: &Request) -> bool {
        if !request.give_way() {
            return false;
        }
        metrics::count(|counters| &counters.gave_way);
        for limit in request.kind.limits() {
            self.release(*limit, 1);
        }
        true
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
