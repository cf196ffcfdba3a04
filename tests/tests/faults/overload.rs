//! More load than the edge, or a replica behind it, can carry.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use tests::{
    http,
    load::{Load, Plan},
    wait_for,
};

use crate::{QUIET, Row, SECOND, SLICES, assert_none_was_lost, edge, fixture, float, millis};

pub(crate) const ROWS: &[Row] = &[
    (
        "3 × the load it can carry, open loop",
        "goodput ≥ 80 % of the peak, p99 ≤ 500 ms, memory bounded",
        three_times_the_load,
    ),
    (
        "3 × the calls that a replica can carry",
        "its connection is never taken for dead",
        three_times_the_calls,
    ),
    (
        "service1 hangs, 2 × as many clients as there may be requests in flight",
        "0 of /docs failed, p99 at most 200 ms; the others get 503 or 504",
        the_backend_hangs,
    ),
];

fn three_times_the_load() -> String {
    // One worker, and 2 ms of its time for each request.
    let fixture = fixture(&[("WORKERS", "1")]);
    let service2 = edge(
        &[&fixture],
        &[("WORKERS", "1"), ("MAX_IN_FLIGHT", "64"), QUIET],
    );
    let run = |connections: usize, interval: Duration| {
        let plan = Plan {
            connections,
            interval,
            name: Some("work"),
            is_kept: true,
        };
        let load = Load::start(service2.http(), plan);
        sleep(Duration::from_secs(6));
        load.stop()
    };
    let rate = |served: usize| float(served) / 6.0;

    let closed = run(32, Duration::ZERO);
    assert!(closed.failures().is_empty(), "{:?}", closed.failures());
    let peak = rate(closed.served());
    let before = service2.memory("VmHWM");
    // Enough connections that no request has to wait for its turn.
    let open = run(600, Duration::from_secs_f64(600.0 / (3.0 * peak)));
    let (goodput, p99) = (rate(open.served()), open.percentile(0.99));
    let refused: usize = open.failures().iter().map(|(_, count)| count).sum();
    assert!(
        open.failures().iter().all(|(failure, _)| failure == "503"),
        "{:?}",
        open.failures()
    );
    assert!(refused > open.served(), "three times the load");
    assert!(goodput >= 0.8 * peak, "{goodput} of {peak}");
    assert!(p99 <= SECOND / 2, "{p99:?}");
    let grown = service2.memory("VmHWM").saturating_sub(before);
    assert!(grown <= 32 * 1024, "{grown} KiB");
    format!(
        "goodput {:.0} % of {peak:.0}/s, p99 of the served {}, {} refused, {:.1} MB more memory",
        goodput / peak * 100.0,
        millis(p99),
        refused,
        f64::from(u32::try_from(grown).unwrap_or(u32::MAX)) / 1024.0
    )
}

fn three_times_the_calls() -> String {
    // One worker, and 2 ms of its time for each call: 480 a second.
    let fixture = fixture(&[("WORKERS", "1"), ("ORDERS", "work")]);
    let service2 = edge(&[&fixture], &[("WORKERS", "1"), ("MAX_IN_FLIGHT", "10000")]);
    tests::raise_file_limit();
    // Enough connections that no request has to wait for its turn, and long enough that the
    // deadlines of many calls end at once.
    let plan = Plan {
        connections: 5 * 3 * 480,
        interval: 5 * SECOND,
        name: None,
        is_kept: true,
    };
    let load = Load::start(service2.http(), plan);
    sleep(5 * SECOND);
    let samples = load.stop();
    assert_none_was_lost(&service2);
    let failures = samples.failures();
    let is_refused = |failure: &str| matches!(failure, "503" | "504");
    assert!(
        failures.iter().all(|(failure, _)| is_refused(failure)),
        "{failures:?}"
    );
    assert!(!failures.is_empty(), "three times the calls");
    format!(
        "not once; {} of {} served, the slowest took {}",
        samples.served(),
        samples.count(),
        millis(samples.percentile(1.0))
    )
}

fn the_backend_hangs() -> String {
    let fixture = fixture(&[("ORDERS", "hang")]);
    let service2 = edge(&[&fixture], &[("MAX_IN_FLIGHT", "64"), QUIET]);
    let plan = Plan {
        connections: 128,
        interval: SECOND,
        name: None,
        is_kept: true,
    };
    let load = Load::start(service2.http(), plan);
    let shed = || service2.metric("calls_shed_total");
    wait_for("calls beyond the limit", || (shed() > 0.0).then_some(()));
    let mut docs: Vec<_> = (0..300)
        .map(|_| {
            sleep(Duration::from_millis(10));
            let begin = Instant::now();
            let response = http::get(service2.http(), "/docs");
            assert_eq!(response.status, 200, "{}", response.text());
            begin.elapsed()
        })
        .collect();
    let refused = http::get(service2.http(), "/api/v1/say-hello?name=x");
    assert_eq!(
        (refused.status, refused.header("retry-after")),
        (503, Some("1"))
    );
    assert!(refused.text().contains("MAX_CALLS"), "{}", refused.text());
    docs.sort();
    let p99 = docs[docs.len() * 99 / 100];
    assert!(p99 <= SLICES, "{p99:?}");
    let failures = load.stop().failures();
    let is_expected = |failure: &str| matches!(failure, "503" | "504");
    assert!(
        failures.iter().all(|(failure, _)| is_expected(failure)),
        "{failures:?}"
    );
    format!(
        "0 of {} failed, p99 {}; {failures:?}",
        docs.len(),
        millis(p99)
    )
}
