//! [`PollTimer`]: hyper's timer on a connection, which reads the clock at most once a poll.
//!
//! For its keep-alive, hyper notes the time of each frame that comes over HTTP/2: five times a request. All that
//! one poll of a connection finds has come by then, so one time does for all of it.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use hyper::rt::{Sleep, Timer};
use hyper_util::rt::TokioTimer;

/// The timer of one connection. Clones share the time.
#[derive(Debug, Clone)]
pub(super) struct PollTimer {
    timer: TokioTimer,
    begin: Instant,
    /// The time of the poll, in nanoseconds since `begin` plus 1; 0 while nobody has asked for it.
    polled: Arc<AtomicU64>,
}

impl PollTimer {
    pub(super) fn new() -> Self {
        let timer = TokioTimer::new();
        Self {
            begin: timer.now(),
            timer,
            polled: Arc::default(),
        }
    }

    /// Notes that a poll begins.
    pub(super) fn note_poll(&self) {
        self.polled.store(0, Relaxed);
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
        let polled = self.polled.load(Relaxed);
        if polled > 0 {
            return self.begin + Duration::from_nanos(polled - 1);
        }
        let now = self.timer.now();
        let age = (now - self.begin).as_nanos();
        self.polled
            .store(u64::try_from(age).map_or(0, |age| age + 1), Relaxed);
        now
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_time_is_that_of_the_first_look_in_a_poll() {
        let timer = PollTimer::new();
        let begin = timer.now();
        advance(Duration::from_secs(1)).await;
        assert_eq!(timer.now(), begin);
        timer.note_poll();
        assert_eq!(timer.now(), begin + Duration::from_secs(1));
        advance(Duration::from_secs(1)).await;
        assert_eq!(timer.clone().now(), begin + Duration::from_secs(1));
    }
}
