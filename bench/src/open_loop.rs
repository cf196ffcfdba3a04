//! The open loop: requests come at a constant rate, whether or not the answers do.

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

/// Of latencies in microseconds, up to a minute, to three digits.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000, 3).expect("these bounds are valid")
}

/// Asks `rate` times a second for `warm_up` and then for `time`, on `connections` in turn, and
/// returns the latencies of the latter, each from the time that its request was due: one that
/// had to wait for its connection was late, too.
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
                    let mut latencies = latencies.lock().expect("nobody panics with it");
                    latencies.record(u64::try_from(micros)?)?;
                }
            }
            Result::Ok(())
        });
    }
    thread::spawn(move || {
        pace(rate, warm_up + time, |index, due| {
            let _ = queues[index % connections].send(due); // its task says why it is gone
        });
    });
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    let latencies = Arc::into_inner(latencies).expect("the tasks are over");
    Ok(latencies.into_inner()?)
}

/// Calls `begin` for each request when it is due, from a thread of its own: the runtime's timer
/// has steps of a millisecond.
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
