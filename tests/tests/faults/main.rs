//! The failure suite: the pair under load, and what breaks around it.
//!
//! Real processes on loopback, one fault after the other. The suite prints a table, with the commit
//! that it measured in each row, and writes it to `target/faults.md`; `make faults` runs it on
//! optimised services. Each argument selects the rows that have it in their fault; an argument that
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
    panic::catch_unwind,
    path::Path,
    process::{Command, ExitCode},
    thread,
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

/// The rows by subject. They run one after the other.
const ROWS: [&[Row]; 10] = [
    replicas::ROWS,
    lateness::ROWS,
    failing::ROWS,
    connections::ROWS,
    clients::ROWS,
    overload::ROWS,
    attacks::ROWS,
    hoarders::ROWS,
    certificates::ROWS,
    handshakes::ROWS,
];

/// Rows that take minutes but no CPU. They run beside the others.
const QUIET_ROWS: &[Row] = connections::QUIET_ROWS;

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
    let all = || ROWS.into_iter().flatten().chain(QUIET_ROWS);
    for filter in &filters {
        if !all().any(|row| row.0.contains(filter)) {
            eprintln!("{filter:?} is in the fault of no row. The rows are:");
            all().for_each(|row| eprintln!("  {}", row.0));
            return ExitCode::FAILURE;
        }
    }
    let is_wanted =
        |row: &&Row| filters.is_empty() || filters.iter().any(|filter| row.0.contains(filter));
    let rows: Vec<_> = ROWS.into_iter().flatten().filter(is_wanted).collect();
    let quiet_rows: Vec<_> = QUIET_ROWS.iter().filter(is_wanted).collect();
    let commit = commit();
    let mut table =
        String::from("| fault, under load | must show | shown | at |\n|---|---|---|---|\n");
    let mut add = |(fault, promise, _): &Row, shown: &str, begin: Instant| {
        println!("{fault}: {shown} ({:.0} s)", begin.elapsed().as_secs_f64());
        let _ = writeln!(table, "| {fault} | {promise} | {shown} | `{commit}` |");
    };
    let mut failed_once = Vec::new();
    thread::scope(|scope| {
        let begin = Instant::now();
        let quiet: Vec<_> = quiet_rows
            .into_iter()
            .map(|row| (row, scope.spawn(|| run(row))))
            .collect();
        let mut end = |row, shown: Result<String, String>, begin| match shown {
            Ok(shown) => add(row, &shown, begin),
            Err(failure) => failed_once.push((row, failure)),
        };
        for row in rows {
            let begin = Instant::now();
            end(row, run(row), begin);
        }
        for (row, test) in quiet {
            let shown = test.join().expect("it catches panics");
            end(row, shown, begin);
        }
    });
    let mut failed = Vec::new();
    for (row, first) in failed_once {
        let begin = Instant::now();
        let again = run(row).or_else(|_| run(row));
        let shown = again.unwrap_or_else(|again| {
            failed.push(row.0);
            format!("FAILED AGAIN: {again}")
        });
        add(row, &format!("{shown} (failed at first: {first})"), begin);
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

/// Runs a row. Returns what it measured, or the message of its panic.
fn run((fault, _, test): &Row) -> Result<String, String> {
    let panic = match catch_unwind(test) {
        Ok(shown) => return Ok(shown),
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
