//! The page on the wire; `tests/browser.rs` has it in a browser.

use std::collections::HashSet;

use tests::{Process, certificates::Certificates, http, wait_for};

/// A page, checked for what all pages have in common.
struct Page {
    response: http::Response,
    html: String,
}

impl Page {
    fn get(service2: &Process, query: &str) -> Self {
        let response = http::get(service2.http(), &format!("/{query}"));
        let html = if response.header("content-length").is_some() {
            response.text().to_owned()
        } else {
            let (html, whole) = response.chunked();
            assert!(whole, "{html}");
            html
        };
        assert_eq!(
            response.header("content-type"),
            Some("text/html; charset=utf-8")
        );
        assert!(
            html.starts_with("<!doctype html>") && html.ends_with("</html>\n"),
            "{html}"
        );
        assert!(!html.contains("<script") && !html.contains(" style="));
        assert!(html.contains("<nav aria-label=\"Pages\">"));
        let page = Self { response, html };
        assert_eq!(page.text_after("id=\"request-id\">"), page.response.id());
        page
    }

    /// The text between this mark and the next tag.
    fn text_after(&self, mark: &str) -> &str {
        let (_, rest) = self.html.split_once(mark).expect(mark);
        rest.split('<').next().expect("there is a tag")
    }

    /// The section with this id.
    fn section(&self, id: &str) -> &str {
        let (_, rest) = self.html.split_once(&format!("id=\"{id}\"")).expect(id);
        rest.split("</section>").next().expect("it ends")
    }

    fn items(&self, id: &str) -> usize {
        self.section(id).matches("<li>").count()
    }

    fn greeting(&self) -> &str {
        self.text_after("<bdi>")
    }
}

#[test]
fn the_page_greets_lists_and_streams_as_the_original() {
    let (service1, service2) = Process::pair(&[]);
    let page = Page::get(&service2, "");
    assert_eq!(page.response.status, 200);
    assert_eq!(page.greeting(), "Hello Gonzalo!");
    assert_eq!((page.items("all"), page.items("streamed")), (10, 5));
    let id = page.response.id();
    assert_eq!(
        page.text_after("id=\"trace\">"),
        format!("make trace ID={id}")
    );
    for method in ["sayHello", "getAll", "getStream"] {
        let (_, row) = page
            .section("calls")
            .split_once(&format!("<code>{method}</code></th><td>"))
            .expect(method);
        let millis = row.split(" ms</td>").next().expect("a time");
        assert!(millis.parse::<f64>().expect("a number") < 20_000.0);
    }
    let policy = page.response.header("content-security-policy");
    assert!(policy.is_some_and(|policy| policy.starts_with("default-src 'none'")));
    assert_eq!(page.response.header("cache-control"), Some("no-store"));
    for action in ["say_hello", "get_all", "get_stream"] {
        service1.line(&[
            ("action", action),
            ("status", "success"),
            ("request_id", id),
        ]);
    }
    let access = service2.access_line(id);
    assert_eq!(access.number("response_status"), Some(200.0));

    let page = Page::get(&service2, "?name=Ada+Lovelace&length=0&stream_length=300");
    assert_eq!(page.greeting(), "Hello Ada Lovelace!");
    assert_eq!((page.items("all"), page.items("streamed")), (0, 300));
}

#[test]
fn input_is_shown_as_text() {
    let (_service1, service2) = Process::pair(&[]);
    let page = Page::get(&service2, "?name=%3Cscript%3Ealert(1)%3C/script%3E");
    assert_eq!(
        page.greeting(),
        "Hello &#60;script&#62;alert(1)&#60;/script&#62;!"
    );
    let page = Page::get(&service2, "?name=%22%27%26&length=%22onfocus=x%20a=%22");
    assert_eq!(page.greeting(), "Hello &#34;&#39;&#38;!");
    assert!(page.html.contains("value=\"&#34;onfocus=x a=&#34;\""));
    let emoji = "%F0%9F%A6%80".repeat(256);
    let page = Page::get(&service2, &format!("?name={emoji}"));
    assert_eq!(page.greeting(), format!("Hello {}!", "🦀".repeat(256)));
    let page = Page::get(&service2, "?name=%D7%A9%D7%9C%D7%95%D7%9D");
    assert_eq!(page.greeting(), "Hello שלום!");
}

