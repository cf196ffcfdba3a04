//! [`WorkerCapacity`]: the capacity of one worker.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{
    connections::Connections,
    long_lived::LongLived,
    permits::{NoPermit, Permits, RequestClass, WorkerPermits},
};
use crate::{
    limits,
    rate_limit::RateLimit,
    telemetry::metrics::{self, Counters},
};

/// The capacity of one worker: its permits, its counters and its long-lived calls.
#[derive(Debug)]
pub(crate) struct WorkerCapacity {
    pub(crate) permits: Arc<WorkerPermits>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) long_lived: LongLived,
    /// Whether the worker drops what it still serves.
    stops: AtomicBool,
    warnings: RateLimit,
}

impl WorkerCapacity {
    /// The capacity of one of `workers` workers.
    pub(crate) fn new(permits: Arc<Permits>, workers: usize, long_lived: LongLived) -> Self {
        Self {
            permits: Arc::new(WorkerPermits::new(permits, workers)),
            counters: metrics::of_this_thread(),
            long_lived,
            stops: AtomicBool::new(false),
            warnings: RateLimit::per_second(limits::LIMIT_WARNINGS),
        }
    }

    /// The capacity of a whole process of another server, with any number of threads.
    pub(crate) fn alone(max_in_flight: usize) -> Self {
        let permits = Permits::new(max_in_flight, Arc::new(Connections::new(0)));
        let long_lived = LongLived::new(CancellationToken::new(), Duration::ZERO);
        Self::new(Arc::new(permits), usize::MAX, long_lived) // takes no permits in advance
    }

    /// Counts a refused request, and logs one refusal a second.
    pub(crate) fn refuse(&self, class: RequestClass, NoPermit { limit }: NoPermit) -> Overloaded {
        let refused = metrics::of_this_thread().shed.add(1);
        let is_logged = self.warnings.allow().is_some();
        if is_logged {
            warn!(
                action = "shed",
                status = "failure",
                limit,
                requests = class.name(),
                refused,
                "more requests in flight than there may be; they are refused"
            );
        }
        Overloaded { is_logged }
    }

    /// Notes that the worker drops what it still serves: the drain has taken too long.
    pub(crate) fn note_stop(&self) {
        self.stops.store(true, Relaxed);
    }

    pub(crate) fn stops(&self) -> bool {
        self.stops.load(Relaxed)
    }
}

/// A request was refused at a limit on requests in flight.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("there are as many requests in flight as there may be")]
pub(crate) struct Overloaded {
    /// Whether the access line has its usual level, as for one refusal a second. Otherwise it is at
    /// `debug`.
    pub(crate) is_logged: bool,
}
