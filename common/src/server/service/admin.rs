//! [`face`]: the port for operators: `/metrics`, `/status`, `/healthz` and `/readyz`.

use std::time::Duration;

use axum::{
    Router,
    response::{Redirect, Response},
    routing::get,
};
use http::{
    HeaderMap,
    header::{ACCEPT, CONTENT_TYPE},
};
use tower::util::MapRequestLayer;

use super::{
    health::{self, quiet},
    listener::ServedPort,
    status::{self, Status},
};
use crate::{
    dialect::http::HTTP,
    endpoints, pages,
    server::{
        layers::access::PortSettings,
        routes::{Paths, Routes, noted},
    },
    telemetry::metrics,
};

/// The port for operators, ready to serve. It takes snapshots of the counters from now on.
///
/// # Panics
///
/// When it is called outside of a tokio runtime.
pub(crate) fn face(status: Status, deadline: Duration) -> ServedPort {
    tokio::spawn(status.clone().keep_snapshots());
    let health = health::routes(status.process().readiness().clone());
    let router = Router::new()
        .route(endpoints::METRICS, get(metrics))
        .route(endpoints::STATUS, get(status::page))
        .route(endpoints::STATUS_STYLE, get(async || quiet(pages::style())))
        .route(endpoints::ICON, get(async || quiet(pages::icon())))
        .route("/", get(async || quiet(Redirect::to(endpoints::STATUS))))
        .with_state(status)
        .merge(health)
        .route_layer(MapRequestLayer::new(noted));
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

async fn metrics(headers: HeaderMap) -> Response {
    let accept = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok());
    let (media_type, text) = metrics::text(accept.unwrap_or_default());
    quiet(([(CONTENT_TYPE, media_type)], text))
}
