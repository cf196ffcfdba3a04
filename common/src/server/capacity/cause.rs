//! [`Cause`]: why a response ends before it is whole, for its access line, its metric and its span.
//!
//! hyper drops a response together with its stream or connection, and can't pass on a reason. So
//! the code that drops a stream or a connection sets the cause for its thread.

use std::cell::Cell;

use axum::BoxError;

use super::long_lived::Draining;
use crate::{request::deadline::DeadlineExceeded, telemetry::metrics};

/// The reason why a response is not whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The client has gone away.
    Client,
    /// The client takes nothing, and another request needs the place.
    GivesWay,
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
            Self::GivesWay => "preempted",
            Self::Stop => "drain",
            Self::Deadline => "deadline",
            Self::Failure => "broken_off",
        }
    }
}

thread_local! {
    static CAUSE: Cell<Cause> = const { Cell::new(Cause::Client) };
}

/// Runs `work`, and gives this cause to the responses that `work` drops.
pub(crate) fn with_cause<R>(cause: Cause, work: impl FnOnce() -> R) -> R {
    let before = CAUSE.replace(cause);
    let result = work();
    CAUSE.set(before);
    result
}

/// The cause of responses that are dropped on this thread now.
pub(crate) fn current() -> Cause {
    CAUSE.get()
}
