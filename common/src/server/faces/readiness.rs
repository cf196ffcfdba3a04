//! [`Readiness`]: whether the process wants traffic: once it has started, and until it drains.

use tokio::sync::watch;

/// The state of the process, shared by all workers. Only health checks read it.
#[derive(Debug, Clone)]
pub(crate) struct Readiness(watch::Sender<State>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// This number of conditions are yet to be met.
    Starting(usize),
    Ready,
    Draining,
}

impl Readiness {
    /// Not ready before `conditions` calls of [`Self::fulfil`].
    pub(crate) fn new(conditions: usize) -> Self {
        Self(watch::Sender::new(State::Starting(conditions)))
    }

    pub(crate) fn require(&self) {
        self.0.send_modify(|state| {
            if let State::Starting(conditions) = state {
                *conditions += 1;
            }
        });
    }

    /// Notes that a condition is met.
    pub(crate) fn fulfil(&self) {
        self.0.send_modify(|state| match state {
            State::Starting(0 | 1) => *state = State::Ready,
            State::Starting(conditions) => *conditions -= 1,
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
    fn a_process_is_ready_once_all_conditions_are_met_and_never_after_a_drain() {
        let readiness = Readiness::new(1);
        readiness.require();
        readiness.fulfil();
        assert_eq!(readiness.state(), State::Starting(1));
        readiness.fulfil();
        assert_eq!(readiness.state(), State::Ready);
        readiness.drain();
        readiness.fulfil();
        assert_eq!(readiness.state(), State::Draining);
    }
}
