//! [`CallMetrics`]: a call with all of its attempts, as its metrics have it.

use std::sync::Arc;

use tokio::time::Instant;

use crate::{
    client::{ending::class::Ending, method::CalledMethod},
    request::context::{self, Deadline},
    telemetry::metrics::{self, Measure},
};

/// A call with all of its attempts. When this is dropped, the call counts.
#[derive(Debug)]
pub(crate) struct CallMetrics {
    method: Arc<CalledMethod>,
    begin: Instant,
    deadline: Option<Deadline>,
    /// How and when the call has ended, if it has.
    end: Option<(Ending, Instant)>,
}

impl CallMetrics {
    pub(crate) fn begin(method: Arc<CalledMethod>) -> Self {
        Self {
            method,
            begin: Instant::now(),
            deadline: context::deadline(),
            end: None,
        }
    }

    /// Counts the call, which has ended so by `now`.
    pub(crate) fn end(mut self, ending: Ending, now: Instant) {
        self.end = Some((ending, now));
    }
}

impl Drop for CallMetrics {
    fn drop(&mut self) {
        let (ending, now) = self.end.unwrap_or_else(|| {
            let now = Instant::now();
            let is_over = self.deadline.is_some_and(|it| it.instant() <= now);
            (Ending::of_dropped(is_over, false), now)
        });
        let (name, code) = (&self.method.name, ending.code());
        metrics::count_duration(
            Measure::RpcClient,
            name,
            code as u16,
            None,
            now - self.begin,
        );
    }
}
