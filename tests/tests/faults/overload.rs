//! More than can be carried, and a backend that refuses.

use std::{thread::sleep, time::Duration};

use tests::{
    Process,
    load::{Load, Plan},
};

use crate::{edge, metric, millis};

pub(crate) fn unavailable_always() -> String {
    let fixture = Process::start("fixture", &[("RUST_LOG", "error,common::server::run=info")]);
    let quiet = ("RUST_LOG", "error,common::server::run=info");
    let service2 = edge(&[&fixture], &[quiet]);
    let plan = Plan {
        connections: 100,
        interval: Duration::from_millis(40),
        name: Some("code 14"),
    };
    let calls = || {
        let route = "/app.grpc.Service1/ProcessName";
        let count =
            format!("request_duration_seconds_count{{route=\"{route}\",status=\"UNAVAILABLE\"}}");
        metric(&fixture, &count)
    };
    let load = Load::start(service2.http(), plan);
    sleep(Duration::from_secs(8));
    let samples = load.stop();
    let failures = samples.failures();
    assert_eq!(failures, [("503".to_owned(), samples.count())]);
    #[allow(clippy::cast_precision_loss)]
    let ratio = calls() / samples.count() as f64;
    assert!(ratio > 1.0 && ratio <= 1.25, "{ratio}");
    format!("{ratio:.2} × the {} calls", samples.count())
}

pub(crate) fn three_times_the_load() -> String {
    // One worker, and 2 ms of its time for each request.
    let quiet = ("RUST_LOG", "error,common::server::run=info");
    let fixture = Process::start("fixture", &[("WORKERS", "1"), quiet]);
    let service2 = edge(
        &[&fixture],
        &[("WORKERS", "1"), ("MAX_IN_FLIGHT", "64"), quiet],
    );
    let run = |connections: usize, interval: Duration| {
        let plan = Plan {
            connections,
            interval,
            name: Some("work"),
        };
        let load = Load::start(service2.http(), plan);
        sleep(Duration::from_secs(6));
        load.stop()
    };
    #[allow(clippy::cast_precision_loss)]
    let rate = |served: usize| served as f64 / 6.0;

    let closed = run(32, Duration::ZERO);
    assert!(closed.failures().is_empty(), "{:?}", closed.failures());
    let peak = rate(closed.served());
    let before = service2.memory("VmHWM");
    // So many connections that none has to wait for its turn.
    let open = run(600, Duration::from_secs_f64(600.0 / (3.0 * peak)));
    let (goodput, p99) = (rate(open.served()), open.percentile(0.99));
    let refused: usize = open.failures().iter().map(|(_, count)| count).sum();
    assert!(
        open.failures().iter().all(|(failure, _)| failure == "503"),
        "{:?}",
        open.failures()
    );
    assert!(refused > open.served(), "three times the load");
    assert!(goodput >= 0.85 * peak, "{goodput} of {peak}");
    assert!(p99 <= Duration::from_millis(250), "{p99:?}");
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
