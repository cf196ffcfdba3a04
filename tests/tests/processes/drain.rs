//! SIGTERM: requests in flight are finished, stuck ones are bounded, and no log line is lost.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use tests::{Process, grpc, http, wait_for};

/// The number of requests that have reached a handler.
fn started(fixture: &Process) -> usize {
    let log = fixture.log();
    log.iter()
        .filter(|line| line.text("action") == "started")
        .count()
}

#[test]
fn requests_in_flight_are_finished() {
    for signal in ["TERM", "INT", "HUP"] {
        let fixture = Process::start("fixture", &[]);
        let address = fixture.http();
        let in_flight: Vec<_> = (0..20)
            .map(|_| thread::spawn(move || http::get(address, "/slow")))
            .collect();
        wait_for("all of them", || (started(&fixture) == 20).then_some(()));
        fixture.signal(signal);
        for request in in_flight {
            let answer = request.join().expect("it was answered");
            assert_eq!((answer.status, answer.text()), (200, "slow but there"));
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
    for call in calls {
        let answer = call.join().expect("it was answered");
        assert_eq!(answer.code(), 0);
        assert!(answer.body.ends_with(b"slow but there"));
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
    assert_eq!(request.join().expect("it was answered").status, 504);
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
    let fixture = Process::start("fixture", &[("DRAIN_TIMEOUT", "1m")]);
    let connection = http::send(fixture.http(), b"GET /hang HTTP/1.1\r\nhost: test\r\n\r\n");
    fixture.line(&[("action", "started")]);
    fixture.signal("TERM");
    fixture.line(&[("action", "drain")]);
    fixture.signal("INT");
    assert_eq!(fixture.ended().status.code(), Some(130));
    drop(connection);
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
        std::net::TcpStream::connect(address).is_err().then_some(())
    });
    // HTTP/1.1 would keep both alive. The server closes them, the busy one after its response.
    assert_eq!(http::read(idle).expect("its response").status, 200);
    let response = http::read(busy).expect("its response");
    assert_eq!(
        (response.status, response.header("connection")),
        (200, Some("close"))
    );
    assert_eq!(fixture.ended().status.code(), Some(0));
}

#[test]
fn under_load_no_answer_and_no_line_is_lost() {
    let (service1, service2) = Process::pair(&[]);
    let address = service2.http();
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..8)
        .map(|client| {
            let stop = stop.clone();
            thread::spawn(move || {
                let mut answered = Vec::new();
                for round in 0.. {
                    let id = format!("load-{client}-{round}");
                    let request = format!(
                        "GET /api/v1/say-hello?name=x HTTP/1.1\r\nhost: test\r\nx-request-id: {id}\r\nconnection: close\r\n\r\n"
                    );
                    let Ok(mut connection) = std::net::TcpStream::connect(address) else { break };
                    let _ = std::io::Write::write_all(&mut connection, request.as_bytes());
                    match http::read(connection) {
                        Ok(answer) => {
                            assert_eq!(answer.text(), "\"Hello, X!\"");
                            answered.push(id);
                        }
                        // Not accepted any more: never taken, so not lost.
                        Err(_) if stop.load(Ordering::Relaxed) => break,
                        Err(error) => panic!("{error}"),
                    }
                }
                answered
            })
        })
        .collect();
    wait_for("some load", || (service2.log().len() > 500).then_some(()));
    stop.store(true, Ordering::Relaxed);
    let ended = service2.terminate();
    assert_eq!(ended.status.code(), Some(0));
    let (log1, log2) = (service1.terminate().log_by_id(), ended.log_by_id());
    for id in clients
        .into_iter()
        .flat_map(|client| client.join().expect("all answers are right"))
    {
        assert_eq!((log1[&id].len(), log2[&id].len()), (1, 2), "{id}");
    }
}
