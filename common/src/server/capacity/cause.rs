//! Why a response is dropped before its end, for its access line.
//!
//! hyper drops a response together with its stream or its connection, and has no way to pass a reason
//! on. So the code that drops a stream or a connection sets the cause for its thread.

use std::cell::Cell;

/// Why a response is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The client has gone away.
    Client,
    /// The request gives way to another.
    GivesWay,
    /// The worker is past its drain.
    Stop,
}

thread_local! {
    static CAUSE: Cell<Cause> = const { Cell::new(Cause::Client) };
}

/// Runs `work`. The responses that it drops have this cause.
pub(crate) fn with_cause<R>(cause: Cause, work: impl FnOnce() -> R) -> R {
    let before = CAUSE.replace(cause);
    let result = work();
    CAUSE.set(before);
    result
}

/// The cause for responses that are dropped on this thread now.
pub(crate) fn current() -> Cause {
    CAUSE.get()
}
