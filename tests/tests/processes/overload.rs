//! Retries and load shedding, in the log and in the metrics.

use std::{io::Read, net::Shutdown};

use tests::{Process, grpc, http, wait_for};

#[test]
fn an_unavailable_call_is_retried_with_the_same_id() {
    let fixture = Process::start("fixture", &[]);
    let service2 = Process::service2(&fixture, &[]);
    let response = http::get(service2.http(), "/api/v1/say-hello?name=again");
    assert_eq!((response.status, response.text()), (200, "\"Hello, 1!\""));
    let retry = service2.line(&[("action", "call"), ("status", "retry")]);
    assert_eq!(retry.text("request_id"), response.id());
    assert_eq!(retry.number("attempt"), Some(1.0));
    assert_eq!(retry.text("method"), "/app.grpc.Service1/ProcessName");
    let lines = &fixture.terminate().log_by_id()[response.id()];
    let failed = lines
        .iter()
        .filter(|line| line.text("grpc_code") == "UNAVAILABLE");
    assert_eq!(failed.count(), 1, "{lines:?}");
}

#[test]
fn a_call_is_not_retried_where_its_server_says_so() {
    let fixture = Process::start("fixture", &[]);
    let service2 = Process::service2(&fixture, &[]);
    let response = http::get(service2.http(), "/api/v1/say-hello?name=never");
    assert_eq!(response.status, 503);
    response.problem();
    let lines = &fixture.terminate().log_by_id()[response.id()];
    let calls = lines
        .iter()
        .filter(|line| !line.text("grpc_code").is_empty());
    assert_eq!(calls.count(), 1, "{lines:?}");
}

#[test]
fn requests_over_the_limit_are_refused_at_once_and_logged_once_a_second() {
    let variables = [("WORKERS", "1"), ("MAX_IN_FLIGHT", "2"), ("DEADLINE", "3s")];
    let fixture = Process::start("fixture", &variables);
    let hang = b"GET /hang HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n";
    let in_flight = [
        http::send(fixture.http(), hang),
        http::send(fixture.http(), hang),
    ];
    let started = || {
        let log = fixture.log();
        log.iter()
            .filter(|line| line.text("action") == "started")
            .count()
    };
    wait_for("both of them", || (started() == 2).then_some(()));

    let response = http::get(fixture.http(), "/tasks");
    assert_eq!(
        (response.status, response.header("retry-after")),
        (503, Some("1"))
    );
    assert!(response.problem().contains("overloaded"));
    let shed = fixture.line(&[("action", "shed")]);
    assert_eq!(shed.text("request_id"), response.id());
    assert_eq!(shed.number("limit"), Some(2.0));
    assert_eq!(
        fixture.access_line(response.id()).number("response_status"),
        Some(503.0)
    );

    let response = grpc::process_name(fixture.grpc(), "test", &[("request_id", b"refused")]);
    assert_eq!((response.code(), response.id()), (8, "refused"));
    assert_eq!(response.headers["grpc-retry-pushback-ms"], "1000");

    // The body of a refused request is read. Otherwise the connection would be reset, and the
    // response might be lost.
    let body = "a".repeat(12 * 1_024 * 1_024);
    let post = format!(
        "POST /echo HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut connection = http::send(fixture.http(), post.as_bytes());
    connection.shutdown(Shutdown::Write).expect("it is open");
    let mut response = String::new();
    connection.read_to_string(&mut response).expect("no reset");
    assert!(response.starts_with("HTTP/1.1 503 "), "{response}");

    // Probes are served at the limit.
    assert_eq!(http::get(fixture.http(), "/readyz").status, 200);
    let metrics = http::get(fixture.admin(), "/metrics");
    assert_eq!(metrics.status, 200);
    assert!(
        metrics.text().contains("\nrequests_shed_total 3\n"),
        "{}",
        metrics.text()
    );
    for connection in in_flight {
        assert_eq!(http::read(connection).expect("its response").status, 504);
    }
    assert_eq!(http::get(fixture.http(), "/tasks").status, 200);
    let log = fixture.terminate().log_by_id();
    assert!(!log.contains_key("refused"), "one line a second is enough");
}

/// The labels of requests.
const SAY_HELLO: &str = "http_request_method=\"GET\",http_route=\"/api/v1/say-hello\",\
                         http_response_status_code=\"200\"";
const NOT_FOUND: &str = "http_request_method=\"GET\",http_route=\"other\",\
                         http_response_status_code=\"404\"";
const PROCESS_NAME: &str = "rpc_method=\"app.grpc.Service1/ProcessName\",\
                            rpc_grpc_status_code=\"0\"";

#[test]
fn the_metrics_count_requests_by_route_and_replicas_by_state() {
    let (service1, service2) = Process::pair(&[]);
    for _ in 0..3 {
        assert_eq!(
            http::get(service2.http(), "/api/v1/say-hello?name=x").status,
            200
        );
    }
    assert_eq!(http::get(service2.http(), "/nope/1").status, 404);
    let metrics = http::get(service2.admin(), "/metrics");
    let replica = service1.grpc();
    for line in [
        &format!("http_server_request_duration_seconds_count{{{SAY_HELLO}}} 3"),
        &format!("http_server_request_duration_seconds_bucket{{le=\"+Inf\",{SAY_HELLO}}} 3"),
        &format!("http_server_request_duration_seconds_count{{{NOT_FOUND}}} 1"),
        &format!("rpc_client_duration_seconds_count{{{PROCESS_NAME}}} 3"),
        &format!("rpc_client_attempt_duration_seconds_count{{{PROCESS_NAME}}} 3"),
        "# TYPE call_retries_total counter",
        &format!("replicas{{replica=\"{replica}\",state=\"up\"}} 2"),
        &format!("replicas{{replica=\"{replica}\",state=\"late\"}} 0"),
        "requests_shed_total 0",
        "requests_in_flight 1",
        "call_retries_total 0",
    ] {
        assert!(
            metrics.text().lines().any(|one| one == line),
            "{line} in {}",
            metrics.text()
        );
    }
    let metrics = http::get(service1.admin(), "/metrics");
    let count = format!("rpc_server_duration_seconds_count{{{PROCESS_NAME}}} 3");
    assert!(metrics.text().contains(&count), "{}", metrics.text());
}
