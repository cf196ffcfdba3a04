//! [`Cost`]: the cost of one more call on a replica.

use std::{sync::Mutex, time::Duration};

use tokio::time::Instant;

use crate::lock::lock;

/// The time in which a latency loses 63 % of its weight. linkerd and finagle use 10 s. With 1 s, a
/// replica that was slow once is tried again within seconds.
const DECAY: Duration = Duration::from_secs(1);

/// The time in which a failure loses 63 % of its weight. With less, each worker would try a failing
/// replica more often.
const FAILURE_DECAY: Duration = Duration::from_secs(5);

/// Added to each latency, so that noise does not rank replicas.
const FLOOR: Duration = Duration::from_millis(2);

/// Added to the latency of a replica, times its share of failures (linkerd's load biaser: 5 s).
const FAILURE_PENALTY: Duration = Duration::from_secs(5);

/// The weight of one response in the share of failures. One failure adds half a second to the cost.
const FAILURE_WEIGHT: f64 = 0.1;

/// The peak-EWMA latency of a replica, and its share of failures.
///
/// A slow response raises the latency at once, and the latency falls slowly, so the cost reflects
/// the recent bad cases. Each worker has its own averages, so the lock is uncontended.
#[derive(Debug)]
pub(super) struct Cost(Mutex<Averages>);

#[derive(Debug, Clone, Copy)]
struct Averages {
    /// In seconds.
    latency: f64,
    /// The share of failures, from 0 to 1.
    failures: f64,
    /// The time of the last update of the averages.
    at: Instant,
}

impl Cost {
    /// The cost of a replica that has not responded yet. Until it does, only its calls in flight
    /// raise the cost.
    pub(super) fn new() -> Self {
        Self(Mutex::new(Averages {
            latency: 0.0,
            failures: 0.0,
            at: Instant::now(),
        }))
    }

    /// The cost of one more call beside those in flight, in seconds.
    pub(super) fn of_a_call(&self, in_flight: u64) -> f64 {
        let mut averages = *lock(&self.0);
        averages.decay(Instant::now(), |old, kept| old * kept);
        #[allow(clippy::cast_precision_loss)] // far below 2⁵²
        let calls = (in_flight + 1) as f64;
        let penalty = averages.failures * FAILURE_PENALTY.as_secs_f64();
        (FLOOR.as_secs_f64() + averages.latency + penalty) * calls
    }

    /// The latency, as it has decayed by now.
    pub(super) fn latency(&self) -> Duration {
        let mut averages = *lock(&self.0);
        averages.decay(Instant::now(), |old, kept| old * kept);
        Duration::from_secs_f64(averages.latency)
    }

    /// Records that the response to a call has begun; `call` is the start of the call.
    pub(super) fn responded(&self, call: Instant) {
        let now = Instant::now();
        let latency = (now - call).as_secs_f64();
        let latency = |old: f64, kept: f64| latency.max(old * kept + latency * (1.0 - kept));
        lock(&self.0).decay(now, latency);
    }

    /// Records that a call ended before its response, which would have taken longer.
    pub(super) fn took_at_least(&self, call: Instant) {
        let now = Instant::now();
        let latency = (now - call).as_secs_f64();
        lock(&self.0).decay(now, |old, kept| latency.max(old * kept));
    }

    /// Records that a call succeeded or failed.
    pub(super) fn ended(&self, is_failure: bool) {
        let failures = &mut lock(&self.0).failures;
        let target = f64::from(u8::from(is_failure));
        *failures += (target - *failures) * FAILURE_WEIGHT;
    }

    /// Forgets the failures up to now.
    pub(super) fn forgive(&self) {
        lock(&self.0).failures = 0.0;
    }
}

impl Averages {
    /// Lets the averages decay up to `now`. `latency` returns the new latency, given the old one
    /// and the weight that the old one keeps.
    fn decay(&mut self, now: Instant, latency: impl FnOnce(f64, f64) -> f64) {
        let age = now - self.at;
        self.latency = latency(self.latency, weight(age, DECAY));
        if self.failures > 0.0 {
            self.failures *= weight(age, FAILURE_DECAY);
        }
        self.at = now;
    }
}

/// The weight of a response of this age.
fn weight(age: Duration, decay: Duration) -> f64 {
    (-age.as_secs_f64() / decay.as_secs_f64()).exp()
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const FAST: Duration = Duration::from_millis(1);
    const SLOW: Duration = Duration::from_millis(100);

    fn after(latency: Duration) -> Cost {
        let cost = Cost::new();
        cost.responded(Instant::now() - latency);
        cost
    }

    #[tokio::test(start_paused = true)]
    async fn the_cost_grows_with_the_calls_in_flight() {
        let cost = after(FAST);
        assert!((cost.of_a_call(0) - 0.003).abs() < 1e-9);
        assert!((cost.of_a_call(2) - 0.009).abs() < 1e-9);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_response_counts_at_once_and_is_forgotten_slowly() {
        let cost = after(FAST);
        cost.responded(Instant::now() - SLOW);
        assert!(cost.of_a_call(0) >= 0.1);
        cost.responded(Instant::now() - FAST);
        assert!(cost.of_a_call(0) >= 0.099, "one fast response is no proof");
        for _ in 0..100 {
            advance(Duration::from_millis(100)).await;
            cost.responded(Instant::now() - FAST);
        }
        assert!(cost.of_a_call(0) < 0.004);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_without_a_response_counts_with_the_time_that_it_took() {
        let cost = after(FAST);
        cost.took_at_least(Instant::now() - SLOW);
        assert!(cost.of_a_call(0) >= 0.1);
        cost.took_at_least(Instant::now() - FAST);
        assert!(
            cost.of_a_call(0) >= 0.1,
            "a short call without a response is not fast"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_replica_that_fails_fast_is_expensive_until_it_succeeds_or_is_forgiven() {
        let cost = after(FAST);
        cost.ended(true);
        assert!(cost.of_a_call(0) > 0.5);
        for _ in 0..50 {
            cost.ended(true);
        }
        assert!(cost.of_a_call(0) > 4.9);
        for _ in 0..100 {
            cost.ended(false);
        }
        assert!(cost.of_a_call(0) < 0.004);
        cost.ended(true);
        cost.forgive();
        assert!(cost.of_a_call(0) < 0.004);
    }

    #[tokio::test(start_paused = true)]
    async fn the_cost_of_a_replica_without_calls_falls() {
        let cost = after(SLOW);
        cost.ended(true);
        advance(Duration::from_secs(5)).await;
        assert!(
            cost.of_a_call(0) > 0.1,
            "failures are remembered for longer"
        );
        advance(Duration::from_secs(35)).await;
        assert!(cost.of_a_call(0) < 0.003);
    }
}
