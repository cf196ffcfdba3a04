//! What a client got is what the log, the metrics and the span say: for every shape of body and every
//! error of the stack, over each version of HTTP, with and without a body, below the usual layers.
//!
//! The client is curl, and the service is a process; then both are in the process of the test.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use ::http::{Request, Version};
use axum::{Router, body::Body, routing::post};
use bytes::Bytes;
use common::{
    Config,
    server::{self, InMemory, Listener},
};
use http_body_util::BodyExt;
use prost::Message;
use tests::{
    Process, Record, http, serve_aside,
    shapes::{self, LAYERS},
    wait_for,
};
use tower::ServiceExt;

/// The versions of HTTP, as curl has them.
const VERSIONS: [&str; 3] = ["--http1.0", "--http1.1", "--http2-prior-knowledge"];

const DEADLINE: Duration = Duration::from_millis(300);

/// How a response should be, whatever the layers and the version.
#[derive(Debug, Clone, Copy)]
struct Shape {
    path: &'static str,
    /// What curl is to send.
    sends: Sends,
    status: u16,
    /// Why the response is not whole, as in the metrics.
    cut_by: Option<&'static str>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Sends {
    Nothing,
    /// A body that is longer than the limit.
    Body,
    /// A head that is longer than the limit.
    Head,
}

const fn whole(path: &'static str, status: u16) -> Shape {
    Shape {
        path,
        sends: Sends::Nothing,
        status,
        cut_by: None,
    }
}

const fn cut(path: &'static str, by: &'static str) -> Shape {
    Shape {
        cut_by: Some(by),
        ..whole(path, 200)
    }
}

const fn refused(path: &'static str, status: u16, sends: Sends) -> Shape {
    Shape {
        sends,
        ..whole(path, status)
    }
}

const SHAPES: [Shape; 16] = [
    // From the handler.
    whole("one", 200),
    whole("json", 200),
    whole("stream", 200),
    whole("sized", 200),
    whole("empty", 200),
    whole("trailers", 200),
    cut("short", "broken_off"),
    cut("error", "broken_off"),
    cut("late", "deadline"),
    // From the stack.
    whole("nowhere", 404),
    whole("post", 405),
    refused("one", 413, Sends::Body),
    refused("one", 431, Sends::Head),
    whole("panic", 500),
    // All places for long-lived requests are taken.
    whole("endless", 503),
    whole("hang", 504),
];

/// Takes a place for long-lived requests until the drain.
const DRAINED: Shape = cut("endless", "drain");

/// A request, which is also its id.
#[derive(Debug, Clone, Copy)]
struct Row {
    layers: &'static str,
    version: &'static str,
    is_head: bool,
    shape: Shape,
}

/// The level of a line at `debug`.
const DEBUG: u64 = 20;

/// What curl says of a response.
#[derive(Debug)]
struct Got {
    status: u16,
    size: u64,
    is_whole: bool,
}

impl Row {
    fn id(&self) -> String {
        let Shape { path, status, .. } = self.shape;
        let by = self.shape.cut_by.unwrap_or("whole");
        let method = self.method();
        let (layers, version) = (self.layers, self.version.trim_start_matches('-'));
        format!("{method}:{layers}/{path}:{status}:{by}:{version}")
    }

