//! [`Health`]: the state of a replica, and the only place that changes it.

use std::time::Duration;

use tokio::time::Instant;

use super::backoff::Backoff;
use crate::{client::wire::Closed, limits};

/// The failures in a row that eject a replica (linkerd's figure).
const EJECT_AFTER: u32 = 7;

/// The pauses between the calls that try an ejected replica (linkerd: 1 to 60 s).
const TRIAL: Backoff = Backoff {
    base: Duration::from_secs(1),
    factor: 2.0,
    limit: Duration::from_secs(30),
    jitter: 0.2,
};

/// Why a connected replica gets no new calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The connection takes no new calls.
    Closed(Closed),
    /// The replica does not respond.
    Silent,
    /// The replica says that it does not serve.
    NotServing,
}

/// The state of a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// The replica has no connection yet or has lost it. A new one is being opened.
    Connecting,
    /// The last attempt to connect failed.
    Unreachable,
    /// The replica is connected and gets calls.
    Up,
    /// The replica was asked whether it serves and has not responded yet.
    Late,
    /// The replica asked for no calls for some time.
    Resting { until: Instant },
    /// The replica failed too often in a row. Single calls try it.
    Ejected { next_trial: Instant },
}

impl State {
    /// The name in metrics.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Unreachable => "unreachable",
            Self::Up => "up",
            Self::Late => "late",
            Self::Resting { .. } => "resting",
            Self::Ejected { .. } => "ejected",
        }
    }

    pub(super) fn is_connected(self) -> bool {
        !matches!(self, Self::Connecting | Self::Unreachable)
    }
}

/// An event in the life of a replica.
#[derive(Debug, Clone, Copy)]
pub(super) enum Event {
    /// The replica is connected.
    Connected,
    /// The replica could not be connected.
    ConnectFailed,
    /// The connection takes no new calls.
    Closed,
    /// A call is late, and the replica was asked whether it serves.
    Asked,
    /// The replica responded to the question.
    Responded,
    /// A call succeeded.
    Succeeded,
    /// A call failed, and the replica is at fault.
    Failed,
    /// The replica asked for no calls for this time.
    PushedBack(Duration),
    /// A call tries the ejected replica.
    Tried,
    /// No other replica is left.
    Pardoned,
    /// The time of a rest may be over.
    TimePassed,
}

/// The state of a replica, and the counts that the next state depends on.
#[derive(Debug)]
pub(super) struct Health {
    state: State,
    failures_in_a_row: u32,
    trials: u32,
}

impl Health {
    pub(super) fn new() -> Self {
        Self {
            state: State::Connecting,
            failures_in_a_row: 0,
            trials: 0,
        }
    }

    pub(super) fn state(&self) -> State {
        self.state
    }

    /// Changes the state. `is_last` means that no other replica is up: the last one is never
    /// ejected.
    pub(super) fn apply(&mut self, event: Event, now: Instant, is_last: bool) {
        match event {
            Event::Failed => self.failures_in_a_row = self.failures_in_a_row.saturating_add(1),
            Event::Succeeded | Event::Pardoned => {
                self.failures_in_a_row = 0;
                self.trials = 0;
            }
            Event::Tried => self.trials = self.trials.saturating_add(1),
            _ => {}
        }
        self.state = self.next(event, now, is_last);
    }

