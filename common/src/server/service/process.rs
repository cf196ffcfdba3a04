//! [`Process`]: a handle on the process, for the code of a service: its readiness and its drain.

use std::{
    fmt::Display,
    future::Future,
    sync::{Arc, OnceLock},
    time::Duration,
};

use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::readiness::Readiness;
use crate::ports::Ports;

/// A handle on the process that a service runs in: `faces` and tasks get it. Clones share their state.
#[derive(Debug, Clone)]
pub struct Process {
    readiness: Readiness,
    draining: CancellationToken,
    drain_began: Arc<OnceLock<Instant>>,
    ports: Ports,
    /// The number of this worker, and of all, if it is the handle of a worker.
    worker: Option<(usize, usize)>,
}

impl Process {
    /// A process that is ready, and does not drain.
    pub(crate) fn new() -> Self {
        Self {
            readiness: Readiness::new(),
            draining: CancellationToken::new(),
            drain_began: Arc::default(),
            ports: Ports::default(),
            worker: None,
        }
    }

    /// The same process, for the faces of a worker.
    pub(crate) fn of_worker(&self, number: usize, workers: usize) -> Self {
        Self {
            worker: Some((number, workers)),
            ..self.clone()
        }
    }

    /// The share of this worker in `total` connections, for a pool that `faces` makes on each worker. The
    /// shares add up to `total`, and are at least 1 each: with more workers than that, their sum is the
    /// number of workers. The log says the sum.
    ///
    /// In a task, which is alone, it is `total`.
    ///
    /// ```
    /// use common::{Config, server::{self, Listener}};
    /// use std::sync::mpsc;
    ///
    /// # fn main() -> Result<(), server::Error> {
    /// let config = Config { workers: 3.try_into().expect("not zero"), ..Config::default() };
    /// let (report, sizes) = mpsc::channel();
    /// let server = server::bind(&config, move |process| -> [Listener; 0] {
    ///     report.send(process.pool_size(16)).expect("the test waits");
    ///     []
    /// })?;
    /// drop(server);
    /// let mut sizes: Vec<_> = sizes.iter().collect();
    /// sizes.sort_unstable();
    /// assert_eq!(sizes, [5, 5, 6]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn pool_size(&self, total: u32) -> u32 {
        let (number, workers) = self.worker.unwrap_or((0, 1));
        if number == 0 {
            let connections = usize::try_from(total).unwrap_or(usize::MAX).max(workers);
            info!(
                action = "pool",
                status = "success",
                connections,
                workers,
                "each worker has a share of the connections"
            );
        }
        share(total, number, workers)
    }

    /// Completes when the drain begins: after `DRAIN_DELAY`, when the service no longer accepts
    /// connections. Streams and tasks that last until someone ends them end then: a stream whose
    /// deadline is longer than `DEADLINE` is cut off a second later.
    ///
    /// Handlers get the same future from [`context::draining`](crate::context::draining).
    pub fn draining(&self) -> impl Future<Output = ()> + Send + 'static {
        self.draining.clone().cancelled_owned()
    }

    /// Keeps the process from being ready until `condition` completes.
    ///
    /// # Panics
    ///
    /// When it is called outside of a tokio runtime.
    pub fn ready_when(&self, condition: impl Future<Output = ()> + Send + 'static) {
        let readiness = self.readiness.clone();
        readiness.require();
        tokio::spawn(async move {
            condition.await;
            readiness.fulfil();
        });
    }

    /// Keeps the process from being ready while `check` fails, such as a query of a database that
    /// the service can't work without. `check` runs at once, and then each time that `every` has
    /// passed since its last result. A check that takes longer than `every` fails. Each change is
    /// logged.
    ///
    /// Each call checks on its own. In `faces`, that is one check for each worker; in a
    /// [task](crate::server::Builder::task), it is one for the process.
    ///
    /// # Panics
    ///
    /// When it is called outside of a tokio runtime.
    pub fn ready_while<F, E>(&self, check: impl Fn() -> F + Send + 'static, every: Duration)
    where
        F: Future<Output = Result<(), E>> + Send,
        E: Display + Send,
    {
        let readiness = self.readiness.clone();
        readiness.require();
        tokio::spawn(async move {
            let mut state = None;
            loop {
                let outcome = match timeout(every, check()).await {
                    Ok(outcome) => outcome.map_err(|error| error.to_string()),
                    Err(_) => Err(format!("no result after {every:?}")),
                };
                let is_met = outcome.is_ok();
                match outcome {
                    _ if state == Some(is_met) => {}
                    Ok(()) => {
                        readiness.fulfil();
                        info!(action = "readiness", status = "success", "a check succeeds");
                    }
                    Err(error) => {
                        if state.is_some() {
                            readiness.require();
                        }
                        warn!(
                            action = "readiness",
                            status = "failure",
                            error,
                            "a check fails"
                        );
                    }
                }
                state = Some(is_met);
                sleep(every).await;
            }
        });
    }

    /// The ports of the process. They are known once all workers have built their faces.
    pub fn ports(&self) -> Ports {
        self.ports.clone()
    }

    pub(crate) fn readiness(&self) -> &Readiness {
        &self.readiness
    }

    pub(crate) fn begin_drain(&self) {
        self.drain_began.get_or_init(Instant::now);
        self.draining.cancel();
    }

    /// Completes when the drain has taken this long.
    pub(crate) async fn drain_exceeds(&self, bound: Duration) {
        self.draining.cancelled().await;
        let began = *self.drain_began.get_or_init(Instant::now);
        sleep_until(began + bound).await;
    }

    pub(crate) fn token(&self) -> &CancellationToken {
        &self.draining
    }
}

