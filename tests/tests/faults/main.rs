//! The failure suite: the pair under load, and what breaks around it.
//!
//! Real processes on loopback, one fault after the other, in four [lanes](LANES). The suite prints a
//! table, with the commit that it measured in each row, and writes it to `target/faults.md`; `make faults`
//! runs it on optimised services. Each argument selects the rows that have it in their fault; an argument that
//! selects none fails the suite.
//!
//! A row that fails runs up to twice more when all others have run, because these rows measure times and
//! shares, and another program on the machine may take its cores for a second. The suite fails if the row
//! fails three times, and the table says what failed at first.
//!
//! Under `tests/wire/run`, loopback has latency. Then the rows of [`OVER_A_WIRE`] are the default, and
//! the table is `target/faults-wire.md`.

mod attacks;
mod certificates;
mod clients;
mod connections;
mod failing;
mod handshakes;
mod hoarders;
mod lateness;
mod overload;
mod replicas;

use std::{
    env,
    fmt::{Display, Write},
    fs,
    panic::{catch_unwind, resume_unwind},
    path::Path,
    process::{Command, ExitCode},
    thread::{self, ScopedJoinHandle},
    time::{Duration, Instant},
};

use tests::{
    Port, Process,
    load::{Plan, Samples},
};
use tokio::runtime;

const SECOND: Duration = Duration::from_secs(1);

/// What the schedulers of a busy machine may add to any time.
const SLICES: Duration = Duration::from_millis(200);

/// The usual load: 100 connections with 25 requests a second each.
const LOAD: Plan = Plan {
    connections: 100,
    interval: Duration::from_millis(40),
    name: None,
    is_kept: true,
};

/// Few clients: 20 connections with 20 requests a second each.
const FEW: Plan = Plan {
    connections: 20,
    interval: Duration::from_millis(50),
    name: None,
    is_kept: true,
};

/// Newcomers: 20 connections a second, with one request each.
const PROBES: Plan = Plan {
    connections: 20,
    interval: SECOND,
    name: None,
    is_kept: false,
};

/// A stream that lasts until its deadline.
const ENDLESS: &[u8] = b"GET /api/v1/items/stream?length=2147483647 HTTP/1.1\r\nhost: test\r\n\r\n";

/// For a process whose warnings matter.
const WARNINGS: (&str, &str) = ("RUST_LOG", "warn");

/// For a process that would warn of each of many failures.
const QUIET: (&str, &str) = ("RUST_LOG", "error");

/// One row: the fault, the requirement, and the test, which returns what it measured.
type Row = (&'static str, &'static str, fn() -> String);

/// The rows of each lane, by subject. The lanes run beside each other, and the rows of a lane one after
/// the other. What measures small differences, or takes all of the machine, is in the first lane. The
/// others take less than half a core, and end before the first comes to shares, slow readers and floods.
const LANES: [&[&[Row]]; 4] = [
    &[
        replicas::ROWS,
        lateness::ROWS,
        failing::ROWS,
        clients::ROWS,
        certificates::ROWS,
        connections::ROWS,
        overload::ROWS,
        attacks::ROWS,
        hoarders::ROWS,
        handshakes::ROWS,
    ],
    &[
        failing::LIGHT_ROWS,
        hoarders::LIGHT_ROWS,
        lateness::LIGHT_ROWS,
        connections::LIGHT_ROWS,
        certificates::LIGHT_ROWS,
    ],
    &[replicas::LIGHT_ROWS],
    &[connections::QUIET_ROWS],
];

/// The rows about drains, GOAWAY, readers and deadlines, by a part of their fault.
const OVER_A_WIRE: [&str; 8] = [
    "SIGTERM to the only replica while a stream is open",
    "SIGTERM with a drain delay",
    "rolling restart of three replicas",
    "SIGTERM to service2",
    "GOAWAY every second beside a 5 s stream",
    "4 new slow readers a second",
    "that take nothing",
    "one replica whose response takes 3 s",
];

