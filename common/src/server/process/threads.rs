//! [`Threads`]: the threads of a process, one for each worker and task, each with its own runtime, and
//! how they end: together.
//!
//! A client that workers share, such as a pool of database connections, has its connections on the
//! runtime that opened them. So a runtime is polled until the work of all threads has ended: a worker
//! that has drained, or a task that has ended, may have opened what another request still uses.

use std::{future::Future, io, panic::AssertUnwindSafe, thread, time::Duration};

use futures_util::FutureExt;
use tokio::{
    runtime::{self, Runtime},
    sync::mpsc::{self, UnboundedReceiver, UnboundedSender},
};
use tokio_util::task::TaskTracker;
use tracing::warn;

use super::error::Error;
use crate::{
    limits, request::draining::join_process, server::service::process::Process, telemetry::logging,
};

/// The threads of a process. Dropping the value begins the drain, and leaves the threads to end on
/// their own.
pub(crate) struct Threads {
    working: Working,
    ended: UnboundedReceiver<End>,
    /// Each thread has a clone, to its very end.
    reporter: Option<UnboundedSender<End>>,
}

/// How the work of a thread ended.
type End = Result<(), Error>;

/// When the lines of a thread are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogLines {
    /// Together, when the thread runs out of work.
    Buffered,
    /// One by one, for a thread that may block.
    Unbuffered,
}

/// The work of the threads, for those who wait for its end. Clones share their state.
#[derive(Clone)]
pub(crate) struct Working {
    process: Process,
    drain_timeout: Duration,
    /// Has a token for each worker and task whose work has not ended.
    users: TaskTracker,
    /// The same for all threads.
    all: TaskTracker,
}

impl Working {
    /// Completes when no worker or task works any more, or when `drain_timeout` is over.
    pub(crate) async fn users_ended(&self) {
        self.ended(&self.users, Duration::ZERO).await;
    }

    /// Completes when the drain takes longer than `drain_timeout` and `grace`.
    pub(crate) async fn too_late(&self, grace: Duration) {
        let bound = self.drain_timeout.saturating_add(grace);
        self.process.drain_exceeds(bound).await;
    }

    /// The drain bounds it, as work may be stuck in code that never yields.
    async fn ended(&self, tracker: &TaskTracker, grace: Duration) {
        tokio::select! {
            () = tracker.wait() => {}
            () = self.too_late(grace) => {}
        }
    }

    fn close(&self) {
        self.users.close();
        self.all.close();
    }
}

impl Threads {
    pub(crate) fn new(process: Process, drain_timeout: Duration) -> Self {
        let (reporter, ended) = mpsc::unbounded_channel();
        Self {
            working: Working {
                process,
                drain_timeout,
                users: TaskTracker::new(),
                all: TaskTracker::new(),
            },
            ended,
            reporter: Some(reporter),
        }
    }

    /// Starts the thread of a worker or a task, which runs the future of `work` in a runtime of its own.
    /// `panicked` is how it ends if that panics.
    pub(crate) fn spawn<F>(
        &mut self,
        name: String,
        panicked: Error,
        lines: LogLines,
        work: impl FnOnce() -> F + Send + 'static,
    ) -> io::Result<()>
    where
        F: Future<Output = End>,
    {
        let token = self.working.users.token();
        self.spawn_last(name, panicked, lines, async move || {
            let _token = token;
            work().await
        })
    }

    /// Starts a thread whose work ends after that of workers and tasks.
    pub(crate) fn spawn_last<F>(
        &mut self,
        name: String,
        panicked: Error,
        lines: LogLines,
        work: impl FnOnce() -> F + Send + 'static,
    ) -> io::Result<()>
    where
        F: Future<Output = End>,
    {
        let (reporter, working) = (self.reporter.clone(), self.working.clone());
        let token = working.all.token();
        thread::Builder::new().name(name).spawn(move || {
            join_process(working.process.token().clone());
            // The panic hook has already logged a panic.
            let work = AssertUnwindSafe(async move { work().await }).catch_unwind();
            let report = |end| {
                let reporter = reporter.as_ref().expect("threads start before the end");
                let _ = reporter.send(end);
            };
            match runtime(lines) {
                Ok(runtime) => {
                    report(runtime.block_on(work).unwrap_or(Err(panicked)));
                    drop(token);
                    runtime.block_on(working.ended(&working.all, limits::STUCK_WORKER));
                    // Does not wait for a name look-up, which may still block a thread.
                    runtime.shutdown_background();
                }
                Err(error) => report(Err(error.into())),
            }
            logging::flush();
        })?;
        Ok(())
    }

