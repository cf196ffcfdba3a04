//! [`Stalled`]: the connections whose clients take nothing of their responses. One of them is preempted when
//! there is no permit for another request.

use std::{sync::Arc, time::Duration};

use super::{connections::Connections, handle::ConnectionHandle};
use crate::{
    limits,
    sync::{Mutex, lock, now},
};

/// The connections whose clients take nothing, as of the last look.
#[derive(Debug)]
pub(super) struct Stalled {
    connections: Arc<Connections>,
    last_look: Mutex<Look>,
}

#[derive(Debug, Default)]
struct Look {
    /// See [`now`].
    at: u64,
    /// Those that have taken nothing for [`limits::STALLED_AFTER`], the longest stalled last.
    found: Vec<Arc<ConnectionHandle>>,
}

impl Stalled {
    pub(super) fn new(connections: Arc<Connections>) -> Self {
        Self {
            connections,
            last_look: Mutex::default(),
        }
    }

    /// Looks at all connections if the last look is [`limits::LOOK_INTERVAL`] old, so that it is known
    /// at the limit how long each has been stalled.
    pub(super) fn look(&self) {
        let Ok(mut last) = self.last_look.try_lock() else {
            return; // another worker looks
        };
        let now = now();
        if now >= last.at + millis(limits::LOOK_INTERVAL) {
            last.at = now;
            last.found = self.found_at(now);
        }
    }

    fn found_at(&self, now: u64) -> Vec<Arc<ConnectionHandle>> {
        let mut found = Vec::new();
        self.connections.for_each(|handle| {
            if let Some(since) = handle.usage.look(now)
                && since + millis(limits::STALLED_AFTER) <= now
            {
                found.push((since, handle.clone()));
            }
        });
        found.sort_unstable_by_key(|(since, _)| u64::MAX - since);
        found.into_iter().map(|(_, handle)| handle).collect()
    }

    /// Preempts the connection that has been stalled for longest. Returns whether there is one.
    pub(super) fn preempt_one(&self) -> bool {
        let found = &mut lock(&self.last_look).found;
        while let Some(handle) = found.pop() {
            if handle.preempt() {
                return true;
            }
        }
        false
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    async fn stalled() -> (Stalled, [super::super::connections::ConnectionPermit; 2]) {
        let connections = Arc::new(Connections::new(2));
        let mut both = Vec::new();
        for _ in 0..2 {
            both.push(connections.admit(Ipv4Addr::LOCALHOST.into()).await);
        }
        let both = both.try_into().expect("two");
        (Stalled::new(connections), both)
    }

    const NOW: u64 = 1_000;
    const LATER: u64 = NOW + 5_000;

    #[tokio::test]
    async fn a_client_that_takes_nothing_for_five_seconds_is_stalled_and_one_that_takes_a_little_is_not()
     {
        let (stalled, [one, other]) = stalled().await;
        for usage in [&one.handle.usage, &other.handle.usage] {
            usage.begin();
            usage.note_waits_for_service(false);
        }
        assert!(stalled.found_at(NOW).is_empty());
        assert!(stalled.found_at(LATER - 1).is_empty());
        other.handle.usage.note_taken();
        let found = stalled.found_at(LATER);
        assert!(matches!(&found[..], [handle] if Arc::ptr_eq(handle, &one.handle)));
        assert!(
            stalled.found_at(LATER + 5_000 - 1).len() < 2,
            "it has begun anew"
        );
    }

    #[tokio::test]
    async fn a_client_that_waits_for_the_service_is_not_stalled_nor_is_a_service_of_the_mesh() {
        let (stalled, [one, other]) = stalled().await;
        one.handle.usage.begin();
        let of_mesh = &other.handle.usage;
        of_mesh.note_of_mesh();
        of_mesh.begin();
        of_mesh.note_waits_for_service(false);
        for now in [NOW, LATER] {
            assert!(stalled.found_at(now).is_empty());
        }
    }

    #[tokio::test]
    async fn the_client_that_has_been_stalled_for_longest_is_preempted_first_and_each_once() {
        let (stalled, [one, other]) = stalled().await;
        for (handle, since) in [(&other.handle, NOW), (&one.handle, NOW + 1)] {
            handle.usage.begin();
            handle.usage.note_waits_for_service(false);
            stalled.found_at(since);
        }
        lock(&stalled.last_look).found = stalled.found_at(LATER + 1);
        let preempted = || [&one, &other].map(|it| it.handle.is_preempted());
        assert_eq!(preempted(), [false, false]);
        assert!(stalled.preempt_one());
        assert_eq!(preempted(), [false, true]);
        assert!(stalled.preempt_one());
        assert_eq!(preempted(), [true, true]);
        assert!(!stalled.preempt_one());
        lock(&stalled.last_look).found = stalled.found_at(LATER + 2);
        assert!(!stalled.preempt_one(), "both are about to end");
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_finds_the_stalled_and_a_second_one_comes_later() {
        let (stalled, [one, _]) = stalled().await;
        one.handle.usage.begin();
        one.handle.usage.note_waits_for_service(false);
        let found = || lock(&stalled.last_look).found.len();
        tokio::time::advance(limits::LOOK_INTERVAL).await;
        stalled.look();
        tokio::time::advance(limits::STALLED_AFTER).await;
        stalled.look();
        assert_eq!(found(), 1);
        one.handle.usage.note_taken();
        tokio::time::advance(limits::LOOK_INTERVAL / 2).await;
        stalled.look();
        assert_eq!(found(), 1, "the last look is not old");
        tokio::time::advance(limits::LOOK_INTERVAL).await;
        stalled.look();
        assert_eq!(found(), 0);
    }
}