    fn next(&self, event: Event, now: Instant, is_last: bool) -> State {
        use State::{Connecting, Ejected, Late, Resting, Unreachable, Up};
        let ejected = || Ejected {
            next_trial: now + TRIAL.pause(self.trials),
        };
        let may_eject = self.failures_in_a_row >= EJECT_AFTER && !is_last;
        match (self.state, event) {
            (_, Event::Closed) => Connecting,
            (Connecting | Unreachable, Event::ConnectFailed) => Unreachable,
            (Connecting | Unreachable, Event::Connected)
            | (Up | Late | Resting { .. }, Event::Failed)
                if may_eject =>
            {
                ejected()
            }
            (Ejected { .. }, Event::Tried) => ejected(),
            (Connecting | Unreachable, Event::Connected)
            | (Ejected { .. }, Event::Succeeded | Event::Pardoned)
            | (Late, Event::Responded | Event::Succeeded) => Up,
            (Up | Resting { .. }, Event::Asked) => Late,
            (Up | Late | Resting { .. }, Event::PushedBack(rest)) => Resting {
                until: now + rest.min(limits::MAX_PUSHBACK),
            },
            (Resting { until }, Event::TimePassed) if until <= now => Up,
            (state, _) => state,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// The state after these events, a millisecond apart, while there are other replicas.
    fn after(events: impl IntoIterator<Item = Event>) -> Health {
        let mut health = Health::new();
        let mut now = Instant::now();
        for event in events {
            health.apply(event, now, false);
            now += Duration::from_millis(1);
        }
        health
    }

    fn failures(count: u32) -> impl Iterator<Item = Event> {
        (0..count).map(|_| Event::Failed)
    }

    #[test]
    fn a_replica_is_up_from_its_connection_to_the_end_of_it() {
        assert_eq!(after([]).state(), State::Connecting);
        assert_eq!(after([Event::ConnectFailed]).state(), State::Unreachable);
        let up = [Event::ConnectFailed, Event::Connected];
        assert_eq!(after(up).state(), State::Up);
        assert_eq!(
            after([Event::Connected, Event::Closed]).state(),
            State::Connecting
        );
    }

    #[test]
    fn a_late_replica_that_responds_is_up() {
        assert_eq!(after([Event::Connected, Event::Asked]).state(), State::Late);
        for sign in [Event::Responded, Event::Succeeded] {
            let events = [Event::Connected, Event::Asked, sign];
            assert_eq!(after(events).state(), State::Up);
        }
    }

    #[test]
    fn failures_in_a_row_eject_a_replica_and_a_success_between_them_does_not() {
        let connected = || std::iter::once(Event::Connected);
        let few = after(connected().chain(failures(EJECT_AFTER - 1)));
        assert_eq!(few.state(), State::Up);
        let enough = after(connected().chain(failures(EJECT_AFTER)));
        assert!(matches!(enough.state(), State::Ejected { .. }));
        let broken = failures(EJECT_AFTER - 1)
            .chain([Event::Succeeded])
            .chain(failures(EJECT_AFTER - 1));
        assert_eq!(after(connected().chain(broken)).state(), State::Up);
    }

    #[test]
    fn the_last_replica_is_not_ejected() {
        let mut health = after([Event::Connected]);
        for _ in 0..100 {
            health.apply(Event::Failed, Instant::now(), true);
        }
        assert_eq!(health.state(), State::Up);
        health.apply(Event::Failed, Instant::now(), false);
        assert!(matches!(health.state(), State::Ejected { .. }));
        health.apply(Event::Pardoned, Instant::now(), true);
        assert_eq!(health.state(), State::Up);
    }

    #[test]
    fn the_pauses_between_trials_grow_until_one_succeeds() {
        let mut health = after(std::iter::once(Event::Connected).chain(failures(EJECT_AFTER)));
        let now = Instant::now();
        let mut last = Duration::ZERO;
        for _ in 0..4 {
            health.apply(Event::Tried, now, false);
            health.apply(Event::Failed, now, false);
            let State::Ejected { next_trial } = health.state() else {
                panic!("{health:?}")
            };
            assert!(next_trial - now > last, "{last:?}");
            last = next_trial - now;
        }
        health.apply(Event::Succeeded, now, false);
        assert_eq!(health.state(), State::Up);
        assert_eq!(health.trials, 0);
    }

    #[test]
    fn a_new_connection_does_not_end_an_ejection() {
        let events = std::iter::once(Event::Connected)
            .chain(failures(EJECT_AFTER))
            .chain([Event::Closed, Event::Connected]);
        assert!(matches!(after(events).state(), State::Ejected { .. }));
    }

    #[test]
    fn a_replica_rests_as_long_as_it_asks_but_not_for_ever() {
        let mut health = after([Event::Connected]);
        let now = Instant::now();
        health.apply(Event::PushedBack(SECOND), now, false);
        health.apply(Event::TimePassed, now + SECOND / 2, false);
        assert!(matches!(health.state(), State::Resting { .. }));
        health.apply(Event::TimePassed, now + SECOND, false);
        assert_eq!(health.state(), State::Up);
        health.apply(Event::PushedBack(Duration::MAX), now, false);
        health.apply(Event::TimePassed, now + limits::MAX_PUSHBACK, false);
        assert_eq!(health.state(), State::Up);
    }
}
