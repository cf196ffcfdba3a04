//! Our pair alone: how it scales with connections, replicas, sizes and streams.

use std::{
    collections::HashMap,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use serde::Serialize;
use serde_json::Value;
use tokio::runtime;

use crate::{
    Options, Result,
    compare::{CONNECTIONS, Turn, WARM_UP, measure},
    figure::Figure,
    pair::{Kind, PYTHON, Pair, Setting},
    question::{Connection, Question},
    rotation::Rotation,
    service::Service,
    wrk,
};

const CONNECTION_COUNTS: [usize; 5] = [1, 10, 100, 1_000, 10_000];
const REPLICAS: [usize; 3] = [1, 2, 4];
const NAME_BYTES: [usize; 2] = [4, 1_024];
const STREAM_ITEMS: [usize; 3] = [10, 1_000, 1_000_000];
const STARTS: usize = 20;

#[derive(Debug, Serialize)]
pub(crate) struct Scale {
    pub(crate) connections: Vec<Connections>,
    pub(crate) replicas: Vec<Row>,
    pub(crate) name_bytes: Vec<Row>,
    pub(crate) streams: Vec<Stream>,
    /// Items a second from a grpcio server to a grpcio client, if the Python pair is there.
    pub(crate) grpcio_items_per_second: Option<Figure>,
    /// The time from the start of both processes to the first response.
    pub(crate) start_millis: Figure,
    /// The memory of service1 and of service2, a second after the first response.
    pub(crate) idle_kib: [u64; 2],
    /// The sizes of the images, if Docker has them.
    pub(crate) image_bytes: Option<[u64; 2]>,
    pub(crate) binary_bytes: [u64; 2],
    pub(crate) shutdown: Shutdown,
}

/// The figures under wrk with `count` replicas, or with names of `count` bytes.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) count: usize,
    pub(crate) requests_per_second: Figure,
    pub(crate) cpu_micros_per_request: Figure,
}

/// The figures with at most 100 requests in flight over `count` connections.
#[derive(Debug, Serialize)]
pub(crate) struct Connections {
    pub(crate) count: usize,
    pub(crate) requests_per_second: Figure,
    pub(crate) cpu_micros_per_request: Figure,
    /// The ratio of the CPU time to that at 100 connections in the same round.
    pub(crate) cost_ratio: Figure,
    /// The memory that service2 takes for each connection.
    pub(crate) kib_per_connection: Figure,
}

#[derive(Debug, Serialize)]
pub(crate) struct Stream {
    pub(crate) items: usize,
    pub(crate) items_per_second: Figure,
}

/// The log lines of a pair whose service2 gets SIGTERM under full load.
#[derive(Debug, Serialize)]
pub(crate) struct Shutdown {
    pub(crate) requests: usize,
    pub(crate) lines: usize,
    /// Lines that are missing, or that a request has too many of.
    pub(crate) lost: usize,
    /// Lines that are not a JSON object.
    pub(crate) torn: usize,
}

pub(crate) fn run(options: &Options) -> Result<Scale> {
    Ok(Scale {
        connections: connections(options)?,
        replicas: rows("replicas", &REPLICAS, options, |count| {
            let setting = Setting {
                replicas: count,
                ..Setting::default()
            };
            Pair::start(Kind::Ours, setting)
        })?,
        name_bytes: rows("bytes of name", &NAME_BYTES, options, |count| {
            let mut pair = Pair::start(Kind::Ours, Setting::default())?;
            pair.hello = Question::hello(pair.hello.address.port(), &"n".repeat(count));
            Ok(pair)
        })?,
        streams: streams(options)?,
        grpcio_items_per_second: grpcio_streams(options)?,
        start_millis: starts()?,
        idle_kib: idle()?,
        image_bytes: images(),
        binary_bytes: [size_of_program(0)?, size_of_program(1)?],
        shutdown: shutdown()?,
    })
}

