//! [`Connections`]: the open connections of the process, their limit, and which of them makes room
//! at the limit.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::warn;

use super::open::{Close, Open};
use crate::{limits, lock::lock, metrics, rate_limit::RateLimit};

#[derive(Debug)]
pub(crate) struct Connections {
    limit: usize,
    places: Arc<Semaphore>,
    all: Mutex<HashMap<u64, Arc<Open>>>,
    next: AtomicU64,
    /// Whether new connections are to leave soon.
    says_goodbye: AtomicBool,
    /// The connections that were idle for longest at the last scan, the longest last.
    picked: Mutex<Vec<(u64, Arc<Open>)>>,
    warnings: RateLimit,
}

/// A place for a connection. Dropping it frees the place.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) open: Arc<Open>,
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
    /// The connections of a process that may have `limit` of them.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit,
            places: Arc::new(Semaphore::new(limit)),
            all: Mutex::default(),
            next: AtomicU64::new(0),
            says_goodbye: AtomicBool::new(false),
            picked: Mutex::default(),
            warnings: RateLimit::per_second(limits::LIMIT_WARNINGS),
        }
    }

    /// Waits for a place for a connection from this address. Near the limit, lets the connection that
    /// has been idle for longest end; at the limit, first closes it.
    pub(crate) async fn admit(self: &Arc<Self>, address: IpAddr) -> Connection {
        let place = self.places.clone().try_acquire_owned();
        let place = if let Ok(place) = place {
            place
        } else {
            self.make_room();
            let place = self.places.clone().acquire_owned().await;
            place.expect("the semaphore is never closed")
        };
        if self.places.available_permits() < self.limit / limits::ROOM_SHARE {
            self.end_longest_idle(Close::Drain);
        }
        let open = Arc::new(Open::new(address));
        let number = self.next.fetch_add(1, Relaxed);
        lock(&self.all).insert(number, open.clone());
        if self.says_goodbye.load(Relaxed) {
            open.close(Close::Leave);
        }
        Connection {
            open,
            connections: self.clone(),
            number,
            _place: place,
        }
    }

    fn make_room(&self) {
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
        self.end_longest_idle(Close::MakeRoom);
    }

    fn end_longest_idle(&self, why: Close) {
        let mut picked = lock(&self.picked);
        let close_one = |picked: &mut Vec<(u64, Arc<Open>)>| {
            while let Some((since, open)) = picked.pop() {
                if open.idle_since() == Some(since) {
                    open.close(why);
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
        let stays = |open: &&Arc<Open>| open.told_to_close() < Some(Close::Drain);
        let idle = all.values().filter(stays);
        let idle = idle.filter_map(|open| Some((open.idle_since()?, open)));
        let mut idle: Vec<_> = idle.collect();
        idle.sort_unstable_by_key(|(since, _)| *since);
        let longest = idle.into_iter().take(limits::MAX_IDLE_PICKED).rev();
        longest.map(|(since, open)| (since, open.clone())).collect()
    }

    /// Tells all clients to go elsewhere, and those of new connections.
    pub(crate) fn say_goodbye(&self) {
        self.says_goodbye.store(true, Relaxed);
        self.for_each(|open| open.close(Close::Leave));
    }

    pub(crate) fn for_each(&self, look: impl FnMut(&Arc<Open>)) {
        lock(&self.all).values().for_each(look);
    }
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, time::Duration};

    use futures_util::FutureExt;

    use super::*;

    const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    #[tokio::test]
    async fn the_longest_idle_connection_makes_room_and_one_with_a_request_does_not() {
        let connections = Arc::new(Connections::new(3));
        let mut open = Vec::new();
        for _ in 0..3 {
            open.push(connections.admit(ADDRESS).await);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        open[0].open.begin_request();
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

    #[tokio::test]
    async fn near_the_limit_an_idle_connection_ends_gently() {
        let limit = 2 * limits::ROOM_SHARE;
        let connections = Arc::new(Connections::new(limit));
        let mut open = Vec::new();
        for _ in 0..limit {
            open.push(connections.admit(ADDRESS).await);
        }
        let told = open.iter().filter_map(|one| one.open.told_to_close());
        assert_eq!(told.collect::<Vec<_>>(), [Close::Drain; 2]);
    }

    #[tokio::test]
    async fn goodbye_is_for_open_connections_and_for_new_ones_and_all_may_make_room() {
        let connections = Arc::new(Connections::new(2));
        let old = connections.admit(ADDRESS).await;
        connections.say_goodbye();
        let new = connections.admit(ADDRESS).await;
        let told = || [&old, &new].map(|one| one.open.told_to_close());
        assert_eq!(told(), [Some(Close::Leave); 2]);
        assert!(connections.admit(ADDRESS).now_or_never().is_none());
        assert!(told().contains(&Some(Close::MakeRoom)));
    }
}
