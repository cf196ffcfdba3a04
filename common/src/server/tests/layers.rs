//! Layers of a service around all that a port responds, and those of its router.

use std::num::NonZeroUsize;

use axum::{extract::Path, routing::Route};
use tower::{
    ServiceBuilder,
    layer::layer_fn,
    service_fn,
    util::{BoxCloneSyncService, MapRequestLayer, MapResponseLayer},
};
use tower_http::{compression::CompressionLayer, cors::CorsLayer};

use super::*;
use crate::{config::settings::Config, request::context, server::in_memory::InMemory};

const ORIGIN: &str = "https://shop.example";
const ALLOWED: &str = "access-control-allow-origin";

fn cors() -> CorsLayer {
    CorsLayer::new().allow_origin(HeaderValue::from_static(ORIGIN))
}

fn service(listener: Listener, max_in_flight: usize) -> InMemory {
    let config = Config {
        deadline: DEADLINE,
        max_in_flight: NonZeroUsize::new(max_in_flight).expect("not zero"),
        ..Config::default()
    };
    InMemory::new(&config, |_process| [listener]).expect("the listener is valid")
}

/// A router that fails in each way that the stack knows.
fn failing() -> Router {
    router()
        .route("/echo", post(async |body: Bytes| body))
        .route(
            "/items/{id}",
            get(async |Path(id): Path<u8>| id.to_string()),
        )
        .route("/panic", get(async || -> () { panic!("as the test asks") }))
}

async fn response_of(
    service: &InMemory,
    request: http::request::Builder,
) -> (HeaderMap, u16, Bytes) {
    let request = request
        .header("origin", ORIGIN)
        .body(Body::from("0123456789"));
    let response = service.stack(0).oneshot(request.expect("a request")).await;
    let (head, body) = response.expect("never fails").into_parts();
    let body = body.collect().await.expect("it is whole").to_bytes();
    (head.headers, head.status.as_u16(), body)
}

#[tokio::test(start_paused = true)]
async fn a_layer_sees_every_response_of_the_stack() {
    let listener = Listener::http(0, failing()).body_limit(9).layer(cors());
    let service = service(listener, 1);
    let check = async |request: http::request::Builder, expected: u16| {
        let case = format!("{request:?}");
        let (headers, status, body) = response_of(&service, request).await;
        assert_eq!(status, expected, "{case}");
        assert_eq!(headers[ALLOWED], ORIGIN, "{case}");
        assert_eq!(headers.get_all("x-request-id").iter().count(), 1, "{case}");
        if status >= 400 {
            assert_eq!(
                headers["content-type"], "application/problem+json",
                "{case}"
            );
            let problem: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
            assert_eq!(problem["status"], expected, "{case}");
        }
    };
    check(Request::get("/one"), 200).await;
    check(Request::get("/items/7"), 200).await;
    check(Request::get("/nowhere"), 404).await;
    check(Request::post("/one"), 405).await;
    check(Request::post("/echo"), 413).await;
    check(Request::get("/panic"), 500).await;
    check(Request::get("/late"), 504).await;
    check(Request::get("/one").header("host", "a b"), 400).await;
    let in_flight = Request::get("/late")
        .body(Body::empty())
        .expect("a request");
    let in_flight = tokio::spawn(service.stack(0).oneshot(in_flight));
    tokio::task::yield_now().await;
    check(Request::get("/one"), 503).await;
    in_flight.abort();
}

#[tokio::test]
async fn a_preflight_is_a_request_with_an_id_an_access_line_and_a_permit() {
    let calls = Arc::new(AtomicU32::new(0));
    let seen = calls.clone();
    let listener = Listener::http(0, router()).layer(cors());
    let service = service(listener, 1);
    let asked = service.clone();
    let listener = Listener::http(0, router())
        .layer(cors())
        .layer(MapRequestLayer::new(move |request: Request<Body>| {
            assert!(context::current().is_some(), "its work has an id");
            seen.fetch_add(1, Relaxed);
            request
        }));
    let preflight = "OPTIONS /one HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\
         origin: https://shop.example\r\naccess-control-request-method: GET\r\n\r\n";
    let ((head, rest), line) = serve(listener, async |io| ask(io, preflight).await).await;
    assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
    assert!(head.contains("x-request-id: "), "{head}");
    assert!(head.contains(ORIGIN), "{head}");
    assert_eq!((rest.as_str(), line), ("", Line::whole(200, 0)));
    assert_eq!(calls.load(Relaxed), 1);

    let request = Request::options("/one").body(Body::empty());
    let response = asked.stack(0).oneshot(request.expect("a request")).await;
    let (_, body) = response.expect("never fails").into_parts();
    assert_eq!(service.in_flight(), 1, "until its response is over");
    drop(body);
    assert_eq!(service.in_flight(), 0);
}

