//! [`Cause`]: why a response is dropped before its end, for its access line.
//!
//! hyper drops a response together with its stream or connection, and can't pass on a reason. So
//! the code that drops a stream or a connection sets the cause for its thread.

use std::cell::Cell;

/// The reason why a response is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The client has gone away.
    Client,
    /// The request gives way to another.
    GivesWay,
    /// The worker stops.
    Stop,
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
