//! Bad input gets a clear response with the id, and nothing is lost.

use ::http::Method;
use tests::{Process, grpc, http};

#[test]
fn an_unusable_request_id_is_replaced_with_one_warning_and_never_shown() {
    // In each value but the empty one, as text that no escaping changes.
    const SECRET: &str = "never-shown";
    let (service1, service2) = Process::pair(&[]);
    let too_long = SECRET.repeat(12);
    for (value, reason) in [
        (&b""[..], "it is empty"),
        (too_long.as_bytes(), "it is longer than 128 bytes"),
        (
            b"never-shown in words",
            "it has bytes other than visible ASCII",
        ),
        (
            b"a tab\tnever-shown",
            "it has bytes other than visible ASCII",
        ),
        (
            b"l\xC3\xADnea-never-shown",
            "it has bytes other than visible ASCII",
        ),
        (
            b"\xFF\xFEnever-shown",
            "it has bytes other than visible ASCII",
        ),
    ] {
        let response = http::get_with(
            service2.http(),
            "/api/v1/say-hello?name=test",
            &[("x-request-id", value)],
        );
        assert_eq!(response.status, 200);
        let id = response.id();
        assert_eq!(id.len(), 36, "{value:?}");
        assert_eq!(
            service2.access_line(id).number("response_status"),
            Some(200.0)
        );
        let lines = service2.log_of(id);
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert!(lines[0].has(&[
            ("action", "request_id"),
            ("status", "replaced"),
            ("reason", reason)
        ]));
        assert_eq!(lines[0].number("level"), Some(40.0));
        let shown = format!("{:?} {}", response.headers, response.text());
        assert!(!shown.contains(SECRET), "{shown}");
    }
    for service in [service1, service2] {
        let log = service.terminate().stdout.join("\n");
        assert!(log.contains("request_id") && !log.contains(SECRET), "{log}");
    }
}

#[test]
fn an_id_that_is_sent_twice_is_replaced() {
    let (service1, service2) = Process::pair(&[]);
    let twice: [(&str, &[u8]); 2] = [("x-request-id", b"one"), ("X-Request-Id", b"one")];
    let response = http::get_with(service2.http(), "/api/v1/say-hello?name=test", &twice);
    assert_eq!((response.status, response.id().len()), (200, 36));
    assert_eq!(
        service2
            .access_line(response.id())
            .number("response_status"),
        Some(200.0)
    );
    assert_eq!(
        service2.log_of(response.id())[0].text("reason"),
        "it was sent more than once"
    );
    let twice: [(&str, &[u8]); 2] = [("request_id", b"one"), ("request_id", b"two")];
    let response = grpc::process_name(service1.grpc(), "test", &twice);
    assert_eq!((response.code(), response.id().len()), (0, 36));
    for log in [service1, service2].map(|service| service.terminate().log_by_id()) {
        assert!(log.len() > 1 && !log.contains_key("one"), "{log:?}");
    }
}

#[test]
fn a_name_over_the_limit_is_refused_on_all_faces_with_the_limit() {
    let (service1, service2) = Process::pair(&[]);
    let name = "é".repeat(1025);
    let encoded = "%C3%A9".repeat(1025);
    for (address, path) in [
        (service2.http(), format!("/api/v1/say-hello?name={encoded}")),
        (service1.http(), format!("/api/v1/name?name={encoded}")),
    ] {
        let response = http::get(address, &path);
        assert_eq!(response.status, 400);
        let detail = response.problem();
        assert!(
            detail.contains("1025 characters") && detail.contains("is 1024"),
            "{detail}"
        );
    }
    let response = grpc::process_name(service1.grpc(), &name, &[("request_id", b"too-long")]);
    assert_eq!((response.code(), response.id()), (3, "too-long"));
    assert!(
        response.message().contains("is%201024"),
        "{}",
        response.message()
    );
    let access = service1.access_line("too-long");
    assert_eq!(access.text("grpc_code"), "INVALID_ARGUMENT");
    assert_eq!(access.number("level"), Some(30.0));
    // A client's fault is no warning, in no line of either service.
    for service in [&service1, &service2] {
        for line in service
            .log()
            .iter()
            .filter(|it| !it.text("action").is_empty())
        {
            assert_eq!(line.number("level"), Some(30.0), "{line:?}");
        }
    }
    // Far over the limit, and still a problem document.
    for length in [2_000, 15_000] {
        let path = format!("/api/v1/say-hello?name={}", "a".repeat(length));
        let response = http::get(service2.http(), &path);
        assert_eq!(response.status, 400);
        assert!(response.problem().contains(&format!("{length} characters")));
    }
}

