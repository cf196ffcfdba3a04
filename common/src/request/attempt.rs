//! [`Attempt`]: an attempt of a call, in the record of its request.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use tonic::Code;

use super::codes::code_name;

/// Why an attempt was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptKind {
    /// The first attempt of a call.
    First,
    /// The attempt before it failed, or was not processed.
    Retry,
    /// The attempt before it was late, and went on beside this one.
    Hedge,
}

/// An attempt of a call, on one replica.
#[derive(Debug, Clone)]
pub struct Attempt {
    pub(super) kind: AttemptKind,
    pub(super) replica: SocketAddr,
    pub(super) started: Instant,
    pub(super) left: Duration,
    pub(super) replica_took: Option<Duration>,
    pub(super) end: Option<(Duration, Code)>,
}

impl Attempt {
    /// Why the attempt was made.
    pub fn kind(&self) -> AttemptKind {
        self.kind
    }

    /// The address of the replica.
    pub fn replica(&self) -> SocketAddr {
        self.replica
    }

    /// The start of the attempt.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// What was left of the deadline when the attempt began.
    pub fn left(&self) -> Duration {
        self.left
    }

    /// The time from the start of the attempt to the end of its response, or until now.
    pub fn duration(&self) -> Duration {
        self.end
            .map_or_else(|| self.started.elapsed(), |(took, _)| took)
    }

    /// The time that the replica says it took to begin its response. It is never longer than the
    /// wait for it, whatever the replica says. `None` if it says nothing.
    pub fn replica_took(&self) -> Option<Duration> {
        self.replica_took
    }

    /// How the attempt ended, such as `UNAVAILABLE`, or `None` while it runs. An attempt that was
    /// given up, as another one has won, is `CANCELLED`.
    pub fn outcome(&self) -> Option<&'static str> {
        self.end.map(|(_, code)| code_name(code))
    }
}
