//! The REST face of service1: `GET /api/v1/name?name=test` returns `{"name":"TEST"}`.

use axum::{Json, Router, http::StatusCode, routing::get};
use common::{Problem, server::Query};
use serde::Serialize;

use crate::names;

pub(crate) fn router() -> Router {
    Router::new().route("/api/v1/name", get(name))
}

#[derive(Serialize)]
struct Name {
    name: String,
}

async fn name(query: Query) -> Result<Json<Name>, Problem> {
    let name = query.get("name")?.unwrap_or_default();
    let name = names::process_name(&name)
        .map_err(|error| Problem::new(StatusCode::BAD_REQUEST, error.to_string()))?;
    Ok(Json(Name { name }))
}
