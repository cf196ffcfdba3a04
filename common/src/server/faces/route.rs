//! The routes of a router: [`note`] notes the route of a request, and [`route_of`] finds that of a
//! path.

use std::convert::Infallible;

use axum::{
    Router,
    body::Body,
    extract::MatchedPath,
    response::{IntoResponse, Response},
};
use futures_util::FutureExt;
use http::Request;
use tower::{ServiceExt, layer::layer_fn, service_fn};

use crate::context;

/// Notes the route of a request in its timings. Runs below the router, which finds the route.
pub(crate) fn note<B>(request: Request<B>) -> Request<B> {
    if let Some(route) = request.extensions().get::<MatchedPath>()
        && let Some(timings) = context::timings()
    {
        timings.set_route(route.clone());
    }
    request
}

/// The route of `router` that serves `path`, if any. No handler and no layer of the router runs.
pub(crate) fn route_of(router: &Router, path: &str) -> Option<MatchedPath> {
    if !router.has_routes() {
        return None;
    }
    let reply_with_route = async |request: Request<Body>| -> Result<Response, Infallible> {
        let route = request.extensions().get::<MatchedPath>().cloned();
        Ok(axum::Extension(route).into_response())
    };
    let router = router
        .clone()
        .route_layer(layer_fn(move |_handler| service_fn(reply_with_route)))
        .fallback(async || ());
    let request = Request::get(path).body(Body::empty()).ok()?;
    let Ok(response) = router.oneshot(request).now_or_never()?;
    response.extensions().get::<Option<MatchedPath>>()?.clone()
}

#[cfg(test)]
mod tests {
    use axum::routing::{any, get, post};

    use super::*;

    async fn never() {
        panic!("no handler runs")
    }

    #[test]
    fn the_route_of_a_path_is_found_without_running_its_handler() {
        let router = Router::new()
            .route("/get", get(never))
            .route("/post", post(never))
            .route("/any", any(never))
            .route("/items/{id}", get(never))
            .nest("/nested", Router::new().route("/inner", get(never)))
            .layer(tower::util::MapRequestLayer::new(
                |_: Request<Body>| -> Request<Body> { panic!("no layer runs") },
            ))
            .fallback(never);
        for (path, route) in [
            ("/get", Some("/get")),
            ("/post", Some("/post")),
            ("/any", Some("/any")),
            ("/items/1", Some("/items/{id}")),
            ("/nested/inner", Some("/nested/inner")),
            ("/nowhere", None),
            ("no path", None),
        ] {
            let found = route_of(&router, path);
            assert_eq!(found.as_ref().map(MatchedPath::as_str), route, "{path}");
        }
        assert!(route_of(&Router::new(), "/get").is_none());
    }
}
