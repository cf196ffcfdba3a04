//! [`Capacity`]: the limits on connections and on requests in flight, and who gets the last places.

pub(crate) mod cause;
pub(crate) mod clock;
pub(crate) mod connections;
mod held;
pub(crate) mod long_lived;
mod newcomers;
pub(crate) mod open;
pub(crate) mod outbound;
pub(crate) mod permits;
pub(crate) mod request_class;
mod stalled;
pub(crate) mod tail;
pub(crate) mod worker_permits;

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;
use tracing::warn;

use self::{
    connections::Connections,
    long_lived::LongLived,
    permits::{NoPermit, Permits},
    request_class::RequestClass,
    worker_permits::WorkerPermits,
};
use crate::{
    limits,
    rate_limit::RateLimit,
    telemetry::metrics::{self, Counters},
};

/// The capacity of one worker: its share of the places, its counters and its long-lived calls.
#[derive(Debug)]
pub(crate) struct Capacity {
    pub(crate) share: Arc<WorkerPermits>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) long_lived: LongLived,
    warnings: RateLimit,
}

impl Capacity {
    /// The capacity of one of `workers` workers.
    pub(crate) fn new(places: Arc<Permits>, workers: usize, long_lived: LongLived) -> Self {
        Self {
            share: Arc::new(WorkerPermits::new(places, workers)),
            counters: metrics::of_this_thread(),
            long_lived,
            warnings: RateLimit::per_second(limits::LIMIT_WARNINGS),
        }
    }

    /// The capacity of a whole process that is not ours, with any number of threads.
    pub(crate) fn alone(max_in_flight: usize) -> Self {
        let places = Permits::new(max_in_flight, Arc::new(Connections::new(0)));
        let long_lived = LongLived::new(CancellationToken::new(), Duration::ZERO);
        Self::new(Arc::new(places), usize::MAX, long_lived) // reserves no places for one thread
    }

    /// Counts a refused request, and logs one refusal a second.
    pub(crate) fn refuse(&self, kind: RequestClass, NoPermit { limit }: NoPermit) -> Overloaded {
        let refused = metrics::of_this_thread().shed.add(1);
        let is_logged = self.warnings.allow().is_some();
        if is_logged {
            warn!(
                action = "shed",
                status = "failure",
                limit,
                requests = kind.name(),
                refused,
                "more requests in flight than there may be; they are refused"
            );
        }
        Overloaded { is_logged }
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