/// The part of `total` that this one of `workers` has.
fn share(total: u32, number: usize, workers: usize) -> u32 {
    let workers = u32::try_from(workers).unwrap_or(u32::MAX);
    let has_more = u32::try_from(number).is_ok_and(|number| number < total % workers);
    (total / workers + u32::from(has_more)).max(1)
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU8, Ordering::Relaxed},
    };

    use super::*;
    use crate::server::service::readiness::ReadinessState;

    const EVERY: Duration = Duration::from_secs(1);

    /// Waits for this state, which must come.
    async fn wait_for(process: &Process, expected: ReadinessState) {
        let mut readiness = process.readiness().subscribe();
        let reached = readiness.wait_for(|state| *state == expected);
        let reached = timeout(EVERY * 10, reached).await;
        reached
            .expect("the state is reached")
            .expect("the process is there");
    }

    #[tokio::test(start_paused = true)]
    async fn readiness_follows_a_check_until_the_drain() {
        const WELL: u8 = 0;
        const FAILING: u8 = 1;
        const HANGING: u8 = 2;
        let database = Arc::new(AtomicU8::new(FAILING));
        let process = Process::new();
        let checked = database.clone();
        let check = move || {
            let state = checked.load(Relaxed);
            async move {
                match state {
                    WELL => Ok(()),
                    FAILING => Err("the database is away"),
                    _ => std::future::pending().await,
                }
            }
        };
        process.ready_while(check, EVERY);
        assert_eq!(process.readiness().state(), ReadinessState::Waiting(1));
        for (state, expected) in [
            (WELL, ReadinessState::Ready),
            (FAILING, ReadinessState::Waiting(1)),
            (WELL, ReadinessState::Ready),
            (HANGING, ReadinessState::Waiting(1)),
            (WELL, ReadinessState::Ready),
        ] {
            database.store(state, Relaxed);
            wait_for(&process, expected).await;
        }
        process.readiness().drain();
        database.store(FAILING, Relaxed);
        sleep(EVERY * 3).await;
        assert_eq!(process.readiness().state(), ReadinessState::Draining);
    }

    #[test]
    fn shares_add_up_to_the_total_or_to_one_each() {
        let shares = |total, workers| -> Vec<_> {
            let numbers = 0..workers;
            numbers
                .map(|number| share(total, number, workers))
                .collect()
        };
        assert_eq!(shares(16, 3), [6, 5, 5]);
        assert_eq!(shares(4, 4), [1; 4]);
        assert_eq!(shares(2, 4), [1; 4]);
        assert_eq!(shares(0, 1), [1]);
        assert_eq!(Process::new().pool_size(16), 16);
    }

    #[tokio::test]
    async fn a_condition_after_the_start_counts() {
        let process = Process::new();
        assert_eq!(process.readiness().state(), ReadinessState::Ready);
        let (fulfil, fulfilled) = tokio::sync::oneshot::channel::<()>();
        process.ready_when(async { drop(fulfilled.await) });
        assert_eq!(process.readiness().state(), ReadinessState::Waiting(1));
        fulfil.send(()).unwrap();
        wait_for(&process, ReadinessState::Ready).await;
    }
}
