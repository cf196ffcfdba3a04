//! Backends that respond with an error, and at once.

use std::{thread::sleep, time::Duration};

use tests::load::{Load, Plan};

use crate::{QUIET, Row, edge, fixture, float, metric};

pub(crate) const ROWS: &[Row] = &[(
    "service1 answers UNAVAILABLE always",
    "at most 1.25 × the calls reach it",
    unavailable_always,
)];

fn unavailable_always() -> String {
    let fixture = fixture(&[]);
    let service2 = edge(&[&fixture], &[QUIET]);
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
    let calls = calls() / float(samples.count());
    assert!(calls > 1.0 && calls <= 1.25, "{calls}");
    format!("{calls:.2} × the {} calls", samples.count())
}
