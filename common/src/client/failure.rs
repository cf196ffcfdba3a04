//! [`Failure`]: why a call has no answer, and whether another replica may have one.

use std::fmt;

use tonic::{Code, Status};

/// A call that came to nothing before its answer began.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) status: Status,
    /// Whether another attempt may do better.
    pub(super) may_retry: bool,
}

impl Failure {
    /// There is no replica to ask, and there was none for too long.
    pub(super) fn no_replica() -> Self {
        Self {
            status: Status::unavailable("no replica can be reached"),
            may_retry: false,
        }
    }

    /// The connection broke, or the replica did not take the call.
    pub(super) fn broken(error: h2::Error) -> Self {
        Self {
            status: status_of(error),
            may_retry: true,
        }
    }

    /// The attempt took longer than it may.
    pub(super) fn attempt_timeout() -> Self {
        Self {
            status: Status::unavailable("the attempt took too long"),
            may_retry: true,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.status.fmt(f)
    }
}

/// The status of a call whose connection broke: `UNAVAILABLE`, where nothing says more.
///
/// By itself tonic has `UNKNOWN` or `CANCELLED` for it, which would read as the fault of the
/// service or as the wish of the client.
pub(super) fn status_of(error: h2::Error) -> Status {
    let status = Status::from_error(Box::new(error));
    match status.code() {
        Code::Unknown | Code::Cancelled => Status::unavailable(status.message()),
        _ => status,
    }
}
