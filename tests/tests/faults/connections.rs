//! Connections that end, fill up or are idle, with calls on them.

use std::{
    io::{self, Read},
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
    thread::{self, sleep},
    time::Instant,
};

use tests::{Fake, Port, Process, http, load::Load, wait_for};

use crate::{
    ENDLESS, FEW, LOAD, Row, SECOND, SLICES, WARNINGS, assert_none_failed, assert_none_was_lost,
    backend, backend_on, edge, edge_of, millis, picks,
};

pub(crate) const ROWS: &[Row] = &[
    (
        "the connections to a server of 20 streams a connection hang",
        "0 failed; the slowest takes at most 4 s",
        connections_hang,
    ),
    (
        "30 quiet streams on one of two replicas, the other of which is new",
        "0 failed; shares of the other calls even within 10 points",
        streams_are_quiet,
    ),
    (
        "4 new slow readers a second on /api/v1/items/stream",
        "p99 of before; 0 failed; nothing lost",
        readers_are_slow,
    ),
];

pub(crate) const LIGHT_ROWS: &[Row] = &[
    (
        "SIGTERM to the only replica while a stream is open; its successor listens 1.2 s later",
        "0 failed",
        the_only_one_is_replaced_beside_a_stream,
    ),
    (
        "SIGTERM with a drain delay of 3 s to one of two",
        "0 failed",
        one_says_goodbye,
    ),
    (
        "a server that sends GOAWAY every second beside a 5 s stream",
        "0 failed",
        connections_go_away_beside_a_stream,
    ),
];

pub(crate) const QUIET_ROWS: &[Row] = &[(
    "a server that counts PINGs as gRPC's do, idle for 120 s, and a quiet call of 100 s",
    "nothing lost",
    pings_are_counted,
)];

fn the_only_one_is_replaced_beside_a_stream() -> String {
    let port = Port::keep();
    let only = backend_on(&port);
    let service2 = edge(&[&only], &[("WORKERS", "1")]);
    let load = Load::start(service2.http(), FEW);
    let mut stream = http::send(service2.http(), ENDLESS);
    let is_over = AtomicBool::new(false);
    let (samples, items) = thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let (mut some, mut bytes) = ([0; 16 * 1_024], 0);
            while !is_over.load(Ordering::Relaxed) {
                bytes += stream.read(&mut some).ok().filter(|bytes| *bytes > 0)?;
                sleep(SECOND / 20);
            }
            Some(bytes)
        });
        sleep(SECOND);
        only.signal("TERM");
        wait_for("its listener to be closed", || {
            let connection = std::net::TcpStream::connect(only.grpc());
            connection.is_err().then_some(())
        });
        sleep(SECOND * 12 / 10);
        let successor = backend_on(&port);
        sleep(3 * SECOND);
        let samples = load.stop();
        is_over.store(true, Ordering::Relaxed);
        drop(successor);
        (samples, reader.join().expect("it does not panic"))
    });
    let items = items.expect("the stream is open to the end");
    format!(
        "{}, the slowest took {}; {} KB of the stream",
        assert_none_failed(&samples),
        millis(samples.percentile(1.0)),
        items / 1_024
    )
}

fn one_says_goodbye() -> String {
    let one = Process::start("service1", &[("DRAIN_DELAY", "3s"), WARNINGS]);
    let other = backend();
    let service2 = edge(&[&one, &other], &[]);
    let load = Load::start(service2.http(), FEW);
    sleep(SECOND);
    one.signal("TERM");
    assert_eq!(one.ended().status.code(), Some(0));
    sleep(SECOND);
    let samples = load.stop();
    format!(
        "{}, the slowest took {}",
        assert_none_failed(&samples),
        millis(samples.percentile(1.0))
    )
}

fn connections_go_away_beside_a_stream() -> String {
    let server = Fake::going_away();
    let service2 = edge_of(&server.address().to_string(), &[("WORKERS", "1")]);
    let load = Load::start(service2.http(), FEW);
    let (items, is_whole) = http::get(service2.http(), "/api/v1/items/stream?length=50").chunked();
    sleep(SECOND);
    let samples = load.stop();
    assert!(is_whole && items.lines().count() == 50, "{items}");
    format!(
        "{} over {} connections, the slowest took {}; the stream is whole",
        assert_none_failed(&samples),
        server.accepted(),
        millis(samples.percentile(1.0))
    )
}

