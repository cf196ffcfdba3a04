//! [`listener`]: a port with a response of every shape, plain and below the usual layers of tower-http. It
//! is for the tests that compare what a client got with what the service says of it.

use std::{convert::Infallible, future, time::Duration};

use axum::{
    BoxError, Json, Router,
    body::Body,
    routing::{get, post},
};
use bytes::Bytes;
use common::server::Listener;
use futures_util::{StreamExt, stream};
use http::{HeaderMap, HeaderValue, header::CONTENT_TYPE};
use http_body_util::StreamBody;
use hyper::body::Frame;
use tokio::time::sleep;
use tower_http::{compression::CompressionLayer, cors::CorsLayer};

/// The layers of the routers, as the paths begin.
pub const LAYERS: [&str; 3] = ["plain", "gzip", "cors"];

/// The port.
pub fn listener(port: u16) -> Listener {
    let router = Router::new()
        .nest("/plain", shapes())
        .nest("/gzip", shapes().layer(CompressionLayer::new()))
        .nest("/cors", shapes().layer(CorsLayer::permissive()));
    let endless = LAYERS.map(|layers| format!("/{layers}/endless"));
    let listener = Listener::http(port, router).body_limit(9);
    endless
        .into_iter()
        .fold(listener, |listener, route| listener.deadline(route, None))
}

/// Long enough for a compression.
const LINE: &str = "a line of text that says nothing, which is the best that can be said of it\n";

fn shapes() -> Router {
    const TEXT: [(http::HeaderName, &str); 1] = [(CONTENT_TYPE, "text/plain")];
    let length =
        [("content-length", 2 * LINE.len())].map(|(name, length)| (name, length.to_string()));
    let too_long =
        [("content-length", 3 * LINE.len())].map(|(name, length)| (name, length.to_string()));
    Router::new()
        .route("/one", get(async || LINE))
        .route("/json", get(async || Json([LINE; 2])))
        .route("/stream", get(async || (TEXT, streamed())))
        .route("/sized", get(async move || (TEXT, length, streamed())))
        .route("/short", get(async move || (TEXT, too_long, streamed())))
        .route("/empty", get(async || ()))
        .route(
            "/trailers",
            get(async || ([("trailer", "checksum")], TEXT, with_trailers())),
        )
        .route("/error", get(async || (TEXT, failing())))
        .route("/late", get(async || (TEXT, endless())))
        .route("/endless", get(async || (TEXT, endless())))
        .route("/post", post(async || LINE))
        .route(
            "/panic",
            get(async || -> &str { panic!("the handler panics") }),
        )
        .route("/hang", get(future::pending::<()>))
}

fn lines() -> impl stream::Stream<Item = Result<Bytes, Infallible>> + Send + 'static {
    stream::iter([Ok(Bytes::from(LINE)), Ok(Bytes::from(LINE))])
}

fn streamed() -> Body {
    Body::from_stream(lines())
}

fn with_trailers() -> Body {
    let mut trailers = HeaderMap::new();
    trailers.insert("checksum", HeaderValue::from_static("17"));
    let end = stream::iter([Ok(Frame::trailers(trailers))]);
    let frames = lines().map(|line| line.map(Frame::data));
    Body::new(StreamBody::new(frames.chain(end)))
}

fn failing() -> Body {
    let lines = lines().map(|line| line.map_err(BoxError::from));
    Body::from_stream(lines.chain(stream::iter([Err("the fixture's error".into())])))
}

/// A line every few milliseconds.
fn endless() -> Body {
    Body::from_stream(stream::repeat(LINE).then(async |line| {
        sleep(Duration::from_millis(10)).await;
        Ok::<_, Infallible>(line)
    }))
}
