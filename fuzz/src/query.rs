//! A query string becomes parameters, or a problem that says what is wrong, and never a panic.

use axum::{Router, body::Body, routing::get};
use common::{
    Config,
    server::{InMemory, Listener, Query},
};
use http::{Request, StatusCode};
use tokio::runtime::{Builder, Runtime};
use tower::ServiceExt;

thread_local! {
    static RUNTIME: Runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
}

async fn handler(query: Query) -> Result<String, common::Problem> {
    let length = query.integer("length")?.unwrap_or(0);
    let name = query.get("name")?.unwrap_or_default();
    Ok(format!("{name}{length}"))
}

pub fn run(query: &str) {
    let Ok(request) = Request::get(format!("/?{query}")).body(Body::empty()) else {
        return;
    };
    let faces = [Listener::http(8080, Router::new().route("/", get(handler)))];
    let service = InMemory::new(&Config::default(), |_process| faces).expect("it is valid");
    let response = RUNTIME.with(|runtime| runtime.block_on(service.stack(0).oneshot(request)));
    let status = response.expect("failures are responses").status();
    let refused = [
        StatusCode::BAD_REQUEST,
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
    ];
    assert!(status.is_success() || refused.contains(&status), "{status}");
}
