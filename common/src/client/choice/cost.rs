//! [`Cost`]: the cost of one more call on a replica.

use std::time::Duration;

use tokio::time::Instant;

use crate::sync::{
    Mutex,
    atomic::{AtomicU64, Ordering::Relaxed},
    lock,
};

/// The time in which a latency loses 63 % of its weight. linkerd and finagle use 10 s. With 1 s, a
/// replica that was slow once is tried again within seconds.
const DECAY: Duration = Duration::from_secs(1);

/// Added to each latency, so that noise does not rank replicas.
const FLOOR: Duration = Duration::from_millis(2);

/// The slowness of a new replica: it has cold caches, and must not draw all calls at once.
const NEW: f64 = 2.0;

/// The slowest that a replica counts as. Slower ones would get no more calls in the end, but for
/// longer: after a freeze of 10 s, a single response that waited for its end would keep calls away
/// for 8 s.
const SLOWEST: f64 = 20.0;

/// The load of a stream whose first message has come, as a share of a call that waits. Such a stream
/// may be quiet for hours.
const OPEN: f64 = 1.0 / 64.0;

/// The most calls that go to a replica together at the cost of the first. With one replica about ten calls
/// share a write. More would keep a replica busy while others stand idle.
const BATCH: u64 = 8;

/// How slow a replica is, and the calls on it.
///
/// The slowness is the peak-EWMA of latencies, each relative to what is usual for its method: 1 is
/// usual. So like is compared with like. A slow response raises it at once, and it falls slowly.
/// Each worker has its own averages, so the lock is uncontended.
#[derive(Debug)]
pub(crate) struct Cost {
    averages: Mutex<Averages>,
    /// The calls whose first message has not come yet.
    waiting: AtomicU64,
    /// The streams whose first message has come.
    open: AtomicU64,
}

#[derive(Debug, Clone, Copy)]
struct Averages {
    slowness: f64,
    /// In seconds, for people.
    latency: f64,
    /// The time of the last update of the averages.
    at: Instant,
}

impl Cost {
    pub(crate) fn new() -> Self {
        Self {
            averages: Mutex::new(Averages {
                slowness: NEW,
                latency: 0.0,
                at: Instant::now(),
            }),
            waiting: AtomicU64::new(0),
            open: AtomicU64::new(0),
        }
    }

    /// The cost of one more call beside those in flight. 1 is that of a replica without calls.
    pub(crate) fn of_a_call(&self) -> f64 {
        self.beside(self.waiting.load(Relaxed))
    }

    /// The cost of one more call that is sent together with `unsent` others: as for the first of them, unless
    /// they are more than [`BATCH`].
    pub(crate) fn of_joining(&self, unsent: u64) -> f64 {
        let waiting = self.waiting.load(Relaxed);
        self.beside(waiting.saturating_sub(unsent.min(BATCH)))
    }

    /// The cost of one more call beside so many that wait, and the open streams.
    #[allow(clippy::cast_precision_loss)] // far below 2⁵²
    fn beside(&self, waiting: u64) -> f64 {
        let averages = lock(&self.averages).at(Instant::now());
        let waiting = waiting as f64;
        let open = self.open.load(Relaxed) as f64;
        averages.slowness * (1.0 + waiting + open * OPEN)
    }

    /// The latency as of the last response; zero before the first.
    pub(crate) fn latency(&self) -> Duration {
        Duration::from_secs_f64(lock(&self.averages).latency)
    }

    /// Counts a call that begins.
    pub(crate) fn begin(&self) {
        self.waiting.fetch_add(1, Relaxed);
    }

    /// Counts the first message of a stream.
    pub(crate) fn open(&self) {
        self.waiting.fetch_sub(1, Relaxed);
        self.open.fetch_add(1, Relaxed);
    }

    /// Counts the end of a call. `is_open` is whether its first message was counted.
    pub(crate) fn end(&self, is_open: bool) {
        let count = if is_open { &self.open } else { &self.waiting };
        count.fetch_sub(1, Relaxed);
    }

    /// Records that a response came after this time. `usual` is how long its method usually takes;
    /// where that is not known, the response is not compared.
    pub(crate) fn responded(&self, took: Duration, usual: Option<Duration>, now: Instant) {
        let mut averages = lock(&self.averages);
        let old = *averages;
        let kept = weight(now - old.at);
        let mix = |old: f64, new: f64| new.max(old * kept + new * (1.0 - kept));
        *averages = Averages {
            slowness: match usual {
                Some(usual) => mix(old.slowness, slowness(took, usual)),
                None => old.at(now).slowness,
            },
            latency: mix(old.latency, took.as_secs_f64()),
            at: now,
        };
    }

    /// Records that no response came within this time.
    pub(crate) fn took_at_least(&self, took: Duration, usual: Option<Duration>, now: Instant) {
        let mut averages = lock(&self.averages);
        let old = averages.at(now);
        *averages = Averages {
            slowness: usual.map_or(old.slowness, |usual| {
                old.slowness.max(slowness(took, usual))
            }),
            latency: old.latency.max(took.as_secs_f64()),
            at: now,
        };
    }
}

