//! [`Budget`]: how many attempts the process may add to the first of each call.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    client::retry_policy::RetryPolicy,
    sync::{
        Arc, Mutex,
        atomic::{
            AtomicU64,
            Ordering::{Acquire, Relaxed},
            fence,
        },
        lock,
    },
    telemetry::metrics,
};

/// The time in which a call counts.
const WINDOW: Duration = Duration::from_secs(10);

/// The attempts that all workers may add. Calls fill the budget, and what they add decays with the
/// window.
///
/// A call only adds to a counter of its worker. The counters are read at a withdrawal, which is
/// rare.
#[derive(Debug)]
pub(crate) struct Budget(Mutex<State>);

/// The number of calls of one worker.
#[derive(Debug, Clone, Default)]
pub(crate) struct CallCounter(Arc<AtomicU64>);

impl CallCounter {
    pub(crate) fn add(&self) {
        self.0.fetch_add(1, Relaxed);
    }
}

#[derive(Debug)]
struct State {
    /// What a call adds, and what a second adds.
    per_call: f64,
    per_second: f64,
    workers: Vec<CallCounter>,
    balance: f64,
    /// The calls that the balance includes.
    counted: u64,
    /// The calls of workers that have ended.
    ended: u64,
    /// The time of the last update of the balance.
    at: Instant,
}

impl Budget {
    pub(crate) fn new(policy: &RetryPolicy) -> Self {
        Self(Mutex::new(State {
            per_call: policy.budget,
            per_second: policy.budget_per_second,
            workers: Vec::new(),
            balance: policy.budget_per_second * WINDOW.as_secs_f64(),
            counted: 0,
            ended: 0,
            at: Instant::now(),
        }))
    }

    /// Adds a worker and returns its counter.
    pub(crate) fn join(&self) -> CallCounter {
        let calls = CallCounter::default();
        let mut state = lock(&self.0);
        state.remove_ended_workers();
        state.workers.push(calls.clone());
        calls
    }

    /// Takes a retry out of the budget, and counts it. Returns whether there was one.
    pub(crate) fn grant_retry(&self) -> bool {
        let is_granted = self.withdraw();
        metrics::count(|counters| {
            if is_granted {
                &counters.retries
            } else {
                &counters.retries_refused
            }
        });
        is_granted
    }

    /// Takes one attempt out of the budget. Returns whether there was one.
    pub(crate) fn withdraw(&self) -> bool {
        let mut state = lock(&self.0);
        state.fill();
        let is_granted = state.balance >= 1.0;
        if is_granted {
            state.balance -= 1.0;
        }
        is_granted
    }
}

impl State {
    fn remove_ended_workers(&mut self) {
        let ended = &mut self.ended;
        self.workers.retain(|CallCounter(calls)| {
            let has_ended = Arc::strong_count(calls) == 1;
            if has_ended {
                fence(Acquire); // of what the worker has counted: the count of owners is read without it
                *ended += calls.load(Relaxed);
            }
            !has_ended
        });
    }

    /// Updates the balance: the old balance decays with its age, and the new income counts as if it
    /// had come at a constant rate.
    fn fill(&mut self) {
        let now = Instant::now();
        let windows = (now - self.at).as_secs_f64() / WINDOW.as_secs_f64();
        let workers = self.workers.iter();
        let calls = self.ended
            + workers
                .map(|CallCounter(calls)| calls.load(Relaxed))
                .sum::<u64>();
        #[allow(clippy::cast_precision_loss)] // far below 2⁵²
        let new = (calls - self.counted) as f64;
        let income = new * self.per_call + (now - self.at).as_secs_f64() * self.per_second;
        let kept = (-windows).exp();
        let share = if windows > 0.0 {
            (1.0 - kept) / windows
        } else {
            1.0
        };
        self.balance = self.balance * kept + income * share;
        self.counted = calls;
        self.at = now;
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    fn granted(budget: &Budget) -> usize {
        let granted = std::iter::from_fn(|| budget.withdraw().then_some(()));
        granted.take(100_000).count()
    }

    #[tokio::test(start_paused = true)]
    async fn the_budget_is_a_share_of_the_calls_and_ten_a_second() {
        let budget = Budget::new(&RetryPolicy::default());
        let calls = budget.join();
        (0..10_000).for_each(|_| calls.add());
        assert_eq!(granted(&budget), 2_100);
        assert_eq!(granted(&budget), 0);
        advance(Duration::from_secs(1)).await;
        assert_eq!(granted(&budget), 9, "ten a second, less the decay");
    }

    #[tokio::test(start_paused = true)]
    async fn the_budget_does_not_grow_beyond_its_window() {
        let budget = Budget::new(&RetryPolicy::default());
        let calls = budget.join();
        for _ in 0..1_000 {
            (0..100).for_each(|_| calls.add());
            advance(Duration::from_secs(1)).await;
        }
        // 20 a second from calls and 10 a second from the minimum, for ten seconds.
        assert_eq!(granted(&budget), 300);
    }

    #[tokio::test(start_paused = true)]
    async fn the_workers_share_one_budget() {
        let budget = Budget::new(&RetryPolicy::default());
        let workers: Vec<_> = (0..64).map(|_| budget.join()).collect();
        for calls in &workers {
            (0..100).for_each(|_| calls.add());
        }
        assert_eq!(granted(&budget), 1_280 + 100);
        drop(workers);
        let calls = budget.join();
        (0..100).for_each(|_| calls.add());
        assert_eq!(granted(&budget), 20, "a call is counted once");
    }
}
