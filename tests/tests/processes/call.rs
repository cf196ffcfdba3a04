//! The main task: one request, two services, one id.

use std::{collections::HashSet, thread};

use ::http::Method;
use tests::{Process, grpc, http, wait_for};

const SAY_HELLO: &str = "/api/v1/say-hello?name=test";

#[test]
fn say_hello_is_served_and_leaves_three_lines_with_its_id() {
    let (service1, service2) = Process::pair(&[]);
    let response = http::get(service2.http(), SAY_HELLO);
    assert_eq!(response.status, 200);
    assert_eq!(response.text(), "\"Hello, TEST!\"");
    assert_eq!(response.header("content-length"), Some("14"));
    assert_eq!(response.header("content-type"), Some("application/json"));
    let id = response.id().to_owned();
    assert_eq!(id.len(), 36);

    let access = service2.access_line(&id);
    assert_eq!(access.text("remote_address"), "127.0.0.1");
    assert_eq!(
        access.text("first_request_line"),
        format!("GET {SAY_HELLO} HTTP/1.1")
    );
    assert_eq!(access.number("response_status"), Some(200.0));
    assert_eq!(access.number("response_size"), Some(14.0));
    assert!(
        access
            .number("request_time_frac")
            .is_some_and(|seconds| seconds > 0.0)
    );

    let lines = &service2.terminate().log_by_id()[&id];
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[0].has(&[
        ("action", "say_hello"),
        ("status", "success"),
        ("hello", "Hello, TEST!"),
        ("name", "service2"),
    ]));
    let lines = &service1.terminate().log_by_id()[&id];
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].has(&[
        ("action", "process_name"),
        ("status", "success"),
        ("processed_name", "TEST"),
        ("name", "service1"),
    ]));
}

