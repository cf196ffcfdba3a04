//! [`CalledMethod`]: what a client knows of a method that it calls; and [`UsualLatency`]: how long a method
//! usually takes.

use std::{
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use crate::{
    request::{dialect::rpc_method, methods::Method},
    sync::lock,
    telemetry::metrics,
};

/// The time after which a response is late while the usual latency of its method is not known: until
/// the first ten responses, and for ever if the method is not declared.
const LATE_UNTIL_KNOWN: Duration = Duration::from_millis(500);

/// Whether the data of a message can be decoded.
pub(crate) type Check = fn(&[u8]) -> bool;

/// What a client knows of a method.
#[derive(Debug)]
pub(crate) struct CalledMethod {
    /// The method with its service, for metrics.
    pub(crate) name: String,
    pub(crate) declared: Method,
    /// `None` for methods that are not declared, which may be any.
    latencies: Option<Latencies>,
    /// The check that a response of a replica did not pass, once there was one.
    check: OnceLock<Check>,
    /// Whether a response was refused for its length.
    was_too_long: AtomicBool,
}

impl CalledMethod {
    pub(crate) fn new(path: &str, declared: Method, usual: Arc<UsualLatency>) -> Self {
        Self {
            name: rpc_method(path).to_owned(),
            declared,
            latencies: Some(Latencies::new(usual)),
            check: OnceLock::new(),
            was_too_long: AtomicBool::new(false),
        }
    }

    /// All methods that are not declared.
    pub(crate) fn undeclared() -> Self {
        Self {
            name: metrics::OTHER.to_owned(),
            declared: Method::default(),
            latencies: None,
            check: OnceLock::new(),
            was_too_long: AtomicBool::new(false),
        }
    }

    /// Whether a call may have two attempts at once.
    pub(crate) fn may_be_hedged(&self) -> bool {
        let Method {
            is_idempotent,
            has_one_request,
            has_one_response,
            is_never_hedged,
            ..
        } = self.declared;
        is_idempotent && has_one_request && has_one_response && !is_never_hedged
    }

    /// Whether calls last until one side ends them. Their silence says nothing.
    pub(crate) fn is_endless(&self) -> bool {
        self.declared.deadline == Some(Duration::MAX)
    }

    /// Notes that a response was refused for its length.
    pub(crate) fn set_too_long(&self) {
        self.was_too_long.store(true, Relaxed);
    }

    /// Whether a response was refused for its length.
    pub(crate) fn was_too_long(&self) -> bool {
        self.was_too_long.load(Relaxed)
    }

    /// Keeps the check that a response did not pass.
    pub(crate) fn set_check(&self, check: Check) {
        let _ = self.check.set(check);
    }

    /// The check that a response of a replica did not pass, if there was one. Methods that are not
    /// declared have different messages, and no check.
    pub(crate) fn check(&self) -> Option<Check> {
        self.latencies.as_ref()?;
        self.check.get().copied()
    }

    /// The time after which a response is late.
    pub(crate) fn late_after(&self) -> Duration {
        let usual = self.latencies.as_ref().and_then(Latencies::late_after);
        usual.unwrap_or(LATE_UNTIL_KNOWN)
    }

    /// How long half of the responses take at most, if that is known.
    pub(crate) fn usual(&self) -> Option<Duration> {
        self.latencies.as_ref()?.usual()
    }

    /// Whether calls may go to one replica together, as it matters little if one has to wait for the others.
    pub(crate) fn is_cheap(&self) -> bool {
        self.declared.has_one_response && self.usual().is_some_and(|usual| usual <= CHEAP)
    }

    /// Records the latency of a good response.
    pub(crate) fn record(&self, latency: Duration) {
        if let Some(latencies) = &self.latencies {
            latencies.record(latency);
        }
    }
}

/// The percentile that defines a late response (the one of "The Tail at Scale").
const PERCENTILE: usize = 95;

/// A response is late at this multiple of the percentile. At 1, one call in twenty would be hedged
/// although nothing is wrong.
const MARGIN: u32 = 2;

/// No response is late before this: shorter times measure the scheduler.
const FLOOR: Duration = Duration::from_millis(10);

/// Calls whose responses usually come within this time are cheap. Under full load that is more than their
/// work takes: 2 ms for a call of 10 µs, on two cores.
const CHEAP: Duration = Duration::from_millis(5);

/// The responses, of all workers together, that one percentile is taken from. Windows do not
/// overlap.
const WINDOW: usize = 100;

/// The responses that a worker collects before it adds them to the window.
const BATCH: usize = 10;

/// The responses of the first estimate. It holds until the first window is full.
const FIRST: usize = 10;

/// The usual latency of a method, to tell when a response is late, and to compare replicas that serve
/// different methods. The workers of the process learn it together, so that more workers do not take longer to
/// learn it.
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
