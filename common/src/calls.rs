//! [`CallPermits`]: limits the calls that wait for other services, so that a service that hangs can't
//! hold every request of this process.

use std::{
    sync::{
        Arc, LazyLock, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::Instant;
use tracing::warn;

use crate::{limits, rate_limit::RateLimit, sync::lock, telemetry::metrics};

/// A busy service still works if one of its responses has begun within this time.
const WORKS: Duration = Duration::from_millis(100);

/// One part in so many of the limit is always free for the calls to each service, also while another
/// service hangs and holds the rest.
const FEW: usize = 16;

/// The permits of the calls in flight. Long-lived calls are counted apart, up to the same limit.
#[derive(Debug)]
pub(crate) struct CallPermits {
    limit: AtomicUsize,
    ordinary: AtomicUsize,
    long_lived: AtomicUsize,
}

/// The permits of the process. All workers change one count, twice a call: a count for each worker
/// would not be exact, and the limit is too low for a reserve on each.
pub(crate) static CALLS: CallPermits = CallPermits::unlimited();

/// The calls to one service, of all workers.
#[derive(Debug, Default)]
pub(crate) struct ServiceCalls {
    in_flight: AtomicUsize,
    /// When a response began, while there were many calls.
    responded: Mutex<Option<Instant>>,
}

impl ServiceCalls {
    /// Whether a call may exceed the limit, as the service does not hang.
    fn may_exceed(&self, limit: usize) -> bool {
        self.in_flight.load(Relaxed) <= (limit / FEW).max(1)
            || lock(&self.responded).is_some_and(|at| at.elapsed() < WORKS)
    }
}

impl CallPermits {
    pub(crate) const fn unlimited() -> Self {
        Self {
            limit: AtomicUsize::new(usize::MAX),
            ordinary: AtomicUsize::new(0),
            long_lived: AtomicUsize::new(0),
        }
    }

    pub(crate) fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Relaxed);
    }

    /// Counts a call until the result is dropped.
    ///
    /// Beyond the limit, only calls to a service that hangs are refused. The limits of requests bound
    /// the others.
    pub(crate) fn begin(
        &'static self,
        service: &Arc<ServiceCalls>,
        is_long_lived: bool,
    ) -> Result<CallPermit, TooManyCalls> {
        static WARNINGS: LazyLock<RateLimit> =
            LazyLock::new(|| RateLimit::per_second(limits::LIMIT_WARNINGS));
        let limit = self.limit.load(Relaxed);
        let count = if is_long_lived {
            &self.long_lived
        } else {
            &self.ordinary
        };
        service.in_flight.fetch_add(1, Relaxed);
        let before = count.fetch_add(1, Relaxed);
        let call = CallPermit {
            count,
            limit,
            service: service.clone(),
        };
        if before < limit || service.may_exceed(limit) {
            return Ok(call);
        }
        let refused = metrics::of_this_thread().calls_shed.add(1);
        if WARNINGS.allow().is_some() {
            warn!(
                action = "call",
                status = "failure",
                limit,
                refused,
                "as many calls are in flight as MAX_CALLS allows; further ones fail"
            );
        }
        Err(TooManyCalls)
    }
}

/// The permit of a call in flight.
#[derive(Debug)]
pub struct CallPermit {
    count: &'static AtomicUsize,
    limit: usize,
    service: Arc<ServiceCalls>,
}

impl CallPermit {
    /// Notes that the service has responded, or failed.
    pub(crate) fn note_response(&self) {
        // Few calls pay for the time.
        if self.count.load(Relaxed) > self.limit / 2 {
            *lock(&self.service.responded) = Some(Instant::now());
        }
    }
}

impl Drop for CallPermit {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Relaxed);
        self.service.in_flight.fetch_sub(1, Relaxed);
    }
}

/// All permits are taken.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("as many calls are in flight as MAX_CALLS allows")]
pub(crate) struct TooManyCalls;
