//! [`Readiness`]: whether the process wants traffic.

use tokio::sync::watch;

/// Whether the process wants traffic, shared by all its threads. Only health checks read it.
#[derive(Debug, Clone)]
pub(crate) struct Readiness(watch::Sender<State>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Ready,
    /// This number of conditions, at least one, are not met.
    Waiting(usize),
    Draining,
}

impl Readiness {
    /// Ready, for there are no conditions yet.
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(State::Ready))
    }

    /// Adds a condition that is not met.
    pub(crate) fn require(&self) {
        self.0.send_modify(|state| match state {
            State::Ready => *state = State::Waiting(1),
            State::Waiting(conditions) => *conditions += 1,
            State::Draining => {}
        });
    }

    /// Notes that a condition is met.
    pub(crate) fn fulfil(&self) {
        self.0.send_modify(|state| match state {
            State::Waiting(1) => *state = State::Ready,
            State::Waiting(conditions) => *conditions -= 1,
            State::Ready | State::Draining => {}
        });
    }

    /// Makes the process not ready, permanently.
    pub(crate) fn drain(&self) {
        self.0.send_replace(State::Draining);
    }

    pub(crate) fn state(&self) -> State {
        *self.0.borrow()
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<State> {
        self.0.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_ready_while_all_conditions_are_met_and_never_after_a_drain() {
        let readiness = Readiness::new();
        assert_eq!(readiness.state(), State::Ready);
        readiness.require();
        readiness.require();
        readiness.fulfil();
        assert_eq!(readiness.state(), State::Waiting(1));
        readiness.fulfil();
        assert_eq!(readiness.state(), State::Ready);
        readiness.require();
        assert_eq!(readiness.state(), State::Waiting(1));
        readiness.drain();
        readiness.fulfil();
        assert_eq!(readiness.state(), State::Draining);
    }
}
