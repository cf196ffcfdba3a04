//! [`Cost`]: how dear one more call on a replica is.

use std::{sync::Mutex, time::Duration};

use tokio::time::Instant;

use crate::lock::lock;

/// After this time without another, a response has lost 63 % of its weight. linkerd and finagle
/// take 10 s; with 1 s a replica that was slow once is tried again within seconds.
const DECAY: Duration = Duration::from_secs(1);

/// The same for failures. A shorter time would let each worker try a failing replica more often.
const FAILURE_DECAY: Duration = Duration::from_secs(5);

/// Added to each latency: without it, replicas would be ranked by noise.
const FLOOR: Duration = Duration::from_millis(2);

/// Added to the latency of a replica whose calls all fail, and a share of it where a share of them
/// fails (linkerd's load biaser: 5 s).
const FAILURE_PENALTY: Duration = Duration::from_secs(5);

/// How far one response moves the share of failures: one failure costs half a second.
const FAILURE_WEIGHT: f64 = 0.1;

/// The peak-EWMA latency of a replica, and its share of failures.
///
/// The latency follows a slow response at once and forgets it slowly: what counts is how bad it
/// may get. Each worker has its own, so the lock is never waited for.
#[derive(Debug)]
pub(super) struct Cost(Mutex<Seen>);

#[derive(Debug, Clone, Copy)]
struct Seen {
    /// In seconds.
    latency: f64,
    /// From 0 to 1.
    failures: f64,
    at: Instant,
}

impl Cost {
    /// Nothing is known yet. The calls in flight bound how many more come until it is.
    pub(super) fn new() -> Self {
        Self(Mutex::new(Seen {
            latency: 0.0,
            failures: 0.0,
            at: Instant::now(),
        }))
    }

    /// What one more call costs, in seconds, when that many are in flight.
    pub(super) fn of_a_call(&self, in_flight: u64) -> f64 {
        let mut seen = *lock(&self.0);
        seen.pass_time(Instant::now(), |old, kept| old * kept);
        #[allow(clippy::cast_precision_loss)] // far below 2⁵²
        let calls = (in_flight + 1) as f64;
        let penalty = seen.failures * FAILURE_PENALTY.as_secs_f64();
        (FLOOR.as_secs_f64() + seen.latency + penalty) * calls
    }

    /// The response to a call that was made then has begun.
    pub(super) fn responded(&self, call: Instant) {
        let now = Instant::now();
        let latency = (now - call).as_secs_f64();
        let latency = |old: f64, kept: f64| latency.max(old * kept + latency * (1.0 - kept));
        lock(&self.0).pass_time(now, latency);
    }

    /// A call that was made then is given up: the response would have taken longer.
    pub(super) fn took_at_least(&self, call: Instant) {
        let now = Instant::now();
        let latency = (now - call).as_secs_f64();
        lock(&self.0).pass_time(now, |old, kept| latency.max(old * kept));
    }

    /// A call succeeded or failed.
    pub(super) fn ended(&self, is_failure: bool) {
        let mut seen = lock(&self.0);
        let target = f64::from(u8::from(is_failure));
        seen.failures += (target - seen.failures) * FAILURE_WEIGHT;
    }

    /// What has failed up to now does not count any more.
    pub(super) fn forgive(&self) {
        lock(&self.0).failures = 0.0;
    }
}

impl Seen {
    /// Forgets with the time that has passed. `latency` makes the new latency of the old one and
    /// the share of it that is kept.
    fn pass_time(&mut self, now: Instant, latency: impl FnOnce(f64, f64) -> f64) {
        let age = now - self.at;
        self.latency = latency(self.latency, weight(age, DECAY));
        if self.failures > 0.0 {
            self.failures *= weight(age, FAILURE_DECAY);
        }
        self.at = now;
    }
}

/// What a response of that age weighs.
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
    async fn each_call_in_flight_costs_as_much_as_one_more() {
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
    async fn a_call_that_was_given_up_counts_with_the_time_that_it_took() {
        let cost = after(FAST);
        cost.took_at_least(Instant::now() - SLOW);
        assert!(cost.of_a_call(0) >= 0.1);
        cost.took_at_least(Instant::now() - FAST);
        assert!(cost.of_a_call(0) >= 0.1, "it is no fast response");
    }

    #[tokio::test(start_paused = true)]
    async fn a_replica_that_fails_fast_is_dear_until_it_succeeds_or_time_passes() {
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
    async fn a_replica_that_is_not_asked_comes_to_be_worth_a_try() {
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