fn connections(options: &Options) -> Result<Vec<Connections>> {
    /// The figures of each round, for one count.
    #[derive(Default)]
    struct Columns {
        rate: Vec<f64>,
        cpu: Vec<f64>,
        memory: Vec<f64>,
    }
    let mut all = CONNECTION_COUNTS.map(|_| Columns::default());
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    for round in 1..=options.rounds {
        for (count, columns) in CONNECTION_COUNTS.into_iter().zip(&mut all) {
            let pair = Pair::start(Kind::Ours, Setting::default())?;
            let (rate, cpu, memory) =
                runtime.block_on(with_connections(&pair, count, options.turn))?;
            pair.stop()?;
            eprintln!(
                "round {round}: {count} connections: {rate:.0} requests/s, {cpu:.1} µs, {memory:.1} KiB each"
            );
            columns.rate.push(rate);
            columns.cpu.push(cpu);
            columns.memory.push(memory);
        }
    }
    let usual = CONNECTION_COUNTS
        .iter()
        .position(|count| *count == CONNECTIONS);
    let usual = all[usual.expect("CONNECTION_COUNTS has it")].cpu.clone();
    let rows = CONNECTION_COUNTS.into_iter().zip(all);
    Ok(rows
        .map(|(count, columns)| Connections {
            count,
            cost_ratio: Figure::ratio(&columns.cpu, &usual),
            requests_per_second: Figure::of(columns.rate),
            cpu_micros_per_request: Figure::of(columns.cpu),
            kib_per_connection: Figure::of(columns.memory),
        })
        .collect())
}

/// Returns requests a second, CPU microseconds a request, and KiB a connection.
#[allow(clippy::cast_precision_loss)] // counts of some seconds, and KiB
async fn with_connections(pair: &Pair, count: usize, time: Duration) -> Result<(f64, f64, f64)> {
    // The first requests allocate memory that stays. It does not count as the connections'.
    Rotation::open(&pair.hello, CONNECTIONS)
        .await?
        .run(WARM_UP)
        .await?;
    let empty = pair.edge.resident_kib()?;
    let mut rotation = Rotation::open(&pair.hello, count).await?;
    rotation.run(WARM_UP).await?;
    let before = pair.usage()?;
    let (requests, took) = rotation.run(time).await?;
    let used = pair.usage()? - before;
    let more = pair.edge.resident_kib()?.saturating_sub(empty);
    let requests = requests as f64;
    Ok((
        requests / took.as_secs_f64(),
        used.cpu_micros / requests,
        more as f64 / count as f64,
    ))
}

/// Measures a pair with each of the counts, in turns.
fn rows(
    what: &str,
    counts: &[usize],
    options: &Options,
    start: impl Fn(usize) -> Result<Pair>,
) -> Result<Vec<Row>> {
    let mut all: Vec<Vec<Turn>> = counts.iter().map(|_| Vec::new()).collect();
    for round in 1..=options.rounds {
        for (count, turns) in counts.iter().zip(&mut all) {
            let pair = start(*count)?;
            let turn = measure(&pair, options.turn)?;
            pair.stop()?;
            eprintln!(
                "round {round}: {count} {what}: {:.0} requests/s, {:.1} µs",
                turn.requests_per_second, turn.cpu_micros_per_request
            );
            turns.push(turn);
        }
    }
    let rows = counts.iter().zip(all);
    Ok(rows
        .map(|(count, turns)| Row {
            count: *count,
            requests_per_second: Figure::of(turns.iter().map(|turn| turn.requests_per_second)),
            cpu_micros_per_request: Figure::of(
                turns.iter().map(|turn| turn.cpu_micros_per_request),
            ),
        })
        .collect())
}

/// Reads one stream after the other on one connection, as NDJSON from service2.
fn streams(options: &Options) -> Result<Vec<Stream>> {
    let pair = Pair::start(Kind::Ours, Setting::default())?;
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let streams = runtime.block_on(async {
        let mut connection = Connection::open(pair.hello.address).await?;
        let mut streams = Vec::new();
        for items in STREAM_ITEMS {
            let path = format!("/api/v1/items/stream?length={items}");
            let mut rates = Vec::new();
            for _ in 0..=options.rounds {
                let begin = Instant::now();
                let mut lines = 0;
                while lines == 0 || begin.elapsed() < WARM_UP {
                    let count = connection.count_lines(&path).await?;
                    if count != items {
                        return Err(format!("{count} items instead of {items}").into());
                    }
                    lines += count;
                }
                #[allow(clippy::cast_precision_loss)] // some millions
                rates.push(lines as f64 / begin.elapsed().as_secs_f64());
            }
            rates.remove(0); // the warm-up
            let items_per_second = Figure::of(rates);
            eprintln!("streams of {items} items: {items_per_second} items/s");
            streams.push(Stream {
                items,
                items_per_second,
            });
        }
        Result::Ok(streams)
    })?;
    pair.stop()?;
    Ok(streams)
}