#[test]
fn the_page_is_whole_although_its_stream_broke_off() {
    let fixture = Process::start("fixture", &[]);
    let service2 = Process::service2(&fixture, &[("DEADLINE", "1s")]);
    // The fixture holds the fourth item back, and its list always fails.
    let page = Page::get(&service2, "?stream_length=5");
    assert_eq!(page.response.status, 502);
    assert_eq!(page.greeting(), "Gonzalo");
    assert_eq!(page.items("streamed"), 3);
    let streamed = page.section("streamed");
    assert!(streamed.contains("service1 did not respond before the deadline"));
    assert!(
        page.html
            .contains("service1 failed; report it with the request_id. There is no list.")
    );
    assert!(page.section("all").contains("There is no list."));
    let access = service2.access_line(page.response.id());
    assert_eq!(access.text("reason"), "", "the page itself did not break");

    assert_eq!(http::get(fixture.http(), "/release").status, 200);
    let page = Page::get(&service2, "?stream_length=20");
    assert_eq!(page.items("streamed"), 12);
    let streamed = page.section("streamed");
    assert!(streamed.contains("report it with the request_id"));
    assert!(!page.html.contains("the fixture's text"));
}

#[test]
fn a_field_with_a_mistake_says_so_once_and_the_rest_of_the_page_is_there() {
    let (_service1, service2) = Process::pair(&[]);
    let number = |label| format!("{label} must be a whole number from 0 to 1,000.");
    let cases = [
        ("length", "abc", number("Items in the list")),
        ("length", "", number("Items in the list")),
        ("length", "-1", number("Items in the list")),
        ("length", "10000", number("Items in the list")),
        ("stream_length", "abc", number("Items in the stream")),
        ("stream_length", "2147483647", number("Items in the stream")),
        (
            "stream_length",
            "99999999999",
            number("Items in the stream"),
        ),
        (
            "name",
            "%ff",
            "Name must be given once, as text in UTF-8.".into(),
        ),
        (
            "name",
            "a&name=b",
            "Name must be given once, as text in UTF-8.".into(),
        ),
        (
            "name",
            &"x".repeat(1025),
            "Name must have at most 1,024 characters.".into(),
        ),
    ];
    for (field, value, mistake) in &cases {
        let page = Page::get(&service2, &format!("?{field}={value}"));
        assert_eq!(page.response.status, 400, "{field}={value}");
        assert_eq!(
            page.text_after(&format!("id=\"{field}-mistake\">")),
            mistake
        );
        assert_eq!(page.html.matches(mistake).count(), 1);
        assert_eq!(page.html.matches("aria-invalid").count(), 1);
        assert!(!page.html.contains("role=\"alert\""));
        let access = service2.access_line(page.response.id());
        assert_eq!(access.number("response_status"), Some(400.0));
        let whole = [
            *field == "name" || page.greeting() == "Hello Gonzalo!",
            *field == "length" || page.items("all") == 10,
            *field == "stream_length" || page.items("streamed") == 5,
        ];
        assert_eq!(whole, [true; 3], "{field}={value}");
        assert_eq!(
            page.html.matches("was not asked for").count(),
            usize::from(*field != "name")
        );
        assert_eq!(
            page.section("calls").matches(" ms</td>").count(),
            2,
            "two calls were made"
        );
    }
    let page = Page::get(&service2, "?name=%ff&length=abc&stream_length=-1");
    assert_eq!(page.html.matches("aria-invalid").count(), 3);
    let page = Page::get(&service2, "?length=1000&stream_length=1000");
    assert_eq!((page.items("all"), page.items("streamed")), (1000, 1000));
    assert!(page.html.contains("0 to 1,000"), "the hint");
}

