//! The failure suite: the pair under load, and what breaks around it.
//!
//! Real processes on loopback, one fault after the other. It prints a table and writes it to
//! `target/faults.md`; `make faults` runs it on the release build.

mod attacks;
mod overload;
mod replicas;

use std::{
    fmt::Write,
    fs,
    path::Path,
    time::{Duration, Instant},
};

use tests::{
    Process, http,
    load::{Plan, Samples},
};

/// The usual load: 100 connections with 25 requests a second each.
const LOAD: Plan = Plan {
    connections: 100,
    interval: Duration::from_millis(40),
    name: None,
};

/// One row: the fault, what must be seen, and the test that returns what was.
type Row = (&'static str, &'static str, fn() -> String);

const ROWS: [Row; 12] = [
    (
        "kill -9 of one of two replicas",
        "0 failed; no pick after 1 s",
        replicas::one_of_two_is_killed,
    ),
    (
        "kill -9 of the only replica, back after 2 s",
        "0 failed",
        replicas::the_only_one_is_killed_and_comes_back,
    ),
    (
        "SIGSTOP of one of two for 10 s",
        "0 failed; p99 within 2 × of before, picks again within 5 s",
        replicas::one_of_two_is_frozen,
    ),
    (
        "packets to one of two dropped for 10 s",
        "as SIGSTOP",
        replicas::packets_to_one_of_two_are_dropped,
    ),
    (
        "rolling restart of three replicas by SIGTERM",
        "0 failed",
        replicas::three_are_restarted_one_by_one,
    ),
    (
        "SIGTERM to service2 with requests in flight",
        "all answered; exit 0",
        replicas::the_edge_is_told_to_stop,
    ),
    (
        "all replicas gone for 30 s",
        "503 within 3 s, later within 10 ms; normal within 1 s of return",
        replicas::all_are_gone_for_a_while,
    ),
    (
        "the look-up of the name fails for 60 s",
        "0 failed",
        replicas::the_look_up_fails,
    ),
    (
        "service1 answers UNAVAILABLE always",
        "at most 1.25 × the calls reach it",
        overload::unavailable_always,
    ),
    (
        "3 × the load it can carry, open loop",
        "goodput ≥ 85 % of the peak, p99 ≤ 250 ms, memory bounded",
        overload::three_times_the_load,
    ),
    (
        "5,000 connections that send half a request",
        "all closed; 0 failed beside them",
        attacks::half_requests,
    ),
    (
        "HTTP/2: reset flood, 16 KB+ of headers, 10,000 streams",
        "refused; 0 failed beside them",
        attacks::http2,
    ),
];

fn main() {
    let wanted = std::env::args().nth(1).unwrap_or_default();
    let mut table = String::from("| fault, under load | must show | shown |\n|---|---|---|\n");
    for (fault, promise, test) in ROWS {
        if !fault.contains(wanted.trim_start_matches('-')) {
            continue;
        }
        let begin = Instant::now();
        let shown = test();
        println!("{fault}: {shown} ({:.0} s)", begin.elapsed().as_secs_f64());
        let _ = writeln!(table, "| {fault} | {promise} | {shown} |");
    }
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("../faults.md");
    fs::write(path, &table).expect("it can be written");
    println!("\n{table}");
}

/// service2 in front of these, ready on all workers.
fn edge(backends: &[&Process], variables: &[(&str, &str)]) -> Process {
    let targets: Vec<_> = backends.iter().map(|one| one.grpc().to_string()).collect();
    edge_of(&targets.join(","), variables)
}

fn edge_of(target: &str, variables: &[(&str, &str)]) -> Process {
    let mut all = vec![
        ("SERVICE1_CHANNEL", target),
        ("RUST_LOG", "warn,common::server::run=info"),
    ];
    all.extend(variables);
    let service2 = Process::start("service2", &all);
    service2.wait_until_ready();
    service2
}

/// service1, on a port of its own where it is to come back to it.
fn backend(port: u16) -> Process {
    let port = port.to_string();
    let log = ("RUST_LOG", "warn,common::server::run=info");
    Process::start("service1", &[("GRPC_PORT", &port), log])
}

/// A figure of `/metrics`; 0 where it is not there.
fn metric(process: &Process, name: &str) -> f64 {
    let answer = http::get(process.http(), "/metrics");
    let line = answer
        .text()
        .lines()
        .find_map(|line| line.strip_prefix(name));
    line.map_or(0.0, |line| line.trim().parse().expect("a number"))
}

fn picks(service2: &Process, replica: &str) -> f64 {
    metric(
        service2,
        &format!("replica_picks_total{{replica=\"{replica}\"}}"),
    )
}

/// Nothing was wrong with any of the answers.
fn assert_none_failed(samples: &Samples) -> String {
    let failures = samples.failures();
    assert!(
        failures.is_empty(),
        "{failures:?} of {} requests",
        samples.count()
    );
    format!("0 of {} failed", samples.count())
}

fn millis(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1e3)
}