    fn method(&self) -> &'static str {
        if self.is_head { "HEAD" } else { "GET" }
    }

    /// The route, as in the metrics.
    fn route(&self) -> String {
        match self.shape.status {
            404 => "other".to_owned(),
            _ => format!("/{}/{}", self.layers, self.shape.path),
        }
    }

    /// Why the response is not whole. One without a body always is.
    fn cut_by(&self) -> Option<&'static str> {
        // A compression sends no length.
        let is_whole = self.is_head || (self.shape.path == "short" && self.layers == "gzip");
        self.shape.cut_by.filter(|_| !is_whole)
    }

    /// Sends the request. The body of the response goes to a file.
    fn send(&self, server: SocketAddr, body: &Path) -> Child {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--max-time", "20", "--write-out"])
            .args([
                "%{http_code} %{size_download}",
                self.version,
                "--compressed",
            ])
            .args([
                "--header",
                "origin: http://a.example",
                "--header",
                "te: trailers",
            ])
            .args(["--header", &format!("x-request-id: {}", self.id())])
            .arg("--output")
            .arg(body);
        let long = ["--header", &format!("x-long: {}", "x".repeat(16 * 1_024))];
        curl.args(match (self.shape.sends, self.is_head) {
            (Sends::Nothing, _) => &[][..],
            (Sends::Body, false) => &["--request", "GET", "--data", "0123456789"],
            (Sends::Body, true) => &["--header", "content-length: 10"],
            (Sends::Head, _) => &long,
        });
        if self.is_head {
            curl.arg("--head");
        }
        let url = format!("http://{server}/{}/{}", self.layers, self.shape.path);
        curl.arg(url)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("curl is there")
    }

    /// Compares what the client got with what should be, and with what the log and the span say.
    fn check(&self, got: &Got, line: &Record, span: Option<&Span>) -> Vec<String> {
        let logged = |key| line.integer(key).unwrap_or_default();
        let (status, size) = (logged("response_status"), logged("response_size"));
        let cut_by = self.cut_by();
        let is_fault = cut_by.is_some() || self.shape.status >= 500;
        // A refused request has neither span nor line at the usual level, but for one a second.
        let is_quiet = line.integer("level") == Some(DEBUG);
        let has_span = |is_right: &dyn Fn(&Span) -> bool| span.map_or(is_quiet, is_right);
        let checks = [
            // Over HTTP/2, curl may not tell the head of a response that breaks off at once.
            (
                "the client's status",
                got.status == self.shape.status || (cut_by.is_some() && got.status == 0),
            ),
            ("whole for the client", got.is_whole == cut_by.is_none()),
            ("the line's status", status == u64::from(self.shape.status)),
            (
                "the line's reason",
                line.text("reason").is_empty() == cut_by.is_none(),
            ),
            (
                "the line's size",
                size == got.size || (cut_by.is_some() && size > got.size),
            ),
            ("no body", !self.is_head || size == 0),
            (
                "the span's status",
                has_span(&|span| span.number("http.response.status_code") == Some(status)),
            ),
            (
                "the span's error",
                has_span(&|span| span.is_error() == is_fault),
            ),
        ];
        let wrong = checks.into_iter().filter(|(_, is_right)| !is_right);
        wrong
            .map(|(what, _)| format!("{}: {what}: {got:?} {line:?} {span:?}", self.id()))
            .collect()
    }
}

fn got(curl: Child) -> Got {
    let output = curl.wait_with_output().expect("curl ends");
    let said = str::from_utf8(&output.stdout).expect("two numbers");
    let (status, size) = said.split_once(' ').expect("two numbers");
    Got {
        status: status.parse().expect("a status"),
        size: size.parse().expect("a size"),
        is_whole: output.status.success(),
    }
}

fn rows_of(shape: Shape) -> impl Iterator<Item = Row> {
    let each =
        |layers| VERSIONS.map(|version| [false, true].map(|is_head| (layers, version, is_head)));
    let all = LAYERS.into_iter().flat_map(each).flatten();
    all.map(move |(layers, version, is_head)| Row {
        layers,
        version,
        is_head,
        shape,
    })
    // Over HTTP/2, curl 7.88 sends no body with HEAD, and loses a response that comes before its body
    // has left. The unit tests of the server have these two.
    .filter(|row| row.shape.sends != Sends::Body || row.version != VERSIONS[2])
}

