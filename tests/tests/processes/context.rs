//! The id and the deadline of a request, in every task and over the hop.

use ::http::Method;
use tests::{Process, Record, grpc, http};

#[test]
fn the_id_is_on_every_kind_of_response() {
    let fixture = Process::start("fixture", &[("DEADLINE", "300ms")]);
    let service2 = Process::service2(&fixture, &[("DEADLINE", "300ms")]);
    let id: [(&str, &[u8]); 1] = [("x-request-id", b"the-id")];
    for (path, status) in [
        ("/api/v1/say-hello?name=test", 200),
        ("/healthz", 200),
        ("/readyz", 200),
        ("/nope", 404),
        ("/api/v1/say-hello?name=%", 400),
        ("/api/v1/say-hello?name=panic", 502),
        ("/api/v1/say-hello?name=code%203", 400),
        ("/api/v1/say-hello?name=code%2014", 503),
        ("/api/v1/say-hello?name=hang", 504),
    ] {
        let response = http::get_with(service2.http(), path, &id);
        assert_eq!(
            (response.status, response.id()),
            (status, "the-id"),
            "{path}"
        );
    }
    for (path, status) in [
        ("/panic", 500),
        ("/hang", 504),
        ("/bare/418", 418),
        ("/endless", 200),
    ] {
        let response = http::get_with(fixture.http(), path, &id);
        assert_eq!(
            (response.status, response.id()),
            (status, "the-id"),
            "{path}"
        );
        let over_http2 = grpc::request(service2.http(), Method::GET, "/nope", &id, Vec::new());
        assert_eq!(over_http2.headers["x-request-id"], "the-id");
    }
    let id: [(&str, &[u8]); 1] = [("request_id", b"the-id")];
    for (name, code) in [
        ("test", 0),
        ("panic", 13),
        ("hang", 4),
        ("code 5", 5),
        ("code 14", 14),
    ] {
        let response = grpc::process_name(fixture.grpc(), name, &id);
        assert_eq!((response.code(), response.id()), (code, "the-id"), "{name}");
    }
    // A stream that waits after its first items: the deadline ends it, and its head has the id.
    let length = [0x08, 10]; // field 1, a varint
    let response = grpc::call(fixture.grpc(), "/api.Api/getStream", &id, &length);
    assert_eq!((response.code(), response.id()), (4, "the-id"));
    assert!(
        !response.body.is_empty(),
        "the first items came before the deadline"
    );
}

#[test]
fn a_task_has_the_id_with_the_helper_and_none_without_it() {
    let fixture = Process::start("fixture", &[]);
    let response = http::get_with(
        fixture.http(),
        "/tasks",
        &[("x-request-id", b"the-request")],
    );
    assert_eq!(response.status, 200);
    let within = fixture.line(&[("action", "within")]);
    assert_eq!(within.text("request_id"), "the-request");
    let without = fixture.line(&[("action", "without")]);
    assert!(without.has(&[("request_id", "")]), "{without:?}");
}

#[test]
fn a_log_field_is_in_every_further_line_of_its_request_and_in_no_other() {
    let fixture = Process::start("fixture", &[]);
    let id: [(&str, &[u8]); 1] = [("x-request-id", b"with-field")];
    assert_eq!(http::get_with(fixture.http(), "/fields", &id).status, 200);
    fixture.access_line("with-field");
    let lines = fixture.log_of("with-field");
    let (before, after) = lines.split_first().expect("it has lines");
    assert!(before.has(&[("action", "before")]) && before.text("caller").is_empty());
    assert_eq!(after.len(), 5, "{after:?}");
    for line in after {
        assert!(line.has(&[("caller", "acme")]), "{line:?}");
    }
    let other = http::get(fixture.http(), "/tasks");
    assert!(fixture.access_line(other.id()).text("caller").is_empty());
}

#[test]
fn every_line_of_the_process_itself_has_an_empty_id() {
    let log = Process::start("service1", &[]).terminate().log();
    assert!(log.len() >= 4);
    for line in log {
        assert!(line.has(&[("request_id", "")]), "{line:?}");
    }
}

#[test]
fn the_deadline_shrinks_over_the_hop() {
    let fixture = Process::start("fixture", &[("DEADLINE", "1m")]);
    let service2 = Process::service2(&fixture, &[]);
    let response = http::get(service2.http(), "/api/v1/say-hello?name=remaining");
    let left = response
        .text()
        .trim_start_matches("\"Hello, ")
        .trim_end_matches("!\"");
    let left: u32 = left.parse().expect("milliseconds");
    assert!(
        (5_000..10_000).contains(&left),
        "{left} ms of 10 s are left"
    );
}

#[test]
fn a_caller_over_http_shortens_the_deadline_of_the_hop() {
    let fixture = Process::start("fixture", &[]);
    let service2 = Process::service2(&fixture, &[]);
    let ask = |name, timeout: &'static str| {
        let path = format!("/api/v1/say-hello?name={name}");
        let timeout: [(&str, &[u8]); 1] = [("grpc-timeout", timeout.as_bytes())];
        http::get_with(service2.http(), &path, &timeout)
    };
    let left = ask("remaining", "4S");
    let left = left.text().trim_start_matches("\"Hello, ");
    let left: u32 = left.trim_end_matches("!\"").parse().expect("milliseconds");
    assert!((1..4_000).contains(&left), "{left} ms of 4 s are left");
    assert_eq!(ask("hang", "200m").status, 504);
    fixture.line(&[("action", "dropped")]);
}

