//! [`FollowLimit`]: how many requests of strangers are recorded because their callers ask for it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tokio::time::Instant;

/// Allows a number of requests a second, in the whole process: all requests of a client may be with one worker.
///
/// Beyond the limit, a request reads a number that nobody writes until the next second.
#[derive(Debug)]
pub(crate) struct FollowLimit {
    per_second: u32,
    epoch: Instant,
    /// The second since `epoch`, and the requests that were allowed in it, in 32 bits each.
    state: AtomicU64,
}

impl FollowLimit {
    pub(crate) fn per_second(per_second: u32) -> Self {
        Self {
            per_second,
            epoch: Instant::now(),
            state: AtomicU64::new(0),
        }
    }

    /// Whether one more request is allowed `now`.
    pub(crate) fn allow(&self, now: Instant) -> bool {
        let second = now.saturating_duration_since(self.epoch).as_secs();
        let next = |state: u64| {
            let (current, allowed) = (state >> 32, state & u64::from(u32::MAX));
            let (current, allowed) = if second > current {
                (second, 0)
            } else {
                (current, allowed) // also where another thread has read a later time
            };
            (allowed < self.per_second.into()).then_some(current << 32 | (allowed + 1))
        };
        self.state.fetch_update(Relaxed, Relaxed, next).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::{thread, time::Duration};

    use super::*;

    #[test]
    fn each_second_has_its_requests() {
        let limit = FollowLimit::per_second(3);
        let at = |millis| limit.epoch + Duration::from_millis(millis);
        let allowed = |millis| (0..10).filter(|_| limit.allow(at(millis))).count();
        assert_eq!([0, 999, 1_000, 1_500, 5_000].map(allowed), [3, 0, 3, 0, 3]);
        assert_eq!(
            allowed(4_999),
            0,
            "the clock of another thread was read before"
        );
        assert!(!FollowLimit::per_second(0).allow(at(0)));
    }

    #[test]
    fn the_threads_of_a_process_share_the_limit() {
        let limit = FollowLimit::per_second(50);
        let ask = || (0..1_000).filter(|_| limit.allow(limit.epoch)).count();
        let allowed: usize = thread::scope(|scope| {
            let threads = [(); 4].map(|()| scope.spawn(ask));
            threads.map(|thread| thread.join().unwrap()).iter().sum()
        });
        assert_eq!(allowed, 50);
    }
}