/// A layer whose service does this instead.
fn instead<F>(
    work: impl Fn() -> F + Clone + Send + Sync + 'static,
) -> impl Fn(Route) -> Boxed + Clone
where
    F: Future<Output = Response> + Send + 'static,
{
    move |_inner| {
        let work = work.clone();
        BoxCloneSyncService::new(service_fn(move |_: Request<Body>| {
            let response = work();
            async { Ok::<_, Infallible>(response.await) }
        }))
    }
}

type Boxed = BoxCloneSyncService<Request<Body>, Response, Infallible>;

#[tokio::test(start_paused = true)]
async fn a_layer_that_fails_itself_gets_the_response_of_the_stack() {
    let ask = async |listener: Listener| {
        let service = service(listener, 1);
        let (headers, status, _) = response_of(&service, Request::get("/one")).await;
        assert_eq!(headers["content-type"], "application/problem+json");
        assert!(headers.contains_key("x-request-id"));
        assert_eq!(service.in_flight(), 0);
        status
    };
    let http = || Listener::http(0, router());
    let late = instead(std::future::pending);
    assert_eq!(ask(http().layer(layer_fn(late))).await, 504);
    let panics = instead(async || panic!("as the test asks"));
    assert_eq!(ask(http().layer(layer_fn(panics))).await, 500);
    let bare = instead(async || StatusCode::FORBIDDEN.into_response());
    assert_eq!(ask(http().layer(layer_fn(bare))).await, 403);
}

#[tokio::test]
async fn the_access_line_has_the_size_that_a_layer_leaves() {
    let text = "hello ".repeat(1_000);
    let length = text.len();
    let router = Router::new().route("/", get(async move || text.clone()));
    let listener = Listener::http(0, router).layer(CompressionLayer::new());
    let request = "GET / HTTP/1.1\r\nhost: a\r\naccept-encoding: gzip\r\nconnection: close\r\n\r\n";
    let (received, line) = serve(listener, async |mut io: DuplexStream| {
        io.write_all(request.as_bytes()).await.expect("it reads");
        let mut response = Vec::new();
        io.read_to_end(&mut response).await.expect("a response");
        response.len()
    })
    .await;
    assert_eq!((line.status, line.reason), (200, None));
    let size = usize::try_from(line.size).expect("it is short");
    assert!((1..length / 10).contains(&size), "{size}");
    assert!(size < received);
}

#[tokio::test]
async fn a_stream_through_a_layer_breaks_off_at_the_deadline() {
    let router = Router::new().route("/endless-through-layer", get(async || endless()));
    let listener = Listener::http(0, router).layer(CompressionLayer::new());
    let request = "GET /endless-through-layer HTTP/1.1\r\nhost: a\r\naccept-encoding: gzip\r\n\r\n";
    let (response, line) = serve(listener, async |mut io: DuplexStream| {
        io.write_all(request.as_bytes()).await.expect("it reads");
        let mut response = Vec::new();
        io.read_to_end(&mut response).await.expect("a response");
        String::from_utf8_lossy(&response).into_owned()
    })
    .await;
    assert!(response.contains("content-encoding: gzip"), "{response}");
    assert!(!response.ends_with("\r\n0\r\n\r\n"), "no proper end");
    assert_eq!(line.reason.as_deref(), Some("the response broke off"));
    let labels = "\"200\",error_type=\"deadline\"";
    let (_, metrics) = metrics::text("");
    assert!(
        metrics.contains(&series("GET", "/endless-through-layer", labels)),
        "{metrics}"
    );
}

/// A layer that waits before it calls the service below.
fn waits() -> impl tower::Layer<Route, Service = Boxed> + Clone + Send + Sync + 'static {
    layer_fn(|inner: Route| {
        BoxCloneSyncService::new(service_fn(move |request: Request<Body>| {
            let inner = inner.clone();
            async move {
                tokio::task::yield_now().await;
                inner.oneshot(request).await
            }
        }))
    })
}

