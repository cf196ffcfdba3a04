//! Whether this process wants traffic: it does once it has started, until it drains.

use tokio::sync::watch;

/// The state of the process, shared by all workers. It is asked by health probes only.
#[derive(Debug, Clone)]
pub(crate) struct Readiness(watch::Sender<State>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// That many conditions have yet to come true.
    Starting(usize),
    Ready,
    Draining,
}

impl Readiness {
    /// Not ready before [`Self::fulfil`] was called `conditions` times.
    pub(crate) fn new(conditions: usize) -> Self {
        Self(watch::Sender::new(State::Starting(conditions)))
    }

    /// One more condition.
    pub(crate) fn require(&self) {
        self.0.send_modify(|state| {
            if let State::Starting(conditions) = state {
                *conditions += 1;
            }
        });
    }

    /// One condition has come true.
    pub(crate) fn fulfil(&self) {
        self.0.send_modify(|state| match state {
            State::Starting(0 | 1) => *state = State::Ready,
            State::Starting(conditions) => *conditions -= 1,
            State::Ready | State::Draining => {}
        });
    }

    /// From now on, and for good, no more traffic is wanted.
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
    fn it_is_ready_when_all_conditions_are_true_and_never_after_the_drain() {
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
