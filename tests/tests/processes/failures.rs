//! Failures of service1, as clients of service2 see them.

use std::{
    thread,
    time::{Duration, Instant},
};

use tests::{Port, Process, grpc, http, wait_for};

const SAY_HELLO: &str = "/api/v1/say-hello?name=test";

#[test]
fn without_service1_the_edge_returns_503_and_recovers_when_service1_is_back() {
    let port = Port::keep();
    let start = || Process::start("service1", &[("GRPC_PORT", &port.variable())]);
    let service1 = start();
    let service2 = Process::service2(&service1, &[("DEADLINE", "5s")]);
    assert_eq!(http::get(service2.http(), SAY_HELLO).status, 200);
    drop(service1);
    for _ in 0..4 {
        let begin = Instant::now();
        let response = http::get(service2.http(), SAY_HELLO);
        assert_eq!(response.status, 503);
        assert!(
            begin.elapsed() < Duration::from_secs(5),
            "within the deadline"
        );
        assert_eq!(response.header("retry-after"), Some("1"));
        assert!(
            !response.problem().contains("127.0.0.1"),
            "no internal text"
        );
        assert!(
            service2
                .access_line(response.id())
                .number("response_status")
                == Some(503.0)
        );
    }
    let _service1 = start();
    wait_for("both workers to find it", || {
        let mut responses = (0..4).map(|_| http::get(service2.http(), SAY_HELLO).status);
        responses.all(|status| status == 200).then_some(())
    });
}

#[test]
fn the_edge_starts_without_service1_and_is_ready_once_service1_serves() {
    let port = Port::keep();
    let channel = port.address().to_string();
    let service2 = Process::start("service2", &[("SERVICE1_CHANNEL", &channel)]);
    let response = http::get(service2.http(), "/readyz");
    assert_eq!(
        (response.status, response.header("retry-after")),
        (503, Some("1"))
    );
    response.problem();
    assert_eq!(http::get(service2.http(), "/healthz").status, 200);
    assert_eq!(http::get(service2.http(), SAY_HELLO).status, 503);
    let _service1 = Process::start("service1", &[("GRPC_PORT", &port.variable())]);
    service2.wait_until_ready();
    assert_eq!(http::get(service2.http(), SAY_HELLO).status, 200);
}

#[test]
fn a_frozen_service1_is_a_504_at_the_deadline() {
    let (service1, service2) = Process::pair(&[("DEADLINE", "700ms")]);
    assert_eq!(http::get(service2.http(), SAY_HELLO).status, 200);
    service1.signal("STOP");
    let begin = Instant::now();
    let response = http::get(service2.http(), SAY_HELLO);
    assert!(
        begin.elapsed() >= Duration::from_millis(700),
        "not before the deadline"
    );
    assert_eq!(response.status, 504);
    response.problem();
    let line = service2.line(&[("action", "say_hello"), ("status", "failure")]);
    assert_eq!(line.text("request_id"), response.id());
    service1.signal("CONT");
    wait_for("the thaw", || {
        (http::get(service2.http(), SAY_HELLO).status == 200).then_some(())
    });
}

#[test]
fn a_handler_that_hangs_is_dropped_at_the_deadline_of_the_edge() {
    let fixture = Process::start("fixture", &[("DEADLINE", "1m")]);
    let service2 = Process::service2(&fixture, &[("DEADLINE", "500ms")]);
    let response = http::get(service2.http(), "/api/v1/say-hello?name=hang");
    assert_eq!(response.status, 504);
    response.problem();
    let dropped = fixture.line(&[("action", "dropped")]);
    assert_eq!(dropped.text("request_id"), response.id());
}

#[test]
fn a_service1_that_is_killed_during_a_call_is_a_503() {
    let fixture = Process::start("fixture", &[]);
    let service2 = Process::service2(&fixture, &[]);
    let address = service2.http();
    let call = thread::spawn(move || http::get(address, "/api/v1/say-hello?name=hang"));
    fixture.line(&[("action", "started")]);
    drop(fixture); // kill -9
    let response = call.join().expect("a response");
    assert_eq!(
        (response.status, response.header("retry-after")),
        (503, Some("1"))
    );
    response.problem();
}

