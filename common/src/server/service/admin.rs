//! [`face`]: the port for operators: `/metrics`, `/status`, `/healthz` and `/readyz`.

use std::time::Duration;

use axum::{
    Router,
    extract::{Request, State},
    middleware::{self, Next},
    response::{IntoResponse, Redirect, Response},
    routing::get,
};
use http::{
    HeaderMap, HeaderValue, StatusCode,
    header::{ACCEPT, CONTENT_TYPE, HOST},
};
use tower::util::MapRequestLayer;

use super::{
    health::{self, quiet},
    listener::ServedPort,
    status::{self, Status},
};
use crate::{
    config::admin_names::AdminNames,
    dialect::http::HTTP,
    endpoints, pages,
    problem::Problem,
    server::{
        layers::access::PortSettings,
        routes::{Paths, Routes, noted},
    },
    telemetry::metrics,
};

/// The port for operators, ready to serve. It takes snapshots of the counters, and looks whether the event
/// loops turn, from now on.
///
/// # Panics
///
/// When it is called outside of a tokio runtime.
pub(crate) fn face(status: Status, names: AdminNames, deadline: Duration) -> ServedPort {
    tokio::spawn(status.clone().keep_snapshots());
    let vitals = status.process().readiness().vitals().clone();
    tokio::spawn(vitals.keep_looking());
    let health = health::routes(status.process().readiness().clone());
    let router = Router::new()
        .route(endpoints::METRICS, get(metrics))
        .route(endpoints::STATUS, get(status::page))
        .route(endpoints::STATUS_STYLE, get(async || quiet(pages::style())))
        .route(endpoints::ICON, get(async || quiet(pages::icon())))
        .route("/", get(async || quiet(Redirect::to(endpoints::STATUS))))
        .with_state(status)
        .merge(health)
        .route_layer(MapRequestLayer::new(noted))
        .layer(middleware::from_fn_with_state(names, known_hosts_only));
    let table = Routes::new(&router, deadline);
    ServedPort {
        router,
        dialect: HTTP,
        paths: Paths::Routes(table.into()),
        body_limit: 0,
        has_layers: false,
        settings: PortSettings::default(),
    }
}

/// Refuses requests for foreign names. A page of a stranger may resolve its own name to this address, and
/// then its browser lets it read what this port responds (DNS rebinding).
async fn known_hosts_only(
    State(names): State<AdminNames>,
    request: Request,
    next: Next,
) -> Response {
    let mut of_headers = request
        .headers()
        .get_all(HOST)
        .iter()
        .map(HeaderValue::to_str);
    let of_target = request.uri().host();
    if of_headers.all(|host| host.is_ok_and(|host| names.answer_to(host)))
        && of_target.is_none_or(|host| names.answer_to(host))
    {
        return next.run(request).await;
    }
    let detail = "The port for operators does not answer to this host name: ask by address, as localhost, or \
        add the name to ADMIN_NAMES.";
    Problem::new(StatusCode::MISDIRECTED_REQUEST, detail).into_response()
}

async fn metrics(headers: HeaderMap) -> Response {
    let accept = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok());
    let (media_type, text) = metrics::text(accept.unwrap_or_default());
    quiet(([(CONTENT_TYPE, media_type)], text))
}
