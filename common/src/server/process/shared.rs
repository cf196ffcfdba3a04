//! [`make`]: makes the shared values of a service, on a thread that keeps their runtime to the end.

use std::{
    sync::{Arc, mpsc},
    time::Duration,
};

use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    error::Error,
    threads::{LogLines, Threads, Working},
};
use crate::{
    backoff::Backoff,
    limits,
    server::service::{process::Process, readiness::Missing, shared::SharedValue},
};

/// The pauses after attempts that fail. They end, as what is missing may come at any time.
const RETRY: Backoff = Backoff {
    base: Duration::from_millis(100),
    factor: 2.0,
    limit: Duration::from_secs(5),
    jitter: 0.2,
};

/// Makes the values, one after the other, and blocks until that is done. Returns whether it is:
/// `stop` ends it.
///
/// The values are closed once all other work has ended.
pub(crate) fn make(
    values: Vec<Arc<dyn SharedValue>>,
    process: &Process,
    threads: &mut Threads,
    stop: CancellationToken,
) -> Result<bool, Error> {
    if values.is_empty() {
        return Ok(true);
    }
    let (report, made) = mpsc::channel();
    let process = process.clone();
    let working = threads.working();
    threads.spawn_last(
        "shared".to_owned(),
        Error::Shared,
        LogLines::Buffered,
        async move || {
            let all_made = async {
                for value in &values {
                    make_one(&**value, &process).await;
                    value.watch(&process);
                }
            };
            let is_made = stop.run_until_cancelled(all_made).await.is_some();
            let _ = report.send(is_made);
            working.users_ended().await;
            close(&values, &working).await;
            Ok(())
        },
    )?;
    made.recv().map_err(|_| Error::Shared) // it has panicked
}

async fn make_one(value: &dyn SharedValue, process: &Process) {
    let name = value.name();
    let note = |error| {
        let missing = Missing { name, error };
        process.readiness().note_missing(Some(missing));
    };
    note(None);
    let mut failures = 0;
    while !value.is_made() {
        let attempt = timeout(limits::SHARED_ATTEMPT, value.make()).await;
        let late = |_| Err(format!("no result after {:?}", limits::SHARED_ATTEMPT));
        let Err(error) = attempt.unwrap_or_else(late) else {
            break;
        };
        failures += 1;
        let pause = RETRY.pause(failures);
        warn!(
            action = "make",
            status = "failure",
            shared = name,
            error,
            attempts = failures,
            pause = ?pause,
            "a shared value could not be made; the ports of the service stay closed meanwhile"
        );
        note(Some(error));
        sleep(pause).await;
    }
    process.readiness().note_missing(None);
    info!(
        action = "make",
        status = "success",
        shared = name,
        "a shared value is made"
    );
}

/// Closes the values, the last first.
async fn close(values: &[Arc<dyn SharedValue>], working: &Working) {
    let closing = async {
        for value in values.iter().rev() {
            value.close().await;
        }
    };
    tokio::select! {
        () = closing => {}
        () = working.too_late(limits::SHARED_CLOSE) => warn!(
            action = "drain",
            status = "failure",
            "the shared values are not closed within the drain timeout; they are dropped"
        ),
    }
}
