//! What a client gets, and what the access line says of it, over whole connections.

mod dialect;
mod edge;
mod layers;
#[cfg(feature = "client")]
mod messages;

use std::{
    convert::Infallible,
    fmt, io,
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    response::{IntoResponse, Response},
    routing::{any, get, post},
};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Version};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tower::ServiceExt;
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    Layer, Registry,
    layer::{Context, SubscriberExt},
};

use super::{
    mesh_layer::MeshLayer,
    service::{grpc::Grpc, listener::Listener},
    testing::in_memory,
};
use crate::{limits, sync::lock, telemetry::metrics};

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const DEADLINE: Duration = Duration::from_millis(200);

/// The series of requests to this route.
fn series(method: &str, route: &str, labels: &str) -> String {
    format!(
        "http_server_request_duration_seconds_count{{http_request_method=\"{method}\",\
         http_route=\"{route}\",http_response_status_code={labels}}} 1\n"
    )
}

/// What an access line says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Line {
    level: Option<Level>,
    status: u64,
    size: u64,
    reason: Option<String>,
}

impl Line {
    /// The line of a whole response.
    fn whole(status: u64, size: usize) -> Self {
        Self {
            level: Some(Level::INFO),
            status,
            size: size as u64,
            reason: None,
        }
    }

    /// The line of a response that broke off.
    fn cut(status: u64, size: usize) -> Self {
        Self {
            level: Some(Level::WARN),
            reason: Some("the response broke off".into()),
            ..Self::whole(status, size)
        }
    }
}

impl Visit for Line {
    fn record_u64(&mut self, field: &Field, value: u64) {
        match field.name() {
            "response_status" => self.status = value,
            "response_size" => self.size = value,
            _ => {}
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "reason" {
            self.reason = Some(value.to_owned());
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn fmt::Debug) {}
}

/// Collects the access lines of this thread.
#[derive(Debug, Clone, Default)]
struct Lines(Arc<Mutex<Vec<Line>>>);

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if event
            .fields()
            .any(|field| field.name() == "response_status")
        {
            let mut line = Line {
                level: Some(*event.metadata().level()),
                ..Line::default()
            };
            event.record(&mut line);
            lock(&self.0).push(line);
        }
    }
}

/// Serves a connection to its end. Returns what its client returns, and the only access line.
async fn serve<T>(listener: Listener, client: impl AsyncFnOnce(DuplexStream) -> T) -> (T, Line) {
    let lines = Lines::default();
    let _collects = tracing::subscriber::set_default(Registry::default().with(lines.clone()));
    let (ours, theirs) = duplex(64 * 1_024);
    let serving = tokio::spawn(in_memory(listener, DEADLINE).serve(0, HERE, theirs));
    let got = client(ours).await;
    serving.await.expect("it serves");
    let mut lines = lock(&lines.0);
    assert_eq!(lines.len(), 1, "{lines:?}");
    (got, lines.remove(0))
}

/// Sends a request over HTTP/1. Returns the head of the response, and the rest.
async fn ask(mut io: DuplexStream, request: &str) -> (String, String) {
    io.write_all(request.as_bytes()).await.expect("it reads");
    let mut response = String::new();
    io.read_to_string(&mut response).await.expect("it is UTF-8");
    let (head, body) = response.split_once("\r\n\r\n").expect("a head");
    (head.to_owned(), body.to_owned())
}

async fn get_1_1(router: &Router, path: &str) -> ((String, String), Line) {
    let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    serve(Listener::http(0, router.clone()), async |io| {
        ask(io, &request).await
    })
    .await
}

/// The head of a response over HTTP/2, and the size of its body, if the body is whole.
type Over2 = (Response<()>, Result<usize, h2::Error>);

/// Sends a request over HTTP/2.
async fn ask_2(io: DuplexStream, method: Method, path: &str) -> Over2 {
    let (mut client, connection) = h2::client::handshake(io).await.expect("HTTP/2");
    let connection = tokio::spawn(connection);
    let request = Request::builder().method(method);
    let request = request.uri(format!("http://localhost{path}")).body(());
    let (response, _) = client
        .send_request(request.expect("a request"), true)
        .expect("an open connection");
    let (head, mut body) = response.await.expect("a response").into_parts();
    let mut size = Ok(0);
    while let (Ok(so_far), Some(data)) = (&mut size, body.data().await) {
        match data {
            Ok(data) => {
                *so_far += data.len();
                let mut window = body.flow_control().clone();
                window.release_capacity(data.len()).expect("it was used");
            }
            Err(error) => size = Err(error),
        }
    }
    drop((client, body));
    let _ = connection.await;
    (Response::from_parts(head, ()), size)
}

