//! The port for operators.

use std::{
    io::{Read, Write},
    net::TcpStream,
    thread,
    time::Duration,
};

use tests::{Process, http, wait_for};

#[test]
fn operators_have_a_port_of_their_own() {
    let (service1, service2) = Process::pair(&[
        ("MAX_IN_FLIGHT", "77"),
        ("MAX_CONNECTIONS", "777"), // the system may have fewer files than the default needs
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
        "<h1>answering</h1>",
        "MAX_IN_FLIGHT</th><td data-label=\"value\" class=\"long\">77</td><td data-label=\"from\">environment",
        "DEADLINE</th><td data-label=\"value\" class=\"long\">10s</td><td data-label=\"from\">default",
        "MESH_TLS_DIR</th><td data-label=\"value\" class=\"long\">not set: no TLS</td>",
        "OTEL_EXPORTER_OTLP_HEADERS</th><td data-label=\"value\" class=\"long\">hidden",
        &replica,
        "data-label=\"state\" class=\"long\">up for ",
    ] {
        assert!(page.text().contains(text), "{text} in {}", page.text());
    }
    for (metric, limit) in [
        ("requests_in_flight_limit", 77.0),
        ("connections_open_limit", 777.0),
    ] {
        assert!((service2.metric(metric) - limit).abs() < 0.1, "{metric}");
    }
    let memory = service2.metric("process_resident_memory_bytes");
    assert!(service2.metric("process_memory_limit_bytes") > memory);
}

#[test]
fn the_port_for_operators_refuses_foreign_host_names_and_reads_alone() {
    let service1 = Process::start("service1", &[("ADMIN_NAMES", "ops.example")]);
    let status = |method: &str, path: &str, host: &str| {
        let mut client = TcpStream::connect(service1.admin()).expect("it listens");
        let request = format!("{method} {path} HTTP/1.1\r\n{host}connection: close\r\n\r\n");
        client.write_all(request.as_bytes()).expect("it is sent");
        let mut response = String::new();
        client.read_to_string(&mut response).expect("it is text");
        response
    };
    for path in ["/status", "/metrics", "/readyz", "/", "/nowhere"] {
        let response = status("GET", path, "host: evil.example:9080\r\n");
        assert!(response.starts_with("HTTP/1.1 421 "), "{path}: {response}");
        assert!(response.contains("ADMIN_NAMES"), "{response}");
        assert!(!response.contains("MAX_IN_FLIGHT"), "{response}");
    }
    for host in [
        "host: ops.example\r\n",
        "host: 10.0.0.7:9080\r\n",
        "host: localhost:9080\r\n",
        "host: service1.mesh.svc.cluster.local\r\n",
    ] {
        let response = status("GET", "/status", host);
        assert!(response.starts_with("HTTP/1.1 200 "), "{host}: {response}");
    }
    for (target, host, code) in [
        ("http://evil.example/status", "host: localhost\r\n", 421),
        ("/status", "host: évil.example\r\n", 400),
        ("/status", "host: localhost\r\nhost: evil.example\r\n", 400),
    ] {
        let response = status("GET", target, host);
        let begin = format!("HTTP/1.1 {code} ");
        assert!(response.starts_with(&begin), "{response}");
        assert!(!response.contains("MAX_IN_FLIGHT"), "{response}");
    }
    for method in ["POST", "PUT", "DELETE", "PATCH"] {
        for path in ["/status", "/metrics", "/readyz", "/healthz", "/"] {
            let response = status(method, path, "host: localhost\r\n");
            assert!(
                response.starts_with("HTTP/1.1 405 "),
                "{method} {path}: {response}"
            );
        }
    }
}

/// The cells of a row of the page `/status`, by its first one.
fn row(page: &str, first: &str) -> Vec<String> {
    let begin = format!("<tr><th scope=\"row\">{first}</th>");
    let (_, row) = page
        .split_once(&begin)
        .unwrap_or_else(|| panic!("{first} in {page}"));
    let (row, _) = row.split_once("</tr>").expect("a row ends");
    let cells = row.split("<td").skip(1);
    let text = |cell: &str| {
        let (_, cell) = cell.split_once('>').expect("a tag ends");
        cell.trim_end_matches("</td>").to_owned()
    };
    cells.map(text).collect()
}

#[test]
fn the_status_has_the_last_minute_of_each_route_and_probes_come_last() {
    let (_service1, service2) = Process::pair(&[]);
    for _ in 0..20 {
        http::get(service2.http(), "/api/v1/say-hello?name=x");
    }
    let page = wait_for("all requests", || {
        let page = http::get(service2.admin(), "/status");
        let cells = row(page.text(), "GET /api/v1/say-hello");
        (cells.last().map(String::as_str) == Some("20")).then_some(page)
    });
    let page = page.text();
    let [rate, failed, median, p99, _all] = &row(page, "GET /api/v1/say-hello")[..] else {
        panic!("{page}");
    };
    assert!(rate.parse::<f64>().is_ok_and(|rate| rate > 0.0), "{rate}");
    assert_eq!(failed, "0");
    for percentile in [median, p99] {
        assert!(percentile.ends_with('s'), "{percentile}");
    }
    let calls = row(page, "app.grpc.Service1/ProcessName");
    assert_eq!(calls.last().map(String::as_str), Some("20"), "{page}");
    let place = |route: &str| page.find(&format!("<th scope=\"row\">{route}<"));
    assert!(place("GET /readyz") > place("GET /api/v1/say-hello"));
}

#[test]
fn the_status_says_what_is_wrong_with_a_replica_and_with_requests() {
    let (service1, service2) = Process::pair(&[("FAILFAST", "0s")]);
    let replica = service1.grpc().to_string();
    drop(service1);
    // Each worker learns of it by itself.
    let headline = "<h1>answering, but service1 can&#39;t be reached</h1>";
    let page = wait_for("the error on all workers", || {
        let page = http::get(service2.admin(), "/status");
        let text = page.text();
        (text.contains(headline) && text.contains("Connection refused")).then_some(page)
    });
    let trouble = format!("<li>Replica {replica} has been ");
    assert!(page.text().contains(&trouble), "{}", page.text());
    let failed = http::get(service2.http(), "/api/v1/say-hello?name=x");
    assert_eq!(failed.status, 503);
    let trouble = "1 of 1 requests to GET /api/v1/say-hello failed in the last minute.";
    wait_for("the failed request", || {
        let page = http::get(service2.admin(), "/status");
        page.text().contains(trouble).then_some(())
    });
}

#[test]
fn a_wrong_name_is_named_and_has_its_series() {
    let channel = "nowhere.invalid:50051";
    let service2 = Process::start("service2", &[("SERVICE1_CHANNEL", channel)]);
    let page = wait_for("the look-up", || {
        let page = http::get(service2.admin(), "/status");
        let trouble = "<li>nowhere.invalid:50051 (service1) can&#39;t be looked up: ";
        page.text().contains(trouble).then_some(page)
    });
    let headline = "<h1>not ready: service1 can&#39;t be reached</h1>";
    assert!(page.text().contains(headline), "{}", page.text());
    let metrics = http::get(service2.admin(), "/metrics");
    let series = "\nreplicas{replica=\"nowhere.invalid:50051\",state=\"up\"} 0\n";
    assert!(metrics.text().contains(series), "{}", metrics.text());
}

#[test]
fn the_status_reloads_itself_when_it_is_asked_to() {
    let service1 = Process::start("service1", &[]);
    let page = |query: &str| http::get(service1.admin(), &format!("/status{query}"));
    assert_eq!(page("").header("refresh"), None);
    let refreshed = page("?refresh=10");
    assert_eq!(refreshed.header("refresh"), Some("10"));
    assert!(refreshed.text().contains("The page reloads every 10 s"));
    for bad in ["0", "3601", "soon", "%zz"] {
        let page = page(&format!("?refresh={bad}"));
        assert_eq!((page.status, page.header("refresh")), (200, None), "{bad}");
        assert!(page.text().contains("The page does not reload"), "{bad}");
    }
}

#[test]
fn operators_are_served_while_the_workers_are_stuck_and_to_the_end_of_a_drain() {
    let fixture = Process::start("fixture", &[("WORKERS", "1"), ("DRAIN_TIMEOUT", "2s")]);
    let address = fixture.http();
    let stuck = http::send(address, b"GET /block HTTP/1.1\r\nhost: a\r\n\r\n");
    thread::sleep(Duration::from_millis(50)); // it blocks for a second
    let page = http::get(fixture.admin(), "/status");
    assert!(
        page.text().contains("<h1>answering</h1>"),
        "{}",
        page.text()
    );
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
