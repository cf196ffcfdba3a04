//! [`routes`]: `/healthz` and `/readyz`, the liveness and the readiness of the process.

use std::{borrow::Cow, time::Duration};

use axum::{
    Router,
    response::{IntoResponse, Response},
    routing::get,
};
use http::StatusCode;

use super::readiness::{Missing, Readiness, ReadinessState};
use crate::{endpoints, problem::Problem, server::layers::access::LogAtDebug};

/// The routes that every HTTP port has.
pub(crate) fn routes(readiness: Readiness) -> Router {
    Router::new()
        .route(endpoints::LIVE, get(|| async { quiet("ok") }))
        .route(
            endpoints::READY,
            get(move || async move { quiet(ready(&readiness)) }),
        )
}

fn ready(readiness: &Readiness) -> Result<&'static str, Problem> {
    let not_ready = |why: Cow<'static, str>| {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, why).retry_after(Duration::from_secs(1))
    };
    match readiness.state() {
        ReadinessState::Ready => match readiness.vitals().fault() {
            None => Ok("ready"),
            Some(fault) => Err(not_ready(
                format!("The service is not able to serve: {fault}.").into(),
            )),
        },
        ReadinessState::Waiting(_) => Err(not_ready(match readiness.missing() {
            Some(Missing { name, .. }) => {
                format!("The service starts once {name} is there; its log says why it is not.")
                    .into()
            }
            None => "The service waits for something that it needs; its log says for what.".into(),
        })),
        ReadinessState::Draining => Err(not_ready(
            "The service is draining; ask another replica.".into(),
        )),
    }
}

/// Marks the response so that its access line is logged at `debug`.
pub(crate) fn quiet(response: impl IntoResponse) -> Response {
    let mut response = response.into_response();
    response.extensions_mut().insert(LogAtDebug);
    response
}