async fn over_2(router: &Router, method: Method, path: &str) -> (Over2, Line) {
    serve(Listener::http(0, router.clone()), async |io| {
        ask_2(io, method, path).await
    })
    .await
}

const UPGRADE: [(&str, &str); 2] = [("connection", "upgrade"), ("upgrade", "websocket")];

/// A stream of `hello ` and `world\n`, which are 12 bytes.
fn hello_world() -> Body {
    let chunks = [&b"hello "[..], b"world\n"].map(|chunk| Ok::<_, Infallible>(Bytes::from(chunk)));
    Body::from_stream(stream::iter(chunks))
}

/// The stream in a response with this length, like the body of a file or of a proxied response.
fn sized(status: StatusCode, length: &'static str) -> Response {
    (status, [("content-length", length)], hello_world()).into_response()
}

/// A stream that breaks off at the deadline.
fn endless() -> Body {
    let begin = stream::iter([Ok::<_, Infallible>(Bytes::from_static(b"begin\n"))]);
    Body::from_stream(begin.chain(stream::pending()))
}

/// The same in a response of this version, like one that is passed on.
fn of_version(version: Version) -> Response {
    let mut response = Response::new(endless());
    *response.version_mut() = version;
    response
}

/// The bytes of a large stream: more than a client has room for, and less than a kernel buffers.
const LARGE: usize = 256 * 1_024;

fn large() -> Body {
    let chunk = Bytes::from(vec![b'#'; LARGE / 4]);
    Body::from_stream(stream::iter(vec![chunk; 4]).map(Ok::<_, Infallible>))
}

fn router() -> Router {
    Router::new()
        .route("/sized", get(async || sized(StatusCode::OK, "12")))
        .route("/short", get(async || sized(StatusCode::OK, "20")))
        .route("/long", get(async || sized(StatusCode::OK, "6")))
        .route("/304", get(async || sized(StatusCode::NOT_MODIFIED, "12")))
        .route(
            "/204",
            get(async || (StatusCode::NO_CONTENT, hello_world())),
        )
        .route("/stream", get(async || hello_world()))
        .route("/endless", get(async || endless()))
        .route("/large", get(async || large()))
        .route("/endless-1.0", get(async || of_version(Version::HTTP_10)))
        .route("/one", get(async || "one"))
        .route(
            "/upgrade",
            get(async || (StatusCode::SWITCHING_PROTOCOLS, UPGRADE)),
        )
        .route("/fail", get(async || StatusCode::INTERNAL_SERVER_ERROR))
        .route("/late", get(std::future::pending::<()>))
        .route("/502", get(async || StatusCode::BAD_GATEWAY))
        .route("/503", get(async || StatusCode::SERVICE_UNAVAILABLE))
        .route("/501", get(async || StatusCode::NOT_IMPLEMENTED))
        .route("/text", get(async || (StatusCode::BAD_REQUEST, "a text")))
}

#[tokio::test]
async fn a_streamed_body_with_a_length_is_whole() {
    let ((_, body), line) = get_1_1(&router(), "/sized").await;
    assert_eq!(body, "hello world\n");
    assert_eq!(line, Line::whole(200, 12));

    let request = "GET /sized HTTP/1.0\r\n\r\n";
    let listener = || Listener::http(0, router());
    let ((_, body), line) = serve(listener(), async |io| ask(io, request).await).await;
    assert_eq!(
        (body.as_str(), line),
        ("hello world\n", Line::whole(200, 12))
    );

    let ((_, size), line) = over_2(&router(), Method::GET, "/sized").await;
    assert_eq!(size.expect("it is whole"), 12);
    assert_eq!(line, Line::whole(200, 12));
}

