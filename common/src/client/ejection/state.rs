//! [`State`]: the state of a replica as one worker sees it, and the only place that changes it. Whether
//! the replica is ejected is the [`Memory`](super::memory::Memory)'s to say, for all workers.

use std::time::Duration;

use tokio::time::Instant;

use crate::{limits, telemetry::metrics::ReplicaState};

/// The state of a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// The replica has no connection yet or has lost it. A new one is being opened.
    Connecting,
    /// The last attempt to connect failed.
    Unreachable,
    /// The replica is connected and gets calls.
    Up,
    /// A health check was sent and has no reply yet.
    Late,
    /// The replica asked for no calls for some time.
    PushedBack { until: Instant },
}

impl State {
    /// The state as operators see it.
    pub(crate) fn shown(self) -> ReplicaState {
        match self {
            Self::Connecting => ReplicaState::Connecting,
            Self::Unreachable => ReplicaState::Unreachable,
            Self::Up => ReplicaState::Up,
            Self::Late => ReplicaState::Late,
            Self::PushedBack { .. } => ReplicaState::PushedBack,
        }
    }

    pub(crate) fn is_connected(self) -> bool {
        self.shown().is_connected()
    }
}

/// An event in the life of a replica.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Event {
    /// The replica is connected, perhaps in place of a connection that is silent.
    Connected,
    /// The replica could not be connected.
    ConnectFailed,
    /// The connection takes no new calls.
    Closed,
    /// A call is late, and a health check was sent.
    HealthCheckSent,
    /// The replica responded to the health check.
    Responded,
    /// A call succeeded.
    Succeeded,
    /// The replica asked for no calls for this time.
    PushedBack(Duration),
    /// The time of a pushback may be over.
    TimePassed,
}

impl State {
    /// The state after an event.
    pub(crate) fn after(self, event: Event, now: Instant) -> Self {
        use State::{Connecting, Late, PushedBack, Unreachable, Up};
        match (self, event) {
            (_, Event::Closed) => Connecting,
            (Connecting | Unreachable, Event::ConnectFailed) => Unreachable,
            (Connecting | Unreachable | Late, Event::Connected)
            | (Late, Event::Responded | Event::Succeeded) => Up,
            (Up | PushedBack { .. }, Event::HealthCheckSent) => Late,
            (Up | Late | PushedBack { .. }, Event::PushedBack(rest)) => PushedBack {
                until: now + rest.min(limits::MAX_PUSHBACK),
            },
            (PushedBack { until }, Event::TimePassed) if until <= now => Up,
            (state, _) => state,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// The state after these events.
    fn after(events: &[Event]) -> State {
        let apply = |state: State, event: &Event| state.after(*event, Instant::now());
        events.iter().fold(State::Connecting, apply)
    }

    #[test]
    fn a_replica_is_up_from_its_connection_to_the_end_of_it() {
        assert_eq!(after(&[]), State::Connecting);
        assert_eq!(after(&[Event::ConnectFailed]), State::Unreachable);
        assert_eq!(after(&[Event::ConnectFailed, Event::Connected]), State::Up);
        assert_eq!(after(&[Event::Connected, Event::Closed]), State::Connecting);
    }

    #[test]
    fn a_late_replica_that_responds_is_up() {
        assert_eq!(
            after(&[Event::Connected, Event::HealthCheckSent]),
            State::Late
        );
        for sign in [Event::Responded, Event::Succeeded, Event::Connected] {
            assert_eq!(
                after(&[Event::Connected, Event::HealthCheckSent, sign]),
                State::Up
            );
        }
    }

    #[test]
    fn a_replica_rests_as_long_as_it_asks_but_not_for_ever() {
        let now = Instant::now();
        let rests = State::Up.after(Event::PushedBack(SECOND), now);
        assert_eq!(rests.after(Event::TimePassed, now + SECOND / 2), rests);
        assert_eq!(rests.after(Event::TimePassed, now + SECOND), State::Up);
        let rests = State::Up.after(Event::PushedBack(Duration::MAX), now);
        let later = now + limits::MAX_PUSHBACK;
        assert_eq!(rests.after(Event::TimePassed, later), State::Up);
    }
}
