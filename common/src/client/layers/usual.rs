//! [`Usual`]: how long a method usually takes, to tell when a response is late.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

/// The share of responses that are not late ("The Tail at Scale" has the 95th percentile too).
const PERCENTILE: usize = 95;

/// A response is late at this multiple of the percentile: with 1, one call in twenty would be
/// hedged although nothing is wrong.
const MARGIN: u32 = 2;

/// No response is late before: below, what is measured is the scheduler.
const FLOOR: Duration = Duration::from_millis(10);

/// Responses after which the percentile is taken anew, from these alone.
const WINDOW: usize = 100;

/// The latencies of a method as one worker sees them.
#[derive(Debug, Default)]
pub(super) struct Usual {
    /// In microseconds; 0 until the first window is full.
    late_after: AtomicU64,
    /// Never waited for: each worker has its own.
    window: Mutex<Vec<Duration>>,
}

impl Usual {
    /// When a response is later than usual; `None` until enough is known.
    pub(super) fn late_after(&self) -> Option<Duration> {
        let micros = self.late_after.load(Relaxed);
        (micros > 0).then(|| Duration::from_micros(micros))
    }

    /// A good response took that long.
    pub(super) fn record(&self, latency: Duration) {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        window.push(latency);
        if window.len() < WINDOW {
            return;
        }
        let (_, percentile, _) = window.select_nth_unstable(WINDOW * PERCENTILE / 100);
        let late_after = (*percentile * MARGIN).max(FLOOR);
        let micros = u64::try_from(late_after.as_micros()).unwrap_or(u64::MAX);
        self.late_after.store(micros, Relaxed);
        window.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLI: Duration = Duration::from_millis(1);

    fn record(usual: &Usual, count: usize, latency: Duration) {
        for _ in 0..count {
            usual.record(latency);
        }
    }

    #[test]
    fn nothing_is_late_until_enough_is_known() {
        let usual = Usual::default();
        record(&usual, WINDOW - 1, 50 * MILLI);
        assert_eq!(usual.late_after(), None);
        record(&usual, 1, 50 * MILLI);
        assert_eq!(usual.late_after(), Some(100 * MILLI));
    }

    #[test]
    fn a_few_slow_responses_do_not_change_what_is_usual_but_many_do() {
        let usual = Usual::default();
        record(&usual, 4, Duration::from_secs(1));
        record(&usual, WINDOW - 4, 20 * MILLI);
        assert_eq!(usual.late_after(), Some(40 * MILLI));
        record(&usual, 10, Duration::from_secs(1));
        record(&usual, WINDOW - 10, 20 * MILLI);
        assert_eq!(usual.late_after(), Some(Duration::from_secs(2)));
    }

    #[test]
    fn there_is_a_floor() {
        let usual = Usual::default();
        record(&usual, WINDOW, MILLI / 10);
        assert_eq!(usual.late_after(), Some(FLOOR));
    }
}
