//! [`Threads`]: the threads of a process, one for each worker and task, and how they end.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    thread,
};

use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tracing::warn;

use super::error::Error;
use crate::{request::draining::join_process, server::service::process::Process};

/// The threads of a process.
pub(crate) struct Threads {
    process: Process,
    running: usize,
    ended: UnboundedReceiver<End>,
    reporter: UnboundedSender<End>,
}

/// How a thread ended.
type End = Result<(), Error>;

impl Threads {
    pub(crate) fn new(process: Process) -> Self {
        let (reporter, ended) = mpsc::unbounded_channel();
        Self {
            process,
            running: 0,
            ended,
            reporter,
        }
    }

    /// Starts a thread. `panicked` is how it ends if `work` panics.
    pub(crate) fn spawn(
        &mut self,
        name: String,
        panicked: Error,
        work: impl FnOnce() -> End + Send + 'static,
    ) -> io::Result<()> {
        let (process, reporter) = (self.process.clone(), self.reporter.clone());
        thread::Builder::new().name(name).spawn(move || {
            join_process(process.token().clone());
            // The panic hook has already logged a panic.
            let end = catch_unwind(AssertUnwindSafe(work)).unwrap_or(Err(panicked));
            let _ = reporter.send(end);
        })?;
        self.running += 1;
        Ok(())
    }

    /// Waits for the next thread to end. Never completes once all have ended.
    pub(crate) async fn next_end(&mut self) -> End {
        let end = self.ended.recv().await;
        self.running -= 1;
        end.expect("`reporter` keeps the channel open")
    }

    /// Waits until all threads have ended.
    pub(crate) async fn wait(&mut self) {
        while self.running > 0 {
            if let Err(error) = self.next_end().await {
                warn!(action = "stop", status = "failure", %error, "a thread did not end well");
            }
        }
    }
}
