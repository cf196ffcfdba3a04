//! The REST face.

use axum::{Json, Router, http::StatusCode, routing::get};
use common::{Problem, server::Query};

use crate::greeting::{NameTooLong, greet};

pub(crate) fn router() -> Router {
    Router::new().route("/api/v1/greet", get(show_greeting))
}

async fn show_greeting(query: Query) -> Result<Json<String>, Problem> {
    let name = query.get("name")?.unwrap_or_default();
    Ok(Json(greet(&name)?))
}

impl From<NameTooLong> for Problem {
    fn from(error: NameTooLong) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error.to_string())
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

    /// The status and the text of the response to a request for this name.
    async fn ask(name: &str) -> (StatusCode, String) {
        let faces = [Listener::http(0, router())];
        let service = InMemory::new(&Config::default(), |_process| faces).unwrap();
        let request = Request::get(format!("/api/v1/greet?name={name}")).body(Body::empty());
        let response = service.stack(0).oneshot(request.unwrap()).await.unwrap();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.into()).unwrap())
    }

    #[tokio::test]
    async fn a_name_is_greeted() {
        let greeting = r#""Good day, test!""#.to_owned();
        assert_eq!(ask("test").await, (StatusCode::OK, greeting));
    }

    #[tokio::test]
    async fn a_long_name_is_refused_with_the_limit() {
        let (status, text) = ask(&"a".repeat(1_001)).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        assert!(text.contains("the limit is 1000"), "{text}");
    }
}
