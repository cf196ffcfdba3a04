//! Measures all pairs in turns, A B C A B C …, so that other load on the machine affects all of
//! them.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::{
    Options, Result,
    figure::Figure,
    open_loop,
    pair::{Kind, Pair, Setting},
    wrk,
};

/// The number of connections, in both loops.
pub(crate) const CONNECTIONS: usize = 100;

/// The warm-up before each measurement.
pub(crate) const WARM_UP: Duration = Duration::from_secs(1);

/// The percentiles that are reported, in percent. The last one is the maximum.
pub(crate) const PERCENTILES: [f64; 7] = [50.0, 75.0, 90.0, 99.0, 99.9, 99.99, 100.0];

#[derive(Debug, Serialize)]
pub(crate) struct Comparison {
    pub(crate) closed: Vec<Closed>,
    /// The requests a second of the open loop: half the peak of the first pair.
    pub(crate) rate: f64,
    pub(crate) open: Vec<Open>,
}

/// The results of a pair under the closed loop.
#[derive(Debug, Serialize)]
pub(crate) struct Closed {
    pub(crate) pair: Kind,
    pub(crate) turns: Vec<Turn>,
}

/// The figures of a pair in one round. CPU, switches and memory are sums over its processes.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Turn {
    pub(crate) requests_per_second: f64,
    pub(crate) cpu_micros_per_request: f64,
    pub(crate) context_switches_per_request: f64,
    pub(crate) peak_kib: f64,
    pub(crate) p99_millis: f64,
}

impl Closed {
    pub(crate) fn column(&self, of: fn(&Turn) -> f64) -> Vec<f64> {
        self.turns.iter().map(of).collect()
    }

    pub(crate) fn figure(&self, of: fn(&Turn) -> f64) -> Figure {
        Figure::of(self.column(of))
    }
}

/// The results of a pair under the open loop.
#[derive(Debug, Serialize)]
pub(crate) struct Open {
    pub(crate) pair: Kind,
    /// The p99 of each round.
    pub(crate) p99_millis: Vec<f64>,
    /// The percentiles of all rounds together.
    pub(crate) percentiles: Vec<Percentile>,
    #[serde(skip)]
    all: Histogram<u64>,
}

#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Percentile {
    pub(crate) percent: f64,
    pub(crate) millis: f64,
}

pub(crate) fn run(options: &Options) -> Result<Comparison> {
    let mut closed: Vec<_> = options
        .pairs
        .iter()
        .map(|pair| Closed {
            pair: *pair,
            turns: Vec::new(),
        })
        .collect();
    for round in 1..=options.rounds {
        for results in &mut closed {
            let turn = closed_turn(results.pair, options.turn)?;
            eprintln!(
                "round {round}: {:12} {:6.0} requests/s, {:5.1} µs of CPU a request",
                results.pair.name(),
                turn.requests_per_second,
                turn.cpu_micros_per_request
            );
            results.turns.push(turn);
        }
    }
    let peak = |results: &Closed| results.figure(|turn| turn.requests_per_second).median;
    let rate = (peak(&closed[0]) / 2.0).round();
    let mut open: Vec<_> = closed
        .iter()
        .filter(|results| peak(results) > rate * 1.1) // a slower pair would only queue requests
        .map(|results| Open {
            pair: results.pair,
            p99_millis: Vec::new(),
            percentiles: Vec::new(),
            all: open_loop::histogram(),
        })
        .collect();
    for round in 1..=options.rounds {
        for results in &mut open {
            let latencies = open_turn(results.pair, rate, options.turn)?;
            let p99 = millis(latencies.value_at_percentile(99.0));
            eprintln!(
                "round {round}: {:12} p99 {p99:.2} ms at {rate} requests/s",
                results.pair.name()
            );
            results.p99_millis.push(p99);
            results.all.add(latencies)?;
        }
    }
    for results in &mut open {
        results.percentiles = PERCENTILES
            .map(|percent| Percentile {
                percent,
                millis: millis(results.all.value_at_percentile(percent)),
            })
            .to_vec();
    }
    Ok(Comparison { closed, rate, open })
}

fn closed_turn(kind: Kind, time: Duration) -> Result<Turn> {
    let pair = Pair::start(kind, Setting::default())?;
    let turn = measure(&pair, time)?;
    pair.stop()?;
    Ok(turn)
}

/// Measures one turn of a running pair.
pub(crate) fn measure(pair: &Pair, time: Duration) -> Result<Turn> {
    wrk::run(&pair.hello, CONNECTIONS, WARM_UP)?;
    pair.settle()?;
    let before = pair.usage()?;
    let report = wrk::run(&pair.hello, CONNECTIONS, time)?;
    let used = pair.usage()? - before;
    #[allow(clippy::cast_precision_loss)] // KiB
    Ok(Turn {
        requests_per_second: report.per_second,
        cpu_micros_per_request: used.cpu_micros / report.requests,
        context_switches_per_request: used.context_switches / report.requests,
        peak_kib: pair.peak_kib()? as f64,
        p99_millis: report.p99.as_secs_f64() * 1e3,
    })
}

fn open_turn(kind: Kind, rate: f64, time: Duration) -> Result<Histogram<u64>> {
    let pair = Pair::start(kind, Setting::default())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let latencies = runtime.block_on(open_loop::run(
        &pair.hello,
        CONNECTIONS,
        rate,
        WARM_UP,
        time,
    ))?;
    pair.stop()?;
    Ok(latencies)
}

fn millis(micros: u64) -> f64 {
    Duration::from_micros(micros).as_secs_f64() * 1e3
}