#[test]
fn the_access_line_of_a_request_of_any_length_is_short() {
    let service1 = Process::start("service1", &[]);
    let (long, quotes) = ("x".repeat(15_000), "\"".repeat(15_000));
    for (id, method, target, shown) in [
        ("target", "GET", &*format!("/nope?{long}"), "GET /nope?x"),
        ("quotes", "GET", &format!("/{quotes}"), "GET /\""),
        ("method", &long, "/nope", "xxx"),
    ] {
        let head = format!("{method} {target} HTTP/1.1\r\nhost: a\r\nx-request-id: {id}\r\n\r\n");
        let _open = http::send(service1.http(), head.as_bytes());
        let access = service1.access_line(id);
        assert_eq!(access.number("response_status"), Some(404.0));
        let line = access.text("first_request_line");
        assert!(line.starts_with(shown), "{line}");
        assert!(line.contains('…') && line.ends_with(" HTTP/1.1"), "{line}");
        assert!(line.len() < 1_100, "{line}");
    }
}

#[test]
fn a_query_that_cannot_be_read_is_refused() {
    let (_service1, service2) = Process::pair(&[]);
    for (query, why) in [
        ("name=a&name=b", "more than once"),
        ("name=a&n%61me=b", "more than once"),
        ("name=%zz", "not percent-encoded UTF-8"),
        ("name=%", "not percent-encoded UTF-8"),
        ("name=%ff", "not percent-encoded UTF-8"),
        ("name=%C3%28", "not percent-encoded UTF-8"),
    ] {
        let response = http::get(service2.http(), &format!("/api/v1/say-hello?{query}"));
        assert_eq!(response.status, 400, "{query}");
        assert!(response.problem().contains(why), "{query}");
    }
}

#[test]
fn unknown_paths_wrong_methods_and_long_bodies_are_problems() {
    let (_service1, service2) = Process::pair(&[]);
    let address = service2.http();
    let response = http::get(address, "/api/v1/nope");
    assert_eq!(response.status, 404);
    response.problem();
    let response = http::request(address, "DELETE", "/api/v1/say-hello", &[], b"");
    assert_eq!(
        (response.status, response.header("allow")),
        (405, Some("GET,HEAD"))
    );
    response.problem();
    let with_body = |length| {
        let body = vec![0; length];
        http::request(address, "GET", "/api/v1/say-hello", &[], &body)
    };
    assert_eq!(with_body(64 * 1024).status, 200);
    let response = with_body(64 * 1024 + 1);
    assert_eq!(response.status, 413);
    assert!(response.problem().contains("65536 bytes"));
    let response = http::request(
        address,
        "HEAD",
        "/api/v1/say-hello?name=test",
        &[("x-request-id", b"head")],
        b"",
    );
    assert_eq!(
        (response.status, response.text(), response.id()),
        (200, "", "head")
    );
    assert_eq!(
        service2.access_line("head").number("response_status"),
        Some(200.0)
    );
}

#[test]
fn a_client_that_sends_all_of_a_long_body_first_still_gets_its_response() {
    let fixture = Process::start("fixture", &[]);
    let body = vec![b'x'; 8 * 1024 * 1024];
    let chunks = [b"800000\r\n", &body[..], b"\r\n0\r\n\r\n"].concat();
    for (framing, body) in [
        ("content-length: 8388608", &body),
        ("transfer-encoding: chunked", &chunks),
    ] {
        for (path, status) in [("/echo", 413), ("/nope", 404)] {
            let head = format!(
                "POST {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n{framing}\r\n\r\n"
            );
            let request = [head.as_bytes(), body].concat();
            let response = http::read(http::send(fixture.http(), &request)).expect("a response");
            // A body with a length is refused before its path is looked at.
            let refused = framing.starts_with("content-length");
            assert_eq!(
                response.status,
                if refused { 413 } else { status },
                "{framing} {path}"
            );
            response.problem();
        }
    }
}

#[test]
fn bare_errors_of_handlers_become_problems_and_the_text_of_a_5xx_is_for_the_log_alone() {
    let fixture = Process::start("fixture", &[]);
    let response = http::get(fixture.http(), "/bare/418");
    assert_eq!(
        (response.status, response.problem().as_str()),
        (418, "what the handler said")
    );
    for (path, text) in [
        ("/bare/500", "what the handler said"),
        ("/extension", "Missing request extension"),
    ] {
        let response = http::get(fixture.http(), path);
        assert_eq!(response.status, 500);
        assert!(!response.problem().contains(text));
        let id = ("request_id", response.id());
        let line = fixture.line(&[id, ("action", "request"), ("status", "failure")]);
        assert!(line.text("reason").contains(text), "{line:?}");
        assert_eq!(line.number("level"), Some(50.0));
    }
}

