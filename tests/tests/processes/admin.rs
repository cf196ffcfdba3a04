//! The port for operators.

use std::{net::TcpStream, thread, time::Duration};

use tests::{Process, http, wait_for};

#[test]
fn operators_have_a_port_of_their_own() {
    let (service1, service2) = Process::pair(&[
        ("MAX_IN_FLIGHT", "77"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=secret"),
    ]);
    http::get(service2.http(), "/api/v1/say-hello?name=x");
    for service in [&service1, &service2] {
        assert_eq!(http::get(service.http(), "/metrics").status, 404);
        assert_eq!(http::get(service.http(), "/status").status, 404);
        for path in ["/metrics", "/status", "/status.css", "/healthz", "/readyz"] {
            let response = http::get(service.admin(), path);
            assert_eq!(response.status, 200, "{path}");
            assert!(!response.id().is_empty());
        }
    }
    let page = http::get(service2.admin(), "/status");
    let policy = page.header("content-security-policy");
    assert!(policy.is_some_and(|policy| policy.starts_with("default-src 'none'")));
    let replica = service1.grpc().to_string();
    for text in [
        "<h1>ready</h1>",
        "GET /api/v1/say-hello",
        "MAX_IN_FLIGHT</th><td>77</td><td>environment",
        "DEADLINE</th><td>10s</td><td>default",
        &replica,
        "up: 2",
        "OTEL_EXPORTER_OTLP_HEADERS</th><td>hidden",
    ] {
        assert!(page.text().contains(text), "{text} in {}", page.text());
    }
}

#[test]
fn the_status_says_what_was_wrong_with_a_replica() {
    let (service1, service2) = Process::pair(&[]);
    drop(service1);
    let page = wait_for("the error", || {
        let page = http::get(service2.admin(), "/status");
        page.text().contains("Connection refused").then_some(page)
    });
    assert!(page.text().contains("unreachable: 2"), "{}", page.text());
}

#[test]
fn operators_are_served_while_the_workers_are_stuck_and_to_the_end_of_a_drain() {
    let fixture = Process::start("fixture", &[("WORKERS", "1"), ("DRAIN_TIMEOUT", "2s")]);
    let address = fixture.http();
    let stuck = http::send(address, b"GET /block HTTP/1.1\r\nhost: a\r\n\r\n");
    thread::sleep(Duration::from_millis(50)); // it blocks for a second
    let page = http::get(fixture.admin(), "/status");
    assert!(page.text().contains("<h1>ready</h1>"), "{}", page.text());
    drop(stuck);
    let hanging = http::send(address, b"GET /hang HTTP/1.1\r\nhost: a\r\n\r\n");
    wait_for("a request in flight", || {
        (fixture.metric("requests_in_flight") >= 2.0).then_some(())
    });
    fixture.signal("TERM");
    wait_for("the drain", || {
        let page = http::get(fixture.admin(), "/status");
        page.text().contains("<h1>draining</h1>").then_some(())
    });
    drop(hanging);
    assert_eq!(fixture.ended().status.code(), Some(0));
}

#[test]
fn a_client_with_many_connections_does_not_keep_other_operators_out() {
    let service1 = Process::start("service1", &[]);
    let held: Vec<_> = (0..200)
        .map(|_| TcpStream::connect(service1.admin()).expect("it listens"))
        .collect();
    assert_eq!(http::get(service1.admin(), "/metrics").status, 200);
    assert!(service1.metric("connections_open") <= 70.0);
    drop(held);
}
