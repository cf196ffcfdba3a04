//! SIGTERM: requests in flight are finished, stuck ones are bounded, and no log line is lost.

use std::{
    collections::HashSet,
    io::{ErrorKind, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use tests::{Port, Process, grpc, http, wait_for};

/// The number of requests that have reached a handler.
fn started(fixture: &Process) -> usize {
    let log = fixture.log();
    log.iter()
        .filter(|line| line.text("action") == "started")
        .count()
}

/// Whether any client still waits for its response.
fn is_any_in_flight<T>(clients: &[JoinHandle<T>]) -> bool {
    clients.iter().any(|client| !client.is_finished())
}

#[test]
fn requests_in_flight_are_finished() {
    // The tests may run in the background, where SIGINT is ignored.
    let env = ["env", "--default-signal=INT,HUP"];
    for signal in ["TERM", "INT", "HUP"] {
        let fixture = Process::start_within(&env, "fixture", &[]);
        let address = fixture.http();
        let in_flight: Vec<_> = (0..20)
            .map(|_| thread::spawn(move || http::get(address, "/slow")))
            .collect();
        wait_for("all of them", || (started(&fixture) == 20).then_some(()));
        // Twice, as `timeout` does.
        fixture.signal(signal);
        fixture.signal(signal);
        assert!(is_any_in_flight(&in_flight));
        for request in in_flight {
            let response = request.join().expect("a response");
            assert_eq!((response.status, response.text()), (200, "slow but there"));
        }
        let ended = fixture.ended();
        assert_eq!(ended.status.code(), Some(0));
        assert!(ended.has_line(&[("action", "stop"), ("status", "success")]));
    }
}

#[test]
fn grpc_calls_in_flight_are_finished() {
    let fixture = Process::start("fixture", &[]);
    let address = fixture.grpc();
    let calls: Vec<_> = (0..4)
        .map(|_| thread::spawn(move || grpc::process_name(address, "slow", &[])))
        .collect();
    wait_for("all of them", || (started(&fixture) == 4).then_some(()));
    fixture.signal("TERM");
    assert!(is_any_in_flight(&calls));
    for call in calls {
        let response = call.join().expect("a response");
        assert_eq!(response.code(), 0);
        assert!(response.body.ends_with(b"slow but there"));
    }
    assert_eq!(fixture.ended().status.code(), Some(0));
}

#[test]
fn the_edge_lets_its_calls_finish() {
    let fixture = Process::start("fixture", &[]);
    let service2 = Process::service2(&fixture, &[("DEADLINE", "600ms")]);
    let address = service2.http();
    let request = thread::spawn(move || http::get(address, "/api/v1/say-hello?name=hang"));
    fixture.line(&[("action", "started")]);
    let ended = service2.terminate();
    assert_eq!(ended.status.code(), Some(0));
    assert_eq!(request.join().expect("a response").status, 504);
}

#[test]
fn a_request_that_is_stuck_does_not_hold_the_process() {
    let fixture = Process::start("fixture", &[("DRAIN_TIMEOUT", "300ms")]);
    let request = b"GET /hang HTTP/1.1\r\nhost: test\r\nx-request-id: stuck\r\n\r\n";
    let connection = http::send(fixture.http(), request);
    fixture.line(&[("action", "started")]);
    let ended = fixture.terminate();
    drop(connection);
    assert_eq!(ended.status.code(), Some(0));
    assert!(ended.has_line(&[("action", "drain"), ("status", "failure")]));
    let log = ended.log_by_id();
    let access = log["stuck"]
        .iter()
        .find(|line| line.number("response_status").is_some());
    let access = access.expect("the request has its access line");
    assert_eq!(access.number("response_status"), Some(503.0));
}

#[test]
fn a_worker_that_never_yields_does_not_hold_the_process() {
    let fixture = Process::start("fixture", &[("DRAIN_TIMEOUT", "100ms"), ("WORKERS", "1")]);
    let connection = http::send(fixture.http(), b"GET /block HTTP/1.1\r\nhost: test\r\n\r\n");
    fixture.line(&[("action", "started")]);
    let ended = fixture.terminate();
    drop(connection);
    assert_eq!(ended.status.code(), Some(0));
    assert!(ended.has_line(&[("action", "stop"), ("status", "failure")]));
}

#[test]
fn a_second_signal_ends_the_process_at_once() {
    let env = ["env", "--default-signal=INT"];
    let fixture = Process::start_within(&env, "fixture", &[("DRAIN_TIMEOUT", "1m")]);
    let connection = http::send(fixture.http(), b"GET /hang HTTP/1.1\r\nhost: test\r\n\r\n");
    fixture.line(&[("action", "started")]);
    fixture.signal("TERM");
    fixture.line(&[("action", "drain")]);
    // Before, it would be the same signal.
    thread::sleep(Duration::from_millis(600));
    fixture.signal("INT");
    assert_eq!(fixture.ended().status.code(), Some(130));
    drop(connection);
}

#[test]
fn signals_that_are_ignored_at_the_start_stay_ignored_but_sigterm_drains() {
    let nohup = ["env", "--ignore-signal=INT,HUP,TERM"];
    let fixture = Process::start_within(&nohup, "fixture", &[]);
    fixture.signal("HUP");
    fixture.signal("INT");
    // Long enough for the drain of an idle service, if it began.
    thread::sleep(Duration::from_millis(600));
    assert_eq!(http::get(fixture.http(), "/readyz").status, 200);
    assert_eq!(fixture.terminate().status.code(), Some(0));
}

#[test]
fn a_draining_service_accepts_no_connections_and_closes_the_open_ones() {
    let fixture = Process::start("fixture", &[]);
    let address = fixture.http();
    let idle = http::send(address, b"GET /tasks HTTP/1.1\r\nhost: test\r\n\r\n");
    let busy = http::send(address, b"GET /slow HTTP/1.1\r\nhost: test\r\n\r\n");
    fixture.line(&[("action", "started")]);
    fixture.signal("TERM");
    fixture.line(&[("action", "drain")]);
    wait_for("the end of accepting", || {
        TcpStream::connect(address).is_err().then_some(())
    });
    // HTTP/1.1 would keep both alive. The server closes them, the busy one after its response.
    assert_eq!(http::read(idle).expect("its response").status, 200);
    let response = http::read(busy).expect("its response");
    assert_eq!(
        (response.status, response.header("connection")),
        (200, Some("close"))
    );
    let ended = fixture.ended();
    assert_eq!(ended.status.code(), Some(0));
    assert!(!ended.has_line(&[("action", "drain"), ("status", "failure")]));
}

/// Sends requests, each on a connection of its own, until the service accepts no more. Returns the
/// ids of those with the right response.
fn send_until_refused(address: SocketAddr, client: usize, is_stopping: &AtomicBool) -> Vec<String> {
    let mut served = Vec::new();
    loop {
        let id = format!("load-{client}-{}", served.len());
        match say_hello(address, &id, is_stopping) {
            Ok(response) => assert_eq!(response.text(), "\"Hello, X!\""),
            Err(error) => {
                assert!(is_stopping.load(Ordering::SeqCst), "{id}: {error}");
                let next = TcpStream::connect(address).map_err(|error| error.kind());
                assert_eq!(next.err(), Some(ErrorKind::ConnectionRefused), "{error}");
                return served;
            }
        }
        served.push(id);
    }
}

/// A request that was sent before the signal must have its response. One that is sent later may
/// meet a closed listener, or a closed connection.
fn say_hello(
    address: SocketAddr,
    id: &str,
    is_stopping: &AtomicBool,
) -> std::io::Result<http::Response> {
    let request = format!(
        "GET /api/v1/say-hello?name=x HTTP/1.1\r\nhost: test\r\nx-request-id: {id}\r\nconnection: close\r\n\r\n"
    );
    let mut connection = TcpStream::connect(address)?;
    connection.set_read_timeout(Some(tests::PATIENCE))?;
    connection.write_all(request.as_bytes())?;
    let is_promised = !is_stopping.load(Ordering::SeqCst);
    let response = http::read(connection);
    assert!(!is_promised || response.is_ok(), "{id}: {response:?}");
    response
}

#[test]
fn under_load_no_response_and_no_line_is_lost() {
    let port = Port::keep(); // so that nobody else listens there after the service
    let service1 = Process::start("service1", &[]);
    let service2 = Process::service2(&service1, &[("PORT", &port.variable())]);
    let address = service2.http();
    let is_stopping = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..8)
        .map(|client| {
            let is_stopping = is_stopping.clone();
            thread::spawn(move || send_until_refused(address, client, &is_stopping))
        })
        .collect();
    wait_for("some load", || (service2.log().len() > 500).then_some(()));
    is_stopping.store(true, Ordering::SeqCst);
    let ended = service2.terminate();
    assert_eq!(ended.status.code(), Some(0));
    let (log1, log2) = (service1.terminate().log_by_id(), ended.log_by_id());
    let served: HashSet<_> = clients
        .into_iter()
        .flat_map(|client| client.join().expect("all responses are right"))
        .collect();
    for id in &served {
        assert_eq!((log1[id].len(), log2[id].len()), (1, 2), "{id}");
    }
    let taken = log1.keys().chain(log2.keys());
    let is_lost = |id: &&String| id.starts_with("load-") && !served.contains(*id);
    let lost: Vec<_> = taken.filter(is_lost).collect();
    assert!(lost.is_empty(), "taken, and without a response: {lost:?}");
}
