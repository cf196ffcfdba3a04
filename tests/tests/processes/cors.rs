//! `CORS_ORIGINS`: what other sites' scripts may read of service2. `tests/browser.rs` has it in a browser.

use tests::{Process, http, wait_for};

const SAY_HELLO: &str = "/api/v1/say-hello?name=test";
const SHOP: &str = "https://shop.example";
const ORIGINS: (&str, &str) = (
    "CORS_ORIGINS",
    "http://localhost:3000, https://shop.example",
);

fn ask(service2: &Process, method: &str, path: &str, headers: &[(&str, &str)]) -> http::Response {
    let headers: Vec<_> = headers
        .iter()
        .map(|(name, value)| (*name, value.as_bytes()))
        .collect();
    http::request(service2.http(), method, path, &headers, b"")
}

const PREFLIGHT: [(&str, &str); 3] = [
    ("origin", SHOP),
    ("access-control-request-method", "GET"),
    ("access-control-request-headers", "traceparent,x-request-id"),
];

/// Asserts that a script of this site may read the response.
fn assert_readable(response: &http::Response) {
    assert_eq!(response.header("access-control-allow-origin"), Some(SHOP));
    assert!(
        response
            .header("access-control-allow-credentials")
            .is_none()
    );
    let exposed = response.header("access-control-expose-headers");
    assert_eq!(exposed, Some("x-request-id,server-timing"));
    let vary = response.header("vary").expect("it differs for others");
    assert!(vary.contains("origin"), "{vary}");
    assert!(!response.id().is_empty());
}

#[test]
fn no_other_site_may_read_anything_by_default() {
    let (_service1, service2) = Process::pair(&[("CORS_ORIGINS", "")]);
    let response = ask(&service2, "GET", SAY_HELLO, &[("origin", SHOP)]);
    assert_eq!(response.status, 200);
    assert!(response.header("access-control-allow-origin").is_none());
    assert_eq!(ask(&service2, "OPTIONS", SAY_HELLO, &PREFLIGHT).status, 405);
}

#[test]
fn a_listed_site_may_read_every_response() {
    let (service1, service2) =
        Process::pair(&[ORIGINS, ("DEADLINE", "700ms"), ("FAILFAST", "100ms")]);
    let large = "a".repeat(17 * 1_024);
    let get = |path, further: &[(&str, &str)]| {
        let headers = [&[("origin", SHOP)], further].concat();
        ask(&service2, "GET", path, &headers)
    };
    let response = get(SAY_HELLO, &[]);
    assert_eq!(
        (response.status, response.text()),
        (200, "\"Hello, TEST!\"")
    );
    assert_readable(&response);
    assert!(response.header("server-timing").is_some());
    let failures = [
        (get("/nowhere", &[]), 404),
        (get("/api/v1/say-hello?name=%zz", &[]), 400),
        (get(SAY_HELLO, &[("x-large", &large)]), 431),
        (ask(&service2, "POST", SAY_HELLO, &[("origin", SHOP)]), 405),
    ];
    for (response, status) in failures {
        assert_eq!(response.status, status);
        response.problem();
        assert_readable(&response);
    }
    service1.signal("STOP");
    let late = get(SAY_HELLO, &[]);
    assert_eq!(late.status, 504);
    assert_readable(&late);
    service1.signal("CONT");
    drop(service1);
    // The first may still wait until its deadline for the replica to come back.
    let response = wait_for("a 503", || {
        Some(get(SAY_HELLO, &[])).filter(|response| response.status == 503)
    });
    response.problem();
    assert_readable(&response);
}

#[test]
fn a_site_that_is_not_listed_may_read_nothing() {
    let (_service1, service2) = Process::pair(&[ORIGINS]);
    for other in ["https://shop.example.org", "http://shop.example", "null"] {
        let response = ask(&service2, "GET", SAY_HELLO, &[("origin", other)]);
        assert_eq!(response.status, 200, "a browser keeps it from the script");
        assert!(response.header("access-control-allow-origin").is_none());
        assert!(
            response
                .header("vary")
                .is_some_and(|it| it.contains("origin"))
        );
    }
}

#[test]
fn a_preflight_has_an_id_and_an_access_line() {
    let (_service1, service2) = Process::pair(&[ORIGINS]);
    let response = ask(&service2, "OPTIONS", SAY_HELLO, &PREFLIGHT);
    assert_eq!((response.status, response.text()), (200, ""));
    assert_eq!(response.header("access-control-allow-origin"), Some(SHOP));
    assert_eq!(response.header("access-control-allow-methods"), Some("GET"));
    let headers = response.header("access-control-allow-headers");
    assert_eq!(headers, Some("x-request-id,traceparent"));
    assert!(
        response
            .header("access-control-allow-credentials")
            .is_none()
    );
    let line = service2.access_line(response.id());
    assert_eq!(line.number("response_status"), Some(200.0));
    assert_eq!(line.number("response_size"), Some(0.0));
    assert!(line.text("first_request_line").starts_with("OPTIONS "));
}

#[test]
fn a_bad_origin_is_one_line_that_names_it_and_exit_code_2() {
    for origins in [
        "*",
        "null",
        "https://shop.example/",
        "https://a.example,shop",
    ] {
        let ended = Process::spawn("service2", &[], &[("CORS_ORIGINS", origins)]).ended();
        assert_eq!(ended.status.code(), Some(2), "{origins}");
        assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
        for named in ["CORS_ORIGINS", origins.rsplit(',').next().expect("one")] {
            assert!(ended.stderr.contains(named), "{}", ended.stderr);
        }
        assert!(ended.log().is_empty());
    }
}
