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
    let live = readiness.clone();
    Router::new()
        .route(
            endpoints::LIVE,
            get(move || async move { quiet(alive(&live)) }),
        )
        .route(
            endpoints::READY,
            get(move || async move { quiet(ready(&readiness)) }),
        )
}

fn alive(readiness: &Readiness) -> Result<&'static str, Problem> {
    match readiness.vitals().lasting_fault() {
        None => Ok("ok"),
        Some(fault) => Err(unable(&fault)),
    }
}

fn ready(readiness: &Readiness) -> Result<&'static str, Problem> {
    match readiness.state() {
        ReadinessState::Ready => match readiness.vitals().fault() {
            None => Ok("ready"),
            Some(fault) => Err(unable(&fault)),
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

fn unable(fault: &str) -> Problem {
    not_ready(format!("The service is not able to serve: {fault}.").into())
}

fn not_ready(why: Cow<'static, str>) -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, why).retry_after(Duration::from_secs(1))
}

/// Marks the response so that its access line is logged at `debug`.
pub(crate) fn quiet(response: impl IntoResponse) -> Response {
    let mut response = response.into_response();
    response.extensions_mut().insert(LogAtDebug);
    response
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use http::Request;
    use tokio_util::sync::CancellationToken;
    use tower::ServiceExt;

    use super::*;

    #[tokio::test]
    async fn a_port_that_is_closed_before_the_drain_makes_the_process_neither_ready_nor_alive() {
        let readiness = Readiness::new();
        let port = readiness
            .vitals()
            .open_port(8_081, CancellationToken::new());
        let ask = async |path| {
            let request = Request::get(path).body(Body::empty()).unwrap();
            let response = routes(readiness.clone()).oneshot(request).await.unwrap();
            let status = response.status();
            let body = to_bytes(response.into_body(), 1_024).await.unwrap();
            (status, String::from_utf8(body.to_vec()).unwrap())
        };
        for path in endpoints::ALL {
            assert_eq!(ask(path).await.0, StatusCode::OK);
        }
        drop(port);
        for path in endpoints::ALL {
            let (status, text) = ask(path).await;
            assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
            assert!(text.contains("port 8081 no longer accepts"), "{text}");
        }
    }
}
