//! `/healthz` and `/readyz`: is the process there, and does it want traffic.

use std::time::Duration;

use axum::{
    Router,
    response::{IntoResponse, Response},
    routing::get,
};
use http::StatusCode;

use super::{
    access::Quiet,
    readiness::{Readiness, State},
};
use crate::Problem;

/// Where [`healthcheck`](crate::healthcheck) asks.
pub(crate) const READY_PATH: &str = "/readyz";

/// The routes that every HTTP face has.
pub(super) fn routes(readiness: Readiness) -> Router {
    Router::new()
        .route("/healthz", get(|| async { quiet("ok") }))
        .route(
            READY_PATH,
            get(move || async move { quiet(ready(readiness.state())) }),
        )
}

fn ready(state: State) -> Result<&'static str, Problem> {
    let not_ready = |why| {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, why).retry_after(Duration::from_secs(1))
    };
    match state {
        State::Ready => Ok("ready"),
        State::Starting(_) => Err(not_ready(
            "The service is starting: what it needs has not answered yet.",
        )),
        State::Draining => Err(not_ready("The service is draining; ask another replica.")),
    }
}

fn quiet(response: impl IntoResponse) -> Response {
    let mut response = response.into_response();
    response.extensions_mut().insert(Quiet);
    response
}
