//! The REST face of service2: `GET /api/v1/say-hello?name=test` returns `"Hello, TEST!"`.

use axum::{Json, Router, body::Body, extract::State, response::IntoResponse, routing::get};
use common::{Problem, server::Query};
use http::header::CONTENT_TYPE;

use crate::{
    backend::Backend,
    chunks::chunks,
    greeting,
    items::{self, Item},
};

pub(crate) fn router(backend: Backend) -> Router {
    Router::new()
        .route("/api/v1/say-hello", get(say_hello))
        .route("/api/v1/items", get(get_all))
        .route("/api/v1/items/stream", get(get_stream))
        .with_state(backend)
}

async fn say_hello(State(backend): State<Backend>, query: Query) -> Result<Json<String>, Problem> {
    let name = query.get("name")?.unwrap_or_default();
    Ok(Json(greeting::say_hello(backend, name).await?))
}

async fn get_all(State(backend): State<Backend>, query: Query) -> Result<Json<Vec<Item>>, Problem> {
    let length = query.integer("length")?.unwrap_or(10);
    Ok(Json(items::get_all(backend, length).await?))
}

async fn get_stream(
    State(backend): State<Backend>,
    query: Query,
) -> Result<impl IntoResponse, Problem> {
    let length = query.integer("length")?.unwrap_or(5);
    let items = items::get_stream(backend, length).await?;
    let lines = chunks(items, |item, lines| {
        serde_json::to_writer(&mut *lines, item).expect("an item always becomes JSON");
        lines.push(b'\n');
    });
    Ok((
        [(CONTENT_TYPE, "application/x-ndjson")],
        Body::from_stream(lines),
    ))
}
