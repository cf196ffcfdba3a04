//! A third dialect: requests and failures are lines. No layer knows of it.

#[cfg(feature = "traces")]
use std::borrow::Cow;
use std::future::pending;

use axum::BoxError;
#[cfg(feature = "traces")]
use opentelemetry::KeyValue;
use tonic::Code;
use tower::util::MapRequestLayer;

use super::*;
use crate::{
    problem::Problem,
    request::{
        dialect::{Asked, Dialect, Ended, Mismatch},
        id::RequestId,
    },
    server::{
        capacity::worker_capacity::WorkerCapacity,
        connection::state::ConnectionState,
        layers::access::PortSettings,
        routes::{Paths, Routes, noted},
        service::listener::ServedPort,
        stack::inbound,
    },
    telemetry::metrics::Measure,
};

#[derive(Debug)]
struct LineDialect;

const LINE: &str = "line";

static NO_LINE: Mismatch = Mismatch {
    status: StatusCode::BAD_REQUEST,
    detail: "This port speaks lines; send one.",
    allow: None,
};

impl Dialect for LineDialect {
    fn name(&self) -> &'static str {
        LINE
    }

    fn accept(&self, _: &Method, _: Version, headers: &HeaderMap) -> Result<(), &'static Mismatch> {
        headers.get(LINE).map(drop).ok_or(&NO_LINE)
    }

    /// Reads an id and a number of seconds.
    fn read(&self, headers: &HeaderMap) -> Asked {
        let line = headers[LINE].to_str().unwrap_or_default();
        let (id, seconds) = line.split_once(' ').unwrap_or((line, ""));
        Asked {
            request_id: id.parse().ok(),
            timeout: seconds.parse().ok().map(Duration::from_secs),
            is_timed: true,
            faults: Vec::new(),
        }
    }

    fn write_id(&self, id: &RequestId, headers: &mut HeaderMap) {
        headers.insert(LINE, id.header_value());
    }

    fn shows_texts(&self) -> bool {
        false
    }

    fn failure(&self, document: Response) -> Response {
        let Some(problem) = document.extensions().get::<Problem>() else {
            return document;
        };
        (problem.status(), format!("ERR {}\n", problem.detail())).into_response()
    }

    fn break_off(&self, _: Code, error: BoxError) -> Result<Frame<Bytes>, BoxError> {
        Ok(Frame::data(format!("ERR {error}\n").into()))
    }

    fn level(&self, ended: &Ended<'_>) -> Level {
        match ended.status {
            200 => Level::DEBUG,
            _ => Level::WARN,
        }
    }

    fn count(&self, ended: &Ended<'_>) {
        let route = ended.route.unwrap_or(metrics::OTHER);
        let measure = Measure::HttpServer("LINE");
        metrics::count_duration(measure, route, ended.status, ended.cut_by, ended.took);
    }

    #[cfg(feature = "traces")]
    fn describe(
        &self,
        ended: &Ended<'_>,
        _: &mut Vec<KeyValue>,
    ) -> (String, Option<Cow<'static, str>>) {
        (format!("LINE {}", ended.path), None)
    }
}

/// Returns the headers and the text of the response, and the access line.
async fn ask(path: &str, line: Option<&str>) -> (HeaderMap, String, Line) {
    let begun = || {
        let first = stream::iter([Ok::<_, Infallible>("well\n")]);
        Body::from_stream(first.chain(stream::pending()))
    };
    let router = Router::new()
        .route("/whole", get(async || "well\n"))
        .route("/late", get(pending::<()>))
        .route("/begun", get(async move || begun()))
        .route_layer(MapRequestLayer::new(noted));
    let port = ServedPort {
        paths: Paths::Routes(Routes::new(&router, Duration::from_mins(1)).into()),
        router,
        dialect: &LineDialect,
        body_limit: 0,
        has_layers: false,
        settings: PortSettings::default(),
    };
    let connection = ConnectionState::alone(Arc::new(WorkerCapacity::alone(1)));
    let stack = inbound(port, Arc::new(connection), None);
    let request = Request::get(path).version(Version::HTTP_2);
    let request = line
        .into_iter()
        .fold(request, |it, line| it.header(LINE, line));

    let lines = Lines::default();
    let _collects = tracing::subscriber::set_default(Registry::default().with(lines.clone()));
    let response = stack.oneshot(request.body(Body::empty()).unwrap()).await;
    let (head, body) = response.unwrap().into_parts();
    let text = body.collect().await.unwrap().to_bytes();
    let text = String::from_utf8(text.into()).unwrap();
    let line = lock(&lines.0).remove(0);
    (head.headers, text, line)
}

#[tokio::test(start_paused = true)]
async fn a_third_dialect_passes_all_layers() {
    const LATE: &str = "ERR There was no response before the deadline; try again later.\n";
    for (path, text, status, level) in [
        ("/whole", "well\n", 200, Level::DEBUG),
        ("/late", LATE, 504, Level::WARN),
        (
            "/begun",
            "well\nERR the deadline has passed\n",
            200,
            Level::DEBUG,
        ),
        (
            "*",
            "ERR Nothing is served at this path; check it for a typo.\n",
            404,
            Level::WARN,
        ),
    ] {
        let begin = tokio::time::Instant::now();
        let (headers, got, line) = ask(path, Some("order-17 3")).await;
        assert_eq!(got, text);
        assert_eq!(headers[LINE], "order-17");
        assert!(!headers.contains_key("x-request-id"));
        let waits = path == "/late" || path == "/begun";
        assert_eq!(begin.elapsed().as_secs(), if waits { 3 } else { 0 });
        let expected = Line {
            level: Some(level),
            ..Line::whole(status, text.len())
        };
        assert_eq!(line, expected);
    }
    let (_, metrics) = metrics::text("");
    assert!(metrics.contains(&series("LINE", "/late", "\"504\"")));
}

#[tokio::test]
async fn a_client_of_another_dialect_gets_its_error_over_http() {
    let (headers, text, line) = ask("/whole", None).await;
    assert_eq!(headers["content-type"], "application/problem+json");
    assert!(headers.contains_key("x-request-id") && !headers.contains_key(LINE));
    assert!(text.contains(NO_LINE.detail));
    assert_eq!(line, Line::whole(400, text.len()));
}