#[tokio::test]
async fn a_layer_that_waits_serves_both_protocols() {
    let listener = || Listener::http(0, failing()).layer(waits());
    for (path, status, size) in [("/stream", 200, Some(12)), ("/late", 504, None)] {
        let ((head, got), line) =
            serve(listener(), async |io| ask_2(io, Method::GET, path).await).await;
        assert_eq!(
            (head.status().as_u16(), line.status),
            (status, status.into())
        );
        let got = got.expect("it is whole");
        assert_eq!(size.unwrap_or(got), got, "{path}");
    }
    let request = "GET /stream HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    let ((_, body), line) = serve(listener(), async |io| ask(io, request).await).await;
    assert!(body.contains("world\n"), "{body}");
    assert_eq!(line, Line::whole(200, 12));
}

#[tokio::test]
async fn an_early_response_of_a_layer_leaves_its_connection_usable() {
    let refuses = instead(async || StatusCode::FORBIDDEN.into_response());
    let service = service(Listener::http(0, router()).layer(layer_fn(refuses)), 1);
    let mut io = service.connect(0);
    let first = format!(
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {LARGE}\r\n\r\n{}",
        "#".repeat(LARGE)
    );
    let last = "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    let (mut reads, mut writes) = tokio::io::split(&mut io);
    let mut responses = String::new();
    let (written, read) = tokio::join!(
        async {
            writes.write_all(first.as_bytes()).await?;
            writes.write_all(last.as_bytes()).await
        },
        reads.read_to_string(&mut responses)
    );
    written.expect("it reads all");
    read.expect("it responds");
    assert_eq!(
        responses.matches("HTTP/1.1 403 Forbidden").count(),
        2,
        "{responses}"
    );
}

#[tokio::test]
async fn a_layer_that_drops_extensions_lets_no_refused_request_pass() {
    let forgets = MapRequestLayer::new(|request: Request<Body>| {
        let (head, body) = request.into_parts();
        Request::builder()
            .uri(head.uri)
            .body(body)
            .expect("it was one")
    });
    let service = service(Listener::http(0, router()).layer(forgets), 1);
    let refused = Request::get("/one").header("host", "a b");
    let (_, status, _) = response_of(&service, refused).await;
    assert_eq!(status, 500);
}

#[tokio::test]
async fn the_last_layer_is_the_outermost_and_each_is_applied_once() {
    let applied = Arc::new(AtomicU32::new(0));
    let counts = applied.clone();
    let named = |name: &'static str| {
        MapResponseLayer::new(move |mut response: Response| {
            let value = HeaderValue::from_static(name);
            response.headers_mut().append("x-layer", value);
            response
        })
    };
    let counted = layer_fn(move |inner: Route| {
        counts.fetch_add(1, Relaxed);
        inner
    });
    let listener = Listener::http(0, router())
        .layer(named("inner"))
        .layer(named("outer"));
    let service_of = service(listener, 1);
    let (headers, ..) = response_of(&service_of, Request::get("/nowhere")).await;
    let layers: Vec<_> = headers.get_all("x-layer").iter().collect();
    assert_eq!(layers, ["inner", "outer"]);

    let counted = service(Listener::http(0, router()).layer(counted), 9);
    let before = applied.load(Relaxed);
    for _ in 0..3 {
        response_of(&counted, Request::get("/one")).await;
    }
    assert_eq!(applied.load(Relaxed), before, "not for each connection");
}

#[tokio::test]
async fn a_layer_sees_the_failures_of_a_grpc_port() {
    let grpc = Grpc::from_router(Router::new()).layer(ServiceBuilder::new());
    let listener = Listener::grpc(0, grpc).layer(cors());
    let service = service(listener, 1);
    let call = Request::post("/a.Service/Nothing").header("content-type", "application/grpc");
    let (headers, status, _) = response_of(&service, call).await;
    assert_eq!(
        (status, headers["grpc-status"].to_str().expect("ASCII")),
        (200, "12")
    );
    assert_eq!(headers[ALLOWED], ORIGIN);
    assert!(headers.contains_key("request_id"));
}

#[tokio::test]
async fn the_fallback_and_the_layers_of_a_router_see_unknown_paths() {
    let seen = Arc::new(AtomicU32::new(0));
    let counts = seen.clone();
    let router = router()
        .fallback(async || (StatusCode::NOT_FOUND, "our own text"))
        .layer(MapRequestLayer::new(move |request: Request<Body>| {
            counts.fetch_add(1, Relaxed);
            request
        }));
    for listener in [
        Listener::http(0, router.clone()),
        Listener::http(0, router).layer(cors()),
    ] {
        let service = service(listener, 1);
        let before = seen.load(Relaxed);
        let (_, status, body) = response_of(&service, Request::get("/nowhere")).await;
        assert_eq!(status, 404);
        assert!(String::from_utf8_lossy(&body).contains("our own text"));
        assert_eq!(seen.load(Relaxed), before + 1);
    }
}