impl Averages {
    /// The averages as they have decayed by `now`: towards what is usual.
    fn at(self, now: Instant) -> Self {
        let kept = weight(now - self.at);
        Self {
            slowness: 1.0 + (self.slowness - 1.0) * kept,
            latency: self.latency * kept,
            at: now,
        }
    }
}

fn slowness(took: Duration, usual: Duration) -> f64 {
    let slowness = (took + FLOOR).div_duration_f64(usual + FLOOR);
    slowness.min(SLOWEST)
}

/// The weight of a response of this age.
fn weight(age: Duration) -> f64 {
    (-age.as_secs_f64() / DECAY.as_secs_f64()).exp()
}
#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const FAST: Duration = Duration::from_millis(1);
    const SLOW: Duration = Duration::from_millis(100);

    fn respond(cost: &Cost, took: Duration, usual: Duration) {
        cost.responded(took, Some(usual), Instant::now());
    }

    /// The cost after responses that were as fast as usual.
    async fn settled() -> Cost {
        let cost = Cost::new();
        for _ in 0..100 {
            advance(Duration::from_millis(100)).await;
            respond(&cost, FAST, FAST);
        }
        assert!((cost.of_a_call() - 1.0).abs() < 1e-3);
        cost
    }

    #[tokio::test(start_paused = true)]
    async fn the_cost_grows_with_the_calls_in_flight() {
        let cost = settled().await;
        cost.begin();
        cost.begin();
        assert!((cost.of_a_call() - 3.0).abs() < 0.01);
        cost.end(false);
        cost.end(false);
        assert!((cost.of_a_call() - 1.0).abs() < 0.01);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_joins_others_costs_as_much_as_the_first_of_a_batch() {
        let cost = settled().await;
        (0..3).for_each(|_| cost.begin()); // sent before
        (0..BATCH).for_each(|_| cost.begin());
        assert!((cost.of_joining(BATCH) - 4.0).abs() < 0.01);
        (0..2).for_each(|_| cost.begin());
        assert!((cost.of_joining(BATCH + 2) - 6.0).abs() < 0.01);
        assert!((cost.of_a_call() - 14.0).abs() < 0.01);
    }

    #[tokio::test(start_paused = true)]
    async fn quiet_streams_are_a_small_load() {
        let cost = settled().await;
        for _ in 0..30 {
            cost.begin();
            cost.open();
        }
        assert!((cost.of_a_call() - 1.47).abs() < 0.01);
        (0..30).for_each(|_| cost.end(true));
        assert!((cost.of_a_call() - 1.0).abs() < 0.01);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_response_counts_at_once_and_is_forgotten_slowly() {
        let cost = settled().await;
        respond(&cost, SLOW, FAST);
        assert!(cost.of_a_call() > 19.0);
        respond(&cost, FAST, FAST);
        assert!(cost.of_a_call() > 19.0, "one fast response is no proof");
        for _ in 0..100 {
            advance(Duration::from_millis(100)).await;
            respond(&cost, FAST, FAST);
        }
        assert!(cost.of_a_call() < 1.1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_method_is_no_slow_replica() {
        let cost = settled().await;
        respond(&cost, SLOW, SLOW);
        assert!(cost.of_a_call() < 1.1);
        cost.responded(SLOW, None, Instant::now());
        assert!(cost.of_a_call() < 1.1, "nobody knows what is usual");
        assert!(cost.latency() >= SLOW);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_without_a_response_counts_with_the_time_that_it_took() {
        let cost = settled().await;
        cost.took_at_least(SLOW, Some(FAST), Instant::now());
        assert!(cost.of_a_call() > 19.0);
        cost.took_at_least(FAST, Some(FAST), Instant::now());
        assert!(
            cost.of_a_call() > 19.0,
            "a short call without a response is not fast"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_response_after_a_freeze_keeps_calls_away_for_seconds_at_most() {
        let cost = settled().await;
        respond(&cost, Duration::from_secs(10), FAST);
        advance(Duration::from_millis(2_600)).await;
        assert!(cost.of_a_call() < 2.5, "{}", cost.of_a_call());
    }

    #[tokio::test(start_paused = true)]
    async fn a_replica_that_is_new_or_was_slow_becomes_usual_without_calls() {
        let cost = Cost::new();
        assert!(cost.of_a_call() > 1.9);
        advance(5 * DECAY).await;
        assert!(cost.of_a_call() < 1.1);
        respond(&cost, SLOW, FAST);
        advance(10 * DECAY).await;
        assert!(cost.of_a_call() < 1.1);
    }

    #[tokio::test(start_paused = true)]
    async fn the_weight_of_a_response_falls_with_its_age() {
        let cost = settled().await;
        respond(&cost, SLOW, FAST);
        advance(DECAY).await;
        respond(&cost, FAST, FAST);
        let (old, new) = (0.368 * SLOWEST, 0.632);
        assert!((cost.of_a_call() - (old + new)).abs() < 0.01);
        let latency = 0.368 * 0.1 + 0.632 * 0.001;
        assert!((cost.latency().as_secs_f64() - latency).abs() < 1e-4);
        advance(DECAY).await;
        cost.took_at_least(FAST, None, Instant::now());
        assert!((cost.latency().as_secs_f64() - 0.368 * latency).abs() < 1e-4);
    }
}