#[tokio::test]
async fn nobody_keeps_a_response_or_guesses_its_type_unless_its_handler_says_otherwise() {
    let with = |name: &'static str, value: &'static str| async move || ([(name, value)], "text");
    let router = router()
        .route("/kept", get(with("cache-control", "max-age=300")))
        .route("/tagged", get(with("etag", "\"7\"")))
        .route("/own", get(with("x-content-type-options", "own")));
    for (path, cache, sniffing) in [
        ("/one", Some("no-store"), "nosniff"),
        ("/stream", Some("no-store"), "nosniff"),
        ("/nowhere", Some("no-store"), "nosniff"),
        ("/late", Some("no-store"), "nosniff"),
        ("/healthz", Some("no-store"), "nosniff"),
        ("/kept", Some("max-age=300"), "nosniff"),
        ("/tagged", None, "nosniff"),
        ("/own", Some("no-store"), "own"),
    ] {
        let ((head, _), _) = over_2(&router, Method::GET, path).await;
        let header = |name| Some(head.headers().get(name)?.to_str().expect("ASCII"));
        assert_eq!(header("cache-control"), cache, "{path}");
        assert_eq!(header("x-content-type-options"), Some(sniffing), "{path}");
    }
    let call = Request::post("/a.Service/Nothing").header("content-type", "application/grpc");
    let stack = in_memory(Listener::grpc(0, Grpc::from_router(router)), DEADLINE).stack(0);
    let response = stack
        .oneshot(call.body(Body::empty()).expect("a call"))
        .await;
    let response = response.expect("never fails");
    assert!(
        !response.headers().contains_key("cache-control"),
        "it is no document"
    );
}

#[tokio::test]
async fn bodies_without_a_length_are_whole_at_their_end() {
    let ((_, body), line) = get_1_1(&router(), "/stream").await;
    assert!(body.ends_with("\r\n0\r\n\r\n"), "{body}");
    assert_eq!(line, Line::whole(200, 12));
    let ((_, body), line) = get_1_1(&router(), "/one").await;
    assert_eq!((body.as_str(), line), ("one", Line::whole(200, 3)));
}

#[tokio::test]
async fn a_body_of_another_length_than_announced_is_not_whole_unless_the_client_takes_it_so() {
    let ((_, body), line) = get_1_1(&router(), "/short").await;
    assert_eq!((body.as_str(), line), ("hello world\n", Line::cut(200, 12)));
    let ((_, size), line) = over_2(&router(), Method::GET, "/short").await;
    size.expect_err("the length is another");
    assert_eq!(line, Line::cut(200, 12));

    // Over HTTP/1, the client gets what was announced.
    let ((_, body), line) = get_1_1(&router(), "/long").await;
    assert_eq!((body.as_str(), line), ("hello ", Line::whole(200, 6)));
    let ((_, size), line) = over_2(&router(), Method::GET, "/long").await;
    size.expect_err("the length is another");
    assert_eq!(line.reason, Line::cut(200, 12).reason);
}

#[tokio::test]
async fn a_body_that_its_status_forbids_is_not_missed() {
    for (path, status) in [("/204", 204), ("/304", 304)] {
        let ((_, body), line) = get_1_1(&router(), path).await;
        assert_eq!(
            (body.as_str(), line),
            ("", Line::whole(status, 0)),
            "{path}"
        );
    }
}

#[tokio::test]
async fn responses_without_a_body_have_none_over_http_2() {
    for (path, status, length) in [
        ("/one", 200, Some("3")),
        ("/stream", 200, None),
        ("/endless", 200, None),
        ("/sized", 200, Some("12")),
        ("/nowhere", 404, None),
        ("/fail", 500, None),
        ("/late", 504, None),
        ("/text", 400, None),
    ] {
        let ((head, size), line) = over_2(&router(), Method::HEAD, path).await;
        assert_eq!(
            (head.status().as_u16(), size.ok()),
            (status, Some(0)),
            "{path}"
        );
        assert_eq!(
            (line.status, line.size, line.reason),
            (status.into(), 0, None)
        );
        let found = head.headers().get("content-length");
        if let Some(length) = length {
            assert_eq!(found.expect("a length"), length, "{path}");
        }
        assert_eq!(head.headers().get("trailer"), None, "{path}");
    }
    for (path, status) in [("/204", 204), ("/304", 304)] {
        let ((head, size), line) = over_2(&router(), Method::GET, path).await;
        assert_eq!(
            (head.status().as_u16(), size.ok()),
            (status, Some(0)),
            "{path}"
        );
        assert_eq!(line, Line::whole(status.into(), 0), "{path}");
    }
    let ((head, size), _) = over_2(&router(), Method::OPTIONS, "/one").await;
    assert_eq!(head.status(), 405);
    assert!(size.expect("it is whole") > 0, "only HEAD has no body");
}