#[test]
fn the_page_is_shown_without_service1_too_and_tells_a_failure_once() {
    let (service1, service2) = Process::pair(&[("DEADLINE", "1s")]);
    service1.signal("STOP");
    let page = Page::get(&service2, "");
    assert_eq!(page.response.status, 504);
    let told = |failure: &str, page: &Page| {
        let missing = "There is no greeting, no list, no stream.";
        let id = page.response.id();
        let told = format!("{failure} {missing} <span>Request id: <code>{id}</code></span></p>");
        assert_eq!(page.html.matches(&told).count(), 1, "{}", page.html);
        assert_eq!(page.html.matches("role=\"alert\"").count(), 1);
    };
    told(
        "service1 did not respond before the deadline; try again later.",
        &page,
    );

    drop(service1); // kill -9
    let page = wait_for("the channel to see it", || {
        let page = Page::get(&service2, "");
        let is_seen = page.section("calls").matches("<td>not made</td>").count() == 3;
        (page.response.status == 503 && is_seen).then_some(page)
    });
    told("service1 can&#39;t be reached; try again.", &page);
    let access = service2.access_line(page.response.id());
    assert_eq!(access.number("response_status"), Some(503.0));
}

/// Sends a form, follows to the page of the finished request, and waits until the page has its access
/// line.
fn finished(service2: &Process, form: &http::Response) -> (String, String) {
    assert_eq!(form.status, 303);
    let path = form
        .header("location")
        .expect("it leads to a page")
        .to_owned();
    let html = wait_for("the access line", || {
        let page = http::get(service2.http(), &path);
        assert_eq!(page.status, 200);
        let html = page.text().to_owned();
        html.contains("response_status=303").then_some(html)
    });
    let (_, id) = html.split_once("id=\"request-id\">").expect("the id");
    assert_eq!(id.split('<').next(), Some(form.id()));
    (path, html)
}

/// The words of the rows of the waterfall.
fn rows(html: &str) -> Vec<&str> {
    let (_, rows) = html
        .split_once("<table class=\"way\">")
        .expect("a waterfall");
    let rows = rows.split("</table>").next().expect("it ends");
    let rows = rows.split("<th scope=\"row\">").skip(1);
    rows.map(|row| row.split("</small>").next().expect("a note"))
        .collect()
}

const RECENT: (&str, &str) = ("RECENT_REQUESTS", "on");
const FAULTS: (&str, &str) = ("FAULTS", "on");

#[test]
fn the_form_leads_to_a_page_of_the_finished_request() {
    let (service1, service2) = Process::pair(&[RECENT, ("DEADLINE", "10s")]);
    let form = http::get(service2.http(), "/?name=Ada&length=3&stream_length=2");
    let (path, html) = finished(&service2, &form);
    assert!(html.contains("<bdi>Hello Ada!</bdi>"));
    assert_eq!(html.matches("<li>name").count(), 5);
    assert!(!html.contains("<script") && !html.contains(" style="));
    let replica = service1.grpc();
    let rows = rows(&html);
    assert_eq!(rows.len(), 7, "{rows:?}");
    let left = rows[0].strip_prefix("service2, the edge <small>");
    let left = left.and_then(|left| left.strip_suffix(" s of 10.00 s were left"));
    let left: f64 = left.expect("what was left").parse().expect("a number");
    assert!((9.0..=10.0).contains(&left), "{rows:?}");
    for (call, method) in rows[1..].chunks(2).zip(["sayHello", "getAll", "getStream"]) {
        assert_eq!(call[0], format!("{method} <small>"));
        let begin = format!("first attempt on {replica} <small>OK, ");
        assert!(call[1].starts_with(&begin), "{}", call[1]);
        assert!(
            call[1].contains(" ms in service1; grpc-timeout 9."),
            "{}",
            call[1]
        );
    }
    for action in ["welcome", "get_all", "get_stream"] {
        assert!(html.contains(&format!("action={action} ")), "{action}");
    }
    assert!(html.contains(&format!("make trace ID={}", form.id())));

    // The same request again has another token; both pages are there.
    let headers: [(&str, &[u8]); 1] = [("x-request-id", b"order-17")];
    let tokens: HashSet<_> = (0..3)
        .map(|_| http::get_with(service2.http(), "/", &headers))
        .map(|form| form.header("location").expect("a page").to_owned())
        .collect();
    assert_eq!(tokens.len(), 3);
    for path in tokens.iter().chain([&path]) {
        assert_eq!(http::get(service2.http(), path).status, 200);
        assert_eq!(path.len(), "/requests/".len() + 32);
    }
}

