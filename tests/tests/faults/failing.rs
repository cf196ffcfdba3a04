//! Backends that respond with an error, and at once.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use tests::{
    Breaks, Fake,
    load::{Load, Plan, Samples},
};

use crate::{FEW, QUIET, Row, SECOND, at_once, edge, edge_of, fixture, float, picks};

pub(crate) const ROWS: &[Row] = &[(
    "service1 answers UNAVAILABLE always",
    "at most 1.25 × the calls reach it",
    unavailable_always,
)];

pub(crate) const LIGHT_ROWS: &[Row] = &[
    (
        "a good replica (20 ms) beside one that returns UNAVAILABLE at once",
        "0 failed; after the first second at most 5 % of calls reach the bad one",
        unavailable_beside_a_good_one,
    ),
    (
        "a good replica beside one that returns RESOURCE_EXHAUSTED, or INTERNAL",
        "after the first second at most 5 % fail, and at most 8 % of calls reach the bad one",
        other_codes_beside_a_good_one,
    ),
    (
        "a good replica (20 ms) beside one that breaks every response, one of three or one of ten, in each of nine ways, at 10 calls/s",
        "at most 3 % fail in the first 8 s, and at most 1 % after it",
        broken_in_every_way,
    ),
];

/// Ten calls a second.
const SLOWLY: Plan = Plan {
    connections: 1,
    interval: Duration::from_millis(100),
    name: None,
    is_kept: true,
};

fn unavailable_always() -> String {
    let fixture = fixture(&[]);
    let service2 = edge(&[&fixture], &[QUIET]);
    let plan = Plan {
        connections: 100,
        interval: Duration::from_millis(40),
        name: Some("code 14"),
        is_kept: true,
    };
    let calls = || {
        let labels = "rpc_method=\"app.grpc.Service1/ProcessName\",rpc_grpc_status_code=\"14\"";
        fixture.metric(&format!("rpc_server_duration_seconds_count{{{labels}}}"))
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

fn unavailable_beside_a_good_one() -> String {
    let seen = beside_a_good_one("code 14");
    assert!(seen.reached <= 0.05, "{}", seen.shown);
    assert_eq!(seen.failed, 0, "{}", seen.shown);
    seen.shown
}

fn other_codes_beside_a_good_one() -> String {
    let codes = [("RESOURCE_EXHAUSTED", "code 8"), ("INTERNAL", "code 13")];
    let shown = at_once(codes, |(name, orders)| {
        let seen = beside_a_good_one(orders);
        assert!(seen.failed_later <= 0.05, "{name}: {}", seen.shown);
        assert!(seen.reached <= 0.08, "{name}: {}", seen.shown);
        format!("{name}: {}", seen.shown)
    });
    shown.join("; ")
}

fn broken_in_every_way() -> String {
    let cases = Breaks::ALL.map(|breaks| [1, 3, 10].map(|one_of| (breaks, one_of)));
    let (begin, end) = (8 * SECOND, 30 * SECOND);
    let shares = at_once(cases.into_iter().flatten(), |(breaks, one_of)| {
        let good = fixture(&[("ORDERS", "wait 20")]);
        let bad = Fake::broken(breaks, one_of);
        let target = format!("{},{}", good.grpc(), bad.address());
        let service2 = edge_of(&target, &[QUIET, ("DEADLINE", "2s")]);
        let start = Instant::now();
        let load = Load::start(service2.http(), SLOWLY);
        sleep(end);
        let samples = load.stop();
        let share =
            |samples: &Samples| float(samples.count() - samples.served()) / float(samples.count());
        let early = share(&samples.within(start, start + begin));
        let late = share(&samples.within(start + begin, start + end));
        let what = format!("{breaks:?}, one of {one_of}");
        assert!(early <= 0.03, "{what}: {early}, {:?}", samples.failures());
        assert!(late <= 0.01, "{what}: {late}, {:?}", samples.failures());
        (early, late)
    });
    let most = |share: fn(&(f64, f64)) -> f64| shares.iter().map(share).fold(0.0, f64::max) * 100.0;
    let (early, late) = (most(|shares| shares.0), most(|shares| shares.1));
    format!("at most {early:.1} % in the first 8 s, {late:.1} % after it")
}

/// The effects of a bad replica beside a good one.
struct Beside {
    /// The number of requests that failed.
    failed: usize,
    /// The share of the requests that failed after the first second.
    failed_later: f64,
    /// The share of the calls that reached the bad replica after the first second.
    reached: f64,
    shown: String,
}

/// A replica that obeys these orders at once, beside one that needs 20 ms.
fn beside_a_good_one(orders: &str) -> Beside {
    let (good, bad) = (
        fixture(&[("ORDERS", "wait 20")]),
        fixture(&[("ORDERS", orders)]),
    );
    let service2 = edge(&[&good, &bad], &[QUIET]);
    let calls = || [&good, &bad].map(|one| picks(&service2, one.grpc()));
    let load = Load::start(service2.http(), FEW);
    sleep(SECOND);
    let (later, before) = (Instant::now(), calls());
    sleep(5 * SECOND);
    let (end, after) = (Instant::now(), calls());
    let samples = load.stop();
    let [good, bad] = [after[0] - before[0], after[1] - before[1]];
    let failed = |samples: &Samples| samples.count() - samples.served();
    let samples_later = samples.within(later, end);
    let seen = Beside {
        failed: failed(&samples),
        failed_later: float(failed(&samples_later)) / float(samples_later.count()),
        reached: bad / (good + bad),
        shown: String::new(),
    };
    let shown = format!(
        "{} of {} failed, {:.1} % after 1 s; {:.1} % of calls reach it",
        seen.failed,
        samples.count(),
        seen.failed_later * 100.0,
        seen.reached * 100.0
    );
    Beside { shown, ..seen }
}