#[test]
fn what_a_client_got_is_what_the_service_says() {
    let spans = Spans::collect();
    let long_lived: Vec<_> = rows_of(DRAINED).filter(|row| !row.is_head).collect();
    // A quarter of the places are for long-lived requests.
    let places = (4 * long_lived.len()).to_string();
    let service = Process::start(
        "shapes",
        &[
            ("DEADLINE", &format!("{}ms", DEADLINE.as_millis())),
            ("DRAIN_DELAY", "0s"),
            ("MAX_IN_FLIGHT", &places),
            ("RUST_LOG", "common::server::layers::access=debug"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &spans.endpoint),
        ],
    );
    let directory = tempfile::tempdir().expect("a directory");
    let file_of = |row: &Row| directory.path().join(row.id().replace('/', "-"));
    let server = service.http();
    let send = |row: &Row| row.send(server, &file_of(row));

    let drained: Vec<_> = long_lived.iter().map(|row| (*row, send(row))).collect();
    for row in &long_lived {
        wait_for("the stream", || {
            let begun = fs::metadata(file_of(row)).is_ok_and(|file| file.len() > 0);
            begun.then_some(())
        });
    }
    let rows: Vec<_> = SHAPES.into_iter().flat_map(rows_of).collect();
    let mut all = Vec::new();
    for some in rows.chunks(8) {
        let curls: Vec<_> = some.iter().map(|row| (*row, send(row))).collect();
        all.extend(curls.into_iter().map(|(row, curl)| (row, got(curl))));
    }
    let mut expected = BTreeMap::<_, u64>::new();
    for row in &rows {
        *expected.entry(series(row)).or_default() += 1;
    }
    wait_for("the metrics", || {
        (counts(&service) == expected).then_some(())
    });

    service.signal("TERM");
    all.extend(drained.into_iter().map(|(row, curl)| (row, got(curl))));
    let log = service.ended().log_by_id();
    let spans = spans.by_id();
    let line_of = |id: &str| {
        let mut lines = log.get(id)?.iter();
        lines.find(|line| !line.text("first_request_line").is_empty())
    };
    let mut wrong = Vec::new();
    for (row, got) in &all {
        let id = row.id();
        match line_of(&id) {
            Some(line) => wrong.extend(row.check(got, line, spans.get(&id))),
            None => wrong.push(format!("{id}: no line: {got:?}")),
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        all.len(),
        wrong.join("\n")
    );
}

#[tokio::test(start_paused = true)]
async fn the_stack_alone_gives_the_same() {
    let config = Config {
        deadline: DEADLINE,
        ..Config::default()
    };
    let service = InMemory::new(&config, |_process| [shapes::listener(0)]);
    let stack = service.expect("it is valid").stack(0);
    let rows = SHAPES.into_iter().flat_map(rows_of);
    // No request has a body here, and none is in flight.
    for row in rows.filter(|row| ![413, 503].contains(&row.shape.status)) {
        let long = "x".repeat(if row.shape.sends == Sends::Head {
            16 * 1_024
        } else {
            0
        });
        let request = Request::builder()
            .method(row.method())
            .uri(format!("/{}/{}", row.layers, row.shape.path))
            .version(match row.version {
                "--http1.0" => Version::HTTP_10,
                "--http1.1" => Version::HTTP_11,
                _ => Version::HTTP_2,
            })
            .header("accept-encoding", "gzip")
            .header("x-long", long)
            .body(Body::empty());
        let response = stack.clone().oneshot(request.expect("a request")).await;
        let (head, mut body) = response.expect("a response").into_parts();
        let (mut size, mut is_whole) = (0, true);
        while let Some(frame) = body.frame().await {
            match frame {
                Ok(frame) => size += frame.data_ref().map_or(0, Bytes::len),
                Err(_) => is_whole = false,
            }
        }
        let length = head.headers.get("content-length").filter(|_| !row.is_head);
        is_whole &= length.is_none_or(|length| length == size.to_string().as_str());
        let id = row.id();
        assert_eq!(head.status.as_u16(), row.shape.status, "{id}");
        assert_eq!(is_whole, row.cut_by().is_none(), "{id}");
        assert!(!row.is_head || size == 0, "{id}");
    }
}

#[test]
fn a_client_that_waits_with_its_body_gets_the_response_to_its_next_request() {
    let service = Process::start("shapes", &[]);
    let url = |path| format!("http://{}/plain/{path}", service.http());
    let (refused, next) = (url("post"), url("one"));
    for version in ["--http1.0", "--http1.1"] {
        let options = [
            "--silent",
            version,
            "--output",
            "/dev/null",
            "--write-out",
            "%{http_code} ",
        ];
        let mut curl = Command::new("curl");
        curl.args(options)
            .args([
                "--header",
                "expect: 100-continue",
                "--data",
                "0123456789",
                &refused,
            ])
            .arg("--next")
            .args(options)
            .args(["--max-time", "20", &next]);
        let output = curl.output().expect("curl is there");
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            "413 200 ",
            "{version}"
        );
    }
}

