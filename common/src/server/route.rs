//! Below the router: which of its routes a request goes to, for those above it.

use std::task::{Context, Poll};

use axum::extract::MatchedPath;
use http::Request;
use tower::{Layer, Service};

use crate::context;

/// Notes the route of each request.
#[derive(Debug, Clone, Copy)]
pub(super) struct RouteLayer;

impl<S> Layer<S> for RouteLayer {
    type Service = RouteService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        RouteService { inner }
    }
}

#[derive(Debug, Clone)]
pub(super) struct RouteService<S> {
    inner: S,
}

impl<S, B> Service<Request<B>> for RouteService<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        if let Some(route) = request.extensions().get::<MatchedPath>()
            && let Some(timings) = context::timings()
        {
            timings.set_route(route.clone());
        }
        self.inner.call(request)
    }
}
