//! The REST face, and its description.

use axum::{Json, Router, extract::State, http::StatusCode};
use common::{
    Problem,
    client::Client,
    openapi::{Docs, query},
    server::{Ports, Query},
};
use tonic::Status;
use utoipa::{
    IntoParams, OpenApi,
    openapi::path::{Parameter, ParameterIn},
};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    greeting::{MAX_NAME, NotGreeted, greet},
    proto::FILE_DESCRIPTOR_SET,
};

/// The description of the API.
#[derive(OpenApi)]
#[openapi(info(title = "template", description = "Greetings over REST and gRPC."))]
struct Api;

/// The failures of service1, as they reach the client.
const ERRORS: [StatusCode; 4] = [
    StatusCode::FORBIDDEN,
    StatusCode::TOO_MANY_REQUESTS,
    StatusCode::NOT_IMPLEMENTED,
    StatusCode::BAD_GATEWAY,
];

pub(crate) fn router(service1: Client, ports: &Ports) -> Router {
    let (router, document) = OpenApiRouter::with_openapi(Api::openapi())
        .routes(routes!(show_greeting))
        .with_state(service1)
        .split_for_parts();
    Docs::new(document)
        .errors(&ERRORS)
        .grpc(FILE_DESCRIPTOR_SET)
        .add_to(router, ports)
}

/// The parameter `name`.
struct Name;

impl IntoParams for Name {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let name = query::text("name", "The name to greet.", MAX_NAME);
        vec![name.example(Some("test".into())).build()]
    }
}

/// Greets a name.
#[utoipa::path(
    get,
    path = "/api/v1/greet",
    params(Name),
    responses((status = 200, description = "The greeting.", body = String, content_type = "application/json", example = json!("Good day, TEST!")))
)]
async fn show_greeting(
    State(service1): State<Client>,
    query: Query,
) -> Result<Json<String>, Problem> {
    let name = query.get("name")?.unwrap_or_default();
    Ok(Json(greet(service1, name).await?))
}

impl From<NotGreeted<Status>> for Problem {
    fn from(error: NotGreeted<Status>) -> Self {
        match error {
            NotGreeted::NoUpperCase(status) => status.into(),
            NotGreeted::TooLong(_) => Self::new(StatusCode::BAD_REQUEST, error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use common::{
        Config,
        server::{InMemory, Listener},
    };
    use http::Request;
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    use super::*;
    use crate::service1::fake::service1;

    /// The status and the text of the response to a request for this path.
    async fn ask(path: &str) -> (StatusCode, String) {
        let service = InMemory::new(&Config::default(), |process| {
            [Listener::http(0, router(service1(), &process.ports()))]
        });
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = service.unwrap().stack(0).oneshot(request).await.unwrap();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.into()).unwrap())
    }

    #[tokio::test]
    async fn a_name_is_greeted() {
        let greeting = r#""Good day, TEST!""#.to_owned();
        let asked = ask("/api/v1/greet?name=test").await;
        assert_eq!(asked, (StatusCode::OK, greeting));
    }

    #[tokio::test]
    async fn a_long_name_is_refused_with_the_limit() {
        let path = format!("/api/v1/greet?name={}", "a".repeat(1_001));
        let (status, text) = ask(&path).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        assert!(text.contains("the limit is 1000"), "{text}");
    }

    #[tokio::test]
    async fn the_api_has_a_description() {
        let (status, text) = ask("/docs").await;
        assert_eq!(status, StatusCode::OK);
        assert!(text.contains("/api/v1/greet"), "{text}");
    }
}
