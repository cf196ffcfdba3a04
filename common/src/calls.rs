//! [`Calls`]: the calls of the process that wait for another service, and how many may do so. So a
//! service that hangs can't hold every request that this one may have.

use std::{
    sync::{
        Arc, LazyLock, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::Instant;
use tracing::warn;

use crate::{limits, lock::lock, rate_limit::RateLimit, telemetry::metrics};

/// A service works, however busy it is, if one of its responses has begun within this time.
const WORKS: Duration = Duration::from_millis(100);

/// The share of the limit that the calls to one service may always have: while another service
/// hangs and holds the rest.
const FEW: usize = 16;

/// The calls in flight, and their limit. Long-lived calls are counted apart, up to the same limit.
#[derive(Debug)]
pub(crate) struct Calls {
    limit: AtomicUsize,
    ordinary: AtomicUsize,
    long_lived: AtomicUsize,
}

/// The calls of the process. All workers change one count, twice a call: a count for each worker
/// would not be exact, and the limit is too low to reserve places for each.
pub(crate) static CALLS: Calls = Calls::unlimited();

/// The calls to one service, of all workers.
#[derive(Debug, Default)]
pub(crate) struct ServiceCalls {
    in_flight: AtomicUsize,
    /// When a response began, while there were many calls.
    responded: Mutex<Option<Instant>>,
}

impl ServiceCalls {
    /// Whether another call would not wait behind a service that hangs.
    fn may_exceed(&self, limit: usize) -> bool {
        self.in_flight.load(Relaxed) <= (limit / FEW).max(1)
            || lock(&self.responded).is_some_and(|at| at.elapsed() < WORKS)
    }
}

impl Calls {
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
    /// Beyond the limit, only calls to a service that hangs are refused. The others are bounded with
    /// the requests that make them, and requests give way to each other fairly.
    pub(crate) fn begin(
        &'static self,
        service: &Arc<ServiceCalls>,
        is_long_lived: bool,
    ) -> Result<InFlight, TooManyCalls> {
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
        let call = InFlight {
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

/// A call in flight.
#[derive(Debug)]
pub struct InFlight {
    count: &'static AtomicUsize,
    limit: usize,
    service: Arc<ServiceCalls>,
}

impl InFlight {
    /// Notes that the service has responded, or failed.
    pub(crate) fn note_response(&self) {
        // Few calls pay for the time.
        if self.count.load(Relaxed) > self.limit / 2 {
            *lock(&self.service.responded) = Some(Instant::now());
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Relaxed);
        self.service.in_flight.fetch_sub(1, Relaxed);
    }
}

/// As many calls are in flight as there may be.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("as many calls are in flight as MAX_CALLS allows")]
pub(crate) struct TooManyCalls;
