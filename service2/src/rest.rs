//! The REST face of service2: `GET /api/v1/say-hello?name=test` answers `"Hello, TEST!"`.

use axum::{Json, Router, extract::State, routing::get};
use common::{Problem, server::Query};

use crate::{backend::Backend, greeting};

pub(crate) fn router(backend: Backend) -> Router {
    Router::new()
        .route("/api/v1/say-hello", get(say_hello))
        .with_state(backend)
}

async fn say_hello(State(backend): State<Backend>, query: Query) -> Result<Json<String>, Problem> {
    let name = query.get("name")?.unwrap_or_default();
    Ok(Json(greeting::say_hello(&backend, name).await?))
}
