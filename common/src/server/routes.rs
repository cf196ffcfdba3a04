//! [`Paths`]: what a port knows of a path before any handler runs; and [`Routes`], the paths of an HTTP
//! port.

use std::{convert::Infallible, fmt, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::MatchedPath,
    response::{IntoResponse, Response},
};
use futures_util::FutureExt;
use http::Request;
use tower::{ServiceExt, layer::layer_fn, service_fn};

use crate::request::{
    context,
    dialect::rpc_method,
    methods::{RouteTable, Terms},
};

/// Notes the route that a router above has found, in the timings of the request.
pub(crate) fn note<B>(request: &Request<B>) {
    if let Some(route) = request.extensions().get::<MatchedPath>()
        && let Some(timings) = context::timings()
    {
        timings.set_route(route.clone());
    }
}

/// The same, as a layer of routes.
pub(crate) fn noted(request: Request<Body>) -> Request<Body> {
    note(&request);
    request
}

/// What a port knows of the paths that it serves.
#[derive(Debug, Clone)]
pub(crate) enum Paths {
    Methods(RouteTable),
    Routes(Arc<Routes>),
}

impl Paths {
    /// What is declared about a path: one look-up a request.
    pub(crate) fn terms(&self, path: &str) -> Terms {
        match self {
            Self::Methods(methods) => methods.terms(path),
            Self::Routes(routes) => routes.terms(path),
        }
    }

    /// The name of the gRPC method that has these terms.
    pub(crate) fn method_of(&self, terms: &Terms) -> Option<&str> {
        match self {
            Self::Methods(methods) => Some(rpc_method(methods.path(terms.method?))),
            Self::Routes(_) => None,
        }
    }

    /// The route of an HTTP port that serves `path`.
    pub(crate) fn route_of(&self, path: &str) -> Option<MatchedPath> {
        match self {
            Self::Methods(_) => None,
            Self::Routes(routes) => routes.route_of(path),
        }
    }
}

/// The routes of an HTTP port, some with a deadline of their own.
pub(crate) struct Routes {
    /// The router of the port, with handlers that reply with their route. `None` if it has no routes.
    router: Option<Router>,
    /// The deadline of routes that have none of their own.
    default: Duration,
    /// Routes with a deadline of their own.
    deadlines: matchit::Router<(String, Duration)>,
}

impl Routes {
    /// The routes of `router`. No handler and no layer of it runs here.
    pub(crate) fn new(router: &Router, default: Duration) -> Self {
        let reply_with_route = async |request: Request<Body>| -> Result<Response, Infallible> {
            let route = request.extensions().get::<MatchedPath>().cloned();
            Ok(axum::Extension(route).into_response())
        };
        let router = router.has_routes().then(|| {
            router
                .clone()
                .route_layer(layer_fn(move |_handler| service_fn(reply_with_route)))
                .fallback(async || ())
                .with_state(())
        });
        Self {
            router,
            default,
            deadlines: matchit::Router::new(),
        }
    }

    /// Adds the deadline of a route. The error is a route that the router does not have, or that has a
    /// deadline already.
    pub(crate) fn add_deadline(&mut self, route: String, deadline: Duration) -> Result<(), String> {
        if !self.has(&route) {
            return Err(route);
        }
        let added = self.deadlines.insert(&route, (route.clone(), deadline));
        added.map_err(|_| route)
    }

    /// Whether the router has this route, as it is written there.
    pub(crate) fn has(&self, route: &str) -> bool {
        let found = self.route_of(route);
        found.is_some_and(|found| found.as_str() == route)
    }

    /// The route that serves `path`, if any. axum finds it, so that it is the route that a request gets.
    fn route_of(&self, path: &str) -> Option<MatchedPath> {
        let request = Request::get(path).body(Body::empty()).ok()?;
        let response = self.router.clone()?.oneshot(request).now_or_never()?;
        let Ok(response) = response;
        response.extensions().get::<Option<MatchedPath>>()?.clone()
    }

    fn terms(&self, path: &str) -> Terms {
        Terms::of(self.deadline_of(path), self.default)
    }

    fn deadline_of(&self, path: &str) -> Option<Duration> {
        let found = self.deadlines.at(path).ok()?;
        let (route, deadline) = found.value;
        // A route without a parameter is the only one for its path. Beside `/jobs/{id}`, the router may
        // have `/jobs/stats`, which has no deadline of its own and is not found here.
        let is_nearest = found.params.is_empty()
            || self
                .route_of(path)
                .is_some_and(|nearest| nearest.as_str() == route);
        is_nearest.then_some(*deadline)
    }
}

impl fmt::Debug for Routes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Routes").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::{any, get, post};

    use super::*;

    async fn never() {
        panic!("no handler runs")
    }

    const DEFAULT: Duration = Duration::from_secs(10);

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
        let table = Routes::new(&router, DEFAULT);
        for (path, route) in [
            ("/get", Some("/get")),
            ("/post", Some("/post")),
            ("/any", Some("/any")),
            ("/items/1", Some("/items/{id}")),
            ("/nested/inner", Some("/nested/inner")),
            ("/nowhere", None),
            ("no path", None),
        ] {
            let found = table.route_of(path);
            assert_eq!(found.as_ref().map(MatchedPath::as_str), route, "{path}");
        }
        assert!(!Routes::new(&Router::new(), DEFAULT).has("/get"));
    }

    #[test]
    fn a_route_beside_a_parameter_keeps_its_own_deadline() {
        let router = Router::new()
            .route("/jobs/{id}", get(never))
            .route("/jobs/stats", get(never))
            .route("/jobs/{id}/log", get(never))
            .route("/files/{*path}", get(never))
            .route("/files/index", get(never))
            .route("/all", get(never));
        let mut table = Routes::new(&router, DEFAULT);
        for (route, seconds) in [("/jobs/{id}", 60), ("/files/{*path}", 1), ("/all", 2)] {
            let seconds = Duration::from_secs(seconds);
            table.add_deadline(route.to_owned(), seconds).unwrap();
        }
        for (path, seconds) in [
            ("/jobs/1", 60),
            ("/jobs/stats", 10),
            ("/jobs/1/log", 10),
            ("/files/a/b", 1),
            ("/files/index", 10),
            ("/all", 2),
            ("/nowhere", 10),
        ] {
            let terms = table.terms(path);
            assert_eq!(terms.longest, Duration::from_secs(seconds), "{path}");
            assert_eq!(terms.is_long_lived, seconds > 10, "{path}");
        }
    }
}
