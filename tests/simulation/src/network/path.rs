//! [`Path`]: the way of the packets from one host to another.

use std::{sync::Arc, sync::Mutex, task::Waker, time::Duration};

use tokio::time::Instant;

use crate::lock;

/// What happens to packets on their way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conditions {
    /// The least time that they take.
    pub latency: Duration,
    /// The most that is added to it, at random.
    pub jitter: Duration,
    /// Bytes a second.
    pub bandwidth: u64,
    /// Whether a write and a read take as much as they can, or parts of random length.
    pub cuts: bool,
}

impl Default for Conditions {
    fn default() -> Self {
        Self {
            latency: Duration::from_micros(200),
            jitter: Duration::ZERO,
            bandwidth: 1_000_000_000,
            cuts: false,
        }
    }
}

/// The way from one host to another. Clones share their state.
#[derive(Debug, Clone, Default)]
pub(super) struct Path(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    conditions: Conditions,
    is_blocked: bool,
    /// When the last packet has passed the narrowest part of the way.
    free: Option<Instant>,
    /// Packets that were sent before arrive no sooner, as their sender sends them again.
    not_before: Option<Instant>,
    wakers: Vec<Waker>,
}

impl Path {
    pub(super) fn set(&self, conditions: Conditions) {
        lock(&self.0).conditions = conditions;
    }

    pub(super) fn cuts(&self) -> bool {
        lock(&self.0).conditions.cuts
    }

    /// Lets nothing pass from now on.
    pub(super) fn block(&self) {
        lock(&self.0).is_blocked = true;
    }

    /// Lets packets pass again. What was lost is sent again after a while.
    pub(super) fn unblock(&self, again_after: Duration) {
        let wakers = {
            let mut state = lock(&self.0);
            state.is_blocked = false;
            state.not_before = Some(Instant::now() + again_after);
            std::mem::take(&mut state.wakers)
        };
        wakers.into_iter().for_each(Waker::wake);
    }

    pub(super) fn is_blocked(&self) -> bool {
        lock(&self.0).is_blocked
    }

    /// When a packet of so many bytes that is sent now arrives. `random` is from 0 to 1.
    pub(super) fn arrival(&self, bytes: usize, random: f64) -> Instant {
        let mut state = lock(&self.0);
        let now = Instant::now();
        let Conditions {
            latency,
            jitter,
            bandwidth,
            ..
        } = state.conditions;
        let takes = Duration::from_nanos(bytes as u64 * 1_000_000_000 / bandwidth.max(1));
        let passed = state.free.map_or(now, |free| free.max(now)) + takes;
        state.free = Some(passed);
        passed + latency + jitter.mul_f64(random)
    }

    /// When what was due at this time arrives: `None` while nothing passes, and then the waker is
    /// woken.
    pub(super) fn due(&self, at: Instant, waker: &Waker) -> Option<Instant> {
        let mut state = lock(&self.0);
        if state.is_blocked {
            if !state.wakers.iter().any(|one| one.will_wake(waker)) {
                state.wakers.push(waker.clone());
            }
            return None;
        }
        let not_before = state.not_before.filter(|it| *it > Instant::now());
        Some(not_before.map_or(at, |it| it.max(at)))
    }
}