    pub(crate) fn working(&self) -> Working {
        self.working.clone()
    }

    /// Waits for the work of the next thread to end. Never completes once all has ended.
    pub(crate) async fn next_end(&mut self) -> End {
        let end = self.ended.recv().await;
        end.expect("`reporter` keeps the channel open")
    }

    /// Waits until all threads have ended.
    pub(crate) async fn wait(&mut self) {
        self.working.close();
        self.reporter = None;
        while let Some(end) = self.ended.recv().await {
            if let Err(error) = end {
                warn!(action = "stop", status = "failure", %error, "a thread did not end well");
            }
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.working.process.begin_drain();
        self.working.close();
    }
}

fn runtime(lines: LogLines) -> io::Result<Runtime> {
    let mut builder = runtime::Builder::new_current_thread();
    builder.enable_all();
    if lines == LogLines::Buffered {
        logging::buffer_this_thread();
        builder.on_thread_park(logging::flush);
    }
    builder.build()
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    fn threads(drain_timeout: Duration) -> Threads {
        Threads::new(Process::new(), drain_timeout)
    }

    /// Spawns the connection of a client that threads share, on the runtime of the caller.
    fn connection() -> mpsc::UnboundedSender<oneshot::Sender<&'static str>> {
        let (client, mut requests) = mpsc::unbounded_channel::<oneshot::Sender<_>>();
        tokio::spawn(async move {
            while let Some(response) = requests.recv().await {
                let _ = response.send("the response");
            }
        });
        client
    }

    #[tokio::test]
    async fn a_connection_outlives_the_thread_that_opened_it_while_another_works() {
        let mut threads = threads(Duration::from_mins(1));
        let (give, given) = oneshot::channel();
        let opens = move || async move {
            let _ = give.send(connection());
            Ok(())
        };
        let begin = |name: &str| (name.to_owned(), Error::Worker, LogLines::Unbuffered);
        let (name, panicked, lines) = begin("opens");
        threads.spawn(name, panicked, lines, opens).unwrap();
        threads.next_end().await.expect("the connection is open");

        let (name, panicked, lines) = begin("asks");
        let (report, response) = oneshot::channel();
        let asks = move || async move {
            let client = given.await.expect("the connection is open");
            let (respond, response) = oneshot::channel();
            client.send(respond).expect("the connection is open");
            let _ = report.send(response.await);
            Ok(())
        };
        threads.spawn(name, panicked, lines, asks).unwrap();
        assert_eq!(response.await.expect("it asks"), Ok("the response"));
        threads.wait().await;
    }

    #[tokio::test]
    async fn a_thread_that_panics_keeps_its_connections_open_too() {
        let mut threads = threads(Duration::from_mins(1));
        let (give, given) = oneshot::channel();
        let panics = move || async move {
            let _ = give.send(connection());
            panic!("the work panics")
        };
        let lines = LogLines::Unbuffered;
        let name = "panics".to_owned();
        threads.spawn(name, Error::Worker, lines, panics).unwrap();
        assert!(matches!(threads.next_end().await, Err(Error::Worker)));
        let (respond, response) = oneshot::channel();
        let client = given.await.unwrap();
        client.send(respond).expect("the connection is open");
        assert_eq!(response.await, Ok("the response"));
        threads.wait().await;
        client.closed().await;
    }

    #[tokio::test]
    async fn work_that_never_ends_does_not_keep_the_others_after_the_drain() {
        let mut threads = threads(Duration::ZERO);
        let (give, given) = oneshot::channel();
        let opens = move || async move {
            let _ = give.send(connection());
            Ok(())
        };
        let lines = LogLines::Unbuffered;
        let stuck = || std::future::pending::<End>();
        let spawned = threads.spawn("stuck".to_owned(), Error::Worker, lines, stuck);
        spawned.unwrap();
        let spawned = threads.spawn("opens".to_owned(), Error::Worker, lines, opens);
        spawned.unwrap();
        let client = given.await.unwrap();
        drop(threads);
        client.closed().await;
    }
}