/// Asks over TCP, and reads once the server has closed the connection. Returns what has come, and how it
/// ended.
async fn ask_late(request: &str) -> (Vec<u8>, io::Result<usize>) {
    let acceptor = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = acceptor.local_addr().expect("it listens");
    let mut client = TcpStream::connect(address).await.expect("it listens");
    let (server, _) = acceptor.accept().await.expect("a client");
    let serving =
        tokio::spawn(in_memory(Listener::http(0, router()), DEADLINE).serve(0, HERE, server));
    let written = client.write_all(request.as_bytes()).await;
    written.expect("it reads");
    serving.await.expect("it serves");
    let mut response = Vec::new();
    let end = client.read_to_end(&mut response).await;
    (response, end)
}

#[tokio::test]
async fn a_stream_whose_end_is_that_of_its_connection_breaks_off_with_a_reset() {
    for (path, version, is_whole) in [
        ("/stream", "1.0", true),
        ("/endless", "1.0", false),
        ("/endless-1.0", "1.1", false),
        // The last chunk is missing, so a regular end says enough.
        ("/endless", "1.1", true),
        ("/short", "1.0", true),
    ] {
        let request = format!("GET {path} HTTP/{version}\r\nhost: a\r\nconnection: close\r\n\r\n");
        let (response, end) = ask_late(&request).await;
        let reset = (!is_whole).then_some(io::ErrorKind::ConnectionReset);
        let end = end.err().map(|error| error.kind());
        assert_eq!(end, reset, "{path} over HTTP/{version}");
        assert!(response.ends_with(b"\n"), "what was written has come");
    }
}

#[tokio::test]
async fn a_stream_over_http_1_0_is_whole_though_a_part_of_it_is_still_on_its_way() {
    let (response, end) = ask_late("GET /large HTTP/1.0\r\n\r\n").await;
    end.expect("a regular end");
    assert!(response.ends_with("#".repeat(LARGE).as_bytes()));
}

/// The status of the response to a request over HTTP/1, and its access line. The response must say why.
async fn refusal(listener: Listener, request: &str, why: &str) -> (String, Line) {
    let ((head, body), line) = serve(listener, async |io| ask(io, request).await).await;
    assert!(head.contains("application/problem+json"), "{head}");
    assert!(body.contains(why), "{body}");
    let status = head.split(' ').nth(1).expect("a status");
    (status.to_owned(), line)
}

#[tokio::test]
async fn what_would_leave_http_is_refused() {
    let listener = || Listener::http(0, router().fallback(async || "all is well"));
    for (request, why) in [
        (
            "GET /upgrade HTTP/1.1\r\nconnection: upgrade, close\r\nupgrade: websocket",
            "WebSocket",
        ),
        ("CONNECT a:443 HTTP/1.1\r\nconnection: close", "tunnel"),
    ] {
        let request = format!("{request}\r\nhost: a\r\n\r\n");
        let (status, line) = refusal(listener(), &request, why).await;
        assert_eq!((status.as_str(), line.status), ("501", 501));
        assert_eq!((line.level, line.reason), (Some(Level::INFO), None));
    }
    // A client that can do both goes on over HTTP/1.1 (RFC 9110, 7.8).
    let request =
        "GET /one HTTP/1.1\r\nhost: a\r\nconnection: upgrade, close\r\nupgrade: h2c\r\n\r\n";
    let ((_, body), line) = serve(listener(), async |io| ask(io, request).await).await;
    assert_eq!((body.as_str(), line), ("one", Line::whole(200, 3)));
}

#[tokio::test]
async fn a_grpc_call_over_http_1_is_told_why_it_fails() {
    let listener = || Listener::grpc(0, Grpc::from_router(router()));
    for version in ["1.0", "1.1"] {
        let request = format!(
            "POST /one HTTP/{version}\r\nhost: a\r\nconnection: close\r\n\
             content-type: application/grpc\r\ncontent-length: 0\r\n\r\n"
        );
        let (status, line) = refusal(listener(), &request, "HTTP/2").await;
        assert_eq!((status.as_str(), line.status), ("505", 505));
        assert_eq!(line.level, Some(Level::INFO));
    }
}

