//! Retries, load shedding, and what can be seen of both.

use std::{io::Read, net::Shutdown};

use tests::{Process, grpc, http, wait_for};

#[test]
fn a_call_that_was_unavailable_is_made_again_with_the_same_id() {
    let fixture = Process::start("fixture", &[]);
    let service2 = Process::service2(&fixture, &[]);
    let answer = http::get(service2.http(), "/api/v1/say-hello?name=again");
    assert_eq!((answer.status, answer.text()), (200, "\"Hello, 1!\""));
    let retry = service2.line(&[("action", "call"), ("status", "retry")]);
    assert_eq!(retry.text("request_id"), answer.id());
    assert_eq!(retry.number("attempt"), Some(1.0));
    assert_eq!(retry.text("method"), "/app.grpc.Service1/ProcessName");
    let lines = fixture.log_of(answer.id());
    let failed = lines
        .iter()
        .filter(|line| line.text("grpc_code") == "UNAVAILABLE");
    assert_eq!(failed.count(), 1, "{lines:?}");
}

#[test]
fn a_server_that_does_not_want_a_call_again_does_not_get_it() {
    let fixture = Process::start("fixture", &[]);
    let service2 = Process::service2(&fixture, &[]);
    let answer = http::get(service2.http(), "/api/v1/say-hello?name=never");
    assert_eq!(answer.status, 503);
    answer.problem();
    let calls = || {
        let lines = fixture.log_of(answer.id());
        lines
            .iter()
            .filter(|line| !line.text("grpc_code").is_empty())
            .count()
    };
    wait_for("its line", || (calls() > 0).then_some(()));
    assert_eq!(calls(), 1);
}

#[test]
fn what_is_more_than_the_limit_is_refused_at_once_and_told_once() {
    let variables = [("WORKERS", "1"), ("MAX_IN_FLIGHT", "2"), ("DEADLINE", "3s")];
    let fixture = Process::start("fixture", &variables);
    let hang = b"GET /hang HTTP/1.1\r\nhost: test\r\n\r\n";
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

    let answer = http::get(fixture.http(), "/tasks");
    assert_eq!(
        (answer.status, answer.header("retry-after")),
        (503, Some("1"))
    );
    assert!(answer.problem().contains("overloaded"));
    let told = fixture.line(&[("action", "shed")]);
    assert_eq!(told.text("request_id"), answer.id());
    assert_eq!(told.number("limit"), Some(2.0));
    assert_eq!(
        fixture.access_line(answer.id()).number("response_status"),
        Some(503.0)
    );

    let answer = grpc::process_name(fixture.grpc(), "test", &[("request_id", b"refused")]);
    assert_eq!((answer.code(), answer.id()), (8, "refused"));
    assert_eq!(answer.headers["grpc-retry-pushback-ms"], "1000");
    assert!(
        fixture.log_of("refused").is_empty(),
        "one line a second is enough"
    );

    // A body that comes along is read, or the connection is reset, and the answer may be lost.
    let body = "a".repeat(12 * 1_024 * 1_024);
    let post = format!(
        "POST /echo HTTP/1.1\r\nhost: test\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut connection = http::send(fixture.http(), post.as_bytes());
    connection.shutdown(Shutdown::Write).expect("it is open");
    let mut answer = String::new();
    connection.read_to_string(&mut answer).expect("no reset");
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");

    // Whoever asks how it is gets an answer.
    assert_eq!(http::get(fixture.http(), "/readyz").status, 200);
    let metrics = http::get(fixture.http(), "/metrics");
    assert_eq!(metrics.status, 200);
    assert!(
        metrics.text().contains("\nrequests_shed_total 3\n"),
        "{}",
        metrics.text()
    );
    for connection in in_flight {
        assert_eq!(http::read(connection).expect("its answer").status, 504);
    }
    assert_eq!(http::get(fixture.http(), "/tasks").status, 200);
}

#[test]
fn the_metrics_tell_what_was_asked_and_who_answered() {
    let (service1, service2) = Process::pair(&[]);
    for _ in 0..3 {
        assert_eq!(
            http::get(service2.http(), "/api/v1/say-hello?name=x").status,
            200
        );
    }
    assert_eq!(http::get(service2.http(), "/nope/1").status, 404);
    let metrics = http::get(service2.http(), "/metrics");
    let media_type = metrics.header("content-type");
    assert!(
        media_type.is_some_and(|media_type| media_type.starts_with("application/openmetrics-text"))
    );
    let replica = service1.grpc();
    for line in [
        "request_duration_seconds_count{route=\"/api/v1/say-hello\",status=\"200\"} 3",
        "request_duration_seconds_bucket{le=\"+Inf\",route=\"/api/v1/say-hello\",status=\"200\"} 3",
        "request_duration_seconds_count{route=\"other\",status=\"404\"} 1",
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
    let metrics = http::get(service1.http(), "/metrics");
    let count =
        "request_duration_seconds_count{route=\"/app.grpc.Service1/ProcessName\",status=\"OK\"} 3";
    assert!(metrics.text().contains(count), "{}", metrics.text());
}