#[test]
fn an_unknown_grpc_method_and_a_malformed_message_get_a_status_with_the_id() {
    let service1 = Process::start("service1", &[]);
    let id: [(&str, &[u8]); 1] = [("request_id", b"bad")];
    for path in ["/app.grpc.Service1/Nope", "/nope.Nope/Nope", "/"] {
        let response = grpc::call(service1.grpc(), path, &id, b"");
        assert_eq!((response.code(), response.id()), (12, "bad"), "{path}");
    }
    let response = grpc::call(
        service1.grpc(),
        "/app.grpc.Service1/ProcessName",
        &id,
        b"\xFF\xFF\xFF",
    );
    assert!([3, 13].contains(&response.code()), "{}", response.code());
    assert_eq!(response.id(), "bad");
    // The name is not UTF-8.
    let response = grpc::call(
        service1.grpc(),
        "/app.grpc.Service1/ProcessName",
        &id,
        b"\x0A\x01\xFF",
    );
    assert!([3, 13].contains(&response.code()), "{}", response.code());
    // The HTTP port treats a gRPC call as HTTP; the gRPC port refuses whatever is no call.
    let response = grpc::process_name(service1.http(), "test", &id);
    assert_eq!(response.status, 404);
    assert_eq!(response.headers["content-type"], "application/problem+json");
    let json: [(&str, &[u8]); 1] = [("content-type", b"application/grpc+json")];
    for (method, headers, status) in [(Method::POST, &json, 415), (Method::GET, &json, 405)] {
        let path = "/app.grpc.Service1/ProcessName";
        let response = grpc::request(service1.grpc(), method, path, headers, Vec::new());
        assert_eq!(response.status, status);
        assert!(response.headers.contains_key("x-request-id"));
    }
    for path in ["/", "/app.grpc.Service1/ProcessName"] {
        let response = http::request(service1.grpc(), "POST", path, &[], b"{}");
        assert_eq!(response.status, 415);
        response.problem();
    }
}

#[test]
fn two_messages_of_a_unary_call_and_a_long_one_are_refused_before_they_are_read() {
    let service1 = Process::start("service1", &[]);
    let call = |body: Vec<u8>| {
        let headers: [(&str, &[u8]); 1] = [("content-type", b"application/grpc")];
        let path = "/app.grpc.Service1/ProcessName";
        grpc::request(service1.grpc(), Method::POST, path, &headers, body)
    };
    let empty = [0; 5];
    assert_eq!(call(empty.to_vec()).code(), 0);
    let response = call([empty, empty].concat());
    assert_eq!(response.code(), 3);
    assert!(
        response.message().contains("one%20message"),
        "{}",
        response.message()
    );
    // Only the length of a message, and nothing of the message itself.
    let response = call(vec![0, 0, 1, 0, 1]);
    assert_eq!(response.code(), 8);
    assert!(
        response.message().contains("65536"),
        "{}",
        response.message()
    );
}

#[test]
fn ambiguous_http_1_requests_are_refused() {
    let (_service1, service2) = Process::pair(&[]);
    let path = "/api/v1/say-hello?name=x";
    let ask = |method: &str, target: &str, headers: &str| {
        let request = format!("{method} {target} HTTP/1.1\r\nconnection: close\r\n{headers}\r\n");
        http::read(http::send(service2.http(), request.as_bytes())).expect("a response")
    };
    for (headers, status) in [
        ("host: a\r\n", 200),
        ("", 400),
        ("host: a\r\nhost: a\r\n", 400),
        ("host: a b\r\n", 400),
        ("host: a\r\ntransfer-encoding: gzip, chunked\r\n", 501),
    ] {
        let response = ask("GET", path, headers);
        assert_eq!(response.status, status, "{headers:?}");
        assert!(!response.id().is_empty());
    }
    let response = ask("OPTIONS", "*", "host: a\r\n");
    assert_eq!(response.status, 204);
    assert!(
        response
            .header("allow")
            .is_some_and(|allow| allow.contains("GET"))
    );
}

