//! [`Deadline`]: the instant at which a request must be over.

use std::time::Duration;

use http::HeaderName;
use tokio::time::Instant;

use crate::limits;

/// The instant at which a request must be over, in every service that it enters.
///
/// A deadline is an instant, not a duration, so that time spent anywhere counts against it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

impl Deadline {
    /// The gRPC header that carries the time left until a deadline
    /// ([gRPC over HTTP/2](https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md)).
    pub const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

    /// The deadline that is `timeout` from now. A timeout of more than a year counts as a year.
    pub fn after(timeout: Duration) -> Self {
        Self::after_from(Instant::now(), timeout)
    }

    /// The deadline that is `timeout` from `begin`, with the same cap.
    pub(crate) fn after_from(begin: Instant, timeout: Duration) -> Self {
        Self(begin + timeout.min(limits::MAX_DURATION))
    }

    /// The instant itself, for timers.
    pub fn instant(self) -> Instant {
        self.0
    }

    /// The time left, or `None` once the deadline has passed.
    pub fn remaining(self) -> Option<Duration> {
        let left = self.0.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left)
    }
}

/// The deadline of a request or of a call has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the deadline has passed")]
pub struct DeadlineExceeded;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_longest_timeout_is_capped() {
        let left = Deadline::after(Duration::MAX).remaining();
        assert_eq!(left, Some(limits::MAX_DURATION));
    }

    #[tokio::test(start_paused = true)]
    async fn no_time_is_left_after_the_deadline() {
        let deadline = Deadline::after(Duration::from_secs(10));
        tokio::time::advance(Duration::from_secs(4)).await;
        assert_eq!(deadline.remaining(), Some(Duration::from_secs(6)));
        tokio::time::advance(Duration::from_secs(6)).await;
        assert_eq!(deadline.remaining(), None);
    }
}