#[test]
fn names_are_upper_cased_by_the_rules_of_unicode_and_may_be_missing() {
    let (service1, service2) = Process::pair(&[]);
    let hello = |query: &str| {
        let response = http::get(service2.http(), &format!("/api/v1/say-hello{query}"));
        assert_eq!(response.status, 200);
        response.text().to_owned()
    };
    assert_eq!(hello("?name=stra%C3%9Fe"), "\"Hello, STRASSE!\"");
    assert_eq!(hello("?name=%22%5C"), r#""Hello, \"\\!""#);
    assert_eq!(hello("?name="), "\"Hello, !\"");
    assert_eq!(hello("?other=1"), "\"Hello, !\"");
    assert_eq!(hello(""), "\"Hello, !\"");
    assert_eq!(
        hello(&format!("?name={}", "a".repeat(1024))).len(),
        1024 + 10
    );

    let response = http::get(service1.http(), "/api/v1/name?name=test");
    assert_eq!(
        (response.status, response.text()),
        (200, r#"{"name":"TEST"}"#)
    );
    let response = grpc::process_name(service1.grpc(), "stra\u{df}e", &[]);
    assert_eq!(
        (response.code(), &response.body[5..]),
        (0, &b"\x0a\x07STRASSE"[..])
    );
}

#[test]
fn the_id_of_a_client_reaches_service1_whatever_the_case_of_the_header() {
    let (service1, service2) = Process::pair(&[]);
    for (number, header) in ["x-request-id", "X-Request-ID", "X-REQUEST-ID"]
        .iter()
        .enumerate()
    {
        let id = format!("order-{number}\"\\");
        let response = http::get_with(service2.http(), SAY_HELLO, &[(header, id.as_bytes())]);
        assert_eq!(response.id(), id);
        let access = service2.access_line(&id);
        assert_eq!(access.number("response_status"), Some(200.0));
        let line = service1.line(&[("request_id", &id)]);
        assert_eq!(line.text("action"), "process_name");
    }
    let longest = "~".repeat(128);
    let response = http::get_with(
        service2.http(),
        SAY_HELLO,
        &[("x-request-id", longest.as_bytes())],
    );
    assert_eq!(response.id(), longest);
}

#[test]
fn both_http_ports_speak_http2_without_tls() {
    let (service1, service2) = Process::pair(&[]);
    for (address, path, body) in [
        (service2.http(), SAY_HELLO, "\"Hello, TEST!\""),
        (
            service1.http(),
            "/api/v1/name?name=test",
            r#"{"name":"TEST"}"#,
        ),
    ] {
        let id = [("x-request-id", &b"over-http2"[..])];
        let response = grpc::request(address, Method::GET, path, &id, Vec::new());
        assert_eq!(
            (response.status.as_u16(), &response.body[..]),
            (200, body.as_bytes())
        );
        assert_eq!(response.headers["x-request-id"], "over-http2");
    }
    let access = service2.access_line("over-http2");
    assert_eq!(
        access.text("first_request_line"),
        format!("GET {SAY_HELLO} HTTP/2.0")
    );
}

#[test]
fn the_grpc_metadata_carries_the_id_both_ways_and_wins_over_the_http_header() {
    let service1 = Process::start("service1", &[]);
    let id = |headers: &[(&str, &[u8])]| {
        let response = grpc::process_name(service1.grpc(), "test", headers);
        assert_eq!(response.code(), 0);
        response.id().to_owned()
    };
    assert_eq!(id(&[("request_id", b"metadata")]), "metadata");
    assert_eq!(id(&[("x-request-id", b"header")]), "header");
    assert_eq!(
        id(&[("x-request-id", b"header"), ("request_id", b"metadata")]),
        "metadata"
    );
    assert_eq!(id(&[]).len(), 36);
}

#[test]
fn concurrent_requests_leave_three_lines_each_and_share_no_data() {
    const CLIENTS: usize = 200;
    let (service1, service2) = Process::pair(&[]);
    let address = service2.http();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            thread::spawn(move || {
                for round in 0..5 {
                    let (id, name) = (
                        format!("id-{client}-{round}"),
                        format!("name-{client}-{round}"),
                    );
                    let path = format!("/api/v1/say-hello?name={name}");
                    let response =
                        http::get_with(address, &path, &[("x-request-id", id.as_bytes())]);
                    assert_eq!(
                        response.text(),
                        format!("\"Hello, {}!\"", name.to_uppercase())
                    );
                    assert_eq!(response.id(), id);
                }
            })
        })
        .collect();
    for client in clients {
        client.join().expect("its responses are right");
    }
    let (log1, log2) = (
        service1.terminate().log_by_id(),
        service2.terminate().log_by_id(),
    );
    for client in 0..CLIENTS {
        for round in 0..5 {
            let id = format!("id-{client}-{round}");
            let name = format!("NAME-{client}-{round}");
            let (lines1, lines2) = (&log1[&id], &log2[&id]);
            assert_eq!((lines1.len(), lines2.len()), (1, 2), "{id}");
            assert_eq!(lines1[0].text("processed_name"), name);
            assert_eq!(lines2[0].text("hello"), format!("Hello, {name}!"));
            assert!(
                lines2[1]
                    .text("first_request_line")
                    .contains(&name.to_lowercase())
            );
        }
    }
}

#[test]
fn each_worker_opens_one_channel_and_keeps_it() {
    let (service1, service2) = Process::pair(&[("WORKERS", "3")]);
    let threads = |process: &Process| {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", process.pid())).expect("it runs");
        tasks
            .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok())
            .filter(|name| name.starts_with("worker-"))
            .collect::<HashSet<_>>()
    };
    assert_eq!(threads(&service1).len(), 3);
    assert_eq!(threads(&service2).len(), 3);
    // Each worker opens one channel, once: service2 has three connections, and a request opens no
    // other.
    let connections = || {
        let port = format!(":{:04X}", service1.grpc().port());
        let table = std::fs::read_to_string("/proc/net/tcp").expect("Linux");
        let columns =
            |line: &str| -> Vec<String> { line.split_whitespace().map(Into::into).collect() };
        let lines = table.lines().map(columns);
        lines
            .filter(|line| line[2].ends_with(&port) && line[3] == "01")
            .count()
    };
    wait_for("three channels", || (connections() == 3).then_some(()));
    for _ in 0..12 {
        assert_eq!(http::get(service2.http(), SAY_HELLO).status, 200);
    }
    assert_eq!(connections(), 3);
}
