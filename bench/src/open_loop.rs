//! The open loop: sends requests at a constant rate, however slow the responses are.

use std::{
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use tokio::{sync::mpsc, task::JoinSet};

use crate::{
    Result,
    question::{Connection, Question},
};

/// A histogram of latencies in microseconds, up to a minute, with three significant digits.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000, 3).expect("these bounds are valid")
}

/// Sends `rate` requests a second for `warm_up` and then for `time`, on `connections` in turn.
/// Returns the latencies of `time`. Each counts from the time that the request was due, so it
/// includes the wait for the connection.
pub(crate) async fn run(
    question: &Question,
    connections: usize,
    rate: f64,
    warm_up: Duration,
    time: Duration,
) -> Result<Histogram<u64>> {
    let latencies = Arc::new(Mutex::new(histogram()));
    let mut queues = Vec::new();
    let mut tasks = JoinSet::new();
    for _ in 0..connections {
        let (queue, mut due) = mpsc::unbounded_channel::<Instant>();
        queues.push(queue);
        let mut connection = Connection::open(question.address).await?;
        let (question, latencies) = (question.clone(), latencies.clone());
        tasks.spawn(async move {
            let mut counts_from = None;
            while let Some(due) = due.recv().await {
                connection.ask(&question).await?;
                let counts_from = *counts_from.get_or_insert(due + warm_up);
                if due >= counts_from {
                    let micros = due.elapsed().as_micros();
                    let mut latencies = latencies.lock().expect("never poisoned");
                    latencies.record(u64::try_from(micros)?)?;
                }
            }
            Result::Ok(())
        });
    }
    thread::spawn(move || {
        pace(rate, warm_up + time, |index, due| {
            let _ = queues[index % connections].send(due); // fails only after its task has failed
        });
    });
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    let latencies = Arc::into_inner(latencies).expect("all tasks have ended");
    Ok(latencies.into_inner()?)
}

/// Calls `begin` for each request when it is due. Run it on a thread of its own, as the timer of
/// the runtime has steps of a millisecond.
fn pace(rate: f64, time: Duration, mut begin: impl FnMut(usize, Instant)) {
    let start = Instant::now();
    for index in 0_u32.. {
        let after = Duration::from_secs_f64(f64::from(index) / rate);
        if after >= time {
            return;
        }
        thread::sleep(after.saturating_sub(start.elapsed()));
        begin(index as usize, start + after);
    }
}
