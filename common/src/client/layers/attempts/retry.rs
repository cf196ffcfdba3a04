//! Whether another attempt follows one that failed, and after which pause.
//!
//! - A call that was not processed is sent again, whatever its method: its connection had closed
//!   before, or the replica says so (gRFC A6: transparent retries).
//! - A call of an idempotent method whose response has not begun is retried after `UNAVAILABLE`, on
//!   another replica if there is one, and after `RESOURCE_EXHAUSTED` with a pushback, only on
//!   another replica.
//!
//! A request stream is sent again only while everything sent so far is kept (`limits::MAX_REPLAY`).

use std::time::Duration;

use http::HeaderMap;
use tonic::{Code, Status};
use tracing::warn;

use super::{Call, Outcome, Shared};
use crate::{
    client::{Failure, pool::Backoff, pushback::Pushback},
    metrics,
    protocol::code_name,
};

/// The pause between two attempts.
pub(in crate::client) const RETRY: Backoff = Backoff {
    base: Duration::from_millis(25),
    factor: 2.0,
    limit: Duration::from_secs(1),
    jitter: 0.5,
};

/// What the outcome of an attempt means for the next one.
#[derive(Debug)]
pub(super) enum Verdict {
    /// There is no next attempt: the response has begun, or another attempt would fail as well.
    Final,
    /// The call was not processed, and its connection takes no new calls: it is sent again.
    Resend,
    /// The call was not processed, and its connection stays open: it is sent again once. After
    /// that it is retried.
    ResendOnce(Status),
    /// The call may have been processed: it is retried where that is safe.
    Retry(Status),
}

impl Verdict {
    pub(super) fn of(outcome: &Outcome) -> Self {
        match outcome {
            Ok(_) => bare_status(outcome)
                .and_then(Status::from_header_map)
                .map_or(Self::Final, Self::of_status),
            Err(Failure::Broken(status)) => Self::of_status(status.clone()),
            Err(Failure::Unprocessed(_)) => Self::Resend,
            Err(Failure::Refused(status)) => Self::ResendOnce(status.clone()),
            Err(Failure::Full) => Self::ResendOnce(Failure::Full.into_status()),
            Err(Failure::NoReplica(_) | Failure::Request(_)) => Self::Final,
        }
    }

    fn of_status(status: Status) -> Self {
        match status.code() {
            Code::Unavailable | Code::ResourceExhausted => Self::Retry(status),
            _ => Self::Final,
        }
    }

    pub(super) fn is_final(&self) -> bool {
        matches!(self, Self::Final)
    }
}

/// The headers with the gRPC status of a response that is known to be a status and nothing else.
pub(super) fn bare_status(outcome: &Outcome) -> Option<&HeaderMap> {
    let response = outcome.as_ref().ok()?;
    response.body().bare_status(response.headers())
}

impl Shared {
    /// The pause before the next attempt, or `None` if there is none.
    pub(super) fn pause_before_next(
        &self,
        verdict: &Verdict,
        call: &mut Call<'_>,
    ) -> Option<Duration> {
        if !call.body.is_whole() {
            return None;
        }
        let status = match verdict {
            Verdict::ResendOnce(status) if call.was_refused => status,
            Verdict::Resend | Verdict::ResendOnce(_) => {
                call.was_refused |= matches!(verdict, Verdict::ResendOnce(_));
                metrics::count(|counters| &counters.resends);
                // An attempt that was not processed does not count.
                call.attempts -= 1;
                return Some(Duration::ZERO);
            }
            Verdict::Retry(status) if call.method.declared.is_idempotent => status,
            Verdict::Retry(_) | Verdict::Final => return None,
        };
        let pause = self.pause_after(status, call)?;
        let is_granted = self.budget.grant_retry(call.attempts);
        warn!(
            action = "call",
            status = if is_granted { "retry" } else { "failure" },
            method = call.head.uri.path(),
            attempt = call.attempts,
            grpc_code = code_name(status.code()),
            error = status.message(),
            "an attempt failed"
        );
        is_granted.then_some(pause)
    }

    /// The pause after a failed attempt, or `None` if a retry would not help.
    fn pause_after(&self, status: &Status, call: &Call<'_>) -> Option<Duration> {
        let usual = RETRY.pause(call.attempts);
        let is_overloaded = status.code() == Code::ResourceExhausted;
        match Pushback::of(status.metadata().as_ref()) {
            Pushback::Never => None,
            // The pushback is for this replica. Another one may have room now.
            Pushback::After(_) if is_overloaded => {
                self.balance.pick_other(&call.tried).map(|_| usual)
            }
            Pushback::After(pause) => Some(pause),
            Pushback::Unspecified => (!is_overloaded).then_some(usual),
        }
    }
}