#[tokio::test]
async fn the_fault_of_a_service_is_a_warning() {
    for (path, status, level) in [
        ("/fail", 500, Level::WARN),
        ("/502", 502, Level::WARN),
        ("/late", 504, Level::WARN),
        ("/501", 501, Level::INFO),
        ("/503", 503, Level::INFO),
        ("/nowhere", 404, Level::INFO),
    ] {
        let (_, line) = get_1_1(&router(), path).await;
        assert_eq!((line.status, line.level), (status, Some(level)), "{path}");
    }
}

#[tokio::test]
async fn the_metrics_tell_why_a_response_is_not_whole() {
    let failing = async || {
        let begin = stream::iter([Ok("begin"), Err("it fails")]);
        Body::from_stream(begin)
    };
    let router = Router::new()
        .route("/why/whole", get(async || "whole"))
        .route("/why/late", get(async || endless()))
        .route("/why/failed", get(failing))
        .route("/why/gone", get(std::future::pending::<()>));
    for path in ["/why/whole", "/why/late", "/why/failed"] {
        get_1_1(&router, path).await;
    }
    let listener = Listener::http(0, router).deadline("/why/gone", None);
    serve(listener, async |mut io| {
        let request = b"GET /why/gone HTTP/1.1\r\nhost: a\r\n\r\n";
        io.write_all(request).await.expect("it reads");
    })
    .await;
    let (_, text) = metrics::text("");
    for (route, labels) in [
        ("/why/whole", r#""200""#),
        ("/why/late", r#""200",error_type="deadline""#),
        ("/why/failed", r#""200",error_type="broken_off""#),
        ("/why/gone", r#""499",error_type="client_gone""#),
    ] {
        let series = series("GET", route, labels);
        assert!(text.contains(&series), "{series}");
    }
}

#[tokio::test]
async fn a_refused_request_is_counted_for_its_own_route() {
    let router = Router::new()
        .route("/refused/{id}", get(std::future::pending::<()>))
        .route("/refused/stats", get(async || "well"));
    let long = format!("x-long: {}\r\n", "x".repeat(limits::HEAD));
    for (method, path, head, status) in [
        ("GET", "/refused/1", "", 504),
        ("POST", "/refused/2", "", 405),
        ("GET", "/refused/3", &long, 431),
        ("GET", "/refused/stats", "host: b\r\n", 400),
        ("POST", "/refused/stats", "content-length: 1\r\n", 413),
        (
            "GET",
            "/refused/stats",
            "transfer-encoding: gzip, chunked\r\n",
            501,
        ),
        ("DELETE", "/refused/no/route", "", 404),
    ] {
        let request =
            format!("{method} {path} HTTP/1.1\r\nhost: a\r\n{head}connection: close\r\n\r\nx");
        let listener = Listener::http(0, router.clone()).body_limit(0);
        let (_, line) = serve(listener, async |io| ask(io, &request).await).await;
        assert_eq!(line.status, status, "{path}");
    }
    let (_, text) = metrics::text("");
    for (method, route, status) in [
        ("GET", "/refused/{id}", 504),
        ("POST", "/refused/{id}", 405),
        ("GET", "/refused/{id}", 431),
        ("GET", "/refused/stats", 400),
        ("POST", "/refused/stats", 413),
        ("GET", "/refused/stats", 501),
    ] {
        let series = series(method, route, &format!("\"{status}\""));
        assert!(text.contains(&series), "{series}");
    }
}

#[tokio::test]
async fn trailers_of_a_handler_reach_a_client_that_asks_for_them() {
    let checked = async || {
        let mut trailers = HeaderMap::new();
        trailers.insert("checksum", HeaderValue::from_static("17"));
        let frames = [Frame::data(Bytes::from("text")), Frame::trailers(trailers)];
        let body = StreamBody::new(stream::iter(frames.map(Ok::<_, Infallible>)));
        ([("trailer", "checksum")], Body::new(body))
    };
    let router = Router::new().route("/", get(checked));
    for (asks, gets) in [
        ("te: trailers\r\n", true),
        ("te: gzip, Trailers\r\n", true),
        ("te: gzip\r\nte: trailers\r\n", true),
        ("te: gzip\r\n", false),
        ("", false),
    ] {
        let request = format!("GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{asks}\r\n");
        let listener = Listener::http(0, router.clone());
        let ((_, body), line) = serve(listener, async |io| ask(io, &request).await).await;
        assert!(body.starts_with("4\r\ntext\r\n0\r\n"), "{body}");
        assert!(body.ends_with("\r\n\r\n"), "{body}");
        let lower = body.to_lowercase();
        assert_eq!(lower.contains("checksum: 17\r\n"), gets, "{asks}{body}");
        assert_eq!(lower.contains("server-timing: total"), gets, "{asks}{body}");
        assert_eq!(line, Line::whole(200, 4), "{asks}");
    }
}

#[tokio::test]
async fn an_early_response_to_a_client_that_waits_with_its_body_is_the_last() {
    let echo = post(async |body: Bytes| body);
    let listener = || Listener::http(0, Router::new().route("/", echo.clone())).body_limit(99);
    let expect = "host: a\r\nexpect: 100-continue\r\n";
    let request = format!("POST / HTTP/1.1\r\n{expect}content-length: 100\r\n\r\n");
    // The client sends another request in place of the body, which must not be taken for one.
    let (text, line) = serve(listener(), async |mut io| {
        io.write_all(request.as_bytes()).await.expect("it reads");
        let mut text = vec![0; 4_096];
        let read = io.read(&mut text).await.expect("a response");
        text.truncate(read);
        let _ = io.write_all(b"GET /next HTTP/1.1\r\nhost: a\r\n\r\n").await;
        io.shutdown().await.expect("it is open");
        io.read_to_end(&mut text).await.expect("it ends well");
        String::from_utf8(text).expect("ASCII")
    })
    .await;
    assert!(text.starts_with("HTTP/1.1 413 "), "{text}");
    assert!(text.contains("connection: close\r\n"), "{text}");
    assert_eq!(text.matches("HTTP/1.1 ").count(), 1, "{text}");
    assert_eq!(line.status, 413);

    let request = format!("POST / HTTP/1.1\r\n{expect}content-length: 4\r\n\r\n");
    let (text, line) = serve(listener(), async |mut io| {
        io.write_all(request.as_bytes()).await.expect("it reads");
        let mut told = [0; 25];
        io.read_exact(&mut told).await.expect("it may send");
        assert_eq!(&told, b"HTTP/1.1 100 Continue\r\n\r\n");
        io.write_all(b"body").await.expect("it reads");
        io.shutdown().await.expect("it is open");
        let mut text = String::new();
        io.read_to_string(&mut text).await.expect("it is UTF-8");
        text
    })
    .await;
    assert!(!text.contains("connection: close"), "{text}");
    assert_eq!(line, Line::whole(200, 4));
}

#[tokio::test]
async fn the_layers_below_a_router_know_the_route() {
    let router = Router::new()
        .route("/layered/{id}", get(async || "well"))
        .layer(MeshLayer::http(DEADLINE));
    let request = Request::get("/layered/1").header("host", "a");
    let request = request.body(Body::empty()).unwrap();
    let response = router.oneshot(request).await.expect("a response");
    response.into_body().collect().await.expect("it is whole");
    let (_, text) = metrics::text("");
    let series = series("GET", "/layered/{id}", r#""200""#);
    assert!(text.contains(&series), "{series}");
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_over_http_2() {
    let body = Bytes::from("0123456789");
    for (method, has_document) in [(Method::GET, true), (Method::HEAD, false)] {
        let listener = Listener::http(0, router()).body_limit(9);
        let ((status, size), line) = serve(listener, async |io| {
            let (mut client, connection) = h2::client::handshake(io).await.expect("HTTP/2");
            let connection = tokio::spawn(connection);
            let request = Request::builder()
                .method(method)
                .uri("http://localhost/one");
            let request = request.header("content-length", "10").body(());
            let request = request.expect("a request");
            let (response, mut sending) = client.send_request(request, false).expect("it is open");
            let _ = sending.send_data(body.clone(), true); // the response may be there
            let (head, mut body) = response.await.expect("a response").into_parts();
            let mut size = 0;
            while let Some(data) = body.data().await {
                size += data.expect("it is whole").len();
            }
            drop((client, body, sending));
            let _ = connection.await;
            (head.status.as_u16(), size)
        })
        .await;
        assert_eq!((status, size > 0), (413, has_document));
        assert_eq!(line, Line::whole(413, size));
    }
}

#[tokio::test]
async fn a_response_is_whole_when_the_socket_has_taken_its_last_byte() {
    // The pipe between client and server has room for 64 KiB, and hyper takes the whole frame.
    const SIZE: usize = 64 * 1_024;
    let router = Router::new().route("/", get(async || vec![b'#'; SIZE]));
    let listener = || Listener::http(0, router.clone());
    let request = "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    let (_, line) = serve(listener(), async |mut io| {
        io.write_all(request.as_bytes()).await.expect("it reads");
        tokio::time::sleep(2 * DEADLINE).await; // until the server gives up
        io
    })
    .await;
    assert_eq!((line.status, line.size), (499, SIZE as u64));
    assert!(line.reason.is_some());

    let ((_, body), line) = serve(listener(), async |mut io| {
        io.write_all(request.as_bytes()).await.expect("it reads");
        tokio::time::sleep(DEADLINE / 2).await;
        ask(io, "").await
    })
    .await;
    assert_eq!((body.len(), line), (SIZE, Line::whole(200, SIZE)));
}

/// Sends these parts to an echo over HTTP/1, one after the other. Returns whether the connection is closed
/// by the timeout for heads.
async fn is_closed_after(parts: &[&str]) -> bool {
    let router = Router::new().route("/", any(async |body: Bytes| body));
    let (mut client, theirs) = duplex(64 * 1_024);
    let serving =
        tokio::spawn(in_memory(Listener::http(0, router), DEADLINE).serve(0, HERE, theirs));
    for part in parts {
        client.write_all(part.as_bytes()).await.expect("it reads");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut responses = Vec::new();
    let end = client.read_to_end(&mut responses);
    let is_closed = timeout(2 * limits::HEADER_TIMEOUT, end).await.is_ok();
    serving.abort();
    is_closed
}

#[tokio::test(start_paused = true)]
async fn half_a_head_behind_a_whole_request_times_out_and_whole_requests_do_not() {
    const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
    const POST: &str = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello";
    const SHORT: &str = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\nx";
    const CHUNKED: &str = "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n\
         5\r\nhello\r\n0\r\n\r\n";
    const EARLY: &str = "POST /nowhere HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello";
    for whole in [GET, POST, SHORT, CHUNKED, EARLY] {
        let behind = [whole, "GET / HT"].concat();
        let two = [whole, whole].concat();
        assert!(is_closed_after(&[&behind]).await, "{behind}");
        assert!(is_closed_after(&[&two, "GET / HT"]).await, "{two}");
        assert!(!is_closed_after(&[whole]).await, "{whole}");
        assert!(!is_closed_after(&[&two]).await, "{two}");
        let rest = &GET["GET / HT".len()..];
        assert!(!is_closed_after(&[&behind, rest]).await, "{behind}");
        let (begin, end) = whole.split_at(whole.len() - 3);
        assert!(!is_closed_after(&[begin, end]).await, "{whole}");
    }
}

/// The preface of HTTP/2, and this number of requests for `/`. With `reset`, the client resets each.
fn burst(count: u32, reset: bool) -> Vec<u8> {
    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    const HEAD: [u8; 6] = [0x82, 0x86, 0x84, 0x01, 0x01, b'a']; // GET http://a/
    const CANCEL: [u8; 4] = [0, 0, 0, 8];
    let mut bytes = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &SETTINGS].concat();
    let ids = || (0..count).map(|number| (2 * number + 1).to_be_bytes());
    for id in ids() {
        bytes.extend([&[0, 0, 6, 1, 5][..], &id, &HEAD].concat());
    }
    for id in ids().filter(|_| reset) {
        bytes.extend([&[0, 0, 4, 3, 0][..], &id, &CANCEL].concat());
    }
    bytes
}

#[tokio::test]
async fn what_its_client_has_reset_or_left_is_dropped_before_it_begins() {
    const COUNT: u32 = 400;
    for reset in [false, true] {
        let begun = Arc::new(AtomicU32::new(0));
        let counter = begun.clone();
        let router = Router::new().route(
            "/",
            get(async move || counter.fetch_add(1, Relaxed).to_string()),
        );
        let (mut ours, theirs) = duplex(64 * 1_024);
        ours.write_all(&burst(COUNT, reset))
            .await
            .expect("it has room");
        if !reset {
            drop(ours);
        }
        let serving = in_memory(Listener::http(0, router), DEADLINE).serve(0, HERE, theirs);
        let _ = tokio::time::timeout(DEADLINE, serving).await;
        let begun = begun.load(Relaxed);
        assert!(begun < COUNT / 4, "{begun}, reset: {reset}");
    }
}
