//! Attacks, and well-behaved clients beside them.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, sleep},
    time::{Duration, Instant},
};

use bytes::Bytes;
use h2::{Reason, client};
use http::Request;
use tests::{Process, frame, load::Load, wait_for};
use tokio::{runtime, time::timeout};

use crate::{LOAD, PROBES, Row, SECOND, assert_none_failed, backend, edge, float, millis};

pub(crate) const ROWS: &[Row] = &[
    (
        "5,000 connections that send half a request",
        "all closed; 0 failed beside them",
        half_requests,
    ),
    (
        "HTTP/2: reset flood, 16 KB+ of headers, 10,000 streams",
        "refused; 0 failed beside them",
        http2,
    ),
    (
        "4 connections with 500 open streams that send SETTINGS as fast as they can",
        "each is closed, again and again; 0 of the newcomers fail",
        settings,
    ),
];

const ATTACKERS: u32 = 5_000;

fn pair() -> (Process, Process) {
    let service1 = backend();
    let service2 = edge(&[&service1], &[]);
    (service1, service2)
}

fn half_requests() -> String {
    let (_service1, service2) = pair();
    tests::raise_file_limit();
    let load = Load::start(service2.http(), LOAD);
    let begin = Instant::now();
    let connections: Vec<_> = (0..ATTACKERS)
        .map(|_| {
            let mut connection = TcpStream::connect(service2.http()).expect("it is accepted");
            let half = b"GET /api/v1/say-hello HTTP/1.1\r\nhost: te";
            connection.write_all(half).expect("it is open");
            connection
        })
        .collect();
    wait_for("all connections to be open", || {
        (service2.metric("connections_open") >= f64::from(ATTACKERS)).then_some(())
    });
    for mut connection in connections {
        let patience = Some(Duration::from_secs(20));
        connection.set_read_timeout(patience).expect("a timeout");
        let mut response = Vec::new();
        // Closed or reset, and not open.
        if let Err(error) = connection.read_to_end(&mut response) {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        }
    }
    let closed = begin.elapsed();
    // Those of the load, and the one that asks.
    wait_for("the service to know", || {
        (service2.metric("connections_open") <= float(LOAD.connections + 1)).then_some(())
    });
    let shown = assert_none_failed(&load.stop());
    format!("all closed after {:.1} s; {shown}", closed.as_secs_f64())
}

fn http2() -> String {
    let (_service1, service2) = pair();
    let load = Load::start(service2.http(), LOAD);
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let mut shown = String::new();
    for _ in 0..5 {
        let (resets, headers, streams) = runtime.block_on(async {
            (
                reset_flood(service2.http()).await,
                long_headers(service2.http()).await,
                many_streams(service2.http()).await,
            )
        });
        shown = format!(
            "connection closed after {resets} resets; {headers}; {streams} of 10,000 streams refused"
        );
        sleep(Duration::from_millis(500));
    }
    format!("{shown}; {}", assert_none_failed(&load.stop()))
}

async fn connect(
    address: SocketAddr,
) -> (
    client::SendRequest<Bytes>,
    tokio::task::JoinHandle<Result<(), h2::Error>>,
) {
    let socket = tokio::net::TcpStream::connect(address)
        .await
        .expect("it is accepted");
    let (sender, connection) = client::handshake(socket).await.expect("it speaks HTTP/2");
    (sender, tokio::spawn(connection))
}

fn request(address: SocketAddr) -> Request<()> {
    let uri = format!("http://{address}/api/v1/say-hello?name=x");
    Request::get(uri).body(()).expect("a request")
}

fn settings() -> String {
    let (_service1, service2) = pair();
    let address = service2.http();
    let stop = Arc::new(AtomicBool::new(false));
    let attackers: Vec<_> = (0..4)
        .map(|_| {
            let stop = stop.clone();
            thread::spawn(move || {
                let mut closed = 0;
                while !stop.load(Ordering::Relaxed) {
                    send_settings_until_closed(address);
                    closed += 1;
                }
                closed
            })
        })
        .collect();
    let probes = Load::start(address, PROBES);
    sleep(5 * SECOND);
    let samples = probes.stop();
    stop.store(true, Ordering::Relaxed);
    let closed = attackers.into_iter().map(thread::JoinHandle::join);
    let closed: u32 = closed.map(|closed| closed.expect("it is closed")).sum();
    assert!(
        closed > 4,
        "they are closed for their frames, not at their deadline"
    );
    format!(
        "closed {closed} times; {}, p99 {}",
        assert_none_failed(&samples),
        millis(samples.percentile(0.99))
    )
}