#[test]
fn a_request_that_is_not_kept_any_more_is_a_404_that_says_what_to_do() {
    let (_service1, service2) = Process::pair(&[RECENT]);
    let first = http::get(service2.http(), "/");
    let first = first.header("location").expect("a page").to_owned();
    assert_eq!(http::get(service2.http(), &first).status, 200);
    for _ in 0..64 {
        assert_eq!(http::get(service2.http(), "/").status, 303);
    }
    for path in [&first, "/requests/order-17", "/requests/%00"] {
        let page = http::get(service2.http(), path);
        assert_eq!(page.status, 404);
        let html = page.text();
        for words in [
            "not kept any more",
            "64 requests",
            "64 KB",
            "Ask again",
            "make trace ID=",
        ] {
            assert!(html.contains(words), "{words}: {html}");
        }
    }
}

#[test]
fn the_finished_page_tells_mistakes_and_failures_too() {
    let (service1, service2) = Process::pair(&[RECENT, ("DEADLINE", "1s")]);
    let form = http::get(service2.http(), "/?length=abc");
    let (_, html) = finished(&service2, &form);
    assert!(html.contains("Items in the list must be a whole number"));
    assert_eq!(rows(&html).len(), 5, "two calls");
    drop(service1); // kill -9
    let html = wait_for("the channel to see it", || {
        let (_, html) = finished(&service2, &http::get(service2.http(), "/"));
        let is_seen = html.matches("no replica could take it").count() == 3;
        (is_seen && html.contains("can&#39;t be reached")).then_some(html)
    });
    assert_eq!(html.matches("service1 can&#39;t be reached").count(), 1);
    assert_eq!(rows(&html).len(), 4, "no attempt");
}

#[test]
fn without_the_settings_nothing_is_kept_and_nothing_can_be_posted() {
    let (_service1, service2) = Process::pair(&[]);
    let page = http::get(
        service2.http(),
        "/requests/0123456789abcdef0123456789abcdef",
    );
    assert_eq!(page.status, 404);
    page.problem();
    let page = Page::get(&service2, "");
    assert!(!page.html.contains("<button formmethod") && !page.html.contains("class=\"way\""));
    let post = http::request(service2.http(), "POST", "/", &[], b"fault=delay");
    assert_eq!(post.status, 405);
}

/// Presses a button of the page.
fn press(service2: &Process, fault: &str, headers: &[(&str, &[u8])]) -> http::Response {
    let body = format!("name=Ada&length=3&stream_length=2&fault={fault}");
    http::request(service2.http(), "POST", "/", headers, body.as_bytes())
}

#[test]
fn a_greeting_that_fails_once_is_retried() {
    let (service1, service2) = Process::pair(&[RECENT, FAULTS]);
    for service in [&service1, &service2] {
        let warning = service.line(&[("action", "faults"), ("status", "on")]);
        assert_eq!(warning.number("level"), Some(40.0));
    }
    let (_, html) = finished(&service2, &press(&service2, "fail-once", &[]));
    assert!(html.contains("<bdi>Hello Ada!</bdi>"));
    let rows = rows(&html);
    assert!(rows[1].starts_with("sayHello"), "{rows:?}");
    assert!(rows[2].starts_with("first attempt on ") && rows[2].contains("<small>UNAVAILABLE"));
    assert!(rows[3].starts_with("retry on ") && rows[3].contains("<small>OK"));
    assert_eq!(rows.len(), 8, "{rows:?}");
    assert!(html.contains("an attempt failed"), "the line of the retry");
}

