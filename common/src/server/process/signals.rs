//! [`watch`]: waits for SIGTERM, SIGINT and SIGHUP. The first starts the drain; a second ends the
//! process.
//!
//! Signals have a thread of their own, which never logs. So a second signal ends the process even
//! if all other threads are blocked.

use std::{
    fs,
    future::pending,
    io, process, thread,
    time::{Duration, Instant},
};

use tokio::{
    runtime,
    signal::unix::{Signal, SignalKind, signal},
};
use tokio_util::sync::CancellationToken;

use crate::limits;

/// Handles signals from now on. The first cancels the returned token. The second ends the
/// process with the exit code that a shell reports for the signal.
///
/// SIGINT or SIGHUP that is ignored stays ignored: so `nohup` and the background jobs of a script
/// outlive the terminal.
pub(crate) fn watch() -> io::Result<CancellationToken> {
    let runtime = runtime::Builder::new_current_thread().enable_io().build()?;
    let guard = runtime.enter();
    let ignored = ignored();
    let unless_ignored = |kind: SignalKind| -> io::Result<Option<Signal>> {
        let is_ignored = ignored & bit_of(kind) != 0;
        (!is_ignored).then(|| signal(kind)).transpose()
    };
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = unless_ignored(SignalKind::interrupt())?;
    let mut hangup = unless_ignored(SignalKind::hangup())?;
    drop(guard);
    let mut next = async move || {
        tokio::select! {
            Some(()) = terminate.recv() => SignalKind::terminate(),
            () = received(&mut interrupt) => SignalKind::interrupt(),
            () = received(&mut hangup) => SignalKind::hangup(),
        }
    };
    let drain = CancellationToken::new();
    let first = drain.clone();
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            runtime.block_on(async {
                next().await;
                let since = Instant::now();
                first.cancel();
                loop {
                    let signal = next().await;
                    if is_another(since.elapsed()) {
                        process::exit(128 + signal.as_raw_value())
                    }
                }
            })
        })?;
    Ok(drain)
}

/// Whether a signal this long after the first is another one.
fn is_another(since_first: Duration) -> bool {
    since_first >= limits::SAME_SIGNAL
}

/// Waits for a signal, for ever if it is ignored.
async fn received(signal: &mut Option<Signal>) {
    let received = match signal {
        Some(signal) => signal.recv().await,
        None => None,
    };
    if received.is_none() {
        pending::<()>().await;
    }
}

/// The signals that the process was started to ignore, as a mask. None where the system does not
/// say.
fn ignored() -> u64 {
    let status = fs::read_to_string("/proc/self/status");
    status.map_or(0, |status| ignored_in(&status))
}

/// The mask in the text of `/proc/PID/status`.
fn ignored_in(status: &str) -> u64 {
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.unwrap_or(0)
}

/// The bit of a signal in such a mask.
fn bit_of(kind: SignalKind) -> u64 {
    1 << (kind.as_raw_value() - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mask_of_ignored_signals_is_read() {
        // As `nohup` leaves it; Rust itself ignores SIGPIPE.
        let status = "Name:\tservice1\nSigBlk:\t0000000000000002\nSigIgn:\t0000000000001001\n";
        let is_ignored = |kind| ignored_in(status) & bit_of(kind) != 0;
        assert!(is_ignored(SignalKind::hangup()));
        assert!(is_ignored(SignalKind::pipe()));
        assert!(!is_ignored(SignalKind::interrupt()));
        assert_eq!(ignored_in("Name:\tservice1\n"), 0);
        assert_ne!(ignored() & bit_of(SignalKind::pipe()), 0);
    }

    #[test]
    fn two_signals_within_half_a_second_are_one() {
        assert!(!is_another(Duration::ZERO));
        assert!(!is_another(Duration::from_millis(499)));
        assert!(is_another(Duration::from_millis(500)));
    }
}
