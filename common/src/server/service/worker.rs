//! [`Worker`]: the worker whose faces are being built.

use std::{fmt::Display, future::Future, time::Duration};

use super::process::Process;
use crate::ports::Ports;

/// The worker whose faces are being built: a thread with its own runtime.
#[derive(Debug)]
pub struct Worker {
    process: Process,
}

impl Worker {
    pub(crate) fn new(process: Process) -> Self {
        Self { process }
    }

    /// The same as [`Process::draining`].
    pub fn draining(&self) -> impl Future<Output = ()> + Send + 'static {
        self.process.draining()
    }

    /// The same as [`Process::ports`].
    pub fn ports(&self) -> Ports {
        self.process.ports()
    }

    /// The same as [`Process::ready_when`].
    pub fn ready_when(&self, condition: impl Future<Output = ()> + Send + 'static) {
        self.process.ready_when(condition);
    }

    /// The same as [`Process::ready_while`].
    pub fn ready_while<F, E>(&self, check: impl Fn() -> F + Send + 'static, every: Duration)
    where
        F: Future<Output = Result<(), E>> + Send,
        E: Display + Send,
    {
        self.process.ready_while(check, every);
    }
}
