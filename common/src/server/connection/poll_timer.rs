//! [`PollTimer`]: hyper's timer on a connection, which reads the clock at most once a poll.
//!
//! For its keep-alive, hyper notes the time of each frame that comes over HTTP/2: five times a request. All that
//! one poll of a connection finds has come by then, so one time does for all of it.

use std::{
    pin::Pin,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use hyper::rt::{Sleep, Timer};
use hyper_util::rt::TokioTimer;

use crate::sync::lock;

/// The timer of one connection. Clones share the time.
#[derive(Debug, Clone, Default)]
pub(super) struct PollTimer {
    timer: TokioTimer,
    /// The time of the poll; `None` while nobody has asked for it.
    polled: Arc<Mutex<Option<Instant>>>,
}

impl PollTimer {
    /// Notes that a poll begins.
    pub(super) fn note_poll(&self) {
        *lock(&self.polled) = None;
    }
}

impl Timer for PollTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.timer.sleep(duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        self.timer.sleep_until(deadline)
    }

    fn reset(&self, sleep: &mut Pin<Box<dyn Sleep>>, deadline: Instant) {
        self.timer.reset(sleep, deadline);
    }

    fn now(&self) -> Instant {
        *lock(&self.polled).get_or_insert_with(|| self.timer.now())
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_time_is_that_of_the_first_look_in_a_poll() {
        let timer = PollTimer::default();
        let begin = timer.now();
        advance(Duration::from_secs(1)).await;
        assert_eq!(timer.now(), begin);
        timer.note_poll();
        assert_eq!(timer.now(), begin + Duration::from_secs(1));
        advance(Duration::from_secs(1)).await;
        assert_eq!(timer.clone().now(), begin + Duration::from_secs(1));
    }
}
