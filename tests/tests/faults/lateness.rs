//! Responses that come late, and replicas that freeze while few clients watch.

use std::{
    io::Read,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use tests::{Process, http, load::Load};

use crate::{
    ENDLESS, FEW, Row, SECOND, WARNINGS, assert_none_failed, assert_none_was_lost, backend, edge,
    fixture, float, millis, picks,
};

pub(crate) const ROWS: &[Row] = &[
    (
        "SIGSTOP of one of two for 5 s, 20 clients at 20 requests/s each",
        "0 failed; the slowest takes at most 500 ms",
        one_of_two_is_frozen_before_few_clients,
    ),
    (
        "three replicas, 2 % of all calls take 1 s instead of 5 ms",
        "p99 at most 100 ms, for at most 5 % more calls",
        some_calls_take_long,
    ),
];

pub(crate) const LIGHT_ROWS: &[Row] = &[
    (
        "one replica whose response takes 3 s, and 9 s",
        "200 after 3 s and 9 s; one call each; nothing lost; 2,000 others undisturbed",
        responses_take_seconds,
    ),
    (
        "SIGSTOP of the only replica for 5 s beside 10 streams",
        "0 failed; every stream goes on",
        the_only_one_is_frozen_beside_streams,
    ),
];

fn responses_take_seconds() -> String {
    let fixture = Process::start("fixture", &[("RUST_LOG", "warn,fixture=info")]);
    let service2 = edge(&[&fixture], &[("WORKERS", "1")]);
    let load = Load::start(service2.http(), FEW);
    let address = service2.http();
    let waits = [3, 9].map(|seconds| {
        thread::spawn(move || {
            let id = format!("wait-{seconds}");
            let path = format!("/api/v1/say-hello?name=wait+{seconds}000");
            let begin = Instant::now();
            let response = http::get_with(address, &path, &[("x-request-id", id.as_bytes())]);
            (seconds, id, response.status, begin.elapsed())
        })
    });
    let waited = waits.map(|wait| wait.join().expect("there is a response"));
    let samples = load.stop();
    for (seconds, id, status, took) in &waited {
        let lines = fixture.log_of(id);
        let calls = lines.iter().filter(|line| line.text("action") == "started");
        let (calls, wait) = (calls.count(), Duration::from_secs(*seconds));
        assert_eq!(
            (*status, calls),
            (200, 1),
            "status and calls of the response that takes {seconds} s, after {took:?}"
        );
        assert!((wait..wait + SECOND).contains(took), "{took:?}");
    }
    assert_none_was_lost(&service2);
    assert!(samples.count() >= 2_000, "{}", samples.count());
    let took = waited.map(|(.., took)| format!("{:.2} s", took.as_secs_f64()));
    format!(
        "200 after {}; one call each; nothing lost; {} of the others",
        took.join(" and "),
        assert_none_failed(&samples)
    )
}

fn one_of_two_is_frozen_before_few_clients() -> String {
    let (one, other) = (backend(), backend());
    let service2 = edge(&[&one, &other], &[]);
    let load = Load::start(service2.http(), FEW);
    thread::sleep(3 * SECOND);
    one.signal("STOP");
    thread::sleep(5 * SECOND);
    one.signal("CONT");
    thread::sleep(2 * SECOND);
    let samples = load.stop();
    let slowest = samples.percentile(1.0);
    let shown = format!(
        "{}, the slowest took {}",
        assert_none_failed(&samples),
        millis(slowest)
    );
    assert!(slowest <= SECOND / 2, "{shown}");
    shown
}

fn the_only_one_is_frozen_beside_streams() -> String {
    let patient = ("DEADLINE", "30s");
    let only = Process::start("service1", &[patient, WARNINGS]);
    let service2 = edge(&[&only], &[patient, ("WORKERS", "1")]);
    let load = Load::start(service2.http(), FEW);
    let streams = [(); 10].map(|()| http::send(service2.http(), ENDLESS));
    let stop = AtomicBool::new(false);
    let (samples, bytes) = thread::scope(|scope| {
        let is_over = || stop.load(Ordering::Relaxed);
        let readers = streams.map(|mut stream| {
            scope.spawn(move || {
                let (mut some, mut bytes) = ([0; 16 * 1_024], 0);
                while !is_over() {
                    bytes += stream.read(&mut some).ok().filter(|bytes| *bytes > 0)?;
                    thread::sleep(SECOND / 20);
                }
                Some(bytes)
            })
        });
        thread::sleep(SECOND);
        only.signal("STOP");
        thread::sleep(5 * SECOND);
        only.signal("CONT");
        thread::sleep(3 * SECOND);
        let samples = load.stop();
        stop.store(true, Ordering::Relaxed);
        let bytes = readers.map(|reader| reader.join().expect("it does not panic"));
        (samples, bytes)
    });
    let bytes = bytes.map(|bytes| bytes.expect("the stream is open to the end"));
    format!(
        "{}, the slowest took {}; {} KB of the streams",
        assert_none_failed(&samples),
        millis(samples.percentile(1.0)),
        bytes.iter().sum::<usize>() / 1_024
    )
}

fn some_calls_take_long() -> String {
    let replicas = [(); 3].map(|()| fixture(&[("ORDERS", "tail")]));
    let service2 = edge(&replicas.each_ref(), &[]);
    let calls = || {
        let picks = replicas.each_ref().map(|one| picks(&service2, one.grpc()));
        picks.iter().sum::<f64>()
    };
    let load = Load::start(service2.http(), FEW);
    thread::sleep(3 * SECOND);
    let (begin, before) = (Instant::now(), calls());
    thread::sleep(10 * SECOND);
    let (end, after) = (Instant::now(), calls());
    let all = load.stop();
    let none_failed = assert_none_failed(&all);
    let samples = all.within(begin, end);
    let (p99, more) = (
        samples.percentile(0.99),
        (after - before) / float(samples.count()) - 1.0,
    );
    let shown = format!(
        "p99 {}, {:.1} % more calls; {none_failed}",
        millis(p99),
        more * 100.0
    );
    assert!(p99 <= Duration::from_millis(100) && more <= 0.05, "{shown}");
    shown
}