#[test]
fn the_deadline_cuts_a_body_off_and_the_client_can_tell() {
    let fixture = Process::start("fixture", &[("DEADLINE", "300ms")]);
    let id: [(&str, &[u8]); 1] = [("x-request-id", b"cut")];
    let response = http::get_with(fixture.http(), "/endless", &id);
    assert_eq!(response.status, 200);
    assert_eq!(response.header("transfer-encoding"), Some("chunked"));
    assert_eq!(
        response.text(),
        "7\r\na line\n\r\n",
        "no last chunk: the response was cut"
    );
    let access = fixture.access_line("cut");
    assert_eq!(access.text("reason"), "the response broke off");
    let dropped = fixture.line(&[("action", "dropped")]);
    assert_eq!(
        dropped.text("request_id"),
        "cut",
        "the work was dropped, in its own context"
    );
}

#[test]
fn a_client_that_goes_away_is_a_499_and_its_work_is_dropped() {
    let fixture = Process::start("fixture", &[]);
    let request = b"GET /hang HTTP/1.1\r\nhost: test\r\nx-request-id: gone\r\n\r\n";
    let connection = http::send(fixture.http(), request);
    assert_eq!(
        fixture.line(&[("action", "started")]).text("request_id"),
        "gone"
    );
    drop(connection);
    let access = fixture.access_line("gone");
    assert_eq!(access.number("response_status"), Some(499.0));
    assert_eq!(
        fixture.line(&[("action", "dropped")]).text("request_id"),
        "gone"
    );
}

#[test]
fn grpc_calls_that_succeed_have_their_access_line_at_debug() {
    let service1 = Process::start("service1", &[("RUST_LOG", "debug")]);
    let response = grpc::process_name(service1.grpc(), "test", &[]);
    let access = service1.access_line(response.id());
    assert!(access.has(&[
        ("grpc_code", "OK"),
        (
            "first_request_line",
            "POST /app.grpc.Service1/ProcessName HTTP/2.0"
        ),
    ]));
    assert_eq!(access.number("level"), Some(20.0));
    assert_eq!(access.number("response_size"), Some(11.0));
    http::get(service1.http(), "/readyz");
    let probe = service1.line(&[("first_request_line", "GET /readyz HTTP/1.1")]);
    assert_eq!(probe.number("level"), Some(20.0));
}

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

#[test]
fn a_trace_goes_through_both_services_and_is_in_their_log_lines() {
    let (service1, service2) = Process::pair(&[]);
    let headers: [(&str, &[u8]); 3] = [
        ("x-request-id", b"traced"),
        ("traceparent", PARENT.as_bytes()),
        ("tracestate", b"vendor=1"),
    ];
    let path = "/api/v1/say-hello?name=test";
    assert_eq!(http::get_with(service2.http(), path, &headers).status, 200);
    let without = http::get(service2.http(), path);
    let line = service2.access_line("traced");
    let lines = service1.log_of("traced").into_iter().chain([line]);
    for line in lines {
        assert_eq!(line.text("trace_id"), &PARENT[3..35]);
        assert_eq!(line.text("span_id"), &PARENT[36..52]);
        assert_eq!(line.text("trace_flags"), "01");
    }
    let line = service2.access_line(without.id());
    assert_eq!(line.text("trace_id"), "");
}

#[test]
fn a_malformed_trace_is_dropped_with_one_warning() {
    let (service1, service2) = Process::pair(&[]);
    let headers: [(&str, &[u8]); 2] =
        [("x-request-id", b"malformed"), ("traceparent", b"00-0-0-0")];
    let path = "/api/v1/say-hello?name=test";
    assert_eq!(http::get_with(service2.http(), path, &headers).status, 200);
    service2.access_line("malformed");
    let lines = service2.log_of("malformed");
    let warnings = lines.iter().filter(|line| line.text("action") == "trace");
    assert_eq!(warnings.count(), 1);
    for line in lines.iter().chain(&service1.log_of("malformed")) {
        assert_eq!(line.text("trace_id"), "");
    }
}

#[test]
fn access_lines_of_client_errors_are_left_out_or_sampled() {
    let lines_of = |share: &str| {
        let service2 = Process::start("service2", &[("CLIENT_ERROR_LINES", share)]);
        for _ in 0..100 {
            assert_eq!(http::get(service2.http(), "/nowhere").status, 404);
        }
        assert_eq!(http::get(service2.http(), "/docs").status, 200);
        service2.line(&[("first_request_line", "GET /docs HTTP/1.1")]);
        let metrics = http::get(service2.admin(), "/metrics");
        let mut metrics = metrics.text().lines();
        let counted = metrics.find(|line| line.contains("_count{") && line.contains("\"404\""));
        assert!(
            counted.is_some_and(|line| line.ends_with(" 100")),
            "{counted:?}"
        );
        let lines = service2.terminate().log();
        let status = |line: &&Record| line.integer("response_status") == Some(404);
        lines.iter().filter(status).count()
    };
    assert_eq!(lines_of("1"), 100);
    assert_eq!(lines_of("0"), 0);
    assert!((1..100).contains(&lines_of("0.5")));
}
