//! [`Usual`]: how long a method usually takes, to tell when a response is late. All workers of the
//! process learn it together, so that it does not take longer with more of them.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use crate::lock::lock;

/// The share of responses that are not late ("The Tail at Scale" has the 95th percentile too).
const PERCENTILE: usize = 95;

/// A response is late at this multiple of the percentile: with 1, one call in twenty would be
/// hedged although nothing is wrong.
const MARGIN: u32 = 2;

/// No response is late before: below, what is measured is the scheduler.
const FLOOR: Duration = Duration::from_millis(10);

/// Responses of all workers after which the percentile is taken anew, from these alone.
const WINDOW: usize = 100;

/// Responses that a worker keeps to itself before it adds them to the window.
const BATCH: usize = 10;

/// How long a method usually takes, for the whole process.
#[derive(Debug, Default)]
pub(in crate::client) struct Usual {
    /// In microseconds; 0 until the first window is full.
    late_after: AtomicU64,
    window: Mutex<Vec<Duration>>,
}

impl Usual {
    fn add(&self, latencies: &mut Vec<Duration>) {
        let mut window = lock(&self.window);
        window.append(latencies);
        if window.len() < WINDOW {
            return;
        }
        let index = window.len() * PERCENTILE / 100;
        let (_, percentile, _) = window.select_nth_unstable(index);
        let late_after = (*percentile * MARGIN).max(FLOOR);
        let micros = u64::try_from(late_after.as_micros()).unwrap_or(u64::MAX);
        self.late_after.store(micros, Relaxed);
        window.clear();
    }
}

/// The latencies of a method that one worker sees.
#[derive(Debug)]
pub(super) struct Latencies {
    usual: Arc<Usual>,
    /// Never waited for: each worker has its own.
    batch: Mutex<Vec<Duration>>,
}

impl Latencies {
    pub(super) fn new(usual: Arc<Usual>) -> Self {
        Self {
            usual,
            batch: Mutex::default(),
        }
    }

    /// When a response is later than usual; `None` until enough is known.
    pub(super) fn late_after(&self) -> Option<Duration> {
        let micros = self.usual.late_after.load(Relaxed);
        (micros > 0).then(|| Duration::from_micros(micros))
    }

    /// A good response took that long.
    pub(super) fn record(&self, latency: Duration) {
        let mut batch = lock(&self.batch);
        batch.push(latency);
        if batch.len() >= BATCH {
            self.usual.add(&mut batch);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLI: Duration = Duration::from_millis(1);

    fn record(latencies: &Latencies, count: usize, latency: Duration) {
        for _ in 0..count {
            latencies.record(latency);
        }
    }

    #[test]
    fn nothing_is_late_until_enough_is_known() {
        let latencies = Latencies::new(Arc::default());
        record(&latencies, WINDOW - 1, 50 * MILLI);
        assert_eq!(latencies.late_after(), None);
        record(&latencies, 1, 50 * MILLI);
        assert_eq!(latencies.late_after(), Some(100 * MILLI));
    }

    #[test]
    fn all_workers_learn_together() {
        let usual = Arc::<Usual>::default();
        let workers: Vec<_> = (0..10).map(|_| Latencies::new(usual.clone())).collect();
        for latencies in &workers {
            record(latencies, BATCH, 50 * MILLI);
        }
        for latencies in &workers {
            assert_eq!(latencies.late_after(), Some(100 * MILLI));
        }
    }

    #[test]
    fn a_few_slow_responses_do_not_change_what_is_usual_but_many_do() {
        let latencies = Latencies::new(Arc::default());
        record(&latencies, 4, Duration::from_secs(1));
        record(&latencies, WINDOW - 4, 20 * MILLI);
        assert_eq!(latencies.late_after(), Some(40 * MILLI));
        record(&latencies, 10, Duration::from_secs(1));
        record(&latencies, WINDOW - 10, 20 * MILLI);
        assert_eq!(latencies.late_after(), Some(Duration::from_secs(2)));
    }

    #[test]
    fn there_is_a_floor() {
        let latencies = Latencies::new(Arc::default());
        record(&latencies, WINDOW, MILLI / 10);
        assert_eq!(latencies.late_after(), Some(FLOOR));
    }
}
