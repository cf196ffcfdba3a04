//! [`patience`]: a wait for a peer, in which this side could see it.

use std::time::Duration;

use tokio::{
    task::yield_now,
    time::{Instant, sleep, sleep_until},
};

/// The most that timers are late by on a worker that is not stuck: they have whole milliseconds, and
/// wait for the tasks of one look at the sockets.
const LATE: Duration = Duration::from_millis(5);

/// Waits for this time, as long as a peer may take. A worker that computes for seconds neither sends a
/// health check nor reads the reply meanwhile: the time by which the wait was too long does not count, so
/// the peer gets as much again. In the end the connections of this worker read what has arrived.
pub(crate) async fn patience(time: Duration) {
    let end = Instant::now() + time;
    sleep_until(end).await;
    let late = end.elapsed();
    if late > LATE {
        sleep(late.min(time)).await;
    }
    yield_now().await;
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    const TIME: Duration = Duration::from_millis(50);

    #[tokio::test(start_paused = true)]
    async fn a_wait_takes_its_time() {
        let begin = Instant::now();
        patience(TIME).await;
        assert_eq!(begin.elapsed(), TIME);
    }

    #[tokio::test]
    async fn the_time_for_which_the_worker_was_stuck_does_not_count() {
        let stuck = async {
            thread::sleep(10 * TIME);
            Instant::now()
        };
        let ((), free_again) = tokio::join!(patience(TIME), stuck);
        assert!(free_again.elapsed() >= TIME);
    }
}
