//! The page on the wire; `tests/browser.rs` has it in a browser.

use tests::{Process, http, wait_for};

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
        self.section(id).matches("<li value").count()
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

    let page = Page::get(&service2, "?name=Ada+Lovelace&length=0&stream_length=3000");
    assert_eq!(page.greeting(), "Hello Ada Lovelace!");
    assert_eq!((page.items("all"), page.items("streamed")), (0, 3000));
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
fn a_field_with_a_mistake_says_so_and_the_rest_of_the_page_is_there() {
    let (_service1, service2) = Process::pair(&[]);
    let cases = [
        ("length", "abc", "whole number"),
        ("length", "", "whole number"),
        ("length", "1e3", "whole number"),
        ("length", "99999999999", "whole number"),
        ("length", "-1", "0 or more"),
        ("length", "10001", "10000"),
        ("stream_length", "abc", "whole number"),
        ("stream_length", "-1", "0 or more"),
        ("stream_length", "100001", "100000"),
        ("name", "%ff", "UTF-8"),
        ("name", "a&name=b", "more than once"),
    ];
    for (field, value, hint) in cases {
        let page = Page::get(&service2, &format!("?{field}={value}"));
        assert_eq!(page.response.status, 400, "{field}={value}");
        assert!(
            page.text_after(&format!("id=\"{field}-mistake\">"))
                .contains(hint),
            "{field}={value}"
        );
        assert_eq!(page.html.matches("aria-invalid").count(), 1);
        let access = service2.access_line(page.response.id());
        assert_eq!(access.number("response_status"), Some(400.0));
        let whole = [
            field == "name" || page.greeting() == "Hello Gonzalo!",
            field == "length" || page.items("all") == 10,
            field == "stream_length" || page.items("streamed") == 5,
        ];
        assert_eq!(whole, [true; 3], "{field}={value}");
    }
    let page = Page::get(&service2, &format!("?name={}", "x".repeat(1025)));
    assert!(page.text_after("id=\"name-mistake\">").contains("is 1024"));
    let page = Page::get(&service2, "?name=%ff&length=abc&stream_length=-1");
    assert_eq!(page.html.matches("aria-invalid").count(), 3);
}

#[test]
fn the_page_is_shown_without_service1_too() {
    let (service1, service2) = Process::pair(&[("DEADLINE", "1s")]);
    service1.signal("STOP");
    let page = Page::get(&service2, "");
    assert_eq!(page.response.status, 504);
    let told = format!(
        "There was no response before the deadline; try again later. <span>Request id: <code>{}",
        page.response.id()
    );
    assert_eq!(page.html.matches(&told).count(), 3);

    drop(service1); // kill -9
    let page = wait_for("the channel to see it", || {
        let page = Page::get(&service2, "");
        (page.response.status == 503).then_some(page)
    });
    let told = format!(
        "can&#39;t be reached; try again. <span>Request id: <code>{}",
        page.response.id()
    );
    assert_eq!(page.html.matches(&told).count(), 3);
    let access = service2.access_line(page.response.id());
    assert_eq!(access.number("response_status"), Some(503.0));
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
    assert!(page.section("streamed").contains("before the deadline"));
    assert!(
        page.section("all")
            .contains("report it with the request_id")
    );
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
