//! [`Task`]: work that the process does once, beside the requests of its workers.

use std::{future::Future, pin::Pin, time::Duration};

use tracing::warn;

use crate::server::service::process::Process;

/// A task of the process, on a thread with its own runtime.
pub(crate) struct Task {
    pub(crate) name: &'static str,
    begin: Box<dyn FnOnce(Process) -> Work + Send>,
}

type Work = Pin<Box<dyn Future<Output = ()>>>;

impl Task {
    pub(crate) fn new<F>(
        name: &'static str,
        work: impl FnOnce(Process) -> F + Send + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + 'static,
    {
        Self {
            name,
            begin: Box::new(|process| Box::pin(work(process))),
        }
    }

    /// Runs the task to its end. It is dropped when the drain takes longer than `drain_timeout`.
    pub(crate) async fn run(self, process: Process, drain_timeout: Duration) {
        tokio::select! {
            () = (self.begin)(process.clone()) => {}
            () = process.drain_exceeds(drain_timeout) => warn!(
                action = "drain",
                status = "failure",
                task = self.name,
                "a task has not ended within the drain timeout; it is dropped"
            ),
        }
    }
}