/// Opens 500 streams that wait for their body, and sends SETTINGS at 1.5 MB/s.
fn send_settings_until_closed(address: SocketAddr) {
    let mut connection = TcpStream::connect(address).expect("it listens");
    let mut open = frame::hello();
    for number in 0..500 {
        open.extend(frame::request(number, false, "/api/v1/say-hello"));
    }
    // A new window for all streams makes the server visit each of them.
    let window = |size: u8| {
        let initial_window_size = [0, 4, 0, 0, 0xFF, size];
        frame::frame(frame::SETTINGS, 0, frame::CONNECTION, &initial_window_size)
    };
    let settings = [window(0xFE), window(0xFF)].concat();
    let settings = settings.repeat(1_500_000 / 100 / settings.len());
    let begin = Instant::now();
    let mut sent = connection.write_all(&open);
    while sent.is_ok() {
        assert!(begin.elapsed() < 20 * SECOND, "it takes any number of them");
        sleep(SECOND / 100);
        sent = connection.write_all(&settings);
    }
}

/// Opens streams and resets each at once, until the server closes the connection.
async fn reset_flood(address: SocketAddr) -> usize {
    let (sender, connection) = connect(address).await;
    let mut resets = 0;
    while resets < 100_000 && !connection.is_finished() {
        let Ok(mut ready) = sender.clone().ready().await else {
            break;
        };
        let Ok((_, mut stream)) = ready.send_request(request(address), false) else {
            break;
        };
        stream.send_reset(Reason::CANCEL);
        resets += 1;
        if resets % 10 == 0 {
            tokio::task::yield_now().await;
        }
    }
    let end = timeout(Duration::from_secs(20), connection).await;
    let end = end.expect("it is closed").expect("no panic");
    let error = end.expect_err("it was not the wish of the client");
    // A client that is busy writing may not read the reason.
    let reason = error.reason();
    assert!(
        error.is_io() || reason == Some(Reason::ENHANCE_YOUR_CALM),
        "{error}"
    );
    resets
}

/// Sends more headers than a request may have.
async fn long_headers(address: SocketAddr) -> String {
    let (sender, _connection) = connect(address).await;
    let mut long = request(address);
    for number in 0..20 {
        let name = format!("x-long-{number}")
            .parse::<http::HeaderName>()
            .expect("a name");
        long.headers_mut()
            .insert(name, "x".repeat(1_000).parse().expect("visible"));
    }
    let mut sender = sender.ready().await.expect("it is open");
    let (response, _) = sender.send_request(long, true).expect("it is sent");
    match timeout(Duration::from_secs(20), response)
        .await
        .expect("in time")
    {
        Ok(response) => {
            assert_eq!(response.status(), 431);
            "431".into()
        }
        Err(error) => format!("{:?}", error.reason().expect("a reason")),
    }
}

/// Opens 10,000 streams on one connection at once, and returns how many are refused.
async fn many_streams(address: SocketAddr) -> usize {
    let (mut sender, _connection) = connect(address).await;
    let mut responses = tokio::task::JoinSet::new();
    for _ in 0..10_000 {
        sender = sender.ready().await.expect("it is open");
        let (response, _) = sender
            .send_request(request(address), true)
            .expect("it is sent");
        responses.spawn(async move { response.await.map(|response| response.status().as_u16()) });
    }
    let all = timeout(Duration::from_secs(20), responses.join_all()).await;
    let all = all.expect("none is left waiting");
    let served = all
        .iter()
        .filter(|response| matches!(response, Ok(200)))
        .count();
    let shed = all
        .iter()
        .filter(|response| matches!(response, Ok(503)))
        .count();
    assert!(
        served + shed < 1_000,
        "the connection is closed for so many"
    );
    all.len() - served - shed
}
