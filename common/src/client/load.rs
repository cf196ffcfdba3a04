//! [`Load`]: how busy a replica is, as its callers see it.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

/// After this time without another, an answer has lost 63 % of its weight. linkerd and finagle
/// take 10 s; with 1 s a replica that was slow once is tried again within seconds.
const DECAY: Duration = Duration::from_secs(1);

/// What no answer takes less than, as far as costs go: below it, differences are noise.
const FLOOR: Duration = Duration::from_millis(2);

/// The peak-EWMA latency of a replica, and its calls in flight.
///
/// The latency follows a slow answer at once and forgets it slowly: what counts is how bad it
/// may get. Each worker has its own, so the lock is never waited for.
#[derive(Debug)]
pub(super) struct Load {
    latency: Mutex<Latency>,
    in_flight: AtomicUsize,
}

#[derive(Debug, Clone, Copy)]
struct Latency {
    seconds: f64,
    seen: Instant,
}

impl Load {
    /// `latency` is that of the first answer.
    pub(super) fn new(latency: Duration) -> Self {
        Self {
            latency: Mutex::new(Latency {
                seconds: latency.as_secs_f64(),
                seen: Instant::now(),
            }),
            in_flight: AtomicUsize::new(0),
        }
    }

    /// How much a call more would cost, in seconds.
    pub(super) fn cost(&self) -> f64 {
        let Latency { seconds, seen } = *self.lock();
        let in_flight = self.in_flight.load(Ordering::Relaxed);
        #[allow(clippy::cast_precision_loss)] // far below 2⁵²
        let calls = (in_flight + 1) as f64;
        (FLOOR.as_secs_f64() + seconds * weight(seen.elapsed())) * calls
    }

    /// An answer came after that time.
    pub(super) fn observe(&self, latency: Duration) {
        let mut last = self.lock();
        let seconds = latency.as_secs_f64();
        let weight = weight(last.seen.elapsed());
        *last = Latency {
            seconds: seconds.max(last.seconds * weight + seconds * (1.0 - weight)),
            seen: Instant::now(),
        };
    }

    /// Counts a call as in flight until the result is dropped.
    pub(super) fn begin(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(self.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Latency> {
        self.latency.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What an answer of that age weighs.
fn weight(age: Duration) -> f64 {
    (-age.as_secs_f64() / DECAY.as_secs_f64()).exp()
}

/// A call in flight.
#[derive(Debug)]
pub(super) struct InFlight(Arc<Load>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const FAST: Duration = Duration::from_millis(1);
    const SLOW: Duration = Duration::from_millis(100);

    #[tokio::test(start_paused = true)]
    async fn each_call_in_flight_costs_as_much_as_one_more() {
        let load = Arc::new(Load::new(FAST));
        assert!((load.cost() - 0.003).abs() < 1e-9);
        let calls = [load.begin(), load.begin()];
        assert!((load.cost() - 0.009).abs() < 1e-9);
        drop(calls);
        assert!((load.cost() - 0.003).abs() < 1e-9);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_answer_counts_at_once_and_is_forgotten_slowly() {
        let load = Load::new(FAST);
        load.observe(SLOW);
        assert!(load.cost() >= 0.1);
        load.observe(FAST);
        assert!(load.cost() >= 0.099, "one fast answer is no proof");
        for _ in 0..100 {
            advance(Duration::from_millis(100)).await;
            load.observe(FAST);
        }
        assert!(load.cost() < 0.004);
    }

    #[tokio::test(start_paused = true)]
    async fn a_replica_that_is_not_asked_comes_to_be_worth_a_try() {
        let load = Load::new(SLOW);
        advance(Duration::from_secs(5)).await;
        assert!(load.cost() < 0.003);
    }
}
