//! The REST face of service1: `GET /api/v1/name?name=test` returns `{"name":"TEST"}`.

use axum::{Json, Router, http::StatusCode};
use common::{
    Problem,
    openapi::{Docs, query},
    server::{Ports, Query},
};
use protos::limits;
use serde::Serialize;
use utoipa::{
    IntoParams, OpenApi, ToSchema,
    openapi::path::{Parameter, ParameterIn},
};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::names;

/// The description of the API.
#[derive(OpenApi)]
#[openapi(info(
    title = "service1",
    description = "Names over REST, names and items over gRPC."
))]
struct Api;

pub(crate) fn router(ports: &Ports) -> Router {
    let (router, document) = OpenApiRouter::with_openapi(Api::openapi())
        .routes(routes!(name))
        .split_for_parts();
    Docs::new(document)
        .grpc(protos::FILE_DESCRIPTOR_SET)
        .add_to(router, ports)
}

/// A name in upper case.
#[derive(Serialize, ToSchema)]
struct Name {
    #[schema(example = "TEST")]
    name: String,
}

/// The parameter `name`.
struct NameParameter;

impl IntoParams for NameParameter {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let name = query::text("name", "The name.", limits::NAME);
        vec![name.example(Some("test".into())).build()]
    }
}

/// Puts a name into upper case.
///
/// By the rules of Unicode: `straße` becomes `STRASSE`.
#[utoipa::path(
    get,
    path = "/api/v1/name",
    params(NameParameter),
    responses((status = 200, description = "The name in upper case.", body = Name))
)]
async fn name(query: Query) -> Result<Json<Name>, Problem> {
    let name = query.get("name")?.unwrap_or_default();
    let name = names::process_name(&name)
        .map_err(|error| Problem::new(StatusCode::BAD_REQUEST, error.to_string()))?;
    Ok(Json(Name { name }))
}