/// The labels of the series that counts a request.
fn series(row: &Row) -> String {
    let (method, route, status) = (row.method(), row.route(), row.shape.status);
    let cut_by = row.cut_by().map(|by| format!(",error_type=\"{by}\""));
    format!(
        "http_request_method=\"{method}\",http_route=\"{route}\",http_response_status_code=\"{status}\"{}",
        cut_by.unwrap_or_default()
    )
}

/// The requests that the service has counted, by their labels. Those of probes are left out.
fn counts(service: &Process) -> BTreeMap<String, u64> {
    let metrics = http::get(service.admin(), "/metrics");
    let lines = metrics.text().lines();
    let series = lines
        .filter_map(|line| line.strip_prefix("http_server_request_duration_seconds_count{"))
        .filter(|series| {
            LAYERS
                .iter()
                .any(|layers| series.contains(&format!("\"/{layers}/")))
                || series.contains("\"other\"")
        })
        .map(|series| series.split_once("} ").expect("a figure"));
    series
        .map(|(labels, count)| (labels.to_owned(), count.parse().expect("a number")))
        .collect()
}

/// The spans that a service exports over OTLP.
struct Spans {
    endpoint: String,
    collected: Arc<Mutex<Vec<Span>>>,
}

impl Spans {
    /// Collects them until the test ends.
    fn collect() -> Self {
        let collected = Arc::<Mutex<Vec<Span>>>::default();
        let config = Config {
            host: "127.0.0.1".parse().expect("an address"),
            workers: 1.try_into().expect("more than 0"),
            ..Config::default()
        };
        let collector = server::bind(&config, {
            let collected = collected.clone();
            move |_| {
                let collected = collected.clone();
                let export = async move |body: Bytes| {
                    let export = Export::decode(body).expect("it is an export");
                    let resources = export.resources.into_iter();
                    let spans = resources.flat_map(|it| it.scopes).flat_map(|it| it.spans);
                    collected
                        .lock()
                        .expect("no test has panicked")
                        .extend(spans);
                };
                let router = Router::new().route("/v1/traces", post(export));
                [Listener::http(0, router).body_limit(16 * 1_024 * 1_024)]
            }
        });
        let collector = collector.expect("its port is free");
        let endpoint = format!("http://{}", collector.addresses()[0]);
        serve_aside(collector);
        Self {
            endpoint,
            collected,
        }
    }

    fn by_id(&self) -> HashMap<String, Span> {
        let spans = self.collected.lock().expect("no collector has panicked");
        let by_id = |span: &Span| Some((span.attribute("request_id")?.text.clone(), span.clone()));
        spans.iter().filter_map(by_id).collect()
    }
}

/// The part of OTLP's `ExportTraceServiceRequest` that is read here.
#[derive(Clone, PartialEq, Message)]
struct Export {
    #[prost(message, repeated, tag = "1")]
    resources: Vec<Resource>,
}

#[derive(Clone, PartialEq, Message)]
struct Resource {
    #[prost(message, repeated, tag = "2")]
    scopes: Vec<Scope>,
}

#[derive(Clone, PartialEq, Message)]
struct Scope {
    #[prost(message, repeated, tag = "2")]
    spans: Vec<Span>,
}

#[derive(Clone, PartialEq, Message)]
struct Span {
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<Attribute>,
    #[prost(message, optional, tag = "15")]
    status: Option<Status>,
}

#[derive(Clone, PartialEq, Message)]
struct Attribute {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<Value>,
}

#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, tag = "1")]
    text: String,
    #[prost(uint64, tag = "3")]
    number: u64,
}

#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(uint32, tag = "3")]
    code: u32,
}

impl Span {
    fn attribute(&self, key: &str) -> Option<&Value> {
        let found = self
            .attributes
            .iter()
            .find(|attribute| attribute.key == key);
        found?.value.as_ref()
    }

    fn number(&self, key: &str) -> Option<u64> {
        self.attribute(key).map(|value| value.number)
    }

    fn is_error(&self) -> bool {
        self.status.as_ref().is_some_and(|status| status.code == 2)
    }
}
