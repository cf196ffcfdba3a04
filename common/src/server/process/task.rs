//! [`Task`]: work that the process does once, beside the requests of its workers.

use std::{future::Future, pin::Pin, time::Duration};

use tokio::{runtime, time::sleep};
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
    pub(crate) fn run(self, process: Process, drain_timeout: Duration) -> std::io::Result<()> {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let draining = process.draining();
            let too_late = async {
                draining.await;
                sleep(drain_timeout).await;
            };
            tokio::select! {
                () = (self.begin)(process) => {}
                () = too_late => warn!(
                    action = "drain",
                    status = "failure",
                    task = self.name,
                    "a task has not ended within the drain timeout; it is dropped"
                ),
            }
        });
        runtime.shutdown_background();
        Ok(())
    }
}
