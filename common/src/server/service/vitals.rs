//! [`Vitals`]: whether the event loops of the process turn, and whether its ports still accept connections.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, Weak},
    time::{Duration, Instant},
};

use tokio::{
    runtime::{Handle, RuntimeMetrics},
    time::sleep,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{limits, sync::lock};

/// What of the process turns and accepts. Clones share their state, and only health checks read it.
///
/// A loop does nothing for it: tokio counts its turns anyway.
#[derive(Debug, Clone, Default)]
pub(crate) struct Vitals(Arc<State>);

#[derive(Debug, Default)]
struct State {
    loops: Mutex<Vec<Weak<Watched>>>,
    /// The ports whose listener has gone before the drain.
    closed: Mutex<BTreeSet<u16>>,
}

/// An event loop that is watched as long as this exists.
#[derive(Debug)]
pub(crate) struct Watched {
    of: EventLoop,
    metrics: RuntimeMetrics,
    seen: Mutex<Seen>,
}

/// What was seen of a loop.
#[derive(Debug, Clone, Copy)]
struct Seen {
    turns: Turns,
    /// The last look at which the loop had turned, or waited for events.
    well: Instant,
}

/// The times that a loop has begun or ended to wait for events, and the time that it was busy between. The
/// latter grows with each turn of a loop that never waits.
type Turns = (u64, Duration);

/// Whose loop it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EventLoop {
    Worker,
    /// That of the thread that accepts connections.
    Accepting,
}

/// A port that accepts connections. Dropping the value before the drain notes that it does not.
#[derive(Debug)]
pub(crate) struct OpenPort {
    vitals: Vitals,
    number: u16,
    draining: CancellationToken,
}

impl Vitals {
    /// Watches the event loop of the runtime that this is called in.
    pub(crate) fn watch(&self, of: EventLoop) -> Arc<Watched> {
        let metrics = Handle::current().metrics();
        let seen = Seen {
            turns: turns(&metrics),
            well: Instant::now(),
        };
        let watched = Arc::new(Watched {
            of,
            metrics,
            seen: Mutex::new(seen),
        });
        lock(&self.0.loops).push(Arc::downgrade(&watched));
        watched
    }

    /// Looks at the loops while polled, on a thread that no worker blocks, and logs what changes.
    pub(crate) async fn keep_looking(self) {
        let mut is_reported = false;
        loop {
            sleep(limits::LOOP_LOOK).await;
            let fault = self.fault();
            match &fault {
                Some(fault) if !is_reported => warn!(
                    action = "readiness",
                    status = "failure",
                    reason = fault,
                    "the service is not able to serve"
                ),
                None if is_reported => info!(
                    action = "readiness",
                    status = "success",
                    "the service is able to serve again"
                ),
                _ => {}
            }
            is_reported = fault.is_some();
        }
    }

    /// Notes that a port is open.
    pub(crate) fn open_port(&self, number: u16, draining: CancellationToken) -> OpenPort {
        OpenPort {
            vitals: self.clone(),
            number,
            draining,
        }
    }

    /// Why the process can't serve, in words.
    pub(crate) fn fault(&self) -> Option<String> {
        self.fault_after(limits::LOOP_STUCK)
    }

    /// Why the process is best started anew, in words.
    pub(crate) fn lasting_fault(&self) -> Option<String> {
        self.fault_after(limits::LOOP_LOST)
    }

    fn fault_after(&self, patience: Duration) -> Option<String> {
        if let Some(port) = lock(&self.0.closed).first() {
            return Some(format!("port {port} no longer accepts connections"));
        }
        let now = Instant::now();
        self.look(now);
        self.stuck(now, patience)
    }

    /// Looks at each loop.
    fn look(&self, now: Instant) {
        let mut loops = lock(&self.0.loops);
        loops.retain(|one| one.strong_count() > 0);
        for watched in loops.iter().filter_map(Weak::upgrade) {
            let turns = turns(&watched.metrics);
            let mut seen = lock(&watched.seen);
            if turns != seen.turns || is_waiting(&watched.metrics) {
                *seen = Seen { turns, well: now };
            }
        }
    }

    /// Which loops have not turned for this long, in words.
    fn stuck(&self, now: Instant, patience: Duration) -> Option<String> {
        let all: Vec<_> = lock(&self.0.loops)
            .iter()
            .filter_map(Weak::upgrade)
            .collect();
        let still = |of| -> Vec<Duration> {
            let of_them = all.iter().filter(|watched| watched.of == of);
            let still = of_them.map(|it| now.saturating_duration_since(lock(&it.seen).well));
            still.collect()
        };
        let is_stuck = |still: &&Duration| **still >= patience;
        let (accepting, workers) = (still(EventLoop::Accepting), still(EventLoop::Worker));
        if let Some(still) = accepting.iter().find(is_stuck) {
            let seconds = still.as_secs();
            return Some(format!(
                "the thread that accepts connections has been stuck for {seconds} s"
            ));
        }
        let longest = workers.iter().filter(is_stuck).max()?.as_secs();
        let stuck = workers.iter().filter(is_stuck).count();
        let has = if stuck == 1 { "has" } else { "have" };
        let count = workers.len();
        Some(format!(
            "{stuck} of {count} workers {has} been stuck for {longest} s, in code that does not yield"
        ))
    }
}

