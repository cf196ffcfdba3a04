//! [`routes`]: `/healthz` and `/readyz`, the liveness and the readiness of the process.

use std::time::Duration;

use axum::{
    Router,
    response::{IntoResponse, Response},
    routing::get,
};
use http::StatusCode;

use super::readiness::{Readiness, ReadinessState};
use crate::{endpoints, problem::Problem, server::layers::access::LogAtDebug};

/// The routes that every HTTP port has.
pub(crate) fn routes(readiness: Readiness) -> Router {
    Router::new()
        .route(endpoints::LIVE, get(|| async { quiet("ok") }))
        .route(
            endpoints::READY,
            get(move || async move { quiet(ready(readiness.state())) }),
        )
}

fn ready(state: ReadinessState) -> Result<&'static str, Problem> {
    let not_ready = |why| {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, why).retry_after(Duration::from_secs(1))
    };
    match state {
        ReadinessState::Ready => Ok("ready"),
        ReadinessState::Waiting(_) => Err(not_ready(
            "The service waits for something that it needs; its log says for what.",
        )),
        ReadinessState::Draining => Err(not_ready("The service is draining; ask another replica.")),
    }
}

/// Marks the response so that its access line is logged at `debug`.
pub(crate) fn quiet(response: impl IntoResponse) -> Response {
    let mut response = response.into_response();
    response.extensions_mut().insert(LogAtDebug);
    response
}
