//! [`watch`]: waits for SIGTERM, SIGINT and SIGHUP. The first starts the drain; a second ends the
//! process.
//!
//! Signals have a thread of their own, which never logs. So a second signal ends the process even
//! if all other threads are blocked.

use std::{io, process, thread};

use tokio::{
    runtime,
    signal::unix::{SignalKind, signal},
    sync::oneshot,
};

/// Handles signals from now on. The first completes the returned receiver. The second ends the
/// process with the exit code that a shell reports for the signal.
pub(crate) fn watch() -> io::Result<oneshot::Receiver<()>> {
    let runtime = runtime::Builder::new_current_thread().enable_io().build()?;
    let guard = runtime.enter();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    drop(guard);
    let mut next = async move || {
        tokio::select! {
            Some(()) = terminate.recv() => SignalKind::terminate(),
            Some(()) = interrupt.recv() => SignalKind::interrupt(),
            Some(()) = hangup.recv() => SignalKind::hangup(),
        }
    };
    let (first, drain) = oneshot::channel();
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            runtime.block_on(async {
                next().await;
                let _ = first.send(());
                let second = next().await;
                process::exit(128 + second.as_raw_value())
            })
        })?;
    Ok(drain)
}
