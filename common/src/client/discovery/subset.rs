//! [`Subset`]: how many replicas a worker connects to; [`Ranks`]: which, if there are more.

use std::{
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher},
    net::SocketAddr,
};

use tokio::sync::watch;

use crate::limits;

/// A worker's part of the connections of the process.
#[derive(Debug)]
pub(crate) struct Subset {
    number: usize,
    pub(crate) workers: watch::Sender<usize>,
}

impl Subset {
    /// Adds a worker. `number` is the worker's own, `workers` counts them
    /// all.
    pub(crate) fn join(number: usize, workers: &watch::Sender<usize>) -> Self {
        workers.send_modify(|workers| *workers += 1);
        Self {
            number,
            workers: workers.clone(),
        }
    }

    /// The number of replicas that the worker connects to.
    pub(crate) fn replicas(&self) -> usize {
        let workers = (*self.workers.borrow()).max(1);
        (limits::MAX_CHANNEL_CONNECTIONS / workers).max(limits::MIN_REPLICAS)
    }
}

impl Drop for Subset {
    fn drop(&mut self) {
        self.workers.send_modify(|workers| *workers -= 1);
    }
}

/// Ranks addresses, for each worker of each process in another order (rendezvous hashing, gRFC
/// A68). The rank of an address does not depend on the others, so a worker with a subset of the
/// addresses hardly changes its connections when one of them comes or goes.
#[derive(Debug)]
pub(crate) struct Ranks {
    /// The seed of the process.
    seed: u64,
}

impl Ranks {
    pub(crate) fn new() -> Self {
        Self {
            seed: fastrand::u64(..),
        }
    }

    /// The addresses that a worker connects to, of `all`: the first in its order that fill its
    /// subset, without counting the unreachable ones among them.
    pub(crate) fn subset(
        &self,
        subset: &Subset,
        mut all: Vec<SocketAddr>,
        is_unreachable: impl Fn(&SocketAddr) -> bool,
    ) -> Vec<SocketAddr> {
        let mut left = subset.replicas();
        if all.len() <= left {
            return all;
        }
        let hasher = BuildHasherDefault::<DefaultHasher>::new();
        all.sort_by_cached_key(|address| hasher.hash_one((self.seed, subset.number, address)));
        let end = all.iter().position(|address| {
            if left == 0 {
                return true;
            }
            left -= usize::from(!is_unreachable(address));
            false
        });
        all.truncate(end.unwrap_or(all.len()));
        all
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use super::*;

    const RANKS: Ranks = Ranks { seed: 7 };

    fn address(number: u16) -> SocketAddr {
        ([10, 0, 0, 1], number).into()
    }

    fn addresses(count: u16) -> Vec<SocketAddr> {
        (0..count).map(address).collect()
    }

    /// The shares of this many workers.
    fn shares(workers: usize) -> Vec<Subset> {
        let count = watch::Sender::new(0);
        let share = |number| Subset::join(number, &count);
        (0..workers).map(share).collect()
    }

    /// What each of the workers connects to, while all addresses can be reached.
    fn connections(
        ranks: &Ranks,
        shares: &[Subset],
        all: &[SocketAddr],
    ) -> Vec<HashSet<SocketAddr>> {
        let subset = |share| ranks.subset(share, all.to_vec(), |_| false);
        let subsets = shares.iter().map(subset);
        subsets.map(HashSet::from_iter).collect()
    }

    #[test]
    fn a_worker_connects_to_its_share_and_replaces_unreachable_replicas() {
        let shares = shares(64);
        let subset = |count, is_unreachable: &dyn Fn(&SocketAddr) -> bool| {
            RANKS.subset(&shares[0], addresses(count), is_unreachable)
        };
        assert_eq!(subset(5, &|_| false), addresses(5));
        let usual = subset(50, &|_| false);
        assert_eq!(usual.len(), 8);
        let gone = [usual[2], usual[5]];
        let more = subset(50, &|address| gone.contains(address));
        assert_eq!(more.len(), 10);
        assert!(
            more.starts_with(&usual),
            "the unreachable ones are still tried"
        );
        assert_eq!(subset(50, &|_| true).len(), 50);
    }

    #[test]
    fn the_connections_of_the_process_are_bounded_and_spread() {
        let of_few = connections(&RANKS, &shares(2), &addresses(50));
        assert!(
            of_few.iter().all(|one| one.len() == 50),
            "few workers connect to all"
        );
        let mut counts = HashMap::<_, usize>::new();
        for address in connections(&RANKS, &shares(64), &addresses(50))
            .into_iter()
            .flatten()
        {
            *counts.entry(address).or_default() += 1;
        }
        assert_eq!(counts.values().sum::<usize>(), 512);
        // 10.24 in the mean, with a standard deviation of 2.9.
        assert_eq!(counts.len(), 50, "no replica is left out");
        assert!(counts.values().all(|count| *count < 30), "{counts:?}");
    }

    /// 600 replicas and four workers with 128 connections each, as 512 connections of a process.
    #[test]
    fn one_address_more_or_less_moves_its_own_connections_alone() {
        let (shares, all) = (shares(4), addresses(600));
        let before = connections(&RANKS, &shares, &all);
        let mut moved = 0;
        for gone in &all {
            let left: Vec<_> = all.iter().filter(|one| *one != gone).copied().collect();
            let after = connections(&RANKS, &shares, &left);
            for (before, after) in before.iter().zip(&after) {
                let closed: Vec<_> = before.difference(after).collect();
                assert!(closed.iter().all(|one| *one == gone), "{closed:?}");
                assert_eq!(after.difference(before).count(), closed.len());
                moved += closed.len();
            }
        }
        assert_eq!(moved, 512, "in 600 changes: 0.85 of 512 connections each");
    }

    #[test]
    fn workers_and_processes_prefer_different_replicas() {
        let (shares, all) = (shares(64), addresses(1_000));
        let mine = connections(&RANKS, &shares, &all);
        assert_ne!(mine[0], mine[1]);
        assert_ne!(mine, connections(&Ranks { seed: 8 }, &shares, &all));
    }
}
