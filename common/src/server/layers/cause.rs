//! [`Cause`]: why a response ends before it is whole, for its access line, its metric and its span.

use axum::BoxError;

use crate::{
    request::context::DeadlineExceeded, server::capacity::long_lived::Draining, telemetry::metrics,
};

/// The reason why a response is not whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The client has gone away.
    Client,
    /// The client takes nothing, and another request needs the permit.
    Preempted,
    /// The service drains or the worker stops.
    Stop,
    /// The deadline has passed.
    Deadline,
    /// The body has failed, or has another length than announced.
    Failure,
}

impl Cause {
    /// The cause of a body that ends with this error.
    pub(crate) fn of(error: &BoxError) -> Self {
        if error.is::<DeadlineExceeded>() {
            Self::Deadline
        } else if error.is::<Draining>() {
            Self::Stop
        } else {
            Self::Failure
        }
    }

    /// The value of the label `error_type`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Client => metrics::CLIENT_GONE,
            Self::Preempted => "preempted",
            Self::Stop => "drain",
            Self::Deadline => "deadline",
            Self::Failure => "broken_off",
        }
    }
}
