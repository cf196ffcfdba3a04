//! The REST face of service2: `GET /api/v1/say-hello?name=test` returns `"Hello, TEST!"`.

mod parameters;

use axum::{
    BoxError, Json, Router,
    body::{Body, Bytes},
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use common::{
    Problem,
    openapi::Docs,
    server::{Ports, Query},
};
use futures_util::Stream;
use http::header::CONTENT_TYPE;
use utoipa::OpenApi;
use utoipa_axum::{router::OpenApiRouter, routes};

use self::parameters::{ListLength, Name, StreamLength};
use crate::{
    backend::Backend,
    chunks::{array, chunks},
    greeting,
    items::{self, Item, ListTooLong},
};

/// The description of the API.
#[derive(OpenApi)]
#[openapi(info(
    title = "service2",
    description = "Greetings and items, from service1."
))]
struct Api;

/// The failures of service1, as they reach the client.
const ERRORS: [StatusCode; 4] = [
    StatusCode::FORBIDDEN,
    StatusCode::TOO_MANY_REQUESTS,
    StatusCode::NOT_IMPLEMENTED,
    StatusCode::BAD_GATEWAY,
];

/// The router, with what describes it. `page` is the router of the page.
pub(crate) fn router(backend: Backend, page: Router, ports: &Ports) -> Router {
    let (router, document) = OpenApiRouter::with_openapi(Api::openapi())
        .routes(routes!(say_hello))
        .routes(routes!(get_all))
        .routes(routes!(get_stream))
        .with_state(backend)
        .split_for_parts();
    Docs::new(document)
        .errors(&ERRORS)
        .add_to(router.merge(page), ports)
}

/// Greets a name.
///
/// service1 puts it into upper case.
#[utoipa::path(
    get,
    path = "/api/v1/say-hello",
    params(Name),
    responses((status = 200, description = "The greeting.", body = String, content_type = "application/json", example = json!("Hello, TEST!")))
)]
async fn say_hello(State(backend): State<Backend>, query: Query) -> Result<Json<String>, Problem> {
    let name = query.get("name")?.unwrap_or_default();
    Ok(Json(greeting::say_hello(backend, name).await?))
}

/// Lists items.
///
/// The array is sent as its items come, at the pace of the client. One that breaks off has no proper
/// end.
#[utoipa::path(
    get,
    path = "/api/v1/items",
    params(ListLength),
    responses((status = 200, description = "Items 1 to `length`.", body = Vec<Item>))
)]
async fn get_all(State(backend): State<Backend>, query: Query) -> Result<Response, Problem> {
    let length = query.integer("length")?.unwrap_or(ListLength::DEFAULT);
    items::check_list(length)?;
    let items = items::get_list(backend, length).await?;
    Ok(streamed("application/json", array(items, write)))
}

/// Streams items.
///
/// Each is sent as it comes, at the pace of the client. A stream that breaks off has no proper end.
#[utoipa::path(
    get,
    path = "/api/v1/items/stream",
    params(StreamLength),
    responses((
        status = 200,
        description = "Items 1 to `length` as NDJSON: an item, as in the list, on each line.",
        body = String,
        content_type = "application/x-ndjson",
        example = json!("{\"id\":1,\"name\":\"name 1\"}\n{\"id\":2,\"name\":\"name 2\"}\n"),
    ))
)]
async fn get_stream(State(backend): State<Backend>, query: Query) -> Result<Response, Problem> {
    let length = query.integer("length")?.unwrap_or(StreamLength::DEFAULT);
    let items = items::get_stream(backend, length).await?;
    let lines = chunks(items, |item, lines| {
        write(item, lines);
        lines.push(b'\n');
    });
    Ok(streamed("application/x-ndjson", lines))
}

/// Writes an item as JSON.
fn write(item: &Item, json: &mut Vec<u8>) {
    serde_json::to_writer(json, item).expect("an item always becomes JSON");
}

/// A response that is sent as it comes.
fn streamed<E: Into<BoxError>>(
    content_type: &'static str,
    chunks: impl Stream<Item = Result<Bytes, E>> + Send + 'static,
) -> Response {
    let body = Body::from_stream(chunks);
    ([(CONTENT_TYPE, content_type)], body).into_response()
}

impl From<ListTooLong> for Problem {
    fn from(error: ListTooLong) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error.to_string())
    }
}
