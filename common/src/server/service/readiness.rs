//! [`Readiness`]: whether the process wants traffic.

use tokio::sync::watch;

/// Whether the process wants traffic, shared by all its threads. Only health checks read it.
#[derive(Debug, Clone)]
pub(crate) struct Readiness(watch::Sender<ReadinessState>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReadinessState {
    Ready,
    /// This number of conditions, at least one, are not met.
    Waiting(usize),
    Draining,
}

impl Readiness {
    /// Ready, for there are no conditions yet.
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(ReadinessState::Ready))
    }

    /// Adds a condition that is not met.
    pub(crate) fn require(&self) {
        self.0.send_modify(|state| match state {
            ReadinessState::Ready => *state = ReadinessState::Waiting(1),
            ReadinessState::Waiting(conditions) => *conditions += 1,
            ReadinessState::Draining => {}
        });
    }

    /// Notes that a condition is met.
    pub(crate) fn fulfil(&self) {
        self.0.send_modify(|state| match state {
            ReadinessState::Waiting(1) => *state = ReadinessState::Ready,
            ReadinessState::Waiting(conditions) => *conditions -= 1,
            ReadinessState::Ready | ReadinessState::Draining => {}
        });
    }

    /// Makes the process not ready, permanently.
    pub(crate) fn drain(&self) {
        self.0.send_replace(ReadinessState::Draining);
    }

    pub(crate) fn state(&self) -> ReadinessState {
        *self.0.borrow()
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<ReadinessState> {
        self.0.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_ready_while_all_conditions_are_met_and_never_after_a_drain() {
        let readiness = Readiness::new();
        assert_eq!(readiness.state(), ReadinessState::Ready);
        readiness.require();
        readiness.require();
        readiness.fulfil();
        assert_eq!(readiness.state(), ReadinessState::Waiting(1));
        readiness.fulfil();
        assert_eq!(readiness.state(), ReadinessState::Ready);
        readiness.require();
        assert_eq!(readiness.state(), ReadinessState::Waiting(1));
        readiness.drain();
        readiness.fulfil();
        assert_eq!(readiness.state(), ReadinessState::Draining);
    }
}