#[test]
fn a_call_whose_client_goes_away_is_dropped_behind_the_edge_too() {
    let fixture = Process::start("fixture", &[]);
    let service2 = Process::service2(&fixture, &[]);
    let request =
        b"GET /api/v1/say-hello?name=hang HTTP/1.1\r\nhost: test\r\nx-request-id: up\r\n\r\n";
    let connection = http::send(service2.http(), request);
    assert_eq!(
        fixture.line(&[("action", "started")]).text("request_id"),
        "up"
    );
    drop(connection);
    assert_eq!(
        fixture.line(&[("action", "dropped")]).text("request_id"),
        "up"
    );
    assert_eq!(
        service2.access_line("up").number("response_status"),
        Some(499.0)
    );
}

#[test]
fn a_panic_is_a_500_logged_once_and_the_worker_lives() {
    let fixture = Process::start("fixture", &[("WORKERS", "1")]);
    for round in 0..3 {
        let id = format!("panic-{round}");
        let response = http::get_with(fixture.http(), "/panic", &[("x-request-id", id.as_bytes())]);
        assert_eq!(response.status, 500);
        assert!(
            !response.problem().contains("the handler panics"),
            "no internal text"
        );
        assert_eq!(
            fixture.access_line(&id).number("response_status"),
            Some(500.0)
        );
        let panics: Vec<_> = fixture
            .log_of(&id)
            .into_iter()
            .filter(|line| line.text("action") == "panic")
            .collect();
        assert_eq!(panics.len(), 1);
        assert_eq!(panics[0].text("reason"), "the handler panics");
        assert!(
            panics[0].text("location").contains("fixture.rs:"),
            "{panics:?}"
        );
        assert_eq!(panics[0].number("level"), Some(50.0));
    }
    let response = grpc::process_name(fixture.grpc(), "panic", &[]);
    assert_eq!(response.code(), 13);
    assert!(!response.message().contains("panics"));
    assert_eq!(http::get(fixture.http(), "/tasks").status, 200);
    assert_eq!(fixture.terminate().stderr, "", "nothing but the log line");
}

#[test]
fn a_panic_in_a_body_cuts_off_that_response_and_nothing_else() {
    let fixture = Process::start("fixture", &[("WORKERS", "1")]);
    let id: [(&str, &[u8]); 1] = [("x-request-id", b"later")];
    let response = http::get_with(fixture.http(), "/panic-later", &id);
    assert_eq!(
        (response.status, response.text()),
        (200, "7\r\na line\n\r\n"),
        "no last chunk"
    );
    let access = fixture.access_line("later");
    assert_eq!(access.text("reason"), "the response broke off");
    let panics = fixture.log_of("later");
    let panics = panics.iter().filter(|line| line.text("action") == "panic");
    assert_eq!(panics.count(), 1);
    assert_eq!(http::get(fixture.http(), "/tasks").status, 200);
}

#[test]
fn the_codes_of_the_backend_reach_the_edge_by_the_table() {
    let fixture = Process::start("fixture", &[]);
    let service2 = Process::service2(&fixture, &[]);
    for (code, status) in [
        (1, 499),
        (2, 502),
        (3, 400),
        (4, 504),
        (5, 404),
        (6, 409),
        (7, 403),
        (8, 429),
        (9, 400),
        (10, 409),
        (11, 400),
        (12, 501),
        (13, 502),
        (14, 503),
        (15, 502),
        (16, 401),
    ] {
        let response = http::get(
            service2.http(),
            &format!("/api/v1/say-hello?name=code%20{code}"),
        );
        assert_eq!(response.status, status, "{code}");
        let detail = response.problem();
        assert_eq!(
            detail.contains("the fixture's text"),
            status < 500,
            "{code}: {detail}"
        );
    }
}

#[test]
fn a_client_that_sends_nothing_or_half_a_request_is_cut_off() {
    let service1 = Process::start("service1", &[]);
    let begun = [
        http::send(service1.http(), b""),
        http::send(service1.http(), b"PRI * HT"),
        http::send(service1.http(), b"GET / HTTP/1.1\r\nhost: te"),
    ];
    for connection in begun {
        let (bytes, _) = http::read_to_end(connection).expect("the connection ends");
        // hyper sends 408, or nothing, before it closes.
        let text = String::from_utf8_lossy(&bytes);
        assert!(
            text.is_empty() || text.starts_with("HTTP/1.1 408 "),
            "{text}"
        );
    }
}