fn main() -> ExitCode {
    let mut filters: Vec<_> = env::args().skip(1).collect();
    let is_over_a_wire = env::var_os("WIRE").is_some();
    if is_over_a_wire && filters.is_empty() {
        filters.extend(OVER_A_WIRE.map(str::to_owned));
    }
    let all = || LANES.into_iter().flatten().copied().flatten();
    for filter in &filters {
        if !all().any(|row| row.0.contains(filter)) {
            eprintln!("{filter:?} is in the fault of no row. The rows are:");
            all().for_each(|row| eprintln!("  {}", row.0));
            return ExitCode::FAILURE;
        }
    }
    let is_wanted =
        |row: &&Row| filters.is_empty() || filters.iter().any(|filter| row.0.contains(filter));
    let lanes = LANES.map(|lane| lane.concat().iter().filter(is_wanted).copied().collect());
    let ended: [Vec<_>; LANES.len()] = if is_over_a_wire {
        // One program carries all packets, and has no time for two.
        lanes.map(run_lane)
    } else {
        thread::scope(|scope| {
            let running = lanes.map(|lane| scope.spawn(|| run_lane(lane)));
            running.map(|lane| lane.join().expect("it catches panics"))
        })
    };

    let commit = commit();
    let mut table =
        String::from("| fault, under load | must show | shown | at |\n|---|---|---|---|\n");
    let mut failed = Vec::new();
    for (row, shown) in ended.into_iter().flatten() {
        let (fault, promise, _) = row;
        let shown = shown.unwrap_or_else(|first| {
            let again = run(&row).or_else(|_| run(&row));
            let again = again.unwrap_or_else(|again| {
                failed.push(fault);
                format!("FAILED AGAIN: {again}")
            });
            format!("{again} (failed at first: {first})")
        });
        let _ = writeln!(table, "| {fault} | {promise} | {shown} | `{commit}` |");
    }
    let name = if is_over_a_wire {
        "faults-wire.md"
    } else {
        "faults.md"
    };
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("..");
    fs::write(target.join(name), &table).expect("it can be written");
    println!("\n{table}");
    if failed.is_empty() {
        return ExitCode::SUCCESS;
    }
    eprintln!("these rows failed three times: {failed:#?}");
    ExitCode::FAILURE
}

/// Runs the rows of a lane. Returns what each measured, or the message of its panic.
fn run_lane(rows: Vec<Row>) -> Vec<(Row, Result<String, String>)> {
    rows.into_iter().map(|row| (row, run(&row))).collect()
}

/// Runs a row. Returns what it measured, or the message of its panic.
fn run((fault, _, test): &Row) -> Result<String, String> {
    let begin = Instant::now();
    let panic = match catch_unwind(test) {
        Ok(shown) => {
            println!("{fault}: {shown} ({:.0} s)", begin.elapsed().as_secs_f64());
            return Ok(shown);
        }
        Err(panic) => panic,
    };
    let message = panic.downcast::<String>().map_or_else(
        |other| {
            let message = other.downcast::<&str>();
            message.map_or_else(|_| "no message".into(), |message| message.to_string())
        },
        |message| *message,
    );
    eprintln!("failed: {fault}");
    Err(message.replace('\n', " "))
}

/// Does this with all inputs at once. A panic goes on here.
fn at_once<I: Send, T: Send>(
    inputs: impl IntoIterator<Item = I>,
    work: impl Fn(I) -> T + Sync,
) -> Vec<T> {
    let work = &work;
    thread::scope(|scope| {
        let inputs = inputs.into_iter();
        let running: Vec<_> = inputs
            .map(|input| scope.spawn(move || work(input)))
            .collect();
        let ended = running.into_iter().map(ScopedJoinHandle::join);
        ended
            .map(|one| one.unwrap_or_else(|panic| resume_unwind(panic)))
            .collect()
    })
}

/// The commit of this tree.
fn commit() -> String {
    let head = Command::new("git")
        .args(["rev-parse", "--short=7", "HEAD"])
        .output();
    let head = head.map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&head).trim().to_owned()
}

/// Runs async work on this thread.
fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(work)
}

/// service2 in front of these replicas, ready on all workers.
fn edge(backends: &[&Process], variables: &[(&str, &str)]) -> Process {
    let targets: Vec<_> = backends.iter().map(|one| one.grpc().to_string()).collect();
    edge_of(&targets.join(","), variables)
}

fn edge_of(target: &str, variables: &[(&str, &str)]) -> Process {
    let mut all = vec![("SERVICE1_CHANNEL", target), WARNINGS];
    all.extend(variables);
    let service2 = Process::start("service2", &all);
    service2.wait_until_ready();
    service2
}

/// service1 on any free port.
fn backend() -> Process {
    Process::start("service1", &[WARNINGS])
}

/// service1 on a port that it may come back to.
fn backend_on(port: &Port) -> Process {
    Process::start("service1", &[("GRPC_PORT", &port.variable()), WARNINGS])
}

/// The fixture, with variables such as `ORDERS`, which say what its calls do.
fn fixture(variables: &[(&str, &str)]) -> Process {
    Process::start("fixture", &[&[QUIET], variables].concat())
}

fn picks(service2: &Process, replica: impl Display) -> f64 {
    service2.metric(&format!("replica_picks_total{{replica=\"{replica}\"}}"))
}

/// Asserts that all responses were right.
fn assert_none_failed(samples: &Samples) -> String {
    let failures = samples.failures();
    assert!(
        failures.is_empty(),
        "{failures:?} of {} requests",
        samples.count()
    );
    format!("0 of {} failed", samples.count())
}

/// Asserts that an edge has logged no lost replica.
fn assert_none_was_lost(service2: &Process) {
    let log = service2.log();
    let lost = log
        .iter()
        .filter(|line| line.has(&[("action", "replica"), ("status", "down")]));
    let lost: Vec<_> = lost
        .map(|line| [line.text("time"), line.text("msg"), line.text("error")])
        .collect();
    assert!(lost.is_empty(), "{lost:?}");
}

fn float(count: usize) -> f64 {
    f64::from(u32::try_from(count).expect("a suite counts to less"))
}

fn millis(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1e3)
}
