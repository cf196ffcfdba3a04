//! [`JudgedAttempt`]: an attempt up to its end, however that comes, and what its replica and its metrics learn
//! from it.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{call_metrics::CallMetrics, replica::Replica};
use crate::{
    client::{
        ending::{class::Ending, codec::RefusedMessage},
        method::CalledMethod,
    },
    request::{
        context::{self, Deadline},
        timings::RunningAttempt,
    },
    telemetry::metrics::{self, Measure},
};
#[cfg(feature = "traces")]
use crate::{request::trace::Trace, telemetry::traces};

/// One attempt of a call. When this is dropped, the attempt has ended: this is where its replica
/// and its metrics learn how.
#[derive(Debug)]
pub(super) struct JudgedAttempt {
    pub(super) replica: Arc<Replica>,
    pub(super) method: Arc<CalledMethod>,
    pub(super) start: Instant,
    deadline: Option<Deadline>,
    /// When the response began.
    pub(super) responded: Option<Instant>,
    /// Whether the first message of a stream was counted in the cost.
    is_open: bool,
    /// How the attempt has ended, if it has.
    pub(super) ending: Option<Ending>,
    /// What the codec of the caller says of the response.
    pub(super) refusal: Arc<RefusedMessage>,
    /// Whether the caller has got the beginning of a message that is too long, and nothing else
    /// since. tonic asks for no more, and drops the response.
    pub(super) is_too_long: bool,
    /// The call as a whole, if this is its last attempt.
    pub(super) measured: Option<CallMetrics>,
    /// The attempt in the record of its request, if that is recorded.
    pub(super) recorded: Option<RunningAttempt>,
    /// The trace of its span, if that is recorded.
    #[cfg(feature = "traces")]
    pub(super) trace: Option<Arc<Trace>>,
}

impl JudgedAttempt {
    /// An attempt that starts now.
    pub(super) fn start(
        replica: Arc<Replica>,
        method: Arc<CalledMethod>,
        recorded: Option<RunningAttempt>,
    ) -> Self {
        Self {
            replica,
            method,
            start: Instant::now(),
            deadline: context::deadline(),
            responded: None,
            is_open: false,
            ending: None,
            refusal: Arc::default(),
            is_too_long: false,
            measured: None,
            recorded,
            #[cfg(feature = "traces")]
            trace: None,
        }
    }

    /// How the attempt has ended, if it is dropped now.
    fn end(&self, now: Instant) -> Ending {
        if let Some(check) = self.refusal.check() {
            self.method.set_check(check);
            return Ending::Undecodable;
        }
        if self.is_too_long && self.refusal.is_read() {
            self.method.set_too_long();
            return Ending::Undecodable;
        }
        if let Some(ending) = self.ending {
            return ending;
        }
        let is_over = self.deadline.is_some_and(|it| it.instant() <= now);
        let is_late = self.responded.is_none()
            && !self.method.is_endless()
            && time_given(self.start, self.deadline, now) > self.method.late_after();
        Ending::of_dropped(is_over, is_late)
    }

    /// Counts the first message of a stream: from now on it may be quiet.
    pub(super) fn open(&mut self) {
        if !self.is_open {
            self.is_open = true;
            self.replica.cost.open();
        }
    }
}

/// The time that a replica had for its response by `now`. A worker that sees only long after a deadline
/// that it has passed was stuck, for as long before it as it may have been after it: the response may have
/// come and was not read, or the call may not even have left.
fn time_given(start: Instant, deadline: Option<Deadline>, now: Instant) -> Duration {
    let late_by = deadline.map(|it| now.saturating_duration_since(it.instant()));
    (now - start).saturating_sub(2 * late_by.unwrap_or_default())
}

impl Drop for JudgedAttempt {
    fn drop(&mut self) {
        let now = Instant::now();
        let ending = self.end(now);
        let code = ending.code();
        self.replica.cost.end(self.is_open);
        self.replica
            .learn(&self.method, ending, self.start, self.responded, now);
        let took = now - self.start;
        let name = &self.method.name;
        metrics::count_duration(Measure::RpcClientAttempt, name, code as u16, None, took);
        if let Some(measured) = self.measured.take() {
            measured.end(ending, now);
        }
        if let Some(recorded) = &self.recorded {
            recorded.end(took, code);
        }
        #[cfg(feature = "traces")]
        if let Some(trace) = &self.trace {
            traces::AttemptSpan {
                trace,
                method: name,
                replica: self.replica.address,
                code,
                took,
            }
            .record();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_for_which_a_worker_was_stuck_is_not_given_to_the_replica() {
        const SECOND: Duration = Duration::from_secs(1);
        let start = Instant::now();
        let given = |deadline, now| {
            let deadline = Deadline::after_from(start, deadline);
            time_given(start, Some(deadline), start + now)
        };
        assert_eq!(given(SECOND, SECOND / 2), SECOND / 2);
        assert_eq!(given(SECOND, SECOND), SECOND);
        assert_eq!(given(SECOND, 2 * SECOND), Duration::ZERO);
        assert_eq!(given(10 * SECOND, 12 * SECOND), 8 * SECOND);
        assert_eq!(time_given(start, None, start + SECOND), SECOND);
    }
}
