//! SIGTERM and SIGINT: the first asks for a drain, a second for the end.

use std::{future, io};

use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGTERM and SIGINT.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    last: SignalKind,
}

impl Signals {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            last: SignalKind::terminate(),
        })
    }

    pub(super) async fn next(&mut self) {
        self.last = tokio::select! {
            Some(()) = self.terminate.recv() => SignalKind::terminate(),
            Some(()) = self.interrupt.recv() => SignalKind::interrupt(),
            else => future::pending().await,
        };
    }

    /// What a shell reports for a process that the last signal ended.
    pub(super) fn exit_code(&self) -> i32 {
        128 + self.last.as_raw_value()
    }
}