fn connections_hang() -> String {
    let server = Fake::hanging();
    let service2 = edge_of(&server.address().to_string(), &[("WORKERS", "1")]);
    let load = Load::start(service2.http(), LOAD);
    sleep(3 * SECOND);
    server.hang();
    sleep(5 * SECOND);
    let samples = load.stop();
    let slowest = samples.percentile(1.0);
    let shown = format!(
        "{}, the slowest took {}; {} connections",
        assert_none_failed(&samples),
        millis(slowest),
        server.accepted()
    );
    assert!(slowest <= 4 * SECOND, "{shown}");
    shown
}

fn streams_are_quiet() -> String {
    let patient = ("DEADLINE", "60s");
    let variables = [("ORDERS", "wait 20"), patient, WARNINGS];
    let old = Process::start("fixture", &variables);
    let port = Port::keep();
    let targets = format!("{},{}", old.grpc(), port.address());
    let service2 = edge_of(&targets, &[patient]);
    let _streams = [(); 30].map(|()| http::send(service2.http(), ENDLESS));
    sleep(SECOND);
    assert_eq!(http::get(old.http(), "/release").status, 200); // to all of them, and no more
    let load = Load::start(service2.http(), FEW);
    sleep(SECOND);
    let port = port.variable();
    let new = Process::start(
        "fixture",
        &[&[("GRPC_PORT", port.as_str())], &variables[..]].concat(),
    );
    let picks = || [&old, &new].map(|one| picks(&service2, one.grpc()));
    wait_for("calls to the new one", || (picks()[1] > 0.0).then_some(()));
    sleep(3 * SECOND);
    let before = picks();
    sleep(5 * SECOND);
    let after = picks();
    let samples = load.stop();
    let [old, new] = [0, 1].map(|replica| after[replica] - before[replica]);
    let share = 100.0 * new / (old + new);
    let shown = format!(
        "{}; {share:.0} % to the new one",
        assert_none_failed(&samples)
    );
    assert!((share - 50.0).abs() <= 10.0, "{shown}");
    shown
}

fn readers_are_slow() -> String {
    let service1 = backend();
    let service2 = edge(&[&service1], &[]);
    let load = Load::start(service2.http(), LOAD);
    sleep(SECOND);
    let begin = Instant::now();
    sleep(3 * SECOND);
    let fault = Instant::now();
    let readers: Vec<_> = (0..32)
        .map(|_| {
            let reader = http::send(service2.http(), ENDLESS);
            sleep(SECOND / 4);
            reader
        })
        .collect();
    let end = Instant::now();
    let samples = load.stop();
    let [before, during] =
        [(begin, fault), (fault, end)].map(|(from, to)| samples.within(from, to).percentile(0.99));
    let shown = format!(
        "{}; p99 {} before, {} during; {} readers",
        assert_none_failed(&samples),
        millis(before),
        millis(during),
        readers.len()
    );
    assert!(during <= before * 2 + SLICES, "{shown}");
    assert_none_was_lost(&service2);
    shown
}

fn pings_are_counted() -> String {
    let server = Fake::counting_pings();
    let new_edge = || {
        let variables = [("WORKERS", "1"), ("DEADLINE", "150s")];
        edge_of(&server.address().to_string(), &variables)
    };
    let (idle, waiting) = (new_edge(), new_edge());
    let hello = |service2: &Process| say_hello(service2.http(), "test").expect("a response");
    assert_eq!([&idle, &waiting].map(hello), [200; 2]);
    let address = waiting.http();
    let quiet = thread::spawn(move || say_hello(address, "quiet"));
    sleep(120 * SECOND);
    for service2 in [&idle, &waiting] {
        assert_none_was_lost(service2);
    }
    let quiet = quiet.join().expect("it does not panic");
    assert_eq!(quiet.expect("a response"), 200);
    assert_eq!([&idle, &waiting].map(hello), [200; 2]);
    assert_eq!(server.accepted(), 2, "each has its first connection");
    "200 before and after; nothing lost; the first connections".into()
}

/// The status of a request that may take minutes.
fn say_hello(address: SocketAddr, name: &str) -> io::Result<u16> {
    let request = format!(
        "GET /api/v1/say-hello?name={name} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n"
    );
    let connection = http::send(address, request.as_bytes());
    connection.set_read_timeout(Some(150 * SECOND))?;
    Ok(http::read(connection)?.status)
}