impl Drop for OpenPort {
    fn drop(&mut self) {
        if !self.draining.is_cancelled() {
            lock(&self.vitals.0.closed).insert(self.number);
        }
    }
}

/// The turns of all threads of a runtime: a worker's has one.
fn turns(metrics: &RuntimeMetrics) -> Turns {
    let threads = 0..metrics.num_workers();
    threads.fold((0, Duration::ZERO), |(waits, busy), thread| {
        (
            waits + metrics.worker_park_unpark_count(thread),
            busy + metrics.worker_total_busy_duration(thread),
        )
    })
}

/// Whether a thread of a runtime waits for events.
fn is_waiting(metrics: &RuntimeMetrics) -> bool {
    let mut threads = 0..metrics.num_workers();
    threads.any(|thread| metrics.worker_park_unpark_count(thread) % 2 == 1)
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, thread};

    use tokio::{runtime, sync::oneshot, task::yield_now};

    use super::*;

    const STUCK: Duration = limits::LOOP_STUCK;

    /// Repeats until it is so.
    fn wait_until(mut is_so: impl FnMut() -> bool) {
        let end = Instant::now() + Duration::from_mins(1);
        while !is_so() {
            assert!(Instant::now() < end, "it never is");
            thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn a_loop_is_stuck_while_it_neither_turns_nor_waits() {
        let vitals = Vitals::default();
        let (block, blocks) = oneshot::channel();
        let (report, reports) = mpsc::channel();
        let (spin, spins) = mpsc::channel();
        let (end, mut ended) = oneshot::channel::<()>();
        let watched = vitals.clone();
        let worker = thread::spawn(move || {
            let runtime = runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let _watched = watched.watch(EventLoop::Worker);
                report.send(()).unwrap();
                blocks.await.unwrap();
                report.send(()).unwrap();
                spins.recv().unwrap();
                while ended.try_recv() == Err(oneshot::error::TryRecvError::Empty) {
                    yield_now().await;
                }
            });
        });
        reports.recv().unwrap();
        let mut now = Instant::now();
        let mut is_well_after_a_look = || {
            vitals.look(now);
            now += STUCK;
            vitals.look(now);
            vitals.stuck(now, STUCK).is_none()
        };
        wait_until(&mut is_well_after_a_look); // it waits for events

        block.send(()).unwrap();
        reports.recv().unwrap();
        wait_until(|| !is_well_after_a_look());
        assert!(!is_well_after_a_look());
        now += Duration::from_secs(10);
        let fault = vitals.stuck(now, STUCK).expect("it is stuck");
        assert!(
            fault.starts_with("1 of 1 workers has been stuck for "),
            "{fault}"
        );
        assert_eq!(vitals.stuck(now, limits::LOOP_LOST), None);
        now += limits::LOOP_LOST;
        assert!(vitals.stuck(now, limits::LOOP_LOST).is_some());
        assert_eq!(vitals.fault(), None, "in truth, that takes seconds");

        spin.send(()).unwrap();
        let mut is_well = || {
            vitals.look(now);
            vitals.stuck(now, STUCK).is_none()
        };
        wait_until(&mut is_well); // it turns, and never waits
        now += STUCK;
        wait_until(|| {
            vitals.look(now);
            vitals.stuck(now, STUCK).is_none()
        });

        end.send(()).unwrap();
        worker.join().unwrap();
        now += STUCK;
        assert_eq!(
            vitals.stuck(now, STUCK),
            None,
            "what has ended is not stuck"
        );
    }

    #[tokio::test]
    async fn a_thread_that_accepts_nothing_is_a_fault() {
        let vitals = Vitals::default();
        let _watched = vitals.watch(EventLoop::Accepting);
        let fault = vitals.stuck(Instant::now() + STUCK, STUCK);
        let fault = fault.expect("this test does not yield");
        assert!(fault.contains("accepts connections"), "{fault}");
    }

    #[test]
    fn a_port_that_closes_before_the_drain_is_a_fault() {
        let (vitals, draining) = (Vitals::default(), CancellationToken::new());
        let port = vitals.open_port(81, draining.clone());
        let other = vitals.open_port(82, draining.clone());
        assert_eq!(vitals.fault(), None);
        drop(port);
        let fault = vitals.fault().expect("one is closed");
        assert!(fault.contains("port 81 "), "{fault}");
        draining.cancel();
        drop(other);
        assert_eq!(vitals.fault(), Some(fault));
    }
}
