//! [`UsualLatency`]: how long a method usually takes, to tell when a response is late, and to compare
//! replicas that serve different methods. The workers of the process learn it together, so that more
//! workers do not take longer to learn it.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use crate::lock::lock;

/// The percentile that defines a late response (the one of "The Tail at Scale").
const PERCENTILE: usize = 95;

/// A response is late at this multiple of the percentile. At 1, one call in twenty would be hedged
/// although nothing is wrong.
const MARGIN: u32 = 2;

/// No response is late before this: shorter times measure the scheduler.
const FLOOR: Duration = Duration::from_millis(10);

/// The responses, of all workers together, that one percentile is taken from. Windows do not
/// overlap.
const WINDOW: usize = 100;

/// The responses that a worker collects before it adds them to the window.
const BATCH: usize = 10;

/// The responses of the first estimate. It holds until the first window is full.
const FIRST: usize = 10;

/// The usual latency of a method, for the whole process.
#[derive(Debug, Default)]
pub(crate) struct UsualLatency {
    /// The time after which a response is late, in microseconds; 0 while it is not known.
    late_after: AtomicU64,
    /// The median, in microseconds.
    median: AtomicU64,
    window: Mutex<Vec<Duration>>,
}

impl UsualLatency {
    fn add(&self, latencies: &mut Vec<Duration>) {
        let mut window = lock(&self.window);
        window.append(latencies);
        let is_full = window.len() >= WINDOW;
        if !is_full && (self.is_known() || window.len() < FIRST) {
            return;
        }
        let count = window.len();
        let mut nth = |index| *window.select_nth_unstable(index).1;
        let (median, percentile) = (nth(count / 2), nth(count * PERCENTILE / 100));
        let late_after = (percentile * MARGIN).max(FLOOR);
        self.median.store(micros(median), Relaxed);
        self.late_after.store(micros(late_after), Relaxed);
        if is_full {
            window.clear();
        }
    }

    fn is_known(&self) -> bool {
        self.late_after.load(Relaxed) > 0
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// The latencies of a method, as one worker measures them.
#[derive(Debug)]
pub(crate) struct Latencies {
    usual: Arc<UsualLatency>,
    /// Uncontended, as each worker has its own.
    batch: Mutex<Vec<Duration>>,
}

impl Latencies {
    pub(crate) fn new(usual: Arc<UsualLatency>) -> Self {
        Self {
            usual,
            batch: Mutex::default(),
        }
    }

    /// The time after which a response is late, if it is known.
    pub(crate) fn late_after(&self) -> Option<Duration> {
        let micros = self.usual.late_after.load(Relaxed);
        (micros > 0).then(|| Duration::from_micros(micros))
    }

    /// The median, if it is known.
    pub(crate) fn usual(&self) -> Option<Duration> {
        let usual = &self.usual;
        usual
            .is_known()
            .then(|| Duration::from_micros(usual.median.load(Relaxed)))
    }

    /// Records the latency of a good response.
    pub(crate) fn record(&self, latency: Duration) {
        let mut batch = lock(&self.batch);
        batch.push(latency);
        if batch.len() >= BATCH || !self.usual.is_known() {
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
    fn the_first_responses_are_enough_for_an_estimate_that_the_first_window_corrects() {
        let latencies = Latencies::new(Arc::default());
        record(&latencies, FIRST - 1, 50 * MILLI);
        assert_eq!((latencies.late_after(), latencies.usual()), (None, None));
        record(&latencies, 1, 50 * MILLI);
        assert_eq!(latencies.late_after(), Some(100 * MILLI));
        assert_eq!(latencies.usual(), Some(50 * MILLI));
        record(&latencies, WINDOW - FIRST, 20 * MILLI);
        assert_eq!(latencies.usual(), Some(20 * MILLI));
    }

    #[test]
    fn the_workers_learn_together() {
        let usual = Arc::<UsualLatency>::default();
        let workers: Vec<_> = (0..10).map(|_| Latencies::new(usual.clone())).collect();
        for latencies in &workers {
            record(latencies, FIRST / 10, 50 * MILLI);
        }
        for latencies in &workers {
            assert_eq!(latencies.late_after(), Some(100 * MILLI));
        }
    }

    #[test]
    fn a_few_slow_responses_do_not_change_the_usual_latency_but_many_do() {
        let latencies = Latencies::new(Arc::default());
        record(&latencies, 4, Duration::from_secs(1));
        record(&latencies, WINDOW - 4, 20 * MILLI);
        assert_eq!(latencies.late_after(), Some(40 * MILLI));
        record(&latencies, 10, Duration::from_secs(1));
        record(&latencies, WINDOW - 10, 20 * MILLI);
        assert_eq!(latencies.late_after(), Some(Duration::from_secs(2)));
    }

    #[test]
    fn no_response_is_late_below_the_floor() {
        let latencies = Latencies::new(Arc::default());
        record(&latencies, WINDOW, MILLI / 10);
        assert_eq!(latencies.late_after(), Some(FLOOR));
    }
}