#[test]
fn a_greeting_that_is_late_is_hedged_on_the_other_replica() {
    let replicas = [(); 2].map(|()| Process::start("service1", &[FAULTS]));
    let [one, other] = [0, 1].map(|index: usize| replicas[index].grpc().to_string());
    let channel = format!("{one},{other}");
    let variables = [RECENT, FAULTS, ("SERVICE1_CHANNEL", channel.as_str())];
    let service2 = Process::start("service2", &variables);
    service2.wait_until_ready();
    // Opening the page lets service2 learn what is usual, once both replicas are connected.
    let html = wait_for("a hedge", || {
        let (_, html) = finished(&service2, &press(&service2, "delay", &[]));
        html.contains("hedge on ").then_some(html)
    });
    let rows = rows(&html);
    assert!(
        rows[2].contains("given up, as another attempt was faster"),
        "{rows:?}"
    );
    assert!(
        rows[3].starts_with("hedge on ") && rows[3].contains("<small>OK"),
        "{rows:?}"
    );
    let of = |row: &str| row.contains(&format!("on {one} "));
    assert_ne!(of(rows[2]), of(rows[3]), "on the other replica");
}

#[test]
fn other_sites_press_no_button_and_unknown_faults_are_refused() {
    let (service1, service2) = Process::pair(&[RECENT, FAULTS]);
    for headers in [
        ("sec-fetch-site", &b"cross-site"[..]),
        ("origin", b"http://evil.example"),
    ] {
        let refused = press(&service2, "fail-once", &[headers]);
        assert_eq!(refused.status, 403);
        assert!(refused.problem().contains("another site"));
    }
    for headers in [
        ("sec-fetch-site", &b"same-origin"[..]),
        ("origin", b"http://test"),
    ] {
        assert_eq!(press(&service2, "fail-once", &[headers]).status, 303);
    }
    assert_eq!(press(&service2, "panic", &[]).status, 400);
    let not_a_form = http::request(service2.http(), "POST", "/", &[], b"\xff");
    assert_eq!(not_a_form.status, 400);
    assert!(
        service1
            .log()
            .iter()
            .all(|line| !line.has(&[("action", "panic")]))
    );
}

#[test]
fn faults_are_refused_with_certificates() {
    let certificates = Certificates::new();
    for service in ["service1", "service2"] {
        let directory = certificates.directory(service);
        let variables = [FAULTS, ("MESH_TLS_DIR", directory.as_str())];
        let ended = Process::spawn(service, &[], &variables).ended();
        assert_eq!(ended.status.code(), Some(2));
        assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
        for name in ["FAULTS", "MESH_TLS_DIR"] {
            assert!(ended.stderr.contains(name), "{}", ended.stderr);
        }
    }
}

#[test]
fn an_id_that_make_would_misread_is_quoted_for_the_shell() {
    let (_service1, service2) = Process::pair(&[]);
    let trace = |id: &str| {
        let headers: [(&str, &[u8]); 1] = [("x-request-id", id.as_bytes())];
        let response = http::get_with(service2.http(), "/", &headers);
        let (html, _) = response.chunked();
        let (_, rest) = html.split_once("id=\"trace\">").expect("it is there");
        rest.split('<')
            .next()
            .expect("it ends")
            .replace("&#39;", "'")
    };
    assert_eq!(trace("order-17"), "make trace ID=order-17");
    assert_eq!(trace("a$b"), "scripts/trace 'a$b'");
    assert_eq!(trace("it's"), r"scripts/trace 'it'\''s'");
}

#[test]
fn the_files_of_the_page_are_served() {
    let (_service1, service2) = Process::pair(&[]);
    for (path, media_type) in [
        ("/page.css", "text/css; charset=utf-8"),
        ("/favicon.ico", "image/svg+xml"),
    ] {
        let response = http::get(service2.http(), path);
        assert_eq!(response.status, 200);
        assert_eq!(response.header("content-type"), Some(media_type));
        let links = Page::get(&service2, "").html.matches(path).count();
        assert_eq!(links, 1, "{path}");
    }
}