/// Measures a stream in Python, for comparison, if the Python pair is there.
fn grpcio_streams(options: &Options) -> Result<Option<Figure>> {
    const ITEMS: &str = "30000"; // two seconds
    if !options.pairs.contains(&Kind::Python) {
        return Ok(None);
    }
    let mut rates = Vec::new();
    for _ in 0..options.rounds {
        let output = Command::new(format!("{PYTHON}/bin/python"))
            .args(["bench/peers/python/stream.py", ITEMS])
            .env("PYTHONPATH", PYTHON)
            .output()?;
        rates.push(String::from_utf8(output.stdout)?.trim().parse()?);
    }
    Ok(Some(Figure::of(rates)))
}

fn starts() -> Result<Figure> {
    let mut millis = Vec::new();
    for _ in 0..STARTS {
        let pair = Pair::start(Kind::Ours, Setting::default())?;
        millis.push(pair.started_in.as_secs_f64() * 1e3);
        pair.stop()?;
    }
    Ok(Figure::of(millis))
}

fn idle() -> Result<[u64; 2]> {
    let pair = Pair::start(Kind::Ours, Setting::default())?;
    thread::sleep(WARM_UP);
    let idle = [pair.backends[0].resident_kib()?, pair.edge.resident_kib()?];
    pair.stop()?;
    Ok(idle)
}

/// The sizes of the images that `make images` built; `None` without Docker or the images.
fn images() -> Option<[u64; 2]> {
    let size = |service: &str| {
        let inspect = ["image", "inspect", "--format", "{{.Size}}"];
        let output = Command::new("docker")
            .args(inspect)
            .arg(format!("mesh-{service}"))
            .output();
        String::from_utf8(output.ok()?.stdout)
            .ok()?
            .trim()
            .parse()
            .ok()
    };
    Some([size("service1")?, size("service2")?])
}

fn size_of_program(service: usize) -> Result<u64> {
    Ok(Kind::Ours.program(service).metadata()?.len())
}

fn shutdown() -> Result<Shutdown> {
    let setting = Setting {
        keep_stdout: true,
        ..Setting::default()
    };
    let pair = Pair::start(Kind::Ours, setting)?;
    let question = pair.hello.clone();
    // wrk fails, as its connections close while it runs.
    let load = thread::spawn(move || wrk::run(&question, CONNECTIONS, WARM_UP * 2));
    thread::sleep(WARM_UP);
    pair.edge.terminate()?;
    let _ = load.join();
    let mut output = pair.edge.stop()?;
    for backend in pair.backends {
        output.extend(Service::stop(backend)?);
    }
    Ok(count_lines(&String::from_utf8_lossy(&output)))
}

/// Counts the lines of each request, which must be three: `process_name`, `say_hello` and the
/// access line.
fn count_lines(output: &str) -> Shutdown {
    const LINES: usize = 3;
    let mut requests = HashMap::<String, usize>::new();
    let (mut lines, mut torn) = (0, 0);
    for line in output.lines() {
        lines += 1;
        let Ok(Value::Object(record)) = serde_json::from_str(line) else {
            torn += 1;
            continue;
        };
        if let Some(id) = record.get("request_id").and_then(Value::as_str)
            && !id.is_empty()
        {
            *requests.entry(id.to_owned()).or_default() += 1;
        }
    }
    let lost = requests.values().map(|lines| LINES.abs_diff(*lines)).sum();
    Shutdown {
        requests: requests.len(),
        lines,
        lost,
        torn,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_are_lost_or_torn_are_found() {
        let whole = "{\"request_id\":\"a\"}\n".repeat(3) + "{\"request_id\":\"\"}\n";
        let count = count_lines(&whole);
        assert_eq!(
            (count.requests, count.lines, count.lost, count.torn),
            (1, 4, 0, 0)
        );
        let count = count_lines(&(whole + "{\"request_id\":\"b\"}\n{\"request_id\":\"b\"}{\n"));
        assert_eq!((count.requests, count.lost, count.torn), (2, 2, 1));
    }
}
