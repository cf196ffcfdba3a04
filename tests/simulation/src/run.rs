//! [`run`]: one seed, in this process.

use std::{collections::BTreeMap, time::Duration};

use tokio::runtime;

use crate::{
    checks::{self, Noted},
    clock, metrics, random,
    records::subscriber,
    schedule::Schedule,
    trace::{Event, Trace},
    world::World,
};

/// What came of a run.
#[derive(Debug)]
pub struct Report {
    /// What happens in the run.
    pub schedule: Schedule,
    /// What happened.
    pub events: Vec<Noted>,
    /// What was violated, and when.
    pub violations: Vec<(Duration, String)>,
    /// The number of calls.
    pub calls: usize,
    /// How often each generator was used.
    pub used: BTreeMap<String, usize>,
}

/// Runs a seed, without the faults whose numbers are `left_out`. A process can do this once, as it begins
/// with its first randomness.
///
/// # Panics
///
/// When there is no runtime to be had.
pub fn run(seed: u64, left_out: &[usize]) -> Report {
    clock::simulate();
    random::seed_libraries(seed);
    let mut schedule = Schedule::draw(seed);
    let mut number = 0;
    schedule.faults.retain(|_| {
        number += 1;
        !left_out.contains(&(number - 1))
    });
    let runtime = runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("it needs no resources");
    let (events, text) = runtime.block_on(async {
        let trace = Trace::default();
        let _subscriber = tracing::subscriber::set_default(subscriber(trace.clone()));
        let world = World::start(&schedule, seed, &trace);
        world.run(schedule.faults.clone()).await;
        (trace.events(), common::metrics::text("").1)
    });
    let mut violations = checks::violations(&schedule, &events);
    let end = events.last().map_or(Duration::ZERO, |(at, _)| *at);
    let of_metrics = metrics::violations(&text, &events).into_iter();
    violations.extend(of_metrics.map(|what| (end, what)));
    let calls = events
        .iter()
        .filter(|(_, event)| matches!(event, Event::Begin(_)));
    let mut used = BTreeMap::new();
    for fault in &schedule.faults {
        *used.entry(fault.what.name().to_owned()).or_default() += 1;
    }
    for (_, event) in &events {
        if let Event::Does {
            what, call: 1.., ..
        } = event
        {
            *used.entry(format!("fake: {what}")).or_default() += 1;
        }
    }
    Report {
        calls: calls.count(),
        schedule,
        violations,
        used,
        events,
    }
}
