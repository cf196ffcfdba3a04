//! [`Readiness`]: whether the process wants traffic.

use std::sync::{Arc, Mutex};

use tokio::sync::watch;

use super::vitals::Vitals;
use crate::sync::lock;

/// Whether the process wants traffic, shared by all its threads. Only health checks read it.
#[derive(Debug, Clone)]
pub(crate) struct Readiness {
    state: watch::Sender<ReadinessState>,
    missing: Arc<Mutex<Option<Missing>>>,
    vitals: Vitals,
}

/// A shared value that is being made. The ports of the service open after that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Missing {
    pub(crate) name: &'static str,
    /// Why it could not be made the last time.
    pub(crate) error: Option<String>,
}

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
        Self {
            state: watch::Sender::new(ReadinessState::Ready),
            missing: Arc::default(),
            vitals: Vitals::default(),
        }
    }

    /// Adds a condition that is not met.
    pub(crate) fn require(&self) {
        self.state.send_modify(|state| match state {
            ReadinessState::Ready => *state = ReadinessState::Waiting(1),
            ReadinessState::Waiting(conditions) => *conditions += 1,
            ReadinessState::Draining => {}
        });
    }

    /// Notes that a condition is met.
    pub(crate) fn fulfil(&self) {
        self.state.send_modify(|state| match state {
            ReadinessState::Waiting(1) => *state = ReadinessState::Ready,
            ReadinessState::Waiting(conditions) => *conditions -= 1,
            ReadinessState::Ready | ReadinessState::Draining => {}
        });
    }

    /// Makes the process not ready, permanently.
    pub(crate) fn drain(&self) {
        self.state.send_replace(ReadinessState::Draining);
    }

    /// Notes what the start of the process waits for, if it does.
    pub(crate) fn note_missing(&self, missing: Option<Missing>) {
        *lock(&self.missing) = missing;
    }

    pub(crate) fn missing(&self) -> Option<Missing> {
        lock(&self.missing).clone()
    }

    pub(crate) fn vitals(&self) -> &Vitals {
        &self.vitals
    }

    pub(crate) fn state(&self) -> ReadinessState {
        *self.state.borrow()
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<ReadinessState> {
        self.state.subscribe()
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