#[test]
fn an_unusable_grpc_timeout_is_ignored_with_a_warning() {
    let service1 = Process::start("service1", &[]);
    for timeout in ["", "soon", "10", "100000000S", "-1S", "10s"] {
        let headers: [(&str, &[u8]); 1] = [("grpc-timeout", timeout.as_bytes())];
        let response = grpc::process_name(service1.grpc(), "test", &headers);
        assert_eq!(response.code(), 0, "{timeout}");
        let warning = service1.line(&[("request_id", response.id()), ("action", "grpc_timeout")]);
        assert_eq!(
            (warning.text("status"), warning.number("level")),
            ("ignored", Some(40.0))
        );
    }
}

#[test]
fn what_a_caller_can_make_is_no_failure_of_the_service() {
    let service1 = Process::start("service1", &[]);
    let no_time: [(&str, &[u8]); 1] = [("grpc-timeout", b"0n")];
    for (id, body, headers, code) in [
        ("malformed", &b"\0\0\0\0\x07\x0a\x7fshort"[..], &[][..], 3),
        ("not-utf-8", b"\0\0\0\0\x03\x0a\x01\xff", &[], 3),
        ("falsely-compressed", b"\x01\0\0\0\0", &[], 3),
        ("half", b"\0\0\0\0\x03\x0a", &[], 3),
        ("missing", b"", &[], 3),
        ("no-time", b"\0\0\0\0\0", &no_time, 4),
    ] {
        let own: [(&str, &[u8]); 3] = [
            ("content-type", b"application/grpc"),
            ("te", b"trailers"),
            ("request_id", id.as_bytes()),
        ];
        let headers = [&own, headers].concat();
        let path = "/app.grpc.Service1/ProcessName";
        let response = grpc::request(service1.grpc(), Method::POST, path, &headers, body.to_vec());
        assert_eq!(response.code(), code, "{id} {}", response.message());
        assert!(!response.headers.contains_key("mesh-malformed"));
        let access = service1.access_line(id);
        assert_eq!(access.number("level"), Some(30.0), "{access:?}");
    }
    let metrics = http::get(service1.admin(), "/metrics");
    let count_of = |code| {
        format!(
            "rpc_server_duration_seconds_count{{rpc_method=\"app.grpc.Service1/ProcessName\",\
             rpc_grpc_status_code=\"{code}\"}} 5\n"
        )
    };
    assert!(metrics.text().contains(&count_of(3)));
    assert!(!metrics.text().contains("rpc_grpc_status_code=\"4\""));
    assert!(metrics.text().contains("requests_expired_total 1\n"));
}

#[test]
fn a_grpc_timeout_of_zero_ends_at_once_and_one_of_years_is_capped() {
    let fixture = Process::start("fixture", &[("DEADLINE", "3s")]);
    let with = |timeout: &'static [u8]| [("grpc-timeout", timeout)];
    let response = grpc::process_name(fixture.grpc(), "remaining", &with(b"0u"));
    assert_eq!(response.code(), 4);
    assert_eq!(response.id().len(), 36);
    let remaining = |timeout| {
        let response = grpc::process_name(fixture.grpc(), "remaining", &with(timeout));
        assert_eq!(response.code(), 0);
        String::from_utf8_lossy(&response.body[7..])
            .parse::<u32>()
            .expect("milliseconds")
    };
    assert!((1..=3_000).contains(&remaining(b"99999999H")));
    assert!((1..=2_000).contains(&remaining(b"2S")));
}

#[test]
fn bytes_that_are_not_http_end_their_connection_and_nothing_else() {
    let (_service1, service2) = Process::pair(&[]);
    for bytes in [
        &b"\0\0\0\0\r\n\r\n"[..],
        b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
        b"GET\r\n\r\n",
    ] {
        let connection = http::send(service2.http(), bytes);
        http::read_to_end(connection).expect("the connection ends");
    }
    let response = grpc::request(service2.http(), Method::GET, "/healthz", &[], Vec::new());
    assert_eq!(response.status, 200);
}

#[test]
fn headers_over_the_limit_are_refused_with_a_grpc_status() {
    let service1 = Process::start("service1", &[]);
    let large = vec![b'a'; 17_000];
    let headers: [(&str, &[u8]); 2] = [("request_id", b"too-large"), ("x-large", &large)];
    let response = grpc::process_name(service1.grpc(), "test", &headers);
    assert_eq!((response.code(), response.id()), (8, "too-large"));
    assert!(response.trailers.is_empty(), "one block of headers");
    let access = service1.access_line("too-large");
    assert_eq!(access.text("grpc_code"), "RESOURCE_EXHAUSTED");
}
